/*
 * The scheduler under thousands of random days: arrivals, lengths, stops, cancels, deadlines,
 * pauses, lost workers, tiny pools, at most two steps in flight, tenants with weights and rights
 * that change, prompts that share beginnings within and across cache domains, against a worker that
 * trusts nothing (fake_worker.h). Half of the days are served first come, first served; in the
 * others the fair policy runs beside its naive twin (fair_twin.h), and every plan of the two must
 * be the same to the byte. After each call the books balance, and at the end of a scenario
 *
 *     every request ended exactly once, for the right reason, with the right counts
 *     its client saw exactly its tokens, each once, in order (they depend on every KV cell)
 *     nothing is held: blocks, slots, ids, closes
 *     once the chaos was over, it took no more steps than the work that was left allows
 *     no call but sched_open used the allocator, and that one used it once
 *
 * A scenario is a seed. When one fails, it is named, and
 *     GALERNE_SIM_SEED=n sched_sim      plays it alone, and prints what happens
 *     GALERNE_SIM_COUNT=n sched_sim     plays seeds 1..n, not all of them
 * and it is shrunk to the turns that it takes (sim_shrink.h).
 */
#include "base/clock.h"
#include "sched/policy.h"
#include "sched/tenants.h"
#include "tests/sim/alloc_trap.h"
#include "tests/sim/fair_twin.h"
#include "tests/sim/fake_worker.h"
#include "tests/sim/sim_shrink.h"
#include "tests/sim/sim_watch.h"

#define SCENARIOS_COUNT 14000
#define STEPS_LEAST 1000000 /* of the fair ones */
#define TURNS_MAX 200000
#define CHOICES_DOMAIN                                                                             \
    1000 /* and the number of the first: where those share who have no domain                      \
          */

struct sim sim;
bool sim_verbose;
struct sim_totals totals;

/* ---- when it fails ---- */

void sim_fail(const char *file, int line, const char *condition)
{
    fprintf(stderr, "sched_sim: %s:%d: %s\n", file, line, condition);
    abort();
}

/* ---- a policy with odd taste in victims, to reach what first come first served never does ---- */

static struct seq *odd_victim(void *state, struct seq *const *running, uint32_t n,
                              struct seq *needy)
{
    if (!sim.odd_victims || sim.calm)
        return policy_fcfs.victim(state, running, n, needy);
    if (n == 0 || one_in(8))
        return NULL;
    return running[between(0, n - 1)];
}

/* ---- the books after each call ---- */

static void books_check(void)
{
    sched_check(sim.sched);
    struct sched_stats s, twin;
    sched_stats(sim.sched, &s);
    if (sim.twin) {
        sched_stats(sim.twin, &twin);
        MUST(s.waiting == twin.waiting && s.running == twin.running);
        MUST(s.blocks_free == twin.blocks_free && s.blocks_cached == twin.blocks_cached);
        MUST(s.preempted_total == twin.preempted_total && s.ended_total == twin.ended_total);
    }
    MUST(s.blocks_count == sim.limits.blocks_count);
    MUST(s.blocks_free + s.blocks_used + s.blocks_cached == s.blocks_count);
    MUST(s.steps_in_flight == fake_worker_steps(sim.worker));
    MUST(s.unexpected_total == sim.unexpected_count && s.dropped_total == sim.dropped_count);
    uint32_t unfinished = 0;
    for (uint32_t i = 0; i < sim.n_requests; i++)
        unfinished += sim.requests[i].live && sim.requests[i].cause == CAUSE_NONE;
    MUST(s.waiting + s.running == unfinished);
    MUST(s.running <= sim.limits.slots_max);
}

/*
 * Every call into the scheduler is made by this, so that none allocates unseen. The statement is
 * played on the twin too, as `sched`; it must give the same `result`.
 */
#define CALL_OF(result, statement)                                                                 \
    do {                                                                                           \
        struct sched *sched = sim.sched;                                                           \
        alloc_trap_arm();                                                                          \
        statement;                                                                                 \
        MUST(alloc_trap_disarm().calls == 0);                                                      \
        if (sim.twin) {                                                                            \
            __auto_type first_ = (result);                                                         \
            sched = sim.twin;                                                                      \
            statement;                                                                             \
            MUST(first_ == (result));                                                              \
        }                                                                                          \
    } while (0)
