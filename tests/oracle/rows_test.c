/*
 * Every op but sampling, on the CPU backend, against `ref` on random shapes, odd ones among them.
 * Bounds, with u = 2^-24 (half a unit of f32):
 *     linear      8 u (sum |w x| + |bias| + |residual|)
 *     rmsnorm     8 u |out|
 *     rope        4 u factor (|a| + |b|)
 *     silu_mul    8 u |out|, and 2^-121 |up| where exp(-gate) overflows f32
 *     attention   2e-5 max |v|, scores within +-10
 *     moe         1e-5 (1 + |out|), values of order 1
 *     embed, gathers, copies: exact
 */
#include "tests/oracle/rig.h"

#include <math.h>

static void close_to(const char *what, size_t index, float got, float expected, double bound)
{
    double difference = fabs((double)got - (double)expected);
    if (!(difference <= bound)) /* NaN fails too */
        fail_msg("%s[%zu]: %.9g, reference %.9g, off by %.3g, bound %.3g", what, index, (double)got,
                 (double)expected, difference, bound);
}

/* ---- linear ---- */

struct linear_case {
    uint32_t out_count, in_count, n_rows, n_stack, n_parts;
    enum dtype dtypes[2];
    bool bias, residual;
};

static void *part_data(struct dice *dice, enum dtype dtype, size_t count, float scale)
{
    size_t bytes = count / dtype_block_count(dtype) * dtype_block_bytes(dtype);
    uint8_t *data = malloc(bytes + 1);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)dice_below(dice, 256);
    if (dtype == DTYPE_F32 || dtype == DTYPE_BF16) {
        for (size_t i = 0; i < count; i++) {
            float value = dice_float(dice) * scale;
            uint16_t half = bf16_of(value);
            if (dtype == DTYPE_F32)
                memcpy(data + 4 * i, &value, 4);
            else
                memcpy(data + 2 * i, &half, 2);
        }
        return data;
    }
    /* Scales of the block formats (and all of F16) around 2^-5, of either sign. */
    for (size_t at = 0; at < bytes; at += dtype_block_bytes(dtype)) {
        data[at + 1] = (uint8_t)((data[at + 1] & 0x83) | 0x28);
        if (dtype == DTYPE_Q4_1)
            data[at + 3] = (uint8_t)((data[at + 3] & 0x83) | 0x28);
    }
    return data;
}

static void linear_run(struct rig *rig, const struct linear_case *c,
                       const struct weight_source *source, const float *const host[3], float *out)
{
    size_t in_bytes = sizeof(float) * c->n_rows * c->in_count;
    size_t out_bytes = sizeof(float) * c->n_rows * c->out_count;
    struct weight *weight = rig_weight_source(rig, source);
    float *in = rig_put(rig, host[0], in_bytes);
    float *bias = c->bias ? rig_put(rig, host[1], c->out_count * sizeof(float)) : NULL;
    float *residual = c->residual ? rig_put(rig, host[2], out_bytes) : NULL;
    for (uint32_t i = 0; i < c->n_stack; i++) {
        float *device_out = rig_poison(rig, out_bytes);
        if (i == 0 && c->residual) {
            rig->ops->buffer_write(rig->device, device_out, host[2], out_bytes);
            residual = device_out; /* out may equal residual */
        } else if (c->residual) {
            residual = rig_put(rig, host[2], out_bytes);
        }
        struct linear_args args = {.weight = weight,
                                   .stack_index = i,
                                   .n_rows = c->n_rows,
                                   .in = in,
                                   .bias = bias,
                                   .residual = residual,
                                   .out = device_out};
        rig->ops->linear(rig->device, &args);
        rig_get(rig, device_out, out + (size_t)i * c->n_rows * c->out_count, out_bytes);
    }
}

/* sum |w x| + |bias| + |residual|, from the widened parts. */
static double linear_size(const struct linear_case *c, const struct weight_source *source,
                          const float *const host[3], uint32_t matrix, uint32_t row, uint32_t out)
{
    const struct weight_part *part = &source->parts[matrix * c->n_parts];
    uint32_t local = out;
    while (local >= part->out_count)
        local -= part++->out_count;
    float *weights = malloc(c->in_count * sizeof *weights);
    size_t row_bytes =
        c->in_count / dtype_block_count(part->dtype) * dtype_block_bytes(part->dtype);
    dtype_widen(part->dtype, (const char *)part->data + local * row_bytes, c->in_count, weights);
    double size = 0;
    for (uint32_t k = 0; k < c->in_count; k++)
        size += fabs((double)weights[k] * (double)host[0][(size_t)row * c->in_count + k]);
    size += c->bias ? fabs((double)host[1][out]) : 0;
    size += c->residual ? fabs((double)host[2][(size_t)row * c->out_count + out]) : 0;
    free(weights);
    return size;
}

