#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/text_fixture.h"

static struct tokenizer *tokenizer;
static struct tokenizer_scratch *scratch;

/* Encodes pieces and compares with ids that end in TOKEN_NONE. */
static void ids_of(const struct text_piece *pieces, size_t n_pieces, const uint32_t *expected)
{
    const uint32_t *ids = NULL;
    size_t n = 0, wanted = 0;
    struct error error = {.text = ""};
    if (tokenizer_encode(tokenizer, scratch, pieces, n_pieces, 1000, &ids, &n, &error))
        fail_msg("%s", error.text);
    while (expected[wanted] != TOKEN_NONE)
        wanted++;
    for (size_t i = 0; i < n && i < wanted; i++)
        assert_int_equal(ids[i], expected[i]);
    assert_int_equal(n, wanted);
}

#define IDS(...)                                                                                   \
    (const uint32_t[])                                                                             \
    {                                                                                              \
        __VA_ARGS__, TOKEN_NONE                                                                    \
    }
#define PIECE(text, special)                                                                       \
    {                                                                                              \
        {text, sizeof text - 1}, special                                                           \
    }

static void one(const char *text, bool special, const uint32_t *expected)
{
    ids_of(&(struct text_piece){span_of(text), special}, 1, expected);
}

static void test_words(void **state)
{
    one("", true, IDS(TOKEN_NONE));
    one("hello world", true, IDS(FIXTURE_HELLO, FIXTURE_WORLD));
    one("help", true, IDS(256, 'l', 'p'));
    one("\xc3\xa9", true, IDS(FIXTURE_E_ACUTE));
    one("\xc3\xaa", true, IDS(0xc3, 0xaa));
    one("world", true, IDS('w', 261, 263));
    one("a\tb\n", true, IDS('a', '\t', 'b', '\n'));
    one("<tool>hello", false, IDS(FIXTURE_TOOL, FIXTURE_HELLO)); /* added, not special */
}

static void test_special(void **state)
{
    one("<s>hello</s>", true, IDS(FIXTURE_BOS_ID, FIXTURE_HELLO, FIXTURE_EOS_ID));
    one("<s>", false, IDS('<', 's', '>'));
    one("<s><s", true, IDS(FIXTURE_BOS_ID, '<', 's'));
    one("<<s>>", true, IDS('<', FIXTURE_BOS_ID, '>'));
    one("<|im_end|>", true, IDS(FIXTURE_IM_END));
    one("<|im_end|", true, IDS('<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|'));
}

/* Pieces are one text, but what a user wrote is never a special token, nor part of one. */
static void test_pieces(void **state)
{
    const struct text_piece word[] = {PIECE("he", false), PIECE("", true), PIECE("llo wo", true),
                                      PIECE("rld", false)};
    ids_of(word, 4, IDS(FIXTURE_HELLO, FIXTURE_WORLD));
    const struct text_piece user[] = {PIECE("<s>", true), PIECE("</s><|im_end|>", false),
                                      PIECE("</s>", true)};
    ids_of(user, 3,
           IDS(FIXTURE_BOS_ID, '<', '/', 's', '>', '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>',
               FIXTURE_EOS_ID));
    const struct text_piece torn[] = {PIECE("</", true),  PIECE("s>", true), PIECE("<", false),
                                      PIECE("/s>", true), PIECE("<s", true), PIECE(">", false)};
    ids_of(torn, 6, IDS('<', '/', 's', '>', '<', '/', 's', '>', '<', 's', '>'));
    const struct text_piece added[] = {PIECE("<to", false), PIECE("ol>", true)};
    ids_of(added, 2, IDS(FIXTURE_TOOL));
    /* A character that crosses a border is invalid in both. */
    const struct text_piece cut[] = {PIECE("a\xc3", true), PIECE("\xa9", true)};
    const uint32_t *ids = NULL;
    size_t n = 0;
    struct error error;
    assert_int_equal(tokenizer_encode(tokenizer, scratch, cut, 2, 9, &ids, &n, &error),
                     STATUS_INVALID);
    assert_non_null(strstr(error.text, "not valid UTF-8 at byte 1"));
    assert_null(ids);
}

static void test_limits(void **state)
{
    const uint32_t *ids = NULL;
    size_t n = 77;
    struct error error;
    struct text_piece piece = {span_of("abcabc"), false};
    assert_int_equal(tokenizer_encode(tokenizer, scratch, &piece, 1, 6, &ids, &n, &error),
                     STATUS_OK);
    assert_int_equal(n, 6);
    n = 77;
    assert_int_equal(tokenizer_encode(tokenizer, scratch, &piece, 1, 5, &ids, &n, &error),
                     STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "more than 5 tokens"));
    assert_int_equal(n, 77);
    size_t size_bytes = TOKENIZER_TEXT_MAX_BYTES + 1;
    char *text = malloc(size_bytes);
    for (size_t i = 0; i < size_bytes; i++)
        text[i] = " a"[i % 2];
    struct text_piece two[] = {{{text, size_bytes / 2}, false},
                               {{text, size_bytes - size_bytes / 2}, false}};
    assert_int_equal(tokenizer_encode(tokenizer, scratch, two, 2, SIZE_MAX, &ids, &n, &error),
                     STATUS_INVALID);
    assert_non_null(strstr(error.text, "over 16777216 bytes"));
    two[1].text.size_bytes--;
    assert_int_equal(tokenizer_encode(tokenizer, scratch, two, 2, SIZE_MAX, &ids, &n, &error),
                     STATUS_OK);
    assert_int_equal(n, TOKENIZER_TEXT_MAX_BYTES); /* no merge of a space and an "a" */
    memset(text, ' ', size_bytes);
    two[0].text.size_bytes = (1u << 20) + 1;
    assert_int_equal(tokenizer_encode(tokenizer, scratch, two, 1, SIZE_MAX, &ids, &n, &error),
                     STATUS_INVALID);
    assert_non_null(strstr(error.text, "without a break, expected at most 1048576"));
    free(text);
}

