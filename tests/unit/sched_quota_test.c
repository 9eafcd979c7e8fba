/* Quotas: each limit by itself, who refuses and until when, debts, budgets, leases, tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sched/quota_tree.h"

#define S 1000000000ull
#define MINUTE (60 * S)
#define DAY (86400 * S)
#define NOVEMBER (20771ull * DAY) /* 2026-11-14 */
#define ROWS 4

struct bench {
    struct quota *quota;
    struct quota_lease *lease, *other;
    struct quota_time time;
    struct error error;
    struct reservation r;
};

static void bench_open(struct bench *b)
{
    *b = (struct bench){.time = {.now_ns = S, .wall_ns = NOVEMBER}};
    assert_int_equal(quota_open(ROWS, 2, &b->quota, &b->error), STATUS_OK);
    assert_int_equal(quota_lease_open(b->quota, &b->lease, &b->error), STATUS_OK);
    assert_int_equal(quota_lease_open(b->quota, &b->other, &b->error), STATUS_OK);
    struct quota_lease *third;
    assert_int_equal(quota_lease_open(b->quota, &third, &b->error), STATUS_EXHAUSTED);
}

/* Everything was settled: nothing may be held, whatever happened before. */
static void bench_close(struct bench *b)
{
    quota_audit(b->quota);
    quota_lease_close(b->lease, &b->time);
    quota_lease_close(b->other, &b->time);
    for (uint32_t i = 0; i < b->quota->n_rows; i++)
        for (int k = 0; k < KIND_COUNT; k++)
            assert_int_equal(b->quota->nodes[i].held.n[k], 0);
    quota_close(b->quota);
}

static void table_take(struct bench *b, const struct quota_row *rows, uint32_t n)
{
    struct quota_table table = {.n_rows = n, .rows = rows};
    if (quota_set(b->quota, &table, &b->time, &b->error) != STATUS_OK)
        fail_msg("%s", b->error.text);
}

static void row_take(struct bench *b, struct quota_row row)
{
    row.name = "north";
    row.parent = QUOTA_TOP;
    table_take(b, &row, 1);
}

static enum status ask(struct bench *b, struct quota_lease *lease, uint32_t prompt, uint32_t output)
{
    struct quota_ask ask = {.choices = 1, .prompt_tokens = prompt, .output_tokens_max = output};
    b->r = (struct reservation){0};
    b->error = (struct error){0};
    return quota_reserve(lease, &ask, &b->time, &b->r, &b->error);
}

#define ACCEPTED(b, lease, prompt, output)                                                         \
    do {                                                                                           \
        if (ask(b, lease, prompt, output) != STATUS_OK)                                            \
            fail_msg("%s", (b)->error.text);                                                       \
    } while (0)

static void refused(struct bench *b, struct quota_lease *lease, uint32_t prompt, uint32_t output,
                    const char *limit, uint64_t retry_ns)
{
    assert_int_equal(ask(b, lease, prompt, output), STATUS_EXHAUSTED);
    assert_string_equal(b->error.limit, limit);
    assert_string_equal(b->error.subject, "organisation:north");
    assert_int_equal(b->error.retry_ns, retry_ns);
    assert_int_equal(b->r.state, RESERVATION_NONE);
}

/* Some request must end first; when is a guess, from how long they last. */
static void refused_for_others(struct bench *b, uint32_t prompt, uint32_t output, const char *limit)
{
    assert_int_equal(ask(b, b->lease, prompt, output), STATUS_EXHAUSTED);
    assert_string_equal(b->error.limit, limit);
    assert_non_null(strstr(b->error.text, "must end first"));
    assert_true(b->error.retry_ns > 0 && b->error.retry_ns <= S);
}

static void refused_for_ever(struct bench *b, uint32_t prompt, uint32_t output, const char *field,
                             const char *limit)
{
    assert_int_equal(ask(b, b->lease, prompt, output), STATUS_INVALID);
    assert_string_equal(b->error.field, field);
    assert_string_equal(b->error.limit, limit);
    assert_int_equal(b->error.retry_ns, 0);
}

