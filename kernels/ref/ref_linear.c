#include "kernels/ref/ref.h"
#include "kernels/source.h"

/* Row-major as the formula reads; BF16 stays two bytes, so that a large model fits here as well. */

enum status ref_weight_pack(struct device *device, const struct weight_source *source,
                            struct weight **ret_weight, struct error *error)
{
    source_check(source);
    bool bf16 = source_is_bf16(source);
    size_t row_bytes = size_product(source->in_count, bf16 ? sizeof(uint16_t) : sizeof(float));
    size_t rows_count = size_product(source->stack_count, source->out_count);
    size_t data_bytes = size_product(rows_count, row_bytes);
    struct weight *weight = calloc(1, sizeof *weight);
    if (weight) {
        weight->data = memory_alloc(data_bytes);
        weight->widened = memory_alloc(size_product(source->in_count, sizeof(float)));
    }
    if (!weight || !weight->data || !weight->widened) {
        ref_weight_free(device, weight);
        return error_set(error, STATUS_EXHAUSTED, "backend ref: no memory for %zu bytes of weights",
                         data_bytes);
    }
    weight->dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
    weight->stack_count = source->stack_count;
    weight->out_count = source->out_count;
    weight->in_count = source->in_count;
    char *row_data = weight->data;
    for (uint32_t matrix = 0; matrix < source->stack_count; matrix++)
        for (uint32_t row = 0; row < source->out_count; row++, row_data += row_bytes) {
            enum dtype dtype;
            if (bf16)
                memcpy(row_data, source_row(source, matrix, row, &dtype), row_bytes);
            else
                source_row_widen(source, matrix, row, (float *)row_data);
        }
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
    return (size_t)weight->stack_count * weight->out_count * weight->in_count *
           dtype_block_bytes(weight->dtype);
}

const float *ref_weight_row(const struct weight *weight, uint32_t index, uint32_t row)
{
    CHECK(index < weight->stack_count && row < weight->out_count);
    size_t first = ((size_t)index * weight->out_count + row) * weight->in_count;
    if (weight->dtype == DTYPE_F32)
        return (const float *)weight->data + first;
    dtype_widen(DTYPE_BF16, (const uint16_t *)weight->data + first, weight->in_count,
                weight->widened);
    return weight->widened;
}

double ref_dot(const float *row, const float *in, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)row[i] * (double)in[i];
    return sum;
}

void ref_linear(struct device *device, const struct linear_args *args)
{
    const struct weight *weight = args->weight;
    for (uint32_t o = 0; o < weight->out_count; o++) {
        const float *row = ref_weight_row(weight, args->stack_index, o);
        for (uint32_t r = 0; r < args->n_rows; r++) {
            size_t at = (size_t)r * weight->out_count + o;
            double sum = ref_dot(row, args->in + (size_t)r * weight->in_count, weight->in_count);
            sum += args->bias ? (double)args->bias[o] : 0;
            sum += args->residual ? (double)args->residual[at] : 0;
            args->out[at] = (float)sum;
        }
    }
}
