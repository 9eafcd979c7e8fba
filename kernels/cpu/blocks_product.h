/*
 * blocks_product: products with weights in blocks (Q8_0, Q4_0, Q4_1), one body for all widths of
 * vectors. Only for files of a tier, which define before they include this:
 *
 *     LANES                    outputs of a vector: 8 or 16
 *     vector_i, vector_f       LANES whole numbers (or 4 LANES bytes), LANES floats
 *     vi_load(bytes), vi_group(four values, for every lane), vi_set(number)
 *     vi_low(bytes), vi_high(bytes)       nibbles as bytes
 *     vf_of(numbers), vf_set, vf_mul, vf_fma(a, b, c) = a b + c, vf_zero()
 *     vf_halves(LANES F16)
 *     vf_store(product, row, first output, sums)
 *     dot_nibbles(sum, weights, values)   weights 0..15, adds four products to every lane
 *     dot_bytes(sum, weights, values)     weights 0..255
 *     DOT_BYTES_SIGNED         true when dot_bytes takes 128 off the weights itself
 *
 * R rows times V vectors of a panel: their whole-number sums begin anew with every block, and are
 * added to the R V totals in the order of the blocks, by the same two roundings in every shape.
 * Since whole numbers add up to the same in any order, tiers of one width agree to the bit however
 * they multiply.
 *
 * R and V are constants in every copy of the body: the loops over them vanish.
 */
#pragma once

#include "kernels/cpu/tier.h"
#include "kernels/cpu/unroll.h"

#define BLOCKS_INLINE static inline __attribute__((always_inline))
#define GROUP_BYTES (PANEL_OUTPUTS * 4) /* four inputs of all outputs of a panel */
#define PANEL_VECTORS (PANEL_OUTPUTS / LANES)

/* Some rows of one tile, and where they meet a panel. */
struct blocks_place {
    const uint8_t *panel;
    const struct row_block *rows; /* the first one's first block */
    uint32_t stride;              /* rows of the tile */
    uint32_t first_row, first_out;
    uint32_t vector; /* the first of V, in the panel */
};

BLOCKS_INLINE size_t blocks_head_bytes(const enum dtype dtype)
{
    return PANEL_OUTPUTS * sizeof(uint16_t) * (dtype == DTYPE_Q4_1 ? 2 : 1);
}

BLOCKS_INLINE size_t blocks_bytes(const enum dtype dtype)
{
    return blocks_head_bytes(dtype) + (dtype == DTYPE_Q8_0 ? 8 : 4) * GROUP_BYTES;
}

/* The whole-number sums of one block. */
SHAPE_BODY void blocks_dot(const uint8_t *weights, const struct row_block *rows,
                           vector_i sums[BLOCK_TILE_ROWS][PANEL_VECTORS], const int R, const int V,
                           const enum dtype dtype)
{
    UNROLL for (int r = 0; r < R; r++)
    {
        int32_t start = 0;
        if (dtype == DTYPE_Q8_0 && !DOT_BYTES_SIGNED)
            start = rows[r].sum_minus_128;
        else if (dtype == DTYPE_Q4_0)
            start = rows[r].sum_minus_8;
        UNROLL for (int v = 0; v < V; v++) sums[r][v] = vi_set(start);
    }
    const int n_groups = dtype == DTYPE_Q8_0 ? 8 : 4;
    UNROLL for (int g = 0; g < n_groups; g++)
    {
        vector_i bytes[PANEL_VECTORS];
        UNROLL for (int v = 0; v < V; v++) bytes[v] =
            vi_load(weights + g * GROUP_BYTES + v * LANES * 4);
        if (dtype == DTYPE_Q8_0) {
            UNROLL for (int r = 0; r < R; r++)
            {
                vector_i values = vi_group(rows[r].values + 4 * g);
                UNROLL for (int v = 0; v < V; v++) sums[r][v] =
                    dot_bytes(sums[r][v], bytes[v], values);
            }
        } else {
            UNROLL for (int r = 0; r < R; r++)
            {
                vector_i low = vi_group(rows[r].values + 4 * g);
                vector_i high = vi_group(rows[r].values + BLOCK_VALUES / 2 + 4 * g);
                UNROLL for (int v = 0; v < V; v++)
                {
                    sums[r][v] = dot_nibbles(sums[r][v], vi_low(bytes[v]), low);
                    sums[r][v] = dot_nibbles(sums[r][v], vi_high(bytes[v]), high);
                }
            }
        }
    }
}

