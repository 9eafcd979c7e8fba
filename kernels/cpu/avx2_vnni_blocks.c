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

#include "kernels/cpu/blocks_product.h"

BLOCKS_BODIES(1, 4)
BLOCKS_BODIES(2, 2)
BLOCKS_BODIES(3, 2)
BLOCKS_BODIES(4, 1)
BLOCKS_BODIES(5, 1)
BLOCKS_BODIES(6, 1)
BLOCKS_BODIES(7, 1)
BLOCKS_BODIES(8, 1)

/* As many as in avx2_blocks.c. */
static blocks_shapes shapes = {
    [1] = {{0}, {0}, BLOCKS_SHAPE(1, 4)}, [2] = {{0}, {0}, BLOCKS_SHAPE(2, 2)},
    [3] = {{0}, {0}, BLOCKS_SHAPE(3, 2)}, [4] = {{0}, {0}, BLOCKS_SHAPE(4, 1)},
    [5] = {{0}, {0}, BLOCKS_SHAPE(5, 1)}, [6] = {{0}, {0}, BLOCKS_SHAPE(6, 1)},
    [7] = {{0}, {0}, BLOCKS_SHAPE(7, 1)}, [8] = {{0}, {0}, BLOCKS_SHAPE(8, 1)},
};

void PRODUCT_BLOCKS(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    blocks_product(product, first_panel, n_panels, shapes);
}
