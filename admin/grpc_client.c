#include "admin/grpc_client.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>

#include "base/clock.h"
#include "proto/any.pb-c.h"
#include "proto/channel_options.h"
#include "proto/duration.pb-c.h"
#include "proto/error_details.pb-c.h"
#include "proto/status.pb-c.h"

#define RETRY_MAX_S (100 * 86400) /* a monthly quota may say so many weeks */
#define SLICE_MS 20 /* how often a waiting call looks whether it is interrupted */

struct client {
    grpc_completion_queue *queue;
    grpc_channel *channel;
};

static const char *const code_names[] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

const char *client_code_name(enum client_code code)
{
    return (unsigned)code < array_count(code_names) ? code_names[code] : "UNKNOWN";
}

/* Takes the credentials. */
static struct client *channel_open(const char *target, grpc_channel_credentials *credentials)
{
    struct client *client = calloc(1, sizeof *client);
    grpc_arg args[array_count(channel_options_client)];
    CHECK(client != NULL && credentials != NULL);
    for (size_t i = 0; i < array_count(args); i++)
        args[i] = channel_arg(channel_options_client[i]);
    grpc_channel_args all = {.num_args = array_count(args), .args = args};
    client->queue = grpc_completion_queue_create_for_next(NULL);
    client->channel = grpc_channel_create(target, credentials, &all);
    grpc_channel_credentials_release(credentials);
    CHECK(client->queue != NULL && client->channel != NULL);
    return client;
}

static void library_open(void)
{
    setenv("GRPC_VERBOSITY", "NONE", 0); /* failures are ours to tell */
    grpc_init();
}

struct client *client_open(const char *socket_path)
{
    char target[512];
    library_open();
    snprintf(target, sizeof target, "unix:%s", socket_path);
    return channel_open(target, grpc_insecure_credentials_create());
}

struct client *client_open_tls(const char *address, const char *ca, const char *certificate,
                               const char *key)
{
    grpc_ssl_pem_key_cert_pair pair = {.private_key = key, .cert_chain = certificate};
    library_open();
    return channel_open(address, grpc_ssl_credentials_create_ex(ca, &pair, NULL, NULL));
}

void client_close(struct client *client)
{
    if (!client)
        return;
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_shutdown(client->queue);
    while (
        grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
        GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(client->queue);
    grpc_shutdown_blocking();
    free(client);
}

/* ---- one call ---- */

enum { TAG_SENT, TAG_RECEIVED, TAG_ENDED, TAG_COUNT };

/* What the library writes to while the call is under way. */
struct run {
    const struct client_call *call;
    grpc_call *handle;
    grpc_metadata_array headers, trailers;
    grpc_byte_buffer *message;
    grpc_status_code code;
    grpc_slice text;
    bool cancelled;
    bool is_garbled; /* an answer could not be decoded */
    uint32_t pending;
    char tags[TAG_COUNT]; /* their addresses are the tags */
};

static void batch_start(struct run *run, const grpc_op *ops, size_t n_ops, int tag)
{
    grpc_call_error problem = grpc_call_start_batch(run->handle, ops, n_ops, &run->tags[tag], NULL);
    CHECK(problem == GRPC_CALL_OK);
    run->pending++;
}

static grpc_byte_buffer *request_pack(const ProtobufCMessage *request)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(request));
    protobuf_c_message_pack(request, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static void receive_start(struct run *run)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &run->message;
    batch_start(run, &op, 1, TAG_RECEIVED);
}

