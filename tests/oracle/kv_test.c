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

int main(void)
{
    static const struct rig_test tests[] = {
        {"E4M3", e4m3_values},
        {"kv_block_bytes, a pool that is too large", block_bytes},
    };
    return rig_main("kv", tests, array_count(tests));
}
