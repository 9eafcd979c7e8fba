/*
 * The mixture op on the CPU backend against `ref`: |difference| <= 1e-5 (1 + |out|) for values of
 * order 1. A wrong expert or a wrong share is off by far more. Experts in blocks, whose rows are
 * quantised twice, in BF16 in the tier that rounds rows for them, and in F8_E4M3: what rig_bound
 * says.
 */
#include "tests/oracle/rig.h"

#include <math.h>

struct moe_case {
    uint32_t n_rows, hidden, intermediate, n_experts, top_k;
    bool normalise;
    enum dtype dtype; /* of the experts */
    bool ties, one_expert;
    bool plain; /* without a norm */
};

struct moe_data {
    float *in, *norm, *router;
    void *gate_up, *down;
};

static struct moe_data data_make(struct dice *dice, const struct moe_case *c)
{
    size_t n_in = (size_t)c->n_rows * c->hidden, n_router = (size_t)c->n_experts * c->hidden;
    size_t n_up = 2ul * c->n_experts * c->intermediate * c->hidden, n_down = n_up / 2;
    struct moe_data d = {
        .in = dice_floats(dice, n_in, 1),
        .norm = dice_floats(dice, c->hidden, 1),
        .router = dice_floats(dice, n_router, 3 / sqrtf((float)c->hidden)),
        .gate_up = dice_weights(dice, c->dtype, n_up, 2 / sqrtf((float)c->hidden)),
        .down = dice_weights(dice, c->dtype, n_down, 2 / sqrtf((float)c->intermediate)),
    };
    /* Experts 1, 3, 5 ... have the router rows of 0, 2, 4 ...: every choice is a tie. */
    for (uint32_t e = 1; c->ties && e < c->n_experts; e += 2)
        memcpy(d.router + (size_t)e * c->hidden, d.router + (size_t)(e - 1) * c->hidden,
               c->hidden * sizeof(float));
    /* All rows go to the same experts. */
    for (uint32_t r = 1; c->one_expert && r < c->n_rows; r++)
        memcpy(d.in + (size_t)r * c->hidden, d.in, c->hidden * sizeof(float));
    return d;
}

static void data_free(struct moe_data *d)
{
    free(d->in);
    free(d->norm);
    free(d->router);
    free(d->gate_up);
    free(d->down);
}

/* Gate and up are parts of their own, as in the files. */
static struct weight *experts_pack(struct rig *rig, const struct moe_case *c, const void *data,
                                   uint32_t n_parts, uint32_t out_count, uint32_t in_count)
{
    struct weight_part *parts = calloc((size_t)c->n_experts * n_parts, sizeof *parts);
    size_t part_out = out_count / n_parts;
    size_t part_bytes =
        part_out * in_count / dtype_block_count(c->dtype) * dtype_block_bytes(c->dtype);
    assert_non_null(parts);
    for (size_t i = 0; i < (size_t)c->n_experts * n_parts; i++)
        parts[i] = (struct weight_part){.dtype = c->dtype,
                                        .out_count = (uint32_t)part_out,
                                        .data = (const char *)data + i * part_bytes};
    struct weight_source source = {.stack_count = c->n_experts,
                                   .n_parts = n_parts,
                                   .out_count = out_count,
                                   .in_count = in_count,
                                   .parts = parts,
                                   .paired = n_parts == 2 && c->n_rows % 3};
    struct weight *weight = rig_weight_source(rig, &source);
    free(parts);
    return weight;
}

static void moe_run(struct rig *rig, const struct moe_case *c, const struct moe_data *d, float *out)
{
    size_t bytes = (size_t)c->n_rows * c->hidden * sizeof(float);
    float *in = rig_put(rig, d->in, bytes), *device_out = in;
    if (c->n_rows % 2) /* out may equal in */
        device_out = rig_poison(rig, bytes);
    struct moe_args args = {
        .n_rows = c->n_rows,
        .hidden = c->hidden,
        .intermediate = c->intermediate,
        .n_experts = c->n_experts,
        .top_k = c->top_k,
        .normalise = c->normalise,
        .router = rig_weight(rig, DTYPE_F32, c->n_experts, c->hidden, d->router),
        .gate_up = experts_pack(rig, c, d->gate_up, 2, 2 * c->intermediate, c->hidden),
        .down = experts_pack(rig, c, d->down, 1, c->hidden, c->intermediate),
        .norm = c->plain ? NULL : rig_put(rig, d->norm, c->hidden * sizeof(float)),
        .norm_eps = 1e-5f,
        .in = in,
        .out = device_out};
    rig->ops->moe(rig->device, &args);
    rig_get(rig, device_out, out, bytes);
}

