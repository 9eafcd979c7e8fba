/*
 * product_rows: rows as tensor instructions want them, made of f32 rows and their norm.
 *
 * Weights in BF16 meet rows rounded to bf16, weights in F16 and F8_E4M3 rows rounded to f16 after
 * they were scaled by a power of two, and weights in blocks rows that were quantised 32 values at a
 * time by the rule of ops.h, the CPU's: whole-number products then, which no order of instructions
 * changes. A row depends on its values alone. Rows end at a multiple of 64 values, filled up with
 * zeros.
 *
 *     ROWS_BF16, ROWS_F16   [n_rows][row_values] halves, in order; f16: scales [n_rows], by which
 *                           what comes out is multiplied
 *     ROWS_BYTES            [n_rows][row_values] int8: a chunk of 64 is 4 pieces of 16 bytes, piece
 *                           t is [block 0, 1][values 8 t .. 8 t + 7]; heads [n_rows][blocks]
 *     in eights             for wgmma, halves alone: [n_rows / 8][chunks] of 8 rows of 128 bytes,
 *                           whose 16-byte piece p of row r lies at p ^ r: a chunk of eight rows is
 *                           one bulk copy. Of 32 columns, piece q has the pairs q, q + 4, q + 8,
 *                           q + 12: each sixteen that an instruction adds up are then those of
 *                           the lanes of mma.sync (weight.h)
 *
 * Called on fibers or on the card by all threads of a block of ROWS_THREADS, for one row: by
 * kernels of their own, by the router, and by blocks that have a row or two to themselves.
 */
#pragma once

#include "kernels/cuda/leaf.h"
#include "kernels/cuda/weight.h"

#define ROWS_THREADS 256
#define ROWS_EIGHT_BYTES 1024 /* a chunk of eight rows */
#define ROWS_SHARED_BYTES (33 * sizeof(float))

enum rows_kind { ROWS_PLAIN, ROWS_BF16, ROWS_F16, ROWS_BYTES };

LEAF_BOTH enum rows_kind rows_kind_of(int dtype)
{
    return dtype == DTYPE_BF16                            ? ROWS_BF16
           : dtype == DTYPE_F16 || dtype == DTYPE_F8_E4M3 ? ROWS_F16
                                                          : ROWS_BYTES;
}

/* Of a block of 32 values. */
struct alignas(8) rows_head {
    float scale;
    int32_t sum; /* of the quantised values */
};

struct rows_ready {
    enum rows_kind kind;
    bool eights;         /* n_rows is a multiple of 8 then */
    uint32_t row_values; /* a multiple of CHUNK_VALUES */
    char *data;
    struct rows_head *heads; /* ROWS_BYTES: [n_rows][row_values / 32] */
    float *scales;           /* ROWS_F16: [n_rows] */
};

/* One row of f32: x of linear_args. */
struct rows_source {
    const float *in, *norm; /* [n], [n] or NULL */
    uint32_t n;
    float scale; /* of the norm, once rows_norm_scale has been called; 1 without */
};

LEAF float rows_value(const struct rows_source &source, uint32_t i)
{
    if (i >= source.n)
        return 0;
    return source.norm ? source.in[i] * source.scale * source.norm[i] : source.in[i];
}

/* 1 / sqrt(mean of squares + eps): the bits of rows_norm. */
LEAF float rows_norm_scale(const float *in, uint32_t n, float eps, shared<float> scratch)
{
    float sum = 0;
    for (uint32_t i = thread_index(); i < n; i += ROWS_THREADS)
        sum = fma32(in[i], in[i], sum);
    sum = block_sum(sum, scratch);
    return 1.0f / sqrtf(sum / (float)n + eps);
}

LEAF float rows_most(const struct rows_source &source, shared<float> scratch)
{
    float most = 0;
    for (uint32_t i = thread_index(); i < source.n; i += ROWS_THREADS)
        most = fmaxf(most, fabsf(rows_value(source, i)));
    most = warp_max(most);
    if (lane_index() == 0)
        scratch[warp_index()] = most;
    barrier();
    for (uint32_t i = 0; i < ROWS_THREADS / 32; i++)
        most = fmaxf(most, (float)scratch[i]);
    barrier();
    return most;
}

