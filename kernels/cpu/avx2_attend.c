/* attend.h for AVX2: 16 registers of 8 floats. */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx2_math.h"

typedef __m256 vec;
#define ATTEND_INLINE AVX2_INLINE
#define ATTEND_SIZES(DO) DO(6) DO(4) DO(3) DO(2) DO(1)

#define vec_load(from) _mm256_loadu_ps(from)
#define vec_store(to, x) _mm256_storeu_ps(to, x)
#define vec_set(value) _mm256_set1_ps(value)
#define vec_add(a, b) _mm256_add_ps(a, b)
#define vec_sub(a, b) _mm256_sub_ps(a, b)
#define vec_mul(a, b) _mm256_mul_ps(a, b)
#define vec_max(a, b) _mm256_max_ps(a, b)
#define vec_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vec_exp(x) exp_ps(x)
#define vec_reduce_max(x) lanes_max(x)
#define vec_reduce_add(x) lanes_sum(x)

AVX2_INLINE vec vec_half(const uint32_t *words, const int part)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)words);
    x = part ? _mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000u)) : _mm256_slli_epi32(x, 16);
    return _mm256_castsi256_ps(x);
}

AVX2_INLINE vec vec_byte(const uint32_t *words, const int part, const uint32_t flip)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)words);
    x = _mm256_xor_si256(x, _mm256_set1_epi32((int)flip));
    x = _mm256_sllv_epi32(x, _mm256_set1_epi32(24 - 8 * part));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(x, 24));
}

/* The fields moved to their places make an f32 2^-120 times as large, subnormal or not. */
AVX2_INLINE vec vec_e4m3(const uint32_t *words, const int part)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)words);
    x = _mm256_sllv_epi32(x, _mm256_set1_epi32(24 - 8 * part));
    __m256i size = _mm256_and_si256(x, _mm256_set1_epi32(0x7f000000));
    __m256i sign = _mm256_and_si256(x, _mm256_set1_epi32((int)0x80000000u));
    __m256i nan = _mm256_cmpeq_epi32(size, _mm256_set1_epi32(0x7f000000));
    __m256 small = _mm256_castsi256_ps(_mm256_or_si256(sign, _mm256_srli_epi32(size, 4)));
    return _mm256_or_ps(_mm256_mul_ps(small, _mm256_set1_ps(0x1p120f)), _mm256_castsi256_ps(nan));
}

AVX2_INLINE vec vec_load_bf16(const uint16_t *from)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

AVX2_INLINE vec vec_keep(vec x, size_t from, size_t to, vec other)
{
    __m256i mask = _mm256_andnot_si256(lanes_mask(from), lanes_mask(to));
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(mask));
}

#include "kernels/cpu/attend_body.h"

void avx2_attend(struct attend *attend)
{
    attend_run(attend);
}

void avx2_attend_fold(float *state, const float *out, float scale_had, float scale_new, uint32_t n)
{
    fold_run(state, out, scale_had, scale_new, n);
}
