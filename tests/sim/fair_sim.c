/*
 * The promises of the fair policy, as docs/scheduler.md proves them, on random worlds of tenants
 * that come and go, half of them in organisations: any weights, lengths, pools, costs; tenants that
 * flood, that send long prompts, that say more than they mean, that hoard. A million steps in all.
 * After each step
 *
 *     gap      over every interval in which two siblings have somebody in line, the services given
 *              to them, by weight, differ by no more than the bound
 *     delay    from the time when the line of one at the top begins until its first one is
 *              admitted, the others there are given no more service than the bound
 *
 * The bounds follow from what the tenants' running requests can still take, which the world sees;
 * the largest part of each bound that was reached is printed, so that a bound that says nothing
 * would be noticed. A world is a seed; GALERNE_SIM_SEED plays one alone, and one that fails is
 * shrunk to the steps that it takes (sim_shrink.h).
 */
#include "sched/books.h"
#include "sched/shares.h"
#include "tests/sim/sim_shrink.h"

#define WORLDS_COUNT 400
#define STEPS_COUNT 2600 /* of each */
#define LEAVES_MAX 6
#define TENANTS_MAX (LEAVES_MAX + 3)
#define REQUESTS_MAX 96

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fair_sim: %s:%d: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* How a tenant behaves. */
struct habit {
    uint32_t weight;
    uint32_t on_odds, off_odds; /* one in n steps it wakes, falls asleep */
    uint32_t send_odds;         /* one in n steps it sends, while awake */
    uint32_t line_max;          /* and keeps at most so many in line */
    uint32_t prompt_min, prompt_max, output_min, output_max;
    bool lies; /* asks for far more output than it takes */
};

struct tenant_world {
    struct habit habit; /* of an organisation: only the weight */
    uint32_t parent;    /* TENANT_TOP or an organisation, which come first */
    bool is_leaf;
    bool awake;
    uint32_t n_line;
    double service;       /* given, in cost */
    double resident;      /* cost that its running ones may still take and took, now .. */
    double resident_high; /* .. and the most it ever was */
    double promised_high; /* the most that was counted ahead of what running ones put out */
    double others_at;     /* service of all others when its line began; < 0: nobody is in line */
};

struct request_world {
    uint32_t tenant, prompt, stop_after, asks;
    bool running;
};

static struct {
    uint64_t seed, random;
    struct sched_limits limits;
    struct sched *sched;
    uint32_t n_tenants;
    struct tenant_world tenants[TENANTS_MAX];
    struct request_world requests[REQUESTS_MAX]; /* by id */
    double pair_low[TENANTS_MAX][TENANTS_MAX], pair_high[TENANTS_MAX][TENANTS_MAX];
    bool pair_counts[TENANTS_MAX][TENANTS_MAX];
    double output_cost, lag_cost; /* the greater of lead and credit */
    uint64_t now_ns;
} world;

static struct {
    double gap_part, delay_part;
    uint64_t steps, preempted, admitted, recomputed, processed, outputs;
} totals;

