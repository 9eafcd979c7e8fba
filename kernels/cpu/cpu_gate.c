#include "kernels/cpu/cpu.h"

/*
 * An item is a range of outputs of silu(gate) * up. It computes both products of a few panels at a
 * time into scratch of its thread, which the caches hold, gates them there, and puts them at once
 * into the forms that the next product wants: nothing waits between the products and the gate, and
 * what lies between never goes to memory. A panel has as many outputs as a block has values, so
 * what is quantised is whole blocks.
 *
 * In a paired weight the panels of gate and up take turns, so that an item reads one run of memory
 * (two runs that take turns were 5 % slower); scratch then has columns of gate and up in turns.
 * Otherwise gate is in the first half of the columns and up in the second. Where up does not begin
 * with a panel of its own, the panels around a range hold outputs of its neighbours too: they land
 * beside the range's columns, and nobody looks at them.
 */

/* Panels of gate, and of up, that are computed together: of few rows several, since it is memory
 * that those wait for. */
static uint32_t panels_together(uint32_t n_rows)
{
    return n_rows <= BLOCK_TILE_ROWS_MAX ? 8 : 2;
}

/* Columns of scratch for gate or for up, when `beside` is what may land on either side. */
static uint32_t half_columns(uint32_t n_rows, uint32_t beside)
{
    return panels_together(n_rows) * PANEL_OUTPUTS + 2 * beside;
}

size_t cpu_gate_item_bytes(uint32_t n_rows)
{
    uint32_t few = u32_min(n_rows, BLOCK_TILE_ROWS_MAX);
    size_t some = size_product(few, half_columns(few, PANEL_OUTPUTS));
    size_t all = size_product(n_rows, half_columns(n_rows, PANEL_OUTPUTS));
    return 2 * sizeof(float) * size_max(some, all);
}

static uint32_t gate_width(const struct gate_part *part)
{
    return part->weight->out_count / 2;
}

/* Whether every panel of gate and of up is full, and their own. */
static bool gate_is_aligned(const struct weight *weight)
{
    bool aligned = weight->out_count / 2 % PANEL_OUTPUTS == 0;
    for (uint32_t i = 0; i < weight->n_segments; i++)
        aligned = aligned && weight->segments[i].out_count % PANEL_OUTPUTS == 0;
    return aligned;
}

void gates_add(struct gates *gates, const struct gate_part *part)
{
    struct gate_part *to = &gates->parts[gates->n_parts++];
    *to = *part;
    to->group_outputs = panels_together(part->from->n_rows) * PANEL_OUTPUTS;
    to->n_groups = div_up_u32(gate_width(part), to->group_outputs);
    to->beside = gate_is_aligned(part->weight) ? 0 : PANEL_OUTPUTS;
    CHECK(part->weight->out_count % 2 == 0 && part->to->in_count == gate_width(part));
    CHECK(part->from->n_rows == part->to->n_rows);
    cpu_feed_want(gates->device->tier, part->from, part->weight);
}

/* Outputs first .. first + n - 1 of the weight, for all rows: [n_rows][stride] from `out` on. */
static void outputs_multiply(const struct gates *gates, const struct gate_part *part,
                             uint32_t first, uint32_t n, float *out)
{
    const struct weight *weight = part->weight;
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *segment = &weight->segments[i];
        uint32_t low = u32_max(first, segment->first_out);
        uint32_t end = u32_min(first + n, segment->first_out + segment->out_count);
        if (low >= end)
            continue;
        uint32_t panel = (low - segment->first_out) / PANEL_OUTPUTS;
        uint32_t panel_end = div_up_u32(end - segment->first_out, PANEL_OUTPUTS);
        struct product product =
            cpu_product(gates->device->tier, part->from, weight, part->index, i);
        product.panels = (const char *)product.panels + panel * segment->panel_bytes;
        product.out_count -= panel * PANEL_OUTPUTS;
        product.out_stride = 2 * half_columns(product.n_rows, part->beside);
        product.out = out + part->beside + segment->first_out + panel * PANEL_OUTPUTS - first;
        cpu_product_run(gates->device->tier, &product, 0, panel_end - panel);
    }
}

