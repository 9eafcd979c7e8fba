#include "kernels/cpu/avx2.h"

#include <cpuid.h>

/* Not every compiler knows the name of this one. */
static bool f16c_supported(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

/* __builtin_cpu_supports also asks the operating system whether it keeps the wide registers. */
static bool avx2_supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c_supported();
}

const struct tier tier_avx2 = {
    .name = "avx2",
    .supported = avx2_supported,
    .product = avx2_product,
    .product_blocks = avx2_product_blocks,
    .row_blocks = avx2_row_blocks,
    .attend_pairs = 6,
    .attend = avx2_attend,
    .attend_fold = avx2_attend_fold,
    .rmsnorm = avx2_rmsnorm,
    .rotate = avx2_rotate,
    .silu_mul = avx2_silu_mul,
    .logits_best = avx2_logits_best,
    .logits_exp_sum = avx2_logits_exp_sum,
    .logits_weigh = avx2_logits_weigh,
};
