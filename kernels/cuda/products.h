/*
 * products: matrix products over rows on the card, as linear, mlp and moe use them.
 *
 * A weight in panels (weight.h) is multiplied by tensor instructions: rows are made ready
 * (product_rows.h), then one of three kernels runs, by the number of rows: `stream` reads weights
 * at the speed of memory; for more rows `groups` (sm_90a, halves) or `tile` multiplies at the speed
 * of the instructions. All compute one sum, so that a row's bits do not depend on which of them
 * ran, nor on its neighbours:
 *
 *     columns are cut into at most 8 slices of whole chunks, by their number alone; a slice is
 *     summed in f32 by the instructions, from its first column on, 16 at a time (blocks: 32 at a
 *     time in whole numbers, each block scaled and added in f32; F8_E4M3: 64 at a time from 0 on,
 *     scaled and added in f32); slices are added in their order
 *
 * What lies plainly is multiplied by a plain kernel: a warp for each output and row, f32. It reads
 * panels as well: with tier "plain" it is the twin that the others are compared with.
 *
 * Bounds against `ref` (tests/oracle): plain 8 u S, u = 2^-24, S = sum |w x|; BF16, F16 and blocks
 * what ops.h says that rounding the row may change, and 8 u S for the sums in f32.
 *
 * One thread, which enqueues.
 */
#pragma once

#include "kernels/cuda/cuda.h"

#define PRODUCT_SLICES_MAX 8

struct rows_ready;
struct rope_task;

/* Rows sorted by their matrix, for a stack: all on the card. */
struct product_tile {
    uint32_t matrix, first, count; /* rows order[first .. first + count); 8 divides first */
};
struct product_groups {
    const uint32_t *matrices;         /* [n_rows]: the matrix of each row */
    const uint32_t *order;            /* [places]: rows, where a tile has some */
    const struct product_tile *tiles; /* [n_tiles], empty ones at the end */
    uint32_t n_tiles, tile_rows;      /* 8, 32 or 128 */
    uint32_t matrix_rows_max;         /* that one matrix can have */
};

struct product {
    const struct weight *weight;
    uint32_t stack_index;
    const struct product_groups *groups; /* or NULL */
    uint32_t n_rows;
    uint32_t row_share; /* row r reads in[r / row_share]: rows that share their input; >= 1 */
    const float *norm;  /* [in_count] or NULL */
    float norm_eps;
    const float *in;                /* [n_rows / row_share][in_count] */
    const struct rows_ready *ready; /* the same, made ready by who calls; or NULL */
    const float *bias;              /* [out_count] or NULL */
    const float *residual;          /* [n_rows][out_count] or NULL */
    float *out;                     /* [n_rows][out_count] */
    bool gated;   /* the outputs are gate, then up: out is [n_rows][out_count / 2] of
                     silu(gate) * up; no residual */
    float *spare; /* gated: [n_rows][out_count] */
    const struct rope_task *rope; /* NULL, or where product_turns: the outputs are q, k and v, which
                                     are turned and go to `rope->qkv` and to their pages */
};
void product_run(struct device *device, const struct product *product);
struct product product_of(const struct linear_args *args);
/* Whether `rope` can be set: few rows, and both halves of a head in panels of their own. */
bool product_turns(const struct device *device, const struct product *product, uint32_t head_dim);

/* ---- rows made ready (product_rows.cu) ---- */

/* Places of rows sorted by matrix: tiles begin on an eight. */
size_t product_places_max(size_t n_rows, uint32_t stack_count);
/* Places of the rows that a product makes ready. */
size_t product_places(const struct product *product);
/* Scratch of kind SCRATCH_LINEAR that a product over so many places needs. */
size_t product_scratch_bytes(size_t n_places, uint32_t in_count);
/* Lays rows out in memory of product_scratch_bytes; not in eights yet. */
struct rows_ready rows_lay(char *memory, int dtype, size_t n_places, uint32_t in_count);
/* The rows of a product are made ready in its kind; nothing for a weight that lies plainly. */
void rows_make(struct device *device, const struct product *product,
               const struct rows_ready *ready);
bool rows_suit(const struct rows_ready *ready, int dtype, bool eights);

/* ---- which kernel ---- */

/* Whether rows of such tiles are made ready in eights, for wgmma: each in its place of `order`, by
 * the product itself then. */
bool product_in_eights(const struct device *device, int dtype, uint32_t tile_rows);
/* How many rows a tile of a stack should have; how many tiles there can be. */
uint32_t product_tile_rows(uint32_t n_rows, uint32_t stack_count);
uint32_t product_tiles_max(uint32_t n_rows, uint32_t stack_count, uint32_t tile_rows);
