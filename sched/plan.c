/*
 * The next step, as sched.h describes it. In order: whom the policy takes from the running ones for
 * those who wait, a token for each that decodes (preempting when blocks run out), the closes that
 * are owed, then chunks and admissions as the policy names them. A step that preempted for blocks
 * admits nobody; nor does one that left somebody without a block, since none is free.
 */
#include "sched/books.h"

/* Takes n blocks, and tells the worker of them and of those that the sequence took between steps
 * (seq_slide). Returns where they begin in the plan's blocks. */
static uint32_t blocks_append(struct sched *sched, struct seq *seq, uint32_t n)
{
    uint32_t first = sched->plan.n_blocks;
    blocks_take(&sched->blocks, seq->slot, seq->id, n, NULL);
    if (n > 0)
        tenants_blocks_add(&sched->tenants, seq->tenant, n);
    const uint32_t *table = blocks_table(&sched->blocks, seq->slot);
    uint32_t end = blocks_table_end(&sched->blocks, seq->slot);
    while (seq->told_blocks < end)
        sched->plan_blocks[sched->plan.n_blocks++] = table[seq->told_blocks++];
    return first;
}

/* ---- rows ---- */

/* What the row computes for the first time is charged; what it computes again is counted. */
static void tokens_account(struct sched *sched, struct seq *seq, uint32_t first, uint32_t end)
{
    uint32_t high = seq->planned_high_tokens;
    struct tenants *tenants = &sched->tenants;
    sched->processed_tokens_total += end - first;
    if (first < high) {
        uint32_t again = u32_min(end, high) - first;
        seq->recomputed_tokens += again;
        sched->recomputed_tokens_total += again;
        for (struct tenant *t = &tenants->rows[seq->tenant]; t; t = tenant_above(tenants, t))
            t->recomputed_tokens_total += again;
    }
    if (end <= high)
        return;
    seq->planned_high_tokens = end;
    uint32_t from = u32_max(first, high), to = u32_min(end, seq->prompt_tokens);
    if (from >= to)
        return;
    sched->prompt_tokens_total += to - from;
    for (struct tenant *t = &tenants->rows[seq->tenant]; t; t = tenant_above(tenants, t))
        t->prefill_tokens_total += to - from;
    sched->policy->charge(sched->policy_state, seq, to - from, 0);
}

static struct sched_row *row_new(struct sched *sched, struct seq *seq, uint32_t n_tokens)
{
    uint32_t have = blocks_table_end(&sched->blocks, seq->slot);
    uint32_t need = blocks_for(&sched->blocks, seq->planned_tokens + n_tokens);
    uint32_t blocks_first = blocks_append(sched, seq, need > have ? need - have : 0);
    CHECK(sched->plan.n_rows < sched->limits.slots_max);
    struct sched_row *row = &sched->rows[sched->plan.n_rows];
    *row = (struct sched_row){.id = seq->id,
                              .slot = seq->slot,
                              .first_position = seq->planned_tokens,
                              .from_last = seq->planned_tokens >= seq_known_tokens(seq),
                              .n_blocks = sched->plan.n_blocks - blocks_first,
                              .blocks_first = blocks_first};
    sched->flights[sched->n_flights].rows[sched->plan.n_rows] = seq->id;
    seq->row_step = sched->next_step;
    seq->row_at = sched->plan.n_rows++;
    seq->rows_in_flight++;
    return row;
}

void row_grant(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t n_tokens)
{
    uint32_t end = seq->planned_tokens + n_tokens;
    CHECK(n_tokens > 0 && n_tokens <= draft->tokens_left);
    struct sched_row *row =
        row_given(sched, seq) ? &sched->rows[seq->row_at] : row_new(sched, seq, n_tokens);
    CHECK(!row->samples && row->first_position + row->n_tokens == seq->planned_tokens);
    row->n_tokens += n_tokens;
    row->samples = end >= seq_known_tokens(seq);
    if (row->samples) {
        CHECK(seq->n_pending < SCHED_STEPS_MAX);
        seq->pending_steps[seq->n_pending++] = sched->next_step;
    }
    sched->flights[sched->n_flights].ends[seq->row_at] = end;
    draft->tokens_left -= n_tokens;
    tokens_account(sched, seq, seq->planned_tokens, end);
    seq->planned_tokens = end;
    seq_name_blocks(sched, seq);
    seq_prefilling_update(sched, seq);
}

