#include "daemon/grpc_server.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>

#include "proto/channel_options.h"

/* The library is not instrumented: what it hands from one thread to another, the thread sanitizer
 * learns from these two. */
#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#endif
#ifdef THREAD_SANITIZER
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define tag_give(tag) __tsan_release(tag)
#define tag_take(tag) __tsan_acquire(tag)
#else
#define tag_give(tag) ((void)(tag))
#define tag_take(tag) ((void)(tag))
#endif

_Static_assert((int)RPC_UNAVAILABLE == (int)GRPC_STATUS_UNAVAILABLE, "public numbers");

/* What the library gives back when an operation is over. */
struct tag {
    void (*run)(struct tag *tag, bool ok);
    void *owner;
};

/* A standing order for the next call of one method (or of any unknown one) on one queue. */
struct slot {
    struct tag tag;
    struct rpc_server *server;
    struct rpc_queue *queue;
    const struct service_method *method; /* NULL: unknown methods */
    void *registered;
    grpc_call *core;
    grpc_metadata_array metadata;
    gpr_timespec deadline;
    grpc_call_details details; /* of unknown methods */
};

struct rpc_server {
    struct rpc *rpc;
    grpc_server *core;
    struct tag drained_tag;
    atomic_bool drained;
    uint32_t n_slots;
    struct slot slots[]; /* [queues_count][service_methods_count + 1]; not offered: empty */
};

struct core_call {
    struct rpc_call call; /* first: the layer above holds its address */
    grpc_call *core;
    grpc_metadata_array metadata;
    struct core_call *previous, *next; /* of the queue's list, while not released */
    struct tag close_tag, read_tag, send_tag;
    grpc_byte_buffer *read_buffer, *send_buffer;
    int was_cancelled;
    uint32_t batches; /* in flight */
    bool initial_sent, reading, message_seen, sending, ending, status_sent, cancelling, closed,
        released;
    uint64_t accepted_ns, send_started_ns;
    enum rpc_code code;
    grpc_slice status_text;
    grpc_metadata details; /* trailing metadata; its value is empty when there is none */
};

struct rpc_queue {
    struct rpc *rpc;
    uint32_t index;
    grpc_completion_queue *core;
    pthread_t thread;
    bool started;
    grpc_call *wake_call; /* see rpc_queue_wake */
    struct tag wake_tag;
    atomic_bool wake_posted;
    _Atomic uint64_t turned_ns;
    uint64_t ticked_ns;
    struct core_call *calls;
};

#define SERVERS_MAX 4

struct rpc {
    struct rpc_options options;
    struct rpc_server *servers[SERVERS_MAX];
    uint32_t n_servers;
    grpc_server_credentials *insecure;
    grpc_channel *wake_channel;
    _Atomic uint32_t calls_count;
    struct rpc_queue queues[]; /* [queues_count] */
};

/* ---- calls: batches ---- */

static struct core_call *core_of(struct rpc_call *call)
{
    return (struct core_call *)call;
}

static const struct rpc_options *options_of(const struct core_call *call)
{
    return &call->call.queue->rpc->options;
}

static void batch_start(struct core_call *call, struct tag *tag, const grpc_op *ops, size_t n_ops)
{
    call->batches++;
    tag_give(tag);
    CHECK(grpc_call_start_batch(call->core, ops, n_ops, tag, NULL) == GRPC_CALL_OK);
}

static void call_unlink(struct core_call *call)
{
    if (call->previous)
        call->previous->next = call->next;
    else
        call->call.queue->calls = call->next;
    if (call->next)
        call->next->previous = call->previous;
}

static void call_free(struct core_call *call)
{
    call_unlink(call);
    atomic_fetch_sub(&call->call.queue->rpc->calls_count, 1);
    grpc_slice_unref(call->status_text);
    grpc_slice_unref(call->details.value);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_unref(call->core);
    free(call);
}

/* Every batch that comes back ends with this; the call may be gone after it. */
static void batch_end(struct core_call *call)
{
    call->batches--;
    if (call->released && call->batches == 0)
        call_free(call);
}

