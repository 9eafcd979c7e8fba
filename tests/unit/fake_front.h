/*
 * fake_front: the rooms around the gRPC listener, made of nothing, for tests of its calls.
 *
 * Two models over a vocabulary of 300 ids whose bytes the test sets; engines whose state the test
 * sets; a text pool that keeps what was submitted; a gRPC library that keeps what was sent. The
 * request pool, the outlet and all of the listener's own files are the real ones.
 */
#pragma once

#include "daemon/grpc_listener.h"
#include "proto/inference.pb-c.h"

#define FAKE_VOCAB 300
#define FAKE_SENT_MAX 64
#define FAKE_SUBMITTED_MAX 64

struct tokenizer {
    struct tokenizer_info info;
    struct span bytes[FAKE_VOCAB];
    bool special[FAKE_VOCAB];
};

struct engine {
    struct engine_status status;
    uint32_t wakes;
};

/* What the library was told, by call. */
struct fake_rpc_call {
    struct rpc_call call; /* first */
    bool reading, sending, finished, released, cancelled;
    uint32_t reads;
    uint32_t n_sent;
    uint8_t *sent[FAKE_SENT_MAX]; /* packed */
    size_t sent_bytes[FAKE_SENT_MAX];
    enum rpc_code code;
    char message[700];
    uint8_t details[4096];
    size_t details_bytes;
};

struct fake {
    struct config config;
    struct front front;
    struct listener listener;
    struct tokenizer tokenizer;
    struct engine engines[2];
    enum front_state state;
    uint32_t n_submitted;
    struct request *submitted[FAKE_SUBMITTED_MAX];
    uint32_t logged;
    const char *peer_name; /* of every certificate over TCP */
    uint32_t cancels, stop_cancels;
    uint32_t queue_wakes;
};

extern struct fake fake;

void fake_open(void);
/* False, said on standard error, unless every call has given back what it held. */
bool fake_close(void);

/* A call of this path arrives; NULL method for an unknown one. */
struct fake_rpc_call *fake_call(const char *path);
/* Its message arrives. */
void fake_receive(struct fake_rpc_call *rpc, const ProtobufCMessage *message);
void fake_receive_bytes(struct fake_rpc_call *rpc, struct span bytes);
/* The send that is in flight is over. */
void fake_sent(struct fake_rpc_call *rpc);
/* The client is gone. */
void fake_leave(struct fake_rpc_call *rpc);
void fake_tick(struct fake_rpc_call *rpc);
void fake_call_free(struct fake_rpc_call *rpc);

/* As the engine does: a token into the request's ring (false: it is full), its END, and the flush
 * that wakes the listener. */
bool fake_token(struct request *request, uint32_t id);
void fake_end(struct request *request, enum finish_reason finish, enum status status);
void fake_flush(void);

/* The i-th message of a Generate stream, unpacked; the caller frees it. */
Galerne__V1__GenerateResponse *fake_response(const struct fake_rpc_call *rpc, uint32_t i);
