/*
 * bench_sim: the fair policy beside first come, first served, VTC, and VTC that reserves
 * max_tokens, on the same simulated days (tests/sim/serve_*.h).
 *
 *     bench_sim [--seeds FIRST LAST] [--flights N] [--machine N] [--series FILE] [--fair NAME=N
 * ...]
 *
 * Prints the comparison, then `measure` lines for the claims. Seeds 101 to 106 are those of the
 * claims, and the default; whoever tunes uses others. --series writes what the figures are drawn
 * from, tab-separated. Costs of steps are those of `24 GB card, 7B dense` unless --machine says
 * another row of serve_presets; --fair sets a field of sched_fairness.
 *
 * A tail is that of all tenants but the heavy one, of each seed, averaged over the seeds. A worst
 * gap is the worst over the seeds.
 */
#include <math.h>

#include "tests/sim/policy_vtc.h"
#include "tests/sim/serve_scenarios.h"

#define SEEDS_MAX 32
#define CAPACITY_SEED 99
#define CAPACITY_S 300

enum contender { FCFS, VTC, VTC_RESERVE, FAIR, CONTENDERS_COUNT };

static const struct sched_policy *const policies[CONTENDERS_COUNT] = {
    &policy_fcfs, &policy_vtc, &policy_vtc_reserve, &policy_fair};
static const char *const policy_titles[CONTENDERS_COUNT] = {"FCFS (vLLM V1)", "VTC",
                                                            "VTC, max_tokens reserved", "fair"};

/* Over the seeds. */
struct summary {
    double first_p50, first_p95, first_p99, each_p50, each_p99, heavy_first_p50, heavy_first_p99;
    double gap_worst, gap_mean, last_gap_worst, useful, recomputed_worst, recomputed, preempted,
        jain;
    double share_error_worst; /* of weighted shares from their mean, as a part of it */
    double steps, spent_s, running_most;
};

static struct {
    uint64_t seed_first, seed_last;
    uint32_t flights;
    enum serve_machine machine;
    FILE *series;
    struct sched_fairness fairness;
    double steps, spent_s;
} options = {.seed_first = 101, .seed_last = 106, .flights = 1, .machine = CARD_24GB};

static void run_one(const struct serve_scenario *scenario, enum contender who, uint64_t seed,
                    struct serve_result *ret_result)
{
    struct serve_setting setting = {.preset = &serve_presets[options.machine],
                                    .policy = policies[who],
                                    .fairness = options.fairness,
                                    .n_habits = scenario->n_habits,
                                    .habits = scenario->habits,
                                    .seed = seed,
                                    .duration_s = scenario->duration_s,
                                    .pool_tokens = scenario->pool_tokens,
                                    .flights = options.flights};
    if (!serve_world_run(&setting, ret_result))
        exit(1);
}

static double capacity_measure(enum serve_day day)
{
    struct serve_scenario scenario = serve_scenario_full(day);
    double best = 0;
    scenario.duration_s = CAPACITY_S;
    for (enum contender who = FCFS; who <= VTC_RESERVE; who++) {
        struct serve_result result;
        run_one(&scenario, who, CAPACITY_SEED, &result);
        best = fmax(best, result.useful_tokens_per_s);
        serve_result_close(&result);
    }
    return best;
}

static double share_error(const struct serve_scenario *scenario, const struct serve_result *r)
{
    double all = 0, weights = 0, worst = 0;
    for (uint32_t i = 0; i < r->n_tenants; i++) {
        all += r->tenants[i].service;
        weights += u32_max(scenario->habits[i].weight, 1);
    }
    for (uint32_t i = 0; i < r->n_tenants; i++) {
        double due = all * u32_max(scenario->habits[i].weight, 1) / weights;
        worst = fmax(worst, fabs(r->tenants[i].service / due - 1));
    }
    return worst;
}

static void series_write(const struct serve_scenario *scenario, enum contender who,
                         const struct summary *s, struct serve_times *times)
{
    static const int permilles[] = {10,  50,  100, 200, 300, 400, 500, 600, 700, 800, 850,
                                    900, 925, 950, 960, 970, 980, 985, 990, 995, 999};
    for (size_t i = 0; options.series && i < array_count(permilles); i++)
        fprintf(options.series, "%s\t%s\t%d\t%.4f\n", scenario->name, policies[who]->name,
                permilles[i], serve_times_quantile(times, permilles[i] / 1000.0));
    if (options.series)
        fprintf(options.series, "%s\t%s\tp99\t%.4f\n%s\t%s\tgap\t%.0f\n%s\t%s\tuseful\t%.1f\n",
                scenario->name, policies[who]->name, s->first_p99, scenario->name,
                policies[who]->name, s->gap_worst, scenario->name, policies[who]->name, s->useful);
}

