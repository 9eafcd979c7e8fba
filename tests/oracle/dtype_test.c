/* dtype_widen against values worked out by hand from the formats' definitions, and the draw's
 * generator against the published answers of Philox. */
#include "tests/oracle/rig.h"

#include <math.h>

#include "kernels/philox.h"

static float widen_one(enum dtype dtype, uint16_t bits)
{
    float value = NAN;
    dtype_widen(dtype, &bits, 1, &value);
    return value;
}

static void names_and_blocks(void **state)
{
    static const struct {
        enum dtype dtype;
        const char *name;
        uint32_t count, bytes;
    } rows[] = {{DTYPE_F32, "F32", 1, 4},
                {DTYPE_F16, "F16", 1, 2},
                {DTYPE_BF16, "BF16", 1, 2},
                {DTYPE_Q8_0, "Q8_0", 32, 34},
                {DTYPE_Q4_0, "Q4_0", 32, 18},
                {DTYPE_Q4_1, "Q4_1", 32, 20},
                {DTYPE_F8_E4M3, "F8_E4M3", 128, 132}};
    assert_int_equal(array_count(rows), DTYPE_COUNT);
    for (size_t i = 0; i < array_count(rows); i++) {
        assert_string_equal(dtype_name(rows[i].dtype), rows[i].name);
        assert_int_equal(dtype_block_count(rows[i].dtype), rows[i].count);
        assert_int_equal(dtype_block_bytes(rows[i].dtype), rows[i].bytes);
        assert_int_equal(dtype_has_blocks(rows[i].dtype), rows[i].count == 32);
    }
    assert_string_equal(dtype_name(DTYPE_COUNT), "?");
}

static void widen_f16(void **state)
{
    assert_true(widen_one(DTYPE_F16, 0x3c00) == 1.0f);
    assert_true(widen_one(DTYPE_F16, 0xc000) == -2.0f);
    assert_true(widen_one(DTYPE_F16, 0x3555) == 0x1.554p-2f); /* 0.33325195 */
    assert_true(widen_one(DTYPE_F16, 0x7bff) == 65504.0f);
    assert_true(widen_one(DTYPE_F16, 0x0400) == 0x1p-14f); /* smallest normal */
    assert_true(widen_one(DTYPE_F16, 0x03ff) == 0x3ffp-24f);
    assert_true(widen_one(DTYPE_F16, 0x8001) == -0x1p-24f); /* smallest subnormal */
    assert_true(widen_one(DTYPE_F16, 0x0000) == 0.0f && !signbit(widen_one(DTYPE_F16, 0x0000)));
    assert_true(widen_one(DTYPE_F16, 0x8000) == 0.0f && signbit(widen_one(DTYPE_F16, 0x8000)));
    assert_true(widen_one(DTYPE_F16, 0x7c00) == INFINITY);
    assert_true(widen_one(DTYPE_F16, 0xfc00) == -INFINITY);
    assert_true(isnan(widen_one(DTYPE_F16, 0x7e01)));
}

/* The definition of the format, for all finite values. */
static void widen_f16_all(void **state)
{
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        int exponent = (int)(bits >> 10 & 31);
        double fraction = bits & 1023;
        if (exponent == 31)
            continue;
        double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        value = bits & 0x8000 ? -value : value;
        assert_true((double)widen_one(DTYPE_F16, (uint16_t)bits) == value);
    }
}

static void widen_bf16(void **state)
{
    assert_true(widen_one(DTYPE_BF16, 0x3f80) == 1.0f);
    assert_true(widen_one(DTYPE_BF16, 0xc049) == -3.140625f);
    assert_true(widen_one(DTYPE_BF16, 0x0001) == 0x1p-133f);
    assert_true(widen_one(DTYPE_BF16, 0x7f80) == INFINITY);
    assert_true(isnan(widen_one(DTYPE_BF16, 0x7fc0)));
}

/* At an odd address, as a file may have it. */
static void widen_blocks(enum dtype dtype, const uint8_t *block, float *values)
{
    uint8_t odd[1 + 34 * 2] = {0};
    size_t bytes = dtype_block_bytes(dtype);
    memcpy(odd + 1, block, bytes);
    memcpy(odd + 1 + bytes, block, bytes);
    float both[65];
    both[64] = 12345;
    dtype_widen(dtype, odd + 1, 64, both);
    assert_memory_equal(both, both + 32, 32 * sizeof(float));
    assert_true(both[64] == 12345);
    memcpy(values, both, 32 * sizeof(float));
}

