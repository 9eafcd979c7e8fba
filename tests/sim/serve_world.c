#include "tests/sim/serve_world.h"

#include <math.h>
#include <time.h>

#define CONTEXT_TOKENS 16384
#define BLOCK_TOKENS 16
#define REQUESTS_DEFAULT 32768
#define DRAIN_STEPS_MAX 2000000

/* A request that is live, by id. */
struct guest {
    struct serve_request request;
    uint64_t number; /* tells it from others that had its id */
    uint32_t tenant;
    uint32_t prompt_high; /* prompt positions that were computed, or found */
    uint32_t sampled;
    uint64_t first_ns, last_ns; /* of its tokens */
    bool left;
};

/* Clients of a tenant who will leave, in order of time: each stays equally long. */
struct leaver {
    uint64_t at_ns, number;
    sched_id id;
};

struct tenant_world {
    struct serve_source source;
    uint32_t leavers_first, n_leavers;
    struct leaver *leavers;         /* [requests_max] a ring; NULL when nobody leaves */
    struct sched_digest *documents; /* [documents][document_blocks] */
    uint32_t document_blocks;
    bool backlogged; /* during the step under way */
};

/* A row on its way. */
struct sent_row {
    sched_id id;
    uint32_t prompt_tokens; /* new ones */
    bool samples;
};

struct sent_step {
    uint64_t step, end_ns;
    uint32_t n_rows;
    struct sent_row *rows; /* [n_rows] of [slots] */
};

struct world {
    const struct serve_setting *setting;
    struct serve_result *result;
    struct sched *sched;
    uint64_t now_ns, executor_free_ns, numbers;
    uint32_t requests_max;
    struct guest *guests; /* [requests_max] by id */
    struct tenant_world tenants[SERVE_TENANTS_MAX];
    uint32_t weights[SERVE_TENANTS_MAX];
    double services[SERVE_TENANTS_MAX]; /* by weight */
    struct serve_gaps gaps;
    uint32_t n_flights, flights_max;
    struct sent_step flights[SCHED_STEPS_MAX]; /* [n_flights] oldest first */
    uint64_t computed_tokens, useful_tokens, found_tokens;
    bool is_closing; /* nobody sends any more */
};

/* ---- open and close ---- */

static void *must_have(size_t count, size_t size_bytes)
{
    void *memory = calloc(count, size_bytes);
    CHECK(memory);
    return memory;
}

static void documents_make(struct tenant_world *t, const struct serve_habit *habit, uint32_t tenant)
{
    t->document_blocks = habit->document_tokens / BLOCK_TOKENS;
    size_t n = (size_t)habit->documents * t->document_blocks;
    if (n == 0)
        return;
    t->documents = must_have(n, sizeof *t->documents);
    uint64_t x = tenant + 1;
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < sizeof t->documents->bytes; b += sizeof x) {
            serve_chance(&x);
            uint64_t word = x * 0xbf58476d1ce4e5b9ull;
            memcpy(t->documents[i].bytes + b, &word, sizeof word);
        }
}

static void tenants_open(struct world *world)
{
    const struct serve_setting *setting = world->setting;
    struct tenant_row rows[SERVE_TENANTS_MAX] = {0};
    for (uint32_t i = 0; i < setting->n_habits; i++) {
        const struct serve_habit *habit = &setting->habits[i];
        struct tenant_world *t = &world->tenants[i];
        world->weights[i] = u32_max(habit->weight, 1);
        rows[i] = (struct tenant_row){
            .name = habit->name, .parent = TENANT_TOP, .weight = world->weights[i]};
        serve_source_open(&t->source, habit, setting->seed * 1000003 + i * 7919, CONTEXT_TOKENS);
        if (habit->leaves_after_s > 0)
            t->leavers = must_have(world->requests_max, sizeof *t->leavers);
        documents_make(t, habit, i);
    }
    struct error error;
    struct tenant_table table = {.n_rows = setting->n_habits, .rows = rows};
    CHECK(sched_set_tenants(world->sched, &table, &error) == STATUS_OK);
}

