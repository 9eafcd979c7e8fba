/*
 * inherited: listening sockets that a service manager hands over (socket activation).
 *
 * The manager binds and listens before the program runs, and passes the descriptors with their
 * names in LISTEN_FDS and LISTEN_FDNAMES. So a client may connect at any time, also while the
 * program restarts: it waits in the socket's backlog. Their paths, modes and owners are the
 * manager's: nothing here binds, changes or unlinks anything.
 *
 *     inherited_read  once, at the start of main, before threads: takes note and clears the
 *                     environment, so that no child believes that the descriptors are its own
 *     inherited_take  one of them by name; the caller owns it from then on
 *     inherited_left  the name of one that nobody took: a client there would wait for ever
 *
 * What was read is one list for the process, as the environment is. Main thread only.
 */
#pragma once

#include "base/status.h"

#define INHERITED_MAX 16
#define INHERITED_PATH_MAX_BYTES 107 /* sun_path without its NUL */

/* INVALID: more than INHERITED_MAX, or the environment says what is not so. */
enum status inherited_read(struct error *error);

/*
 * The unix socket called `name`: *ret_fd (non-blocking, close-on-exec) and its path; *ret_fd is -1
 * when there is none of that name. INVALID when it is no listening unix socket of `type`
 * (SOCK_STREAM, SOCK_SEQPACKET).
 */
enum status inherited_take(const char *name, int type, int *ret_fd,
                           char ret_path[INHERITED_PATH_MAX_BYTES + 1], struct error *error);

/* NULL when all were taken. */
const char *inherited_left(void);
