/*
 * The configuration file: what is accepted, and what each mistake is answered with.
 *
 * docs/configuration.md holds the tables between two marks; the test compares them with the option
 * table. GALERNE_WRITE_DOCS=1 writes them instead.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/config.h"
#include "daemon/config_table.h"
#include "daemon/config_tenants.h"
#include "kernels/ops.h"

#define MODELS "models:\n  - name: demo\n    path: /m\n"

static struct config config;
static struct error error;

static enum status parse(const char *text)
{
    memset(&error, 0, sizeof error);
    return config_parse("t.yaml", span_of(text), &config, &error);
}

static void must_parse(const char *text)
{
    if (parse(text) != STATUS_OK)
        fail_msg("%s", error.text);
}

static void has_defaults(void **state)
{
    setenv("RUNTIME_DIRECTORY", "/run/here", 1);
    must_parse(MODELS);
    assert_string_equal(config.file, "");
    assert_string_equal(config.runtime_dir, "/run/here");
    assert_string_equal(config.socket_group, "galerne");
    const char *worker = strrchr(config.worker_binary, '/');
    assert_non_null(worker);
    assert_string_equal(worker, "/galerne-worker");
    assert_int_equal(config.log_level, LOG_LEVEL_INFO);
    assert_int_equal(config.requests_max, 1024);
    assert_int_equal(config.text_threads_count, 2);
    assert_int_equal(config.listener_threads_count, 1);
    assert_int_equal(config.message_max_bytes, 4 * 1024 * 1024);
    assert_int_equal(config.connection_streams_max, 256);
    assert_int_equal(config.kv_memory_percent, 40);
    assert_int_equal(config.drain_timeout_ns, 30 * NS_PER_S);
    assert_int_equal(config.stall_timeout_ns, 60 * NS_PER_S);
    assert_int_equal(config.worker_start_limit_ns, 300 * NS_PER_S);
    assert_int_equal(config.step_limit_ns, 60 * NS_PER_S);
    assert_int_equal(config.n_models, 1);
    const struct config_model *m = &config.models[0];
    assert_string_equal(m->name, "demo");
    assert_string_equal(m->path, "/m");
    assert_string_equal(m->backend, "cpu");
    assert_string_equal(m->tier, "");
    assert_int_equal(m->worker, CONFIG_WORKER_PROCESS);
    assert_int_equal(m->threads_count, 0);
    assert_int_equal(m->context_tokens, 0);
    assert_int_equal(m->block_tokens, 16);
    assert_int_equal(m->kv_type, DTYPE_F32);
    assert_int_equal(m->quantise, 0);
    assert_false(m->quantise_head);
    assert_int_equal(m->kv_blocks_count, 0);
    assert_int_equal(m->running_max, 64);
    assert_int_equal(m->waiting_max, 256);
    assert_int_equal(m->step_tokens_max, 512);
    assert_int_equal(m->chunk_tokens_max, 256);
}

static void reads_every_key(void **state)
{
    must_parse("# a comment\n"
               "runtime_dir: /tmp/x y # another\n"
               "socket_group: \"12\"\nworker_binary: '/w'\nlog_level: debug\nrequests_max: 1\n"
               "text_threads_count: 64\nlistener_threads_count: 16\nmessage_max_bytes: 1024\n"
               "connection_streams_max: 10000\nkv_memory_percent: 90\ndrain_timeout_ms: 0\n"
               "stall_timeout_ms: 1\nworker_start_limit_ms: 3600000\nstep_limit_ms: 250\n"
               "models:\n"
               "- {name: a, path: rel/dir, backend: ref, tier: scalar, worker: inline,"
               " threads_count: 256, context_tokens: 77, block_tokens: 32, kv_blocks_count: 9,"
               " kv_type: bf16, exact: true, quantize: q4, quantize_head: true,"
               " running_max: 1024, waiting_max: 65536, step_tokens_max: 8192,"
               " chunk_tokens_max: 1}\n"
               "- name: 7b\n  path: |-\n    /in/a block\n");
    assert_string_equal(config.runtime_dir, "/tmp/x y");
    assert_string_equal(config.socket_group, "12");
    assert_string_equal(config.worker_binary, "/w");
    assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(config.drain_timeout_ns, 0);
    assert_int_equal(config.step_limit_ns, 250 * NS_PER_MS);
    assert_int_equal(config.n_models, 2);
    assert_string_equal(config.models[0].path, "rel/dir");
    assert_string_equal(config.models[0].backend, "ref");
    assert_string_equal(config.models[0].tier, "scalar");
    assert_int_equal(config.models[0].worker, CONFIG_WORKER_INLINE);
    assert_int_equal(config.models[0].block_tokens, 32);
    assert_int_equal(config.models[0].kv_type, DTYPE_BF16);
    assert_true(config.models[0].exact);
    assert_int_equal(config.models[0].quantise, DTYPE_Q4_0);
    assert_true(config.models[0].quantise_head);
    assert_int_equal(config.models[1].quantise, 0);
    assert_int_equal(config.models[0].waiting_max, 65536);
    assert_string_equal(config.models[1].name, "7b");
    assert_string_equal(config.models[1].path, "/in/a block");
    assert_int_equal(config.models[1].chunk_tokens_max, 256);
}

/* What is wrong, and what the error must hold. */
static const char *const bad_files[][2] = {
    {"", "t.yaml:1:1: the file lacks models"},
    {"# only a comment\n", "t.yaml:1:1: the file lacks models"},
    {"---\n", "the file lacks models"},
    {"kv_memory_percent: 40\n", "t.yaml:1:1: the file lacks models"},
    {"models: []\n", "t.yaml:1:9: models: expected at least one model"},
    {"models:\n",
     "models: expected a list (lines that begin with \"- name:\"), got a single value"},
    {"models: demo\n", "t.yaml:1:9: models: expected a list"},
    {"models: {name: a, path: b}\n", "models: expected a list (lines that begin with \"- name:\"), "
                                     "got a mapping of keys"},
    {"models: [demo]\n",
     "t.yaml:1:10: models: expected name and path of a model, got a single value"},
    {"models:\n  - [a]\n", "t.yaml:2:5: models: expected name and path of a model, got a list"},
    {"models:\n  - name: a\n", "t.yaml:2:5: an entry of models lacks path: A directory"},
    {"models:\n  - path: a\n", "t.yaml:2:5: an entry of models lacks name"},
    {MODELS "kv_memory_percnt: 3\n",
     "t.yaml:4:1: unknown key \"kv_memory_percnt\": did you mean kv_memory_percent?"},
    {MODELS "flavour: 3\n", "t.yaml:4:1: unknown key \"flavour\": galerned --print-config lists"},
    {MODELS "\"req\\0\": 3\n", "unknown key"},
    {MODELS "\"requests_max\\0\": 3\n", "unknown key"},
    {"models:\n  - name: a\n    paht: b\n", "t.yaml:3:5: unknown key \"paht\": did you mean path?"},
    {"models:\n  - name: a\n    log_level: info\n",
     "t.yaml:3:5: log_level belongs to the file, not to a model"},
    {MODELS "threads_count: 2\n", "t.yaml:4:1: threads_count belongs to an entry of models"},
    {MODELS "requests_max: 5\nlog_level: info\nrequests_max: 5\n",
     "t.yaml:6:1: requests_max is set twice: first in line 4"},
    {"models:\n  - name: a\n    path: x\n    path: y\n",
     "t.yaml:4:5: path is set twice: first in line 3"},
    {MODELS MODELS, "t.yaml:4:1: models is set twice: first in line 1"},
    {MODELS "  - name: demo\n    path: /n\n",
     "t.yaml:4:5: a second model is called demo: names are unique"},
    {MODELS "kv_memory_percent: 91\n",
     "t.yaml:4:20: kv_memory_percent: expected a whole number from 1 to 90 (percent), got \"91\""},
    {MODELS "kv_memory_percent: 0\n", "from 1 to 90 (percent), got \"0\""},
    {MODELS "kv_memory_percent: -3\n", "got \"-3\""},
    {MODELS "kv_memory_percent: 40%\n", "got \"40%\""},
    {MODELS "kv_memory_percent: forty\n", "got \"forty\""},
    {MODELS "kv_memory_percent: 4e1\n", "got \"4e1\""},
    {MODELS "kv_memory_percent: \"40\"\n", "got a quoted text: leave the quotes out"},
    {MODELS "kv_memory_percent:\n", "kv_memory_percent has no value: expected a whole number"},
    {MODELS "kv_memory_percent: ~\n", "has no value"},
    {MODELS "kv_memory_percent: Null\n", "has no value"},
    {MODELS "kv_memory_percent: [40]\n",
     "t.yaml:4:20: kv_memory_percent: expected a whole number from 1 to 90 (percent), got a list"},
    {MODELS "kv_memory_percent: {a: b}\n", "got a mapping of keys"},
    {MODELS "message_max_bytes: 67108865\n", "from 1024 to 67108864 (bytes), got \"67108865\""},
    {MODELS "message_max_bytes: 4 MiB\n", "(bytes), got \"4 MiB\""},
    {MODELS "drain_timeout_ms: 30s\n", "from 0 to 3600000 (ms), got \"30s\""},
    {MODELS "drain_timeout_ms: 99999999999999999999999\n", "from 0 to 3600000 (ms)"},
    {MODELS "log_level: loud\n",
     "t.yaml:4:12: log_level: expected error, warning, info or debug, got \"loud\""},
    {MODELS "runtime_dir: \"\"\n", "runtime_dir is empty: expected a path"},
    {MODELS "runtime_dir: \"/a\\nb\"\n", "expected a path on one line, without control characters"},
    {MODELS "runtime_dir: \"/a\\0b\"\n", "without control characters"},
    {MODELS "runtime_dir: \"/a\\eb\"\n", "without control characters"},
    {MODELS "runtime_dir: "
            "/123456789012345678901234567890123456789012345678901234567890123456789012345678901234"
            "567890\n",
     "is too long: with the longest socket in it the path has 108 bytes, and a socket's may have "
     "107"},
    {MODELS "socket_group: "
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
     "socket_group: expected at most 63 bytes, got 71"},
    {"models:\n  - name: Demo\n    path: /m\n", "t.yaml:2:11: name: expected a name of a-z"},
    {"models:\n  - name: a/b\n    path: /m\n", "name: expected a name of a-z"},
    {"models:\n  - name: .x\n    path: /m\n", "begins with a letter or digit, got \".x\""},
    {"models:\n  - name: a\n    path: /m\n    block_tokens: 24\n",
     "t.yaml:4:19: block_tokens: expected 16 or 32 (tokens), got \"24\""},
    {"models:\n  - name: a\n    path: /m\n    backend: gpu\n",
     "expected cpu, cuda, auto, cuda-host or ref, got \"gpu\""},
    {"models:\n  - name: a\n    path: /m\n    tier: sse\n",
     "expected scalar, avx2, avx2-vnni, avx512, avx512-vnni, avx512-bf16, sm80 or sm90"},
    {"models:\n  - name: a\n    path: /m\n    running_max: 1025\n", "from 1 to 1024 (sequences)"},
    {"- a\n- b\n", "t.yaml:1:1: expected lines of \"key: value\", got a list"},
    {"hello\n", "t.yaml:1:1: expected lines of \"key: value\", got a single value"},
    {MODELS "...\n---\nx: y\n", "t.yaml:5:1: a second document begins here: expected one"},
    {MODELS "[a]: b\n", "t.yaml:4:1: expected a key, got a list"},
    {MODELS "? {a: b}\n: c\n", "expected a key, got a mapping of keys"},
    {MODELS "socket_group: &g x\n", "t.yaml:4:15: anchors (&g) are not accepted"},
    {"models: &m\n  - name: a\n    path: b\n", "anchors (&m) are not accepted"},
    {"models:\n  - &m\n    name: a\n    path: b\n", "anchors (&m) are not accepted"},
    {MODELS "socket_group: *g\n", "t.yaml:4:15: aliases (*g) are not accepted"},
    {MODELS "requests_max: !!int 5\n",
     "t.yaml:4:15: tags (tag:yaml.org,2002:int) are not accepted"},
    {MODELS "socket_group: !x y\n", "tags (!x) are not accepted"},
    {MODELS "<<: {requests_max: 5}\n", "unknown key \"<<\""},
    {MODELS "\trequests_max: 5\n", "t.yaml:4:"},
    {MODELS "requests_max: 5\n bad: 6\n", "t.yaml:4:15: requests_max: expected"},
    {MODELS "socket_group: \"open\n", "t.yaml:5:1: not YAML: found unexpected end of stream"},
    {MODELS "socket_group: [a, b\n", "expected a text, got a list"},
    {MODELS "socket_group: 'a' b\n", "not YAML"},
    {MODELS "socket_group: @x\n", "t.yaml:4:15: not YAML: found character"},
    {MODELS "socket_group: \xff\xfe\n", "t.yaml:4:15: expected UTF-8 text without control"},
    {MODELS "socket_group: caf\xc3\n", "t.yaml:4:19: expected UTF-8 text"},
    {MODELS "socket_group: a\x01z\n", "t.yaml:4:16: expected UTF-8 text without control"},
};

