#include "kernels/cpu/cpu.h"
#include "kernels/source.h"

/* One pool item packs one panel: its 32 rows are read one after the other, as they lie in the file,
 * and then turned by 90 degrees. */
struct pack {
    struct device *device;
    const struct weight_source *source;
    struct weight *weight;
};

static void panel_pack_f32(const struct pack *pack, uint32_t matrix, uint32_t panel, float *rows,
                           float *to)
{
    uint32_t in_count = pack->weight->in_count, first = panel * PANEL_OUTPUTS;
    uint32_t n = u32_min(PANEL_OUTPUTS, pack->weight->out_count - first);
    for (uint32_t c = 0; c < n; c++)
        source_row_widen(pack->source, matrix, first + c, rows + (size_t)c * in_count);
    for (uint32_t k = 0; k < in_count; k++)
        for (uint32_t c = 0; c < n; c++)
            to[(size_t)k * PANEL_OUTPUTS + c] = rows[(size_t)c * in_count + k];
}

static void panel_pack_bf16(const struct pack *pack, uint32_t matrix, uint32_t panel,
                            uint16_t *rows, uint32_t *to)
{
    uint32_t in_count = pack->weight->in_count, first = panel * PANEL_OUTPUTS;
    uint32_t n = u32_min(PANEL_OUTPUTS, pack->weight->out_count - first);
    for (uint32_t c = 0; c < n; c++) {
        enum dtype dtype;
        const void *row = source_row(pack->source, matrix, first + c, &dtype);
        memcpy(rows + (size_t)c * in_count, row, in_count * sizeof *rows);
    }
    for (uint32_t k = 0; k < in_count; k++)
        for (uint32_t c = 0; c < n; c++) {
            uint32_t half = rows[(size_t)c * in_count + k];
            to[(size_t)k * (PANEL_OUTPUTS / 2) + c % (PANEL_OUTPUTS / 2)] |=
                c < PANEL_OUTPUTS / 2 ? half : half << 16;
        }
}

static void panel_pack(void *context, uint32_t thread, uint32_t item)
{
    const struct pack *pack = context;
    struct weight *weight = pack->weight;
    uint32_t matrix = item / weight->panels_count, panel = item % weight->panels_count;
    void *rows = pack->device->threads[thread].data;
    size_t panel_bytes = weight->matrix_bytes / weight->panels_count;
    char *to = (char *)weight->data + matrix * weight->matrix_bytes + panel * panel_bytes;
    if (weight->dtype == DTYPE_BF16)
        panel_pack_bf16(pack, matrix, panel, rows, (uint32_t *)to);
    else
        panel_pack_f32(pack, matrix, panel, rows, (float *)to);
}

enum status cpu_weight_pack(struct device *device, const struct weight_source *source,
                            struct weight **ret_weight, struct error *error)
{
    source_check(source);
    enum dtype dtype = source_is_bf16(source) ? DTYPE_BF16 : DTYPE_F32;
    uint32_t panels_count = div_up_u32(source->out_count, PANEL_OUTPUTS);
    CHECK((uint64_t)panels_count * source->stack_count < UINT32_MAX);
    size_t row_bytes = size_product(source->in_count, dtype_block_bytes(dtype));
    size_t panel_bytes = size_product(row_bytes, PANEL_OUTPUTS);
    size_t matrix_bytes = size_product(panel_bytes, panels_count);
    size_t data_bytes = size_product(matrix_bytes, source->stack_count);
    struct weight *weight = calloc(1, sizeof *weight);
    if (weight)
        weight->data = memory_alloc(data_bytes);
    bool have = weight && weight->data;
    for (uint32_t i = 0; have && i < pool_threads_count(device->pool); i++)
        have = scratch_need(&device->threads[i], panel_bytes) != NULL;
    device->in_max = u32_max(device->in_max, source->in_count);
    if (!have || !cpu_tiles_reserve(device)) {
        cpu_weight_free(device, weight);
        return error_set(error, STATUS_EXHAUSTED, "backend cpu: no memory for %zu bytes of weights",
                         data_bytes);
    }
    weight->dtype = dtype;
    weight->stack_count = source->stack_count;
    weight->out_count = source->out_count;
    weight->in_count = source->in_count;
    weight->panels_count = panels_count;
    weight->matrix_bytes = matrix_bytes;
    struct pack pack = {.device = device, .source = source, .weight = weight};
    pool_run(device->pool, panel_pack, &pack, panels_count * source->stack_count);
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

const void *cpu_weight_matrix(const struct weight *weight, uint32_t index)
{
    CHECK(index < weight->stack_count);
    return (const char *)weight->data + index * weight->matrix_bytes;
}
