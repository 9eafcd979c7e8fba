#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/option.h"
#include "base/runtime_dir.h"

struct target {
    bool flag;
    uint32_t count;
    uint64_t big;
    uint64_t wait_ns;
    uint64_t limit_ns;
    double heat;
    uint32_t color;
    char word[8];
    char name[8];
    char place[8];
    const char *text;
    struct option_texts stops;
};

enum { RED = 7, BLUE = 9 };
static const struct option_choice colors[] = {{"red", RED}, {"blue", BLUE}, {NULL, 0}};
static const struct option_choice words[] = {{"fast", 0}, {"slow", 0}, {NULL, 0}};

#define AT(member) OPTION_AT(struct target, member)

static const struct option_row rows[] = {
    {"flag", OPTION_BOOL, AT(flag), .fallback = "true", .text = "A flag."},
    {"count", OPTION_U32, AT(count), .fallback = "5", .min = 1, .max = 90, .unit = "percent",
     .value = "N", .letter = 'c', .text = "A count."},
    {"big", OPTION_U64, AT(big), .min = 0, .max = UINT64_MAX, .text = "A big number."},
    {"wait_ms", OPTION_MS, AT(wait_ns), .fallback = "30", .min = 0, .max = 1000, .unit = "ms",
     .text = "A wait."},
    {"limit", OPTION_SECONDS, AT(limit_ns), .real_min = 0.001, .real_max = 60, .text = "A limit."},
    {"heat", OPTION_REAL, AT(heat), .real_min = 0, .real_max = 100, .text = "A number."},
    {"color", OPTION_CHOICE, AT(color), .fallback = "blue", .choices = colors, .text = "A color."},
    {"word", OPTION_WORD, AT(word), .choices = words, .text = "A word."},
    {"name", OPTION_NAME, AT(name), .required = true, .example = "demo", .text = "A name."},
    {"place", OPTION_PATH, AT(place), .fallback_text = "here", .example = "/x", .text = "A path."},
    {"text", OPTION_TEXT, AT(text), .text = "A text."},
    {"stop", OPTION_TEXTS, AT(stops), .text = "Texts."},
    {"models", OPTION_SECTION, .text = "A list."},
};

static enum status set(struct target *target, const char *name, const char *value,
                       struct error *error)
{
    const struct option_row *row = option_find(rows, array_count(rows), name);
    assert_non_null(row);
    return option_set(row, target, value, error);
}

static void sets_defaults(void **state)
{
    struct target t = {.big = 77};
    option_defaults(rows, array_count(rows), &t);
    assert_true(t.flag);
    assert_int_equal(t.count, 5);
    assert_int_equal(t.big, 77); /* no fallback: left alone */
    assert_int_equal(t.wait_ns, 30 * NS_PER_MS);
    assert_int_equal(t.color, BLUE);
}

static void sets_good_values(void **state)
{
    struct target t = {.flag = true};
    static const char *const pairs[][2] = {
        {"flag", "false"},   {"count", "90"},  {"big", "18446744073709551615"},
        {"wait_ms", "1000"}, {"limit", "2.5"}, {"heat", ".25"},
        {"color", "red"},    {"word", "slow"}, {"name", "a.b-c_1"},
        {"place", "/a b/c"}, {"text", ""},     {"stop", "one"},
        {"stop", "two"},     {"count", "007"}};
    for (size_t i = 0; i < array_count(pairs); i++) {
        struct error error = {0};
        if (set(&t, pairs[i][0], pairs[i][1], &error) != STATUS_OK)
            fail_msg("%s %s: %s", pairs[i][0], pairs[i][1], error.text);
    }
    assert_false(t.flag);
    assert_int_equal(t.count, 7);
    assert_int_equal(t.big, UINT64_MAX);
    assert_int_equal(t.wait_ns, 1000 * NS_PER_MS);
    assert_int_equal(t.limit_ns, 2500 * NS_PER_MS);
    assert_true(t.heat == 0.25);
    assert_int_equal(t.color, RED);
    assert_string_equal(t.word, "slow");
    assert_string_equal(t.name, "a.b-c_1");
    assert_string_equal(t.place, "/a b/c");
    assert_string_equal(t.text, "");
    assert_int_equal(t.stops.count, 2);
    assert_string_equal(t.stops.items[1], "two");
}

