/*
 * Generate: a request goes down, tokens come up and leave in as few messages as the client's
 * reading allows. While one message is on its way, tokens wait in the request's ring; when that is
 * full the engine pauses the request, so a slow reader costs nobody else anything.
 */
#include "daemon/grpc_calls.h"
#include "daemon/grpc_decode.h"
#include "daemon/grpc_reply.h"

#define STARTING_RETRY_NS NS_PER_S

/* A model that cannot take requests just now; one that lost its worker still queues them. */
static enum status model_check(const struct listener *listener, const struct served_model *model,
                               struct error *error)
{
    struct engine_status status;
    engine_status(model->engine, &status);
    const char *name = model->config->name;
    switch (status.state) {
    case ENGINE_SERVING:
    case ENGINE_LOST:
        return STATUS_OK;
    case ENGINE_FAILED:
        return error_set(error, STATUS_UNAVAILABLE, "model %s does not serve: %s", name,
                         status.text);
    case ENGINE_STARTING:
    case ENGINE_LOADING:
        if (listener->activated)
            return STATUS_OK;
        break;
    }
    error_set(error, STATUS_UNAVAILABLE, "model %s is %s, %u %%", name,
              status.quantises ? "quantising its weights" : "loading", status.load_percent);
    error->retry_ns = STARTING_RETRY_NS;
    return STATUS_UNAVAILABLE;
}

/* The other choices, and what the stream knows of all of them. */
static enum status choices_open(struct call *call, struct error *error)
{
    struct request *request = call->request;
    struct front *front = call->front;
    struct reply *reply = call_alloc(call, reply_bytes(request->n_choices));
    if (!reply)
        return error_set(error, STATUS_EXHAUSTED, "the daemon is out of memory");
    if (!request_choices_new(front->requests, request)) {
        error_set(error, STATUS_EXHAUSTED,
                  "%u requests are open and %u may; n is %u, and each choice is one",
                  request_pool_used_count(front->requests) - 1, front->config->requests_max,
                  request->n_choices);
        error->retry_ns = NS_PER_S;
        return STATUS_EXHAUSTED;
    }
    reply_open(reply, request->model->tokenizer, request);
    call->state = reply;
    return STATUS_OK;
}

static void generate_start(struct call *call)
{
    struct error error = {.status = STATUS_OK};
    const Galerne__V1__GenerateRequest *input = (const void *)call->input;
    if (!call_request(call))
        return;
    struct request *request = call->request;
    enum status status = decode_generate(call->front, input, &call->arena, request, &error);
    if (status == STATUS_OK)
        status = model_check(call->listener, request->model, &error);
    if (status == STATUS_OK)
        status = choices_open(call, &error);
    if (status == STATUS_OK)
        call_submit(call);
    else
        call_fail(call, &error);
}

/* What the engine made after a stop string is not charged. */
static bool choice_failed(const struct reply_choice *choice)
{
    const struct request *request = choice->request;
    return !choice->detokenizer.stopped &&
           (request->finish == FINISH_ERROR || request->finish == FINISH_CANCELLED);
}

static void choice_finish(struct reply *reply, uint32_t index, struct reply_message *message)
{
    struct reply_choice *choice = &reply->choices[index];
    if (choice->detokenizer.stopped) {
        choice->request->finish = FINISH_STOP;
        choice->request->output_tokens = choice->tokens_count;
    }
    reply_finish(reply, index, message);
}

/* The ENDs were taken and every token is in `message`: the last message and the status go out. */
static void generate_end(struct call *call, struct reply_message *message)
{
    struct reply *reply = call->state;
    const struct request *failed = NULL;
    for (uint32_t i = 0; i < reply->n_choices; i++) {
        if (choice_failed(&reply->choices[i]) && !failed)
            failed = reply->choices[i].request;
        if (!reply->choices[i].finished)
            choice_finish(reply, i, message);
    }
    struct error error = failed ? failed->error : (struct error){.status = STATUS_OK};
    if (failed && error.status == STATUS_OK)
        error_set(&error, STATUS_INTERNAL, "the request ended without a reason");
    /* An error before the first token is a status alone. */
    bool has_last = !failed || reply->named || message->response.n_tokens > 0;
    if (has_last) {
        reply_end_usage(reply, message);
        CHECK(reply_seal(reply, message));
    }
    const ProtobufCMessage *last = has_last ? &message->response.base : NULL;
    /* The call is gone after this; the message is not. */
    call_finish(call, last, failed ? &error : NULL);
}

/* Takes what there is of one choice; true when there is nothing more to come. That it failed is
 * said with the end of the call. */
static bool choice_take(struct call *call, uint32_t index, struct reply_message *message)
{
    struct reply *reply = call->state;
    struct reply_choice *choice = &reply->choices[index];
    struct request *request = choice->request;
    if (choice->finished)
        return true;
    bool stopped = reply_collect(reply, index, message);
    if (!request->ended) {
        request_drained(request);
        if (stopped) {
            atomic_store(&request->stop_tokens, choice->tokens_count);
            request_cancel(request, true);
        }
        return false;
    }
    if (ring_peek(request->tokens))
        return false;
    if (!choice_failed(choice))
        choice_finish(reply, index, message);
    return true;
}

static void generate_ready(struct call *call)
{
    struct reply *reply = call->state;
    struct reply_message message;
    bool over = true;
    if (rpc_call_is_sending(call->rpc))
        return;
    reply_begin(reply, &message);
    for (uint32_t i = 0; i < reply->n_choices; i++)
        over &= choice_take(call, i, &message);
    if (over)
        generate_end(call, &message);
    else if (reply_seal(reply, &message))
        rpc_call_send(call->rpc, &message.response.base);
    reply_end(&message);
}

const struct call_handler call_generate = {
    .path = "/galerne.v1.Inference/Generate",
    .start = generate_start,
    .ready = generate_ready,
};
