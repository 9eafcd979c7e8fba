#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/text_fixture.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

#define OUT_MAX 65536

static void stops_of(struct stop_set *set, size_t n, const char *const *strings)
{
    struct span spans[STOP_STRINGS_MAX];
    for (size_t i = 0; i < n; i++)
        spans[i] = span_of(strings[i]);
    assert_int_equal(stop_set_compile(spans, n, set, NULL), STATUS_OK);
}

/* Pushes `text` in parts of sizes drawn from `seed` (0: at once). Returns the bytes put out. */
static size_t run(struct detokenizer *d, const struct stop_set *stops, struct span text,
                  uint64_t seed, char *out)
{
    size_t written = 0;
    detokenizer_init(d, stops);
    for (size_t at = 0; at < text.size_bytes;) {
        size_t part = text.size_bytes - at;
        if (seed)
            part = size_min(part, text_fixture_draw(&seed) % 6);
        /* A copy of exact size, so that ASan sees a read beyond it. */
        char *copy = malloc(part ? part : 1), *room = malloc(detokenizer_out_max(part));
        memcpy(copy, text.data + at, part);
        size_t n = detokenizer_push(d, (struct span){copy, part}, room);
        assert_true(n <= detokenizer_out_max(part));
        assert_int_equal(utf8_invalid_offset(room, n), n); /* whole characters */
        assert_true(written + n <= OUT_MAX);
        memcpy(out + written, room, n);
        written += n;
        at += part;
        free(copy);
        free(room);
    }
    written += detokenizer_finish(d, out + written);
    assert_int_equal(utf8_invalid_offset(out, written), written);
    assert_int_equal(d->held_bytes, 0);
    return written;
}

static void expect(const struct stop_set *stops, struct span text, const char *expected,
                   int stop_index)
{
    static char out[OUT_MAX];
    struct detokenizer d;
    for (uint64_t seed = 0; seed < 50; seed++) {
        size_t n = run(&d, stops, text, seed, out);
        out[n] = '\0';
        assert_string_equal(out, expected);
        assert_int_equal(d.stopped, stop_index >= 0);
        if (stop_index >= 0)
            assert_int_equal(d.stop_index, stop_index);
    }
}

static void test_bad_bytes(void **state)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", ""},
        {"plain", "plain"},
        {"\xf0\x9f\x8c\xac wind", "\xf0\x9f\x8c\xac wind"},
        {"caf\xc3", "caf\xef\xbf\xbd"},
        {"\xf0\x9f\x8c", "\xef\xbf\xbd"},
        {"a\x80"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xc3(", "\xef\xbf\xbd("},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x82\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac"},
        /* The example of the Unicode standard's table of maximal subparts. */
        {"a\xf1\x80\x80\xe1\x80\xc2"
         "b\x80"
         "c\x80\xbf"
         "d",
         "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
         "b\xef\xbf\xbd"
         "c\xef\xbf\xbd\xef\xbf\xbd"
         "d"},
    };
    for (size_t i = 0; i < array_count(cases); i++)
        expect(NULL, span_of(cases[i].text), cases[i].expected, -1);
}

static void test_stops(void **state)
{
    struct stop_set set;
    stops_of(&set, 2, (const char *const[]){"STOP", "\n\n"});
    expect(&set, span_of("one STOP two"), "one ", 0);
    expect(&set, span_of("one\n\ntwo STOP"), "one", 1);
    expect(&set, span_of("one\ntwo STO"), "one\ntwo STO", -1);
    expect(&set, span_of("STSTOP"), "ST", 0);
    expect(&set, span_of("STOP"), "", 0);
    expect(&set, span_of("SSSTOSTOP!"), "SSSTO", 0);
    stops_of(&set, 3, (const char *const[]){"bc", "abc", "c"});
    expect(&set, span_of("xabc"), "x", 1); /* complete together: the longest */
    expect(&set, span_of("xbc"), "x", 0);
    expect(&set, span_of("xac"), "xa", 2);
    stops_of(&set, 2, (const char *const[]){"abcd", "b"});
    expect(&set, span_of("abcd"), "a", 1); /* complete first */
    stops_of(&set, 1, (const char *const[]){"aabaaab"});
    expect(&set, span_of("aabaabaaab!"), "aab", 0); /* the overlap of a failed start */
    stops_of(&set, 2, (const char *const[]){"\xc3\xa9t\xc3\xa9", "\xef\xbf\xbd"});
    expect(&set, span_of("l'\xc3\xa9t\xc3\xa9"), "l'", 0);
    expect(&set,
           span_of("a\x80"
                   "b"),
           "a", 1);                         /* bad bytes read as U+FFFD */
    expect(&set, span_of("a\xc3"), "a", 1); /* so does a cut character at the end */
}

