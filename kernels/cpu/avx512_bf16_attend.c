/*
 * attend.h with dot products of bf16: two multiply-adds an instruction and lane. Queries and
 * weights are rounded to bf16 (ops.h); a product adds a word's two values to its sum at once. K and
 * V in F32 are avx512's, in Q8_0 avx512-vnni's.
 */
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_bf16.h"
#include "kernels/cpu/avx512_dots.h"
#include "kernels/cpu/avx512_vnni.h"

#define ATTEND_SIZES(DO) DO(12) DO(8) DO(6) DO(4) DO(3) DO(2) DO(1)

/* The compiler's own form of it copies its sums around. */
AVX512_INLINE __m512 dot_add(__m512 sum, __m512i a, __m512i b)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

SHAPE_BODY void scores_chunk(const struct attend *a, uint32_t position, uint32_t pair, const int N,
                             const int V)
{
    const bool ahead = N <= 4;
    const char *keys[VECTORS_MAX], *next[VECTORS_MAX];
    uint32_t tokens[VECTORS_MAX], words = a->head_dim / 2, stride = a->block_tokens * 4;
    const size_t values_at = attend_values(DTYPE_BF16, a->head_dim, a->block_tokens);
    keys_find(a, position + (uint32_t)V * LANES, V, next, tokens);
    UNROLL for (int v = 0; v < V; v++) next[v] += (size_t)tokens[v] * 4;
    keys_find(a, position, V, keys, tokens);
    UNROLL for (int v = 0; v < V; v++) keys[v] += (size_t)tokens[v] * 4;
    __m512 sums[ATTEND_PAIRS_MAX][VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++) sums[n][v] =
        _mm512_setzero_ps();
    const union attend_word *q = a->q + pair;
    size_t index = 0;
    for (uint32_t i = 0; i < words; i++, q += ATTEND_PAIRS_MAX, index += stride) {
        __m512i key[VECTORS_MAX];
        UNROLL for (int v = 0; v < V; v++) key[v] = _mm512_loadu_si512(keys[v] + index);
        if (ahead)
            UNROLL for (int v = 0; v < V; v++)
            {
                ATTEND_AHEAD(keys[v] + values_at + index);
                ATTEND_AHEAD(next[v] + index);
            }
        UNROLL for (int n = 0; n < N; n++)
        {
            __m512i x = word_set(&q[n]);
            UNROLL for (int v = 0; v < V; v++) sums[n][v] = dot_add(sums[n][v], key[v], x);
        }
    }
    float *scores = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS + position % ATTEND_SPLIT_TOKENS;
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++)
        _mm512_storeu_ps(scores + (size_t)n * ATTEND_SPLIT_TOKENS + (size_t)v * LANES, sums[n][v]);
}

SHAPE_BODY void scores_body(const struct attend *a, uint32_t pair, const int N)
{
    const int V = N <= 3 ? 4 : 2;
    uint32_t chunk = (uint32_t)V * LANES, last = a->last[a->n_pairs - 1];
    for (uint32_t at = a->first[0] / chunk * chunk; at <= last; at += chunk)
        scores_chunk(a, at, pair, N, V);
}

/* The scores of one pair become its weights, bf16 in words of two positions, in the same place: a
 * vector of them is written after the two of scores that it comes from were read. Words that hold
 * some position of the pair have 0 for what is not its own. */
static void pair_softmax(struct attend *a, uint32_t pair)
{
    float *scores = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS;
    uint16_t *weights = (uint16_t *)(void *)scores;
    const size_t from = pair_from(a, pair), to = pair_to(a, pair);
    const float times = a->scale * LOG2_E;
    const __m512 scale = _mm512_set1_ps(times);
    const __m512 minus = _mm512_set1_ps(-pair_most(a, pair) * times);
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    __m512 sums = _mm512_setzero_ps();
    for (size_t i = from / (2 * LANES) * (2 * LANES); i < to; i += 2 * LANES) {
        __m512 low = _mm512_fmadd_ps(_mm512_loadu_ps(scores + i), scale, minus);
        __m512 high = _mm512_fmadd_ps(_mm512_loadu_ps(scores + i + LANES), scale, minus);
        low = _mm512_maskz_mov_ps(range_mask(i, from, to), exp2_ps(low));
        high = _mm512_maskz_mov_ps(range_mask(i + LANES, from, to), exp2_ps(high));
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        _mm512_storeu_si512(weights + i, both);
        sums = dot_add(sums, both, ones);
    }
    a->sum[pair] = _mm512_reduce_add_ps(sums);
}

/* Adds the weighted values of words first .. last of the split, F vectors of features from
 * `feature` on; `keep` has the bits of a word that count. */
