/*
 * avx512_math: the exponential, and the masks of a row's end. Only for files of the tier.
 *
 * exp(x) = 2^n exp(r), n = round(x / ln 2), so |r| <= ln 2 / 2, and exp(r) is its Taylor series,
 * cut where the rest is below half a unit in the last place. n ln 2 is taken off in two parts, the
 * first of which has so few bits that its product is exact.
 */
#pragma once

#include <immintrin.h>

#include "base/types.h"

#define LANES 16
#define AVX512_INLINE static inline __attribute__((always_inline))

/* Lanes below `n`: all of them from 16 on. */
AVX512_INLINE __mmask16 lanes_mask(size_t n)
{
    return (__mmask16)(n >= LANES ? 0xffffu : (1u << n) - 1);
}

/* Below 2 units in the last place (measured over all floats: see tests/oracle); minus infinity
 * gives 0, large values infinity, NaN NaN. */
AVX512_INLINE __m512 exp_ps(__m512 x)
{
    /* The order of operands lets a NaN in x through. */
    x = _mm512_min_ps(_mm512_set1_ps(104.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p0f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 sum = _mm512_set1_ps(1.0f / 5040);
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 720));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 120));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 24));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 6));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5f));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, n);
}

/* 2^exponent exp(x) for x <= 0, in double. */
AVX512_INLINE __m512d exp_scaled_pd(__m512d x, double exponent)
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
    x = _mm512_max_pd(x, _mm512_set1_pd(-1000.0));
    __m512d n = _mm512_roundscale_pd(_mm512_mul_pd(x, _mm512_set1_pd(0x1.71547652b82fep0)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512d r = _mm512_fnmadd_pd(n, _mm512_set1_pd(0x1.62e42fefp-1), x);
    r = _mm512_fnmadd_pd(n, _mm512_set1_pd(0x1.473de6af278edp-34), r);
    __m512d sum = _mm512_set1_pd(inverse_factorials[0]);
    for (size_t i = 1; i < array_count(inverse_factorials); i++)
        sum = _mm512_fmadd_pd(sum, r, _mm512_set1_pd(inverse_factorials[i]));
    return _mm512_scalef_pd(sum, _mm512_add_pd(n, _mm512_set1_pd(exponent)));
}

/* NaN becomes minus infinity, plus infinity the largest float. */
AVX512_INLINE __m512 logits_clean(__m512 logits)
{
    /* When an operand is NaN, max gives the second one. */
    logits = _mm512_max_ps(logits, _mm512_set1_ps(-__builtin_inff()));
    return _mm512_min_ps(logits, _mm512_set1_ps(0x1.fffffep127f));
}
