/*
 * grpc_server_private: the inside of grpc_server.h, shared by the files that know the gRPC library.
 *
 *     grpc_server.c  the library, its queues and servers
 *     grpc_call.c    one call: its batches, its limits, its peer
 *     grpc_tls.c     the credentials of the TCP listener
 *
 * Everything here belongs to the queue's thread, save what is atomic.
 */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "daemon/grpc_server.h"

/* The library is not instrumented: what it hands from one thread to another, the thread sanitizer
 * learns from these two. */
#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#endif
#ifdef THREAD_SANITIZER
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define tag_give(tag) __tsan_release(tag)
#define tag_take(tag) __tsan_acquire(tag)
#else
#define tag_give(tag) ((void)(tag))
#define tag_take(tag) ((void)(tag))
#endif

/* What the library gives back when an operation is over. */
struct tag {
    void (*run)(struct tag *tag, bool ok);
    void *owner;
};

/* A standing order for the next call of one method (or of any unknown one) on one queue. */
struct slot {
    struct tag tag;
    struct rpc_server *server;
    struct rpc_queue *queue;
    const struct service_method *method; /* NULL: unknown methods */
    void *registered;
    grpc_call *core;
    grpc_metadata_array metadata;
    gpr_timespec deadline;
    grpc_call_details details; /* of unknown methods */
};

#define RPC_LISTENS_MAX 8

struct rpc_server {
    struct rpc *rpc;
    grpc_server *core;
    uint32_t n_fetched;
    void *fetched[RPC_LISTENS_MAX]; /* [n_fetched] grpc_tls.c's, one a listening address */
    struct tag drained_tag;
    atomic_bool drained;
    uint32_t n_slots;
    struct slot slots[]; /* [queues_count][service_methods_count + 1]; not offered: empty */
};

struct core_call {
    struct rpc_call call; /* first: the layer above holds its address */
    grpc_call *core;
    grpc_metadata_array metadata;
    struct core_call *previous, *next; /* of the queue's list, while not released */
    struct tag close_tag, read_tag, send_tag;
    grpc_byte_buffer *read_buffer, *send_buffer;
    int was_cancelled;
    uint32_t batches; /* in flight */
    bool initial_sent, reading, message_seen, sending, ending, status_sent, cancelling, closed,
        released;
    uint64_t accepted_ns, send_started_ns;
    enum rpc_code code;
    grpc_slice status_text;
    grpc_metadata details; /* trailing metadata; its value is empty when there is none */
};

struct rpc_queue {
    struct rpc *rpc;
    uint32_t index;
    grpc_completion_queue *core;
    pthread_t thread;
    bool started;
    grpc_call *wake_call; /* see rpc_queue_wake */
    struct tag wake_tag;
    atomic_bool wake_posted;
    _Atomic uint64_t turned_ns;
    uint64_t ticked_ns;
    struct core_call *calls;
};

#define SERVERS_MAX 4

struct rpc {
    struct rpc_options options;
    struct rpc_server *servers[SERVERS_MAX];
    uint32_t n_servers;
    grpc_server_credentials *insecure;
    grpc_channel *wake_channel;
    _Atomic uint32_t calls_count;
    struct rpc_queue queues[]; /* [queues_count] */
};

/* grpc_call.c */
/* The next call of the slot's method may come. */
void rpc_slot_arm(struct slot *slot);
/* The tag's run of a slot: a call is here, or the server is stopping. */
void rpc_slot_run(struct tag *tag, bool ok);
/* About every RPC_TICK_NS: the limits of each call of the queue. */
void rpc_queue_tick(struct rpc_queue *queue, uint64_t now_ns);
