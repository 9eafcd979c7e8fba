/*
 * The bits of a row depend on that row alone. Each op first computes every row by itself on one
 * thread; then any sub-batch, in any order, on one to three threads, must give the same bits.
 * Attention also: a sequence that was written in chunks of any size, in any blocks, in any slot.
 */
#include "tests/oracle/rig.h"

#include <math.h>

enum { ROWS = 40, TRIALS = 30, SLOW_TRIALS = 5 };

/* An op with its weights: computes rows `rows[0..n)` of a fixed set, out: [n][out_values]. */
struct subject {
    size_t out_values;
    void (*run)(const struct subject *subject, struct rig *rig, const uint32_t *rows, uint32_t n,
                float *out);
    const void *data;
};

static void subject_check(void **state, const struct subject *subject)
{
    const struct config *config = *state;
    struct dice dice = {70};
    size_t n_out = subject->out_values, row_bytes = n_out * sizeof(float);
    float *alone = malloc(ROWS * row_bytes), *together = malloc(ROWS * row_bytes);
    struct rig rig = rig_open(config->backend, config->tier, 1);
    for (uint32_t r = 0; r < ROWS; r++)
        subject->run(subject, &rig, &r, 1, alone + r * n_out);
    rig_close(&rig);
    rig = rig_tested(state);
    uint32_t trials = rig_is_slow(state) ? SLOW_TRIALS : TRIALS;
    for (uint32_t trial = 0; trial < trials; trial++) {
        uint32_t rows[ROWS], n = trial < 14 ? trial + 1 : dice_between(&dice, 1, ROWS);
        n = trials == SLOW_TRIALS ? 4 + 9 * trial : n; /* up to 40, by every kernel */
        dice_shuffle(&dice, rows, ROWS);
        subject->run(subject, &rig, rows, n, together);
        for (uint32_t i = 0; i < n; i++)
            if (memcmp(together + i * n_out, alone + rows[i] * n_out, row_bytes) != 0)
                fail_msg("row %u differs in a call of %u rows", rows[i], n);
        rig_close(&rig);
        rig = rig_tested(state);
    }
    rig_close(&rig);
    free(alone);
    free(together);
}

/* Rows of a host table, in this order, on the device. */
static float *rows_put(struct rig *rig, const float *table, size_t n_values, const uint32_t *rows,
                       uint32_t n)
{
    float *picked = malloc(n * n_values * sizeof *picked);
    assert_non_null(picked);
    for (uint32_t i = 0; i < n; i++)
        memcpy(picked + i * n_values, table + rows[i] * n_values, n_values * sizeof *picked);
    float *buffer = rig_put(rig, picked, n * n_values * sizeof *picked);
    free(picked);
    return buffer;
}

/* ---- linear ---- */

struct linear_data {
    enum dtype dtype;
    uint32_t out_count, in_count;
    const void *weight;
    const float *in, *residual, *bias, *norm;
};

static void linear_run(const struct subject *subject, struct rig *rig, const uint32_t *rows,
                       uint32_t n, float *out)
{
    const struct linear_data *d = subject->data;
    rig->n_weights = 0;
    struct weight *weight = rig_weight(rig, d->dtype, d->out_count, d->in_count, d->weight);
    size_t out_bytes = (size_t)n * d->out_count * sizeof(float);
    float *buffer = rig_poison(rig, out_bytes);
    struct linear_args args = {.weight = weight,
                               .n_rows = n,
                               .norm = rig_put(rig, d->norm, d->in_count * sizeof(float)),
                               .norm_eps = 1e-6f,
                               .in = rows_put(rig, d->in, d->in_count, rows, n),
                               .bias = rig_put(rig, d->bias, d->out_count * sizeof(float)),
                               .residual = rows_put(rig, d->residual, d->out_count, rows, n),
                               .out = buffer};
    rig->ops->linear(rig->device, &args);
    rig_get(rig, buffer, out, out_bytes);
    rig->ops->weight_free(rig->device, weight);
    rig->n_weights = 0;
    while (rig->n_buffers > 0)
        rig->ops->buffer_free(rig->device, rig->buffers[--rig->n_buffers]);
}

