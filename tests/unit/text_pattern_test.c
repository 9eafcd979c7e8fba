#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "text/pattern.h"
#include "text/pretokenize.h"

#define SPACES                                                                                     \
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"

static char out[PATTERN_OUT_MAX_BYTES];

static void test_translated(void **state)
{
    static const struct {
        const char *in, *expected;
    } cases[] = {
        {"abc", "abc"},
        {"\\s+(?!\\S)", "[" SPACES "]+(?![^" SPACES "])"},
        {"[^\\s\\p{L}]", "[^" SPACES "\\p{L}]"},
        {"\\d\\D[\\d]", "\\p{Nd}\\P{Nd}[\\p{Nd}]"},
        {"\\p{Lu}|\\P{N}", "\\p{Lu}|\\P{N}"},
        {"(a|b)(?:c)", "(?:a|b)(?:c)"},
        {"(?i:'s|'T)", "(?i:'s|'T)"},
        {"(?<=a)b(?<!c)(?>d)(?=e)", "(?<=a)b(?<!c)(?>d)(?=e)"},
        {"\\p{N}{1,3}", "\\p{N}{1,3}"},
        {"a{2}b{2,}c++d*?e?", "a{2}b{2,}c++d*?e?"},
        {"\\u4e00-\\x{9FFF}\\x41", "\\x{4e00}-\\x{9fff}\\x{41}"},
        {"[\xe4\xb8\x80-\xe9\xbe\xa5]+", "[\xe4\xb8\x80-\xe9\xbe\xa5]+"},
        {"[a-z\\-\\]]", "[a-z\\-\\]]"},
        {"a}]", "a\\}\\]"},
        {"\\r\\n\\t\\f\\v", "\\r\\n\\t\\f\\x0b"},
        {"\\$\\^\\.\\ ", "\\$\\^\\.\\ "},
        {".", "."},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        size_t size_bytes = 0;
        struct error error = {.text = ""};
        enum status status = pattern_translate(span_of(cases[i].in), out, &size_bytes, &error);
        if (status)
            fail_msg("%s: %s", cases[i].in, error.text);
        assert_string_equal(out, cases[i].expected);
        assert_int_equal(size_bytes, strlen(cases[i].expected));
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *in;
        enum status status;
        const char *says;
    } cases[] = {
        {"", STATUS_INVALID, "0 bytes"},
        {"a\xff", STATUS_INVALID, "byte 1: not valid UTF-8"},
        {"^a", STATUS_UNSUPPORTED, "byte 0: ^"},
        {"a$", STATUS_UNSUPPORTED, "byte 1: $"},
        {"\\w+", STATUS_UNSUPPORTED, "\\w"},
        {"\\bx", STATUS_UNSUPPORTED, "\\b"},
        {"\\hx", STATUS_UNSUPPORTED, "\\h"},
        {"\\Rx", STATUS_UNSUPPORTED, "\\R"},
        {"\\Ax\\z", STATUS_UNSUPPORTED, "\\A"},
        {"(a)\\1", STATUS_UNSUPPORTED, "\\1"},
        {"(?<name>a)", STATUS_UNSUPPORTED, "this kind of group"},
        {"(?m:a)", STATUS_UNSUPPORTED, "this kind of group"},
        {"(?i)a", STATUS_UNSUPPORTED, "this kind of group"},
        {"(*ACCEPT)", STATUS_UNSUPPORTED, "this kind of group"},
        {"a{1,2}+", STATUS_UNSUPPORTED, "{n,m} followed"},
        {"a{2}?", STATUS_UNSUPPORTED, "{n,m} followed"},
        {"a{,2}", STATUS_UNSUPPORTED, "{ without a number"},
        {"a{2,x}", STATUS_UNSUPPORTED, "{ that begins no repetition"},
        {"[[:alpha:]]", STATUS_UNSUPPORTED, "a class within a class"},
        {"[a&&b]", STATUS_UNSUPPORTED, "&&"},
        {"[\\S]", STATUS_UNSUPPORTED, "\\S in a class"},
        {"[]a]", STATUS_UNSUPPORTED, "an empty class"},
        {"[\\s-a]", STATUS_UNSUPPORTED, "a range from or to a set"},
        {"[a-\\p{L}]", STATUS_UNSUPPORTED, "a range from or to a set"},
        {"\\p{Greek}", STATUS_UNSUPPORTED, "a property other than"},
        {"\\p{^L}", STATUS_UNSUPPORTED, "a property other than"},
        {"\\pL", STATUS_UNSUPPORTED, "a property other than"},
        {"(?i:\\p{Lu})", STATUS_UNSUPPORTED, "\\p within (?i:"},
        {"(?i:ss)", STATUS_UNSUPPORTED, "a ligature"},
        {"(?i:a(?:fi))", STATUS_UNSUPPORTED, "a ligature"},
        {"(?i:\xc3\xa9)", STATUS_UNSUPPORTED, "outside ASCII within (?i:"},
        {"(?i:\\x{e9})", STATUS_UNSUPPORTED, "outside ASCII within (?i:"},
        {"\\xe9", STATUS_UNSUPPORTED, "\\xHH beyond 7F"},
        {"\\x{110000}", STATUS_INVALID, "hexadecimal"},
        {"\\ud800", STATUS_INVALID, "hexadecimal"},
        {"\\x{}", STATUS_INVALID, "hexadecimal"},
        {"\\x4", STATUS_INVALID, "hexadecimal"},
        {"a\\", STATUS_INVALID, "ends in a backslash"},
        {"(a", STATUS_INVALID, "( without its )"},
        {"a)", STATUS_INVALID, ") without its ("},
        {"[a", STATUS_INVALID, "a class without its ]"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        size_t size_bytes = 77;
        struct error error = {.text = ""};
        enum status status = pattern_translate(span_of(cases[i].in), out, &size_bytes, &error);
        if (status != cases[i].status || !strstr(error.text, cases[i].says))
            fail_msg("%s: got %s, \"%s\"", cases[i].in, status_name(status), error.text);
        assert_int_equal(size_bytes, 77);
    }
}

static void test_limits(void **state)
{
    char deep[2 * PATTERN_GROUPS_MAX + 3], wide[PATTERN_MAX_BYTES + 2];
    size_t size_bytes;
    memset(deep, '(', PATTERN_GROUPS_MAX + 1);
    memset(deep + PATTERN_GROUPS_MAX + 1, ')', PATTERN_GROUPS_MAX + 1);
    struct span text = {deep, 2 * PATTERN_GROUPS_MAX + 2};
    assert_int_equal(pattern_translate(text, out, &size_bytes, NULL), STATUS_INVALID);
    for (size_t i = 0; i < sizeof wide; i++)
        wide[i] = "\\S"[i % 2];
    text = (struct span){wide, PATTERN_MAX_BYTES + 2};
    assert_int_equal(pattern_translate(text, out, &size_bytes, NULL), STATUS_INVALID);
    text.size_bytes = PATTERN_MAX_BYTES; /* what grows most, as long as allowed */
    assert_int_equal(pattern_translate(text, out, &size_bytes, NULL), STATUS_OK);
    assert_true(size_bytes < PATTERN_OUT_MAX_BYTES);
}

/* Cuts `text` and compares with pieces separated by "|". */
static void cuts(const struct pretokenizer *rules, const char *text, const char *expected)
{
    struct pretokenizer_scratch *scratch;
    struct pretokens walk;
    char got[256] = "";
    assert_int_equal(pretokenizer_scratch_new(&scratch, NULL), STATUS_OK);
    pretokenizer_scratch_allow(scratch, strlen(text));
    pretokens_init(&walk, rules, scratch, span_of(text));
    for (;;) {
        struct span piece;
        assert_int_equal(pretokens_next(&walk, &piece, NULL), STATUS_OK);
        if (piece.size_bytes == 0)
            break;
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.*s", *got ? "|" : "",
                 (int)piece.size_bytes, piece.data);
    }
    assert_string_equal(got, expected);
    pretokenizer_scratch_free(scratch);
}

