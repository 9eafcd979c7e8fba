#include "daemon/worker_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/worker_protocol.h"

#define CONNECT_EVERY_NS (5 * NS_PER_MS)
#define RETRY_MAX_NS (30 * NS_PER_S)
#define GOOD_SERVICE_NS (60 * NS_PER_S) /* after so long a loss counts as the first again */
#define LINGER_MS "10000"
#define STOP_WAIT_NS (3 * NS_PER_S)
#define LOSSES_MAX 3

extern char **environ;

static struct worker_options worker_options_of(const struct worker_link *link)
{
    const struct config_model *model = link->options.model;
    return (struct worker_options){.name = model->name,
                                   .path = model->path,
                                   .backend = model->backend,
                                   .tier = model->tier,
                                   .threads_count = model->threads_count,
                                   .cache_dir = link->options.config->cache_dir};
}

void link_init(struct worker_link *link, const struct link_options *options)
{
    memset(link, 0, sizeof *link);
    link->options = *options;
    link->socket = -1;
    link->peer_pidfd = -1;
    link->channel = CHANNEL_CLOSED;
    snprintf(link->socket_path, sizeof link->socket_path, "%s/worker-%s.sock",
             options->config->runtime_dir, options->model->name);
    struct worker_options worker = worker_options_of(link);
    worker_init(&link->worker, &worker, &link->thread_stop);
}

static bool is_inline(const struct worker_link *link)
{
    return link->options.model->worker == CONFIG_WORKER_INLINE;
}

static void text_set(struct worker_link *link, const char *text)
{
    snprintf(link->text, sizeof link->text, "%.*s", (int)sizeof link->text - 1, text);
}

/* ---- ending ---- */

static bool child_reap(struct worker_link *link)
{
    if (link->child && waitpid(link->child, NULL, WNOHANG) == link->child)
        link->child = 0;
    return link->child == 0;
}

static void thread_end(struct worker_link *link)
{
    if (!link->thread_runs)
        return;
    atomic_store(&link->thread_stop, true);
    pthread_join(link->thread, NULL);
    link->thread_runs = false;
}

/* A pidfd, so that a signal never meets another process that got the number since. */
static void peer_signal(const struct worker_link *link, int number)
{
    if (number == 0)
        return;
    if (link->peer_pidfd >= 0)
        pidfd_send_signal(link->peer_pidfd, number, NULL, 0);
    else if (link->child)
        kill(link->child, number); /* not reaped, so the number is still its own */
}

/* Lets go of this worker: socket, channel and, if it is a process, the process. */
static void worker_drop(struct worker_link *link, int signal_number)
{
    if (link->socket >= 0)
        close(link->socket);
    link->socket = -1;
    peer_signal(link, signal_number);
    if (link->peer_pidfd >= 0)
        close(link->peer_pidfd);
    link->peer_pidfd = -1;
    thread_end(link);
    channel_close(&link->channel);
    link->peer = 0;
    link->hung_ns = 0;
    link->spawned = false;
    child_reap(link);
}

static void attempt_over(struct worker_link *link, uint64_t now_ns)
{
    if (link->state == LINK_UP && now_ns - link->up_ns > GOOD_SERVICE_NS)
        link->losses = 0;
    worker_drop(link, SIGKILL);
    uint64_t wait_ns = link->losses == 0 ? 0 : NS_PER_S << u32_min(link->losses - 1, 5);
    link->losses++;
    link->state = LINK_ABSENT;
    link->retry_ns = now_ns + (link->failed ? RETRY_MAX_NS : wait_ns);
}

/* ---- starting ---- */

static enum status process_spawn(struct worker_link *link, struct error *error)
{
    const struct config_model *model = link->options.model;
    char threads[16];
    const char *cache_dir = link->options.config->cache_dir;
    snprintf(threads, sizeof threads, "%u", model->threads_count);
    const char *arguments[] = {
        "galerne-worker", "--name",      model->name,       "--path",
        model->path,      "--socket",    link->socket_path, "--backend",
        model->backend,   "--threads",   threads,           "--linger-ms",
        LINGER_MS,        "--cache-dir", cache_dir,         model->tier[0] ? "--tier" : NULL,
        model->tier,      NULL};
    posix_spawnattr_t attributes;
    sigset_t none;
    posix_spawnattr_init(&attributes);
    /* A group of its own: Ctrl-C at the terminal is for the front, which drains first. */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setpgroup(&attributes, 0);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    int rc = posix_spawn(&link->child, link->options.config->worker_binary, NULL, &attributes,
                         (char *const *)(uintptr_t)arguments, environ);
    posix_spawnattr_destroy(&attributes);
    if (rc != 0) {
        link->child = 0;
        return error_set(error, STATUS_IO,
                         "nobody listens on %s, and the worker %s cannot be started from here: %s; "
                         "enable galerne-worker@%s.socket, or check worker_binary",
                         link->socket_path, link->options.config->worker_binary, strerror(rc),
                         model->name);
    }
    link->spawned = true;
    link->starts_total++;
    return STATUS_OK;
}

