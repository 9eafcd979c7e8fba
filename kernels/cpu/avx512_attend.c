/* attend.h for AVX-512: 32 registers of 16 floats. */
#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_math.h"

typedef __m512 vec;
#define ATTEND_INLINE AVX512_INLINE
#define ATTEND_SIZES(DO) DO(12) DO(8) DO(6) DO(4) DO(3) DO(2) DO(1)

#define vec_load(from) _mm512_loadu_ps(from)
#define vec_store(to, x) _mm512_storeu_ps(to, x)
#define vec_set(value) _mm512_set1_ps(value)
#define vec_add(a, b) _mm512_add_ps(a, b)
#define vec_sub(a, b) _mm512_sub_ps(a, b)
#define vec_mul(a, b) _mm512_mul_ps(a, b)
#define vec_max(a, b) _mm512_max_ps(a, b)
#define vec_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vec_exp(x) exp_ps(x)
#define vec_reduce_max(x) _mm512_reduce_max_ps(x)
#define vec_reduce_add(x) _mm512_reduce_add_ps(x)

AVX512_INLINE vec vec_half(const uint32_t *words, const int part)
{
    __m512i x = _mm512_loadu_si512(words);
    x = part ? _mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000u)) : _mm512_slli_epi32(x, 16);
    return _mm512_castsi512_ps(x);
}

AVX512_INLINE vec vec_byte(const uint32_t *words, const int part, const uint32_t flip)
{
    __m512i x = _mm512_xor_si512(_mm512_loadu_si512(words), _mm512_set1_epi32((int)flip));
    x = _mm512_sllv_epi32(x, _mm512_set1_epi32(24 - 8 * part));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 24));
}

/* The fields moved to their places make an f32 2^-120 times as large, subnormal or not. */
AVX512_INLINE vec vec_e4m3(const uint32_t *words, const int part)
{
    const __m512i fields = _mm512_set1_epi32(0x7f000000);
    __m512i x = _mm512_sllv_epi32(_mm512_loadu_si512(words), _mm512_set1_epi32(24 - 8 * part));
    __m512i size = _mm512_and_si512(x, fields);
    __m512i sign = _mm512_and_si512(x, _mm512_set1_epi32((int)0x80000000u));
    __m512 small = _mm512_castsi512_ps(_mm512_or_si512(sign, _mm512_srli_epi32(size, 4)));
    return _mm512_mask_mov_ps(_mm512_mul_ps(small, _mm512_set1_ps(0x1p120f)),
                              _mm512_cmpeq_epi32_mask(size, fields), vec_set(__builtin_nanf("")));
}

AVX512_INLINE vec vec_load_bf16(const uint16_t *from)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

AVX512_INLINE vec vec_keep(vec x, size_t from, size_t to, vec other)
{
    return _mm512_mask_mov_ps(other, lanes_mask(to) & (__mmask16)~lanes_mask(from), x);
}

#include "kernels/cpu/attend_body.h"

void avx512_attend(struct attend *attend)
{
    attend_run(attend);
}

void avx512_attend_fold(float *state, const float *out, float scale_had, float scale_new,
                        uint32_t n)
{
    fold_run(state, out, scale_had, scale_new, n);
}
