#include "sched/sched.h"

#include "sched/books.h"

/* Beyond these nobody serves from one machine, and sums of them fit their types. */
#define REQUESTS_LIMIT (1u << 24)
#define SLOTS_LIMIT (1u << 20)
#define BLOCKS_LIMIT (1u << 28)
#define TOKENS_LIMIT (1u << 28)
#define TENANTS_LIMIT (1u << 20)

#define RETRY_MIN_NS 100000000ull
#define RETRY_MAX_NS 30000000000ull
#define RETRY_UNKNOWN_NS 1000000000ull /* nobody has ended yet */

#define CARVE_ALIGN 16

/* Pieces of one allocation; without memory they are only counted. */
struct carve {
    char *memory;
    size_t used_bytes;
};

static void *carve_take(struct carve *carve, size_t size_bytes)
{
    size_t offset = carve->used_bytes;
    carve->used_bytes += round_up(size_bytes, CARVE_ALIGN);
    return carve->memory ? carve->memory + offset : NULL;
}

struct pieces {
    struct sched *sched;
    void *policy, *blocks, *deadlines, *tenants;
    sched_id *flight_rows[SCHED_STEPS_MAX];
    uint32_t *flight_ends[SCHED_STEPS_MAX];
};

static size_t table_max(const struct sched_limits *limits)
{
    return div_up_u32(limits->context_tokens, limits->block_tokens);
}

/* Each block is taken at most once in a step; besides, each open may name blocks that others read,
 * as many as the known tokens of all opens fill. */
static size_t plan_blocks_max(const struct sched_limits *limits)
{
    return (size_t)limits->blocks_count + limits->open_tokens_max / limits->block_tokens;
}

/* The whole memory of a scheduler, in one place: footprint and open cannot disagree. */
static struct pieces pieces_carve(struct carve *carve, const struct sched_limits *limits,
                                  const struct sched_policy *policy)
{
    const size_t requests = limits->requests_max, slots = limits->slots_max;
    struct pieces pieces = {.sched = carve_take(carve, sizeof(struct sched))};
    struct sched counted, *sched = pieces.sched ? pieces.sched : &counted;
    sched->seqs = carve_take(carve, requests * sizeof *sched->seqs);
    sched->free_ids = carve_take(carve, requests * sizeof *sched->free_ids);
    sched->ended = carve_take(carve, requests * sizeof *sched->ended);
    sched->running = carve_take(carve, slots * sizeof *sched->running);
    sched->slots = carve_take(carve, slots * sizeof *sched->slots);
    sched->free_slots = carve_take(carve, slots * sizeof *sched->free_slots);
    sched->owed = carve_take(carve, slots * sizeof *sched->owed);
    sched->groups = carve_take(carve, requests * sizeof *sched->groups);
    sched->plan_closes = carve_take(carve, slots * sizeof *sched->plan_closes);
    sched->opens = carve_take(carve, slots * sizeof *sched->opens);
    sched->rows = carve_take(carve, slots * sizeof *sched->rows);
    sched->plan_blocks = carve_take(carve, plan_blocks_max(limits) * sizeof *sched->plan_blocks);
    sched->copies = carve_take(carve, slots * sizeof *sched->copies);
    sched->matched = carve_take(carve, table_max(limits) * sizeof *sched->matched);
    sched->scratch = carve_take(carve, slots * sizeof *sched->scratch);
    sched->candidates = carve_take(carve, slots * sizeof *sched->candidates);
    sched->foreseen = carve_take(carve, slots * sizeof *sched->foreseen);
    for (uint32_t i = 0; i < SCHED_STEPS_MAX; i++) {
        pieces.flight_rows[i] = carve_take(carve, slots * sizeof(sched_id));
        pieces.flight_ends[i] = carve_take(carve, slots * sizeof(uint32_t));
    }
    pieces.policy = carve_take(carve, policy->footprint(limits));
    pieces.blocks = carve_take(carve, blocks_footprint(limits));
    pieces.deadlines = carve_take(carve, deadlines_footprint(limits->requests_max));
    pieces.tenants = carve_take(carve, tenants_footprint(limits));
    return pieces;
}

