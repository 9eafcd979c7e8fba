/*
 * grpc_listener: the gRPC listener's own state, shared by its files.
 *
 *     grpc_listener.c    opens, starts, drains and closes it (listener.h)
 *     grpc_accept.c      takes connections and knows who they are
 *     grpc_server.c, grpc_call.c, grpc_tls.c  the library's queues, calls and credentials
 *     grpc_identity.c    who a client over TCP is
 *     grpc_calls.c       a call from its first byte to its last; which method is handled by whom
 *     grpc_generate.c, grpc_inference.c, grpc_admin.c, grpc_health.c, grpc_reflection.c  methods
 *
 * Each completion queue has a lane: its thread is the one listener thread of the lane's outlet, so
 * what belongs to a call is touched by one thread only. The rest is read-only after start, save the
 * atomics.
 */
#pragma once

#include <stdatomic.h>

#include "daemon/front.h"
#include "daemon/grpc_accept.h"
#include "daemon/grpc_peers.h"
#include "daemon/grpc_server.h"
#include "daemon/listener.h"
#include "daemon/tcp_socket.h"
#include "daemon/tls_files.h"
#include "daemon/unix_socket.h"

/* Calls beyond the generate requests that may be open: health, status, tokenizing. */
#define CALLS_EXTRA_MAX 512

/* What unpacked messages may hold all together, in messages of the largest size. */
#define MEMORY_MESSAGES_MAX 64

/* The two unix sockets, then what has none: TCP, which offers what the public socket does. */
enum grpc_role { GRPC_PUBLIC = 0, GRPC_OPERATOR, GRPC_SOCKETS_COUNT, GRPC_TCP = GRPC_SOCKETS_COUNT,
                 GRPC_ROLES_COUNT };

struct grpc_lane {
    struct listener *listener;
    struct outlet outlet;
    bool outlet_open;
    struct walker walker;
    uint64_t warned_ns; /* of clients that are refused */
};

struct listener {
    struct front *front;
    int claim_fd; /* of the runtime directory */
    struct unix_socket sockets[GRPC_SOCKETS_COUNT];
    struct tcp_addresses addresses; /* none: no TCP, and the next two are unused */
    struct tls_files *tls;
    struct tcp_guard guard;
    uint64_t turned_ns;
    struct grpc_peers *peers;
    struct rpc *rpc;
    struct rpc_server *servers[GRPC_ROLES_COUNT]; /* TCP: NULL without addresses */
    struct grpc_accept *accept;
    bool started, drained;
    bool activated; /* the public socket was there before us: calls wait until a model serves */
    _Atomic size_t memory_bytes; /* of unpacked messages, all calls */
    uint32_t name_salt;          /* makes request names of this process its own */
    void *aboves[16];            /* [n_lanes] of struct grpc_lane */
    uint32_t n_lanes;
    struct grpc_lane lanes[16]; /* [n_lanes] */
};
