/*
 * Opening a device, the choice of a tier, the thread pool, and the promise that no op allocates
 * once its scratch is reserved (malloc and calloc are wrapped by the linker for this program).
 */
#include "tests/oracle/rig.h"

#include <math.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);

static atomic_uint allocations;
static unsigned fail_at = UINT32_MAX; /* this one of `allocations` gives NULL, and all after it */

void *__wrap_malloc(size_t size)
{
    return atomic_fetch_add(&allocations, 1) >= fail_at ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return atomic_fetch_add(&allocations, 1) >= fail_at ? NULL : __real_calloc(count, size);
}

static void backends_by_name(void **state)
{
    assert_ptr_equal(ops_find("ref"), &ops_ref);
    assert_ptr_equal(ops_find("cpu"), &ops_cpu);
    assert_null(ops_find("cuda9"));
    assert_null(ops_find(""));
    assert_null(ops_find(NULL));
}

static void open_refused(const struct ops *ops, const char *tier, const char *word)
{
    struct device_options options = {.threads_count = 1, .tier = tier};
    struct device *device = NULL;
    struct error error = {0};
    assert_int_equal(ops->device_open(&options, &device, &error), STATUS_UNSUPPORTED);
    assert_null(device);
    assert_int_equal(error.status, STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, word));
}

static void tiers(void **state)
{
    open_refused(&ops_cpu, "avx9", "avx9");
    open_refused(&ops_cpu, "avx9", "this CPU has:");
    open_refused(&ops_cpu, "", "scalar");
    open_refused(&ops_ref, "scalar", "no tiers");
    setenv("GALERNE_CPU_TIER", "mmx", 1);
    open_refused(&ops_cpu, NULL, "GALERNE_CPU_TIER");
    struct rig rig = rig_open("cpu", "scalar", 2); /* the option goes before the variable */
    assert_string_equal(rig.ops->device_text(rig.device), "cpu scalar, 2 threads");
    rig_close(&rig);
    setenv("GALERNE_CPU_TIER", "scalar", 1);
    rig = rig_open("cpu", NULL, 1);
    assert_string_equal(rig.ops->device_text(rig.device), "cpu scalar, 1 thread");
    rig_close(&rig);
    setenv("GALERNE_CPU_TIER", "", 1); /* as if unset */
    rig = rig_open("cpu", NULL, 0);
    char best[64];
    snprintf(best, sizeof best, "%s", rig.ops->device_text(rig.device));
    rig_close(&rig);
    unsetenv("GALERNE_CPU_TIER");
    rig = rig_open("cpu", NULL, 0);
    assert_string_equal(rig.ops->device_text(rig.device), best);
    rig_close(&rig);
}

/* ---- pool ---- */

enum { ITEMS_MAX = 300 };

struct tally {
    _Atomic uint32_t runs[ITEMS_MAX];
    uint32_t values[ITEMS_MAX]; /* plain: the pool must order the accesses */
    uint32_t threads_count;
};

static void tally_item(void *context, uint32_t thread, uint32_t item)
{
    struct tally *tally = context;
    if (thread >= tally->threads_count)
        abort();
    atomic_fetch_add(&tally->runs[item], 1);
    tally->values[item] += item + 1;
}

/* Every item once, in every job, with pauses in which the workers fall asleep. */
static void pool_runs_each_item_once(void **state)
{
    for (uint32_t threads_count = 1; threads_count <= 5; threads_count++) {
        struct pool *pool;
        assert_int_equal(pool_open(threads_count, &pool, NULL), STATUS_OK);
        assert_int_equal(pool_threads_count(pool), threads_count);
        struct dice dice = {90};
        static struct tally tally;
        memset(&tally, 0, sizeof tally);
        tally.threads_count = threads_count;
        uint32_t expected[ITEMS_MAX] = {0};
        for (uint32_t job = 0; job < 3000; job++) {
            uint32_t n_items = dice_below(&dice, job % 7 ? 6 : ITEMS_MAX);
            pool_run(pool, tally_item, &tally, n_items);
            for (uint32_t i = 0; i < n_items; i++)
                expected[i]++;
            if (job % 500 == 0)
                usleep(3000);
        }
        for (uint32_t i = 0; i < ITEMS_MAX; i++) {
            assert_int_equal(tally.runs[i], expected[i]);
            assert_int_equal(tally.values[i], expected[i] * (i + 1));
        }
        pool_close(pool);
    }
    pool_close(NULL);
}