static void closed_run(struct tag *tag, bool ok)
{
    struct core_call *call = tag->owner;
    call->closed = true;
    if (!call->released)
        options_of(call)->callbacks->closed(&call->call);
    batch_end(call);
}

static void close_watch(struct core_call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &call->was_cancelled;
    batch_start(call, &call->close_tag, &op, 1);
}

/* ---- calls: receiving ---- */

/* Calls `received` with the whole message in one piece. */
static void message_deliver(struct core_call *call, grpc_byte_buffer *buffer)
{
    const struct rpc_callbacks *callbacks = options_of(call)->callbacks;
    grpc_byte_buffer_reader reader;
    if (!buffer || !grpc_byte_buffer_reader_init(&reader, buffer)) {
        callbacks->received(&call->call, (struct span){0}, false);
        return;
    }
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    struct span message = {.data = (const char *)GRPC_SLICE_START_PTR(slice),
                           .size_bytes = GRPC_SLICE_LENGTH(slice)};
    callbacks->received(&call->call, message, true);
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
}

static void read_run(struct tag *tag, bool ok)
{
    struct core_call *call = tag->owner;
    grpc_byte_buffer *buffer = call->read_buffer;
    call->read_buffer = NULL;
    call->reading = false;
    call->message_seen = true;
    /* A message that the library refuses (its size) ends the call by the library's own status:
     * `closed` follows, and a status of ours would race with it. */
    bool refused = !buffer && grpc_call_failed_before_recv_message(call->core) != 0;
    if (!call->released && !call->ending && !call->closed && !refused)
        message_deliver(call, ok ? buffer : NULL);
    if (buffer)
        grpc_byte_buffer_destroy(buffer);
    batch_end(call);
}

void rpc_call_read(struct rpc_call *call)
{
    struct core_call *core = core_of(call);
    CHECK(!core->reading && !core->released);
    core->reading = true;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &core->read_buffer;
    batch_start(core, &core->read_tag, &op, 1);
}

/* ---- calls: sending ---- */

static size_t op_initial(struct core_call *call, grpc_op *op)
{
    if (call->initial_sent)
        return 0;
    call->initial_sent = true;
    *op = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    return 1;
}

static grpc_byte_buffer *message_pack(const ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

/* Starts the one send batch: headers if they are due, then a message, the status, or both. What it
 * points to lives in the call until the batch is over. */
static void send_start(struct core_call *call, const ProtobufCMessage *message, bool with_status)
{
    grpc_op ops[3];
    size_t n = op_initial(call, ops);
    if (message) {
        call->send_buffer = message_pack(message);
        ops[n] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
        ops[n++].data.send_message.send_message = call->send_buffer;
    }
    if (with_status) {
        bool has_details = GRPC_SLICE_LENGTH(call->details.value) > 0;
        ops[n] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
        ops[n].data.send_status_from_server.trailing_metadata_count = has_details;
        ops[n].data.send_status_from_server.trailing_metadata = &call->details;
        ops[n].data.send_status_from_server.status = (grpc_status_code)call->code;
        ops[n++].data.send_status_from_server.status_details = &call->status_text;
        call->status_sent = true;
    }
    call->sending = true;
    call->send_started_ns = clock_now_ns();
    batch_start(call, &call->send_tag, ops, n);
}

static void send_run(struct tag *tag, bool ok)
{
    struct core_call *call = tag->owner;
    call->sending = false;
    if (call->send_buffer)
        grpc_byte_buffer_destroy(call->send_buffer);
    call->send_buffer = NULL;
    if (call->closed)
        ; /* nothing more can be sent */
    else if (call->ending && !call->status_sent)
        send_start(call, NULL, true);
    else if (!call->released && !call->ending && ok)
        options_of(call)->callbacks->sent(&call->call);
    batch_end(call);
}

bool rpc_call_is_sending(const struct rpc_call *call)
{
    return ((const struct core_call *)call)->sending;
}

void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct core_call *core = core_of(call);
    CHECK(!core->sending && !core->ending && !core->released);
    if (!core->closed)
        send_start(core, message, false);
}