static void result_add(struct summary *s, const struct serve_scenario *scenario,
                       struct serve_result *r, double part, struct serve_times *all_first)
{
    struct serve_times first = {0}, each = {0}, heavy = {0};
    for (uint32_t i = 0; i < r->n_tenants; i++) {
        serve_times_join(scenario->habits[i].is_heavy ? &heavy : &first, &r->tenants[i].first);
        if (!scenario->habits[i].is_heavy)
            serve_times_join(&each, &r->tenants[i].each);
    }
    serve_times_join(all_first, &first);
    s->first_p50 += part * serve_times_quantile(&first, 0.5);
    s->first_p95 += part * serve_times_quantile(&first, 0.95);
    s->first_p99 += part * serve_times_quantile(&first, 0.99);
    s->each_p50 += part * serve_times_quantile(&each, 0.5);
    s->each_p99 += part * serve_times_quantile(&each, 0.99);
    s->heavy_first_p50 += part * serve_times_quantile(&heavy, 0.5);
    s->heavy_first_p99 += part * serve_times_quantile(&heavy, 0.99);
    s->gap_worst = fmax(s->gap_worst, r->worst_gap);
    s->gap_mean += part * r->worst_gap;
    s->last_gap_worst = fmax(s->last_gap_worst, r->last_gap);
    s->useful += part * r->useful_tokens_per_s;
    s->recomputed += part * r->recomputed_part;
    s->recomputed_worst = fmax(s->recomputed_worst, r->recomputed_part);
    s->preempted += part * (double)r->preempted;
    s->jain += part * r->jain;
    s->share_error_worst = fmax(s->share_error_worst, share_error(scenario, r));
    s->steps += (double)r->steps;
    s->spent_s += r->spent_s;
    s->running_most = fmax(s->running_most, (double)r->running_most);
    serve_times_free(&first);
    serve_times_free(&each);
    serve_times_free(&heavy);
}

static struct summary play(const struct serve_scenario *scenario, enum contender who)
{
    struct summary s = {0};
    struct serve_times all_first = {0};
    double part = 1 / (double)(options.seed_last - options.seed_first + 1);
    for (uint64_t seed = options.seed_first; seed <= options.seed_last; seed++) {
        struct serve_result result;
        run_one(scenario, who, seed, &result);
        result_add(&s, scenario, &result, part, &all_first);
        serve_result_close(&result);
    }
    series_write(scenario, who, &s, &all_first);
    serve_times_free(&all_first);
    if (s.running_most <= 64) {
        options.steps += s.steps;
        options.spent_s += s.spent_s;
    }
    return s;
}

/* ---- what is printed ---- */

static void row_print(enum contender who, const struct summary *s)
{
    printf(
        "| %-24s | %7.2f | %7.2f | %7.2f | %6.0f | %6.0f | %7.1f | %7.1f | %7.0f | %7.0f | %6.0f "
        "| %5.2f | %5.3f |\n",
        policy_titles[who], s->first_p50, s->first_p95, s->first_p99, 1e3 * s->each_p50,
        1e3 * s->each_p99, s->heavy_first_p50, s->heavy_first_p99, s->gap_worst, s->gap_mean,
        s->useful, 100 * s->recomputed, s->jain);
}

