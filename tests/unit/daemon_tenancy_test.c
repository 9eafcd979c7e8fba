/* Which tenant a client is, and how tenants change while the daemon runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/digest.h"
#include "daemon/tenancy.h"

#define MODELS "models:\n  - name: demo\n    path: /m\n"
#define PRINT "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct config config;
static struct error error;
static struct tenancy *tenancy;

static const struct config *config_of(const char *tenants)
{
    char text[2048];
    snprintf(text, sizeof text, MODELS "%s", tenants);
    if (config_parse("t.yaml", span_of(text), &config, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return &config;
}

static void begin(const char *tenants)
{
    if (tenancy_open(config_of(tenants), &tenancy, &error) != STATUS_OK)
        fail_msg("%s", error.text);
}

static void change(const char *tenants)
{
    if (tenancy_replace(tenancy, config_of(tenants), &error) != STATUS_OK)
        fail_msg("%s", error.text);
}

static int end(void **state)
{
    tenancy_close(tenancy);
    tenancy = NULL;
    return 0;
}

static const struct tls_peer *peer_of(const char *first, const char *second, const char *print)
{
    static struct tls_peer peer;
    memset(&peer, 0, sizeof peer);
    if (first)
        tls_peer_add(&peer, span_of(first));
    if (second)
        tls_peer_add(&peer, span_of(second));
    snprintf(peer.fingerprint, sizeof peer.fingerprint, "%s", print);
    return &peer;
}

static struct tenancy_place place_of(const struct tls_peer *peer, uint32_t uid)
{
    struct tenancy_place place = {.tenant = 77};
    if (tenancy_find(tenancy, peer, uid, &place, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return place;
}

static const char *tenant_of(const struct tls_peer *peer, uint32_t uid)
{
    struct tenancy_place place;
    if (tenancy_find(tenancy, peer, uid, &place, &error) != STATUS_OK)
        return NULL;
    return tenancy_name(tenancy, place.tenant);
}

static void everybody_is_local(void **state)
{
    begin("");
    assert_false(tenancy_is_shared(tenancy));
    assert_string_equal(tenant_of(NULL, 1000), "local");
    assert_string_equal(tenant_of(NULL, UINT32_MAX), "local");
    assert_string_equal(tenant_of(peer_of("alice", NULL, ""), 0), "local");
    /* Each client has a cache of its own, an unknown one has none. */
    uint64_t domain = place_of(NULL, 1000).cache_domain;
    assert_true(domain != 0 && domain != place_of(NULL, 1001).cache_domain);
    assert_int_equal(domain, place_of(NULL, 1000).cache_domain);
    assert_int_equal(place_of(NULL, UINT32_MAX).cache_domain, 0);
    assert_true(place_of(peer_of("alice", NULL, ""), 0).cache_domain !=
                place_of(peer_of("bob", NULL, ""), 0).cache_domain);
    assert_true(place_of(peer_of("al?ce", NULL, ""), 0).cache_domain != 0);
    assert_int_equal(place_of(peer_of("al\tce", NULL, ""), 0).cache_domain, 0);
    assert_true(place_of(peer_of(NULL, NULL, PRINT), 0).cache_domain != 0);
    assert_int_equal(place_of(peer_of(NULL, NULL, ""), 0).cache_domain, 0);
}

static void finds_by_every_name(void **state)
{
    begin("tenants:\n"
          "- {name: chat, clients: [alice, \"al?ce\", \"spiffe://x/y\", \"uid:0007\"]}\n"
          "- {name: batch, clients: [bob, \"sha256:" PRINT "\", \"user:root\"]}\n");
    assert_true(tenancy_is_shared(tenancy));
    assert_string_equal(tenant_of(peer_of("alice", NULL, ""), 0), "chat");
    assert_string_equal(tenant_of(peer_of("nobody", "spiffe://x/y", ""), 0), "chat");
    assert_string_equal(tenant_of(peer_of("bob", NULL, ""), 0), "batch");
    assert_string_equal(tenant_of(peer_of("alice", NULL, PRINT), 0), "batch"); /* surest first */
    assert_string_equal(tenant_of(NULL, 7), "chat");
    assert_string_equal(tenant_of(NULL, 0), "batch");
    assert_null(tenant_of(NULL, 8));
    assert_int_equal(error.status, STATUS_DENIED);
    assert_non_null(strstr(error.text, "\"uid:8\""));
    assert_null(tenant_of(NULL, UINT32_MAX));
    assert_null(tenant_of(peer_of(NULL, NULL, ""), 0));
    /* A certificate is not a user of this host, and a changed name is nobody's. */
    assert_null(tenant_of(peer_of("uid:7", NULL, ""), 7));
    assert_string_equal(tenant_of(peer_of("al?ce", NULL, ""), 0), "chat");
    const char *changed = "al\tce";
    assert_string_equal(peer_of(changed, NULL, "")->names[0], "al?ce");
    assert_null(tenant_of(peer_of(changed, NULL, ""), 0));
    assert_null(tenant_of(peer_of(PRINT, NULL, ""), 0)); /* called so; its own print is another */
}

