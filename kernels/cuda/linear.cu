#include "kernels/cuda/product_parts.h"
#include "kernels/cuda/rows.h"

/* ---- the plain product ---- */

/* A warp for one output of one row. Lane l takes values l, l + 32, ... */

#define PRODUCT_THREADS 128
#define PRODUCT_WARPS (PRODUCT_THREADS / 32)

struct plain_task {
    struct weight_view weight;
    size_t matrix_bytes;
    const uint32_t *matrices;
    uint32_t n_rows, row_share, out_count; /* of all segments */
    const float *in, *bias, *residual;
    float *out;
};

template <int dtype> LEAF void plain_multiply(const struct plain_task &a, uint32_t r, uint32_t o)
{
    struct weight_view weight = a.weight;
    if (a.matrices)
        weight.data += a.matrices[r] * a.matrix_bytes;
    const float *in = a.in + (size_t)(r / a.row_share) * weight.in_count;
    float sum = 0;
    for (uint32_t i = lane_index(); i < weight.in_count; i += 32)
        sum = fma32(weight_value<dtype>(weight, o, i), in[i], sum);
    sum = warp_sum(sum);
    if (lane_index() != 0)
        return;
    uint32_t to = weight.first_out + o;
    size_t at = (size_t)r * a.out_count + to;
    global<float> out(a.out);
    if (a.bias)
        sum += a.bias[to];
    if (a.residual)
        sum += a.residual[at];
    out[at] = sum;
}

/* gate: sm_90a griddepcontrol.wait */
template <int dtype> KERNEL(plain_kernel, struct plain_task, PRODUCT_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t o = block_x() * PRODUCT_WARPS + warp_index();
    for (uint32_t r = block_y(); r < a.n_rows && o < a.weight.out_count; r += grid_y())
        plain_multiply<dtype>(a, r, o);
}

static void plain_run(struct device *device, const struct product *product, uint32_t segment,
                      const float *in, float *out)
{
    const struct weight *weight = product->weight;
    struct plain_task task = {weight_view_of(weight, product->stack_index, segment),
                              weight->matrix_bytes,
                              product->groups ? product->groups->matrices : NULL,
                              product->n_rows,
                              product->row_share,
                              weight->out_count,
                              in,
                              product->bias,
                              product->residual,
                              out};
    struct launch shape = {div_up(task.weight.out_count, PRODUCT_WARPS),
                           min_u32(product->n_rows, LAUNCH_Y_MAX),
                           1,
                           PRODUCT_THREADS,
                           0,
                           true};
    dtype_switch(task.weight.dtype, [&](auto constant) {
        launch_kernel(plain_kernel<constant.dtype>, device->runtime, shape, task);
    });
}

/* ---- which kernel ---- */

#define STREAM_ROWS_MAX 32
#define TILE_ROWS_MANY 128

/* A matrix of a stack meets this many rows on average, and some meet more. */
uint32_t product_tile_rows(uint32_t n_rows, uint32_t stack_count)
{
    uint32_t average = n_rows / stack_count;
    return average <= 4 ? 8 : average <= 24 ? STREAM_ROWS_MAX : TILE_ROWS_MANY;
}

uint32_t product_tiles_max(uint32_t n_rows, uint32_t stack_count, uint32_t tile_rows)
{
    return min_u32(n_rows, n_rows / tile_rows + min_u32(n_rows, stack_count));
}

/* Of a matrix that all rows meet. */
static uint32_t tile_rows_of(uint32_t n_rows)
{
    return n_rows > STREAM_ROWS_MAX ? TILE_ROWS_MANY : n_rows > 8 ? STREAM_ROWS_MAX : 8;
}

bool product_in_eights(const struct device *device, int dtype, uint32_t tile_rows)
{
    return tile_rows == TILE_ROWS_MANY && groups_take(device, dtype);
}

