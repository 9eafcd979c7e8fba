/*
 * option: one table for everything that a person may set.
 *
 * A table is a constant array of `struct option_row`; each row says name, type, unit, range,
 * default and one or two sentences. The same rows set values from text (of a configuration file or
 * of a command line), phrase the errors, name the nearest row when a name is misspelt, and print
 * the help text, the commented sample file and the page of the manual. Values go into plain
 * structs, at the offset that the row names; the row's type says what must lie there.
 *
 * No state, no allocation: tables are constant and targets belong to the caller. Any thread.
 */
#pragma once

#include "base/status.h"

enum option_type {
    OPTION_BOOL,    /* bool: true or false; on a command line the name alone means true */
    OPTION_U32,     /* uint32_t: a whole number in decimal, min..max */
    OPTION_U64,     /* uint64_t: likewise */
    OPTION_MS,      /* uint64_t of nanoseconds: a whole number of milliseconds, min..max of them */
    OPTION_SECONDS, /* uint64_t of nanoseconds: seconds, "2.5"; real_min..real_max of them */
    OPTION_REAL,    /* double: a finite number, real_min..real_max */
    OPTION_CHOICE,  /* uint32_t (or an enum): the value of one of `choices` */
    OPTION_WORD,    /* char[size_bytes]: the name of one of `choices` */
    OPTION_NAME,    /* char[size_bytes]: [a-z0-9][a-z0-9._-]* */
    OPTION_STRING,  /* char[size_bytes]: any text that fits, not empty */
    OPTION_PATH,    /* char[size_bytes]: a path, not empty */
    OPTION_TEXT,    /* const char *: any text, borrowed: it must outlive the target */
    OPTION_TEXTS,   /* struct option_texts: the same, once or more; at most OPTION_TEXTS_MAX */
    OPTION_SECTION, /* nothing: a name that whoever reads the table handles itself */
};

#define OPTION_TEXTS_MAX 16

struct option_texts {
    const char *items[OPTION_TEXTS_MAX]; /* [count], borrowed */
    uint32_t count;
};

struct option_choice {
    const char *name; /* NULL ends the list */
    uint32_t value;
};

struct option_row {
    const char *name;
    enum option_type type;
    char letter;               /* on a command line also -X; 0 none */
    bool required;             /* whoever reads the table says when it is missing */
    const char *value;         /* what the help calls the value: "N", "FILE" */
    const char *unit;          /* "tokens", "ms"; NULL none */
    const char *text;          /* one or two sentences, without the default and the range */
    const char *fallback;      /* the default as it would be written; NULL: option_defaults skips */
    const char *fallback_text; /* how a default that is worked out is described; NULL: as written */
    const char *example;       /* for the sample file, where there is no default to show */
    uint64_t min, max;         /* both allowed */
    double real_min, real_max; /* both allowed */
    const struct option_choice *choices;
    size_t offset;     /* of the value in the target */
    size_t size_bytes; /* of the value */
};

/* Says where the value lies: {"port", OPTION_U32, OPTION_AT(struct config, port), ...}. */
#define OPTION_AT(type, member)                                                                    \
    .offset = offsetof(type, member), .size_bytes = sizeof(((type *)0)->member)

/* Sets one value of `target`. INVALID: the error says what was expected and what was met. */
enum status option_set(const struct option_row *row, void *target, const char *value,
                       struct error *error);

/* Sets every value that has a fallback. A fallback that its own row refuses is a broken table. */
void option_defaults(const struct option_row *rows, size_t n_rows, void *target);

/* NULL when no row has that name. */
const struct option_row *option_find(const struct option_row *rows, size_t n_rows,
                                     const char *name);

/* The row's name that is most like `name`; NULL when none is near enough to be meant. */
const char *option_nearest(const struct option_row *rows, size_t n_rows, const char *name);

/* The same among words. */
const char *word_nearest(const char *const words[], size_t n_words, const char *word);

/* "a whole number from 1 to 90 (percent)": what the row accepts, into ret_text[capacity]. */
void option_expected(const struct option_row *row, char *ret_text, size_t capacity);

/* The rows of a command's --help, wrapped. */
void option_print_help(FILE *out, const struct option_row *rows, size_t n_rows);

/* The rows as a commented YAML mapping, every default written out behind '#', `indent` spaces in.
 */
void option_print_yaml(FILE *out, const struct option_row *rows, size_t n_rows, uint32_t indent);

/* The rows as a Markdown table. */
void option_print_markdown(FILE *out, const struct option_row *rows, size_t n_rows);
