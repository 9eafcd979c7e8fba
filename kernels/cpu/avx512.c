#include "kernels/cpu/avx512.h"

/* __builtin_cpu_supports also asks the operating system whether it keeps the wide registers. */
static bool avx512_supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const struct tier tier_avx512 = {
    .name = "avx512",
    .supported = avx512_supported,
    .product = avx512_product,
    .product_blocks = avx512_product_blocks,
    .row_blocks = avx512_row_blocks,
    .attend_pairs = 12,
    .attend = avx512_attend,
    .attend_fold = avx512_attend_fold,
    .rmsnorm = avx512_rmsnorm,
    .rotate = avx512_rotate,
    .silu_mul = avx512_silu_mul,
    .logits_best = avx512_logits_best,
    .logits_exp_sum = avx512_logits_exp_sum,
    .logits_weigh = avx512_logits_weigh,
};
