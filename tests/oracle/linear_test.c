/*
 * Products of the CPU backend: against `ref` for weights that are multiplied as they are, within
 *     8 u (sum |w x| + |bias| + |residual|),  u = 2^-24,
 * and for weights in blocks, whose rows are quantised, twice: within the same of the sum over the
 * row as the rule of ops.h quantises it, computed here in double; and against `ref`, which does not
 * quantise, within that and sum over blocks (most / 254) sum |w|. The size |w| of a Q4_1 weight is
 * |d q| + |minimum|, which are added apart. BF16 weights in the tier avx512-bf16, whose rows are
 * rounded, likewise: against the rounded row; and against `ref` within that and 2^-8 sum |w x|;
 * what is smaller than 2^-126 may be lost in each sum and product. F16 weights on a GPU alike, with
 * the row rounded to f16 after a power of two brought its largest value into [2^14, 2^15); against
 * `ref` within that, 2^-11 sum |w x| and 2^-39 sum |w| of the row's largest value; F8_E4M3 weights
 * the same. Where a backend keeps those as BF16: (2^-8 + 2^-23) sum |w x| more against `ref`, and
 * 32 u: they are of very different sizes, and each small one moves a sum that a few have made
 * (seen: 14.6 u).
 *
 * With a norm, x is the row normed in double and rounded once, off which the backend may be by
 * 8 u |x|. That may move a rounded value over the half between two numbers, so such rows are held
 * to the second bound alone.
 */
#include "tests/oracle/rig.h"

#include <math.h>

#define NORM_EPS 1e-5f

struct linear_case {
    uint32_t out_count, in_count, n_rows, n_stack, n_parts;
    enum dtype dtypes[2];
    bool bias, residual, norm;
    bool exact;
    bool wild, extreme;                            /* see linear_check */
    bool rounds[DTYPE_COUNT], widens[DTYPE_COUNT]; /* linear_check knows it of the tier */
};

static void linear_run(struct rig *rig, const struct linear_case *c,
                       const struct weight_source *source, const float *const host[4], float *out)
{
    size_t in_bytes = sizeof(float) * c->n_rows * c->in_count;
    size_t out_bytes = sizeof(float) * c->n_rows * c->out_count;
    struct weight *weight = rig_weight_source(rig, source);
    float *in = rig_put(rig, host[0], in_bytes);
    float *bias = c->bias ? rig_put(rig, host[1], c->out_count * sizeof(float)) : NULL;
    float *residual = c->residual ? rig_put(rig, host[2], out_bytes) : NULL;
    float *norm = c->norm ? rig_put(rig, host[3], c->in_count * sizeof(float)) : NULL;
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
                                   .norm = norm,
                                   .norm_eps = NORM_EPS,
                                   .in = in,
                                   .bias = bias,
                                   .residual = residual,
                                   .out = device_out};
        rig->ops->linear(rig->device, &args);
        rig_get(rig, device_out, out + (size_t)i * c->n_rows * c->out_count, out_bytes);
    }
}

/* One output's weights, widened. */
struct output {
    enum dtype dtype;
    float *weights; /* [in_count] */
    double *sizes;  /* [in_count]: what their roundings are measured by */
};

static struct output output_read(const struct linear_case *c, const struct weight_source *source,
                                 uint32_t matrix, uint32_t out)
{
    const struct weight_part *part = &source->parts[matrix * c->n_parts];
    while (out >= part->out_count)
        out -= part++->out_count;
    struct output output = {.dtype = part->dtype,
                            .weights = malloc(c->in_count * sizeof(float)),
                            .sizes = malloc(c->in_count * sizeof(double))};
    uint32_t block_bytes = dtype_block_bytes(part->dtype);
    uint32_t block_count = dtype_block_count(part->dtype);
    const char *row =
        (const char *)part->data + (size_t)out * (c->in_count / block_count) * block_bytes;
    dtype_widen(part->dtype, row, c->in_count, output.weights);
    for (uint32_t k = 0; k < c->in_count; k++) {
        float minimum = 0;
        uint16_t half = dtype_bf16(output.weights[k]);
        if (part->dtype == DTYPE_Q4_1)
            dtype_widen(DTYPE_F16, row + (size_t)(k / block_count) * block_bytes + 2, 1, &minimum);
        output.sizes[k] = fabs((double)output.weights[k]) + 2 * fabs((double)minimum);
        if (c->widens[part->dtype])
            dtype_widen(DTYPE_BF16, &half, 1, &output.weights[k]);
    }
    return output;
}