/* See window.h. */
uint32_t sched_sequence_blocks_max(const struct sched_limits *limits)
{
    uint32_t context_blocks = div_up_u32(limits->context_tokens, limits->block_tokens);
    if (limits->window_tokens == 0)
        return context_blocks;
    uint32_t chunk_tokens = u32_min(limits->chunk_tokens_max, limits->step_tokens_max);
    uint32_t span_tokens = limits->window_tokens + SCHED_STEPS_MAX * chunk_tokens - 2;
    return u32_min(context_blocks, div_up_u32(span_tokens, limits->block_tokens) + 1);
}

static enum status limit_range(const char *name, uint32_t value, uint32_t max, struct error *error)
{
    if (value >= 1 && value <= max)
        return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s is %u; it must be from 1 to %u", name, value, max);
}

static enum status limit_order(const char *name, uint32_t value, const char *least_name,
                               uint32_t least, struct error *error)
{
    if (value >= least)
        return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s is %u; it must be at least %s, which is %u", name,
                     value, least_name, least);
}

static enum status limits_check(const struct sched_limits *l, struct error *error)
{
    const struct {
        const char *name;
        uint32_t value, max;
    } ranges[] = {
        {"requests_max", l->requests_max, REQUESTS_LIMIT},
        {"waiting_max", l->waiting_max, REQUESTS_LIMIT},
        {"slots_max", l->slots_max, SLOTS_LIMIT},
        {"blocks_count", l->blocks_count, BLOCKS_LIMIT},
        {"block_tokens", l->block_tokens, TOKENS_LIMIT},
        {"context_tokens", l->context_tokens, TOKENS_LIMIT},
        {"step_tokens_max", l->step_tokens_max, TOKENS_LIMIT},
        {"step_rows_max", l->step_rows_max, TOKENS_LIMIT},
        {"chunk_tokens_max", l->chunk_tokens_max, TOKENS_LIMIT},
        {"open_tokens_max", l->open_tokens_max, TOKENS_LIMIT},
    };
    const struct {
        const char *name, *least_name;
        uint32_t value, least;
    } orders[] = {
        {"requests_max", "waiting_max", l->requests_max, l->waiting_max},
        {"requests_max", "slots_max", l->requests_max, l->slots_max},
        {"step_tokens_max", "slots_max", l->step_tokens_max, l->slots_max},
        {"step_rows_max", "slots_max", l->step_rows_max, l->slots_max},
        {"open_tokens_max", "context_tokens", l->open_tokens_max, l->context_tokens},
        {"TENANTS_LIMIT", "tenants_max", TENANTS_LIMIT, l->tenants_max},
        {"TOKENS_LIMIT", "window_tokens", TOKENS_LIMIT, l->window_tokens},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < array_count(ranges) && status == STATUS_OK; i++)
        status = limit_range(ranges[i].name, ranges[i].value, ranges[i].max, error);
    for (size_t i = 0; i < array_count(orders) && status == STATUS_OK; i++)
        status = limit_order(orders[i].name, orders[i].value, orders[i].least_name, orders[i].least,
                             error);
    return status;
}

size_t sched_footprint(const struct sched_limits *limits, const struct sched_policy *policy)
{
    if (limits_check(limits, NULL) != STATUS_OK)
        return 0;
    struct carve carve = {0};
    pieces_carve(&carve, limits, policy);
    return carve.used_bytes;
}

