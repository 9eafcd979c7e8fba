/*
 * attend_body: attend.h in vectors of any width, with the arithmetic of f32. A tier's file defines
 *     vec, LANES                        a vector of f32, and how many there are
 *     vec_load, vec_store, vec_set, vec_add, vec_sub, vec_mul, vec_max, vec_exp
 *     vec_half(words, part)             value `part` of words of two bf16, widened
 *     vec_byte(words, part, flip)       byte `part` of words xor `flip`, as a signed number
 *     vec_e4m3(words, part)             byte `part` of words, e4m3 widened
 *     vec_load_bf16(from)               bf16 widened
 *     vec_fma(a, b, c)                  a * b + c
 *     vec_keep(x, from, to, other)      lanes from <= i < to of x, the rest of `other`
 *     vec_reduce_max, vec_reduce_add    in one fixed order
 *     ATTEND_SIZES(DO)                  DO(n) for each count of pairs that has a body, descending
 *     ATTEND_INLINE                     static, always inlined
 * includes this, and calls attend_run. Not a header to include elsewhere.
 *
 * Vectors of positions (V) and of features (F) at a time are chosen so that there are enough chains
 * to hide the latency of one, and no more sums than registers. A value is added at its place in the
 * order of features (K) or positions (V), whatever word it shares.
 */
#pragma once

#include "kernels/cpu/attend.h"
#include "kernels/cpu/unroll.h"

#define VECTORS_MAX 4
#define KEY_FLIP 0x80808080u /* bytes of K are q + 128 */

/* Value `part` of each of the words at `words`. */
ATTEND_INLINE vec part_load(const char *words, const enum dtype dtype, const int part,
                            const uint32_t flip)
{
    if (dtype == DTYPE_F32)
        return vec_load((const float *)(const void *)words);
    if (dtype == DTYPE_BF16)
        return vec_half((const uint32_t *)(const void *)words, part);
    if (dtype == DTYPE_KV_E4M3)
        return vec_e4m3((const uint32_t *)(const void *)words, part);
    return vec_byte((const uint32_t *)(const void *)words, part, flip);
}

/* Where V vectors of keys lie, from `position` on. */
ATTEND_INLINE void keys_find(const struct attend *a, uint32_t position, const int V,
                             const char **ret_keys, uint32_t *ret_tokens)
{
    uint32_t block_first = a->first[0] / a->block_tokens;
    uint32_t block_last = a->last[a->n_pairs - 1] / a->block_tokens;
    UNROLL for (int v = 0; v < V; v++)
    {
        uint32_t at = position + (uint32_t)v * LANES; /* the ends are no one's: any block will do */
        uint32_t block = u32_min(u32_max(at / a->block_tokens, block_first), block_last);
        ret_tokens[v] = at % a->block_tokens;
        ret_keys[v] = attend_block_at(a, block) + (size_t)ret_tokens[v] * 4;
    }
}

/* Scores of V vectors of positions from `position` on, for pairs pair .. pair + N - 1. Blocks lie
 * anywhere, so the values at the same place are asked for meanwhile when few pairs share the
 * reading. */
