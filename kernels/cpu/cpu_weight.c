#include "kernels/cpu/cpu.h"
#include "kernels/source.h"

/* One pool item packs one panel: its 32 rows are read one after the other, as they lie in the file,
 * and turned by 90 degrees. Weights in blocks move in groups of four bytes. */
struct pack {
    struct device *device;
    const struct weight_source *source;
    struct weight *weight;
};

/* Some rows of a source, in a panel. */
struct panel {
    uint32_t matrix, first_out, n; /* n rows */
    enum dtype dtype;              /* what they are packed as */
    char *to;
};

static void panel_pack_f32(const struct pack *pack, const struct panel *panel, float *rows)
{
    uint32_t in_count = pack->weight->in_count;
    float *to = (float *)panel->to;
    for (uint32_t c = 0; c < panel->n; c++)
        source_row_widen(pack->source, panel->matrix, panel->first_out + c,
                         rows + (size_t)c * in_count);
    for (uint32_t k = 0; k < in_count; k++)
        for (uint32_t c = 0; c < panel->n; c++)
            to[(size_t)k * PANEL_OUTPUTS + c] = rows[(size_t)c * in_count + k];
}

/* Where input k of output c is in a panel of F16 or BF16. */
static size_t half_place(enum dtype dtype, size_t k, uint32_t c)
{
    if (dtype == DTYPE_BF16)
        return (k / 2 * PANEL_OUTPUTS + c) * 2 + k % 2;
    return k * PANEL_OUTPUTS + c;
}

/* What is kept as BF16 and is something else. */
static void row_narrow(enum dtype dtype, const char *row, uint32_t in_count, uint16_t *ret_halves)
{
    float values[128];
    uint32_t block = dtype_block_count(dtype), block_bytes = dtype_block_bytes(dtype);
    CHECK(block <= array_count(values));
    for (uint32_t k = 0; k < in_count; k += block, row += block_bytes) {
        dtype_widen(dtype, row, block, values);
        for (uint32_t i = 0; i < block; i++)
            ret_halves[k + i] = dtype_bf16(values[i]);
    }
}

static void panel_pack_halves(const struct pack *pack, const struct panel *panel, uint16_t *rows)
{
    uint32_t in_count = pack->weight->in_count;
    for (uint32_t c = 0; c < panel->n; c++) {
        enum dtype dtype;
        const void *row = source_row(pack->source, panel->matrix, panel->first_out + c, &dtype);
        if (dtype == panel->dtype)
            memcpy(rows + (size_t)c * in_count, row, in_count * sizeof *rows);
        else
            row_narrow(dtype, row, in_count, rows + (size_t)c * in_count);
    }
    uint16_t *to = (uint16_t *)panel->to;
    for (uint32_t k = 0; k < in_count; k++)
        for (uint32_t c = 0; c < panel->n; c++)
            to[half_place(panel->dtype, k, c)] = rows[(size_t)c * in_count + k];
}

/* The block of output `c` of a panel and block `b` of the inputs: where its scale is, its minimum
 * if it has one, and its first four bytes; the others follow 32 outputs further on. */
struct block_place {
    uint16_t *scale, *minimum;
    uint8_t *group;
    uint32_t n_groups, flip;
};

static struct block_place block_at(char *panel, enum dtype dtype, uint32_t b, uint32_t c)
{
    char *block = panel + (size_t)b * PANEL_OUTPUTS * dtype_block_bytes(dtype);
    uint32_t n_halves = dtype == DTYPE_Q4_1 ? 2 : 1;
    uint16_t *halves = (uint16_t *)block;
    return (struct block_place){
        .scale = halves + c,
        .minimum = n_halves == 2 ? halves + PANEL_OUTPUTS + c : NULL,
        .group = (uint8_t *)block + n_halves * PANEL_OUTPUTS * sizeof(uint16_t) + c * 4,
        .n_groups = dtype == DTYPE_Q8_0 ? 8 : 4,
        .flip = dtype == DTYPE_Q8_0 ? 0x80808080u : 0,
    };
}

