/*
 * bench_attention [threads [type [tier]]]: attention of a CPU tier (else the best) over paged KV,
 * on random data, for the shapes of three models and K and V of each type.
 *
 * Decode: rows of different sequences at the end of their contexts, judged by the bytes of K and V
 * that they read, next to the bandwidth probe of the same run. Prefill: a chunk of 512 rows at the
 * end of a context in one layer, judged by its multiply-adds of pairs that attend (4 head_dim a
 * pair), next to the arithmetic probe of what the best tier multiplies with: f32, pairs of bf16, or
 * bytes (of which V takes two products for its weights of 16 bits). Probe and attention take turns;
 * medians. With one thread all is measured in its own time, in which a busy neighbour shows less.
 */
#include "base/clock.h"
#include "kernels/ops.h"
#include "tests/bench/probe.h"

enum { BLOCK_TOKENS = 16, PASSES = 5, CHUNK = 512 };
enum { SEQUENCES_MAX = 64, SHORT_CONTEXT = 1024, CONTEXT_MAX = 16384 };

/* Enough layers that a pass over all of them does not stay in the caches. */
static const struct shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, head_dim, n_layers;
} shapes[] = {
    {"32/8x128", 32, 8, 128, 4}, /* Mistral 7B, Mixtral 8x7B */
    {"16/4x64", 16, 4, 64, 12},
    {"9/3x64", 9, 3, 64, 16}, /* SmolLM2 135M */
};
static const uint32_t contexts[] = {1024, 4096, 16384};
static const uint32_t batches[] = {4, 16, 64}; /* of SHORT_CONTEXT each */
static const struct kv_type {
    const char *name;
    enum dtype dtype;
} types[] = {{"f32", DTYPE_F32}, {"bf16", DTYPE_BF16}, {"q8", DTYPE_Q8_0}};

struct bench {
    struct device *device;
    uint32_t threads;
    const struct shape *shape;
    const struct kv_type *type;
    struct kv *kv;
    struct kv_shape kv_shape;
    float *qkv, *out, *inv_freq;
    uint32_t positions[CHUNK], slots[CHUNK];
};

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, double_compare);
    return values[n / 2];
}

static float random_float(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state * 0x1p-31f;
}

static size_t row_floats(const struct shape *shape)
{
    return (size_t)(shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim;
}

/* K and V of CHUNK positions of a slot, all layers. */
static void chunk_write(struct bench *b, uint32_t slot, uint32_t first)
{
    for (uint32_t i = 0; i < CHUNK; i++) {
        b->positions[i] = first + i;
        b->slots[i] = slot;
    }
    struct rope_kv_args rope = {.n_rows = CHUNK,
                                .n_heads = b->shape->n_heads,
                                .n_kv_heads = b->shape->n_kv_heads,
                                .head_dim = b->shape->head_dim,
                                .qkv = b->qkv,
                                .inv_freq = b->inv_freq,
                                .attention_factor = 1,
                                .host_positions = b->positions,
                                .host_slots = b->slots,
                                .kv = b->kv};
    for (rope.layer = 0; rope.layer < b->shape->n_layers; rope.layer++)
        ops_cpu.rope_kv(b->device, &rope);
}

/* Slot 0 has a long sequence, every other slot a short one; all blocks are scattered. */
static void tables_fill(struct bench *b)
{
    uint32_t slot = 0, at = 0, n = b->kv_shape.blocks_count;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t block = (uint32_t)((uint64_t)i * 769 % n);
        ops_cpu.kv_table_set(b->device, b->kv, slot, at++, &block, 1);
        if (at == (slot ? SHORT_CONTEXT : CONTEXT_MAX) / BLOCK_TOKENS) {
            slot++;
            at = 0;
        }
    }
    for (slot = 0; slot < SEQUENCES_MAX; slot++)
        for (at = 0; at < (slot ? SHORT_CONTEXT : CONTEXT_MAX); at += CHUNK)
            chunk_write(b, slot, at);
}

static void bench_open(struct bench *b)
{
    struct error error = {0};
    const struct shape *shape = b->shape;
    uint32_t tokens = CONTEXT_MAX + (SEQUENCES_MAX - 1) * SHORT_CONTEXT;
    b->kv_shape = (struct kv_shape){.n_layers = shape->n_layers,
                                    .n_kv_heads = shape->n_kv_heads,
                                    .head_dim = shape->head_dim,
                                    .block_tokens = BLOCK_TOKENS,
                                    .blocks_count = tokens / BLOCK_TOKENS,
                                    .slots_count = SEQUENCES_MAX,
                                    .slot_blocks_max = CONTEXT_MAX / BLOCK_TOKENS,
                                    .dtype = b->type->dtype};
    CHECK(ops_cpu.kv_open(b->device, &b->kv_shape, &b->kv, &error) == STATUS_OK);
    b->qkv = ops_cpu.buffer_alloc(b->device, CHUNK * row_floats(shape) * sizeof(float));
    b->out = ops_cpu.buffer_alloc(b->device,
                                  (size_t)CHUNK * shape->n_heads * shape->head_dim * sizeof(float));
    b->inv_freq = ops_cpu.buffer_alloc(b->device, shape->head_dim / 2 * sizeof(float));
    CHECK(b->qkv && b->out && b->inv_freq);
    for (size_t i = 0; i < CHUNK * row_floats(shape); i++)
        b->qkv[i] = random_float();
    tables_fill(b);
}

static void bench_close(struct bench *b)
{
    ops_cpu.kv_close(b->device, b->kv);
    ops_cpu.buffer_free(b->device, b->qkv);
    ops_cpu.buffer_free(b->device, b->out);
    ops_cpu.buffer_free(b->device, b->inv_freq);
}