#define CALL(statement) CALL_OF(0, statement)

/* ---- what may happen ---- */

/* With the last one that has the prompt, its owner's memory may go. */
static void request_over(struct request *r, enum cause cause)
{
    MUST(r->cause == CAUSE_NONE);
    r->cause = cause;
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (sim.requests[r->first + i].cause == CAUSE_NONE)
            return;
    memset(sim.requests[r->first].digests, 0xdb, sizeof r->digests);
}

/* All of them in one number, to compare. */
static uint64_t ids_number(const sched_id *ids)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < SCHED_CHOICES_MAX; i++)
        number = number * 0x9e3779b97f4a7c15ull + ids[i];
    return number;
}

static void do_submit(void)
{
    uint32_t index = sim.n_submitted;
    struct request *r = &sim.requests[index];
    sched_id ids[SCHED_CHOICES_MAX] = {0};
    sim.n_submitted += r->n_choices;
    if (one_in(sim.deadline_odds))
        r->deadline_ns = sim.now_ns - 1 + between(0, 60) * NS_PER_MS;
    else
        r->deadline_ns = UINT64_MAX;
    do
        r->tenant = between(0, sim.n_rows - 1);
    while (row_has_children(r->tenant));
    struct sched_submission submission = {.request_id = 1000 + index,
                                          .tenant = r->tenant,
                                          .class = r->class,
                                          .deadline_ns = r->deadline_ns,
                                          .cache_domain = r->domain,
                                          .cache_readonly = r->readonly,
                                          .prompt_tokens = r->prompt_tokens,
                                          .output_tokens_max = r->output_tokens_max,
                                          .choices = r->n_choices,
                                          .n_digests = r->n_digests,
                                          .digests = r->digests};
    struct error error = {0};
    enum status status, expected = submit_expected(r);
    CALL_OF(ids_number(ids), status = sched_submit(sched, &submission, sim.now_ns, ids, &error));
    SAY("submit %u: %u choices, prompt %u output %u of %u: %s\n", index, r->n_choices,
        r->prompt_tokens, r->stop_after_tokens, r->output_tokens_max, status_name(status));
    MUST(status == expected);
    for (uint32_t i = 0; i < r->n_choices; i++)
        r[i].submitted = true;
    if (status == STATUS_EXHAUSTED)
        MUST(error.retry_ns >= 100 * NS_PER_MS && error.retry_ns <= 30 * NS_PER_S);
    totals.full += status == STATUS_EXHAUSTED;
    totals.never += status == STATUS_INVALID;
    totals.refused_late += status == STATUS_DEADLINE;
    if (status == STATUS_OK)
        choices_live(r, ids);
}

static struct fake_known known_of(void *context, sched_id id)
{
    const struct request *r = request_by_id(id);
    return (struct fake_known){.n_tokens = r->n_tokens,
                               .tokens = r->tokens,
                               .n_pending = r->n_pending,
                               .draw = r->choice,
                               .domain = r->domain          ? r->domain
                                         : r->n_choices > 1 ? CHOICES_DOMAIN + r->first
                                                            : 0};
}

static bool do_plan(void)
{
    const struct sched_plan *plan;
    struct sched_tenant_stats before[ROWS_MAX];
    for (uint32_t i = 0; i < sim.n_rows; i++)
        MUST(sched_tenant_stats(sim.sched, i, &before[i]));
    alloc_trap_arm();
    plan = sched_plan(sim.sched, sim.now_ns);
    MUST(alloc_trap_disarm().calls == 0);
    if (sim.twin)
        plans_same(plan, sched_plan(sim.twin, sim.now_ns));
    limits_hold(before);
    if (plan->step == 0) {
        MUST(plan->n_closes + plan->n_opens + plan->n_rows + plan->n_blocks == 0);
        return false;
    }
    SAY("plan %llu: closes %u opens %u rows %u blocks %u copies %u\n",
        (unsigned long long)plan->step, plan->n_closes, plan->n_opens, plan->n_rows, plan->n_blocks,
        plan->n_copies);
    fake_worker_hand_over(sim.worker, plan, known_of, NULL);
    rows_complete(plan);
    for (uint32_t i = 0; i < plan->n_opens; i++)
        open_note(&plan->opens[i]);
    for (uint32_t i = 0; i < plan->n_rows; i++)
        row_note(&plan->rows[i]);
    sim.steps_count++;
    totals.copies += plan->n_copies;
    return true;
}

