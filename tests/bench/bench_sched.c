/*
 * bench_sched: what the scheduler costs with 256 running and 10,000 waiting of 1,000 tenants, two
 * steps in flight.
 *
 * Every sequence decodes until its random length; whoever ends is replaced from the line, and a new
 * request of a random tenant joins it. So a plan holds some 256 rows and now and then a close, an
 * open and chunks. Three settings: `fcfs`, the plain policy; `plan`, the fair one with blocks
 * enough; `tight`, the fair one with a pool so small that in each step somebody waits for blocks
 * and preemption for fairness is weighed. Prompts carry digests; a quarter of them begin as others
 * of their tenant do. "back" is the way back of a step: 256 sched_sampled and one sched_retired.
 *
 * Times are single calls with the clock's own cost taken off. Calls into the allocator between the
 * first step and the last are counted.
 */
#include "base/clock.h"
#include "sched/books.h"
#include "sched/quota.h"
#include "tests/sim/alloc_trap.h"

enum {
    SLOTS = 256,
    WAITING = 10000,
    STEPS = 20000,
    WARM_STEPS = 2000,
    CANCELS = 4000,
    ORGANISATIONS = 10,
    PROJECTS = 10, /* of each organisation */
    KEYS = 10,     /* of each project */
    TENANTS = ORGANISATIONS * PROJECTS * KEYS,
    ROWS = ORGANISATIONS + ORGANISATIONS * PROJECTS + TENANTS,
    BLOCK_TOKENS = 16,
    CONTEXT_TOKENS = 1024,
    DIGESTS = CONTEXT_TOKENS / BLOCK_TOKENS,
    REQUESTS = WAITING + 4 * SLOTS
};

static struct sched_limits limits = {.requests_max = REQUESTS,
                                     .waiting_max = WAITING + 2 * SLOTS,
                                     .slots_max = SLOTS,
                                     .block_tokens = BLOCK_TOKENS,
                                     .context_tokens = CONTEXT_TOKENS,
                                     .step_tokens_max = 2048,
                                     .step_rows_max = SLOTS,
                                     .chunk_tokens_max = 512,
                                     .open_tokens_max = 8192,
                                     .tenants_max = ROWS};

static struct sched *sched;
static uint64_t clock_cost_ns;
static struct sched_digest digests[REQUESTS][DIGESTS]; /* by id */
static struct sched_digest spare[DIGESTS];

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
    printf("%-12s p50 %6llu ns   p99 %6llu ns   (%zu calls)\n", name, (unsigned long long)p50,
           (unsigned long long)p99, n);
    printf("measure %s_p50 %llu ns\nmeasure %s_p99 %llu ns\n", name, (unsigned long long)p50, name,
           (unsigned long long)p99);
}

static void digest_random(struct sched_digest *digest)
{
    for (size_t i = 0; i < sizeof digest->bytes; i += 4) {
        uint32_t word = random_next();
        memcpy(digest->bytes + i, &word, sizeof word);
    }
}

/* The beginning that requests of a tenant share: the same names each time. */
static void digest_shared(struct sched_digest *digest, uint32_t tenant, uint32_t block)
{
    uint64_t x = ((uint64_t)tenant << 32 | block) * 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < sizeof digest->bytes; i += 8) {
        x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
        memcpy(digest->bytes + i, &x, sizeof x);
    }
}

/* A request that is ready to be submitted: making it is not what is measured. */
static struct sched_submission submission_draw(void)
{
    uint32_t tenant = ROWS - TENANTS + random_next() % TENANTS;
    struct sched_submission s = {.request_id = random_next(),
                                 .tenant = tenant,
                                 .class = random_next() % 4 ? CLASS_INTERACTIVE : CLASS_BATCH,
                                 .deadline_ns =
                                     random_next() % 2 ? UINT64_MAX : 1000000000 + random_next(),
                                 .cache_domain = tenant,
                                 .prompt_tokens = 32 + random_next() % 480,
                                 .output_tokens_max = 64 + random_next() % 448};
    uint32_t shared = random_next() % 4 ? 0 : 1 + random_next() % DIGESTS;
    s.n_digests = s.prompt_tokens / BLOCK_TOKENS;
    for (uint32_t i = 0; i < s.n_digests; i++)
        if (i < shared)
            digest_shared(&spare[i], tenant, i);
        else
            digest_random(&spare[i]);
    s.digests = spare;
    return s;
}

static sched_id submit(const struct sched_submission *submission)
{
    struct error error;
    sched_id id;
    if (sched_submit(sched, submission, 1, &id, &error) != STATUS_OK) {
        fprintf(stderr, "bench_sched: %s\n", error.text);
        exit(1);
    }
    return id;
}

static void submit_one(void)
{
    struct sched_submission s = submission_draw();
    /* The digests must stay: they move to the place of the id that it will get. */
    sched_id next = sched->free_ids[sched->n_free_ids - 1];
    memcpy(digests[next], spare, sizeof spare);
    s.digests = digests[next];
    submit(&s);
}

