/*
 * avx2_math: the exponential, a row's end, and sums across lanes. Only for files of the tier.
 *
 * exp(x) = 2^n exp(r), n = round(x / ln 2), so |r| <= ln 2 / 2, and exp(r) is its Taylor series,
 * cut where the rest is below half a unit in the last place. n ln 2 is taken off in two parts, the
 * first of which has so few bits that its product is exact.
 */
#pragma once

#include <immintrin.h>

#include "base/types.h"

#define LANES 8
#define AVX2_INLINE static inline __attribute__((always_inline))

/* Lanes below `n` have all bits set: all of them from 8 on. */
AVX2_INLINE __m256i lanes_mask(size_t n)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)size_min(n, LANES)), lanes);
}

/* `n` values from `from`, at most eight; zeros after them, where nothing is read. */
AVX2_INLINE __m256 lanes_load(const float *from, size_t n)
{
    return n >= LANES ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, lanes_mask(n));
}

AVX2_INLINE void lanes_store(float *to, size_t n, __m256 values)
{
    if (n >= LANES)
        _mm256_storeu_ps(to, values);
    else
        _mm256_maskstore_ps(to, lanes_mask(n), values);
}

/* Always in one order: the upper half to the lower, then pairs. */
AVX2_INLINE float lanes_sum(__m256 x)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}

AVX2_INLINE float lanes_max(__m256 x)
{
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_shuffle_ps(most, most, 1)));
}

/* 2^n for -126 <= n <= 127. */
AVX2_INLINE __m256 power_ps(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* Below 2 units in the last place (measured over all floats: see tests/oracle); minus infinity
 * gives 0, large values infinity, NaN NaN. */
AVX2_INLINE __m256 exp_ps(__m256 x)
{
    /* The order of operands lets a NaN in x through. */
    x = _mm256_min_ps(_mm256_set1_ps(104.0f), _mm256_max_ps(_mm256_set1_ps(-104.0f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 sum = _mm256_set1_ps(1.0f / 5040);
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 720));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 120));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 24));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 6));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(0.5f));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f));
    /* In two factors: 2^n itself may be too small or too large for a float. */
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    sum = _mm256_mul_ps(sum, power_ps(half));
    return _mm256_mul_ps(sum, power_ps(_mm256_sub_epi32(whole, half)));
}

/* 2^exponent exp(x) for x <= 0, in double; what is below 2^-900 may be 0 or as small. */
AVX2_INLINE __m256d exp_scaled_pd(__m256d x, int exponent)
{
    static const double inverse_factorials[] = {
        1.0 / 6227020800,
        1.0 / 479001600,
        1.0 / 39916800,
        1.0 / 3628800,
        1.0 / 362880,
        1.0 / 40320,
        1.0 / 5040,
        1.0 / 720,
        1.0 / 120,
        1.0 / 24,
        1.0 / 6,
        0.5,
        1.0,
        1.0,
    };
    x = _mm256_max_pd(x, _mm256_set1_pd(-690.0));
    __m256d n = _mm256_round_pd(_mm256_mul_pd(x, _mm256_set1_pd(0x1.71547652b82fep0)),
                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256d r = _mm256_fnmadd_pd(n, _mm256_set1_pd(0x1.62e42fefp-1), x);
    r = _mm256_fnmadd_pd(n, _mm256_set1_pd(0x1.473de6af278edp-34), r);
    __m256d sum = _mm256_set1_pd(inverse_factorials[0]);
    for (size_t i = 1; i < array_count(inverse_factorials); i++)
        sum = _mm256_fmadd_pd(sum, r, _mm256_set1_pd(inverse_factorials[i]));
    __m128i whole = _mm_add_epi32(_mm256_cvtpd_epi32(n), _mm_set1_epi32(1023 + exponent));
    __m256i power = _mm256_slli_epi64(_mm256_cvtepi32_epi64(whole), 52);
    return _mm256_mul_pd(sum, _mm256_castsi256_pd(power));
}

/* NaN becomes minus infinity, plus infinity the largest float. */
AVX2_INLINE __m256 logits_clean(__m256 logits)
{
    /* When an operand is NaN, max gives the second one. */
    logits = _mm256_max_ps(logits, _mm256_set1_ps(-__builtin_inff()));
    return _mm256_min_ps(logits, _mm256_set1_ps(0x1.fffffep127f));
}
