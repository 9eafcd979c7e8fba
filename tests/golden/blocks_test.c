/*
 * Blocks of 8 and 4 bits: our bytes are those of the `gguf` package (blocks.py), whatever type the
 * values come from, on one thread and on several, and values that cannot be blocks are named.
 *
 *     blocks_test FOLDER
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/map_file.h"
#include "model/quantise.h"

#define COUNT_MAX (1u << 18)

static const char *folder;
static float values[COUNT_MAX]; /* as blocks.py wrote them */
static size_t count;

static void file_map(const char *name, struct map_file *ret_map)
{
    struct error error;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (map_file_open(path, SIZE_MAX, ret_map, &error))
        fail_msg("%s", error.text);
}

static int values_read(void **state)
{
    struct map_file map = {0};
    file_map("values.f32", &map);
    count = map.size_bytes / sizeof *values;
    assert_true(count >= 10000 && count <= COUNT_MAX && count % 32 == 0);
    memcpy(values, map.data, map.size_bytes);
    map_file_close(&map);
    return 0;
}

static const struct {
    enum dtype kind;
    const char *file;
    float divisor; /* of the largest values, as blocks.py has it */
} kinds[] = {{DTYPE_Q8_0, "q8_0.bin", 1}, {DTYPE_Q4_0, "q4_0.bin", 16}};

static void bytes_are_the_package_s(void **state)
{
    static float source[COUNT_MAX];
    static uint8_t blocks[COUNT_MAX * 2];
    for (size_t k = 0; k < array_count(kinds); k++) {
        struct map_file want = {0};
        file_map(kinds[k].file, &want);
        size_t bytes = count / 32 * dtype_block_bytes(kinds[k].kind);
        assert_int_equal(want.size_bytes, bytes);
        for (size_t i = 0; i < count; i++)
            source[i] = fabsf(values[i]) > 5e5f ? values[i] / kinds[k].divisor : values[i];
        blocks[bytes] = 0xa5;
        quantise_blocks(kinds[k].kind, source, count, blocks);
        assert_memory_equal(blocks, want.data, bytes);
        assert_int_equal(blocks[bytes], 0xa5);
        map_file_close(&want);
    }
}

/* Of every type that a file may hold, at an odd address, in pieces on several threads: what one
 * call on the widened values gives. */
static void threads_and_types_change_nothing(void **state)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    enum { N = COUNT_MAX - 32, PIECES = 3 };
    uint8_t *raw = malloc(4 * N + 1), *got = malloc(PIECES * 2 * N), *want = malloc(2 * N);
    float *wide = malloc(N * sizeof *wide);
    struct pool *pool;
    assert_true(raw && got && want && wide && pool_open(3, &pool, NULL) == STATUS_OK);
    for (size_t t = 0; t < array_count(types); t++)
        for (size_t k = 0; k < array_count(kinds); k++) {
            uint32_t bytes = dtype_block_bytes(types[t]);
            for (uint32_t i = 0; i < N; i++) {
                float value = values[i % count] * (1.0f + (float)(i / count) / 1024);
                uint32_t bits;
                value = fabsf(value) > 3e4f ? 3e4f : value;
                memcpy(&bits, &value, sizeof bits);
                bits = types[t] == DTYPE_BF16 ? bits >> 16
                       : types[t] == DTYPE_F16
                           ? 0x2c00 | (bits >> 13 & 0x83ff) | (bits >> 16 & 0x8000)
                           : bits;
                memcpy(raw + 1 + (size_t)i * bytes, &bits, bytes);
            }
            dtype_widen(types[t], raw + 1, N, wide);
            quantise_blocks(kinds[k].kind, wide, N, want);
            size_t size = N / 32 * dtype_block_bytes(kinds[k].kind);
            struct quantise_job jobs[PIECES];
            for (uint32_t j = 0; j < PIECES; j++)
                jobs[j] = (struct quantise_job){
                    .from = types[t], .data = raw + 1, .count = N, .blocks = got + j * size};
            quantise_run(pool, kinds[k].kind, jobs, PIECES);
            for (uint32_t j = 0; j < PIECES; j++) {
                assert_memory_equal(got + j * size, want, size);
                assert_int_equal(jobs[j].not_finite, N);
                assert_int_equal(jobs[j].too_large, N);
            }
        }
    pool_close(pool);
    free(raw);
    free(got);
    free(want);
    free(wide);
}

/* The first of several, in each of more jobs than are run at once. */
static void bad_values_are_named(void **state)
{
    enum { N = 72 * 1024, JOBS = 70 };
    static float source[N];
    static uint8_t blocks[JOBS][N * 2];
    static struct quantise_job jobs[JOBS];
    struct pool *pool;
    assert_int_equal(pool_open(2, &pool, NULL), STATUS_OK);
    for (size_t k = 0; k < array_count(kinds); k++) {
        for (uint32_t i = 0; i < N; i++)
            source[i] = (float)(i % 61);
        source[N - 1] = NAN;
        source[70001] = -INFINITY;
        source[100] = kinds[k].kind == DTYPE_Q8_0 ? 65520.0f * 127 : 65520.0f * 8;
        for (uint32_t j = 0; j < JOBS; j++)
            jobs[j] = (struct quantise_job){.from = DTYPE_F32,
                                            .data = source,
                                            .count = j == 65 ? 65536 : N,
                                            .blocks = blocks[j]};
        quantise_run(pool, kinds[k].kind, jobs, JOBS);
        assert_int_equal(jobs[0].not_finite, 70001);
        assert_int_equal(jobs[0].too_large, 96);
        assert_int_equal(jobs[65].not_finite, 65536);
        source[100] = 0;
        quantise_run(pool, kinds[k].kind, jobs + 64, 2);
        assert_int_equal(jobs[64].not_finite, 70001);
        assert_int_equal(jobs[64].too_large, N);
        assert_int_equal(jobs[65].too_large, 65536);
    }
    pool_close(pool);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_the_package_s),
        cmocka_unit_test(threads_and_types_change_nothing),
        cmocka_unit_test(bad_values_are_named),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: blocks_test FOLDER\n");
        return 64;
    }
    folder = argv[1];
    return cmocka_run_group_tests(tests, values_read, NULL);
}