static void do_cancel(struct request *r)
{
    SAY("cancel %ld\n", (long)(r - sim.requests));
    CALL(sched_cancel(sched, r->id));
    if (r->cause == CAUSE_NONE)
        request_over(r, CAUSE_CANCEL);
}

static void do_pause(struct request *r, bool paused)
{
    SAY("%s %ld\n", paused ? "pause" : "resume", (long)(r - sim.requests));
    CALL(sched_pause(sched, r->id, paused));
    r->paused = paused;
    r->was_paused = true;
    r->prompting &= !paused;
}

static struct request *any_live(void)
{
    uint32_t start = between(0, sim.n_requests - 1);
    for (uint32_t i = 0; i < sim.n_requests; i++) {
        struct request *r = &sim.requests[(start + i) % sim.n_requests];
        if (r->live)
            return r;
    }
    return NULL;
}

/* The engine knows all tokens of a block, and says its name. */
static void block_tell(const struct request *r)
{
    struct sched_digest digest = digest_of(r, &r->prefix);
    CALL(sched_block_filled(sched, r->id, r->n_tokens / sim.limits.block_tokens - 1, &digest));
}

static void token_take(uint64_t step, const struct fake_token *token)
{
    struct request *r = request_by_id(token->id);
    bool counts, expected = r->cause == CAUSE_NONE;
    uint32_t n_output = r->n_tokens - r->prompt_tokens + 1;
    if (!expected && one_in(3)) { /* nobody has to report what nobody wants */
        r->n_pending--;
        return;
    }
    CALL_OF(counts, counts = sched_sampled(sched, step, r->id, n_output >= r->stop_after_tokens));
    MUST(counts == expected);
    r->n_pending--;
    sim.dropped_count += !counts;
    if (counts) {
        MUST(token->token == fake_prefix_sample(&r->prefix, r->choice));
        fake_prefix_add(&r->prefix, token->token);
        r->tokens[r->n_tokens++] = token->token;
        totals.tokens++;
        if (n_output == r->stop_after_tokens)
            request_over(r, CAUSE_TOKENS);
        else if (r->n_tokens % sim.limits.block_tokens == 0 && !one_in(20))
            block_tell(r);
    }
    books_check();
    if (one_in(16)) { /* the same word twice */
        CALL_OF(counts, counts = sched_sampled(sched, step, r->id, true));
        MUST(!counts);
        sim.unexpected_count++;
    }
    if (!sim.calm && one_in(4 * sim.cancel_odds)) /* a stop string was met, or a client left */
        do_cancel(any_live());
}

static void do_retire(void)
{
    struct fake_token tokens[FAKE_SLOTS_MAX];
    uint64_t step;
    uint32_t n = fake_worker_run(sim.worker, tokens, &step);
    for (uint32_t i = 0; i < n; i++) /* a row that samples has all of the prompt behind it */
        request_by_id(tokens[i].id)->prompting = false;
    SAY("run %llu: %u tokens\n", (unsigned long long)step, n);
    for (uint32_t i = 0; i < n; i++)
        token_take(step, &tokens[i]);
    CALL(sched_retired(sched, step, sim.now_ns));
    fake_worker_retired(sim.worker);
}

static void do_lose(void)
{
    SAY("worker lost with %u steps in flight\n", fake_worker_steps(sim.worker));
    fake_worker_restart(sim.worker);
    CALL(sched_replay(sched));
    for (uint32_t i = 0; i < sim.n_requests; i++) {
        sim.requests[i].n_pending = 0;
        sim.requests[i].prompting = false;
        sim.requests[i].replays_count++;
    }
    struct sched_stats s;
    sched_stats(sim.sched, &s);
    MUST(s.running == 0 && s.blocks_free == s.blocks_count && s.steps_in_flight == 0);
    totals.replays++;
}

