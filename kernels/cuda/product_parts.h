/*
 * product_parts: what the kernels of a product have in common: the pieces that a lane holds, what
 * the instructions make of them, and what is done with a sum.
 *
 * A warp has two panels of 16 outputs: neighbours, gate and up of the same outputs, or those that
 * rotary positions turn into each other. One kernel's
 * sum must be the other's (products.h): both come from chunk_multiply, in the order of the chunks
 * of a slice. Device code, and structs that the host fills; no state.
 */
#pragma once

#include "kernels/cuda/product_rows.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/rope.h"

struct product_task {
    const char *panels[2]; /* panel 0 of the segment; gated: of gate, of up */
    size_t panel_bytes, matrix_bytes;
    uint32_t n_panels; /* gated: of each */
    uint32_t n_chunks, slice_chunks;
    struct rows_ready rows;
    uint32_t n_rows, row_share;
    bool rows_own;             /* every block makes its one or two rows ready itself, of these: */
    struct rows_source source; /* row 0 */
    float norm_eps;
    const uint32_t *order;
    const struct product_tile *tiles; /* or NULL: all rows meet matrix 0 */
    bool gated;
    uint32_t first_out, segment_out; /* gated: segment_out of each half */
    uint32_t out_stride, up_bias;    /* values of a row of out; where the up half's biases begin */
    const float *bias, *residual;
    float *out;
    uint32_t pair_step; /* panels from the first of a pair to the second; not gated */
    bool turned;        /* few rows: pairs are the halves of a head, and go where `rope` says */
    struct rope_task rope;
};
/* Pairs of panels that a product has. */
static inline uint32_t product_pairs(bool gated, uint32_t n_panels)
{
    return gated ? n_panels : div_up(n_panels, 2);
}
/* Whether blocks of stream_run, of at most `rows_most` rows, should make them ready themselves: all
 * do the same at the same time, which takes as long as if one did, and spares a launch; a second
 * round of blocks, or more rows, would do it again and again. */
bool stream_makes_rows(const struct device *device, int dtype, uint32_t rows_most,
                       uint32_t n_blocks, uint32_t row_values);
void stream_run(struct device *device, int dtype, uint32_t tile_rows, uint32_t n_tiles,
                const struct product_task *task);
void tile_run(struct device *device, int dtype, uint32_t n_tiles, const struct product_task *task);
/* Whether `groups` has this type on this device; rows are in eights then. */
bool groups_take(const struct device *device, int dtype);
/* `groups` may be NULL. */
void groups_run(struct device *device, int dtype, const struct product_groups *groups,
                const struct product_task *product);

/* ---- weights ---- */

template <int dtype> struct chunk_shape {
    static constexpr bool blocks =
        dtype == DTYPE_Q8_0 || dtype == DTYPE_Q4_0 || dtype == DTYPE_Q4_1;
    static constexpr bool f8 = dtype == DTYPE_F8_E4M3;
    static constexpr uint32_t pieces = f8 || dtype == DTYPE_Q8_0 ? 2 : blocks ? 1 : 4;
    static constexpr uint32_t head_words = dtype == DTYPE_Q4_1 ? 4 : blocks || f8 ? 2 : 0;
    static constexpr uint32_t bytes = pieces * 512 + head_words * 32; /* with its scales */
    static constexpr uint32_t row_bytes = blocks ? 64 : 128;          /* of a row ready for it */
    static constexpr uint32_t row_pieces = blocks ? 1 : 2;            /* of a lane */
};

struct alignas(8) bytes8 {
    uint32_t word[2];
};

/* What a lane has of a chunk of a panel. */
template <int dtype> struct chunk_part {
    bytes16 piece[chunk_shape<dtype>::pieces];
    uint32_t head[4]; /* halves of outputs g, g + 8: scales of both blocks, then minima; of
                         F8_E4M3 a scale of each in f32 */
};

/* Where 16 bytes of chunk k of a panel are; its scales come last. */
template <int dtype> LEAF const char *chunk_piece_at(const char *panel, uint32_t k, uint32_t piece)
{
    if constexpr (chunk_shape<dtype>::f8)
        if (piece >= 64)
            return panel + f8_scales_offset(k) + (piece - 64) * 16;
    return panel + chunk_offset_of(dtype, k) + piece * 16;
}