enum status sched_open(const struct sched_limits *limits, const struct sched_policy *policy,
                       struct sched **ret_sched, struct error *error)
{
    enum status status = limits_check(limits, error);
    if (status != STATUS_OK)
        return status;
    size_t size_bytes = sched_footprint(limits, policy);
    struct carve carve = {.memory = calloc(1, size_bytes)};
    if (!carve.memory)
        return error_set(error, STATUS_EXHAUSTED,
                         "the scheduler needs %zu bytes and there is no such memory; lower "
                         "requests_max, slots_max or blocks_count",
                         size_bytes);
    struct pieces pieces = pieces_carve(&carve, limits, policy);
    CHECK(carve.used_bytes == size_bytes);
    struct sched *sched = pieces.sched;
    sched->limits = *limits;
    sched->window = window_of(limits);
    sched->policy = policy;
    sched->policy_state = pieces.policy;
    sched->n_free_ids = limits->requests_max;
    for (uint32_t i = 0; i < limits->requests_max; i++) {
        sched->free_ids[i] = limits->requests_max - 1 - i;
        sched->seqs[i] = (struct seq){.id = i, .slot = SEQ_NO_SLOT, .group = GROUP_NONE};
    }
    for (uint32_t i = 0; i < SCHED_STEPS_MAX; i++) {
        sched->flights[i].rows = pieces.flight_rows[i];
        sched->flights[i].ends = pieces.flight_ends[i];
    }
    sched->step_tokens = limits->step_tokens_max;
    sched->free_group = GROUP_NONE;
    groups_init(sched);
    tenants_init(&sched->tenants, limits, pieces.tenants);
    blocks_init(&sched->blocks, limits, pieces.blocks);
    deadlines_init(&sched->deadlines, limits->requests_max, pieces.deadlines);
    policy->init(sched->policy_state, sched);
    sched_slots_reset(sched);
    flights_reset(sched);
    *ret_sched = sched;
    return STATUS_OK;
}

void sched_close(struct sched *sched)
{
    free(sched);
}

enum status sched_set_tenants(struct sched *sched, const struct tenant_table *table,
                              struct error *error)
{
    enum status status = tenants_check(table, &sched->limits, error);
    if (status != STATUS_OK)
        return status;
    if (table->n_rows < sched->tenants.count)
        return error_field(error, "tenants",
                           "tenants: the table has %u rows and the one before %u; a tenant that "
                           "goes is closed, not left out",
                           table->n_rows, sched->tenants.count);
    for (uint32_t i = 0; i < table->n_rows; i++) {
        uint32_t parent = table->rows[i].parent;
        if (parent == TENANT_TOP || parent >= sched->tenants.count ||
            sched->tenants.rows[parent].has_children)
            continue;
        const struct tenant *above = &sched->tenants.rows[parent];
        if (above->n_waiting + above->n_running > 0)
            return error_field(error, "parent",
                               "tenants: row %u (%s): its parent, row %u, has %u requests of its "
                               "own; it can have tenants below it when they are over",
                               i, table->rows[i].name ? table->rows[i].name : "no name", parent,
                               above->n_waiting + above->n_running);
    }
    tenants_replace(&sched->tenants, table);
    tenants_recount(sched);
    if (sched->policy->tenants_changed)
        sched->policy->tenants_changed(sched->policy_state);
    return STATUS_OK;
}

void sched_set_step_tokens(struct sched *sched, uint32_t n_tokens)
{
    n_tokens = u32_max(n_tokens, sched->limits.slots_max);
    sched->step_tokens = u32_min(n_tokens, sched->limits.step_tokens_max);
}

/* Half of the line has moved on by then, at the rate at which requests ended lately. */
static uint64_t retry_estimate_ns(const struct sched *sched)
{
    if (sched->end_interval_ns == 0)
        return RETRY_UNKNOWN_NS;
    uint64_t places = sched->n_waiting_new / 2 + 1;
    if (sched->end_interval_ns >= RETRY_MAX_NS / places)
        return RETRY_MAX_NS;
    uint64_t wait_ns = sched->end_interval_ns * places;
    return wait_ns < RETRY_MIN_NS ? RETRY_MIN_NS : wait_ns;
}