static uint64_t chance_next(void)
{
    uint64_t x = world.random += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint32_t between(uint32_t low, uint32_t high)
{
    return low + (uint32_t)(chance_next() % (high - low + 1));
}

static bool one_in(uint32_t n)
{
    return between(1, n) == 1;
}

/* ---- the world ---- */

static void habit_draw(struct habit *h)
{
    uint32_t context = world.limits.context_tokens;
    *h = (struct habit){.weight = between(1, 4),
                        .on_odds = between(1, 200),
                        .off_odds = one_in(2) ? 1000000 : between(20, 400),
                        .send_odds = between(1, 12),
                        .line_max = between(1, 12),
                        .prompt_min = 1,
                        .prompt_max = between(1, context / 2),
                        .output_min = 1,
                        .output_max = between(1, context / 4),
                        .lies = one_in(4)};
    h->prompt_min = between(1, h->prompt_max);
    h->output_min = between(1, h->output_max);
}

static void world_open(uint64_t seed)
{
    memset(&world, 0, sizeof world);
    world.seed = seed;
    world.random = seed * 0x2545f4914f6cdd1dull;
    struct sched_limits *l = &world.limits;
    *l = (struct sched_limits){.requests_max = REQUESTS_MAX,
                               .waiting_max = REQUESTS_MAX,
                               .slots_max = between(2, 24),
                               .block_tokens = between(1, 8),
                               .context_tokens = between(32, 400),
                               .chunk_tokens_max = between(8, 200),
                               .tenants_max = TENANTS_MAX};
    l->blocks_count = div_up_u32(l->context_tokens, l->block_tokens) * between(1, 6);
    l->step_tokens_max = l->slots_max + between(0, 100);
    l->step_rows_max = l->slots_max;
    l->open_tokens_max = l->context_tokens * between(1, 4);
    struct sched_fairness *f = &l->fairness;
    f->output_cost = between(1, 3);
    f->quantum_tokens = between(1, 128);
    f->lead_cost = one_in(4) ? SCHED_NONE : between(1, 500);
    f->reclaim_cost = between(1, 1000);
    f->recompute_permille = one_in(3) ? SCHED_NONE : between(1, 100);
    f->credit_cost = one_in(4) ? SCHED_NONE : between(1, 500);
    f->headroom_permille = one_in(3) ? SCHED_NONE : between(1, 200);
    world.output_cost = f->output_cost;
    double lead = f->lead_cost == SCHED_NONE ? 0 : f->lead_cost;
    double credit = f->credit_cost == SCHED_NONE ? 0 : f->credit_cost;
    world.lag_cost = lead > credit ? lead : credit;
    world.now_ns = 1;

    struct error error;
    MUST(sched_open(l, &policy_fair, &world.sched, &error) == STATUS_OK);
    uint32_t n_above = one_in(2) ? 0 : between(1, TENANTS_MAX - LEAVES_MAX);
    world.n_tenants = n_above + between(u32_max(2, n_above), LEAVES_MAX);
    struct tenant_row rows[TENANTS_MAX] = {0};
    for (uint32_t i = 0; i < world.n_tenants; i++) {
        struct tenant_world *t = &world.tenants[i];
        habit_draw(&t->habit);
        t->is_leaf = i >= n_above;
        t->parent = !t->is_leaf || n_above == 0 ? TENANT_TOP : (i - n_above) % n_above;
        if (n_above > 0 && t->is_leaf && i >= 2 * n_above && one_in(3))
            t->parent = TENANT_TOP;
        t->others_at = -1;
        rows[i] = (struct tenant_row){.parent = t->parent, .weight = t->habit.weight};
    }
    struct tenant_table table = {.n_rows = world.n_tenants, .rows = rows};
    MUST(sched_set_tenants(world.sched, &table, &error) == STATUS_OK);
}

static double service_of_all(void)
{
    double all = 0;
    for (uint32_t i = 0; i < world.n_tenants; i++)
        all += world.tenants[i].is_leaf ? world.tenants[i].service : 0;
    return all;
}

static struct tenant_world *above(const struct tenant_world *t)
{
    return t->parent == TENANT_TOP ? NULL : &world.tenants[t->parent];
}

/* One more in line, or one fewer, on the whole path. */
static void line_change(struct tenant_world *leaf, uint32_t n)
{
    for (struct tenant_world *t = leaf; t; t = above(t)) {
        t->n_line += n;
        if (t->n_line == n && n == 1)
            t->others_at = service_of_all() - t->service;
    }
}

/* ---- what is sent ---- */

static void tenant_send(uint32_t index)
{
    struct tenant_world *t = &world.tenants[index];
    const struct habit *h = &t->habit;
    uint32_t stop = between(h->output_min, h->output_max);
    uint32_t prompt = between(h->prompt_min, h->prompt_max);
    struct sched_submission s = {.request_id = 1,
                                 .tenant = index,
                                 .deadline_ns = UINT64_MAX,
                                 .prompt_tokens = prompt,
                                 .output_tokens_max =
                                     h->lies ? world.limits.context_tokens - prompt : stop};
    sched_id id;
    struct error error;
    if (sched_submit(world.sched, &s, world.now_ns, &id, &error) != STATUS_OK)
        return;
    world.requests[id] = (struct request_world){
        .tenant = index, .prompt = prompt, .stop_after = stop, .asks = s.output_tokens_max};
    line_change(t, 1);
}

static void tenants_act(void)
{
    for (uint32_t i = 0; i < world.n_tenants; i++) {
        struct tenant_world *t = &world.tenants[i];
        t->awake = t->awake ? !one_in(t->habit.off_odds) : one_in(t->habit.on_odds);
        for (int n = 0; n < 4; n++)
            if (t->is_leaf && t->awake && t->n_line < t->habit.line_max &&
                one_in(t->habit.send_odds))
                tenant_send(i);
    }
}

/* ---- what is promised ---- */

/* The most that counts as given, by weight, before it is: half of the output that is expected. */
static double promised_max(uint32_t parent)
{
    double most = 0;
    for (uint32_t i = 0; i < world.n_tenants; i++) {
        const struct tenant_world *t = &world.tenants[i];
        if (t->parent == parent && t->promised_high / t->habit.weight > most)
            most = t->promised_high / t->habit.weight;
    }
    return most;
}

/* How far ahead of one that lags a sibling may come to be, by weight, with all that its running
 * ones may still take. */
static double ahead_max(uint32_t parent)
{
    double most = 0, least_weight = 1000;
    for (uint32_t i = 0; i < world.n_tenants; i++) {
        const struct tenant_world *t = &world.tenants[i];
        if (t->parent != parent)
            continue;
        double ahead = t->resident_high / t->habit.weight;
        most = ahead > most ? ahead : most;
        least_weight = t->habit.weight < least_weight ? t->habit.weight : least_weight;
    }
    return most + world.lag_cost / least_weight;
}

static void gaps_check(void)
{
    for (uint32_t f = 0; f < world.n_tenants; f++)
        for (uint32_t g = 0; g < f; g++) {
            const struct tenant_world *a = &world.tenants[f], *b = &world.tenants[g];
            if (a->parent != b->parent)
                continue;
            double bound = 2 * (ahead_max(a->parent) + promised_max(a->parent)) + 1;
            double d = a->service / a->habit.weight - b->service / b->habit.weight;
            if (a->n_line == 0 || b->n_line == 0) {
                world.pair_counts[f][g] = false;
                continue;
            }
            if (!world.pair_counts[f][g])
                world.pair_low[f][g] = world.pair_high[f][g] = d;
            world.pair_counts[f][g] = true;
            world.pair_low[f][g] = d < world.pair_low[f][g] ? d : world.pair_low[f][g];
            world.pair_high[f][g] = d > world.pair_high[f][g] ? d : world.pair_high[f][g];
            double gap = world.pair_high[f][g] - world.pair_low[f][g];
            MUST(gap <= bound);
            totals.gap_part = gap / bound > totals.gap_part ? gap / bound : totals.gap_part;
        }
}

/* Its first one is dispatched: what did the others take meanwhile? */
static void delay_check(uint32_t index)
{
    struct tenant_world *t = &world.tenants[index];
    double bound = 1, taken = service_of_all() - t->service - t->others_at;
    double each = ahead_max(TENANT_TOP) + 2 * promised_max(TENANT_TOP) + world.lag_cost;
    for (uint32_t i = 0; i < world.n_tenants; i++)
        if (i != index && world.tenants[i].parent == TENANT_TOP)
            bound += world.tenants[i].habit.weight * each + world.tenants[i].resident_high;
    MUST(taken <= bound);
    totals.delay_part = taken / bound > totals.delay_part ? taken / bound : totals.delay_part;
}

/* What is expected of a request is at most what was seen, of anybody. */
static double promise_most(const struct request_world *request)
{
    uint32_t seen = 128;
    for (uint32_t i = 0; i < world.n_tenants; i++)
        seen = u32_max(seen, world.tenants[i].habit.output_max);
    return world.output_cost * u32_min(request->asks, seen) / 2;
}

static void residents_note(void)
{
    for (uint32_t i = 0; i < world.n_tenants; i++) {
        struct tenant_world *t = &world.tenants[i];
        double resident = 0, promised = 0;
        for (uint32_t r = 0; r < world.sched->n_running; r++) {
            const struct seq *seq = world.sched->running[r];
            if (seq->tenant != i && world.tenants[seq->tenant].parent != i)
                continue;
            const struct request_world *request = &world.requests[seq->id];
            resident += request->prompt + world.output_cost * request->stop_after;
            promised += promise_most(request);
        }
        t->promised_high = promised > t->promised_high ? promised : t->promised_high;
        t->resident_high = resident > t->resident_high ? resident : t->resident_high;
    }
}

/* ---- a step ---- */

static void opens_note(const struct sched_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_opens; i++) {
        struct tenant_world *leaf = &world.tenants[world.requests[plan->opens[i].id].tenant];
        for (struct tenant_world *t = leaf; t; t = above(t)) {
            if (t->others_at >= 0 && t->parent == TENANT_TOP)
                delay_check((uint32_t)(t - world.tenants));
            t->n_line--;
            t->others_at = t->n_line > 0 ? service_of_all() - t->service : -1;
        }
    }
}

