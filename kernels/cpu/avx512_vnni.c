#include "kernels/cpu/avx512_vnni.h"

#include "kernels/cpu/avx512.h"

static bool avx512_vnni_supported(void)
{
    return tier_avx512.supported() && __builtin_cpu_supports("avx512vnni");
}

const struct tier tier_avx512_vnni = {
    .name = "avx512-vnni",
    .supported = avx512_vnni_supported,
    .product = avx512_product,
    .product_blocks = avx512_vnni_product_blocks,
    .row_blocks = avx512_row_blocks,
    .attend_pairs = 12,
    .attend = avx512_vnni_attend,
    .q8_query = QUERY_BYTES,
    .attend_fold = avx512_attend_fold,
    .rmsnorm = avx512_rmsnorm,
    .rotate = avx512_rotate,
    .silu_mul = avx512_silu_mul,
    .logits_best = avx512_logits_best,
    .logits_exp_sum = avx512_logits_exp_sum,
    .logits_weigh = avx512_logits_weigh,
};