static void run_start(struct run *run, grpc_byte_buffer *request)
{
    grpc_op send[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                       {.op = GRPC_OP_SEND_MESSAGE},
                       {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                       {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    grpc_op end = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    send[1].data.send_message.send_message = request;
    send[3].data.recv_initial_metadata.recv_initial_metadata = &run->headers;
    end.data.recv_status_on_client.trailing_metadata = &run->trailers;
    end.data.recv_status_on_client.status = &run->code;
    end.data.recv_status_on_client.status_details = &run->text;
    batch_start(run, send, array_count(send), TAG_SENT);
    batch_start(run, &end, 1, TAG_ENDED);
    receive_start(run);
}

static void run_cancel(struct run *run)
{
    if (!run->cancelled)
        grpc_call_cancel(run->handle, NULL);
    run->cancelled = true;
}

static void message_take(struct run *run)
{
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *message = NULL;
    if (grpc_byte_buffer_reader_init(&reader, run->message)) {
        grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
        message = protobuf_c_message_unpack(run->call->response, NULL, GRPC_SLICE_LENGTH(slice),
                                            GRPC_SLICE_START_PTR(slice));
        grpc_slice_unref(slice);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(run->message);
    run->message = NULL;
    run->is_garbled = run->is_garbled || !message;
    if (!message || !run->call->take(run->call->context, message))
        run_cancel(run);
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}

static void run_wait(struct run *run, grpc_completion_queue *queue)
{
    while (run->pending) {
        gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                          gpr_time_from_millis(SLICE_MS, GPR_TIMESPAN));
        grpc_event event = grpc_completion_queue_next(queue, until, NULL);
        if (run->call->interrupted && *run->call->interrupted)
            run_cancel(run);
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        run->pending--;
        if (event.tag == &run->tags[TAG_RECEIVED] && run->message) {
            message_take(run);
            receive_start(run);
        }
    }
}

/* ---- how it ended ---- */

static void copy_text(char *to, size_t capacity, const char *from)
{
    if (from)
        snprintf(to, capacity, "%s", from);
}

static ProtobufCMessage *detail_unpack(const Google__Protobuf__Any *any,
                                       const ProtobufCMessageDescriptor *type)
{
    const char *name = any->type_url ? strrchr(any->type_url, '/') : NULL;
    if (!name || strcmp(name + 1, type->name) != 0)
        return NULL;
    return protobuf_c_message_unpack(type, NULL, any->value.len, any->value.data);
}

static void detail_read(const Google__Protobuf__Any *any, struct client_failure *failure)
{
    ProtobufCMessage *m;
    if ((m = detail_unpack(any, &google__rpc__bad_request__descriptor))) {
        const Google__Rpc__BadRequest *bad = (const Google__Rpc__BadRequest *)m;
        if (bad->n_field_violations)
            copy_text(failure->field, sizeof failure->field, bad->field_violations[0]->field);
    } else if ((m = detail_unpack(any, &google__rpc__retry_info__descriptor))) {
        const Google__Rpc__RetryInfo *retry = (const Google__Rpc__RetryInfo *)m;
        const Google__Protobuf__Duration *delay = retry->retry_delay;
        if (delay && delay->seconds >= 0 && delay->seconds < RETRY_MAX_S && delay->nanos >= 0)
            failure->retry_ns = (uint64_t)delay->seconds * NS_PER_S + (uint64_t)delay->nanos;
    } else if ((m = detail_unpack(any, &google__rpc__error_info__descriptor))) {
        const Google__Rpc__ErrorInfo *info = (const Google__Rpc__ErrorInfo *)m;
        for (size_t i = 0; i < info->n_metadata; i++)
            if (info->metadata[i]->key && strcmp(info->metadata[i]->key, "request_id") == 0)
                copy_text(failure->request_id, sizeof failure->request_id,
                          info->metadata[i]->value);
    }
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
}

static void details_read(const grpc_metadata_array *trailers, struct client_failure *failure)
{
    for (size_t i = 0; i < trailers->count; i++) {
        const grpc_metadata *row = &trailers->metadata[i];
        if (grpc_slice_str_cmp(row->key, "grpc-status-details-bin") != 0)
            continue;
        Google__Rpc__Status *status = google__rpc__status__unpack(
            NULL, GRPC_SLICE_LENGTH(row->value), GRPC_SLICE_START_PTR(row->value));
        for (size_t k = 0; status && k < status->n_details; k++)
            detail_read(status->details[k], failure);
        if (status)
            google__rpc__status__free_unpacked(status, NULL);
    }
}

static bool run_result(const struct run *run, struct client_failure *ret_failure)
{
    memset(ret_failure, 0, sizeof *ret_failure);
    if (run->code == GRPC_STATUS_OK && !run->cancelled)
        return true;
    ret_failure->code = run->cancelled ? CLIENT_CANCELLED : (enum client_code)run->code;
    if (run->is_garbled) {
        ret_failure->code = CLIENT_INTERNAL;
        copy_text(ret_failure->text, sizeof ret_failure->text,
                  "the answer could not be decoded: is the daemon of another version?");
        return false;
    }
    snprintf(ret_failure->text, sizeof ret_failure->text, "%.*s", (int)GRPC_SLICE_LENGTH(run->text),
             (const char *)GRPC_SLICE_START_PTR(run->text));
    details_read(&run->trailers, ret_failure);
    return false;
}

bool client_run(struct client *client, const struct client_call *call,
                struct client_failure *ret_failure)
{
    struct run run = {.call = call, .text = grpc_empty_slice()};
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (call->timeout_ns)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_nanos((int64_t)call->timeout_ns, GPR_TIMESPAN));
    grpc_metadata_array_init(&run.headers);
    grpc_metadata_array_init(&run.trailers);
    run.handle =
        grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
                                 grpc_slice_from_static_string(call->method), NULL, deadline, NULL);
    grpc_byte_buffer *request = request_pack(call->request);
    run_start(&run, request);
    run_wait(&run, client->queue);
    bool good = run_result(&run, ret_failure);
    grpc_byte_buffer_destroy(request);
    grpc_slice_unref(run.text);
    grpc_metadata_array_destroy(&run.headers);
    grpc_metadata_array_destroy(&run.trailers);
    grpc_call_unref(run.handle);
    return good;
}
