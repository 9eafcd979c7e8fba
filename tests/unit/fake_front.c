#include "tests/unit/fake_front.h"

#include "daemon/grpc_calls.h"

struct fake fake;

/* ---- text and engine ---- */

const struct tokenizer_info *tokenizer_info(const struct tokenizer *tokenizer)
{
    return &tokenizer->info;
}

struct span tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, bool with_special)
{
    CHECK(id < FAKE_VOCAB);
    if (tokenizer->special[id] && !with_special)
        return (struct span){0};
    return tokenizer->bytes[id];
}

const char *chat_name(const struct chat *chat)
{
    return "chatml";
}

void engine_status(struct engine *engine, struct engine_status *ret_status)
{
    *ret_status = engine->status;
}

uint32_t engine_tenants(struct engine *engine, struct sched_tenant_stats *ret_rows)
{
    ret_rows[0] = (struct sched_tenant_stats){.running = engine->status.sched.running};
    return 1;
}

uint32_t engine_blocks_count(const struct engine *engine)
{
    return engine->status.sched.blocks_count;
}

void engine_wake(struct engine *engine)
{
    engine->wakes++;
}

enum front_state front_state(struct front *front)
{
    return fake.state;
}

uint32_t front_producers_count(const struct config *config)
{
    return 1;
}

struct served_model *front_model_find(struct front *front, struct span name)
{
    for (uint32_t i = 0; i < front->n_models; i++) {
        char long_name[CONFIG_NAME_MAX_BYTES + 8];
        snprintf(long_name, sizeof long_name, "models/%s", front->models[i].config->name);
        if (span_equal(name, span_of(front->models[i].config->name)) ||
            span_equal(name, span_of(long_name)))
            return &front->models[i];
    }
    return NULL;
}

void request_cancel(struct request *request, bool met_stop)
{
    fake.cancels++;
    fake.stop_cancels += met_stop;
    atomic_store(&request->cancel_stop, met_stop);
    atomic_store(&request->cancelled, true);
}

void request_drained(struct request *request)
{
    if (atomic_exchange(&request->stalled, false))
        engine_wake(request->model->engine);
}

void request_log(const struct request *request)
{
    CHECK(request->model && request->finish != FINISH_NONE);
    fake.logged++;
}

void text_pool_submit(struct text_pool *pool, struct request *request)
{
    CHECK(fake.n_submitted < FAKE_SUBMITTED_MAX);
    fake.submitted[fake.n_submitted++] = request;
}

/* ---- the library ---- */

static struct fake_rpc_call *fake_of(const struct rpc_call *call)
{
    return (struct fake_rpc_call *)(uintptr_t)call;
}

void *rpc_queue_above(const struct rpc_queue *queue)
{
    return &fake.listener.lanes[0];
}

void rpc_call_read(struct rpc_call *call)
{
    struct fake_rpc_call *rpc = fake_of(call);
    CHECK(!rpc->reading && !rpc->released);
    rpc->reading = true;
    rpc->reads++;
}

bool rpc_call_is_sending(const struct rpc_call *call)
{
    return fake_of(call)->sending;
}

static void sent_keep(struct fake_rpc_call *rpc, const ProtobufCMessage *message)
{
    CHECK(rpc->n_sent < FAKE_SENT_MAX);
    size_t size_bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(size_bytes + 1);
    protobuf_c_message_pack(message, bytes);
    rpc->sent[rpc->n_sent] = bytes;
    rpc->sent_bytes[rpc->n_sent++] = size_bytes;
}

void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct fake_rpc_call *rpc = fake_of(call);
    CHECK(!rpc->sending && !rpc->finished && !rpc->released);
    rpc->sending = true;
    sent_keep(rpc, message);
}