/* What the rule of ops.h makes of a block of a row. */
static double block_quantise(const float *in, double values[32])
{
    float most = 0;
    for (int i = 0; i < 32; i++)
        most = fmaxf(most, fabsf(in[i]));
    float scale = most / 127, inverse = 127 / most;
    for (int i = 0; i < 32; i++)
        values[i] = most < 0x1p-100f ? 0 : (double)scale * (double)rintf(in[i] * inverse);
    return (double)most;
}

/* To the nearest with 8 bits of fraction, ties to even; below the smallest normal number 0. */
static double bf16_round(double value)
{
    int exponent;
    double fraction = frexp(value, &exponent);
    return fabs(value) < 0x1p-126 ? 0 : ldexp(rint(fraction * 256), exponent - 8);
}

/* To the nearest f16 where `most` is scaled into [2^14, 2^15) by a power of two. */
static double f16_round(double value, double most)
{
    int scale = most > 0 ? 14 - ilogb(most) : 0;
    int exponent = value == 0 ? 0 : ilogb(value) + scale;
    int unit = (exponent < -14 ? -14 : exponent) - 10;
    return ldexp(rint(ldexp(value, scale - unit)), unit - scale);
}

struct wanted {
    double rounded; /* the sum over the quantised or rounded row */
    double size;    /* of what was added up */
    double slack;   /* what quantising or rounding may have changed */
    double lost;    /* below the smallest normal number */
};

static bool row_is_rounded(const struct linear_case *c, const struct output *output)
{
    return c->rounds[output->dtype];
}

static struct wanted output_expect(const struct linear_case *c, const struct output *output,
                                   const float *in, double ends, double ends_size)
{
    struct wanted wanted = {.rounded = ends, .size = ends_size};
    for (uint32_t k = 0; k < c->in_count; k++)
        wanted.size += output->sizes[k] * fabs((double)in[k]);
    bool rounds = row_is_rounded(c, output), blocks = rounds && dtype_has_blocks(output->dtype);
    bool widens = c->widens[output->dtype];
    bool halves = output->dtype == DTYPE_F16 || (output->dtype == DTYPE_F8_E4M3 && !widens);
    double most = 0;
    for (uint32_t k = 0; widens && k < c->in_count; k++)
        wanted.slack += (0x1p-8 + 0x1p-23) * output->sizes[k] * fabs((double)in[k]);
    for (uint32_t k = 0; rounds && halves && k < c->in_count; k++)
        most = fmax(most, fabs((double)in[k]));
    for (uint32_t k = 0; rounds && !blocks && k < c->in_count; k++) {
        double value = halves ? f16_round((double)in[k], most) : bf16_round((double)in[k]);
        wanted.rounded += (double)output->weights[k] * value;
        wanted.slack += (halves ? 0x1p-11 : 0x1p-8) * output->sizes[k] * fabs((double)in[k]);
        wanted.slack += halves ? 0x1p-39 * most * output->sizes[k] : 0;
        wanted.lost += 0x1p-126 * (2 + output->sizes[k]);
    }
    for (uint32_t b = 0; blocks && b < c->in_count / 32; b++) {
        double values[32], weights = 0;
        most = block_quantise(in + 32 * b, values);
        for (uint32_t i = 0; i < 32; i++) {
            wanted.rounded += (double)output->weights[32 * b + i] * values[i];
            weights += output->sizes[32 * b + i];
        }
        wanted.slack += most / 254 * (1 + 0x1p-16) * weights + 0x1p-100 * weights;
    }
    return wanted;
}

struct results {
    const float *got, *expected; /* [n_rows][out_count] of one matrix */
};