static void world_open(struct world *world, const struct serve_setting *setting,
                       struct serve_result *result)
{
    const struct serve_preset *preset = setting->preset;
    uint32_t pool_tokens = setting->pool_tokens ? setting->pool_tokens : preset->pool_tokens;
    uint32_t requests_max = setting->requests_max ? setting->requests_max : REQUESTS_DEFAULT;
    CHECK(setting->n_habits <= SERVE_TENANTS_MAX);
    struct sched_limits limits = {.requests_max = requests_max,
                                  .waiting_max = requests_max,
                                  .slots_max = preset->slots,
                                  .blocks_count = pool_tokens / BLOCK_TOKENS,
                                  .block_tokens = BLOCK_TOKENS,
                                  .context_tokens = u32_min(CONTEXT_TOKENS, pool_tokens),
                                  .step_tokens_max = preset->step_tokens,
                                  .step_rows_max = preset->slots,
                                  .chunk_tokens_max = preset->step_tokens,
                                  .open_tokens_max = 4 * CONTEXT_TOKENS,
                                  .tenants_max = SERVE_TENANTS_MAX,
                                  .fairness = setting->fairness};
    limits.step_tokens_max = u32_max(limits.step_tokens_max, limits.slots_max);
    *result = (struct serve_result){.n_tenants = setting->n_habits};
    *world = (struct world){.setting = setting,
                            .result = result,
                            .now_ns = 1,
                            .requests_max = requests_max,
                            .guests = must_have(requests_max, sizeof *world->guests),
                            .gaps.n = setting->n_habits,
                            .flights_max = setting->flights ? setting->flights : 1};
    for (uint32_t i = 0; i < SCHED_STEPS_MAX; i++)
        world->flights[i].rows = must_have(preset->slots, sizeof *world->flights[i].rows);
    struct error error;
    if (sched_open(&limits, setting->policy, &world->sched, &error) != STATUS_OK) {
        fprintf(stderr, "serve_world: %s\n", error.text);
        abort();
    }
    tenants_open(world);
}

static void world_close(struct world *world)
{
    for (uint32_t i = 0; i < SCHED_STEPS_MAX; i++)
        free(world->flights[i].rows);
    for (uint32_t i = 0; i < SERVE_TENANTS_MAX; i++) {
        free(world->tenants[i].leavers);
        free(world->tenants[i].documents);
    }
    free(world->guests);
    sched_close(world->sched);
}

static void note(struct world *world, uint64_t what)
{
    uint64_t x = world->result->fingerprint ^ what;
    x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15ull;
    world->result->fingerprint = x ^ (x >> 29);
}

/* ---- clients ---- */

static void guest_submit(struct world *world, uint32_t tenant, const struct serve_request *r)
{
    struct tenant_world *t = &world->tenants[tenant];
    struct serve_tenant_result *seen = &world->result->tenants[tenant];
    struct sched_submission s = {.request_id = ++world->numbers,
                                 .tenant = tenant,
                                 .class = CLASS_INTERACTIVE,
                                 .deadline_ns = UINT64_MAX,
                                 .prompt_tokens = r->prompt_tokens,
                                 .output_tokens_max = r->asks_tokens};
    if (t->documents) {
        s.cache_domain = tenant + 1;
        s.digests = t->documents + (size_t)r->document * t->document_blocks;
        s.n_digests = u32_min(t->document_blocks, r->prompt_tokens / BLOCK_TOKENS);
    }
    sched_id id;
    struct error error;
    seen->sent_count++;
    if (sched_submit(world->sched, &s, r->at_ns, &id, &error) != STATUS_OK) {
        seen->refused_count++;
        return;
    }
    world->guests[id] = (struct guest){.request = *r, .number = world->numbers, .tenant = tenant};
    CHECK(t->n_leavers < world->requests_max);
    if (t->leavers)
        t->leavers[(t->leavers_first + t->n_leavers++) % world->requests_max] =
            (struct leaver){r->leaves_at_ns, world->numbers, id};
}