static void settle(struct bench *b, struct quota_lease *lease, struct reservation *r, uint32_t used)
{
    uint32_t prompt = used < r->prompt_tokens ? used : r->prompt_tokens;
    quota_settle(lease, r, prompt, used - prompt, b->time.now_ns);
    quota_lease_turn(lease, &b->time);
}

/* ---- the buckets ---- */

static void rates_are_exact_where_a_division_is_not(void **state)
{
    struct gcra gcra = {.per_minute = 0};
    bool waits;
    gcra_set(&gcra, 7, 2, S);
    gcra_charge(&gcra, 2);
    assert_int_equal(gcra_room(&gcra, 0), 0);
    uint64_t wait_ns = gcra_wait_ns(&gcra, 0, 1, &waits);
    assert_int_equal(wait_ns, 8571428572); /* 60 s / 7, rounded up */
    gcra_tick(&gcra, S + wait_ns - 1);
    assert_int_equal(gcra_room(&gcra, 0), 0);
    gcra_tick(&gcra, S + wait_ns);
    assert_int_equal(gcra_room(&gcra, 0), 1);
    /* 7 fit into a minute, 7,000,000 into a million of them: nothing is lost or gained. */
    uint64_t n = 0, start_ns = gcra.at_ns, now_ns = start_ns;
    gcra_set(&gcra, 7, 1, now_ns);
    gcra.used = 0;
    while (n < 70000) {
        gcra_charge(&gcra, 1);
        n++;
        now_ns += gcra_wait_ns(&gcra, 0, 1, &waits);
        gcra_tick(&gcra, now_ns);
    }
    assert_true(now_ns - start_ns >= 10000 * MINUTE && now_ns - start_ns < 10000 * MINUTE + n);
}

static void extremes_do_not_overflow(void **state)
{
    struct gcra gcra = {.per_minute = 0};
    bool waits;
    gcra_set(&gcra, GCRA_MAX, GCRA_MAX, 0);
    for (int i = 0; i < 100; i++)
        gcra_charge(&gcra, UINT64_MAX);
    assert_true(gcra.used == (gcra_units)GCRA_USED_MAX * GCRA_NS);
    uint64_t wait_ns = gcra_wait_ns(&gcra, UINT64_MAX, 1, &waits);
    assert_true(waits && wait_ns < GCRA_NEVER && wait_ns > 0);
    assert_int_equal(gcra_wait_ns(&gcra, 0, GCRA_MAX + 1, &waits), GCRA_NEVER);
    gcra_tick(&gcra, UINT64_MAX);
    assert_true(gcra.used == 0);
    gcra_tick(&gcra, 5); /* back: nothing */
    assert_int_equal(gcra.at_ns, UINT64_MAX);
    gcra_set(&gcra, 1, GCRA_MAX, 0);
    gcra_charge(&gcra, UINT64_MAX);
    wait_ns = gcra_wait_ns(&gcra, 0, GCRA_MAX, &waits);
    assert_int_equal(wait_ns, GCRA_NEVER - 1); /* beyond what 64 bits of ns can say */
}

static void months_are_those_of_the_calendar(void **state)
{
    struct month_span span = month_of(0);
    assert_int_equal(span.month, 1970 * 12);
    assert_int_equal(span.until_ns, 31 * DAY);
    span = month_of(NOVEMBER);
    assert_int_equal(span.month, 2026 * 12 + 10);
    assert_int_equal(span.from_ns, 1793491200ull * S); /* 2026-11-01 */
    assert_int_equal(span.until_ns, 1796083200ull * S);
    assert_int_equal(month_of(1709164800ull * S).month, 2024 * 12 + 1); /* 2024-02-29 */
    assert_int_equal(month_of(4107542399ull * S).month, 2100 * 12 + 1); /* 2100-02-28 23:59:59 */
    assert_int_equal(month_of(4107542400ull * S).month, 2100 * 12 + 2); /* no 29th */
    span = month_of(UINT64_MAX);
    assert_int_equal(span.month / 12, 2554);
    assert_int_equal(span.until_ns, UINT64_MAX);
    uint64_t at_ns = 0;
    for (uint32_t month = 1970 * 12; month < 2500 * 12; month++) {
        span = month_of(at_ns);
        assert_true(span.month == month && span.from_ns == at_ns);
        assert_int_equal(month_of(span.until_ns - 1).month, month);
        at_ns = span.until_ns;
    }
}

