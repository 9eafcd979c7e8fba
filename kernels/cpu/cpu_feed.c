#include "kernels/cpu/cpu.h"

/* Rows in the forms that weights want: quantised for weights in blocks; rounded for BF16, where the
 * tier multiplies such rows; for the others regrouped in tiles when there are enough of them, since
 * 12 rows at a power-of-two distance would fight for the same lines of the first cache. */

/* Values that are worth a thread to be brought into form. */
#define ITEM_VALUES_MIN 8192

struct forms cpu_forms_at(const struct forms *forms, size_t first_row, uint32_t in_count)
{
    size_t first = first_row * in_count;
    return (struct forms){
        .rows = forms->rows + first,
        .tiles = forms->tiles + first,
        .pairs = forms->pairs + first_row * pairs_count(in_count),
        .blocks = forms->blocks + first_row * div_up_u32(in_count, BLOCK_VALUES),
    };
}

bool cpu_forms_room(struct device *device, struct forms_room *room, size_t n_rows,
                    uint32_t in_count, struct forms *ret_forms)
{
    size_t values_bytes = size_product(size_product(n_rows, in_count), sizeof(float));
    size_t n_pairs = size_product(n_rows, pairs_count(in_count));
    size_t n_blocks = size_product(n_rows, div_up_u32(in_count, BLOCK_VALUES));
    struct forms forms = {
        .rows = cpu_work(device, &room->rows, values_bytes),
        .tiles = cpu_work(device, &room->tiles, values_bytes),
        .pairs = cpu_work(device, &room->pairs, size_product(n_pairs, sizeof(uint32_t))),
        .blocks = cpu_work(device, &room->blocks, size_product(n_blocks, sizeof(struct row_block))),
    };
    *ret_forms = forms;
    return forms.rows && forms.tiles && forms.pairs && forms.blocks;
}

void cpu_feed_want(const struct tier *tier, struct feed *feed, const struct weight *weight)
{
    CHECK(feed->n_rows > 0 && feed->in_count == weight->in_count);
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        bool blocks = dtype_has_blocks(weight->segments[i].dtype);
        bool pairs = cpu_product_pairs(tier, weight, i);
        bool tiles = !blocks && !pairs && feed->n_rows >= TILE_FROM_ROWS;
        feed->wants_blocks |= blocks;
        feed->wants_pairs |= pairs;
        feed->wants_tiles |= tiles;
        feed->wants_rows |= !blocks && !pairs && !tiles;
    }
}

static void values_quantise(const struct tier *tier, const struct feed *feed,
                            const struct feed_piece *piece)
{
    uint32_t n_blocks = feed->in_count / BLOCK_VALUES;
    struct block_tile tile = block_tile_of(feed->n_rows, piece->row);
    struct row_block *to =
        feed->forms.blocks + (size_t)tile.first * n_blocks + (piece->row - tile.first);
    tier->row_blocks(piece->values, piece->n / BLOCK_VALUES,
                     to + (size_t)piece->first / BLOCK_VALUES * tile.n, tile.n);
}

/* Rounds them to BF16, in the row's tile. */
static void values_round(const struct tier *tier, const struct feed *feed,
                         const struct feed_piece *piece)
{
    uint32_t tile = tile_of(feed->n_rows, piece->row), first = tile_first(feed->n_rows, tile);
    uint32_t n = tile_first(feed->n_rows, tile + 1) - first;
    uint32_t *to = feed->forms.pairs + (size_t)first * pairs_count(feed->in_count);
    tier->row_pairs(piece->values, piece->n,
                    to + (size_t)piece->first / 2 * n + (piece->row - first), n);
}

void cpu_feed_put(const struct tier *tier, const struct feed *feed, const struct feed_piece *piece)
{
    float *row = feed->forms.rows + (size_t)piece->row * feed->in_count + piece->first;
    CHECK(piece->first % PANEL_OUTPUTS == 0 && piece->first + piece->n <= feed->in_count);
    if (feed->wants_blocks)
        values_quantise(tier, feed, piece);
    if (feed->wants_pairs)
        values_round(tier, feed, piece);
    if (feed->wants_rows && piece->values != row)
        memcpy(row, piece->values, piece->n * sizeof *row);
}

void cpu_feed_put_tile(const struct feed *feed, uint32_t tile, const struct feed_piece *piece,
                       size_t stride)
{
    uint32_t first = tile_first(feed->n_rows, tile);
    uint32_t n = tile_first(feed->n_rows, tile + 1) - first;
    float *to = feed->forms.tiles + (size_t)first * feed->in_count + (size_t)piece->first * n;
    for (uint32_t k = 0; k < piece->n; k++)
        for (uint32_t r = 0; r < n; r++)
            *to++ = piece->values[r * stride + k];
}

