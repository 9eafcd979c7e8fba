/*
 * bench_kernels [threads]: products of the best CPU tier next to a bandwidth probe of the same run.
 *
 * One row is judged by the bytes of weights that it reads (medians of interleaved passes, the probe
 * before and after); many rows by their multiply-adds. Weights are larger than the cache.
 */
#include "base/clock.h"
#include "kernels/ops.h"
#include "tests/bench/probe.h"

enum { OUT = 49152, IN = 2048, ROWS_MAX = 128, PASSES = 15 };

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint32_t random_next(void)
{
    static uint32_t state = 1;
    return state = state * 1664525u + 1013904223u;
}

/* Median seconds of a call with `n_rows` rows. */
static double linear_time_s(struct device *device, const struct weight *weight, uint32_t n_rows,
                            const float *in, float *out)
{
    double times[PASSES];
    struct linear_args args = {.weight = weight, .n_rows = n_rows, .in = in, .out = out};
    uint32_t passes = n_rows > 8 ? 5 : PASSES;
    for (uint32_t i = 0; i < passes; i++) {
        uint64_t start_ns = clock_now_ns();
        ops_cpu.linear(device, &args);
        times[i] = (double)(clock_now_ns() - start_ns) / 1e9;
    }
    qsort(times, passes, sizeof times[0], double_compare);
    return times[passes / 2];
}

static struct weight *weight_make(struct device *device, enum dtype dtype)
{
    size_t n = (size_t)OUT * IN;
    uint16_t *halves = malloc(n * sizeof *halves);
    CHECK(halves != NULL);
    for (size_t i = 0; i < n; i++) /* about +-1 as bf16 and as f16 alike */
        halves[i] = (uint16_t)((random_next() >> 16 & 0x807f) | 0x3c00);
    struct weight_part part = {.dtype = dtype, .out_count = OUT, .data = halves};
    struct weight_source source = {
        .stack_count = 1, .n_parts = 1, .out_count = OUT, .in_count = IN, .parts = &part};
    struct weight *weight = NULL;
    struct error error = {0};
    if (ops_cpu.weight_pack(device, &source, &weight, &error) != STATUS_OK)
        fprintf(stderr, "%s\n", error.text);
    free(halves);
    CHECK(weight != NULL);
    return weight;
}

static void dtype_bench(struct device *device, uint32_t threads, enum dtype dtype, const char *kept)
{
    static const uint32_t rows[] = {1, 2, 4, 8, 12, 32, ROWS_MAX};
    struct weight *weight = weight_make(device, dtype);
    float *in = ops_cpu.buffer_alloc(device, ROWS_MAX * IN * sizeof(float));
    float *out = ops_cpu.buffer_alloc(device, ROWS_MAX * OUT * sizeof(float));
    CHECK(in && out);
    for (size_t i = 0; i < ROWS_MAX * IN; i++)
        in[i] = (float)(random_next() >> 8) * 0x1p-23f - 1;
    for (size_t i = 0; i < array_count(rows); i++) {
        double before = probe_read_gb_per_s(threads);
        double time_s = linear_time_s(device, weight, rows[i], in, out);
        double after = probe_read_gb_per_s(threads), yardstick = (before + after) / 2;
        double gbps = (double)ops_cpu.weight_bytes(weight) / time_s / 1e9;
        printf("%-5s %4u rows  %8.3f ms  %6.1f GB/s of weights  %5.1f %% of probe %.1f  "
               "%7.1f GFLOP/s\n",
               kept, rows[i], time_s * 1e3, gbps, 100 * gbps / yardstick, yardstick,
               2e-9 * rows[i] * OUT * IN / time_s);
    }
    ops_cpu.buffer_free(device, in);
    ops_cpu.buffer_free(device, out);
    ops_cpu.weight_free(device, weight);
}

int main(int n_arguments, char **arguments)
{
    struct device_options options = {.threads_count = 0};
    if (n_arguments > 1)
        options.threads_count = (uint32_t)strtoul(arguments[1], NULL, 10);
    struct device *device;
    struct error error = {0};
    if (ops_cpu.device_open(&options, &device, &error) != STATUS_OK) {
        fprintf(stderr, "bench_kernels: %s\n", error.text);
        return 1;
    }
    uint32_t threads = 1;
    CHECK(sscanf(ops_cpu.device_text(device), "cpu %*[^,], %u", &threads) == 1);
    printf("%s\n", ops_cpu.device_text(device));
    dtype_bench(device, threads, DTYPE_BF16, "BF16");
    dtype_bench(device, threads, DTYPE_F16, "F32");
    ops_cpu.device_close(device);
    return 0;
}
