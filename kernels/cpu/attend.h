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
 * A block of the pool holds, for each layer and KV head, K turned, [head_dim][block_tokens], then
 * V, [block_tokens][head_dim]: 16 positions of one feature are one vector, and a score is never
 * summed across a vector. Elements are f32 or bf16.
 *
 * Positions outside of a pair's range, and what lies behind the last feature, may be read and are
 * never used; ATTEND_SLACK_BYTES behind the pool must be there to be read. Block table entries
 * outside of first[0] .. last[n_pairs - 1] are not read.
 */
#pragma once

#include "base/types.h"

#define ATTEND_SPLIT_TOKENS 256
#define ATTEND_PAIRS_MAX 12
#define ATTEND_OUT_MULTIPLE 64 /* of floats: out_stride */
#define ATTEND_SLACK_BYTES 256

struct attend {
    uint32_t n_pairs; /* 1..ATTEND_PAIRS_MAX */
    uint32_t head_dim, block_tokens;
    bool bf16; /* K and V; else f32 */
    float scale;
    const float *q;            /* [head_dim][ATTEND_PAIRS_MAX] turned, n_pairs used */
    const char *kv;            /* of this layer and KV head in block 0 of the pool */
    size_t block_stride_bytes; /* from a block to the next one of the pool */
    const uint32_t *blocks;    /* block table of the sequence, by position */
    uint32_t split;            /* positions split * ATTEND_SPLIT_TOKENS and on */
    /* [n_pairs] positions in this split, both included, each at least one, ascending */
    uint32_t first[ATTEND_PAIRS_MAX], last[ATTEND_PAIRS_MAX];
    float *scores;     /* scratch: [ATTEND_PAIRS_MAX][ATTEND_SPLIT_TOKENS] */
    size_t out_stride; /* >= head_dim, a multiple of ATTEND_OUT_MULTIPLE */

    float *out;                                          /* [n_pairs][out_stride] */
    float most[ATTEND_PAIRS_MAX], sum[ATTEND_PAIRS_MAX]; /* [n_pairs] */
};

void scalar_attend(struct attend *attend);
