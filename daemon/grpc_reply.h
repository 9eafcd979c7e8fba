/*
 * grpc_reply: from the tokens of a request to the messages of a Generate stream.
 *
 * One `struct reply` lives as long as its stream: it knows what was sent before (the first message
 * carries the request's name). For each choice it holds text back for stop strings, and drops
 * tokens once a stop string was met. Per message:
 *
 *     reply_collect   takes the tokens that wait in the ring of a choice, up to its part of
 *                     REPLY_TOKENS_MAX
 *     reply_finish    puts finish reason and the text still held into the last one of a choice
 *     reply_end_usage puts the usage into the last one of all
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

struct reply_choice {
    struct request *request; /* its tokens, and how it ended */
    struct detokenizer detokenizer;
    uint32_t tokens_count; /* put into messages so far; those after a stop string are not */
    bool finished;         /* its last message was made */
};

struct reply {
    const struct tokenizer *tokenizer;
    const struct request *request; /* its name, stops, wants_logprobs */
    bool named;                    /* the first message has gone out */
    uint32_t n_choices;
    struct reply_choice choices[]; /* [n_choices] */
};

/* What one choice gains by a message. */
struct reply_part {
    Galerne__V1__Choice choice;
    char *text; /* [text_room_bytes], in the arena, not NUL-terminated before reply_seal */
    size_t text_bytes, text_room_bytes;
};

/* One message in the making. */
struct reply_message {
    struct arena arena;
    Galerne__V1__GenerateResponse response;
    struct reply_part parts[REQUEST_CHOICES_MAX];
    Galerne__V1__Choice *choices[REQUEST_CHOICES_MAX]; /* of the parts that are not empty */
    Galerne__V1__Usage usage;
    Galerne__V1__Token *tokens[REPLY_TOKENS_MAX];
};

/* Bytes of a reply of so many choices. */
static inline size_t reply_bytes(uint32_t n_choices)
{
    return sizeof(struct reply) + n_choices * sizeof(struct reply_choice);
}

/* `reply` has reply_bytes(request->n_choices); `request` is the first of the choices. */
void reply_open(struct reply *reply, const struct tokenizer *tokenizer, struct request *request);

/* Starts an empty message; `message` is ended with reply_end, whatever happens. */
void reply_begin(struct reply *reply, struct reply_message *message);
void reply_end(struct reply_message *message);

/* Drains the ring of choice `index` into the message. True when a stop string was met by one of
 * these tokens. */
bool reply_collect(struct reply *reply, uint32_t index, struct reply_message *message);

/* The choice has ended: makes this its last message. */
void reply_finish(struct reply *reply, uint32_t index, struct reply_message *message);

/* All choices have ended: makes this the last message. */
void reply_end_usage(struct reply *reply, struct reply_message *message);

/* Makes the message ready to be packed; false when there is nothing in it. */
bool reply_seal(struct reply *reply, struct reply_message *message);