static enum status hello_send(struct worker_link *link, struct error *error)
{
    enum status status = channel_create(&link->options.limits, &link->channel, error);
    if (status != STATUS_OK)
        return status;
    struct worker_message hello = {.hello = {.limits = link->options.limits}};
    memcpy(hello.hello.model_digest, link->options.model_digest, 32);
    int fds[WORKER_FDS] = {link->channel.memory_fd, link->channel.wake_down.fd,
                           link->channel.wake_up.fd};
    return worker_send(link->socket, WORKER_HELLO, &hello, fds, error);
}

static void peer_set(struct worker_link *link, pid_t pid)
{
    if (link->peer_pidfd >= 0)
        close(link->peer_pidfd);
    link->peer = pid;
    link->peer_pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
}

/*
 * The socket's peer is who began to listen there. That is the worker, or a service manager: process
 * 1, or that of a user's session, which is our parent. A manager is nobody to kill.
 */
static enum status listener_check(struct worker_link *link, int fd, struct error *error)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
        (peer.uid != geteuid() && peer.uid != 0))
        return error_set(error, STATUS_DENIED,
                         "%s belongs to another user: the worker must run as uid %u",
                         link->socket_path, (unsigned)geteuid());
    bool is_manager = peer.pid <= 1 || peer.pid == getppid() || peer.uid != geteuid();
    peer_set(link, is_manager ? 0 : peer.pid);
    return STATUS_OK;
}

/* OK with a connected socket; EXHAUSTED when nobody answers (yet). */
static enum status worker_connect(struct worker_link *link, struct error *error)
{
    struct sockaddr_un address;
    enum status status = worker_address(link->socket_path, &address, error);
    if (status != STATUS_OK)
        return status;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(error, STATUS_IO, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int code = errno;
        close(fd);
        if (code == ENOENT || code == ECONNREFUSED || code == EAGAIN)
            return error_set(error, STATUS_EXHAUSTED, "nobody listens on %s", link->socket_path);
        return error_set(error, STATUS_IO, "connecting to %s: %s", link->socket_path,
                         strerror(code));
    }
    status = listener_check(link, fd, error);
    if (status == STATUS_OK && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)) < 0)
        status = error_set(error, STATUS_IO, "SO_PASSCRED: %s", strerror(errno));
    if (status != STATUS_OK) {
        close(fd);
        return status;
    }
    link->socket = fd;
    return STATUS_OK;
}

/* ---- inline: the same session on a thread, over a socketpair ---- */

static void *inline_run(void *argument)
{
    struct worker_link *link = argument;
    worker_session(&link->worker, link->inline_socket, NULL); /* closes the socket */
    return NULL;
}

static enum status inline_start(struct worker_link *link, struct error *error)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(error, STATUS_IO, "socketpair: %s", strerror(errno));
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    link->socket = pair[0];
    link->inline_socket = pair[1];
    link->peer = getpid();
    atomic_store(&link->thread_stop, false);
    if (pthread_create(&link->thread, NULL, inline_run, link) != 0) {
        close(pair[1]);
        return error_set(error, STATUS_EXHAUSTED, "the inline worker's thread did not start");
    }
    link->thread_runs = true;
    link->starts_total++;
    return hello_send(link, error);
}