static void no_month_is_given_twice(void **state)
{
    struct month_uses uses = {.forgotten = 0};
    month_add(&uses, 100, 5);
    month_add(&uses, 900, 7); /* a visit to the far future */
    month_add(&uses, 100, 5);
    assert_int_equal(month_used(&uses, 100), 10);
    assert_int_equal(month_used(&uses, 900), 7);
    assert_int_equal(month_used(&uses, 101), 0);
    month_add(&uses, 101, 1);
    month_add(&uses, 102, 1);
    month_add(&uses, 103, 1); /* the fifth: 100 is forgotten */
    assert_true(month_used(&uses, 100) == UINT64_MAX && month_used(&uses, 99) == UINT64_MAX);
    assert_int_equal(month_used(&uses, 900), 7);
    month_add(&uses, 100, 5);
    assert_true(month_used(&uses, 100) == UINT64_MAX);
    month_add(&uses, 103, UINT64_MAX);
    assert_int_equal(month_used(&uses, 103), UINT64_MAX - 1);
}

/* ---- each limit ---- */

static void requests_come_back_at_the_stated_time(void **state)
{
    struct bench b;
    bench_open(&b);
    row_take(&b, (struct quota_row){.requests_per_minute = 6, .requests_burst = 2});
    for (int i = 0; i < 2; i++) {
        ACCEPTED(&b, b.lease, 10, 10);
        settle(&b, b.lease, &b.r, 20);
    }
    refused(&b, b.lease, 10, 10, "requests_per_minute", 10 * S);
    refused(&b, b.other, 10, 10, "requests_per_minute", 10 * S); /* one limit, two engines */
    b.time.now_ns += 10 * S - 1;
    refused(&b, b.lease, 10, 10, "requests_per_minute", 1);
    b.time.now_ns += 1;
    ACCEPTED(&b, b.other, 10, 10);
    settle(&b, b.other, &b.r, 20);
    bench_close(&b);
}

static void hard_tokens_are_held_until_the_end(void **state)
{
    struct bench b;
    bench_open(&b);
    row_take(
        &b, (struct quota_row){.mode = QUOTA_HARD, .tokens_per_minute = 600, .tokens_burst = 1000});
    ACCEPTED(&b, b.lease, 100, 500);
    struct reservation first = b.r;
    b.time.now_ns += 2 * MINUTE; /* what is held does not drain */
    assert_int_equal(ask(&b, b.other, 100, 500), STATUS_EXHAUSTED);
    assert_non_null(strstr(b.error.text, "must end first"));
    settle(&b, b.lease, &first, 150);
    ACCEPTED(&b, b.other, 100, 500); /* 450 came back */
    settle(&b, b.other, &b.r, 600);
    refused(&b, b.lease, 100, 500, "tokens_per_minute", 35 * S); /* 250 are left, 350 missing */
    refused_for_ever(&b, 100, 901, "max_tokens", "tokens_per_minute");
    refused_for_ever(&b, 1000, 1, "prompt", "tokens_per_minute");
    b.time.now_ns += 35 * S;
    ACCEPTED(&b, b.lease, 100, 500);
    settle(&b, b.lease, &b.r, 0);
    bench_close(&b);
}

