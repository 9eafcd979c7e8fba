#include "kernels/ops.h"

#include <math.h>

/*
 * The block formats store their fields without padding and at any address, so everything is read
 * through memcpy. Files are little-endian, and so is every machine that we build for.
 */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weights are read as they lie in files");

#define Q_BLOCK 32
#define F8_BLOCK 128

static const struct dtype_row {
    const char *name;
    uint32_t block_count, block_bytes;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 1, 4},
    [DTYPE_F16] = {"F16", 1, 2},
    [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_Q8_0] = {"Q8_0", Q_BLOCK, 2 + Q_BLOCK},
    [DTYPE_Q4_0] = {"Q4_0", Q_BLOCK, 2 + Q_BLOCK / 2},
    [DTYPE_Q4_1] = {"Q4_1", Q_BLOCK, 4 + Q_BLOCK / 2},
    [DTYPE_F8_E4M3] = {"F8_E4M3", F8_BLOCK, 4 + F8_BLOCK},
};

/* NULL: no type. */
static const struct dtype_row *row_of(enum dtype dtype)
{
    static const struct dtype_row kv_e4m3 = {"E4M3", 1, 1};
    if (dtype == DTYPE_KV_E4M3)
        return &kv_e4m3;
    return (unsigned)dtype < DTYPE_COUNT ? &dtypes[dtype] : NULL;
}

const char *dtype_name(enum dtype dtype)
{
    const struct dtype_row *row = row_of(dtype);
    return row ? row->name : "?";
}

uint32_t dtype_block_count(enum dtype dtype)
{
    const struct dtype_row *row = row_of(dtype);
    CHECK(row);
    return row->block_count;
}

uint32_t dtype_block_bytes(enum dtype dtype)
{
    const struct dtype_row *row = row_of(dtype);
    CHECK(row);
    return row->block_bytes;
}

bool dtype_has_blocks(enum dtype dtype)
{
    return dtype_block_count(dtype) == Q_BLOCK;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint16_t half_load(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return half;
}

static float f16_widen(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 0x1f;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1f)
        return float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0)
        return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    /* Zero or subnormal: fraction * 2^-24 is exact in f32, and keeps the sign of zero. */
    float magnitude = (float)fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

/* The fields moved to their places make an f32 2^-120 times as large, subnormal or not; without a
 * branch, so that loops become vectors. */
static inline float e4m3_widen(uint8_t byte)
{
    float small = float_of_bits((uint32_t)(byte & 0x80u) << 24 | (uint32_t)(byte & 0x7fu) << 20);
    return (byte & 0x7f) == 0x7f ? NAN : small * 0x1p120f;
}

float dtype_of_e4m3(uint8_t byte)
{
    return e4m3_widen(byte);
}

static void q8_0_widen(const uint8_t *block, float *values)
{
    float scale = f16_widen(half_load(block));
    for (uint32_t i = 0; i < Q_BLOCK; i++)
        values[i] = scale * (float)(int8_t)block[2 + i];
}

/* Byte i holds value i in its low nibble and value i + 16 in its high one. */
static void q4_0_widen(const uint8_t *block, float *values)
{
    float scale = f16_widen(half_load(block));
    for (uint32_t i = 0; i < Q_BLOCK / 2; i++) {
        values[i] = scale * (float)((block[2 + i] & 15) - 8);
        values[i + Q_BLOCK / 2] = scale * (float)((block[2 + i] >> 4) - 8);
    }
}

/* scale * nibble has at most 15 significant bits, so the sum is the only rounding. */
static void q4_1_widen(const uint8_t *block, float *values)
{
    float scale = f16_widen(half_load(block));
    float minimum = f16_widen(half_load(block + 2));
    for (uint32_t i = 0; i < Q_BLOCK / 2; i++) {
        values[i] = scale * (float)(block[4 + i] & 15) + minimum;
        values[i + Q_BLOCK / 2] = scale * (float)(block[4 + i] >> 4) + minimum;
    }
}

static void f8_widen(const uint8_t *block, float *values)
{
    float scale;
    memcpy(&scale, block, sizeof scale);
    for (uint32_t i = 0; i < F8_BLOCK; i++)
        values[i] = scale * e4m3_widen(block[sizeof scale + i]);
}

