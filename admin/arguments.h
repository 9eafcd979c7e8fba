/*
 * arguments: a command line read by option tables.
 *
 * getopt_long does the walking; the rows (base/option.h) do the rest: names, letters, ranges,
 * errors with the nearest name. Several tables can be read at once, each into a target of its own.
 * Errors go to the caller as text. One thread.
 */
#pragma once

#include "base/option.h"

#define ARGUMENT_SETS_MAX 2
#define ARGUMENT_ROWS_MAX 48 /* of all sets together */

struct argument_set {
    const struct option_row *rows; /* [n_rows]; at most one OPTION_TEXTS value a name */
    size_t n_rows;
    void *target;
    bool *given; /* [n_rows]: set true where the command line names the row; NULL not wanted */
};

struct argument_line {
    int argc;
    char **argv;     /* [argc] */
    bool stop_early; /* at the first word that is no option; else words move to the end */
};

/* Reads argv[1..]. *ret_first is the index of the first word left. INVALID: what is wrong. */
enum status arguments_parse(const struct argument_line *line, const struct argument_set *sets,
                            size_t n_sets, int *ret_first, struct error *error);
