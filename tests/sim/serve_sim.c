/*
 * The simulator's own test, and what the scheduler owes to those it serves, on short days: each of
 * the scenarios and each that means ill, under each policy.
 *
 *     parts       lengths, arrivals, the cost of a step and the gaps are what they say
 *     end         when nobody sends any more, everybody ends; no block and no id is left over
 *     same        a seed gives the same day again to the last token, another one another day
 *     fair        on the three days that are compared nobody waits longer for a first token than
 *                 with VTC, whatever is thrown at it
 *     hostile     whoever means ill changes the tail of his neighbours' first tokens by no more
 *                 than a factor, against one more of their own kind that always wants more
 */
#include <math.h>

#include "tests/sim/policy_vtc.h"
#include "tests/sim/serve_scenarios.h"

#define MUST(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "serve_sim: %s:%d: %s: ", __FILE__, __LINE__, #condition);             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define CAPACITY 2000 /* tokens/s; about what is measured for these days */
#define DAY_S 150
#define REQUESTS_MAX 8192
#define HOSTILE_FACTOR 8.0
#define VTC_FACTOR 1.0

static const struct sched_policy *const policies[] = {&policy_fcfs, &policy_vtc,
                                                      &policy_vtc_reserve, &policy_fair};

static uint64_t steps_count;

/* The p99 of all but the heavy one. */
static double day_play(enum serve_day day, const struct sched_policy *policy, uint64_t seed,
                       const struct serve_setting *besides, uint64_t *ret_fingerprint)
{
    struct serve_scenario scenario = serve_scenario_of(day, CAPACITY);
    struct serve_setting setting = *besides;
    setting.policy = policy;
    setting.n_habits = scenario.n_habits;
    setting.habits = scenario.habits;
    setting.pool_tokens = setting.pool_tokens ? setting.pool_tokens : scenario.pool_tokens;
    setting.seed = seed;
    setting.duration_s = DAY_S;
    setting.requests_max = REQUESTS_MAX;
    if (!setting.preset)
        setting.preset = &serve_presets[CARD_24GB];
    struct serve_result result;
    MUST(serve_world_run(&setting, &result), "%s, %s, seed %llu", scenario.name, policy->name,
         (unsigned long long)seed);
    struct serve_times first = {0};
    for (uint32_t i = 0; i < result.n_tenants; i++) {
        const struct serve_tenant_result *t = &result.tenants[i];
        MUST(!setting.drains || t->sent_count == t->refused_count + t->ended_count + t->left_count,
             "%s, %s: of %llu that tenant %u sent not all came to an end", scenario.name,
             policy->name, (unsigned long long)t->sent_count, i);
        MUST(t->sent_count > 0, "%s: tenant %u sent nothing", scenario.name, i);
        if (!scenario.habits[i].is_heavy)
            serve_times_join(&first, &t->first);
    }
    double p99 = serve_times_quantile(&first, 0.99);
    steps_count += result.steps;
    if (ret_fingerprint)
        *ret_fingerprint = result.fingerprint;
    serve_times_free(&first);
    serve_result_close(&result);
    return p99;
}

/* ---- parts ---- */

static bool near(double a, double b, double part)
{
    return fabs(a - b) <= part * fabs(b);
}

static void lengths_check(void)
{
    static const struct serve_lengths all[] = {{LENGTH_FIXED, 256, 0},
                                               {LENGTH_LOGNORMAL, 200, 1500},
                                               {LENGTH_GEOMETRIC, 150, 0},
                                               {LENGTH_UNIFORM, 6000, 12000}};
    enum { N = 100000 };
    for (size_t i = 0; i < array_count(all); i++) {
        double sum = 0;
        uint64_t chance = 7;
        static float seconds[N];
        struct serve_times times = {.count = N, .seconds = seconds};
        for (int n = 0; n < N; n++) {
            seconds[n] = (float)serve_length(&all[i], &chance);
            sum += seconds[n];
        }
        MUST(near(sum / N, serve_length_mean(&all[i]), 0.02), "shape %zu: mean %g", i, sum / N);
        double p50 = serve_times_quantile(&times, 0.5), p99 = serve_times_quantile(&times, 0.99);
        if (all[i].shape == LENGTH_LOGNORMAL)
            MUST(near(p50, 200, 0.03) && near(p99, 1500, 0.05), "%g, %g", p50, p99);
        if (all[i].shape == LENGTH_GEOMETRIC)
            MUST(near(p50, 150 * log(2), 0.03), "%g", p50);
    }
}

static void arrivals_check(void)
{
    struct serve_habit habit = {.rate_per_s = 10,
                                .on_s = 20,
                                .off_s = 60,
                                .prompt = {LENGTH_FIXED, 5, 0},
                                .output = {LENGTH_FIXED, 5, 0},
                                .asks_tokens = 3};
    struct serve_source source;
    serve_source_open(&source, &habit, 3, 1000);
    uint64_t n = 0, before_ns = 0;
    for (;; n++) {
        struct serve_request r = serve_source_take(&source, 0);
        double at_s = (double)r.at_ns * 1e-9;
        if (at_s > 8000)
            break;
        MUST(r.at_ns >= before_ns && fmod(at_s, 80) < 20.001, "one comes at %g s", at_s);
        MUST(r.prompt_tokens == 5 && r.output_tokens == 3, "outputs end at max_tokens");
        before_ns = r.at_ns;
    }
    MUST(near((double)n, 8000.0 / 4 * 10, 0.03), "%llu came", (unsigned long long)n);
}

