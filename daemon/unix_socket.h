/*
 * unix_socket: the daemon's listening sockets in its runtime directory.
 *
 *     runtime_claim        makes the directory if it is absent and locks it: one daemon in each
 *     unix_socket_open     binds and listens, refusing a live socket, replacing a stale one
 *     unix_socket_inherit  takes one that the service manager made (inherited.h)
 *     unix_socket_accept   one connection and who is at its other end
 *     unix_socket_close    removes the path, if we made it and it is still ours
 *
 * A socket is bound with mode 0600 from its first moment and opened to its group afterwards, so
 * there is no window in which a stranger could connect. The lock is an flock of the directory; it
 * ends with the process, whatever way that ends. Owned by the thread that opened them, except
 * unix_socket_accept (the accept thread). Descriptors are close-on-exec.
 */
#pragma once

#include <sys/types.h>

#include "base/status.h"

#define UNIX_SOCKET_PATH_MAX_BYTES 107 /* sun_path without its NUL */

struct unix_socket {
    int fd;       /* -1 when closed; non-blocking, listening */
    bool unlinks; /* we bound it, so we remove it */
    dev_t device; /* of the path when we had bound it */
    ino_t inode;
    char path[UNIX_SOCKET_PATH_MAX_BYTES + 1];
};

/* *ret_fd holds the claim until it is closed. EXISTS (another daemon, with its pid where that can
 * be found), IO, INVALID (no directory). */
enum status runtime_claim(const char *directory, int *ret_fd, struct error *error);

/* Listens on DIRECTORY/NAME with `mode`; a `group` that is not "" and exists gets the socket.
 * INVALID (path too long), EXISTS (somebody listens there), DENIED (not ours to replace), IO. */
enum status unix_socket_open(const char *directory, const char *name, mode_t mode,
                             const char *group, struct unix_socket *ret_socket,
                             struct error *error);

/* Takes the service manager's socket of that name; ret_socket->fd is -1 when there is none.
 * INVALID: it is no listening stream socket. */
enum status unix_socket_inherit(const char *name, struct unix_socket *ret_socket,
                                struct error *error);

/* Who connected. */
struct unix_peer {
    uint32_t uid; /* UINT32_MAX: unknown */
    int32_t pid;
};

/* A connected descriptor (non-blocking, close-on-exec), or -1 with errno. */
int unix_socket_accept(const struct unix_socket *socket, struct unix_peer *ret_peer);

void unix_socket_close(struct unix_socket *socket);
