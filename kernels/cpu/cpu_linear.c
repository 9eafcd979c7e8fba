#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * A call is cut along the outputs only, never along K and never by row, so that each panel is read
 * once from memory however many rows there are. First the rows are brought into the forms that the
 * weights want (cpu_feed.c).
 */

/* Multiply-adds below which a range of panels is not worth an item of its own. */
#define ITEM_MACS_MIN 16384
/* Bytes of weights below which it is not either. */
#define ITEM_BYTES_MIN 16384

uint32_t cpu_items_count(const struct device *device, uint32_t n_units, size_t macs, size_t bytes)
{
    size_t worth = size_min(macs / ITEM_MACS_MIN, bytes / ITEM_BYTES_MIN);
    size_t most = (size_t)ITEMS_PER_THREAD * pool_threads_count(device->pool);
    return (uint32_t)size_max(size_min(size_min(worth, most), n_units), 1);
}

size_t cpu_bests_bytes(const struct device *device, uint32_t n_rows)
{
    size_t items = (size_t)ITEMS_PER_THREAD * pool_threads_count(device->pool) * WEIGHT_PARTS_MAX;
    return size_product(items, size_product(n_rows, sizeof(struct logits_best)));
}

/* Ids ascend from call to call: of equal ones the first stays. */
static void best_merge(struct logits_best *best, struct logits_best other)
{
    if (other.value > best->value) {
        best->value = other.value;
        best->id = other.id;
    }
    best->not_finite |= other.not_finite;
}

bool cpu_product_pairs(const struct tier *tier, const struct weight *weight, uint32_t segment)
{
    return weight->segments[segment].dtype == DTYPE_BF16 && !weight->exact && tier->product_pairs;
}

struct product cpu_product(const struct tier *tier, const struct feed *feed,
                           const struct weight *weight, uint32_t index, uint32_t segment)
{
    const struct weight_segment *from = &weight->segments[segment];
    bool pairs = cpu_product_pairs(tier, weight, segment);
    bool tiles = !dtype_has_blocks(from->dtype) && !pairs && feed->n_rows >= TILE_FROM_ROWS;
    return (struct product){.panels = cpu_weight_panels(weight, index, segment),
                            .dtype = from->dtype,
                            .in_count = weight->in_count,
                            .out_count = from->out_count,
                            .n_rows = feed->n_rows,
                            .in = cpu_feed_rows(feed),
                            .tiles = tiles ? feed->forms.tiles : NULL,
                            .pairs = pairs ? feed->forms.pairs : NULL,
                            .blocks = feed->forms.blocks};
}

void cpu_product_run(const struct tier *tier, const struct product *product, uint32_t first_panel,
                     uint32_t n_panels)
{
    if (dtype_has_blocks(product->dtype))
        tier->product_blocks(product, first_panel, n_panels);
    else if (product->pairs)
        tier->product_pairs(product, first_panel, n_panels);
    else
        tier->product(product, first_panel, n_panels);
}

/* Panels after which logits are looked at: what they give is still in the caches. */
#define NOTE_PANELS 16

/* The same as cpu_product_run, and the best of these outputs of each row. */
static void range_note(const struct tier *tier, const struct product_part *part,
                       struct logits_best *bests, uint32_t first, uint32_t end)
{
    const struct product *p = &part->product;
    for (uint32_t r = 0; r < p->n_rows; r++)
        bests[r] =
            (struct logits_best){.value = -INFINITY, .id = part->first_out + first * PANEL_OUTPUTS};
    for (uint32_t n; first < end; first += n) {
        n = u32_min(NOTE_PANELS, end - first);
        cpu_product_run(tier, p, first, n);
        uint32_t out = first * PANEL_OUTPUTS;
        uint32_t n_outs = u32_min(n * PANEL_OUTPUTS, p->out_count - out);
        for (uint32_t r = 0; r < p->n_rows; r++) {
            const float *logits = p->out + (size_t)r * p->out_stride + out;
            best_merge(&bests[r], cpu_logits_best(tier, logits, n_outs, part->first_out + out));
        }
    }
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
    const struct tier *tier = products->device->tier;
    if (products->bests)
        range_note(tier, part, products->bests + (size_t)item * part->product.n_rows, first, end);
    else
        cpu_product_run(tier, &part->product, first, end - first);
}

void products_add(struct products *products, const struct weight *weight, uint32_t index,
                  const struct product_ends *ends)
{
    const struct tier *tier = products->device->tier;
    struct feed *feed = &products->feeds[products->n_feeds - 1];
    CHECK(!weight->paired);
    cpu_feed_want(tier, feed, weight);
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *segment = &weight->segments[i];
        struct product_part *part = &products->parts[products->n_parts++];
        *part = (struct product_part){.product = cpu_product(tier, feed, weight, index, i),
                                      .panels_count = segment->panels_count,
                                      .panel_bytes = segment->panel_bytes,
                                      .first_out = segment->first_out};
        struct product *product = &part->product;
        product->out_stride = weight->out_count;
        product->bias = ends->bias ? ends->bias + segment->first_out : NULL;
        product->residual = ends->residual ? ends->residual + segment->first_out : NULL;
        product->out = ends->out + segment->first_out;
    }
}

void products_run(struct products *products)
{
    struct feeds feeds = {products->device, products->feeds, products->n_feeds};
    for (uint32_t i = 0; i < products->n_parts; i++) {
        struct product_part *part = &products->parts[i];
        size_t macs = (size_t)part->product.n_rows * part->panels_count * PANEL_OUTPUTS *
                      part->product.in_count;
        part->first_item = products->n_items;
        products->n_items += cpu_items_count(products->device, part->panels_count, macs,
                                             part->panels_count * part->panel_bytes);
    }
    feeds_run(&feeds);
    pool_run(products->device->pool, range_multiply, products, products->n_items);
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
    if (!cpu_forms_room(device, &device->rooms[0], feed.n_rows, feed.in_count, &feed.forms))
        return;
    _Static_assert(sizeof(struct logits_best) == sizeof(struct logits_note), "one is the other");
    if (args->notes) {
        products.bests = cpu_work(device, &device->bests, cpu_bests_bytes(device, args->n_rows));
        if (!products.bests)
            return;
    }
    products_add(
        &products, args->weight, args->stack_index,
        &(struct product_ends){.bias = args->bias, .residual = args->residual, .out = args->out});
    products_run(&products);
    for (uint32_t r = 0; args->notes && r < args->n_rows; r++) {
        struct logits_best best = products.bests[r];
        for (uint32_t item = 1; item < products.n_items; item++)
            best_merge(&best, products.bests[(size_t)item * args->n_rows + r]);
        memcpy(&args->notes[r], &best, sizeof best);
    }
}