/* A mean over roughly the last eight reports of ends, weighed alike. */
static void end_rate_learn(struct sched *sched)
{
    uint64_t ends = sched->ended_total - sched->end_seen_total;
    if (ends == 0)
        return;
    uint64_t interval_ns = (sched->now_ns - sched->end_seen_ns) / ends;
    if (interval_ns == 0)
        interval_ns = 1;
    sched->end_interval_ns = sched->end_interval_ns == 0
                                 ? interval_ns
                                 : (7 * sched->end_interval_ns + interval_ns + 7) / 8;
    sched->end_seen_total = sched->ended_total;
    sched->end_seen_ns = sched->now_ns;
}

static enum status fit_check(const struct sched *sched, const struct sched_submission *submission,
                             struct error *error)
{
    const struct sched_limits *l = &sched->limits;
    uint64_t prompt = submission->prompt_tokens, output = submission->output_tokens_max;
    uint64_t pool = (uint64_t)l->blocks_count * l->block_tokens;
    if (prompt == 0)
        return error_field(error, "prompt", "the prompt has no tokens; at least 1 is needed");
    if (output == 0)
        return error_field(error, "max_tokens", "max_tokens is 0; at least 1 is needed");
    if (prompt >= l->context_tokens)
        return error_field(error, "prompt",
                           "the prompt has %u tokens; with at least 1 token of output it must fit "
                           "the context of %u tokens",
                           submission->prompt_tokens, l->context_tokens);
    if (prompt + output > l->context_tokens)
        return error_field(error, "max_tokens",
                           "the prompt has %u tokens and max_tokens is %u; together they must fit "
                           "the context of %u tokens: lower max_tokens to %u",
                           submission->prompt_tokens, submission->output_tokens_max,
                           l->context_tokens, l->context_tokens - submission->prompt_tokens);
    uint32_t n_blocks = blocks_for(&sched->blocks, (uint32_t)(prompt + output));
    if (u32_min(n_blocks, sched->window.decode_blocks) > l->blocks_count)
        return error_field(error, prompt >= pool ? "prompt" : "max_tokens",
                           "the prompt has %u tokens and max_tokens is %u; the KV pool has %u "
                           "blocks of %u tokens, so this can never run: shorten it or give the "
                           "model more KV memory",
                           submission->prompt_tokens, submission->output_tokens_max,
                           l->blocks_count, l->block_tokens);
    if (group_owns_domain(submission->cache_domain))
        return error_field(error, "cache_domain",
                           "the cache domain %llx is of those that choices have: their two "
                           "highest bits are set",
                           (unsigned long long)submission->cache_domain);
    if (submission->n_digests > submission->prompt_tokens / l->block_tokens)
        return error_field(
            error, "prompt",
            "%u block digests came with a prompt of %u tokens, which fills %u blocks",
            submission->n_digests, submission->prompt_tokens,
            submission->prompt_tokens / l->block_tokens);
    return STATUS_OK;
}

static enum status tenant_check(const struct sched *sched,
                                const struct sched_submission *submission, struct error *error)
{
    const struct tenants *tenants = &sched->tenants;
    if (submission->tenant >= tenants->count)
        return error_field(error, "tenant", "there is no tenant %u; the table has %u rows",
                           submission->tenant, tenants->count);
    const struct tenant *tenant = &tenants->rows[submission->tenant];
    if (tenant->has_children)
        return error_field(error, "tenant",
                           "tenant %u has tenants below it; a request comes from one of them",
                           submission->tenant);
    for (const struct tenant *t = tenant; t; t = tenant_above(tenants, t))
        if (t->closed)
            return error_set(error, STATUS_DENIED, "tenant %u is closed for new requests",
                             (uint32_t)(t - tenants->rows));
    if (submission->class > CLASS_DEFAULT)
        return error_field(error, "class", "there is no class %d", (int)submission->class);
    return STATUS_OK;
}

