/*
 * grpc_reply: from the tokens of a request to the messages of a Generate stream.
 *
 * One `struct reply` lives as long as its stream: it knows what was sent before (the first message
 * carries the request's name), holds text back for stop strings, and drops tokens once a stop
 * string was met. Per message:
 *
 *     reply_collect   takes every token that waits in the ring, up to REPLY_TOKENS_MAX
 *     reply_finish    puts finish reason, usage and the text still held into the last one
 *
 * The message and all that it points to live in the message's own arena (reply_begin), and in the
 * tokenizer. No library and no thread is known here; the stream's thread calls.
 */
#pragma once

#include "daemon/request.h"
#include "proto/inference.pb-c.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

#define REPLY_TOKENS_MAX 256

struct reply {
    const struct tokenizer *tokenizer;
    const struct request *request; /* its name, stops, wants_logprobs */
    struct detokenizer detokenizer;
    bool named;            /* the first message has gone out */
    uint32_t tokens_count; /* put into messages so far; those after a stop string are not */
};

/* One message in the making. */
struct reply_message {
    struct arena arena;
    Galerne__V1__GenerateResponse response;
    Galerne__V1__Choice choice;
    Galerne__V1__Choice *choices[1];
    Galerne__V1__Usage usage;
    Galerne__V1__Token *tokens[REPLY_TOKENS_MAX];
    char *text; /* [text_room_bytes], in the arena, not NUL-terminated before reply_seal */
    size_t text_bytes, text_room_bytes;
};

void reply_open(struct reply *reply, const struct tokenizer *tokenizer,
                const struct request *request);

/* Starts an empty message; `message` is ended with reply_end, whatever happens. */
void reply_begin(struct reply *reply, struct reply_message *message);
void reply_end(struct reply_message *message);

/* Drains the ring into the message. True when a stop string was met by one of these tokens. */
bool reply_collect(struct reply *reply, struct ring *tokens, struct reply_message *message);

/* The request has ended: makes this the last message. */
void reply_finish(struct reply *reply, struct reply_message *message);

/* Makes the message ready to be packed; false when there is nothing in it. */
bool reply_seal(struct reply *reply, struct reply_message *message);