static void test_splits(void **state)
{
    struct pretokenizer rules = {0};
    cuts(&rules, "no splits at all", "no splits at all");
    assert_int_equal(pretokenizer_add(&rules, span_of("\\d+"), SPLIT_KEEPS_ALL, NULL), STATUS_OK);
    cuts(&rules, "12ab34", "12|ab|34");
    assert_int_equal(pretokenizer_add_literal(&rules, span_of("a."), SPLIT_KEEPS_GAPS, NULL),
                     STATUS_OK);
    cuts(&rules, "12xa.y34a.", "12|x|y|34");
    /* Look-around sees its own piece only. */
    assert_int_equal(
        pretokenizer_add(&rules, span_of("x(?!y)|4(?=$|5)|[^x4]"), SPLIT_KEEPS_MATCHES, NULL),
        STATUS_UNSUPPORTED);
    assert_int_equal(pretokenizer_add(&rules, span_of("x(?!a)|[^x]"), SPLIT_KEEPS_MATCHES, NULL),
                     STATUS_OK);
    cuts(&rules, "xa.1", "x|1");
    cuts(&rules, "xab1", "a|b|1");
    pretokenizer_free(&rules);
}

static void test_pattern_errors(void **state)
{
    struct pretokenizer rules = {0};
    struct error error;
    assert_int_equal(pretokenizer_add(&rules, span_of("a*"), SPLIT_KEEPS_ALL, &error),
                     STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "matches empty text"));
    assert_int_equal(pretokenizer_add(&rules, span_of("a**"), SPLIT_KEEPS_ALL, &error),
                     STATUS_INVALID);
    assert_non_null(strstr(error.text, "quantifier"));
    assert_int_equal(pretokenizer_add(&rules, span_of("[z-a]"), SPLIT_KEEPS_ALL, &error),
                     STATUS_INVALID);
    assert_int_equal(pretokenizer_add_literal(&rules, span_of("\xff"), SPLIT_KEEPS_ALL, &error),
                     STATUS_INVALID);
    for (int i = 0; i < PRETOKENIZER_SPLITS_MAX; i++)
        assert_int_equal(pretokenizer_add(&rules, span_of("a"), SPLIT_KEEPS_ALL, &error),
                         STATUS_OK);
    assert_int_equal(pretokenizer_add(&rules, span_of("a"), SPLIT_KEEPS_ALL, &error),
                     STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "more than 8 splits"));
    pretokenizer_free(&rules);
}