static void head_print(const char *title, double capacity)
{
    printf("\n%s", title);
    if (capacity > 0)
        printf(" (capacity %.0f tokens/s)", capacity);
    printf(
        "\n\n| policy | TTFT p50 s | p95 | p99 | TPOT p50 ms | p99 | the heavy one: TTFT p50 s | "
        "p99 | worst gap | mean of seeds | useful tokens/s | recomputed %% | Jain |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
}

static void measure(const char *scenario, const char *what, double value, const char *unit)
{
    printf("measure %s_%s %.6g %s\n", scenario, what, value, unit);
}

static double useful_best(const struct summary *s)
{
    return fmax(fmax(s[FCFS].useful, s[VTC].useful), s[VTC_RESERVE].useful);
}

static double compare(enum serve_day day)
{
    double capacity = capacity_measure(day);
    struct serve_scenario scenario = serve_scenario_of(day, capacity);
    struct summary s[CONTENDERS_COUNT];
    head_print(scenario.title, capacity);
    for (enum contender who = FCFS; who < CONTENDERS_COUNT; who++) {
        s[who] = play(&scenario, who);
        row_print(who, &s[who]);
    }
    measure(scenario.name, "ttft_part", s[FAIR].first_p99 / s[VTC].first_p99, "x");
    measure(scenario.name, "gap_part", s[FAIR].gap_worst / s[VTC].gap_worst, "x");
    measure(scenario.name, "useful_part", 100 * s[FAIR].useful / useful_best(s), "%");
    measure(scenario.name, "recomputed", 100 * s[FAIR].recomputed_worst, "%");
    return capacity;
}

static void weights_play(void)
{
    struct serve_scenario scenario = serve_scenario_of(DAY_WEIGHTS, 0);
    struct summary s[CONTENDERS_COUNT];
    head_print(scenario.title, 0);
    for (enum contender who = FCFS; who < CONTENDERS_COUNT; who++) {
        s[who] = play(&scenario, who);
        row_print(who, &s[who]);
    }
    printf("shares are off by at most %.2f %% (VTC: %.2f %%)\n", 100 * s[FAIR].share_error_worst,
           100 * s[VTC].share_error_worst);
    measure(scenario.name, "error", 100 * s[FAIR].share_error_worst, "%");
}

static void two_clients_play(void)
{
    struct serve_scenario scenario = serve_scenario_of(DAY_TWO_CLIENTS, 0);
    struct summary s[CONTENDERS_COUNT];
    head_print(scenario.title, 0);
    for (enum contender who = FCFS; who < CONTENDERS_COUNT; who++) {
        s[who] = play(&scenario, who);
        row_print(who, &s[who]);
    }
    printf("gap at 300 s, the worst of the seeds:");
    for (enum contender who = FCFS; who < CONTENDERS_COUNT; who++)
        printf(" %s %.0f%s", policy_titles[who], s[who].last_gap_worst, who == FAIR ? "\n" : ";");
    /* VTC as it was published reserves max_tokens. */
    measure(scenario.name, "gap", s[FAIR].last_gap_worst, "service");
    measure(scenario.name, "useful_part", 100 * s[FAIR].useful / s[VTC_RESERVE].useful, "%");
}

static void hostile_play(double capacity)
{
    printf("\nwho means ill: p99 of the honest ones' TTFT, s\n\n| day | FCFS | VTC | fair | fair, "
           "recomputed %% |\n|---|---|---|---|---|\n");
    for (enum serve_day day = DAY_CALM; day < DAYS_COUNT; day++) {
        struct serve_scenario scenario = serve_scenario_of(day, capacity);
        scenario.duration_s = 300;
        struct summary fcfs = play(&scenario, FCFS), vtc = play(&scenario, VTC),
                       fair = play(&scenario, FAIR);
        printf("| %-12s | %7.2f | %7.2f | %7.2f | %5.2f |\n", scenario.title, fcfs.first_p99,
               vtc.first_p99, fair.first_p99, 100 * fair.recomputed);
    }
}

/* NAME=N; 0 is none. */
static bool fairness_read(const char *word)
{
    struct sched_fairness *f = &options.fairness;
    const struct {
        const char *name;
        uint32_t *value;
    } fields[] = {{"quantum=", &f->quantum_tokens},    {"lead=", &f->lead_cost},
                  {"credit=", &f->credit_cost},        {"reclaim=", &f->reclaim_cost},
                  {"price=", &f->reclaim_price},       {"recompute=", &f->recompute_permille},
                  {"headroom=", &f->headroom_permille}};
    for (size_t i = 0; i < array_count(fields); i++) {
        size_t length = strlen(fields[i].name);
        if (strncmp(word, fields[i].name, length) != 0)
            continue;
        uint32_t value = (uint32_t)strtoul(word + length, NULL, 10);
        *fields[i].value = value ? value : SCHED_NONE;
        return true;
    }
    return false;
}

static void options_read(int n, char **words)
{
    for (int i = 1; i < n; i++) {
        bool more = i + 1 < n;
        if (!strcmp(words[i], "--seeds") && i + 2 < n) {
            options.seed_first = strtoull(words[++i], NULL, 10);
            options.seed_last = strtoull(words[++i], NULL, 10);
        } else if (!strcmp(words[i], "--flights") && more) {
            options.flights = (uint32_t)strtoul(words[++i], NULL, 10);
        } else if (!strcmp(words[i], "--machine") && more) {
            options.machine = (enum serve_machine)strtoul(words[++i], NULL, 10);
        } else if (!strcmp(words[i], "--series") && more) {
            options.series = fopen(words[++i], "w");
        } else if (!strcmp(words[i], "--fair") && more && fairness_read(words[i + 1])) {
            i++;
        } else {
            fprintf(stderr,
                    "bench_sim: unknown word %s; --seeds FIRST LAST, --flights N, --machine "
                    "N, --series FILE, --fair NAME=N\n",
                    words[i]);
            exit(64);
        }
    }
    if (options.seed_last < options.seed_first || options.flights < 1 ||
        options.flights > SCHED_STEPS_MAX || options.machine >= MACHINES_COUNT) {
        fprintf(stderr, "bench_sim: seeds go upwards, flights are 1 or 2, machines 0 to %d\n",
                MACHINES_COUNT - 1);
        exit(64);
    }
}

int main(int n, char **words)
{
    options_read(n, words);
    printf("seeds %llu to %llu; steps cost as on: %s; steps in flight: %u\n",
           (unsigned long long)options.seed_first, (unsigned long long)options.seed_last,
           serve_presets[options.machine].name, options.flights);
    for (enum serve_day day = 0; day < DAYS_COMPARED; day++)
        compare(day);
    weights_play();
    two_clients_play();
    hostile_play(capacity_measure(DAY_NEIGHBOUR));
    double rate = options.steps / fmax(options.spent_s, 1e-9);
    printf("\n%.0f steps with at most 64 running, %.0f a second of CPU time\n", options.steps,
           rate);
    measure("sim", "steps_per_s", rate, "1/s");
    if (options.series)
        fclose(options.series);
    return 0;
}