static void moe_check(void **state, struct dice *dice, const struct moe_case *c)
{
    size_t n = (size_t)c->n_rows * c->hidden;
    struct moe_data data = data_make(dice, c);
    float *got = malloc(n * sizeof *got), *expected = malloc(n * sizeof *expected);
    struct rig cpu = rig_tested(state), ref = rig_open("ref", NULL, 1);
    moe_run(&cpu, c, &data, got);
    moe_run(&ref, c, &data, expected);
    for (size_t i = 0; i < n; i++) {
        double difference = fabs((double)got[i] - (double)expected[i]);
        double bound = rig_bound(state, c->dtype);
        if (!(difference <= bound * (1 + fabs((double)expected[i]))))
            fail_msg("%u rows, %u of %u experts: out[%zu] is %.9g, reference %.9g", c->n_rows,
                     c->top_k, c->n_experts, i, (double)got[i], (double)expected[i]);
    }
    rig_close(&cpu);
    rig_close(&ref);
    data_free(&data);
    free(got);
    free(expected);
}

static void moe_shapes(void **state)
{
    static const struct moe_case cases[] = {
        {1, 48, 40, 8, 2, true, DTYPE_F32, false, false, false},
        {2, 48, 40, 8, 2, true, DTYPE_BF16, false, false, false},
        {13, 24, 33, 5, 3, false, DTYPE_F32, false, false, false},
        {40, 96, 64, 8, 2, true, DTYPE_F32, false, false, false},
        {40, 96, 64, 8, 2, true, DTYPE_BF16, false, false, false},
        {7, 16, 8, 1, 1, true, DTYPE_F32, false, false, false},
        {9, 40, 24, 4, 4, true, DTYPE_F32, false, false, false},
        {30, 20, 12, 33, 8, true, DTYPE_BF16, false, false, false},
        {300, 32, 16, 8, 2, true, DTYPE_F32, false, false, false},
        {257, 32, 16, 4, 1, false, DTYPE_BF16, false, false, false},
        {19, 48, 40, 8, 2, true, DTYPE_F16, false, false, false},
        {1, 64, 96, 8, 2, true, DTYPE_Q8_0, false, false, false},
        {23, 96, 64, 8, 2, true, DTYPE_Q8_0, false, false, false},
        {40, 64, 32, 8, 3, true, DTYPE_Q4_0, false, false, false},
        {300, 64, 32, 5, 2, false, DTYPE_Q4_1, false, false, false},
        {1, 128, 128, 4, 2, true, DTYPE_F8_E4M3, false, false, false},
        {21, 256, 128, 4, 2, true, DTYPE_F8_E4M3, false, false, false},
        {130, 128, 128, 2, 1, false, DTYPE_F8_E4M3, false, false, false},
        {300, 192, 144, 3, 2, true, DTYPE_BF16, false, false, false},
        {290, 136, 144, 3, 2, true, DTYPE_F16, false, false, false}};
    struct dice dice = {30};
    for (size_t i = 0; i < array_count(cases); i++)
        for (int plain = 0; plain < 2; plain++) {
            if (rig_is_slow(state) && (i + (size_t)plain) % 2)
                continue;
            struct moe_case c = cases[i];
            c.plain = plain;
            moe_check(state, &dice, &c);
        }
}

static void moe_ties(void **state)
{
    struct dice dice = {31};
    for (uint32_t top_k = 1; top_k <= 5; top_k++) {
        struct moe_case c = {
            11, 32, 24, 8, top_k, true, DTYPE_F32, .ties = true, .one_expert = false};
        moe_check(state, &dice, &c);
    }
}

static void moe_all_rows_to_the_same(void **state)
{
    struct dice dice = {32};
    struct moe_case c = {37, 32, 24, 8, 2, true, DTYPE_F32, .ties = false, .one_expert = true};
    moe_check(state, &dice, &c);
}

/* A row with a NaN has nothing finite in its outputs, whichever experts it visits, and the row
 * beside it does not notice. */
static void moe_not_finite(void **state)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_Q8_0};
    enum { HIDDEN = 32 };
    for (size_t t = 0; t < array_count(types); t++) {
        struct dice dice = {33};
        struct moe_case c = {2, HIDDEN, 128, 8, 4, true, types[t], .one_expert = false};
        struct moe_data d = data_make(&dice, &c);
        float good[2 * HIDDEN], bad[2 * HIDDEN];
        struct rig rig = rig_tested(state);
        moe_run(&rig, &c, &d, good);
        rig_close(&rig);
        d.in[3] = NAN;
        rig = rig_tested(state);
        moe_run(&rig, &c, &d, bad);
        rig_close(&rig);
        for (uint32_t i = 0; i < HIDDEN; i++)
            if (isfinite(bad[i]) || !isfinite(good[i]))
                fail_msg("%s: out[%u] is %g with a NaN, %g without", dtype_name(types[t]), i,
                         (double)bad[i], (double)good[i]);
        assert_memory_equal(bad + HIDDEN, good + HIDDEN, sizeof good / 2);
        data_free(&d);
    }
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"moe: shapes", moe_shapes},
        {"moe: ties go to the lower expert", moe_ties},
        {"moe: all rows to the same experts", moe_all_rows_to_the_same},
        {"moe: rows that are not finite", moe_not_finite},
    };
    return rig_main("moe", tests, array_count(tests));
}
