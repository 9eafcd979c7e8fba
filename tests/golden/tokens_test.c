/*
 * tokens: our ids beside those of the `tokenizers` library, on every string of tokens/strings.json.
 *
 * For each string: its ids; its ids with special tokens read as plain text ("plain" holds those
 * that differ); that the ids spell the string, or the bytes that the library too is left with where
 * the vocabulary lacks a byte ("inexact"); that putting them out one by one gives the same text;
 * and that cutting the string in pieces changes nothing.
 *
 *     tokens_test GOLDEN.json STRINGS.json [MODEL]   without MODEL, GALERNE_SMOLLM2 names the file
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json_read.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#define SKIPPED 77
#define SHOWN_MAX 5

static struct {
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    json_t *golden, *strings;
    const json_t **plain;   /* [count] the row of the string, or NULL */
    const json_t **inexact; /* [count] */
    size_t count;
} fixture;

static struct span string_at(size_t index)
{
    const json_t *string = json_array_get(json_object_get(fixture.strings, "strings"), index);
    return (struct span){json_string_value(string), json_string_length(string)};
}

static bool ids_equal(const json_t *expected, const uint32_t *ids, size_t n)
{
    if (json_array_size(expected) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (json_integer_value(json_array_get(expected, i)) != ids[i])
            return false;
    return true;
}

static void ids_show(const char *what, const json_t *expected, const uint32_t *ids, size_t n)
{
    char *text = json_dumps(expected, JSON_COMPACT);
    printf("%s: expected %s, got [", what, text);
    free(text);
    for (size_t i = 0; i < n; i++)
        printf("%s%u", i ? "," : "", ids[i]);
    printf("]\n");
}

static void encode(const struct text_piece *pieces, size_t n_pieces, const uint32_t **ret_ids,
                   size_t *ret_n)
{
    struct error error;
    enum status status = tokenizer_encode(fixture.tokenizer, fixture.scratch, pieces, n_pieces,
                                          1u << 20, ret_ids, ret_n, &error);
    if (status)
        fail_msg("%s", error.text);
}

/* Compares one string; shows the first few that differ. */
static size_t string_compare(const char *what, const json_t *expected, size_t index, bool special,
                             size_t shown)
{
    struct text_piece piece = {string_at(index), special};
    const uint32_t *ids;
    size_t n;
    encode(&piece, 1, &ids, &n);
    if (ids_equal(expected, ids, n))
        return 0;
    if (shown < SHOWN_MAX) {
        char label[64];
        snprintf(label, sizeof label, "string %zu %s", index, what);
        ids_show(label, expected, ids, n);
    }
    return 1;
}

static void test_same_ids(void **state)
{
    const json_t *rows = json_object_get(fixture.golden, "ids");
    size_t mismatches = 0, tokens_count = 0;
    assert_int_equal(json_array_size(rows), fixture.count);
    for (size_t i = 0; i < fixture.count; i++) {
        const json_t *row = json_array_get(rows, i);
        tokens_count += json_array_size(row);
        mismatches += string_compare("with special tokens", row, i, true, mismatches);
    }
    printf("%zu strings, %zu tokens, %zu mismatches\n", fixture.count, tokens_count, mismatches);
    assert_int_equal(mismatches, 0);
    assert_true(fixture.count >= 2000);
}

static void test_special_as_plain(void **state)
{
    const json_t *rows = json_object_get(fixture.golden, "ids");
    size_t mismatches = 0, differ_count = 0;
    for (size_t i = 0; i < fixture.count; i++) {
        const json_t *row =
            fixture.plain[i] ? json_object_get(fixture.plain[i], "ids") : json_array_get(rows, i);
        differ_count += fixture.plain[i] != NULL;
        mismatches += string_compare("as plain text", row, i, false, mismatches);
    }
    printf("%zu strings with special tokens as plain text, %zu mismatches\n", differ_count,
           mismatches);
    assert_int_equal(mismatches, 0);
    assert_true(differ_count > 0);
}

static size_t hex_decode(const char *hex, char *out)
{
    size_t n = 0;
    for (unsigned byte; sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        out[n] = (char)byte;
    return n;
}

/* What the ids of a string spell, by the reference; the caller frees it. */
static struct span wanted_text(size_t index)
{
    struct span text = string_at(index);
    char *want = malloc(3 * text.size_bytes + 1);
    assert_non_null(want);
    if (fixture.inexact[index])
        text.size_bytes =
            hex_decode(json_string_value(json_object_get(fixture.inexact[index], "hex")), want);
    else if (text.size_bytes)
        memcpy(want, text.data, text.size_bytes);
    return (struct span){want, text.size_bytes};
}

/* All bytes of the ids, less the one space that encoding put in front. */
static bool spells(const uint32_t *ids, size_t n, struct span want)
{
    size_t at = 0;
    for (size_t t = 0; t < n; t++) {
        struct span bytes = tokenizer_token_bytes(fixture.tokenizer, ids[t], true);
        if (bytes.size_bytes == 0)
            return false;
        if (t == 0 && tokenizer_info(fixture.tokenizer)->strips_space && bytes.data[0] == ' ')
            bytes = (struct span){bytes.data + 1, bytes.size_bytes - 1};
        if (at + bytes.size_bytes > want.size_bytes ||
            memcmp(want.data + at, bytes.data, bytes.size_bytes) != 0)
            return false;
        at += bytes.size_bytes;
    }
    return at == want.size_bytes;
}

static void test_round_trip(void **state)
{
    size_t wrong = 0;
    for (size_t i = 0; i < fixture.count; i++) {
        struct text_piece piece = {string_at(i), true};
        struct span want = wanted_text(i);
        const uint32_t *ids;
        size_t n;
        encode(&piece, 1, &ids, &n);
        if (!spells(ids, n, want))
            wrong++, printf("string %zu does not decode to itself\n", i);
        free((char *)want.data);
    }
    assert_int_equal(wrong, 0);
}

/* One token after the other, as a stream puts them out. */
static void test_streamed(void **state)
{
    size_t wrong = 0;
    for (size_t i = 0; i < fixture.count; i++) {
        struct text_piece piece = {string_at(i), true};
        struct span want = wanted_text(i);
        struct detokenizer detokenizer;
        const uint32_t *ids;
        size_t n, got_bytes = 0;
        encode(&piece, 1, &ids, &n);
        char *got = malloc(detokenizer_out_max(4 * want.size_bytes + 64));
        assert_non_null(got);
        detokenizer_init(&detokenizer, NULL);
        if (tokenizer_info(fixture.tokenizer)->strips_space)
            detokenizer_strip(&detokenizer);
        for (size_t t = 0; t < n; t++) {
            got_bytes += detokenizer_push(&detokenizer,
                                          tokenizer_token_bytes(fixture.tokenizer, ids[t], true),
                                          got + got_bytes);
        }
        got_bytes += detokenizer_finish(&detokenizer, got + got_bytes);
        /* Where the vocabulary lacks bytes, what is left may be no text. */
        bool is_text = utf8_invalid_offset(want.data, want.size_bytes) == want.size_bytes;
        if (is_text && (got_bytes != want.size_bytes || memcmp(got, want.data, got_bytes) != 0))
            wrong++, printf("string %zu is streamed as another text\n", i);
        free(got);
        free((char *)want.data);
    }
    assert_int_equal(wrong, 0);
}

/* Cutting a text anywhere between characters, outside special tokens, must change nothing. */
static void test_pieces(void **state)
{
    const json_t *rows = json_object_get(fixture.golden, "ids");
    size_t mismatches = 0;
    for (size_t i = 0; i < fixture.count; i++) {
        struct span text = string_at(i);
        size_t cut = text.size_bytes * (i % 7) / 7;
        while (cut > 0 && cut < text.size_bytes && ((uint8_t)text.data[cut] & 0xc0) == 0x80)
            cut--;
        struct text_piece pieces[3] = {{{text.data, cut}, false},
                                       {{NULL, 0}, true},
                                       {{text.data + cut, text.size_bytes - cut}, false}};
        const json_t *row =
            fixture.plain[i] ? json_object_get(fixture.plain[i], "ids") : json_array_get(rows, i);
        const uint32_t *ids;
        size_t n;
        encode(pieces, 3, &ids, &n);
        mismatches += !ids_equal(row, ids, n);
    }
    assert_int_equal(mismatches, 0);
}

static void test_added_tokens(void **state)
{
    const json_t *list = json_object_get(fixture.golden, "added");
    assert_int_equal(tokenizer_info(fixture.tokenizer)->vocab_count,
                     json_integer_value(json_object_get(fixture.golden, "vocab_size")));
    assert_true(json_array_size(list) > 0);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        uint32_t id = (uint32_t)json_integer_value(json_object_get(item, "id"));
        struct span text = span_of(json_string_value(json_object_get(item, "text")));
        bool special = json_is_true(json_object_get(item, "special"));
        assert_int_equal(tokenizer_token_id(fixture.tokenizer, text), id);
        assert_int_equal(tokenizer_token_is_special(fixture.tokenizer, id), special);
        assert_true(span_equal(tokenizer_token_bytes(fixture.tokenizer, id, true), text));
        assert_int_equal(tokenizer_token_bytes(fixture.tokenizer, id, false).size_bytes,
                         special ? 0 : text.size_bytes);
    }
}

/* Rows of "plain" and "inexact" by the index of their string. */
static const json_t **rows_index(const char *name)
{
    const json_t *rows = json_object_get(fixture.golden, name);
    const json_t **by_index = calloc(fixture.count, sizeof *by_index);
    CHECK(by_index);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        size_t index = (size_t)json_integer_value(json_object_get(row, "index"));
        CHECK(index < fixture.count && !by_index[index]);
        by_index[index] = row;
    }
    return by_index;
}

