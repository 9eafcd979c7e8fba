/*
 * The frame of the GPU backend, on the emulated table: what it refuses and in which words,
 * arguments of kernels that are sent once, graphs that read their host arrays anew, and a failure
 * that sticks.
 */
#include "tests/oracle/rig.h"

#include "kernels/module.h"

static const struct ops *ops_get(void)
{
    const struct ops *ops = NULL;
    struct error error = {0};
    if (module_ops("cuda-host", &ops, &error) != STATUS_OK)
        fail_msg("module_ops: %s", error.text);
    return ops;
}

static void backends_by_name(void **state)
{
    const struct ops *ops = ops_get(), *again = NULL;
    struct error error = {0};
    assert_string_equal(ops->name, "cuda-host");
    assert_int_equal(module_ops("cuda-host", &again, &error), STATUS_OK);
    assert_ptr_equal(ops, again);
    assert_int_equal(module_ops("cpu", &again, &error), STATUS_OK);
    assert_ptr_equal(again, &ops_cpu);
    assert_int_equal(module_ops("gpu", &again, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "gpu"));
    assert_ptr_equal(module_plan_ops("cuda"), &ops_cpu);
    assert_ptr_equal(module_plan_ops("auto"), &ops_cpu);
    assert_ptr_equal(module_plan_ops("ref"), &ops_ref);
    assert_null(module_plan_ops("gpu"));
}

static void refusals(void **state)
{
    const struct ops *ops = ops_get();
    struct device *device = NULL;
    struct error error = {0};
    struct device_options options = {.tier = "avx2"};
    assert_int_equal(ops->device_open(&options, &device, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "no tier 'avx2': use sm80, sm90, plain or none"));
    assert_null(device);

    struct rig rig = rig_open("cuda-host", NULL, 1);
    struct kv *kv = NULL;
    struct kv_shape shape = {.n_layers = 1,
                             .n_kv_heads = 1,
                             .head_dim = 64,
                             .block_tokens = 16,
                             .blocks_count = UINT32_MAX,
                             .slots_count = 1,
                             .slot_blocks_max = 1,
                             .dtype = DTYPE_F32};
    shape.n_layers = UINT32_MAX;
    assert_int_equal(ops->kv_open(rig.device, &shape, &kv, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "the KV cache"));
    assert_non_null(strstr(error.text, "are needed"));
    assert_non_null(strstr(error.text, "lower kv_memory"));
    struct op_limits limits = {.rows_max = UINT32_MAX, .hidden = UINT32_MAX, .sampled_max = 1};
    assert_int_equal(ops->reserve(rig.device, &limits, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "lower step_tokens_max"));
    rig_close(&rig);
}

/* One captured step, launched for other tokens: the host arrays are read where they lay. */
static void graph_reads_host_arrays_anew(void **state)
{
    enum { ROWS = 3, SLOTS = 2 };
    struct rig rig = rig_open("cuda-host", NULL, 1);
    const uint32_t sampled[SLOTS] = {70, 71};
    uint32_t ids[ROWS] = {5, 6, 7}, slots[ROWS] = {0, 1, 1}, got[ROWS];
    uint32_t *last_sampled = rig_put(&rig, sampled, sizeof sampled);
    uint32_t *out = rig_poison(&rig, sizeof got);
    struct tokens_gather_args args = {ROWS, ids, slots, last_sampled, out};
    struct error error = {0};
    void *graph = NULL;
    assert_int_equal(rig.ops->graph_begin(rig.device, &error), STATUS_OK);
    rig.ops->tokens_gather(rig.device, &args);
    assert_int_equal(rig.ops->graph_end(rig.device, &graph, &error), STATUS_OK);
    rig_get(&rig, out, got, sizeof got);
    assert_int_equal(got[0], UINT32_MAX); /* captured, not run */
    for (uint32_t step = 0; step < 3; step++) {
        ids[0] = 100 + step;
        ids[1] = step % 2 ? TOKEN_FROM_SLOT : 200 + step;
        rig.ops->graph_launch(rig.device, graph);
        rig_get(&rig, out, got, sizeof got);
        assert_int_equal(got[0], 100 + step);
        assert_int_equal(got[1], step % 2 ? 71 : 200 + step);
        assert_int_equal(got[2], 7);
    }
    rig_close(&rig);
}

/* Host arrays may change as soon as a call returns, and there may be more of them than the pinned
 * memory holds (4 MiB) before the next sync. */
static void many_arguments(void **state)
{
    enum { N = 60000, CALLS = 40 };
    struct rig rig = rig_open("cuda-host", NULL, 1);
    static uint32_t ids[N], slots[N], got[N];
    uint32_t *last_sampled = rig_put(&rig, NULL, sizeof(uint32_t)), *outs[CALLS];
    for (uint32_t call = 0; call < CALLS; call++)
        outs[call] = rig_poison(&rig, sizeof got);
    for (uint32_t call = 0; call < CALLS; call++) {
        ids[0] = call;
        ids[N - 1] = 2 * call;
        struct tokens_gather_args args = {call % 2 ? 1 : N, ids, slots, last_sampled, outs[call]};
        rig.ops->tokens_gather(rig.device, &args);
        ids[0] = ids[N - 1] = 9;
    }
    for (uint32_t call = 0; call < CALLS; call++) {
        rig_get(&rig, outs[call], got, sizeof got);
        assert_int_equal(got[0], call);
        assert_int_equal(got[N - 1], call % 2 ? UINT32_MAX : 2 * call);
    }
    rig_close(&rig);
}

/* A kernel that goes wrong: sync says so, then and ever after. */
static void failure_sticks(void **state)
{
    struct rig rig = rig_open("cuda-host", NULL, 1);
    uint32_t id = 1, slot = 0;
    struct tokens_gather_args args = {1, &id, &slot, NULL, NULL}; /* writes to nobody's memory */
    struct error error = {0};
    rig.ops->tokens_gather(rig.device, &args);
    assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_INTERNAL);
    assert_non_null(strstr(error.text, "tokens_gather_kernel"));
    assert_non_null(strstr(error.text, "no memory of the card"));
    uint32_t *out = rig_poison(&rig, sizeof *out);
    args.ids = out;
    rig.ops->tokens_gather(rig.device, &args);
    assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_INTERNAL);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backends_by_name),
        cmocka_unit_test(refusals),
        cmocka_unit_test(graph_reads_host_arrays_anew),
        cmocka_unit_test(many_arguments),
        cmocka_unit_test(failure_sticks),
    };
    return cmocka_run_group_tests_name("cuda device", tests, NULL, NULL);
}
