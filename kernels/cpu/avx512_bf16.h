/*
 * avx512_bf16: the tier avx512-vnni for CPUs that also have dot products of BF16 (Zen 4, Cooper
 * Lake and later). Products with BF16 weights take rows rounded to BF16, by the rule of ops.h; all
 * else is avx512-vnni's, and so is every bit of it. `avx512_bf16.c` has the table and may run on
 * any CPU.
 */
#pragma once

#include "kernels/cpu/tier.h"

void avx512_bf16_product_pairs(const struct product *product, uint32_t first_panel,
                               uint32_t n_panels);
void avx512_bf16_row_pairs(const float *in, uint32_t in_count, uint32_t *to, uint32_t stride);
void avx512_bf16_attend(struct attend *attend);
