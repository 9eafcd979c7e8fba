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
    assert_ptr_equal(module_plan_ops("cuda")->kv_block_bytes, ops_cpu.kv_block_bytes);
    assert_int_equal(module_plan_ops("cuda")->widens, ops->widens);
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

    /* A card of the host's size would have room for some of it, and Meson has that filled. */
    setenv("GALERNE_CUDA_HOST_MEMORY_MIB", "64", 1);
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
    unsetenv("GALERNE_CUDA_HOST_MEMORY_MIB");
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

/* Two arrays of one op, of which the first fills what is left of the stage: both are sent. */
static void arrays_of_one_op_stay_together(void **state)
{
    enum { N = 140000, CALLS = 4 };
    struct rig rig = rig_open("cuda-host", NULL, 1);
    static uint32_t ids[N], slots[N], got[N], sampled[CALLS];
    for (uint32_t i = 0; i < CALLS; i++)
        sampled[i] = 1000 + i;
    uint32_t *last_sampled = rig_put(&rig, sampled, sizeof sampled), *outs[CALLS];
    for (uint32_t call = 0; call < CALLS; call++)
        outs[call] = rig_poison(&rig, sizeof got);
    for (uint32_t call = 0; call < CALLS; call++) { /* 560 KB each, in 4 MiB */
        for (uint32_t i = 0; i < N; i++) {
            ids[i] = i % 2 ? TOKEN_FROM_SLOT : call * N + i;
            slots[i] = (call + i) % CALLS;
        }
        struct tokens_gather_args args = {N, ids, slots, last_sampled, outs[call]};
        rig.ops->tokens_gather(rig.device, &args);
    }
    for (uint32_t call = 0; call < CALLS; call++) {
        rig_get(&rig, outs[call], got, sizeof got);
        for (uint32_t i = 0; i < N; i += 997)
            assert_int_equal(got[i], i % 2 ? 1000 + (call + i) % CALLS : call * N + i);
    }
    rig_close(&rig);
}

/* After `reserve` no op asks for memory, whatever comes before it in a step. */
static void reserved_stage_is_enough(void **state)
{
    enum { ROWS = 4096, WRITES = 300, WRITE = 64000 };
    struct rig rig = rig_open("cuda-host", NULL, 1);
    static uint32_t ids[ROWS], slots[ROWS];
    static char host[WRITE];
    struct error error = {0};
    struct op_limits limits = {.rows_max = ROWS,
                               .sampled_max = 8,
                               .vocab = 64,
                               .n_heads = 1,
                               .head_dim = 64,
                               .hidden = 64,
                               .intermediate = 64,
                               .context_tokens = 64};
    char *to = rig_poison(&rig, WRITE);
    uint32_t *out = rig_poison(&rig, sizeof ids), *last_sampled = rig_put(&rig, NULL, 4);
    assert_int_equal(rig.ops->reserve(rig.device, &limits, &error), STATUS_OK);
    size_t unused = rig.ops->memory_free_bytes(rig.device);
    for (uint32_t i = 0; i < WRITES; i++) {
        host[i] = (char)(i + 1);
        rig.ops->buffer_write(rig.device, to, host, WRITE);
        ids[i] = i;
        struct tokens_gather_args args = {ROWS, ids, slots, last_sampled, out};
        if (i % 50 == 49)
            rig.ops->tokens_gather(rig.device, &args);
    }
    assert_int_equal(rig.ops->memory_free_bytes(rig.device), unused);
    assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_OK);
    rig_close(&rig);
}