static void guest_leave(struct world *world, const struct leaver *leaver)
{
    struct guest *guest = &world->guests[leaver->id];
    if (guest->number != leaver->number)
        return;
    guest->left = true;
    world->result->tenants[guest->tenant].left_count++;
    sched_cancel(world->sched, leaver->id);
}

/* Who comes or leaves next, by time, up to now; ties go by the order of tenants. */
static bool client_act(struct world *world, uint64_t until_ns)
{
    uint64_t first_ns = UINT64_MAX;
    uint32_t who = 0;
    bool leaves = false;
    for (uint32_t i = 0; i < world->setting->n_habits; i++) {
        struct tenant_world *t = &world->tenants[i];
        uint64_t next_ns = world->is_closing ? UINT64_MAX : serve_source_next_ns(&t->source);
        if (next_ns < first_ns) {
            first_ns = next_ns;
            who = i;
            leaves = false;
        }
        if (t->n_leavers > 0 && t->leavers[t->leavers_first].at_ns < first_ns) {
            first_ns = t->leavers[t->leavers_first].at_ns;
            who = i;
            leaves = true;
        }
    }
    if (first_ns > until_ns)
        return false;
    struct tenant_world *t = &world->tenants[who];
    if (leaves) {
        struct leaver leaver = t->leavers[t->leavers_first];
        t->leavers_first = (t->leavers_first + 1) % world->requests_max;
        t->n_leavers--;
        guest_leave(world, &leaver);
    } else {
        struct serve_request r = serve_source_take(&t->source, first_ns);
        guest_submit(world, who, &r);
    }
    return true;
}

static uint64_t clients_next_ns(const struct world *world)
{
    uint64_t first_ns = UINT64_MAX;
    for (uint32_t i = 0; i < world->setting->n_habits; i++) {
        const struct tenant_world *t = &world->tenants[i];
        uint64_t next_ns = world->is_closing ? UINT64_MAX : serve_source_next_ns(&t->source);
        first_ns = next_ns < first_ns ? next_ns : first_ns;
        if (t->n_leavers > 0 && t->leavers[t->leavers_first].at_ns < first_ns)
            first_ns = t->leavers[t->leavers_first].at_ns;
    }
    return first_ns;
}

static void lines_fill(struct world *world)
{
    for (uint32_t i = 0; i < world->setting->n_habits && !world->is_closing; i++) {
        const struct serve_habit *habit = &world->setting->habits[i];
        struct sched_tenant_stats stats;
        if (habit->coming != COMES_FULL || !sched_tenant_stats(world->sched, i, &stats))
            continue;
        for (uint32_t n = stats.waiting; n < habit->line_count; n++) {
            struct serve_request r = serve_source_take(&world->tenants[i].source, world->now_ns);
            guest_submit(world, i, &r);
        }
    }
}

static void clients_act(struct world *world)
{
    while (client_act(world, world->now_ns))
        ;
    lines_fill(world);
}

/* ---- steps ---- */

/* Prompt positions of a row that nobody computed for it before. */
static uint32_t prompt_new(struct guest *guest, const struct sched_row *row)
{
    uint32_t end = u32_min(row->first_position + row->n_tokens, guest->request.prompt_tokens);
    uint32_t from = u32_max(row->first_position, guest->prompt_high);
    if (end <= from)
        return 0;
    guest->prompt_high = end;
    return end - from;
}

static void backlog_look(struct world *world)
{
    uint64_t running = 0;
    for (uint32_t i = 0; i < world->setting->n_habits; i++) {
        struct serve_tenant_result *seen = &world->result->tenants[i];
        struct sched_tenant_stats stats;
        CHECK(sched_tenant_stats(world->sched, i, &stats));
        running += stats.running;
        world->tenants[i].backlogged = stats.waiting > 0;
        seen->line_most = u32_max(seen->line_most, stats.waiting);
        seen->running_most = u32_max(seen->running_most, stats.running);
    }
    world->result->running_most = u64_max(world->result->running_most, running);
}

