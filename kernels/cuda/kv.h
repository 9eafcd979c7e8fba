/*
 * kv: a page of the KV cache, as kernels see it.
 *
 * A page holds block_tokens positions of one sequence: [n_layers][n_kv_heads]{K, V}, each
 * [block_tokens][head_dim] in the pool's type. Whoever changes the inside changes this file alone:
 * rope_kv and attention go through kv_tile.
 */
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/leaf.h"

/* What a kernel needs to find a position. */
struct kv_view {
    char *data;
    const uint32_t *table; /* [slots_count][slot_blocks_max] */
    uint32_t slot_blocks_max, block_tokens, n_layers, n_kv_heads, head_dim;
    uint32_t element_bytes; /* 4: f32, 2: bf16 */
    size_t page_bytes;
};

static inline struct kv_view kv_view_of(const struct kv *kv)
{
    const struct kv_shape *s = &kv->shape;
    return {
        kv->data,      kv->table,   s->slot_blocks_max,          s->block_tokens,       s->n_layers,
        s->n_kv_heads, s->head_dim, dtype_block_bytes(s->dtype), cuda_kv_block_bytes(s)};
}

/* K (value 0) or V (value 1) of one head in one page: [block_tokens][head_dim]. */
LEAF char *kv_tile(const struct kv_view &kv, uint32_t block, uint32_t layer, uint32_t kv_head,
                   uint32_t value)
{
    size_t tile = (size_t)kv.block_tokens * kv.head_dim * kv.element_bytes;
    return kv.data + block * kv.page_bytes +
           ((size_t)(layer * kv.n_kv_heads + kv_head) * 2 + value) * tile;
}

LEAF uint32_t kv_block(const struct kv_view &kv, uint32_t slot, uint32_t position)
{
    return kv.table[(size_t)slot * kv.slot_blocks_max + position / kv.block_tokens];
}

LEAF float kv_value(const struct kv_view &kv, const char *tile, uint32_t token, uint32_t i)
{
    size_t at = (size_t)token * kv.head_dim + i;
    if (kv.element_bytes == 2)
        return float_of_bf16(((const uint16_t *)(const void *)tile)[at]);
    return ((const float *)(const void *)tile)[at];
}

LEAF void kv_store(const struct kv_view &kv, char *tile, uint32_t token, uint32_t i, float value)
{
    size_t at = (size_t)token * kv.head_dim + i;
    if (kv.element_bytes == 2)
        global<uint16_t>((uint16_t *)(void *)tile)[at] = bf16_of(value);
    else
        global<float>((float *)(void *)tile)[at] = value;
}

/* Host: every position first..last of the slot has a block in the table. */
void kv_check(const struct kv *kv, uint32_t layer, uint32_t slot, uint32_t first, uint32_t last);