static enum status room_check(const struct sched *sched, uint32_t n, struct error *error)
{
    const struct sched_limits *l = &sched->limits;
    const char *each = n > 1 ? ", and each choice is one" : "";
    if (n > SCHED_CHOICES_MAX || n > l->waiting_max)
        return error_field(error, "n",
                           "%u choices of one prompt are more than the %u that may wait", n,
                           u32_min(SCHED_CHOICES_MAX, l->waiting_max));
    if (sched->n_waiting_new + n <= l->waiting_max && sched->n_free_ids >= n)
        return STATUS_OK;
    if (sched->n_waiting_new + n > l->waiting_max)
        error_set(error, STATUS_EXHAUSTED, "the queue is full: %u requests wait, %u may%s",
                  sched->n_waiting_new, l->waiting_max, each);
    else
        error_set(error, STATUS_EXHAUSTED,
                  "all places are taken: %u requests wait or run, %u may%s",
                  l->requests_max - sched->n_free_ids, l->requests_max, each);
    if (error)
        error->retry_ns = retry_estimate_ns(sched);
    return STATUS_EXHAUSTED;
}

static sched_id seq_new(struct sched *sched, const struct sched_submission *submission)
{
    sched_id id = sched->free_ids[--sched->n_free_ids];
    struct seq *seq = &sched->seqs[id];
    CHECK(seq->state == SEQ_FREE);
    *seq = (struct seq){.request_id = submission->request_id,
                        .deadline_ns = submission->deadline_ns,
                        .cache_domain = submission->cache_domain,
                        .cache_readonly = submission->cache_readonly,
                        .digests = submission->digests,
                        .n_digests = submission->cache_domain ? submission->n_digests : 0,
                        .tenant = submission->tenant,
                        .class = submission->class != CLASS_DEFAULT
                                     ? submission->class
                                     : sched->tenants.rows[submission->tenant].class,
                        .number = ++sched->submitted_total,
                        .prompt_tokens = submission->prompt_tokens,
                        .output_tokens_max = submission->output_tokens_max,
                        .id = id,
                        .slot = SEQ_NO_SLOT,
                        .group = GROUP_NONE,
                        .next_member = SCHED_NONE};
    deadlines_add(&sched->deadlines, id, seq->deadline_ns);
    seq_look_up(sched, seq);
    seq_wait(sched, seq, ARRIVES_NEW);
    return id;
}

enum status sched_submit(struct sched *sched, const struct sched_submission *submission,
                         uint64_t now_ns, sched_id *ret_ids, struct error *error)
{
    books_tick(sched, now_ns);
    enum status status = tenant_check(sched, submission, error);
    if (status == STATUS_OK)
        status = fit_check(sched, submission, error);
    if (status != STATUS_OK)
        return status;
    if (submission->deadline_ns <= sched->now_ns)
        return error_set(error, STATUS_DEADLINE,
                         "the deadline passed before the request was queued");
    uint32_t n = u32_max(submission->choices, 1);
    status = room_check(sched, n, error);
    if (status != STATUS_OK)
        return status;

    /* Time in which there was nothing to do says nothing about how fast requests end. */
    if (sched->n_waiting + sched->n_running == 0) {
        sched->end_seen_ns = sched->now_ns;
        sched->end_seen_total = sched->ended_total;
    }
    for (uint32_t i = 0; i < n; i++)
        ret_ids[i] = seq_new(sched, submission);
    if (n > 1)
        group_make(sched, ret_ids, n);
    return STATUS_OK;
}

/* An id that is not live is the caller's mistake, and would reach into another's request. */
static struct seq *seq_live(struct sched *sched, sched_id id)
{
    CHECK(id < sched->limits.requests_max);
    CHECK(sched->seqs[id].state != SEQ_FREE);
    return &sched->seqs[id];
}

static bool seq_over(const struct seq *seq)
{
    return seq->state != SEQ_WAITING && seq->state != SEQ_RUNNING;
}

void sched_cancel(struct sched *sched, sched_id id)
{
    struct seq *seq = seq_live(sched, id);
    if (!seq_over(seq))
        seq_end(sched, seq);
}