/* What items of a feed are cut of: tiles where it wants some, else rows. */
static uint32_t feed_units(const struct feed *feed)
{
    return feed->wants_tiles ? tiles_count(feed->n_rows) : feed->n_rows;
}

/* Norms a row where that is wanted, into scratch of the thread unless the rows themselves are. */
static void row_fill(const struct device *device, const struct feed *feed, uint32_t row,
                     uint32_t thread)
{
    size_t first = (size_t)row * feed->in_count;
    struct feed_piece piece = {.row = row, .n = feed->in_count, .values = feed->in + first};
    if (feed->norm) {
        float *normed = feed->wants_rows || feed->wants_tiles ? feed->forms.rows + first
                                                              : device->threads[thread].data;
        device->tier->rmsnorm(piece.values, feed->norm, feed->norm_eps, feed->in_count, normed);
        piece.values = normed;
    }
    if (feed->wants_blocks)
        values_quantise(device->tier, feed, &piece);
    if (feed->wants_pairs)
        values_round(device->tier, feed, &piece);
}

static void feed_item(void *context, uint32_t thread, uint32_t item)
{
    const struct feeds *feeds = context;
    uint32_t at = feeds->n_feeds - 1;
    while (feeds->feeds[at].first_item > item)
        at--;
    const struct feed *feed = &feeds->feeds[at];
    uint64_t n_units = feed_units(feed), index = item - feed->first_item;
    uint32_t unit = (uint32_t)(n_units * index / feed->n_items);
    uint32_t end = (uint32_t)(n_units * (index + 1) / feed->n_items);
    for (; unit < end; unit++) {
        uint32_t row = feed->wants_tiles ? tile_first(feed->n_rows, unit) : unit;
        uint32_t row_end = feed->wants_tiles ? tile_first(feed->n_rows, unit + 1) : unit + 1;
        struct feed_piece piece = {.row = row, .n = feed->in_count};
        for (; row < row_end; row++)
            row_fill(feeds->device, feed, row, thread);
        piece.values = cpu_feed_rows(feed) + (size_t)piece.row * feed->in_count;
        if (feed->wants_tiles)
            cpu_feed_put_tile(feed, unit, &piece, feed->in_count);
    }
}

/* How many items a feed is cut into: none when there is nothing to do. */
static uint32_t feed_n_items(const struct device *device, const struct feed *feed)
{
    size_t most = (size_t)ITEMS_PER_THREAD * pool_threads_count(device->pool);
    size_t worth = (size_t)feed->n_rows * feed->in_count / ITEM_VALUES_MIN;
    bool wants = feed->norm || feed->wants_tiles || feed->wants_pairs || feed->wants_blocks;
    if (feed->is_ready || !wants)
        return 0;
    return (uint32_t)size_max(1, size_min(size_min(worth, most), feed_units(feed)));
}

void feeds_run(struct feeds *feeds)
{
    uint32_t n_items = 0, norm_max = 0;
    for (uint32_t i = 0; i < feeds->n_feeds; i++) {
        struct feed *feed = &feeds->feeds[i];
        feed->first_item = n_items;
        feed->n_items = feed_n_items(feeds->device, feed);
        n_items += feed->n_items;
        norm_max = u32_max(norm_max, feed->norm ? feed->in_count : 0);
    }
    if (cpu_threads_work(feeds->device, norm_max * sizeof(float)))
        pool_run(feeds->device->pool, feed_item, feeds, n_items);
    for (uint32_t i = 0; i < feeds->n_feeds; i++)
        feeds->feeds[i].is_ready = true;
}

static void tile_item(void *context, uint32_t thread, uint32_t item)
{
    const struct feeds *feeds = context;
    uint32_t at = feeds->n_feeds - 1;
    while (feeds->feeds[at].first_item > item)
        at--;
    const struct feed *feed = &feeds->feeds[at];
    uint32_t tile = item - feed->first_item, row = tile_first(feed->n_rows, tile);
    struct feed_piece piece = {
        .row = row,
        .n = feed->in_count,
        .values = feed->forms.rows + (size_t)row * feed->in_count,
    };
    cpu_feed_put_tile(feed, tile, &piece, feed->in_count);
}

void feeds_tile(struct feeds *feeds)
{
    uint32_t n_items = 0;
    for (uint32_t i = 0; i < feeds->n_feeds; i++) {
        struct feed *feed = &feeds->feeds[i];
        feed->first_item = n_items;
        n_items += feed->wants_tiles ? tiles_count(feed->n_rows) : 0;
        feed->is_ready = true;
    }
    pool_run(feeds->device->pool, tile_item, feeds, n_items);
}
