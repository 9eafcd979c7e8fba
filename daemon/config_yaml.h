/*
 * config_yaml: libyaml's events read as mappings over option tables, with a place for every error.
 *
 * A reader walks the events of one text, one at a time. A section is one mapping over one table:
 * each key's row says what its value must be and where it goes. Rows of type OPTION_SECTION are the
 * business of whoever reads the section (`nested`). Anchors, aliases and tags are refused; so are
 * unknown keys (with the nearest known one), keys that stand twice, and required ones that are
 * missing. Every error says NAME:LINE:COLUMN.
 *
 * Functions that take a reader return STATUS_OK with the reader on the event that the comment says,
 * or an error that is set. One thread.
 */
#pragma once

#include <yaml.h>

#include "base/option.h"

#define YAML_ROWS_MAX 64 /* of one table */

struct yaml_reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; owned */
    bool has_event;
    const char *name; /* of the file */
    struct span text;
    void *above; /* whoever reads */
    struct error *error;
};

/* One mapping over one table. The reader sets what is behind `seen` and `mark`. */
struct yaml_section {
    const struct option_row *rows; /* [n_rows] */
    size_t n_rows;
    void *target;
    const char *title; /* for errors: "the file", "an entry of models" */
    /* The current event is the value of `row`, of type OPTION_SECTION; leaves the reader on the
     * value's last event. NULL when the table has no such row. */
    enum status (*nested)(struct yaml_reader *reader, struct yaml_section *section,
                          const struct option_row *row);
    /* "KEY belongs there": more to say about a key that this table lacks; NULL or returns NULL. */
    const char *(*key_hint)(const struct yaml_section *section, const char *key);
    yaml_mark_t mark;                /* where it begins */
    yaml_mark_t seen[YAML_ROWS_MAX]; /* [n_rows], valid where is_seen */
    bool is_seen[YAML_ROWS_MAX];     /* [n_rows] */
};

enum status yaml_fail(struct yaml_reader *reader, yaml_mark_t mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Before the first event. EXHAUSTED when there is no memory. */
enum status yaml_open(struct yaml_reader *reader, const char *name, struct span text,
                      struct error *error);
void yaml_close(struct yaml_reader *reader);

/* Moves on by one event. */
enum status yaml_next(struct yaml_reader *reader);

/* "a list", for errors. */
const char *yaml_event_text(const yaml_event_t *event);
/* A plain scalar that says nothing. */
bool yaml_is_null(const yaml_event_t *event);

/* The current event is the value of `row`, which goes to `target`. */
enum status yaml_value(struct yaml_reader *reader, const struct option_row *row, void *target);

/* The current event begins a mapping; ends on the mapping's end. */
enum status yaml_section(struct yaml_reader *reader, struct yaml_section *section);

/* The whole file is one section. A file of comments alone is an empty one; so is "---". */
enum status yaml_root(struct yaml_reader *reader, struct yaml_section *section);

/* A list of one kind of item. */
struct yaml_list {
    const char *key;
    const char *list_text, *item_text; /* for errors: what the list and each item should be */
    yaml_event_type_t item_type;       /* of an item's first event */
    /* The current event begins an item; ends on the item's last. */
    enum status (*item)(struct yaml_reader *reader, void *context);
    void *context;
};
/* The current event is the value of the list's key; ends on the list's end. */
enum status yaml_items(struct yaml_reader *reader, const struct yaml_list *list);
