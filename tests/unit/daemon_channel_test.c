/* The channel and the worker's protocol: what a wrong other side gets, and that nothing leaks. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/channel.h"
#include "daemon/worker_protocol.h"

static const struct step_limits limits = {.slots_max = 4,
                                          .rows_max = 4,
                                          .tokens_max = 16,
                                          .open_tokens_max = 64,
                                          .context_tokens = 64,
                                          .block_tokens = 16,
                                          .blocks_count = 8};

static int open_count(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

static void fds_copy(const struct channel *channel, int ret_fds[3])
{
    ret_fds[0] = fcntl(channel->memory_fd, F_DUPFD_CLOEXEC, 0);
    ret_fds[1] = fcntl(channel->wake_down.fd, F_DUPFD_CLOEXEC, 0);
    ret_fds[2] = fcntl(channel->wake_up.fd, F_DUPFD_CLOEXEC, 0);
}

static void test_both_sides(void **state)
{
    (void)state;
    struct channel front, worker;
    struct error error;
    int before = open_count(), fds[3];
    assert_int_equal(channel_create(&limits, &front, &error), STATUS_OK);
    fds_copy(&front, fds);
    assert_int_equal(channel_attach(&limits, fds, &worker, &error), STATUS_OK);
    for (uint64_t i = 1; i <= 3 * CHANNEL_SLOTS; i++) {
        struct step *step = ring_reserve(front.down);
        assert_non_null(step);
        step_begin(step, &limits, 7, i);
        ring_commit(front.down);
        wake_signal(&front.wake_down);
        assert_true(wake_wait(&worker.wake_down, 0));
        wake_clear(&worker.wake_down);
        assert_false(wake_wait(&worker.wake_down, 0));
        const struct step *seen = ring_peek(worker.down);
        assert_non_null(seen);
        assert_int_equal(seen->number, i);
        ring_release(worker.down);
    }
    for (uint32_t i = 0; i < CHANNEL_SLOTS; i++) {
        assert_non_null(ring_reserve(front.down));
        ring_commit(front.down);
    }
    assert_null(ring_reserve(front.down)); /* full is full */
    channel_close(&worker);
    channel_close(&front);
    channel_close(&front); /* closed stays closed */
    assert_int_equal(open_count(), before);
}

static void test_attach_refuses(void **state)
{
    (void)state;
    struct channel front, worker = CHANNEL_CLOSED;
    struct step_limits others = limits;
    struct error error;
    int before = open_count(), fds[3];
    others.context_tokens = 128;
    others.open_tokens_max = 128;
    assert_int_equal(channel_create(&limits, &front, &error), STATUS_OK);
    fds_copy(&front, fds);
    assert_int_equal(channel_attach(&others, fds, &worker, &error), STATUS_INVALID);
    fds_copy(&front, fds);
    close(fds[0]);
    fds[0] = memfd_create("unsealed", MFD_CLOEXEC); /* could shrink under us */
    assert_int_equal(ftruncate(fds[0], (off_t)front.memory_bytes), 0);
    assert_int_equal(channel_attach(&limits, fds, &worker, &error), STATUS_INVALID);
    fds_copy(&front, fds);
    *(uint32_t *)front.memory ^= 1;
    assert_int_equal(channel_attach(&limits, fds, &worker, &error), STATUS_INVALID);
    assert_int_equal(worker.memory_fd, -1); /* outputs are untouched on failure */
    channel_close(&front);
    assert_int_equal(open_count(), before);
}

static void test_messages(void **state)
{
    (void)state;
    struct worker_message message = {0}, got;
    struct error error;
    int pair[2], fds[WORKER_FDS], before = open_count();
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
                     0);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_EXHAUSTED);

    message.progress.percent = 42;
    assert_int_equal(worker_send(pair[0], WORKER_PROGRESS, &message, NULL, &error), STATUS_OK);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_OK);
    assert_int_equal(got.kind, WORKER_PROGRESS);
    assert_int_equal(got.progress.percent, 42);

    int three[WORKER_FDS] = {pair[0], pair[0], pair[1]};
    assert_int_equal(worker_send(pair[0], WORKER_HELLO, &message, three, &error), STATUS_OK);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_OK);
    for (int i = 0; i < WORKER_FDS; i++)
        close(fds[i]);

    /* A hello without descriptors, descriptors without a hello, another version, junk, cut. */
    assert_int_equal(worker_send(pair[0], WORKER_HELLO, &message, NULL, &error), STATUS_OK);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_INVALID);
    assert_int_equal(worker_send(pair[0], WORKER_READY, &message, three, &error), STATUS_OK);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_INVALID);
    message.version++;
    assert_int_equal(send(pair[0], &message, sizeof message, 0), sizeof message);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "version"));
    assert_int_equal(send(pair[0], "GET / HTTP/1.1\r\n", 16, 0), 16);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_INVALID);
    message.version--;
    assert_int_equal(send(pair[0], &message, 40, 0), 40);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_INVALID);
    close(pair[0]);
    assert_int_equal(worker_receive(pair[1], &got, fds, &error), STATUS_UNAVAILABLE);
    close(pair[1]);
    assert_int_equal(open_count(), before); /* descriptors of refused messages are closed */
}

static void test_address(void **state)
{
    (void)state;
    struct sockaddr_un address;
    struct error error;
    char path[200];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_int_equal(worker_address(path, &address, &error), STATUS_INVALID);
    path[sizeof address.sun_path] = '\0';
    assert_int_equal(worker_address(path, &address, &error), STATUS_INVALID);
    path[sizeof address.sun_path - 1] = '\0';
    assert_int_equal(worker_address(path, &address, &error), STATUS_OK);
    assert_string_equal(address.sun_path, path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_sides),
        cmocka_unit_test(test_attach_refuses),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
