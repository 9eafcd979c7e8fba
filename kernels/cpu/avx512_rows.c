#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_math.h"

/* Reductions use the same number of lanes for every row of one length, so that their shape is a
 * function of the length alone. */

void avx512_rmsnorm(const float *in, const float *weight, float eps, uint32_t n, float *out)
{
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                      _mm512_setzero_ps()};
    for (uint32_t i = 0, lane = 0; i < n; i += LANES, lane = (lane + 1) % 4) {
        __m512 x = _mm512_maskz_loadu_ps(lanes_mask(n - i), in + i);
        sums[lane] = _mm512_fmadd_ps(x, x, sums[lane]);
    }
    __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    double mean = (double)_mm512_reduce_add_ps(sum) / n;
    __m512 scale = _mm512_set1_ps((float)(1 / sqrt(mean + (double)eps)));
    for (uint32_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, in + i), scale);
        x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(mask, weight + i));
        _mm512_mask_storeu_ps(out + i, mask, x);
    }
}

void avx512_rotate(float *head, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += LANES) {
        __mmask16 mask = lanes_mask(half - i);
        __m512 a = _mm512_maskz_loadu_ps(mask, head + i);
        __m512 b = _mm512_maskz_loadu_ps(mask, head + half + i);
        __m512 cosine = _mm512_maskz_loadu_ps(mask, cosines + i);
        __m512 sine = _mm512_maskz_loadu_ps(mask, sines + i);
        __m512 first = _mm512_fmsub_ps(a, cosine, _mm512_mul_ps(b, sine));
        __m512 second = _mm512_fmadd_ps(b, cosine, _mm512_mul_ps(a, sine));
        _mm512_mask_storeu_ps(head + i, mask, first);
        _mm512_mask_storeu_ps(head + half + i, mask, second);
    }
}

void avx512_silu_mul(const float *gate, const float *up, uint32_t n, float *out)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (uint32_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 x = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 e = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x));
        __m512 silu = _mm512_div_ps(x, _mm512_add_ps(one, e));
        silu = _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i));
        _mm512_mask_storeu_ps(out + i, mask, silu);
    }
}

/* Lanes past the end read as minus infinity, which no best and no sum notices. */
AVX512_INLINE __m512 logits_load(const float *logits, uint32_t n, uint32_t i)
{
    const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
    return logits_clean(_mm512_mask_loadu_ps(lowest, lanes_mask(n - i), logits + i));
}

float avx512_logits_best(const float *logits, uint32_t n, uint32_t *ret_id)
{
    __m512 most = _mm512_set1_ps(-__builtin_inff()), other = most;
    uint32_t i = 0;
    for (; n - i >= 2 * LANES; i += 2 * LANES) {
        most = _mm512_max_ps(most, logits_load(logits, n, i));
        other = _mm512_max_ps(other, logits_load(logits, n, i + LANES));
    }
    for (; i < n; i += LANES)
        most = _mm512_max_ps(most, logits_load(logits, n, i));
    float best = _mm512_reduce_max_ps(_mm512_max_ps(most, other));
    for (i = 0; i < n; i += LANES) {
        __mmask16 equal =
            _mm512_cmp_ps_mask(logits_load(logits, n, i), _mm512_set1_ps(best), _CMP_EQ_OQ);
        if (equal) {
            *ret_id = i + (uint32_t)__builtin_ctz(equal);
            break;
        }
    }
    return best;
}

double avx512_logits_exp_sum(const float *logits, uint32_t n, float most)
{
    __m512d sum_0 = _mm512_setzero_pd(), sum_1 = _mm512_setzero_pd();
    for (uint32_t i = 0; i < n; i += LANES) {
        __m512 e = exp_ps(_mm512_sub_ps(logits_load(logits, n, i), _mm512_set1_ps(most)));
        sum_0 = _mm512_add_pd(sum_0, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        sum_1 = _mm512_add_pd(sum_1, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(sum_0, sum_1));
}

AVX512_INLINE __m512i weigh(__m256 logits, float most, double inverse_temperature)
{
    __m512d x = _mm512_sub_pd(_mm512_cvtps_pd(logits), _mm512_set1_pd((double)most));
    x = _mm512_mul_pd(x, _mm512_set1_pd(inverse_temperature));
    return _mm512_cvtpd_epu64(exp_scaled_pd(x, WEIGHT_BITS));
}

void avx512_logits_weigh(const float *logits, uint32_t n, float most, double inverse_temperature,
                         uint64_t *weights)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        __m512 x = logits_load(logits, n, i);
        uint32_t mask = lanes_mask(n - i);
        _mm512_mask_storeu_epi64(weights + i, (__mmask8)mask,
                                 weigh(_mm512_castps512_ps256(x), most, inverse_temperature));
        _mm512_mask_storeu_epi64(weights + i + LANES / 2, (__mmask8)(mask >> 8),
                                 weigh(_mm512_extractf32x8_ps(x, 1), most, inverse_temperature));
    }
}