static void unknown_ones_go_to_the_default(void **state)
{
    begin("default_tenant: guests\ntenants:\n- {name: chat, clients: [alice]}\n- name: guests\n");
    assert_string_equal(tenant_of(NULL, 1000), "guests");
    assert_string_equal(tenant_of(peer_of("alice", NULL, ""), 0), "chat");
    assert_string_equal(tenant_of(peer_of("mallory", NULL, ""), 0), "guests");
}

static void domains_follow_the_key(void **state)
{
    begin("tenants:\n- name: p\n- name: q\n"
          "- {name: a, clients: [a]}\n"
          "- {name: b, clients: [b, b2]}\n"
          "- {name: none, clients: [none], cache: none}\n"
          "- {name: s, parent: p, clients: [s], cache: shared}\n"
          "- {name: s2, parent: p, clients: [s2], cache: shared}\n"
          "- {name: t, parent: q, clients: [t], cache: shared}\n"
          "- {name: u, clients: [u], cache: shared}\n"
          "- {name: reads, clients: [reads], cache: public}\n"
          "- {name: writes, clients: [writes], cache: publish}\n");
    static const char *const names[] = {"a", "b", "none", "s", "t", "u", "writes"};
    uint64_t domains[array_count(names)];
    for (size_t i = 0; i < array_count(names); i++)
        domains[i] = place_of(peer_of(names[i], NULL, ""), 0).cache_domain;
    for (size_t i = 0; i < array_count(names); i++)
        for (size_t j = 0; j < i; j++)
            assert_true(domains[i] != domains[j]);
    assert_int_equal(domains[2], 0);
    assert_int_equal(place_of(peer_of("b2", NULL, ""), 0).cache_domain, domains[1]);
    assert_int_equal(place_of(peer_of("s2", NULL, ""), 0).cache_domain, domains[3]);
    struct tenancy_place reads = place_of(peer_of("reads", NULL, ""), 0);
    assert_int_equal(reads.cache_domain, domains[6]);
    assert_true(reads.cache_readonly);
    assert_false(place_of(peer_of("writes", NULL, ""), 0).cache_readonly);
}

/* A name keeps its row for ever; what is left out is closed and has no rights. */
static void rows_keep_their_place(void **state)
{
    struct tenant_row rows[TENANCY_ROWS_MAX];
    uint64_t first, second;
    begin("tenants:\n- {name: a, clients: [a], reserved_percent: 10}\n- {name: b, clients: [b]}\n");
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &first), 2);
    assert_int_equal(rows[0].reserved_blocks, 10);
    assert_int_equal(tenancy_generation(tenancy), first);

    change("tenants:\n- {name: c, clients: [a], weight: 5}\n- {name: b, parent: c2}\n- name: c2\n");
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &second), 4);
    assert_true(second > first);
    assert_string_equal(rows[0].name, "a");
    assert_true(rows[0].closed);
    assert_int_equal(rows[0].reserved_blocks, 0);
    assert_string_equal(rows[1].name, "b");
    assert_int_equal(rows[1].parent, 3);
    assert_string_equal(rows[2].name, "c");
    assert_int_equal(rows[2].weight, 5);
    assert_string_equal(tenant_of(peer_of("a", NULL, ""), 0), "c");
    assert_null(tenant_of(peer_of("b", NULL, ""), 0));

    change(""); /* from tenants to none, and back */
    assert_string_equal(tenant_of(peer_of("b", NULL, ""), 0), "local");
    change("tenants:\n- {name: a, clients: [a]}\n");
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &second), 5);
    assert_false(rows[0].closed);
    assert_true(rows[4].closed);
    assert_string_equal(rows[4].name, "local");
    assert_string_equal(tenancy_name(tenancy, 4), "local");
    assert_string_equal(tenancy_name(tenancy, 5), "");
    assert_string_equal(tenancy_name(tenancy, UINT32_MAX), "");
}

