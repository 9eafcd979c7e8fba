#include "kernels/cpu/cpu.h"

/*
 * A call is cut along the outputs only, never along K and never by row, so that each panel is read
 * once from memory however many rows there are. First the rows are brought into the form that the
 * weights want: quantised for weights in blocks; for the others regrouped in tiles when there are
 * enough of them, since 12 rows at a power-of-two distance would fight for the same lines of the
 * first cache.
 */

/* Multiply-adds below which a range of panels is not worth an item of its own. */
#define ITEM_MACS_MIN 16384
/* Bytes of weights below which it is not either. */
#define ITEM_BYTES_MIN 16384
/* Ranges per thread: enough for a thread that was held up to be helped out. */
#define ITEMS_PER_THREAD 4
/* Values that are worth a thread to be quantised. */
#define ITEM_VALUES_MIN 8192

static void tile_fill(const struct feed *feed, uint32_t tile)
{
    uint32_t first = tile_first(feed->n_rows, tile);
    uint32_t n = tile_first(feed->n_rows, tile + 1) - first;
    const float *in = feed->in + (size_t)first * feed->in_count;
    float *to = feed->tiles + (size_t)first * feed->in_count;
    for (uint32_t k = 0; k < feed->in_count; k++)
        for (uint32_t r = 0; r < n; r++)
            *to++ = in[(size_t)r * feed->in_count + k];
}

/* Quantises one of n_block_items runs of rows. */
static void blocks_fill(const struct tier *tier, const struct feed *feed, uint32_t item)
{
    uint64_t n_rows = feed->n_rows;
    uint32_t row = (uint32_t)(n_rows * item / feed->n_block_items);
    uint32_t end = (uint32_t)(n_rows * (item + 1) / feed->n_block_items);
    uint32_t n_blocks = feed->in_count / BLOCK_VALUES;
    for (; row < end; row++) {
        uint32_t first = row / BLOCK_TILE_ROWS * BLOCK_TILE_ROWS;
        uint32_t n = u32_min(BLOCK_TILE_ROWS, feed->n_rows - first);
        tier->row_blocks(feed->in + (size_t)row * feed->in_count, n_blocks,
                         feed->blocks + (size_t)first * n_blocks + (row - first), n);
    }
}

static void feed_item(void *context, uint32_t thread, uint32_t item)
{
    const struct products *products = context;
    uint32_t at = products->n_feeds - 1;
    while (products->feeds[at].first_item > item)
        at--;
    const struct feed *feed = &products->feeds[at];
    uint32_t index = item - feed->first_item;
    if (index < feed->n_tile_items)
        tile_fill(feed, index);
    else
        blocks_fill(products->device->tier, feed, index - feed->n_tile_items);
}

static void feed_count(struct products *products, struct feed *feed)
{
    size_t most = (size_t)ITEMS_PER_THREAD * pool_threads_count(products->device->pool);
    size_t worth = (size_t)feed->n_rows * feed->in_count / ITEM_VALUES_MIN;
    feed->first_item = products->n_feed_items;
    feed->n_tile_items = feed->wants_tiles ? tiles_count(feed->n_rows) : 0;
    feed->n_block_items = 0;
    if (feed->wants_blocks)
        feed->n_block_items = (uint32_t)size_max(1, size_min(size_min(worth, most), feed->n_rows));
    products->n_feed_items += feed->n_tile_items + feed->n_block_items;
}

static uint32_t part_n_items(const struct products *products, const struct product_part *part)
{
    size_t macs =
        (size_t)part->product.n_rows * part->panels_count * PANEL_OUTPUTS * part->product.in_count;
    size_t bytes = part->panels_count * part->panel_bytes;
    size_t worth = size_min(macs / ITEM_MACS_MIN, bytes / ITEM_BYTES_MIN);
    size_t most = (size_t)ITEMS_PER_THREAD * pool_threads_count(products->device->pool);
    return (uint32_t)size_max(size_min(size_min(worth, most), part->panels_count), 1);
}

static void range_multiply(void *context, uint32_t thread, uint32_t item)
{
    const struct products *products = context;
    const struct tier *tier = products->device->tier;
    uint32_t at = products->n_parts - 1;
    while (products->parts[at].first_item > item)
        at--;
    const struct product_part *part = &products->parts[at];
    uint64_t end_item = at + 1 < products->n_parts ? part[1].first_item : products->n_items;
    uint64_t n_items = end_item - part->first_item, index = item - part->first_item;
    uint32_t first = (uint32_t)(part->panels_count * index / n_items);
    uint32_t end = (uint32_t)(part->panels_count * (index + 1) / n_items);
    if (dtype_has_blocks(part->product.dtype))
        tier->product_blocks(&part->product, first, end - first);
    else
        tier->product(&part->product, first, end - first);
}

void products_add(struct products *products, const struct weight *weight, uint32_t index,
                  const struct product_ends *ends)
{
    struct feed *feed = &products->feeds[products->n_feeds - 1];
    CHECK(feed->n_rows > 0 && feed->in_count == weight->in_count);
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *segment = &weight->segments[i];
        bool blocks = dtype_has_blocks(segment->dtype);
        bool tiles = !blocks && feed->n_rows >= TILE_FROM_ROWS;
        CHECK((!tiles || feed->tiles) && (!blocks || feed->blocks));
        feed->wants_blocks |= blocks;
        feed->wants_tiles |= tiles;
        products->parts[products->n_parts++] = (struct product_part){
            .product = {.panels = cpu_weight_panels(weight, index, i),
                        .dtype = segment->dtype,
                        .in_count = weight->in_count,
                        .out_count = segment->out_count,
                        .n_rows = feed->n_rows,
                        .out_stride = weight->out_count,
                        .in = feed->in,
                        .tiles = tiles ? feed->tiles : NULL,
                        .blocks = feed->blocks,
                        .bias = ends->bias ? ends->bias + segment->first_out : NULL,
                        .residual = ends->residual ? ends->residual + segment->first_out : NULL,
                        .out = ends->out + segment->first_out},
            .panels_count = segment->panels_count,
            .panel_bytes = segment->panel_bytes,
        };
    }
}

void products_run(struct products *products)
{
    for (uint32_t i = 0; i < products->n_feeds; i++)
        feed_count(products, &products->feeds[i]);
    for (uint32_t i = 0; i < products->n_parts; i++) {
        products->parts[i].first_item = products->n_items;
        products->n_items += part_n_items(products, &products->parts[i]);
    }
    pool_run(products->device->pool, feed_item, products, products->n_feed_items);
    pool_run(products->device->pool, range_multiply, products, products->n_items);
}

void cpu_linear(struct device *device, const struct linear_args *args)
{
    if (args->n_rows == 0)
        return;
    const struct weight *weight = args->weight;
    size_t values = (size_t)args->n_rows * weight->in_count;
    size_t n_blocks = (size_t)args->n_rows * div_up_u32(weight->in_count, BLOCK_VALUES);
    struct feed feed = {
        .in = args->in,
        .n_rows = args->n_rows,
        .in_count = weight->in_count,
        .tiles = cpu_work(device, &device->tiles, values * sizeof(float)),
        .blocks = cpu_work(device, &device->blocks, n_blocks * sizeof(struct row_block)),
    };
    struct product_part parts[WEIGHT_PARTS_MAX];
    struct products products = {.device = device, .feeds = &feed, .n_feeds = 1, .parts = parts};
    if (!feed.tiles || !feed.blocks)
        return;
    products_add(
        &products, weight, args->stack_index,
        &(struct product_ends){.bias = args->bias, .residual = args->residual, .out = args->out});
    products_run(&products);
}
