/*
 * The next step, as sched.h describes it. In order: a token for each that decodes (preempting when
 * blocks run out), a chunk for each in prefill, the closes that are owed, admission. A step that
 * preempted admits nobody; nor does one that left somebody without a block, since none is free.
 */
#include "sched/books.h"

struct draft {
    uint32_t tokens_left;      /* of step_tokens_max */
    uint32_t open_tokens_left; /* of open_tokens_max */
    uint32_t promised_blocks;  /* on their way back, for sequences that sit out this step */
    bool preempted;
};

static bool row_given(const struct sched *sched, const struct seq *seq)
{
    return seq->row_step == sched->next_step;
}

static uint32_t blocks_append(struct sched *sched, struct seq *seq, uint32_t n)
{
    uint32_t first = sched->plan.n_blocks;
    blocks_take(&sched->blocks, seq->slot, seq->id, n, sched->plan_blocks + first);
    sched->plan.n_blocks += n;
    return first;
}

/* What the row computes for the first time is charged; what it computes again is counted. */
static void tokens_account(struct sched *sched, struct seq *seq, uint32_t first, uint32_t end)
{
    uint32_t high = seq->planned_high_tokens;
    if (first < high) {
        uint32_t again = u32_min(end, high) - first;
        seq->recomputed_tokens += again;
        sched->recomputed_tokens_total += again;
    }
    if (end <= high)
        return;
    seq->planned_high_tokens = end;
    uint32_t from = u32_max(first, high), to = u32_min(end, seq->prompt_tokens);
    if (from < to)
        sched->policy->charge(sched->policy_state, seq, to - from, 0);
}

static void row_add(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t n_tokens)
{
    uint32_t first = seq->planned_tokens, end = first + n_tokens;
    uint32_t have = sched->blocks.table_counts[seq->slot];
    uint32_t need = blocks_for(&sched->blocks, end);
    uint32_t n_blocks = need > have ? need - have : 0;
    CHECK(n_tokens > 0 && n_tokens <= draft->tokens_left);
    CHECK(!row_given(sched, seq) && sched->plan.n_rows < sched->limits.slots_max);

    struct sched_row *row = &sched->rows[sched->plan.n_rows];
    *row = (struct sched_row){.id = seq->id,
                              .slot = seq->slot,
                              .first_position = first,
                              .n_tokens = n_tokens,
                              .from_last = first >= seq_known_tokens(seq),
                              .samples = end >= seq_known_tokens(seq),
                              .n_blocks = n_blocks,
                              .blocks_first = blocks_append(sched, seq, n_blocks)};
    if (row->samples) {
        CHECK(seq->n_pending < SCHED_STEPS_MAX);
        seq->pending_steps[seq->n_pending++] = sched->next_step;
    }
    sched->flights[sched->n_flights].rows[sched->plan.n_rows++] = seq->id;
    draft->tokens_left -= n_tokens;
    tokens_account(sched, seq, first, end);
    seq->planned_tokens = end;
    seq->row_step = sched->next_step;
    seq->rows_in_flight++;
}

/* Free blocks, and those that steps in flight still hold, less what others were promised. */
static uint32_t blocks_coming(const struct sched *sched, const struct draft *draft)
{
    return sched->blocks.free_count + sched->releasing_blocks - draft->promised_blocks;
}

/* Preempts one of sched->candidates [n]; NULL when the policy finds nobody. */
static struct seq *victim_preempt(struct sched *sched, struct draft *draft, uint32_t n,
                                  struct seq *needy)
{
    struct seq *victim = sched->policy->victim(sched->policy_state, sched->candidates, n, needy);
    if (!victim)
        return NULL;
    CHECK(victim->state == SEQ_RUNNING && !row_given(sched, victim));
    seq_return(sched, victim);
    victim->preempted_count++;
    sched->preempted_total++;
    draft->preempted = true;
    return victim;
}

static uint32_t candidates_without_row(struct sched *sched)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sched->n_running; i++)
        if (!row_given(sched, sched->running[i]))
            sched->candidates[n++] = sched->running[i];
    return n;
}

/*
 * True when the next token of `seq` has a place. Otherwise it sits out: a block is coming back and
 * is promised to it, or it was preempted itself, or the policy would not preempt for it. One that
 * comes later may still take a free block, as long as the promises can be kept.
 */
static bool decode_place(struct sched *sched, struct draft *draft, struct seq *seq)
{
    if (blocks_for(&sched->blocks, seq->planned_tokens + 1) <=
        sched->blocks.table_counts[seq->slot])
        return true;
    while (blocks_coming(sched, draft) == 0) {
        uint32_t n = candidates_without_row(sched);
        struct seq *victim = victim_preempt(sched, draft, n, seq);
        if (!victim || victim == seq)
            return false;
    }
    if (sched->blocks.free_count > 0)
        return true;
    draft->promised_blocks++;
    return false;
}

