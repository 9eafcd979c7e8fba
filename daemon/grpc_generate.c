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
    error_set(error, STATUS_UNAVAILABLE, "model %s is loading, %u %%", name, status.load_percent);
    error->retry_ns = STARTING_RETRY_NS;
    return STATUS_UNAVAILABLE;
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
    struct reply *reply = call_alloc(call, sizeof *reply);
    if (status == STATUS_OK && !reply)
        status = error_set(&error, STATUS_EXHAUSTED, "the daemon is out of memory");
    if (status != STATUS_OK) {
        call_fail(call, &error);
        return;
    }
    reply_open(reply, request->model->tokenizer, request);
    call->state = reply;
    call_submit(call);
}

/* The END was taken and every token is in `message`: the last message and the status go out. */
static void generate_end(struct call *call, struct reply_message *message)
{
    struct request *request = call->request;
    struct reply *reply = call->state;
    bool failed = request->finish == FINISH_ERROR || request->finish == FINISH_CANCELLED;
    if (reply->detokenizer
            .stopped) { /* what the engine made after the stop string is not charged */
        failed = false;
        request->finish = FINISH_STOP;
        request->output_tokens = reply->tokens_count;
    }
    struct error error = request->error;
    if (failed && error.status == STATUS_OK)
        error_set(&error, STATUS_INTERNAL, "the request ended without a reason");
    /* An error before the first token is a status alone. */
    bool has_last = !failed || reply->named || message->response.n_tokens > 0;
    if (has_last) {
        reply_finish(reply, message);
        CHECK(reply_seal(reply, message));
    }
    const ProtobufCMessage *last = has_last ? &message->response.base : NULL;
    /* The call is gone after this; the message is not. */
    call_finish(call, last, failed ? &error : NULL);
}

static void generate_ready(struct call *call)
{
    struct reply *reply = call->state;
    struct request *request = call->request;
    struct reply_message message;
    if (rpc_call_is_sending(call->rpc))
        return;
    reply_begin(reply, &message);
    bool stopped = reply_collect(reply, request->tokens, &message);
    if (!call->request_ended)
        request_drained(request);
    if (stopped && !call->request_ended)
        request_cancel(request, true);
    if (call->request_ended && !ring_peek(request->tokens))
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