static void ending_keep(struct core_call *call, const struct rpc_ending *ending)
{
    call->ending = true;
    call->code = ending->code;
    grpc_slice_unref(call->status_text);
    call->status_text = grpc_slice_from_copied_string(ending->message ? ending->message : "");
    if (ending->details.size_bytes) {
        grpc_slice_unref(call->details.value);
        call->details.value =
            grpc_slice_from_copied_buffer(ending->details.data, ending->details.size_bytes);
    }
}

void rpc_call_finish(struct rpc_call *call, const ProtobufCMessage *last,
                     const struct rpc_ending *ending)
{
    struct core_call *core = core_of(call);
    CHECK(!core->ending && !core->released && !(last && core->sending));
    ending_keep(core, ending);
    if (!core->closed && !core->sending) /* while sending, the status goes when that is over */
        send_start(core, last, true);
}

void rpc_call_cancel(struct rpc_call *call, const struct rpc_ending *ending)
{
    struct core_call *core = core_of(call);
    if (core->closed || core->cancelling)
        return;
    core->cancelling = true;
    grpc_call_cancel_with_status(core->core, (grpc_status_code)ending->code, ending->message, NULL);
}

void rpc_call_release(struct rpc_call *call)
{
    struct core_call *core = core_of(call);
    CHECK(!core->released);
    core->released = true;
    if (core->batches == 0) /* else we are inside a callback, or something is in flight */
        call_free(core);
}

/* ---- calls: accepting ---- */

static uint64_t deadline_of(gpr_timespec deadline)
{
    int32_t left_ms = gpr_time_to_millis(gpr_time_sub(deadline, gpr_now(deadline.clock_type)));
    if (left_ms == INT32_MAX) /* it saturates: none, or weeks away */
        return UINT64_MAX;
    return clock_now_ns() + (left_ms > 0 ? (uint64_t)left_ms * NS_PER_MS : 0);
}

static void path_copy(char *path, size_t room, grpc_slice method)
{
    size_t n = size_min(GRPC_SLICE_LENGTH(method), room - 1);
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = GRPC_SLICE_START_PTR(method)[i];
        path[i] = byte > 0x20 && byte < 0x7f ? (char)byte : '?';
    }
    path[n] = '\0';
}

static struct core_call *call_new(struct slot *slot)
{
    struct core_call *call = calloc(1, sizeof *call);
    if (!call)
        return NULL;
    struct rpc_queue *queue = slot->queue;
    call->call.queue = queue;
    call->call.server = slot->server;
    call->call.method = slot->method;
    call->call.deadline_ns = deadline_of(slot->method ? slot->deadline : slot->details.deadline);
    if (!slot->method)
        path_copy(call->call.path, sizeof call->call.path, slot->details.method);
    char *peer = grpc_call_get_peer(slot->core);
    if (!peer || sscanf(peer, "fd:%d", &call->call.peer_fd) != 1)
        call->call.peer_fd = -1;
    gpr_free(peer);
    call->core = slot->core;
    call->metadata = slot->metadata;
    call->accepted_ns = clock_now_ns();
    call->close_tag = (struct tag){.run = closed_run, .owner = call};
    call->read_tag = (struct tag){.run = read_run, .owner = call};
    call->send_tag = (struct tag){.run = send_run, .owner = call};
    call->status_text = grpc_empty_slice();
    call->details.key = grpc_slice_from_static_string("grpc-status-details-bin");
    call->details.value = grpc_empty_slice();
    call->next = queue->calls;
    if (call->next)
        call->next->previous = call;
    queue->calls = call;
    atomic_fetch_add(&queue->rpc->calls_count, 1);
    return call;
}

