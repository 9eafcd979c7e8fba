#include "sched/books.h"

void books_tick(struct sched *sched, uint64_t now_ns)
{
    if (now_ns < sched->now_ns)
        sched->clock_back_total++;
    else
        sched->now_ns = now_ns;
}

static void slot_free(struct sched *sched, uint32_t slot)
{
    sched->slots[slot].state = SLOT_FREE;
    sched->free_slots[sched->n_free_slots++] = slot;
}

static uint32_t slot_take(struct sched *sched, sched_id holder)
{
    CHECK(sched->n_free_slots > 0);
    uint32_t slot = sched->free_slots[--sched->n_free_slots];
    CHECK(sched->slots[slot].state == SLOT_FREE && !sched->slots[slot].held);
    sched->slots[slot] = (struct slot){.state = SLOT_OPEN, .held = true, .holder = holder};
    return slot;
}

static void slot_owe_close(struct sched *sched, uint32_t slot)
{
    CHECK(sched->slots[slot].state == SLOT_OPEN);
    sched->slots[slot].state = SLOT_OWED;
    sched->owed[sched->n_owed++] = slot;
}

void slot_closed(struct sched *sched, uint32_t slot)
{
    CHECK(sched->slots[slot].state == SLOT_OWED);
    sched->slots[slot].state = SLOT_CLOSED;
    if (!sched->slots[slot].held)
        slot_free(sched, slot);
}

void sched_slots_reset(struct sched *sched)
{
    uint32_t n = sched->limits.slots_max;
    memset(sched->slots, 0, n * sizeof *sched->slots);
    for (uint32_t i = 0; i < n; i++)
        sched->free_slots[i] = n - 1 - i;
    sched->n_free_slots = n;
    sched->n_owed = 0;
}

void flights_reset(struct sched *sched)
{
    for (uint32_t f = 0; f < sched->n_flights; f++)
        for (uint32_t i = 0; i < sched->flights[f].n_rows; i++) {
            struct seq *seq = &sched->seqs[sched->flights[f].rows[i]];
            seq->rows_in_flight = 0;
            seq->n_pending = 0;
            seq_prefilling_update(sched, seq);
        }
    sched->n_flights = 0;
    sched->next_step = 1;
}

/* ---- a tenant's sums, over its path ---- */

#define PATH_ADD(sched, seq, field, n)                                                             \
    do {                                                                                           \
        struct tenant *path_ = &(sched)->tenants.rows[(seq)->tenant];                              \
        for (; path_; path_ = tenant_above(&(sched)->tenants, path_))                              \
            path_->field += (n);                                                                   \
    } while (0)

void seq_prefilling_update(struct sched *sched, struct seq *seq)
{
    bool prefilling = seq->state == SEQ_RUNNING && !seq->paused && seq->n_pending == 0 &&
                      seq->planned_tokens + 1 < seq_known_tokens(seq);
    if (prefilling == seq->prefilling)
        return;
    seq->prefilling = prefilling;
    sched->n_prefilling += prefilling ? 1u : -1u;
    PATH_ADD(sched, seq, n_prefilling, prefilling ? 1u : -1u);
}

void tenants_recount(struct sched *sched)
{
    for (uint32_t i = 0; i < sched->limits.requests_max; i++) {
        const struct seq *seq = &sched->seqs[i];
        if (seq->state == SEQ_FREE || seq->state == SEQ_ENDED)
            continue;
        PATH_ADD(sched, seq, n_waiting, seq->state == SEQ_WAITING);
        PATH_ADD(sched, seq, n_running, seq->state == SEQ_RUNNING);
        PATH_ADD(sched, seq, n_prefilling, seq->prefilling);
        if (seq->slot == SEQ_NO_SLOT)
            continue;
        uint32_t n = sched->blocks.table_counts[seq->slot];
        tenants_blocks_add(&sched->tenants, seq->tenant, n);
        if (seq->state != SEQ_RUNNING)
            PATH_ADD(sched, seq, releasing_blocks, n);
    }
}

/* ---- moves ---- */

void seq_wait(struct sched *sched, struct seq *seq, enum arrival arrival)
{
    DCHECK(!seq->in_line);
    if (seq->state != SEQ_WAITING) {
        CHECK(seq->state == SEQ_FREE || seq->state == SEQ_RUNNING);
        seq->state = SEQ_WAITING;
        sched->n_waiting++;
        sched->n_waiting_new += !seq->admitted;
        PATH_ADD(sched, seq, n_waiting, 1);
    }
    seq->in_line = true;
    sched->policy->enqueue(sched->policy_state, seq, arrival);
}

