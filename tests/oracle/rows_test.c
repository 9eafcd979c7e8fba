/*
 * Ops of one row at a time, on the CPU backend, against `ref` on random shapes, odd ones among
 * them. Bounds, with u = 2^-24 (half a unit of f32): rmsnorm     8 u |out| rope        4 u factor
 * (|a| + |b|) silu_mul    8 u |out|, and 2^-121 |up| where exp(-gate) overflows f32 attention 2e-5
 * max |v|, scores within +-10 moe         1e-5 (1 + |out|), values of order 1 embed, gathers,
 * copies: exact
 */
#include "tests/oracle/rig.h"

#include <math.h>

/* ---- ops of one row ---- */

static void rmsnorm_matches(void **state)
{
    struct dice dice = {6};
    static const uint32_t sizes[] = {1, 15, 16, 17, 63, 64, 65, 192, 576, 1000};
    for (size_t s = 0; s < array_count(sizes); s++) {
        uint32_t n = sizes[s], n_rows = dice_between(&dice, 1, 40);
        size_t bytes = (size_t)n_rows * n * sizeof(float);
        float *in = dice_floats(&dice, (size_t)n_rows * n, s % 2 ? 1e-3f : 30);
        float *weight = dice_floats(&dice, n, 2), *outs[2];
        for (int b = 0; b < 2; b++) {
            struct rig rig = b ? rig_open("ref", NULL, 1) : rig_cpu(state);
            float *device_in = rig_put(&rig, in, bytes), *out = device_in; /* may equal in */
            if (s % 3)
                out = rig_poison(&rig, bytes);
            struct rmsnorm_args args = {.n_rows = n_rows,
                                        .n = n,
                                        .eps = 1e-5f,
                                        .in = device_in,
                                        .weight = rig_put(&rig, weight, n * sizeof(float)),
                                        .out = out};
            rig.ops->rmsnorm(rig.device, &args);
            outs[b] = malloc(bytes);
            rig_get(&rig, out, outs[b], bytes);
            rig_close(&rig);
        }
        for (size_t i = 0; i < (size_t)n_rows * n; i++)
            close_to("rmsnorm", i, outs[0][i], outs[1][i], 8 * UNIT * fabs((double)outs[1][i]));
        free(outs[0]);
        free(outs[1]);
        free(in);
        free(weight);
    }
}

static void silu_mul_matches(void **state)
{
    struct dice dice = {7};
    static const uint32_t sizes[] = {1, 15, 16, 17, 100, 256, 1536};
    for (size_t s = 0; s < array_count(sizes); s++) {
        uint32_t n = sizes[s], n_rows = dice_between(&dice, 1, 40);
        size_t count = (size_t)n_rows * n;
        float *in = dice_floats(&dice, 2 * count, 1), *outs[2];
        for (size_t i = 0; i < 2 * count; i++)
            in[i] = in[i] * (i % 5 ? 8 : 120); /* exp(120) overflows f32, and must not matter */
        for (int b = 0; b < 2; b++) {
            struct rig rig = b ? rig_open("ref", NULL, 1) : rig_cpu(state);
            float *out = rig_poison(&rig, count * sizeof(float));
            struct silu_mul_args args = {.n_rows = n_rows,
                                         .n = n,
                                         .gate_up = rig_put(&rig, in, 2 * count * sizeof(float)),
                                         .out = out};
            rig.ops->silu_mul(rig.device, &args);
            outs[b] = malloc(count * sizeof(float));
            rig_get(&rig, out, outs[b], count * sizeof(float));
            rig_close(&rig);
        }
        for (size_t i = 0; i < count; i++) {
            double up = fabs((double)in[i / n * 2 * n + n + i % n]);
            close_to("silu_mul", i, outs[0][i], outs[1][i],
                     8 * UNIT * fabs((double)outs[1][i]) + 0x1p-121 * up);
        }
        free(outs[0]);
        free(outs[1]);
        free(in);
    }
}

static void embed_and_gathers(void **state)
{
    struct dice dice = {8};
    enum { VOCAB = 77, HIDDEN = 64, ROWS = 30, SLOTS = 5 };
    uint32_t ids[ROWS], slots[ROWS], sampled[SLOTS], got_ids[ROWS], picks[ROWS];
    for (uint32_t i = 0; i < SLOTS; i++)
        sampled[i] = dice_below(&dice, VOCAB);
    for (uint32_t i = 0; i < ROWS; i++) {
        ids[i] = dice_below(&dice, 3) ? dice_below(&dice, VOCAB) : TOKEN_FROM_SLOT;
        slots[i] = dice_below(&dice, SLOTS);
        picks[i] = dice_below(&dice, ROWS);
    }
    for (int type = 0; type < DTYPE_COUNT; type++) {
        enum dtype dtype = (enum dtype)type;
        void *data = dice_weights(&dice, dtype, VOCAB * HIDDEN, 1);
        float table[VOCAB * HIDDEN];
        dtype_widen(dtype, data, VOCAB * HIDDEN, table);
        struct rig rig = rig_cpu(state);
        uint32_t *device_ids = rig_poison(&rig, sizeof ids);
        struct tokens_gather_args gather = {.n_rows = ROWS,
                                            .host_ids = ids,
                                            .host_slots = slots,
                                            .last_sampled = rig_put(&rig, sampled, sizeof sampled),
                                            .ids = device_ids};
        rig.ops->tokens_gather(rig.device, &gather);
        rig_get(&rig, device_ids, got_ids, sizeof got_ids);
        float out[ROWS * HIDDEN], picked[ROWS * HIDDEN];
        float *device_out = rig_poison(&rig, sizeof out);
        float *device_picked = rig_poison(&rig, sizeof picked);
        struct embed_args embed = {.weight = rig_weight(&rig, dtype, VOCAB, HIDDEN, data),
                                   .n_rows = ROWS,
                                   .ids = device_ids,
                                   .out = device_out};
        rig.ops->embed(rig.device, &embed);
        rig_get(&rig, device_out, out, sizeof out);
        struct rows_gather_args rows = {
            .n_out = ROWS, .n = HIDDEN, .host_rows = picks, .in = device_out, .out = device_picked};
        rig.ops->rows_gather(rig.device, &rows);
        rig_get(&rig, device_picked, picked, sizeof picked);
        for (uint32_t r = 0; r < ROWS; r++) {
            uint32_t id = ids[r] == TOKEN_FROM_SLOT ? sampled[slots[r]] : ids[r];
            assert_int_equal(got_ids[r], id);
            for (uint32_t i = 0; i < HIDDEN; i++)
                assert_true(out[r * HIDDEN + i] == table[id * HIDDEN + i]);
            assert_memory_equal(&picked[r * HIDDEN], &out[picks[r] * HIDDEN],
                                HIDDEN * sizeof(float));
        }
        rig_close(&rig);
        free(data);
    }
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"rmsnorm", rmsnorm_matches},
        {"silu_mul", silu_mul_matches},
        {"embed, tokens_gather, rows_gather", embed_and_gathers},
    };
    return rig_main("rows", tests, array_count(tests));
}
