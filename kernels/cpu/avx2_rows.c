#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx2_math.h"

/* Reductions use the same number of lanes for every row of one length, so that their shape is a
 * function of the length alone. */

void avx2_rmsnorm(const float *in, const float *weight, float eps, uint32_t n, float *out)
{
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                      _mm256_setzero_ps()};
    for (uint32_t i = 0, lane = 0; i < n; i += LANES, lane = (lane + 1) % 4) {
        __m256 x = lanes_load(in + i, n - i);
        sums[lane] = _mm256_fmadd_ps(x, x, sums[lane]);
    }
    __m256 sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    double mean = (double)lanes_sum(sum) / n;
    __m256 scale = _mm256_set1_ps((float)(1 / sqrt(mean + (double)eps)));
    for (uint32_t i = 0; i < n; i += LANES) {
        __m256 x = _mm256_mul_ps(lanes_load(in + i, n - i), scale);
        lanes_store(out + i, n - i, _mm256_mul_ps(x, lanes_load(weight + i, n - i)));
    }
}

void avx2_rotate(float *head, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += LANES) {
        uint32_t left = half - i;
        __m256 a = lanes_load(head + i, left), b = lanes_load(head + half + i, left);
        __m256 cosine = lanes_load(cosines + i, left), sine = lanes_load(sines + i, left);
        __m256 first = _mm256_fmsub_ps(a, cosine, _mm256_mul_ps(b, sine));
        __m256 second = _mm256_fmadd_ps(b, cosine, _mm256_mul_ps(a, sine));
        lanes_store(head + i, left, first);
        lanes_store(head + half + i, left, second);
    }
}

void avx2_silu_mul(const float *gate, const float *up, uint32_t n, float *out)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    for (uint32_t i = 0; i < n; i += LANES) {
        __m256 x = lanes_load(gate + i, n - i);
        __m256 e = exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), x));
        __m256 silu = _mm256_div_ps(x, _mm256_add_ps(one, e));
        lanes_store(out + i, n - i, _mm256_mul_ps(silu, lanes_load(up + i, n - i)));
    }
}

/* Lanes past the end read as minus infinity, which no best and no sum notices. */
AVX2_INLINE __m256 logits_load(const float *logits, uint32_t n, uint32_t i)
{
    __m256 x = lanes_load(logits + i, n - i);
    if (n - i < LANES)
        x = _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), x,
                             _mm256_castsi256_ps(lanes_mask(n - i)));
    return logits_clean(x);
}

float avx2_logits_best(const float *logits, uint32_t n, uint32_t *ret_id)
{
    __m256 most = _mm256_set1_ps(-__builtin_inff()), other = most;
    uint32_t i = 0;
    for (; n - i >= 2 * LANES; i += 2 * LANES) {
        most = _mm256_max_ps(most, logits_load(logits, n, i));
        other = _mm256_max_ps(other, logits_load(logits, n, i + LANES));
    }
    for (; i < n; i += LANES)
        most = _mm256_max_ps(most, logits_load(logits, n, i));
    float best = lanes_max(_mm256_max_ps(most, other));
    for (i = 0; i < n; i += LANES) {
        __m256 equal = _mm256_cmp_ps(logits_load(logits, n, i), _mm256_set1_ps(best), _CMP_EQ_OQ);
        uint32_t mask = (uint32_t)_mm256_movemask_ps(equal);
        if (mask) {
            *ret_id = i + (uint32_t)__builtin_ctz(mask);
            break;
        }
    }
    return best;
}

double avx2_logits_exp_sum(const float *logits, uint32_t n, float most)
{
    __m256d sum_0 = _mm256_setzero_pd(), sum_1 = _mm256_setzero_pd();
    for (uint32_t i = 0; i < n; i += LANES) {
        __m256 e = exp_ps(_mm256_sub_ps(logits_load(logits, n, i), _mm256_set1_ps(most)));
        sum_0 = _mm256_add_pd(sum_0, _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
        sum_1 = _mm256_add_pd(sum_1, _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
    }
    double sums[4];
    _mm256_storeu_pd(sums, _mm256_add_pd(sum_0, sum_1));
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Rounded to whole numbers by adding 2^52, under which a double has no fraction: the bits below its
 * exponent are the number. */
AVX2_INLINE __m256i weigh(__m128 logits, float most, double inverse_temperature)
{
    const __m256d whole = _mm256_set1_pd(0x1p52);
    __m256d x = _mm256_sub_pd(_mm256_cvtps_pd(logits), _mm256_set1_pd((double)most));
    x = exp_scaled_pd(_mm256_mul_pd(x, _mm256_set1_pd(inverse_temperature)), WEIGHT_BITS);
    return _mm256_xor_si256(_mm256_castpd_si256(_mm256_add_pd(x, whole)),
                            _mm256_castpd_si256(whole));
}

void avx2_logits_weigh(const float *logits, uint32_t n, float most, double inverse_temperature,
                       uint64_t *weights)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        __m256 x = logits_load(logits, n, i);
        uint64_t pair[LANES], *to = n - i >= LANES ? weights + i : pair;
        _mm256_storeu_si256((__m256i *)to,
                            weigh(_mm256_castps256_ps128(x), most, inverse_temperature));
        _mm256_storeu_si256((__m256i *)(to + LANES / 2),
                            weigh(_mm256_extractf128_ps(x, 1), most, inverse_temperature));
        if (to == pair)
            memcpy(weights + i, pair, (n - i) * sizeof *weights);
    }
}
