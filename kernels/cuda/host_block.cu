#include <stdarg.h>
#include <sys/mman.h>

#include "kernels/cuda/host_private.h"

/* Turns of the fibers, and where they meet. */

__thread struct host_now *host_now;
__thread struct host_block *host_block_now;

const char *host_thread_name(uint32_t thread, char *text, size_t text_bytes)
{
    if (thread == COPY_THREAD)
        snprintf(text, text_bytes, "a bulk copy");
    else
        snprintf(text, text_bytes, "thread %u", thread);
    return text;
}

void host_fail(const char *format, ...)
{
    struct host_block *b = host_block_now;
    int n = snprintf(b->report, b->report_bytes,
                     "kernel %s, block (%u, %u, %u), thread %u: ", b->launch->name, b->now.x,
                     b->now.y, b->now.z, b->now.thread);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(b->report + n, b->report_bytes - (size_t)n, format, arguments);
    va_end(arguments);
    b->failed = true;
    host_fiber_switch(&b->threads[b->now.thread].fiber, &b->main);
    abort(); /* nobody comes back to it */
}

void host_ready(uint32_t thread)
{
    struct host_block *b = host_block_now;
    b->threads[thread].waits = WAIT_NONE;
    b->ready[b->n_ready++] = (uint16_t)thread;
}

static void stuck_report(struct host_block *b)
{
    static const char *const kinds[] = {"nothing",       "a barrier",   "its warp",
                                        "its warpgroup", "an mbarrier", "nothing: it ended"};
    uint32_t first = 0;
    while (first < b->now.threads && b->threads[first].waits == WAIT_OVER)
        first++;
    uint32_t counts[WAIT_OVER + 1] = {0};
    for (uint32_t t = 0; t < b->now.threads; t++)
        counts[b->threads[t].waits]++;
    const struct host_thread *thread = &b->threads[first];
    b->now.thread = first;
    host_fail(
        "waits for ever for %s (%s, at %u); of the block %u wait at barriers, %u for lanes of "
        "their warp, %u of their warpgroup, %u at mbarriers, %u have ended",
        kinds[thread->waits], thread->what ? thread->what : "", thread->waits_at,
        counts[WAIT_BARRIER], counts[WAIT_WARP], counts[WAIT_GROUP], counts[WAIT_MBARRIER],
        counts[WAIT_OVER]);
}

/* Goes on with any thread that is ready; back to the launch when all are over. */
static void turn_next(struct host_block *b, bool last)
{
    struct host_fiber *from = &b->threads[b->now.thread].fiber, *to = &b->main;
    if (b->n_bulk > 0 && host_dice(b, 4) == 0)
        host_bulk_arrive();
    while (b->n_ready == 0 && b->n_bulk > 0)
        host_bulk_arrive();
    if (b->n_ready > 0) {
        uint32_t pick = host_dice(b, b->n_ready), thread = b->ready[pick];
        b->ready[pick] = b->ready[--b->n_ready];
        if (thread == b->now.thread && !last)
            return;
        b->now.thread = thread;
        to = &b->threads[thread].fiber;
    } else if (b->n_over < b->now.threads) {
        stuck_report(b);
    }
    host_fiber_switch(from, to);
}

void host_wait(enum wait_kind kind, const char *what)
{
    struct host_block *b = host_block_now;
    struct host_thread *thread = &b->threads[b->now.thread];
    thread->waits = kind;
    thread->what = what;
    turn_next(b, false);
}

static void thread_entry(void *argument)
{
    struct host_block *b = (struct host_block *)argument;
    host_fiber_entered(&b->threads[b->now.thread].fiber);
    b->launch->run(b->launch->task);
    struct host_thread *thread = &b->threads[b->now.thread];
    if (thread->pending_copies > 0)
        host_fail("ends with %u asynchronous copies that it did not wait for",
                  thread->pending_copies);
    if (b->launch->overlaps && !thread->waited)
        host_fail("ends without launch_wait, though its launch overlaps the one before");
    thread->waits = WAIT_OVER;
    b->n_over++;
    turn_next(b, true);
    abort();
}