static void names_each_mistake(void **state)
{
    unsetenv("RUNTIME_DIRECTORY");
    for (size_t i = 0; i < array_count(bad_files); i++) {
        memset(&config, 0x5a, sizeof config);
        if (parse(bad_files[i][0]) != STATUS_INVALID)
            fail_msg("accepted: %s", bad_files[i][0]);
        if (!strstr(error.text, bad_files[i][1]))
            fail_msg("%s\n gave: %s\n not:  %s", bad_files[i][0], error.text, bad_files[i][1]);
        assert_int_equal(config.requests_max, 0x5a5a5a5a); /* untouched */
    }
}

/* ---- tenants ---- */

#define BANK "tenants:\n- name: bank\n"

static void reads_tenants(void **state)
{
    must_parse(MODELS "default_tenant: guests\n"
                      "tenants:\n"
                      "  - name: chat\n    parent: bank\n    clients: [alice, \"uid:1000\"]\n"
                      "  - {name: bank, weight: 3, reserved_percent: 20}\n"
                      "  - name: night\n    parent: bank\n    class: batch\n    weight: 1000000\n"
                      "    limit_percent: 30\n    cached_percent: 5\n    closed: true\n"
                      "    cache: shared\n    clients:\n      - spiffe://x/night\n"
                      "  - name: guests\n");
    assert_int_equal(config.n_tenants, 4);
    const struct config_tenant *t = config.tenants;
    assert_int_equal(t[0].parent_index, 1);
    assert_int_equal(t[0].line, 6);
    assert_int_equal(t[1].parent_index, CONFIG_NONE);
    assert_int_equal(t[1].weight, 3);
    assert_int_equal(t[2].class, CLASS_BATCH);
    assert_int_equal(t[3].weight, 1);
    assert_int_equal(t[3].class, CLASS_INTERACTIVE);
    assert_int_equal(t[3].cache, CONFIG_CACHE_OWN);
    assert_int_equal(config.n_clients, 3);
    assert_string_equal(config.clients[1].name, "uid:1000");
    assert_int_equal(config.clients[1].tenant, 0);
    assert_string_equal(config.clients[2].name, "spiffe://x/night");
    assert_int_equal(config.clients[2].tenant, 2);
    assert_int_equal(config.clients[2].line, 19);

    struct tenant_row row = config_tenant_row(&t[1], 1000);
    assert_int_equal(row.parent, TENANT_TOP);
    assert_int_equal(row.reserved_blocks, 200);
    assert_int_equal(row.limit_blocks, 0);
    assert_int_equal(row.cached_blocks, 0);
    row = config_tenant_row(&t[2], 50);
    assert_int_equal(row.parent, 1);
    assert_true(row.closed);
    assert_int_equal(row.limit_blocks, 15);
    assert_int_equal(row.cached_blocks, 2);
}