/* Preemption changes `running`, so whose turn it is gets written down first. */
static void plan_decodes(struct sched *sched, struct draft *draft)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sched->n_running; i++)
        if (seq_ready_tokens(sched->running[i]) == 1)
            sched->scratch[n++] = sched->running[i];
    for (uint32_t i = 0; i < n; i++) {
        struct seq *seq = sched->scratch[i];
        if (seq->state == SEQ_RUNNING && decode_place(sched, draft, seq))
            row_add(sched, draft, seq, 1);
    }
}

static uint32_t chunk_tokens(const struct sched *sched, const struct draft *draft,
                             const struct seq *seq)
{
    return u32_min(u32_min(seq_ready_tokens(seq), sched->limits.chunk_tokens_max),
                   draft->tokens_left);
}

/* Chunks need no blocks: admission took those of all known tokens. */
static void plan_chunks(struct sched *sched, struct draft *draft)
{
    for (uint32_t i = 0; i < sched->n_running && draft->tokens_left > 0; i++) {
        struct seq *seq = sched->running[i];
        if (seq_ready_tokens(seq) > 1)
            row_add(sched, draft, seq, chunk_tokens(sched, draft, seq));
    }
}

static void plan_closes(struct sched *sched)
{
    for (uint32_t i = 0; i < sched->n_owed; i++) {
        sched->plan_closes[sched->plan.n_closes++] = sched->owed[i];
        slot_closed(sched, sched->owed[i]);
    }
    sched->n_owed = 0;
}

/* Running ones that may be preempted for a waiting one, and the blocks they hold. */
static uint32_t candidates_paused(struct sched *sched, bool idle, uint32_t *ret_blocks)
{
    uint32_t n = 0, n_blocks = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        struct seq *seq = sched->running[i];
        if (!seq->paused || row_given(sched, seq))
            continue;
        if (!idle && sched->now_ns - seq->paused_since_ns < SCHED_PAUSE_NS)
            continue;
        sched->candidates[n++] = seq;
        n_blocks += sched->blocks.table_counts[seq->slot];
    }
    *ret_blocks = n_blocks;
    return n;
}

/*
 * The head of the line does not fit. Readers that are slow must not keep everybody else out: if
 * preempting them makes enough room, they go, and the head fits once their blocks are back.
 */
static void room_make(struct sched *sched, struct draft *draft, struct seq *head, uint32_t n_blocks)
{
    bool idle = sched->plan.n_rows == 0 && sched->n_flights == 0;
    uint32_t held;
    uint32_t n = candidates_paused(sched, idle, &held);
    if (n == 0 || blocks_coming(sched, draft) + held < n_blocks)
        return;
    while (sched->n_running == sched->limits.slots_max || blocks_coming(sched, draft) < n_blocks) {
        if (!victim_preempt(sched, draft, n, head))
            return;
        n = candidates_paused(sched, idle, &held);
    }
}

static void admit(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t n_blocks)
{
    DCHECK(draft->promised_blocks == 0);
    seq_run(sched, seq);
    sched->opens[sched->plan.n_opens++] =
        (struct sched_open_row){.id = seq->id,
                                .slot = seq->slot,
                                .known_tokens = seq_known_tokens(seq),
                                .n_blocks = n_blocks,
                                .blocks_first = blocks_append(sched, seq, n_blocks)};
    draft->open_tokens_left -= seq_known_tokens(seq);
    row_add(sched, draft, seq, chunk_tokens(sched, draft, seq));
}

static void plan_admissions(struct sched *sched, struct draft *draft)
{
    while (draft->tokens_left > 0) {
        struct seq *head = sched->policy->head(sched->policy_state, sched->now_ns);
        if (!head)
            return;
        if (head->paused) {
            seq_aside(sched, head);
            continue;
        }
        uint32_t known = seq_known_tokens(head);
        /* A slot that it still holds: preempted, and a step in flight names it. With two steps in
         * flight that step has retired by now, so this guards only a longer pipeline. */
        if (head->slot != SEQ_NO_SLOT || known > draft->open_tokens_left)
            return;
        uint32_t n_blocks = blocks_for(&sched->blocks, known + 1);
        if (sched->n_free_slots == 0 || sched->blocks.free_count < n_blocks) {
            room_make(sched, draft, head, n_blocks);
            return;
        }
        admit(sched, draft, head, n_blocks);
    }
}

static void plan_commit(struct sched *sched)
{
    struct sched_plan *plan = &sched->plan;
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
                                      .blocks = sched->plan_blocks};
    if (sched->n_flights == SCHED_STEPS_MAX)
        return &sched->plan;
    struct draft draft = {.tokens_left = sched->limits.step_tokens_max,
                          .open_tokens_left = sched->limits.open_tokens_max};
    plan_decodes(sched, &draft);
    plan_chunks(sched, &draft);
    plan_closes(sched);
    if (!draft.preempted)
        plan_admissions(sched, &draft);
    plan_closes(sched); /* of those that made room */
    plan_commit(sched);
    return &sched->plan;
}