bool product_turns(const struct device *device, const struct product *product, uint32_t head_dim)
{
    return !device->plain && product->weight->n_segments == 1 &&
           product->weight->segments[0].panels && head_dim % (2 * PANEL_OUTPUTS) == 0 &&
           tile_rows_of(product->n_rows) != TILE_ROWS_MANY;
}

static void panels_launch(struct device *device, const struct product *product, int dtype,
                          struct product_task *task)
{
    const struct product_groups *groups = product->groups;
    if (groups) {
        task->order = groups->order;
        task->tiles = groups->tiles;
    }
    uint32_t n = product->n_rows;
    uint32_t rows = groups ? groups->tile_rows : tile_rows_of(n);
    uint32_t n_tiles = groups ? groups->n_tiles : div_up(n, rows);
    if (task->rows.eights)
        groups_run(device, dtype, groups, task);
    else if (rows == TILE_ROWS_MANY)
        tile_run(device, dtype, n_tiles, task);
    else
        stream_run(device, dtype, rows, n_tiles, task);
}

static void panels_run(struct device *device, const struct product *product, uint32_t segment,
                       const struct rows_ready *ready, float *out)
{
    const struct weight *weight = product->weight;
    struct weight_view view = weight_view_of(weight, product->stack_index, segment);
    struct product_task task = {};
    task.panels[0] = view.data;
    task.panel_bytes = view.row_bytes;
    task.matrix_bytes = weight->matrix_bytes;
    task.n_panels = div_up(view.out_count, PANEL_OUTPUTS);
    task.n_chunks = ready->row_values / CHUNK_VALUES;
    task.slice_chunks = div_up(task.n_chunks, PRODUCT_SLICES_MAX);
    task.rows = *ready;
    task.n_rows = product->n_rows;
    task.row_share = product->row_share;
    task.norm_eps = product->norm_eps;
    task.rows_own = !ready->data;
    task.source = {product->in, product->norm, weight->in_count, 1};
    task.first_out = view.first_out;
    task.segment_out = view.out_count;
    task.out_stride = weight->out_count;
    task.bias = product->bias;
    task.residual = product->residual;
    task.out = out;
    task.pair_step = 1;
    if (product->rope) {
        task.turned = true;
        task.rope = *product->rope;
        task.pair_step = task.rope.head_dim / 2 / PANEL_OUTPUTS;
    }
    if (product->gated && out == product->out) {
        uint32_t half = weight->out_count / 2;
        task.gated = true;
        task.n_panels = div_up(half, PANEL_OUTPUTS);
        task.panels[1] = weight->n_segments == 2
                             ? weight_view_of(weight, product->stack_index, 1).data
                             : view.data + task.n_panels * view.row_bytes;
        task.segment_out = task.out_stride = task.up_bias = half;
    }
    panels_launch(device, product, view.dtype, &task);
}

/* Gate and up lie so that a warp can have the same outputs of both. */
static bool gate_meets_up(const struct weight *weight)
{
    const struct weight_segment *s = weight->segments;
    uint32_t half = weight->out_count / 2;
    if (!s[0].panels)
        return false;
    if (weight->n_segments == 1)
        return half % PANEL_OUTPUTS == 0;
    return weight->n_segments == 2 && s[0].dtype == s[1].dtype && s[0].out_count == half;
}

/* Rows that the product's own blocks make ready: a shape without data. */
static bool rows_left_to_blocks(const struct device *device, const struct product *product,
                                const struct weight_segment *s, bool gated,
                                struct rows_ready *ret_ready)
{
    const struct product_groups *groups = product->groups;
    uint32_t n_panels =
        div_up(gated ? product->weight->out_count / 2 : s->out_count, PANEL_OUTPUTS);
    uint32_t n_blocks = product_pairs(gated, n_panels);
    uint32_t row_values = (uint32_t)round_up(product->weight->in_count, CHUNK_VALUES);
    if (product->ready || product->row_share > 1 ||
        !stream_makes_rows(device, s->dtype, groups ? groups->matrix_rows_max : product->n_rows,
                           groups ? n_blocks * groups->n_tiles : n_blocks, row_values))
        return false;
    *ret_ready = {};
    ret_ready->kind = rows_kind_of(s->dtype);
    ret_ready->row_values = row_values;
    return true;
}

