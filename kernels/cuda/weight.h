/*
 * weight: matrices on the card, as kernels read them.
 *
 * Two layouts. F32, and what is never to meet rounded rows (`exact`), lie plainly: row after row,
 * each on a 16-byte boundary. All other types lie in panels, in the order in which a warp's tensor
 * instructions want them, so that every load is 32 lanes times 16 bytes in one piece and nothing
 * passes through shared memory to be turned:
 *
 *     a segment is [panels]; a panel is 16 outputs, [chunks]; a chunk is 64 columns of them
 *
 * What is missing of the last panel and chunk is zero. Lane 4 g + t of a chunk holds outputs g and
 * g + 8. c is a half of 32 columns, of which the lane has [32 c + 8 t, 32 c + 8 t + 8):
 *
 *     BF16, F16  2048 bytes: [c][output g, g + 8][lane] 16 bytes, the 8 values in order
 *     Q8_0       1088 bytes: [c][lane] 16 bytes: 4 of g, 4 of g + 8, the other 4 of g, of g + 8
 *                then scales [g][c][output g, g + 8] f16
 *     Q4_0        576 bytes: [lane] 16 bytes: [c][output g, g + 8] a word: its byte j has value j
 *                in the lower nibble and value j + 4 in the upper; then scales as above
 *     Q4_1        640 bytes: the same; then [g] {scales [c][output], minima [c][output]} f16
 *     F8_E4M3    1024 bytes: [c][lane] 16 bytes: 8 of g, 8 of g + 8, in order. After every second
 *                chunk the scales of both, which they share: [g][output g, g + 8] f32
 *
 * The columns that an instruction calls 2 t, 2 t + 1, ... are thus others than it thinks: rows are
 * laid out to agree (product_rows.h).
 */
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/leaf.h"

#define PANEL_OUTPUTS 16
#define CHUNK_VALUES 64

/* Bytes of a chunk of a panel, by type; 0: the type lies plainly. */
LEAF_BOTH uint32_t chunk_bytes_of(int dtype)
{
    return dtype == DTYPE_BF16 || dtype == DTYPE_F16 ? 2048
           : dtype == DTYPE_Q8_0                     ? 1088
           : dtype == DTYPE_Q4_0                     ? 576
           : dtype == DTYPE_Q4_1                     ? 640
           : dtype == DTYPE_F8_E4M3                  ? 1024
                                                     : 0;
}

/* Scales of two chunks of F8_E4M3. */
#define F8_SCALES_BYTES 64

/* Where chunk k of a panel begins; that of the number of chunks is the panel's bytes. */
LEAF_BOTH size_t chunk_offset_of(int dtype, uint32_t k)
{
    size_t scales = dtype == DTYPE_F8_E4M3 ? k / 2 * F8_SCALES_BYTES : 0;
    return (size_t)k * chunk_bytes_of(dtype) + scales;
}

/* Where the scales of chunk k of F8_E4M3 are. */
LEAF_BOTH size_t f8_scales_offset(uint32_t k)
{
    return chunk_offset_of(DTYPE_F8_E4M3, k | 1) + 1024;
}

/* One segment of one matrix, for a kernel. */
struct weight_view {
    const char *data; /* row 0, or panel 0 */
    size_t row_bytes; /* of a row, or of a panel */
    enum dtype dtype;
    bool panels;
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
            s->panels,
            s->first_out,
            s->out_count,
            weight->in_count};
}

LEAF float weight_half(int dtype, const char *at)
{
    uint16_t half = *(const uint16_t *)(const void *)at;
    return dtype == DTYPE_BF16 ? float_of_bf16(half) : float_of_f16(half);
}

/* Value `i` of a row of blocks as files have them. The formats hold two-byte fields at even
 * addresses. */
template <int dtype> LEAF float weight_plain_value(const char *row, uint32_t i)
{
    if constexpr (dtype == DTYPE_F32) {
        return ((const float *)(const void *)row)[i];
    } else {
        static_assert(dtype == DTYPE_F16 || dtype == DTYPE_BF16, "blocks lie in panels");
        return weight_half(dtype, row + 2 * (size_t)i);
    }
}

/* Value `i` of output `o` of a panel. */
template <int dtype> LEAF float weight_panel_value(const char *panel, uint32_t o, uint32_t i)
{
    const char *chunk = panel + chunk_offset_of(dtype, i / CHUNK_VALUES);
    uint32_t g = o % 8, h = o / 8, c = i / 32 % 2, lane = 4 * g + i / 8 % 4, j = i % 8;
    if constexpr (dtype == DTYPE_F8_E4M3) {
        const char *scales = panel + f8_scales_offset(i / CHUNK_VALUES);
        return ((const float *)(const void *)scales)[2 * g + h] *
               float_of_e4m3((uint8_t)chunk[(c * 32 + lane) * 16 + h * 8 + j]);
    }
    if constexpr (dtype == DTYPE_BF16 || dtype == DTYPE_F16)
        return weight_half(dtype, chunk + ((2 * c + h) * 32 + lane) * 16 + 2 * j);
    if constexpr (dtype == DTYPE_Q8_0) {
        int8_t q = (int8_t)chunk[(c * 32 + lane) * 16 + j / 4 * 8 + h * 4 + j % 4];
        return weight_half(DTYPE_F16, chunk + 1024 + (4 * g + 2 * c + h) * 2) * (float)q;
    }
    uint32_t byte = (uint8_t)chunk[lane * 16 + (2 * c + h) * 4 + j % 4];
    uint32_t nibble = byte >> (j / 4 * 4) & 15;
    if constexpr (dtype == DTYPE_Q4_0)
        return weight_half(DTYPE_F16, chunk + 512 + (4 * g + 2 * c + h) * 2) *
               (float)((int32_t)nibble - 8);
    const char *head = chunk + 512 + 16 * g + (2 * c + h) * 2;
    return weight_half(DTYPE_F16, head) * (float)nibble + weight_half(DTYPE_F16, head + 8);
}

/* Value `i` of output `o` of a segment, widened as dtype_widen does. */
template <int dtype> LEAF float weight_value(const struct weight_view &view, uint32_t o, uint32_t i)
{
    if constexpr (dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16)
        if (!view.panels)
            return weight_plain_value<dtype>(view.data + o * view.row_bytes, i);
    return weight_panel_value<dtype>(view.data + o / PANEL_OUTPUTS * view.row_bytes,
                                     o % PANEL_OUTPUTS, i);
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
    case DTYPE_F8_E4M3:
        return use(dtype_constant<DTYPE_F8_E4M3>());
    case DTYPE_KV_E4M3:
    case DTYPE_COUNT:
        break;
    }
    CHECK(false);
}