/* Service as clients see it: prompts once, outputs once. */
static void service_note(uint32_t tenant, double cost)
{
    for (struct tenant_world *t = &world.tenants[tenant]; t; t = above(t))
        t->service += cost;
}

static void rows_note(const struct sched_plan *plan, const uint32_t *high_before)
{
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        const struct sched_row *row = &plan->rows[i];
        const struct request_world *r = &world.requests[row->id];
        uint32_t end = u32_min(row->first_position + row->n_tokens, r->prompt);
        uint32_t from = u32_max(row->first_position, high_before[row->id]);
        if (end > from)
            service_note(r->tenant, end - from);
    }
}

static void preempted_note(uint64_t preempted_before)
{
    if (world.sched->preempted_total == preempted_before)
        return;
    for (uint32_t i = 0; i < world.n_tenants; i++) {
        struct sched_tenant_stats stats;
        MUST(sched_tenant_stats(world.sched, i, &stats));
        struct tenant_world *t = &world.tenants[i];
        if (stats.waiting > t->n_line && t->n_line == 0)
            t->others_at = service_of_all() - t->service;
        t->n_line = stats.waiting;
    }
}

static void step_whole(void)
{
    uint32_t high[REQUESTS_MAX];
    for (uint32_t i = 0; i < REQUESTS_MAX; i++)
        high[i] = world.sched->seqs[i].planned_high_tokens;
    uint64_t preempted = world.sched->preempted_total;
    const struct sched_plan *plan = sched_plan(world.sched, world.now_ns);
    world.now_ns += 1000000;
    if (plan->step == 0)
        return;
    totals.steps++;
    residents_note();
    opens_note(plan);
    preempted_note(preempted);
    rows_note(plan, high);
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        if (!plan->rows[i].samples)
            continue;
        const struct request_world *r = &world.requests[plan->rows[i].id];
        const struct seq *seq = &world.sched->seqs[plan->rows[i].id];
        MUST(sched_sampled(world.sched, plan->step, plan->rows[i].id,
                           seq->sampled_tokens + 1 == r->stop_after));
        service_note(r->tenant, world.output_cost);
        totals.outputs++;
    }
    sched_retired(world.sched, plan->step, world.now_ns);
    struct sched_ended ended;
    while (sched_next_ended(world.sched, &ended))
        ;
    gaps_check();
}

