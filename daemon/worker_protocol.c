#include "daemon/worker_protocol.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union control {
    char bytes[CMSG_SPACE(WORKER_FDS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    struct cmsghdr align;
};

enum status worker_send(int socket, enum worker_kind kind, struct worker_message *message,
                        const int *fds, struct error *error)
{
    message->magic = WORKER_MAGIC;
    message->version = WORKER_PROTOCOL_VERSION;
    message->kind = kind;
    message->size_bytes = sizeof *message;
    struct iovec part = {.iov_base = message, .iov_len = sizeof *message};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
    union control control = {0};
    if (fds) {
        packet.msg_control = control.bytes;
        packet.msg_controllen = CMSG_SPACE(WORKER_FDS * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&packet);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(WORKER_FDS * sizeof(int));
        memcpy(CMSG_DATA(head), fds, WORKER_FDS * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(socket, &packet, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof *message)
        return error_set(error, STATUS_UNAVAILABLE, "sending to the other side: %s",
                         n < 0 ? strerror(errno) : "cut");
    return STATUS_OK;
}

/* Takes every descriptor out of a packet; closes those past the WORKER_FDS that we know. */
static uint32_t fds_take(struct msghdr *packet, int fds[WORKER_FDS])
{
    uint32_t count = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(packet); head; head = CMSG_NXTHDR(packet, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof fd);
            if (count < WORKER_FDS)
                fds[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

static struct worker_sender sender_of(struct msghdr *packet)
{
    struct ucred from;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(packet); head; head = CMSG_NXTHDR(packet, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_CREDENTIALS ||
            head->cmsg_len != CMSG_LEN(sizeof from))
            continue;
        memcpy(&from, CMSG_DATA(head), sizeof from);
        return (struct worker_sender){.pid = from.pid, .uid = from.uid};
    }
    return (struct worker_sender){.uid = (uid_t)-1};
}

enum status worker_receive(int socket, struct worker_message *ret_message, int ret_fds[WORKER_FDS],
                           struct error *error)
{
    struct worker_sender sender;
    return worker_receive_from(socket, ret_message, ret_fds, &sender, error);
}

enum status worker_receive_from(int socket, struct worker_message *ret_message,
                                int ret_fds[WORKER_FDS], struct worker_sender *ret_sender,
                                struct error *error)
{
    struct worker_message message;
    struct iovec part = {.iov_base = &message, .iov_len = sizeof message};
    union control control;
    struct msghdr packet = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do
        n = recvmsg(socket, &packet, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return error_set(error, STATUS_EXHAUSTED, "no message waits");
    if (n <= 0)
        return error_set(error, STATUS_UNAVAILABLE, "the other side is gone%s%s", n < 0 ? ": " : "",
                         n < 0 ? strerror(errno) : "");

    int fds[WORKER_FDS];
    uint32_t n_fds = fds_take(&packet, fds);
    uint32_t expected_fds = 0;
    enum status status = STATUS_OK;
    if ((size_t)n != sizeof message || message.magic != WORKER_MAGIC ||
        message.size_bytes != sizeof message) {
        status = error_set(error, STATUS_INVALID, "not a message of this protocol (%zd bytes)", n);
    } else if (message.version != WORKER_PROTOCOL_VERSION) {
        status = error_set(error, STATUS_INVALID,
                           "protocol version %u, expected %u: front and worker are not of one "
                           "version; restart both",
                           message.version, WORKER_PROTOCOL_VERSION);
    } else {
        expected_fds = message.kind == WORKER_HELLO ? WORKER_FDS : 0;
        if (n_fds != expected_fds || (packet.msg_flags & MSG_CTRUNC))
            status = error_set(error, STATUS_INVALID, "%u descriptors came with it, expected %u",
                               n_fds, expected_fds);
    }
    if (status != STATUS_OK || expected_fds == 0)
        for (uint32_t i = 0; i < n_fds; i++)
            close(fds[i]);
    if (status != STATUS_OK)
        return status;
    if (expected_fds)
        memcpy(ret_fds, fds, sizeof fds);
    *ret_sender = sender_of(&packet);
    *ret_message = message;
    return STATUS_OK;
}

enum status worker_address(const char *path, struct sockaddr_un *ret_address, struct error *error)
{
    size_t length = strlen(path);
    if (length >= sizeof ret_address->sun_path)
        return error_set(error, STATUS_INVALID,
                         "%s: a socket's path has at most %zu bytes, this one has %zu; choose a "
                         "shorter runtime_dir",
                         path, sizeof ret_address->sun_path - 1, length);
    memset(ret_address, 0, sizeof *ret_address);
    ret_address->sun_family = AF_UNIX;
    memcpy(ret_address->sun_path, path, length + 1);
    return STATUS_OK;
}