/* Positions that its blocks still hold. */
static uint32_t seq_place_tokens(const struct sched *sched, const struct seq *seq)
{
    uint32_t end = blocks_table_end(&sched->blocks, seq->slot);
    return end * sched->limits.block_tokens - seq->planned_tokens;
}

/* A last known token does not wait for another step if this one has room for it. Behind a window a
 * long prompt has no blocks yet for all its tokens: the others come as steps retire. */
uint32_t chunk_grant(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t n_max)
{
    uint32_t given = row_given(sched, seq) ? sched->rows[seq->row_at].n_tokens : 0;
    uint32_t ready = seq_known_tokens(seq) - seq->planned_tokens;
    uint32_t room = u32_min(draft->tokens_left, sched->limits.chunk_tokens_max - given);
    room = u32_min(room, seq_place_tokens(sched, seq));
    uint32_t n = u32_min(u32_min(ready, n_max), room);
    if (n + 1 == ready && n < room)
        n++;
    if (n > 0)
        row_grant(sched, draft, seq, n);
    return n;
}

/* ---- preemption ---- */

uint32_t blocks_coming(const struct sched *sched, const struct draft *draft, uint32_t tenant)
{
    uint32_t in = blocks_takeable(&sched->blocks) + sched->releasing_blocks;
    uint32_t out = draft->promised_blocks + tenants_kept_blocks(&sched->tenants, tenant);
    return in > out ? in - out : 0;
}

static void seq_preempt(struct sched *sched, struct seq *victim)
{
    CHECK(victim->state == SEQ_RUNNING && !row_given(sched, victim));
    seq_return(sched, victim);
    victim->preempted_count++;
    sched->preempted_total++;
    struct tenants *tenants = &sched->tenants;
    for (struct tenant *t = &tenants->rows[victim->tenant]; t; t = tenant_above(tenants, t))
        t->preempted_total++;
}

struct seq *victim_preempt(struct sched *sched, struct draft *draft, uint32_t n, struct seq *needy)
{
    struct seq *victim = sched->policy->victim(sched->policy_state, sched->candidates, n, needy);
    if (!victim)
        return NULL;
    seq_preempt(sched, victim);
    draft->preempted = true;
    return victim;
}

/* Those without a row, of `row` and below it; NULL: of all. */
static uint32_t candidates_without_row(struct sched *sched, const struct tenant *row)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        struct seq *seq = sched->running[i];
        if (!row_given(sched, seq) && (!row || tenants_is_below(&sched->tenants, seq->tenant, row)))
            sched->candidates[n++] = seq;
    }
    return n;
}

static void plan_reclaim(struct sched *sched)
{
    if (!sched->policy->reclaim || sched->n_waiting == 0)
        return;
    struct seq *victim;
    while ((victim = sched->policy->reclaim(sched->policy_state)))
        seq_preempt(sched, victim);
}

/* ---- decoding ones ---- */

static bool needs_block(const struct sched *sched, const struct seq *seq)
{
    return seq_place_tokens(sched, seq) == 0;
}

/* Its window fills what it holds: it gets a place when a step of its own has retired. */
static bool slides_soon(const struct sched *sched, const struct seq *seq)
{
    bool soon = sched->blocks.table_counts[seq->slot] >= sched->window.decode_blocks;
    DCHECK(!soon || seq->rows_in_flight > 0);
    return soon;
}

/* In prefill without a place, and with no step in flight that could give it one. */
static bool is_stuck(const struct sched *sched, const struct seq *seq)
{
    return seq->prefilling && seq->rows_in_flight == 0 && needs_block(sched, seq);
}

/* A tenant at its limit makes room among its own. False: `seq` sits out. */
static bool limit_place(struct sched *sched, struct draft *draft, struct seq *seq)
{
    struct tenant *full;
    while ((full = tenants_full_row(&sched->tenants, seq->tenant, 1))) {
        if (full->releasing_blocks > 0)
            return false;
        uint32_t n = candidates_without_row(sched, full);
        struct seq *victim = victim_preempt(sched, draft, n, seq);
        if (!victim || victim == seq)
            return false;
    }
    return true;
}

/*
 * True when the next token of `seq` has a place. Otherwise it sits out: a block is coming back and
 * is promised to it, or it was preempted itself, or the policy would not preempt for it. One that
 * comes later may still take a free block, as long as the promises can be kept.
 */
