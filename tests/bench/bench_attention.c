/*
 * bench_attention [threads]: attention of the best CPU tier over paged KV, on random data.
 *
 * Decode: one row of one sequence at each context, and of 16 sequences, judged by the bytes of K
 * and V that it reads, next to a bandwidth probe of the same run (medians of interleaved passes).
 * Prefill: a chunk of 256 rows at the end of each context, judged by its multiply-adds of pairs
 * that attend (4 head_dim a pair), next to the arithmetic probe: a loop of fused multiply-adds in
 * registers.
 */
#include "base/clock.h"
#include "kernels/ops.h"
#include "tests/bench/probe.h"

enum { N_HEADS = 32, N_KV_HEADS = 8, HEAD_DIM = 64, BLOCK_TOKENS = 16, PASSES = 7, CHUNK = 256 };
enum { SEQUENCES_MAX = 16, CONTEXT_MAX = 16384, LAYERS = 4 };

static const uint32_t contexts[] = {1024, 4096, 16384};

struct bench {
    struct device *device;
    struct kv *kv;
    struct kv_shape shape;
    float *qkv, *out, *inv_freq;
    uint32_t *positions, *slots; /* [CHUNK] */
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

static size_t row_floats(void)
{
    return (size_t)(N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM;
}

/* K and V of rows at the given positions, all layers. */
static void rows_write(struct bench *b, uint32_t n_rows)
{
    struct rope_kv_args rope = {.n_rows = n_rows,
                                .n_heads = N_HEADS,
                                .n_kv_heads = N_KV_HEADS,
                                .head_dim = HEAD_DIM,
                                .qkv = b->qkv,
                                .inv_freq = b->inv_freq,
                                .attention_factor = 1,
                                .host_positions = b->positions,
                                .host_slots = b->slots,
                                .kv = b->kv};
    for (rope.layer = 0; rope.layer < LAYERS; rope.layer++)
        ops_cpu.rope_kv(b->device, &rope);
}

static void bench_open(struct bench *b, struct device *device, enum dtype dtype)
{
    struct error error = {0};
    uint32_t table_max = CONTEXT_MAX / BLOCK_TOKENS;
    *b = (struct bench){.device = device};
    b->shape = (struct kv_shape){.n_layers = LAYERS,
                                 .n_kv_heads = N_KV_HEADS,
                                 .head_dim = HEAD_DIM,
                                 .block_tokens = BLOCK_TOKENS,
                                 .blocks_count = 2 * table_max,
                                 .slots_count = SEQUENCES_MAX,
                                 .slot_blocks_max = table_max,
                                 .dtype = dtype};
    CHECK(ops_cpu.kv_open(device, &b->shape, &b->kv, &error) == STATUS_OK);
    b->qkv = ops_cpu.buffer_alloc(device, CHUNK * row_floats() * sizeof(float));
    b->out = ops_cpu.buffer_alloc(device, (size_t)CHUNK * N_HEADS * HEAD_DIM * sizeof(float));
    b->inv_freq = ops_cpu.buffer_alloc(device, HEAD_DIM / 2 * sizeof(float));
    b->positions = calloc(CHUNK, sizeof *b->positions);
    b->slots = calloc(CHUNK, sizeof *b->slots);
    for (size_t i = 0; i < CHUNK * row_floats(); i++)
        b->qkv[i] = random_float();
    /* Slot 0 has a long sequence in scattered blocks, every slot 1024 tokens of its own. */
    for (uint32_t i = 0; i < table_max; i++) {
        uint32_t block = (uint32_t)((uint64_t)i * 769 % table_max);
        ops_cpu.kv_table_set(device, b->kv, 0, i, &block, 1);
    }
    for (uint32_t s = 1; s < SEQUENCES_MAX; s++)
        for (uint32_t i = 0; i < 1024 / BLOCK_TOKENS; i++) {
            uint32_t block = table_max + (s * (1024 / BLOCK_TOKENS) + i);
            ops_cpu.kv_table_set(device, b->kv, s, i, &block, 1);
        }
    for (uint32_t s = 0; s < SEQUENCES_MAX; s++)
        for (uint32_t at = 0; at < (s ? 1024u : CONTEXT_MAX); at += CHUNK) {
            for (uint32_t i = 0; i < CHUNK; i++) {
                b->positions[i] = at + i;
                b->slots[i] = s;
            }
            rows_write(b, CHUNK);
        }
}

static void bench_close(struct bench *b)
{
    ops_cpu.kv_close(b->device, b->kv);
    ops_cpu.buffer_free(b->device, b->qkv);
    ops_cpu.buffer_free(b->device, b->out);
    ops_cpu.buffer_free(b->device, b->inv_freq);
    free(b->positions);
    free(b->slots);
}

/* Seconds of one call over all layers, n_rows rows as positions and slots say. */
static double attention_time_s(struct bench *b, uint32_t n_rows, uint64_t (*clock)(void))
{
    struct attention_args args = {.n_rows = n_rows,
                                  .n_heads = N_HEADS,
                                  .n_kv_heads = N_KV_HEADS,
                                  .head_dim = HEAD_DIM,
                                  .scale = 0.125f,
                                  .qkv = b->qkv,
                                  .host_positions = b->positions,
                                  .host_slots = b->slots,
                                  .kv = b->kv,
                                  .out = b->out};
    uint64_t start_ns = clock();
    for (args.layer = 0; args.layer < LAYERS; args.layer++)
        ops_cpu.attention(b->device, &args);
    return (double)(clock() - start_ns) / 1e9;
}

static void decode_bench(struct bench *b, uint32_t threads, const char *name, uint32_t n_rows,
                         uint32_t context)
{
    double times[PASSES], probes[PASSES];
    for (uint32_t i = 0; i < n_rows; i++) {
        b->positions[i] = context - 1;
        b->slots[i] = i;
    }
    attention_time_s(b, n_rows, clock_now_ns);
    for (uint32_t i = 0; i < PASSES; i++) {
        probes[i] = probe_read_gb_per_s(threads);
        times[i] = attention_time_s(b, n_rows, clock_now_ns);
    }
    double bytes = (double)n_rows * context * 2 * N_KV_HEADS * HEAD_DIM * LAYERS *
                   dtype_block_bytes(b->shape.dtype);
    double seconds = median(times, PASSES), rate = bytes / seconds / 1e9;
    double probe = median(probes, PASSES);
    printf("decode %s, %2u rows at %5u: %8.1f us, %5.1f GB/s of K and V, %3.0f %% of the probe's "
           "%.1f GB/s\n",
           name, n_rows, context, seconds * 1e6, rate, 100 * rate / probe, probe);
    printf("measure decode_%s_%u_%u %.1f %%\n", name, n_rows, context, 100 * rate / probe);
}

static void prefill_bench(struct bench *b, uint32_t threads, const char *name, uint32_t context)
{
    double times[PASSES], probes[PASSES];
    for (uint32_t i = 0; i < CHUNK; i++) {
        b->positions[i] = context - CHUNK + i;
        b->slots[i] = 0;
    }
    attention_time_s(b, CHUNK, probe_thread_ns);
    for (uint32_t i = 0; i < PASSES; i++) {
        probes[i] = probe_f32_gop_per_s(threads);
        times[i] = attention_time_s(b, CHUNK, probe_thread_ns);
    }
    double pairs = (double)CHUNK * N_HEADS * (context - (CHUNK - 1) / 2.0);
    double rate = pairs * 4 * HEAD_DIM * LAYERS / median(times, PASSES) / 1e9;
    double probe = median(probes, PASSES);
    printf("prefill %s, %u rows at %5u: %8.1f us, %6.1f GFLOP/s, %3.0f %% of the probe's %.0f\n",
           name, CHUNK, context, median(times, PASSES) * 1e6, rate, 100 * rate / probe, probe);
    printf("measure prefill_%s_%u %.1f %%\n", name, context, 100 * rate / probe);
}

int main(int argc, char **argv)
{
    struct device_options options = {.threads_count = argc > 1 ? (uint32_t)atoi(argv[1]) : 0};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    static const char *const names[] = {"f32", "bf16"};
    struct device *device = NULL;
    struct error error = {0};
    if (ops_cpu.device_open(&options, &device, &error) != STATUS_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    uint32_t threads = options.threads_count ? options.threads_count : 2;
    printf("%s; %u query heads over %u KV heads of %u, %u layers\n", ops_cpu.device_text(device),
           N_HEADS, N_KV_HEADS, HEAD_DIM, LAYERS);
    for (size_t t = 0; t < array_count(dtypes); t++) {
        struct bench bench;
        bench_open(&bench, device, dtypes[t]);
        for (size_t i = 0; i < array_count(contexts); i++)
            decode_bench(&bench, threads, names[t], 1, contexts[i]);
        decode_bench(&bench, threads, names[t], SEQUENCES_MAX, 1024);
        for (size_t i = 0; i < array_count(contexts); i++)
            prefill_bench(&bench, threads, names[t], contexts[i]);
        bench_close(&bench);
    }
    ops_cpu.device_close(device);
    return 0;
}
