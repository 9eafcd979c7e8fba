/*
 * host_private: what the files of the emulated block share: threads, clocks, shadows.
 *
 * A warp has a clock that its meetings advance. A thread has seen each warp up to some clock: all
 * accesses before that are ordered before what it does next. One arrival at an mbarrier publishes
 * what its thread has seen and, exactly, what that thread did itself: not what the other lanes did
 * since they last met. One block at a time; one OS thread.
 */
#pragma once

#include "kernels/cuda/host_block.h"
#include "kernels/cuda/host_fiber.h"

extern "C" {
#include "kernels/memory.h"
}

#define WARPS_MAX (HOST_THREADS_MAX / 32)
#define CLOCKS (WARPS_MAX + 1) /* the last one: bulk copies */
#define COPIES WARPS_MAX
#define NOBODY 0xffffu
#define COPY_THREAD 0xfffeu /* a bulk copy wrote it */
#define BARRIERS_MAX 16
#define MBARRIERS_MAX 64
#define BULK_MAX 512
#define ASYNC_MAX 65536

enum wait_kind { WAIT_NONE, WAIT_BARRIER, WAIT_WARP, WAIT_GROUP, WAIT_MBARRIER, WAIT_OVER };

struct host_thread {
    struct host_fiber fiber;
    enum wait_kind waits;
    uint32_t waits_at, waits_parity; /* barrier id, or the mbarrier's place and parity */
    const char *what;
    uint32_t groups; /* cp.async groups that were committed */
    uint32_t open_copies, pending_copies;
    bool waited;     /* launch_wait() */
    uint32_t fences; /* async_fence()s */
    uint64_t exact;  /* 0: none. Threads with the same number have the same exact clocks */
    uint32_t seen[CLOCKS];
};

struct shadow {
    uint32_t write_clock, read_clock[2];
    uint32_t write_fences; /* async_fence()s of the writer until then */
    uint16_t writer, reader[2];
    bool atomic, in_flight, mbarrier;
};

struct meeting {
    uint32_t n;
    const char *what;
    void *mine[128];
};

struct barrier_state {
    uint32_t n, threads;
    uint32_t seen[CLOCKS]; /* of those that arrived */
    bool arrived[WARPS_MAX];
};

struct mbarrier_state {
    uint32_t at, count, left, parity;
    int64_t bytes_left;
    uint32_t seen[CLOCKS];      /* published for the phase that completed last, and before */
    uint32_t seen_next[CLOCKS]; /* for the one that runs */
    uint32_t *exact;            /* [HOST_THREADS_MAX], clocks, 0 none; of both */
    uint64_t exact_number;      /* another after each change; 0: none */
};

struct bulk_copy {
    uint32_t to, bytes, bar;
    const void *from;
};
struct async_copy {
    uint32_t to, bytes, group;
    uint16_t thread;
    bool valid;
    const void *from;
};

/* Accumulators of wgmma that no wait has covered: what their registers will hold. */
#define ACCUMULATORS_MAX 16
struct accumulator {
    void *d[128];
    uint32_t n, group;      /* the last group that adds to it */
    float values[128][128]; /* [thread][n / 2], or int32 */
};
struct wgmma_state {
    uint32_t groups; /* committed */
    uint32_t n;
    struct accumulator *accumulators; /* [ACCUMULATORS_MAX] */
    float a[64][32], b[256][32];      /* of the instruction that runs: [row][k], [column][k] */
    uint32_t n_reads;
    struct wgmma_read {
        uint32_t at, group;
        uint64_t stamp; /* who wrote it, and when */
    } * reads; /* [WGMMA_READS_MAX]: 16-byte pieces that are read until their group is waited for */
};
#define WGMMA_READS_MAX 262144

