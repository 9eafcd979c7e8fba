#include "base/wake.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum status wake_open(struct wake *ret_wake, struct error *error)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return error_set(error, STATUS_IO, "eventfd: %s", strerror(errno));
    ret_wake->fd = fd;
    return STATUS_OK;
}

void wake_close(struct wake *wake)
{
    if (wake->fd >= 0)
        close(wake->fd);
    wake->fd = -1;
}

void wake_signal(const struct wake *wake)
{
    uint64_t one = 1;
    ssize_t n = write(wake->fd, &one, sizeof one);
    (void)n; /* EAGAIN means that 2^64-2 signals wait already: still a signal */
}

void wake_clear(const struct wake *wake)
{
    uint64_t count;
    ssize_t n = read(wake->fd, &count, sizeof count);
    (void)n;
}

bool wake_wait(const struct wake *wake, uint64_t timeout_ns)
{
    struct pollfd poll_fd = {.fd = wake->fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
                               .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    return ppoll(&poll_fd, 1, &timeout, NULL) > 0;
}