/* A step in flight: whose tokens it gives. */
struct handed_over {
    uint64_t step;
    uint32_t n;
    sched_id ids[SLOTS];
};

static struct handed_over flights[SCHED_STEPS_MAX];
static uint64_t plan_times_ns[STEPS], back_times_ns[STEPS];
static uint64_t rows_count, opens_count, steps_count;

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
    steps_count += plan->step > 0;
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
        submit_one();
}

/* As many wait again as should, while the slots fill up. */
static void line_fill(void)
{
    struct sched_stats stats;
    for (sched_stats(sched, &stats); stats.waiting < WAITING; stats.waiting++)
        submit_one();
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
        struct sched_submission s = submission_draw();
        uint64_t start_ns = clock_now_ns();
        sched_id id = submit(&s);
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

/* Prompts of 64 blocks that the cache has whole, of tenants in random order: cold for the CPU. */
static void lookup_measure(void)
{
    enum { LOOKUPS = 4000, PROMPT_BLOCKS = 64 };
    static uint64_t times_ns[LOOKUPS];
    struct sched_limits l = {.blocks_count = TENANTS * PROMPT_BLOCKS};
    struct prefix prefix;
    void *memory = calloc(1, prefix_footprint(&l));
    struct sched_digest(*names)[PROMPT_BLOCKS] = calloc(TENANTS, sizeof *names);
    if (!memory || !names)
        exit(1);
    prefix_init(&prefix, &l, memory);
    for (uint32_t t = 0; t < TENANTS; t++)
        for (uint32_t b = 0; b < PROMPT_BLOCKS; b++) {
            digest_shared(&names[t][b], t, b);
            prefix_name(&prefix, t * PROMPT_BLOCKS + b, &names[t][b]);
            CHECK(prefix_list(&prefix, t * PROMPT_BLOCKS + b, t + 1, UINT32_MAX));
        }
    for (size_t i = 0; i < LOOKUPS; i++) {
        uint32_t found[PROMPT_BLOCKS], t = random_next() % TENANTS;
        uint64_t start_ns = clock_now_ns();
        uint32_t n = prefix_match(&prefix, t + 1, names[t], PROMPT_BLOCKS, found);
        times_ns[i] = since_ns(start_ns) / PROMPT_BLOCKS;
        CHECK(n == PROMPT_BLOCKS);
    }
    report("lookup_block", times_ns, LOOKUPS);
    free(names);
    free(memory);
}

static void table_set(void)
{
    static struct tenant_row rows[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t project = i - ORGANISATIONS, key = project - ORGANISATIONS * PROJECTS;
        rows[i] = (struct tenant_row){.weight = 1 + i % 4};
        rows[i].parent = i < ORGANISATIONS    ? TENANT_TOP
                         : i < ROWS - TENANTS ? project / PROJECTS
                                              : ORGANISATIONS + key / KEYS;
    }
    struct error error;
    struct tenant_table table = {.n_rows = ROWS, .rows = rows};
    if (sched_set_tenants(sched, &table, &error) != STATUS_OK) {
        fprintf(stderr, "bench_sched: %s\n", error.text);
        exit(1);
    }
}

/* One request more, and one less: reserve, begin, settle at three levels, of tenants in random
 * order. With credit in the lease; and with limits so near that each goes to the tree. */
static void quota_measure(const char *name, uint64_t concurrent_max)
{
    enum { CALLS = 20000, HELD = 64 };
    static struct quota_row rows[ROWS];
    static uint64_t times_ns[CALLS];
    static struct reservation held[HELD];
    struct quota *quota = NULL;
    struct quota_lease *lease = NULL;
    struct quota_time time = {.now_ns = 1, .wall_ns = 1793491200ull * NS_PER_S};
    struct error error;
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t project = i - ORGANISATIONS, key = project - ORGANISATIONS * PROJECTS;
        rows[i] = (struct quota_row){.mode = i % 2 ? QUOTA_HARD : QUOTA_SOFT,
                                     .requests_per_minute = 1000000,
                                     .tokens_per_minute = 100000000,
                                     .tokens_per_month = QUOTA_VALUE_MAX,
                                     .concurrent_max = concurrent_max,
                                     .queued_tokens_max = 100000000};
        rows[i].parent = i < ORGANISATIONS    ? QUOTA_TOP
                         : i < ROWS - TENANTS ? project / PROJECTS
                                              : ORGANISATIONS + key / KEYS;
    }
    struct quota_table table = {.n_rows = ROWS, .rows = rows};
    if (quota_open(ROWS, 2, &quota, &error) != STATUS_OK ||
        quota_set(quota, &table, &time, &error) != STATUS_OK ||
        quota_lease_open(quota, &lease, &error) != STATUS_OK) {
        fprintf(stderr, "bench_sched: %s\n", error.text);
        exit(1);
    }
    for (size_t i = 0; i < CALLS; i++) {
        struct reservation *r = &held[i % HELD];
        struct quota_ask ask = {.tenant = ROWS - TENANTS + random_next() % 64,
                                .choices = 1,
                                .prompt_tokens = 1 + random_next() % 500,
                                .output_tokens_max = 1 + random_next() % 500};
        uint64_t start_ns = clock_now_ns();
        if (r->state == RESERVATION_HELD) {
            quota_begin(lease, r);
            quota_settle(lease, r, r->prompt_tokens, r->output_tokens_max / 2, time.now_ns);
        }
        enum status status = quota_reserve(lease, &ask, &time, r, &error);
        times_ns[i] = since_ns(start_ns);
        CHECK(status == STATUS_OK);
        time.now_ns += 1000000;
        if (i % 8 == 0)
            quota_lease_turn(lease, &time);
    }
    struct quota_stats stats;
    quota_stats(quota, &stats);
    printf("%s: %llu of %d requests were drawn from the tree\n", name,
           (unsigned long long)stats.draws_total, CALLS);
    report(name, times_ns, CALLS);
    for (size_t i = 0; i < HELD; i++)
        quota_settle(lease, &held[i], 0, 0, time.now_ns);
    memset(held, 0, sizeof held);
    quota_lease_close(lease, &time);
    quota_close(quota);
}

