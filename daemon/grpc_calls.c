#include "daemon/grpc_calls.h"
#include "daemon/digest.h"

#include <inttypes.h>

#include "base/log.h"
#include "daemon/wire_check.h"

#define RETRY_NS NS_PER_S

/* No call runs for ever: a client that set no deadline has this one. */
#define DEADLINE_MAX_NS (24 * 3600 * NS_PER_S)

/* What the text room may add to a call, beside 32 times the message: ids, digests, pieces, text. */
#define REQUEST_ARENA_MIN_BYTES (1024u * 1024)

/* ---- which method is whose ---- */

static const struct call_handler *const handlers[] = {
    &call_generate,
    &call_tokenize,
    &call_detokenize,
    &call_count_tokens,
    &call_list_models,
    &call_get_model,
    &call_embed,
    &call_status,
    &call_trace,
    &call_health_check,
    &call_health_watch,
    &call_reflection,
    &call_reflection_alpha,
};

static const struct call_handler *handler_find(const struct service_method *method)
{
    for (size_t i = 0; i < array_count(handlers); i++)
        if (strcmp(handlers[i]->path, method->path) == 0)
            return handlers[i];
    return NULL;
}

void grpc_calls_check(void)
{
    CHECK(service_methods_count == array_count(handlers));
    for (uint32_t i = 0; i < service_methods_count; i++) {
        const struct call_handler *handler = handler_find(&service_methods[i]);
        CHECK(handler);
        CHECK(!service_methods[i].client_streams == !handler->half_closed);
        CHECK(!service_methods[i].server_streams || handler->ready);
    }
}

bool grpc_calls_public(const struct service_method *method)
{
    return strncmp(method->service, "galerne.admin.", strlen("galerne.admin.")) != 0;
}

bool grpc_calls_operator(const struct service_method *method)
{
    return true;
}

static struct grpc_lane *lane_of(const struct rpc_call *rpc)
{
    return rpc_queue_above(rpc->queue);
}

/* ---- the end of a call ---- */

static void call_free(struct call *call)
{
    struct rpc_call *rpc = call->rpc;
    struct listener *listener = call->listener;
    if (call->request) {
        CHECK(!call->submitted || call->request_ended);
        if (call->request->kind == REQUEST_GENERATE && call->request->model)
            request_log(call->request);
        request_choices_free(call->front->requests, call->request);
    }
    arena_free(&call->arena);
    atomic_fetch_sub(&listener->memory_bytes, call->charged_bytes);
    atomic_fetch_sub(&call->front->calls_open, 1);
    free(call);
    rpc_call_release(rpc);
}

void call_finish(struct call *call, const ProtobufCMessage *last, const struct error *error)
{
    struct grpc_error made;
    struct rpc_ending ok = {.code = RPC_OK};
    if (error) {
        grpc_error_make(error, call->request ? call->request->name : NULL, &made);
        log_debug("%s refused: %s %s", call->handler->path, status_name(error->status),
                  error->field);
    }
    if (call->submitted && !call->closed) {
        call->rpc->note = call->request->id;
        walk_add(lane_of(call->rpc)->walker, call->request->id, WALK_FINISHED, clock_now_ns(),
                 (uint32_t)(error ? made.ending.code : RPC_OK));
    }
    if (!call->closed)
        rpc_call_finish(call->rpc, last, error ? &made.ending : &ok);
    call_free(call);
}

void call_reply(struct call *call, const ProtobufCMessage *output)
{
    call_finish(call, output, NULL);
}

void call_fail(struct call *call, const struct error *error)
{
    if (call->request && !call->submitted) { /* for its line in the log */
        call->request->finish = FINISH_ERROR;
        call->request->error = *error;
        call->request->ended_ns = clock_now_ns();
    }
    call_finish(call, NULL, error);
}

/* The client is gone. What the engine still makes is thrown away until the END. */
static void call_abandon(struct call *call)
{
    struct request *request = call->request;
    if (!call->submitted || call->request_ended) {
        call_free(call);
        return;
    }
    for (; request; request = request->next_choice) {
        while (ring_peek(request->tokens))
            ring_release(request->tokens);
        request_drained(request);
    }
}