static void soft_debts_are_bounded(void **state)
{
    struct bench b;
    struct reservation all[64];
    uint32_t n = 0;
    bench_open(&b);
    row_take(&b, (struct quota_row){
                     .tokens_per_minute = 60, .tokens_burst = 10000, .overdraft_tokens = 500});
    /* The tenant's history says 10 tokens of output; then everybody takes all of 200. Settled at
     * once, so that what one gives back is there for the next, from the lease's own credit. */
    for (int i = 0; i < 30; i++) {
        ACCEPTED(&b, b.lease, 1, 10);
        settle(&b, b.lease, &b.r, 11);
    }
    uint64_t taken = 30 * 11;
    for (int i = 0; i < 5; i++) { /* those that had no output teach nothing */
        ACCEPTED(&b, b.lease, 1, 200);
        assert_in_range(b.r.estimate_tokens, 11, 14);
        settle(&b, b.lease, &b.r, 0);
    }
    for (int turns = 0; turns < 100; turns++) {
        n = 0;
        while (n < array_count(all) && ask(&b, b.lease, 1, 200) == STATUS_OK) {
            assert_true(b.r.estimate_tokens < b.r.full_tokens || turns > 0);
            all[n++] = b.r;
        }
        for (uint32_t i = 0; i < n; i++) {
            quota_settle(b.lease, &all[i], 1, 200, b.time.now_ns);
            taken += 201;
        }
    }
    assert_int_equal(ask(&b, b.lease, 1, 200), STATUS_EXHAUSTED);
    assert_true(taken <= 10500 && taken > 9000);
    quota_lease_turn(b.lease, &b.time);
    b.time.now_ns += b.error.retry_ns; /* the debt drains first */
    ACCEPTED(&b, b.lease, 1, 200);
    settle(&b, b.lease, &b.r, 1);
    bench_close(&b);
}

/* Overdraft that was used up is not there for the next before the tree knows of the debt. */
static void used_overdraft_is_not_lent_again(void **state)
{
    struct bench b;
    bench_open(&b);
    row_take(&b, (struct quota_row){
                     .tokens_per_minute = 1, .tokens_burst = 100000, .overdraft_tokens = 1000});
    ACCEPTED(&b, b.lease, 10, 100); /* without history: a quarter of 100 is estimated */
    assert_int_equal(b.r.estimate_tokens, 35);
    quota_settle(b.lease, &b.r, 10, 100, b.time.now_ns);
    const struct lease_entry *entry = &b.lease->entries[0];
    assert_int_equal(entry->spent_overdraft, 75);
    assert_int_equal(entry->spent_tokens, 110);
    uint64_t overdraft = entry->credit.n[KIND_OVERDRAFT];
    assert_true(overdraft % 75 == 0 && overdraft > 0); /* of the batch, not of the one that ended */
    assert_int_equal(overdraft / 75, entry->credit.n[KIND_REQUESTS]);
    quota_lease_turn(b.lease, &b.time);
    bench_close(&b);
}

static void caps_count_what_is_here(void **state)
{
    struct bench b;
    struct reservation held[3];
    bench_open(&b);
    row_take(&b, (struct quota_row){.concurrent_max = 3, .queued_tokens_max = 100});
    for (int i = 0; i < 3; i++) {
        ACCEPTED(&b, i == 1 ? b.other : b.lease, 33, 10);
        held[i] = b.r;
    }
    refused(&b, b.lease, 1, 1, "concurrent_max", S); /* nobody has ended yet: a guess */
    settle(&b, b.other, &held[1], 43);
    assert_int_equal(ask(&b, b.lease, 35, 1), STATUS_EXHAUSTED);
    assert_string_equal(b.error.limit, "queued_tokens_max");
    quota_begin(b.lease, &held[0]);
    quota_begin(b.lease, &held[0]); /* once */
    ACCEPTED(&b, b.other, 67, 1);
    settle(&b, b.other, &b.r, 1);
    refused_for_ever(&b, 101, 1, "prompt", "queued_tokens_max");
    settle(&b, b.lease, &held[0], 1);
    settle(&b, b.lease, &held[2], 1);
    bench_close(&b);
}

