/*
 * Which decode steps become graphs, which graph goes first, and what happens when a device cannot
 * make one: on a backend that only notes what it was asked for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/graphs.h"

struct device {
    uint32_t begun, ended, launched, freed, ops_run;
    uint32_t fail_begin_at, fail_end_at; /* the n-th one; 0: none */
    bool capturing;
    size_t free_bytes;
    uint32_t rows; /* of the step that runs */
    uint32_t last_launched;
    uint8_t is_freed[256];
};

static uint32_t numbers[256]; /* a graph is a place here: the rows that it was captured for */

static enum status begin(struct device *device, struct error *error)
{
    assert_false(device->capturing);
    if (++device->begun == device->fail_begin_at)
        return error_set(error, STATUS_EXHAUSTED, "no memory for a graph");
    device->capturing = true;
    return STATUS_OK;
}

static enum status end(struct device *device, void **ret_graph, struct error *error)
{
    assert_true(device->capturing);
    device->capturing = false;
    if (++device->ended == device->fail_end_at)
        return error_set(error, STATUS_INTERNAL, "not supported");
    numbers[device->ended] = device->rows;
    device->free_bytes -= 100;
    *ret_graph = &numbers[device->ended];
    return STATUS_OK;
}

static void launch(struct device *device, void *graph)
{
    assert_false(device->is_freed[(uint32_t *)graph - numbers]);
    device->launched++;
    device->last_launched = *(uint32_t *)graph;
}

static void graph_free(struct device *device, void *graph)
{
    device->freed++;
    device->free_bytes += 100;
    device->is_freed[(uint32_t *)graph - numbers] = 1;
}

static size_t free_bytes(struct device *device)
{
    return device->free_bytes;
}

static const struct ops graph_ops = {.name = "noting",
                                     .graph_begin = begin,
                                     .graph_end = end,
                                     .graph_launch = launch,
                                     .graph_free = graph_free,
                                     .memory_free_bytes = free_bytes};

static void ops_run(void *context)
{
    struct device *device = context;
    device->ops_run++;
}

static void step_run(struct graphs *graphs, struct device *device, uint32_t n_rows)
{
    device->rows = n_rows;
    graphs_run(graphs, n_rows, n_rows, ops_run, device);
}

static void a_backend_without_graphs(void **state)
{
    struct device device = {0};
    struct graphs graphs;
    graphs_open(&(struct ops){.name = "plain"}, &device, &graphs);
    for (uint32_t i = 0; i < 5; i++)
        step_run(&graphs, &device, 2);
    assert_int_equal(device.ops_run, 5);
    assert_int_equal(graphs.replays, 0);
    assert_string_equal(graphs.note, "");
    graphs_close(&graphs);
}

static void the_second_time_is_captured_and_replayed(void **state)
{
    struct device device = {.free_bytes = 1000};
    struct graphs graphs;
    graphs_open(&graph_ops, &device, &graphs);
    step_run(&graphs, &device, 3);
    assert_int_equal(device.ops_run, 1);
    assert_int_equal(device.begun, 0);
    for (uint32_t i = 0; i < 4; i++)
        step_run(&graphs, &device, 3);
    assert_int_equal(device.ops_run, 2); /* once to capture */
    assert_int_equal(device.launched, 4);
    assert_int_equal(device.last_launched, 3);
    assert_int_equal(graphs.bytes, 100);
    step_run(&graphs, &device, 4); /* another number is another graph */
    assert_int_equal(device.launched, 4);
    step_run(&graphs, &device, 4);
    assert_int_equal(device.last_launched, 4);
    step_run(&graphs, &device, 3);
    assert_int_equal(device.last_launched, 3);
    assert_int_equal(graphs.n_kept, 2);
    assert_int_equal(graphs.replays, 6);
    graphs_close(&graphs);
    assert_int_equal(device.freed, 2);
}

