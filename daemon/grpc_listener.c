#include "daemon/grpc_listener.h"

#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/grpc_calls.h"

#define FILES_WANTED 65536
#define TURN_NS (200 * NS_PER_MS) /* how often TLS files and TCP connections are looked at */
#define WAIT_STEP_NS (5 * NS_PER_MS)

/* With no call left, clients have this long to confirm the GOAWAY; an idle one may not even look at
 * its socket for seconds. */
#define GOAWAY_WAIT_NS (1 * NS_PER_S)

/* After the deadline everything is cancelled; this long the engines have to let go. */
#define CANCEL_WAIT_NS (5 * NS_PER_S)

/* A connection is a descriptor: take as many as the system lets us. */
static void files_raise(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= FILES_WANTED)
        return;
    files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
    setrlimit(RLIMIT_NOFILE, &files);
}

static void sockets_close(struct listener *listener)
{
    for (int role = 0; role < GRPC_SOCKETS_COUNT; role++)
        unix_socket_close(&listener->sockets[role]);
    if (listener->claim_fd >= 0)
        close(listener->claim_fd);
    listener->claim_fd = -1;
}

/* The service manager's socket where it gave one, else one of our own. */
static enum status role_open(struct listener *listener, enum grpc_role role, struct error *error)
{
    static const char *const names[GRPC_SOCKETS_COUNT] = {"galerne", "admin"};
    static const mode_t modes[GRPC_SOCKETS_COUNT] = {0660, 0600};
    const struct config *config = listener->front->config;
    struct unix_socket *made = &listener->sockets[role];
    char file[32];
    enum status status = unix_socket_inherit(names[role], made, error);
    if (status != STATUS_OK || made->fd >= 0) {
        listener->activated |= status == STATUS_OK && role == GRPC_PUBLIC;
        return status;
    }
    snprintf(file, sizeof file, "%s.sock", names[role]);
    return unix_socket_open(config->runtime_dir, file, modes[role],
                            role == GRPC_PUBLIC ? config->socket_group : "", made, error);
}

static enum status sockets_open(struct listener *listener, struct error *error)
{
    enum status status =
        runtime_claim(listener->front->config->runtime_dir, &listener->claim_fd, error);
    for (int role = 0; status == STATUS_OK && role < GRPC_SOCKETS_COUNT; role++)
        status = role_open(listener, (enum grpc_role)role, error);
    return status;
}

/* Files and addresses are looked at before anything is loaded; the library binds at the start. */
static enum status tcp_open(struct listener *listener, struct error *error)
{
    const struct config *config = listener->front->config;
    enum status status = tcp_addresses_parse(config->tcp_listen, &listener->addresses, error);
    if (status != STATUS_OK || listener->addresses.n == 0)
        return status;
    status = tcp_addresses_try(&listener->addresses, error);
    if (status == STATUS_OK)
        status = tls_files_open(config, &listener->tls, error);
    return status;
}

static enum status grpc_open(struct front *front, struct listener **ret_listener,
                             struct error *error)
{
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return error_set(error, STATUS_EXHAUSTED, "no memory for the gRPC listener");
    grpc_calls_check();
    listener->front = front;
    listener->claim_fd = -1;
    for (int role = 0; role < GRPC_SOCKETS_COUNT; role++)
        listener->sockets[role].fd = -1;
    listener->n_lanes = front->config->listener_threads_count;
    CHECK(listener->n_lanes >= 1 && listener->n_lanes <= array_count(listener->lanes));
    files_raise();
    enum status status = sockets_open(listener, error);
    if (status == STATUS_OK)
        status = tcp_open(listener, error);
    if (status != STATUS_OK) {
        sockets_close(listener);
        free(listener);
        return status;
    }
    *ret_listener = listener;
    return STATUS_OK;
}

/* ---- start ---- */

static void lane_wake(void *context)
{
    rpc_queue_wake(context);
}

static enum status lanes_open(struct listener *listener, struct error *error)
{
    const struct config *config = listener->front->config;
    for (uint32_t i = 0; i < listener->n_lanes; i++) {
        struct grpc_lane *lane = &listener->lanes[i];
        enum status status =
            outlet_open(&lane->outlet, front_producers_count(config), config->requests_max,
                        lane_wake, rpc_queue_at(listener->rpc, i), error);
        if (status != STATUS_OK)
            return status;
        lane->outlet_open = true;
    }
    return STATUS_OK;
}

