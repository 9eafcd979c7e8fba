#include "kernels/cpu/avx512_vectors.h"
#include "kernels/cpu/avx512_vnni.h"

#define DOT_BYTES_SIGNED false

AVX512_INLINE vector_i dot_nibbles(vector_i sum, vector_i weights, vector_i values)
{
    return _mm512_dpbusd_epi32(sum, weights, values);
}

AVX512_INLINE vector_i dot_bytes(vector_i sum, vector_i weights, vector_i values)
{
    return _mm512_dpbusd_epi32(sum, weights, values);
}

#include "kernels/cpu/blocks_product.h"

BLOCKS_BODIES(1, 2)
BLOCKS_BODIES(2, 4)
BLOCKS_BODIES(2, 2)
BLOCKS_BODIES(3, 4)
BLOCKS_BODIES(3, 2)
BLOCKS_BODIES(4, 2)
BLOCKS_BODIES(5, 2)
BLOCKS_BODIES(6, 2)
BLOCKS_BODIES(7, 2)
BLOCKS_BODIES(8, 2)

/* One row reads one panel after the other: several side by side were a few percent slower. */
static blocks_shapes shapes = {
    [1] = {{0}, {0}, BLOCKS_SHAPE(1, 2)},
    [2] = {{0}, BLOCKS_SHAPE(2, 4), BLOCKS_SHAPE(2, 2)},
    [3] = {{0}, BLOCKS_SHAPE(3, 4), BLOCKS_SHAPE(3, 2)},
    [4] = {{0}, {0}, BLOCKS_SHAPE(4, 2)},
    [5] = {{0}, {0}, BLOCKS_SHAPE(5, 2)},
    [6] = {{0}, {0}, BLOCKS_SHAPE(6, 2)},
    [7] = {{0}, {0}, BLOCKS_SHAPE(7, 2)},
    [8] = {{0}, {0}, BLOCKS_SHAPE(8, 2)},
};

void avx512_vnni_product_blocks(const struct product *product, uint32_t first_panel,
                                uint32_t n_panels)
{
    blocks_product(product, first_panel, n_panels, shapes);
}
