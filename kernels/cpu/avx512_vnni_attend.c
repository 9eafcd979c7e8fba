/*
 * attend.h with dot products of bytes: four multiply-adds an instruction and lane, in whole
 * numbers, which no order changes. For K queries are bytes and K is unsigned; for V the weights,
 * times the scales of V, are whole numbers of 16 bits (ops.h), as a high and a low byte that are
 * multiplied apart. What is not a pair's own has weight 0. K and V in F32 and BF16 are avx512's.
 */
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_dots.h"
#include "kernels/cpu/avx512_vnni.h"

#define ATTEND_SIZES(DO) DO(6) DO(4) DO(3) DO(2) DO(1)
#define GROUP_WORDS (KV_SCALE_VALUES / 4)
#define GROUP_VECTORS (KV_SCALE_VALUES / LANES)
#define WEIGHT_MOST 65535

_Static_assert(ATTEND_SPLIT_TOKENS * 127ll * WEIGHT_MOST < INT32_MAX, "a split's sum is an int32");

/* Weights of one group of features: [ATTEND_PAIRS_MAX], high and low bytes by position. */
struct plane {
    uint8_t high[ATTEND_SPLIT_TOKENS], low[ATTEND_SPLIT_TOKENS];
};

/* The compiler's own form of it copies its sums around. */
AVX512_INLINE __m512i dot_add(__m512i sum, __m512i weights, __m512i values)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(values));
    return sum;
}

AVX512_INLINE __m512 scales_load(const uint16_t *scales)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)scales));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* The scales of `group` at a block's place `at`, for positions from `token` on. */
AVX512_INLINE const uint16_t *scales_find(const struct attend *a, const char *block, size_t at,
                                          uint32_t group, uint32_t token)
{
    return (const uint16_t *)(const void *)(block + at) + (size_t)group * a->block_tokens + token;
}

SHAPE_BODY void scores_chunk(const struct attend *a, uint32_t position, uint32_t pair, const int N,
                             const int V)
{
    const bool ahead = N <= 4;
    const char *blocks[VECTORS_MAX];
    uint32_t tokens[VECTORS_MAX], words = attend_key_words(DTYPE_Q8_0, a->head_dim);
    const uint32_t groups = attend_groups(a->head_dim);
    const size_t stride = (size_t)a->block_tokens * 4;
    const size_t scales_at = attend_key_scales(DTYPE_Q8_0, a->head_dim, a->block_tokens);
    const size_t values_at = attend_values(DTYPE_Q8_0, a->head_dim, a->block_tokens);
    const size_t value_scales_at = attend_value_scales(DTYPE_Q8_0, a->head_dim, a->block_tokens);
    keys_find(a, position, V, blocks, tokens);
    __m512 totals[ATTEND_PAIRS_MAX / 2][VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++) totals[n][v] =
        _mm512_setzero_ps();
    const union attend_word *q = a->q + pair;
    const union attend_word *scales = q + (size_t)words * ATTEND_PAIRS_MAX;
    for (uint32_t g = 0; g < groups; g++, scales += ATTEND_PAIRS_MAX) {
        const union attend_word *minus = scales + (size_t)groups * ATTEND_PAIRS_MAX;
        const uint32_t end = u32_min(words, (g + 1) * GROUP_WORDS);
        __m512i sums[ATTEND_PAIRS_MAX / 2][VECTORS_MAX];
        UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++) sums[n][v] =
            word_set(&minus[n]);
        for (uint32_t i = g * GROUP_WORDS; i < end; i++, q += ATTEND_PAIRS_MAX) {
            __m512i key[VECTORS_MAX];
            UNROLL for (int v = 0; v < V; v++)
            {
                const char *from = blocks[v] + i * stride + (size_t)tokens[v] * 4;
                key[v] = _mm512_loadu_si512(from);
                if (ahead)
                    ATTEND_AHEAD(from + values_at);
            }
            UNROLL for (int n = 0; n < N; n++)
            {
                __m512i x = word_set(&q[n]);
                UNROLL for (int v = 0; v < V; v++) sums[n][v] = dot_add(sums[n][v], key[v], x);
            }
        }
        UNROLL for (int v = 0; v < V; v++)
        {
            __m512 scale = scales_load(scales_find(a, blocks[v], scales_at, g, tokens[v]));
            if (ahead)
                ATTEND_AHEAD(scales_find(a, blocks[v], value_scales_at, g, tokens[v]));
            UNROLL for (int n = 0; n < N; n++)
            {
                __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(scales[n].f32));
                totals[n][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[n][v]), both, totals[n][v]);
            }
        }
    }
    float *scores = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS + position % ATTEND_SPLIT_TOKENS;
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++) _mm512_storeu_ps(
        scores + (size_t)n * ATTEND_SPLIT_TOKENS + (size_t)v * LANES, totals[n][v]);
}

