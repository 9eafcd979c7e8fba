/* One call, from its headers to its status; see grpc_server.h for its life. */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "daemon/grpc_server_private.h"

_Static_assert((int)RPC_UNAVAILABLE == (int)GRPC_STATUS_UNAVAILABLE, "public numbers");

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
    if (call->status_sent && ok && call->call.note)
        options_of(call)->callbacks->flushed(call->call.queue, call->call.note);
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

void rpc_slot_arm(struct slot *slot)
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

void rpc_slot_run(struct tag *tag, bool ok)
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
    rpc_slot_arm(slot); /* at once: a method without a standing order hangs its clients */
    if (call) {
        call->batches++; /* holds the call during the callback */
        close_watch(call);
        options_of(call)->callbacks->accepted(&call->call);
        batch_end(call);
    }
}

/* ---- limits ---- */

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

void rpc_queue_tick(struct rpc_queue *queue, uint64_t now_ns)
{
    queue->ticked_ns = now_ns;
    for (struct core_call *call = queue->calls, *next; call; call = next) {
        next = call->next;
        call->batches++;
        call_tick(call, now_ns);
        batch_end(call);
    }
}