void host_launch_wait(void)
{
    struct host_block *b = host_block_now;
    if (b->memory->hidden) { /* others may be as early */
        b->ready[b->n_ready++] = (uint16_t)b->now.thread;
        turn_next(b, false);
    }
    b->threads[b->now.thread].waited = true;
    host_writes_show(b->memory);
}

/* ---- clocks ---- */

void host_seen_join(uint32_t *seen, const uint32_t *other)
{
    for (uint32_t i = 0; i < CLOCKS; i++)
        seen[i] = u32_max(seen[i], other[i]);
}

bool host_ordered(uint32_t thread, uint32_t clock)
{
    struct host_block *b = host_block_now;
    uint32_t now = b->now.thread;
    if (thread == now || thread == NOBODY)
        return true;
    if (thread == COPY_THREAD)
        return clock < b->threads[now].seen[COPIES];
    uint32_t warp = thread / 32;
    if (clock < (warp == now / 32 ? b->clock[warp] : b->threads[now].seen[warp]))
        return true;
    return b->threads[now].exact && clock <= b->exact[now * HOST_THREADS_MAX + thread];
}

void host_exact_join(uint32_t to, const uint32_t *from, uint64_t number)
{
    struct host_block *b = host_block_now;
    uint32_t *exact = b->exact + (size_t)to * HOST_THREADS_MAX;
    uint64_t had = b->threads[to].exact;
    if (had == number)
        return;
    for (uint32_t i = 0; i < b->now.threads; i++)
        exact[i] = u32_max(had ? exact[i] : 0, from[i]);
    if (b->exact_last.had != had || b->exact_last.came != number || !b->exact_last.became)
        b->exact_last = {had, number, ++b->exact_numbers};
    b->threads[to].exact = b->exact_last.became;
}

/* The first n of `met` have all that any of them has. */
static void exact_met(struct host_block *b, uint32_t n)
{
    const uint16_t *threads = b->met;
    uint32_t *all = b->exact_all;
    bool same = true;
    for (uint32_t i = 1; i < n; i++)
        same = same && b->threads[threads[i]].exact == b->threads[threads[0]].exact;
    if (same)
        return;
    memset(all, 0, b->now.threads * sizeof *all);
    for (uint32_t i = 0; i < n; i++)
        if (b->threads[threads[i]].exact)
            for (uint32_t t = 0; t < b->now.threads; t++)
                all[t] = u32_max(all[t], b->exact[(size_t)threads[i] * HOST_THREADS_MAX + t]);
    uint64_t number = ++b->exact_numbers;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(b->exact + (size_t)threads[i] * HOST_THREADS_MAX, all, b->now.threads * sizeof *all);
        b->threads[threads[i]].exact = number;
    }
}

/* All threads [first, first + n) have met: each knows what all of them know. */
static void threads_met(struct host_block *b, uint32_t first, uint32_t n)
{
    uint32_t *seen = b->threads[first].seen;
    for (uint32_t t = first + 1; t < first + n; t++)
        if (memcmp(seen, b->threads[t].seen, sizeof b->threads[t].seen) != 0)
            host_seen_join(seen, b->threads[t].seen);
    for (uint32_t i = 0; i < n; i++)
        b->met[i] = (uint16_t)(first + i);
    exact_met(b, n);
    for (uint32_t warp = first / 32; warp < (first + n) / 32; warp++)
        seen[warp] = ++b->clock[warp];
    for (uint32_t t = first + 1; t < first + n; t++)
        memcpy(b->threads[t].seen, seen, sizeof b->threads[t].seen);
}

/* ---- meetings ---- */

static void meet(struct meeting *meeting, uint32_t first, uint32_t n, const char *what, void *mine,
                 void (*run)(void **))
{
    struct host_block *b = host_block_now;
    if (meeting->n > 0 && strcmp(meeting->what, what) != 0)
        host_fail("comes to %s while other lanes wait at %s", what, meeting->what);
    meeting->what = what;
    meeting->mine[b->now.thread - first] = mine;
    if (++meeting->n < n) {
        host_wait(n == 32 ? WAIT_WARP : WAIT_GROUP, what);
        return;
    }
    meeting->n = 0;
    threads_met(b, first, n);
    if (run)
        run(meeting->mine);
    for (uint32_t t = first; t < first + n; t++)
        host_ready(t);
    turn_next(b, false);
}

