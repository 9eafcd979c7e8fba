#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json_read.h"
#include "base/map_file.h"

static const struct json_limits limits = {.max_bytes = 4096, .values_max = 100};

static const char document[] =
    "{\"count\": 7, \"big\": 4294967296, \"minus\": -1, \"half\": 0.5, \"word\": \"text\","
    " \"yes\": true, \"none\": null, \"list\": [1, 2], \"inner\": {\"deep\": 1e300}}";

static json_t *root;
static struct json_at at;

static int document_open(void **state)
{
    struct error error = {0};
    if (json_read_text(span_of(document), "test.json", &limits, &root, &error))
        fail_msg("%s", error.text);
    at = (struct json_at){.file = "test.json", .parent = "", .object = root};
    return 0;
}

static int document_close(void **state)
{
    json_decref(root);
    return 0;
}

static void reads_values(void **state)
{
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    double real = 0;
    bool flag = false;
    const char *text = NULL;
    const json_t *value = NULL;
    assert_int_equal(json_get_u32(&at, "count", (struct json_range_u64){1, 7}, &u32, NULL), 0);
    assert_int_equal(u32, 7);
    assert_int_equal(json_get_u64(&at, "big", (struct json_range_u64){0, INT64_MAX}, &u64, NULL),
                     0);
    assert_int_equal(u64, 4294967296);
    assert_int_equal(json_get_real(&at, "half", (struct json_range_real){0, 1}, &real, NULL), 0);
    assert_true(real == 0.5);
    assert_int_equal(json_get_real(&at, "count", (struct json_range_real){0, 9}, &real, NULL), 0);
    assert_true(real == 7);
    assert_int_equal(json_get_bool(&at, "yes", &flag, NULL), 0);
    assert_true(flag);
    assert_int_equal(json_get_string(&at, "word", &text, NULL), 0);
    assert_string_equal(text, "text");
    assert_int_equal(json_get_array(&at, "list", &value, NULL), 0);
    assert_int_equal(json_array_size(value), 2);
    assert_int_equal(json_get_object(&at, "inner", &value, NULL), 0);
    assert_true(json_has(&at, "count") && !json_has(&at, "none") && !json_has(&at, "absent"));
}

static void refuses_wrong_values(void **state)
{
    struct error error = {0};
    uint32_t u32 = 99;
    double real = 99;
    bool flag = true;
    const char *text = "old";
    struct json_range_u64 any = {0, UINT64_MAX};
    struct json_at inner = {
        .file = "test.json", .parent = "inner", .object = json_object_get(root, "inner")};
    assert_int_equal(json_get_u32(&at, "absent", any, &u32, &error), STATUS_INVALID);
    assert_string_equal(error.text,
                        "test.json: absent: expected an integer 0..4294967295, got nothing");
    assert_int_equal(json_get_u32(&at, "none", any, &u32, &error), STATUS_INVALID);
    assert_string_equal(error.text, "test.json: none: expected an integer 0..4294967295, got null");
    assert_int_equal(json_get_u32(&at, "minus", any, &u32, &error), STATUS_INVALID);
    assert_string_equal(error.text, "test.json: minus: expected an integer 0..4294967295, got -1");
    assert_int_equal(json_get_u32(&at, "big", any, &u32, &error), STATUS_INVALID);
    assert_int_equal(json_get_u32(&at, "half", any, &u32, &error), STATUS_INVALID);
    assert_int_equal(json_get_u32(&at, "count", (struct json_range_u64){8, 9}, &u32, &error),
                     STATUS_INVALID);
    assert_string_equal(error.text, "test.json: count: expected an integer 8..9, got 7");
    assert_int_equal(
        json_get_real(&inner, "deep", (struct json_range_real){0, 1e10}, &real, &error),
        STATUS_INVALID);
    assert_string_equal(error.text,
                        "test.json: inner.deep: expected a number 0..1e+10, got 1e+300");
    assert_int_equal(json_get_bool(&at, "word", &flag, &error), STATUS_INVALID);
    assert_string_equal(error.text, "test.json: word: expected true or false, got a string");
    assert_int_equal(json_get_string(&at, "list", &text, &error), STATUS_INVALID);
    assert_string_equal(error.text, "test.json: list: expected a string, got an array");
    assert_int_equal(u32, 99);
    assert_true(real == 99 && flag);
    assert_string_equal(text, "old");
}

/* "No limit" is often written as a number past 2^63: the rest of the document must still be read.
 */
