/*
 * bench_side ours|FOLDER [threads]: one side of a comparison (side.h), told what to do line by line
 * on standard input, so that several can take turns. A line is answered with `ok ...`; the end of
 * input ends it.
 *
 *     product TYPE IN OUT                       loads a matrix       -> ok MB of weights
 *     moe TYPE HIDDEN FFN EXPERTS TOP_K         a mixture            -> ok MB of weights
 *     attention TYPE HEADS KV_HEADS DIM TOKENS LAYERS                -> ok MB of K and V
 *     rows N        prepares rows, runs them once, compares with the oracle     -> ok ERROR
 *     run SECONDS   runs for so long, at least three times, or once what is longer -> ok WALL_S
 *                   BUSIEST_S, medians of a run
 *     probe read|f32|bf16|int8                  -> ok FIGURE (1e9 bytes or operations a second)
 *
 * BUSIEST_S is the own time of the thread that worked most: the time on a machine where nobody else
 * takes a core. Waiting in a loop counts as work.
 */
#include <dirent.h>
#include <time.h>

#include "base/clock.h"
#include "tests/bench/probe.h"
#include "tests/bench/side.h"

#define RUNS_MAX 1024
#define THREADS_MAX 64

static struct {
    const struct side *side;
    uint32_t threads_count;
    struct side_product product;
    struct side_moe moe;
    struct side_attention attention;
    enum { NOTHING, PRODUCT, MOE, ATTENTION } loaded;
    bool ready; /* rows were prepared */
} bench;

static enum dtype dtype_named(const char *name)
{
    for (enum dtype dtype = 0; dtype < DTYPE_COUNT; dtype++)
        if (strcasecmp(name, dtype_name(dtype)) == 0)
            return dtype;
    side_fail("there is no type \"%s\"", name);
}

static void unload(void)
{
    free(bench.product.weights);
    free(bench.moe.router);
    free(bench.moe.gate);
    free(bench.moe.up);
    free(bench.moe.down);
    free(bench.attention.k);
    free(bench.attention.v);
    bench.product = (struct side_product){0};
    bench.moe = (struct side_moe){0};
    bench.attention = (struct side_attention){0};
    bench.loaded = NOTHING;
    bench.ready = false;
}

static double megabytes(enum dtype dtype, double values)
{
    return values / dtype_block_count(dtype) * dtype_block_bytes(dtype) / 1e6;
}

static bool product_load(const char *line)
{
    struct side_product p = {0};
    char type[16];
    if (sscanf(line, "product %15s %u %u", type, &p.in_count, &p.out_count) != 3)
        return false;
    unload();
    p.dtype = dtype_named(type);
    p.weights = side_random_weights(1, p.dtype, p.out_count, p.in_count);
    bench.product = p;
    bench.loaded = PRODUCT;
    bench.side->product_load(&bench.product);
    printf("ok %g\n", megabytes(p.dtype, (double)p.in_count * p.out_count));
    return true;
}

static bool moe_load(const char *line)
{
    struct side_moe m = {0};
    char type[16];
    if (sscanf(line, "moe %15s %u %u %u %u", type, &m.hidden, &m.ffn, &m.n_experts, &m.top_k) != 5)
        return false;
    unload();
    m.dtype = dtype_named(type);
    size_t rows = (size_t)m.n_experts * m.ffn;
    m.router = side_random_floats(1, (size_t)m.n_experts * m.hidden, 0.05f);
    m.gate = side_random_weights(2, m.dtype, rows, m.hidden);
    m.up = side_random_weights(3, m.dtype, rows, m.hidden);
    m.down = side_random_weights(4, m.dtype, (size_t)m.n_experts * m.hidden, m.ffn);
    bench.moe = m;
    bench.loaded = MOE;
    bench.side->moe_load(&bench.moe);
    printf("ok %g\n", megabytes(m.dtype, 3.0 * (double)rows * m.hidden));
    return true;
}

static bool attention_load(const char *line)
{
    struct side_attention a = {0};
    char type[16];
    if (sscanf(line, "attention %15s %u %u %u %u %u", type, &a.n_heads, &a.n_kv_heads, &a.head_dim,
               &a.context_tokens, &a.n_layers) != 6)
        return false;
    unload();
    a.kv_dtype = dtype_named(type);
    size_t count = (size_t)a.context_tokens * a.n_kv_heads * a.head_dim;
    a.k = side_random_floats(1, count, 1);
    a.v = side_random_floats(2, count, 1);
    bench.attention = a;
    bench.loaded = ATTENTION;
    bench.side->attention_load(&bench.attention);
    printf("ok %g\n", megabytes(a.kv_dtype, 2.0 * (double)count * a.n_layers));
    return true;
}