/* The power of two that brings `most` into [2^14, 2^15), of what f16 holds at its best. */
LEAF float rows_f16_scale(float most)
{
    int32_t exponent = (int32_t)(bits_of_float(most) >> 23) - 127;
    exponent = exponent < -100 ? -100 : exponent > 120 ? 120 : exponent;
    return float_of_bits((uint32_t)(127 + 14 - exponent) << 23);
}

/* Writes a block of 32 values, a lane each. `place`: shared or global. */
template <template <typename> class place>
LEAF void rows_block_quantise(float value, place<char> chunk, uint32_t c, place<rows_head> head)
{
    float most = warp_max(fabsf(value));
    bool wild = warp_ballot(!isfinite(value)) != 0;
    bool nothing = wild || most < 0x1p-100f;
    int32_t q = nothing ? 0 : (int32_t)rintf(value * (127.0f / most));
    int32_t sum = warp_sum(q);
    uint32_t lane = lane_index();
    chunk[lane / 8 * 16 + c * 8 + lane % 8] = (char)q;
    if (lane == 0) {
        struct rows_head made = {wild ? NAN : nothing ? 0 : most / 127.0f, sum};
        head[0] = made;
    }
}

/* Where word w of row r lies, in words. */
LEAF size_t rows_word(const struct rows_ready &ready, uint32_t r, uint32_t w)
{
    if (!ready.eights)
        return (size_t)r * (ready.row_values / 2) + w;
    uint32_t piece = (w / 16 % 2 * 4 + w % 4) ^ r % 8;
    size_t eight = (size_t)(r / 8) * (ready.row_values / CHUNK_VALUES) + w / 32;
    return eight * (ROWS_EIGHT_BYTES / 4) + r % 8 * 32 + piece * 4 + w / 4 % 4;
}

/* Where rows are written to: memory, or the block's own. */
template <template <typename> class place> struct rows_places {
    place<char> data;
    place<rows_head> heads;
    place<float> scales;
};

/* Row r. The shape is that of `ready`. */
template <template <typename> class place>
LEAF void rows_write(const struct rows_ready &ready, const rows_places<place> &to,
                     const struct rows_source &source, uint32_t r, shared<float> scratch)
{
    if (ready.kind == ROWS_BYTES) {
        size_t first = (size_t)r * ready.row_values;
        for (uint32_t block = warp_index(); block < ready.row_values / 32;
             block += ROWS_THREADS / 32) {
            float value = rows_value(source, block * 32 + lane_index());
            rows_block_quantise<place>(value, to.data + (first + block / 2 * CHUNK_VALUES),
                                       block % 2,
                                       to.heads + ((size_t)r * (ready.row_values / 32) + block));
        }
        return;
    }
    float scale = 1;
    if (ready.kind == ROWS_F16) {
        scale = rows_f16_scale(rows_most(source, scratch));
        if (thread_index() == 0)
            to.scales[r] = 1.0f / scale;
    }
    place<uint32_t> words = to.data.template as<uint32_t>();
    for (uint32_t i = thread_index(); i < ready.row_values / 2; i += ROWS_THREADS) {
        float low = rows_value(source, 2 * i), high = rows_value(source, 2 * i + 1);
        words[rows_word(ready, r, i)] =
            ready.kind == ROWS_BF16
                ? pack_bf16(low, high)
                : (uint32_t)f16_of(low * scale) | (uint32_t)f16_of(high * scale) << 16;
    }
}

LEAF void rows_write(const struct rows_ready &ready, const struct rows_source &source, uint32_t r,
                     shared<float> scratch)
{
    rows_places<global> to = {global<char>(ready.data), global<rows_head>(ready.heads),
                              global<float>(ready.scales)};
    rows_write<global>(ready, to, source, r, scratch);
}
