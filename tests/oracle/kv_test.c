/*
 * The KV cache of a backend by itself: its size, what it refuses, and which values it keeps. How it
 * is read is attention_test's and attend_test's.
 */
#include "tests/oracle/rig.h"

#include <math.h>

/* A backend that has no such type says which it has. */
static void refusal(struct rig *rig)
{
    struct kv_shape shape = {.n_layers = 1,
                             .n_kv_heads = 1,
                             .head_dim = 64,
                             .block_tokens = 16,
                             .blocks_count = 1,
                             .slots_count = 1,
                             .slot_blocks_max = 1,
                             .dtype = DTYPE_Q8_0};
    struct kv *kv = NULL;
    struct error error = {0};
    if (ops_find(rig->ops->name))
        return;
    assert_int_equal(rig->ops->kv_open(rig->device, &shape, &kv, &error), STATUS_UNSUPPORTED);
    assert_null(kv);
    assert_non_null(strstr(error.text, "fp8, bf16 or f32"));
}

static void block_bytes(void **state)
{
    struct rig rig = rig_tested(state);
    const struct kv_shape shape = {.n_layers = 30,
                                   .n_kv_heads = 3,
                                   .head_dim = 64,
                                   .block_tokens = 16,
                                   .blocks_count = 1,
                                   .slots_count = 1,
                                   .slot_blocks_max = 1};
    assert_int_equal(rig.ops->kv_block_bytes(&shape), 30 * 2 * 3 * 64 * 16 * 4);
    struct kv_shape half = shape;
    half.dtype = DTYPE_BF16;
    assert_int_equal(rig.ops->kv_block_bytes(&half), 30 * 2 * 3 * 64 * 16 * 2);
    half.dtype = DTYPE_Q8_0; /* and a scale of two bytes for 32 */
    if (rig.ops == &ops_cpu)
        assert_int_equal(rig.ops->kv_block_bytes(&half), 30 * 2 * 3 * (64 * 16 + 2 * 16 * 2));
    half.dtype = DTYPE_KV_E4M3; /* rows filled up to 4 bytes, on every backend but ref alike */
    if (rig.ops != &ops_ref) {
        assert_int_equal(rig.ops->kv_block_bytes(&half), 30 * 2 * 3 * 64 * 16);
        half.head_dim = 6;
        assert_int_equal(rig.ops->kv_block_bytes(&half), 30 * 2 * 3 * 8 * 16);
    }
    refusal(&rig);
    struct kv_shape absurd = shape;
    absurd.blocks_count = UINT32_MAX;
    absurd.n_layers = absurd.n_kv_heads = UINT32_MAX / 2;
    struct kv *kv = NULL;
    struct error error = {0};
    assert_int_equal(rig.ops->kv_open(rig.device, &absurd, &kv, &error), STATUS_EXHAUSTED);
    assert_null(kv);
    assert_non_null(strstr(error.text, "blocks"));
    rig_close(&rig);
}

/* The nearest of all values of E4M3, by a look at each of them; ties to the even one. */
static double e4m3_nearest(double value)
{
    double size = fabs(value), best = 0;
    for (int byte = 1; byte < 127; byte++) {
        double one = byte < 8 ? ldexp(byte, -9) : ldexp(8 + byte % 8, byte / 8 - 10);
        double nearer = fabs(size - best) - fabs(size - one);
        if (nearer > 0 || (nearer == 0 && byte % 2 == 0))
            best = one;
    }
    return copysign(best, value);
}

enum { ROWS = 60 };

/* Values of all sizes, and those on and beside the middle between two neighbours. */
static float value_of(struct dice *dice, uint32_t n)
{
    float middle = ldexpf((float)(17 + 2 * (int)dice_below(dice, 8)), (int)(n / 8 % 19) - 14);
    if (n % 4 == 0)
        return dice_float(dice) * exp2f((float)(n / 4 % 22) - 12);
    if (n % 4 == 1)
        return n % 8 == 1 ? middle : -middle;
    return nextafterf(middle, n % 4 == 2 ? 0 : 1e9f);
}