/* An idle pool uses no CPU: the process's time does not grow while its workers wait. */
static void pool_idles(void **state)
{
    struct pool *pool;
    static struct tally tally;
    memset(&tally, 0, sizeof tally);
    tally.threads_count = 4;
    assert_int_equal(pool_open(4, &pool, NULL), STATUS_OK);
    pool_run(pool, tally_item, &tally, ITEMS_MAX);
    usleep(20000);
    clock_t before = clock();
    usleep(200000);
    double used_s = (double)(clock() - before) / CLOCKS_PER_SEC;
    pool_close(pool);
    assert_true(used_s < 0.02);
}

/* ---- no allocation after reserve ---- */

enum { R = 37, H = 64, I = 72, E = 4, V = 600, HEADS = 4, KV_HEADS = 2, D = 24, CONTEXT = 64 };
enum { QKV = (HEADS + 2 * KV_HEADS) * D };

struct net {
    struct weight *qkv, *router, *gate_up, *down, *head;
    struct weight *up, *down_plain; /* of one mlp */
    struct kv *kv;
    float *hidden, *wide, *mixed, *logits, *norm, *inv_freq;
    uint32_t *sampled;
    struct sample_result *results;
};

static struct weight *experts_pack(struct rig *rig, uint32_t out_count, uint32_t in_count,
                                   const float *values)
{
    struct weight_part parts[E];
    for (uint32_t e = 0; e < E; e++)
        parts[e] =
            (struct weight_part){DTYPE_F32, out_count, values + (size_t)e * out_count * in_count};
    struct weight_source source = {.stack_count = E,
                                   .n_parts = 1,
                                   .out_count = out_count,
                                   .in_count = in_count,
                                   .parts = parts};
    return rig_weight_source(rig, &source);
}

static struct net net_make(struct rig *rig)
{
    struct dice dice = {91};
    float *values = dice_floats(&dice, 2 * E * I * H + V * H, 0.2f);
    struct kv_shape shape = {.n_layers = 1,
                             .n_kv_heads = KV_HEADS,
                             .head_dim = D,
                             .block_tokens = 16,
                             .blocks_count = 4,
                             .slots_count = 1,
                             .slot_blocks_max = CONTEXT / 16};
    struct net net = {
        .qkv = rig_weight(rig, DTYPE_F32, QKV, H, values),
        .router = rig_weight(rig, DTYPE_F32, E, H, values),
        .head = rig_weight(rig, DTYPE_Q8_0, V, H, values), /* bytes are bytes */
        .gate_up = experts_pack(rig, 2 * I, H, values),
        .down = experts_pack(rig, H, I, values),
        .up = rig_weight(rig, DTYPE_Q4_0, 2 * I, H, values),
        .down_plain = rig_weight(rig, DTYPE_BF16, H, I, values),
        .kv = rig_kv(rig, &shape),
        .hidden = rig_put(rig, values, R * H * sizeof(float)),
        .wide = rig_put(rig, NULL, R * QKV * sizeof(float)),
        .mixed = rig_put(rig, NULL, R * HEADS * D * sizeof(float)),
        .logits = rig_put(rig, NULL, R * V * sizeof(float)),
        .norm = rig_put(rig, values, H * sizeof(float)),
        .inv_freq = rig_put(rig, values, D / 2 * sizeof(float)),
        .sampled = rig_put(rig, NULL, sizeof(uint32_t)),
        .results = rig_put(rig, NULL, R * sizeof(struct sample_result)),
    };
    const uint32_t blocks[4] = {2, 0, 3, 1};
    rig->ops->kv_table_set(rig->device, net.kv, 0, 0, blocks, 4);
    free(values);
    return net;
}