static void slot_arm(struct slot *slot)
{
    grpc_completion_queue *queue = slot->queue->core;
    grpc_metadata_array_init(&slot->metadata);
    tag_give(&slot->tag);
    if (slot->method) {
        grpc_server_request_registered_call(slot->server->core, slot->registered, &slot->core,
                                            &slot->deadline, &slot->metadata, NULL, queue, queue,
                                            &slot->tag);
    } else {
        grpc_call_details_init(&slot->details);
        grpc_server_request_call(slot->server->core, &slot->core, &slot->details, &slot->metadata,
                                 queue, queue, &slot->tag);
    }
}

static void slot_run(struct tag *tag, bool ok)
{
    struct slot *slot = tag->owner;
    if (!ok) { /* the server is stopping */
        grpc_metadata_array_destroy(&slot->metadata);
        if (!slot->method)
            grpc_call_details_destroy(&slot->details);
        return;
    }
    struct core_call *call = call_new(slot);
    if (!slot->method)
        grpc_call_details_destroy(&slot->details);
    if (!call) {
        grpc_metadata_array_destroy(&slot->metadata);
        grpc_call_cancel_with_status(slot->core, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                     "the daemon is out of memory", NULL);
        grpc_call_unref(slot->core);
    }
    slot_arm(slot); /* at once: a method without a standing order hangs its clients */
    if (call) {
        call->batches++; /* holds the call during the callback */
        close_watch(call);
        options_of(call)->callbacks->accepted(&call->call);
        batch_end(call);
    }
}

/* ---- queues ---- */

static void call_tick(struct core_call *call, uint64_t now_ns)
{
    const struct rpc_options *options = options_of(call);
    if (call->reading && !call->message_seen && !call->ending &&
        now_ns > call->accepted_ns + RPC_MESSAGE_TIMEOUT_NS)
        rpc_call_finish(&call->call, NULL,
                        &(struct rpc_ending){.code = RPC_DEADLINE_EXCEEDED,
                                             .message = "no request message came within 10 s"});
    if (call->sending && now_ns > call->send_started_ns + options->stall_timeout_ns)
        rpc_call_cancel(&call->call,
                        &(struct rpc_ending){.code = RPC_DEADLINE_EXCEEDED,
                                             .message = "the client did not read its stream"});
    if (!call->released && !call->ending && !call->closed)
        options->callbacks->ticked(&call->call, now_ns);
}

static void queue_tick(struct rpc_queue *queue, uint64_t now_ns)
{
    queue->ticked_ns = now_ns;
    for (struct core_call *call = queue->calls, *next; call; call = next) {
        next = call->next;
        call->batches++;
        call_tick(call, now_ns);
        batch_end(call);
    }
}

static void wake_run(struct tag *tag, bool ok)
{
    struct rpc_queue *queue = tag->owner;
    atomic_store(&queue->wake_posted, false); /* before looking: a later wake posts anew */
    queue->rpc->options.callbacks->woken(queue);
}

/*
 * The library has no way to post to a queue from outside, except that a batch without operations
 * on a living call comes back at once. So each queue has a call of its own for that, on a channel
 * that leads nowhere.
 */
void rpc_queue_wake(struct rpc_queue *queue)
{
    if (atomic_exchange(&queue->wake_posted, true))
        return;
    tag_give(&queue->wake_tag);
    CHECK(grpc_call_start_batch(queue->wake_call, NULL, 0, &queue->wake_tag, NULL) == GRPC_CALL_OK);
}

static void *queue_run(void *argument)
{
    struct rpc_queue *queue = argument;
    const gpr_timespec tick =
        gpr_time_from_millis((int64_t)(RPC_TICK_NS / NS_PER_MS), GPR_TIMESPAN);
    for (;;) {
        gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), tick);
        grpc_event event = grpc_completion_queue_next(queue->core, until, NULL);
        uint64_t now_ns = clock_now_ns();
        atomic_store_explicit(&queue->turned_ns, now_ns, memory_order_relaxed);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type == GRPC_OP_COMPLETE) {
            struct tag *tag = event.tag;
            tag_take(tag);
            tag->run(tag, event.success != 0); /* never stops on !success */
        }
        if (now_ns - queue->ticked_ns >= RPC_TICK_NS)
            queue_tick(queue, now_ns);
    }
}