template <int dtype> LEAF void chunk_read(chunk_part<dtype> &part, const char *panel, uint32_t k)
{
    constexpr uint32_t n = chunk_shape<dtype>::pieces;
    uint32_t lane = lane_index();
    const char *chunk = panel + chunk_offset_of(dtype, k);
    for (uint32_t i = 0; i < n; i++)
        part.piece[i] = load_stream(chunk + i * 512 + lane * 16);
    const char *heads = chunk_piece_at<dtype>(panel, k, n * 32);
    if constexpr (chunk_shape<dtype>::head_words == 4) {
        bytes16 head = *(const bytes16 *)(const void *)(heads + lane / 4 * 16);
        memcpy(part.head, &head, 16);
    } else if constexpr (chunk_shape<dtype>::head_words == 2) {
        bytes8 head = *(const bytes8 *)(const void *)(heads + lane / 4 * 8);
        memcpy(part.head, &head, 8);
    }
}

template <int dtype> LEAF void chunk_read(chunk_part<dtype> &part, shared<char> chunk)
{
    constexpr uint32_t n = chunk_shape<dtype>::pieces;
    uint32_t lane = lane_index();
    for (uint32_t i = 0; i < n; i++)
        part.piece[i] = (chunk + (i * 512 + lane * 16)).template as<bytes16>()[0];
    if constexpr (chunk_shape<dtype>::head_words == 4) {
        bytes16 head = (chunk + (n * 512 + lane / 4 * 16)).template as<bytes16>()[0];
        memcpy(part.head, &head, 16);
    } else if constexpr (chunk_shape<dtype>::head_words == 2) {
        bytes8 head = (chunk + (n * 512 + lane / 4 * 8)).template as<bytes8>()[0];
        memcpy(part.head, &head, 8);
    }
}

/* ---- rows ---- */

/* What a lane has of a chunk of 8 rows: values of row lane / 4, heads of rows 2 t and 2 t + 1. */
template <int dtype> struct row_part {
    bytes16 piece[chunk_shape<dtype>::row_pieces];
    struct rows_head head[2][2]; /* [row][block] */
};

LEAF void heads_unpack(struct rows_head (&head)[2], const bytes16 &from)
{
    for (uint32_t c = 0; c < 2; c++) {
        head[c].scale = float_of_bits(from.word[2 * c]);
        head[c].sum = (int32_t)from.word[2 * c + 1];
    }
}

/* ---- the product ---- */

LEAF void block_start(int32_t (&d)[4], int dtype, const struct rows_head &first,
                      const struct rows_head &second)
{
    /* A nibble counts from -8. */
    d[0] = d[2] = dtype == DTYPE_Q4_0 ? -8 * first.sum : 0;
    d[1] = d[3] = dtype == DTYPE_Q4_0 ? -8 * second.sum : 0;
}

template <int dtype>
LEAF void block_multiply(float (&sum)[4], const chunk_part<dtype> &w, const row_part<dtype> &x,
                         uint32_t c)
{
    int32_t d[4];
    block_start(d, dtype, x.head[0][c], x.head[1][c]);
    uint32_t b[2] = {x.piece[0].word[2 * c], x.piece[0].word[2 * c + 1]};
    if constexpr (dtype == DTYPE_Q8_0) {
        mma_s8(d, w.piece[c].word, b);
    } else {
        uint32_t g = w.piece[0].word[2 * c], h = w.piece[0].word[2 * c + 1];
        uint32_t a[4] = {g & 0x0f0f0f0f, h & 0x0f0f0f0f, g >> 4 & 0x0f0f0f0f, h >> 4 & 0x0f0f0f0f};
        mma_s8(d, a, b);
    }
    for (uint32_t i = 0; i < 4; i++) {
        const struct rows_head &head = x.head[i % 2][c];
        float scale = float_of_f16((uint16_t)(w.head[c] >> (i / 2 * 16)));
        sum[i] = fma32(scale * head.scale, (float)d[i], sum[i]);
        if constexpr (dtype == DTYPE_Q4_1)
            sum[i] = fma32(float_of_f16((uint16_t)(w.head[2 + c] >> (i / 2 * 16))),
                           head.scale * (float)head.sum, sum[i]);
    }
}

/* Four columns of outputs g and g + 8 as A. */
LEAF void f8_widen(uint32_t (&a)[4], uint32_t g, uint32_t h)
{
    a[0] = f16x2_of_e4m3x2<true>((uint16_t)g);
    a[1] = f16x2_of_e4m3x2<true>((uint16_t)h);
    a[2] = f16x2_of_e4m3x2<true>((uint16_t)(g >> 16));
    a[3] = f16x2_of_e4m3x2<true>((uint16_t)(h >> 16));
}

