/*
 * avx512: the tier for CPUs with AVX-512 F, BW, DQ and VL (Zen 4, Skylake-X and later).
 *
 * Written in intrinsics, with fused multiply-add where it is wanted; the compiler fuses nothing on
 * its own. The functions are those of `struct tier`; `avx512.c` has the table and is the only file
 * here that may run on a CPU without these instructions.
 */
#pragma once

#include "kernels/cpu/tier.h"

void avx512_product(const struct product *product, uint32_t first_panel, uint32_t n_panels);
void avx512_product_blocks(const struct product *product, uint32_t first_panel, uint32_t n_panels);
void avx512_row_blocks(const float *in, uint32_t n_blocks, struct row_block *to, uint32_t stride);
void avx512_attend(struct attend *attend);
void avx512_attend_fold(float *state, const float *out, float scale_had, float scale_new,
                        uint32_t n);
void avx512_rmsnorm(const float *in, const float *weight, float eps, uint32_t n, float *out);
void avx512_rotate(float *head, const float *cosines, const float *sines, uint32_t half);
void avx512_silu_mul(const float *gate, const float *up, uint32_t n, float *out);
float avx512_logits_best(const float *logits, uint32_t n, uint32_t *ret_id);
double avx512_logits_exp_sum(const float *logits, uint32_t n, float most);
void avx512_logits_weigh(const float *logits, uint32_t n, float most, double inverse_temperature,
                         uint64_t *weights);