static enum status tcp_listen(struct listener *listener, struct error *error)
{
    struct rpc_server **server = &listener->servers[GRPC_TCP];
    enum status status = STATUS_OK;
    if (listener->addresses.n)
        status = rpc_server_add(listener->rpc, grpc_calls_public, server, error);
    for (uint32_t i = 0; status == STATUS_OK && i < listener->addresses.n; i++) {
        status = rpc_server_listen(*server, listener->addresses.texts[i], listener->tls, error);
        if (status == STATUS_OK)
            log_info("listening on %s, TLS with client certificates", listener->addresses.texts[i]);
    }
    return status;
}

static enum status library_open(struct listener *listener, struct error *error)
{
    const struct config *config = listener->front->config;
    for (uint32_t i = 0; i < listener->n_lanes; i++) {
        listener->lanes[i].listener = listener;
        listener->lanes[i].walker = (struct walker){
            .trace = listener->front->trace, .writer = front_producers_count(config) + i};
        listener->aboves[i] = &listener->lanes[i];
    }
    struct rpc_options options = {
        .queues_count = listener->n_lanes,
        .message_max_bytes = config->message_max_bytes,
        .connection_streams_max = config->connection_streams_max,
        .stall_timeout_ns = config->stall_timeout_ns,
        .keepalive_time_ns = config->keepalive_time_ns,
        .keepalive_timeout_ns = config->keepalive_timeout_ns,
        .ping_interval_min_ns = config->ping_interval_min_ns,
        .connection_idle_max_ns = config->connection_idle_max_ns,
        .connection_age_max_ns = config->connection_age_max_ns,
        .connection_age_grace_ns = config->connection_age_grace_ns,
        .handshake_timeout_ns = config->tls_handshake_timeout_ns,
        .callbacks = &grpc_calls_callbacks,
        .above = listener->aboves,
    };
    enum status status = rpc_open(&options, &listener->rpc, error);
    if (status == STATUS_OK)
        status = rpc_server_add(listener->rpc, grpc_calls_public, &listener->servers[GRPC_PUBLIC],
                                error);
    if (status == STATUS_OK)
        status = rpc_server_add(listener->rpc, grpc_calls_operator,
                                &listener->servers[GRPC_OPERATOR], error);
    if (status == STATUS_OK)
        status = tcp_listen(listener, error);
    return status;
}

/* The library listens: from here on the number of connections is looked after. */
static enum status tcp_guard_start(struct listener *listener, struct error *error)
{
    uint32_t wanted = listener->front->config->tcp_connections_max;
    uint32_t most = tcp_connections_fit(wanted);
    if (listener->addresses.n == 0)
        return STATUS_OK;
    if (most < wanted)
        log_warning("%u TCP connections at most, not %u: raise the limit of open files "
                    "(LimitNOFILE)",
                    most, wanted);
    return tcp_guard_open(most, &listener->guard, error);
}

static void grpc_turn(struct listener *listener, bool reload)
{
    uint64_t now_ns = clock_now_ns();
    if (!listener->started || listener->addresses.n == 0)
        return;
    if (!reload && now_ns - listener->turned_ns < TURN_NS)
        return;
    listener->turned_ns = now_ns;
    if (reload)
        tls_files_reload(listener->tls);
    else
        tls_files_look(listener->tls);
    if (!listener->drained && tcp_guard_look(&listener->guard))
        log_warning("%u TCP connections are open: new ones %s", listener->guard.connections,
                    listener->guard.closed ? "wait" : "are taken again");
}

static enum status grpc_start(struct listener *listener, struct error *error)
{
    if (getrandom(&listener->name_salt, sizeof listener->name_salt, 0) !=
        (ssize_t)sizeof listener->name_salt)
        listener->name_salt = (uint32_t)clock_now_ns();
    enum status status = grpc_peers_open(&listener->peers, error);
    if (status == STATUS_OK)
        status = library_open(listener, error);
    if (status == STATUS_OK)
        status = lanes_open(listener, error);
    if (status == STATUS_OK) {
        listener->started = true; /* also half started: then close has to drain */
        status = rpc_start(listener->rpc, error);
    }
    if (status == STATUS_OK)
        status = tcp_guard_start(listener, error);
    if (status != STATUS_OK)
        return status;
    struct accept_port ports[GRPC_SOCKETS_COUNT];
    for (int role = 0; role < GRPC_SOCKETS_COUNT; role++) {
        ports[role] = (struct accept_port){.socket = &listener->sockets[role],
                                           .server = listener->servers[role],
                                           .operators_only = role == GRPC_OPERATOR};
        log_info("listening on %s", listener->sockets[role].path);
    }
    return grpc_accept_start(ports, GRPC_SOCKETS_COUNT, listener->peers, &listener->accept, error);
}