/* Seconds of one call over some layers, n_rows rows as positions and slots say. */
static double attention_time_s(struct bench *b, uint32_t n_rows, uint32_t n_layers,
                               uint64_t (*clock)(void))
{
    struct attention_args args = {.n_rows = n_rows,
                                  .n_heads = b->shape->n_heads,
                                  .n_kv_heads = b->shape->n_kv_heads,
                                  .head_dim = b->shape->head_dim,
                                  .scale = 0.125f,
                                  .qkv = b->qkv,
                                  .host_positions = b->positions,
                                  .host_slots = b->slots,
                                  .kv = b->kv,
                                  .out = b->out};
    uint64_t start_ns = clock();
    for (args.layer = 0; args.layer < n_layers; args.layer++)
        ops_cpu.attention(b->device, &args);
    return (double)(clock() - start_ns) / 1e9;
}

static void decode_bench(struct bench *b, uint32_t n_rows, uint32_t context)
{
    double times[PASSES], probes[PASSES];
    uint64_t (*clock)(void) = b->threads == 1 ? probe_thread_ns : clock_now_ns;
    for (uint32_t i = 0; i < n_rows; i++) {
        b->positions[i] = context - 1;
        b->slots[i] = i;
    }
    attention_time_s(b, n_rows, b->shape->n_layers, clock);
    for (uint32_t i = 0; i < PASSES; i++) {
        probes[i] = probe_read_gb_per_s(b->threads);
        times[i] = attention_time_s(b, n_rows, b->shape->n_layers, clock);
    }
    double bytes =
        (double)n_rows * (context / BLOCK_TOKENS) * (double)ops_cpu.kv_block_bytes(&b->kv_shape);
    double seconds = median(times, PASSES), rate = bytes / seconds / 1e9;
    double probe = median(probes, PASSES);
    printf("decode %s %s, %2u rows at %5u: %8.1f us, %5.1f GB/s of K and V, %3.0f %% of the "
           "probe's %.1f GB/s\n",
           b->shape->name, b->type->name, n_rows, context, seconds * 1e6, rate, 100 * rate / probe,
           probe);
    printf("measure decode_%s_%s_%u_%u %.1f %%\n", b->shape->name, b->type->name, n_rows, context,
           100 * rate / probe);
}

/* What the best tier of this CPU multiplies K and V of the type with. */
static double arithmetic_probe(const struct bench *b)
{
    return b->type->dtype == DTYPE_F32    ? probe_f32_gop_per_s(b->threads)
           : b->type->dtype == DTYPE_BF16 ? probe_bf16_gop_per_s(b->threads)
                                          : probe_int8_gop_per_s(b->threads);
}

static void prefill_bench(struct bench *b, uint32_t context)
{
    double times[PASSES], probes[PASSES];
    uint32_t n_passes = context > 4096 ? 3 : PASSES;
    for (uint32_t i = 0; i < CHUNK; i++) {
        b->positions[i] = context - CHUNK + i;
        b->slots[i] = 0;
    }
    uint64_t (*clock)(void) = b->threads == 1 ? probe_thread_ns : clock_now_ns;
    attention_time_s(b, CHUNK, 1, clock);
    for (uint32_t i = 0; i < n_passes; i++) {
        probes[i] = arithmetic_probe(b);
        times[i] = attention_time_s(b, CHUNK, 1, clock);
    }
    double pairs = (double)CHUNK * b->shape->n_heads * (context - (CHUNK - 1) / 2.0);
    double flops = pairs * 4 * b->shape->head_dim;
    double rate = flops / median(times, n_passes) / 1e9, probe = median(probes, n_passes);
    printf("prefill %s %s, %u rows at %5u: %8.1f us, %6.1f GFLOP/s, %3.0f %% of the probe's "
           "%.0f\n",
           b->shape->name, b->type->name, CHUNK, context, median(times, n_passes) * 1e6, rate,
           100 * rate / probe, probe);
    printf("measure prefill_%s_%s_%u %.1f %%\n", b->shape->name, b->type->name, context,
           100 * rate / probe);
}

static void shape_bench(struct bench *b)
{
    bench_open(b);
    for (size_t i = 0; i < array_count(contexts); i++)
        decode_bench(b, 1, contexts[i]);
    for (size_t i = 0; i < array_count(batches); i++)
        decode_bench(b, batches[i], SHORT_CONTEXT);
    for (size_t i = 0; i < array_count(contexts); i++)
        prefill_bench(b, contexts[i]);
    bench_close(b);
}

int main(int argc, char **argv)
{
    struct device_options options = {.threads_count = argc > 1 ? (uint32_t)atoi(argv[1]) : 1,
                                     .tier = argc > 3 ? argv[3] : NULL};
    struct bench bench = {.threads = options.threads_count};
    struct error error = {0};
    bool found = false;
    if (options.threads_count == 0 || options.threads_count > 256) {
        fprintf(stderr, "bench_attention: 1 to 256 threads, got %s\n", argv[1]);
        return 64;
    }
    if (ops_cpu.device_open(&options, &bench.device, &error) != STATUS_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("%s; query heads/KV heads x head_dim\n", ops_cpu.device_text(bench.device));
    for (size_t t = 0; t < array_count(types); t++) {
        if (argc > 2 && strcmp(argv[2], types[t].name) != 0)
            continue;
        found = true;
        for (size_t s = 0; s < array_count(shapes); s++) {
            bench.shape = &shapes[s];
            bench.type = &types[t];
            shape_bench(&bench);
        }
    }
    ops_cpu.device_close(bench.device);
    if (!found)
        fprintf(stderr, "bench_attention: type %s: expected f32, bf16 or q8\n", argv[2]);
    return found ? 0 : 64;
}