/* Segment after segment; rows are made anew where a segment wants another kind. */
static void segments_run(struct device *device, const struct product *product, char *scratch,
                         float *out)
{
    const struct weight *weight = product->weight;
    size_t n_in = product->n_rows / product->row_share;
    uint32_t tile_rows =
        product->groups ? product->groups->tile_rows : tile_rows_of(product->n_rows);
    struct rows_ready ready = {};
    const float *normed = product->norm ? NULL : product->in;
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *s = &weight->segments[i];
        if (!s->panels || device->plain) {
            if (!normed) {
                rows_norm(device, product->norm, product->norm_eps, (uint32_t)n_in,
                          weight->in_count, product->in, (float *)(void *)scratch);
                normed = (float *)(void *)scratch;
                ready.kind = ROWS_PLAIN;
            }
            plain_run(device, product, i, normed, out);
            continue;
        }
        bool gated = product->gated && out == product->out;
        bool eights = product_in_eights(device, s->dtype, tile_rows);
        struct rows_ready own;
        const struct rows_ready *rows = &ready;
        if (rows_left_to_blocks(device, product, s, gated, &own)) {
            rows = &own;
        } else if (product->ready && rows_suit(product->ready, s->dtype, eights)) {
            rows = product->ready;
        } else if (!rows_suit(&ready, s->dtype, eights)) {
            ready = rows_lay(scratch, s->dtype, product_places(product), weight->in_count);
            ready.eights = eights;
            rows_make(device, product, &ready);
            normed = product->norm ? NULL : product->in;
        }
        panels_run(device, product, i, rows, out);
        if (gated)
            return; /* both halves at once */
    }
}

void product_run(struct device *device, const struct product *product)
{
    CHECK(product->n_rows % product->row_share == 0);
    char *scratch = (char *)device_scratch(
        device, SCRATCH_LINEAR,
        product_scratch_bytes(product_places(product), product->weight->in_count));
    if (!scratch)
        return;
    if (!product->gated || (gate_meets_up(product->weight) && !device->plain)) {
        segments_run(device, product, scratch, product->out);
        return;
    }
    segments_run(device, product, scratch, product->spare);
    rows_gate(device, product->n_rows, product->weight->out_count / 2, product->spare,
              product->out);
}

/* ---- the op ---- */

size_t cuda_linear_scratch_bytes(const struct device *, const struct op_limits *limits)
{
    uint32_t heads = (uint32_t)size_product(limits->n_heads, limits->head_dim);
    size_t most = product_scratch_bytes(limits->rows_max, max_u32(limits->hidden, heads));
    size_t pairs = size_product(limits->rows_max, limits->n_experts ? limits->top_k : 1);
    size_t places = product_places_max(pairs, limits->n_experts);
    size_t experts = product_scratch_bytes(places, max_u32(limits->hidden, limits->intermediate));
    return most > experts ? most : experts;
}

struct product product_of(const struct linear_args *args)
{
    struct product product = {};
    product.weight = args->weight;
    product.stack_index = args->stack_index;
    product.n_rows = args->n_rows;
    product.row_share = 1;
    product.norm = args->norm;
    product.norm_eps = args->norm_eps;
    product.in = args->in;
    product.bias = args->bias;
    product.residual = args->residual;
    product.out = args->out;
    return product;
}

void cuda_linear(struct device *device, const struct linear_args *args)
{
    CHECK(args->out != args->in); /* blocks read the one while others write the other */
    struct product product = product_of(args);
    product_run(device, &product);
}