static void linear_check(void **state, struct dice *dice, const struct linear_case *c)
{
    struct weight_part parts[6];
    for (uint32_t i = 0; i < c->n_stack * c->n_parts; i++) {
        uint32_t half = c->out_count / 2;
        parts[i].dtype = c->dtypes[i % c->n_parts];
        parts[i].out_count = c->n_parts == 1 ? c->out_count : i % 2 ? c->out_count - half : half;
        parts[i].data =
            part_data(dice, parts[i].dtype, (size_t)parts[i].out_count * c->in_count, 1);
    }
    struct weight_source source = {.stack_count = c->n_stack,
                                   .n_parts = c->n_parts,
                                   .out_count = c->out_count,
                                   .in_count = c->in_count,
                                   .parts = parts};
    size_t n_out = (size_t)c->n_rows * c->out_count;
    float *host[3] = {dice_floats(dice, (size_t)c->n_rows * c->in_count, 1),
                      dice_floats(dice, c->out_count, 1), dice_floats(dice, n_out, 1)};
    const float *const inputs[3] = {host[0], host[1], host[2]};
    float *got = malloc(c->n_stack * n_out * sizeof *got);
    float *expected = malloc(c->n_stack * n_out * sizeof *expected);
    struct rig cpu = rig_cpu(state), ref = rig_open("ref", NULL, 1);
    linear_run(&cpu, c, &source, inputs, got);
    linear_run(&ref, c, &source, inputs, expected);
    for (uint32_t m = 0; m < c->n_stack; m++)
        for (uint32_t r = 0; r < c->n_rows; r++)
            for (uint32_t o = 0; o < c->out_count; o++) {
                size_t at = m * n_out + (size_t)r * c->out_count + o;
                double size = linear_size(c, &source, inputs, m, r, o);
                close_to("linear", at, got[at], expected[at], 8 * UNIT * size);
            }
    rig_close(&cpu);
    rig_close(&ref);
    for (uint32_t i = 0; i < c->n_stack * c->n_parts; i++)
        free((void *)(uintptr_t)parts[i].data);
    for (int i = 0; i < 3; i++)
        free(host[i]);
    free(got);
    free(expected);
}

static void linear_odd_shapes(void **state)
{
    struct dice dice = {1};
    static const uint32_t outs[] = {1, 31, 32, 33, 70, 130}, ins[] = {1, 7, 24, 33, 96};
    for (size_t o = 0; o < array_count(outs); o++)
        for (size_t i = 0; i < array_count(ins); i++) {
            struct linear_case c = {.out_count = outs[o],
                                    .in_count = ins[i],
                                    .n_rows = dice_between(&dice, 1, 14),
                                    .n_stack = 1,
                                    .n_parts = 1,
                                    .bias = dice_below(&dice, 2),
                                    .residual = dice_below(&dice, 2)};
            c.dtypes[0] = dice_below(&dice, 2) ? DTYPE_F32 : DTYPE_BF16;
            linear_check(state, &dice, &c);
        }
}

static void linear_all_row_counts(void **state)
{
    struct dice dice = {2};
    for (uint32_t n_rows = 1; n_rows <= 40; n_rows++) {
        struct linear_case c = {
            .out_count = 200, .in_count = 72, .n_rows = n_rows, .n_stack = 1, .n_parts = 1};
        c.dtypes[0] = n_rows % 2 ? DTYPE_F32 : DTYPE_BF16;
        linear_check(state, &dice, &c);
        c.dtypes[0] = n_rows % 2 ? DTYPE_BF16 : DTYPE_F32;
        c.residual = c.bias = true;
        linear_check(state, &dice, &c);
    }
}

