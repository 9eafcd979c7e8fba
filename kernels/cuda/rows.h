/*
 * rows: kernels over rows that several ops launch: the norm, and the gate of a feed-forward block.
 */
#pragma once

#include "kernels/cuda/cuda.h"

/* out[r] = in[r] / sqrt(mean(in[r]^2) + eps) * norm, each [n]. */
void rows_norm(struct device *device, const float *norm, float eps, uint32_t n_rows, uint32_t n,
               const float *in, float *out);
/* out[r][i] = silu(gate_up[r][i]) * gate_up[r][n + i]. */
void rows_gate(struct device *device, uint32_t n_rows, uint32_t n, const float *gate_up,
               float *out);
