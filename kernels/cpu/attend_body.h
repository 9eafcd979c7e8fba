/*
 * attend_body: attend.h in vectors of any width. A tier's file defines
 *     vec, LANES                        a vector of f32, and how many there are
 *     vec_load, vec_load_bf16, vec_store, vec_set, vec_add, vec_sub, vec_mul, vec_max, vec_exp
 *     vec_fma(a, b, c)                  a * b + c
 *     vec_keep(x, from, to, other)      lanes from <= i < to of x, the rest of `other`
 *     vec_reduce_max, vec_reduce_add    in one fixed order
 *     ATTEND_SIZES(DO)                  DO(n) for each count of pairs that has a body, descending
 *     ATTEND_INLINE                     static, always inlined
 * includes this, and calls attend_run. Not a header to include elsewhere.
 *
 * Vectors of positions (V) and of features (F) at a time are chosen so that there are enough chains
 * to hide the latency of one, and no more sums than registers.
 */
#pragma once

#include "kernels/cpu/attend.h"
#include "kernels/cpu/unroll.h"

#define VECTORS_MAX 4

ATTEND_INLINE size_t element_bytes(const bool bf16)
{
    return bf16 ? 2 : 4;
}

ATTEND_INLINE vec element_load(const char *from, size_t index, const bool bf16)
{
    return bf16 ? vec_load_bf16((const uint16_t *)(const void *)from + index)
                : vec_load((const float *)(const void *)from + index);
}

static inline const char *block_at(const struct attend *a, uint32_t block)
{
    return a->kv + a->blocks[block] * a->block_stride_bytes;
}

/* Where V vectors of keys lie, from `position` on. */
ATTEND_INLINE void keys_find(const struct attend *a, uint32_t position, const int V,
                             const bool bf16, const char **ret_keys)
{
    uint32_t block_first = a->first[0] / a->block_tokens;
    uint32_t block_last = a->last[a->n_pairs - 1] / a->block_tokens;
    UNROLL for (int v = 0; v < V; v++)
    {
        uint32_t at = position + (uint32_t)v * LANES; /* the ends are no one's: any block will do */
        uint32_t block = u32_min(u32_max(at / a->block_tokens, block_first), block_last);
        ret_keys[v] = block_at(a, block) + at % a->block_tokens * element_bytes(bf16);
    }
}

/* Scores of V vectors of positions from `position` on, for pairs pair .. pair + N - 1. Blocks lie
 * anywhere, so what comes next is asked for ahead when few pairs share the reading. */
SHAPE_BODY void scores_chunk(const struct attend *a, uint32_t position, uint32_t pair, const int N,
                             const int V, const bool bf16)
{
    const bool ahead = N <= 4;
    const char *keys[VECTORS_MAX], *next[VECTORS_MAX];
    keys_find(a, position, V, bf16, keys);
    keys_find(a, position + (uint32_t)V * LANES, V, bf16, next);
    vec sums[ATTEND_PAIRS_MAX][VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++) sums[n][v] = vec_set(0);
    const float *q = a->q + pair;
    size_t index = 0;
    for (uint32_t i = 0; i < a->head_dim; i++, q += ATTEND_PAIRS_MAX, index += a->block_tokens) {
        vec key[VECTORS_MAX];
        UNROLL for (int v = 0; v < V; v++) key[v] = element_load(keys[v], index, bf16);
        if (ahead)
            UNROLL for (int v = 0; v < V; v++)
                __builtin_prefetch(next[v] + index * element_bytes(bf16));
        UNROLL for (int n = 0; n < N; n++)
        {
            vec x = vec_set(q[n]);
            UNROLL for (int v = 0; v < V; v++) sums[n][v] = vec_fma(key[v], x, sums[n][v]);
        }
    }
    uint32_t at = position % ATTEND_SPLIT_TOKENS;
    vec scale = vec_set(a->scale);
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++)
        vec_store(a->scores + (pair + (size_t)n) * ATTEND_SPLIT_TOKENS + at + (size_t)v * LANES,
                  vec_mul(sums[n][v], scale));
}

SHAPE_BODY void scores_body(const struct attend *a, uint32_t pair, const int N, const bool bf16)
{
    const int V = N <= 2 ? 4 : 2;
    uint32_t chunk = (uint32_t)V * LANES, last = a->last[a->n_pairs - 1];
    for (uint32_t at = a->first[0] / chunk * chunk; at <= last; at += chunk)
        scores_chunk(a, at, pair, N, V, bf16);
}