static void linear_check(void **state, enum dtype dtype, uint32_t out_count, uint32_t in_count)
{
    struct dice dice = {71 + out_count};
    size_t n_weights = (size_t)out_count * in_count;
    void *weight = dice_weights(&dice, dtype, n_weights, 1);
    float *in = dice_floats(&dice, (size_t)ROWS * in_count, 1);
    float *residual = dice_floats(&dice, (size_t)ROWS * out_count, 1);
    float *bias = dice_floats(&dice, out_count, 1), *norm = dice_floats(&dice, in_count, 1);
    struct linear_data data = {.dtype = dtype,
                               .out_count = out_count,
                               .in_count = in_count,
                               .weight = weight,
                               .in = in,
                               .residual = residual,
                               .bias = bias,
                               .norm = norm};
    struct subject subject = {.out_values = out_count, .run = linear_run, .data = &data};
    subject_check(state, &subject);
    free(weight);
    free(in);
    free(residual);
    free(bias);
    free(norm);
}

static void linear_exact(void **state)
{
    linear_check(state, DTYPE_F32, 200, 77);
    linear_check(state, DTYPE_BF16, 200, 77);
    linear_check(state, DTYPE_F32, 31, 300);
    linear_check(state, DTYPE_BF16, 420, 64);
    linear_check(state, DTYPE_F16, 200, 77);
    linear_check(state, DTYPE_Q8_0, 200, 96);
    linear_check(state, DTYPE_Q4_0, 31, 320);
    linear_check(state, DTYPE_Q4_1, 420, 64);
    linear_check(state, DTYPE_F8_E4M3, 100, 384);
}

/* ---- mlp ---- */

struct mlp_data {
    uint32_t hidden, intermediate;
    enum dtype gate_up_dtype, down_dtype;
    const void *gate_up, *down;
    const float *in, *norm, *gate_up_bias, *down_bias;
};

static void mlp_run(const struct subject *subject, struct rig *rig, const uint32_t *rows,
                    uint32_t n, float *out)
{
    const struct mlp_data *d = subject->data;
    struct weight_part part = {d->gate_up_dtype, 2 * d->intermediate, d->gate_up};
    struct weight_source gate_up = {.stack_count = 1,
                                    .n_parts = 1,
                                    .out_count = part.out_count,
                                    .in_count = d->hidden,
                                    .parts = &part,
                                    .paired = d->hidden != 96}; /* once they are apart */
    size_t bytes = (size_t)n * d->hidden * sizeof(float);
    float *buffer = rig_poison(rig, bytes);
    struct mlp_args args = {
        .n_rows = n,
        .hidden = d->hidden,
        .intermediate = d->intermediate,
        .gate_up = rig_weight_source(rig, &gate_up),
        .down = rig_weight(rig, d->down_dtype, d->hidden, d->intermediate, d->down),
        .gate_up_bias = rig_put(rig, d->gate_up_bias, 2 * d->intermediate * sizeof(float)),
        .down_bias = rig_put(rig, d->down_bias, d->hidden * sizeof(float)),
        .norm = rig_put(rig, d->norm, d->hidden * sizeof(float)),
        .norm_eps = 1e-6f,
        .in = rows_put(rig, d->in, d->hidden, rows, n),
        .out = buffer};
    rig->ops->mlp(rig->device, &args);
    rig_get(rig, buffer, out, bytes);
    while (rig->n_buffers > 0)
        rig->ops->buffer_free(rig->device, rig->buffers[--rig->n_buffers]);
    while (rig->n_weights > 0)
        rig->ops->weight_free(rig->device, rig->weights[--rig->n_weights]);
}

static void mlp_check(void **state, uint32_t hidden, uint32_t intermediate, enum dtype gate_up,
                      enum dtype down)
{
    struct dice dice = {72};
    size_t n = (size_t)intermediate * hidden;
    float *in = dice_floats(&dice, (size_t)ROWS * hidden, 1);
    float *norm = dice_floats(&dice, hidden, 1);
    float *gate_up_bias = dice_floats(&dice, 2ul * intermediate, 1);
    float *down_bias = dice_floats(&dice, hidden, 1);
    struct mlp_data data = {.hidden = hidden,
                            .intermediate = intermediate,
                            .gate_up_dtype = gate_up,
                            .down_dtype = down,
                            .gate_up = dice_weights(&dice, gate_up, 2 * n, 0.3f),
                            .down = dice_weights(&dice, down, n, 0.3f),
                            .in = in,
                            .norm = norm,
                            .gate_up_bias = gate_up_bias,
                            .down_bias = down_bias};
    struct subject subject = {.out_values = hidden, .run = mlp_run, .data = &data};
    subject_check(state, &subject);
    free(in);
    free(norm);
    free(gate_up_bias);
    free(down_bias);
    free((void *)(uintptr_t)data.gate_up);
    free((void *)(uintptr_t)data.down);
}

