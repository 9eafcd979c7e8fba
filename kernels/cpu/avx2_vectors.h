/*
 * avx2_vectors: what blocks_product.h asks of a tier, in vectors of 8 lanes, but for the dot
 * products. Only for files of the tier.
 */
#pragma once

#include <immintrin.h>

#include "kernels/cpu/avx2_math.h"
#include "kernels/cpu/tier.h"

typedef __m256i vector_i;
typedef __m256 vector_f;

AVX2_INLINE vector_i vi_load(const uint8_t *bytes)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

AVX2_INLINE vector_i vi_set(int32_t number)
{
    return _mm256_set1_epi32(number);
}

AVX2_INLINE vector_i vi_group(const int8_t *values)
{
    int32_t group;
    memcpy(&group, values, sizeof group);
    return _mm256_set1_epi32(group);
}

AVX2_INLINE vector_i vi_low(vector_i bytes)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

AVX2_INLINE vector_i vi_high(vector_i bytes)
{
    return _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
}

AVX2_INLINE vector_f vf_zero(void)
{
    return _mm256_setzero_ps();
}

AVX2_INLINE vector_f vf_set(float value)
{
    return _mm256_set1_ps(value);
}

AVX2_INLINE vector_f vf_of(vector_i numbers)
{
    return _mm256_cvtepi32_ps(numbers);
}

AVX2_INLINE vector_f vf_mul(vector_f a, vector_f b)
{
    return _mm256_mul_ps(a, b);
}

AVX2_INLINE vector_f vf_fma(vector_f a, vector_f b, vector_f c)
{
    return _mm256_fmadd_ps(a, b, c);
}

AVX2_INLINE vector_f vf_halves(const uint16_t *halves)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)halves));
}

AVX2_INLINE void vf_store(const struct product *p, uint32_t row, uint32_t first, vector_f sum)
{
    if (first >= p->out_count)
        return;
    size_t n = p->out_count - first, at = (size_t)row * p->out_stride + first;
    if (p->bias)
        sum = _mm256_add_ps(sum, lanes_load(p->bias + first, n));
    if (p->residual)
        sum = _mm256_add_ps(sum, lanes_load(p->residual + at, n));
    lanes_store(p->out + at, n, sum);
}
