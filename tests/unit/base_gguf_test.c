#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/gguf_build.h"

static const uint64_t dims_vector[] = {8};
static const uint64_t dims_matrix[] = {64, 3};

/* A memory of exactly the file's size, so that a read past it is seen by ASan. */
static enum status open_exactly(struct span file, struct gguf *gguf, char **copy,
                                struct error *error)
{
    *copy = malloc(file.size_bytes ? file.size_bytes : 1);
    assert_non_null(*copy);
    if (file.size_bytes)
        memcpy(*copy, file.data, file.size_bytes);
    return gguf_open((struct span){*copy, file.size_bytes}, "test.gguf", gguf, error);
}

static struct bytes good_file(void)
{
    struct gguf_build b = {0};
    build_string(&b, "general.architecture", "llama");
    build_u32(&b, "count", 7);
    build_f32(&b, "factor", 0.5f);
    build_key(&b, "flag", GGUF_BOOL);
    bytes_put(&b.keys, "\1", 1);
    build_key(&b, "wide", GGUF_U64);
    bytes_u64(&b.keys, 1ull << 40);
    build_key(&b, "negative", GGUF_I32);
    bytes_u32(&b.keys, (uint32_t)-5);
    build_key(&b, "small", GGUF_I8);
    bytes_put(&b.keys, "\x7f", 1);
    build_key(&b, "double", GGUF_F64);
    bytes_put(&b.keys, &(double){0.25}, 8);
    build_key(&b, "endless", GGUF_F32);
    bytes_put(&b.keys, &(float){INFINITY}, 4);
    build_array(&b, "words", GGUF_STRING, 3);
    bytes_string(&b.keys, "one");
    bytes_string(&b.keys, "");
    bytes_string(&b.keys, "three");
    build_array(&b, "types", GGUF_I32, 2);
    bytes_u32(&b.keys, 3);
    bytes_u32(&b.keys, (uint32_t)-1);
    build_array(&b, "scores", GGUF_F32, 1);
    bytes_put(&b.keys, &(float){1.5f}, 4);
    build_array(&b, "nothing", GGUF_STRING, 0);
    build_tensor(&b, "norm", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
    build_tensor(&b, "matrix", GGUF_TENSOR_Q4_1, 2, dims_matrix, NULL, 3 * 2 * 20);
    return gguf_build_finish(&b);
}

static struct bytes file;
static struct gguf gguf;

static int good_open(void **state)
{
    struct error error = {0};
    file = good_file();
    if (gguf_open((struct span){file.data, file.size}, "test.gguf", &gguf, &error))
        fail_msg("%s", error.text);
    return 0;
}

static int good_close(void **state)
{
    gguf_close(&gguf);
    gguf_close(&gguf);
    free(file.data);
    return 0;
}

static void reads_values(void **state)
{
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    float f32 = 0;
    bool flag = false;
    struct span text = {0};
    assert_int_equal(gguf_get_u32(&gguf, "count", &u32, NULL), STATUS_OK);
    assert_int_equal(u32, 7);
    assert_int_equal(gguf_get_u32(&gguf, "small", &u32, NULL), STATUS_OK);
    assert_int_equal(u32, 127);
    assert_int_equal(gguf_get_u64(&gguf, "wide", &u64, NULL), STATUS_OK);
    assert_int_equal(u64, 1ull << 40);
    assert_int_equal(gguf_get_f32(&gguf, "factor", &f32, NULL), STATUS_OK);
    assert_true(f32 == 0.5f);
    assert_int_equal(gguf_get_f32(&gguf, "double", &f32, NULL), STATUS_OK);
    assert_true(f32 == 0.25f);
    assert_int_equal(gguf_get_bool(&gguf, "flag", &flag, NULL), STATUS_OK);
    assert_true(flag);
    assert_int_equal(gguf_get_string(&gguf, "general.architecture", &text, NULL), STATUS_OK);
    assert_true(span_equal(text, span_of("llama")));
}

static void reads_arrays(void **state)
{
    struct gguf_array array = {0};
    struct span text = {0};
    size_t cursor = 0;
    assert_int_equal(gguf_get_array(&gguf, "words", GGUF_STRING, &array, NULL), STATUS_OK);
    assert_int_equal(array.count, 3);
    assert_true(gguf_array_string(&array, &cursor, &text) && span_equal(text, span_of("one")));
    assert_true(gguf_array_string(&array, &cursor, &text) && text.size_bytes == 0);
    assert_true(gguf_array_string(&array, &cursor, &text) && span_equal(text, span_of("three")));
    assert_false(gguf_array_string(&array, &cursor, &text));
    assert_int_equal(gguf_get_array(&gguf, "types", GGUF_I32, &array, NULL), STATUS_OK);
    assert_int_equal(gguf_array_i32(&array, 0), 3);
    assert_int_equal(gguf_array_i32(&array, 1), -1);
    assert_int_equal(gguf_get_array(&gguf, "scores", GGUF_F32, &array, NULL), STATUS_OK);
    assert_true(gguf_array_f32(&array, 0) == 1.5f);
    assert_int_equal(gguf_get_array(&gguf, "nothing", GGUF_STRING, &array, NULL), STATUS_OK);
    cursor = 0;
    assert_false(gguf_array_string(&array, &cursor, &text));
}

static void reads_tensors(void **state)
{
    const struct gguf_tensor *norm = gguf_tensor_find(&gguf, "norm");
    const struct gguf_tensor *matrix = gguf_tensor_find(&gguf, "matrix");
    assert_int_equal(gguf.tensors_count, 2);
    assert_null(gguf_tensor_find(&gguf, "nor"));
    assert_null(gguf_tensor_find(&gguf, "norms"));
    assert_non_null(norm);
    assert_int_equal(norm->size_bytes, 32);
    assert_string_equal(norm->type_name, "F32");
    assert_non_null(matrix);
    assert_int_equal(matrix->n_dims, 2);
    assert_int_equal(matrix->dims[0], 64);
    assert_int_equal(matrix->dims[1], 3);
    assert_int_equal(matrix->size_bytes, 120);
    assert_ptr_equal(matrix->data + 120, file.data + file.size);
}

static void refuses_wrong_types(void **state)
{
    struct error error = {0};
    struct span text = {"old", 3};
    struct gguf_array array = {.count = 99};
    uint32_t u32 = 99;
    float f32 = 99;
    bool flag = true;
    assert_int_equal(gguf_get_u32(&gguf, "absent", &u32, &error), STATUS_NOT_FOUND);
    assert_string_equal(error.text, "test.gguf: key absent is missing");
    assert_int_equal(gguf_get_u32(&gguf, "factor", &u32, &error), STATUS_INVALID);
    assert_string_equal(error.text,
                        "test.gguf: key factor: expected an integer of 0 or more, got f32");
    assert_int_equal(gguf_get_u32(&gguf, "negative", &u32, &error), STATUS_INVALID);
    assert_int_equal(gguf_get_u32(&gguf, "wide", &u32, &error), STATUS_INVALID);
    assert_string_equal(error.text,
                        "test.gguf: key wide: expected at most 4294967295, got 1099511627776");
    assert_int_equal(gguf_get_u32(&gguf, "types", &u32, &error), STATUS_INVALID);
    assert_string_equal(
        error.text, "test.gguf: key types: expected an integer of 0 or more, got an array of i32");
    assert_int_equal(gguf_get_f32(&gguf, "count", &f32, &error), STATUS_INVALID);
    assert_int_equal(gguf_get_f32(&gguf, "endless", &f32, &error), STATUS_INVALID);
    assert_int_equal(gguf_get_bool(&gguf, "count", &flag, &error), STATUS_INVALID);
    assert_int_equal(gguf_get_string(&gguf, "words", &text, &error), STATUS_INVALID);
    assert_int_equal(gguf_get_array(&gguf, "words", GGUF_I32, &array, &error), STATUS_INVALID);
    assert_string_equal(error.text,
                        "test.gguf: key words: expected an array of i32, got an array of string");
    /* Outputs of failed calls are untouched. */
    assert_int_equal(u32, 99);
    assert_true(f32 == 99 && flag);
    assert_true(span_equal(text, span_of("old")));
    assert_int_equal(array.count, 99);
}

static void refuses_every_truncation(void **state)
{
    for (size_t size = 0; size < file.size; size++) {
        struct gguf truncated = {0};
        struct error error = {0};
        char *copy = NULL;
        enum status status =
            open_exactly((struct span){file.data, size}, &truncated, &copy, &error);
        if (status != STATUS_INVALID)
            fail_msg("%zu of %zu bytes: %s", size, file.size, status_name(status));
        assert_true(strstr(error.text, "test.gguf: ") == error.text);
        free(copy);
    }
}

/* Each makes one thing wrong. */
static void bad_version_2(struct gguf_build *b)
{
    b->version = 2;
}
static void bad_version_swapped(struct gguf_build *b)
{
    b->version = 3u << 24;
}
static void bad_keys_count(struct gguf_build *b)
{
    b->n_keys = UINT64_MAX;
}
static void bad_tensors_count(struct gguf_build *b)
{
    b->n_tensors = 1ull << 61;
}
static void bad_key_twice(struct gguf_build *b)
{
    build_u32(b, "twin", 1);
    build_u32(b, "other", 1);
    build_u32(b, "twin", 2);
}
static void bad_key_empty(struct gguf_build *b)
{
    build_u32(b, "", 1);
}
static void bad_key_long(struct gguf_build *b)
{
    char name[600] = {0};
    memset(name, 'k', sizeof name - 1);
    build_u32(b, name, 1);
}
static void bad_key_type(struct gguf_build *b)
{
    build_key(b, "strange", (enum gguf_type)13);
}
static void bad_string_length(struct gguf_build *b)
{
    build_key(b, "endless", GGUF_STRING);
    bytes_u64(&b->keys, UINT64_MAX - 3);
}
static void bad_array_count(struct gguf_build *b)
{
    build_array(b, "endless", GGUF_U64, 1ull << 61);
}
static void bad_strings_count(struct gguf_build *b)
{
    build_array(b, "endless", GGUF_STRING, UINT64_MAX);
}
static void bad_nested(struct gguf_build *b)
{
    build_array(b, "nested", GGUF_ARRAY, 1);
    bytes_u32(&b->keys, GGUF_U8);
    bytes_u64(&b->keys, 0);
}
static void bad_bool(struct gguf_build *b)
{
    build_key(b, "maybe", GGUF_BOOL);
    bytes_put(&b->keys, "\2", 1);
}
static void bad_alignment_zero(struct gguf_build *b)
{
    build_u32(b, "general.alignment", 0);
}
static void bad_alignment_odd(struct gguf_build *b)
{
    build_u32(b, "general.alignment", 48);
}
static void bad_alignment_huge(struct gguf_build *b)
{
    build_u32(b, "general.alignment", 1u << 31);
}
static void bad_alignment_type(struct gguf_build *b)
{
    build_string(b, "general.alignment", "32");
}
static void bad_alignment_lie(struct gguf_build *b)
{
    /* Laid out at multiples of 32; the key says 64. */
    build_u32(b, "general.alignment", 64);
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
    build_tensor(b, "b", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
}
static void bad_tensor_twice(struct gguf_build *b)
{
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
}
static void bad_tensor_type(struct gguf_build *b)
{
    build_tensor(b, "a", 4, 1, dims_vector, NULL, 32);
}
static void bad_tensor_type_huge(struct gguf_build *b)
{
    build_tensor(b, "a", UINT32_MAX, 1, dims_vector, NULL, 32);
}
static void bad_dims_none(struct gguf_build *b)
{
    build_tensor(b, "a", GGUF_TENSOR_F32, 0, dims_vector, NULL, 32);
}
static void bad_dims_five(struct gguf_build *b)
{
    static const uint64_t dims[] = {1, 1, 1, 1, 1};
    build_tensor(b, "a", GGUF_TENSOR_F32, 5, dims, NULL, 32);
}
static void bad_dim_zero(struct gguf_build *b)
{
    static const uint64_t dims[] = {8, 0};
    build_tensor(b, "a", GGUF_TENSOR_F32, 2, dims, NULL, 32);
}
static void bad_dims_overflow(struct gguf_build *b)
{
    static const uint64_t dims[] = {1ull << 32, 1ull << 31, 2};
    build_tensor(b, "a", GGUF_TENSOR_F32, 3, dims, NULL, 32);
}
static void bad_dims_wrap_to_small(struct gguf_build *b)
{
    static const uint64_t dims[] = {1ull << 62, 4, 2};
    build_tensor(b, "a", GGUF_TENSOR_F32, 3, dims, NULL, 32);
}
static void bad_block(struct gguf_build *b)
{
    static const uint64_t dims[] = {33, 2};
    build_tensor(b, "a", GGUF_TENSOR_Q8_0, 2, dims, NULL, 68);
}
static void bad_overlap(struct gguf_build *b)
{
    static const uint64_t dims[] = {32};
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims, NULL, 128);
    build_info(b, "b", GGUF_TENSOR_F32, 1, dims_vector, 64);
}
static void bad_same_place(struct gguf_build *b)
{
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
    build_info(b, "b", GGUF_TENSOR_F32, 1, dims_vector, 0);
}
static void bad_hole(struct gguf_build *b)
{
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 256);
    build_info(b, "b", GGUF_TENSOR_F32, 1, dims_vector, 128);
}
static void bad_offset(struct gguf_build *b)
{
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 32);
    build_info(b, "b", GGUF_TENSOR_F32, 1, dims_vector, UINT64_MAX - 31);
}
static void bad_offset_misaligned(struct gguf_build *b)
{
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims_vector, NULL, 64);
    build_info(b, "b", GGUF_TENSOR_F32, 1, dims_vector, 36);
}
static void bad_data_short(struct gguf_build *b)
{
    static const uint64_t dims[] = {16};
    build_tensor(b, "a", GGUF_TENSOR_F32, 1, dims, NULL, 60);
}

