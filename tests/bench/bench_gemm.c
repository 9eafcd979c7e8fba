/*
 * bench_gemm [threads [TYPE...]]: products of the best CPU tier on random weights of each type,
 * next to a bandwidth probe and an arithmetic probe of the same run.
 *
 * Few rows are judged by the bytes of weights that they read, many by their multiply-adds. Every
 * line is the median over interleaved passes: bandwidth before, the product, arithmetic after. The
 * weights are larger than the last cache. Rows are random values of order 1, never zeros. With one
 * thread, all is measured in the thread's own time, in which a busy neighbour does not show.
 */
#include "base/clock.h"
#include "kernels/ops.h"
#include "tests/bench/probe.h"

enum { IN = 4096, OUT = 14336, ROWS_MAX = 192, PASSES = 7 };

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, PASSES, sizeof *values, double_compare);
    return values[PASSES / 2];
}

static uint32_t random_next(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

/* Random quants under scales near 2^-7; about +-1 as BF16 and as F16 alike; F32 likewise. */
static struct weight *weight_make(struct device *device, enum dtype dtype)
{
    size_t block_bytes = dtype_block_bytes(dtype);
    size_t n_bytes = (size_t)OUT * (IN / dtype_block_count(dtype)) * block_bytes;
    uint8_t *data = malloc(n_bytes);
    CHECK(data != NULL);
    for (size_t i = 0; i < n_bytes; i++)
        data[i] = (uint8_t)random_next();
    for (size_t i = 0; i < n_bytes; i += block_bytes) {
        size_t top = dtype == DTYPE_F32 ? 3 : 1;
        data[i + top] = (uint8_t)((data[i + top] & 0x80) | (dtype_has_blocks(dtype) ? 0x20 : 0x3b));
        if (dtype == DTYPE_Q4_1)
            data[i + 3] = (uint8_t)((data[i + 3] & 0x80) | 0x24);
    }
    struct weight_part part = {.dtype = dtype, .out_count = OUT, .data = data};
    struct weight_source source = {
        .stack_count = 1, .n_parts = 1, .out_count = OUT, .in_count = IN, .parts = &part};
    struct weight *weight = NULL;
    struct error error = {0};
    if (ops_cpu.weight_pack(device, &source, &weight, &error) != STATUS_OK)
        fprintf(stderr, "%s\n", error.text);
    free(data);
    CHECK(weight != NULL);
    return weight;
}

struct bench {
    struct device *device;
    uint32_t threads_count;
    float *in, *out;
};

/* The rate of the instructions that such weights are multiplied by, in the best tier. */
static double probe_for(const struct bench *bench, enum dtype dtype)
{
    if (dtype_has_blocks(dtype))
        return probe_int8_gop_per_s(bench->threads_count);
    if (dtype == DTYPE_BF16)
        return probe_bf16_gop_per_s(bench->threads_count);
    return probe_f32_gop_per_s(bench->threads_count);
}

static void rows_bench(const struct bench *bench, const struct weight *weight, enum dtype dtype,
                       uint32_t n_rows)
{
    double seconds[PASSES], read[PASSES], arithmetic[PASSES], of_read[PASSES],
        of_arithmetic[PASSES];
    struct linear_args args = {
        .weight = weight, .n_rows = n_rows, .in = bench->in, .out = bench->out};
    double bytes = (double)ops_cpu.weight_bytes(weight);
    double ops = 2.0 * n_rows * OUT * IN;
    for (uint32_t i = 0; i < PASSES; i++) {
        read[i] = probe_read_gb_per_s(bench->threads_count);
        uint64_t start_ns = clock_now_ns(), own_start_ns = probe_thread_ns();
        ops_cpu.linear(bench->device, &args);
        uint64_t own_ns = probe_thread_ns() - own_start_ns, wall_ns = clock_now_ns() - start_ns;
        seconds[i] = (double)(bench->threads_count == 1 ? own_ns : wall_ns) / 1e9;
        arithmetic[i] = probe_for(bench, dtype);
        of_read[i] = 100 * bytes / seconds[i] / 1e9 / read[i];
        of_arithmetic[i] = 100 * ops / seconds[i] / 1e9 / arithmetic[i];
    }
    double time_s = median(seconds);
    printf(
        "%-5s %4u rows %8.3f ms %6.1f GB/s, %3.0f %% of %5.1f   %7.1f Gop/s, %3.0f %% of %6.0f\n",
        dtype_name(dtype), n_rows, time_s * 1e3, bytes / time_s / 1e9, median(of_read),
        median(read), ops / time_s / 1e9, median(of_arithmetic), median(arithmetic));
    const char *what = n_rows >= 48 ? "of_arithmetic" : "of_read";
    printf("measure %s_%u_rows_%s %.1f %%\n", dtype_name(dtype), n_rows, what,
           n_rows >= 48 ? median(of_arithmetic) : median(of_read));
}

static void dtype_bench(const struct bench *bench, enum dtype dtype)
{
    static const uint32_t rows[] = {1, 2, 4, 8, 12, 48, ROWS_MAX};
    struct weight *weight = weight_make(bench->device, dtype);
    for (size_t i = 0; i < array_count(rows); i++)
        rows_bench(bench, weight, dtype, rows[i]);
    ops_cpu.weight_free(bench->device, weight);
}

static bool wanted(enum dtype dtype, int n_names, char **names)
{
    for (int i = 0; i < n_names; i++)
        if (strcmp(names[i], dtype_name(dtype)) == 0)
            return true;
    return n_names == 0;
}

int main(int n_arguments, char **arguments)
{
    static const enum dtype dtypes[] = {DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q4_1,
                                        DTYPE_BF16, DTYPE_F16,  DTYPE_F32};
    struct device_options options = {.threads_count = 1};
    if (n_arguments > 1)
        options.threads_count = (uint32_t)strtoul(arguments[1], NULL, 10);
    struct bench bench = {.threads_count = 1};
    struct error error = {0};
    if (ops_cpu.device_open(&options, &bench.device, &error) != STATUS_OK) {
        fprintf(stderr, "bench_gemm: %s\n", error.text);
        return 1;
    }
    const char *text = ops_cpu.device_text(bench.device);
    CHECK(sscanf(text, "cpu %*[^,], %u", &bench.threads_count) == 1);
    printf("%s; %u x %u\n", text, OUT, IN);
    bench.in = ops_cpu.buffer_alloc(bench.device, ROWS_MAX * IN * sizeof(float));
    bench.out = ops_cpu.buffer_alloc(bench.device, (size_t)ROWS_MAX * OUT * sizeof(float));
    CHECK(bench.in && bench.out);
    for (size_t i = 0; i < ROWS_MAX * IN; i++)
        bench.in[i] = (float)(random_next() & 0xffffff) * 0x1p-23f - 1;
    for (size_t i = 0; i < array_count(dtypes); i++)
        if (wanted(dtypes[i], n_arguments - 2, arguments + 2))
            dtype_bench(&bench, dtypes[i]);
    ops_cpu.buffer_free(bench.device, bench.in);
    ops_cpu.buffer_free(bench.device, bench.out);
    ops_cpu.device_close(bench.device);
    return 0;
}