/* One look at a worker that is not connected yet. */
static enum status connecting_turn(struct worker_link *link, uint64_t now_ns, struct error *error)
{
    if (is_inline(link))
        return inline_start(link, error);
    enum status status = worker_connect(link, error);
    if (status == STATUS_EXHAUSTED) {
        if (!link->spawned) {
            if (!child_reap(link)) /* the one before is still dying */
                return STATUS_EXHAUSTED;
            return process_spawn(link, error) == STATUS_OK ? STATUS_EXHAUSTED : STATUS_IO;
        }
        if (child_reap(link))
            return error_set(error, STATUS_UNAVAILABLE,
                             "the worker left before it listened; see its log");
        if (now_ns - link->attempt_ns > link->options.config->worker_start_limit_ns)
            return error_set(error, STATUS_UNAVAILABLE,
                             "the worker does not listen on %s after %llu ms", link->socket_path,
                             (unsigned long long)((now_ns - link->attempt_ns) / NS_PER_MS));
        return STATUS_EXHAUSTED;
    }
    return status == STATUS_OK ? hello_send(link, error) : status;
}

/* ---- messages of a connected worker ---- */

static enum status ready_take(struct worker_link *link, const struct worker_message *message,
                              struct error *error)
{
    const struct step_limits *limits = &link->options.limits;
    if (memcmp(message->ready.model_digest, link->options.model_digest, 32) != 0 ||
        message->ready.block_tokens != limits->block_tokens ||
        message->ready.blocks_count != limits->blocks_count)
        return error_set(error, STATUS_UNAVAILABLE,
                         "the worker serves other files or limits than the front asked for");
    link->epoch = message->ready.epoch;
    link->weights_bytes = message->ready.weights_bytes;
    snprintf(link->device, sizeof link->device, "%.*s", (int)sizeof link->device - 1,
             message->ready.device);
    return STATUS_OK;
}

/* The sender of a message is the worker itself, whoever listened before it. */
static enum status sender_check(struct worker_link *link, const struct worker_sender *sender,
                                struct error *error)
{
    if (is_inline(link))
        return STATUS_OK;
    if (sender->uid != geteuid())
        return error_set(
            error, STATUS_DENIED, "process %d of uid %d serves %s: the worker must run as uid %u",
            (int)sender->pid, (int)sender->uid, link->socket_path, (unsigned)geteuid());
    if (sender->pid != link->peer)
        peer_set(link, sender->pid);
    return STATUS_OK;
}

/* EXHAUSTED: still loading. OK: READY came. */
static enum status loading_turn(struct worker_link *link, uint64_t now_ns, struct error *error)
{
    struct worker_message message;
    struct worker_sender sender;
    int fds[WORKER_FDS];
    enum status status;
    while ((status = worker_receive_from(link->socket, &message, fds, &sender, error)) ==
           STATUS_OK) {
        status = sender_check(link, &sender, error);
        if (status != STATUS_OK)
            return status;
        switch (message.kind) {
        case WORKER_PROGRESS:
            link->load_percent = u32_min(message.progress.percent, 100);
            link->quantises = message.progress.stage == MODEL_QUANTISING;
            break;
        case WORKER_READY:
            return ready_take(link, &message, error);
        case WORKER_FAILED:
            link->failed = true;
            return error_set(error, STATUS_INTERNAL, "%.*s", (int)sizeof message.failed.text - 1,
                             message.failed.text);
        default:
            return error_set(error, STATUS_INVALID, "unexpected message kind %u", message.kind);
        }
    }
    if (status == STATUS_EXHAUSTED &&
        now_ns - link->attempt_ns > link->options.config->worker_start_limit_ns) {
        link->failed = true;
        return error_set(
            error, STATUS_UNAVAILABLE, "the worker did not load the model within %llu ms%s",
            (unsigned long long)(link->options.config->worker_start_limit_ns / NS_PER_MS),
            link->quantises ? ", it still quantises it: raise worker_start_limit_ms" : "");
    }
    if (status == STATUS_UNAVAILABLE)
        return error_set(error, status, "the worker left while it loaded the model; see its log");
    return status;
}

