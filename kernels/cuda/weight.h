/*
 * weight: matrices on the card, as kernels read them.
 *
 * The layout of this version: rows one after the other, in the blocks that files have, each row of
 * a segment on a 16-byte boundary. Whoever changes it changes weight.cu and this file together.
 */
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/leaf.h"

/* One segment of one matrix, for a kernel. */
struct weight_view {
    const char *data; /* row 0 */
    size_t row_bytes;
    enum dtype dtype;
    uint32_t first_out, out_count, in_count;
};

static inline struct weight_view weight_view_of(const struct weight *weight, uint32_t index,
                                                uint32_t segment)
{
    CHECK(index < weight->stack_count && segment < weight->n_segments);
    const struct weight_segment *s = &weight->segments[segment];
    return {weight->data + index * weight->matrix_bytes + s->offset_bytes,
            s->row_bytes,
            s->dtype,
            s->first_out,
            s->out_count,
            weight->in_count};
}

/* Value `i` of a row, widened as dtype_widen does. The block formats hold two-byte fields at even
 * addresses. */
template <int dtype> LEAF float weight_value(const char *row, uint32_t i)
{
    if constexpr (dtype == DTYPE_F32) {
        return ((const float *)(const void *)row)[i];
    } else if constexpr (dtype == DTYPE_F16) {
        return float_of_f16(((const uint16_t *)(const void *)row)[i]);
    } else if constexpr (dtype == DTYPE_BF16) {
        return float_of_bf16(((const uint16_t *)(const void *)row)[i]);
    } else {
        constexpr uint32_t bytes = dtype == DTYPE_Q8_0 ? 34 : dtype == DTYPE_Q4_0 ? 18 : 20;
        const char *block = row + (size_t)(i / 32) * bytes;
        const uint8_t *data = (const uint8_t *)block + 2;
        uint32_t at = i % 32;
        float scale = float_of_f16(*(const uint16_t *)(const void *)block);
        if constexpr (dtype == DTYPE_Q8_0)
            return scale * (float)(int8_t)data[at];
        if constexpr (dtype == DTYPE_Q4_1)
            data += 2;
        uint32_t nibble = data[at % 16] >> (at / 16 * 4) & 15;
        if constexpr (dtype == DTYPE_Q4_0)
            return scale * (float)((int32_t)nibble - 8);
        return scale * (float)nibble + float_of_f16(((const uint16_t *)(const void *)block)[1]);
    }
}

/* Calls `use` with the dtype as a constant: `use` takes a dtype_constant<...>. */
template <int value> struct dtype_constant {
    static constexpr int dtype = value;
};
template <typename F> static inline void dtype_switch(enum dtype dtype, F use)
{
    switch (dtype) {
    case DTYPE_F32:
        return use(dtype_constant<DTYPE_F32>());
    case DTYPE_F16:
        return use(dtype_constant<DTYPE_F16>());
    case DTYPE_BF16:
        return use(dtype_constant<DTYPE_BF16>());
    case DTYPE_Q8_0:
        return use(dtype_constant<DTYPE_Q8_0>());
    case DTYPE_Q4_0:
        return use(dtype_constant<DTYPE_Q4_0>());
    case DTYPE_Q4_1:
        return use(dtype_constant<DTYPE_Q4_1>());
    case DTYPE_COUNT:
        break;
    }
    CHECK(false);
}