static const struct {
    void (*spoil)(struct gguf_build *build);
    enum status status;
    const char *text; /* must occur in the message */
} bad_files[] = {
    {bad_version_2, STATUS_UNSUPPORTED, "version 2 is not supported, expected version 3"},
    {bad_version_swapped, STATUS_UNSUPPORTED, "big-endian"},
    {bad_keys_count, STATUS_INVALID, "18446744073709551615 keys"},
    {bad_tensors_count, STATUS_INVALID, "2305843009213693952 tensors"},
    {bad_key_twice, STATUS_INVALID, "key twin is there twice"},
    {bad_key_empty, STATUS_INVALID, "name of a key of 0 bytes"},
    {bad_key_long, STATUS_INVALID, "name of a key of 599 bytes"},
    {bad_key_type, STATUS_INVALID, "key strange: type 13, expected 0..12"},
    {bad_string_length, STATUS_INVALID, "value of endless needs 18446744073709551612 bytes"},
    {bad_array_count, STATUS_INVALID, "value of endless: 2305843009213693952 x u64"},
    {bad_strings_count, STATUS_INVALID, "value of endless needs"},
    {bad_nested, STATUS_UNSUPPORTED, "key nested: arrays of arrays are not supported"},
    {bad_bool, STATUS_INVALID, "value of maybe: expected a bool 0 or 1, got 2"},
    {bad_alignment_zero, STATUS_INVALID, "general.alignment: expected a power of two"},
    {bad_alignment_odd, STATUS_INVALID, "got 48"},
    {bad_alignment_huge, STATUS_INVALID, "got 2147483648"},
    {bad_alignment_type, STATUS_INVALID, "general.alignment: expected an integer"},
    {bad_alignment_lie, STATUS_INVALID, "tensor b: offset 32, expected a multiple of 64"},
    {bad_tensor_twice, STATUS_INVALID, "tensor a is there twice"},
    {bad_tensor_type, STATUS_INVALID, "tensor a: unknown tensor type 4"},
    {bad_tensor_type_huge, STATUS_INVALID, "tensor a: unknown tensor type 4294967295"},
    {bad_dims_none, STATUS_INVALID, "tensor a: 0 dimensions, expected 1..4"},
    {bad_dims_five, STATUS_INVALID, "tensor a: 5 dimensions, expected 1..4"},
    {bad_dim_zero, STATUS_INVALID, "tensor a: a dimension is 0"},
    {bad_dims_overflow, STATUS_INVALID, "tensor a: its dimensions need more bytes than"},
    {bad_dims_wrap_to_small, STATUS_INVALID, "tensor a: its dimensions need more bytes than"},
    {bad_block, STATUS_INVALID, "tensor a: Q8_0 rows of 33 values, expected a multiple of 32"},
    {bad_overlap, STATUS_INVALID,
     "tensor b: its data is at offset 64, expected 128 (they overlap)"},
    {bad_same_place, STATUS_INVALID, "they overlap"},
    {bad_hole, STATUS_INVALID, "tensor b: its data is at offset 128, expected 32 (a hole)"},
    {bad_offset, STATUS_INVALID, "tensor b: offset 18446744073709551584, the file has"},
    {bad_offset_misaligned, STATUS_INVALID, "tensor b: offset 36, expected a multiple of 32"},
    {bad_data_short, STATUS_INVALID, "tensor a: 64 bytes at offset 0, the file has 60 there"},
};

