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
 * R rows times V vectors of a panel, or of several panels side by side: with few rows it is memory
 * that they wait for, and several streams give more of it. What is needed next is asked for ahead:
 * a little further on in the panel, or a share of the next panel while tiles of rows take this one.
 * Totals that registers have no room for beside the sums lie on the stack. The whole-number sums
 * begin anew with every block, and are added to the R V totals in the order of the blocks, by the
 * same two roundings in every shape. Since whole numbers add up to the same in any order, tiers of
 * one width agree to the bit however they multiply.
 *
 * R and V are constants in every copy of the body: the loops over them vanish.
 */
#pragma once

#include "kernels/cpu/tier.h"
#include "kernels/cpu/unroll.h"

#define BLOCKS_INLINE static inline __attribute__((always_inline))
#define GROUP_BYTES (PANEL_OUTPUTS * 4) /* four inputs of all outputs of a panel */
#define PANEL_VECTORS (PANEL_OUTPUTS / LANES)
#define PANELS_MAX 4 /* side by side */
#define VECTORS_MAX (PANELS_MAX * PANEL_VECTORS)
#define LINE_BYTES 64
#define FETCH_AHEAD_BYTES 4096
/* With more tiles a panel's time is long, and the next one comes soon enough. */
#define FETCH_TILES_MAX 12 /* 72 rows */

/* Some rows of one tile, and where they meet a panel. */
struct blocks_place {
    const uint8_t *panel; /* the first */
    size_t panel_bytes;
    const struct row_block *rows; /* the first one's first block */
    uint32_t stride;              /* rows of the tile */
    uint32_t first_row, first_out;
    uint32_t vector;      /* the first of V, in the panel */
    const uint8_t *fetch; /* what the first block asks for */
    uint32_t fetch_bytes; /* how much every block asks for; 0: nothing */
};

BLOCKS_INLINE size_t blocks_head_bytes(const enum dtype dtype)
{
    return PANEL_OUTPUTS * sizeof(uint16_t) * (dtype == DTYPE_Q4_1 ? 2 : 1);
}

BLOCKS_INLINE size_t blocks_bytes(const enum dtype dtype)
{
    return blocks_head_bytes(dtype) + (dtype == DTYPE_Q8_0 ? 8 : 4) * GROUP_BYTES;
}

/* Where vector `v` of a group (or of scales, in other units) begins: after some panels, and the
 * vectors before it in its own. */
BLOCKS_INLINE size_t blocks_skip(const struct blocks_place *place, const int v)
{
    return (size_t)(v / PANEL_VECTORS) * place->panel_bytes;
}

BLOCKS_INLINE size_t blocks_lane(const struct blocks_place *place, const int v)
{
    return ((size_t)v % PANEL_VECTORS + place->vector) * LANES;
}