static void output_check(const struct linear_case *c, const struct output *output,
                         const float *const host[4], size_t at, const struct results *results)
{
    uint32_t r = (uint32_t)(at / c->out_count), o = (uint32_t)(at % c->out_count);
    double bias = c->bias ? (double)host[1][o] : 0;
    double residual = c->residual ? (double)host[2][at] : 0;
    struct wanted wanted = output_expect(c, output, host[0] + (size_t)r * c->in_count,
                                         bias + residual, fabs(bias) + fabs(residual));
    double units = c->widens[output->dtype] ? 32 : c->norm ? 16 : 8;
    double bound = units * UNIT * wanted.size + wanted.lost;
    if (row_is_rounded(c, output) && !c->norm)
        close_to("linear, as rounded", at, results->got[at], (float)wanted.rounded, bound);
    close_to("linear", at, results->got[at], results->expected[at], bound + wanted.slack);
}

/* All quants are the largest, or all the smallest, by row. */
static void weights_extreme(const struct weight_part *part, uint32_t in_count)
{
    uint32_t block_bytes = dtype_block_bytes(part->dtype);
    uint32_t head = part->dtype == DTYPE_Q4_1 ? 4 : 2;
    uint32_t quant_bytes = block_bytes - head, n_blocks = in_count / 32;
    uint8_t largest = part->dtype == DTYPE_Q8_0 ? 0x7f : 0xff;
    uint8_t smallest = part->dtype == DTYPE_Q8_0 ? 0x80 : 0;
    uint8_t *at = (uint8_t *)(uintptr_t)part->data;
    for (uint32_t i = 0; i < part->out_count * n_blocks; i++, at += block_bytes)
        memset(at + head, i / n_blocks % 2 ? largest : smallest, quant_bytes);
}

/* The rows normed, from the formula. */
static float *rows_norm(const struct linear_case *c, const float *in, const float *norm)
{
    float *normed = malloc((size_t)c->n_rows * c->in_count * sizeof *normed);
    assert_non_null(normed);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        size_t first = (size_t)r * c->in_count;
        double squares = 0;
        for (uint32_t k = 0; k < c->in_count; k++)
            squares += (double)in[first + k] * (double)in[first + k];
        for (uint32_t k = 0; k < c->in_count; k++)
            normed[first + k] = (float)((double)in[first + k] * (double)norm[k] /
                                        sqrt(squares / c->in_count + (double)NORM_EPS));
    }
    return normed;
}

static void linear_check(void **state, struct dice *dice, struct linear_case *c)
{
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        c->rounds[dtype] = !c->exact && rig_rounds(state, (enum dtype)dtype);
        c->widens[dtype] = !c->exact && rig_widens(state, (enum dtype)dtype);
    }
    struct weight_part parts[6];
    for (uint32_t i = 0; i < c->n_stack * c->n_parts; i++) {
        uint32_t half = c->out_count / 2;
        parts[i].dtype = c->dtypes[i % c->n_parts];
        parts[i].out_count = c->n_parts == 1 ? c->out_count : i % 2 ? c->out_count - half : half;
        parts[i].data =
            dice_weights(dice, parts[i].dtype, (size_t)parts[i].out_count * c->in_count, 1);
        if (c->extreme)
            weights_extreme(&parts[i], c->in_count);
    }
    struct weight_source source = {.stack_count = c->n_stack,
                                   .n_parts = c->n_parts,
                                   .out_count = c->out_count,
                                   .in_count = c->in_count,
                                   .parts = parts,
                                   .exact = c->exact};
    size_t n_out = (size_t)c->n_rows * c->out_count;
    float *host[3] = {dice_floats(dice, (size_t)c->n_rows * c->in_count, 1),
                      dice_floats(dice, c->out_count, 1), dice_floats(dice, n_out, 1)};
    /* Blocks of very different sizes, some of nothing. */
    for (uint32_t i = 0; c->wild && i < c->n_rows * c->in_count; i++)
        host[0][i] *= i / 32 % 5 == 0 ? 1e3f : i / 32 % 5 == 1 ? 0 : i / 32 % 5 == 2 ? 1e-33f : 1;
    /* The largest products that there are: every value is an end of the range, or its opposite. */
    for (uint32_t i = 0; c->extreme && i < c->n_rows * c->in_count; i++)
        host[0][i] = i / 32 % 3 == 0 || host[0][i] > 0 ? 1 : -1;
    float *norm = dice_floats(dice, c->in_count, 2);
    const float *inputs[4] = {host[0], host[1], host[2], norm};
    float *got = malloc(c->n_stack * n_out * sizeof *got);
    float *expected = malloc(c->n_stack * n_out * sizeof *expected);
    struct rig cpu = rig_tested(state), ref = rig_open("ref", NULL, 1);
    linear_run(&cpu, c, &source, inputs, got);
    linear_run(&ref, c, &source, inputs, expected);
    float *normed = rows_norm(c, host[0], norm);
    inputs[0] = c->norm ? normed : host[0];
    for (uint32_t m = 0; m < c->n_stack; m++)
        for (uint32_t o = 0; o < c->out_count; o++) {
            struct output output = output_read(c, &source, m, o);
            struct results results = {got + m * n_out, expected + m * n_out};
            for (size_t at = o; at < n_out; at += c->out_count)
                output_check(c, &output, inputs, at, &results);
            free(output.weights);
            free(output.sizes);
        }
    rig_close(&cpu);
    rig_close(&ref);
    for (uint32_t i = 0; i < c->n_stack * c->n_parts; i++)
        free((void *)(uintptr_t)parts[i].data);
    for (int i = 0; i < 3; i++)
        free(host[i]);
    free(norm);
    free(normed);
    free(got);
    free(expected);
}