static void mlp_exact(void **state)
{
    mlp_check(state, 77, 65, DTYPE_F32, DTYPE_BF16);
    mlp_check(state, 64, 400, DTYPE_F16, DTYPE_F32);
    mlp_check(state, 96, 320, DTYPE_Q4_1, DTYPE_Q4_1);
    mlp_check(state, 64, 320, DTYPE_Q4_1, DTYPE_Q4_1);
    mlp_check(state, 40, 96, DTYPE_BF16, DTYPE_BF16);
    mlp_check(state, 576, 96, DTYPE_Q8_0, DTYPE_Q4_0);
    mlp_check(state, 64, 77, DTYPE_Q4_0, DTYPE_BF16);
    mlp_check(state, 65, 96, DTYPE_BF16, DTYPE_Q8_0);
    mlp_check(state, 128, 256, DTYPE_F8_E4M3, DTYPE_F8_E4M3);
}

/* ---- moe ---- */

struct moe_data {
    uint32_t hidden, intermediate, n_experts, top_k;
    const float *in, *norm, *router;
    enum dtype gate_up_dtype, down_dtype;
    const void *gate_up, *down;
};

static struct weight *stack_pack(struct rig *rig, const struct moe_data *d, bool down)
{
    enum { n = 8 };
    enum dtype dtype = down ? d->down_dtype : d->gate_up_dtype;
    const void *data = down ? d->down : d->gate_up;
    uint32_t out_count = down ? d->hidden : 2 * d->intermediate;
    uint32_t in_count = down ? d->intermediate : d->hidden;
    struct weight_part parts[n];
    size_t matrix_bytes =
        (size_t)out_count * in_count / dtype_block_count(dtype) * dtype_block_bytes(dtype);
    for (uint32_t i = 0; i < n; i++)
        parts[i] = (struct weight_part){
            .dtype = dtype, .out_count = out_count, .data = (const char *)data + i * matrix_bytes};
    struct weight_source source = {.stack_count = n,
                                   .n_parts = 1,
                                   .out_count = out_count,
                                   .in_count = in_count,
                                   .parts = parts,
                                   .paired = !down};
    return rig_weight_source(rig, &source);
}

static void moe_run(const struct subject *subject, struct rig *rig, const uint32_t *rows,
                    uint32_t n, float *out)
{
    const struct moe_data *d = subject->data;
    size_t bytes = (size_t)n * d->hidden * sizeof(float);
    float *buffer = rig_poison(rig, bytes);
    struct moe_args args = {.n_rows = n,
                            .hidden = d->hidden,
                            .intermediate = d->intermediate,
                            .n_experts = d->n_experts,
                            .top_k = d->top_k,
                            .normalise = true,
                            .router =
                                rig_weight(rig, DTYPE_F32, d->n_experts, d->hidden, d->router),
                            .gate_up = stack_pack(rig, d, false),
                            .down = stack_pack(rig, d, true),
                            .norm = rig_put(rig, d->norm, d->hidden * sizeof(float)),
                            .norm_eps = 1e-6f,
                            .in = rows_put(rig, d->in, d->hidden, rows, n),
                            .out = buffer};
    rig->ops->moe(rig->device, &args);
    rig_get(rig, buffer, out, bytes);
    while (rig->n_buffers > 0)
        rig->ops->buffer_free(rig->device, rig->buffers[--rig->n_buffers]);
    while (rig->n_weights > 0)
        rig->ops->weight_free(rig->device, rig->weights[--rig->n_weights]);
}

static void moe_check(void **state, uint32_t hidden, uint32_t intermediate, enum dtype gate_up,
                      enum dtype down)
{
    struct dice dice = {73};
    enum { E = 8 };
    size_t n = (size_t)E * intermediate * hidden;
    float *in = dice_floats(&dice, (size_t)ROWS * hidden, 1);
    float *norm = dice_floats(&dice, hidden, 1);
    float *router = dice_floats(&dice, (size_t)E * hidden, 0.5f);
    struct moe_data data = {.hidden = hidden,
                            .intermediate = intermediate,
                            .n_experts = E,
                            .top_k = 2,
                            .in = in,
                            .norm = norm,
                            .router = router,
                            .gate_up_dtype = gate_up,
                            .down_dtype = down,
                            .gate_up = dice_weights(&dice, gate_up, 2 * n, 0.3f),
                            .down = dice_weights(&dice, down, n, 0.3f)};
    struct subject subject = {.out_values = hidden, .run = moe_run, .data = &data};
    subject_check(state, &subject);
    free(in);
    free(norm);
    free(router);
    free((void *)(uintptr_t)data.gate_up);
    free((void *)(uintptr_t)data.down);
}

