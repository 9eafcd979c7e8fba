/*
 * The feed-forward op on the CPU backend against `ref`, on random shapes, odd ones among them, in
 * every pair of types, for values of order 1: |difference| <= bound (1 + |out|), by rig_bound of
 * the types. The gate also with values at which exp(-gate) overflows f32, which must not matter,
 * and with what is not finite, which stays in its row.
 */
#include "tests/oracle/rig.h"

#include <math.h>

struct mlp_case {
    uint32_t n_rows, hidden, intermediate;
    enum dtype gate_up, down;
    bool plain;  /* neither norm nor biases */
    bool two;    /* gate and up are parts of their own */
    bool paired; /* as ops.h has it */
    float scale; /* of the rows */
};

struct mlp_data {
    void *gate_up, *down;
    float *in, *norm, *gate_up_bias, *down_bias;
};

/* At least n columns, of whole blocks. */
static uint32_t columns(enum dtype dtype, uint32_t n)
{
    uint32_t block = dtype_block_count(dtype);
    return (n + block - 1) / block * block;
}

static struct mlp_data data_make(struct dice *dice, const struct mlp_case *c)
{
    size_t n = (size_t)c->hidden * c->intermediate;
    return (struct mlp_data){
        .gate_up = dice_weights(dice, c->gate_up, 2 * n, 2 / sqrtf((float)c->hidden)),
        .down = dice_weights(dice, c->down, n, 2 / sqrtf((float)c->intermediate)),
        .in = dice_floats(dice, (size_t)c->n_rows * c->hidden, c->scale),
        .norm = dice_floats(dice, c->hidden, 1),
        .gate_up_bias = dice_floats(dice, 2ul * c->intermediate, 1),
        .down_bias = dice_floats(dice, c->hidden, 1),
    };
}

static void data_free(struct mlp_data *d)
{
    free(d->gate_up);
    free(d->down);
    free(d->in);
    free(d->norm);
    free(d->gate_up_bias);
    free(d->down_bias);
}

static struct weight *gate_up_pack(struct rig *rig, const struct mlp_case *c, const char *data)
{
    size_t part_bytes = (size_t)c->intermediate * c->hidden / dtype_block_count(c->gate_up) *
                        dtype_block_bytes(c->gate_up);
    struct weight_part parts[2] = {{c->gate_up, c->intermediate * (c->two ? 1 : 2), data},
                                   {c->gate_up, c->intermediate, data + part_bytes}};
    struct weight_source source = {.stack_count = 1,
                                   .n_parts = c->two ? 2 : 1,
                                   .paired = c->paired,
                                   .out_count = 2 * c->intermediate,
                                   .in_count = c->hidden,
                                   .parts = parts};
    return rig_weight_source(rig, &source);
}

static void mlp_run(struct rig *rig, const struct mlp_case *c, const struct mlp_data *d, float *out)
{
    size_t bytes = (size_t)c->n_rows * c->hidden * sizeof(float);
    float *in = rig_put(rig, d->in, bytes), *device_out = in;
    if (c->n_rows % 2) /* out may equal in */
        device_out = rig_poison(rig, bytes);
    struct mlp_args args = {.n_rows = c->n_rows,
                            .hidden = c->hidden,
                            .intermediate = c->intermediate,
                            .gate_up = gate_up_pack(rig, c, d->gate_up),
                            .down = rig_weight(rig, c->down, c->hidden, c->intermediate, d->down),
                            .norm_eps = 1e-5f,
                            .in = in,
                            .out = device_out};
    if (!c->plain) {
        args.norm = rig_put(rig, d->norm, c->hidden * sizeof(float));
        args.gate_up_bias = rig_put(rig, d->gate_up_bias, 2ul * c->intermediate * sizeof(float));
        args.down_bias = rig_put(rig, d->down_bias, c->hidden * sizeof(float));
    }
    rig->ops->mlp(rig->device, &args);
    rig_get(rig, device_out, out, bytes);
}

