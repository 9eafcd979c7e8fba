/*
 * server_open: a client of the daemon that a command talks to, over its socket or over TCP.
 *
 * Without --server it is a unix socket (admin/socket_find.h). With it, TLS with the three files of
 * --tls-ca, --tls-cert and --tls-key, all of them needed; operators' methods are not served there.
 * One thread.
 */
#pragma once

#include "admin/command.h"

/* A client, or NULL with *ret_code: why not has been told on standard error. */
struct client *server_open(const struct common *common, bool is_admin, int *ret_code);