/* Patterns that would take for ever end in an error, soon. */
static void hard(const char *pattern, char fill, size_t size_bytes)
{
    struct pretokenizer rules = {0};
    struct pretokenizer_scratch *scratch;
    struct pretokens walk;
    struct error error = {.text = ""};
    struct span piece = {"", 1};
    enum status status = STATUS_OK;
    char *text = malloc(size_bytes);
    memset(text, fill, size_bytes);
    assert_int_equal(pretokenizer_add(&rules, span_of(pattern), SPLIT_KEEPS_ALL, NULL), STATUS_OK);
    assert_int_equal(pretokenizer_scratch_new(&scratch, NULL), STATUS_OK);
    uint64_t start_ns = clock_now_ns();
    pretokenizer_scratch_allow(scratch, size_bytes);
    pretokens_init(&walk, &rules, scratch, (struct span){text, size_bytes});
    while (!status && piece.size_bytes > 0)
        status = pretokens_next(&walk, &piece, &error);
    assert_int_equal(status, STATUS_INVALID);
    assert_non_null(strstr(error.text, "takes too much"));
    printf("%s: %s, after %.2f s\n", pattern, error.text,
           (double)(clock_now_ns() - start_ns) / 1e9);
    assert_true(clock_now_ns() - start_ns < 20 * NS_PER_S);
    pretokenizer_scratch_free(scratch);
    pretokenizer_free(&rules);
    free(text);
}

static void test_catastrophic(void **state)
{
    hard("(a+)+[bc]", 'a', 64);
    hard("(?:a|a)*[bc]", 'a', 4096);
    hard("a++b|a", 'a', 200000); /* quadratic, without any backtracking */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_translated),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),         cmocka_unit_test(test_splits),
        cmocka_unit_test(test_pattern_errors), cmocka_unit_test(test_catastrophic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