/* The whole-number sums of one block. */
SHAPE_BODY void blocks_dot(const struct blocks_place *place, const uint8_t *block,
                           const struct row_block *rows,
                           vector_i sums[BLOCK_TILE_ROWS_MAX][VECTORS_MAX], const int R,
                           const int V, const enum dtype dtype)
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
    block += blocks_head_bytes(dtype);
    UNROLL for (int g = 0; g < n_groups; g++, block += GROUP_BYTES)
    {
        vector_i bytes[VECTORS_MAX];
        UNROLL for (int v = 0; v < V; v++) bytes[v] =
            vi_load(block + blocks_skip(place, v) + blocks_lane(place, v) * 4);
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

/* Adds what a block gives the rows. */
SHAPE_BODY void blocks_add(const struct blocks_place *place, const uint8_t *block,
                           const struct row_block *rows, vector_i sums[][VECTORS_MAX],
                           vector_f totals[][VECTORS_MAX], const int R, const int V,
                           const enum dtype dtype)
{
    UNROLL for (int v = 0; v < V; v++)
    {
        const uint8_t *head = block + blocks_skip(place, v);
        const uint16_t *halves = (const uint16_t *)(const void *)head + blocks_lane(place, v);
        vector_f scale = vf_halves(halves);
        UNROLL for (int r = 0; r < R; r++) totals[r][v] =
            vf_fma(vf_of(sums[r][v]), vf_mul(scale, vf_set(rows[r].scale)), totals[r][v]);
        if (dtype == DTYPE_Q4_1) {
            vector_f minimum = vf_halves(halves + PANEL_OUTPUTS);
            UNROLL for (int r = 0; r < R; r++) totals[r][v] =
                vf_fma(minimum, vf_set(rows[r].scaled_sum), totals[r][v]);
        }
    }
}

/* Asks for what is needed soon: one row has streams enough, and no time. */
SHAPE_BODY void blocks_prefetch(const struct blocks_place *place, const uint8_t *fetch, const int V)
{
    UNROLL for (int v = 0; v < V; v += PANEL_VECTORS)
    {
        for (uint32_t at = 0; at < place->fetch_bytes; at += LINE_BYTES)
            __builtin_prefetch(fetch + blocks_skip(place, v) + at, 0, 2);
    }
}

SHAPE_BODY void blocks_body(const struct product *p, const struct blocks_place *place, const int R,
                            const int V, const enum dtype dtype)
{
    const uint32_t n_blocks = p->in_count / BLOCK_VALUES;
    const struct row_block *rows = place->rows;
    const uint8_t *block = place->panel, *fetch = place->fetch;
    vector_f totals[BLOCK_TILE_ROWS_MAX][VECTORS_MAX]; /* [R][V] used */
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) totals[r][v] = vf_zero();
    for (uint32_t b = 0; b < n_blocks; b++) {
        vector_i sums[BLOCK_TILE_ROWS_MAX][VECTORS_MAX];
        if (R > 1)
            blocks_prefetch(place, fetch, V);
        blocks_dot(place, block, rows, sums, R, V, dtype);
        blocks_add(place, block, rows, sums, totals, R, V, dtype);
        block += blocks_bytes(dtype);
        fetch += place->fetch_bytes;
        rows += place->stride;
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++)
        vf_store(p, place->first_row + (uint32_t)r,
                 place->first_out + (uint32_t)(v / PANEL_VECTORS) * PANEL_OUTPUTS +
                     (uint32_t)blocks_lane(place, v),
                 totals[r][v]);
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

/* How many vectors some rows take at once, and by what. */
struct blocks_shape {
    uint32_t n_vectors; /* 0: no such shape */
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
/* [rows of a tile]: [0] all vectors of four panels, [1] of two, [2] of one or some of its own. */
typedef const struct blocks_shape blocks_shapes[BLOCK_TILE_ROWS_MAX + 1][3];

/* What is asked for while tile `tile` meets a panel, of which `n_left` are left with it. */
BLOCKS_INLINE void blocks_fetch(const struct product *p, struct blocks_place *place, uint32_t tile,
                                uint32_t n_left)
{
    uint32_t n_tiles = block_tiles_count(p->n_rows), n_blocks = p->in_count / BLOCK_VALUES;
    uint32_t block_bytes = (uint32_t)blocks_bytes(p->dtype);
    if (n_tiles == 1) {
        /* Blocks of 8 bits come as fast as they are wanted. */
        place->fetch = place->panel + FETCH_AHEAD_BYTES;
        place->fetch_bytes = p->n_rows > (p->dtype == DTYPE_Q8_0 ? 6 : 1) ? block_bytes : 0;
    } else if (n_tiles <= FETCH_TILES_MAX && n_left > 1) {
        uint32_t share = div_up_u32(block_bytes, n_tiles * LINE_BYTES) * LINE_BYTES;
        size_t at = (size_t)share * n_blocks * tile;
        place->fetch = place->panel + place->panel_bytes + at;
        place->fetch_bytes = at < place->panel_bytes ? share : 0;
    }
}

/* All rows, tile by tile, for each panel; those of one tile take several panels at once. */
BLOCKS_INLINE void blocks_product(const struct product *p, uint32_t first_panel, uint32_t n_panels,
                                  blocks_shapes shapes)
{
    CHECK(dtype_has_blocks(p->dtype) && p->blocks);
    uint32_t n_blocks = p->in_count / BLOCK_VALUES, end = first_panel + n_panels;
    uint32_t n_tiles = block_tiles_count(p->n_rows), width_log2 = 0;
    for (uint32_t panel = first_panel; panel < end; panel += 1u << width_log2)
        for (uint32_t t = 0; t < n_tiles; t++) {
            struct block_tile tile = block_tile_at(p->n_rows, t);
            struct blocks_place place = {
                .panel_bytes = n_blocks * blocks_bytes(p->dtype),
                .rows = p->blocks + (size_t)tile.first * n_blocks,
                .stride = tile.n,
                .first_row = tile.first,
                .first_out = panel * PANEL_OUTPUTS,
            };
            place.panel = (const uint8_t *)p->panels + panel * place.panel_bytes;
            blocks_fetch(p, &place, t, end - panel);
            width_log2 = n_tiles > 1 ? 0 : end - panel >= 4 ? 2 : end - panel >= 2;
            while (shapes[tile.n][2 - width_log2].n_vectors == 0)
                width_log2--;
            const struct blocks_shape *shape = &shapes[tile.n][2 - width_log2];
            for (; place.vector < PANEL_VECTORS; place.vector += shape->n_vectors) {
                shape->run[p->dtype](p, &place);
                place.fetch_bytes = 0;
            }
        }
}
