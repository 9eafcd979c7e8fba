/* The list of clients and the names of a certificate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/tls_files.h"

#define PRINT "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct tls_clients parsed(const char *text)
{
    struct tls_clients clients;
    struct error error;
    if (tls_clients_parse("list", span_of(text), &clients, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return clients;
}

static void test_names_and_prints(void **state)
{
    struct tls_clients clients =
        parsed("# who\n\n  zoe \t\nalice # the first\r\nJohn Smith\nspiffe://test/bob\n"
               "sha256:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:"
               "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF");
    assert_int_equal(clients.n, 5);
    const char *const have[] = {"alice", "zoe", "John Smith", "spiffe://test/bob", PRINT};
    for (size_t i = 0; i < array_count(have); i++)
        assert_true(tls_clients_have(&clients, have[i]));
    const char *const lack[] = {"", "ALICE", "alic", "alice ", "John", "#", "who"};
    for (size_t i = 0; i < array_count(lack); i++)
        assert_false(tls_clients_have(&clients, lack[i]));
    tls_clients_free(&clients);
}

/* A list without a line lets nobody in: that is not the same as no list. */
static void test_empty(void **state)
{
    struct tls_clients clients = parsed("\n# nobody\n");
    assert_int_equal(clients.n, 0);
    assert_false(tls_clients_have(&clients, "alice"));
    tls_clients_free(&clients);
}

static void expect_bad(struct span text, const char *words)
{
    struct tls_clients clients;
    struct error error;
    assert_int_equal(tls_clients_parse("list", text, &clients, &error), STATUS_INVALID);
    if (!strstr(error.text, words))
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
}

static void test_bad_lines(void **state)
{
    char longest[TLS_NAME_MAX_BYTES + 1];
    memset(longest, 'a', TLS_NAME_MAX_BYTES);
    longest[TLS_NAME_MAX_BYTES] = '\0';
    expect_bad(span_of("alice\nsha256:1234\n"), "list:2: expected 64");
    expect_bad(span_of("alice\n\nb\xc3\xb6" "b\n"), "list:3:");
    expect_bad(span_of(longest), "list:1: expected at most 127 bytes");
    expect_bad(span_of("-----BEGIN CERTIFICATE-----\n"), "PEM");
    expect_bad((struct span){"a\0b", 3}, "zero byte");
}

/* A name that may be chosen freely is nobody's fingerprint, however it is written. */
static void test_names_like_fingerprints(void **state)
{
    static const char *const prints[] = {
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
        "01:23:45:67:89:ab:cd:ef:0123456789abcdef0123456789abcdef0123456789abcdef"};
    struct tls_peer peer = {.n_names = 0};
    for (size_t i = 0; i < array_count(prints); i++) {
        tls_peer_add(&peer, span_of(prints[i]));
        assert_string_equal(peer.names[i], prints[i]); /* as the log shows it */
        assert_false(peer.exact[i]);
    }
    tls_peer_add(&peer, span_of(prints[0] + 1)); /* one digit less is a name */
    assert_true(peer.exact[array_count(prints)]);
}

/* A name that had to be changed for the log must not match a line. */
static void test_names_of_a_peer(void **state)
{
    struct tls_peer peer = {.n_names = 0};
    char longest[300];
    memset(longest, 'a', sizeof longest);
    tls_peer_add(&peer, span_of("alice"));
    tls_peer_add(&peer, span_of("al\"ice\n"));
    tls_peer_add(&peer, (struct span){longest, sizeof longest});
    assert_int_equal(peer.n_names, 3);
    assert_true(peer.exact[0] && !peer.exact[1] && !peer.exact[2]);
    assert_string_equal(peer.names[1], "al?ice?");
    assert_int_equal(strlen(peer.names[2]), TLS_NAME_MAX_BYTES - 1);
    for (int i = 0; i < 100; i++)
        tls_peer_add(&peer, span_of("more"));
    assert_int_equal(peer.n_names, TLS_NAMES_MAX);
    assert_false(tls_peer_certificate(&peer, span_of("no certificate")));
    assert_string_equal(peer.fingerprint, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_prints),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_names_of_a_peer),
        cmocka_unit_test(test_names_like_fingerprints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