static void budgets_end_with_what_is_left(void **state)
{
    struct bench b;
    bench_open(&b);
    row_take(&b, (struct quota_row){.mode = QUOTA_HARD, .tokens_per_month = 1000});
    ACCEPTED(&b, b.lease, 100, 500);
    assert_false(b.r.is_cut);
    settle(&b, b.lease, &b.r, 600);
    ACCEPTED(&b, b.other, 100, 500);
    assert_true(b.r.is_cut);
    assert_int_equal(b.r.output_tokens_max, 300);
    struct reservation running = b.r;
    refused_for_others(&b, 100, 500, "tokens_per_month"); /* the other may not use it all */
    settle(&b, b.other, &running, 400);
    struct month_span span = month_of(b.time.wall_ns);
    refused(&b, b.lease, 100, 500, "tokens_per_month", span.until_ns - b.time.wall_ns);
    refused_for_ever(&b, 1000, 1, "prompt", "tokens_per_month");
    /* Ahead to December and back again: November stays used up, December keeps its own. */
    b.time.wall_ns = span.until_ns;
    ACCEPTED(&b, b.lease, 100, 200);
    struct reservation december = b.r;
    b.time.wall_ns = span.until_ns - 1;
    assert_int_equal(ask(&b, b.lease, 1, 1), STATUS_EXHAUSTED);
    settle(&b, b.lease, &december, 300); /* December pays, whatever the wall says now */
    refused(&b, b.lease, 1, 1, "tokens_per_month", 1);
    b.time.wall_ns = span.until_ns;
    ACCEPTED(&b, b.lease, 100, 700);
    assert_int_equal(b.r.output_tokens_max, 600);
    settle(&b, b.lease, &b.r, 0);
    struct quota_stats stats;
    quota_stats(b.quota, &stats);
    assert_true(stats.month_back_total > 0);
    bench_close(&b);
}

static void an_open_output_gets_what_a_burst_allows(void **state)
{
    struct bench b;
    bench_open(&b);
    row_take(&b, (struct quota_row){.mode = QUOTA_HARD, .tokens_per_minute = 500});
    struct quota_ask open = {
        .choices = 1, .prompt_tokens = 100, .output_tokens_max = 4000, .is_open = true};
    assert_int_equal(quota_reserve(b.lease, &open, &b.time, &b.r, &b.error), STATUS_OK);
    assert_true(b.r.is_cut && b.r.output_tokens_max == 400);
    settle(&b, b.lease, &b.r, 0);
    row_take(&b, (struct quota_row){.tokens_per_minute = 500, .overdraft_tokens = 50});
    b.r = (struct reservation){0};
    assert_int_equal(quota_reserve(b.lease, &open, &b.time, &b.r, &b.error), STATUS_OK);
    assert_true(b.r.is_cut && b.r.output_tokens_max == 450 && b.r.estimate_tokens == 500);
    settle(&b, b.lease, &b.r, 0);
    bench_close(&b);
}

/* ---- trees ---- */

static const struct quota_row tree[4] = {
    {.name = "north", .parent = QUOTA_TOP, .mode = QUOTA_HARD, .tokens_per_minute = 1000},
    {.name = "north/a", .parent = 0},
    {.name = "north/a/1", .parent = 1, .requests_per_minute = 3},
    {.name = "south", .parent = QUOTA_TOP, .requests_per_minute = 1},
};

static enum status ask_of(struct bench *b, uint32_t tenant, uint32_t prompt, uint32_t output)
{
    struct quota_ask ask = {
        .tenant = tenant, .choices = 1, .prompt_tokens = prompt, .output_tokens_max = output};
    b->r = (struct reservation){0};
    return quota_reserve(b->lease, &ask, &b->time, &b->r, &b->error);
}