void host_warp_meet(const char *what, void *mine, void (*run)(void **))
{
    uint32_t warp = host_now->thread / 32;
    meet(&host_block_now->warps[warp], warp * 32, 32, what, mine, run);
}

void host_group_meet(const char *what, void *mine, void (*run)(void **))
{
    uint32_t group = host_now->thread / 128;
    if ((group + 1) * 128 > host_now->threads)
        host_fail("%s needs a whole warpgroup of 128 threads", what);
    meet(&host_block_now->groups[group], group * 128, 128, what, mine, run);
}

static bool waits_at_barrier(const struct host_block *b, uint32_t thread, uint32_t id)
{
    return b->threads[thread].waits == WAIT_BARRIER && b->threads[thread].waits_at == id;
}

/* Whoever waits goes on when all of `threads` have come, those that only sign among them. */
static void barrier_open(struct host_block *b, uint32_t id)
{
    struct barrier_state *barrier = &b->barriers[id];
    for (uint32_t warp = 0; warp < WARPS_MAX; warp++)
        if (barrier->arrived[warp])
            barrier->seen[warp] = ++b->clock[warp];
    uint32_t n = 0;
    for (uint32_t t = 0; t < b->now.threads; t++)
        if (waits_at_barrier(b, t, id)) {
            host_seen_join(b->threads[t].seen, barrier->seen);
            b->met[n++] = (uint16_t)t;
        }
    exact_met(b, n);
    for (uint32_t i = 0; i < n; i++)
        host_ready(b->met[i]);
    memset(barrier, 0, sizeof *barrier);
}

void host_barrier(uint32_t id, uint32_t threads, bool wait)
{
    struct host_block *b = host_block_now;
    struct host_thread *thread = &b->threads[b->now.thread];
    if (id >= BARRIERS_MAX)
        host_fail("there is no barrier %u: 0 to 15", id);
    struct barrier_state *barrier = &b->barriers[id];
    if (barrier->n > 0 && barrier->threads != threads)
        host_fail("comes to barrier %u for %u threads, others for %u", id, threads,
                  barrier->threads);
    barrier->threads = threads;
    barrier->arrived[b->now.thread / 32] = true;
    host_seen_join(barrier->seen, thread->seen);
    thread->waits_at = id;
    thread->waits = wait ? WAIT_BARRIER : WAIT_NONE;
    if (++barrier->n == threads)
        barrier_open(b, id); /* makes this thread ready as well, if it waits */
    if (wait)
        host_wait(thread->waits == WAIT_BARRIER ? WAIT_BARRIER : WAIT_NONE, "barrier");
}

/* ---- shared memory ---- */

static void shared_race(struct host_block *b, uint32_t at, uint32_t other, bool other_wrote,
                        enum host_access access)
{
    char a[64], c[64];
    host_fail("race in shared memory: byte %u is %s by %s and %s by %s, and nothing orders them",
              at, other_wrote ? "written" : "read", host_thread_name(other, a, sizeof a),
              access == HOST_READ ? "read" : "written",
              host_thread_name(b->now.thread, c, sizeof c));
}

static void byte_check(struct host_block *b, uint32_t at, enum host_access access)
{
    struct shadow *s = &b->shadow[at];
    if (s->mbarrier)
        host_fail("byte %u of shared memory belongs to an mbarrier", at);
    if (s->in_flight)
        host_fail("byte %u of shared memory is %s while a copy into it is on its way", at,
                  access == HOST_READ ? "read" : "written");
    if (access == HOST_READ && s->writer == NOBODY)
        host_fail("byte %u of shared memory is read, but nobody wrote it", at);
    if (!(s->atomic && access == HOST_ATOMIC) && !host_ordered(s->writer, s->write_clock))
        shared_race(b, at, s->writer, true, access);
    if (access == HOST_READ) {
        uint32_t thread = b->now.thread;
        if (s->reader[0] != NOBODY && s->reader[0] / 32 != thread / 32) {
            s->reader[1] = s->reader[0];
            s->read_clock[1] = s->read_clock[0];
        }
        s->reader[0] = (uint16_t)thread;
        s->read_clock[0] = b->clock[thread / 32];
        return;
    }
    for (int i = 0; i < 2; i++)
        if (!host_ordered(s->reader[i], s->read_clock[i]))
            shared_race(b, at, s->reader[i], false, access);
    s->writer = (uint16_t)b->now.thread;
    s->write_clock = b->clock[b->now.thread / 32];
    s->write_fences = b->threads[b->now.thread].fences;
    s->atomic = access == HOST_ATOMIC;
}

