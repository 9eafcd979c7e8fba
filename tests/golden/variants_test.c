/*
 * variants: tokenizer.json files that use one more feature each, beside the `tokenizers` library.
 *
 * Each file of variants/ holds a tokenizer and, for every string of tokens/strings.json, how many
 * ids the library gives and a hash of them.
 *
 *     variants_test STRINGS.json VARIANT.json...
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json_read.h"
#include "text/tokenizer_rules.h"

#define SHOWN_MAX 5

static const json_t *strings; /* the list */
static char **variants;
static int n_variants;

static void row_format(const uint32_t *ids, size_t n, char *out, size_t out_bytes)
{
    uint64_t value = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++)
        for (int shift = 0; shift < 32; shift += 8)
            value = (value ^ (ids[i] >> shift & 0xff)) * 0x100000001b3ull;
    snprintf(out, out_bytes, "%zu:%016" PRIx64, n, value);
}

static size_t rows_compare(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                           const json_t *rows)
{
    size_t mismatches = 0;
    assert_int_equal(json_array_size(rows), json_array_size(strings));
    for (size_t i = 0; i < json_array_size(strings); i++) {
        const json_t *string = json_array_get(strings, i);
        struct text_piece piece = {{json_string_value(string), json_string_length(string)}, true};
        const uint32_t *ids;
        size_t n;
        struct error error;
        char got[64];
        if (tokenizer_encode(tokenizer, scratch, &piece, 1, 1u << 20, &ids, &n, &error))
            fail_msg("string %zu: %s", i, error.text);
        row_format(ids, n, got, sizeof got);
        const char *expected = json_string_value(json_array_get(rows, i));
        if (strcmp(got, expected) == 0)
            continue;
        if (mismatches++ < SHOWN_MAX)
            printf("string %zu \"%s\": expected %s, got %s\n", i, piece.text.data, expected, got);
    }
    return mismatches;
}

static void variant_compare(const char *path)
{
    json_error_t cause;
    struct error error;
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    json_t *root = json_load_file(path, 0, &cause);
    if (!root)
        fail_msg("%s: %s", path, cause.text);
    char *text = json_dumps(json_object_get(root, "tokenizer"), JSON_COMPACT);
    if (tokenizer_open_bytes(span_of(text), path, &tokenizer, &error))
        fail_msg("%s", error.text);
    assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch, &error), STATUS_OK);
    size_t mismatches = rows_compare(tokenizer, scratch, json_object_get(root, "rows"));
    printf("%s: %zu strings, %zu mismatches\n", path, json_array_size(strings), mismatches);
    assert_int_equal(mismatches, 0);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
    free(text);
    json_decref(root);
}

static void test_variants(void **state)
{
    assert_true(json_array_size(strings) >= 2000);
    for (int i = 0; i < n_variants; i++)
        variant_compare(variants[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_variants)};
    if (argc < 3) {
        fprintf(stderr, "usage: variants_test STRINGS.json VARIANT.json...\n");
        return 2;
    }
    json_error_t cause;
    json_t *root = json_load_file(argv[1], JSON_ALLOW_NUL, &cause);
    if (!root) {
        fprintf(stderr, "%s: %s\n", argv[1], cause.text);
        return 1;
    }
    strings = json_object_get(root, "strings");
    variants = argv + 2;
    n_variants = argc - 2;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(root);
    return failed;
}
