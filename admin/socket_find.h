/*
 * socket_find: which socket a command talks to.
 *
 * In order: --socket, $GALERNE_SOCKET, then the runtime directories of base/runtime_dir.h. Each of
 * these may be a directory, which holds galerne.sock (inference) and admin.sock (operator), or a
 * socket. The socket is tried with a connection, so that the error can tell nobody there from not
 * allowed. A directory in /tmp counts only if it is our own. Reads the environment; one thread.
 */
#pragma once

#include "base/status.h"

#define SOCKET_INFERENCE "galerne.sock"
#define SOCKET_ADMIN "admin.sock"
#define SOCKET_PATH_MAX_BYTES 300

/* `named` is --socket or NULL; `name` is one of the two above. UNAVAILABLE: nobody listens; DENIED:
 * somebody does, and we may not. */
enum status socket_find(const char *named, const char *name, char ret_path[SOCKET_PATH_MAX_BYTES],
                        struct error *error);