SHAPE_BODY void scores_chunk(const struct attend *a, uint32_t position, uint32_t pair, const int N,
                             const int V, const enum dtype dtype)
{
    const int parts = (int)attend_word_values(dtype);
    const bool ahead = N <= 4;
    const char *keys[VECTORS_MAX];
    uint32_t tokens[VECTORS_MAX], words = attend_key_words(dtype, a->head_dim);
    const size_t scales_at = attend_key_scales(dtype, a->head_dim, a->block_tokens);
    const size_t values_at = attend_values(dtype, a->head_dim, a->block_tokens);
    keys_find(a, position, V, keys, tokens);
    vec sums[ATTEND_PAIRS_MAX][VECTORS_MAX], scales[VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++) sums[n][v] = vec_set(0);
    UNROLL for (int v = 0; v < V; v++) scales[v] = vec_set(1);
    const union attend_word *q = a->q + pair;
    for (uint32_t i = 0; i < words; i++) {
        size_t index = (size_t)i * a->block_tokens * 4;
        if (dtype == DTYPE_Q8_0 && i % (KV_SCALE_VALUES / 4) == 0)
            UNROLL for (int v = 0; v < V; v++) scales[v] = vec_load_bf16(
                (const uint16_t *)(const void *)(keys[v] - (size_t)tokens[v] * 4 + scales_at) +
                i / (KV_SCALE_VALUES / 4) * a->block_tokens + tokens[v]);
        if (ahead)
            UNROLL for (int v = 0; v < V; v++) ATTEND_AHEAD(keys[v] + values_at + index);
        UNROLL for (int part = 0; part < parts; part++, q += ATTEND_PAIRS_MAX)
        {
            vec key[VECTORS_MAX];
            UNROLL for (int v = 0; v < V; v++)
            {
                key[v] = part_load(keys[v] + index, dtype, part, KEY_FLIP);
                if (dtype == DTYPE_Q8_0)
                    key[v] = vec_mul(key[v], scales[v]);
            }
            UNROLL for (int n = 0; n < N; n++)
            {
                vec x = vec_set(q[n].f32);
                UNROLL for (int v = 0; v < V; v++) sums[n][v] = vec_fma(key[v], x, sums[n][v]);
            }
        }
    }
    uint32_t at = position % ATTEND_SPLIT_TOKENS;
    vec scale = vec_set(a->scale);
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int v = 0; v < V; v++)
        vec_store(a->scores + (pair + (size_t)n) * ATTEND_SPLIT_TOKENS + at + (size_t)v * LANES,
                  vec_mul(sums[n][v], scale));
}

SHAPE_BODY void scores_body(const struct attend *a, uint32_t pair, const int N,
                            const enum dtype dtype)
{
    const int V = N <= 2 ? 4 : 2;
    uint32_t chunk = (uint32_t)V * LANES, last = a->last[a->n_pairs - 1];
    for (uint32_t at = a->first[0] / chunk * chunk; at <= last; at += chunk)
        scores_chunk(a, at, pair, N, V, dtype);
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

/* Adds the weighted values of a word's positions from .. to. */
ATTEND_INLINE void values_word(const char *words, const uint16_t *scales, uint32_t block_tokens,
                               const float *weights, uint32_t from, uint32_t to, const int N,
                               const int F, const enum dtype dtype,
                               vec sums[ATTEND_PAIRS_MAX][VECTORS_MAX])
{
    const int parts = (int)attend_word_values(dtype);
    UNROLL for (int part = 0; part < parts; part++)
    {
        if ((uint32_t)part < from || (uint32_t)part > to)
            continue;
        vec row[VECTORS_MAX];
        UNROLL for (int f = 0; f < F; f++)
        {
            row[f] = part_load(words + (size_t)f * LANES * 4, dtype, part, 0);
            if (dtype == DTYPE_Q8_0) {
                uint32_t group = (uint32_t)f * LANES / KV_SCALE_VALUES;
                uint32_t bits = (uint32_t)scales[group * block_tokens + (uint32_t)part] << 16;
                row[f] = vec_mul(row[f], vec_set((union attend_word){.bits = bits}.f32));
            }
        }
        UNROLL for (int n = 0; n < N; n++)
        {
            vec weight = vec_set(weights[(size_t)n * ATTEND_SPLIT_TOKENS + (size_t)part]);
            UNROLL for (int f = 0; f < F; f++) sums[n][f] = vec_fma(row[f], weight, sums[n][f]);
        }
    }
}

/* Adds the weighted values of positions first .. last, F vectors of features from `feature` on.
 * Meanwhile the keys of the next split are asked for, when few pairs share the reading. */
SHAPE_BODY void values_chunk(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                             uint32_t feature, const int N, const int F, const enum dtype dtype)
{
    const uint32_t parts = attend_word_values(dtype), block_tokens = a->block_tokens;
    const size_t values_at = attend_values(dtype, a->head_dim, block_tokens);
    const size_t scales_at = attend_value_scales(dtype, a->head_dim, block_tokens);
    float *out = a->out + pair * a->out_stride + feature;
    vec sums[ATTEND_PAIRS_MAX][VECTORS_MAX];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < F; f++) sums[n][f] =
        vec_load(out + (size_t)n * a->out_stride + (size_t)f * LANES);
    for (uint32_t t = first; t <= last;) {
        const char *block = attend_block_at(a, t / block_tokens);
        const char *ahead = N <= 4 ? attend_block_ahead(a, t / block_tokens) : NULL;
        uint32_t end = u32_min(last, t / block_tokens * block_tokens + block_tokens - 1);
        while (t <= end) {
            uint32_t word = t % block_tokens / parts, from = t % parts;
            uint32_t to = u32_min(from + end - t, parts - 1);
            size_t at = ((size_t)word * a->head_dim + feature) * 4;
            const uint16_t *scales = (const uint16_t *)(const void *)(block + scales_at) +
                                     feature / KV_SCALE_VALUES * block_tokens + word * parts;
            if (ahead)
                UNROLL for (int f = 0; f < F; f++) ATTEND_AHEAD(ahead + at + (size_t)f * LANES * 4);
            values_word(block + values_at + at, scales, block_tokens,
                        a->scores + (size_t)pair * ATTEND_SPLIT_TOKENS +
                            (t - from) % ATTEND_SPLIT_TOKENS,
                        from, to, N, F, dtype, sums);
            t += to - from + 1;
        }
    }
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int f = 0; f < F; f++)
        vec_store(out + (size_t)n * a->out_stride + (size_t)f * LANES, sums[n][f]);
}