static void line_leave(struct sched *sched, struct seq *seq)
{
    sched->policy->dequeue(sched->policy_state, seq);
    seq->in_line = false;
}

void seq_aside(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING && seq->in_line && seq->paused);
    line_leave(sched, seq);
}

void seq_hold(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING && seq->in_line && seq->group != GROUP_NONE);
    seq->held = true;
    line_leave(sched, seq);
}

static void waiting_leave(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING);
    if (seq->in_line)
        line_leave(sched, seq);
    sched->n_waiting--;
    sched->n_waiting_new -= !seq->admitted;
    PATH_ADD(sched, seq, n_waiting, -1u);
}

/* What the cache holds above the high mark was never computed for this sequence, and is not now. */
static void cached_account(struct sched *sched, struct seq *seq, uint32_t cached_tokens)
{
    seq->planned_tokens = seq->computed_tokens = cached_tokens;
    if (cached_tokens <= seq->planned_high_tokens)
        return;
    uint32_t n = cached_tokens - seq->planned_high_tokens;
    seq->planned_high_tokens = cached_tokens;
    seq->cached_tokens += n;
    sched->cached_tokens_total += n;
    PATH_ADD(sched, seq, cached_tokens_total, n);
}

void seq_run(struct sched *sched, struct seq *seq, uint32_t cached_tokens)
{
    CHECK(seq->slot == SEQ_NO_SLOT && seq->rows_in_flight == 0 && seq->n_pending == 0);
    CHECK(cached_tokens < seq_known_tokens(seq));
    waiting_leave(sched, seq);
    seq->state = SEQ_RUNNING;
    seq->admitted = true;
    seq->row_step = 0; /* step numbers start again when the worker is lost */
    seq->named_blocks = seq->listed_blocks = cached_tokens / sched->limits.block_tokens;
    cached_account(sched, seq, cached_tokens);
    seq->slot = slot_take(sched, seq->id);
    sched->running[sched->n_running++] = seq;
    sched->admitted_total++;
    PATH_ADD(sched, seq, n_running, 1);
    PATH_ADD(sched, seq, admitted_total, 1);
    seq_prefilling_update(sched, seq);
}

/* The list is short and dense; a search beats keeping every place up to date. */
static void running_leave(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_RUNNING);
    uint32_t i = 0;
    while (sched->running[i] != seq)
        CHECK(++i < sched->n_running);
    sched->n_running--;
    memmove(&sched->running[i], &sched->running[i + 1],
            (sched->n_running - i) * sizeof *sched->running);
    sched->n_paused -= seq->paused;
    PATH_ADD(sched, seq, n_running, -1u);
    if (seq->prefilling) {
        seq->prefilling = false;
        sched->n_prefilling--;
        PATH_ADD(sched, seq, n_prefilling, -1u);
    }
}

/* Slot and blocks of a sequence that has just stopped running: at once or when steps retire. */
static void seq_let_go(struct sched *sched, struct seq *seq)
{
    slot_owe_close(sched, seq->slot);
    uint32_t n = sched->blocks.table_counts[seq->slot];
    sched->releasing_blocks += n;
    PATH_ADD(sched, seq, releasing_blocks, n);
    if (seq->rows_in_flight == 0)
        seq_release(sched, seq);
}

void seq_return(struct sched *sched, struct seq *seq)
{
    group_resign(sched, seq);
    running_leave(sched, seq);
    seq_wait(sched, seq, ARRIVES_PREEMPTED);
    seq_let_go(sched, seq);
}

static void seq_ended(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_ENDING && seq->rows_in_flight == 0 && seq->slot == SEQ_NO_SLOT);
    seq->state = SEQ_ENDED;
    uint32_t place = sched->ended_first + sched->n_ended++;
    if (place >= sched->limits.requests_max)
        place -= sched->limits.requests_max;
    sched->ended[place] = seq->id;
    sched->ended_total++;
    group_leave(sched, seq);
}

void seq_end(struct sched *sched, struct seq *seq)
{
    deadlines_remove(&sched->deadlines, seq->id);
    seq->digests = NULL; /* its owner's memory may go */
    seq->n_digests = 0;
    if (seq->state == SEQ_WAITING) {
        waiting_leave(sched, seq);
        seq->held = false;
        seq->state = SEQ_ENDING;
        if (sched->policy->ended)
            sched->policy->ended(sched->policy_state, seq);
        /* One that was preempted lately holds its slot until the steps that name it retire. */
        if (seq->slot == SEQ_NO_SLOT)
            seq_ended(sched, seq);
    } else {
        running_leave(sched, seq);
        seq->state = SEQ_ENDING;
        if (sched->policy->ended)
            sched->policy->ended(sched->policy_state, seq);
        seq_let_go(sched, seq);
    }
}

