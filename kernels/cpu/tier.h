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
 * across. A panel has the bytes that its 32 rows have in the file:
 *
 *     F32   [in_count][32] float
 *     F16   [in_count][32] uint16_t
 *     BF16  [in_count / 2, rounded up][32] uint32_t: of each output two inputs, the even one in the
 *           low half, as dot instructions want them; a shift or a mask widens one. Where in_count
 *           is odd the last high halves are zeros
 *     Q8_0  [in_count / 32]{uint16_t scales[32], uint8_t [8][32][4]}: of each output four inputs
 *           side by side, as q + 128
 *     Q4_0  [in_count / 32]{uint16_t scales[32], uint8_t [4][32][4]}: a byte has input i in its low
 *           nibble and i + 16 in its high one, as the file has them
 *     Q4_1  [in_count / 32]{uint16_t scales[32], uint16_t minima[32], uint8_t [4][32][4]}
 *
 * Scales and minima are F16. Outputs past out_count have zeros.
 */
#pragma once

#include "kernels/cpu/attend.h"
#include "kernels/ops.h"

#define PANEL_OUTPUTS 32

/* Pairs of inputs of BF16. */
static inline uint32_t pairs_count(uint32_t in_count)
{
    return in_count / 2 + in_count % 2;
}

static inline size_t panel_bytes(enum dtype dtype, uint32_t in_count)
{
    if (dtype == DTYPE_BF16)
        in_count = pairs_count(in_count) * 2;
    size_t output_bytes = (size_t)(in_count / dtype_block_count(dtype)) * dtype_block_bytes(dtype);
    return output_bytes * PANEL_OUTPUTS;
}

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

/* The tile of a row: the last one that begins at it or before. */
static inline uint32_t tile_of(uint32_t n_rows, uint32_t row)
{
    return (uint32_t)((((uint64_t)row + 1) * tiles_count(n_rows) - 1) / n_rows);
}

/*
 * 32 values of a row, quantised by the rule of ops.h for weights in blocks. The products of such
 * weights take unsigned bytes of weights, so what their offset (128 or 8) times the values adds up
 * to stands here, to be taken off.
 *
 * The rows of a call lie in tiles, [in_count / 32][rows of the tile], one tile after the other: of
 * 8 rows at most while two of these suffice, since then it counts how often a panel is walked; of
 * 6, whose totals stay in registers, when there are more. They are cut as evenly as they are.
 */
#define BLOCK_VALUES 32
#define BLOCK_TILE_ROWS_MAX 8
struct row_block {
    int8_t values[BLOCK_VALUES];
    float scale;
    float scaled_sum;      /* f32(scale * sum of values) */
    int32_t sum_minus_128; /* -128 * sum of values */
    int32_t sum_minus_8;   /* -8 * sum of values */
};

struct block_tile {
    uint32_t first, n; /* rows */
};

static inline uint32_t block_tiles_count(uint32_t n_rows)
{
    return n_rows <= 2 * BLOCK_TILE_ROWS_MAX ? div_up_u32(n_rows, BLOCK_TILE_ROWS_MAX)
                                             : div_up_u32(n_rows, 6);
}

static inline struct block_tile block_tile_at(uint32_t n_rows, uint32_t tile)
{
    uint64_t n_tiles = block_tiles_count(n_rows);
    uint32_t first = (uint32_t)(n_rows * (uint64_t)tile / n_tiles);
    return (struct block_tile){first, (uint32_t)(n_rows * (tile + 1ull) / n_tiles) - first};
}

/* The tile that has row `row`. */
static inline struct block_tile block_tile_of(uint32_t n_rows, uint32_t row)
{
    uint64_t end = (row + 1ull) * block_tiles_count(n_rows);
    return block_tile_at(n_rows, (uint32_t)((end - 1) / n_rows));
}

/* Sets the scale by `most_bits`, the largest |x| of the block as the bits of a float; returns what
 * its values are multiplied by: 0 when they are all to be 0. */
static inline float row_block_begin(struct row_block *block, uint32_t most_bits)
{
    float most;
    memcpy(&most, &most_bits, sizeof most);
    bool finite = most_bits < 0x7f800000u;
    block->scale = finite ? 0 : __builtin_nanf("");
    if (!finite || most < 0x1p-100f)
        return 0;
    block->scale = most / 127;
    return 127 / most;
}

/* `sum` of the values; of no meaning when the scale is NaN. */
static inline void row_block_end(struct row_block *block, int32_t sum)
{
    if (__builtin_isnan(block->scale))
        sum = 0;
    block->scaled_sum = block->scale * (float)sum;
    block->sum_minus_128 = -128 * sum;
    block->sum_minus_8 = -8 * sum;
}

/* out = W in (+ bias) (+ residual), for all rows and some panels. */
struct product {
    const void *panels; /* of one segment of a matrix, see above */
    enum dtype dtype;
    uint32_t in_count, out_count, n_rows;
    uint32_t out_stride;            /* values between the rows of out and residual */
    const float *in;                /* [n_rows][in_count]; read only without tiles */
    const float *tiles;             /* the same in tiles, one after the other; NULL below
                                       TILE_FROM_ROWS */
    const uint32_t *pairs;          /* the same rounded to bf16, two inputs a word, in tiles (of
                                       few rows one tile); only for product_pairs */
    const struct row_block *blocks; /* the same quantised; only for weights in blocks */
    const float *bias;              /* [out_count] or NULL */
    const float *residual;          /* [n_rows][out_stride] or NULL */
    float *out;                     /* [n_rows][out_stride] */
};

struct tier {
    const char *name;
    bool (*supported)(void); /* by this CPU and its operating system */

    /* Panels first_panel .. first_panel + n_panels - 1 of F32, F16 or BF16. */
    void (*product)(const struct product *product, uint32_t first_panel, uint32_t n_panels);
    /* The same for BF16 by rows of pairs, and what makes pairs of a row (the nearest bf16, ties to
     * even; an odd last one is joined by 0): pair i goes to to[i * stride]. Both NULL in a tier
     * without such instructions. */
    void (*product_pairs)(const struct product *product, uint32_t first_panel, uint32_t n_panels);
    void (*row_pairs)(const float *in, uint32_t in_count, uint32_t *to, uint32_t stride);
    /* The same for weights in blocks. */
    void (*product_blocks)(const struct product *product, uint32_t first_panel, uint32_t n_panels);
    /* Quantises one row: block b goes to to[b * stride]. */
    void (*row_blocks)(const float *in, uint32_t n_blocks, struct row_block *to, uint32_t stride);
    uint32_t attend_pairs; /* most pairs of a tile that are worth it; <= ATTEND_PAIRS_MAX */
    void (*attend)(struct attend *attend);
    enum attend_query bf16_query, q8_query; /* the form of queries for K in BF16 and Q8_0 */
    /* state = state * scale_had + out * scale_new; both have room up to ATTEND_OUT_MULTIPLE. */
    void (*attend_fold)(float *state, const float *out, float scale_had, float scale_new,
                        uint32_t n);
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
extern const struct tier tier_avx2_vnni; /* avx2 with integer products; gives the same bits */
extern const struct tier tier_avx512;
extern const struct tier tier_avx512_bf16;
extern const struct tier tier_avx512_vnni; /* avx512 with integer products; gives the same bits */
extern const struct tier tier_avx512_bf16; /* and with BF16 products of rounded rows */
#endif

/* The tier of that name; NULL means what GALERNE_CPU_TIER names, and that unset or empty the best.
 * UNSUPPORTED names the tiers that this CPU has. */
enum status tier_find(const char *name, const struct tier **ret_tier, struct error *error);
