/*
 * host_block: one block of an emulated launch, its threads as fibers.
 *
 * Blocks run one after the other, in an order drawn from the launch's seed; so do the threads of a
 * block between two points where they meet. What a kernel may not rely on is thus different from
 * run to run, and the same for one seed. The emulator reports, with the names of both threads:
 *
 *   - two accesses to a byte of shared memory, one of them a write, that no barrier, warp
 *     operation, mbarrier or finished copy orders (a clock for each warp, what each thread has
 *     seen of the others, the last writer and two readers of each byte)
 *   - the same for memory that the kernel writes, between threads and between blocks of a launch;
 *     reads through plain pointers are not seen
 *   - addresses outside of shared memory or of any allocation, threads that wait for ever, copies
 *     that are not waited for, misaligned copies
 *
 * Shared memory holds NaN when a block starts. A bulk copy arrives at a random later moment. After
 * a report the launch is given up, all later ones do nothing, and `sync` returns the text. Blocks
 * are not interleaved: a kernel in which one block waits for another cannot run here.
 *
 * A launch that overlaps the one before runs after it as well. But its first blocks find 0xff in
 * what that one wrote, until one of their threads has called launch_wait; and a thread that writes,
 * or reads as a kernel's own memory, before it has called it, or ends without, is reported.
 *
 * Not checked: that all lanes take part in what needs all (a lane that is absent shows as one that
 * waits for ever), memory that is only read. One thread per runtime.
 */
#pragma once

#include "kernels/cuda/cxx.h"

#define HOST_THREADS_MAX 1024
#define HOST_SHARED_MAX_BYTES (227u << 10)
#define HOST_SHARED_PROCESSOR_BYTES (228u << 10) /* of all its blocks, on 9.0, which has the most  \
                                                  */
#define HOST_SHARED_KEPT_BYTES (1u << 10)        /* for itself, of each block */

/* What KERNEL says of a block, as a part of the kernel's type. */
template <uint32_t n_threads, uint32_t n_blocks> struct kernel_budget {
};

enum host_access { HOST_READ, HOST_WRITE, HOST_ATOMIC };

/* What leaves look at; the rest of the block is host_block.cu's own. */
struct host_now {
    uint32_t thread, threads;
    uint32_t x, y, z, grid_x, grid_y, grid_z;
};
extern __thread struct host_now *host_now __attribute__((tls_model("initial-exec")));

struct host_launch {
    const char *name;
    uint32_t x, y, z, threads, shared_bytes;
    void (*run)(const void *task); /* calls the kernel once */
    const void *task;
    uint64_t seed;
    bool overlaps; /* it may begin before the launch before it has ended */
};

struct host_memory;
/* Runs all blocks. False when something was reported: `ret_report` holds one sentence. */
bool host_launch_run(const struct host_launch *launch, struct host_memory *memory, char *ret_report,
                     size_t report_bytes);

/* ---- called by leaves, on a fiber ---- */

void *host_shared(uint32_t at, uint32_t bytes, enum host_access access);
void host_global(const void *at, uint32_t bytes, enum host_access access);
void host_launch_wait(void);
/* Release and acquire among blocks. */
void host_global_order(void);
void host_barrier(uint32_t id, uint32_t threads, bool wait);
/* All lanes of a warp leave `mine`; the last one calls run(lanes: [32]). */
void host_warp_meet(const char *what, void *mine, void (*run)(void **lanes));
/* The same for 128 threads: a warpgroup. */
void host_group_meet(const char *what, void *mine, void (*run)(void **threads));
/* Ends the launch with a report. */
void host_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

void host_copy_async(uint32_t to, const void *from, uint32_t bytes, bool valid);
void host_copy_commit(void);
void host_copy_wait(uint32_t groups);
void host_mbarrier_init(uint32_t at, uint32_t count);
void host_mbarrier_arrive(uint32_t at, uint32_t bytes);
void host_mbarrier_wait(uint32_t at, uint32_t parity);
void host_copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t bar);
void host_async_fence(void);

/* ---- collective instructions, as run() functions: see host_tensor.cu ---- */

struct host_ldmatrix {
    uint32_t *r; /* [4] */
    uint32_t row;
    bool turned;
};
struct host_mma {
    void *d;           /* [4] f32, or int32 */
    const uint32_t *a; /* [4] */
    const uint32_t *b; /* [2] */
};
void host_ldmatrix_run(void **lanes);
void host_mma_bf16_run(void **lanes);
void host_mma_f16_run(void **lanes);
void host_mma_s8_run(void **lanes);
void host_mma_e4m3_run(void **lanes);

enum host_element { HOST_BF16, HOST_F16, HOST_E4M3, HOST_S8 };
struct host_wgmma {
    void *d; /* [n / 2] f32, or int32 */
    uint32_t n;
    enum host_element type;
    bool turned, keep;
    const uint32_t *held; /* [4]: A's registers, or NULL: A is a tile */
    uint64_t a, b;        /* descriptors */
};
void host_wgmma_run(void **threads);
void host_wgmma_commit_run(void **threads);
void host_wgmma_wait_run(void **threads);

float host_float_of_f16(uint16_t half);
uint16_t host_f16_of(float value);
float host_float_of_e4m3(uint8_t byte);
uint8_t host_e4m3_of(float value); /* saturates; NaN stays one */
