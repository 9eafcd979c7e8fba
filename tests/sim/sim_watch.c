#include "tests/sim/sim_watch.h"

struct request *request_by_id(sched_id id)
{
    MUST(id < sim.limits.requests_max);
    struct request *r = &sim.requests[sim.request_of[id]];
    MUST(r->live && r->id == id);
    return r;
}

/* What sched_submit must say, from the limits and from what the clients know. */
enum status submit_expected(const struct request *r)
{
    uint32_t waiting_new = 0;
    for (uint32_t i = 0; i < sim.n_requests; i++) {
        const struct request *other = &sim.requests[i];
        waiting_new += other->live && other->cause == CAUSE_NONE && !other->opened;
    }
    uint32_t n = r->n_choices;
    if (!request_fits(r))
        return STATUS_INVALID;
    if (r->deadline_ns <= sim.now_ns)
        return STATUS_DEADLINE;
    if (n > sim.limits.waiting_max)
        return STATUS_INVALID;
    if (waiting_new + n > sim.limits.waiting_max || sim.n_live + n > sim.limits.requests_max)
        return STATUS_EXHAUSTED;
    return STATUS_OK;
}

void choices_live(const struct request *first, const sched_id *ids)
{
    struct sched_stats s;
    sched_stats(sim.sched, &s);
    sim.costs[first->first] =
        (struct choices_cost){.evicted_before = s.evicted_blocks_total, .undisturbed = true};
    for (uint32_t i = 0; i < first->n_choices; i++) {
        struct request *r = &sim.requests[first->first + i];
        r->id = ids[i];
        r->tenant = first->tenant;
        r->deadline_ns = first->deadline_ns;
        r->live = true;
        sim.n_live++;
        sim.request_of[r->id] = first->first + i;
    }
}

/* One choice at a time computes more of the prompt than its last token, unless it may not go on. */
static void prompt_note(struct request *r, uint32_t cached_tokens)
{
    r->prompting = cached_tokens + 1 < r->prompt_tokens;
    /* Where blocks are scarce, the last one is computed again rather than copied. */
    bool is_short = r->prompting && cached_tokens + sim.limits.block_tokens >= r->prompt_tokens;
    struct choices_cost *cost = &sim.costs[r->first];
    if (cost->n_opened++ > 0 && r->n_choices > 1) {
        cost->undisturbed &= !is_short;
        totals.tails_again += is_short;
        totals.tails_copied += cached_tokens % sim.limits.block_tokens != 0;
    }
    for (uint32_t i = 0; r->prompting && !is_short && i < r->n_choices; i++) {
        const struct request *other = &sim.requests[r->first + i];
        struct fake_slot slot;
        /* Behind a window the prompt's blocks may be gone before the next one asks for them. */
        if (sim.limits.window_tokens && other->planned_tokens >= other->prompt_tokens)
            continue;
        MUST(other == r || !other->prompting || !other->live || other->cause != CAUSE_NONE ||
             other->paused || !fake_worker_slot(sim.worker, other->id, &slot));
    }
}

/* First come first served: among those that were never paused, nobody opens before an earlier. */
void open_note(const struct sched_open_row *open)
{
    struct request *r = request_by_id(open->id);
    uint32_t number = (uint32_t)(r - sim.requests) + 1;
    MUST(r->cause == CAUSE_NONE && !r->paused);
    SAY("  open %u in slot %u: %u known, %u computed\n", number - 1, open->slot, open->known_tokens,
        open->cached_tokens);
    prompt_note(r, open->cached_tokens);
    if (!sim.twin && !r->opened && !r->was_paused && r->n_choices == 1) {
        MUST(number > sim.opened_last);
        sim.opened_last = number;
    }
    r->opened = true;
    r->opens_count++;
    r->planned_tokens = open->cached_tokens;
    totals.behind += open->behind_blocks > 0;
    if (open->cached_tokens > r->high_tokens) {
        r->cached_tokens += open->cached_tokens - r->high_tokens;
        totals.cached += open->cached_tokens - r->high_tokens;
        r->high_tokens = open->cached_tokens;
    }
}