/* Every type as one part, under another, and in a stack. */
static void linear_types_parts_stacks(void **state)
{
    struct dice dice = {3};
    for (int first = 0; first < DTYPE_COUNT; first++)
        for (int second = 0; second < DTYPE_COUNT; second++) {
            struct linear_case c = {.out_count = 50,
                                    .in_count = 64,
                                    .n_rows = dice_between(&dice, 1, 9),
                                    .n_stack = dice_between(&dice, 1, 3),
                                    .n_parts = 2,
                                    .dtypes = {(enum dtype)first, (enum dtype)second},
                                    .residual = true};
            linear_check(state, &dice, &c);
        }
}

static void linear_large(void **state)
{
    struct dice dice = {4};
    struct linear_case c = {.out_count = 1000, .in_count = 1536, .n_rows = 1, .n_stack = 1};
    c.n_parts = 1;
    linear_check(state, &dice, &c);
    c.n_rows = 23;
    linear_check(state, &dice, &c);
}

/* A BF16 weight stays BF16; anything else is F32. Both may be padded to whole panels. */
static void weight_size(void **state)
{
    struct dice dice = {5};
    struct rig rig = rig_cpu(state);
    void *bf16 = part_data(&dice, DTYPE_BF16, 64 * 48, 1);
    void *f16 = part_data(&dice, DTYPE_F16, 64 * 48, 1);
    struct weight *weight = rig_weight(&rig, DTYPE_BF16, 64, 48, bf16);
    assert_int_equal(rig.ops->weight_bytes(weight), 64 * 48 * 2);
    weight = rig_weight(&rig, DTYPE_F16, 64, 48, f16);
    assert_int_equal(rig.ops->weight_bytes(weight), 64 * 48 * 4);
    rig_close(&rig);
    free(bf16);
    free(f16);
}

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
    enum { VOCAB = 77, HIDDEN = 41, ROWS = 30, SLOTS = 5 };
    float *table = dice_floats(&dice, VOCAB * HIDDEN, 1);
    uint16_t *table_bf16 = malloc(VOCAB * HIDDEN * sizeof *table_bf16);
    uint32_t ids[ROWS], slots[ROWS], sampled[SLOTS], got_ids[ROWS], picks[ROWS];
    for (uint32_t i = 0; i < VOCAB * HIDDEN; i++)
        table_bf16[i] = bf16_of(table[i]);
    for (uint32_t i = 0; i < SLOTS; i++)
        sampled[i] = dice_below(&dice, VOCAB);
    for (uint32_t i = 0; i < ROWS; i++) {
        ids[i] = dice_below(&dice, 3) ? dice_below(&dice, VOCAB) : TOKEN_FROM_SLOT;
        slots[i] = dice_below(&dice, SLOTS);
        picks[i] = dice_below(&dice, ROWS);
    }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct rig rig = rig_cpu(state);
        uint32_t *device_ids = rig_poison(&rig, sizeof ids);
        struct tokens_gather_args gather = {.n_rows = ROWS,
                                            .host_ids = ids,
                                            .host_slots = slots,
                                            .last_sampled = rig_put(&rig, sampled, sizeof sampled),
                                            .ids = device_ids};
        rig.ops->tokens_gather(rig.device, &gather);
        rig_get(&rig, device_ids, got_ids, sizeof got_ids);
        const void *data = bf16 ? (const void *)table_bf16 : table;
        float out[ROWS * HIDDEN], picked[ROWS * HIDDEN];
        float *device_out = rig_poison(&rig, sizeof out);
        float *device_picked = rig_poison(&rig, sizeof picked);
        enum dtype dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
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
            for (uint32_t i = 0; i < HIDDEN; i++) {
                float value = table[id * HIDDEN + i];
                if (bf16)
                    dtype_widen(DTYPE_BF16, &table_bf16[id * HIDDEN + i], 1, &value);
                assert_true(out[r * HIDDEN + i] == value);
            }
            assert_memory_equal(&picked[r * HIDDEN], &out[picks[r] * HIDDEN],
                                HIDDEN * sizeof(float));
        }
        rig_close(&rig);
    }
    free(table);
    free(table_bf16);
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"linear: odd shapes", linear_odd_shapes},
        {"linear: 1 to 40 rows", linear_all_row_counts},
        {"linear: types, parts, stacks", linear_types_parts_stacks},
        {"linear: large", linear_large},
        {"weight_bytes", weight_size},
        {"rmsnorm", rmsnorm_matches},
        {"silu_mul", silu_mul_matches},
        {"embed, tokens_gather, rows_gather", embed_and_gathers},
    };
    return rig_main("rows", tests, array_count(tests));
}
