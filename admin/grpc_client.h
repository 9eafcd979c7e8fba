/*
 * grpc_client: calls to one daemon over a unix socket or TLS, and the only file here that knows
 * gRPC.
 *
 * A client is one channel; calls are made one after the other, and each returns when it is over.
 * A unary call is a stream of one message, so there is one function: it hands every message of the
 * answer to `take` as it comes. While it waits it looks at `interrupted` about every 20 ms and
 * cancels the call when that has become true, so a signal handler has only a flag to set.
 *
 * One thread. Messages given to `take` live until it returns. A failure is described in full by
 * `struct client_failure`: the call's code and text, and what google.rpc details came with it.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <signal.h>

#include "base/status.h"

/* The codes of gRPC, by their public numbers. */
enum client_code {
    CLIENT_OK = 0,
    CLIENT_CANCELLED = 1,
    CLIENT_UNKNOWN = 2,
    CLIENT_INVALID_ARGUMENT = 3,
    CLIENT_DEADLINE_EXCEEDED = 4,
    CLIENT_NOT_FOUND = 5,
    CLIENT_ALREADY_EXISTS = 6,
    CLIENT_PERMISSION_DENIED = 7,
    CLIENT_RESOURCE_EXHAUSTED = 8,
    CLIENT_FAILED_PRECONDITION = 9,
    CLIENT_ABORTED = 10,
    CLIENT_OUT_OF_RANGE = 11,
    CLIENT_UNIMPLEMENTED = 12,
    CLIENT_INTERNAL = 13,
    CLIENT_UNAVAILABLE = 14,
    CLIENT_DATA_LOSS = 15,
    CLIENT_UNAUTHENTICATED = 16,
};

struct client_failure {
    enum client_code code;
    char text[512];
    char field[128];      /* BadRequest: the first field at fault; "" none */
    char request_id[160]; /* ErrorInfo: as the daemon's log names the call; "" none */
    uint64_t retry_ns;    /* RetryInfo; 0 none */
};

struct client_call {
    const char *method; /* "/galerne.v1.Inference/Generate" */
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *response;
    uint64_t timeout_ns; /* 0 none */
    /* False ends the call: it is cancelled, and fails with CANCELLED. */
    bool (*take)(void *context, const ProtobufCMessage *message);
    void *context;
    const volatile sig_atomic_t *interrupted; /* NULL: nobody interrupts */
};

struct client;

/* Does not connect yet: the first call does. `socket_path` is copied. Never NULL. */
struct client *client_open(const char *socket_path);
/* The same over TCP with TLS: "HOST:PORT", and three PEM texts, which are copied. */
struct client *client_open_tls(const char *address, const char *ca, const char *certificate,
                               const char *key);
void client_close(struct client *client);

/* True when the call ended well; else *ret_failure says why. */
bool client_run(struct client *client, const struct client_call *call,
                struct client_failure *ret_failure);

/* "NOT_FOUND"; "UNKNOWN" for a number out of range. */
const char *client_code_name(enum client_code code);