void *host_shared(uint32_t at, uint32_t bytes, enum host_access access)
{
    struct host_block *b = host_block_now;
    if (at > b->launch->shared_bytes || bytes > b->launch->shared_bytes - at)
        host_fail("%s %u bytes at %u of shared memory, which has %u",
                  access == HOST_READ ? "reads" : "writes", bytes, at, b->launch->shared_bytes);
    if (at % (bytes & -bytes)) /* a struct: the power of two in its size */
        host_fail("an access of %u bytes at %u of shared memory is misaligned", bytes, at);
    for (uint32_t i = 0; i < bytes; i++)
        byte_check(b, at + i, access);
    return b->shared_data + at;
}

const char *host_shared_async(uint32_t at)
{
    struct host_block *b = host_block_now;
    const char *data = (const char *)host_shared(at, 16, HOST_READ);
    for (uint32_t i = at; i < at + 16; i++) {
        const struct shadow *s = &b->shadow[i];
        if (s->writer < HOST_THREADS_MAX && b->threads[s->writer].fences <= s->write_fences)
            host_fail("byte %u of shared memory is read by a tensor instruction, but thread %u did "
                      "not call async_fence() after it stored it",
                      i, s->writer);
    }
    return data;
}

void host_shadow_write(uint32_t at, uint32_t bytes, uint32_t thread, uint32_t clock)
{
    struct host_block *b = host_block_now;
    for (uint32_t i = at; i < at + bytes; i++) {
        b->shadow[i].writer = (uint16_t)thread;
        b->shadow[i].write_clock = clock;
        b->shadow[i].write_fences = thread < HOST_THREADS_MAX ? b->threads[thread].fences : 0;
        b->shadow[i].in_flight = b->shadow[i].atomic = false;
    }
}

/* ---- a launch ---- */

static void *pages(size_t bytes)
{
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(data != MAP_FAILED);
    return data;
}

/* Kept for the life of the OS thread: large, and used again by each launch. */
static struct host_block *block_get(void)
{
    if (host_block_now)
        return host_block_now;
    struct host_block *b = (struct host_block *)pages(sizeof *b);
    char *stacks = (char *)pages(HOST_THREADS_MAX * HOST_STACK_BYTES);
    for (uint32_t t = 0; t < HOST_THREADS_MAX; t++)
        b->threads[t].fiber.stack = stacks + t * HOST_STACK_BYTES;
    b->async = (struct async_copy *)pages(ASYNC_MAX * sizeof *b->async);
    b->exact = (uint32_t *)pages((size_t)HOST_THREADS_MAX * HOST_THREADS_MAX * sizeof *b->exact);
    for (uint32_t i = 0; i < MBARRIERS_MAX; i++)
        b->mbarriers[i].exact = (uint32_t *)pages(HOST_THREADS_MAX * sizeof(uint32_t));
    for (uint32_t i = 0; i < array_count(b->wgmma); i++) {
        struct wgmma_state *w = &b->wgmma[i];
        w->accumulators = (struct accumulator *)pages(ACCUMULATORS_MAX * sizeof *w->accumulators);
        w->reads = (struct wgmma_state::wgmma_read *)pages(WGMMA_READS_MAX * sizeof *w->reads);
    }
    b->shared_data = (char *)pages(HOST_SHARED_MAX_BYTES);
    b->shadow = (struct shadow *)pages(HOST_SHARED_MAX_BYTES * sizeof *b->shadow);
    host_now = &b->now;
    host_block_now = b;
    return b;
}

