/*
 * route: which experts a row visits, and which rows an expert has.
 *
 * One launch norms the rows and makes them ready for the experts' product, multiplies them with the
 * router in f32, takes softmax and the best experts; the block that ends last sorts the pairs of
 * row and rank by expert and cuts them into tiles. The host learns nothing of it: products launch
 * as many blocks as there can be tiles (product_tiles_max).
 *
 * `counter` is zero before and after. Rows of an expert come in any order from run to run, which
 * no row's bits depend on. One thread, which enqueues.
 */
#pragma once

#include "kernels/cuda/product_rows.h"
#include "kernels/cuda/products.h"

struct route_task {
    struct weight_view router;
    const float *in, *norm;
    float norm_eps;
    uint32_t n_rows, n_experts, top_k;
    uint32_t block_rows; /* rows of a block: they share what is read of the router */
    bool normalise;
    struct rows_ready ready; /* kind ROWS_PLAIN: not wanted */
    uint32_t tile_rows, tiles_max;
    uint32_t *counter;
    uint32_t *experts;          /* [n_rows][top_k] */
    float *weights;             /* [n_rows][top_k] */
    uint32_t *order;            /* [places] pairs, by expert: product_places_max */
    struct product_tile *tiles; /* [tiles_max] */
};
/* Sets block_rows. */
void route_run(struct device *device, struct route_task *task);