/* Writes the rows, of which each attends to itself alone: the output is its V. */
static void values_kept(struct rig *rig, uint32_t head_dim, const float *qkv, float *ret_out)
{
    const struct kv_shape shape = {.n_layers = 1,
                                   .n_kv_heads = 1,
                                   .head_dim = head_dim,
                                   .block_tokens = 16,
                                   .blocks_count = 4,
                                   .slots_count = 1,
                                   .slot_blocks_max = 4,
                                   .dtype = DTYPE_KV_E4M3};
    const uint32_t blocks[4] = {2, 0, 3, 1}, slots[ROWS] = {0};
    uint32_t positions[ROWS];
    size_t row_bytes = 3ul * head_dim * sizeof(float);
    for (uint32_t i = 0; i < ROWS; i++)
        positions[i] = i;
    struct kv *kv = rig_kv(rig, &shape);
    rig->ops->kv_table_set(rig->device, kv, 0, 0, blocks, 4);
    struct rope_kv_args rope = {.n_rows = ROWS,
                                .n_heads = 1,
                                .n_kv_heads = 1,
                                .head_dim = head_dim,
                                .qkv = rig_put(rig, qkv, ROWS * row_bytes),
                                .inv_freq = rig_put(rig, NULL, head_dim / 2 * sizeof(float)),
                                .attention_factor = 1,
                                .host_positions = positions,
                                .host_slots = slots,
                                .kv = kv};
    rig->ops->rope_kv(rig->device, &rope);
    struct attention_args args = {.n_rows = ROWS,
                                  .n_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = head_dim,
                                  .scale = 0.125f,
                                  .window_tokens = 1,
                                  .qkv = rope.qkv,
                                  .host_positions = positions,
                                  .host_slots = slots,
                                  .kv = kv,
                                  .out = rig_poison(rig, ROWS * head_dim * sizeof(float))};
    rig->ops->attention(rig->device, &args);
    rig_get(rig, args.out, ret_out, ROWS * head_dim * sizeof(float));
}

/* What is too large is 448; what is not finite is NaN and spoils no other feature. */
static void e4m3_values(void **state)
{
    for (uint32_t head_dim = 72; head_dim <= 80; head_dim += 8) { /* plain on GPUs, and not */
        struct dice dice = {25};
        float *qkv = dice_floats(&dice, ROWS * 3 * head_dim, 1);
        float *out = malloc(ROWS * head_dim * sizeof *out);
        for (uint32_t i = 0; i < ROWS * head_dim; i++)
            qkv[i / head_dim * 3 * head_dim + 2 * head_dim + i % head_dim] = value_of(&dice, i);
        qkv[2 * head_dim] = INFINITY;
        qkv[2 * head_dim + 1] = NAN;
        qkv[2 * head_dim + 2] = -1e30f;
        struct rig rig = rig_tested(state);
        values_kept(&rig, head_dim, qkv, out);
        rig_close(&rig);
        assert_true(isnan(out[0]) && isnan(out[1]) && out[2] == -448);
        for (uint32_t row = 0; row < ROWS; row++)
            for (uint32_t i = 3; i < head_dim; i++) { /* a tile may share a NaN: attend.h */
                double kept = e4m3_nearest((double)qkv[row * 3 * head_dim + 2 * head_dim + i]);
                close_to("kept", row * head_dim + i, out[row * head_dim + i], (float)kept,
                         fabs(kept) * 0x1p-20);
            }
        free(qkv);
        free(out);
    }
}

/* ---- q, k and v in one call ---- */

enum { QKV_ROWS_MAX = 40 };

struct qkv_case {
    uint32_t n_rows, n_heads, n_kv_heads, head_dim, in_count;
    enum dtype weights, kv;
    bool bias, norm;
};

/* Rows of one sequence, from position `first` on. What is left in qkv, and the outputs of
 * attention, which reads what went to the pages. */
