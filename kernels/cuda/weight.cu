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
        size_t row =
            size_product(source->in_count / dtype_block_count(dtype), dtype_block_bytes(dtype));
        row = round_up(row, ROW_ALIGN_BYTES);
        weight->segments[i] = {dtype, segments[i].first_out, segments[i].out_count, row, offset};
        offset += round_up(size_product(row, segments[i].out_count), MATRIX_ALIGN_BYTES);
    }
    weight->matrix_bytes = offset;
}

/* One matrix in host memory, as the card will have it. */
static void matrix_lay(const struct weight_source *source, const struct weight *weight,
                       uint32_t matrix, char *to)
{
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct weight_segment *segment = &weight->segments[i];
        char *row_to = to + segment->offset_bytes;
        for (uint32_t o = 0; o < segment->out_count; o++, row_to += segment->row_bytes) {
            enum dtype dtype;
            const void *row = source_row(source, matrix, segment->first_out + o, &dtype);
            if (dtype == segment->dtype)
                memcpy(row_to, row,
                       (size_t)(source->in_count / dtype_block_count(dtype)) *
                           dtype_block_bytes(dtype));
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
        host = (char *)calloc(1, weight->matrix_bytes);
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
