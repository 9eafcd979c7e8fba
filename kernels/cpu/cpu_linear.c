#include "kernels/cpu/cpu.h"

/*
 * A call is cut along the outputs only, never along K and never by row, so that each panel is read
 * once from memory however many rows there are. The rows, when there are enough of them, are first
 * regrouped in tiles: a tile's rows are then read as one stream, where 12 rows at a power-of-two
 * distance would fight for the same lines of the first cache.
 */
struct products {
    struct device *device;
    struct product_part *parts; /* [n_parts] */
    uint32_t n_parts, n_tiles, n_items;
};

/* Multiply-adds below which a range of panels is not worth an item of its own. */
#define ITEM_MACS_MIN 16384
/* Ranges per thread: enough for a thread that was held up to be helped out. */
#define ITEMS_PER_THREAD 4

static uint32_t part_n_tiles(const struct product_part *part)
{
    return part->product.n_rows >= TILE_FROM_ROWS ? tiles_count(part->product.n_rows) : 0;
}

static void tile_fill(void *context, uint32_t thread, uint32_t item)
{
    const struct products *products = context;
    uint32_t at = products->n_parts - 1;
    while (products->parts[at].first_tile > item)
        at--;
    const struct product_part *part = &products->parts[at];
    const struct product *p = &part->product;
    uint32_t first = tile_first(p->n_rows, item - part->first_tile);
    uint32_t n = tile_first(p->n_rows, item - part->first_tile + 1) - first;
    const float *in = p->in + (size_t)first * p->in_count;
    float *to = part->tiles + (size_t)first * p->in_count;
    for (uint32_t k = 0; k < p->in_count; k++)
        for (uint32_t r = 0; r < n; r++)
            *to++ = in[(size_t)r * p->in_count + k];
}

static uint32_t part_n_items(const struct products *products, const struct product_part *part)
{
    size_t macs =
        (size_t)part->product.n_rows * part->panels_count * PANEL_OUTPUTS * part->product.in_count;
    size_t most = (size_t)ITEMS_PER_THREAD * pool_threads_count(products->device->pool);
    size_t n_items = size_min(size_min(macs / ITEM_MACS_MIN, most), part->panels_count);
    return (uint32_t)size_max(n_items, 1);
}

static void range_multiply(void *context, uint32_t thread, uint32_t item)
{
    const struct products *products = context;
    uint32_t at = products->n_parts - 1;
    while (products->parts[at].first_item > item)
        at--;
    const struct product_part *part = &products->parts[at];
    uint64_t end_item = at + 1 < products->n_parts ? part[1].first_item : products->n_items;
    uint64_t n_items = end_item - part->first_item, index = item - part->first_item;
    uint32_t first = (uint32_t)(part->panels_count * index / n_items);
    uint32_t end = (uint32_t)(part->panels_count * (index + 1) / n_items);
    products->device->tier->product(&part->product, first, end - first);
}

void products_run(struct device *device, struct product_part *parts, uint32_t n_parts)
{
    struct products products = {.device = device, .parts = parts, .n_parts = n_parts};
    for (uint32_t i = 0; i < n_parts; i++) {
        struct product_part *part = &parts[i];
        uint32_t n_tiles = part_n_tiles(part);
        CHECK(part->product.n_rows > 0 && (n_tiles == 0 || part->tiles));
        part->product.tiles = n_tiles ? part->tiles : NULL;
        part->first_tile = products.n_tiles;
        part->first_item = products.n_items;
        products.n_tiles += n_tiles;
        products.n_items += part_n_items(&products, part);
    }
    pool_run(device->pool, tile_fill, &products, products.n_tiles);
    pool_run(device->pool, range_multiply, &products, products.n_items);
}

struct product_part product_part_of(const struct weight *weight, uint32_t index, uint32_t n_rows,
                                    const float *in, float *out)
{
    return (struct product_part){
        .product = {.panels = cpu_weight_matrix(weight, index),
                    .bf16 = weight->dtype == DTYPE_BF16,
                    .in_count = weight->in_count,
                    .out_count = weight->out_count,
                    .n_rows = n_rows,
                    .in = in,
                    .out = out},
        .panels_count = weight->panels_count,
    };
}

void cpu_linear(struct device *device, const struct linear_args *args)
{
    if (args->n_rows == 0)
        return;
    struct product_part part =
        product_part_of(args->weight, args->stack_index, args->n_rows, args->in, args->out);
    part.product.bias = args->bias;
    part.product.residual = args->residual;
    if (args->n_rows >= TILE_FROM_ROWS) {
        size_t values = (size_t)args->n_rows * args->weight->in_count;
        part.tiles = cpu_work(device, &device->tiles, values * sizeof(float));
        if (!part.tiles)
            return;
    }
    products_run(device, &part, 1);
}
