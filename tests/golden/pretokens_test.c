/*
 * pretokens: how our pre-tokenizers cut text, beside those of the `tokenizers` library.
 *
 * tokens/pretokens.json holds, for every pre-tokenizer that GGUF files name and for many of the
 * strings of tokens/strings.json, the length of each piece.
 *
 *     pretokens_test PRETOKENS.json STRINGS.json
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json_read.h"
#include "text/normalize.h"
#include "text/tokenizer_rules.h"

#define SHOWN_MAX 5

static json_t *golden, *strings_root;

/* True when the pieces have the expected lengths. */
static bool same_cuts(const struct tokenizer *tokenizer, struct pretokenizer_scratch *scratch,
                      struct span text, const json_t *lengths)
{
    struct pretokens walk;
    struct error error;
    size_t count = 0;
    pretokenizer_scratch_allow(scratch, text.size_bytes);
    pretokens_init(&walk, &tokenizer->pretokenizer, scratch, text);
    for (;; count++) {
        struct span piece;
        if (pretokens_next(&walk, &piece, &error))
            fail_msg("%s", error.text);
        if (piece.size_bytes == 0)
            return count == json_array_size(lengths);
        json_int_t expected = json_integer_value(json_array_get(lengths, count));
        if ((json_int_t)piece.size_bytes != expected) {
            printf("piece %zu \"%.*s\": expected %lld bytes\n", count, (int)piece.size_bytes,
                   piece.data, (long long)expected);
            return false;
        }
    }
}

static size_t string_compare(const struct tokenizer *tokenizer,
                             struct pretokenizer_scratch *scratch, struct span text,
                             const json_t *lengths)
{
    char *normal = NULL;
    size_t size_bytes = 0;
    if (tokenizer->normalizes)
        assert_int_equal(normalize_nfc(text, &normal, &size_bytes, NULL), STATUS_OK);
    if (normal)
        text = (struct span){normal, size_bytes};
    bool same = same_cuts(tokenizer, scratch, text, lengths);
    free(normal);
    return !same;
}

static void pre_compare(const char *name, const json_t *rows)
{
    const json_t *indexes = json_object_get(golden, "strings");
    const json_t *strings = json_object_get(strings_root, "strings");
    struct tokenizer tokenizer = {0};
    struct pretokenizer_scratch *scratch;
    size_t mismatches = 0, count = json_array_size(indexes);
    assert_int_equal(tokenizer_pre_named(span_of(name), &tokenizer, NULL), STATUS_OK);
    assert_int_equal(pretokenizer_scratch_new(&scratch, NULL), STATUS_OK);
    assert_int_equal(json_array_size(rows), count);
    for (size_t i = 0; i < count && mismatches < SHOWN_MAX; i++) {
        const json_t *string =
            json_array_get(strings, (size_t)json_integer_value(json_array_get(indexes, i)));
        struct span text = {json_string_value(string), json_string_length(string)};
        mismatches += string_compare(&tokenizer, scratch, text, json_array_get(rows, i));
    }
    printf("%-10s %zu strings, %zu mismatches\n", name, count, mismatches);
    assert_int_equal(mismatches, 0);
    assert_true(count > 1000);
    pretokenizer_scratch_free(scratch);
    pretokenizer_free(&tokenizer.pretokenizer);
}

static void test_named(void **state)
{
    json_t *named = json_object_get(golden, "named"), *rows;
    const char *name;
    assert_int_equal(json_object_size(named), 6);
    json_object_foreach (named, name, rows) {
        pre_compare(name, rows);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_named)};
    if (argc != 3) {
        fprintf(stderr, "usage: pretokens_test PRETOKENS.json STRINGS.json\n");
        return 2;
    }
    json_error_t cause;
    golden = json_load_file(argv[1], 0, &cause);
    strings_root = json_load_file(argv[2], JSON_ALLOW_NUL, &cause);
    if (!golden || !strings_root) {
        fprintf(stderr, "%s: %s\n", cause.source, cause.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    json_decref(strings_root);
    return failed;
}