static void mlp_check(void **state, struct dice *dice, const struct mlp_case *c)
{
    size_t n = (size_t)c->n_rows * c->hidden;
    struct mlp_data data = data_make(dice, c);
    float *got = malloc(n * sizeof *got), *expected = malloc(n * sizeof *expected);
    struct rig cpu = rig_tested(state), ref = rig_open("ref", NULL, 1);
    mlp_run(&cpu, c, &data, got);
    mlp_run(&ref, c, &data, expected);
    double bound = fmax(rig_bound(state, c->gate_up), rig_bound(state, c->down));
    for (size_t i = 0; i < n; i++)
        close_to("mlp", i, got[i], expected[i],
                 bound * (1 + fabs((double)expected[i])) * (double)c->scale);
    rig_close(&cpu);
    rig_close(&ref);
    data_free(&data);
    free(got);
    free(expected);
}

static void mlp_types(void **state)
{
    struct dice dice = {20};
    for (int gate_up = 0; gate_up < DTYPE_COUNT; gate_up++)
        for (int down = 0; down < DTYPE_COUNT; down++) {
            if (rig_is_slow(state) && (gate_up + down) % 2)
                continue;
            struct mlp_case c = {
                .n_rows = dice_between(&dice, 1, 14),
                .hidden = columns((enum dtype)gate_up, 32 * dice_between(&dice, 1, 4)),
                .intermediate = columns((enum dtype)down, 32 * dice_between(&dice, 1, 5)),
                .gate_up = (enum dtype)gate_up,
                .down = (enum dtype)down,
                .plain = dice_below(&dice, 2),
                .two = dice_below(&dice, 2),
                .paired = dice_below(&dice, 2),
                .scale = 1};
            mlp_check(state, &dice, &c);
        }
}

/* Sizes that fill neither a panel nor a block, where the types allow it. */
static void mlp_odd_shapes(void **state)
{
    static const uint32_t sizes[] = {1, 31, 33, 40, 65, 100};
    struct dice dice = {21};
    for (size_t i = 0; i < array_count(sizes); i++)
        for (int type = 0; type < DTYPE_COUNT; type++) {
            if (rig_is_slow(state) && (i + (size_t)type) % 3)
                continue;
            struct mlp_case c = {.n_rows = dice_between(&dice, 1, 30),
                                 .hidden = columns((enum dtype)type, 64),
                                 .intermediate = sizes[i],
                                 .gate_up = (enum dtype)type,
                                 .down = DTYPE_BF16,
                                 .two = i % 2,
                                 .paired = (i + (size_t)type) % 2,
                                 .scale = 1};
            mlp_check(state, &dice, &c);
            c.hidden = sizes[i];
            c.intermediate = columns((enum dtype)type, 96);
            c.gate_up = DTYPE_F32;
            c.down = (enum dtype)type;
            mlp_check(state, &dice, &c);
        }
}

static void mlp_row_counts(void **state)
{
    static const enum dtype types[][2] = {{DTYPE_Q4_1, DTYPE_Q4_1},
                                          {DTYPE_BF16, DTYPE_F16},
                                          {DTYPE_Q8_0, DTYPE_F32},
                                          {DTYPE_F32, DTYPE_Q4_0},
                                          {DTYPE_F8_E4M3, DTYPE_F8_E4M3}};
    struct dice dice = {22};
    for (uint32_t n_rows = 1; n_rows <= 40; n_rows++) {
        if (rig_is_slow(state) && n_rows % 6 > 1)
            continue;
        const enum dtype *pair = types[n_rows % array_count(types)];
        struct mlp_case c = {.n_rows = n_rows,
                             .hidden = columns(pair[0], 64),
                             .intermediate = columns(pair[1], 160),
                             .gate_up = pair[0],
                             .down = pair[1],
                             .scale = 1};
        mlp_check(state, &dice, &c);
        c.paired = true;
        mlp_check(state, &dice, &c);
    }
}