static void linear_odd_shapes(void **state)
{
    struct dice dice = {1};
    static const uint32_t outs[] = {1, 31, 32, 33, 70, 130}, ins[] = {1, 7, 24, 33, 96};
    for (size_t o = 0; o < array_count(outs); o++)
        for (size_t i = 0; i < array_count(ins); i++) {
            if (rig_is_slow(state) && (o + i) % 3)
                continue;
            struct linear_case c = {.out_count = outs[o],
                                    .in_count = ins[i],
                                    .n_rows = dice_between(&dice, 1, 14),
                                    .n_stack = 1,
                                    .n_parts = 1,
                                    .bias = dice_below(&dice, 2),
                                    .residual = dice_below(&dice, 2),
                                    .norm = dice_below(&dice, 2)};
            c.dtypes[0] = dice_below(&dice, 2) ? DTYPE_F32 : DTYPE_BF16;
            linear_check(state, &dice, &c);
        }
}

static const enum dtype dtypes_all[] = {DTYPE_F32,  DTYPE_BF16, DTYPE_F16,    DTYPE_Q8_0,
                                        DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_F8_E4M3};

/* At least n columns, of whole blocks. */
static uint32_t columns(enum dtype dtype, uint32_t n)
{
    uint32_t block = dtype_block_count(dtype);
    return (n + block - 1) / block * block;
}

static void linear_all_row_counts(void **state)
{
    struct dice dice = {2};
    for (uint32_t n_rows = 1; n_rows <= 40; n_rows++)
        for (size_t t = 0; t < array_count(dtypes_all); t++) {
            if (rig_is_slow(state) && n_rows % 8 > 1) /* both sides of where kernels change */
                continue;
            struct linear_case c = {
                .out_count = 150, .in_count = 96, .n_rows = n_rows, .n_stack = 1, .n_parts = 1};
            c.dtypes[0] = dtypes_all[t];
            c.in_count = columns(dtypes_all[t], 96);
            c.residual = c.bias = (n_rows + t) % 2;
            linear_check(state, &dice, &c);
            c.norm = true;
            linear_check(state, &dice, &c);
        }
}

/* A source that says so is multiplied with rows as they are, in every tier. */
static void linear_exact_sources(void **state)
{
    struct dice dice = {12};
    for (uint32_t n_rows = 1; n_rows <= 14; n_rows += rig_is_slow(state) ? 6 : 1) {
        struct linear_case c = {.out_count = 70,
                                .in_count = 95 + n_rows % 2,
                                .n_rows = n_rows,
                                .n_stack = 1,
                                .n_parts = 1,
                                .dtypes = {DTYPE_BF16},
                                .exact = true};
        linear_check(state, &dice, &c);
        c.dtypes[0] = DTYPE_F8_E4M3;
        c.in_count = 128;
        linear_check(state, &dice, &c);
    }
}

