#include "kernels/source.h"

void source_check(const struct weight_source *source)
{
    CHECK(source->stack_count > 0 && source->n_parts > 0);
    CHECK(source->out_count > 0 && source->in_count > 0);
    for (uint32_t matrix = 0; matrix < source->stack_count; matrix++) {
        uint64_t out_count = 0;
        for (uint32_t i = 0; i < source->n_parts; i++) {
            const struct weight_part *part = &source->parts[matrix * source->n_parts + i];
            CHECK(part->data != NULL);
            CHECK(source->in_count % dtype_block_count(part->dtype) == 0);
            out_count += part->out_count;
        }
        CHECK(out_count == source->out_count);
    }
}

bool source_is_bf16(const struct weight_source *source)
{
    for (size_t i = 0; i < (size_t)source->stack_count * source->n_parts; i++)
        if (source->parts[i].dtype != DTYPE_BF16)
            return false;
    return true;
}

const void *source_row(const struct weight_source *source, uint32_t matrix, uint32_t row,
                       enum dtype *ret_dtype)
{
    const struct weight_part *part = &source->parts[(size_t)matrix * source->n_parts];
    while (row >= part->out_count) {
        row -= part->out_count;
        part++;
    }
    size_t row_bytes = (size_t)(source->in_count / dtype_block_count(part->dtype)) *
                       dtype_block_bytes(part->dtype);
    *ret_dtype = part->dtype;
    return (const char *)part->data + row * row_bytes;
}

void source_row_widen(const struct weight_source *source, uint32_t matrix, uint32_t row,
                      float *ret_values)
{
    enum dtype dtype;
    const void *bytes = source_row(source, matrix, row, &dtype);
    dtype_widen(dtype, bytes, source->in_count, ret_values);
}
