/* attend.h in C: four floats at a time, which a compiler turns into whatever the machine has. */
#include <math.h>

#include "kernels/cpu/tier.h"

#define LANES 4
typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
#define ATTEND_INLINE static inline __attribute__((always_inline))
#define ATTEND_SIZES(DO) DO(4) DO(3) DO(2) DO(1)

#define vec_load(from) (*(const vec *)(const void *)(from))
#define vec_store(to, x) (*(vec *)(void *)(to) = (x))
#define vec_add(a, b) ((a) + (b))
#define vec_sub(a, b) ((a) - (b))
#define vec_mul(a, b) ((a) * (b))
#define vec_fma(a, b, c) ((a) * (b) + (c))

ATTEND_INLINE vec vec_set(float value)
{
    return (vec){value, value, value, value};
}

ATTEND_INLINE vec vec_half(const uint32_t *words, const int part)
{
    uint32_t bits[LANES];
    vec x;
    for (int i = 0; i < LANES; i++)
        bits[i] = part ? words[i] & 0xffff0000u : words[i] << 16;
    memcpy(&x, bits, sizeof x);
    return x;
}

ATTEND_INLINE vec vec_byte(const uint32_t *words, const int part, const uint32_t flip)
{
    vec x;
    for (int i = 0; i < LANES; i++)
        x[i] = (float)(int8_t)(uint8_t)((words[i] ^ flip) >> 8 * part);
    return x;
}

ATTEND_INLINE vec vec_e4m3(const uint32_t *words, const int part)
{
    vec x;
    for (int i = 0; i < LANES; i++)
        x[i] = dtype_of_e4m3((uint8_t)(words[i] >> 8 * part));
    return x;
}

ATTEND_INLINE vec vec_load_bf16(const uint16_t *from)
{
    uint32_t bits[LANES];
    vec x;
    for (int i = 0; i < LANES; i++)
        bits[i] = (uint32_t)from[i] << 16;
    memcpy(&x, bits, sizeof x);
    return x;
}

ATTEND_INLINE vec vec_max(vec a, vec b)
{
    vec x;
    for (int i = 0; i < LANES; i++)
        x[i] = a[i] > b[i] ? a[i] : b[i]; /* as the wide tiers: a NaN gives the second one */
    return x;
}

ATTEND_INLINE vec vec_exp(vec x)
{
    for (int i = 0; i < LANES; i++)
        x[i] = expf(x[i]);
    return x;
}

ATTEND_INLINE vec vec_keep(vec x, size_t from, size_t to, vec other)
{
    for (size_t i = 0; i < LANES; i++)
        x[i] = i >= from && i < to ? x[i] : other[i];
    return x;
}

ATTEND_INLINE float vec_reduce_max(vec x)
{
    return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
}

ATTEND_INLINE float vec_reduce_add(vec x)
{
    return (x[0] + x[1]) + (x[2] + x[3]);
}

#include "kernels/cpu/attend_body.h"

void scalar_attend(struct attend *attend)
{
    attend_run(attend);
}

void scalar_attend_fold(float *state, const float *out, float scale_had, float scale_new,
                        uint32_t n)
{
    fold_run(state, out, scale_had, scale_new, n);
}