void sched_pause(struct sched *sched, sched_id id, bool paused)
{
    struct seq *seq = seq_live(sched, id);
    if (seq->paused == paused || seq_over(seq))
        return;
    seq->paused = paused;
    if (seq->state == SEQ_RUNNING)
        sched->n_paused += paused ? 1u : -1u;
    seq->paused_since_ns = sched->now_ns;
    seq_prefilling_update(sched, seq);
    if (paused)
        group_resign(sched, seq);
    if (!paused && seq->state == SEQ_WAITING && !seq->in_line && !seq->held)
        seq_wait(sched, seq, ARRIVES_RESUMED);
}

bool sched_sampled(struct sched *sched, uint64_t step, sched_id id, bool finished)
{
    struct seq *seq = id < sched->limits.requests_max ? &sched->seqs[id] : NULL;
    if (!seq || seq->n_pending == 0 || seq->pending_steps[0] != step) {
        sched->unexpected_total++;
        return false;
    }
    seq->n_pending--;
    memmove(seq->pending_steps, seq->pending_steps + 1,
            seq->n_pending * sizeof *seq->pending_steps);
    if (seq_over(seq)) {
        sched->dropped_total++;
        return false;
    }
    seq->sampled_tokens++;
    struct tenants *tenants = &sched->tenants;
    for (struct tenant *t = &tenants->rows[seq->tenant]; t; t = tenant_above(tenants, t))
        t->output_tokens_total++;
    sched->policy->charge(sched->policy_state, seq, 0, 1);
    if (finished || seq->sampled_tokens == seq->output_tokens_max)
        seq_end(sched, seq);
    return true;
}

static void row_retired(struct sched *sched, struct seq *seq, uint64_t step, uint32_t end)
{
    CHECK(seq->rows_in_flight > 0);
    seq->computed_tokens = end;
    seq_list_blocks(sched, seq);
    group_computed(sched, seq);
    if (seq->state == SEQ_RUNNING)
        seq_slide(sched, seq);
    if (seq->n_pending > 0 && seq->pending_steps[0] == step) {
        CHECK(seq_over(seq)); /* a live one would lose a token */
        seq->n_pending--;
        memmove(seq->pending_steps, seq->pending_steps + 1,
                seq->n_pending * sizeof *seq->pending_steps);
    }
    if (--seq->rows_in_flight == 0 && seq->state != SEQ_RUNNING)
        seq_release(sched, seq);
}

void sched_retired(struct sched *sched, uint64_t step, uint64_t now_ns)
{
    books_tick(sched, now_ns);
    CHECK(sched->n_flights > 0 && sched->flights[0].step == step);
    struct flight flight = sched->flights[0];
    for (uint32_t i = 0; i < flight.n_rows; i++)
        row_retired(sched, &sched->seqs[flight.rows[i]], step, flight.ends[i]);
    sched->n_flights--;
    memmove(sched->flights, sched->flights + 1, sched->n_flights * sizeof *sched->flights);
    sched->flights[sched->n_flights] = (struct flight){.rows = flight.rows, .ends = flight.ends};
    end_rate_learn(sched);
}

void sched_block_filled(struct sched *sched, sched_id id, uint32_t block_index,
                        const struct sched_digest *digest)
{
    struct seq *seq = seq_live(sched, id);
    uint32_t end = (block_index + 1) * sched->limits.block_tokens;
    if (seq->state != SEQ_RUNNING || seq->cache_domain == 0 || seq->cache_readonly ||
        block_index != seq->named_blocks || end > seq_known_tokens(seq) ||
        block_index < sched->blocks.table_firsts[seq->slot] ||
        block_index >= blocks_table_end(&sched->blocks, seq->slot) ||
        !group_gives_tail(sched, seq, block_index))
        return;
    uint32_t block = blocks_table(&sched->blocks, seq->slot)[block_index];
    prefix_name(&sched->blocks.prefix, block, digest);
    seq->named_blocks++;
    seq_list_blocks(sched, seq);
}

