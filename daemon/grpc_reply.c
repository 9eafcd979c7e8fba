#include "daemon/grpc_reply.h"

/* Tokens and text of one message; reached by no honest vocabulary. */
#define MESSAGE_ARENA_MAX_BYTES (64u * 1024 * 1024)
#define TEXT_ROOM_MIN_BYTES 256

void reply_open(struct reply *reply, const struct tokenizer *tokenizer, struct request *request)
{
    memset(reply, 0, reply_bytes(request->n_choices));
    reply->tokenizer = tokenizer;
    reply->request = request;
    reply->n_choices = request->n_choices;
    for (uint32_t i = 0; i < reply->n_choices; i++, request = request->next_choice) {
        reply->choices[i].request = request;
        detokenizer_init(&reply->choices[i].detokenizer, request->stops);
    }
}

void reply_begin(struct reply *reply, struct reply_message *message)
{
    arena_init(&message->arena, MESSAGE_ARENA_MAX_BYTES);
    galerne__v1__generate_response__init(&message->response);
    galerne__v1__usage__init(&message->usage);
    message->response.tokens = message->tokens;
    for (uint32_t i = 0; i < reply->n_choices; i++) {
        message->parts[i] = (struct reply_part){0};
        galerne__v1__choice__init(&message->parts[i].choice);
        message->parts[i].choice.choice_index = i;
    }
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

static void text_append(struct reply_message *message, struct reply_part *part, const char *text,
                        size_t size_bytes)
{
    if (part->text_room_bytes - part->text_bytes < size_bytes) {
        size_t room = size_max(2 * (part->text_bytes + size_bytes), (size_t)TEXT_ROOM_MIN_BYTES);
        char *larger = message_alloc(message, room);
        if (part->text_bytes)
            memcpy(larger, part->text, part->text_bytes);
        part->text = larger;
        part->text_room_bytes = room;
    }
    memcpy(part->text + part->text_bytes, text, size_bytes);
    part->text_bytes += size_bytes;
}

/* A protobuf-c string ends at its first NUL, so a NUL that the model wrote is shown as U+FFFD; the
 * token's `bytes` have it. */
static void text_add(struct reply_message *message, struct reply_part *part, const char *text,
                     size_t size_bytes)
{
    while (size_bytes > 0) {
        const char *nul = memchr(text, 0, size_bytes);
        size_t clean_bytes = nul ? (size_t)(nul - text) : size_bytes;
        if (clean_bytes)
            text_append(message, part, text, clean_bytes);
        if (!nul)
            return;
        text_append(message, part, "\xef\xbf\xbd", 3);
        text = nul + 1;
        size_bytes -= clean_bytes + 1;
    }
}

static void text_push(struct reply *reply, uint32_t index, struct reply_message *message,
                      struct span bytes)
{
    char small[2048];
    size_t room = detokenizer_out_max(bytes.size_bytes);
    char *out = room <= sizeof small ? small : message_alloc(message, room);
    size_t n = detokenizer_push(&reply->choices[index].detokenizer, bytes, out);
    text_add(message, &message->parts[index], out, n);
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

static void token_add(struct reply *reply, uint32_t index, struct reply_message *message,
                      const struct request_token *chosen)
{
    Galerne__V1__Token *token = message_alloc(message, sizeof *token);
    galerne__v1__token__init(token);
    struct span bytes = tokenizer_token_bytes(reply->tokenizer, chosen->sample.id, false);
    token->choice_index = index;
    token->id = chosen->sample.id;
    token->bytes = binary_of(bytes);
    if (reply->request->wants_logprobs)
        logprobs_set(reply, message, &chosen->sample, token);
    message->tokens[message->response.n_tokens++] = token;
    reply->choices[index].tokens_count++;
    if (!chosen->from_end_id && bytes.size_bytes)
        text_push(reply, index, message, bytes);
}

bool reply_collect(struct reply *reply, uint32_t index, struct reply_message *message)
{
    struct reply_choice *choice = &reply->choices[index];
    bool stopped_before = choice->detokenizer.stopped;
    const struct request_token *token;
    for (uint32_t left = REPLY_TOKENS_MAX / reply->n_choices;
         left > 0 && (token = ring_peek(choice->request->tokens)); left--) {
        DCHECK(token->choice == index);
        if (!choice->detokenizer.stopped) /* else it overran the stop string */
            token_add(reply, index, message, token);
        ring_release(choice->request->tokens);
    }
    return choice->detokenizer.stopped && !stopped_before;
}

/* ---- the last message ---- */

static Galerne__V1__FinishReason reason_of(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_STOP:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP;
    case FINISH_LENGTH:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_LENGTH;
    case FINISH_QUOTA:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_QUOTA;
    case FINISH_CANCELLED:
        return GALERNE__V1__FINISH_REASON__FINISH_REASON_CANCELLED;
    case FINISH_NONE:
    case FINISH_ERROR:
        break;
    }
    return GALERNE__V1__FINISH_REASON__FINISH_REASON_ERROR;
}

void reply_finish(struct reply *reply, uint32_t index, struct reply_message *message)
{
    struct reply_choice *choice = &reply->choices[index];
    struct reply_part *part = &message->parts[index];
    struct detokenizer *detokenizer = &choice->detokenizer;
    choice->finished = true;
    if (detokenizer->stopped) {
        const struct stop_set *stops = reply->request->stops;
        uint16_t size_bytes = stops->size_bytes[detokenizer->stop_index];
        char *stop = message_alloc(message, size_bytes + 1u);
        memcpy(stop, stops->text[detokenizer->stop_index], size_bytes);
        part->choice.stop = stop;
        part->choice.finish_reason = GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP;
    } else {
        char *out = message_alloc(message, detokenizer_out_max(0));
        text_add(message, part, out, detokenizer_finish(detokenizer, out));
        part->choice.finish_reason = reason_of(choice->request->finish);
    }
}

void reply_end_usage(struct reply *reply, struct reply_message *message)
{
    message->usage.prompt_tokens = reply->request->n_ids;
    message->usage.cached_tokens = reply->request->cached_tokens; /* the others found its own */
    for (uint32_t i = 0; i < reply->n_choices; i++)
        message->usage.output_tokens += reply->choices[i].tokens_count;
    message->response.usage = &message->usage;
}

bool reply_seal(struct reply *reply, struct reply_message *message)
{
    message->response.choices = message->choices;
    for (uint32_t i = 0; i < reply->n_choices; i++) {
        struct reply_part *part = &message->parts[i];
        if (part->text_bytes) {
            text_append(message, part, "", 1); /* its NUL */
            part->choice.text = part->text;
        }
        if (part->text_bytes || part->choice.finish_reason)
            message->choices[message->response.n_choices++] = &part->choice;
    }
    if (message->response.n_tokens == 0 && message->response.n_choices == 0)
        return false;
    if (!reply->named)
        message->response.request_id = (char *)(uintptr_t)reply->request->name;
    reply->named = true;
    return true;
}