static void test_held_no_longer_than_needed(void **state)
{
    struct stop_set set;
    struct detokenizer d;
    char out[1024];
    stops_of(&set, 1, (const char *const[]){"STOP"});
    detokenizer_init(&d, &set);
    assert_int_equal(detokenizer_push(&d, span_of("go ST"), out), 3);
    assert_int_equal(detokenizer_push(&d, span_of("ART"), out), 5);
    assert_memory_equal(out, "START", 5);
    assert_int_equal(detokenizer_push(&d, span_of("\xf0\x9f"), out), 0);
    assert_int_equal(detokenizer_push(&d, span_of("\x8c\xac"), out), 4);
    assert_int_equal(detokenizer_push(&d, span_of("STOP more"), out), 0);
    assert_true(d.stopped);
    assert_int_equal(detokenizer_push(&d, span_of("dropped"), out), 0);
    assert_int_equal(detokenizer_finish(&d, out), 0);
}

/* The first stop string in valid text, by looking at every end. Returns where the text ends. */
static size_t first_stop(const struct stop_set *set, struct span text, int *ret_index)
{
    *ret_index = -1;
    for (size_t end = 1; end <= text.size_bytes; end++) {
        size_t longest = 0;
        for (uint32_t s = 0; s < set->n; s++) {
            size_t size_bytes = set->size_bytes[s];
            if (size_bytes <= end && size_bytes > longest &&
                memcmp(text.data + end - size_bytes, set->text[s], size_bytes) == 0) {
                longest = size_bytes;
                *ret_index = (int)s;
            }
        }
        if (longest)
            return end - longest;
    }
    return text.size_bytes;
}

/* Random bytes, random stop strings, random cuts: always the text of one push, cut where a plain
 * search says. */
static void test_any_split(void **state)
{
    static char once[OUT_MAX], parts[OUT_MAX];
    static const char *const words[] = {"a",    "b",        "aa",       "ab",   "ba",
                                        "\xc3", "\xa9",     "\xc3\xa9", "\xf0", "\x9f",
                                        "\x8c", "\xac",     "\xff",     "\xed", "\xef\xbf\xbd",
                                        "aba",  "\xe2\x82", "\x80",     "bab"};
    static const char *const stops[] = {"abab",
                                        "aab",
                                        "\xc3\xa9"
                                        "a",
                                        "bbb",
                                        "\xc3\xa9",
                                        "\xef\xbf\xbd"
                                        "a",
                                        "baba",
                                        "aaaa"};
    uint64_t seed = 7;
    uint32_t stopped_count = 0;
    for (int round = 0; round < 4000; round++) {
        char text[256];
        size_t size_bytes = 0;
        for (size_t n = text_fixture_draw(&seed) % 40; n > 0; n--) {
            const char *word = words[text_fixture_draw(&seed) % array_count(words)];
            memcpy(text + size_bytes, word, strlen(word));
            size_bytes += strlen(word);
        }
        struct stop_set set;
        const char *chosen[3];
        size_t n_stops = text_fixture_draw(&seed) % 4;
        for (size_t s = 0; s < n_stops; s++)
            chosen[s] = stops[text_fixture_draw(&seed) % array_count(stops)];
        stops_of(&set, n_stops, chosen);
        struct detokenizer d;
        size_t clean_bytes = run(&d, NULL, (struct span){text, size_bytes}, 0, once);
        int index = -1;
        size_t end = first_stop(&set, (struct span){once, clean_bytes}, &index);
        size_t n = run(&d, &set, (struct span){text, size_bytes}, seed | 1, parts);
        assert_int_equal(n, end);
        assert_memory_equal(parts, once, n);
        assert_int_equal(d.stopped, index >= 0);
        if (index >= 0)
            assert_string_equal(chosen[d.stop_index], chosen[index]);
        stopped_count += d.stopped;
    }
    assert_true(stopped_count > 500);
}

