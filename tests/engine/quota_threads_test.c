/*
 * The quotas under threads: engines that reserve and settle as fast as they can, a table that
 * changes, a reader of statistics, one clock. What may be seen at any moment holds: never more
 * requests at once than the cap, never more tokens than burst + rate * t. For ThreadSanitizer, and
 * without it. Bounded: a fixed number of calls of each thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "sched/quota.h"

#define ENGINES 3
#define CALLS 20000
#define HELD_MAX 8
#define CONCURRENT_MAX 10
#define RATE 6000000ull /* tokens a minute, 100,000 a second */
#define BURST 20000ull

static struct quota *quota;
static _Atomic uint32_t here_count, here_most;
static _Atomic uint64_t used_tokens, admitted_count, refused_count;
static uint64_t started_ns;

static const struct quota_row rows[2] = {
    {.name = "north", .parent = QUOTA_TOP, .concurrent_max = CONCURRENT_MAX},
    {.name = "north/a",
     .parent = 0,
     .mode = QUOTA_HARD,
     .tokens_per_minute = RATE,
     .tokens_burst = BURST},
};
static const struct quota_table table = {.n_rows = 2, .rows = rows};

static struct quota_time time_now(void)
{
    return (struct quota_time){.now_ns = clock_now_ns(), .wall_ns = 20771ull * 86400 * NS_PER_S};
}

static void here_add(void)
{
    uint32_t n = atomic_fetch_add(&here_count, 1) + 1;
    uint32_t most = atomic_load(&here_most);
    while (n > most && !atomic_compare_exchange_weak(&here_most, &most, n))
        continue;
}

/* One call in three ends the oldest, the others try to get one more. */
static void *engine_run(void *argument)
{
    struct quota_lease *lease = argument;
    struct reservation held[HELD_MAX] = {{0}};
    uint32_t n_held = 0;
    for (uint32_t i = 0; i < CALLS || n_held > 0; i++) {
        struct quota_time time = time_now();
        struct error error;
        struct quota_ask ask = {.tenant = 1,
                                .choices = 1,
                                .prompt_tokens = 1 + i % 50,
                                .output_tokens_max = 1 + i % 200};
        if (n_held > 0 && (i >= CALLS || i % 3 == 0 || n_held == HELD_MAX)) {
            struct reservation *r = &held[--n_held];
            atomic_fetch_add(&used_tokens, r->prompt_tokens + r->output_tokens_max / 2);
            atomic_fetch_sub(&here_count, 1);
            quota_settle(lease, r, r->prompt_tokens, r->output_tokens_max / 2, time.now_ns);
        } else if (quota_reserve(lease, &ask, &time, &held[n_held], &error) == STATUS_OK) {
            here_add();
            atomic_fetch_add(&admitted_count, 1);
            quota_begin(lease, &held[n_held++]);
        } else {
            atomic_fetch_add(&refused_count, 1);
        }
        if (i % 16 == 0)
            quota_lease_turn(lease, &time);
    }
    return NULL;
}

/* The same table again and again, and the figures of everybody. */
static void *operator_run(void *argument)
{
    atomic_bool *done = argument;
    while (!atomic_load(done)) {
        struct quota_time time = time_now();
        struct quota_stats stats;
        struct quota_row_stats row;
        struct error error;
        CHECK(quota_set(quota, &table, &time, &error) == STATUS_OK);
        quota_stats(quota, &stats);
        CHECK(quota_row_stats(quota, 0, &time, &row) && row.concurrent <= CONCURRENT_MAX);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return NULL;
}

static void limits_hold_between_threads(void **state)
{
    struct error error;
    struct quota_lease *leases[ENGINES];
    pthread_t engines[ENGINES], operator;
    atomic_bool done = false;
    started_ns = clock_now_ns();
    struct quota_time time = time_now();
    assert_int_equal(quota_open(2, ENGINES, &quota, &error), STATUS_OK);
    assert_int_equal(quota_set(quota, &table, &time, &error), STATUS_OK);
    for (int i = 0; i < ENGINES; i++)
        assert_int_equal(quota_lease_open(quota, &leases[i], &error), STATUS_OK);
    assert_int_equal(pthread_create(&operator, NULL, operator_run, &done), 0);
    for (int i = 0; i < ENGINES; i++)
        assert_int_equal(pthread_create(&engines[i], NULL, engine_run, leases[i]), 0);
    for (int i = 0; i < ENGINES; i++)
        pthread_join(engines[i], NULL);
    atomic_store(&done, true);
    pthread_join(operator, NULL);
    time = time_now();
    uint64_t passed_ns = time.now_ns - started_ns;
    quota_audit(quota);
    assert_true(atomic_load(&here_most) <= CONCURRENT_MAX);
    assert_true(atomic_load(&used_tokens) <= BURST + RATE * passed_ns / (60 * NS_PER_S));
    assert_true(atomic_load(&used_tokens) >= BURST - 2 * HELD_MAX * ENGINES * 250 / 2);
    assert_true(atomic_load(&refused_count) > 0);
    struct quota_stats stats;
    quota_stats(quota, &stats);
    assert_int_equal(stats.reserved_total, atomic_load(&admitted_count));
    assert_int_equal(stats.settled_total, stats.reserved_total);
    assert_int_equal(stats.settled_again_total, 0);
    assert_int_equal(stats.refused_total, atomic_load(&refused_count));
    for (int i = 0; i < ENGINES; i++)
        quota_lease_close(leases[i], &time);
    quota_close(quota);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits_hold_between_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