/* Of many graphs one is freed; a graph whose arrays do not fit is an error, and no failure. */
static void graphs_come_and_go(void **state)
{
    enum { GRAPHS = 5, MANY = 40000 };
    struct rig rig = rig_open("cuda-host", NULL, 1);
    static uint32_t ids[GRAPHS], many[MANY], slot;
    uint32_t *last_sampled = rig_put(&rig, NULL, sizeof(uint32_t)), *outs[GRAPHS], got;
    struct error error = {0};
    void *graphs[GRAPHS], *none = &none;
    for (uint32_t i = 0; i < GRAPHS; i++) {
        outs[i] = rig_poison(&rig, sizeof got);
        struct tokens_gather_args args = {1, &ids[i], &slot, last_sampled, outs[i]};
        assert_int_equal(rig.ops->graph_begin(rig.device, &error), STATUS_OK);
        rig.ops->tokens_gather(rig.device, &args);
        assert_int_equal(rig.ops->graph_end(rig.device, &graphs[i], &error), STATUS_OK);
    }
    rig.ops->graph_free(rig.device, graphs[2]);
    struct tokens_gather_args large = {MANY, many, many, last_sampled, outs[0]};
    assert_int_equal(rig.ops->graph_begin(rig.device, &error), STATUS_OK);
    rig.ops->tokens_gather(rig.device, &large);
    assert_int_equal(rig.ops->graph_end(rig.device, &none, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "a step cannot be a graph"));
    assert_ptr_equal(none, &none);
    for (uint32_t round = 0; round < 3; round++)
        for (uint32_t i = 0; i < GRAPHS; i++) {
            ids[i] = 10 * round + i;
            if (i != 2)
                rig.ops->graph_launch(rig.device, graphs[i]);
            rig_get(&rig, outs[i], &got, sizeof got);
            assert_int_equal(got, i == 2 ? UINT32_MAX : 10 * round + i);
        }
    rig_close(&rig);
}

/* Every allocation says what it needed, what there was, and what to do. */
static void a_card_that_is_full(void **state)
{
    setenv("GALERNE_CUDA_HOST_MEMORY_MIB", "16", 1);
    struct rig rig = rig_open("cuda-host", NULL, 1);
    struct error error = {0};
    struct kv *kv = NULL;
    struct kv_shape shape = {.n_layers = 8,
                             .n_kv_heads = 8,
                             .head_dim = 64,
                             .block_tokens = 16,
                             .blocks_count = 64,
                             .slots_count = 1,
                             .slot_blocks_max = 64,
                             .dtype = DTYPE_F32};
    assert_int_equal(rig.ops->kv_open(rig.device, &shape, &kv, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "the KV cache: 32.0 MiB are needed, 12.0 MiB of the device "
                                       "are free: have fewer blocks: lower kv_memory"));
    float *data = calloc(4 << 20, sizeof *data);
    struct weight_part part = {DTYPE_F32, 2048, data};
    struct weight_source source = {
        .stack_count = 1, .n_parts = 1, .out_count = 2048, .in_count = 2048, .parts = &part};
    struct weight *weight = NULL;
    assert_int_equal(rig.ops->weight_pack(rig.device, &source, &weight, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "weights: 16.0 MiB are needed, 12.0 MiB of the device are "
                                       "free: use a smaller or more quantised model"));
    free(data);
    struct op_limits limits = {.rows_max = 64,
                               .sampled_max = 64,
                               .vocab = 1 << 19,
                               .n_heads = 1,
                               .head_dim = 64,
                               .hidden = 64,
                               .intermediate = 64,
                               .context_tokens = 64};
    assert_int_equal(rig.ops->reserve(rig.device, &limits, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "MiB are needed"));
    assert_null(rig.ops->buffer_alloc(rig.device, 13 << 20));
    assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_OK); /* none of it is a failure */
    rig_close(&rig);
    unsetenv("GALERNE_CUDA_HOST_MEMORY_MIB");
}

/* A failure that a read meets first is told by the sync after it. */
static void a_read_after_a_failure(void **state)
{
    struct rig rig = rig_open("cuda-host", NULL, 1);
    uint32_t id = 1, slot = 0, got = 77;
    uint32_t *out = rig_put(&rig, &id, sizeof id);
    struct tokens_gather_args args = {1, &id, &slot, NULL, NULL};
    struct error error = {0};
    rig.ops->tokens_gather(rig.device, &args);
    rig.ops->buffer_read(rig.device, out, &got, sizeof got);
    assert_int_equal(got, 77);
    assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_INTERNAL);
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
        cmocka_unit_test(arrays_of_one_op_stay_together),
        cmocka_unit_test(reserved_stage_is_enough),
        cmocka_unit_test(graphs_come_and_go),
        cmocka_unit_test(a_card_that_is_full),
        cmocka_unit_test(a_read_after_a_failure),
        cmocka_unit_test(failure_sticks),
    };
    return cmocka_run_group_tests_name("cuda device", tests, NULL, NULL);
}
