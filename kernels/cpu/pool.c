#include "kernels/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/memory.h"

/* 15 to 50 microseconds, by how long the machine's pause instruction takes. */
#define SPIN_COUNT 1000

/* Generation of the job in the upper half, next item in the lower. */
#define CLAIM_CLOSED UINT32_MAX

struct pool_worker {
    pthread_t thread;
    struct pool *pool;
    uint32_t index; /* 1.. */
};

/*
 * An item is claimed by compare-and-swap on `claim`. The job's fields may be read only by guess,
 * since the caller may be writing those of the next job; a successful swap proves that the guess
 * was right, because the caller closes the claim (which changes it) before it touches them.
 */
struct pool {
    _Alignas(MEMORY_LINE_BYTES) _Atomic uint64_t claim;
    _Alignas(MEMORY_LINE_BYTES) _Atomic(pool_item) item;
    _Atomic(void *) context;
    _Atomic uint32_t n_items;
    _Alignas(MEMORY_LINE_BYTES) _Atomic uint32_t n_done; /* items of this job that are finished */
    _Atomic bool caller_sleeps;
    _Alignas(MEMORY_LINE_BYTES) _Atomic uint32_t jobs_posted; /* what sleeping workers watch */
    _Atomic uint32_t n_sleepers;
    _Atomic bool stops;
    uint32_t threads_count, started_count; /* started: workers that exist */
    struct pool_worker *workers;           /* [threads_count - 1] */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Runs one item of the current job if one is left. */
static bool item_run(struct pool *pool, uint32_t thread)
{
    uint64_t claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
    for (;;) {
        uint32_t next = (uint32_t)claim;
        pool_item item = atomic_load_explicit(&pool->item, memory_order_acquire);
        void *context = atomic_load_explicit(&pool->context, memory_order_acquire);
        uint32_t n_items = atomic_load_explicit(&pool->n_items, memory_order_acquire);
        if (next >= n_items)
            return false;
        if (atomic_compare_exchange_weak_explicit(&pool->claim, &claim, claim + 1,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            item(context, thread, next);
            uint32_t n_done = atomic_fetch_add(&pool->n_done, 1) + 1;
            if (n_done == n_items && atomic_load(&pool->caller_sleeps))
                futex_wake(&pool->n_done, 1);
            return true;
        }
    }
}

static bool item_waits(struct pool *pool)
{
    uint32_t next = (uint32_t)atomic_load(&pool->claim);
    return next < atomic_load(&pool->n_items);
}

static void worker_sleep(struct pool *pool)
{
    uint32_t seen = atomic_load(&pool->jobs_posted);
    atomic_fetch_add(&pool->n_sleepers, 1);
    if (!item_waits(pool) && !atomic_load(&pool->stops))
        futex_wait(&pool->jobs_posted, seen);
    atomic_fetch_sub(&pool->n_sleepers, 1);
}

static void *worker_main(void *context)
{
    struct pool_worker *worker = context;
    struct pool *pool = worker->pool;
    uint32_t spins = 0;
    while (!atomic_load_explicit(&pool->stops, memory_order_acquire)) {
        if (item_run(pool, worker->index)) {
            spins = 0;
        } else if (++spins < SPIN_COUNT) {
            spin_pause();
        } else {
            worker_sleep(pool);
            spins = 0;
        }
    }
    return NULL;
}

static void done_wait(struct pool *pool, uint32_t n_items)
{
    for (uint32_t spins = 0; spins < SPIN_COUNT; spins++) {
        if (atomic_load_explicit(&pool->n_done, memory_order_acquire) == n_items)
            return;
        spin_pause();
    }
    atomic_store(&pool->caller_sleeps, true);
    for (uint32_t n_done; (n_done = atomic_load(&pool->n_done)) != n_items;)
        futex_wait(&pool->n_done, n_done);
    atomic_store(&pool->caller_sleeps, false);
}

void pool_run(struct pool *pool, pool_item item, void *context, uint32_t n_items)
{
    CHECK(n_items < CLAIM_CLOSED);
    if (n_items <= 1 || pool->started_count == 0) {
        for (uint32_t i = 0; i < n_items; i++)
            item(context, 0, i);
        return;
    }
    uint64_t generation = (atomic_load_explicit(&pool->claim, memory_order_relaxed) >> 32) + 1;
    atomic_store(&pool->claim, generation << 32 | CLAIM_CLOSED);
    atomic_store_explicit(&pool->item, item, memory_order_release);
    atomic_store_explicit(&pool->context, context, memory_order_release);
    atomic_store_explicit(&pool->n_items, n_items, memory_order_release);
    atomic_store_explicit(&pool->n_done, 0, memory_order_release);
    atomic_store(&pool->claim, generation << 32);
    atomic_fetch_add(&pool->jobs_posted, 1);
    uint32_t n_sleepers = atomic_load(&pool->n_sleepers);
    if (n_sleepers > 0)
        futex_wake(&pool->jobs_posted, (int)u32_min(n_sleepers, n_items - 1));
    while (item_run(pool, 0))
        ;
    done_wait(pool, n_items);
}

uint32_t pool_threads_count(const struct pool *pool)
{
    return pool->threads_count;
}

uint32_t pool_threads_default(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return (uint32_t)CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* a machine with more CPUs than the set holds */
    return n > 0 && n < INT_MAX ? (uint32_t)n : 1;
}

static enum status workers_start(struct pool *pool, struct error *error)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    for (uint32_t i = 0; i + 1 < pool->threads_count && !failure; i++) {
        struct pool_worker *worker = &pool->workers[i];
        *worker = (struct pool_worker){.pool = pool, .index = i + 1};
        failure = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (failure)
            break;
        char name[16];
        snprintf(name, sizeof name, "kernels-%u", (i + 1) % 10000);
        pthread_setname_np(worker->thread, name);
        pool->started_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure)
        return error_set(error, STATUS_EXHAUSTED, "cannot start thread %u of %u: %s",
                         pool->started_count + 2, pool->threads_count, strerror(failure));
    return STATUS_OK;
}

enum status pool_open(uint32_t threads_count, struct pool **ret_pool, struct error *error)
{
    CHECK(threads_count >= 1);
    struct pool *pool = memory_alloc(sizeof *pool);
    struct pool_worker *workers = memory_alloc(size_product(threads_count, sizeof *workers));
    if (!pool || !workers) {
        memory_free(pool);
        memory_free(workers);
        return error_set(error, STATUS_EXHAUSTED, "no memory for a pool of %u threads",
                         threads_count);
    }
    pool->threads_count = threads_count;
    pool->workers = workers;
    atomic_store(&pool->claim, CLAIM_CLOSED);
    enum status status = workers_start(pool, error);
    if (status != STATUS_OK) {
        pool_close(pool);
        return status;
    }
    *ret_pool = pool;
    return STATUS_OK;
}

void pool_close(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stops, true);
    atomic_fetch_add(&pool->jobs_posted, 1);
    futex_wake(&pool->jobs_posted, INT_MAX);
    for (uint32_t i = 0; i < pool->started_count; i++)
        pthread_join(pool->workers[i].thread, NULL);
    memory_free(pool->workers);
    memory_free(pool);
}
