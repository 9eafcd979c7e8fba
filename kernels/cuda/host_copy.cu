#include "kernels/cuda/host_private.h"

/* Copies that arrive later, and the mbarriers that say so. */

/* ---- cp.async ---- */

void host_copy_async(uint32_t to, const void *from, uint32_t bytes, bool valid)
{
    struct host_block *b = host_block_now;
    struct host_thread *thread = &b->threads[b->now.thread];
    if (valid && (uintptr_t)from % bytes)
        host_fail("copy_async16 from %p, which is not aligned to %u", from, bytes);
    (void)host_shared(to, bytes, HOST_WRITE); /* whoever reads it now is not ordered with us */
    CHECK(b->n_async < ASYNC_MAX);
    b->async[b->n_async++] =
        (struct async_copy){to, bytes, thread->groups, (uint16_t)b->now.thread, valid, from};
    for (uint32_t i = to; i < to + bytes; i++)
        b->shadow[i].in_flight = true;
    thread->open_copies++;
    thread->pending_copies++;
}

void host_copy_commit(void)
{
    struct host_block *b = host_block_now;
    struct host_thread *thread = &b->threads[b->now.thread];
    thread->groups++;
    thread->open_copies = 0;
}

/* All but the last `groups` groups are there. */
void host_copy_wait(uint32_t groups)
{
    struct host_block *b = host_block_now;
    struct host_thread *thread = &b->threads[b->now.thread];
    uint32_t done = thread->groups > groups ? thread->groups - groups : 0, kept = 0;
    for (uint32_t i = 0; i < b->n_async; i++) {
        const struct async_copy *copy = &b->async[i];
        if (copy->thread != b->now.thread || copy->group >= done) {
            b->async[kept++] = *copy;
            continue;
        }
        if (copy->valid)
            memcpy(b->shared_data + copy->to, copy->from, copy->bytes);
        else
            memset(b->shared_data + copy->to, 0, copy->bytes);
        host_shadow_write(copy->to, copy->bytes, b->now.thread, b->clock[b->now.thread / 32]);
        thread->pending_copies--;
    }
    b->n_async = kept;
}

/* ---- mbarriers ---- */

static struct mbarrier_state *mbarrier_find(struct host_block *b, uint32_t at)
{
    for (uint32_t i = 0; i < b->n_mbarriers; i++)
        if (b->mbarriers[i].at == at)
            return &b->mbarriers[i];
    host_fail("there is no mbarrier at %u of shared memory", at);
}

/* Who made it visible to the others must still meet them: the shadow of its bytes is an ordinary
 * write until then, and looking it up is an ordinary read. */
static void mbarrier_look(struct host_block *b, uint32_t at)
{
    const struct shadow *s = &b->shadow[at];
    if (s->writer != NOBODY && !host_ordered(s->writer, s->write_clock))
        host_fail("uses the mbarrier at %u, and nothing orders that after its making by thread %u",
                  at, s->writer);
}

void host_mbarrier_init(uint32_t at, uint32_t count)
{
    struct host_block *b = host_block_now;
    if (b->n_mbarriers == MBARRIERS_MAX)
        host_fail("makes more than %u mbarriers", MBARRIERS_MAX);
    (void)host_shared(at, 8, HOST_WRITE);
    for (uint32_t i = at; i < at + 8; i++)
        b->shadow[i].mbarrier = true;
    struct mbarrier_state *bar = &b->mbarriers[b->n_mbarriers++];
    uint32_t *exact = bar->exact;
    *bar = (struct mbarrier_state){};
    bar->at = at;
    bar->count = bar->left = count;
    bar->exact = exact;
}

static void phase_complete(struct host_block *b, struct mbarrier_state *bar)
{
    bar->parity ^= 1;
    bar->left = bar->count;
    memcpy(bar->seen, bar->seen_next, sizeof bar->seen);
    for (uint32_t t = 0; t < b->now.threads; t++)
        if (b->threads[t].waits == WAIT_MBARRIER && b->threads[t].waits_at == bar->at &&
            b->threads[t].waits_parity != bar->parity)
            host_ready(t);
}