static void all_levels_or_none(void **state)
{
    struct bench b;
    bench_open(&b);
    table_take(&b, tree, 4);
    assert_int_equal(ask_of(&b, 2, 100, 800), STATUS_OK);
    settle(&b, b.lease, &b.r, 900);
    assert_int_equal(ask_of(&b, 2, 100, 100), STATUS_EXHAUSTED);
    assert_string_equal(b.error.subject, "organisation:north");
    assert_string_equal(b.error.limit, "tokens_per_minute");
    for (int i = 0; i < 2; i++) { /* what was refused took no request of the key */
        assert_int_equal(ask_of(&b, 2, 10, 10), STATUS_OK);
        settle(&b, b.lease, &b.r, 20);
    }
    assert_int_equal(ask_of(&b, 2, 10, 10), STATUS_EXHAUSTED);
    assert_string_equal(b.error.subject, "key:north/a/1");
    assert_non_null(strstr(b.error.text, "requests_per_minute of key north/a/1 is 3"));
    assert_int_equal(ask_of(&b, 1, 10, 10), STATUS_OK); /* its neighbour below the same roof */
    settle(&b, b.lease, &b.r, 20);
    assert_int_equal(ask_of(&b, 3, 4000, 10), STATUS_OK);
    settle(&b, b.lease, &b.r, 20);
    assert_int_equal(ask_of(&b, 4, 10, 10), STATUS_INVALID); /* nobody */
    bench_close(&b);
}

static void rows_take_along_what_they_hold(void **state)
{
    struct bench b;
    struct quota_row rows[4];
    struct quota_row_stats stats;
    bench_open(&b);
    table_take(&b, tree, 4);
    assert_int_equal(ask_of(&b, 2, 100, 800), STATUS_OK);
    memcpy(rows, tree, sizeof rows);
    rows[1].parent = 3; /* the project moves to the south */
    table_take(&b, rows, 4);
    assert_true(quota_row_stats(b.quota, 0, &b.time, &stats));
    assert_true(stats.concurrent == 0 && stats.held_tokens == 0 && stats.tokens_room == 1000);
    assert_true(quota_row_stats(b.quota, 3, &b.time, &stats));
    assert_int_equal(stats.concurrent, 1);
    settle(&b, b.lease, &b.r, 900);
    assert_true(quota_row_stats(b.quota, 0, &b.time, &stats));
    assert_int_equal(stats.tokens_room, 1000);
    assert_false(quota_row_stats(b.quota, 4, &b.time, &stats));
    bench_close(&b);
}

/* Credit from before a table is not good under it. */
static void old_credit_does_not_outlive_its_table(void **state)
{
    struct bench b;
    bench_open(&b);
    row_take(&b, (struct quota_row){.mode = QUOTA_HARD, .tokens_per_minute = 100000});
    ACCEPTED(&b, b.lease, 100, 400);
    struct reservation before = b.r;
    ACCEPTED(&b, b.lease, 100, 400);
    settle(&b, b.lease, &b.r, 500);
    row_take(&b, (struct quota_row){.mode = QUOTA_HARD, .tokens_per_minute = 500});
    quota_settle(b.lease, &before, 0, 0, b.time.now_ns); /* 500 lie in the lease */
    refused(&b, b.lease, 100, 400, "tokens_per_minute", MINUTE);
    bench_close(&b);
}

/* ---- leases ---- */

static void idle_credit_is_nobodys_obstacle(void **state)
{
    struct bench b;
    struct quota_stats stats;
    bench_open(&b);
    row_take(&b, (struct quota_row){.requests_per_minute = 1000});
    ACCEPTED(&b, b.lease, 1, 1);
    settle(&b, b.lease, &b.r, 2);
    assert_true(b.lease->entries[0].credit.n[KIND_REQUESTS] == LEASE_BATCH - 1);
    for (int i = 0; i < LEASE_BATCH - 1; i++) {
        ACCEPTED(&b, b.lease, 1, 1);
        settle(&b, b.lease, &b.r, 2);
    }
    quota_stats(b.quota, &stats);
    assert_int_equal(stats.draws_total, 1); /* one for all of them */
    ACCEPTED(&b, b.lease, 1, 1);
    settle(&b, b.lease, &b.r, 2);
    uint32_t n = 0;
    while (ask(&b, b.other, 1, 1) == STATUS_OK) {
        settle(&b, b.other, &b.r, 2);
        n++;
    }
    assert_int_equal(n, 1000 - LEASE_BATCH - 1); /* what lay in the first lease as well */
    b.time.now_ns += MINUTE;
    ACCEPTED(&b, b.lease, 1, 1);
    settle(&b, b.lease, &b.r, 2);
    assert_true(b.lease->entries[0].credit.n[KIND_REQUESTS] > 0);
    for (int i = 0; i < 2; i++) { /* touched; then not */
        b.time.now_ns += LEASE_IDLE_NS;
        quota_lease_turn(b.lease, &b.time);
    }
    assert_int_equal(b.lease->entries[0].credit.n[KIND_REQUESTS], 0);
    assert_int_equal(b.lease->n_listed, 0);
    bench_close(&b);
}

