#include "daemon/grpc_accept.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/wake.h"
#include "daemon/grpc_peers.h"
#include "daemon/grpc_server.h"
#include "daemon/unix_socket.h"

#define TURN_NS NS_PER_S
#define STARVED_NS (100 * NS_PER_MS) /* out of descriptors: how long to leave the backlog alone */
#define WARN_EVERY_NS (10 * NS_PER_S)
#define BURST_COUNT 64

struct grpc_accept {
    struct accept_port ports[ACCEPT_PORTS_MAX];
    uint32_t n_ports;
    struct grpc_peers *peers;
    struct wake stop_wake;
    atomic_bool stopping;
    _Atomic uint64_t turned_ns;
    uint64_t warned_ns;
    pthread_t thread;
};

static void starved_warn(struct grpc_accept *accept, const char *why)
{
    uint64_t now_ns = clock_now_ns();
    if (accept->warned_ns && now_ns - accept->warned_ns < WARN_EVERY_NS)
        return;
    accept->warned_ns = now_ns;
    log_warning("new connections wait: %s", why);
}

static bool peer_is_operator(const struct unix_peer *peer)
{
    return peer->uid == 0 || peer->uid == geteuid();
}

static void connection_add(struct grpc_accept *accept, const struct accept_port *port, int fd,
                           const struct unix_peer *peer)
{
    if (port->operators_only && !peer_is_operator(peer)) {
        log_warning("%s: connection of uid %d refused: only root and uid %d may operate",
                    port->socket->path, (int)peer->uid, (int)geteuid());
        close(fd);
        return;
    }
    int moved = grpc_peers_add(accept->peers, fd, peer->uid);
    if (moved < 0) {
        starved_warn(accept, strerror(errno));
        return;
    }
    log_debug("%s: connection of uid %d, pid %d", port->socket->path, (int)peer->uid,
              (int)peer->pid);
    rpc_server_connect(port->server, moved);
}

/* Takes what waits on one socket; false when descriptors ran out. */
static bool port_accept(struct grpc_accept *accept, const struct accept_port *port)
{
    for (int i = 0; i < BURST_COUNT; i++) {
        struct unix_peer peer;
        if (!grpc_peers_have_room(accept->peers, ACCEPT_CONNECTIONS_MAX)) {
            starved_warn(accept, "as many as are allowed are open");
            return false;
        }
        int fd = unix_socket_accept(port->socket, &peer);
        if (fd >= 0) {
            connection_add(accept, port, fd, &peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            starved_warn(accept, strerror(errno));
            return false;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return true; /* nobody waits any more */
        }
    }
    return true;
}

static void *accept_run(void *argument)
{
    struct grpc_accept *accept = argument;
    while (!atomic_load(&accept->stopping)) {
        struct pollfd polled[ACCEPT_PORTS_MAX];
        for (uint32_t i = 0; i < accept->n_ports; i++)
            polled[i] = (struct pollfd){.fd = accept->ports[i].socket->fd, .events = POLLIN};
        polled[accept->n_ports] = (struct pollfd){.fd = accept->stop_wake.fd, .events = POLLIN};
        poll(polled, accept->n_ports + 1, (int)(TURN_NS / NS_PER_MS));
        atomic_store(&accept->turned_ns, clock_now_ns());
        bool starved = false;
        for (uint32_t i = 0; i < accept->n_ports; i++)
            if (polled[i].revents && !port_accept(accept, &accept->ports[i]))
                starved = true;
        if (starved)
            wake_wait(&accept->stop_wake, STARVED_NS);
    }
    return NULL;
}

enum status grpc_accept_start(const struct accept_port *ports, uint32_t n_ports,
                              struct grpc_peers *peers, struct grpc_accept **ret_accept,
                              struct error *error)
{
    CHECK(n_ports < ACCEPT_PORTS_MAX); /* one place is the wake's */
    struct grpc_accept *accept = calloc(1, sizeof *accept);
    if (!accept)
        return error_set(error, STATUS_EXHAUSTED, "no memory for the accept thread");
    memcpy(accept->ports, ports, n_ports * sizeof *ports);
    accept->n_ports = n_ports;
    accept->peers = peers;
    atomic_store(&accept->turned_ns, clock_now_ns());
    enum status status = wake_open(&accept->stop_wake, error);
    if (status == STATUS_OK && pthread_create(&accept->thread, NULL, accept_run, accept) != 0) {
        wake_close(&accept->stop_wake);
        status = error_set(error, STATUS_EXHAUSTED, "the accept thread did not start");
    }
    if (status != STATUS_OK) {
        free(accept);
        return status;
    }
    *ret_accept = accept;
    return STATUS_OK;
}

void grpc_accept_stop(struct grpc_accept *accept)
{
    if (!accept)
        return;
    atomic_store(&accept->stopping, true);
    wake_signal(&accept->stop_wake);
    pthread_join(accept->thread, NULL);
    wake_close(&accept->stop_wake);
    free(accept);
}

bool grpc_accept_is_healthy(struct grpc_accept *accept, uint64_t now_ns, uint64_t limit_ns)
{
    uint64_t turned_ns = atomic_load(&accept->turned_ns);
    return now_ns <= turned_ns || now_ns - turned_ns <= limit_ns;
}
