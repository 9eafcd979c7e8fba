#include "kernels/cpu/cpu.h"

/*
 * A call is cut along the outputs only, never along K and never by row, so that each panel is read
 * once from memory however many rows there are. First the rows are brought into the form that the
 * weights want: quantised for weights in blocks; rounded for BF16, where the tier multiplies such
 * rows; for the others regrouped in tiles when there are enough of them, since 12 rows at a
 * power-of-two distance would fight for the same lines of the first cache.
 */

/* Multiply-adds below which a range of panels is not worth an item of its own. */
#define ITEM_MACS_MIN 16384
/* Bytes of weights below which it is not either. */
#define ITEM_BYTES_MIN 16384
/* Ranges per thread: enough for a thread that was held up to be helped out. */
#define ITEMS_PER_THREAD 4
/* Values that are worth a thread to be quantised. */
#define ITEM_VALUES_MIN 8192

/* Where row `row` stands when products read it as it is. */
static const float *feed_row(const struct feed *feed, uint32_t row)
{
    return (feed->norm ? feed->normed : feed->in) + (size_t)row * feed->in_count;
}

static void row_quantise(const struct tier *tier, const struct feed *feed, uint32_t row)
{
    uint32_t n_blocks = feed->in_count / BLOCK_VALUES;
    uint32_t first = row / BLOCK_TILE_ROWS * BLOCK_TILE_ROWS;
    uint32_t n = u32_min(BLOCK_TILE_ROWS, feed->n_rows - first);
    tier->row_blocks(feed_row(feed, row), n_blocks,
                     feed->blocks + (size_t)first * n_blocks + (row - first), n);
}

/* Rounds a row to BF16, in its tile. */
static void row_round(const struct tier *tier, const struct feed *feed, uint32_t row)
{
    uint32_t tile = tile_of(feed->n_rows, row), first = tile_first(feed->n_rows, tile);
    uint32_t n = tile_first(feed->n_rows, tile + 1) - first;
    tier->row_pairs(feed_row(feed, row), feed->in_count,
                    feed->pairs + (size_t)first * pairs_count(feed->in_count) + (row - first), n);
}

static void tile_fill(const struct feed *feed, uint32_t tile)
{
    uint32_t first = tile_first(feed->n_rows, tile);
    uint32_t n = tile_first(feed->n_rows, tile + 1) - first;
    const float *in = feed_row(feed, first);
    float *to = feed->tiles + (size_t)first * feed->in_count;
    for (uint32_t k = 0; k < feed->in_count; k++)
        for (uint32_t r = 0; r < n; r++)
            *to++ = in[(size_t)r * feed->in_count + k];
}

/* What items of a feed are cut of: tiles where it wants some, else rows. */
static uint32_t feed_units(const struct feed *feed)
{
    return feed->wants_tiles ? tiles_count(feed->n_rows) : feed->n_rows;
}

static void feed_item(void *context, uint32_t thread, uint32_t item)
{
    const struct products *products = context;
    const struct tier *tier = products->device->tier;
    uint32_t at = products->n_feeds - 1;
    while (products->feeds[at].first_item > item)
        at--;
    const struct feed *feed = &products->feeds[at];
    uint64_t n_units = feed_units(feed), index = item - feed->first_item;
    uint32_t unit = (uint32_t)(n_units * index / feed->n_items);
    uint32_t end = (uint32_t)(n_units * (index + 1) / feed->n_items);
    for (; unit < end; unit++) {
        uint32_t row = feed->wants_tiles ? tile_first(feed->n_rows, unit) : unit;
        uint32_t row_end = feed->wants_tiles ? tile_first(feed->n_rows, unit + 1) : unit + 1;
        for (; row < row_end; row++) {
            size_t first = (size_t)row * feed->in_count;
            if (feed->norm)
                tier->rmsnorm(feed->in + first, feed->norm, feed->norm_eps, feed->in_count,
                              feed->normed + first);
            if (feed->wants_blocks)
                row_quantise(tier, feed, row);
            if (feed->wants_pairs)
                row_round(tier, feed, row);
        }
        if (feed->wants_tiles)
            tile_fill(feed, unit);
    }
}