/* The same of gate and up, when their panels take turns. */
static void pairs_multiply(const struct gates *gates, const struct gate_part *part,
                           const struct feed_piece *piece, float *out)
{
    const struct weight_segment *segment = &part->weight->segments[0];
    struct product product =
        cpu_product(gates->device->tier, part->from, part->weight, part->index, 0);
    size_t panel = 2ul * piece->first / PANEL_OUTPUTS;
    product.panels = (const char *)product.panels + panel * segment->panel_bytes;
    product.out_count = 2 * piece->n;
    product.out_stride = 2 * half_columns(product.n_rows, 0);
    product.out = out;
    cpu_product_run(gates->device->tier, &product, 0, 2 * piece->n / PANEL_OUTPUTS);
}

static void bias_add(const struct gate_part *part, const struct feed_piece *piece, float *gate,
                     float *up)
{
    const float *bias = part->bias + piece->first;
    for (uint32_t i = 0; i < piece->n; i++) {
        gate[i] += bias[i];
        up[i] += bias[gate_width(part) + i];
    }
}

/* silu(gate) * up of one row, in gate's place. */
static void row_gate(const struct tier *tier, const struct gate_part *part, float *gate,
                     const struct feed_piece *piece)
{
    bool turns = part->weight->paired;
    uint32_t n = turns ? PANEL_OUTPUTS : piece->n;
    float *up = gate + (turns ? PANEL_OUTPUTS : half_columns(part->from->n_rows, part->beside));
    float *to = gate;
    struct feed_piece some = {.first = piece->first, .n = n};
    for (; some.first < piece->first + piece->n; some.first += n, to += n) {
        if (part->bias)
            bias_add(part, &some, gate, up);
        tier->silu_mul(gate, up, n, to);
        gate += 2 * n;
        up += 2 * n;
    }
}

static void group_gate(const struct gates *gates, const struct gate_part *part, uint32_t group,
                       float *work)
{
    struct feed *to = part->to;
    uint32_t half = half_columns(to->n_rows, part->beside), stride = 2 * half;
    struct feed_piece piece = {.first = group * part->group_outputs};
    piece.n = u32_min(part->group_outputs, gate_width(part) - piece.first);
    if (part->weight->paired) {
        pairs_multiply(gates, part, &piece, work);
    } else {
        outputs_multiply(gates, part, piece.first, piece.n, work);
        outputs_multiply(gates, part, gate_width(part) + piece.first, piece.n, work + half);
    }
    float *gated = work + part->beside;
    for (; piece.row < to->n_rows; piece.row++) {
        float *gate = gated + (size_t)piece.row * stride;
        row_gate(gates->device->tier, part, gate, &piece);
        piece.values = gate;
        cpu_feed_put(gates->device->tier, to, &piece);
    }
    for (uint32_t tile = 0; to->wants_tiles && tile < tiles_count(to->n_rows); tile++) {
        piece.row = tile_first(to->n_rows, tile);
        piece.values = gated + (size_t)piece.row * stride;
        cpu_feed_put_tile(to, tile, &piece, stride);
    }
}

static void gate_item(void *context, uint32_t thread, uint32_t item)
{
    const struct gates *gates = context;
    uint32_t at = gates->n_parts - 1;
    while (gates->parts[at].first_item > item)
        at--;
    const struct gate_part *part = &gates->parts[at];
    uint64_t n_groups = part->n_groups, index = item - part->first_item;
    uint32_t group = (uint32_t)(n_groups * index / part->n_items);
    uint32_t end = (uint32_t)(n_groups * (index + 1) / part->n_items);
    for (; group < end; group++)
        group_gate(gates, part, group, gates->device->threads[thread].data);
}

void gates_run(struct gates *gates)
{
    uint32_t rows_max = 0;
    for (uint32_t i = 0; i < gates->n_parts; i++) {
        struct gate_part *part = &gates->parts[i];
        const struct weight *weight = part->weight;
        size_t macs = (size_t)part->from->n_rows * weight->out_count * weight->in_count;
        part->first_item = gates->n_items;
        part->n_items = cpu_items_count(gates->device, part->n_groups, macs, weight->matrix_bytes);
        part->to->is_ready = true;
        gates->n_items += part->n_items;
        rows_max = u32_max(rows_max, part->from->n_rows);
    }
    if (cpu_threads_work(gates->device, cpu_gate_item_bytes(rows_max)))
        pool_run(gates->device->pool, gate_item, gates, gates->n_items);
}