static void widen_q8_0(void **state)
{
    uint8_t block[34] = {0x00, 0xb8}; /* scale -0.5 */
    for (int i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(int8_t)(8 * i - 128);
    float values[32];
    widen_blocks(DTYPE_Q8_0, block, values);
    for (int i = 0; i < 32; i++)
        assert_true(values[i] == -0.5f * (float)(8 * i - 128));
}

static void widen_q4_0(void **state)
{
    uint8_t block[18] = {0x00, 0x40}; /* scale 2 */
    for (int i = 0; i < 16; i++)
        block[2 + i] = (uint8_t)(i | (15 - i) << 4);
    float values[32];
    widen_blocks(DTYPE_Q4_0, block, values);
    for (int i = 0; i < 16; i++) {
        assert_true(values[i] == 2.0f * (float)(i - 8));
        assert_true(values[16 + i] == 2.0f * (float)(7 - i));
    }
}

static void widen_q4_1(void **state)
{
    uint8_t block[20] = {0x00, 0x38, 0x00, 0xc2}; /* scale 0.5, minimum -3 */
    for (int i = 0; i < 16; i++)
        block[4 + i] = (uint8_t)(i | (15 - i) << 4);
    float values[32];
    widen_blocks(DTYPE_Q4_1, block, values);
    for (int i = 0; i < 16; i++) {
        assert_true(values[i] == 0.5f * (float)i - 3);
        assert_true(values[16 + i] == 0.5f * (float)(15 - i) - 3);
    }
    /* One rounding only: 0x1.554p-2 * 3 + 65504 in exact arithmetic, then to f32. */
    uint8_t wide[20] = {0x55, 0x35, 0xff, 0x7b, 3};
    widen_blocks(DTYPE_Q4_1, wide, values);
    assert_true(values[0] == (float)(0x1.554p-2 * 3 + 65504.0));
}

/* The definition of the format, for every byte; to the nearest, the even one of two neighbours. */
static void e4m3(void **state)
{
    double values[127];
    for (int byte = 0; byte < 127; byte++) {
        int exponent = byte >> 3;
        values[byte] = exponent ? ldexp(8 + (byte & 7), exponent - 10) : ldexp(byte & 7, -9);
        assert_true((double)dtype_of_e4m3((uint8_t)byte) == values[byte]);
        assert_true((double)dtype_of_e4m3((uint8_t)(byte | 0x80)) == -values[byte]);
        assert_true(signbit(dtype_of_e4m3((uint8_t)(byte | 0x80))));
    }
    assert_true(values[126] == 448 && values[1] == 0x1p-9);
    assert_true(isnan(dtype_of_e4m3(0x7f)) && isnan(dtype_of_e4m3(0xff)));
    for (int byte = 0; byte < 126; byte++) {
        float half = (float)((values[byte] + values[byte + 1]) / 2);
        int even = byte % 2 ? byte + 1 : byte;
        assert_int_equal(dtype_e4m3((float)values[byte]), byte);
        assert_int_equal(dtype_e4m3(half), even);
        assert_int_equal(dtype_e4m3(nextafterf(half, 0)), byte);
        assert_int_equal(dtype_e4m3(nextafterf(half, 1e9f)), byte + 1);
        assert_int_equal(dtype_e4m3(-half), even | 0x80);
    }
    assert_int_equal(dtype_e4m3(448), 0x7e);
    assert_int_equal(dtype_e4m3(1e30f), 0x7e);
    assert_int_equal(dtype_e4m3(-INFINITY), 0xfe);
    assert_int_equal(dtype_e4m3(0x1p-149f), 0);
    assert_int_equal(dtype_e4m3(-0.0f), 0x80);
    assert_int_equal(dtype_e4m3(NAN) & 0x7f, 0x7f);
}

/* Each byte once, at an odd address; the product is rounded once. */
static void widen_f8(void **state)
{
    uint8_t odd[1 + 2 * 132];
    float values[256];
    const float scales[2] = {0x1.234568p-7f, -3};
    for (int b = 0; b < 2; b++) {
        memcpy(odd + 1 + b * 132, &scales[b], sizeof scales[b]);
        for (int i = 0; i < 128; i++)
            odd[1 + b * 132 + 4 + i] = (uint8_t)(i + 128 * b);
    }
    dtype_widen(DTYPE_F8_E4M3, odd + 1, 256, values);
    for (int i = 0; i < 256; i++)
        if (i % 128 == 127)
            assert_true(isnan(values[i]));
        else
            assert_true(values[i] ==
                        (float)((double)scales[i / 128] * (double)dtype_of_e4m3((uint8_t)i)));
    assert_int_equal(dtype_find_not_finite(DTYPE_F8_E4M3, odd + 1, 256), 127);
    odd[1 + 4 + 127] = 0x7e;
    assert_int_equal(dtype_find_not_finite(DTYPE_F8_E4M3, odd + 1, 256), 255);
    odd[1 + 132 + 4 + 127] = 0;
    assert_int_equal(dtype_find_not_finite(DTYPE_F8_E4M3, odd + 1, 256), 256);
    odd[1 + 132 + 3] = 0x7f, odd[1 + 132 + 2] = 0x80; /* infinity, or NaN */
    assert_int_equal(dtype_find_not_finite(DTYPE_F8_E4M3, odd + 1, 256), 128);
}

static void widen_f32(void **state)
{
    const float source[3] = {1.5f, -0.0f, 0x1p-149f};
    char odd[1 + sizeof source];
    memcpy(odd + 1, source, sizeof source);
    float values[3];
    dtype_widen(DTYPE_F32, odd + 1, 3, values);
    assert_memory_equal(values, source, sizeof source);
}

/* The known answers of the generator's authors (Random123, kat_vectors, philox4x32 10). */
static void philox_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < array_count(rows); i++) {
        uint32_t words[4];
        memcpy(words, rows[i].counter, sizeof words);
        philox_4x32_10(words, rows[i].key);
        assert_memory_equal(words, rows[i].answer, sizeof words);
    }
    assert_true(sample_uniform(0, 0) == (double)(0x6627e8d5e169c58du >> 11) / 0x1p53);
}

