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
 *     in eights             for wgmma, halves alone: [chunks][n_rows / 8] of 8 rows of 128 bytes,
 *                           whose 16-byte piece p of row r lies at p ^ r: a chunk of all rows of a
 *                           tile is one bulk copy. Of 32 columns, piece q has the pairs q, q + 4,
 *                           q + 8, q + 12: each sixteen that an instruction adds up are then those
 *                           of the lanes of mma.sync (weight.h)
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
    bool eights;
    uint32_t n_eights;   /* there is room for */
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

/* Values i to i + 7, of which a thread asks for at once; those behind the end are zero. `whole`: of
 * rows_whole. */
LEAF void rows_values(const struct rows_source &source, bool whole, uint32_t i, float (&v)[8])
{
    if (whole && i < source.n) {
#pragma unroll
        for (uint32_t j = 0; j < 8; j += 4) {
            bytes16 x = *(const bytes16 *)(const void *)(source.in + i + j), g = {};
            if (source.norm)
                g = *(const bytes16 *)(const void *)(source.norm + i + j);
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                float value = float_of_bits(x.word[k]);
                v[j + k] = source.norm ? value * source.scale * float_of_bits(g.word[k]) : value;
            }
        }
        return;
    }
#pragma unroll
    for (uint32_t j = 0; j < 8; j++)
        v[j] = rows_value(source, i + j);
}

/* Rows of eights of values, on addresses that 16 bytes are read from. */
LEAF bool rows_whole(const struct rows_source &source)
{
    return source.n % 8 == 0 && ((uintptr_t)source.in | (uintptr_t)source.norm) % 16 == 0;
}

LEAF float rows_most(const struct rows_source &source, bool whole, shared<float> scratch)
{
    float most = 0;
    for (uint32_t i = 8 * thread_index(); i < source.n; i += 8 * ROWS_THREADS) {
        float v[8];
        rows_values(source, whole, i, v);
#pragma unroll
        for (uint32_t j = 0; j < 8; j++)
            most = fmaxf(most, fabsf(v[j]));
    }
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

/* Four lanes, 8 values each: a block of 32. `piece`: the lane's 8 bytes. */
template <template <typename> class place>
LEAF void rows_block_quantise(const float (&v)[8], place<uint32_t> piece, place<rows_head> head,
                              bool there)
{
    float most = 0;
    uint32_t wild = 0, word[2] = {0, 0};
#pragma unroll
    for (uint32_t j = 0; j < 8; j++) {
        most = fmaxf(most, fabsf(v[j]));
        wild |= !isfinite(v[j]);
    }
    for (uint32_t mask = 1; mask < 4; mask *= 2) {
        most = fmaxf(most, shuffle_xor(most, mask));
        wild |= shuffle_xor(wild, mask);
    }
    bool nothing = wild || most < 0x1p-100f;
    int32_t sum = 0;
#pragma unroll
    for (uint32_t j = 0; j < 8; j++) {
        int32_t q = nothing ? 0 : (int32_t)rintf(v[j] * (127.0f / most));
        sum += q;
        word[j / 4] |= ((uint32_t)q & 255) << (j % 4 * 8);
    }
    for (uint32_t mask = 1; mask < 4; mask *= 2)
        sum += shuffle_xor(sum, mask);
    if (!there)
        return;
    piece[0] = word[0];
    piece[1] = word[1];
    if (lane_index() % 4 == 0) {
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
    size_t eight = (size_t)(w / 32) * ready.n_eights + r / 8;
    return eight * (ROWS_EIGHT_BYTES / 4) + r % 8 * 32 + piece * 4 + w / 4 % 4;
}

/* Where rows are written to: memory, or the block's own. */
template <template <typename> class place> struct rows_places {
    place<char> data;
    place<rows_head> heads;
    place<float> scales;
};

template <template <typename> class place>
LEAF void rows_bytes_write(const struct rows_ready &ready, const rows_places<place> &to,
                           const struct rows_source &source, uint32_t r)
{
    bool whole = rows_whole(source);
    /* Lanes of a warp go together, for they meet. */
    for (uint32_t first = 256 * warp_index(); first < ready.row_values; first += 8 * ROWS_THREADS) {
        uint32_t i = first + 8 * lane_index(), block = i / 32;
        bool there = i < ready.row_values;
        float v[8];
        rows_values(source, whole, i, v);
        size_t at = (size_t)r * ready.row_values + i / 64 * 64 + i / 8 % 4 * 16 + block % 2 * 8;
        rows_block_quantise<place>(v, (to.data + (there ? at : 0)).template as<uint32_t>(),
                                   to.heads + ((size_t)r * (ready.row_values / 32) + block), there);
    }
}

template <template <typename> class place>
LEAF void rows_halves_write(const struct rows_ready &ready, const rows_places<place> &to,
                            const struct rows_source &source, uint32_t r, shared<float> scratch)
{
    bool whole = rows_whole(source);
    float scale = 1;
    if (ready.kind == ROWS_F16) {
        scale = rows_f16_scale(rows_most(source, whole, scratch));
        if (thread_index() == 0)
            to.scales[r] = 1.0f / scale;
    }
    place<uint32_t> words = to.data.template as<uint32_t>();
    for (uint32_t i = 8 * thread_index(); i < ready.row_values; i += 8 * ROWS_THREADS) {
        float v[8];
        rows_values(source, whole, i, v);
#pragma unroll
        for (uint32_t j = 0; j < 8; j += 2)
            words[rows_word(ready, r, (i + j) / 2)] =
                ready.kind == ROWS_BF16
                    ? pack_bf16(v[j], v[j + 1])
                    : (uint32_t)f16_of(v[j] * scale) | (uint32_t)f16_of(v[j + 1] * scale) << 16;
    }
}

/* Row r. The shape is that of `ready`. */
template <template <typename> class place>
LEAF void rows_write(const struct rows_ready &ready, const rows_places<place> &to,
                     const struct rows_source &source, uint32_t r, shared<float> scratch)
{
    if (ready.kind == ROWS_BYTES)
        rows_bytes_write<place>(ready, to, source, r);
    else
        rows_halves_write<place>(ready, to, source, r, scratch);
}

LEAF void rows_write(const struct rows_ready &ready, const struct rows_source &source, uint32_t r,
                     shared<float> scratch)
{
    rows_places<global> to = {global<char>(ready.data), global<rows_head>(ready.heads),
                              global<float>(ready.scales)};
    rows_write<global>(ready, to, source, r, scratch);
}
