#include "admin/arguments.h"

#include <getopt.h>

#define ROW_BASE 1000 /* getopt's value of the first row; letters lie below */

struct tables {
    const struct argument_set *sets;
    size_t n_sets;
    struct option longs[ARGUMENT_ROWS_MAX + 1];
    char letters[2 * ARGUMENT_ROWS_MAX + 3];
};

static bool row_takes_value(const struct option_row *row)
{
    return row->type != OPTION_BOOL;
}

/* getopt's view of the rows. The leading '+' stops at the first word, ':' tells missing values. */
static void tables_make(struct tables *t, bool stop_early)
{
    size_t n = 0, used = 0;
    if (stop_early)
        t->letters[used++] = '+';
    t->letters[used++] = ':';
    for (size_t s = 0; s < t->n_sets; s++)
        for (size_t i = 0; i < t->sets[s].n_rows; i++) {
            const struct option_row *row = &t->sets[s].rows[i];
            CHECK(n < ARGUMENT_ROWS_MAX);
            t->longs[n] = (struct option){
                .name = row->name,
                .has_arg = row_takes_value(row) ? required_argument : no_argument,
                .val = ROW_BASE + (int)n,
            };
            n++;
            if (!row->letter)
                continue;
            t->letters[used++] = row->letter;
            if (row_takes_value(row))
                t->letters[used++] = ':';
        }
    t->letters[used] = '\0';
}

/* The row of what getopt_long returned. */
static const struct option_row *row_of(const struct tables *t, int value, size_t *ret_set)
{
    int number = value - ROW_BASE;
    for (size_t s = 0; s < t->n_sets; s++) {
        for (size_t i = 0; i < t->sets[s].n_rows; i++, number--) {
            const struct option_row *row = &t->sets[s].rows[i];
            if (value >= ROW_BASE ? number == 0 : row->letter == value) {
                *ret_set = s;
                return row;
            }
        }
    }
    return NULL;
}

static enum status fail_unknown(const struct tables *t, const char *word, int letter,
                                struct error *error)
{
    const char *names[ARGUMENT_ROWS_MAX];
    size_t n = 0;
    if (letter && letter < ROW_BASE)
        return error_set(error, STATUS_INVALID, "there is no option -%c", letter);
    for (; t->longs[n].name; n++)
        names[n] = t->longs[n].name;
    char name[80];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    uint32_t begins = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0)
            return error_set(error, STATUS_INVALID, "--%s takes no value", name);
        begins += strncmp(names[i], name, strlen(name)) == 0;
    }
    if (begins > 1)
        return error_set(error, STATUS_INVALID, "--%s could be several options: write it out",
                         name);
    const char *near = word_nearest(names, n, name);
    if (near)
        return error_set(error, STATUS_INVALID, "there is no option --%s: did you mean --%s?", name,
                         near);
    return error_set(error, STATUS_INVALID, "there is no option --%s", name);
}

static enum status value_take(const struct tables *t, int value, struct error *error)
{
    size_t s = 0;
    const struct option_row *row = row_of(t, value, &s);
    struct error why;
    CHECK(row != NULL);
    const char *text = row_takes_value(row) ? optarg : "true";
    if (option_set(row, t->sets[s].target, text, &why) != STATUS_OK)
        return error_set(error, STATUS_INVALID, "--%s", why.text);
    if (t->sets[s].given)
        t->sets[s].given[row - t->sets[s].rows] = true;
    return STATUS_OK;
}

enum status arguments_parse(const struct argument_line *line, const struct argument_set *sets,
                            size_t n_sets, int *ret_first, struct error *error)
{
    struct tables t = {.sets = sets, .n_sets = n_sets};
    CHECK(n_sets <= ARGUMENT_SETS_MAX);
    tables_make(&t, line->stop_early);
    opterr = 0;
    optind = 0; /* begin anew, also with another order of words */
    for (;;) {
        int value = getopt_long(line->argc, line->argv, t.letters, t.longs, NULL);
        if (value == -1)
            break;
        const char *word = line->argv[optind - 1]; /* what it has just read */
        if (value == ':')
            return error_set(error, STATUS_INVALID, "%s needs a value", word);
        enum status status =
            value == '?' ? fail_unknown(&t, word, optopt, error) : value_take(&t, value, error);
        if (status != STATUS_OK)
            return status;
    }
    *ret_first = optind;
    return STATUS_OK;
}
