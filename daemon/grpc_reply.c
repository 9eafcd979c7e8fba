#include "daemon/grpc_reply.h"

/* Tokens and text of one message; reached by no honest vocabulary. */
#define MESSAGE_ARENA_MAX_BYTES (64u * 1024 * 1024)
#define TEXT_ROOM_MIN_BYTES 256

void reply_open(struct reply *reply, const struct tokenizer *tokenizer,
                const struct request *request)
{
    memset(reply, 0, sizeof *reply);
    reply->tokenizer = tokenizer;
    reply->request = request;
    detokenizer_init(&reply->detokenizer, request->stops);
}

void reply_begin(struct reply *reply, struct reply_message *message)
{
    arena_init(&message->arena, MESSAGE_ARENA_MAX_BYTES);
    galerne__v1__generate_response__init(&message->response);
    galerne__v1__choice__init(&message->choice);
    galerne__v1__usage__init(&message->usage);
    message->response.tokens = message->tokens;
    message->text = NULL;
    message->text_bytes = 0;
    message->text_room_bytes = 0;
}

void reply_end(struct reply_message *message)
{
    arena_free(&message->arena);
}

static void *message_alloc(struct reply_message *message, size_t size_bytes)
{
    void *memory = arena_alloc(&message->arena, size_bytes);
    CHECK(memory);
    return memory;
}

/* ---- text ---- */

static void text_append(struct reply_message *message, const char *text, size_t size_bytes)
{
    if (message->text_room_bytes - message->text_bytes < size_bytes) {
        size_t room = size_max(2 * (message->text_bytes + size_bytes), (size_t)TEXT_ROOM_MIN_BYTES);
        char *larger = message_alloc(message, room);
        if (message->text_bytes)
            memcpy(larger, message->text, message->text_bytes);
        message->text = larger;
        message->text_room_bytes = room;
    }
    memcpy(message->text + message->text_bytes, text, size_bytes);
    message->text_bytes += size_bytes;
}

/* A protobuf-c string ends at its first NUL, so a NUL that the model wrote is shown as U+FFFD; the
 * token's `bytes` have it. */
static void text_add(struct reply_message *message, const char *text, size_t size_bytes)
{
    while (size_bytes > 0) {
        const char *nul = memchr(text, 0, size_bytes);
        size_t clean_bytes = nul ? (size_t)(nul - text) : size_bytes;
        if (clean_bytes)
            text_append(message, text, clean_bytes);
        if (!nul)
            return;
        text_append(message, "\xef\xbf\xbd", 3);
        text = nul + 1;
        size_bytes -= clean_bytes + 1;
    }
}

static void text_push(struct reply *reply, struct reply_message *message, struct span bytes)
{
    char small[2048];
    size_t room = detokenizer_out_max(bytes.size_bytes);
    char *out = room <= sizeof small ? small : message_alloc(message, room);
    text_add(message, out, detokenizer_push(&reply->detokenizer, bytes, out));
}

/* ---- tokens ---- */

static ProtobufCBinaryData binary_of(struct span bytes)
{
    return (ProtobufCBinaryData){.len = bytes.size_bytes, .data = (uint8_t *)(uintptr_t)bytes.data};
}

static void logprobs_set(const struct reply *reply, struct reply_message *message,
                         const struct sample_result *sample, Galerne__V1__Token *token)
{
    token->_logprob_case = GALERNE__V1__TOKEN___LOGPROB_LOGPROB;
    token->logprob = sample->logprob;
    uint32_t n = u32_min(sample->n_top, TOP_LOGPROBS_MAX);
    if (n == 0)
        return;
    token->top_logprobs = message_alloc(message, n * sizeof *token->top_logprobs);
    Galerne__V1__TokenLogprob *tops = message_alloc(message, n * sizeof *tops);
    for (uint32_t i = 0; i < n; i++) {
        galerne__v1__token_logprob__init(&tops[i]);
        tops[i].id = sample->top_id[i];
        tops[i].logprob = sample->top_logprob[i];
        tops[i].bytes = binary_of(tokenizer_token_bytes(reply->tokenizer, sample->top_id[i], true));
        token->top_logprobs[i] = &tops[i];
    }
    token->n_top_logprobs = n;
}

static void token_add(struct reply *reply, struct reply_message *message,
                      const struct request_token *chosen)
{
    Galerne__V1__Token *token = message_alloc(message, sizeof *token);
    galerne__v1__token__init(token);
    struct span bytes = tokenizer_token_bytes(reply->tokenizer, chosen->sample.id, false);
    token->choice_index = chosen->choice;
    token->id = chosen->sample.id;
    token->bytes = binary_of(bytes);
    if (reply->request->wants_logprobs)
        logprobs_set(reply, message, &chosen->sample, token);
    message->tokens[message->response.n_tokens++] = token;
    reply->tokens_count++;
    if (!chosen->from_end_id && bytes.size_bytes)
        text_push(reply, message, bytes);
}

bool reply_collect(struct reply *reply, struct ring *tokens, struct reply_message *message)
{
    bool stopped_before = reply->detokenizer.stopped;
    const struct request_token *chosen;
    while (message->response.n_tokens < REPLY_TOKENS_MAX && (chosen = ring_peek(tokens))) {
        if (!reply->detokenizer.stopped) /* else it overran the stop string */
            token_add(reply, message, chosen);
        ring_release(tokens);
    }
    return reply->detokenizer.stopped && !stopped_before;
}

/* ---- the last message ---- */

static Galerne__V1__FinishReason reason_of(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_STOP:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP;
    case FINISH_LENGTH:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_LENGTH;
    case FINISH_CANCELLED:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_CANCELLED;
    case FINISH_NONE:
    case FINISH_ERROR:
        break;
    }
    return GALERNE__V1__FINISH_REASON__FINISH_REASON_ERROR;
}

void reply_finish(struct reply *reply, struct reply_message *message)
{
    const struct request *request = reply->request;
    const struct detokenizer *detokenizer = &reply->detokenizer;
    if (detokenizer->stopped) {
        const struct stop_set *stops = request->stops;
        uint16_t size_bytes = stops->size_bytes[detokenizer->stop_index];
        char *stop = message_alloc(message, size_bytes + 1u);
        memcpy(stop, stops->text[detokenizer->stop_index], size_bytes);
        message->choice.stop = stop;
        message->choice.finish_reason = GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP;
    } else {
        char *out = message_alloc(message, detokenizer_out_max(0));
        text_add(message, out, detokenizer_finish(&reply->detokenizer, out));
        message->choice.finish_reason = reason_of(request->finish);
    }
    message->usage.prompt_tokens = request->n_ids;
    message->usage.output_tokens = reply->tokens_count;
    message->usage.cached_tokens = request->cached_tokens;
    message->response.usage = &message->usage;
}

bool reply_seal(struct reply *reply, struct reply_message *message)
{
    if (message->text_bytes) {
        text_append(message, "", 1); /* its NUL */
        message->choice.text = message->text;
    }
    if (message->text_bytes || message->choice.finish_reason) {
        message->choices[0] = &message->choice;
        message->response.choices = message->choices;
        message->response.n_choices = 1;
    }
    if (message->response.n_tokens == 0 && message->response.n_choices == 0)
        return false;
    if (!reply->named)
        message->response.request_id = (char *)(uintptr_t)reply->request->name;
    reply->named = true;
    return true;
}