static void do_expire(void)
{
    for (;;) {
        uint64_t first_ns = UINT64_MAX, told_ns;
        for (uint32_t i = 0; i < sim.n_requests; i++)
            if (sim.requests[i].live && sim.requests[i].cause == CAUSE_NONE &&
                sim.requests[i].deadline_ns < first_ns)
                first_ns = sim.requests[i].deadline_ns;
        sched_id id;
        bool expired;
        CALL_OF(told_ns, told_ns = sched_next_deadline_ns(sched));
        MUST(told_ns == first_ns);
        CALL_OF(expired, expired = sched_next_expired(sched, sim.now_ns, &id));
        MUST(expired == (first_ns <= sim.now_ns));
        if (!expired)
            return;
        struct request *r = request_by_id(id);
        SAY("expired %ld\n", (long)(r - sim.requests));
        MUST(r->deadline_ns == first_ns);
        request_over(r, CAUSE_DEADLINE);
        books_check();
    }
}

static void do_bury(void)
{
    struct sched_ended e;
    bool any;
    for (;;) {
        CALL_OF(any, any = sched_next_ended(sched, &e));
        if (!any)
            return;
        struct request *r = request_by_id(e.id);
        SAY("ended %ld\n", (long)(r - sim.requests));
        MUST(e.request_id == 1000 + r->first);
        MUST(r->cause != CAUSE_NONE);
        MUST(e.prompt_computed_tokens ==
             u32_min(r->high_tokens, r->prompt_tokens) - r->cached_tokens);
        MUST(e.recomputed_tokens == r->recomputed_tokens);
        MUST(e.cached_tokens == r->cached_tokens && r->cached_tokens < r->prompt_tokens);
        MUST(r->domain != 0 || r->n_choices > 1 || r->cached_tokens == 0);
        MUST(e.preempted_count <= r->opens_count);
        MUST(r->opens_count <= 1 + e.preempted_count + r->replays_count);
        if (r->cause == CAUSE_TOKENS)
            MUST(r->n_tokens == r->prompt_tokens + r->stop_after_tokens);
        choices_over(r, &e);
        r->live = false;
        sim.n_live--;
        totals.ended++;
        totals.longer += r->n_tokens > sim.limits.blocks_count * sim.limits.block_tokens;
        totals.cancelled += r->cause == CAUSE_CANCEL;
        totals.expired += r->cause == CAUSE_DEADLINE;
        totals.preempted += e.preempted_count;
        totals.recomputed += e.recomputed_tokens;
        books_check();
    }
}

static void do_lie(void)
{
    bool counts;
    sched_id id = one_in(2) ? between(0, sim.limits.requests_max - 1) : (sched_id)chance_next();
    uint64_t step = 1000000000 + between(0, 9);
    CALL_OF(counts, counts = sched_sampled(sched, step, id, step % 2));
    MUST(!counts);
    sim.unexpected_count++;
}

/* A tree that may be wrong; only a good one comes into force. Rows stay, rows come. */
static void do_table(void)
{
    struct tenant_row rows[ROWS_MAX];
    struct tenant_table table = {.n_rows = rows_draw(rows), .rows = rows};
    struct error error = {0};
    enum status status;
    CALL_OF(status, status = sched_set_tenants(sched, &table, &error));
    SAY("table of %u rows: %s %s\n", table.n_rows, status_name(status), error.text);
    MUST(status == STATUS_OK || (status == STATUS_INVALID && error.text[0] && error.field[0]));
    if (status != STATUS_OK)
        return;
    memcpy(sim.rows, rows, sizeof rows);
    sim.n_rows = table.n_rows;
    totals.tables++;
    for (uint32_t i = 0; i < table.n_rows; i++)
        if (rows[i].reserved_blocks || rows[i].limit_blocks) {
            totals.rights++;
            break;
        }
}

/* ---- one scenario ---- */

static void sched_begin(const struct sched_policy *policy, struct sched **ret_sched)
{
    struct error error;
    alloc_trap_arm();
    enum status status = sched_open(&sim.limits, policy, ret_sched, &error);
    struct alloc_counts counts = alloc_trap_disarm();
    MUST(status == STATUS_OK);
    MUST(counts.calls == 1);
    MUST(counts.last_bytes == sched_footprint(&sim.limits, policy));
}