bool sched_next_ended(struct sched *sched, struct sched_ended *ret_ended)
{
    if (sched->n_ended == 0)
        return false;
    struct seq *seq = &sched->seqs[sched->ended[sched->ended_first]];
    sched->ended_first = (sched->ended_first + 1) % sched->limits.requests_max;
    sched->n_ended--;
    CHECK(seq->state == SEQ_ENDED);
    seq->state = SEQ_FREE;
    sched->free_ids[sched->n_free_ids++] = seq->id;
    *ret_ended = (struct sched_ended){.id = seq->id,
                                      .request_id = seq->request_id,
                                      .prompt_computed_tokens =
                                          u32_min(seq->planned_high_tokens, seq->prompt_tokens) -
                                          seq->cached_tokens,
                                      .cached_tokens = seq->cached_tokens,
                                      .recomputed_tokens = seq->recomputed_tokens,
                                      .preempted_count = seq->preempted_count};
    return true;
}

bool sched_next_expired(struct sched *sched, uint64_t now_ns, sched_id *ret_id)
{
    books_tick(sched, now_ns);
    const struct deadline *first = deadlines_first(&sched->deadlines);
    if (!first || first->at_ns > sched->now_ns)
        return false;
    sched_id id = first->id;
    seq_end(sched, &sched->seqs[id]);
    *ret_id = id;
    return true;
}

uint64_t sched_next_deadline_ns(const struct sched *sched)
{
    const struct deadline *first = deadlines_first(&sched->deadlines);
    return first ? first->at_ns : UINT64_MAX;
}

void sched_replay(struct sched *sched)
{
    flights_reset(sched);
    while (sched->n_running > 0)
        seq_return(sched, sched->running[sched->n_running - 1]);
    for (uint32_t slot = 0; slot < sched->limits.slots_max; slot++)
        if (sched->slots[slot].held)
            seq_release(sched, &sched->seqs[sched->slots[slot].holder]);
    CHECK(blocks_takeable(&sched->blocks) == sched->blocks.count && sched->releasing_blocks == 0);
    blocks_reset(&sched->blocks);
    sched_slots_reset(sched);
}

void sched_stats(const struct sched *sched, struct sched_stats *ret_stats)
{
    *ret_stats =
        (struct sched_stats){.waiting = sched->n_waiting,
                             .running = sched->n_running,
                             .steps_in_flight = sched->n_flights,
                             .blocks_free = sched->blocks.free_count,
                             .blocks_used = sched->blocks.count - blocks_takeable(&sched->blocks),
                             .blocks_cached = sched->blocks.prefix.n_cached,
                             .cached_tokens_total = sched->cached_tokens_total,
                             .prompt_tokens_total = sched->prompt_tokens_total,
                             .evicted_blocks_total = sched->blocks.prefix.evicted_total,
                             .blocks_count = sched->blocks.count,
                             .preempted_total = sched->preempted_total,
                             .admitted_total = sched->admitted_total,
                             .ended_total = sched->ended_total,
                             .recomputed_tokens_total = sched->recomputed_tokens_total,
                             .dropped_total = sched->dropped_total,
                             .unexpected_total = sched->unexpected_total,
                             .clock_back_total = sched->clock_back_total};
}

bool sched_tenant_stats(const struct sched *sched, uint32_t tenant,
                        struct sched_tenant_stats *ret_stats)
{
    if (tenant >= sched->tenants.count)
        return false;
    const struct tenant *t = &sched->tenants.rows[tenant];
    *ret_stats = (struct sched_tenant_stats){.waiting = t->n_waiting,
                                             .running = t->n_running,
                                             .blocks = t->blocks,
                                             .blocks_reserved = t->reserved_blocks,
                                             .blocks_limit = t->limit_blocks,
                                             .prefill_tokens_total = t->prefill_tokens_total,
                                             .output_tokens_total = t->output_tokens_total,
                                             .cached_tokens_total = t->cached_tokens_total,
                                             .recomputed_tokens_total = t->recomputed_tokens_total,
                                             .admitted_total = t->admitted_total,
                                             .preempted_total = t->preempted_total};
    return true;
}
