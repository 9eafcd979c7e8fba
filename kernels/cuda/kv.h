/*
 * kv: a page of the KV cache, as kernels see it.
 *
 * A page holds block_tokens positions of one sequence: [n_layers][n_kv_heads]{K, V}, each a tile of
 * block_tokens rows of head_dim values in the pool's type. Whoever changes the inside changes this
 * file alone: rope_kv and attention go through kv_tile and kv_place.
 *
 * F32, E4M3, and heads that are no multiple of 16: rows one after the other, those of E4M3 filled
 * up to 4 bytes, as many as on CPUs. BF16 else: the tile is cut
 * into strips of 64 features, then one of 32 and one of 16 where head_dim asks for them (80 is 64
 * and 16). A strip is [block_tokens][128, 64 or 32 bytes], its 16-byte pieces scrambled as the
 * tensor instructions of sm_90a read them (the swizzle of that width, by address bits). Any run of
 * rows of a strip is thus one bulk copy, and where a strip of more rows lies in shared memory on
 * 1024 bytes the same pieces lie at the same places: kv_piece_at with another number of rows.
 */
#pragma once

#include <float.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/leaf.h"

/* What a kernel needs to find a position. */
struct kv_view {
    char *data;
    const uint32_t *table; /* [slots_count][slot_blocks_max] */
    uint32_t slot_blocks_max, block_tokens, n_layers, n_kv_heads, head_dim;
    uint32_t element_bytes; /* 4: f32, 2: bf16, 1: e4m3 */
    uint32_t row_bytes;     /* of a row in a tile without strips */
    bool strips;            /* else rows */
    size_t page_bytes;
};

LEAF_BOTH bool kv_has_strips(enum dtype dtype, uint32_t head_dim)
{
    return dtype == DTYPE_BF16 && head_dim % 16 == 0;
}

/* Of K, or V, of one head at one position. */
static inline uint32_t kv_row_bytes(const struct kv_shape *shape)
{
    uint32_t bytes = shape->head_dim * dtype_block_bytes(shape->dtype);
    return shape->dtype == DTYPE_KV_E4M3 ? (bytes + 3) / 4 * 4 : bytes;
}

static inline struct kv_view kv_view_of(const struct kv *kv)
{
    const struct kv_shape *s = &kv->shape;
    struct kv_view view = {};
    view.data = kv->data;
    view.table = kv->table;
    view.slot_blocks_max = s->slot_blocks_max;
    view.block_tokens = s->block_tokens;
    view.n_layers = s->n_layers;
    view.n_kv_heads = s->n_kv_heads;
    view.head_dim = s->head_dim;
    view.element_bytes = dtype_block_bytes(s->dtype);
    view.row_bytes = kv_row_bytes(s);
    view.strips = kv_has_strips(s->dtype, s->head_dim);
    view.page_bytes = cuda_kv_block_bytes(s);
    return view;
}

/* ---- strips ---- */

LEAF_BOTH uint32_t kv_strips_count(uint32_t head_dim)
{
    return head_dim / 64 + (head_dim % 64 >= 32) + (head_dim % 32 >= 16);
}

/* The first feature of a strip, and how many it has: 64, 32 or 16. */
LEAF_BOTH uint32_t kv_strip_first(uint32_t head_dim, uint32_t strip)
{
    uint32_t whole = head_dim / 64;
    return strip <= whole ? strip * 64 : whole * 64 + 32;
}
LEAF_BOTH uint32_t kv_strip_width(uint32_t head_dim, uint32_t strip)
{
    uint32_t left = head_dim - kv_strip_first(head_dim, strip);
    return left >= 64 ? 64 : left >= 32 ? 32 : 16;
}
LEAF_BOTH uint32_t kv_strip_of(uint32_t head_dim, uint32_t feature)
{
    uint32_t whole = head_dim / 64, in_rest = feature % 64;
    return feature / 64 < whole ? feature / 64 : whole + (head_dim % 64 >= 32 && in_rest >= 32);
}

/* Where the 16 bytes of features 8 piece .. 8 piece + 7 of a row lie in a tile of n_rows rows. */
LEAF_BOTH uint32_t kv_piece_at(uint32_t head_dim, uint32_t n_rows, uint32_t row, uint32_t piece)
{
    uint32_t strip = kv_strip_of(head_dim, piece * 8);
    uint32_t first = kv_strip_first(head_dim, strip) / 8;
    uint32_t row_bytes = kv_strip_width(head_dim, strip) * 2;
    uint32_t at = row * row_bytes; /* scrambled by how many 128 bytes lie before */
    uint32_t scrambled = (piece - first) ^ (at >> 7 & (row_bytes / 16 - 1));
    return n_rows * first * 16 + at + scrambled * 16;
}

/* ---- values ---- */

/* K (value 0) or V (value 1) of one head in one page: [block_tokens][head_dim]. */
LEAF char *kv_tile(const struct kv_view &kv, uint32_t block, uint32_t layer, uint32_t kv_head,
                   uint32_t value)
{
    size_t tile = (size_t)kv.block_tokens * kv.row_bytes;
    return kv.data + block * kv.page_bytes +
           ((size_t)(layer * kv.n_kv_heads + kv_head) * 2 + value) * tile;
}

LEAF uint32_t kv_block(const struct kv_view &kv, uint32_t slot, uint32_t position)
{
    return kv.table[(size_t)slot * kv.slot_blocks_max + position / kv.block_tokens];
}

/* Byte of value i of a row in its tile. */
LEAF size_t kv_place(const struct kv_view &kv, uint32_t token, uint32_t i)
{
    if (kv.strips)
        return kv_piece_at(kv.head_dim, kv.block_tokens, token, i / 8) + i % 8 * 2;
    return (size_t)token * kv.row_bytes + i * kv.element_bytes;
}

LEAF float kv_value(const struct kv_view &kv, const char *tile, uint32_t token, uint32_t i)
{
    const void *at = tile + kv_place(kv, token, i);
    return kv.element_bytes == 1   ? float_of_e4m3(*(const uint8_t *)at)
           : kv.element_bytes == 2 ? float_of_bf16(*(const uint16_t *)at)
                                   : *(const float *)at;
}

LEAF void kv_store(const struct kv_view &kv, char *tile, uint32_t token, uint32_t i, float value)
{
    void *at = tile + kv_place(kv, token, i);
    if (kv.element_bytes == 1)
        global<uint8_t>((uint8_t *)at)[0] = fabsf(value) <= FLT_MAX ? e4m3_of(value) : 0x7f;
    else if (kv.element_bytes == 2)
        global<uint16_t>((uint16_t *)at)[0] = bf16_of(value);
    else
        global<float>((float *)at)[0] = value;
}

/* Host: every position first..last of the slot has a block in the table. */
void kv_check(const struct kv *kv, uint32_t layer, uint32_t slot, uint32_t first, uint32_t last);