static bool decode_place(struct sched *sched, struct draft *draft, struct seq *seq)
{
    if (!needs_block(sched, seq))
        return true;
    if (slides_soon(sched, seq) || !limit_place(sched, draft, seq))
        return false;
    while (blocks_coming(sched, draft, seq->tenant) == 0) {
        uint32_t n = candidates_without_row(sched, NULL);
        struct seq *victim = victim_preempt(sched, draft, n, seq);
        if (!victim || victim == seq)
            return false;
    }
    if (blocks_takeable(&sched->blocks) > tenants_kept_blocks(&sched->tenants, seq->tenant))
        return true;
    draft->promised_blocks++;
    return false;
}

/* Preemption changes `running`, so whose turn it is gets written down first. */
static void plan_decodes(struct sched *sched, struct draft *draft)
{
    uint32_t n = 0, n_blocks = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        struct seq *seq = sched->running[i];
        if (seq_ready_tokens(seq) != 1 && !is_stuck(sched, seq))
            continue;
        sched->scratch[n++] = seq;
        n_blocks += needs_block(sched, seq);
    }
    if (sched->policy->order &&
        n_blocks + sched->tenants.unused_blocks > blocks_takeable(&sched->blocks))
        sched->policy->order(sched->policy_state, sched->scratch, n);
    for (uint32_t i = 0; i < n; i++) {
        struct seq *seq = sched->scratch[i];
        if (seq->state == SEQ_RUNNING && decode_place(sched, draft, seq))
            row_grant(sched, draft, seq, 1);
    }
}

/* ---- closes, chunks and admissions ---- */

static void plan_closes(struct sched *sched)
{
    for (uint32_t i = 0; i < sched->n_owed; i++) {
        sched->plan_closes[sched->plan.n_closes++] = sched->owed[i];
        slot_closed(sched, sched->owed[i]);
    }
    sched->n_owed = 0;
}

static void plan_grants(struct sched *sched, struct draft *draft)
{
    const struct sched_policy *policy = sched->policy;
    void *state = sched->policy_state;
    policy->begin(state);
    while (draft->tokens_left > 0) {
        uint32_t n_max;
        struct seq *seq = policy->next(state, &n_max);
        if (!seq)
            break;
        uint32_t before = draft->tokens_left;
        enum refusal why;
        if (seq->state == SEQ_RUNNING) {
            CHECK(seq->prefilling);
            chunk_grant(sched, draft, seq, n_max);
            policy->granted(state, seq, before - draft->tokens_left);
        } else if (seq->paused) {
            seq_aside(sched, seq);
        } else if (group_holds(sched, seq)) {
            seq_hold(sched, seq);
        } else if (seq_admit(sched, draft, seq, n_max, &why)) {
            policy->granted(state, seq, before - draft->tokens_left);
        } else {
            policy->refused(state, seq, why);
        }
    }
    if (policy->end)
        policy->end(state);
}

static void plan_commit(struct sched *sched)
{
    struct sched_plan *plan = &sched->plan;
    for (uint32_t i = 0; i < plan->n_copies; i++)
        blocks_let_go(&sched->blocks, plan->copies[i][0]);
    if (plan->n_closes + plan->n_opens + plan->n_rows == 0)
        return;
    plan->step = sched->next_step++;
    struct flight *flight = &sched->flights[sched->n_flights++];
    flight->step = plan->step;
    flight->n_rows = plan->n_rows;
}

const struct sched_plan *sched_plan(struct sched *sched, uint64_t now_ns)
{
    books_tick(sched, now_ns);
    sched->plan = (struct sched_plan){.closes = sched->plan_closes,
                                      .opens = sched->opens,
                                      .rows = sched->rows,
                                      .blocks = sched->plan_blocks,
                                      .copies = (const uint32_t(*)[2])sched->copies};
    if (sched->n_flights == SCHED_STEPS_MAX)
        return &sched->plan;
    struct draft draft = {.tokens_left = sched->step_tokens,
                          .open_tokens_left = sched->limits.open_tokens_max};
    plan_reclaim(sched);
    plan_decodes(sched, &draft);
    plan_closes(sched);
    plan_grants(sched, &draft);
    plan_closes(sched); /* of those that made room */
    plan_commit(sched);
    return &sched->plan;
}
