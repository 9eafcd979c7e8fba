#include "kernels/cpu/avx2_vectors.h"
#include "kernels/cpu/avx2_vnni.h"

/* Compiled twice: with AVX-VNNI, and with AVX-512's VNNI and VL, which names the same otherwise. */
#ifdef __AVXVNNI__
#define DOT _mm256_dpbusd_avx_epi32
#define PRODUCT_BLOCKS avx2_vnni_product_blocks_avx
#else
#define DOT _mm256_dpbusd_epi32
#define PRODUCT_BLOCKS avx2_vnni_product_blocks_avx512
#endif

#define DOT_BYTES_SIGNED false

AVX2_INLINE vector_i dot_nibbles(vector_i sum, vector_i weights, vector_i values)
{
    return DOT(sum, weights, values);
}

AVX2_INLINE vector_i dot_bytes(vector_i sum, vector_i weights, vector_i values)
{
    return DOT(sum, weights, values);
}

#include "kernels/cpu/avx2_shapes.h"

void PRODUCT_BLOCKS(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    blocks_product(product, first_panel, n_panels, shapes);
}