/* A refusal asks all 16 leases back first, each time; every one of them has requests that run. */
static void refusal_measure(void)
{
    enum { CALLS = 20000, LEASES = 16 };
    static uint64_t times_ns[CALLS];
    static struct reservation held[LEASES], none;
    const struct quota_row rows[3] = {
        {.parent = QUOTA_TOP}, {.parent = 0}, {.parent = 1, .concurrent_max = LEASES}};
    const struct quota_table table = {.n_rows = 3, .rows = rows};
    struct quota *quota = NULL;
    struct quota_lease *leases[LEASES];
    struct quota_time time = {.now_ns = 1, .wall_ns = 1793491200ull * NS_PER_S};
    const struct quota_ask ask = {
        .tenant = 2, .prompt_tokens = 100, .output_tokens_max = 100, .choices = 1};
    struct error error;
    CHECK(quota_open(3, LEASES, &quota, &error) == STATUS_OK);
    CHECK(quota_set(quota, &table, &time, &error) == STATUS_OK);
    for (uint32_t i = 0; i < LEASES; i++) {
        CHECK(quota_lease_open(quota, &leases[i], &error) == STATUS_OK);
        CHECK(quota_reserve(leases[i], &ask, &time, &held[i], &error) == STATUS_OK);
    }
    for (size_t i = 0; i < CALLS; i++) {
        struct quota_lease *lease = leases[i % LEASES];
        uint64_t start_ns = clock_now_ns();
        CHECK(quota_reserve(lease, &ask, &time, &none, &error) == STATUS_EXHAUSTED);
        times_ns[i] = since_ns(start_ns);
    }
    report("quota_refuse", times_ns, CALLS);
    for (uint32_t i = 0; i < LEASES; i++) {
        quota_settle(leases[i], &held[i], 0, 0, time.now_ns);
        quota_lease_close(leases[i], &time);
    }
    quota_close(quota);
}

static void setting_run(const char *name, const struct sched_policy *policy, uint32_t blocks_count)
{
    struct error error;
    limits.blocks_count = blocks_count;
    if (sched_open(&limits, policy, &sched, &error) != STATUS_OK) {
        fprintf(stderr, "bench_sched: %s\n", error.text);
        exit(1);
    }
    table_set();
    line_fill();
    plan_one(0);
    uint64_t next = 1;
    for (size_t i = 0; i < WARM_STEPS; i++, next++) {
        plan_one(0);
        back_one(0, next);
        line_fill();
    }
    rows_count = opens_count = 0;
    alloc_trap_arm();
    for (size_t i = 0; i < STEPS; i++, next++) {
        plan_one(i);
        back_one(i, next);
    }
    struct alloc_counts allocs = alloc_trap_disarm();
    struct sched_stats stats;
    sched_stats(sched, &stats);
    printf("%s: %u running, %u waiting; a step has %.1f rows and %.2f opens; %llu preemptions, "
           "%llu tokens cached; %zu bytes\n",
           name, stats.running, stats.waiting, (double)rows_count / STEPS,
           (double)opens_count / STEPS, (unsigned long long)stats.preempted_total,
           (unsigned long long)stats.cached_tokens_total, sched_footprint(&limits, policy));
    char measure[32];
    snprintf(measure, sizeof measure, "%s_step", name);
    report(measure, plan_times_ns, STEPS);
    snprintf(measure, sizeof measure, "%s_back", name);
    report(measure, back_times_ns, STEPS);
    printf("measure %s_allocations %llu calls\n", name, (unsigned long long)allocs.calls);
}

int main(void)
{
    clock_measure();
    setting_run("fcfs", &policy_fcfs, SLOTS * 64);
    sched_close(sched);
    setting_run("tight", &policy_fair, SLOTS * 14);
    sched_close(sched);
    setting_run("fair", &policy_fair, SLOTS * 64);
    submit_and_cancel();
    sched_check(sched);
    sched_close(sched);
    lookup_measure();
    quota_measure("quota", 1000000);
    quota_measure("quota_near", 80);
    refusal_measure();
    return 0;
}
