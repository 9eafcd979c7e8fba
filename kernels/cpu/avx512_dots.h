/*
 * avx512_dots: what attention with dot products of words (attend.h) has in common for bf16 and
 * bytes: where words lie, and the softmax. Only for files of the tiers that have such products.
 *
 * Scores stay as the products give them, without `scale`: exp((score - most) * scale) is 2^x, x one
 * fused multiply-add of the score.
 */
#pragma once

#include "kernels/cpu/attend.h"
#include "kernels/cpu/avx512_math.h"
#include "kernels/cpu/unroll.h"

#define VECTORS_MAX 4
#define LOG2_E 0x1.715476p0f

/* 2^x for x <= 0, below 2^-18 of itself off; NaN gives NaN. */
AVX512_INLINE __m512 exp2_ps(__m512 x)
{
    __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* x - floor(x) */
    __m512 sum = _mm512_set1_ps(0x1.bb7cdep-7f);
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(0x1.aa13f2p-5f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(0x1.ee7988p-3f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(0x1.62d166p-1f));
    sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(0x1.00002cp0f));
    return _mm512_scalef_ps(sum, x);
}

/* Lanes of the vector at `i` that are among from .. to - 1. */
AVX512_INLINE __mmask16 range_mask(size_t i, size_t from, size_t to)
{
    __mmask16 mask = i + LANES <= to ? 0xffff : lanes_mask(to > i ? to - i : 0);
    return i >= from ? mask : mask & (__mmask16)~lanes_mask(from - i);
}

/* A pair's own positions of the split: from .. to - 1. */
static inline size_t pair_from(const struct attend *a, uint32_t pair)
{
    return a->first[pair] % ATTEND_SPLIT_TOKENS;
}

static inline size_t pair_to(const struct attend *a, uint32_t pair)
{
    return a->last[pair] % ATTEND_SPLIT_TOKENS + 1;
}

/* Sets the pair's most; returns its largest score. */
static inline float pair_most(struct attend *a, uint32_t pair)
{
    const float *scores = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS;
    size_t from = pair_from(a, pair), to = pair_to(a, pair);
    __m512 most = _mm512_set1_ps(-__builtin_inff());
    for (size_t i = from / LANES * LANES; i < to; i += LANES)
        most = _mm512_mask_max_ps(most, range_mask(i, from, to), most, _mm512_loadu_ps(scores + i));
    float largest = _mm512_reduce_max_ps(most);
    a->most[pair] = largest * a->scale;
    return largest;
}

/* The blocks that V vectors of keys lie in, from `position` on, and their places in them. */
AVX512_INLINE void keys_find(const struct attend *a, uint32_t position, const int V,
                             const char **ret_blocks, uint32_t *ret_tokens)
{
    uint32_t block_first = a->first[0] / a->block_tokens;
    uint32_t block_last = a->last[a->n_pairs - 1] / a->block_tokens;
    UNROLL for (int v = 0; v < V; v++)
    {
        uint32_t at = position + (uint32_t)v * LANES; /* the ends are no one's: any block will do */
        uint32_t block = u32_min(u32_max(at / a->block_tokens, block_first), block_last);
        ret_tokens[v] = at % a->block_tokens;
        ret_blocks[v] = attend_block_at(a, block);
    }
}

AVX512_INLINE __m512i word_set(const void *word)
{
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return _mm512_set1_epi32(bits);
}