/* Bytes become halves of the same value; their sum is scaled once. */
LEAF void f8_multiply(float (&sum)[4], const chunk_part<DTYPE_F8_E4M3> &w,
                      const row_part<DTYPE_F8_E4M3> &x)
{
    float d[4] = {};
#pragma unroll
    for (uint32_t c = 0; c < 2; c++) {
#pragma unroll
        for (uint32_t m = 0; m < 4; m += 2) {
            uint32_t g = w.piece[c].word[m / 2], h = w.piece[c].word[2 + m / 2];
            uint32_t a[4];
            f8_widen(a, g, h);
            uint32_t b[2] = {x.piece[c].word[m], x.piece[c].word[m + 1]};
            mma_f16(d, a, b);
        }
    }
    for (uint32_t i = 0; i < 4; i++)
        sum[i] = fma32(float_of_bits(w.head[i / 2]), d[i], sum[i]);
}

/* Half c of a chunk of halves. */
template <int dtype>
LEAF void halves_multiply(float (&sum)[4], const chunk_part<dtype> &w, const row_part<dtype> &x,
                          uint32_t c)
{
#pragma unroll
    for (uint32_t m = 0; m < 4; m += 2) {
        const bytes16 &g = w.piece[2 * c], &h = w.piece[2 * c + 1];
        uint32_t a[4] = {g.word[m], h.word[m], g.word[m + 1], h.word[m + 1]};
        uint32_t b[2] = {x.piece[c].word[m], x.piece[c].word[m + 1]};
        if constexpr (dtype == DTYPE_BF16)
            mma_bf16(sum, a, b);
        else
            mma_f16(sum, a, b);
    }
}

/* sum: outputs g of rows 2 t, 2 t + 1, then outputs g + 8 of them. */
template <int dtype>
LEAF void chunk_multiply(float (&sum)[4], const chunk_part<dtype> &w, const row_part<dtype> &x)
{
    if constexpr (chunk_shape<dtype>::f8) {
        f8_multiply(sum, w, x);
    } else {
#pragma unroll
        for (uint32_t c = 0; c < 2; c++) {
            if constexpr (chunk_shape<dtype>::blocks)
                block_multiply<dtype>(sum, w, x, c);
            else
                halves_multiply<dtype>(sum, w, x, c);
        }
    }
}

/* ---- who multiplies what ---- */

#define NO_ROW UINT32_MAX

LEAF struct product_tile tile_of(const struct product_task &a, uint32_t index, uint32_t tile_rows)
{
    if (a.tiles)
        return a.tiles[index];
    uint32_t first = index * tile_rows;
    return {0, first, first < a.n_rows ? min_u32(tile_rows, a.n_rows - first) : 0};
}

/* The row at a place of a tile. */
LEAF uint32_t tile_row(const struct product_task &a, const struct product_tile &tile, uint32_t at)
{
    if (at >= tile.count)
        return NO_ROW;
    return a.order ? a.order[tile.first + at] : tile.first + at;
}

/* Panel `half` (0, 1) of pair `pair`; one that is not there is the last, whose outputs are dropped.
 */
LEAF const char *panel_of(const struct product_task &a, uint32_t matrix, uint32_t pair,
                          uint32_t half)
{
    uint32_t step = a.pair_step, first = pair / step * 2 * step + pair % step;
    uint32_t index = min_u32(a.gated ? pair : first + half * step, a.n_panels - 1);
    return a.panels[a.gated ? half : 0] + matrix * a.matrix_bytes + index * a.panel_bytes;
}

/* ---- ends ---- */

/* `place`: of the row among those made ready. */
LEAF float product_scaled(const struct product_task &a, uint32_t place, float sum)
{
    return a.rows.kind == ROWS_F16 ? sum * a.rows.scales[place] : sum;
}

LEAF float product_end(const struct product_task &a, uint32_t o, float sum)
{
    return a.bias ? sum + a.bias[o] : sum;
}

/* `o` counts from the segment's first output; sums have been scaled. */
LEAF void product_put(const struct product_task &a, uint32_t row, uint32_t o, float sum)
{
    if (row == NO_ROW || o >= a.segment_out)
        return;
    size_t at = (size_t)row * a.out_stride + a.first_out + o;
    sum = product_end(a, a.first_out + o, sum);
    global<float> out(a.out);
    out[at] = a.residual ? sum + a.residual[at] : sum;
}

LEAF void product_put_gated(const struct product_task &a, uint32_t row, uint32_t o, float gate,
                            float up)
{
    if (row == NO_ROW || o >= a.segment_out)
        return;
    gate = product_end(a, o, gate);
    up = product_end(a, a.up_bias + o, up);
    global<float> out(a.out);
    out[(size_t)row * a.out_stride + o] = silu(gate) * up;
}
