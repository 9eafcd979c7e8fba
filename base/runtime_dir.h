/*
 * runtime_dir: where the sockets lie when nobody says so.
 *
 * The daemon makes its sockets in one directory, and galernectl looks for them; both ask here, so
 * that they agree. In order: $RUNTIME_DIRECTORY (the service manager's), /run/galerne,
 * $XDG_RUNTIME_DIR/galerne, /tmp/galerne-UID. Reads the environment: before threads start.
 */
#pragma once

#include "base/types.h"

#define RUNTIME_DIRS_MAX 4
#define RUNTIME_DIR_MAX_BYTES 256 /* longer ones do not fit a socket's address anyway */

struct runtime_dirs {
    char paths[RUNTIME_DIRS_MAX][RUNTIME_DIR_MAX_BYTES]; /* [count], best first */
    uint32_t count;                                      /* at least 1 */
};

/* Where a daemon of this user would serve: the first that it may make. */
void runtime_dir_default(char ret_path[RUNTIME_DIR_MAX_BYTES]);

/* Where a client of this user looks. */
void runtime_dirs_find(struct runtime_dirs *ret_dirs);
