/*
 * grpc_decode: from the messages of galerne.v1 to `struct request`, with every value checked.
 *
 * What can be judged from the message and the model's table is refused here, naming the field; what
 * needs the tokens (prompt over the context, ids out of range) is the text room's. Strings are not
 * copied: the request points into the message, which must outlive it. Pure save for the seed, which
 * is drawn when a sampled request brings none. Any thread.
 */
#pragma once

#include "daemon/front.h"
#include "proto/inference.pb-c.h"

#define DECODE_CHAT_MESSAGES_MAX 1024
#define DECODE_TEMPERATURE_MAX 100.0f
#define DECODE_REPETITION_PENALTY_MAX 10.0f
#define DECODE_PENALTY_MAX 2.0f /* presence and frequency, both signs */
#define DECODE_LOGIT_BIAS_MAX 100.0f

/* INVALID (empty) or NOT_FOUND; `field` is what the message calls it. */
enum status decode_model(struct front *front, const char *field, const char *name,
                         struct served_model **ret_model, struct error *error);

/* Each fills the request's fields that its message has; `arena` holds what must be made. */
enum status decode_generate(struct front *front, const Galerne__V1__GenerateRequest *input,
                            struct arena *arena, struct request *request, struct error *error);
enum status decode_tokenize(struct front *front, const Galerne__V1__TokenizeRequest *input,
                            struct arena *arena, struct request *request, struct error *error);
enum status decode_count_tokens(struct front *front, const Galerne__V1__CountTokensRequest *input,
                                struct arena *arena, struct request *request, struct error *error);
enum status decode_detokenize(struct front *front, const Galerne__V1__DetokenizeRequest *input,
                              struct request *request, struct error *error);
