/*
 * products: matrix products over rows on the card, as linear, mlp and moe use them.
 *
 * The kernel of this version is plain: a warp for each output and row, sums of f32 in one order
 * for all shapes. Biases and residuals are added last.
 */
#pragma once

#include "kernels/cuda/cuda.h"

struct product {
    const struct weight *weight;
    uint32_t stack_index;
    const uint32_t *experts; /* of the card, [n_rows], or NULL: the matrix of each row */
    uint32_t n_rows;
    uint32_t row_share;    /* row r reads in[r / row_share]: rows that share their input; >= 1 */
    const float *in;       /* [n_rows / row_share][in_count] */
    const float *bias;     /* [out_count] or NULL */
    const float *residual; /* [n_rows][out_count] or NULL */
    float *out;            /* [n_rows][out_count] */
};
void product_run(struct device *device, const struct product *product);
