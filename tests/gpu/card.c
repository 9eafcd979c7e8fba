#include "tests/gpu/card.h"

#include <dlfcn.h>
#include <strings.h>

#include "base/clock.h"
#include "kernels/module.h"

#define ROUNDS 9
#define GRAPH_SECONDS 0.01 /* long enough that the launch of a graph does not show */
#define COPIES 8
#define FILL_ROWS 1024
#define WEIGHTS_SCALE 0.02f
#define RANDOM_BYTES ((size_t)4 << 20) /* of what fills a buffer, again and again */

enum status card_open(struct card *card, const char *backend, const char *tier, uint64_t seed,
                      struct error *error)
{
    *card = (struct card){.emulated = strcmp(backend, "cuda") != 0, .dice = {seed}};
    struct device_options options = {.threads_count = 1, .tier = tier};
    enum status status = module_ops(backend, &card->ops, error);
    if (status == STATUS_OK)
        status = card->ops->device_open(&options, &card->device, error);
    if (status == STATUS_OK && !card->emulated)
        card->driver = dlopen("libcuda.so.1", RTLD_NOW);
    return status;
}

void card_close(struct card *card)
{
    for (uint32_t i = 0; i < DTYPE_COUNT; i++)
        free(card->random[i]);
    if (card->device)
        card->ops->device_close(card->device);
    if (card->driver)
        dlclose(card->driver);
    *card = (struct card){0};
}

enum status card_dtype(const char *name, enum dtype *ret_dtype, struct error *error)
{
    bool floats = strcasecmp(name, "fp8") == 0;
    for (enum dtype dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        const char *its = dtype_name(dtype);
        if (strcasecmp(name, its) == 0 ||
            (floats && (strncasecmp(its, "f8", 2) == 0 || strncasecmp(its, "fp8", 3) == 0 ||
                        strncasecmp(its, "e4m3", 4) == 0))) {
            *ret_dtype = dtype;
            return STATUS_OK;
        }
    }
    return error_set(error, STATUS_UNSUPPORTED, "this build has no type called %s", name);
}

enum status card_kv_dtype(const char *name, enum dtype *ret_dtype, struct error *error)
{
    if (strcasecmp(name, "fp8") != 0)
        return card_dtype(name, ret_dtype, error);
    *ret_dtype = DTYPE_KV_E4M3;
    return STATUS_OK;
}

/* The driver's function of that name; cudart has made a context current for this thread. */
static void *driver_find(const struct card *card, const char *name)
{
    return card->driver ? dlsym(card->driver, name) : NULL;
}

size_t card_free_bytes(const struct card *card)
{
    int (*info)(size_t *, size_t *) = NULL;
    *(void **)&info = driver_find(card, "cuMemGetInfo_v2");
    size_t unused = 0, all = 0;
    return info && info(&unused, &all) == 0 ? unused : SIZE_MAX;
}

/* Host values of a type, `count` at least, borrowed. */
static const uint8_t *values_random(struct card *card, enum dtype dtype, size_t count)
{
    if (card->random_values[dtype] < count) {
        free(card->random[dtype]);
        card->random[dtype] = dice_weights(&card->dice, dtype, count, WEIGHTS_SCALE);
        card->random_values[dtype] = count;
    }
    return card->random[dtype];
}

enum status card_buffer(struct card *card, size_t values, bool random, float **ret_buffer,
                        struct error *error)
{
    float *buffer = card->ops->buffer_alloc(card->device, values * sizeof *buffer);
    if (!buffer)
        return error_set(
            error, STATUS_EXHAUSTED, "no memory for a buffer of %.1f MiB: %.1f MiB are free",
            (double)values * sizeof *buffer / 0x1p20, (double)card_free_bytes(card) / 0x1p20);
    size_t chunk = size_min(values, RANDOM_BYTES / sizeof(float));
    float *host = random ? dice_floats(&card->dice, chunk, 1) : NULL;
    for (size_t at = 0; host && at < values; at += chunk)
        card->ops->buffer_write(card->device, buffer + at, host,
                                size_min(chunk, values - at) * sizeof *host);
    free(host);
    *ret_buffer = buffer;
    return STATUS_OK;
}

