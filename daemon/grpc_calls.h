/*
 * grpc_calls: a gRPC call from its first byte to its last, whatever its method.
 *
 *     accepted    interceptors, in order, on the headers alone: is it a method of ours, do we serve
 *                 just now, is there room. A refusal costs no memory.
 *     received    the message is checked and unpacked into the call's arena -> handler->start
 *     start       the handler answers (call_reply, call_fail), or hands a request to the text pool
 *                 (call_submit) and answers when that has come back
 *     ready       something happened: tokens wait, the request has ended, a message is on its way
 *     closed      the client is gone: the request is cancelled, its END awaited, all freed
 *
 * A call is freed exactly once, by call_reply, call_fail, call_finish, or after `closed`; no
 * handler touches it after that. Everything runs on the call's queue thread.
 */
#pragma once

#include "daemon/grpc_error.h"
#include "daemon/grpc_identity.h"
#include "daemon/grpc_listener.h"

struct call;

struct call_handler {
    const char *path;
    bool always; /* answered also before the front is ready and while it drains */
    /* The first message of the call is unpacked in call->input (for a client's stream: each). */
    void (*start)(struct call *call);
    /* Never called once the client is gone. NULL: the handler always answers in start. */
    void (*ready)(struct call *call);
    /* About every RPC_TICK_NS. May be NULL. */
    void (*ticked)(struct call *call, uint64_t now_ns);
    /* A client's stream has no more messages. NULL unless the client streams. */
    void (*half_closed)(struct call *call);
};

struct call {
    struct rpc_call *rpc;
    struct listener *listener;
    struct front *front;
    const struct call_handler *handler;
    struct arena arena;      /* the call's memory: the message, the handler's state */
    size_t charged_bytes;    /* of the listener's memory */
    ProtobufCMessage *input; /* in the arena */
    void *state;             /* the handler's, in the arena */
    struct request *request; /* from call_request to the call's end; the first of its choices */
    bool submitted, request_ended; /* with all of its choices */
    bool closed;
    uint64_t accepted_ns;
    bool sent_first; /* a message is with the client */
    uint64_t tls_generation;            /* TCP: when the peer was last looked up in the list */
    char peer[IDENTITY_NAME_MAX_BYTES]; /* TCP: the client's name; "" on a unix socket */
};

/* Why a new call is refused: the three that listener callbacks need. */
extern const struct rpc_callbacks grpc_calls_callbacks;

/* Which methods a role's server has. */
bool grpc_calls_public(const struct service_method *method);
bool grpc_calls_operator(const struct service_method *method);

/* Aborts when a method of the service table has no handler, or a handler no method. */
void grpc_calls_check(void);

/* Zeroed memory of the call; the call must be failed when it is NULL. */
void *call_alloc(struct call *call, size_t size_bytes);

/* Takes a request from the pool into call->request, with id, name, peer and deadline set. False:
 * there is none, and the call has been failed (and freed). */
bool call_request(struct call *call);
/* Hands call->request to the text pool; its END comes back through `ready`. */
void call_submit(struct call *call);

/* The end of a call, each the last thing a handler does: with one message and OK; with an error;
 * with a last message (or NULL) and an error (or NULL). The request, if any, must have ended or
 * never have been submitted. */
void call_reply(struct call *call, const ProtobufCMessage *output);
void call_fail(struct call *call, const struct error *error);
void call_finish(struct call *call, const ProtobufCMessage *last, const struct error *error);

/* The handlers; one per method of the service table. */
extern const struct call_handler call_generate, call_tokenize, call_detokenize, call_count_tokens,
    call_list_models, call_get_model, call_embed, call_status, call_trace, call_health_check,
    call_health_watch, call_reflection, call_reflection_alpha;