static void nothing_is_settled_twice(void **state)
{
    struct bench b;
    struct quota_stats stats;
    bench_open(&b);
    row_take(&b, (struct quota_row){
                     .mode = QUOTA_HARD, .tokens_per_minute = 1000, .requests_per_minute = 1});
    ACCEPTED(&b, b.lease, 100, 400);
    quota_undo(b.lease, &b.r); /* the scheduler had no place: not even the request counts */
    quota_undo(b.lease, &b.r);
    ACCEPTED(&b, b.lease, 100, 400);
    quota_settle(b.lease, &b.r, 100, 401, b.time.now_ns); /* more than it may */
    quota_settle(b.lease, &b.r, 100, 400, b.time.now_ns);
    struct reservation never = {.state = RESERVATION_NONE};
    quota_settle(b.lease, &never, 1, 1, b.time.now_ns);
    quota_begin(b.lease, &b.r);
    quota_lease_turn(b.lease, &b.time);
    quota_stats(b.quota, &stats);
    assert_int_equal(stats.settled_again_total, 3);
    assert_int_equal(stats.overused_total, 1);
    assert_int_equal(stats.settled_total, 1);
    assert_int_equal(stats.undone_total, 1);
    struct quota_row_stats row;
    quota_row_stats(b.quota, 0, &b.time, &row);
    assert_int_equal(row.tokens_room, 500);
    assert_int_equal(row.requests_room, 0);
    bench_close(&b);
}

static void clocks_may_step(void **state)
{
    struct bench b;
    struct quota_stats stats;
    bench_open(&b);
    row_take(&b, (struct quota_row){.requests_per_minute = 60, .requests_burst = 1});
    b.time.now_ns = 100 * S;
    ACCEPTED(&b, b.lease, 1, 1);
    settle(&b, b.lease, &b.r, 2);
    b.time.now_ns = 50 * S; /* back: nothing drains, the refusal counts from here */
    refused(&b, b.other, 1, 1, "requests_per_minute", 51 * S);
    b.time.now_ns = UINT64_MAX - 1; /* far ahead: one burst, no overflow */
    ACCEPTED(&b, b.other, 1, 1);
    settle(&b, b.other, &b.r, 2);
    assert_int_equal(ask(&b, b.other, 1, 1), STATUS_EXHAUSTED);
    quota_stats(b.quota, &stats);
    assert_true(stats.clock_back_total > 0);
    bench_close(&b);
}

/* ---- tables ---- */

