#include <math.h>

#include "tests/bench/side.h"

#define BLOCK_TOKENS 16

static struct {
    struct device *device;
    struct weight *router, *first, *second; /* product: first */
    struct kv *kv;
    const struct side_product *product;
    const struct side_moe *moe;
    const struct side_attention *attention;
    uint32_t n_rows;
    float *in, *out;
    uint32_t *positions, *slots; /* [n_rows] */
} ours;

static void must(enum status status, const struct error *error)
{
    if (status != STATUS_OK)
        side_fail("%s", error->text);
}

static void open_ours(const char *where, uint32_t threads_count)
{
    struct device_options options = {.threads_count = threads_count};
    struct error error = {0};
    must(ops_cpu.device_open(&options, &ours.device, &error), &error);
    printf("ok %s\n", ops_cpu.device_text(ours.device));
}

static void rows_free(void)
{
    ops_cpu.buffer_free(ours.device, ours.in);
    ops_cpu.buffer_free(ours.device, ours.out);
    ours.in = ours.out = NULL;
    free(ours.positions);
    free(ours.slots);
    ours.positions = ours.slots = NULL;
}

static void unload(void)
{
    struct weight **weights[] = {&ours.router, &ours.first, &ours.second};
    for (size_t i = 0; i < array_count(weights); i++) {
        if (*weights[i])
            ops_cpu.weight_free(ours.device, *weights[i]);
        *weights[i] = NULL;
    }
    if (ours.kv)
        ops_cpu.kv_close(ours.device, ours.kv);
    ours.kv = NULL;
    ours.product = NULL;
    ours.moe = NULL;
    ours.attention = NULL;
    rows_free();
}

static void product_load(const struct side_product *product)
{
    struct weight_part part = {
        .dtype = product->dtype, .out_count = product->out_count, .data = product->weights};
    struct weight_source source = {.stack_count = 1,
                                   .n_parts = 1,
                                   .out_count = product->out_count,
                                   .in_count = product->in_count,
                                   .parts = &part};
    struct error error = {0};
    unload();
    must(ops_cpu.weight_pack(ours.device, &source, &ours.first, &error), &error);
    ours.product = product;
}

static size_t matrix_bytes(const struct side_moe *moe)
{
    return (size_t)moe->hidden * moe->ffn / dtype_block_count(moe->dtype) *
           dtype_block_bytes(moe->dtype);
}

static void moe_load(const struct side_moe *moe)
{
    struct error error = {0};
    struct weight_part *parts = calloc(2 * moe->n_experts, sizeof *parts);
    CHECK(parts != NULL);
    unload();
    struct weight_part router = {
        .dtype = DTYPE_F32, .out_count = moe->n_experts, .data = moe->router};
    struct weight_source source = {.stack_count = 1,
                                   .n_parts = 1,
                                   .out_count = moe->n_experts,
                                   .in_count = moe->hidden,
                                   .parts = &router,
                                   .exact = true};
    must(ops_cpu.weight_pack(ours.device, &source, &ours.router, &error), &error);
    for (uint32_t e = 0; e < moe->n_experts; e++) {
        size_t at = e * matrix_bytes(moe);
        parts[2 * e] = (struct weight_part){moe->dtype, moe->ffn, moe->gate + at};
        parts[2 * e + 1] = (struct weight_part){moe->dtype, moe->ffn, moe->up + at};
    }
    source = (struct weight_source){.stack_count = moe->n_experts,
                                    .n_parts = 2,
                                    .out_count = 2 * moe->ffn,
                                    .in_count = moe->hidden,
                                    .parts = parts};
    must(ops_cpu.weight_pack(ours.device, &source, &ours.first, &error), &error);
    for (uint32_t e = 0; e < moe->n_experts; e++)
        parts[e] = (struct weight_part){moe->dtype, moe->hidden, moe->down + e * matrix_bytes(moe)};
    source = (struct weight_source){.stack_count = moe->n_experts,
                                    .n_parts = 1,
                                    .out_count = moe->hidden,
                                    .in_count = moe->ffn,
                                    .parts = parts};
    must(ops_cpu.weight_pack(ours.device, &source, &ours.second, &error), &error);
    free(parts);
    ours.moe = moe;
}

static size_t qkv_floats(const struct side_attention *a)
{
    return (size_t)(a->n_heads + 2 * a->n_kv_heads) * a->head_dim;
}

/* K and V of every position, in every layer, by the op that a model uses; nothing is rotated. */
static void kv_fill(const struct side_attention *a)
{
    size_t row = qkv_floats(a), n_kv = (size_t)a->n_kv_heads * a->head_dim;
    float *qkv = ops_cpu.buffer_alloc(ours.device, BLOCK_TOKENS * row * sizeof(float));
    float *still = ops_cpu.buffer_alloc(ours.device, a->head_dim / 2 * sizeof(float));
    float *rows = calloc(BLOCK_TOKENS * row, sizeof *rows);
    uint32_t positions[BLOCK_TOKENS], slots[BLOCK_TOKENS] = {0};
    CHECK(qkv && still && rows);
    struct rope_kv_args args = {.n_rows = BLOCK_TOKENS,
                                .n_heads = a->n_heads,
                                .n_kv_heads = a->n_kv_heads,
                                .head_dim = a->head_dim,
                                .qkv = qkv,
                                .inv_freq = still,
                                .attention_factor = 1,
                                .host_positions = positions,
                                .host_slots = slots,
                                .kv = ours.kv};
    for (uint32_t at = 0; at < a->context_tokens; at += BLOCK_TOKENS) {
        for (uint32_t i = 0; i < BLOCK_TOKENS; i++) {
            float *k = rows + i * row + (size_t)a->n_heads * a->head_dim;
            positions[i] = at + i;
            memcpy(k, a->k + (at + i) * n_kv, n_kv * sizeof *k);
            memcpy(k + n_kv, a->v + (at + i) * n_kv, n_kv * sizeof *k);
        }
        for (args.layer = 0; args.layer < a->n_layers; args.layer++) {
            ops_cpu.buffer_write(ours.device, qkv, rows, BLOCK_TOKENS * row * sizeof *rows);
            ops_cpu.rope_kv(ours.device, &args);
        }
    }
    ops_cpu.buffer_free(ours.device, qkv);
    ops_cpu.buffer_free(ours.device, still);
    free(rows);
}

