/*
 * avx512_vnni: the tier avx512 for CPUs that also have VNNI (Zen 4, Ice Lake and later): one
 * instruction multiplies and adds four bytes. All else is avx512's, and so is every bit of what
 * comes out. `avx512_vnni.c` has the table and may run on any CPU.
 */
#pragma once

#include "kernels/cpu/tier.h"

void avx512_vnni_product_blocks(const struct product *product, uint32_t first_panel,
                                uint32_t n_panels);
void avx512_vnni_attend(struct attend *attend);