static void reads_quotas(void **state)
{
    must_parse(MODELS "tenants:\n"
                      "  - {name: chat, parent: bank, requests_per_minute: 60, requests_burst: 5}\n"
                      "  - name: bank\n    quota: hard\n    tokens_per_minute: 1000000000000\n"
                      "    tokens_burst: 7\n    concurrent_max: 8\n    queued_tokens_max: 9\n"
                      "    tokens_per_month: 10\n"
                      "  - {name: shop, tokens_per_month: 100, overdraft_tokens: 11}\n");
    struct quota_row row = config_quota_row(&config.tenants[0]);
    assert_string_equal(row.name, "chat");
    assert_int_equal(row.line, 5);
    assert_int_equal(row.parent, 1);
    assert_int_equal(row.mode, QUOTA_SOFT);
    assert_true(row.requests_per_minute == 60 && row.requests_burst == 5);
    assert_true(row.tokens_per_minute == 0 && row.tokens_per_month == 0);
    row = config_quota_row(&config.tenants[1]);
    assert_int_equal(row.parent, QUOTA_TOP);
    assert_int_equal(row.mode, QUOTA_HARD);
    assert_true(row.tokens_per_minute == QUOTA_VALUE_MAX && row.tokens_burst == 7);
    assert_true(row.concurrent_max == 8 && row.queued_tokens_max == 9);
    assert_true(row.tokens_per_month == 10 && row.overdraft_tokens == 0);
    assert_int_equal(config.tenants[2].quota.overdraft_tokens, 11);
}