static void attention_load(const struct side_attention *a)
{
    uint32_t n_blocks = a->context_tokens / BLOCK_TOKENS;
    struct kv_shape shape = {.n_layers = a->n_layers,
                             .n_kv_heads = a->n_kv_heads,
                             .head_dim = a->head_dim,
                             .block_tokens = BLOCK_TOKENS,
                             .blocks_count = n_blocks,
                             .slots_count = 1,
                             .slot_blocks_max = n_blocks,
                             .dtype = a->kv_dtype};
    struct error error = {0};
    unload();
    must(ops_cpu.kv_open(ours.device, &shape, &ours.kv, &error), &error);
    for (uint32_t i = 0; i < n_blocks; i++) { /* 769 is prime: scattered, each once */
        uint32_t block = (uint32_t)((uint64_t)i * 769 % n_blocks);
        ops_cpu.kv_table_set(ours.device, ours.kv, 0, i, &block, 1);
    }
    kv_fill(a);
    ours.attention = a;
}

static void prepare(uint32_t n_rows, const float *in)
{
    size_t n_in, n_out;
    rows_free();
    ours.n_rows = n_rows;
    if (ours.product) {
        n_in = ours.product->in_count;
        n_out = ours.product->out_count;
    } else if (ours.moe) {
        n_in = n_out = ours.moe->hidden;
    } else {
        n_in = qkv_floats(ours.attention);
        n_out = (size_t)ours.attention->n_heads * ours.attention->head_dim;
    }
    ours.in = ops_cpu.buffer_alloc(ours.device, n_rows * n_in * sizeof(float));
    ours.out = ops_cpu.buffer_alloc(ours.device, n_rows * n_out * sizeof(float));
    ours.positions = calloc(n_rows, sizeof *ours.positions);
    ours.slots = calloc(n_rows, sizeof *ours.slots);
    CHECK(ours.in && ours.out && ours.positions && ours.slots);
    if (!ours.attention) {
        ops_cpu.buffer_write(ours.device, ours.in, in, n_rows * n_in * sizeof(float));
        return;
    }
    float *rows = calloc(n_rows * n_in, sizeof *rows);
    CHECK(rows != NULL);
    for (uint32_t r = 0; r < n_rows; r++) {
        ours.positions[r] = ours.attention->context_tokens - n_rows + r;
        memcpy(rows + r * n_in, in + r * n_out, n_out * sizeof *rows);
    }
    ops_cpu.buffer_write(ours.device, ours.in, rows, n_rows * n_in * sizeof(float));
    free(rows);
}

static void moe_run(void)
{
    struct moe_args args = {.n_rows = ours.n_rows,
                            .hidden = ours.moe->hidden,
                            .intermediate = ours.moe->ffn,
                            .n_experts = ours.moe->n_experts,
                            .top_k = ours.moe->top_k,
                            .normalise = true,
                            .router = ours.router,
                            .gate_up = ours.first,
                            .down = ours.second,
                            .in = ours.in,
                            .out = ours.out};
    ops_cpu.moe(ours.device, &args);
}

static void attention_run(void)
{
    const struct side_attention *a = ours.attention;
    struct attention_args args = {.n_rows = ours.n_rows,
                                  .n_heads = a->n_heads,
                                  .n_kv_heads = a->n_kv_heads,
                                  .head_dim = a->head_dim,
                                  .scale = 1 / sqrtf((float)a->head_dim),
                                  .qkv = ours.in,
                                  .host_positions = ours.positions,
                                  .host_slots = ours.slots,
                                  .kv = ours.kv,
                                  .out = ours.out};
    for (args.layer = 0; args.layer < a->n_layers; args.layer++)
        ops_cpu.attention(ours.device, &args);
}

static void run(void)
{
    struct error error = {0};
    if (ours.product) {
        struct linear_args args = {
            .weight = ours.first, .n_rows = ours.n_rows, .in = ours.in, .out = ours.out};
        ops_cpu.linear(ours.device, &args);
    } else if (ours.moe) {
        moe_run();
    } else {
        attention_run();
    }
    must(ops_cpu.sync(ours.device, &error), &error);
}

static void result(float *out, size_t count)
{
    ops_cpu.buffer_read(ours.device, ours.out, out, count * sizeof *out);
}

const struct side side_ours = {.name = "ours",
                               .open = open_ours,
                               .product_load = product_load,
                               .moe_load = moe_load,
                               .attention_load = attention_load,
                               .prepare = prepare,
                               .run = run,
                               .result = result};
