#include "kernels/cuda/weight.h"

#define ROW_ALIGN_BYTES 16
#define MATRIX_ALIGN_BYTES 256

static void segments_lay(const struct weight_source *source, struct weight *weight)
{
    struct segment segments[WEIGHT_PARTS_MAX];
    weight->n_segments = source_segments(source, segments);
    size_t offset = 0;
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        enum dtype dtype = segments[i].dtype;
        uint32_t n = segments[i].out_count;
        bool panels = chunk_bytes_of(dtype) > 0 && !source->exact;
        size_t row = panels ? chunk_offset_of(dtype, div_up(source->in_count, CHUNK_VALUES))
                            : round_up(size_product(source->in_count, dtype_block_bytes(dtype)),
                                       ROW_ALIGN_BYTES);
        weight->segments[i] = {dtype, panels, segments[i].first_out, n, row, offset};
        size_t rows = panels ? div_up(n, PANEL_OUTPUTS) : n;
        offset += round_up(size_product(row, rows), MATRIX_ALIGN_BYTES);
    }
    weight->matrix_bytes = offset;
}

/* ---- panels ---- */

static void halves_lay(const char *row, uint32_t in_count, uint32_t o, char *panel)
{
    for (uint32_t i = 0; i < in_count; i += 8) {
        uint32_t c = i / 32 % 2, lane = 4 * (o % 8) + i / 8 % 4;
        char *to = panel + i / CHUNK_VALUES * 2048 + ((2 * c + o / 8) * 32 + lane) * 16;
        memcpy(to, row + 2 * (size_t)i, 2 * (size_t)min_u32(8, in_count - i));
    }
}

/* A block of Q8_0: block c of a chunk. */
static void eights_lay(const char *block, uint32_t c, uint32_t o, char *chunk)
{
    uint32_t g = o % 8, h = o / 8;
    memcpy(chunk + 1024 + (4 * g + 2 * c + h) * 2, block, 2);
    for (uint32_t i = 0; i < 32; i += 4)
        memcpy(chunk + (c * 32 + 4 * g + i / 8) * 16 + i / 4 % 2 * 8 + h * 4, block + 2 + i, 4);
}

/* A block of Q4_0 or Q4_1, whose byte i has value i in the lower nibble and i + 16 in the upper. */
static void fours_lay(enum dtype dtype, const char *block, uint32_t c, uint32_t o, char *chunk)
{
    uint32_t g = o % 8, h = o / 8;
    bool minima = dtype == DTYPE_Q4_1;
    char *head = chunk + 512 + g * (minima ? 16 : 8) + (2 * c + h) * 2;
    memcpy(head, block, 2);
    if (minima)
        memcpy(head + 8, block + 2, 2);
    const uint8_t *data = (const uint8_t *)block + (minima ? 4 : 2);
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t nibble = data[i % 16] >> (i / 16 * 4) & 15, j = i % 8;
        uint8_t *to = (uint8_t *)chunk + (4 * g + i / 8) * 16 + (2 * c + h) * 4 + j % 4;
        *to = (uint8_t)(*to | nibble << (j / 4 * 4));
    }
}

/* A block of F8_E4M3: chunks 2 b and 2 b + 1. */
static void f8_lay(const char *block, uint32_t b, uint32_t o, char *panel)
{
    uint32_t g = o % 8, h = o / 8;
    memcpy(panel + f8_scales_offset(2 * b) + (2 * g + h) * sizeof(float), block, sizeof(float));
    for (uint32_t i = 0; i < 2 * CHUNK_VALUES; i += 8) {
        char *chunk = panel + chunk_offset_of(DTYPE_F8_E4M3, 2 * b + i / CHUNK_VALUES);
        uint32_t c = i / 32 % 2, lane = 4 * g + i / 8 % 4;
        memcpy(chunk + (c * 32 + lane) * 16 + h * 8, block + sizeof(float) + i, 8);
    }
}

/* Into zeroed memory. */
static void panel_row_lay(enum dtype dtype, const void *row, uint32_t in_count, uint32_t o,
                          char *panel)
{
    if (dtype == DTYPE_F8_E4M3) {
        for (uint32_t b = 0; b < in_count / dtype_block_count(dtype); b++)
            f8_lay((const char *)row + (size_t)b * dtype_block_bytes(dtype), b, o, panel);
        return;
    }
    if (!dtype_has_blocks(dtype)) {
        halves_lay((const char *)row, in_count, o, panel);
        return;
    }
    for (uint32_t block = 0; block < in_count / 32; block++) {
        const char *from = (const char *)row + (size_t)block * dtype_block_bytes(dtype);
        char *chunk = panel + (size_t)(block / 2) * chunk_bytes_of(dtype);
        if (dtype == DTYPE_Q8_0)
            eights_lay(from, block % 2, o, chunk);
        else
            fours_lay(dtype, from, block % 2, o, chunk);
    }
}

/* One matrix in host memory, as the card will have it. */
static void matrix_lay(const struct weight_source *source, const struct weight *weight,
                       uint32_t matrix, char *to)
{
    memset(to, 0, weight->matrix_bytes);
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *segment = &weight->segments[i];
        for (uint32_t o = 0; o < segment->out_count; o++) {
            enum dtype dtype;
            const void *row = source_row(source, matrix, segment->first_out + o, &dtype);
            uint32_t index = segment->panels ? o / PANEL_OUTPUTS : o;
            char *row_to = to + segment->offset_bytes + index * segment->row_bytes;
            if (segment->panels)
                panel_row_lay(dtype, row, source->in_count, o % PANEL_OUTPUTS, row_to);
            else if (dtype == segment->dtype)
                memcpy(row_to, row, source->in_count * dtype_block_bytes(dtype));
            else
                dtype_widen(dtype, row, source->in_count, (float *)(void *)row_to);
        }
    }
}

enum status cuda_weight_pack(struct device *device, const struct weight_source *source,
                             struct weight **ret_weight, struct error *error)
{
    source_check(source);
    struct weight *weight = (struct weight *)calloc(1, sizeof *weight);
    char *host = NULL;
    enum status status = STATUS_OK;
    if (weight) {
        weight->stack_count = source->stack_count;
        weight->out_count = source->out_count;
        weight->in_count = source->in_count;
        segments_lay(source, weight);
        host = (char *)malloc(weight->matrix_bytes);
    }
    if (!weight || !host) {
        status = error_set(error, STATUS_EXHAUSTED, "no host memory to pack a weight");
        goto out;
    }
    weight->data = (char *)runtime_alloc(device->runtime, cuda_weight_bytes(weight));
    if (!weight->data) {
        status =
            device_no_memory(device, "weights", cuda_weight_bytes(weight),
                             "use a smaller or more quantised model, or lower kv_memory", error);
        goto out;
    }
    for (uint32_t matrix = 0; matrix < weight->stack_count; matrix++) {
        matrix_lay(source, weight, matrix, host);
        runtime_upload(device->runtime, weight->data + matrix * weight->matrix_bytes, host,
                       weight->matrix_bytes);
    }
    *ret_weight = weight;
    weight = NULL;
out:
    free(host);
    cuda_weight_free(device, weight);
    return status;
}

void cuda_weight_free(struct device *device, struct weight *weight)
{
    if (!weight)
        return;
    runtime_free(device->runtime, weight->data);
    free(weight);
}

size_t cuda_weight_bytes(const struct weight *weight)
{
    return size_product(weight->matrix_bytes, weight->stack_count);
}
