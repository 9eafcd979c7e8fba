#include "daemon/grpc_server.h"

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>

#include "base/log.h"
#include "daemon/grpc_server_private.h"
#include "proto/channel_options.h"

/* ---- queues ---- */

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
            rpc_queue_tick(queue, now_ns);
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

static int ms_of(uint64_t time_ns)
{
    uint64_t ms = time_ns / NS_PER_MS;
    return ms == 0 || ms > INT32_MAX ? INT32_MAX : (int)ms; /* which the library takes as never */
}

static grpc_server *core_server_new(const struct rpc_options *options)
{
    const struct channel_option own[] = {
        {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)options->message_max_bytes},
        {GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)options->connection_streams_max},
        {GRPC_ARG_KEEPALIVE_TIME_MS, ms_of(options->keepalive_time_ns)},
        {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, ms_of(options->keepalive_timeout_ns)},
        {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
         ms_of(options->ping_interval_min_ns)},
        {GRPC_ARG_MAX_CONNECTION_IDLE_MS, ms_of(options->connection_idle_max_ns)},
        {GRPC_ARG_MAX_CONNECTION_AGE_MS, ms_of(options->connection_age_max_ns)},
        {GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, ms_of(options->connection_age_grace_ns)},
        {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, ms_of(options->handshake_timeout_ns)},
    };
    grpc_arg args[array_count(channel_options_server) + array_count(own)];
    size_t n = 0;
    for (size_t i = 0; i < array_count(channel_options_server); i++)
        args[n++] = channel_arg(channel_options_server[i]);
    for (size_t i = 0; i < array_count(own); i++)
        args[n++] = channel_arg(own[i]);
    return grpc_server_create(&(grpc_channel_args){.num_args = n, .args = args}, NULL);
}

/* One standing order of method `index` on each queue; service_methods_count: unknown methods. */
static void slots_fill(struct rpc_server *server, uint32_t index, void *registered)
{
    struct rpc *rpc = server->rpc;
    for (uint32_t q = 0; q < rpc->options.queues_count; q++) {
        struct slot *slot = &server->slots[q * (service_methods_count + 1) + index];
        slot->tag = (struct tag){.run = rpc_slot_run, .owner = slot};
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

/* What the library has to say is about strangers at the door, who could fill the log. */
static void log_take(gpr_log_func_args *line)
{
    log_debug("grpc: %s", line->message);
}

enum status rpc_open(const struct rpc_options *options, struct rpc **ret_rpc, struct error *error)
{
    gpr_set_log_function(log_take);
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
                rpc_slot_arm(&server->slots[s]);
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
        struct rpc_server *server = rpc->servers[i];
        grpc_server_destroy(server->core);
        for (uint32_t f = 0; f < server->n_fetched; f++)
            free(server->fetched[f]);
        free(server);
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