/* ---- interceptors: on the headers alone ---- */

static enum status method_intercept(const struct rpc_call *rpc, struct listener *listener,
                                    struct error *error)
{
    if (rpc->method)
        return STATUS_OK;
    for (uint32_t i = 0; i < service_methods_count; i++)
        if (strcmp(service_methods[i].path, rpc->path) == 0)
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s is for operators: call it on the socket %s", rpc->path,
                             listener->sockets[GRPC_OPERATOR].path);
    return error_set(error, STATUS_UNSUPPORTED,
                     "no method %s in this version; reflection lists those that are", rpc->path);
}

static enum status state_intercept(const struct rpc_call *rpc, struct listener *listener,
                                   struct error *error)
{
    enum status status = STATUS_OK;
    if (handler_find(rpc->method)->always)
        return STATUS_OK;
    switch (front_state(listener->front)) {
    case FRONT_STARTING:
        /* Who came by the service manager's socket may not even know that we were not running. */
        if (listener->activated)
            break;
        status = error_set(error, STATUS_UNAVAILABLE, "the daemon is starting");
        break;
    case FRONT_FAILED:
        status = error_set(error, STATUS_UNAVAILABLE, "no model serves; see the daemon's status");
        break;
    case FRONT_DRAINING:
        return error_set(error, STATUS_UNAVAILABLE, "the daemon is stopping");
    case FRONT_READY:
    case FRONT_DEGRADED:
        break;
    }
    if (status != STATUS_OK)
        error->retry_ns = RETRY_NS;
    return status;
}

static enum status load_intercept(const struct rpc_call *rpc, struct listener *listener,
                                  struct error *error)
{
    struct front *front = listener->front;
    uint32_t max = front->config->requests_max + CALLS_EXTRA_MAX;
    if (atomic_load(&front->calls_open) < max)
        return STATUS_OK;
    error_set(error, STATUS_EXHAUSTED, "%" PRIu32 " calls are open, as many as may be", max);
    error->retry_ns = RETRY_NS;
    return STATUS_EXHAUSTED;
}

static bool is_tcp(const struct rpc_call *rpc, const struct listener *listener)
{
    return listener->tls && rpc->server == listener->servers[GRPC_TCP];
}

/* Only calls of the TCP server have a list to be in. */
static enum status identity_intercept(const struct rpc_call *rpc, struct listener *listener,
                                      char ret_name[IDENTITY_NAME_MAX_BYTES], struct error *error)
{
    ret_name[0] = '\0';
    if (!is_tcp(rpc, listener))
        return STATUS_OK;
    return grpc_identity_check(rpc, listener->tls, ret_name, error);
}

/* Whoever is refused may knock often: a line a second will do. */
static void refusal_warn(struct grpc_lane *lane, const struct error *error)
{
    uint64_t now_ns = clock_now_ns();
    if (lane->warned_ns && now_ns - lane->warned_ns < NS_PER_S)
        return;
    lane->warned_ns = now_ns;
    log_warning("a call is refused: %s", error->text);
}

typedef enum status intercept_fn(const struct rpc_call *rpc, struct listener *listener,
                                 struct error *error);
static intercept_fn *const interceptors[] = {method_intercept, state_intercept, load_intercept};

