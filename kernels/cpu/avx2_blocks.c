#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx2_vectors.h"

/* As in avx512_blocks.c, the sign of weights of 8 bits goes to the values, since pairs of 16 bits
 * do not hold 255 * 127 twice. */
#define DOT_BYTES_SIGNED true

AVX2_INLINE vector_i pairs_add(vector_i sum, vector_i pairs)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

AVX2_INLINE vector_i dot_nibbles(vector_i sum, vector_i weights, vector_i values)
{
    return pairs_add(sum, _mm256_maddubs_epi16(weights, values));
}

AVX2_INLINE vector_i dot_bytes(vector_i sum, vector_i weights, vector_i values)
{
    __m256i signs = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
    values = _mm256_sign_epi8(values, signs);
    return pairs_add(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(signs), values));
}

#include "kernels/cpu/avx2_shapes.h"

void avx2_product_blocks(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    blocks_product(product, first_panel, n_panels, shapes);
}

/* The largest lane, as whole numbers. */
AVX2_INLINE uint32_t lanes_most(__m256i x)
{
    __m128i most = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(most);
}

AVX2_INLINE int32_t lanes_total(__m256i x)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

void avx2_row_blocks(const float *in, uint32_t n_blocks, struct row_block *to, uint32_t stride)
{
    enum { VECTORS = BLOCK_VALUES / LANES };
    const __m256i size = _mm256_set1_epi32(0x7fffffff);
    for (uint32_t b = 0; b < n_blocks; b++, in += BLOCK_VALUES, to += stride) {
        /* Sizes of floats are ordered as their bits are, NaN above all. */
        __m256i most = _mm256_setzero_si256(), total = most, numbers[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) most = _mm256_max_epu32(
            most, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(in + v * LANES)), size));
        __m256 inverse = _mm256_set1_ps(row_block_begin(to, lanes_most(most)));
        UNROLL for (int v = 0; v < VECTORS; v++)
        {
            numbers[v] =
                _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + v * LANES), inverse));
            total = _mm256_add_epi32(total, numbers[v]);
        }
        /* Packing works in halves of a vector: what it mixed is put back in order. */
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(numbers[0], numbers[1]),
                                           _mm256_packs_epi32(numbers[2], numbers[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)to->values, bytes);
        row_block_end(to, lanes_total(total));
    }
}