static void rows_that_are_sampled_matter(void **state)
{
    struct device device = {.free_bytes = 1000};
    struct graphs graphs;
    graphs_open(&graph_ops, &device, &graphs);
    for (uint32_t i = 0; i < 3; i++)
        graphs_run(&graphs, 4, 4, ops_run, &device);
    graphs_run(&graphs, 4, 3, ops_run, &device);
    assert_int_equal(device.begun, 2);
    assert_int_equal(graphs.n_kept, 2);
    graphs_close(&graphs);
}

static void many_rows_and_none_are_not_captured(void **state)
{
    struct device device = {0};
    struct graphs graphs;
    graphs_open(&graph_ops, &device, &graphs);
    for (uint32_t i = 0; i < 3; i++) {
        step_run(&graphs, &device, GRAPH_ROWS_MAX + 1);
        step_run(&graphs, &device, 0);
    }
    assert_int_equal(device.begun, 0);
    assert_int_equal(device.ops_run, 6);
    graphs_close(&graphs);
}

static void the_one_not_used_for_longest_goes_first(void **state)
{
    struct device device = {.free_bytes = 100000};
    struct graphs graphs;
    graphs_open(&graph_ops, &device, &graphs);
    for (uint32_t n = 1; n <= GRAPHS_MAX; n++)
        for (uint32_t i = 0; i < 2; i++)
            step_run(&graphs, &device, n);
    assert_int_equal(graphs.n_kept, GRAPHS_MAX);
    assert_int_equal(graphs.bytes, 100 * GRAPHS_MAX);
    step_run(&graphs, &device, 1); /* now 2 is the oldest */
    for (uint32_t i = 0; i < 2; i++)
        step_run(&graphs, &device, GRAPHS_MAX + 1);
    assert_int_equal(device.freed, 1);
    assert_int_equal(graphs.n_kept, GRAPHS_MAX);
    assert_int_equal(graphs.bytes, 100 * GRAPHS_MAX);
    uint32_t begun = device.begun, launched = device.launched;
    step_run(&graphs, &device, 1);
    assert_int_equal(device.launched, launched + 1);
    step_run(&graphs, &device, 2); /* gone: seen anew first, then captured again */
    assert_int_equal(device.begun, begun);
    step_run(&graphs, &device, 2);
    assert_int_equal(device.begun, begun + 1);
    assert_int_equal(device.last_launched, 2);
    graphs_close(&graphs);
    assert_int_equal(device.freed, device.ended);
}

/* The step runs all the same, once; the reason is told; nobody tries again. */
static void failure_check(struct device *device, const char *words)
{
    struct graphs graphs;
    graphs_open(&graph_ops, device, &graphs);
    step_run(&graphs, device, 2);
    step_run(&graphs, device, 2);
    step_run(&graphs, device, 3); /* well so far: the first one is kept */
    assert_int_equal(device->launched, 1);
    uint32_t run = device->ops_run;
    step_run(&graphs, device, 3);
    assert_int_equal(device->launched, 1);
    assert_true(device->ops_run > run);
    assert_non_null(strstr(graphs.note, words));
    assert_non_null(strstr(graphs.note, "op by op"));
    assert_false(device->capturing);
    run = device->ops_run;
    uint32_t begun = device->begun;
    for (uint32_t i = 0; i < 4; i++)
        step_run(&graphs, device, 2 + i % 2);
    assert_int_equal(device->ops_run, run + 4);
    assert_int_equal(device->begun, begun);
    assert_int_equal(device->launched, 1);
    graphs_close(&graphs);
    assert_int_equal(device->freed, 1);
}

static void a_capture_that_fails(void **state)
{
    struct device begins = {.fail_begin_at = 2, .free_bytes = 1000};
    failure_check(&begins, "no memory for a graph");
    struct device ends = {.fail_end_at = 2, .free_bytes = 1000};
    failure_check(&ends, "not supported");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_backend_without_graphs),
        cmocka_unit_test(the_second_time_is_captured_and_replayed),
        cmocka_unit_test(rows_that_are_sampled_matter),
        cmocka_unit_test(many_rows_and_none_are_not_captured),
        cmocka_unit_test(the_one_not_used_for_longest_goes_first),
        cmocka_unit_test(a_capture_that_fails),
    };
    return cmocka_run_group_tests_name("model graphs", tests, NULL, NULL);
}