static const char *const bad_tenants[][2] = {
    {"tenants: bank\n", "t.yaml:4:10: tenants: expected a list (lines that begin with"},
    {"tenants: []\n", "t.yaml:4:10: tenants: expected at least one tenant"},
    {"tenants: [bank]\n", "t.yaml:4:11: tenants: expected name and rights of a tenant, got a"},
    {"tenants:\n- weight: 1\n", "t.yaml:5:3: an entry of tenants lacks name"},
    {BANK "  weight: 0\n", "t.yaml:6:11: weight: expected a whole number from 1 to 1000000"},
    {BANK "  weight: -1\n", "t.yaml:6:11: weight: expected a whole number from 1 to 1000000"},
    {BANK "  reserved_percent: 51\n", "t.yaml:6:21: reserved_percent: expected a whole number"},
    {BANK "  wieght: 1\n", "t.yaml:6:3: unknown key \"wieght\": did you mean weight?"},
    {BANK "  log_level: info\n", "t.yaml:6:3: log_level belongs to the file, not to a tenant"},
    {"weight: 1\n", "t.yaml:4:1: weight belongs to an entry of tenants"},
    {BANK "- name: bank\n", "t.yaml:6:3: a second tenant is called bank: the first stands in line"},
    {BANK "  parent: bnak\n", "t.yaml:5: parent: no tenant is called bnak: did you mean bank?"},
    {BANK "  parent: somebody-else\n", "t.yaml:5: parent: no tenant is called somebody-else"},
    {BANK "  parent: bank\n", "row 0 (bank, line 5): its parents go in a circle"},
    {BANK "  parent: b\n- {name: b, parent: bank}\n", "its parents go in a circle"},
    {BANK "- {name: b, parent: bank}\n- {name: c, parent: b}\n- {name: d, parent: c}\n",
     "t.yaml: tenants: row 3 (d, line 8): 3 rows are above it"},
    {BANK "  reserved_percent: 30\n- {name: b, reserved_percent: 21}\n",
     "row 1 (b, line 7): with it, 510000 blocks are reserved of a pool of 1000000"},
    {BANK "  reserved_percent: 3\n- {name: b, parent: bank, reserved_percent: 2}\n",
     "it reserves blocks and so does row 0 above it"},
    {BANK "  reserved_percent: 3\n  limit_percent: 2\n", "it reserves more blocks than its limit"},
    {BANK "  clients: alice\n", "t.yaml:6:12: clients: expected a list of names"},
    {BANK "  clients: [{}]\n", "t.yaml:6:13: clients: expected a certificate's name"},
    {BANK "  clients: [\"a b\"]\n", "t.yaml:6:13: clients: expected a certificate's name"},
    {BANK "  clients: [a, a]\n", "t.yaml:6: the client \"a\" stands in line 6 already"},
    {BANK "  clients: [a]\n- {name: b, parent: bank}\n",
     "t.yaml:6: bank has tenants below it: its clients belong to one of those"},
    {BANK "default_tenant: bnk\n",
     "t.yaml: default_tenant: no tenant is called bnk: did you mean bank?"},
    {BANK "- {name: b, parent: bank}\ndefault_tenant: bank\n",
     "t.yaml: default_tenant: bank has tenants below it"},
    {"default_tenant: bank\n", "t.yaml: default_tenant: no tenant is called bank"},
    {BANK "  tokens_per_minute: -1\n",
     "t.yaml:6:22: tokens_per_minute: expected a whole number from 0 to 1000000000000 (tokens)"},
    {BANK "  requests_per_minute: 1000000000001\n", "t.yaml:6:24: requests_per_minute: expected"},
    {BANK "  tokens_per_month: 1e6\n", "t.yaml:6:21: tokens_per_month: expected"},
    {BANK "  quota: firm\n", "t.yaml:6:10: quota: expected"},
    {BANK "  quota: hard\n",
     "t.yaml: tenants: row 0 (bank, line 5): quota: hard needs tokens_per_minute or"},
    {BANK "  tokens_burst: 9\n",
     "t.yaml: tenants: row 0 (bank, line 5): tokens_burst: needs tokens_per_minute"},
    {BANK "  requests_burst: 9\n", "requests_burst: needs requests_per_minute"},
    {BANK "  tokens_per_minute: 9\n  tokens_burst: 1\n",
     "tokens_burst: a burst of 1 can never admit a request"},
    {BANK "  overdraft_tokens: 9\n", "overdraft_tokens: needs tokens_per_minute or"},
};