static enum status queue_open(struct rpc *rpc, uint32_t index)
{
    struct rpc_queue *queue = &rpc->queues[index];
    queue->rpc = rpc;
    queue->index = index;
    queue->core = grpc_completion_queue_create_for_next(NULL);
    queue->wake_tag = (struct tag){.run = wake_run, .owner = queue};
    queue->wake_call = grpc_channel_create_call(rpc->wake_channel, NULL, 0, queue->core,
                                                grpc_slice_from_static_string("/wake"), NULL,
                                                gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    return queue->core && queue->wake_call ? STATUS_OK : STATUS_EXHAUSTED;
}

/* Everything that could post to it is gone. */
static void queue_close(struct rpc_queue *queue)
{
    if (!queue->core)
        return;
    if (queue->wake_call)
        grpc_call_unref(queue->wake_call);
    grpc_completion_queue_shutdown(queue->core);
    if (queue->started)
        pthread_join(queue->thread, NULL);
    else
        while (grpc_completion_queue_next(queue->core, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL)
                   .type != GRPC_QUEUE_SHUTDOWN)
            ;
    grpc_completion_queue_destroy(queue->core);
}

/* ---- servers ---- */

static void drained_run(struct tag *tag, bool ok)
{
    struct rpc_server *server = tag->owner;
    atomic_store(&server->drained, true);
}

static grpc_server *core_server_new(const struct rpc_options *options)
{
    grpc_arg args[array_count(channel_options_server) + 2];
    size_t n = array_count(channel_options_server);
    for (size_t i = 0; i < n; i++)
        args[i] = channel_arg(channel_options_server[i]);
    args[n++] = channel_arg((struct channel_option){GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
                                                    (int)options->message_max_bytes});
    args[n++] = channel_arg((struct channel_option){GRPC_ARG_MAX_CONCURRENT_STREAMS,
                                                    (int)options->connection_streams_max});
    return grpc_server_create(&(grpc_channel_args){.num_args = n, .args = args}, NULL);
}

/* One standing order of method `index` on each queue; service_methods_count: unknown methods. */
static void slots_fill(struct rpc_server *server, uint32_t index, void *registered)
{
    struct rpc *rpc = server->rpc;
    for (uint32_t q = 0; q < rpc->options.queues_count; q++) {
        struct slot *slot = &server->slots[q * (service_methods_count + 1) + index];
        slot->tag = (struct tag){.run = slot_run, .owner = slot};
        slot->server = server;
        slot->queue = &rpc->queues[q];
        slot->method = registered ? &service_methods[index] : NULL;
        slot->registered = registered;
    }
}

enum status rpc_server_add(struct rpc *rpc, bool (*offers)(const struct service_method *method),
                           struct rpc_server **ret_server, struct error *error)
{
    CHECK(rpc->n_servers < SERVERS_MAX);
    uint32_t n_slots = rpc->options.queues_count * (service_methods_count + 1);
    struct rpc_server *server = calloc(1, sizeof *server + n_slots * sizeof server->slots[0]);
    if (!server)
        return error_set(error, STATUS_EXHAUSTED, "no memory for a gRPC server");
    server->rpc = rpc;
    server->n_slots = n_slots;
    server->drained_tag = (struct tag){.run = drained_run, .owner = server};
    server->core = core_server_new(&rpc->options);
    for (uint32_t q = 0; q < rpc->options.queues_count; q++)
        grpc_server_register_completion_queue(server->core, rpc->queues[q].core, NULL);
    for (uint32_t m = 0; m < service_methods_count; m++) {
        if (!offers(&service_methods[m]))
            continue;
        /* The body is read only once the call's headers have been looked at. */
        void *registered = grpc_server_register_method(server->core, service_methods[m].path, NULL,
                                                       GRPC_SRM_PAYLOAD_NONE, 0);
        CHECK(registered);
        slots_fill(server, m, registered);
    }
    slots_fill(server, service_methods_count, NULL);
    rpc->servers[rpc->n_servers++] = server;
    *ret_server = server;
    return STATUS_OK;
}

void rpc_server_connect(struct rpc_server *server, int fd)
{
    grpc_server_add_channel_from_fd(server->core, fd, server->rpc->insecure);
}

void rpc_server_drain(struct rpc_server *server)
{
    tag_give(&server->drained_tag);
    grpc_server_shutdown_and_notify(server->core, server->rpc->queues[0].core,
                                    &server->drained_tag);
}

void rpc_server_cancel(struct rpc_server *server)
{
    grpc_server_cancel_all_calls(server->core);
}

bool rpc_server_is_drained(struct rpc_server *server)
{
    return atomic_load(&server->drained);
}

/* ---- all of it ---- */

enum status rpc_open(const struct rpc_options *options, struct rpc **ret_rpc, struct error *error)
{
    struct rpc *rpc = calloc(1, sizeof *rpc + options->queues_count * sizeof rpc->queues[0]);
    if (!rpc)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %u gRPC queues",
                         options->queues_count);
    rpc->options = *options;
    grpc_init();
    enum status status = STATUS_OK;
    rpc->insecure = grpc_insecure_server_credentials_create();
    rpc->wake_channel =
        grpc_lame_client_channel_create("wake", GRPC_STATUS_UNAVAILABLE, "leads nowhere");
    for (uint32_t i = 0; status == STATUS_OK && i < options->queues_count; i++) {
        status = queue_open(rpc, i);
        if (status != STATUS_OK)
            error_set(error, status, "gRPC queue %u could not be made", i);
    }
    if (status != STATUS_OK) {
        rpc_close(rpc);
        return status;
    }
    *ret_rpc = rpc;
    return STATUS_OK;
}