/* ---- drain and close ---- */

static bool calls_are_gone(struct listener *listener)
{
    return rpc_calls_count(listener->rpc) == 0;
}

static bool all_is_gone(struct listener *listener)
{
    for (int role = 0; role < GRPC_ROLES_COUNT; role++)
        if (listener->servers[role] && !rpc_server_is_drained(listener->servers[role]))
            return false;
    return calls_are_gone(listener);
}

static bool wait_for(struct listener *listener, bool (*test)(struct listener *listener),
                     uint64_t deadline_ns)
{
    const struct timespec step = {.tv_nsec = (long)WAIT_STEP_NS};
    while (!test(listener)) {
        if (clock_now_ns() >= deadline_ns)
            return false;
        nanosleep(&step, NULL);
    }
    return true;
}

/*
 * From the flag on every new call is answered UNAVAILABLE. GOAWAY goes out when the running calls
 * are over, not before: after an early one the library closes a connection as soon as it has
 * written the last stream's end, and a client that still writes (a window update) then takes the
 * broken pipe for the end of the stream and drops what it has not read. A late GOAWAY is confirmed
 * by the client, who has read everything by then.
 */
static void grpc_drain(struct listener *listener, uint64_t deadline_ns)
{
    if (!listener->started || listener->drained)
        return;
    listener->drained = true;
    atomic_store(&listener->front->draining, true);
    grpc_accept_stop(listener->accept);
    listener->accept = NULL;
    /* The paths go at once: who comes now learns it now, and does not wait in a backlog. */
    for (int role = 0; role < GRPC_SOCKETS_COUNT; role++)
        unix_socket_close(&listener->sockets[role]);
    if (!wait_for(listener, calls_are_gone, deadline_ns))
        log_warning("the time to drain is over: %u calls are cancelled",
                    rpc_calls_count(listener->rpc));
    for (int role = 0; role < GRPC_ROLES_COUNT; role++)
        if (listener->servers[role])
            rpc_server_drain(listener->servers[role]);
    if (calls_are_gone(listener) &&
        wait_for(listener, all_is_gone, clock_now_ns() + GOAWAY_WAIT_NS))
        return;
    for (int role = 0; role < GRPC_ROLES_COUNT; role++)
        if (listener->servers[role])
            rpc_server_cancel(listener->servers[role]);
    wait_for(listener, all_is_gone, clock_now_ns() + CANCEL_WAIT_NS);
}

static void grpc_close(struct listener *listener)
{
    grpc_drain(listener, clock_now_ns());
    if (listener->started && !wait_for(listener, all_is_gone, clock_now_ns() + CANCEL_WAIT_NS)) {
        /* Something below never gave an END; freeing under its feet would be worse than a leak. */
        log_error("%u calls did not end; their memory is not freed",
                  rpc_calls_count(listener->rpc));
        return;
    }
    if (listener->rpc)
        rpc_close(listener->rpc);
    for (uint32_t i = 0; i < listener->n_lanes; i++)
        if (listener->lanes[i].outlet_open)
            outlet_close(&listener->lanes[i].outlet);
    grpc_peers_close(listener->peers);
    tls_files_close(listener->tls);
    sockets_close(listener);
    free(listener);
}

static bool grpc_is_healthy(struct listener *listener, uint64_t now_ns, uint64_t limit_ns)
{
    if (!listener->started)
        return true;
    if (listener->accept && !grpc_accept_is_healthy(listener->accept, now_ns, limit_ns))
        return false;
    return rpc_is_healthy(listener->rpc, now_ns, limit_ns);
}

const struct listener_ops listener_grpc = {
    .name = "grpc",
    .open = grpc_open,
    .start = grpc_start,
    .drain = grpc_drain,
    .close = grpc_close,
    .turn = grpc_turn,
    .is_healthy = grpc_is_healthy,
};
