#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/safetensors.h"

/* Length, header and data in a memory of exactly that size, for ASan. */
static struct span file_make(const char *header, uint64_t said_length, size_t data_bytes)
{
    size_t header_bytes = strlen(header), size = 8 + header_bytes + data_bytes;
    char *file = malloc(size);
    assert_non_null(file);
    memcpy(file, &said_length, 8);
    memcpy(file + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + header_bytes + i] = (char)i;
    return (struct span){file, size};
}

/* Spaces at its end make the data start aligned. */
static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                           "\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
                           "\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[32,40]}}  ";

static void reads_tensors(void **state)
{
    struct tensor_list list = {0};
    struct error error = {0};
    struct span file = file_make(good, strlen(good), 40);
    assert_int_equal(strlen(good) % 8, 0);
    if (safetensors_read(file, "x", &list, &error))
        fail_msg("%s", error.text);
    assert_int_equal(list.count, 3);
    const struct tensor *a = tensor_list_find(&list, "a"), *b = tensor_list_find(&list, "b");
    const struct tensor *s = tensor_list_find(&list, "s");
    assert_non_null(a);
    assert_int_equal(a->dtype, DTYPE_BF16);
    assert_int_equal(a->n_dims, 1);
    assert_int_equal(a->dims[0], 4);
    assert_int_equal(a->data[0], 24);
    assert_non_null(b);
    assert_int_equal(b->dtype, DTYPE_F32);
    assert_int_equal(b->dims[0] * 10 + b->dims[1], 23);
    assert_int_equal(b->size_bytes, 24);
    assert_non_null(s);
    assert_int_equal(s->dtype, DTYPE_COUNT);
    assert_string_equal(s->type_name, "I64");
    assert_int_equal(s->n_dims, 0);
    assert_null(tensor_list_find(&list, "__metadata__"));
    assert_int_equal(list.header.size_bytes, strlen(good));
    tensor_list_close(&list);
    tensor_list_close(&list);
    free((void *)(uintptr_t)file.data);
}

static void refuses_every_truncation(void **state)
{
    struct span file = file_make(good, strlen(good), 40);
    for (size_t size = 0; size < file.size_bytes; size++) {
        struct tensor_list list = {0};
        struct error error = {0};
        char *copy = malloc(size + 1);
        assert_non_null(copy);
        memcpy(copy, file.data, size);
        enum status status = safetensors_read((struct span){copy, size}, "x", &list, &error);
        if (status != STATUS_INVALID)
            fail_msg("%zu of %zu bytes: %s", size, file.size_bytes, status_name(status));
        assert_null(list.tensors);
        free(copy);
    }
    free((void *)(uintptr_t)file.data);
}

static void refuses_bad_lengths(void **state)
{
    static const uint64_t lengths[] = {0, 1, 500, (16u << 20) + 1, 1ull << 40, UINT64_MAX};
    for (size_t i = 0; i < array_count(lengths); i++) {
        struct tensor_list list = {0};
        struct error error = {0};
        struct span file = file_make(good, lengths[i], 40);
        assert_int_equal(safetensors_read(file, "x", &list, &error), STATUS_INVALID);
        assert_true(strstr(error.text, "x: header of ") == error.text);
        free((void *)(uintptr_t)file.data);
    }
}

