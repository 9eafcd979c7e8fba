#include "kernels/ref/ref.h"

/* Rows lie as the formula reads, in the types of their segments, so that a large model fits here as
 * well. A row is widened whenever it is looked at: what a block format says is computed here. */

static size_t row_bytes_of(const struct weight *weight, enum dtype dtype)
{
    return size_product(weight->in_count / dtype_block_count(dtype), dtype_block_bytes(dtype));
}

static void rows_copy(const struct weight_source *source, struct weight *weight, uint32_t matrix)
{
    char *to = weight->data + matrix * weight->matrix_bytes;
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        const struct segment *segment = &weight->segments[i];
        size_t row_bytes = row_bytes_of(weight, segment->dtype);
        for (uint32_t o = 0; o < segment->out_count; o++, to += row_bytes) {
            enum dtype dtype;
            const void *row = source_row(source, matrix, segment->first_out + o, &dtype);
            if (dtype != segment->dtype) {
                dtype_widen(dtype, row, weight->in_count, weight->widened);
                row = weight->widened;
            }
            memcpy(to, row, row_bytes);
        }
    }
}

enum status ref_weight_pack(struct device *device, const struct weight_source *source,
                            struct weight **ret_weight, struct error *error)
{
    source_check(source);
    struct weight made = {.stack_count = source->stack_count,
                          .out_count = source->out_count,
                          .in_count = source->in_count};
    made.n_segments = source_segments(source, made.segments);
    for (uint32_t i = 0; i < made.n_segments; i++)
        made.matrix_bytes +=
            size_product(row_bytes_of(&made, made.segments[i].dtype), made.segments[i].out_count);
    size_t data_bytes = size_product(made.matrix_bytes, made.stack_count);
    struct weight *weight = calloc(1, sizeof *weight);
    if (weight) {
        *weight = made;
        weight->data = memory_alloc(data_bytes);
        weight->widened = memory_alloc(size_product(made.in_count, sizeof(float)));
    }
    if (!weight || !weight->data || !weight->widened) {
        ref_weight_free(device, weight);
        return error_set(error, STATUS_EXHAUSTED, "backend ref: no memory for %zu bytes of weights",
                         data_bytes);
    }
    for (uint32_t matrix = 0; matrix < weight->stack_count; matrix++)
        rows_copy(source, weight, matrix);
    *ret_weight = weight;
    return STATUS_OK;
}

void ref_weight_free(struct device *device, struct weight *weight)
{
    if (!weight)
        return;
    memory_free(weight->data);
    memory_free(weight->widened);
    free(weight);
}

size_t ref_weight_bytes(const struct weight *weight)
{
    return weight->matrix_bytes * weight->stack_count;
}

const float *ref_weight_row(const struct weight *weight, uint32_t index, uint32_t row)
{
    CHECK(index < weight->stack_count && row < weight->out_count);
    const char *at = weight->data + index * weight->matrix_bytes;
    const struct segment *segment = weight->segments;
    for (; row - segment->first_out >= segment->out_count; segment++)
        at += segment->out_count * row_bytes_of(weight, segment->dtype);
    at += (row - segment->first_out) * row_bytes_of(weight, segment->dtype);
    dtype_widen(segment->dtype, at, weight->in_count, weight->widened);
    return weight->widened;
}

double ref_dot(const float *row, const float *in, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)row[i] * (double)in[i];
    return sum;
}

double ref_dot_wide(const float *row, const double *in, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)row[i] * in[i];
    return sum;
}

void ref_linear(struct device *device, const struct linear_args *args)
{
    const struct weight *weight = args->weight;
    const float *in = ref_rows_norm(device, &(struct ref_rows){.norm = args->norm,
                                                               .norm_eps = args->norm_eps,
                                                               .in = args->in,
                                                               .n_rows = args->n_rows,
                                                               .n = weight->in_count});
    for (uint32_t o = 0; in && o < weight->out_count; o++) {
        const float *row = ref_weight_row(weight, args->stack_index, o);
        for (uint32_t r = 0; r < args->n_rows; r++) {
            size_t at = (size_t)r * weight->out_count + o;
            double sum = ref_dot(row, in + (size_t)r * weight->in_count, weight->in_count);
            sum += args->bias ? (double)args->bias[o] : 0;
            sum += args->residual ? (double)args->residual[at] : 0;
            args->out[at] = (float)sum;
        }
    }
}