enum status card_weight(struct card *card, const struct card_matrix *matrix,
                        struct weight **ret_weight, struct error *error)
{
    uint32_t n = matrix->stack_count * matrix->n_parts, most = 0;
    struct weight_part *parts = calloc(n, sizeof *parts);
    CHECK(parts);
    struct weight_source source = {.stack_count = matrix->stack_count,
                                   .n_parts = matrix->n_parts,
                                   .in_count = matrix->in_count,
                                   .parts = parts,
                                   .paired = matrix->paired};
    for (uint32_t i = 0; i < matrix->n_parts; i++) {
        source.out_count += matrix->out_counts[i];
        most = u32_max(most, matrix->out_counts[i]);
    }
    /* Each part begins a few rows further into the same random values. */
    const uint8_t *values =
        values_random(card, matrix->dtype, ((size_t)most + n) * matrix->in_count);
    size_t row_bytes = (size_t)matrix->in_count / dtype_block_count(matrix->dtype) *
                       dtype_block_bytes(matrix->dtype);
    for (uint32_t i = 0; i < n; i++)
        parts[i] = (struct weight_part){.dtype = matrix->dtype,
                                        .out_count = matrix->out_counts[i % matrix->n_parts],
                                        .data = values + i * row_bytes};
    enum status status = card->ops->weight_pack(card->device, &source, ret_weight, error);
    free(parts);
    return status;
}

/* ---- keys and values ---- */

struct fill {
    struct card *card;
    const struct kv_shape *shape;
    struct rope_kv_args rope;
    uint32_t positions[FILL_ROWS], slots[FILL_ROWS];
};

/* Neighbours of a sequence's blocks are no neighbours in the pool. */
static void tables_scatter(struct card *card, struct kv *kv, const struct kv_shape *shape,
                           uint32_t slot_blocks)
{
    uint32_t n = shape->slots_count * slot_blocks;
    uint32_t *blocks = malloc(n * sizeof *blocks + 1);
    CHECK(blocks && n <= shape->blocks_count);
    dice_shuffle(&card->dice, blocks, n);
    for (uint32_t slot = 0; slot < shape->slots_count; slot++)
        for (uint32_t at = 0; at < slot_blocks; at += 4096)
            card->ops->kv_table_set(card->device, kv, slot, at, blocks + slot * slot_blocks + at,
                                    u32_min(4096, slot_blocks - at));
    free(blocks);
}

static void slots_fill(struct fill *f, uint32_t tokens)
{
    uint64_t all = (uint64_t)f->shape->slots_count * tokens;
    for (uint64_t done = 0; done < all; done += f->rope.n_rows) {
        f->rope.n_rows = (uint32_t)size_min(FILL_ROWS, all - done);
        for (uint32_t i = 0; i < f->rope.n_rows; i++) {
            f->slots[i] = (uint32_t)((done + i) / tokens);
            f->positions[i] = (uint32_t)((done + i) % tokens);
        }
        for (f->rope.layer = 0; f->rope.layer < f->shape->n_layers; f->rope.layer++)
            f->card->ops->rope_kv(f->card->device, &f->rope);
    }
}

enum status card_kv(struct card *card, const struct kv_shape *shape, uint32_t n_heads,
                    uint32_t tokens, struct kv **ret_kv, struct error *error)
{
    const struct ops *ops = card->ops;
    struct kv *kv = NULL;
    float *qkv = NULL, *inv_freq = NULL;
    size_t row = (size_t)(n_heads + 2 * shape->n_kv_heads) * shape->head_dim;
    enum status status = ops->kv_open(card->device, shape, &kv, error);
    if (status == STATUS_OK)
        status = card_buffer(card, FILL_ROWS * row, true, &qkv, error);
    if (status == STATUS_OK)
        status = card_buffer(card, shape->head_dim / 2, true, &inv_freq, error);
    if (status == STATUS_OK) {
        struct fill fill = {.card = card,
                            .shape = shape,
                            .rope = {.n_heads = n_heads,
                                     .n_kv_heads = shape->n_kv_heads,
                                     .head_dim = shape->head_dim,
                                     .qkv = qkv,
                                     .inv_freq = inv_freq,
                                     .attention_factor = 1,
                                     .kv = kv}};
        fill.rope.host_positions = fill.positions;
        fill.rope.host_slots = fill.slots;
        tables_scatter(card, kv, shape, div_up_u32(tokens, shape->block_tokens));
        slots_fill(&fill, tokens);
        status = ops->sync(card->device, error);
    }
    ops->buffer_free(card->device, qkv);
    ops->buffer_free(card->device, inv_freq);
    if (status == STATUS_OK)
        *ret_kv = kv;
    else if (kv)
        ops->kv_close(card->device, kv);
    return status;
}