static void moe_exact(void **state)
{
    moe_check(state, 48, 40, DTYPE_F32, DTYPE_F32);
    moe_check(state, 64, 32, DTYPE_Q4_0, DTYPE_Q8_0);
    moe_check(state, 64, 40, DTYPE_Q4_1, DTYPE_F16);
    moe_check(state, 64, 96, DTYPE_Q4_1, DTYPE_Q4_1);
    moe_check(state, 48, 64, DTYPE_F32, DTYPE_BF16);
    moe_check(state, 128, 128, DTYPE_F8_E4M3, DTYPE_F8_E4M3);
}

/* ---- rope_kv and attention ---- */

enum { BLOCKS = 40, LENGTH = 530 }; /* more than two splits of attention */

struct sequence {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window_tokens;
    const float *qkv, *inv_freq;
    enum dtype dtype;
};

/* Writes and attends positions of one sequence in chunks of the given sizes, after the pool was
 * filled with NaN; the blocks and the slot are drawn. out: [LENGTH][n_heads * head_dim]. */
static void sequence_run(const struct sequence *s, struct rig *rig, struct dice *dice,
                         uint32_t chunk_max, float *out)
{
    size_t row_values = (size_t)(s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    size_t out_values = (size_t)s->n_heads * s->head_dim;
    uint32_t n_blocks = div_up_u32(LENGTH, s->block_tokens), table[BLOCKS],
             slot = dice_below(dice, 4);
    struct kv_shape shape = {.dtype = s->dtype,
                             .n_layers = 1,
                             .n_kv_heads = s->n_kv_heads,
                             .head_dim = s->head_dim,
                             .block_tokens = s->block_tokens,
                             .blocks_count = BLOCKS,
                             .slots_count = 4,
                             .slot_blocks_max = n_blocks};
    struct kv *kv = rig_kv(rig, &shape);
    rig_kv_poison(rig, kv, &shape);
    dice_shuffle(dice, table, BLOCKS);
    rig->ops->kv_table_set(rig->device, kv, slot, 0, table, n_blocks);
    float *inv_freq = rig_put(rig, s->inv_freq, s->head_dim / 2 * sizeof(float));
    float *qkv = rig_put(rig, s->qkv, LENGTH * row_values * sizeof(float));
    float *buffer = rig_poison(rig, LENGTH * out_values * sizeof(float));
    uint32_t positions[LENGTH], slots[LENGTH];
    for (uint32_t first = 0, n; first < LENGTH; first += n) {
        n = u32_min(dice_between(dice, 1, chunk_max), LENGTH - first);
        for (uint32_t i = 0; i < n; i++) {
            positions[i] = first + i;
            slots[i] = slot;
        }
        struct rope_kv_args rope = {.n_rows = n,
                                    .n_heads = s->n_heads,
                                    .n_kv_heads = s->n_kv_heads,
                                    .head_dim = s->head_dim,
                                    .qkv = qkv + first * row_values,
                                    .inv_freq = inv_freq,
                                    .attention_factor = 1,
                                    .host_positions = positions,
                                    .host_slots = slots,
                                    .kv = kv};
        rig->ops->rope_kv(rig->device, &rope);
        struct attention_args attention = {.n_rows = n,
                                           .n_heads = s->n_heads,
                                           .n_kv_heads = s->n_kv_heads,
                                           .head_dim = s->head_dim,
                                           .scale = 0.3f,
                                           .window_tokens = s->window_tokens,
                                           .qkv = rope.qkv,
                                           .host_positions = positions,
                                           .host_slots = slots,
                                           .kv = kv,
                                           .out = buffer + first * out_values};
        rig->ops->attention(rig->device, &attention);
    }
    rig_get(rig, buffer, out, LENGTH * out_values * sizeof(float));
}

static void sequence_check(void **state, const struct sequence *s)
{
    const struct config *config = *state;
    struct dice dice = {74};
    size_t bytes = LENGTH * (size_t)s->n_heads * s->head_dim * sizeof(float);
    float *alone = malloc(bytes), *chunked = malloc(bytes);
    struct rig rig = rig_open(config->backend, config->tier, 1);
    sequence_run(s, &rig, &dice, 1, alone);
    rig_close(&rig);
    static const uint32_t chunks[] = {1, 2, 7, 16, 33, LENGTH, LENGTH};
    for (size_t i = 0; i < array_count(chunks); i++) {
        rig = rig_tested(state);
        sequence_run(s, &rig, &dice, chunks[i], chunked);
        assert_memory_equal(alone, chunked, bytes);
        rig_close(&rig);
    }
    free(alone);
    free(chunked);
}

static void attention_exact(void **state)
{
    struct dice dice = {75};
    float *qkv = dice_floats(&dice, LENGTH * 1024, 1), inv_freq[64];
    for (int i = 0; i < 64; i++)
        inv_freq[i] = 1 / (1 + (float)i);
    struct sequence shapes[] = {
        {9, 3, 64, 16, 0, qkv, inv_freq, DTYPE_F32},
        {6, 2, 32, 32, 0, qkv, inv_freq, DTYPE_F32},
        {4, 1, 24, 16, 0, qkv, inv_freq, DTYPE_F32},
        {5, 1, 24, 32, 50, qkv, inv_freq, DTYPE_F32},
        {2, 2, 80, 16, 16, qkv, inv_freq, DTYPE_F32},
        {9, 3, 64, 16, 0, qkv, inv_freq, DTYPE_BF16},
        {13, 1, 24, 32, 0, qkv, inv_freq, DTYPE_BF16},
        {3, 1, 16, 16, 300, qkv, inv_freq, DTYPE_BF16},
        {5, 5, 2, 16, 0, qkv, inv_freq, DTYPE_BF16},
        {4, 1, 80, 32, 31, qkv, inv_freq, DTYPE_BF16},
        {9, 3, 64, 16, 0, qkv, inv_freq, DTYPE_Q8_0},
        {13, 1, 24, 32, 0, qkv, inv_freq, DTYPE_Q8_0},
        {3, 1, 16, 16, 300, qkv, inv_freq, DTYPE_Q8_0},
        {4, 1, 80, 32, 31, qkv, inv_freq, DTYPE_Q8_0},
        {9, 3, 64, 16, 0, qkv, inv_freq, DTYPE_KV_E4M3},
        {13, 1, 24, 32, 0, qkv, inv_freq, DTYPE_KV_E4M3},
        {5, 5, 6, 16, 300, qkv, inv_freq, DTYPE_KV_E4M3},
    };
    const struct config *config = *state;
    for (size_t i = 0; i < array_count(shapes); i++)
        if (shapes[i].dtype != DTYPE_Q8_0 || strcmp(config->backend, "cpu") == 0)
            sequence_check(state, &shapes[i]); /* 8 bits are cpu's alone */
    free(qkv);
}

/* ---- sample ---- */

struct row_result {
    float id, logprob, top_id, top_logprob;
};

static void sample_run(const struct subject *subject, struct rig *rig, const uint32_t *rows,
                       uint32_t n, float *out)
{
    enum { VOCAB = 1500 };
    struct sample_params params[ROWS];
    uint32_t positions[ROWS], slots[ROWS];
    struct sample_result results[ROWS];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = rows[i];
        params[i] = (struct sample_params){.temperature = (float)(r % 4) * 0.5f,
                                           .top_p = r % 3 ? 0.9f : 0,
                                           .top_k = r % 5 ? 0 : 30,
                                           .n_logprobs = 7,
                                           .seed = r * 77};
        positions[i] = 100 + r;
        slots[i] = i;
    }
    void *device_results = rig_poison(rig, sizeof results);
    struct sample_args args = {.n_rows = n,
                               .vocab = VOCAB,
                               .logits = rows_put(rig, subject->data, VOCAB, rows, n),
                               .host_params = params,
                               .host_positions = positions,
                               .host_slots = slots,
                               .host_places = slots,
                               .last_sampled = rig_poison(rig, sizeof slots),
                               .results = device_results};
    rig->ops->sample(rig->device, &args);
    rig_get(rig, device_results, results, n * sizeof results[0]);
    for (uint32_t i = 0; i < n; i++) {
        struct row_result row = {(float)results[i].id, results[i].logprob,
                                 (float)results[i].top_id[6], results[i].top_logprob[6]};
        memcpy(out + 4 * i, &row, sizeof row);
    }
    while (rig->n_buffers > 0)
        rig->ops->buffer_free(rig->device, rig->buffers[--rig->n_buffers]);
}

static void sample_exact(void **state)
{
    struct dice dice = {76};
    float *logits = dice_floats(&dice, ROWS * 1500, 6);
    struct subject subject = {.out_values = 4, .run = sample_run, .data = logits};
    subject_check(state, &subject);
    free(logits);
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"exact: linear", linear_exact}, {"exact: mlp", mlp_exact},
        {"exact: moe", moe_exact},       {"exact: rope_kv, attention", attention_exact},
        {"exact: sample", sample_exact},
    };
    return rig_main("exact", tests, array_count(tests));
}
