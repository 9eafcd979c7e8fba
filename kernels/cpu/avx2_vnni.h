/*
 * avx2_vnni: the tier avx2 for CPUs that also multiply and add four bytes in one instruction on
 * vectors of 256 bits. There are two forms of it: the one of AVX-VNNI (Alder Lake, Zen 5 and later,
 * also without AVX-512), and the one of AVX-512 (VNNI and VL), by which this tier runs on the CPUs
 * that have no other. One source makes both. All else is avx2's, and so is every bit of what comes
 * out. `avx2_vnni.c` has the table and may run on any CPU.
 */
#pragma once

#include "kernels/cpu/tier.h"

void avx2_vnni_product_blocks_avx(const struct product *product, uint32_t first_panel,
                                  uint32_t n_panels);
void avx2_vnni_product_blocks_avx512(const struct product *product, uint32_t first_panel,
                                     uint32_t n_panels);