void rpc_call_finish(struct rpc_call *call, const ProtobufCMessage *last,
                     const struct rpc_ending *ending)
{
    struct fake_rpc_call *rpc = fake_of(call);
    CHECK(!rpc->finished && !rpc->released && !(last && rpc->sending));
    rpc->finished = true;
    if (last)
        sent_keep(rpc, last);
    rpc->code = ending->code;
    snprintf(rpc->message, sizeof rpc->message, "%s", ending->message ? ending->message : "");
    CHECK(ending->details.size_bytes <= sizeof rpc->details);
    if (ending->details.size_bytes)
        memcpy(rpc->details, ending->details.data, ending->details.size_bytes);
    rpc->details_bytes = ending->details.size_bytes;
}

void rpc_call_cancel(struct rpc_call *call, const struct rpc_ending *ending)
{
    struct fake_rpc_call *rpc = fake_of(call);
    rpc->code = ending->code;
    snprintf(rpc->message, sizeof rpc->message, "%s", ending->message ? ending->message : "");
    rpc->cancelled = true;
}

void rpc_call_peer_each(const struct rpc_call *call, rpc_peer_fn *each, void *context)
{
    each(context, RPC_PEER_NAME, span_of(fake.peer_name));
}

void rpc_call_release(struct rpc_call *call)
{
    CHECK(!fake_of(call)->released);
    fake_of(call)->released = true;
}

/* ---- the test's side ---- */

static void outlet_wake(void *context)
{
    fake.queue_wakes++;
}

void fake_open(void)
{
    static char letters[FAKE_VOCAB];
    struct error error;
    memset(&fake, 0, sizeof fake);
    fake.state = FRONT_READY;
    fake.peer_name = "someone";
    fake.config.requests_max = 4;
    fake.config.message_max_bytes = 65536;
    fake.config.n_models = 2;
    fake.config.models[0].waiting_max = fake.config.models[1].waiting_max = 8;
    strcpy(fake.config.models[0].name, "one");
    strcpy(fake.config.models[1].name, "two");
    for (uint32_t id = 0; id < FAKE_VOCAB; id++) { /* id 97 is "a" */
        letters[id] = (char)id;
        fake.tokenizer.bytes[id] = (struct span){&letters[id], id < 256};
    }
    fake.tokenizer.special[2] = true;
    fake.tokenizer.bytes[2] = span_of("</s>");
    fake.tokenizer.info =
        (struct tokenizer_info){.vocab_count = FAKE_VOCAB, .bos_id = 1, .n_eos = 1, .eos_ids = {2}};
    fake.front.config = &fake.config;
    fake.front.n_models = 2;
    for (uint32_t i = 0; i < 2; i++) {
        fake.engines[i].status.state = ENGINE_SERVING;
        fake.front.models[i] = (struct served_model){.config = &fake.config.models[i],
                                                     .index = i,
                                                     .context_tokens = 512,
                                                     .tokenizer = &fake.tokenizer,
                                                     .engine = &fake.engines[i]};
        fake.front.models[i].plan.arch.vocab = FAKE_VOCAB;
    }
    CHECK(request_pool_open(fake.config.requests_max, &fake.front.requests, &error) == STATUS_OK);
    CHECK(tenancy_open(&fake.config, &fake.front.tenancy, &error) == STATUS_OK);
    fake.listener.front = &fake.front;
    fake.listener.n_lanes = 1;
    CHECK(grpc_peers_open(&fake.listener.peers, &error) == STATUS_OK);
    fake.listener.lanes[0].listener = &fake.listener;
    CHECK(outlet_open(&fake.listener.lanes[0].outlet, 1, fake.config.requests_max, outlet_wake,
                      NULL, &error) == STATUS_OK);
}

bool fake_close(void)
{
    uint32_t requests_count = request_pool_used_count(fake.front.requests);
    uint32_t calls_count = atomic_load(&fake.front.calls_open);
    size_t memory_bytes = atomic_load(&fake.listener.memory_bytes);
    if (requests_count || calls_count || memory_bytes) {
        fprintf(stderr, "left: %u requests, %u calls, %zu bytes\n", requests_count, calls_count,
                memory_bytes);
        return false;
    }
    request_pool_close(fake.front.requests);
    tenancy_close(fake.front.tenancy);
    outlet_close(&fake.listener.lanes[0].outlet);
    grpc_peers_close(fake.listener.peers);
    return true;
}

