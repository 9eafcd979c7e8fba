#include "kernels/cpu/avx512_bf16.h"

#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_vnni.h"

static bool avx512_bf16_supported(void)
{
    return tier_avx512_vnni.supported() && __builtin_cpu_supports("avx512bf16");
}

const struct tier tier_avx512_bf16 = {
    .name = "avx512-bf16",
    .supported = avx512_bf16_supported,
    .product = avx512_product,
    .product_pairs = avx512_bf16_product_pairs,
    .row_pairs = avx512_bf16_row_pairs,
    .product_blocks = avx512_vnni_product_blocks,
    .row_blocks = avx512_row_blocks,
    .attend_pairs = 12,
    .attend = avx512_bf16_attend,
    .bf16_query = QUERY_BF16,
    .q8_query = QUERY_BYTES,
    .attend_fold = avx512_attend_fold,
    .rmsnorm = avx512_rmsnorm,
    .rotate = avx512_rotate,
    .silu_mul = avx512_silu_mul,
    .logits_best = avx512_logits_best,
    .logits_exp_sum = avx512_logits_exp_sum,
    .logits_weigh = avx512_logits_weigh,
};