static void test_longest_stop(void **state)
{
    static char long_stop[STOP_STRING_MAX_BYTES + 1], text[3 * STOP_STRING_MAX_BYTES];
    struct stop_set set;
    memset(long_stop, 'a', STOP_STRING_MAX_BYTES);
    long_stop[STOP_STRING_MAX_BYTES - 1] = 'b';
    stops_of(&set, 1, (const char *const[]){long_stop});
    assert_int_equal(set.longest_bytes, STOP_STRING_MAX_BYTES);
    memset(text, 'a', sizeof text - 2);
    memcpy(text + sizeof text - 2, "b", 2);
    static char expected[3 * STOP_STRING_MAX_BYTES];
    memset(expected, 'a', sizeof text - 1 - STOP_STRING_MAX_BYTES);
    expect(&set, span_of(text), expected, 0);
}

static void test_refused_stops(void **state)
{
    struct stop_set set = {.n = 99};
    struct error error;
    struct span many[STOP_STRINGS_MAX + 1];
    for (size_t i = 0; i < array_count(many); i++)
        many[i] = span_of("x");
    assert_int_equal(stop_set_compile(many, array_count(many), &set, &error), STATUS_INVALID);
    assert_string_equal(error.field, "stop");
    assert_non_null(strstr(error.text, "at most 16"));
    many[1] = span_of("");
    assert_int_equal(stop_set_compile(many, 2, &set, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "stop string 1 is empty"));
    many[1] = span_of("ab\xff");
    assert_int_equal(stop_set_compile(many, 2, &set, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "not valid UTF-8 at byte 2"));
    char *longer = calloc(1, STOP_STRING_MAX_BYTES + 2);
    memset(longer, 'x', STOP_STRING_MAX_BYTES + 1);
    many[1] = span_of(longer);
    assert_int_equal(stop_set_compile(many, 2, &set, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "257 bytes, expected at most 256"));
    assert_int_equal(set.n, 99); /* untouched on failure */
    free(longer);
    assert_int_equal(stop_set_compile(NULL, 0, &set, &error), STATUS_OK);
    assert_int_equal(set.n, 0);
}

/* One space at the very start, whichever token brings it; none where the text goes on. */
static void test_leading_space(void **state)
{
    static const struct {
        const char *tokens[3];
        const char *stripped, *kept;
    } cases[] = {
        {{" a", " b", ""}, "a b", " a b"},
        {{"", " ", " a"}, " a", "  a"},
        {{"a", " b", ""}, "a b", "a b"},
        {{"  ", "", "a"}, " a", "  a"},
        {{"", "", ""}, "", ""},
    };
    for (size_t i = 0; i < array_count(cases); i++)
        for (int strips = 0; strips < 2; strips++) {
            struct detokenizer d;
            char out[OUT_MAX];
            size_t n = 0;
            detokenizer_init(&d, NULL);
            if (strips)
                detokenizer_strip(&d);
            for (size_t t = 0; t < 3; t++)
                n += detokenizer_push(&d, span_of(cases[i].tokens[t]), out + n);
            n += detokenizer_finish(&d, out + n);
            out[n] = '\0';
            assert_string_equal(out, strips ? cases[i].stripped : cases[i].kept);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_bytes),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_held_no_longer_than_needed),
        cmocka_unit_test(test_any_split),
        cmocka_unit_test(test_longest_stop),
        cmocka_unit_test(test_refused_stops),
        cmocka_unit_test(test_leading_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