SHAPE_BODY void values_chunk(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                             uint32_t feature, const int N, const int F, const uint32_t keep)
{
    const uint32_t block_words = a->block_tokens / 2;
    const uint32_t block_first = a->split * (ATTEND_SPLIT_TOKENS / a->block_tokens);
    const size_t stride = (size_t)a->head_dim * 4;
    const size_t values_at = attend_values(DTYPE_BF16, a->head_dim, a->block_tokens) + feature * 4;
    const char *weights = (const char *)(a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS);
    float *out = a->out + pair * a->out_stride + feature;
    __m512 sums[ATTEND_PAIRS_MAX][VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < F; f++) sums[n][f] =
        _mm512_loadu_ps(out + (size_t)n * a->out_stride + (size_t)f * LANES);
    for (uint32_t w = first; w <= last;) {
        uint32_t block = w / block_words, end = u32_min(last, (block + 1) * block_words - 1);
        const char *ahead = N <= 4 ? attend_block_ahead(a, block_first + block) : NULL;
        size_t index = w % block_words * stride;
        const char *values = attend_block_at(a, block_first + block) + values_at;
        for (; w <= end; w++, index += stride) {
            __m512i row[VECTORS_MAX];
            UNROLL for (int f = 0; f < F; f++)
            {
                row[f] = _mm512_loadu_si512(values + index + (size_t)f * LANES * 4);
                if (keep != UINT32_MAX)
                    row[f] = _mm512_and_si512(row[f], _mm512_set1_epi32((int)keep));
            }
            if (ahead)
                UNROLL for (int f = 0; f < F; f++)
                    ATTEND_AHEAD(ahead + feature * 4 + index + (size_t)f * LANES * 4);
            UNROLL for (int n = 0; n < N; n++)
            {
                __m512i weight = word_set(weights + (size_t)n * ATTEND_SPLIT_TOKENS * 4 + w * 4);
                UNROLL for (int f = 0; f < F; f++) sums[n][f] = dot_add(sums[n][f], row[f], weight);
            }
        }
    }
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < F; f++)
        _mm512_storeu_ps(out + (size_t)n * a->out_stride + (size_t)f * LANES, sums[n][f]);
}

SHAPE_BODY void values_body(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                            const int N, const uint32_t keep)
{
    const int F = N <= 4 ? 4 : 2;
    for (uint32_t feature = 0; feature < a->head_dim; feature += (uint32_t)F * LANES)
        values_chunk(a, first, last, pair, feature, N, F, keep);
}

/* Words from .. to of one pair, the outer ones of which may be its own by half: what shares them
 * may be NaN. */
static void pair_values(const struct attend *a, uint32_t pair, uint32_t from, uint32_t to)
{
    uint32_t first = a->first[pair] % ATTEND_SPLIT_TOKENS;
    uint32_t last = a->last[pair] % ATTEND_SPLIT_TOKENS;
    bool front = first % 2 == 1 && from == first / 2, back = last % 2 == 0 && to == last / 2;
    if (from > to)
        return;
    if (front)
        values_body(a, from, from, pair, 1, 0xffff0000u);
    if (from + front + back <= to)
        values_body(a, from + front, to - back, pair, 1, UINT32_MAX);
    if (back)
        values_body(a, to, to, pair, 1, 0xffffu);
}

/* Words that are whole for all pairs go in tiles; the others, at both ends, by themselves. */
static void values_run(const struct attend *a)
{
    uint32_t n = a->n_pairs, pair = 0;
    uint32_t all_from = (a->first[n - 1] % ATTEND_SPLIT_TOKENS + 1) / 2;
    uint32_t all_to = (a->last[0] % ATTEND_SPLIT_TOKENS + 1) / 2; /* the one behind the last */
    bool shared = all_from < all_to;
    for (uint32_t p = 0; p < n; p++)
        if (!shared)
            pair_values(a, p, (uint32_t)pair_from(a, p) / 2, (uint32_t)(pair_to(a, p) - 1) / 2);
        else if (pair_from(a, p) / 2 < all_from)
            pair_values(a, p, (uint32_t)pair_from(a, p) / 2, all_from - 1);
    if (!shared)
        return;
#define DO(count)                                                                                  \
    for (; n - pair >= count; pair += count)                                                       \
        values_body(a, all_from, all_to - 1, pair, count, UINT32_MAX);
    ATTEND_SIZES(DO)
#undef DO
    for (uint32_t p = 0; p < n; p++)
        pair_values(a, p, all_to, (uint32_t)(pair_to(a, p) - 1) / 2);
}

static void bf16_run(struct attend *a)
{
    uint32_t pair = 0;
#define DO(count)                                                                                  \
    for (; a->n_pairs - pair >= count; pair += count)                                              \
        scores_body(a, pair, count);
    ATTEND_SIZES(DO)
#undef DO
    for (uint32_t p = 0; p < a->n_pairs; p++)
        pair_softmax(a, p);
    memset(a->out, 0, a->n_pairs * a->out_stride * sizeof(float));
    values_run(a);
}

void avx512_bf16_attend(struct attend *attend)
{
    if (attend->query == QUERY_BF16)
        bf16_run(attend);
    else
        avx512_vnni_attend(attend);
}