static void rows_prepare(uint32_t n_rows)
{
    const struct side_attention *a = &bench.attention;
    size_t n_in = 0, n_out = 0;
    double error = 0;
    if (bench.loaded == PRODUCT) {
        n_in = bench.product.in_count;
        n_out = bench.product.out_count;
    } else if (bench.loaded == MOE) {
        n_in = n_out = bench.moe.hidden;
    } else if (bench.loaded == ATTENTION && n_rows <= a->context_tokens) {
        n_in = n_out = (size_t)a->n_heads * a->head_dim;
    } else {
        side_fail("rows: nothing is loaded, or more rows than its context");
    }
    size_t n_checked = u32_min(n_rows, SIDE_CHECKED_ROWS) * n_out;
    float *in = side_random_floats(7, n_rows * n_in, 1), *out = calloc(n_checked, sizeof *out);
    CHECK(out != NULL);
    bench.side->prepare(n_rows, in);
    bench.side->run();
    bench.side->result(out, n_checked);
    if (bench.loaded == PRODUCT)
        error = side_product_error(&bench.product, n_rows, in, out);
    else if (bench.loaded == MOE)
        error = side_moe_error(&bench.moe, n_rows, in, out);
    else
        error = side_attention_error(a, n_rows, in, out);
    free(in);
    free(out);
    bench.ready = true;
    printf("ok %.5g\n", error);
}

struct thread_times {
    uint32_t count;
    int ids[THREADS_MAX];
    uint64_t own_ns[THREADS_MAX];
};

/* Every thread of the process has a clock, whose number follows from its id. */
static void thread_times_read(struct thread_times *times)
{
    DIR *folder = opendir("/proc/self/task");
    const struct dirent *entry;
    times->count = 0;
    while (folder && (entry = readdir(folder)) && times->count < THREADS_MAX) {
        int id = atoi(entry->d_name);
        struct timespec time;
        if (id <= 0 || clock_gettime((clockid_t)(~(unsigned)id << 3 | 6), &time) != 0)
            continue;
        times->ids[times->count] = id;
        times->own_ns[times->count++] = (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
    }
    if (folder)
        closedir(folder);
}

static uint64_t busiest_ns(const struct thread_times *before, const struct thread_times *after)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < after->count; i++) {
        uint64_t own = after->own_ns[i];
        for (uint32_t j = 0; j < before->count; j++)
            if (before->ids[j] == after->ids[i])
                own -= before->own_ns[j];
        most = own > most ? own : most;
    }
    return most;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void rows_run(double seconds)
{
    static double walls[RUNS_MAX], busiest[RUNS_MAX];
    struct thread_times before, after;
    uint32_t n = 0;
    uint64_t start_ns = clock_now_ns();
    if (!bench.ready)
        side_fail("run: no rows were prepared");
    while (n == 0 || (n < 3 && walls[0] < seconds) ||
           (n < RUNS_MAX && (double)(clock_now_ns() - start_ns) < seconds * 1e9)) {
        thread_times_read(&before);
        uint64_t run_ns = clock_now_ns();
        bench.side->run();
        walls[n] = (double)(clock_now_ns() - run_ns) / 1e9;
        thread_times_read(&after);
        busiest[n++] = (double)busiest_ns(&before, &after) / 1e9;
    }
    qsort(walls, n, sizeof *walls, by_value);
    qsort(busiest, n, sizeof *busiest, by_value);
    printf("ok %.9f %.9f\n", walls[n / 2], busiest[n / 2]);
}

static void probe(const char *name)
{
    double figure = 0;
    if (strcmp(name, "read") == 0)
        figure = probe_read_gb_per_s(bench.threads_count);
    else if (strcmp(name, "f32") == 0)
        figure = probe_f32_gop_per_s(bench.threads_count);
    else if (strcmp(name, "bf16") == 0)
        figure = probe_bf16_gop_per_s(bench.threads_count);
    else if (strcmp(name, "int8") == 0)
        figure = probe_int8_gop_per_s(bench.threads_count);
    else
        side_fail("there is no probe \"%s\"", name);
    printf("ok %.2f\n", figure);
}

int main(int argc, char **argv)
{
    char line[256], name[16];
    uint32_t n_rows;
    double seconds;
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench_side ours|FOLDER [threads]\n");
        return 64;
    }
    bench.threads_count = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
    bench.side = strcmp(argv[1], "ours") == 0 ? &side_ours : &side_peer;
    bench.side->open(argv[1], bench.threads_count);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "rows %u", &n_rows) == 1)
            rows_prepare(n_rows);
        else if (sscanf(line, "run %lf", &seconds) == 1)
            rows_run(seconds);
        else if (sscanf(line, "probe %15s", name) == 1)
            probe(name);
        else if (!product_load(line) && !moe_load(line) && !attention_load(line))
            side_fail("not understood: %s", line);
        fflush(stdout);
    }
    return 0;
}
