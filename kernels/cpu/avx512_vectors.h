/*
 * avx512_vectors: what blocks_product.h asks of a tier, in vectors of 16 lanes. Only for files of
 * the tiers avx512 and avx512-vnni, which add the dot products.
 */
#pragma once

#include <immintrin.h>

#include "kernels/cpu/avx512_math.h"
#include "kernels/cpu/tier.h"

typedef __m512i vector_i;
typedef __m512 vector_f;

AVX512_INLINE vector_i vi_load(const uint8_t *bytes)
{
    return _mm512_loadu_si512(bytes);
}

AVX512_INLINE vector_i vi_set(int32_t number)
{
    return _mm512_set1_epi32(number);
}

AVX512_INLINE vector_i vi_group(const int8_t *values)
{
    int32_t group;
    memcpy(&group, values, sizeof group);
    return _mm512_set1_epi32(group);
}

AVX512_INLINE vector_i vi_low(vector_i bytes)
{
    return _mm512_and_si512(bytes, _mm512_set1_epi8(15));
}

AVX512_INLINE vector_i vi_high(vector_i bytes)
{
    return _mm512_and_si512(_mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(15));
}

AVX512_INLINE vector_f vf_zero(void)
{
    return _mm512_setzero_ps();
}

AVX512_INLINE vector_f vf_set(float value)
{
    return _mm512_set1_ps(value);
}

AVX512_INLINE vector_f vf_of(vector_i numbers)
{
    return _mm512_cvtepi32_ps(numbers);
}

AVX512_INLINE vector_f vf_mul(vector_f a, vector_f b)
{
    return _mm512_mul_ps(a, b);
}

AVX512_INLINE vector_f vf_fma(vector_f a, vector_f b, vector_f c)
{
    return _mm512_fmadd_ps(a, b, c);
}

AVX512_INLINE vector_f vf_halves(const uint16_t *halves)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)halves));
}

/* Adds bias and residual, and stores what is left of the row's outputs. */
AVX512_INLINE void vf_store(const struct product *p, uint32_t row, uint32_t first, vector_f sum)
{
    if (first >= p->out_count)
        return;
    __mmask16 mask = lanes_mask(p->out_count - first);
    size_t at = (size_t)row * p->out_stride + first;
    if (p->bias)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, p->bias + first));
    if (p->residual)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, p->residual + at));
    _mm512_mask_storeu_ps(p->out + at, mask, sum);
}
