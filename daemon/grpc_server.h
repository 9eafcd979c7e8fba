/*
 * grpc_server: the one door to the gRPC library. Behind it are grpc_server.c, grpc_call.c and
 * grpc_tls.c; no other file of the daemon includes the library's headers.
 *
 * Names start with rpc_ because the library owns grpc_. Parts:
 *
 *     struct rpc         the library, its queues, and a table of callbacks into the layer above
 *     struct rpc_queue   a completion queue and the one thread that turns it
 *     struct rpc_server  what one role of socket offers: which services, over which connections
 *     struct rpc_call    one call, from its headers to its status
 *
 * Threads. A call belongs to the queue that accepted it, and everything of it happens on that
 * queue's thread: every callback, and every function here that takes a call. So calls need no lock.
 * Any thread may use rpc_queue_wake, rpc_server_connect, rpc_server_drain and rpc_calls_count.
 *
 * A call's life, as the layer above sees it:
 *
 *     accepted    headers are here, the body is not: look at the call's fields, then either
 *                 rpc_call_read (wait for a message) or rpc_call_finish (refuse)
 *     received    one message, or none because the client closed or broke the stream
 *     sent        the message given to rpc_call_send is on its way: another may be sent
 *     closed      the stream is over before we ended it: client cancelled, its deadline passed,
 *                 its connection broke, it read nothing for too long
 *     rpc_call_release   the layer above is done with the call: no more callbacks; its memory goes
 *                 when the library has given back what is in flight
 *
 * One send is in flight at most. A message that is not read by the client in stall_timeout_ns ends
 * the call, also the last one. A client that opens a call and sends no message within
 * RPC_MESSAGE_TIMEOUT_NS is refused with DEADLINE_EXCEEDED.
 *
 * Limits that the library itself enforces: size of a message (RESOURCE_EXHAUSTED), no compression
 * (UNIMPLEMENTED), size of the headers, streams of a connection, deadline of a call.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/clock.h"
#include "base/status.h"
#include "proto/service_table.h"

#define RPC_MESSAGE_TIMEOUT_NS (10 * NS_PER_S)
#define RPC_TICK_NS (100 * NS_PER_MS)

struct rpc;
struct rpc_queue;
struct rpc_server;
struct tls_files;

/* The codes of gRPC, by their public numbers. */
enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
};

/* How a call ends. Both texts are copied. */
struct rpc_ending {
    enum rpc_code code;
    const char *message; /* UTF-8 */
    struct span details; /* packed google.rpc.Status, or empty */
};

/* The layer above sees these fields; the rest of the call is private to grpc_server.c. */
struct rpc_call {
    struct rpc_queue *queue;
    struct rpc_server *server;
    const struct service_method *method; /* NULL: not one of ours; see `path` */
    char path[96];                       /* of an unknown method, cut; else "" */
    int peer_fd;                         /* of rpc_server_connect; -1: unknown */
    uint64_t deadline_ns;                /* of clock_now_ns; UINT64_MAX: none */
    void *above;                         /* the layer above's own */
    uint64_t note;                       /* the layer above's, see `flushed`; 0 none */
};

struct rpc_callbacks {
    void (*accepted)(struct rpc_call *call);
    /* `present` is false when there is no message any more. The bytes are valid during the call. */
    void (*received)(struct rpc_call *call, struct span message, bool present);
    void (*sent)(struct rpc_call *call);
    void (*closed)(struct rpc_call *call);
    /* About every RPC_TICK_NS, for every call that is not released. */
    void (*ticked)(struct rpc_call *call, uint64_t now_ns);
    /* The last byte of an ended call, its status, was written to the socket. Only for calls with a
     * note, and also after their release. */
    void (*flushed)(struct rpc_queue *queue, uint64_t note);
    /* After rpc_queue_wake. */
    void (*woken)(struct rpc_queue *queue);
};

struct rpc_options {
    uint32_t queues_count;
    uint32_t message_max_bytes;
    uint32_t connection_streams_max;
    uint64_t stall_timeout_ns;
    uint64_t keepalive_time_ns, keepalive_timeout_ns, ping_interval_min_ns;
    uint64_t connection_idle_max_ns, connection_age_max_ns; /* 0: no end */
    uint64_t connection_age_grace_ns;
    uint64_t handshake_timeout_ns;
    const struct rpc_callbacks *callbacks; /* static storage */
    void *const *above;                    /* [queues_count], see rpc_queue_above; outlives */
};

/* Starts the library and its queues; their threads start with rpc_start. */
enum status rpc_open(const struct rpc_options *options, struct rpc **ret_rpc, struct error *error);
/* What the layer above gave for this queue. */
void *rpc_queue_above(const struct rpc_queue *queue);

/* Adds a server; before rpc_start. `offers` says which services it has: called once a method. */
enum status rpc_server_add(struct rpc *rpc, bool (*offers)(const struct service_method *method),
                           struct rpc_server **ret_server, struct error *error);

enum status rpc_start(struct rpc *rpc, struct error *error);

/* A connected, non-blocking stream socket becomes a connection of this server; the descriptor is
 * the library's from here on. Its calls carry its number as `peer_fd`. */
void rpc_server_connect(struct rpc_server *server, int fd);

/* The library itself listens on "ADDRESS:PORT", with TLS and client certificates; before rpc_start.
 * `files` outlives the server. IO: it does not. */
enum status rpc_server_listen(struct rpc_server *server, const char *address,
                              struct tls_files *files, struct error *error);

/* GOAWAY: no new calls on any connection; those that run go on. */
void rpc_server_drain(struct rpc_server *server);
/* Cancels what is left; after rpc_server_drain. */
void rpc_server_cancel(struct rpc_server *server);
/* True when every call and connection of the server is gone; after rpc_server_drain. */
bool rpc_server_is_drained(struct rpc_server *server);

/* Calls that are not released yet, all queues. */
uint32_t rpc_calls_count(struct rpc *rpc);

/* Frees everything. Every server must be drained, no call left, no rpc_queue_wake to come. */
void rpc_close(struct rpc *rpc);

struct rpc_queue *rpc_queue_at(struct rpc *rpc, uint32_t index);
/* Calls `woken` on the queue's thread soon; many wakes may give one call. Any thread; does not
 * wait for anything. */
void rpc_queue_wake(struct rpc_queue *queue);

/* Every queue's thread has turned within the last `limit_ns`. */
bool rpc_is_healthy(struct rpc *rpc, uint64_t now_ns, uint64_t limit_ns);

/* ---- a call; its queue's thread only ---- */

/* What the peer's certificate says, if it has shown one: SPIFFE id, common names, alternative
 * names, in this order, then the certificate itself in PEM. */
enum rpc_peer_kind { RPC_PEER_NAME, RPC_PEER_CERTIFICATE };
typedef void rpc_peer_fn(void *context, enum rpc_peer_kind kind, struct span value);
void rpc_call_peer_each(const struct rpc_call *call, rpc_peer_fn *each, void *context);

/* Waits for one message: `received` follows. One at a time. */
void rpc_call_read(struct rpc_call *call);
bool rpc_call_is_sending(const struct rpc_call *call);
/* Packs and sends; not while one is being sent. `sent` follows, unless the call closes. */
void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message);
/* Ends the call, with a last message if `last` is not NULL (then not while sending). */
void rpc_call_finish(struct rpc_call *call, const ProtobufCMessage *last,
                     const struct rpc_ending *ending);
/* Ends it even if the client does not read. `closed` follows. */
void rpc_call_cancel(struct rpc_call *call, const struct rpc_ending *ending);
void rpc_call_release(struct rpc_call *call);
