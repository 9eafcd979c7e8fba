/* The rings of events: order, overwriting, names, and a reader beside a writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "base/trace.h"

#define READS 2000

static struct trace *opened(uint32_t n_writers, uint32_t events_count)
{
    struct trace *trace = NULL;
    struct error error;
    assert_int_equal(trace_open(n_writers, events_count, &trace, &error), STATUS_OK);
    return trace;
}

static void test_merges_by_time(void **state)
{
    struct trace *trace = opened(3, 16);
    struct trace_event events[8];
    trace_add(trace, 2, (struct trace_event){.id = 7, .at_ns = 30, .kind = 3, .value = 300});
    trace_add(trace, 0, (struct trace_event){.id = 7, .at_ns = 10, .kind = 1, .value = UINT32_MAX});
    trace_add(trace, 0, (struct trace_event){.id = 8, .at_ns = 15, .kind = 1});
    trace_add(trace, 1, (struct trace_event){.id = 7, .at_ns = 20, .kind = 5});
    trace_add(trace, 0, (struct trace_event){.id = 7, .at_ns = 20, .kind = 4});
    assert_int_equal(trace_read(trace, 7, events, 8), 4);
    const uint32_t kinds[] = {1, 4, 5, 3};
    for (int i = 0; i < 4; i++)
        assert_int_equal(events[i].kind, kinds[i]);
    assert_int_equal(events[0].value, UINT32_MAX);
    assert_int_equal(events[3].value, 300);
    assert_int_equal(trace_read(trace, 7, events, 2), 2); /* the oldest of them */
    assert_int_equal(events[1].kind, 4);
    assert_int_equal(trace_read(trace, 9, events, 8), 0);
    trace_close(trace);
}

static void test_oldest_goes(void **state)
{
    struct trace *trace = opened(1, 16);
    struct trace_event events[32];
    for (uint32_t i = 0; i < 100; i++)
        trace_add(trace, 0, (struct trace_event){.id = 1, .at_ns = i});
    assert_int_equal(trace_read(trace, 1, events, 32), 16);
    assert_int_equal(events[0].at_ns, 84);
    assert_int_equal(events[15].at_ns, 99);
    trace_close(trace);
}

static void test_names(void **state)
{
    struct trace *trace = opened(2, 32); /* 4 names a writer */
    struct trace_named names[8];
    char longest[200], text[16];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    for (uint32_t i = 1; i <= 6; i++) {
        snprintf(text, sizeof text, "n%u", i % 3);
        trace_name(trace, 0, 2 * i, text);
    }
    trace_name(trace, 1, 11, longest);
    assert_int_equal(trace_names(trace, NULL, names, 8), 5); /* 12 11 10 8 6 */
    assert_int_equal(names[0].id, 12);
    assert_int_equal(names[1].id, 11);
    assert_int_equal(strlen(names[1].name), TRACE_NAME_MAX_BYTES);
    assert_int_equal(names[4].id, 6);
    assert_int_equal(trace_names(trace, NULL, names, 2), 2);
    assert_int_equal(names[0].id, 12);
    assert_int_equal(names[1].id, 11);
    assert_int_equal(trace_names(trace, "n0", names, 8), 2); /* 12, 6 */
    assert_int_equal(names[1].id, 6);
    assert_int_equal(trace_names(trace, "n", names, 8), 0);
    trace_close(trace);
}

static void test_nothing_kept(void **state)
{
    struct trace *trace = opened(4, 0);
    assert_null(trace);
    trace_add(trace, 0, (struct trace_event){.id = 1});
    trace_name(trace, 0, 1, "x");
    assert_int_equal(trace_read(trace, 1, NULL, 0), 0);
    trace_close(trace);
}

struct race {
    struct trace *trace;
    atomic_bool stop;
};

/* Every field of an event, and every letter of a name, says the same number. */
static void *race_write(void *context)
{
    struct race *race = context;
    for (uint64_t i = 1; !atomic_load(&race->stop); i++) {
        char name[TRACE_NAME_MAX_BYTES + 1];
        memset(name, 'a' + (int)(i % 26), TRACE_NAME_MAX_BYTES);
        name[TRACE_NAME_MAX_BYTES] = '\0';
        trace_name(race->trace, 0, i, name);
        trace_add(race->trace, 0,
                  (struct trace_event){.id = 1 + i % 2,
                                       .at_ns = i,
                                       .kind = (uint32_t)i & 0xffff,
                                       .value = (uint32_t)i});
    }
    return NULL;
}

static void test_reader_beside_writer(void **state)
{
    struct race race = {.trace = opened(1, 64)};
    pthread_t thread;
    uint32_t seen = 0;
    assert_int_equal(pthread_create(&thread, NULL, race_write, &race), 0);
    for (int r = 0; r < READS || seen == 0; r++) {
        struct trace_event events[64];
        struct trace_named names[8];
        uint32_t n = trace_read(race.trace, 1, events, 64);
        seen += n;
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(events[i].at_ns % 2, 0);
            assert_int_equal(events[i].value, (uint32_t)events[i].at_ns);
            assert_int_equal(events[i].kind, events[i].value & 0xffff);
        }
        n = trace_names(race.trace, NULL, names, 8);
        for (uint32_t i = 0; i < n; i++)
            for (int c = 0; c < TRACE_NAME_MAX_BYTES; c++)
                assert_int_equal(names[i].name[c], 'a' + (int)(names[i].id % 26));
    }
    atomic_store(&race.stop, true);
    pthread_join(thread, NULL);
    trace_close(race.trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_by_time),
        cmocka_unit_test(test_oldest_goes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_nothing_kept),
        cmocka_unit_test(test_reader_beside_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