static void refuses_bad_values(void **state)
{
    static const char *const cases[][3] = {
        {"flag", "yes", "flag: expected true or false, got \"yes\""},
        {"flag", "", "flag is empty: expected true or false"},
        {"count", "0", "count: expected a whole number from 1 to 90 (percent), got \"0\""},
        {"count", "91", "got \"91\""},
        {"count", "-1", "got \"-1\""},
        {"count", "+1", "got \"+1\""},
        {"count", " 1", "got \" 1\""},
        {"count", "1 ", "got \"1 \""},
        {"count", "0x10", "got \"0x10\""},
        {"count", "1.0", "got \"1.0\""},
        {"count", "1e1", "got \"1e1\""},
        {"count", "18446744073709551617", "from 1 to 90"},
        {"count", "", "count is empty"},
        {"big", "18446744073709551616", "from 0 to 18446744073709551615"},
        {"big", "99999999999999999999999999999999999999", "got"},
        {"wait_ms", "1001", "from 0 to 1000 (ms)"},
        {"limit", "0", "a number from 0.001 to 60"},
        {"limit", "60.1", "got \"60.1\""},
        {"limit", "2s", "got \"2s\""},
        {"heat", "nan", "a number from 0 to 100"},
        {"heat", "inf", "got \"inf\""},
        {"heat", "-0.5", "got \"-0.5\""},
        {"heat", "1e400", "got \"1e400\""},
        {"heat", "0x1p4", "got \"0x1p4\""},
        {"heat", ".", "got \".\""},
        {"heat", "1,5", "got \"1,5\""},
        {"color", "green", "expected red or blue, got \"green\""},
        {"color", "Red", "got \"Red\""},
        {"word", "", "word is empty: expected fast or slow"},
        {"word", "slower", "got \"slower\""},
        {"name", "", "name is empty"},
        {"name", "Demo", "begins with a letter or digit, got \"Demo\""},
        {"name", "-x", "got \"-x\""},
        {"name", "a/b", "got \"a/b\""},
        {"name", "eightbit", "expected at most 7 bytes, got 8"},
        {"place", "", "place is empty: expected a path"},
        {"place", "/1234567", "expected at most 7 bytes, got 8"},
        {"models", "x", "models: expected a list"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        struct target before = {.count = 3, .name = "old"}, t;
        struct error error = {0};
        memcpy(&t, &before, sizeof t);
        assert_int_equal(set(&t, cases[i][0], cases[i][1], &error), STATUS_INVALID);
        if (!strstr(error.text, cases[i][2]))
            fail_msg("%s \"%s\": %s", cases[i][0], cases[i][1], error.text);
        assert_memory_equal(&t, &before, sizeof t);
    }
}

static void caps_repeated_texts(void **state)
{
    struct target t = {0};
    struct error error = {0};
    for (int i = 0; i < OPTION_TEXTS_MAX; i++)
        assert_int_equal(set(&t, "stop", "x", &error), STATUS_OK);
    assert_int_equal(set(&t, "stop", "x", &error), STATUS_INVALID);
    assert_string_equal(error.text, "stop: expected at most 16 of them");
    assert_int_equal(t.stops.count, OPTION_TEXTS_MAX);
}

static void cuts_long_quotes(void **state)
{
    struct target t = {0};
    struct error error = {0};
    char value[2000];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    assert_int_equal(set(&t, "count", value, &error), STATUS_INVALID);
    assert_true(strlen(error.text) < 160);
    assert_non_null(strstr(error.text, "xxx...\""));
}

static void names_the_nearest(void **state)
{
    static const char *const words_known[] = {"status", "models", "generate", "tokenize"};
    static const char *const cases[][2] = {
        {"stauts", "status"},
        {"statu", "status"},
        {"STATUS", "status"},
        {"model", "models"},
        {"generte", "generate"},
        {"tokenise", "tokenize"},
        {"zzz", NULL},
        {"", NULL},
        {"completely different", NULL},
    };
    char huge[5000];
    memset(huge, 's', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    for (size_t i = 0; i < array_count(cases); i++) {
        const char *near = word_nearest(words_known, array_count(words_known), cases[i][0]);
        if (cases[i][1] ? !near || strcmp(near, cases[i][1]) != 0 : near != NULL)
            fail_msg("%s: %s", cases[i][0], near ? near : "none");
    }
    assert_null(word_nearest(words_known, array_count(words_known), huge));
    assert_string_equal(option_nearest(rows, array_count(rows), "colour"), "color");
    assert_null(option_nearest(rows, array_count(rows), "kernel"));
    assert_null(option_find(rows, array_count(rows), "colour"));
}

static char *printed(void (*print)(FILE *))
{
    char *text = NULL;
    size_t size_bytes;
    FILE *out = open_memstream(&text, &size_bytes);
    assert_non_null(out);
    print(out);
    fclose(out);
    return text;
}

static void print_help(FILE *out)
{
    option_print_help(out, rows, array_count(rows));
}

static void print_yaml(FILE *out)
{
    option_print_yaml(out, rows, array_count(rows), 2);
}

static void print_markdown(FILE *out)
{
    option_print_markdown(out, rows, array_count(rows));
}

static void prints_rows(void **state)
{
    char *help = printed(print_help), *yaml = printed(print_yaml), *page = printed(print_markdown);
    assert_non_null(strstr(help, "\n  -c, --count N"));
    assert_non_null(strstr(help, "A count. Expects a whole number from 1 to 90 (percent). "
                                 "Default: 5.\n"));
    assert_non_null(strstr(yaml, "  # A count. Expects a whole number from 1 to 90 (percent). "
                                 "Default: 5.\n  # count: 5\n"));
    assert_non_null(strstr(yaml, "Required.\n  name: demo\n"));
    assert_non_null(strstr(yaml, "Default: here.\n  # place: /x\n"));
    assert_non_null(strstr(page, "| `color` | red or blue | `blue` | A color. |\n"));
    for (const char *line = help; *line; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 100);
    free(help);
    free(yaml);
    free(page);
}

static void finds_runtime_directories(void **state)
{
    char path[RUNTIME_DIR_MAX_BYTES];
    struct runtime_dirs dirs;
    setenv("RUNTIME_DIRECTORY", "/run/one:/run/two", 1);
    setenv("XDG_RUNTIME_DIR", "relative", 1);
    runtime_dir_default(path);
    assert_string_equal(path, "/run/one");
    runtime_dirs_find(&dirs);
    assert_int_equal(dirs.count, 3); /* the relative one is passed over */
    assert_string_equal(dirs.paths[1], "/run/galerne");
    unsetenv("RUNTIME_DIRECTORY");
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    runtime_dirs_find(&dirs);
    assert_int_equal(dirs.count, 3);
    assert_string_equal(dirs.paths[0], "/run/galerne");
    assert_string_equal(dirs.paths[1], "/run/user/7/galerne");
    char longest[2 * RUNTIME_DIR_MAX_BYTES];
    memset(longest, '/', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    setenv("RUNTIME_DIRECTORY", longest, 1);
    runtime_dirs_find(&dirs);
    assert_string_equal(dirs.paths[0], "/run/galerne");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_defaults),      cmocka_unit_test(sets_good_values),
        cmocka_unit_test(refuses_bad_values), cmocka_unit_test(caps_repeated_texts),
        cmocka_unit_test(cuts_long_quotes),   cmocka_unit_test(names_the_nearest),
        cmocka_unit_test(prints_rows),        cmocka_unit_test(finds_runtime_directories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