enum status rpc_start(struct rpc *rpc, struct error *error)
{
    for (uint32_t i = 0; i < rpc->n_servers; i++) {
        struct rpc_server *server = rpc->servers[i];
        grpc_server_start(server->core);
        for (uint32_t s = 0; s < server->n_slots; s++)
            if (server->slots[s].server)
                slot_arm(&server->slots[s]);
    }
    for (uint32_t i = 0; i < rpc->options.queues_count; i++) {
        struct rpc_queue *queue = &rpc->queues[i];
        atomic_store(&queue->turned_ns, clock_now_ns());
        if (pthread_create(&queue->thread, NULL, queue_run, queue) != 0)
            return error_set(error, STATUS_EXHAUSTED, "gRPC thread %u did not start", i);
        queue->started = true;
    }
    return STATUS_OK;
}

void rpc_close(struct rpc *rpc)
{
    for (uint32_t i = 0; i < rpc->n_servers; i++) {
        grpc_server_destroy(rpc->servers[i]->core);
        free(rpc->servers[i]);
    }
    for (uint32_t i = 0; i < rpc->options.queues_count; i++)
        queue_close(&rpc->queues[i]);
    grpc_channel_destroy(rpc->wake_channel);
    grpc_server_credentials_release(rpc->insecure);
    grpc_shutdown_blocking();
    free(rpc);
}

void *rpc_queue_above(const struct rpc_queue *queue)
{
    return queue->rpc->options.above[queue->index];
}

uint32_t rpc_calls_count(struct rpc *rpc)
{
    return atomic_load(&rpc->calls_count);
}

struct rpc_queue *rpc_queue_at(struct rpc *rpc, uint32_t index)
{
    CHECK(index < rpc->options.queues_count);
    return &rpc->queues[index];
}

bool rpc_is_healthy(struct rpc *rpc, uint64_t now_ns, uint64_t limit_ns)
{
    for (uint32_t i = 0; i < rpc->options.queues_count; i++) {
        uint64_t turned_ns = atomic_load_explicit(&rpc->queues[i].turned_ns, memory_order_relaxed);
        if (now_ns > turned_ns && now_ns - turned_ns > limit_ns)
            return false;
    }
    return true;
}