static void scenario_open(uint64_t seed)
{
    static struct sched_policy policy;
    sim = (struct sim){.seed = seed, .random = seed * 0x2545f4914f6cdd1dull};
    sim.now_ns = between(1, 1000000000);
    limits_draw();
    requests_draw();
    sim.cancel_odds = one_in(2) ? between(5, 200) : 0;
    sim.pause_odds = one_in(2) ? between(3, 100) : 0;
    sim.loss_odds = one_in(3) ? between(20, 400) : 0;
    sim.deadline_odds = one_in(3) ? between(1, 10) : 0;
    sim.odd_victims = one_in(4);
    sim.table_odds = one_in(2) ? between(5, 200) : 0;
    sim.n_rows = 1;
    sim.rows[0] = tenant_table_local.rows[0];
    bool fair = !one_in(5);
    totals.fair += fair;
    totals.windows += sim.limits.window_tokens > 0;
    policy = policy_fcfs;
    policy.victim = odd_victim;
    sched_begin(fair ? &policy_fair : &policy, &sim.sched);
    if (fair)
        sched_begin(&policy_fair_twin, &sim.twin);
    while (one_in(2))
        do_table();
    sim.worker = fake_worker_new(&sim.limits, seed);
    SAY("seed %llu: slots %u, %u blocks of %u, context %u, window %u, step %u tokens, chunk %u, %u "
        "requests\n",
        (unsigned long long)seed, sim.limits.slots_max, sim.limits.blocks_count,
        sim.limits.block_tokens, sim.limits.context_tokens, sim.limits.window_tokens,
        sim.limits.step_tokens_max, sim.limits.chunk_tokens_max, sim.n_requests);
}

static void chaos_turn(void)
{
    struct request *r = any_live();
    sim.now_ns += skewed(0, 200) * NS_PER_MS;
    if (sim.n_submitted < sim.n_requests && one_in(3))
        do_submit();
    else if (r && one_in(sim.cancel_odds))
        do_cancel(r);
    else if (r && one_in(sim.pause_odds))
        do_pause(r, r->cause == CAUSE_NONE && !r->paused);
    else if (one_in(sim.loss_odds))
        do_lose();
    else if (one_in(sim.table_odds))
        do_table();
    else if (one_in(50))
        do_lie();
    else if (fake_worker_steps(sim.worker) > 0 && one_in(2))
        do_retire();
    else
        do_plan();
}

/* The usual engine: hand over while there is room, then take the oldest back. */
static bool calm_turn(void)
{
    sim.now_ns += NS_PER_MS;
    bool planned = do_plan();
    if (planned && fake_worker_steps(sim.worker) < SCHED_STEPS_MAX && !one_in(4))
        return true;
    if (fake_worker_steps(sim.worker) == 0)
        return planned;
    do_retire();
    return true;
}

static void calm_begin(void)
{
    sim.calm = true;
    for (uint32_t i = 0; i < sim.n_requests; i++)
        if (sim.requests[i].live && sim.requests[i].paused)
            do_pause(&sim.requests[i], false);
}

/*
 * Steps that the work left cannot exceed. Alone, a sequence needs at most one step a token and a
 * few for its close; the rest is for the steps in which it computes again or sits out, and it is
 * far more than what they need, as the figure at the end shows, and far less than a livelock.
 */
static uint64_t work_left(void)
{
    uint64_t work = 0;
    for (uint32_t i = 0; i < sim.n_requests; i++) {
        const struct request *r = &sim.requests[i];
        if (r->live && r->cause == CAUSE_NONE)
            work += 4 + r->prompt_tokens + r->stop_after_tokens;
    }
    return work;
}

static void scenario_run(void)
{
    uint32_t chaos_turns = between(50, 1500);
    /* A shrunk day need not submit all of its requests. */
    while ((sim.n_submitted < sim.n_requests && !shrink_is_on()) || sim.turns_count < chaos_turns) {
        uint64_t turn = sim.turns_count++;
        sim.random = shrink_dice(sim.seed, turn);
        if (shrink_turn(sim.seed, turn))
            continue;
        chaos_turn();
        books_check();
        do_expire();
        if (one_in(3))
            do_bury();
        if (sim.turns_count > chaos_turns && sim.n_live == 0 && sim.n_submitted == sim.n_requests)
            break;
    }
    sim.random = shrink_dice(sim.seed, SHRINK_TURNS_MAX - 1);
    calm_begin();
    uint64_t steps = sim.steps_count, work = work_left();
    while (calm_turn()) {
        shrink_turn(sim.seed, SHRINK_TURNS_MAX);
        MUST(++sim.turns_count < TURNS_MAX);
        books_check();
        do_expire();
        do_bury();
    }
    steps = sim.steps_count - steps;
    bool fair = sim.twin != NULL;
    MUST(steps <= 20 + 2 * work);
    if (work > 40 && (double)steps / (double)work > totals.calm_ratio[fair])
        totals.calm_ratio[fair] = (double)steps / (double)work;
}