static void accepted(struct rpc_call *rpc)
{
    struct listener *listener = lane_of(rpc)->listener;
    struct error error = {.status = STATUS_OK};
    char peer[IDENTITY_NAME_MAX_BYTES];
    uint64_t tls_generation = listener->tls ? tls_files_generation(listener->tls) : 0;
    enum status status = identity_intercept(rpc, listener, peer, &error);
    if (status != STATUS_OK)
        refusal_warn(lane_of(rpc), &error);
    for (size_t i = 0; status == STATUS_OK && i < array_count(interceptors); i++)
        status = interceptors[i](rpc, listener, &error);
    struct call *call = status == STATUS_OK ? calloc(1, sizeof *call) : NULL;
    if (status == STATUS_OK && !call)
        status = error_set(&error, STATUS_EXHAUSTED, "the daemon is out of memory");
    if (status != STATUS_OK) {
        struct grpc_error made;
        grpc_error_make(&error, NULL, &made);
        rpc_call_finish(rpc, NULL, &made.ending);
        rpc_call_release(rpc);
        return;
    }
    call->rpc = rpc;
    call->listener = listener;
    call->front = listener->front;
    call->handler = handler_find(rpc->method);
    call->accepted_ns = clock_now_ns();
    call->tls_generation = tls_generation;
    memcpy(call->peer, peer, sizeof call->peer);
    rpc->above = call;
    atomic_fetch_add(&call->front->calls_open, 1);
    atomic_fetch_add(&call->front->calls_total, 1);
    rpc_call_read(rpc);
}

/* ---- the message ---- */

/* What this call holds now counts against what all may hold. */
static enum status memory_charge(struct call *call, size_t bytes, struct error *error)
{
    struct listener *listener = call->listener;
    size_t max = (size_t)MEMORY_MESSAGES_MAX * call->front->config->message_max_bytes;
    if (atomic_fetch_add(&listener->memory_bytes, bytes) + bytes > max) {
        atomic_fetch_sub(&listener->memory_bytes, bytes);
        error_set(error, STATUS_EXHAUSTED, "open calls hold %zu bytes of messages, all they may",
                  max);
        error->retry_ns = RETRY_NS;
        return STATUS_EXHAUSTED;
    }
    call->charged_bytes += bytes;
    return STATUS_OK;
}

static void received(struct rpc_call *rpc, struct span message, bool present)
{
    struct call *call = rpc->above;
    struct error error = {.status = STATUS_OK};
    if (!present && call->handler->half_closed) {
        call->handler->half_closed(call);
        return;
    }
    if (!present) {
        error_set(&error, STATUS_INVALID, "the call ended without a request message");
        call_fail(call, &error);
        return;
    }
    /* A stream's next message takes the place of the last one. */
    arena_free(&call->arena);
    atomic_fetch_sub(&call->listener->memory_bytes, call->charged_bytes);
    call->charged_bytes = 0;
    arena_init(&call->arena, wire_unpacked_max_bytes(message.size_bytes));
    enum status status =
        wire_unpack(rpc->method->input, message, &call->arena, &call->input, &error);
    if (status == STATUS_OK)
        status = memory_charge(call, call->arena.used_bytes, &error);
    if (status != STATUS_OK)
        call_fail(call, &error);
    else
        call->handler->start(call);
}

void *call_alloc(struct call *call, size_t size_bytes)
{
    /* The cap is for foreign bytes; what a handler needs of its own is small and known. */
    call->arena.max_bytes += round_up(size_bytes, 64);
    return arena_alloc(&call->arena, size_bytes);
}

/* ---- requests ---- */

bool call_request(struct call *call)
{
    struct front *front = call->front;
    struct error error = {.status = STATUS_OK};
    struct request *request =
        request_new(front->requests, REQUEST_ARENA_MIN_BYTES + 32 * (call->arena.used_bytes + 1));
    if (!request) {
        error_set(&error, STATUS_EXHAUSTED,
                  "%" PRIu32 " requests are open, as many as the daemon has room for",
                  front->config->requests_max);
        error.retry_ns = RETRY_NS;
        call_fail(call, &error);
        return false;
    }
    request->id = atomic_fetch_add(&front->next_request_id, 1);
    snprintf(request->name, sizeof request->name, "%08" PRIx32 "-%" PRIu64,
             call->listener->name_salt, request->id);
    request->accepted_ns = clock_now_ns();
    request->deadline_ns = call->rpc->deadline_ns;
    if (request->deadline_ns > request->accepted_ns + DEADLINE_MAX_NS)
        request->deadline_ns = request->accepted_ns + DEADLINE_MAX_NS;
    request->peer_uid = grpc_peers_uid(call->listener->peers, call->rpc->peer_fd);
    memcpy(request->peer, call->peer, sizeof request->peer);
    request->outlet = &lane_of(call->rpc)->outlet;
    request->call = call;
    call->request = request;
    struct tenancy_place place;
    bool tcp = is_tcp(call->rpc, call->listener);
    if (grpc_identity_place(call->rpc, front->tenancy, tcp, request->peer_uid, &place, &error) !=
        STATUS_OK) {
        refusal_warn(lane_of(call->rpc), &error);
        call_fail(call, &error);
        return false;
    }
    request->tenant = place.tenant;
    request->tenant_name = tenancy_name(front->tenancy, place.tenant);
    request->cache_domain = place.cache_domain;
    request->cache_readonly = place.cache_readonly;
    return true;
}