void host_mbarrier_arrive(uint32_t at, uint32_t bytes)
{
    struct host_block *b = host_block_now;
    struct mbarrier_state *bar = mbarrier_find(b, at);
    struct host_thread *thread = &b->threads[b->now.thread];
    mbarrier_look(b, at);
    if (bar->left == 0)
        host_fail("arrives at the mbarrier at %u, whose %u arrivals were there already", at,
                  bar->count);
    host_seen_join(bar->seen_next, thread->seen);
    if (!bar->exact_number)
        memset(bar->exact, 0, HOST_THREADS_MAX * sizeof *bar->exact);
    bar->exact_number = ++b->exact_numbers;
    uint32_t warp = b->now.thread / 32;
    bar->exact[b->now.thread] = b->clock[warp];
    bar->seen_next[warp] = u32_max(bar->seen_next[warp], thread->seen[warp]);
    bar->bytes_left += bytes;
    bar->left--;
    if (bar->left == 0 && bar->bytes_left == 0)
        phase_complete(b, bar);
}

/* Until the phase of this parity is complete. */
void host_mbarrier_wait(uint32_t at, uint32_t parity)
{
    struct host_block *b = host_block_now;
    struct mbarrier_state *bar = mbarrier_find(b, at);
    struct host_thread *thread = &b->threads[b->now.thread];
    mbarrier_look(b, at);
    if (bar->parity == (parity & 1)) {
        thread->waits_at = at;
        thread->waits_parity = parity & 1;
        host_wait(WAIT_MBARRIER, "mbarrier_wait");
    } else if (host_dice(b, 4) == 0) { /* the others' turn, now and then */
        host_ready(b->now.thread);
        host_wait(WAIT_NONE, "mbarrier_wait");
    }
    host_seen_join(thread->seen, bar->seen);
    if (bar->exact_number)
        host_exact_join(b->now.thread, bar->exact, bar->exact_number);
}

/* ---- bulk copies ---- */

void host_copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    struct host_block *b = host_block_now;
    if (to % 16 || (uintptr_t)from % 16 || bytes % 16 || bytes == 0)
        host_fail("copy_bulk of %u bytes from %p to %u: all must be multiples of 16", bytes, from,
                  to);
    (void)mbarrier_find(b, bar);
    if (!host_memory_find(b->memory, from, bytes))
        host_fail("copy_bulk of %u bytes from %p, which is no memory of the card", bytes, from);
    if (b->n_bulk == BULK_MAX)
        host_fail("has more than %u bulk copies on their way", BULK_MAX);
    for (uint32_t i = 0; i < bytes; i += 16)
        (void)host_shared(to + i, 16, HOST_WRITE);
    for (uint32_t i = to; i < to + bytes; i++)
        b->shadow[i].in_flight = true;
    b->bulk[b->n_bulk++] = (struct bulk_copy){to, bytes, bar, from};
}

void host_bulk_arrive(void)
{
    struct host_block *b = host_block_now;
    uint32_t pick = host_dice(b, b->n_bulk);
    struct bulk_copy copy = b->bulk[pick];
    b->bulk[pick] = b->bulk[--b->n_bulk];
    struct mbarrier_state *bar = mbarrier_find(b, copy.bar);
    memcpy(b->shared_data + copy.to, copy.from, copy.bytes);
    host_shadow_write(copy.to, copy.bytes, COPY_THREAD, b->clock[COPIES]);
    bar->seen_next[COPIES] = ++b->clock[COPIES];
    bar->bytes_left -= copy.bytes;
    if (bar->left == 0 && bar->bytes_left == 0)
        phase_complete(b, bar);
}

/* What this thread stored so far may be read by tensor instructions once others are told. */
void host_async_fence(void)
{
    struct host_block *b = host_block_now;
    b->threads[b->now.thread].fences++;
}