static int fixture_open(const char *golden, const char *strings, const char *model)
{
    static const struct json_limits limits = {64u << 20, 4000000};
    struct error error;
    enum status status = tokenizer_open(model, &fixture.tokenizer, &error);
    if (!status)
        status = tokenizer_scratch_new(fixture.tokenizer, &fixture.scratch, &error);
    if (!status)
        status = json_read_file(golden, &limits, &fixture.golden, &error);
    if (status) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    json_error_t cause; /* one of the strings is a NUL, which json_read refuses */
    fixture.strings = json_load_file(strings, JSON_ALLOW_NUL, &cause);
    if (!fixture.strings) {
        fprintf(stderr, "%s: %s\n", strings, cause.text);
        return 1;
    }
    fixture.count = json_array_size(json_object_get(fixture.strings, "strings"));
    fixture.plain = rows_index("plain");
    fixture.inexact = rows_index("inexact");
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_ids),     cmocka_unit_test(test_special_as_plain),
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_added_tokens), cmocka_unit_test(test_streamed),
    };
    const char *model = argc > 3 ? argv[3] : getenv("GALERNE_SMOLLM2");
    if (argc < 3) {
        fprintf(stderr, "usage: tokens_test GOLDEN.json STRINGS.json [MODEL]\n");
        return 2;
    }
    if (!model || !*model) {
        printf("skipped: GALERNE_SMOLLM2 does not name the GGUF file (packaging/fetch-model "
               "smollm2 gets it)\n");
        return SKIPPED;
    }
    if (fixture_open(argv[1], argv[2], model))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(fixture.plain);
    free(fixture.inexact);
    json_decref(fixture.golden);
    json_decref(fixture.strings);
    tokenizer_scratch_free(fixture.scratch);
    tokenizer_close(fixture.tokenizer);
    return failed;
}
