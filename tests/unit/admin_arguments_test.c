#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "admin/arguments.h"
#include "admin/output.h"
#include "admin/socket_find.h"

/* ---- arguments ---- */

struct own {
    uint32_t count;
    bool loud, last;
    struct option_texts stops;
};
struct shared {
    const char *socket;
    bool help;
};

static const struct option_row own_rows[] = {
    {"count", OPTION_U32, OPTION_AT(struct own, count), .letter = 'n', .min = 1, .max = 9,
     .text = "."},
    {"loud", OPTION_BOOL, OPTION_AT(struct own, loud), .letter = 'l', .text = "."},
    {"last", OPTION_BOOL, OPTION_AT(struct own, last), .text = "."},
    {"stop", OPTION_TEXTS, OPTION_AT(struct own, stops), .text = "."},
};
static const struct option_row shared_rows[] = {
    {"socket", OPTION_TEXT, OPTION_AT(struct shared, socket), .letter = 's', .text = "."},
    {"help", OPTION_BOOL, OPTION_AT(struct shared, help), .letter = 'h', .text = "."},
};

static struct own own;
static struct shared shared;
static bool given[array_count(own_rows)];
static int first;
static struct error error;
static char *words[32]; /* [count] of the last parse */

static enum status parse(bool stop_early, const char *line)
{
    static char copy[256];
    struct argument_set sets[] = {{shared_rows, array_count(shared_rows), &shared, NULL},
                                  {own_rows, array_count(own_rows), &own, given}};
    int count = 0;
    snprintf(copy, sizeof copy, "galernectl %s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        words[count++] = word;
    words[count] = NULL;
    struct argument_line arguments = {.argc = count, .argv = words, .stop_early = stop_early};
    memset(&own, 0, sizeof own);
    memset(&shared, 0, sizeof shared);
    memset(given, 0, sizeof given);
    return arguments_parse(&arguments, sets, array_count(sets), &first, &error);
}

static void reads_options(void **state)
{
    assert_int_equal(parse(false, "a -n 3 --loud b --stop x --stop=y -s /p c"), STATUS_OK);
    assert_int_equal(own.count, 3);
    assert_true(own.loud && !own.last && given[0] && given[1] && !given[2]);
    assert_int_equal(own.stops.count, 2);
    assert_string_equal(own.stops.items[1], "y");
    assert_string_equal(shared.socket, "/p");
    assert_string_equal(words[first], "a"); /* words move to the end, in their order */
    assert_string_equal(words[first + 2], "c");

    assert_int_equal(parse(false, "-ln3 --lo -- -n -h"), STATUS_OK);
    assert_true(own.count == 3 && own.loud && !shared.help);
    assert_string_equal(words[first], "-n");
    assert_int_equal(parse(true, "-h status -n x"), STATUS_OK);
    assert_true(shared.help);
    assert_string_equal(words[first], "status");
    assert_int_equal(parse(false, "-"), STATUS_OK);
    assert_string_equal(words[first], "-");
}

static void names_each_slip(void **state)
{
    static const char *const cases[][2] = {
        {"--cuont 3", "there is no option --cuont: did you mean --count?"},
        {"a --zzzzzz b", "there is no option --zzzzzz"},
        {"--cuont=3", "there is no option --cuont: did you mean --count?"},
        {"-x", "there is no option -x"},
        {"-lx", "there is no option -x"},
        {"--l", "--l could be several options: write it out"},
        {"--loud=yes", "--loud takes no value"},
        {"--count", "--count needs a value"},
        {"a -n", "-n needs a value"},
        {"-n 10", "--count: expected a whole number from 1 to 9, got \"10\""},
        {"--count=", "--count is empty: expected a whole number from 1 to 9"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        assert_int_equal(parse(false, cases[i][0]), STATUS_INVALID);
        assert_string_equal(error.text, cases[i][1]);
    }
}

/* ---- text of foreign origin ---- */

static void escapes_what_a_terminal_obeys(void **state)
{
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"a\nb\tc", "a\\x0ab\\x09c"},
        {"\x1b]0;title\x07", "\\x1b]0;title\\x07"},
        {"\x7f", "\\x7f"},
        {"\xc2\x9b"
         "31m",
         "\\u009b31m"},
        {"caf\xc3\xa9 \xf0\x9f\x99\x82", "caf\xc3\xa9 \xf0\x9f\x99\x82"},
        {"\xe2\x80\xae"
         "abc",
         "\\u202eabc"},
        {"\xe2\x81\xa6", "\\u2066"},
        {"\xff\xc3", "\\xff\\xc3"},
        {"\xc0\xaf", "\\xc0\\xaf"},
        {"\xed\x20", "\\xed "},
        {"", ""},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        char *word = output_escape(span_of(cases[i][0]));
        assert_string_equal(word, cases[i][1]);
        free(word);
    }
    char *word = output_escape((struct span){"a\0b", 3});
    assert_string_equal(word, "a\\x00b");
    free(word);
}

static void writes_sizes_and_times(void **state)
{
    char text[32];
    bytes_text(1023, text, sizeof text);
    assert_string_equal(text, "1023 B");
    bytes_text(1536, text, sizeof text);
    assert_string_equal(text, "1.5 KiB");
    bytes_text(UINT64_MAX, text, sizeof text);
    assert_string_equal(text, "16777216.0 TiB");
    duration_text(59999, text, sizeof text);
    assert_string_equal(text, "59 s");
    duration_text(3600000 + 120000, text, sizeof text);
    assert_string_equal(text, "1 h 2 min");
    duration_text(90061000, text, sizeof text);
    assert_string_equal(text, "1 d 1 h");
}

/* ---- which socket ---- */

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

static void finds_the_socket(void **state)
{
    char directory[] = "/tmp/galerne-sockets-XXXXXX", path[64], found[SOCKET_PATH_MAX_BYTES];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/%s", directory, SOCKET_ADMIN);
    unsetenv("GALERNE_SOCKET");
    setenv("RUNTIME_DIRECTORY", directory, 1);

    assert_int_equal(socket_find(path, SOCKET_ADMIN, found, &error), STATUS_UNAVAILABLE);
    assert_non_null(strstr(error.text, "there is no socket"));
    int fd = listen_at(path);
    assert_int_equal(socket_find(path, SOCKET_ADMIN, found, &error), STATUS_OK);
    assert_string_equal(found, path);
    assert_int_equal(socket_find(directory, SOCKET_ADMIN, found, &error), STATUS_OK);
    assert_string_equal(found, path);
    assert_int_equal(socket_find(NULL, SOCKET_ADMIN, found, &error), STATUS_OK); /* by itself */
    assert_string_equal(found, path);
    setenv("GALERNE_SOCKET", "/nonexistent/x.sock", 1); /* a name is not passed over */
    assert_int_equal(socket_find(NULL, SOCKET_ADMIN, found, &error), STATUS_UNAVAILABLE);
    assert_non_null(strstr(error.text, "/nonexistent/x.sock"));
    unsetenv("GALERNE_SOCKET");

    close(fd); /* what a dead daemon leaves */
    assert_int_equal(socket_find(path, SOCKET_ADMIN, found, &error), STATUS_UNAVAILABLE);
    assert_non_null(strstr(error.text, "nobody listens"));
    char longest[400];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(socket_find(longest, SOCKET_ADMIN, found, &error), STATUS_INVALID);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_options),
        cmocka_unit_test(names_each_slip),
        cmocka_unit_test(escapes_what_a_terminal_obeys),
        cmocka_unit_test(writes_sizes_and_times),
        cmocka_unit_test(finds_the_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