/* False when there is nothing to do. */
static bool step_begin(struct world *world)
{
    const struct sched_plan *plan = sched_plan(world->sched, world->now_ns);
    if (plan->step == 0)
        return false;
    struct sent_step *sent = &world->flights[world->n_flights++];
    sent->step = plan->step;
    sent->n_rows = plan->n_rows;
    for (uint32_t i = 0; i < plan->n_opens; i++)
        world->found_tokens += plan->opens[i].cached_tokens;
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        const struct sched_row *row = &plan->rows[i];
        sent->rows[i] = (struct sent_row){.id = row->id,
                                          .prompt_tokens = prompt_new(&world->guests[row->id], row),
                                          .samples = row->samples};
        world->computed_tokens += row->n_tokens;
    }
    uint64_t start_ns = u64_max(world->now_ns, world->executor_free_ns);
    sent->end_ns = start_ns + (uint64_t)serve_cost_step_ns(&world->setting->preset->cost, plan);
    world->executor_free_ns = sent->end_ns;
    backlog_look(world);
    return true;
}

static void token_give(struct world *world, struct guest *guest, const struct sent_row *row,
                       uint64_t step)
{
    bool last = guest->sampled + 1 >= guest->request.output_tokens;
    if (!sched_sampled(world->sched, step, row->id, last))
        return;
    struct serve_tenant_result *seen = &world->result->tenants[guest->tenant];
    guest->sampled++;
    guest->last_ns = world->now_ns;
    if (guest->first_ns == 0) {
        guest->first_ns = world->now_ns;
        serve_times_add(&seen->first, (double)(world->now_ns - guest->request.at_ns) * 1e-9);
    }
    seen->output_tokens++;
    seen->service += SERVE_OUTPUT_COST;
    world->services[guest->tenant] += SERVE_OUTPUT_COST / world->weights[guest->tenant];
    world->useful_tokens++;
    note(world, world->now_ns ^ guest->number);
}

static void guests_end(struct world *world)
{
    struct sched_ended ended;
    while (sched_next_ended(world->sched, &ended)) {
        struct guest *guest = &world->guests[ended.id];
        struct serve_tenant_result *seen = &world->result->tenants[guest->tenant];
        CHECK(guest->number == ended.request_id);
        guest->number = 0;
        seen->ended_count += !guest->left;
        if (!guest->left && guest->sampled > 1)
            serve_times_add(&seen->each, (double)(guest->last_ns - guest->first_ns) * 1e-9 /
                                             (guest->sampled - 1));
    }
}

static void step_end(struct world *world)
{
    struct sent_step sent = world->flights[0];
    double before[SERVE_TENANTS_MAX];
    bool backlogged[SERVE_TENANTS_MAX];
    double spent_s = (double)(sent.end_ns - world->now_ns) * 1e-9;
    world->now_ns = sent.end_ns;
    memcpy(before, world->services, sizeof before);
    for (uint32_t i = 0; i < sent.n_rows; i++) {
        const struct sent_row *row = &sent.rows[i];
        struct guest *guest = &world->guests[row->id];
        struct serve_tenant_result *seen = &world->result->tenants[guest->tenant];
        double cost = SERVE_PROMPT_COST * row->prompt_tokens;
        seen->prompt_tokens += row->prompt_tokens;
        seen->service += cost;
        world->services[guest->tenant] += cost / world->weights[guest->tenant];
        world->useful_tokens += row->prompt_tokens;
        if (row->samples)
            token_give(world, guest, row, sent.step);
    }
    sched_retired(world->sched, sent.step, world->now_ns);
    guests_end(world);
    for (uint32_t i = 0; i < world->setting->n_habits; i++) {
        struct serve_tenant_result *seen = &world->result->tenants[i];
        backlogged[i] = world->tenants[i].backlogged;
        seen->backlogged_s += backlogged[i] ? spent_s : 0;
        seen->backlogged_service +=
            backlogged[i] ? (world->services[i] - before[i]) * world->weights[i] : 0;
    }
    serve_gaps_step(&world->gaps, before, world->services, backlogged);
    world->n_flights--;
    memmove(world->flights, world->flights + 1, world->n_flights * sizeof *world->flights);
    world->flights[world->n_flights].rows = sent.rows;
    world->result->steps++;
    if (world->setting->checks_every && world->result->steps % world->setting->checks_every == 0)
        sched_check(world->sched);
}