static void names_each_mistake_in_tenants(void **state)
{
    char text[512];
    for (size_t i = 0; i < array_count(bad_tenants); i++) {
        snprintf(text, sizeof text, MODELS "%s", bad_tenants[i][0]);
        if (parse(text) != STATUS_INVALID)
            fail_msg("accepted: %s", text);
        if (!strstr(error.text, bad_tenants[i][1]))
            fail_msg("%s\n gave: %s\n not:  %s", text, error.text, bad_tenants[i][1]);
    }
}

static void limits_count_of_tenants(void **state)
{
    static char many[65536];
    snprintf(many, sizeof many, MODELS "tenants:\n");
    for (int i = 0; i <= CONFIG_TENANTS_MAX; i++)
        snprintf(many + strlen(many), 32, "- {name: t%d}\n", i);
    assert_int_equal(parse(many), STATUS_INVALID);
    assert_non_null(strstr(error.text, "t.yaml:261:3: tenants: expected at most 256 of them"));
    snprintf(many, sizeof many, MODELS BANK "  clients:\n");
    for (int i = 0; i <= CONFIG_CLIENTS_MAX; i++)
        snprintf(many + strlen(many), 32, "  - c%d\n", i);
    assert_int_equal(parse(many), STATUS_INVALID);
    assert_non_null(strstr(error.text, "clients: expected at most 1024 of all tenants together"));
}