SHAPE_BODY void scores_body(const struct attend *a, uint32_t pair, const int N)
{
    const int V = N <= 2 ? 4 : 2;
    uint32_t chunk = (uint32_t)V * LANES, last = a->last[a->n_pairs - 1];
    for (uint32_t at = a->first[0] / chunk * chunk; at <= last; at += chunk)
        scores_chunk(a, at, pair, N, V);
}

/* The scores of one pair become exp(score - most) at its own positions. */
static void pair_softmax(struct attend *a, uint32_t pair)
{
    float *scores = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS;
    const size_t from = pair_from(a, pair), to = pair_to(a, pair);
    const float times = a->scale * LOG2_E;
    const __m512 scale = _mm512_set1_ps(times);
    const __m512 minus = _mm512_set1_ps(-pair_most(a, pair) * times);
    __m512 sums = _mm512_setzero_ps();
    for (size_t i = from / LANES * LANES; i < to; i += LANES) {
        __m512 weight = exp2_ps(_mm512_fmadd_ps(_mm512_loadu_ps(scores + i), scale, minus));
        weight = _mm512_maskz_mov_ps(range_mask(i, from, to), weight);
        _mm512_storeu_ps(scores + i, weight);
        sums = _mm512_add_ps(sums, weight);
    }
    a->sum[pair] = _mm512_reduce_add_ps(sums);
}

/* What the weights of a pair are multiplied by, for each of its positions: V's scales in units of
 * the 65535th part of the largest. Returns the unit; NaN when a scale is. */
static float ratios_make(const struct attend *a, uint32_t pair, uint32_t group,
                         float *ret_ratios) /* [ATTEND_SPLIT_TOKENS] */
{
    const size_t from = pair_from(a, pair), to = pair_to(a, pair);
    const size_t at = attend_value_scales(DTYPE_Q8_0, a->head_dim, a->block_tokens);
    __m512 most = _mm512_setzero_ps();
    __mmask16 bad = 0;
    for (size_t i = from / LANES * LANES; i < to; i += LANES) {
        uint32_t position = a->split * ATTEND_SPLIT_TOKENS + (uint32_t)i;
        const char *block = attend_block_at(a, position / a->block_tokens);
        uint32_t token = position % a->block_tokens;
        __mmask16 mask = range_mask(i, from, to);
        __m512 scale =
            _mm512_maskz_mov_ps(mask, scales_load(scales_find(a, block, at, group, token)));
        bad |= _mm512_cmp_ps_mask(scale, scale, _CMP_UNORD_Q);
        most = _mm512_max_ps(most, scale);
        _mm512_storeu_ps(ret_ratios + i, scale);
    }
    float largest = bad ? __builtin_nanf("") : _mm512_reduce_max_ps(most);
    const __m512 times = _mm512_set1_ps(largest > 0 ? WEIGHT_MOST / largest : 0);
    for (size_t i = from / LANES * LANES; i < to; i += LANES)
        _mm512_storeu_ps(ret_ratios + i, _mm512_mul_ps(_mm512_loadu_ps(ret_ratios + i), times));
    return largest / WEIGHT_MOST;
}

/* The pair's weights for positions of the vectors from .. to - 1, which are all pairs': four
 * vectors at a time become bytes. */
static void plane_make(const struct attend *a, uint32_t pair, const float *ratios, size_t from,
                       size_t to, struct plane *plane)
{
    const float *weights = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS;
    const size_t own_from = pair_from(a, pair), own_to = pair_to(a, pair);
    const __m512i low_bytes = _mm512_set1_epi16(255);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (size_t i = from / (4 * LANES) * (4 * LANES); i < to; i += 4 * LANES) {
        __m512i numbers[4];
        UNROLL for (size_t v = 0; v < 4; v++)
        {
            size_t at = i + v * LANES;
            __m512 weight = _mm512_loadu_ps(weights + at);
            weight = _mm512_mul_ps(weight, _mm512_loadu_ps(ratios + at));
            numbers[v] = _mm512_maskz_cvtps_epi32(range_mask(at, own_from, own_to), weight);
        }
        /* Packing goes by lanes of four words. */
        __m512i first = _mm512_packus_epi32(numbers[0], numbers[1]);
        __m512i second = _mm512_packus_epi32(numbers[2], numbers[3]);
        __m512i low = _mm512_packus_epi16(_mm512_and_si512(first, low_bytes),
                                          _mm512_and_si512(second, low_bytes));
        __m512i high =
            _mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8));
        _mm512_storeu_si512(plane->low + i, _mm512_permutexvar_epi32(order, low));
        _mm512_storeu_si512(plane->high + i, _mm512_permutexvar_epi32(order, high));
    }
}

