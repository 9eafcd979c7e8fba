#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "text/utf8.h"

/* A second opinion: decode by arithmetic, then judge the number. 0: not one whole character. */
static int whole_character(const uint8_t *c, size_t size_bytes)
{
    size_t length = c[0] < 0x80             ? 1
                    : (c[0] & 0xe0) == 0xc0 ? 2
                    : (c[0] & 0xf0) == 0xe0 ? 3
                    : (c[0] & 0xf8) == 0xf0 ? 4
                                            : 0;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (length == 0 || length > size_bytes)
        return 0;
    uint32_t code = length == 1 ? c[0] : c[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((c[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (c[i] & 0x3f);
    }
    bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code < least[length] || code > 0x10ffff || surrogate ? 0 : (int)length;
}

/* Whether some bytes behind these make a whole character. */
static bool can_become(const uint8_t *c, size_t size_bytes)
{
    static const uint8_t tries[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
    uint8_t text[4];
    memcpy(text, c, size_bytes);
    if (size_bytes >= 4)
        return false;
    for (size_t i = 0; i < array_count(tries); i++) {
        text[size_bytes] = tries[i];
        if (whole_character(text, size_bytes + 1) == (int)size_bytes + 1 ||
            can_become(text, size_bytes + 1))
            return true;
    }
    return false;
}

static void judge(const uint8_t *c, size_t size_bytes)
{
    size_t bad = 0;
    int got = utf8_next((const char *)c, size_bytes, &bad);
    int whole = whole_character(c, size_bytes);
    if (whole) {
        assert_int_equal(got, whole);
        return;
    }
    if (can_become(c, size_bytes)) {
        assert_int_equal(got, -1);
        return;
    }
    size_t longest = 1; /* the longest start that could have become a character */
    while (longest + 1 < size_bytes && can_become(c, longest + 1))
        longest++;
    assert_int_equal(got, 0);
    assert_int_equal(bad, longest);
}

static void test_every_beginning(void **state)
{
    /* Each class of byte with its borders; all combinations of four. */
    static const uint8_t bytes[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
                                    0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee,
                                    0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff};
    size_t n = array_count(bytes);
    for (size_t i = 0; i < n * n * n * n; i++) {
        uint8_t c[4] = {bytes[i % n], bytes[i / n % n], bytes[i / n / n % n], bytes[i / n / n / n]};
        for (size_t size_bytes = 1; size_bytes <= 4; size_bytes++)
            judge(c, size_bytes);
    }
    assert_int_equal(utf8_next("", 0, NULL), -1);
}

static void test_every_pair(void **state)
{
    for (uint32_t i = 0; i < 65536; i++) {
        uint8_t c[2] = {(uint8_t)i, (uint8_t)(i >> 8)};
        judge(c, 1);
        judge(c, 2);
    }
}

static void test_offsets(void **state)
{
    static const struct {
        const char *text;
        size_t offset; /* SIZE_MAX: all valid */
    } cases[] = {
        {"", SIZE_MAX},
        {"plain ASCII, longer than eight", SIZE_MAX},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\xac", SIZE_MAX},
        {"12345678\x80", 8},
        {"1234567\xff", 7},
        {"caf\xc3", 3},
        {"\xed\xa0\x80", 0},             /* a surrogate */
        {"ab\xc0\xaf", 2},               /* overlong */
        {"a\xf4\x90\x80\x80", 1},        /* above U+10FFFF */
        {"a\xf4\x8f\xbf\xbf", SIZE_MAX}, /* U+10FFFF */
        {"\xe2\x82\xac\xe2\x82", 3},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        size_t size_bytes = strlen(cases[i].text);
        size_t expected = cases[i].offset == SIZE_MAX ? size_bytes : cases[i].offset;
        assert_int_equal(utf8_invalid_offset(cases[i].text, size_bytes), expected);
    }
    assert_int_equal(utf8_invalid_offset("a\0b", 3), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_beginning),
        cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_offsets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
