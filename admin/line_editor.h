/*
 * line_editor: lines that a person types, or that come out of a pipe.
 *
 * Where standard input and output are terminals, a line is edited with libedit, whose only user is
 * this file: arrows, history (in memory, of this process), search with Ctrl-R, what ~/.editrc says.
 * Ctrl-C gives the line up, Ctrl-D on an empty line is the end. The terminal is put back before
 * every return, before the process is stopped (Ctrl-Z) and before a signal ends it; a new size is
 * taken over while a line is edited. Elsewhere lines are read as they are, without a prompt.
 *
 * One thread. SIGINT is main's: it is seen by command_interrupted, which is 0 again after
 * LINE_INTERRUPTED.
 */
#pragma once

#include "base/types.h"

#define LINE_MAX_BYTES (16u * 1024 * 1024)

enum line_outcome {
    LINE_READ,
    LINE_END,         /* end of input, or Ctrl-D */
    LINE_INTERRUPTED, /* Ctrl-C */
    LINE_UNUSABLE, /* a zero byte in it, or more than LINE_MAX_BYTES; the next line can be read */
};

struct line_editor;

struct line_editor *line_editor_open(void);        /* never NULL */
void line_editor_close(struct line_editor *lines); /* NULL is allowed */

/* True on terminals: there is somebody to talk to. */
bool line_editor_is_interactive(const struct line_editor *lines);

/* The next line without its end, which the caller frees; untouched but for LINE_READ. `prompt` is
 * a constant. */
enum line_outcome line_editor_read(struct line_editor *lines, const char *prompt, char **ret_line);