static void linear_wild(void **state)
{
    struct dice dice = {9};
    for (size_t t = 0; t < array_count(dtypes_all); t++)
        for (uint32_t n_rows = 1; n_rows <= 8; n_rows += rig_is_slow(state) ? 6 : 1) {
            struct linear_case c = {.out_count = 77,
                                    .in_count =
                                        columns(dtypes_all[t], 32 * dice_between(&dice, 1, 20)),
                                    .n_rows = n_rows,
                                    .n_stack = 1,
                                    .n_parts = 1,
                                    .dtypes = {dtypes_all[t]},
                                    .wild = true};
            linear_check(state, &dice, &c);
            c.wild = false;
            c.extreme = dtype_has_blocks(dtypes_all[t]);
            if (c.extreme)
                linear_check(state, &dice, &c);
        }
}

/* Every type as one part, under another, and in a stack. */
static void linear_types_parts_stacks(void **state)
{
    struct dice dice = {3};
    for (int first = 0; first < DTYPE_COUNT; first++)
        for (int second = 0; second < DTYPE_COUNT; second++) {
            if (rig_is_slow(state) && (first + second) % 3 == 1)
                continue;
            struct linear_case c = {.out_count = 50,
                                    .in_count = u32_max(columns((enum dtype)first, 64),
                                                        columns((enum dtype)second, 64)),
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
    struct linear_case c = {
        .out_count = rig_is_slow(state) ? 70 : 500, .in_count = 1536, .n_stack = 1, .n_parts = 1};
    for (size_t t = 0; t < array_count(dtypes_all); t++) {
        c.dtypes[0] = dtypes_all[t];
        c.n_rows = 1;
        linear_check(state, &dice, &c);
        c.n_rows = 9;
        linear_check(state, &dice, &c);
    }
}

/* More rows than any kernel for few takes, and columns enough for all slices of a sum. */
static void linear_many_rows(void **state)
{
    struct dice dice = {13};
    struct linear_case c = {
        .out_count = 37, .in_count = 1536, .n_rows = 150, .n_stack = 1, .n_parts = 1};
    for (size_t t = 0; t < array_count(dtypes_all); t++) {
        c.dtypes[0] = dtypes_all[t];
        c.residual = c.bias = t % 2;
        linear_check(state, &dice, &c);
    }
}

/* Whichever kernel a number of rows leads to, a row's bits are the same. */
static void linear_bits_by_row_count(void **state)
{
    enum { ROWS = 300, OUT = 388, IN = 640 };
    static const uint32_t counts[] = {1, 8, 32, 33, 128};
    static float all[ROWS * OUT], some[ROWS * OUT];
    struct dice dice = {14};
    for (size_t t = 0; t < array_count(dtypes_all); t++) {
        struct rig rig = rig_tested(state);
        void *data = dice_weights(&dice, dtypes_all[t], OUT * IN, 1);
        float *in = dice_floats(&dice, ROWS * IN, 1);
        struct linear_args args = {.weight = rig_weight(&rig, dtypes_all[t], OUT, IN, data),
                                   .n_rows = ROWS,
                                   .in = rig_put(&rig, in, ROWS * IN * sizeof *in),
                                   .out = rig_poison(&rig, sizeof all)};
        rig.ops->linear(rig.device, &args);
        rig_get(&rig, args.out, all, sizeof all);
        for (size_t i = 0; i < array_count(counts); i++) {
            args.n_rows = counts[i];
            args.out = rig_poison(&rig, sizeof some);
            rig.ops->linear(rig.device, &args);
            rig_get(&rig, args.out, some, sizeof some);
            for (uint32_t at = 0; at < counts[i] * OUT; at++)
                if (memcmp(&some[at], &all[at], sizeof some[at]) != 0)
                    fail_msg("%s: output %u of row %u is %.9g among %u rows, %.9g among %d",
                             dtype_name(dtypes_all[t]), at % OUT, at / OUT, (double)some[at],
                             counts[i], (double)all[at], ROWS);
        }
        rig_close(&rig);
        free(data);
        free(in);
    }
}

/* A row with a NaN or an infinity has nothing finite in its outputs, with weights in blocks NaN,
 * and its neighbours do not notice. */
static void linear_not_finite(void **state)
{
    enum { ROWS = 8, OUT = 40, IN = 128 };
    struct dice dice = {10};
    for (size_t t = 0; t < array_count(dtypes_all); t++) {
        struct rig rig = rig_tested(state);
        void *data = dice_weights(&dice, dtypes_all[t], OUT * IN, 1);
        float *in = dice_floats(&dice, ROWS * IN, 1), outs[2][ROWS * OUT];
        struct weight *weight = rig_weight(&rig, dtypes_all[t], OUT, IN, data);
        for (int bad = 0; bad < 2; bad++) {
            if (bad) {
                in[2 * IN + 40] = NAN;
                in[5 * IN + 95] = -INFINITY;
            }
            float *out = rig_poison(&rig, sizeof outs[0]);
            rig.ops->linear(rig.device,
                            &(struct linear_args){.weight = weight,
                                                  .n_rows = ROWS,
                                                  .in = rig_put(&rig, in, ROWS * IN * sizeof *in),
                                                  .out = out});
            rig_get(&rig, out, outs[bad], sizeof outs[0]);
        }
        for (uint32_t i = 0; i < ROWS * OUT; i++) {
            assert_true(isfinite(outs[0][i]));
            if (i / OUT == 2 || i / OUT == 5)
                assert_true(rig_rounds(state, dtypes_all[t]) && dtype_has_blocks(dtypes_all[t])
                                ? isnan(outs[1][i])
                                : !isfinite(outs[1][i]));
            else
                assert_true(outs[0][i] == outs[1][i]);
        }
        rig_close(&rig);
        free(data);
        free(in);
    }
}

/* Each part keeps its type, or is BF16; what is `exact`, or of several types in a stack, is F32.
 * Sizes are those of the file where outputs and inputs fill whole panels. */
static void weight_size(void **state)
{
    struct dice dice = {5};
    struct rig rig = rig_tested(state);
    struct weight_part parts[4];
    size_t bytes = 0;
    for (size_t t = 0; t < array_count(dtypes_all); t++) {
        enum dtype dtype = dtypes_all[t];
        void *data = dice_weights(&dice, dtype, 64 * 128, 1);
        struct weight *weight = rig_weight(&rig, dtype, 64, 128, data);
        size_t file = 64 * 128 / dtype_block_count(dtype) * dtype_block_bytes(dtype);
        assert_int_equal(rig.ops->weight_bytes(weight),
                         rig_widens(state, dtype) ? 64 * 128 * 2 : file);
        if (t >= 2 && dtype != DTYPE_F8_E4M3) {
            parts[t - 2] = (struct weight_part){.dtype = dtype, .out_count = 64, .data = data};
            bytes += file;
        } else {
            free(data);
        }
    }
    struct weight_source source = {
        .stack_count = 1, .n_parts = 4, .out_count = 256, .in_count = 128, .parts = parts};
    assert_int_equal(rig.ops->weight_bytes(rig_weight_source(&rig, &source)), bytes);
    source.exact = true; /* F16 stays */
    assert_int_equal(rig.ops->weight_bytes(rig_weight_source(&rig, &source)),
                     64 * 128 * 2 + 3 * 64 * 128 * 4);
    struct weight_part odd = {.dtype = DTYPE_BF16, .out_count = 64, .data = parts[0].data};
    source = (struct weight_source){
        .stack_count = 1, .n_parts = 1, .out_count = 64, .in_count = 127, .parts = &odd};
    assert_int_equal(rig.ops->weight_bytes(rig_weight_source(&rig, &source)), 64 * 128 * 2);
    source = (struct weight_source){
        .stack_count = 2, .n_parts = 2, .out_count = 128, .in_count = 128, .parts = parts};
    assert_int_equal(rig.ops->weight_bytes(rig_weight_source(&rig, &source)), 4 * 64 * 128 * 4);
    rig_close(&rig);
    for (int i = 0; i < 4; i++)
        free((void *)(uintptr_t)parts[i].data);
}

/* What a product of that tier gives, for every type: [type][row][output]. */
enum { PAIR_ROWS = 17, PAIR_OUT = 100, PAIR_IN = 384 };
static void tier_run(const char *tier, float *out)
{
    struct dice dice = {11};
    struct rig rig = rig_open("cpu", tier, 2);
    for (size_t t = 0; t < array_count(dtypes_all); t++, out += PAIR_ROWS * PAIR_OUT) {
        void *data = dice_weights(&dice, dtypes_all[t], PAIR_OUT * PAIR_IN, 1);
        float *in = dice_floats(&dice, PAIR_ROWS * PAIR_IN, 1);
        size_t out_bytes = PAIR_ROWS * PAIR_OUT * sizeof(float);
        struct linear_args args = {.weight =
                                       rig_weight(&rig, dtypes_all[t], PAIR_OUT, PAIR_IN, data),
                                   .n_rows = PAIR_ROWS,
                                   .in = rig_put(&rig, in, PAIR_ROWS * PAIR_IN * sizeof *in),
                                   .out = rig_poison(&rig, out_bytes)};
        rig.ops->linear(rig.device, &args);
        rig_get(&rig, args.out, out, out_bytes);
        free(data);
        free(in);
    }
    rig_close(&rig);
}

/* Two tiers of which the second has more instructions of the same width. */
static void tiers_compare(const char *less, const char *more, bool but_bf16)
{
    static float plain[array_count(dtypes_all)][PAIR_ROWS * PAIR_OUT];
    static float other[array_count(dtypes_all)][PAIR_ROWS * PAIR_OUT];
    struct device_options options = {.threads_count = 1, .tier = more};
    struct device *device;
    struct error error = {0};
    if (ops_cpu.device_open(&options, &device, &error) != STATUS_OK) {
        print_message("skipped: %s\n", error.text);
        skip();
    }
    ops_cpu.device_close(device);
    tier_run(less, plain[0]);
    tier_run(more, other[0]);
    for (size_t t = 0; t < array_count(dtypes_all); t++)
        if (but_bf16 && (dtypes_all[t] == DTYPE_BF16 || ops_cpu.widens >> dtypes_all[t] & 1))
            assert_memory_not_equal(plain[t], other[t], sizeof plain[t]);
        else
            assert_memory_equal(plain[t], other[t], sizeof plain[t]);
}

/* Integer instructions change nothing. */
static void tiers_of_256_bits_agree(void **state)
{
    tiers_compare("avx2", "avx2-vnni", false);
}

static void tiers_of_512_bits_agree(void **state)
{
    tiers_compare("avx512", "avx512-vnni", false);
}

/* Only BF16 weights, and what is kept as those, meet rounded rows. */
static void tier_of_bf16_differs_there_only(void **state)
{
    tiers_compare("avx512-vnni", "avx512-bf16", true);
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"linear: odd shapes", linear_odd_shapes},
        {"linear: 1 to 40 rows", linear_all_row_counts},
        {"linear: types, parts, stacks", linear_types_parts_stacks},
        {"linear: large", linear_large},
        {"linear: many rows", linear_many_rows},
        {"linear: bits by the number of rows", linear_bits_by_row_count},
        {"linear: exact sources", linear_exact_sources},
        {"linear: rows of all sizes, and the largest products", linear_wild},
        {"linear: rows that are not finite", linear_not_finite},
        {"weight_bytes", weight_size},
    };
    const struct CMUnitTest pairs[] = {cmocka_unit_test(tiers_of_256_bits_agree),
                                       cmocka_unit_test(tiers_of_512_bits_agree),
                                       cmocka_unit_test(tier_of_bf16_differs_there_only)};
    int failed = rig_main("linear", tests, array_count(tests));
    return failed + cmocka_run_group_tests(pairs, NULL, NULL);
}
