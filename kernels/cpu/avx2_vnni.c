#include "kernels/cpu/avx2_vnni.h"

#include <cpuid.h>

#include "kernels/cpu/avx2.h"

/* In the form of AVX-512. The system keeps those registers, or the answer is no. */
static bool avx512_form(void)
{
    return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

/* Not every compiler knows the name of this one: leaf 7, second part, bit 4. */
static bool avx_form(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1) != 0;
}

static bool avx2_vnni_supported(void)
{
    return tier_avx2.supported() && (avx512_form() || avx_form());
}

/* Asking for avx_form is slow under a hypervisor: it is what is left where the tier is supported.
 */
static void avx2_vnni_product_blocks(const struct product *product, uint32_t first_panel,
                                     uint32_t n_panels)
{
    if (avx512_form())
        avx2_vnni_product_blocks_avx512(product, first_panel, n_panels);
    else
        avx2_vnni_product_blocks_avx(product, first_panel, n_panels);
}

const struct tier tier_avx2_vnni = {
    .name = "avx2-vnni",
    .supported = avx2_vnni_supported,
    .product = avx2_product,
    .product_blocks = avx2_vnni_product_blocks,
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