static void refuses_bad_files(void **state)
{
    for (size_t i = 0; i < array_count(bad_files); i++) {
        struct gguf_build build = {0};
        struct gguf opened = {0};
        struct error error = {0};
        char *copy = NULL;
        bad_files[i].spoil(&build);
        struct bytes bytes = gguf_build_finish(&build);
        enum status status =
            open_exactly((struct span){bytes.data, bytes.size}, &opened, &copy, &error);
        if (status != bad_files[i].status || !strstr(error.text, bad_files[i].text))
            fail_msg("row %zu (\"%s\"): %s, %s", i, bad_files[i].text, status_name(status),
                     error.text);
        assert_null(opened.keys);
        free(bytes.data);
        free(copy);
    }
}

static void refuses_other_magic(void **state)
{
    struct error error = {0};
    struct gguf opened = {0};
    static const char safetensors[] = "\x10\0\0\0\0\0\0\0{\"a\":1}";
    assert_false(gguf_magic((struct span){safetensors, sizeof safetensors}));
    assert_int_equal(
        gguf_open((struct span){safetensors, sizeof safetensors}, "x", &opened, &error),
        STATUS_INVALID);
    assert_string_equal(error.text, "x: expected the magic \"GGUF\", got bytes 10 00 00 00");
}

static void takes_an_empty_file(void **state)
{
    struct gguf_build build = {.alignment = 64};
    struct gguf opened = {0};
    struct error error = {0};
    struct bytes bytes = gguf_build_finish(&build);
    if (gguf_open((struct span){bytes.data, bytes.size}, "x", &opened, &error))
        fail_msg("%s", error.text);
    assert_int_equal(opened.alignment_bytes, 64);
    assert_int_equal(opened.tensors_count, 0);
    assert_null(gguf_tensor_find(&opened, "a"));
    gguf_close(&opened);
    free(bytes.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_values, good_open, good_close),
        cmocka_unit_test_setup_teardown(reads_arrays, good_open, good_close),
        cmocka_unit_test_setup_teardown(reads_tensors, good_open, good_close),
        cmocka_unit_test_setup_teardown(refuses_wrong_types, good_open, good_close),
        cmocka_unit_test_setup_teardown(refuses_every_truncation, good_open, good_close),
        cmocka_unit_test(refuses_bad_files),
        cmocka_unit_test(refuses_other_magic),
        cmocka_unit_test(takes_an_empty_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
