/*
 * output: what a person or a program reads.
 *
 * Data goes to standard output, talk to standard error. Text of foreign origin (a model's answer, a
 * daemon's message) is passed to a terminal only with its control characters written out, so that
 * it cannot move the cursor, change the title or hide itself; into a pipe or a file it goes as it
 * is. Colour only on a terminal, and not with --no-color, NO_COLOR or TERM=dumb. One thread.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

/* Asks standard output what it is. Before anything else here. */
void output_open(bool no_color);
bool output_is_terminal(void);

/* Writes text to standard output. False when it cannot be written (a full disk). */
bool output_text(struct span text);

/* The same text as one word of a table or message: always written out, also line feeds. The caller
 * frees it. */
char *output_escape(struct span text);

/* One line of JSON, or several (`pretty`). */
bool output_json(const json_t *value, bool pretty);

struct table;
enum tone { TONE_PLAIN = 0, TONE_GOOD, TONE_CARE, TONE_BAD };

struct table_column {
    const char *title;
    bool is_number; /* to the right */
};

struct table *table_new(const struct table_column *columns, size_t n_columns);
/* A new line; cells are set from left to right. */
void table_line(struct table *table);
void table_cell(struct table *table, enum tone tone, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void table_print(const struct table *table);
void table_free(struct table *table); /* NULL is allowed */

/* "24.1 MiB" into ret_text[capacity]. */
void bytes_text(uint64_t bytes, char *ret_text, size_t capacity);
/* "2 d 3 h", "4 min 5 s". */
void duration_text(uint64_t ms, char *ret_text, size_t capacity);