/* The scores of one pair become exp(score - most) at its own positions. */
static void pair_softmax(struct attend *a, uint32_t pair)
{
    float *scores = a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS;
    size_t from = a->first[pair] % ATTEND_SPLIT_TOKENS;
    size_t to = a->last[pair] % ATTEND_SPLIT_TOKENS + 1;
    const vec none = vec_set(-__builtin_inff()), zero = vec_set(0);
    vec most = none, sums = zero;
    for (size_t i = from / LANES * LANES; i < to; i += LANES)
        most = vec_max(most, vec_keep(vec_load(scores + i), from > i ? from - i : 0,
                                      size_min(to - i, LANES), none));
    float largest = vec_reduce_max(most);
    most = vec_set(largest);
    for (size_t i = from / LANES * LANES; i < to; i += LANES) {
        vec weight = vec_keep(vec_exp(vec_sub(vec_load(scores + i), most)), from > i ? from - i : 0,
                              size_min(to - i, LANES), zero);
        vec_store(scores + i, weight);
        sums = vec_add(sums, weight);
    }
    a->most[pair] = largest;
    a->sum[pair] = vec_reduce_add(sums);
}

/* Adds the weighted values of positions first .. last, F vectors of features from `feature` on. */
SHAPE_BODY void values_chunk(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                             uint32_t feature, const int N, const int F, const bool bf16)
{
    float *out = a->out + pair * a->out_stride + feature;
    vec sums[ATTEND_PAIRS_MAX][VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < F; f++) sums[n][f] =
        vec_load(out + (size_t)n * a->out_stride + (size_t)f * LANES);
    for (uint32_t t = first; t <= last;) {
        uint32_t token = t % a->block_tokens;
        uint32_t n_tokens = u32_min(a->block_tokens - token, last - t + 1);
        const char *values = block_at(a, t / a->block_tokens);
        const float *weights =
            a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS + t % ATTEND_SPLIT_TOKENS;
        /* V begins head_dim * block_tokens values after K. */
        size_t index = (size_t)(a->block_tokens + token) * a->head_dim + feature;
        const char *next =
            N <= 4 && t + n_tokens <= last ? block_at(a, t / a->block_tokens + 1) : NULL;
        for (uint32_t i = 0; i < n_tokens; i++, index += a->head_dim) {
            vec row[VECTORS_MAX];
            UNROLL for (int f = 0; f < F; f++) row[f] =
                element_load(values, index + (size_t)f * LANES, bf16);
            if (next)
                UNROLL for (int f = 0; f < F; f++)
                    __builtin_prefetch(next + (index + (size_t)f * LANES) * element_bytes(bf16));
            UNROLL for (int n = 0; n < N; n++)
            {
                vec weight = vec_set(weights[(size_t)n * ATTEND_SPLIT_TOKENS + i]);
                UNROLL for (int f = 0; f < F; f++) sums[n][f] = vec_fma(row[f], weight, sums[n][f]);
            }
        }
        t += n_tokens;
    }
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < F; f++)
        vec_store(out + (size_t)n * a->out_stride + (size_t)f * LANES, sums[n][f]);
}

SHAPE_BODY void values_body(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                            const int N, const bool bf16)
{
    const int F = N <= 4 ? 4 : 2;
    for (uint32_t feature = 0; feature < a->head_dim; feature += (uint32_t)F * LANES)
        values_chunk(a, first, last, pair, feature, N, F, bf16);
}

static void scores_run(const struct attend *a, const bool bf16)
{
    uint32_t pair = 0;
#define DO(n)                                                                                      \
    for (; a->n_pairs - pair >= n; pair += n)                                                      \
        if (bf16)                                                                                  \
            scores_body(a, pair, n, true);                                                         \
        else                                                                                       \
            scores_body(a, pair, n, false);
    ATTEND_SIZES(DO)
#undef DO
}

/* Values of pairs pair .. end - 1. */
static void values_run(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                       uint32_t end)
{
#define DO(n)                                                                                      \
    for (; end - pair >= n; pair += n)                                                             \
        if (a->bf16)                                                                               \
            values_body(a, first, last, pair, n, true);                                            \
        else                                                                                       \
            values_body(a, first, last, pair, n, false);
    ATTEND_SIZES(DO)
#undef DO
}

/* What all pairs attend to goes in tiles; what only some do, at both ends, by itself. */
static void attend_run(struct attend *a)
{
    uint32_t all_first = a->first[a->n_pairs - 1], all_last = a->last[0];
    scores_run(a, a->bf16);
    for (uint32_t p = 0; p < a->n_pairs; p++)
        pair_softmax(a, p);
    memset(a->out, 0, a->n_pairs * a->out_stride * sizeof(float));
    if (all_first > all_last) {
        for (uint32_t p = 0; p < a->n_pairs; p++)
            values_run(a, a->first[p], a->last[p], p, p + 1);
        return;
    }
    for (uint32_t p = 0; p < a->n_pairs; p++)
        if (a->first[p] < all_first)
            values_run(a, a->first[p], all_first - 1, p, p + 1);
    values_run(a, all_first, all_last, 0, a->n_pairs);
    for (uint32_t p = 0; p < a->n_pairs; p++)
        if (a->last[p] > all_last)
            values_run(a, all_last + 1, a->last[p], p, p + 1);
}
