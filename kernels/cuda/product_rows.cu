#include "kernels/cuda/product_parts.h"

struct ready_task {
    struct rows_ready ready;
    const float *in, *norm;
    float norm_eps;
    uint32_t n, n_rows;
    /* In eights, for a stack: each row goes to its place of `order`. */
    const uint32_t *order;
    const struct product_tile *tiles;
    uint32_t tile_rows, row_share;
};

/* gate: sm_90a griddepcontrol.wait */
KERNEL(rows_ready_kernel, struct ready_task, ROWS_THREADS, 1)
{
    launch_next();
    launch_wait();
    shared<float> scratch = shared_at<float>(0);
    uint32_t place = block_x(), row = place < a.n_rows ? place : NO_ROW;
    if (a.tiles) {
        struct product_tile tile = a.tiles[place / a.tile_rows];
        uint32_t at = place % a.tile_rows;
        if (at >= div_up(tile.count, 8) * 8)
            return;
        row = at < tile.count ? a.order[tile.first + at] / a.row_share : NO_ROW;
        place = tile.first + at;
    }
    /* What fills up the last eight is zero. */
    struct rows_source source = {a.in, a.norm, 0, 1};
    if (row != NO_ROW) {
        source.in += (size_t)row * a.n;
        source.n = a.n;
        if (a.norm)
            source.scale = rows_norm_scale(source.in, a.n, a.norm_eps, scratch);
    }
    rows_write(a.ready, source, place, scratch);
}

void rows_make(struct device *device, const struct product *product, const struct rows_ready *ready)
{
    struct ready_task task = {};
    task.ready = *ready;
    task.in = product->in;
    task.norm = product->norm;
    task.norm_eps = product->norm_eps;
    task.n = product->weight->in_count;
    task.n_rows = product->n_rows / product->row_share;
    task.row_share = product->row_share;
    uint32_t blocks = task.n_rows;
    if (ready->eights && product->groups) {
        task.order = product->groups->order;
        task.tiles = product->groups->tiles;
        task.tile_rows = product->groups->tile_rows;
        blocks = product->groups->n_tiles * task.tile_rows;
    } else if (ready->eights) {
        blocks = div_up(task.n_rows, 8) * 8;
    }
    launch_kernel(rows_ready_kernel, device->runtime,
                  (launch{blocks, 1, 1, ROWS_THREADS, ROWS_SHARED_BYTES, true}), task);
}

bool rows_suit(const struct rows_ready *ready, int dtype, bool eights)
{
    return ready->kind == rows_kind_of(dtype) && ready->eights == eights;
}

/* Tiles of a stack begin on an eight. */
size_t product_places_max(size_t n_rows, uint32_t stack_count)
{
    return n_rows + 7 * (n_rows < stack_count ? n_rows : stack_count);
}

size_t product_places(const struct product *product)
{
    return product->groups ? product_places_max(product->n_rows, product->weight->stack_count)
                           : product->n_rows / product->row_share;
}

/* Halves, or bytes with heads, which are fewer; and what either is scaled by. */
size_t product_scratch_bytes(size_t n_rows, uint32_t in_count)
{
    size_t values = round_up(in_count, CHUNK_VALUES), places = n_rows + 7;
    size_t f32 = size_product(n_rows, size_product(in_count, sizeof(float)));
    size_t ready = size_product(places, 2 * values + sizeof(float)) + 256;
    return round_up(f32 > ready ? f32 : ready, 256);
}

struct rows_ready rows_lay(char *memory, int dtype, size_t n_rows, uint32_t in_count)
{
    struct rows_ready ready = {};
    ready.kind = rows_kind_of(dtype);
    ready.row_values = (uint32_t)round_up(in_count, CHUNK_VALUES);
    ready.data = memory;
    size_t each = ready.kind == ROWS_BYTES ? 1 : 2, places = round_up(n_rows, 8);
    ready.n_eights = (uint32_t)(places / 8);
    char *after = memory + round_up(places * ready.row_values * each, 256);
    if (ready.kind == ROWS_BYTES)
        ready.heads = (struct rows_head *)(void *)after;
    else if (ready.kind == ROWS_F16)
        ready.scales = (float *)(void *)after;
    return ready;
}
