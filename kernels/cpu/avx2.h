/*
 * avx2: the tier for CPUs with AVX2 and FMA (Haswell, Zen and later).
 *
 * Written in intrinsics for sixteen registers of eight floats, with fused multiply-add where it is
 * wanted; the compiler fuses nothing on its own. The functions are those of `struct tier`; `avx2.c`
 * has the table and is the only file here that may run on a CPU without these instructions.
 */
#pragma once

#include "kernels/cpu/tier.h"

void avx2_product(const struct product *product, uint32_t first_panel, uint32_t n_panels);
void avx2_product_blocks(const struct product *product, uint32_t first_panel, uint32_t n_panels);
void avx2_row_blocks(const float *in, uint32_t n_blocks, struct row_block *to, uint32_t stride);
void avx2_attend(struct attend *attend);
void avx2_attend_fold(float *state, const float *out, float scale_had, float scale_new, uint32_t n);
void avx2_rmsnorm(const float *in, const float *weight, float eps, uint32_t n, float *out);
void avx2_rotate(float *head, const float *cosines, const float *sines, uint32_t half);
void avx2_silu_mul(const float *gate, const float *up, uint32_t n, float *out);
float avx2_logits_best(const float *logits, uint32_t n, uint32_t *ret_id);
double avx2_logits_exp_sum(const float *logits, uint32_t n, float most);
void avx2_logits_weigh(const float *logits, uint32_t n, float most, double inverse_temperature,
                       uint64_t *weights);
