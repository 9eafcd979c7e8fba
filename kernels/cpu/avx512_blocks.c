#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_vectors.h"

/* Without integer dot products: bytes times bytes give pairs of 16 bits, which hold 15 * 127 twice,
 * but not 255 * 127. So weights of 8 bits are signed again, and their sign goes to the values. */
#define DOT_BYTES_SIGNED true

AVX512_INLINE vector_i pairs_add(vector_i sum, vector_i pairs)
{
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

AVX512_INLINE vector_i dot_nibbles(vector_i sum, vector_i weights, vector_i values)
{
    return pairs_add(sum, _mm512_maddubs_epi16(weights, values));
}

AVX512_INLINE vector_i dot_bytes(vector_i sum, vector_i weights, vector_i values)
{
    __m512i signs = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
    __mmask64 negative = _mm512_movepi8_mask(signs);
    values = _mm512_mask_sub_epi8(values, negative, _mm512_setzero_si512(), values);
    return pairs_add(sum, _mm512_maddubs_epi16(_mm512_abs_epi8(signs), values));
}

#include "kernels/cpu/blocks_product.h"

BLOCKS_BODIES(1, 8)
BLOCKS_BODIES(1, 4)
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

static blocks_shapes shapes = {
    [1] = {BLOCKS_SHAPE(1, 8), BLOCKS_SHAPE(1, 4), BLOCKS_SHAPE(1, 2)},
    [2] = {{0}, BLOCKS_SHAPE(2, 4), BLOCKS_SHAPE(2, 2)},
    [3] = {{0}, BLOCKS_SHAPE(3, 4), BLOCKS_SHAPE(3, 2)},
    [4] = {{0}, {0}, BLOCKS_SHAPE(4, 2)},
    [5] = {{0}, {0}, BLOCKS_SHAPE(5, 2)},
    [6] = {{0}, {0}, BLOCKS_SHAPE(6, 2)},
    [7] = {{0}, {0}, BLOCKS_SHAPE(7, 2)},
    [8] = {{0}, {0}, BLOCKS_SHAPE(8, 2)},
};

void avx512_product_blocks(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    blocks_product(product, first_panel, n_panels, shapes);
}

void avx512_row_blocks(const float *in, uint32_t n_blocks, struct row_block *to, uint32_t stride)
{
    const __m512i size = _mm512_set1_epi32(0x7fffffff);
    for (uint32_t b = 0; b < n_blocks; b++, in += BLOCK_VALUES, to += stride) {
        __m512 low = _mm512_loadu_ps(in), high = _mm512_loadu_ps(in + LANES);
        /* Sizes of floats are ordered as their bits are, NaN above all. */
        __m512i most = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(low), size),
                                        _mm512_and_si512(_mm512_castps_si512(high), size));
        __m512 inverse = _mm512_set1_ps(row_block_begin(to, _mm512_reduce_max_epu32(most)));
        __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        _mm_storeu_si128((__m128i *)(void *)to->values, _mm512_cvtepi32_epi8(first));
        _mm_storeu_si128((__m128i *)(void *)(to->values + LANES), _mm512_cvtepi32_epi8(second));
        /* A value that is not finite leaves no sum of sense, and a scale that is NaN. */
        row_block_end(to, _mm512_reduce_add_epi32(_mm512_add_epi32(first, second)));
    }
}
