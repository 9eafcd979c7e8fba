/* Addresses, and the guard's door. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/tcp_socket.h"

static void test_addresses(void **state)
{
    struct tcp_addresses addresses;
    struct error error;
    assert_int_equal(tcp_addresses_parse("", &addresses, &error), STATUS_OK);
    assert_int_equal(addresses.n, 0);
    assert_int_equal(tcp_addresses_parse(" 127.0.0.1:1 ,[::1]:65535, [::ffff:10.0.0.1]:7443",
                                         &addresses, &error),
                     STATUS_OK);
    assert_int_equal(addresses.n, 3);
    assert_string_equal(addresses.texts[0], "127.0.0.1:1");
    assert_string_equal(addresses.texts[1], "[::1]:65535");
}

static void test_bad_addresses(void **state)
{
    static const char *const bad[] = {
        "127.0.0.1",       "127.0.0.1:",   "127.0.0.1:0",      "127.0.0.1:65536",
        "127.0.0.1:99999", ":7443",        "::1:7443",         "[::1]",
        "[127.0.0.1]:1",   "example.org:1", "127.0.0.1:7443x", "127.0.0.1:+7",
        "127.1:7443",      ",",            "127.0.0.1:1,,",    "127.0.0.1:1 127.0.0.1:2",
        "127.0.0.1:1,127.0.0.1:1",
        "1.1.1.1:1,1.1.1.1:2,1.1.1.1:3,1.1.1.1:4,1.1.1.1:5,1.1.1.1:6,1.1.1.1:7,1.1.1.1:8,1.1.1.1:9",
        "[1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd]:12345678901234567890"};
    struct error error;
    for (size_t i = 0; i < array_count(bad); i++) {
        struct tcp_addresses addresses = {.n = 77};
        if (tcp_addresses_parse(bad[i], &addresses, &error) != STATUS_INVALID)
            fail_msg("%s was taken", bad[i]);
        assert_int_equal(addresses.n, 77);
    }
}

/* A listening socket on a free port. */
static int listen_somewhere(struct sockaddr_in *ret_address)
{
    socklen_t size_bytes = sizeof *ret_address;
    *ret_address = (struct sockaddr_in){.sin_family = AF_INET,
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)ret_address, size_bytes), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)ret_address, &size_bytes), 0);
    return fd;
}

static void test_address_that_is_taken(void **state)
{
    struct sockaddr_in address;
    struct tcp_addresses addresses;
    struct error error;
    char text[64];
    int fd = listen_somewhere(&address);
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(address.sin_port));
    assert_int_equal(tcp_addresses_parse(text, &addresses, &error), STATUS_OK);
    assert_int_equal(tcp_addresses_try(&addresses, &error), STATUS_EXISTS);
    assert_non_null(strstr(error.text, text));
    close(fd);
    assert_int_equal(tcp_addresses_try(&addresses, &error), STATUS_OK);
    assert_int_equal(tcp_addresses_try(&addresses, &error), STATUS_OK); /* it holds nothing */
    snprintf(text, sizeof text, "0.0.0.0:%u, 127.0.0.1:%u", ntohs(address.sin_port),
             ntohs(address.sin_port)); /* they exclude each other */
    assert_int_equal(tcp_addresses_parse(text, &addresses, &error), STATUS_OK);
    assert_int_equal(tcp_addresses_try(&addresses, &error), STATUS_EXISTS);
}

/* True when a connection is made within 200 ms. */
static bool knocks(const struct sockaddr_in *address, int *ret_fd)
{
    struct pollfd polled = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0),
                            .events = POLLOUT};
    *ret_fd = polled.fd;
    if (connect(polled.fd, (const struct sockaddr *)address, sizeof *address) == 0)
        return true;
    assert_int_equal(errno, EINPROGRESS);
    return poll(&polled, 1, 200) == 1 && !(polled.revents & (POLLERR | POLLHUP));
}

static void test_guard(void **state)
{
    struct sockaddr_in address;
    struct tcp_guard guard;
    struct error error;
    int first, second, third;
    int listening = listen_somewhere(&address);
    assert_int_equal(tcp_guard_open(2, &guard, &error), STATUS_OK);
    assert_int_equal(guard.n_listening, 1);
    assert_int_equal(guard.listening[0], listening);
    assert_int_equal(guard.connections, 0);
    assert_true(knocks(&address, &first));
    assert_false(tcp_guard_look(&guard));
    assert_true(knocks(&address, &second)); /* both ends count: here they are one process's */
    assert_true(tcp_guard_look(&guard));
    assert_true(guard.closed);
    assert_false(knocks(&address, &third));
    close(third);
    int accepted = accept(listening, NULL, NULL); /* who was in before goes on */
    assert_int_equal(send(first, "x", 1, 0), 1);
    char byte;
    assert_int_equal(recv(accepted, &byte, 1, 0), 1);
    close(first);
    close(second);
    close(accepted);
    assert_true(tcp_guard_look(&guard));
    assert_false(guard.closed);
    assert_true(knocks(&address, &third));
    close(third);
    close(listening);
    assert_int_equal(tcp_guard_open(2, &guard, &error), STATUS_INTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_address_that_is_taken),
        cmocka_unit_test(test_guard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