void call_submit(struct call *call)
{
    const struct request *request = call->request;
    struct walker walker = lane_of(call->rpc)->walker;
    trace_name(walker.trace, walker.writer, request->id, request->name);
    walk_add(walker, request->id, WALK_ACCEPTED, call->accepted_ns, 0);
    walk_add(walker, request->id, WALK_DECODED, clock_now_ns(),
             walk_decoded_value(request->model ? request->model->index : 0, request->tenant));
    call->submitted = true;
    text_pool_submit(call->front->text_pool, call->request);
}

/* ---- what happens to a call ---- */

static void call_ready(struct call *call)
{
    if (call->closed)
        call_abandon(call);
    else if (call->handler->ready)
        call->handler->ready(call);
}

static void sent(struct rpc_call *rpc)
{
    struct call *call = rpc->above;
    if (call->submitted && !call->sent_first) {
        call->sent_first = true;
        walk_add(lane_of(rpc)->walker, call->request->id, WALK_FIRST_SENT, clock_now_ns(), 0);
    }
    call_ready(call);
}

static void closed(struct rpc_call *rpc)
{
    struct call *call = rpc->above;
    call->closed = true;
    for (struct request *r = call->submitted ? call->request : NULL; r; r = r->next_choice)
        if (!r->ended)
            request_cancel(r, false);
    call_abandon(call);
}

/* The list of clients may have changed: whoever is no longer in it loses what runs. */
static bool peer_is_gone(struct call *call)
{
    struct listener *listener = call->listener;
    struct error error = {.status = STATUS_OK};
    struct grpc_error made;
    char peer[IDENTITY_NAME_MAX_BYTES];
    if (!listener->tls || call->tls_generation == tls_files_generation(listener->tls))
        return false;
    call->tls_generation = tls_files_generation(listener->tls);
    if (identity_intercept(call->rpc, listener, peer, &error) == STATUS_OK)
        return false;
    log_warning("a running call over TCP ends: %s", error.text);
    grpc_error_make(&error, NULL, &made);
    rpc_call_cancel(call->rpc, &made.ending); /* `closed` follows */
    return true;
}

static void ticked(struct rpc_call *rpc, uint64_t now_ns)
{
    struct call *call = rpc->above;
    if (peer_is_gone(call))
        return;
    if (call->handler->ticked)
        call->handler->ticked(call, now_ns);
}

static void flushed(struct rpc_queue *queue, uint64_t note)
{
    struct grpc_lane *lane = rpc_queue_above(queue);
    walk_add(lane->walker, note, WALK_LAST_SENT, clock_now_ns(), 0);
}

/* Whether the last of its choices has ended with this. */
static bool request_over(struct request *ended, const struct request *first)
{
    ended->ended = true;
    while (first && first->ended)
        first = first->next_choice;
    return !first;
}

static void woken(struct rpc_queue *queue)
{
    struct grpc_lane *lane = rpc_queue_above(queue);
    struct outlet_item item;
    while (outlet_take(&lane->outlet, &item)) {
        struct call *call = item.request->call;
        call->request_ended |= item.end && request_over(item.request, call->request);
        call_ready(call);
    }
}

const struct rpc_callbacks grpc_calls_callbacks = {
    .accepted = accepted,
    .received = received,
    .sent = sent,
    .closed = closed,
    .ticked = ticked,
    .flushed = flushed,
    .woken = woken,
};