static void refuses_whole(void **state)
{
    struct tenant_row rows[TENANCY_ROWS_MAX];
    uint32_t n_rows = 0;
    begin("tenants:\n- {name: a, clients: [a]}\n");
    uint64_t generation = tenancy_generation(tenancy);
    config_of("tenants:\n- name: a\n- {name: b, parent: a, clients: [a]}\n");
    assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "tenant a (line 5) takes requests of its own"));
    assert_int_equal(tenancy_preview(tenancy, &config, 100, rows, &n_rows, &error), STATUS_INVALID);
    config_of("tenants:\n- {name: a, clients: [\"user:no-such-user-here\"]}\n");
    assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "line 5: clients: there is no user no-such-user-here"));
    config_of("tenants:\n- {name: a, clients: [\"uid:12x\"]}\n");
    assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "line 5: clients: expected a user's number after uid:"));
    config_of("tenants:\n- {name: a, clients: [\"uid:7\", \"uid:07\"]}\n");
    assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "\"uid:7\" is listed twice"));
    assert_int_equal(tenancy_generation(tenancy), generation);
    assert_string_equal(tenant_of(peer_of("a", NULL, ""), 0), "a");

    config_of("tenants:\n- {name: b, weight: 9}\n");
    assert_int_equal(tenancy_preview(tenancy, &config, 100, rows, &n_rows, &error), STATUS_OK);
    assert_int_equal(n_rows, 2);
    assert_int_equal(rows[1].weight, 9);
    assert_string_equal(tenant_of(peer_of("a", NULL, ""), 0), "a"); /* a look changes nothing */

    struct quota_row limits[TENANCY_ROWS_MAX];
    config_of("tenants:\n- {name: b, requests_per_minute: 7}\n");
    assert_int_equal(tenancy_preview(tenancy, &config, 100, rows, &n_rows, &error), STATUS_OK);
    assert_int_equal(tenancy_preview_quotas(tenancy, limits), 2);
    assert_string_equal(limits[1].name, "b");
    assert_int_equal(limits[1].requests_per_minute, 7);
    assert_int_equal(tenancy_quotas(tenancy, limits), 1); /* in force */
    assert_int_equal(limits[0].requests_per_minute, 0);
}

/* An organisation that is left out and put back is the one that it was; a tenant that had requests
 * of its own stays without others below it, however long it was away. */
static void comes_back_with_those_below(void **state)
{
    static const char bank[] =
        "tenants:\n- name: bank\n- {name: chat, parent: bank, clients: [a]}\n- name: x\n";
    struct tenant_row rows[TENANCY_ROWS_MAX];
    uint64_t generation;
    begin(bank);
    change("tenants:\n- name: x\n");
    assert_null(tenant_of(peer_of("a", NULL, ""), 0));
    change("");
    change(bank);
    assert_string_equal(tenant_of(peer_of("a", NULL, ""), 0), "chat");
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &generation), 4);
    assert_int_equal(rows[1].parent, 0);
    assert_false(rows[0].closed || rows[1].closed);

    static const char *const below[] = {
        "tenants:\n- name: x\n- {name: y, parent: x}\n",
        "tenants:\n- name: bank\n- {name: chat, parent: bank}\n- {name: y, parent: chat}\n",
        "tenants:\n- name: local\n- {name: y, parent: local}\n"};
    change("tenants:\n- name: z\n");
    for (size_t i = 0; i < array_count(below); i++) {
        config_of(below[i]);
        assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
        assert_non_null(strstr(error.text, "takes requests of its own"));
    }
    change("tenants:\n- name: bank\n"); /* now it takes some itself */
    config_of(bank);
    assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
}

/* Whom an organisation limits is limited by it to the end. */
static void left_out_below_its_organisation(void **state)
{
    struct tenant_row rows[TENANCY_ROWS_MAX];
    uint64_t generation;
    begin("tenants:\n- name: bank\n- {name: chat, parent: bank}\n- {name: key, parent: chat}\n"
          "- {name: night, parent: bank}\n");
    change("tenants:\n- name: bank\n- {name: night, parent: bank}\n");
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &generation), 4);
    assert_true(rows[1].closed && rows[2].closed);
    assert_int_equal(rows[1].parent, 0);
    assert_int_equal(rows[2].parent, 0); /* the nearest that is there */
    change("tenants:\n- {name: bank, weight: 2}\n- {name: night, parent: bank}\n");
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &generation), 4);
    assert_int_equal(rows[2].parent, 0);
    change("tenants:\n- name: bank\n"); /* it has its own now, and can have none below it */
    assert_int_equal(tenancy_rows(tenancy, 100, rows, &generation), 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(rows[i].parent, TENANT_TOP);
}

static void runs_out_of_rows(void **state)
{
    char text[256];
    begin("tenants:\n- name: first\n");
    for (uint32_t i = 1; i < TENANCY_ROWS_MAX; i++) {
        snprintf(text, sizeof text, "tenants:\n- name: t%u\n", i);
        change(text);
    }
    config_of("tenants:\n- name: one-more\n");
    assert_int_equal(tenancy_replace(tenancy, &config, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "line 5: tenant one-more: with those that were there"));
    change("tenants:\n- name: first\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(everybody_is_local, end),
        cmocka_unit_test_teardown(finds_by_every_name, end),
        cmocka_unit_test_teardown(unknown_ones_go_to_the_default, end),
        cmocka_unit_test_teardown(domains_follow_the_key, end),
        cmocka_unit_test_teardown(rows_keep_their_place, end),
        cmocka_unit_test_teardown(refuses_whole, end),
        cmocka_unit_test_teardown(comes_back_with_those_below, end),
        cmocka_unit_test_teardown(left_out_below_its_organisation, end),
        cmocka_unit_test_teardown(runs_out_of_rows, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
