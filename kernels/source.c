#include "kernels/source.h"

void source_check(const struct weight_source *source)
{
    CHECK(source->stack_count > 0);
    CHECK(source->n_parts > 0 && source->n_parts <= WEIGHT_PARTS_MAX);
    CHECK(source->out_count > 0 && source->in_count > 0);
    CHECK(!source->paired || source->out_count % 2 == 0);
    for (uint32_t matrix = 0; matrix < source->stack_count; matrix++) {
        uint64_t out_count = 0;
        for (uint32_t i = 0; i < source->n_parts; i++) {
            const struct weight_part *part = &source->parts[matrix * source->n_parts + i];
            CHECK(part->data != NULL && part->out_count == source->parts[i].out_count);
            CHECK(source->in_count % dtype_block_count(part->dtype) == 0);
            out_count += part->out_count;
        }
        CHECK(out_count == source->out_count);
    }
}

static enum dtype part_kept_as(const struct weight_source *source, uint32_t part)
{
    enum dtype dtype = source->parts[part].dtype;
    for (uint32_t matrix = 1; matrix < source->stack_count; matrix++)
        if (source->parts[(size_t)matrix * source->n_parts + part].dtype != dtype)
            return DTYPE_F32;
    return source->exact && dtype_block_count(dtype) > 1 ? DTYPE_F32 : dtype;
}

uint32_t source_segments(const struct weight_source *source,
                         struct segment ret_segments[WEIGHT_PARTS_MAX])
{
    uint32_t n = 0, first_out = 0;
    for (uint32_t part = 0; part < source->n_parts; part++) {
        enum dtype dtype = part_kept_as(source, part);
        uint32_t out_count = source->parts[part].out_count;
        if (n == 0 || ret_segments[n - 1].dtype != dtype)
            ret_segments[n++] = (struct segment){.dtype = dtype, .first_out = first_out};
        ret_segments[n - 1].out_count += out_count;
        first_out += out_count;
    }
    return n;
}

size_t source_bytes(const struct weight_source *source, uint32_t widens)
{
    struct segment segments[WEIGHT_PARTS_MAX];
    size_t bytes = 0;
    uint32_t n = source_segments(source, segments);
    for (uint32_t i = 0; i < n; i++) {
        enum dtype dtype = widens >> segments[i].dtype & 1 ? DTYPE_BF16 : segments[i].dtype;
        bytes += (size_t)segments[i].out_count * (source->in_count / dtype_block_count(dtype)) *
                 dtype_block_bytes(dtype);
    }
    return bytes * source->stack_count;
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
