/*
 * attend: attention of a few query heads over one stretch of a sequence's positions.
 *
 * A *pair* is one row and one of its query heads. The pairs of a tile belong to one sequence and
 * one KV head, rows ascending, so keys and values are read once for all of them. Positions are cut
 * at multiples of ATTEND_SPLIT_TOKENS, and for each pair and each split that it attends to, a tier
 * computes
 *     most = max over the pair's positions there of q . k * scale
 *     sum  = sum of exp(score - most)
 *     out  = sum of exp(score - most) v                                   [head_dim]
 * The driver folds the splits of a pair from the first to the last and divides at the end (Milakov
 * & Gimelshein 2018, "Online normalizer calculation for softmax"). Each of these values comes from
 * one sequence of operations on the pair's own positions, whatever else is in the tile, and splits
 * lie at absolute positions: a row's bits are its own.
 *
 * A block of the pool holds, for each layer and KV head, K, then V, in words of 4 bytes. A word has
 * one f32, two bf16 or four bytes, neighbours along what a product adds up: features in K,
 * positions in V, the first one in the lowest bits. So one instruction multiplies and adds a word's
 * values, and no sum is ever taken across a vector.
 *     K       [head_dim / values of a word, rounded up][block_tokens] words
 *     scales  [head_dim / 32, rounded up][block_tokens] bf16      (Q8_0 alone)
 *     V       [block_tokens / values of a word][head_dim] words
 *     scales  as K's                                              (Q8_0 alone)
 * Bytes of K in Q8_0 are q + 128, those of V are q (see kv_shape in ops.h). E4M3 is bytes as they
 * are, zeros behind head_dim; V has as many bytes as K then, so that a block has the size that it
 * has on GPUs.
 *
 * A tier takes the queries in one of three forms, by what it multiplies:
 *     QUERY_F32    [head_dim rounded up to 4][ATTEND_PAIRS_MAX] f32, zeros behind head_dim
 *     QUERY_BF16   [head_dim / 2][ATTEND_PAIRS_MAX] words
 *     QUERY_BYTES  [head_dim / 4 rounded up][ATTEND_PAIRS_MAX] words of int8, zeros behind
 *                  head_dim; then [head_dim / 32 rounded up] rows of f32 scales, then as many of
 *                  int32: -128 times the sum of the group's bytes, which takes K's offset off again
 *
 * Positions outside of a pair's range, and what lies behind the last feature, may be read and are
 * never used; ATTEND_SLACK_BYTES behind the pool must be there to be read. Block table entries
 * outside of first[0] .. last[n_pairs - 1] are not read.
 */
#pragma once

#include "kernels/ops.h"

#define ATTEND_SPLIT_TOKENS 256
#define ATTEND_PAIRS_MAX 12
#define ATTEND_OUT_MULTIPLE 64 /* of floats: out_stride */
#define ATTEND_SLACK_BYTES 256

/* Asks for what is read in the next pass over some blocks: into the second cache, since the first
 * is too small for it, and has few lines in flight. */
#define ATTEND_AHEAD(address) __builtin_prefetch(address, 0, 2)

union attend_word {
    float f32;
    uint32_t bits;
    int32_t count;
};

enum attend_query { QUERY_F32, QUERY_BF16, QUERY_BYTES };

struct attend {
    uint32_t n_pairs; /* 1..ATTEND_PAIRS_MAX */
    uint32_t head_dim, block_tokens;
    enum dtype dtype;        /* of K and V: F32, BF16, Q8_0 or KV_E4M3 */
    enum attend_query query; /* the tier's own for the type, or QUERY_F32: then all is f32 */
    float scale;
    const union attend_word *q; /* rows of ATTEND_PAIRS_MAX words, n_pairs used: see above */
    const char *kv;             /* of this layer and KV head in block 0 of the pool */
    size_t block_stride_bytes;  /* from a block to the next one of the pool */
    const uint32_t *blocks;     /* block table of the sequence, by position */
    uint32_t split;             /* positions split * ATTEND_SPLIT_TOKENS and on */
    /* What is wanted after this, of this layer and KV head: blocks ahead_first .. ahead_last of a
     * block table, asked for meanwhile, as many as this has. NULL: nothing. */
    const uint32_t *ahead_blocks;
    uint32_t ahead_first, ahead_last;
    /* [n_pairs] positions in this split, both included, each at least one, ascending */
    uint32_t first[ATTEND_PAIRS_MAX], last[ATTEND_PAIRS_MAX];
    float *scores;     /* scratch: [ATTEND_PAIRS_MAX][ATTEND_SPLIT_TOKENS] */
    size_t out_stride; /* >= head_dim, a multiple of ATTEND_OUT_MULTIPLE */

    float *out;                                          /* [n_pairs][out_stride] */
    float most[ATTEND_PAIRS_MAX], sum[ATTEND_PAIRS_MAX]; /* [n_pairs] */
};

/* ---- where K and V lie ---- */

static inline uint32_t attend_word_values(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 1 : dtype == DTYPE_BF16 ? 2 : 4;
}

static inline uint32_t attend_key_words(enum dtype dtype, uint32_t head_dim)
{
    return div_up_u32(head_dim, attend_word_values(dtype));
}

static inline uint32_t attend_groups(uint32_t head_dim)
{
    return div_up_u32(head_dim, KV_SCALE_VALUES);
}

static inline size_t attend_scales_bytes(enum dtype dtype, uint32_t head_dim, uint32_t block_tokens)
{
    return dtype == DTYPE_Q8_0 ? (size_t)attend_groups(head_dim) * block_tokens * 2 : 0;
}

/* From the beginning of a head's K to what the names say. */
static inline size_t attend_key_scales(enum dtype dtype, uint32_t head_dim, uint32_t block_tokens)
{
    return (size_t)attend_key_words(dtype, head_dim) * block_tokens * 4;
}

static inline size_t attend_values(enum dtype dtype, uint32_t head_dim, uint32_t block_tokens)
{
    return attend_key_scales(dtype, head_dim, block_tokens) +
           attend_scales_bytes(dtype, head_dim, block_tokens);
}

static inline size_t attend_value_scales(enum dtype dtype, uint32_t head_dim, uint32_t block_tokens)
{
    return attend_values(dtype, head_dim, block_tokens) +
           (size_t)(block_tokens / attend_word_values(dtype)) * head_dim * 4;
}

static inline size_t attend_head_bytes(enum dtype dtype, uint32_t head_dim, uint32_t block_tokens)
{
    if (dtype == DTYPE_KV_E4M3)
        return 2 * attend_key_scales(dtype, head_dim, block_tokens);
    return attend_value_scales(dtype, head_dim, block_tokens) +
           attend_scales_bytes(dtype, head_dim, block_tokens);
}

/* ---- blocks ---- */

static inline const char *attend_block_at(const struct attend *a, uint32_t block)
{
    return a->kv + a->blocks[block] * a->block_stride_bytes;
}

/* What to ask for while `block` is read, or NULL. */
static inline const char *attend_block_ahead(const struct attend *a, uint32_t block)
{
    uint32_t index = block - a->first[0] / a->block_tokens + a->ahead_first;
    if (!a->ahead_blocks || index > a->ahead_last)
        return NULL;
    return a->kv + a->ahead_blocks[index] * a->block_stride_bytes;
}

void scalar_attend(struct attend *attend);
void scalar_attend_fold(float *state, const float *out, float scale_had, float scale_new,
                        uint32_t n);