void row_note(const struct sched_row *row)
{
    struct request *r = request_by_id(row->id);
    uint32_t end = row->first_position + row->n_tokens;
    MUST(r->cause == CAUSE_NONE && !r->paused);
    r->n_pending += row->samples;
    MUST(r->n_tokens - r->prompt_tokens + r->n_pending <= r->output_tokens_max);
    if (row->first_position < r->high_tokens)
        r->recomputed_tokens += u32_min(end, r->high_tokens) - row->first_position;
    r->high_tokens = u32_max(r->high_tokens, end);
    r->planned_tokens = end;
}

/*
 * Nobody is left out: a running sequence that could take a token and has a place for it gets one in
 * every step, and one in prefill unless the budget is spent. (n_pending as before the step.)
 */
void rows_complete(const struct sched_plan *plan)
{
    uint32_t tokens_left = sim.limits.step_tokens_max;
    for (uint32_t i = 0; i < plan->n_rows; i++)
        tokens_left -= plan->rows[i].n_tokens;
    for (uint32_t i = 0; i < sim.n_requests; i++) {
        const struct request *r = &sim.requests[i];
        struct fake_slot slot;
        uint32_t n_output = r->n_tokens - r->prompt_tokens;
        if (!r->live || r->cause != CAUSE_NONE || r->paused ||
            !fake_worker_slot(sim.worker, r->id, &slot) || slot.row_in == plan->step ||
            n_output + r->n_pending == r->output_tokens_max)
            continue;
        bool decodes = r->planned_tokens + 1 >= r->n_tokens;
        bool has_place = r->planned_tokens < slot.room_tokens;
        MUST(has_place ? !decodes && tokens_left == 0 : decodes || sim.limits.window_tokens);
    }
}

#define SAME(a, b, field, n) MUST(memcmp((a)->field, (b)->field, (n) * sizeof *(a)->field) == 0)

void plans_same(const struct sched_plan *a, const struct sched_plan *b)
{
    MUST(a->step == b->step && a->n_closes == b->n_closes && a->n_opens == b->n_opens);
    MUST(a->n_rows == b->n_rows && a->n_blocks == b->n_blocks && a->n_copies == b->n_copies);
    SAME(a, b, closes, a->n_closes);
    SAME(a, b, opens, a->n_opens);
    SAME(a, b, rows, a->n_rows);
    SAME(a, b, blocks, a->n_blocks);
    SAME(a, b, copies, a->n_copies);
}

/* A new table may find a tenant over its limit; no step takes it there, or further. */
void limits_hold(const struct sched_tenant_stats *before)
{
    for (uint32_t i = 0; i < sim.n_rows; i++) {
        struct sched_tenant_stats after;
        MUST(sched_tenant_stats(sim.sched, i, &after));
        MUST(after.blocks <= before[i].blocks || after.blocks <= after.blocks_limit);
    }
}

/* Undisturbed choices, none of whose blocks was evicted, computed the prompt once, and its last
 * token each. */
void choices_over(const struct request *r, const struct sched_ended *e)
{
    struct choices_cost *cost = &sim.costs[r->first];
    struct sched_stats s;
    cost->n_over++;
    cost->prompt_tokens += e->prompt_computed_tokens;
    cost->undisturbed &= r->cause == CAUSE_TOKENS && e->preempted_count == 0 &&
                         r->replays_count == 0 && !r->was_paused;
    sched_stats(sim.sched, &s);
    if (r->n_choices == 1 || cost->n_over < r->n_choices)
        return;
    totals.choices++;
    if (!cost->undisturbed || s.evicted_blocks_total != cost->evicted_before)
        return;
    MUST(cost->prompt_tokens <= r->prompt_tokens + r->n_choices - 1);
    totals.choices_once++;
}
