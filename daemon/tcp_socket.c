#include "daemon/tcp_socket.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* ---- addresses ---- */

static enum status address_parse(const char *text, union address *ret, struct error *error)
{
    char host[TCP_ADDRESS_MAX_BYTES];
    const char *colon = strrchr(text, ':');
    union address address = {.any = {.sa_family = AF_UNSPEC}};
    unsigned port = 0;
    int used = 0;
    bool good = colon && sscanf(colon + 1, "%5u%n", &port, &used) == 1 && !colon[1 + used] &&
                colon[1] >= '1' && colon[1] <= '9' && port <= 65535;
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (good && length > 2 && text[0] == '[' && text[length - 1] == ']') {
        snprintf(host, sizeof host, "%.*s", (int)length - 2, text + 1);
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons((uint16_t)port);
        good = inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1;
    } else if (good) {
        snprintf(host, sizeof host, "%.*s", (int)length, text);
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons((uint16_t)port);
        good = inet_pton(AF_INET, host, &address.v4.sin_addr) == 1;
    }
    if (!good)
        return error_set(error, STATUS_INVALID,
                         "expected a numeric address and a port from 1 to 65535, as in "
                         "127.0.0.1:7443 or [::1]:7443, got \"%s\"",
                         text);
    if (ret)
        *ret = address;
    return STATUS_OK;
}

enum status tcp_addresses_parse(const char *text, struct tcp_addresses *ret_addresses,
                                struct error *error)
{
    struct tcp_addresses addresses = {.n = 0};
    while (*text) {
        size_t length = strcspn(text, ",");
        const char *from = text + strspn(text, " "), *to = text + length;
        while (to > from && to[-1] == ' ')
            to--;
        if (addresses.n == TCP_ADDRESSES_MAX)
            return error_set(error, STATUS_INVALID, "expected at most %d addresses",
                             TCP_ADDRESSES_MAX);
        char *copy = addresses.texts[addresses.n++];
        snprintf(copy, TCP_ADDRESS_MAX_BYTES, "%.*s", (int)(to > from ? to - from : 0), from);
        enum status status = address_parse(copy, NULL, error);
        if (status != STATUS_OK)
            return status;
        for (uint32_t i = 0; i + 1 < addresses.n; i++)
            if (strcmp(addresses.texts[i], copy) == 0)
                return error_set(error, STATUS_INVALID, "%s stands twice", copy);
        text += length;
        text += *text == ',';
    }
    *ret_addresses = addresses;
    return STATUS_OK;
}

/* 0, or the errno; *ret_fd may be open in both cases. */
static int address_bind(const union address *address, int *ret_fd)
{
    int on = 1;
    bool is_v6 = address->any.sa_family == AF_INET6;
    *ret_fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*ret_fd < 0)
        return errno;
    setsockopt(*ret_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* as the library does */
    if (bind(*ret_fd, &address->any, is_v6 ? sizeof address->v6 : sizeof address->v4) != 0 ||
        listen(*ret_fd, 1) != 0)
        return errno;
    return 0;
}

enum status tcp_addresses_try(const struct tcp_addresses *addresses, struct error *error)
{
    int fds[TCP_ADDRESSES_MAX]; /* all held to the end: two of them may exclude each other */
    uint32_t n = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && n < addresses->n) {
        union address address;
        const char *text = addresses->texts[n];
        status = address_parse(text, &address, error);
        if (status != STATUS_OK)
            break;
        int reason = address_bind(&address, &fds[n++]);
        if (reason == EADDRINUSE)
            status = error_set(error, STATUS_EXISTS,
                               "tcp_listen %s: somebody listens there already: stop it, or give "
                               "another address",
                               text);
        else if (reason)
            status = error_set(error, STATUS_IO, "tcp_listen %s: %s", text, strerror(reason));
    }
    while (n-- > 0)
        if (fds[n] >= 0)
            close(fds[n]);
    return status;
}

/* ---- the guard ---- */

uint32_t tcp_connections_fit(uint32_t wanted)
{
    struct rlimit files = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &files);
    rlim_t half = files.rlim_cur / 2;
    return half < wanted ? (uint32_t)half : wanted;
}

static int option_of(int fd, int option)
{
    int value = -1;
    socklen_t size_bytes = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size_bytes) == 0 ? value : -1;
}

/* Walks this process's descriptors; listening ones go to `ret_listening` when that is not NULL. */
static uint32_t tcp_count(int *ret_listening, uint32_t *ret_n_listening)
{
    uint32_t connections = 0, n = 0;
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        int fd = 0;
        if (sscanf(entry->d_name, "%d", &fd) != 1)
            continue;
        int domain = option_of(fd, SO_DOMAIN);
        if ((domain != AF_INET && domain != AF_INET6) || option_of(fd, SO_TYPE) != SOCK_STREAM)
            continue;
        if (option_of(fd, SO_ACCEPTCONN) != 1)
            connections++;
        else if (ret_listening && n < TCP_ADDRESSES_MAX)
            ret_listening[n++] = fd;
    }
    if (directory)
        closedir(directory);
    if (ret_n_listening)
        *ret_n_listening = n;
    return connections;
}

enum status tcp_guard_open(uint32_t connections_max, struct tcp_guard *ret_guard,
                           struct error *error)
{
    struct tcp_guard guard = {.connections_max = connections_max};
    guard.connections = tcp_count(guard.listening, &guard.n_listening);
    if (guard.n_listening == 0)
        return error_set(error, STATUS_INTERNAL,
                         "the TCP listener cannot be found: is /proc mounted?");
    *ret_guard = guard;
    return STATUS_OK;
}

bool tcp_guard_look(struct tcp_guard *guard)
{
    struct sock_filter drop = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog program = {.len = 1, .filter = &drop};
    guard->connections = tcp_count(NULL, NULL);
    bool closed = guard->connections >= guard->connections_max;
    if (closed == guard->closed)
        return false;
    bool done = true;
    for (uint32_t i = 0; i < guard->n_listening; i++)
        done &= setsockopt(guard->listening[i], SOL_SOCKET,
                           closed ? SO_ATTACH_FILTER : SO_DETACH_FILTER, &program,
                           sizeof program) == 0;
    if (!done) /* the next look tries again */
        return false;
    guard->closed = closed;
    return true;
}
