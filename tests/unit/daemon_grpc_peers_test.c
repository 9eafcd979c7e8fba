/* Connections by number: who they are, and how many are still open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/grpc_peers.h"

static int pair(int *ret_other)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *ret_other = fds[1];
    return fds[0];
}

static void test_uid_by_number(void **state)
{
    struct grpc_peers *peers;
    struct error error;
    int other[2];
    assert_int_equal(grpc_peers_open(&peers, &error), STATUS_OK);
    assert_int_equal(grpc_peers_uid(peers, -1), UINT32_MAX);
    assert_int_equal(grpc_peers_uid(peers, 1 << 30), UINT32_MAX);
    int a = grpc_peers_add(peers, pair(&other[0]), 1000);
    assert_int_equal(grpc_peers_uid(peers, a + 1), UINT32_MAX); /* never seen, and not root */
    int b = grpc_peers_add(peers, pair(&other[1]), 0);
    assert_true(a >= 64 && b > a);
    assert_int_equal(grpc_peers_uid(peers, a), 1000);
    assert_int_equal(grpc_peers_uid(peers, b), 0);
    /* A number that has just been closed is not the next one's. */
    close(a);
    int c = grpc_peers_add(peers, dup(other[0]), 7);
    assert_true(c > b);
    assert_int_equal(grpc_peers_uid(peers, a), 1000);
    close(b);
    close(c);
    close(other[0]);
    close(other[1]);
    grpc_peers_close(peers);
}

static void test_room(void **state)
{
    struct grpc_peers *peers;
    struct error error;
    int fds[5], other;
    assert_int_equal(grpc_peers_open(&peers, &error), STATUS_OK);
    for (int i = 0; i < 5; i++) {
        assert_true(grpc_peers_have_room(peers, 5));
        fds[i] = grpc_peers_add(peers, pair(&other), 1);
        close(other);
    }
    assert_false(grpc_peers_have_room(peers, 5));
    close(fds[2]);
    assert_true(grpc_peers_have_room(peers, 5));
    /* Another socket of the same number is not the one that we knew. */
    int stranger = pair(&other);
    assert_int_equal(dup2(stranger, fds[4]), fds[4]);
    assert_true(grpc_peers_have_room(peers, 4));
    assert_false(grpc_peers_have_room(peers, 3));
    close(stranger);
    close(other);
    for (int i = 0; i < 5; i++)
        close(fds[i]);
    assert_true(grpc_peers_have_room(peers, 1));
    grpc_peers_close(peers);
}

/* Numbers go round, and the end of them is an error, not a loop. */
static void test_few_descriptors(void **state)
{
    struct grpc_peers *peers;
    struct error error;
    struct rlimit old, few;
    int fds[300], other, n = 0, keep = pair(&other);
    getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = 200;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(grpc_peers_open(&peers, &error), STATUS_OK);
    while (n < 300) {
        int fd = dup(keep);
        fds[n] = fd < 0 ? -1 : grpc_peers_add(peers, fd, 5);
        if (fds[n] < 0)
            break;
        n++;
    }
    assert_int_equal(n, 200 - 64);
    close(fds[10]);
    int again = grpc_peers_add(peers, dup(keep), 6);
    assert_int_equal(again, fds[10]);
    assert_int_equal(grpc_peers_uid(peers, again), 6);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    grpc_peers_close(peers);

    few.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(grpc_peers_open(&peers, &error), STATUS_EXHAUSTED);
    assert_non_null(strstr(error.text, "LimitNOFILE"));
    setrlimit(RLIMIT_NOFILE, &old);
    close(keep);
    close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uid_by_number),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_few_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