/* ---- time ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double seconds_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / (double)NS_PER_S;
}

/* One uncaptured call, waited for: what it needs once is made then. */
static enum status call_wait(struct card *card, card_work work, void *context, double *ret_seconds,
                             struct error *error)
{
    uint64_t start_ns = clock_now_ns();
    work(context, 0);
    enum status status = card->ops->sync(card->device, error);
    *ret_seconds = seconds_since(start_ns);
    return status;
}

enum status card_time(struct card *card, card_work work, void *context, uint32_t calls_max,
                      double *ret_seconds, struct error *error)
{
    const struct ops *ops = card->ops;
    double once = 0, rounds[ROUNDS];
    uint32_t n_rounds = card->emulated ? 1 : ROUNDS;
    void *graph = NULL;
    enum status status = call_wait(card, work, context, &once, error);
    if (status == STATUS_OK && !card->emulated)
        status = call_wait(card, work, context, &once, error);
    uint32_t calls = card->emulated || once >= GRAPH_SECONDS ? 1 : (uint32_t)(GRAPH_SECONDS / once);
    calls = u32_max(1, u32_min(calls, calls_max));
    if (status == STATUS_OK && ops->graph_begin) {
        status = ops->graph_begin(card->device, error);
        for (uint32_t i = 0; status == STATUS_OK && i < calls; i++)
            work(context, i);
        if (status == STATUS_OK)
            status = ops->graph_end(card->device, &graph, error);
    }
    for (uint32_t round = 0; round <= n_rounds && status == STATUS_OK; round++) {
        uint64_t start_ns = clock_now_ns();
        if (graph)
            ops->graph_launch(card->device, graph);
        for (uint32_t i = 0; !graph && i < calls; i++)
            work(context, i);
        status = ops->sync(card->device, error);
        if (round > 0) /* the first is to warm up */
            rounds[round - 1] = seconds_since(start_ns) / calls;
    }
    if (graph)
        ops->graph_free(card->device, graph);
    if (status != STATUS_OK)
        return status;
    qsort(rounds, n_rounds, sizeof *rounds, by_value);
    *ret_seconds = rounds[n_rounds / 2];
    return STATUS_OK;
}

/* ---- the yardstick ---- */

struct copier {
    int (*copy)(uint64_t to, uint64_t from, size_t bytes);
    int (*wait)(void);
};

static int host_copy(uint64_t to, uint64_t from, size_t bytes)
{
    memcpy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
    return 0;
}

static int host_wait(void)
{
    return 0;
}

static bool copier_find(const struct card *card, struct copier *ret_copier)
{
    struct copier found = {.copy = host_copy, .wait = host_wait};
    if (!card->emulated) {
        *(void **)&found.copy = driver_find(card, "cuMemcpyDtoD_v2");
        *(void **)&found.wait = driver_find(card, "cuCtxSynchronize");
    }
    *ret_copier = found;
    return found.copy && found.wait;
}

enum status card_copy_time(struct card *card, size_t bytes, double *ret_seconds,
                           struct error *error)
{
    float *from = NULL, *to = NULL;
    struct copier copier;
    double rounds[ROUNDS] = {0};
    if (!copier_find(card, &copier))
        return error_set(error, STATUS_UNAVAILABLE, "the driver's library has no copy");
    enum status status = card_buffer(card, bytes / sizeof(float), true, &from, error);
    if (status == STATUS_OK)
        status = card_buffer(card, bytes / sizeof(float), false, &to, error);
    if (status == STATUS_OK)
        status = card->ops->sync(card->device, error);
    for (uint32_t round = 0; round < ROUNDS && status == STATUS_OK; round++) {
        uint64_t start_ns = clock_now_ns();
        int failure = 0;
        for (uint32_t i = 0; i < COPIES; i++)
            failure |= copier.copy((uint64_t)(uintptr_t)to, (uint64_t)(uintptr_t)from, bytes);
        failure |= copier.wait();
        if (failure)
            status = error_set(error, STATUS_INTERNAL, "the driver's copy failed: %d", failure);
        rounds[round] = seconds_since(start_ns) / COPIES;
    }
    card->ops->buffer_free(card->device, from);
    card->ops->buffer_free(card->device, to);
    if (status != STATUS_OK)
        return status;
    qsort(rounds, ROUNDS, sizeof *rounds, by_value);
    *ret_seconds = rounds[ROUNDS / 2];
    return STATUS_OK;
}