static void cost_check(void)
{
    struct sched_row rows[] = {{.first_position = 100, .n_tokens = 1},
                               {.first_position = 1000, .n_tokens = 200}};
    struct sched_plan plan = {.n_rows = 2, .rows = rows};
    struct serve_cost cost = {.base_ns = 1e6, .token_ns = 1000, .context_ns = 10, .pair_ns = 1};
    double dense = 1e6 + 201 * 1e3 + 10 * (101 + 1200) + (100.5 + 200 * 1100.0);
    MUST(near(serve_cost_step_ns(&cost, &plan), dense, 1e-12), "a dense step");
    cost.expert_ns = 1e5;
    cost.experts = 64;
    cost.experts_hit = 4;
    MUST(near(serve_cost_step_ns(&cost, &plan), dense + 64e5, 1e-3), "nearly all experts");
    plan.n_rows = 1;
    double one = 1e6 + 1e3 + 10 * 101 + 100.5 + 4e5;
    MUST(near(serve_cost_step_ns(&cost, &plan), one, 1e-9), "one token's experts");
    plan.n_rows = 0;
    MUST(serve_cost_step_ns(&cost, &plan) == 0, "closes alone are free");
}

static void gaps_check(void)
{
    struct serve_gaps gaps = {.n = 2};
    static const struct {
        double a, b;
        bool both;
        double worst;
    } steps[] = {{10, 0, true, 10},    {10, 30, true, 30},  {90, 30, false, 30},
                 {190, 30, false, 30}, {200, 30, true, 30}, {200, 75, true, 45}};
    double before[2] = {0, 0};
    for (size_t i = 0; i < array_count(steps); i++) {
        double after[2] = {steps[i].a, steps[i].b};
        bool backlogged[2] = {true, steps[i].both};
        serve_gaps_step(&gaps, before, after, backlogged);
        MUST(gaps.worst == steps[i].worst, "step %zu: %g", i, gaps.worst);
        memcpy(before, after, sizeof before);
    }
}

/* ---- days ---- */

static void ends_check(void)
{
    for (enum serve_day day = 0; day < DAYS_COUNT; day++)
        for (size_t p = 0; p < array_count(policies); p++)
            for (uint32_t flights = 1; flights <= SCHED_STEPS_MAX; flights++) {
                struct serve_setting besides = {
                    .flights = flights, .drains = true, .checks_every = 64};
                /* A pool in which prompts of 12,000 hardly fit twice makes preemption usual. */
                if (flights > 1)
                    besides.pool_tokens = 24000;
                day_play(day, policies[p], 11 + p, &besides, NULL);
            }
}

static void machines_check(void)
{
    for (enum serve_machine machine = 0; machine < MACHINES_COUNT; machine++) {
        struct serve_setting besides = {
            .preset = &serve_presets[machine], .flights = 2, .drains = true};
        if (serve_presets[machine].pool_tokens > 16384)
            day_play(DAY_CHAT, &policy_fair, 5, &besides, NULL);
        else
            day_play(DAY_ONE_TOKEN, &policy_fair, 5, &besides, NULL);
    }
}

static void same_check(void)
{
    struct serve_setting besides = {0};
    for (enum serve_day day = 0; day < DAYS_COUNT; day++) {
        uint64_t first, again, other;
        day_play(day, &policy_fair, 21, &besides, &first);
        day_play(day, &policy_fair, 21, &besides, &again);
        day_play(day, &policy_fair, 22, &besides, &other);
        MUST(first == again, "day %d is not the same again", (int)day);
        MUST(first != other, "day %d is the same with another seed", (int)day);
    }
}

static double p99_mean(enum serve_day day, const struct sched_policy *policy)
{
    struct serve_setting besides = {0};
    double sum = 0;
    for (uint64_t seed = 31; seed <= 34; seed++)
        sum += day_play(day, policy, seed, &besides, NULL) / 4;
    return sum;
}

static void fair_check(void)
{
    for (enum serve_day day = 0; day < DAYS_COMPARED; day++) {
        double vtc = p99_mean(day, &policy_vtc), fair = p99_mean(day, &policy_fair);
        MUST(fair <= VTC_FACTOR * vtc, "day %d: p99 %.2f s, with VTC %.2f s", (int)day, fair, vtc);
        printf("%s: p99 of a first token %.2f s, with VTC %.2f s\n",
               serve_scenario_of(day, CAPACITY).title, fair, vtc);
    }
}

static void hostile_check(void)
{
    double usual = p99_mean(DAY_NEIGHBOUR, &policy_fair), worst = 0;
    for (enum serve_day day = DAY_FIRST_HOSTILE; day < DAYS_COUNT; day++) {
        double p99 = p99_mean(day, &policy_fair);
        MUST(p99 <= HOSTILE_FACTOR * usual, "%s: p99 of the others is %.2f s, usually %.2f s",
             serve_scenario_of(day, CAPACITY).name, p99, usual);
        worst = fmax(worst, p99 / usual);
    }
    printf("whoever means ill: p99 of the others' first token at most %.1f times the usual %.2f "
           "s\n",
           worst, usual);
}

int main(void)
{
    lengths_check();
    arrivals_check();
    cost_check();
    gaps_check();
    ends_check();
    machines_check();
    same_check();
    fair_check();
    hostile_check();
    printf("%llu steps\n", (unsigned long long)steps_count);
    return 0;
}