static void scenario_close(void)
{
    do_bury();
    struct sched_stats s;
    sched_stats(sim.sched, &s);
    MUST(sim.n_live == 0);
    for (uint32_t i = 0; i < sim.n_submitted; i++)
        MUST(sim.requests[i].submitted && !sim.requests[i].live);
    MUST(s.waiting == 0 && s.running == 0 && s.steps_in_flight == 0);
    MUST(s.blocks_free + s.blocks_cached == sim.limits.blocks_count);
    MUST(fake_worker_open_slots(sim.worker) == 0); /* every open was closed */
    totals.steps += sim.steps_count;
    totals.fair_steps += sim.twin ? sim.steps_count : 0;
    sched_close(sim.sched);
    if (sim.twin)
        sched_close(sim.twin);
    fake_worker_free(sim.worker);
}

static void day_play(uint64_t seed)
{
    scenario_open(seed);
    scenario_run();
    scenario_close();
}

int main(int n_arguments, char **arguments)
{
    const struct shrink shrink = {
        .program = "sched_sim", .n_turns = SHRINK_TURNS_MAX, .play = day_play};
    shrink_begin(&shrink, n_arguments, arguments);
    uint64_t seed = shrink_number("GALERNE_SIM_SEED", 0);
    uint64_t first = seed ? seed : 1;
    uint64_t last = seed ? seed : shrink_number("GALERNE_SIM_COUNT", SCENARIOS_COUNT);
    sim_verbose = seed != 0;
    uint64_t start_ns = clock_now_ns();
    for (uint64_t s = first; s <= last; s++)
        day_play(s);
    printf("%llu scenarios in %.1f s: %llu steps, %llu tokens; %llu requests ended, of them %llu "
           "cancelled and %llu late; refused: %llu full, %llu never fit, %llu late\n",
           (unsigned long long)(last - first + 1), (double)(clock_now_ns() - start_ns) / NS_PER_S,
           (unsigned long long)totals.steps, (unsigned long long)totals.tokens,
           (unsigned long long)totals.ended, (unsigned long long)totals.cancelled,
           (unsigned long long)totals.expired, (unsigned long long)totals.full,
           (unsigned long long)totals.never, (unsigned long long)totals.refused_late);
    printf("%llu days fair, %llu steps; %llu preemptions, %llu tokens computed again, %llu from "
           "the cache, %llu "
           "blocks copied, %llu workers lost, %llu tables (%llu with rights)\n",
           (unsigned long long)totals.fair, (unsigned long long)totals.fair_steps,
           (unsigned long long)totals.preempted, (unsigned long long)totals.recomputed,
           (unsigned long long)totals.cached, (unsigned long long)totals.copies,
           (unsigned long long)totals.replays, (unsigned long long)totals.tables,
           (unsigned long long)totals.rights);
    printf(
        "%llu prompts with choices, %llu of them undisturbed and computed once; last blocks copied "
        "%llu, computed again %llu\n",
        (unsigned long long)totals.choices, (unsigned long long)totals.choices_once,
        (unsigned long long)totals.tails_copied, (unsigned long long)totals.tails_again);
    printf("%llu days with a window: %llu streams longer than the pool, %llu opens from the cache "
           "whose beginning need not be there\n",
           (unsigned long long)totals.windows, (unsigned long long)totals.longer,
           (unsigned long long)totals.behind);
    printf("after the chaos at most %.2f steps a token of the work left; fair %.2f\n",
           totals.calm_ratio[0], totals.calm_ratio[1]);
    /* Want of blocks is the exception, also on these days of tiny pools. */
    if (!seed)
        MUST(totals.tails_copied > 2 * totals.tails_again);
    if (!seed && last >= SCENARIOS_COUNT)
        MUST(totals.fair_steps >= STEPS_LEAST);
    return 0;
}
