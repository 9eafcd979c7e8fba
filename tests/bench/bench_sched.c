/*
 * bench_sched: what the scheduler costs with 256 running and 1,000 waiting, two steps in flight.
 *
 * Every sequence decodes until its random length; whoever ends is replaced from the line, and a new
 * request joins it. So a plan holds some 256 rows and now and then a close, an open and a chunk.
 * Times are single calls with the clock's own cost taken off. The pool is large enough: nobody is
 * preempted. "back" is the way back of a step: 256 sched_sampled and one sched_retired.
 */
#include "base/clock.h"
#include "sched/policy.h"

enum { SLOTS = 256, WAITING = 1000, STEPS = 20000, WARM_STEPS = 500, CANCELS = 4000 };

static const struct sched_limits limits = {.requests_max = WAITING + 4 * SLOTS,
                                           .waiting_max = WAITING + 2 * SLOTS,
                                           .slots_max = SLOTS,
                                           .blocks_count = SLOTS * 64,
                                           .block_tokens = 16,
                                           .context_tokens = 1024,
                                           .step_tokens_max = 2048,
                                           .step_rows_max = SLOTS,
                                           .chunk_tokens_max = 512,
                                           .open_tokens_max = 8192};

static struct sched *sched;
static uint64_t clock_cost_ns;

static uint32_t random_next(void)
{
    static uint64_t state = 20261124;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

static uint64_t since_ns(uint64_t start_ns)
{
    uint64_t spent_ns = clock_now_ns() - start_ns;
    return spent_ns > clock_cost_ns ? spent_ns - clock_cost_ns : 0;
}

static int u64_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void report(const char *name, uint64_t *times_ns, size_t n)
{
    qsort(times_ns, n, sizeof *times_ns, u64_compare);
    uint64_t p50 = times_ns[n / 2], p99 = times_ns[n * 99 / 100];
    printf("%-10s p50 %6llu ns   p99 %6llu ns   (%zu calls)\n", name, (unsigned long long)p50,
           (unsigned long long)p99, n);
    printf("measure %s_p50 %llu ns\nmeasure %s_p99 %llu ns\n", name, (unsigned long long)p50, name,
           (unsigned long long)p99);
}

static sched_id submit(void)
{
    struct sched_submission submission = {.request_id = random_next(),
                                          .deadline_ns = 1000000000 + random_next(),
                                          .prompt_tokens = 32 + random_next() % 480,
                                          .output_tokens_max = 64 + random_next() % 448};
    struct error error;
    sched_id id;
    if (sched_submit(sched, &submission, 1, &id, &error) != STATUS_OK) {
        fprintf(stderr, "bench_sched: %s\n", error.text);
        exit(1);
    }
    return id;
}

/* A step in flight: whose tokens it gives. */
struct handed_over {
    uint64_t step;
    uint32_t n;
    sched_id ids[SLOTS];
};

static struct handed_over flights[SCHED_STEPS_MAX];
static uint64_t plan_times_ns[STEPS], back_times_ns[STEPS];
static uint64_t rows_count, opens_count;

static void plan_one(size_t i)
{
    uint64_t start_ns = clock_now_ns();
    const struct sched_plan *plan = sched_plan(sched, 1);
    plan_times_ns[i] = since_ns(start_ns);
    struct handed_over *flight = &flights[plan->step % SCHED_STEPS_MAX];
    flight->step = plan->step;
    flight->n = 0;
    for (uint32_t r = 0; r < plan->n_rows; r++)
        if (plan->rows[r].samples)
            flight->ids[flight->n++] = plan->rows[r].id;
    rows_count += plan->n_rows;
    opens_count += plan->n_opens;
}

static void back_one(size_t i, uint64_t step)
{
    struct handed_over *flight = &flights[step % SCHED_STEPS_MAX];
    uint64_t start_ns = clock_now_ns();
    for (uint32_t r = 0; r < flight->n; r++)
        sched_sampled(sched, step, flight->ids[r], false);
    sched_retired(sched, step, 1);
    back_times_ns[i] = since_ns(start_ns);
    struct sched_ended ended;
    while (sched_next_ended(sched, &ended))
        submit();
}

/* As many wait again as should, while the slots fill up. */
static void line_fill(void)
{
    struct sched_stats stats;
    for (sched_stats(sched, &stats); stats.waiting < WAITING; stats.waiting++)
        submit();
}

static void clock_measure(void)
{
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        uint64_t start_ns = clock_now_ns(), end_ns = clock_now_ns();
        best_ns = end_ns - start_ns < best_ns ? end_ns - start_ns : best_ns;
    }
    clock_cost_ns = best_ns;
}

static void submit_and_cancel(void)
{
    static uint64_t submit_ns[CANCELS], cancel_ns[CANCELS];
    for (size_t i = 0; i < CANCELS; i++) {
        uint64_t start_ns = clock_now_ns();
        sched_id id = submit();
        submit_ns[i] = since_ns(start_ns);
        start_ns = clock_now_ns();
        sched_cancel(sched, id);
        cancel_ns[i] = since_ns(start_ns);
        struct sched_ended ended;
        sched_next_ended(sched, &ended);
    }
    report("submit", submit_ns, CANCELS);
    report("cancel", cancel_ns, CANCELS);
}

int main(void)
{
    struct error error;
    if (sched_open(&limits, &policy_fcfs, &sched, &error) != STATUS_OK) {
        fprintf(stderr, "bench_sched: %s\n", error.text);
        return 1;
    }
    clock_measure();
    line_fill();
    plan_one(0);
    uint64_t next = 1;
    for (size_t i = 0; i < WARM_STEPS + STEPS; i++, next++) {
        size_t at = i < WARM_STEPS ? 0 : i - WARM_STEPS;
        plan_one(at);
        back_one(at, next);
        if (i < WARM_STEPS)
            line_fill();
        if (i + 1 == WARM_STEPS)
            rows_count = opens_count = 0;
    }
    struct sched_stats stats;
    sched_stats(sched, &stats);
    printf("%u running, %u waiting; a step has %.1f rows and %.2f opens; %zu bytes\n",
           stats.running, stats.waiting, (double)rows_count / STEPS, (double)opens_count / STEPS,
           sched_footprint(&limits, &policy_fcfs));
    report("plan", plan_times_ns, STEPS);
    report("back", back_times_ns, STEPS);
    submit_and_cancel();
    sched_check(sched);
    sched_close(sched);
    return 0;
}