/* One turn: plans what can be planned, then goes to what happens next. False: nothing will. */
static bool world_turn(struct world *world)
{
    clients_act(world);
    while (world->n_flights < world->flights_max && step_begin(world))
        ;
    guests_end(world); /* those who left while they waited */
    uint64_t next_ns = clients_next_ns(world);
    bool may_plan = world->n_flights < world->flights_max;
    if (world->n_flights > 0 && (!may_plan || world->flights[0].end_ns <= next_ns)) {
        step_end(world);
        return true;
    }
    if (next_ns == UINT64_MAX)
        return false;
    world->now_ns = u64_max(world->now_ns, next_ns);
    return true;
}

/* ---- a run ---- */

/* Those whose first token has not come have waited so long, at least. */
static void unserved_count(struct world *world)
{
    for (uint32_t id = 0; id < world->requests_max; id++) {
        const struct guest *guest = &world->guests[id];
        if (guest->number == 0 || guest->first_ns > 0 || guest->left)
            continue;
        serve_times_add(&world->result->tenants[guest->tenant].first,
                        (double)(world->now_ns - guest->request.at_ns) * 1e-9);
    }
}

static void result_fill(struct world *world)
{
    struct serve_result *result = world->result;
    struct sched_stats stats;
    sched_stats(world->sched, &stats);
    unserved_count(world);
    double prompt_tokens = 0;
    for (uint32_t i = 0; i < result->n_tenants; i++)
        prompt_tokens += (double)result->tenants[i].prompt_tokens;
    result->duration_s = (double)world->now_ns * 1e-9;
    result->useful_tokens_per_s = (double)world->useful_tokens / result->duration_s;
    result->recomputed_part =
        (double)stats.recomputed_tokens_total / fmax(1, (double)world->computed_tokens);
    result->cached_part =
        (double)world->found_tokens / fmax(1, (double)world->found_tokens + prompt_tokens);
    result->worst_gap = world->gaps.worst;
    result->last_gap = fabs(world->services[0] - world->services[1]);
    result->preempted = stats.preempted_total;
    result->jain = serve_jain(result, world->weights);
}

/* Nobody sends; all who are there must come to their end. */
static bool drain(struct world *world)
{
    world->is_closing = true;
    for (uint32_t i = 0; i < world->setting->n_habits; i++)
        world->tenants[i].n_leavers = 0;
    uint32_t left = DRAIN_STEPS_MAX;
    while (left > 0 && world_turn(world))
        left--;
    struct sched_stats s;
    sched_stats(world->sched, &s);
    sched_check(world->sched);
    if (s.waiting + s.running + s.steps_in_flight == 0 && s.blocks_used == 0)
        return true;
    fprintf(stderr, "serve_world: seed %llu: after the end %u wait, %u run, %u blocks are used\n",
            (unsigned long long)world->setting->seed, s.waiting, s.running, s.blocks_used);
    return false;
}

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bool serve_world_run(const struct serve_setting *setting, struct serve_result *ret_result)
{
    static struct world world; /* large; worlds are played one after the other */
    world_open(&world, setting, ret_result);
    double start_s = cpu_s();
    uint64_t end_ns = (uint64_t)(setting->duration_s * 1e9);
    while (world.now_ns < end_ns && world_turn(&world))
        ;
    bool good = true;
    if (setting->drains) {
        good = drain(&world);
        world.result->fingerprint ^= world.result->steps;
    }
    ret_result->spent_s = cpu_s() - start_s;
    result_fill(&world);
    world_close(&world);
    return good;
}