static void test_tokens(void **state)
{
    const struct tokenizer_info *info = tokenizer_info(tokenizer);
    assert_int_equal(info->vocab_count, FIXTURE_COUNT);
    assert_int_equal(info->bos_id, FIXTURE_BOS_ID);
    assert_true(info->adds_bos);
    assert_int_equal(info->n_eos, 0); /* tokenizer.json alone does not say */
    struct span bytes = tokenizer_token_bytes(tokenizer, FIXTURE_WORLD, false);
    assert_true(span_equal(bytes, span_of(" world")));
    bytes = tokenizer_token_bytes(tokenizer, 0, false);
    assert_int_equal(bytes.size_bytes, 1);
    assert_int_equal(bytes.data[0], 0);
    assert_int_equal(tokenizer_token_bytes(tokenizer, FIXTURE_BOS_ID, false).size_bytes, 0);
    bytes = tokenizer_token_bytes(tokenizer, FIXTURE_BOS_ID, true);
    assert_true(span_equal(bytes, span_of("<s>")));
    bytes = tokenizer_token_bytes(tokenizer, FIXTURE_TOOL, false);
    assert_true(span_equal(bytes, span_of("<tool>")));
    assert_int_equal(tokenizer_token_bytes(tokenizer, FIXTURE_COUNT, true).size_bytes, 0);
    assert_int_equal(tokenizer_token_bytes(tokenizer, TOKEN_NONE, true).size_bytes, 0);
    assert_true(tokenizer_token_is_special(tokenizer, FIXTURE_EOS_ID));
    assert_false(tokenizer_token_is_special(tokenizer, FIXTURE_TOOL));
    assert_false(tokenizer_token_is_special(tokenizer, TOKEN_NONE));
    assert_int_equal(tokenizer_token_id(tokenizer, span_of("</s>")), FIXTURE_EOS_ID);
    assert_int_equal(tokenizer_token_id(tokenizer, span_of(" world")), FIXTURE_WORLD);
    assert_int_equal(tokenizer_token_id(tokenizer, span_of("worl")), TOKEN_NONE);
    assert_int_equal(tokenizer_token_id(tokenizer, span_of("")), TOKEN_NONE);
}

/* Random text of the vocabulary's own pieces always decodes to itself. */
static void test_round_trip(void **state)
{
    static const char *const words[] = {"hello",
                                        " world",
                                        "he",
                                        "ll",
                                        "\n",
                                        "  ",
                                        "\xc3\xa9",
                                        "<s>",
                                        "<|im_end",
                                        "\xe2\x82\xac",
                                        "\xf0\x9f\x8c\xac",
                                        "<tool>",
                                        "1234567",
                                        "\t",
                                        "'ll",
                                        "\xc2\xa0"};
    uint64_t seed = 21;
    for (int round = 0; round < 2000; round++) {
        char text[512];
        size_t size_bytes = 0, cut = 0, at = 0, n = 0;
        for (size_t k = text_fixture_draw(&seed) % 40; k > 0; k--) {
            const char *word = words[text_fixture_draw(&seed) % array_count(words)];
            memcpy(text + size_bytes, word, strlen(word));
            size_bytes += strlen(word);
            if (k == 10)
                cut = size_bytes;
        }
        struct text_piece pieces[2] = {{{text, cut}, round % 2},
                                       {{text + cut, size_bytes - cut}, round / 2 % 2}};
        const uint32_t *ids;
        assert_int_equal(tokenizer_encode(tokenizer, scratch, pieces, 2, 1000, &ids, &n, NULL),
                         STATUS_OK);
        for (size_t i = 0; i < n; i++) {
            struct span bytes = tokenizer_token_bytes(tokenizer, ids[i], true);
            assert_true(at + bytes.size_bytes <= size_bytes);
            assert_memory_equal(text + at, bytes.data, bytes.size_bytes);
            at += bytes.size_bytes;
        }
        assert_int_equal(at, size_bytes);
    }
}

static void digest_differs(const struct text_fixture *fixture, bool expected)
{
    struct tokenizer *other = text_fixture_open(fixture);
    int differs =
        memcmp(tokenizer_digest(tokenizer), tokenizer_digest(other), TOKENIZER_DIGEST_BYTES) != 0;
    assert_int_equal(differs, expected);
    tokenizer_close(other);
}

static void test_digest(void **state)
{
    digest_differs(&(struct text_fixture){.post_processor = FIXTURE_BOS}, false);
    digest_differs(NULL, false); /* the BOS is no part of how text is encoded */
    digest_differs(&(struct text_fixture){.merges = "\"h e\""}, true);
    digest_differs(&(struct text_fixture){.model = ",\"ignore_merges\":true"}, true);
    digest_differs(&(struct text_fixture){.normalizer = "{\"type\":\"NFC\"}"}, true);
    digest_differs(&(struct text_fixture){.added = FIXTURE_ADDED
                                          ",{\"id\":271,\"content\":\"<a>\",\"special\":true}"},
                   true);
    digest_differs(&(struct text_fixture){.pre_tokenizer =
                                              "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                                              "\"use_regex\":false}"},
                   true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),  cmocka_unit_test(test_special),
        cmocka_unit_test(test_pieces), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_tokens), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_digest),
    };
    tokenizer = text_fixture_open(&(struct text_fixture){.post_processor = FIXTURE_BOS});
    if (tokenizer_scratch_new(tokenizer, &scratch, NULL))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
    return failed;
}