/* Words first .. last of the split for the features of a group. */
SHAPE_BODY void values_chunk(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                             uint32_t group, const struct plane *planes, const float *units,
                             const int N)
{
    const uint32_t block_words = a->block_tokens / 4;
    const uint32_t block_first = a->split * (ATTEND_SPLIT_TOKENS / a->block_tokens);
    const size_t stride = (size_t)a->head_dim * 4, feature = (size_t)group * KV_SCALE_VALUES;
    const size_t values_at = attend_values(DTYPE_Q8_0, a->head_dim, a->block_tokens) + feature * 4;
    const size_t scales_at = attend_key_scales(DTYPE_Q8_0, a->head_dim, a->block_tokens);
    __m512i high[ATTEND_PAIRS_MAX / 2][GROUP_VECTORS], low[ATTEND_PAIRS_MAX / 2][GROUP_VECTORS];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < GROUP_VECTORS; f++) high[n][f] =
        low[n][f] = _mm512_setzero_si512();
    for (uint32_t w = first; w <= last;) {
        uint32_t block = w / block_words, end = u32_min(last, (block + 1) * block_words - 1);
        const char *ahead = N <= 4 ? attend_block_ahead(a, block_first + block) : NULL;
        size_t index = w % block_words * stride;
        const char *values = attend_block_at(a, block_first + block) + values_at;
        if (ahead)
            ATTEND_AHEAD(scales_find(a, ahead, scales_at, group, 0));
        for (; w <= end; w++, index += stride) {
            __m512i row[GROUP_VECTORS];
            UNROLL for (int f = 0; f < GROUP_VECTORS; f++)
            {
                row[f] = _mm512_loadu_si512(values + index + (size_t)f * LANES * 4);
                if (ahead)
                    ATTEND_AHEAD(ahead + feature * 4 + index + (size_t)f * LANES * 4);
            }
            UNROLL for (int n = 0; n < N; n++)
            {
                __m512i upper = word_set(planes[n].high + w * 4);
                __m512i lower = word_set(planes[n].low + w * 4);
                UNROLL for (int f = 0; f < GROUP_VECTORS; f++)
                {
                    high[n][f] = dot_add(high[n][f], upper, row[f]);
                    low[n][f] = dot_add(low[n][f], lower, row[f]);
                }
            }
        }
    }
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < GROUP_VECTORS; f++)
    {
        __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[n][f], 8), low[n][f]);
        float *out = a->out + (pair + (size_t)n) * a->out_stride + feature + (size_t)f * LANES;
        _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(units[n])));
    }
}

static void group_run(const struct attend *a, uint32_t group)
{
    struct plane planes[ATTEND_PAIRS_MAX];
    float ratios[ATTEND_SPLIT_TOKENS], units[ATTEND_PAIRS_MAX];
    size_t from = pair_from(a, 0), to = pair_to(a, a->n_pairs - 1);
    for (uint32_t p = 0; p < a->n_pairs; p++) {
        bool same = p > 0 && a->first[p] == a->first[p - 1] && a->last[p] == a->last[p - 1];
        units[p] = same ? units[p - 1] : ratios_make(a, p, group, ratios);
        plane_make(a, p, ratios, from, to, &planes[p]);
    }
    uint32_t pair = 0, first = (uint32_t)from / 4, last = (uint32_t)(to - 1) / 4;
#define DO(n)                                                                                      \
    for (; a->n_pairs - pair >= n; pair += n)                                                      \
        values_chunk(a, first, last, pair, group, planes + pair, units + pair, n);
    ATTEND_SIZES(DO)
#undef DO
}

static void bytes_run(struct attend *a)
{
    uint32_t pair = 0;
#define DO(n)                                                                                      \
    for (; a->n_pairs - pair >= n; pair += n)                                                      \
        scores_body(a, pair, n);
    ATTEND_SIZES(DO)
#undef DO
    for (uint32_t p = 0; p < a->n_pairs; p++)
        pair_softmax(a, p);
    for (uint32_t g = 0; g < attend_groups(a->head_dim); g++)
        group_run(a, g);
}

void avx512_vnni_attend(struct attend *attend)
{
    if (attend->query == QUERY_BYTES)
        bytes_run(attend);
    else
        avx512_attend(attend);
}