struct host_block {
    struct host_now now;
    const struct host_launch *launch;
    struct host_memory *memory;
    uint32_t linear; /* number of the block in its grid */
    uint64_t dice;
    char *report;
    size_t report_bytes;
    bool failed;
    struct host_fiber main;
    struct host_thread threads[HOST_THREADS_MAX];
    uint16_t ready[HOST_THREADS_MAX];
    uint32_t n_ready, n_over, n_arrivals;
    uint32_t n_hidden; /* blocks of the launch for which host_writes_hide was called */
    uint32_t clock[CLOCKS];
    struct meeting warps[WARPS_MAX], groups[WARPS_MAX / 4];
    struct barrier_state barriers[BARRIERS_MAX];
    struct mbarrier_state mbarriers[MBARRIERS_MAX];
    uint32_t n_mbarriers;
    struct bulk_copy bulk[BULK_MAX];
    uint32_t n_bulk;
    struct async_copy *async; /* [ASYNC_MAX] */
    uint32_t n_async;
    struct wgmma_state wgmma[WARPS_MAX / 4];
    uint32_t *exact;        /* [HOST_THREADS_MAX][HOST_THREADS_MAX]: clocks, 0 none */
    uint64_t exact_numbers; /* given out so far */
    struct {
        uint64_t had, came, became;
    } exact_last;                         /* the last join: its like gives the same number */
    uint32_t exact_all[HOST_THREADS_MAX]; /* work of one meeting */
    uint16_t met[HOST_THREADS_MAX];       /* the same: who met */
    char *shared_data;                    /* [HOST_SHARED_MAX_BYTES] */
    struct shadow *shadow;                /* [HOST_SHARED_MAX_BYTES] */
};

extern __thread struct host_block *host_block_now __attribute__((tls_model("initial-exec")));

static inline uint32_t host_dice(struct host_block *b, uint32_t n)
{
    uint64_t z = b->dice += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) % n);
}

/* Lets others run until this thread is ready again. */
void host_wait(enum wait_kind kind, const char *what);
void host_ready(uint32_t thread);
/* Whether an access of `thread` at `clock` is ordered before what the running thread does now. */
bool host_ordered(uint32_t thread, uint32_t clock);
/* Thread `to` learns the clocks up to which single threads are ordered before it; `number` is that
 * of `from`. */
void host_exact_join(uint32_t to, const uint32_t *from, uint64_t number);
void host_seen_join(uint32_t *seen, const uint32_t *other);
void host_shadow_write(uint32_t at, uint32_t bytes, uint32_t thread, uint32_t clock);
/* Lets one bulk copy that is on its way arrive. */
void host_bulk_arrive(void);
/* 16 bytes for a unit that is not the thread itself: whoever stored them fenced after it. */
const char *host_shared_async(uint32_t at);
const char *host_thread_name(uint32_t thread, char *text, size_t text_bytes);

/* ---- memory (host_memory.cu) ---- */

struct host_word {
    uint32_t launch, block, clock;
    uint16_t thread;
    bool atomic;
};
struct host_allocation {
    char *data;
    size_t bytes;
    struct host_word *words; /* [bytes], NULL until a kernel writes there */
};
/* What a launch wrote, in the order of writing. */
struct host_write {
    char *at;
    uint32_t bytes;
};
struct host_writes {
    struct host_write *items;
    size_t n, capacity;
};
struct host_memory {
    struct host_allocation *allocations; /* by address */
    uint32_t n_allocations, capacity, last;
    uint32_t launch;   /* number of the launch that runs */
    uint8_t *released; /* [blocks of the launch]: did an ordered atomic */
    size_t released_bytes;
    bool acquired;                     /* so did the running block */
    struct host_writes writes, before; /* of the launch that runs, and of the one before */
    char *hidden;                      /* what `before` holds, while it is hidden; NULL */
};
void *host_memory_alloc(struct host_memory *memory, size_t bytes);
void host_memory_free(struct host_memory *memory, void *data);
void host_memory_close(struct host_memory *memory);
/* A launch begins; something else than a launch has been done, or memory is freed: nothing written
 * before is in doubt. */
void host_writes_begin(struct host_memory *memory);
void host_writes_settle(struct host_memory *memory);
void host_writes_hide(struct host_memory *memory);
void host_writes_show(struct host_memory *memory);
/* NULL when the address is nobody's. */
struct host_allocation *host_memory_find(struct host_memory *memory, const void *at, size_t bytes);