void seq_release(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING || seq->state == SEQ_ENDING);
    CHECK(seq->rows_in_flight == 0 && seq->slot != SEQ_NO_SLOT);
    uint32_t n = blocks_give_back(&sched->blocks, seq->slot);
    sched->releasing_blocks -= n;
    PATH_ADD(sched, seq, releasing_blocks, -n);
    tenants_blocks_remove(&sched->tenants, seq->tenant, n);
    struct slot *slot = &sched->slots[seq->slot];
    CHECK(slot->held && slot->holder == seq->id);
    slot->held = false;
    if (slot->state == SLOT_CLOSED)
        slot_free(sched, seq->slot);
    seq->slot = SEQ_NO_SLOT;
    if (seq->state == SEQ_ENDING)
        seq_ended(sched, seq);
}

/* Where its table should end, when it begins at entry `first`: as far as it will come before it
 * gives back the next ones, in prefill or decoding. */
static uint32_t table_end_wanted(const struct sched *sched, const struct seq *seq, uint32_t first)
{
    const struct window *window = &sched->window;
    uint32_t known = blocks_for(&sched->blocks, seq_known_tokens(seq) + 1);
    uint32_t all = blocks_for(&sched->blocks, seq->prompt_tokens + seq->output_tokens_max);
    return u32_max(u32_min(known, first + window->most_blocks),
                   u32_min(all, first + window->decode_blocks));
}

void seq_slide(struct sched *sched, struct seq *seq)
{
    struct blocks *blocks = &sched->blocks;
    uint32_t behind = window_behind(&sched->window, seq->computed_tokens);
    uint32_t first = blocks->table_firsts[seq->slot];
    if (behind <= first)
        return;
    uint32_t end = blocks_table_end(blocks, seq->slot);
    uint32_t want = table_end_wanted(sched, seq, behind), n_back = behind - first;
    uint32_t n_take = u32_min(n_back, want > end ? want - end : 0);
    uint32_t before = blocks_takeable(blocks);
    uint32_t kept = tenants_kept_blocks(&sched->tenants, seq->tenant);
    blocks_slide(blocks, seq->slot, n_back);
    /* Those that others still read did not come free: for them it takes what anybody may take. */
    uint32_t may = blocks_takeable(blocks) - u32_min(before, kept);
    n_take = u32_min(n_take, may);
    blocks_take(blocks, seq->slot, seq->id, n_take, NULL);
    tenants_blocks_remove(&sched->tenants, seq->tenant, n_back - n_take);
}

/* The names wait beside the blocks, which have none in the cache yet: so they outlive the owner's
 * memory, and what a request of one step computed is listed when that step retires. */
void seq_name_blocks(struct sched *sched, struct seq *seq)
{
    uint32_t block_tokens = sched->limits.block_tokens;
    uint32_t n_names = seq->lists_in_group ? seq->prompt_tokens / block_tokens : seq->n_digests;
    if (seq->named_blocks >= n_names)
        return;
    uint32_t end = u32_min(seq->planned_tokens / block_tokens, n_names);
    const uint32_t *table = blocks_table(&sched->blocks, seq->slot);
    for (; seq->named_blocks < end; seq->named_blocks++) {
        uint32_t i = seq->named_blocks;
        struct sched_digest name =
            seq->lists_in_group ? group_name(&sched->groups[seq->group], i) : seq->digests[i];
        prefix_name(&sched->blocks.prefix, table[i], &name);
    }
}

/* Also of one that was preempted or is over: the step that computed them ran. */
void seq_list_blocks(struct sched *sched, struct seq *seq)
{
    if (seq->listed_blocks >= seq->named_blocks)
        return;
    uint32_t full = seq->computed_tokens / sched->limits.block_tokens;
    uint32_t end = u32_min(full, seq->named_blocks);
    uint32_t quota = sched->tenants.rows[seq->tenant].cached_blocks;
    uint64_t domain = seq->cache_readonly ? 0 : seq->cache_domain; /* 0: none */
    if (seq->lists_in_group) {
        domain = sched->groups[seq->group].domain;
        quota = UINT32_MAX;
    }
    const uint32_t *table = blocks_table(&sched->blocks, seq->slot);
    for (; seq->listed_blocks < end; seq->listed_blocks++)
        prefix_list(&sched->blocks.prefix, table[seq->listed_blocks], domain, quota);
}