SHAPE_BODY void values_body(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                            const int N, const enum dtype dtype)
{
    const int F = N <= 4 ? 4 : 2;
    for (uint32_t feature = 0; feature < a->head_dim; feature += (uint32_t)F * LANES)
        values_chunk(a, first, last, pair, feature, N, F, dtype);
}

/* A body for each type of K and V. */
#define ATTEND_TYPES(body, ...)                                                                    \
    (a->dtype == DTYPE_F32       ? body(__VA_ARGS__, DTYPE_F32)                                    \
     : a->dtype == DTYPE_BF16    ? body(__VA_ARGS__, DTYPE_BF16)                                   \
     : a->dtype == DTYPE_KV_E4M3 ? body(__VA_ARGS__, DTYPE_KV_E4M3)                                \
                                 : body(__VA_ARGS__, DTYPE_Q8_0))

static void scores_run(const struct attend *a)
{
    uint32_t pair = 0;
#define DO(n)                                                                                      \
    for (; a->n_pairs - pair >= n; pair += n)                                                      \
        ATTEND_TYPES(scores_body, a, pair, n);
    ATTEND_SIZES(DO)
#undef DO
}

/* Values of pairs pair .. end - 1. */
static void values_run(const struct attend *a, uint32_t first, uint32_t last, uint32_t pair,
                       uint32_t end)
{
#define DO(n)                                                                                      \
    for (; end - pair >= n; pair += n)                                                             \
        ATTEND_TYPES(values_body, a, first, last, pair, n);
    ATTEND_SIZES(DO)
#undef DO
}

/* What all pairs attend to goes in tiles; what only some do, at both ends, by itself. */
static void attend_run(struct attend *a)
{
    uint32_t all_first = a->first[a->n_pairs - 1], all_last = a->last[0];
    scores_run(a);
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

/* state = state * scale_had + out * scale_new */
static void fold_run(float *state, const float *out, float scale_had, float scale_new, uint32_t n)
{
    const vec had = vec_set(scale_had), new = vec_set(scale_new);
    for (uint32_t i = 0; i < n; i += LANES) /* both have room up to ATTEND_OUT_MULTIPLE */
        vec_store(state + i, vec_fma(vec_load(out + i), new, vec_mul(vec_load(state + i), had)));
}