/* Each place that can be at fault, in a long row and at its ends. */
static void finds_what_is_not_finite(void **state)
{
    enum { BLOCKS = 2500 };
    static uint8_t bytes[BLOCKS * 36];
    for (int type = 0; type < DTYPE_F8_E4M3; type++) { /* whose quants count: widen_f8 */
        enum dtype dtype = (enum dtype)type;
        size_t block_bytes = dtype_block_bytes(dtype), count = BLOCKS * dtype_block_count(dtype);
        /* Below what is not finite by one bit of the exponent; the quants are anything. */
        memset(bytes, 0xff, sizeof bytes);
        for (size_t b = 0; b < BLOCKS; b++) {
            uint8_t *top = bytes + b * block_bytes + (dtype == DTYPE_F32 ? 3 : 1);
            *top = 0xfb; /* of F16 */
            if (dtype == DTYPE_F32 || dtype == DTYPE_BF16)
                top[0] = b % 2 ? 0x7f : 0xff, top[-1] = 0x7f;
            if (dtype == DTYPE_Q4_1)
                top[2] = 0x7b;
        }
        assert_int_equal(dtype_find_not_finite(dtype, bytes, count), count);
        assert_int_equal(dtype_find_not_finite(dtype, bytes, 0), 0);
        static const size_t places[] = {0, 1, 1023, 1024, 2000, BLOCKS - 1};
        for (size_t i = array_count(places); i-- > 0;) { /* the last place first */
            uint8_t *top = bytes + places[i] * block_bytes + (dtype == DTYPE_F32 ? 3 : 1);
            if (dtype == DTYPE_Q4_1 && i % 2)
                top += 2;
            top[0] = i % 2 ? 0xff : 0x7f;
            if (dtype == DTYPE_F32 || dtype == DTYPE_BF16)
                top[-1] = 0x80; /* infinity, or NaN by the bytes below */
            assert_int_equal(dtype_find_not_finite(dtype, bytes, count),
                             places[i] * dtype_block_count(dtype));
        }
    }
}

static void uniform_is_uniform(void **state)
{
    enum { CELLS = 64, DRAWS = 64 * 4000 };
    uint32_t cells[CELLS] = {0};
    for (uint32_t i = 0; i < DRAWS; i++) {
        double u = sample_uniform(i / 512 * 0x9e3779b97f4a7c15u, i % 512);
        assert_true(u >= 0 && u < 1);
        cells[(int)(u * CELLS)]++;
    }
    double chi = 0;
    for (int i = 0; i < CELLS; i++)
        chi += ((double)cells[i] - 4000) * ((double)cells[i] - 4000) / 4000;
    assert_true(chi < 112); /* 63 degrees of freedom: beyond it with probability 1e-4 */
    /* Both halves of the seed and the position count. */
    assert_true(sample_uniform(1, 7) != sample_uniform(1ul << 32, 7));
    assert_true(sample_uniform(1, 7) != sample_uniform(1, 8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_blocks),
        cmocka_unit_test(widen_f16),
        cmocka_unit_test(widen_f16_all),
        cmocka_unit_test(widen_bf16),
        cmocka_unit_test(widen_q8_0),
        cmocka_unit_test(widen_q4_0),
        cmocka_unit_test(finds_what_is_not_finite),
        cmocka_unit_test(widen_q4_1),
        cmocka_unit_test(widen_f32),
        cmocka_unit_test(widen_f8),
        cmocka_unit_test(e4m3),
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(uniform_is_uniform),
    };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}
