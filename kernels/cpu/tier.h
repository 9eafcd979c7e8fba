/*
 * tier: the inner kernels of one instruction set.
 *
 * A tier is a table of plain functions that compute one piece of an op on one thread; the drivers
 * (cpu_*.c) cut the ops into pieces and are the same for all tiers. Each tier is compiled with its
 * own machine flags and entered only when this CPU and its system support them. Nothing here
 * allocates, blocks or keeps state; any thread may call.
 *
 * The law of this folder: **every output value is computed by one fixed sequence of operations on
 * its own row**, whatever else is in the call. So a product adds k = 0, 1, 2 ... in one chain per
 * output, in every row bucket; a reduction over a row has a fixed shape; attention works at
 * absolute positions. Tiers need not agree with each other to the bit.
 *
 * Layout of weights. Columns of a panel are outputs: W is cut into panels of 32 outputs, and a
 * panel is walked along the inputs, so that a vector holds different outputs and is never summed
 * across: F32   [panels][in_count][32] float BF16  [panels][in_count][16] uint32_t: output c in the
 * low half, c + 16 in the high half, so that one shift and one mask widen 32 values exactly Outputs
 * past out_count are zero.
 */
#pragma once

#include "kernels/ops.h"

#define PANEL_OUTPUTS 32

/* Rows of a large product are regrouped in tiles, [in_count][rows of the tile], so that the rows of
 * a tile lie side by side. Fewer rows than TILE_FROM_ROWS are read as they are. Cut as evenly as
 * they are, no tile has fewer than TILE_FROM_ROWS rows. */
#define TILE_ROWS_MAX 12
#define TILE_FROM_ROWS 6

static inline uint32_t tiles_count(uint32_t n_rows)
{
    return (n_rows + TILE_ROWS_MAX - 1) / TILE_ROWS_MAX;
}

/* First row of tile `tile`: tiles differ by at most one row. tile_first(n, tiles_count(n)) is n. */
static inline uint32_t tile_first(uint32_t n_rows, uint32_t tile)
{
    return (uint32_t)((uint64_t)n_rows * tile / tiles_count(n_rows));
}

/* out = W in (+ bias) (+ residual), for all rows and some panels. */
struct product {
    const void *panels; /* of one matrix, see above */
    bool bf16;
    uint32_t in_count, out_count, n_rows;
    const float *in;       /* [n_rows][in_count] */
    const float *tiles;    /* the same in tiles, one after the other; NULL below TILE_FROM_ROWS */
    const float *bias;     /* [out_count] or NULL */
    const float *residual; /* [n_rows][out_count] or NULL */
    float *out;            /* [n_rows][out_count] */
};

/* Attention of one row and the query heads that share one KV head. */
#define ATTEND_HEADS_MAX 4 /* heads for which `scores` has room; a tier takes so many at a time */
struct attend {
    uint32_t n_heads, head_dim, block_tokens;
    float scale;
    const float *q;         /* [n_heads][head_dim] */
    float *out;             /* [n_heads][head_dim] */
    const float *kv;        /* block b of the pool at kv + b * block_stride:
                               K [head_dim][block_tokens], then V [block_tokens][head_dim] */
    size_t block_stride;    /* in values */
    const uint32_t *blocks; /* block table of the sequence */
    uint32_t first, last;   /* positions attended to, both included */
    float *scores;          /* scratch: [ATTEND_HEADS_MAX][attend_span] */
};

/* Positions from the start of the first block to the end of the last one. */
static inline size_t attend_span(uint32_t first, uint32_t last, uint32_t block_tokens)
{
    return (size_t)(last / block_tokens - first / block_tokens + 1) * block_tokens;
}

struct tier {
    const char *name;
    bool (*supported)(void); /* by this CPU and its operating system */

    /* Panels first_panel .. first_panel + n_panels - 1. */
    void (*product)(const struct product *product, uint32_t first_panel, uint32_t n_panels);
    void (*attend)(const struct attend *attend);
    /* One row: out = in / sqrt(mean(in^2) + eps) * weight. */
    void (*rmsnorm)(const float *in, const float *weight, float eps, uint32_t n, float *out);
    /* (a, b) -> (a cos - b sin, b cos + a sin) for a = head[i], b = head[half + i]. */
    void (*rotate)(float *head, const float *cosines, const float *sines, uint32_t half);
    void (*silu_mul)(const float *gate, const float *up, uint32_t n, float *out);

    /* Logits of one row; NaN is minus infinity, plus infinity the largest float. */
    /* The largest, and the lowest id that has it. All minus infinity: minus infinity and 0. */
    float (*logits_best)(const float *logits, uint32_t n, uint32_t *ret_id);
    /* sum of exp(logit - most), most finite. */
    double (*logits_exp_sum)(const float *logits, uint32_t n, float most);
    /* weights[i] = exp((logit - most) * inverse_temperature) in units of 2^-WEIGHT_BITS. */
    void (*logits_weigh)(const float *logits, uint32_t n, float most, double inverse_temperature,
                         uint64_t *weights);
};

/* Sampling weights are whole numbers, so that their sums do not depend on the order of adding.
 * 2^WEIGHT_BITS is the best token's; 2^(63 - WEIGHT_BITS) tokens can be added up. */
#define WEIGHT_BITS 40

extern const struct tier tier_scalar;
#if defined(__x86_64__)
extern const struct tier tier_avx2;
extern const struct tier tier_avx512;
#endif

/* The tier of that name; NULL means what GALERNE_CPU_TIER names, and that unset or empty the best.
 * UNSUPPORTED names the tiers that this CPU has. */
enum status tier_find(const char *name, const struct tier **ret_tier, struct error *error);