static void net_attend(struct rig *rig, const struct net *net, const uint32_t *positions,
                       const uint32_t *slots)
{
    struct rope_kv_args rope = {.n_rows = R,
                                .n_heads = HEADS,
                                .n_kv_heads = KV_HEADS,
                                .head_dim = D,
                                .qkv = net->wide,
                                .inv_freq = net->inv_freq,
                                .attention_factor = 1,
                                .host_positions = positions,
                                .host_slots = slots,
                                .kv = net->kv};
    rig->ops->rope_kv(rig->device, &rope);
    struct attention_args attention = {.n_rows = R,
                                       .n_heads = HEADS,
                                       .n_kv_heads = KV_HEADS,
                                       .head_dim = D,
                                       .scale = 0.2f,
                                       .qkv = net->wide,
                                       .host_positions = positions,
                                       .host_slots = slots,
                                       .kv = net->kv,
                                       .out = net->mixed};
    rig->ops->attention(rig->device, &attention);
}

/* Every op that computes, at the largest shapes of the limits. */
static void net_step(struct rig *rig, const struct net *net, bool experts)
{
    static const uint32_t slots[R];
    uint32_t positions[R];
    struct sample_params params[R];
    for (uint32_t i = 0; i < R; i++) {
        positions[i] = i + CONTEXT - R;
        params[i] = (struct sample_params){.temperature = 1, .top_p = 0.9f, .n_logprobs = 3};
    }
    const struct ops *ops = rig->ops;
    struct linear_args qkv = {.weight = net->qkv,
                              .n_rows = R,
                              .norm = net->norm,
                              .norm_eps = 1e-5f,
                              .in = net->hidden,
                              .out = net->wide};
    ops->linear(rig->device, &qkv);
    net_attend(rig, net, positions, slots);
    struct moe_args moe = {.n_rows = R,
                           .hidden = H,
                           .intermediate = I,
                           .n_experts = E,
                           .top_k = 2,
                           .normalise = true,
                           .router = net->router,
                           .gate_up = net->gate_up,
                           .down = net->down,
                           .norm = net->norm,
                           .norm_eps = 1e-5f,
                           .in = net->hidden,
                           .out = net->hidden};
    struct mlp_args mlp = {.n_rows = R,
                           .hidden = H,
                           .intermediate = I,
                           .gate_up = net->up,
                           .down = net->down_plain,
                           .norm = net->norm,
                           .norm_eps = 1e-5f,
                           .in = net->hidden,
                           .out = net->hidden};
    if (experts)
        ops->moe(rig->device, &moe);
    else
        ops->mlp(rig->device, &mlp);
    struct linear_args head = {
        .weight = net->head, .n_rows = R, .in = net->hidden, .out = net->logits};
    ops->linear(rig->device, &head);
    struct sample_args sample = {.n_rows = R,
                                 .vocab = V,
                                 .logits = net->logits,
                                 .host_params = params,
                                 .host_positions = positions,
                                 .host_slots = slots,
                                 .host_places = slots,
                                 .last_sampled = net->sampled,
                                 .results = net->results};
    ops->sample(rig->device, &sample);
}

/* `early`: reserve comes before the weights, or after them; both orders must do. */
static void allocations_check(const char *backend, bool early, bool experts)
{
    struct rig rig = rig_open(backend, NULL, backend[0] == 'r' ? 1 : 3);
    const struct op_limits limits = {.rows_max = R,
                                     .sampled_max = R,
                                     .vocab = V,
                                     .n_heads = HEADS,
                                     .head_dim = D,
                                     .hidden = H,
                                     .intermediate = I,
                                     .n_experts = experts ? E : 0,
                                     .top_k = experts ? 2 : 0,
                                     .context_tokens = CONTEXT};
    struct error error = {0};
    if (early)
        assert_int_equal(rig.ops->reserve(rig.device, &limits, &error), STATUS_OK);
    struct net net = net_make(&rig);
    if (!early)
        assert_int_equal(rig.ops->reserve(rig.device, &limits, &error), STATUS_OK);
    uint32_t before = atomic_load(&allocations);
    net_step(&rig, &net, experts);
    assert_int_equal(atomic_load(&allocations), before);
    assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_OK);
    rig_close(&rig);
}