static void reads_beside_huge_integers(void **state)
{
    (void)state;
    static const char text[] = "{\"limit\": 1000000000000000019884624838656, \"count\": 7,"
                               " \"half\": 0.5}";
    const struct json_range_u64 any = {0, INT64_MAX};
    struct error error;
    json_t *huge = NULL;
    uint64_t u64 = 0;
    assert_int_equal(json_read_text(span_of(text), "x", &limits, &huge, &error), STATUS_OK);
    struct json_at in = {.file = "x", .parent = "", .object = huge};
    assert_int_equal(json_get_u64(&in, "count", any, &u64, &error), STATUS_OK);
    assert_int_equal(u64, 7);
    assert_int_equal(json_get_u64(&in, "limit", any, &u64, &error), STATUS_INVALID);
    assert_int_equal(json_get_u64(&in, "half", any, &u64, &error), STATUS_INVALID);
    json_decref(huge);
}

static void refuses_bad_documents(void **state)
{
    static const struct {
        const char *json, *text;
    } table[] = {
        {"", "test.json: line 1, column 0: not valid JSON"},
        {"{", "not valid JSON"},
        {"{\"a\": 1,}", "not valid JSON"},
        {"{\"a\": 1} x", "not valid JSON"},
        {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
        {"{\"a\": \"\\u0000\"}", "not valid JSON"},
        {"{\"a\": \"\xff\"}", "not valid JSON"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": NaN}", "not valid JSON"},
        {"[1]", "test.json: expected an object, got an array"},
        {"null", "test.json: expected an object, got null"},
        {"\"\\", "not valid JSON"},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        struct error error = {0};
        json_t *bad = NULL;
        enum status status =
            json_read_text(span_of(table[i].json), "test.json", &limits, &bad, &error);
        if (status != STATUS_INVALID || !strstr(error.text, table[i].text))
            fail_msg("row %zu: %s, %s", i, status_name(status), error.text);
        assert_null(bad);
    }
}

static void refuses_large_documents(void **state)
{
    struct error error = {0};
    json_t *bad = NULL;
    char text[5000];
    memset(text, ' ', sizeof text);
    assert_int_equal(json_read_text((struct span){text, sizeof text}, "x", &limits, &bad, &error),
                     STATUS_INVALID);
    assert_string_equal(error.text, "x: 5000 bytes, expected at most 4096");

    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    assert_int_equal(json_read_text((struct span){text, 130}, "x", &limits, &bad, &error),
                     STATUS_INVALID);
    assert_string_equal(error.text, "x: nested deeper than 64 levels");

    /* Brackets in strings do not nest; 100 values pass, 101 do not. */
    memset(text, '[', 300);
    memcpy(text, "{\"", 2);
    memcpy(text + 80, "\":[", 3);
    for (size_t i = 83; i < 83 + 2 * 98; i += 2)
        memcpy(text + i, "0,", 2);
    memcpy(text + 279, "0]}", 4);
    assert_int_equal(json_read_text(span_of(text), "x", &limits, &bad, &error), STATUS_OK);
    json_decref(bad);
    bad = NULL;
    memcpy(text + 279, "0,0]}", 6);
    assert_int_equal(json_read_text(span_of(text), "x", &limits, &bad, &error), STATUS_INVALID);
    assert_true(strstr(error.text, "expected at most 100"));
}

static void reads_files(void **state)
{
    char path[] = "/tmp/galerne_json_XXXXXX";
    struct error error = {0};
    struct map_file map = {0};
    json_t *read = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(json_read_file(path, &limits, &read, &error), STATUS_INVALID);
    assert_true(strstr(error.text, "the file is empty"));
    assert_int_equal(write(fd, document, sizeof document - 1), sizeof document - 1);
    close(fd);
    assert_int_equal(json_read_file(path, &limits, &read, &error), STATUS_OK);
    json_decref(read);
    assert_int_equal(map_file_open(path, 10, &map, &error), STATUS_INVALID);
    assert_true(strstr(error.text, "expected at most 10"));
    assert_int_equal(map_file_open(path, SIZE_MAX, &map, &error), STATUS_OK);
    assert_int_equal(map.size_bytes, sizeof document - 1);
    map_file_read_ahead(&map);
    map_file_close(&map);
    map_file_close(&map);
    unlink(path);
    assert_int_equal(map_file_open(path, SIZE_MAX, &map, &error), STATUS_NOT_FOUND);
    assert_true(strstr(error.text, path));
    assert_int_equal(map_file_open("/tmp", SIZE_MAX, &map, &error), STATUS_INVALID);
    assert_string_equal(error.text, "/tmp: expected a regular file");
    assert_int_equal(map_file_open("/dev/zero", SIZE_MAX, &map, &error), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_values, document_open, document_close),
        cmocka_unit_test_setup_teardown(refuses_wrong_values, document_open, document_close),
        cmocka_unit_test(reads_beside_huge_integers),
        cmocka_unit_test(refuses_bad_documents),
        cmocka_unit_test(refuses_large_documents),
        cmocka_unit_test(reads_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
