#include "kernels/cuda/route.h"

/* Pairs of a row and a rank are rows of their own, sorted by expert; their sum is taken in the
 * order of rank. */

struct mix_task {
    uint32_t hidden, top_k;
    const float *weights, *parts, *in; /* [n_rows][top_k], [n_rows][top_k][hidden], [n_rows] */
    float *out;
};

#define MIX_THREADS 256

/* gate: sm_90a griddepcontrol.wait */
KERNEL(mix_kernel, struct mix_task, MIX_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t r = block_y(), i = block_x() * MIX_THREADS + thread_index();
    if (i >= a.hidden)
        return;
    float sum = 0;
    for (uint32_t j = 0; j < a.top_k; j++) {
        size_t at = (size_t)r * a.top_k + j;
        sum = fma32(a.weights[at], a.parts[at * a.hidden + i], sum);
    }
    global<float> out(a.out);
    out[(size_t)r * a.hidden + i] = a.in[(size_t)r * a.hidden + i] + sum;
}

struct moe_work {
    float *weights, *spare, *gated, *parts;
    uint32_t *experts, *order;
    struct product_tile *tiles;
    char *ready;
};

/* Lays the work out, behind what is kept; its bytes when `memory` is NULL. */
static size_t work_lay(char *memory, const struct op_limits *limits, struct moe_work *work)
{
    size_t rows = limits->rows_max, pairs = rows * limits->top_k, at = SCRATCH_KEPT_BYTES;
    struct moe_work offsets = {};
    const struct {
        void **to;
        size_t bytes;
    } pieces[] = {
        {(void **)&offsets.ready, product_scratch_bytes(rows, limits->hidden)},
        {(void **)&offsets.weights, pairs * sizeof(float)},
        {(void **)&offsets.experts, pairs * sizeof(uint32_t)},
        {(void **)&offsets.order, product_places_max(pairs, limits->n_experts) * sizeof(uint32_t)},
        {(void **)&offsets.tiles, pairs * sizeof(struct product_tile)},
        {(void **)&offsets.spare, 2 * pairs * limits->intermediate * sizeof(float)},
        {(void **)&offsets.gated, pairs * limits->intermediate * sizeof(float)},
        {(void **)&offsets.parts, pairs * limits->hidden * sizeof(float)},
    };
    for (size_t i = 0; i < array_count(pieces); i++) {
        *pieces[i].to = memory ? memory + at : NULL;
        at += round_up(pieces[i].bytes, 256);
    }
    if (work)
        *work = offsets;
    return at;
}

size_t cuda_moe_scratch_bytes(const struct device *, const struct op_limits *limits)
{
    return work_lay(NULL, limits, NULL);
}

static struct product_groups experts_route(struct device *device, const struct moe_args *args,
                                           char *memory, struct moe_work *work,
                                           struct rows_ready *ret_ready)
{
    uint32_t pairs = args->n_rows * args->top_k;
    uint32_t tile_rows = product_tile_rows(pairs, args->n_experts);
    struct route_task task = {};
    task.router = weight_view_of(args->router, 0, 0);
    task.in = args->in;
    task.norm = args->norm;
    task.norm_eps = args->norm_eps;
    task.n_rows = args->n_rows;
    task.n_experts = args->n_experts;
    task.top_k = args->top_k;
    task.normalise = args->normalise;
    const struct weight_segment *first = &args->gate_up->segments[0];
    if (first->panels && !device->plain && !product_in_eights(device, first->dtype, tile_rows))
        task.ready = rows_lay(work->ready, first->dtype, args->n_rows, args->hidden);
    task.tile_rows = tile_rows;
    task.tiles_max = product_tiles_max(pairs, args->n_experts, tile_rows);
    task.counter = (uint32_t *)(void *)memory;
    task.experts = work->experts;
    task.weights = work->weights;
    task.order = work->order;
    task.tiles = work->tiles;
    route_run(device, &task);
    *ret_ready = task.ready;
    /* A row visits an expert once at most. */
    return {work->experts, work->order, work->tiles, task.tiles_max, tile_rows, args->n_rows};
}

static void experts_run(struct device *device, const struct moe_args *args, char *memory,
                        struct moe_work *work)
{
    struct rows_ready ready;
    struct product_groups groups = experts_route(device, args, memory, work, &ready);
    struct product up = {};
    up.weight = args->gate_up;
    up.groups = &groups;
    up.n_rows = args->n_rows * args->top_k;
    up.row_share = args->top_k;
    up.norm = args->norm;
    up.norm_eps = args->norm_eps;
    up.in = args->in;
    up.ready = &ready;
    up.out = work->gated;
    up.gated = true;
    up.spare = work->spare;
    product_run(device, &up);
    struct product down = {};
    down.weight = args->down;
    down.groups = &groups;
    down.n_rows = up.n_rows;
    down.row_share = 1;
    down.in = work->gated;
    down.out = work->parts;
    product_run(device, &down);
    struct mix_task mix = {args->hidden, args->top_k, work->weights,
                           work->parts,  args->in,    args->out};
    launch_kernel(
        mix_kernel, device->runtime,
        (launch{div_up(args->hidden, MIX_THREADS), args->n_rows, 1, MIX_THREADS, 0, true}), mix);
}

void cuda_moe(struct device *device, const struct moe_args *args)
{
    CHECK(args->top_k > 0 && args->top_k <= args->n_experts && args->top_k <= MOE_TOP_K_MAX);
    CHECK(args->router->out_count == args->n_experts && args->router->in_count == args->hidden);
    CHECK(args->router->n_segments == 1);
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    struct op_limits limits = {};
    limits.rows_max = args->n_rows;
    limits.hidden = args->hidden;
    limits.intermediate = args->intermediate;
    limits.n_experts = args->n_experts;
    limits.top_k = args->top_k;
    struct moe_work work;
    char *memory = (char *)device_scratch(device, SCRATCH_MLP, work_lay(NULL, &limits, NULL));
    if (!memory)
        return;
    work_lay(memory, &limits, &work);
    experts_run(device, args, memory, &work);
}