static void no_allocation_after_reserve(void **state)
{
    uint32_t before = atomic_load(&allocations);
    void *volatile memory = calloc(1, 1);
    free(memory);
    assert_int_equal(atomic_load(&allocations), before + 1); /* the wrap works */
    for (int experts = 0; experts < 2; experts++) {
        allocations_check("cpu", false, experts);
        allocations_check("cpu", true, experts);
        allocations_check("ref", true, experts);
    }
}

/* ---- memory runs out at each allocation in turn ---- */

static const struct op_limits small_limits = {.rows_max = 9,
                                              .vocab = 50,
                                              .hidden = 8,
                                              .intermediate = 8,
                                              .n_experts = 2,
                                              .top_k = 1,
                                              .context_tokens = 32};

/* Opens a device and all that hangs on it; the first failure ends it. */
static enum status all_open(const struct ops *ops, struct error *error)
{
    static const float values[32 * 64];
    const struct weight_part part = {DTYPE_F32, 32, values};
    const struct weight_source source = {
        .stack_count = 1, .n_parts = 1, .out_count = 32, .in_count = 64, .parts = &part};
    const struct kv_shape shape = {1, 1, 8, 16, 2, 2, 2, DTYPE_F32, false};
    struct device_options options = {.threads_count = ops == &ops_ref ? 1 : 3};
    struct device *device = NULL;
    struct weight *weight = NULL;
    struct kv *kv = NULL;
    enum status status = ops->device_open(&options, &device, error);
    if (status == STATUS_OK)
        status = ops->reserve(device, &small_limits, error);
    if (status == STATUS_OK)
        status = ops->weight_pack(device, &source, &weight, error);
    if (status == STATUS_OK)
        status = ops->kv_open(device, &shape, &kv, error);
    if (device) {
        ops->weight_free(device, weight);
        ops->kv_close(device, kv);
    }
    ops->device_close(device);
    return status;
}

static void memory_out_at_each_allocation(void **state)
{
    static const struct ops *const backends[] = {&ops_cpu, &ops_ref};
    for (size_t b = 0; b < array_count(backends); b++) {
        unsigned failures = 0;
        for (;; failures++) {
            struct error error = {0};
            fail_at = atomic_load(&allocations) + failures;
            enum status status = all_open(backends[b], &error);
            fail_at = UINT32_MAX;
            if (status == STATUS_OK)
                break;
            assert_int_equal(status, STATUS_EXHAUSTED);
            assert_int_equal(error.status, STATUS_EXHAUSTED);
            assert_true(failures < 100);
        }
        assert_true(failures > 5);
    }
}

/* An op past the limits that finds no memory does nothing, and sync says so. */
static void memory_out_inside_an_op(void **state)
{
    static const char *const names[] = {"cpu", "ref"};
    for (size_t b = 0; b < array_count(names); b++) {
        struct rig rig = rig_open(names[b], NULL, 1);
        struct error error = {0};
        struct sample_params params = {0};
        uint32_t zero = 0;
        struct sample_args args = {.n_rows = 1,
                                   .vocab = 5000,
                                   .logits = rig_put(&rig, NULL, 5000 * sizeof(float)),
                                   .host_params = &params,
                                   .host_positions = &zero,
                                   .host_slots = &zero,
                                   .host_places = &zero,
                                   .last_sampled = rig_put(&rig, NULL, sizeof(uint32_t)),
                                   .results = rig_put(&rig, NULL, sizeof(struct sample_result))};
        fail_at = atomic_load(&allocations);
        rig.ops->sample(rig.device, &args);
        fail_at = UINT32_MAX;
        assert_int_equal(rig.ops->sync(rig.device, &error), STATUS_INTERNAL);
        assert_non_null(strstr(error.text, "memory"));
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backends_by_name),
        cmocka_unit_test(tiers),
        cmocka_unit_test(pool_runs_each_item_once),
        cmocka_unit_test(pool_idles),
        cmocka_unit_test(no_allocation_after_reserve),
        cmocka_unit_test(memory_out_at_each_allocation),
        cmocka_unit_test(memory_out_inside_an_op),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