static void mlp_large(void **state)
{
    struct dice dice = {23};
    struct mlp_case c = {.n_rows = 7,
                         .hidden = rig_is_slow(state) ? 96 : 576,
                         .intermediate = rig_is_slow(state) ? 320 : 1536,
                         .gate_up = DTYPE_Q4_1,
                         .down = DTYPE_Q4_1,
                         .two = true,
                         .paired = true,
                         .scale = 1};
    mlp_check(state, &dice, &c);
    c.n_rows = 1;
    mlp_check(state, &dice, &c);
    c.gate_up = c.down = DTYPE_BF16;
    mlp_check(state, &dice, &c);
    c.n_rows = 70;
    mlp_check(state, &dice, &c);
}

/* One row in, one gate, one up: out = in + silu(gate) * up, to 8 u of the product, and 2^-121 |up|
 * where exp(-gate) overflows f32. */
static void gate_at_all_sizes(void **state)
{
    struct dice dice = {24};
    enum { ROWS = 200 };
    struct rig rig = rig_tested(state);
    float in[ROWS], out[ROWS], one = 1, pair[2] = {1, -3};
    for (uint32_t i = 0; i < ROWS; i++)
        in[i] = dice_float(&dice) * (i % 5 ? 8 : 120);
    struct mlp_args args = {.n_rows = ROWS,
                            .hidden = 1,
                            .intermediate = 1,
                            .gate_up = rig_weight(&rig, DTYPE_F32, 2, 1, pair),
                            .down = rig_weight(&rig, DTYPE_F32, 1, 1, &one),
                            .in = rig_put(&rig, in, sizeof in),
                            .out = rig_poison(&rig, sizeof out)};
    rig.ops->mlp(rig.device, &args);
    rig_get(&rig, args.out, out, sizeof out);
    for (uint32_t i = 0; i < ROWS; i++) {
        double gate = (double)in[i], gated = gate / (1 + exp(-gate)) * (-3 * gate);
        close_to("gate", i, out[i], (float)(gate + gated),
                 8 * UNIT * (fabs(gated) + fabs(gate)) + 0x1p-121 * fabs(3 * gate));
    }
    rig_close(&rig);
}

/* A row with a NaN has NaN in all its outputs, and its neighbours do not notice. */
static void mlp_not_finite(void **state)
{
    enum { ROWS = 8, HIDDEN = 128, WIDE = 128 };
    struct dice dice = {25};
    for (int type = 0; type < DTYPE_COUNT; type++) {
        struct mlp_case c = {.n_rows = ROWS,
                             .hidden = HIDDEN,
                             .intermediate = WIDE,
                             .gate_up = (enum dtype)type,
                             .down = (enum dtype)type,
                             .scale = 1};
        struct mlp_data data = data_make(&dice, &c);
        float outs[2][ROWS * HIDDEN];
        for (int bad = 0; bad < 2; bad++) {
            struct rig rig = rig_tested(state);
            if (bad) {
                data.in[2 * HIDDEN + 40] = NAN;
                data.in[5 * HIDDEN + 127] = NAN;
            }
            mlp_run(&rig, &c, &data, outs[bad]);
            rig_close(&rig);
        }
        for (uint32_t i = 0; i < ROWS * HIDDEN; i++) {
            assert_true(isfinite(outs[0][i]));
            if (i / HIDDEN == 2 || i / HIDDEN == 5)
                assert_true(isnan(outs[1][i]));
            else
                assert_true(outs[0][i] == outs[1][i]);
        }
        data_free(&data);
    }
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"mlp: types", mlp_types},
        {"mlp: odd shapes", mlp_odd_shapes},
        {"mlp: 1 to 40 rows", mlp_row_counts},
        {"mlp: large", mlp_large},
        {"mlp: gates of all sizes", gate_at_all_sizes},
        {"mlp: rows that are not finite", mlp_not_finite},
    };
    return rig_main("mlp", tests, array_count(tests));
}