/* Texts of another process, which go to operators. */
static void text_clean(char *text, size_t text_bytes)
{
    text[text_bytes - 1] = '\0';
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

static void facts_take(struct worker_link *link, const struct device_facts *facts)
{
    link->facts = *facts;
    text_clean(link->facts.name, sizeof link->facts.name);
    text_clean(link->facts.driver, sizeof link->facts.driver);
    text_clean(link->facts.note, sizeof link->facts.note);
}

/* After READY the worker tells of its device, and nothing else; its socket shows its end. */
static bool peer_is_gone(struct worker_link *link)
{
    struct pollfd fd = {.fd = link->socket, .events = POLLIN};
    struct worker_message message;
    int fds[WORKER_FDS];
    if (poll(&fd, 1, 0) <= 0)
        return false;
    enum status status = STATUS_UNAVAILABLE;
    if (fd.revents & POLLIN)
        status = worker_receive(link->socket, &message, fds, NULL);
    if (status == STATUS_OK && message.kind == WORKER_HELLO) /* descriptors that nobody wants */
        for (uint32_t i = 0; i < WORKER_FDS; i++)
            close(fds[i]);
    if (status == STATUS_OK && message.kind == WORKER_FACTS) {
        facts_take(link, &message.facts);
        return false;
    }
    return status != STATUS_EXHAUSTED;
}

static void end_count(struct worker_link *link, enum link_end cause)
{
    link->ends_total[cause]++;
    /* The attempt at once after a loss may meet the one that is dying: the loss is what matters. */
    if (cause != LINK_END_START || !link->end_text[0])
        memcpy(link->end_text, link->text, sizeof link->end_text);
    link->cause = LINK_END_DIED;
    link->facts = (struct device_facts){0};
}

/* ---- the machine ---- */

enum link_event link_turn(struct worker_link *link, uint64_t now_ns)
{
    struct error error = {0};
    enum status status = STATUS_EXHAUSTED;
    switch (link->state) {
    case LINK_ABSENT:
        child_reap(link);
        if (now_ns < link->retry_ns)
            return LINK_NOTHING;
        link->attempt_ns = now_ns;
        link->load_percent = 0;
        link->quantises = false;
        link->state = LINK_CONNECTING;
        /* fall through */
    case LINK_CONNECTING:
        status = connecting_turn(link, now_ns, &error);
        if (status == STATUS_OK)
            link->state = LINK_LOADING;
        break;
    case LINK_LOADING:
        status = loading_turn(link, now_ns, &error);
        if (status == STATUS_OK) {
            link->state = LINK_UP;
            link->up_ns = now_ns;
            link->failed = false;
            link->text[0] = '\0';
            return LINK_READY;
        }
        break;
    case LINK_UP:
        if (!peer_is_gone(link))
            return LINK_NOTHING;
        if (!link->text[0])
            text_set(link, "the worker died");
        end_count(link, link->cause);
        attempt_over(link, now_ns);
        return LINK_LOST;
    }
    if (status != STATUS_OK && status != STATUS_EXHAUSTED) {
        text_set(link, error.text);
        end_count(link, LINK_END_START);
        /* A worker that comes up and goes down again before it serves is as good as refusing. */
        link->failed |= link->losses >= LOSSES_MAX;
        attempt_over(link, now_ns);
    }
    return LINK_NOTHING;
}

uint32_t link_poll_fds(const struct worker_link *link, struct pollfd *ret_fds)
{
    uint32_t n = 0;
    if (link->socket >= 0)
        ret_fds[n++] = (struct pollfd){.fd = link->socket, .events = POLLIN};
    if (link->state == LINK_UP)
        ret_fds[n++] = (struct pollfd){.fd = link->channel.wake_up.fd, .events = POLLIN};
    return n;
}

uint64_t link_next_ns(const struct worker_link *link, uint64_t now_ns)
{
    switch (link->state) {
    case LINK_ABSENT:
        return link->retry_ns;
    case LINK_CONNECTING:
        return now_ns + CONNECT_EVERY_NS;
    case LINK_LOADING:
        return link->attempt_ns + link->options.config->worker_start_limit_ns;
    case LINK_UP:
        break;
    }
    return UINT64_MAX;
}

void link_hung(struct worker_link *link, enum link_end cause, const char *why)
{
    text_set(link, why);
    link->cause = cause;
    if (!link->hung_ns)
        link->hung_ns = clock_now_ns();
    if (is_inline(link))
        shutdown(link->socket, SHUT_RDWR); /* both ends see the end; a thread cannot be killed */
    else
        peer_signal(link, SIGKILL);
}

void link_stop(struct worker_link *link)
{
    /* A worker that we did not start belongs to the service manager, and to the next front. */
    worker_drop(link, link->child ? SIGTERM : 0);
    link->state = LINK_ABSENT;
    link->retry_ns = UINT64_MAX;
    uint64_t until_ns = clock_now_ns() + STOP_WAIT_NS;
    while (!child_reap(link)) {
        if (clock_now_ns() > until_ns) {
            kill(link->child, SIGKILL);
            waitpid(link->child, NULL, 0);
            link->child = 0;
            break;
        }
        poll(NULL, 0, 5);
    }
    if (is_inline(link))
        worker_close(&link->worker);
}