static void world_close(void)
{
    struct sched_stats s;
    sched_stats(world.sched, &s);
    totals.preempted += s.preempted_total;
    totals.admitted += s.admitted_total;
    totals.recomputed += s.recomputed_tokens_total;
    totals.processed += world.sched->processed_tokens_total;
    sched_check(world.sched);
    sched_close(world.sched);
}

static void world_play(uint64_t seed)
{
    world_open(seed);
    for (uint32_t i = 0; i < STEPS_COUNT; i++) {
        world.random = shrink_dice(seed, i);
        if (shrink_turn(seed, i))
            continue;
        tenants_act();
        step_whole();
    }
    world_close();
}

int main(int n_arguments, char **arguments)
{
    const struct shrink shrink = {
        .program = "fair_sim", .n_turns = STEPS_COUNT, .play = world_play};
    shrink_begin(&shrink, n_arguments, arguments);
    uint64_t seed = shrink_number("GALERNE_SIM_SEED", 0);
    uint64_t last = seed ? seed : shrink_number("GALERNE_SIM_COUNT", WORLDS_COUNT);
    for (uint64_t s = seed ? seed : 1; s <= last; s++)
        world_play(s);
    printf("%llu steps, %llu admitted, %llu outputs, %llu preempted, %.2f %% computed again\n",
           (unsigned long long)totals.steps, (unsigned long long)totals.admitted,
           (unsigned long long)totals.outputs, (unsigned long long)totals.preempted,
           100.0 * (double)totals.recomputed / (double)totals.processed);
    printf("of the gap's bound at most %.3f was reached, of the delay's %.3f\n", totals.gap_part,
           totals.delay_part);
    return 0;
}