static void block_reset(struct host_block *b)
{
    b->n_ready = b->n_over = b->n_bulk = b->n_async = b->n_mbarriers = 0;
    memset(b->warps, 0, sizeof b->warps);
    memset(b->groups, 0, sizeof b->groups);
    memset(b->barriers, 0, sizeof b->barriers);
    for (uint32_t i = 0; i < array_count(b->wgmma); i++)
        b->wgmma[i].groups = b->wgmma[i].n = b->wgmma[i].n_reads = 0;
    for (uint32_t i = 0; i < CLOCKS; i++)
        b->clock[i] = 1;
    struct shadow clean = {};
    clean.writer = clean.reader[0] = clean.reader[1] = NOBODY;
    memset(b->shared_data, 0xff, b->launch->shared_bytes);
    for (uint32_t i = 0; i < b->launch->shared_bytes; i++)
        b->shadow[i] = clean;
    for (uint32_t t = 0; t < b->now.threads; t++) {
        struct host_thread *thread = &b->threads[t];
        thread->groups = thread->open_copies = thread->pending_copies = thread->fences = 0;
        thread->exact = 0;
        thread->waited = false;
        memset(thread->seen, 0, sizeof thread->seen);
        host_fiber_begin(&thread->fiber, thread_entry, b);
        host_ready(t);
    }
    b->memory->acquired = false;
}

#define HIDDEN_BLOCKS 4 /* of a launch that overlaps: the first ones */

static void block_run(struct host_block *b, uint32_t linear)
{
    const struct host_launch *launch = b->launch;
    b->linear = linear;
    b->now.x = linear % launch->x;
    b->now.y = linear / launch->x % launch->y;
    b->now.z = linear / launch->x / launch->y;
    block_reset(b);
    if (launch->overlaps && b->n_hidden < HIDDEN_BLOCKS) {
        b->n_hidden++;
        host_writes_hide(b->memory);
    }
    uint32_t pick = host_dice(b, b->n_ready);
    b->now.thread = b->ready[pick];
    b->ready[pick] = b->ready[--b->n_ready];
    host_fiber_switch(&b->main, &b->threads[b->now.thread].fiber);
    host_writes_show(b->memory);
    if (!b->failed && b->n_bulk > 0) {
        snprintf(b->report, b->report_bytes,
                 "kernel %s: a block ends while %u bulk copies into it "
                 "are on their way",
                 launch->name, b->n_bulk);
        b->failed = true;
    }
}

bool host_launch_run(const struct host_launch *launch, struct host_memory *memory, char *ret_report,
                     size_t report_bytes)
{
    struct host_block *b = block_get();
    CHECK(launch->threads > 0 && launch->threads % 32 == 0 && launch->threads <= HOST_THREADS_MAX);
    CHECK(launch->shared_bytes <= HOST_SHARED_MAX_BYTES);
    b->launch = launch;
    b->memory = memory;
    b->dice = launch->seed;
    b->report = ret_report;
    b->report_bytes = report_bytes;
    b->failed = false;
    b->now.threads = launch->threads;
    b->now.grid_x = launch->x;
    b->now.grid_y = launch->y;
    b->now.grid_z = launch->z;
    b->n_hidden = 0;
    memory->launch++;
    host_writes_begin(memory);
    if (memory->released)
        memset(memory->released, 0, memory->released_bytes);
    uint32_t n = launch->x * launch->y * launch->z;
    /* A walk through all blocks with a random start and a step that shares no factor with n. */
    uint32_t step = n > 2 ? 1 + host_dice(b, n - 1) : 1, at = host_dice(b, n);
    for (uint32_t x = step, y = n; y != 0 || x != 1;) {
        if (y == 0) { /* x is the common factor, and larger than one */
            step = step % n + 1;
            x = step;
            y = n;
        }
        uint32_t rest = x % y;
        x = y;
        y = rest;
    }
    for (uint32_t i = 0; i < n && !b->failed; i++, at = (uint32_t)(((uint64_t)at + step) % n))
        block_run(b, at);
    return !b->failed;
}