#define A(dtype, shape, offsets)                                                                   \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *header;
    size_t data_bytes;
    const char *text; /* must occur in the message */
} bad_headers[] = {
    {"[]", 0, "expected an object, got an array"},
    {"{\"a\"}", 0, "not valid JSON"},
    {"{\"a\":1}", 0, "tensor a: expected an object"},
    {"{\"__metadata__\":[]}", 0, "__metadata__: expected an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: a: expected a string, got an integer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "expected exactly dtype, shape and"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offset\":[0,4]}}", 4,
     "x: a.data_offsets: expected an array, got nothing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":0}}", 4,
     "expected exactly dtype, shape and data_offsets"},
    {"{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "x: a.dtype: expected a string, got an integer"},
    {A("F31", "[1]", "[0,4]"), 4, "tensor a: unknown dtype \"F31\""},
    {A("F32", "4", "[0,4]"), 4, "x: a.shape: expected an array, got an integer"},
    {A("F32", "[1,1,1,1,1]", "[0,4]"), 4, "tensor a: more than 4 dimensions"},
    {A("F32", "[0]", "[0,0]"), 0, "shape: expected integers of 1 or more"},
    {A("F32", "[-1]", "[0,4]"), 4, "shape: expected integers of 1 or more"},
    {A("F32", "[1.0]", "[0,4]"), 4, "shape: expected integers of 1 or more"},
    {A("F32", "[\"1\"]", "[0,4]"), 4, "shape: expected integers of 1 or more"},
    {A("F32", "[4611686018427387904,4]", "[0,0]"), 0, "shape: its bytes overflow 64 bits"},
    {A("F32", "[9223372036854775807,9223372036854775807]", "[0,4]"), 4, "overflow 64 bits"},
    {A("F32", "[9223372036854775808]", "[0,4]"), 4, "shape: expected integers of 1 or more"},
    {A("F32", "[1]", "[0]"), 4, "data_offsets: expected two integers"},
    {A("F32", "[1]", "[0,4,8]"), 4, "data_offsets: expected two integers"},
    {A("F32", "[1]", "[0,\"4\"]"), 4, "data_offsets: expected two integers"},
    {A("F32", "[1]", "[0,8]"), 4, "data_offsets [0, 8]: the file has 4 bytes of data"},
    {A("F32", "[1]", "[-4,0]"), 4, "data_offsets [-4, 0]"},
    {A("F32", "[1]", "[4,0]"), 4, "data_offsets [4, 0]"},
    {A("F32", "[1]", "[0,9223372036854775807]"), 4, "the file has 4 bytes of data"},
    {A("F32", "[2]", "[0,4]"), 4, "data_offsets span 4 bytes, its F32 shape needs 8"},
    {A("BF16", "[1]", "[0,4]"), 4, "data_offsets span 4 bytes, its BF16 shape needs 2"},
    {A("F32", "[1]", "[0,4]"), 8, "8 bytes of data follow the header, its tensors have 4"},
    {A("U8", "[4]", "[4,8]"), 8, "tensor a: its data begins at 4, expected 0 (a hole)"},
    {"{}", 4, "4 bytes of data follow the header, its tensors have 0"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[4,12]}}",
     12, "tensor b: its data begins at 4, expected 8 (they overlap)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4, "(they overlap)"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4, "duplicate object key"},
    {"{\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}} ",
     5, "tensor a: its data is not aligned to its dtype"},
};

static void refuses_bad_headers(void **state)
{
    for (size_t i = 0; i < array_count(bad_headers); i++) {
        struct tensor_list list = {0};
        struct error error = {0};
        char header[512];
        /* Aligned, unless a row is about something else. */
        snprintf(header, sizeof header, "%s%*s", bad_headers[i].header,
                 (int)((8 - strlen(bad_headers[i].header) % 8) % 8), "");
        struct span file = file_make(header, strlen(header), bad_headers[i].data_bytes);
        enum status status = safetensors_read(file, "x", &list, &error);
        if (status != STATUS_INVALID || !strstr(error.text, bad_headers[i].text))
            fail_msg("row %zu (\"%s\"): %s, %s", i, bad_headers[i].text, status_name(status),
                     error.text);
        assert_null(list.tensors);
        free((void *)(uintptr_t)file.data);
    }
}

/* A header whose length is no multiple of the type's size shifts all data. */
static void refuses_misaligned_headers(void **state)
{
    struct tensor_list list = {0};
    struct error error = {0};
    static const char header[] =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}} ";
    assert_int_not_equal((sizeof header - 1) % 4, 0);
    struct span file = file_make(header, sizeof header - 1, 4);
    assert_int_equal(safetensors_read(file, "x", &list, &error), STATUS_INVALID);
    assert_string_equal(error.text, "x: tensor a: its data is not aligned to its dtype");
    free((void *)(uintptr_t)file.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_bad_lengths),
        cmocka_unit_test(refuses_bad_headers),
        cmocka_unit_test(refuses_misaligned_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