struct fake_rpc_call *fake_call(const char *path)
{
    struct fake_rpc_call *rpc = calloc(1, sizeof *rpc);
    CHECK(rpc);
    rpc->call.peer_fd = -1;
    rpc->call.deadline_ns = UINT64_MAX;
    for (uint32_t i = 0; i < service_methods_count; i++)
        if (strcmp(service_methods[i].path, path) == 0)
            rpc->call.method = &service_methods[i];
    if (!rpc->call.method)
        snprintf(rpc->call.path, sizeof rpc->call.path, "%s", path);
    grpc_calls_callbacks.accepted(&rpc->call);
    return rpc;
}

void fake_receive_bytes(struct fake_rpc_call *rpc, struct span bytes)
{
    CHECK(rpc->reading && !rpc->released);
    rpc->reading = false;
    grpc_calls_callbacks.received(&rpc->call, bytes, bytes.data != NULL);
}

void fake_receive(struct fake_rpc_call *rpc, const ProtobufCMessage *message)
{
    size_t size_bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(size_bytes + 1);
    protobuf_c_message_pack(message, bytes);
    fake_receive_bytes(rpc, (struct span){(const char *)bytes, size_bytes});
    free(bytes); /* the call has kept nothing of it */
}

void fake_sent(struct fake_rpc_call *rpc)
{
    CHECK(rpc->sending);
    rpc->sending = false;
    if (!rpc->released && !rpc->finished)
        grpc_calls_callbacks.sent(&rpc->call);
}

void fake_leave(struct fake_rpc_call *rpc)
{
    rpc->sending = false;
    if (!rpc->released)
        grpc_calls_callbacks.closed(&rpc->call);
}

void fake_tick(struct fake_rpc_call *rpc)
{
    if (!rpc->released)
        grpc_calls_callbacks.ticked(&rpc->call, clock_now_ns());
}

void fake_call_free(struct fake_rpc_call *rpc)
{
    CHECK(rpc->released);
    for (uint32_t i = 0; i < rpc->n_sent; i++)
        free(rpc->sent[i]);
    free(rpc);
}

bool fake_token(struct request *request, uint32_t id)
{
    struct request_token *token = ring_reserve(request->tokens);
    if (!token) {
        atomic_store(&request->stalled, true);
        return false;
    }
    *token = (struct request_token){.choice = request->choice,
                                    .from_end_id = id == 2,
                                    .sample = {.id = id, .logprob = -0.5f}};
    token->sample.n_top = request->sampling.n_logprobs;
    for (uint32_t i = 0; i < token->sample.n_top; i++)
        token->sample.top_id[i] = i;
    ring_commit(request->tokens);
    request->output_tokens++;
    outlet_ready(request->outlet, 0, request);
    return true;
}

void fake_end(struct request *request, enum finish_reason finish, enum status status)
{
    request->finish = finish;
    request->ended_ns = clock_now_ns();
    if (status != STATUS_OK)
        error_set(&request->error, status, "made up by the test");
    outlet_end(request->outlet, 0, request);
}

void fake_flush(void)
{
    outlet_flush(&fake.listener.lanes[0].outlet, 0);
    grpc_calls_callbacks.woken(NULL);
}

Galerne__V1__GenerateResponse *fake_response(const struct fake_rpc_call *rpc, uint32_t i)
{
    CHECK(i < rpc->n_sent);
    Galerne__V1__GenerateResponse *response =
        galerne__v1__generate_response__unpack(NULL, rpc->sent_bytes[i], rpc->sent[i]);
    CHECK(response);
    return response;
}