static void feed_count(struct products *products, struct feed *feed)
{
    size_t most = (size_t)ITEMS_PER_THREAD * pool_threads_count(products->device->pool);
    size_t worth = (size_t)feed->n_rows * feed->in_count / ITEM_VALUES_MIN;
    bool wanted = feed->norm || feed->wants_tiles || feed->wants_pairs || feed->wants_blocks;
    feed->first_item = products->n_feed_items;
    feed->n_items =
        wanted ? (uint32_t)size_max(1, size_min(size_min(worth, most), feed_units(feed))) : 0;
    products->n_feed_items += feed->n_items;
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
    else if (part->product.pairs)
        tier->product_pairs(&part->product, first, end - first);
    else
        tier->product(&part->product, first, end - first);
}

void products_add(struct products *products, const struct weight *weight, uint32_t index,
                  const struct product_ends *ends)
{
    const struct tier *tier = products->device->tier;
    struct feed *feed = &products->feeds[products->n_feeds - 1];
    CHECK(feed->n_rows > 0 && feed->in_count == weight->in_count);
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *segment = &weight->segments[i];
        bool blocks = dtype_has_blocks(segment->dtype);
        bool pairs = segment->dtype == DTYPE_BF16 && !weight->exact && tier->product_pairs;
        bool tiles = !blocks && !pairs && feed->n_rows >= TILE_FROM_ROWS;
        CHECK((!tiles || feed->tiles) && (!pairs || feed->pairs) && (!blocks || feed->blocks));
        CHECK(!feed->norm || feed->normed);
        feed->wants_blocks |= blocks;
        feed->wants_pairs |= pairs;
        feed->wants_tiles |= tiles;
        products->parts[products->n_parts++] = (struct product_part){
            .product = {.panels = cpu_weight_panels(weight, index, i),
                        .dtype = segment->dtype,
                        .in_count = weight->in_count,
                        .out_count = segment->out_count,
                        .n_rows = feed->n_rows,
                        .out_stride = weight->out_count,
                        .in = feed_row(feed, 0),
                        .tiles = tiles ? feed->tiles : NULL,
                        .pairs = pairs ? feed->pairs : NULL,
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

bool cpu_feed_room(struct device *device, struct feed *feed)
{
    size_t values_bytes = (size_t)feed->n_rows * feed->in_count * sizeof(float);
    size_t n_pairs = (size_t)feed->n_rows * pairs_count(feed->in_count);
    size_t n_blocks = (size_t)feed->n_rows * div_up_u32(feed->in_count, BLOCK_VALUES);
    if (feed->norm)
        feed->normed = cpu_work(device, &device->normed, values_bytes);
    feed->tiles = cpu_work(device, &device->tiles, values_bytes);
    feed->pairs = cpu_work(device, &device->pairs, n_pairs * sizeof(uint32_t));
    feed->blocks = cpu_work(device, &device->blocks, n_blocks * sizeof(struct row_block));
    return feed->tiles && feed->pairs && feed->blocks && (feed->normed || !feed->norm);
}

void cpu_linear(struct device *device, const struct linear_args *args)
{
    if (args->n_rows == 0)
        return;
    struct feed feed = {.norm = args->norm,
                        .norm_eps = args->norm_eps,
                        .in = args->in,
                        .n_rows = args->n_rows,
                        .in_count = args->weight->in_count};
    struct product_part parts[WEIGHT_PARTS_MAX];
    struct products products = {.device = device, .feeds = &feed, .n_feeds = 1, .parts = parts};
    if (!cpu_feed_room(device, &feed))
        return;
    products_add(
        &products, args->weight, args->stack_index,
        &(struct product_ends){.bias = args->bias, .residual = args->residual, .out = args->out});
    products_run(&products);
}
