/*
 * runtime: a card and its one stream, or the emulator in its place.
 *
 * card.cu implements it over cudart, host.cu over the emulator. Work is enqueued in order; only
 * `runtime_download`, `runtime_wait`, `runtime_mark_wait` and a free wait. The first failure
 * sticks: what is enqueued after it does nothing and `runtime_wait` returns STATUS_INTERNAL with
 * its text, after which the worker ends. A capture that fails does not stick, for nothing of it has
 * run. All kernels of the module are loaded when a card is opened, not when they are first
 * launched: memory that is out shows at load. One thread.
 */
#pragma once

#include "kernels/cuda/cxx.h"
#ifndef __CUDACC__
#include "kernels/cuda/host_block.h"
#endif

struct runtime;

/* UNAVAILABLE: no driver, no card, a driver or card that is too old: one line says which. */
enum status runtime_open(struct runtime **ret_runtime, struct error *error);
void runtime_close(struct runtime *runtime);

struct runtime_facts {
    char text[96];       /* "cuda NVIDIA H100 80GB HBM3 (sm_90)", "cuda-host, emulated" */
    uint32_t arch;       /* 80, 89, 90, 100, ... */
    bool has_wgmma;      /* the code for sm_90a runs here */
    uint32_t processors; /* multiprocessors */
    uint32_t shared_max_bytes;
};
const struct runtime_facts *runtime_facts_of(const struct runtime *runtime);
/* Of the card's memory; 0 when it does not say. */
size_t runtime_free_bytes(const struct runtime *runtime);
/* What else the card says of itself (ops.h); what it does not say is not `known`. */
void runtime_facts_ask(struct runtime *runtime, struct device_facts *ret_facts);
/* A failure of our own, which sticks like the card's. */
void runtime_fail(struct runtime *runtime, const char *what);

/* Memory of the card, zeroed, 256-byte aligned; NULL when it is out. */
void *runtime_alloc(struct runtime *runtime, size_t bytes);
void runtime_free(struct runtime *runtime, void *memory);
/* Host memory that the card copies from without a stop. */
void *runtime_pinned_alloc(struct runtime *runtime, size_t bytes);
void runtime_pinned_free(struct runtime *runtime, void *memory);

/* From any host memory, which may be reused when the call returns. Not while capturing. */
void runtime_upload(struct runtime *runtime, void *to, const void *host, size_t bytes);
/* From pinned memory, which is read later. Not while capturing. */
void runtime_upload_pinned(struct runtime *runtime, void *to, const void *pinned, size_t bytes);
/* Notes how far the work is; waits until it was there. */
void runtime_mark(struct runtime *runtime);
void runtime_mark_wait(struct runtime *runtime);
void runtime_download(struct runtime *runtime, void *host, const void *from, size_t bytes);
void runtime_move(struct runtime *runtime, void *to, const void *from, size_t bytes);
void runtime_zero(struct runtime *runtime, void *to, size_t bytes);
enum status runtime_wait(struct runtime *runtime, struct error *error);

struct runtime_graph;
/* Launches, moves and zeroing between the two are kept and not done. */
void runtime_capture_begin(struct runtime *runtime);
enum status runtime_capture_end(struct runtime *runtime, struct runtime_graph **ret_graph,
                                struct error *error);
void runtime_graph_launch(struct runtime *runtime, struct runtime_graph *graph);
void runtime_graph_free(struct runtime *runtime, struct runtime_graph *graph);

/* ---- launches ---- */

#define LAUNCH_Y_MAX 65535u /* of a grid's y and z; x has 31 bits */

struct launch {
    uint32_t x, y, z;      /* blocks; an empty grid launches nothing */
    uint32_t threads;      /* of a block: the number that KERNEL names */
    uint32_t shared_bytes; /* of a block */
    bool overlaps;         /* may begin before the launch before it has ended: the kernel calls
                              launch_wait() before it touches what others wrote */
};

struct runtime_kernel {
    const char *name;
    const void *function;           /* the card's handle of it */
    void (*run)(const void *task);  /* the emulator's way to call it */
    uint32_t *shared_allowed_bytes; /* what the card was told about this kernel */
    uint32_t threads, blocks; /* of KERNEL, in the emulator; the compiler for cards has them */
};
void runtime_launch(struct runtime *runtime, const struct runtime_kernel *kernel,
                    const struct launch *launch, const void *task, size_t task_bytes);

/* Every kernel that some op launches, in a list that stands before anything runs. */
struct runtime_known {
    const void *function;
    struct runtime_known *next;
};
extern struct runtime_known *runtime_known_first;

#ifdef __CUDACC__
#define KERNEL_HANDLE(kernel) ((const void *)(kernel))
#define KERNEL_RUN(kernel, type) NULL
#define KERNEL_THREADS(kernel) 0
#define KERNEL_BLOCKS(kernel) 0
#else
template <typename T, uint32_t n_threads, uint32_t n_blocks>
constexpr uint32_t kernel_threads(void (*)(T, kernel_budget<n_threads, n_blocks>))
{
    return n_threads;
}
template <typename T, uint32_t n_threads, uint32_t n_blocks>
constexpr uint32_t kernel_blocks(void (*)(T, kernel_budget<n_threads, n_blocks>))
{
    return n_blocks;
}
#define KERNEL_HANDLE(kernel) NULL
template <auto kernel, typename T> void kernel_run(const void *task)
{
    T copy; /* each thread has its own, as on a card */
    memcpy((void *)&copy, task, sizeof copy);
    kernel(copy, {});
}
#define KERNEL_RUN(kernel, type) (kernel_run<kernel, type>)
#define KERNEL_THREADS(kernel) kernel_threads(kernel)
#define KERNEL_BLOCKS(kernel) kernel_blocks(kernel)
#endif

template <auto kernel> struct kernel_known {
    struct runtime_known known;
    kernel_known() : known{KERNEL_HANDLE(kernel), runtime_known_first}
    {
        runtime_known_first = &known;
    }
    static kernel_known it;
};
template <auto kernel> kernel_known<kernel> kernel_known<kernel>::it;

/* launch_kernel<kernel>(runtime, shape, task); the kernel takes one struct by value. */
template <auto kernel, typename T>
void launch_named(struct runtime *runtime, const char *name, const struct launch &launch,
                  const T &task)
{
    static uint32_t shared_allowed_bytes = 48u << 10;
    struct runtime_kernel it = {name,
                                kernel_known<kernel>::it.known.function,
                                KERNEL_RUN(kernel, T),
                                &shared_allowed_bytes,
                                KERNEL_THREADS(kernel),
                                KERNEL_BLOCKS(kernel)};
    runtime_launch(runtime, &it, &launch, &task, sizeof task);
}
#define launch_kernel(kernel, runtime, shape, task)                                                \
    launch_named<kernel>(runtime, #kernel, shape, task)