static void bad_tables_are_refused_with_line_and_reason(void **state)
{
    struct bench b;
    bench_open(&b);
#define BAD(column, reason, ...)                                                                   \
    do {                                                                                           \
        struct quota_row row = {.name = "north", .line = 7, __VA_ARGS__};                          \
        struct quota_table table = {.n_rows = 1, .rows = &row};                                    \
        assert_int_equal(quota_set(b.quota, &table, &b.time, &b.error), STATUS_INVALID);           \
        assert_string_equal(b.error.field, column);                                                \
        if (!strstr(b.error.text, reason) || !strstr(b.error.text, "row 0 (north, line 7)"))       \
            fail_msg("%s", b.error.text);                                                          \
    } while (0)
    BAD("requests_burst", "needs requests_per_minute", .requests_burst = 1, .parent = QUOTA_TOP);
    BAD("tokens_burst", "needs tokens_per_minute", .tokens_burst = 10, .parent = QUOTA_TOP);
    BAD("tokens_burst", "can never admit", .tokens_per_minute = 100, .tokens_burst = 1,
        .parent = QUOTA_TOP);
    BAD("tokens_per_minute", "can never admit", .tokens_per_minute = 1, .parent = QUOTA_TOP);
    BAD("tokens_per_month", "can never admit", .tokens_per_month = 1, .parent = QUOTA_TOP);
    BAD("quota", "hard needs tokens_per_minute or", .mode = QUOTA_HARD, .concurrent_max = 1,
        .parent = QUOTA_TOP);
    BAD("quota", "soft or hard", .mode = (enum quota_mode)9, .parent = QUOTA_TOP);
    BAD("overdraft_tokens", "hard quota has none", .mode = QUOTA_HARD, .tokens_per_minute = 10,
        .overdraft_tokens = 1, .parent = QUOTA_TOP);
    BAD("overdraft_tokens", "needs tokens_per_minute", .overdraft_tokens = 1, .parent = QUOTA_TOP);
    BAD("tokens_per_minute", "at most 1000000000000", .tokens_per_minute = UINT64_MAX,
        .parent = QUOTA_TOP);
    BAD("parent", "circle", .parent = 0);
    struct quota_row most = {.parent = QUOTA_TOP, .requests_per_minute = 1};
    assert_true(quota_row_most(&most) == UINT64_MAX);
    most.tokens_per_minute = 70;
    assert_int_equal(quota_row_most(&most), 140); /* soft: and as much again in debt */
    most.overdraft_tokens = 5;
    most.tokens_burst = 30;
    assert_int_equal(quota_row_most(&most), 35);
    most.mode = QUOTA_HARD;
    assert_int_equal(quota_row_most(&most), 30);
    most.tokens_per_month = 20;
    assert_int_equal(quota_row_most(&most), 20);
    BAD("parent", "no such row", .parent = 1);
    struct quota_row rows[ROWS + 1] = {{.parent = QUOTA_TOP}};
    for (int i = 1; i <= ROWS; i++)
        rows[i].parent = QUOTA_TOP;
    struct quota_table table = {.n_rows = ROWS + 1, .rows = rows};
    assert_int_equal(quota_set(b.quota, &table, &b.time, &b.error), STATUS_INVALID);
    assert_non_null(strstr(b.error.text, "room for 4"));
    table.n_rows = 0;
    assert_int_equal(quota_set(b.quota, &table, &b.time, &b.error), STATUS_INVALID);
    table_take(&b, rows, 2);
    table.n_rows = 1;
    assert_int_equal(quota_set(b.quota, &table, &b.time, &b.error), STATUS_INVALID);
    assert_non_null(strstr(b.error.text, "closed, not left out"));
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_exact_where_a_division_is_not),
        cmocka_unit_test(extremes_do_not_overflow),
        cmocka_unit_test(months_are_those_of_the_calendar),
        cmocka_unit_test(no_month_is_given_twice),
        cmocka_unit_test(requests_come_back_at_the_stated_time),
        cmocka_unit_test(hard_tokens_are_held_until_the_end),
        cmocka_unit_test(soft_debts_are_bounded),
        cmocka_unit_test(used_overdraft_is_not_lent_again),
        cmocka_unit_test(caps_count_what_is_here),
        cmocka_unit_test(budgets_end_with_what_is_left),
        cmocka_unit_test(an_open_output_gets_what_a_burst_allows),
        cmocka_unit_test(all_levels_or_none),
        cmocka_unit_test(rows_take_along_what_they_hold),
        cmocka_unit_test(old_credit_does_not_outlive_its_table),
        cmocka_unit_test(idle_credit_is_nobodys_obstacle),
        cmocka_unit_test(nothing_is_settled_twice),
        cmocka_unit_test(clocks_may_step),
        cmocka_unit_test(bad_tables_are_refused_with_line_and_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