static void limits_size_and_count(void **state)
{
    size_t size_bytes = 1024 * 1024 + 1;
    char *text = malloc(size_bytes);
    assert_non_null(text);
    memset(text, '\n', size_bytes);
    memcpy(text, MODELS, strlen(MODELS));
    assert_int_equal(config_parse("t.yaml", (struct span){text, size_bytes}, &config, &error),
                     STATUS_INVALID);
    assert_non_null(strstr(error.text, "expected at most 1048576 bytes, got 1048577"));
    assert_int_equal(config_parse("t.yaml", (struct span){text, size_bytes - 1}, &config, &error),
                     STATUS_OK);
    memset(text, '[', size_bytes - 1);
    assert_int_equal(config_parse("t.yaml", (struct span){text, size_bytes - 1}, &config, &error),
                     STATUS_INVALID);
    free(text);

    char many[2048] = "models:\n";
    for (int i = 0; i <= CONFIG_MODELS_MAX; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "- {name: m%d, path: /m}\n", i);
    assert_int_equal(parse(many), STATUS_INVALID);
    assert_non_null(strstr(error.text, "t.yaml:18:3: models: expected at most 16 of them"));
}

/* Every cut of a good file is either good or answered with a place. */
static void survives_every_cut(void **state)
{
    static const char text[] = MODELS "log_level: \"debug\"\nrequests_max: 12\n";
    for (size_t n = 0; n < sizeof text; n++) {
        char copy[sizeof text];
        memcpy(copy, text, n);
        copy[n] = '\0';
        if (parse(copy) != STATUS_OK)
            assert_non_null(strstr(error.text, "t.yaml:"));
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void loads_from_disk(void **state)
{
    char directory[] = "/tmp/galerne-config-XXXXXX", path[64], expected[128];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/galerne.yaml", directory);
    write_file(path, "runtime_dir: run\nworker_binary: ../w\nmodels: [{name: a, path: m/x}]\n");
    if (config_load(path, &config, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_string_equal(config.file, path);
    snprintf(expected, sizeof expected, "%s/m/x", directory);
    assert_string_equal(config.models[0].path, expected);
    snprintf(expected, sizeof expected, "%s/run", directory);
    assert_string_equal(config.runtime_dir, expected);
    snprintf(expected, sizeof expected, "%s/../w", directory);
    assert_string_equal(config.worker_binary, expected);

    write_file(path, "models: [{name: a, path: m, pth: x}]\n");
    assert_int_equal(config_load(path, &config, &error), STATUS_INVALID);
    snprintf(expected, sizeof expected, "%s:1:29: unknown key", path);
    assert_non_null(strstr(error.text, expected));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(config_load(path, &config, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "galerned --print-config"));
    assert_int_equal(config_load(directory, &config, &error), STATUS_IO);
    assert_int_equal(rmdir(directory), 0);
}

/* The sample is a good file that says what the defaults say. */
static void sample_is_the_default(void **state)
{
    char *text = NULL;
    size_t size_bytes;
    FILE *out = open_memstream(&text, &size_bytes);
    assert_non_null(out);
    config_print_sample(out);
    fclose(out);
    must_parse(text);
    assert_int_equal(config.kv_memory_percent, 40);
    assert_int_equal(config.n_models, 1);
    assert_string_equal(config.models[0].name, "demo");

    for (char *c = text; (c = strstr(c, "# ")) != NULL; c++) { /* now with every line in force */
        char name[40] = "";
        if (sscanf(c + 2, "%39[a-z_]", name) == 1 && c[2 + strlen(name)] == ':' &&
            (option_find(config_rows, config_rows_count, name) ||
             option_find(config_model_rows, config_model_rows_count, name)) &&
            strcmp(name, "default_tenant") != 0) /* of which the tenants are missing */
            memmove(c, c + 2, strlen(c + 2) + 1);
    }
    assert_null(strstr(text, "# requests_max:"));
    must_parse(text);
    assert_int_equal(config.step_limit_ns, 60 * NS_PER_S);
    assert_string_equal(config.models[0].tier, "avx512");
    free(text);
}

/* ---- the page of the manual ---- */

#define PAGE_BEGIN "<!-- made from the option table: begin -->\n"
#define PAGE_END "<!-- made from the option table: end -->\n"

static char *tables_text(void)
{
    char *text = NULL;
    size_t size_bytes;
    FILE *out = open_memstream(&text, &size_bytes);
    assert_non_null(out);
    fputs(PAGE_BEGIN "\n## Keys of the file\n\n", out);
    option_print_markdown(out, config_rows, config_rows_count);
    fputs("\n## Keys of one entry of `models`\n\n", out);
    option_print_markdown(out, config_model_rows, config_model_rows_count);
    fputs("\n## Keys of one entry of `tenants`\n\n", out);
    option_print_markdown(out, config_tenant_rows, config_tenant_rows_count);
    fputs("\n" PAGE_END, out);
    fclose(out);
    return text;
}

static char *file_text(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("%s cannot be read", path);
    char *text = calloc(1, 65536);
    assert_non_null(text);
    assert_true(fread(text, 1, 65535, file) < 65535);
    fclose(file);
    return text;
}

static void page_follows_the_table(void **state)
{
    const char *path = getenv("GALERNE_CONFIG_PAGE");
    if (!path)
        fail_msg("GALERNE_CONFIG_PAGE is not set: run by meson test");
    char *page = file_text(path), *tables = tables_text();
    char *begin = strstr(page, PAGE_BEGIN), *end = strstr(page, PAGE_END);
    assert_true(begin && end && begin < end);
    end += strlen(PAGE_END);
    if (getenv("GALERNE_WRITE_DOCS")) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fprintf(file, "%.*s%s%s", (int)(begin - page), page, tables, end);
        fclose(file);
    } else if (strncmp(begin, tables, (size_t)(end - begin)) != 0 ||
               strlen(tables) != (size_t)(end - begin)) {
        fail_msg("%s does not follow the option table: run this test with GALERNE_WRITE_DOCS=1",
                 path);
    }
    free(tables);
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_defaults),
        cmocka_unit_test(reads_every_key),
        cmocka_unit_test(names_each_mistake),
        cmocka_unit_test(limits_size_and_count),
        cmocka_unit_test(survives_every_cut),
        cmocka_unit_test(loads_from_disk),
        cmocka_unit_test(sample_is_the_default),
        cmocka_unit_test(page_follows_the_table),
        cmocka_unit_test(reads_tenants),
        cmocka_unit_test(reads_quotas),
        cmocka_unit_test(names_each_mistake_in_tenants),
        cmocka_unit_test(limits_count_of_tenants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
