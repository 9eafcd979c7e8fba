/*
 * pool: the threads of a CPU device, and the one thing they do: share out the items of an op.
 *
 * pool_run hands out items 0..n_items-1 one at a time to whoever is free, the calling thread
 * included, and returns when all are done. Which thread computes an item is left to chance; no
 * result may depend on it. The op is over when its items are done, not when every worker has looked
 * in, so a worker that the system woke late delays nobody.
 *
 * Between ops a worker spins for some tens of microseconds, because the next op of a step follows
 * within a few; then it sleeps in the kernel, so that an idle daemon uses no CPU.
 *
 * No thread is pinned to a processor. Beside a busy neighbour a pinned thread waits for its turn
 * while the others wait for it; one that is free moves to the processor on which the waiting ones
 * sleep.
 *
 * One thread calls pool_run at a time, and not from inside an item. Workers block all signals.
 */
#pragma once

#include "base/status.h"

struct pool;

/* `thread` is 0 for the caller of pool_run, 1.. for workers. */
typedef void (*pool_item)(void *context, uint32_t thread, uint32_t item);

/* `threads_count` >= 1 includes the caller: n - 1 threads are started. */
enum status pool_open(uint32_t threads_count, struct pool **ret_pool, struct error *error);
void pool_close(struct pool *pool); /* NULL is allowed */

void pool_run(struct pool *pool, pool_item item, void *context, uint32_t n_items);

uint32_t pool_threads_count(const struct pool *pool);

/* CPUs that this process may run on. */
uint32_t pool_threads_default(void);