static void panel_pack_blocks(const struct pack *pack, const struct panel *panel)
{
    uint32_t block_bytes = dtype_block_bytes(panel->dtype);
    for (uint32_t c = 0; c < panel->n; c++) {
        enum dtype dtype;
        const char *row = source_row(pack->source, panel->matrix, panel->first_out + c, &dtype);
        for (uint32_t b = 0; b < pack->weight->in_count / BLOCK_VALUES; b++) {
            const char *from = row + (size_t)b * block_bytes;
            struct block_place place = block_at(panel->to, panel->dtype, b, c);
            memcpy(place.scale, from, sizeof *place.scale);
            from += sizeof *place.scale;
            if (place.minimum) {
                memcpy(place.minimum, from, sizeof *place.minimum);
                from += sizeof *place.minimum;
            }
            for (uint32_t g = 0; g < place.n_groups; g++, from += 4) {
                uint32_t group;
                memcpy(&group, from, sizeof group);
                group ^= place.flip;
                memcpy(place.group + (size_t)g * PANEL_OUTPUTS * 4, &group, sizeof group);
            }
        }
    }
}

/* Puts the blocks of one output together as a file has them, and widens those. */
static void row_of_blocks(char *panel, enum dtype dtype, uint32_t in_count, uint32_t c,
                          float *ret_values)
{
    uint8_t file[BLOCK_VALUES + 4];
    CHECK(dtype_block_bytes(dtype) <= sizeof file);
    for (uint32_t b = 0; b < in_count / BLOCK_VALUES; b++) {
        struct block_place place = block_at(panel, dtype, b, c);
        size_t at = sizeof *place.scale;
        memcpy(file, place.scale, sizeof *place.scale);
        if (place.minimum) {
            memcpy(file + at, place.minimum, sizeof *place.minimum);
            at += sizeof *place.minimum;
        }
        for (uint32_t g = 0; g < place.n_groups; g++, at += 4) {
            uint32_t group;
            memcpy(&group, place.group + (size_t)g * PANEL_OUTPUTS * 4, sizeof group);
            group ^= place.flip;
            memcpy(file + at, &group, sizeof group);
        }
        dtype_widen(dtype, file, BLOCK_VALUES, ret_values + (size_t)b * BLOCK_VALUES);
    }
}

/* Which panel of outputs stands in place `at` of a segment. */
static uint32_t panel_at(const struct weight *weight, uint32_t at)
{
    uint32_t half = weight->panels_count / 2;
    return weight->paired ? at % 2 * half + at / 2 : at;
}

void cpu_weight_row(const struct weight *weight, uint32_t row, float *ret_values)
{
    uint32_t i = 0;
    CHECK(row < weight->out_count && !weight->paired);
    while (row - weight->segments[i].first_out >= weight->segments[i].out_count)
        i++;
    const struct weight_segment *segment = &weight->segments[i];
    uint32_t in_segment = row - segment->first_out, c = in_segment % PANEL_OUTPUTS;
    char *panel = (char *)weight->data + segment->offset_bytes +
                  in_segment / PANEL_OUTPUTS * segment->panel_bytes;
    if (dtype_has_blocks(segment->dtype)) {
        row_of_blocks(panel, segment->dtype, weight->in_count, c, ret_values);
        return;
    }
    size_t value_bytes = dtype_block_bytes(segment->dtype);
    for (uint32_t k = 0; k < weight->in_count; k++)
        dtype_widen(segment->dtype, panel + half_place(segment->dtype, k, c) * value_bytes, 1,
                    &ret_values[k]);
}

