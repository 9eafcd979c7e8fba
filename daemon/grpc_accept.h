/*
 * grpc_accept: the thread that takes connections off the listening sockets.
 *
 * The library would accept by itself, but then nobody learns who connected. This thread asks the
 * kernel for the peer, refuses strangers on the operator's socket, bounds the number of
 * connections and backs off when descriptors run out, then gives the descriptor to the library.
 */
#pragma once

#include "base/status.h"

#define ACCEPT_PORTS_MAX 8
#define ACCEPT_CONNECTIONS_MAX 1024

struct grpc_accept;
struct grpc_peers;
struct rpc_server;
struct unix_socket;

struct accept_port {
    const struct unix_socket *socket;
    struct rpc_server *server;
    bool operators_only; /* peers other than root and our own user are turned away */
};

enum status grpc_accept_start(const struct accept_port *ports, uint32_t n_ports,
                              struct grpc_peers *peers, struct grpc_accept **ret_accept,
                              struct error *error);
/* Ends the thread; the sockets stay open and are the caller's. NULL is allowed. */
void grpc_accept_stop(struct grpc_accept *accept);
bool grpc_accept_is_healthy(struct grpc_accept *accept, uint64_t now_ns, uint64_t limit_ns);