void dtype_widen(enum dtype dtype, const void *source, size_t count, float *ret_values)
{
    const uint8_t *bytes = source;
    uint32_t block = dtype_block_count(dtype), block_bytes = dtype_block_bytes(dtype);
    CHECK(count % block == 0);
    if (dtype == DTYPE_F32) {
        memcpy(ret_values, source, count * sizeof(float));
        return;
    }
    for (size_t i = 0; i < count; i += block, bytes += block_bytes) {
        switch (dtype) {
        case DTYPE_F16:
            ret_values[i] = f16_widen(half_load(bytes));
            break;
        case DTYPE_BF16:
            ret_values[i] = float_of_bits((uint32_t)half_load(bytes) << 16);
            break;
        case DTYPE_Q8_0:
            q8_0_widen(bytes, ret_values + i);
            break;
        case DTYPE_Q4_0:
            q4_0_widen(bytes, ret_values + i);
            break;
        case DTYPE_Q4_1:
            q4_1_widen(bytes, ret_values + i);
            break;
        case DTYPE_KV_E4M3:
            ret_values[i] = dtype_of_e4m3(*bytes);
            break;
        case DTYPE_F8_E4M3:
            f8_widen(bytes, ret_values + i);
            break;
        case DTYPE_F32:
        case DTYPE_COUNT:
            break;
        }
    }
}

/* Of `count` words `step` bytes apart, the first one with all bits of `exponent` set. The inner
 * loop has no way out, so that it becomes vectors. */
static size_t words_find(const uint8_t *bytes, size_t count, size_t step, uint32_t exponent)
{
    enum { RUN = 1024 };
    size_t word_bytes = exponent > UINT16_MAX ? 4 : 2;
    for (size_t first = 0; first < count; first += RUN) {
        size_t n = size_min(RUN, count - first);
        const uint8_t *run = bytes + first * step;
        bool found = false;
        if (word_bytes == 4)
            for (size_t i = 0; i < n; i++) {
                uint32_t word;
                memcpy(&word, run + i * 4, sizeof word);
                found |= (word & exponent) == exponent;
            }
        else if (step == 2)
            for (size_t i = 0; i < n; i++)
                found |= (half_load(run + i * 2) & exponent) == exponent;
        else
            for (size_t i = 0; i < n; i++)
                found |= (half_load(run + i * step) & exponent) == exponent;
        for (size_t i = 0; found && i < n; i++) {
            uint32_t word = 0;
            memcpy(&word, run + i * step, word_bytes);
            if ((word & exponent) == exponent)
                return first + i;
        }
    }
    return count;
}

/* A scale that is not finite counts for its first value. */
static size_t f8_find_not_finite(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i += F8_BLOCK, bytes += 4 + F8_BLOCK) {
        float scale;
        memcpy(&scale, bytes, sizeof scale);
        if (!isfinite(scale))
            return i;
        bool found = false;
        for (uint32_t j = 0; j < F8_BLOCK; j++)
            found |= (bytes[4 + j] & 0x7f) == 0x7f;
        for (uint32_t j = 0; found && j < F8_BLOCK; j++)
            if ((bytes[4 + j] & 0x7f) == 0x7f)
                return i + j;
    }
    return count;
}

size_t dtype_find_not_finite(enum dtype dtype, const void *source, size_t count)
{
    const uint8_t *bytes = source;
    size_t step = dtype_block_bytes(dtype), n_blocks = count / dtype_block_count(dtype);
    CHECK(count % dtype_block_count(dtype) == 0);
    if (dtype == DTYPE_F8_E4M3)
        return f8_find_not_finite(bytes, count);
    uint32_t exponent = dtype == DTYPE_F32 ? 0x7f800000 : dtype == DTYPE_BF16 ? 0x7f80 : 0x7c00;
    size_t found = words_find(bytes, n_blocks, step, exponent);
    if (dtype == DTYPE_Q4_1) /* the minimum follows the scale */
        found = size_min(found, words_find(bytes + 2, n_blocks, step, exponent));
    return found * dtype_block_count(dtype);
}

uint16_t dtype_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40); /* rounding could make it infinite */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

uint16_t dtype_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) /* 65520 and more */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000u) { /* below 2^-14: the sum's last bit is worth 2^-24 */
        float sum = fabsf(value) + 0.5f, half = 0.5f;
        uint32_t sum_bits, half_bits;
        memcpy(&sum_bits, &sum, sizeof sum_bits);
        memcpy(&half_bits, &half, sizeof half_bits);
        return (uint16_t)(sign | (sum_bits - half_bits));
    }
    magnitude += 0xfffu + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000u) >> 13);
}

uint8_t dtype_e4m3(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint8_t)(sign | 0x7f);
    if (magnitude >= 0x43e00000u) /* 448 and more */
        return (uint8_t)(sign | 0x7e);
    if (magnitude < 0x3c800000u) /* below 2^-6: units of 2^-9 */
        return (uint8_t)(sign | (uint32_t)lrintf(fabsf(value) * 0x1p9f));
    magnitude += 0x7ffffu + (magnitude >> 20 & 1);
    return (uint8_t)(sign | ((magnitude >> 20) - (120u << 3)));
}