static void qkv_run(struct rig *rig, const struct qkv_case *c, bool in_one, const void *weights,
                    const float *in, float *ret_qkv, float *ret_out)
{
    const uint32_t blocks[4] = {2, 0, 3, 1}, slots[QKV_ROWS_MAX] = {0};
    uint32_t positions[QKV_ROWS_MAX], n_out = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    for (uint32_t i = 0; i < c->n_rows; i++)
        positions[i] = 11 + i;
    struct kv *kv = rig_kv(rig, &(struct kv_shape){.n_layers = 2,
                                                   .n_kv_heads = c->n_kv_heads,
                                                   .head_dim = c->head_dim,
                                                   .block_tokens = 16,
                                                   .blocks_count = 4,
                                                   .slots_count = 1,
                                                   .slot_blocks_max = 4,
                                                   .dtype = c->kv});
    rig->ops->kv_table_set(rig->device, kv, 0, 0, blocks, 4);
    float inv_freq[64];
    for (uint32_t i = 0; i < c->head_dim / 2; i++)
        inv_freq[i] = powf(1e4f, -2.0f * (float)i / (float)c->head_dim);
    size_t in_bytes = c->n_rows * c->in_count * sizeof(float);
    struct linear_args linear = {
        .weight = rig_weight(rig, c->weights, n_out, c->in_count, weights),
        .n_rows = c->n_rows,
        .norm = c->norm ? rig_put(rig, in + QKV_ROWS_MAX * c->in_count, c->in_count * 4) : NULL,
        .norm_eps = 1e-5f,
        .in = rig_put(rig, in, in_bytes),
        .bias = c->bias ? rig_put(rig, in, n_out * sizeof(float)) : NULL,
        .out = rig_poison(rig, c->n_rows * n_out * sizeof(float))};
    struct rope_kv_args rope = {.n_rows = c->n_rows,
                                .n_heads = c->n_heads,
                                .n_kv_heads = c->n_kv_heads,
                                .head_dim = c->head_dim,
                                .qkv = linear.out,
                                .inv_freq = rig_put(rig, inv_freq, c->head_dim / 2 * sizeof(float)),
                                .attention_factor = 0.875f,
                                .host_positions = positions,
                                .host_slots = slots,
                                .kv = kv,
                                .layer = 1};
    if (in_one) {
        rig->ops->qkv(rig->device, &linear, &rope);
    } else {
        rig->ops->linear(rig->device, &linear);
        rig->ops->rope_kv(rig->device, &rope);
    }
    struct attention_args args = {
        .n_rows = c->n_rows,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .layer = 1,
        .scale = 0.125f,
        .window_tokens = 1, /* each its own: what came before 11 was never written */
        .qkv = rope.qkv,
        .host_positions = positions,
        .host_slots = slots,
        .kv = kv,
        .out = rig_poison(rig, c->n_rows * c->n_heads * c->head_dim * sizeof(float))};
    rig->ops->attention(rig->device, &args);
    rig_get(rig, rope.qkv, ret_qkv, c->n_rows * n_out * sizeof(float));
    rig_get(rig, args.out, ret_out, c->n_rows * c->n_heads * c->head_dim * sizeof(float));
}

static void qkv_check(void **state, struct dice *dice, const struct qkv_case *c)
{
    uint32_t n_out = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    size_t n = (size_t)c->n_rows * n_out, n_attended = (size_t)c->n_rows * c->n_heads * c->head_dim;
    void *weights = dice_weights(dice, c->weights, (size_t)n_out * c->in_count, 1);
    float *in = dice_floats(dice, (QKV_ROWS_MAX + 1) * c->in_count + n_out, 1);
    float *got = calloc(2 * (n + n_attended), sizeof *got), *apart = got + n + n_attended;
    assert_non_null(got);
    for (int in_one = 0; in_one < 2; in_one++) {
        struct rig rig = rig_tested(state);
        float *to = in_one ? got : apart;
        qkv_run(&rig, c, in_one, weights, in, to, to + n);
        rig_close(&rig);
    }
    for (size_t i = 0; i < n + n_attended; i++)
        if (memcmp(&got[i], &apart[i], sizeof *got) != 0)
            fail_msg("%s, %u rows, heads of %u: %s[%zu] is %.9g in one call, %.9g in two",
                     dtype_name(c->weights), c->n_rows, c->head_dim, i < n ? "qkv" : "attention",
                     i < n ? i : i - n, (double)got[i], (double)apart[i]);
    free(weights);
    free(in);
    free(got);
}

/* The same bits as linear and rope_kv. */
static void qkv_in_one(void **state)
{
    static const struct qkv_case cases[] = {
        {1, 4, 2, 64, 96, DTYPE_BF16, DTYPE_BF16, false, true},
        {2, 2, 1, 128, 640, DTYPE_Q4_0, DTYPE_BF16, true, true},
        {7, 3, 1, 32, 128, DTYPE_F16, DTYPE_F32, true, false},
        {9, 2, 2, 96, 128, DTYPE_Q8_0, DTYPE_KV_E4M3, false, true},
        {32, 2, 1, 64, 128, DTYPE_F8_E4M3, DTYPE_BF16, false, true},
        {32, 3, 3, 64, 64, DTYPE_Q4_1, DTYPE_KV_E4M3, true, true},
        {40, 2, 1, 64, 64, DTYPE_BF16, DTYPE_BF16, true, true}, /* these in two after all: */
        {3, 2, 1, 80, 64, DTYPE_BF16, DTYPE_BF16, true, true},
        {3, 2, 1, 64, 64, DTYPE_F32, DTYPE_F32, true, true},
    };
    struct rig rig = rig_tested(state);
    bool has = rig.ops->qkv;
    if (!has)
        assert_ptr_equal(rig.ops, &ops_cpu);
    rig_close(&rig);
    struct dice dice = {26};
    for (size_t i = 0; has && i < array_count(cases); i++)
        qkv_check(state, &dice, &cases[i]);
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"q, k and v in one call", qkv_in_one},
        {"E4M3", e4m3_values},
        {"kv_block_bytes, a pool that is too large", block_bytes},
    };
    return rig_main("kv", tests, array_count(tests));
}