SHAPE_BODY void blocks_body(const struct product *p, const struct blocks_place *place, const int R,
                            const int V, const enum dtype dtype)
{
    const uint32_t n_blocks = p->in_count / BLOCK_VALUES;
    const struct row_block *rows = place->rows;
    const uint8_t *block = place->panel;
    const size_t skip = (size_t)place->vector * LANES;
    vector_f totals[BLOCK_TILE_ROWS][PANEL_VECTORS]; /* [R][V] used */
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) totals[r][v] = vf_zero();
    for (uint32_t b = 0; b < n_blocks; b++) {
        vector_i sums[BLOCK_TILE_ROWS][PANEL_VECTORS];
        blocks_dot(block + blocks_head_bytes(dtype) + skip * 4, rows, sums, R, V, dtype);
        const uint16_t *halves = (const uint16_t *)(const void *)block + skip;
        UNROLL for (int v = 0; v < V; v++)
        {
            vector_f scale = vf_halves(halves + v * LANES);
            UNROLL for (int r = 0; r < R; r++) totals[r][v] =
                vf_fma(vf_of(sums[r][v]), vf_mul(scale, vf_set(rows[r].scale)), totals[r][v]);
            if (dtype != DTYPE_Q4_1)
                continue;
            vector_f minimum = vf_halves(halves + PANEL_OUTPUTS + v * LANES);
            UNROLL for (int r = 0; r < R; r++) totals[r][v] =
                vf_fma(minimum, vf_set(rows[r].scaled_sum), totals[r][v]);
        }
        block += blocks_bytes(dtype);
        rows += place->stride;
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++)
        vf_store(p, place->first_row + (uint32_t)r,
                 place->first_out + (place->vector + (uint32_t)v) * LANES, totals[r][v]);
}

typedef void (*blocks_multiply)(const struct product *p, const struct blocks_place *place);

#define BLOCKS_BODY(name, dtype, R, V)                                                             \
    static void name##_##R##x##V(const struct product *p, const struct blocks_place *place)        \
    {                                                                                              \
        blocks_body(p, place, (R), (V), (dtype));                                                  \
    }
#define BLOCKS_BODIES(R, V)                                                                        \
    BLOCKS_BODY(q8_0, DTYPE_Q8_0, R, V)                                                            \
    BLOCKS_BODY(q4_0, DTYPE_Q4_0, R, V)                                                            \
    BLOCKS_BODY(q4_1, DTYPE_Q4_1, R, V)

/* How many vectors of a panel some rows take at once, and by what. */
struct blocks_shape {
    uint32_t n_vectors;
    blocks_multiply run[DTYPE_COUNT];
};
#define BLOCKS_SHAPE(R, V)                                                                         \
    {                                                                                              \
        (V),                                                                                       \
        {                                                                                          \
            [DTYPE_Q8_0] = q8_0_##R##x##V, [DTYPE_Q4_0] = q4_0_##R##x##V,                          \
            [DTYPE_Q4_1] = q4_1_##R##x##V                                                          \
        }                                                                                          \
    }

/* All rows, tile by tile, for each panel. shapes: [rows of a tile] */
BLOCKS_INLINE void blocks_product(const struct product *p, uint32_t first_panel, uint32_t n_panels,
                                  const struct blocks_shape *shapes)
{
    CHECK(dtype_has_blocks(p->dtype) && p->blocks);
    uint32_t n_blocks = p->in_count / BLOCK_VALUES;
    size_t panel_bytes = n_blocks * blocks_bytes(p->dtype);
    for (uint32_t panel = first_panel; panel < first_panel + n_panels; panel++)
        for (uint32_t row = 0; row < p->n_rows; row += BLOCK_TILE_ROWS) {
            uint32_t n = u32_min(BLOCK_TILE_ROWS, p->n_rows - row);
            struct blocks_place place = {
                .panel = (const uint8_t *)p->panels + panel * panel_bytes,
                .rows = p->blocks + (size_t)row * n_blocks,
                .stride = n,
                .first_row = row,
                .first_out = panel * PANEL_OUTPUTS,
            };
            for (; place.vector < PANEL_VECTORS; place.vector += shapes[n].n_vectors)
                shapes[n].run[p->dtype](p, &place);
        }
}