static void panel_pack(void *context, uint32_t thread, uint32_t item)
{
    const struct pack *pack = context;
    const struct weight *weight = pack->weight;
    uint32_t matrix = item / weight->panels_count, at = item % weight->panels_count;
    const struct weight_segment *segment = weight->segments;
    while (at - segment->first_panel >= segment->panels_count)
        segment++;
    at -= segment->first_panel;
    uint32_t first = panel_at(weight, at) * PANEL_OUTPUTS;
    struct panel panel = {
        .matrix = matrix,
        .first_out = segment->first_out + first,
        .n = u32_min(PANEL_OUTPUTS, segment->out_count - first),
        .dtype = segment->dtype,
        .to = (char *)weight->data + matrix * weight->matrix_bytes + segment->offset_bytes +
              at * segment->panel_bytes,
    };
    void *rows = pack->device->threads[thread].data;
    if (dtype_has_blocks(panel.dtype))
        panel_pack_blocks(pack, &panel);
    else if (panel.dtype == DTYPE_F32)
        panel_pack_f32(pack, &panel, rows);
    else
        panel_pack_halves(pack, &panel, rows);
}

/* Where everything is to lie. */
static struct weight weight_shape(const struct weight_source *source)
{
    struct weight weight = {.stack_count = source->stack_count,
                            .out_count = source->out_count,
                            .in_count = source->in_count,
                            .exact = source->exact};
    struct segment segments[WEIGHT_PARTS_MAX];
    weight.n_segments = source_segments(source, segments);
    for (uint32_t i = 0; i < weight.n_segments; i++) {
        bool widens = ops_cpu.widens >> segments[i].dtype & 1;
        enum dtype dtype = widens ? DTYPE_BF16 : segments[i].dtype;
        struct weight_segment *to = &weight.segments[i];
        *to = (struct weight_segment){
            .dtype = dtype,
            .first_out = segments[i].first_out,
            .out_count = segments[i].out_count,
            .first_panel = weight.panels_count,
            .panels_count = div_up_u32(segments[i].out_count, PANEL_OUTPUTS),
            .panel_bytes = panel_bytes(dtype, source->in_count),
            .offset_bytes = weight.matrix_bytes,
        };
        weight.panels_count += to->panels_count;
        weight.matrix_bytes += size_product(to->panel_bytes, to->panels_count);
    }
    weight.paired =
        source->paired && weight.n_segments == 1 && weight.out_count % (2 * PANEL_OUTPUTS) == 0;
    return weight;
}

enum status cpu_weight_pack(struct device *device, const struct weight_source *source,
                            struct weight **ret_weight, struct error *error)
{
    source_check(source);
    struct weight shape = weight_shape(source);
    CHECK((uint64_t)shape.panels_count * shape.stack_count < UINT32_MAX);
    size_t data_bytes = size_product(shape.matrix_bytes, shape.stack_count), most = 0;
    for (uint32_t i = 0; i < shape.n_segments; i++)
        most = size_max(most, shape.segments[i].panel_bytes);
    struct weight *weight = calloc(1, sizeof *weight);
    if (weight) {
        *weight = shape;
        weight->data = memory_alloc(data_bytes);
    }
    bool have = weight && weight->data;
    for (uint32_t i = 0; have && i < pool_threads_count(device->pool); i++)
        have = scratch_need(&device->threads[i], most) != NULL;
    device->in_max = u32_max(device->in_max, source->in_count);
    if (!have || !cpu_products_reserve(device)) {
        cpu_weight_free(device, weight);
        return error_set(error, STATUS_EXHAUSTED, "backend cpu: no memory for %zu bytes of weights",
                         data_bytes);
    }
    struct pack pack = {.device = device, .source = source, .weight = weight};
    pool_run(device->pool, panel_pack, &pack, shape.panels_count * shape.stack_count);
    *ret_weight = weight;
    return STATUS_OK;
}

void cpu_weight_free(struct device *device, struct weight *weight)
{
    if (!weight)
        return;
    memory_free(weight->data);
    free(weight);
}

size_t cpu_weight_bytes(const struct weight *weight)
{
    return weight->matrix_bytes * weight->stack_count;
}

const void *cpu_weight_panels(const struct weight *weight, uint32_t index, uint32_t segment)
{
    CHECK(index < weight->stack_count && segment < weight->n_segments);
    return (const char *)weight->data + index * weight->matrix_bytes +
           weight->segments[segment].offset_bytes;
}
