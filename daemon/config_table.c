#include "daemon/config_table.h"

#include "base/log.h"
#include "daemon/config.h"
#include "kernels/ops.h"

static const struct option_choice log_levels[] = {{"error", LOG_LEVEL_ERROR},
                                                  {"warning", LOG_LEVEL_WARNING},
                                                  {"info", LOG_LEVEL_INFO},
                                                  {"debug", LOG_LEVEL_DEBUG},
                                                  {NULL, 0}};
static const struct option_choice backends[] = {{"cpu", 0},       {"cuda", 0}, {"auto", 0},
                                                {"cuda-host", 0}, {"ref", 0},  {NULL, 0}};
static const struct option_choice tiers[] = {{"scalar", 0}, {"avx2", 0},        {"avx2-vnni", 0},
                                             {"avx512", 0}, {"avx512-vnni", 0}, {"avx512-bf16", 0},
                                             {"sm80", 0},   {"sm90", 0},        {NULL, 0}};
static const struct option_choice workers[] = {
    {"process", CONFIG_WORKER_PROCESS}, {"inline", CONFIG_WORKER_INLINE}, {NULL, 0}};
static const struct option_choice kv_types[] = {{"f32", DTYPE_F32},
                                                {"bf16", DTYPE_BF16},
                                                {"q8", DTYPE_Q8_0},
                                                {"fp8", DTYPE_KV_E4M3},
                                                {NULL, 0}};
static const struct option_choice quantise_kinds[] = {
    {"none", 0}, {"q8", DTYPE_Q8_0}, {"q4", DTYPE_Q4_0}, {NULL, 0}};
static const struct option_choice block_sizes[] = {{"16", 16}, {"32", 32}, {NULL, 0}};
static const struct option_choice classes[] = {
    {"interactive", CLASS_INTERACTIVE}, {"batch", CLASS_BATCH}, {NULL, 0}};
static const struct option_choice quota_modes[] = {
    {"soft", QUOTA_SOFT}, {"hard", QUOTA_HARD}, {NULL, 0}};
static const struct option_choice caches[] = {
    {"own", CONFIG_CACHE_OWN},       {"shared", CONFIG_CACHE_SHARED},   {"none", CONFIG_CACHE_NONE},
    {"public", CONFIG_CACHE_PUBLIC}, {"publish", CONFIG_CACHE_PUBLISH}, {NULL, 0}};

#define AT(member) OPTION_AT(struct config, member)

const struct option_row config_rows[] = {
    {"runtime_dir", OPTION_PATH, AT(runtime_dir), .example = "/run/galerne",
     .fallback_text = "$RUNTIME_DIRECTORY, else /run/galerne for root, else "
                      "$XDG_RUNTIME_DIR/galerne, else /tmp/galerne-UID",
     .text = "Directory of the sockets galerne.sock (inference), admin.sock (operator) and "
             "worker-MODEL.sock."},
    {"socket_group", OPTION_STRING, AT(socket_group), .fallback = "galerne",
     .text =
         "Group that may use galerne.sock, beside the daemon's own user. Where there is no such "
         "group, the daemon's own group may."},
    {"worker_binary", OPTION_PATH, AT(worker_binary), .example = "/usr/bin/galerne-worker",
     .fallback_text = "galerne-worker beside galerned",
     .text = "The program that holds one model and computes."},
    {"cache_dir", OPTION_PATH, AT(cache_dir), .example = "/var/cache/galerne",
     .fallback_text = "$CACHE_DIRECTORY, else /var/cache/galerne for root, else "
                      "$XDG_CACHE_HOME/galerne, else ~/.cache/galerne",
     .text = "Directory in which workers keep weights that they quantised (quantize), so that the "
             "next start finds them. Files in it may be removed at any time."},
    {"log_level", OPTION_CHOICE, AT(log_level), .fallback = "info", .choices = log_levels,
     .text = "Which lines go to the log. No level logs the text of prompts or answers."},
    {"requests_max", OPTION_U32, AT(requests_max), .fallback = "1024", .min = 1, .max = 65536,
     .unit = "requests",
     .text = "Generate calls at once, all models together, each choice of a call one; more are "
             "refused with RESOURCE_EXHAUSTED."},
    {"text_threads_count", OPTION_U32, AT(text_threads_count), .fallback = "2", .min = 1, .max = 64,
     .unit = "threads", .text = "Threads that tokenize prompts."},
    {"listener_threads_count", OPTION_U32, AT(listener_threads_count), .fallback = "1", .min = 1,
     .max = 16, .unit = "threads", .text = "Threads that serve connections."},
    {"message_max_bytes", OPTION_U32, AT(message_max_bytes), .fallback = "4194304", .min = 1024,
     .max = 64 * 1024 * 1024, .unit = "bytes", .text = "The largest message that is accepted."},
    {"connection_streams_max", OPTION_U32, AT(connection_streams_max), .fallback = "256", .min = 1,
     .max = 10000, .unit = "streams", .text = "Calls at once on one connection."},
    {"kv_memory_percent", OPTION_U32, AT(kv_memory_percent), .fallback = "40", .min = 1, .max = 90,
     .unit = "percent",
     .text = "Share of the memory that is free at start for the KV blocks of all models together; "
             "a limit of the control group counts."},
    {"drain_timeout_ms", OPTION_MS, AT(drain_timeout_ns), .fallback = "30000", .min = 0,
     .max = 3600000, .unit = "ms",
     .text = "How long running calls may go on after SIGTERM before they are cancelled."},
    {"stall_timeout_ms", OPTION_MS, AT(stall_timeout_ns), .fallback = "60000", .min = 1,
     .max = 3600000, .unit = "ms",
     .text = "A stream whose client reads nothing for this long is cancelled."},
    {"worker_start_limit_ms", OPTION_MS, AT(worker_start_limit_ns), .fallback = "300000", .min = 1,
     .max = 3600000, .unit = "ms",
     .text = "How long a worker may take to load its model before the model counts as failed."},
    {"step_limit_ms", OPTION_MS, AT(step_limit_ns), .fallback = "60000", .min = 1, .max = 3600000,
     .unit = "ms",
     .text = "A step that takes longer means that the worker hangs; it is killed and started "
             "again."},
    {"trace_events_count", OPTION_U32, AT(trace_events_count), .fallback = "8192", .min = 0,
     .max = 65536, .unit = "events",
     .text = "What each thread remembers of the last requests' stages and times, for galernectl "
             "trace: about 50 bytes an event, 5 to 20 events a request, no content; 0: nothing."},
    {"tcp_listen", OPTION_STRING, AT(tcp_listen), .example = "127.0.0.1:7443",
     .fallback_text = "no TCP",
     .text = "Addresses with port, several with commas, where clients with a certificate are "
             "served over TCP: numeric, IPv6 in brackets. TCP is always TLS 1.2 or newer."},
    {"tls_certificate", OPTION_PATH, AT(tls_certificate), .example = "/etc/galerne/server.pem",
     .fallback_text = "none; needed for tcp_listen",
     .text = "The daemon's certificate and those between it and its authority, PEM. A name "
             "without a slash is looked for in $CREDENTIALS_DIRECTORY first. The four files of TLS "
             "are read again when they change and on SIGHUP."},
    {"tls_key", OPTION_PATH, AT(tls_key), .example = "/etc/galerne/server.key",
     .fallback_text = "none; needed for tcp_listen",
     .text = "The certificate's private key, PEM, not encrypted."},
    {"tls_client_ca", OPTION_PATH, AT(tls_client_ca), .example = "/etc/galerne/clients-ca.pem",
     .fallback_text = "none; needed for tcp_listen",
     .text = "The authorities whose clients may come, PEM."},
    {"tls_clients", OPTION_PATH, AT(tls_clients), .example = "/etc/galerne/clients",
     .fallback_text = "every client of the authorities",
     .text = "The clients that may come: a file with one name (common name, alternative name or "
             "SPIFFE id) or SHA-256 fingerprint a line. Whoever is removed is refused at once."},
    {"tcp_connections_max", OPTION_U32, AT(tcp_connections_max), .fallback = "1024", .min = 1,
     .max = 60000, .unit = "connections",
     .text = "TCP connections at once; more wait outside. Half of the descriptors that the daemon "
             "may open at most."},
    {"tls_handshake_timeout_ms", OPTION_MS, AT(tls_handshake_timeout_ns), .fallback = "10000",
     .min = 100, .max = 60000, .unit = "ms",
     .text = "A TCP connection that has not finished its handshake by then is closed."},
    {"keepalive_time_ms", OPTION_MS, AT(keepalive_time_ns), .fallback = "30000", .min = 1000,
     .max = 7200000, .unit = "ms",
     .text = "A connection that was silent this long is asked whether it lives."},
    {"keepalive_timeout_ms", OPTION_MS, AT(keepalive_timeout_ns), .fallback = "20000", .min = 100,
     .max = 600000, .unit = "ms",
     .text = "A connection that does not answer within this time is closed."},
    {"ping_interval_min_ms", OPTION_MS, AT(ping_interval_min_ns), .fallback = "5000", .min = 100,
     .max = 600000, .unit = "ms",
     .text = "Clients may ping this often, also while they wait for a first token; who pings more "
             "is cut off."},
    {"connection_idle_max_ms", OPTION_MS, AT(connection_idle_max_ns), .fallback = "0", .min = 0,
     .max = 86400000, .unit = "ms",
     .text = "A connection without calls for this long is closed; 0: never."},
    {"connection_age_max_ms", OPTION_MS, AT(connection_age_max_ns), .fallback = "0", .min = 0,
     .max = 86400000, .unit = "ms",
     .text = "A connection as old as this, give or take a tenth, takes no new calls, so that "
             "clients come back with fresh certificates; 0: never."},
    {"connection_age_grace_ms", OPTION_MS, AT(connection_age_grace_ns), .fallback = "0", .min = 0,
     .max = 86400000, .unit = "ms",
     .text = "How long the calls of a connection that is too old may go on; 0: to their end."},
    {"default_tenant", OPTION_NAME, AT(default_tenant), .example = "guests",
     .fallback_text = "clients that no tenant lists are refused",
     .text = "The tenant of clients that no tenant lists."},
    {"models", OPTION_SECTION, .required = true,
     .text = "The models to serve, 1 to 16; each has its own worker."},
    {"tenants", OPTION_SECTION, .fallback_text = "everybody is one tenant",
     .text = "Who shares the models, up to 256: organisations, their projects, their keys. Read "
             "again on SIGHUP."},
};
const size_t config_rows_count = array_count(config_rows);

#undef AT
#define AT(member) OPTION_AT(struct config_model, member)

const struct option_row config_model_rows[] = {
    {"name", OPTION_NAME, AT(name), .required = true, .example = "demo",
     .text = "What requests call it; unique."},
    {"path", OPTION_PATH, AT(path), .required = true, .example = "/usr/share/galerne/models/demo",
     .text = "A directory with config.json, tokenizer.json and *.safetensors, or a .gguf file; a "
             "relative path is seen from this file."},
    {"backend", OPTION_WORD, AT(backend), .fallback = "cpu", .choices = backends,
     .text =
         "What computes: cpu; cuda, an NVIDIA GPU; auto, such a GPU where one can be opened, else "
         "the CPU; ref, the plain reference (slow); cuda-host, the kernels of cuda emulated (for "
         "tests, very slow)."},
    {"tier", OPTION_WORD, AT(tier), .choices = tiers, .example = "avx512",
     .fallback_text = "the best that there is",
     .text = "Instruction set of the cpu backend; sm80: cuda without what only sm_90 has."},
    {"worker", OPTION_CHOICE, AT(worker), .fallback = "process", .choices = workers,
     .text = "Where the model runs: in a process of its own, or inline in a thread of galerned "
             "(for tests)."},
    {"threads_count", OPTION_U32, AT(threads_count), .fallback = "0", .min = 0, .max = 256,
     .unit = "threads",
     .text = "Threads that compute; 0: one for each CPU that the process may use."},
    {"context_tokens", OPTION_U32, AT(context_tokens), .fallback = "0", .min = 0,
     .max = 16 * 1024 * 1024, .unit = "tokens",
     .text = "Longest prompt and output together; 0: what the model was made for, which is also "
             "the most."},
    {"block_tokens", OPTION_CHOICE, AT(block_tokens), .fallback = "16", .choices = block_sizes,
     .unit = "tokens", .text = "Positions of one KV block."},
    {"exact", OPTION_BOOL, AT(exact), .fallback = "false",
     .text =
         "With weights of 8 or 4 bits the cpu backend rounds what they are multiplied with to 8 "
         "bits, as the widespread engines do, and with BF16 weights on CPUs with AVX512_BF16 "
         "to BF16, and likewise in attention with a kv_type other than f32. true: it does none of "
         "this; weights of 8 or 4 bits then take 4 bytes each, and all take more time. For "
         "comparisons."},
    {"kv_type", OPTION_CHOICE, AT(kv_type), .fallback = "f32", .choices = kv_types,
     .text = "How K and V are kept: f32; bf16, which takes half the memory and half the time of "
             "reading it, and rounds to 8 bits of precision; q8, which takes about a quarter: 8 "
             "bits each and a scale for 32 (on CPUs); or fp8, 8 bits of E4M3, a quarter, with 4 "
             "bits of precision (on GPUs, on CPUs no faster)."},
    {"quantize", OPTION_CHOICE, AT(quantise), .fallback = "none", .choices = quantise_kinds,
     .text =
         "What the matrices of layers and experts become while the model loads, where its files "
         "have them in f32, f16, bf16 or fp8: q8 (8 bits and a scale for 32 weights, as Q8_0 of "
         "GGUF), q4 (4 bits, as Q4_0) or none. Embedding, router and norms stay as they are."},
    {"quantize_head", OPTION_BOOL, AT(quantise_head), .fallback = "false",
     .text = "With quantize: the output head too, and with it the embedding where both are one."},
    {"kv_blocks_count", OPTION_U32, AT(kv_blocks_count), .fallback = "0", .min = 0, .max = 1u << 30,
     .unit = "blocks", .text = "KV blocks of this model; 0: its part of kv_memory_percent."},
    {"running_max", OPTION_U32, AT(running_max), .fallback = "64", .min = 1, .max = 1024,
     .unit = "sequences", .text = "Sequences that generate at once."},
    {"waiting_max", OPTION_U32, AT(waiting_max), .fallback = "256", .min = 1, .max = 65536,
     .unit = "requests",
     .text = "Requests that may wait for their turn, each choice one; more are refused with "
             "RESOURCE_EXHAUSTED."},
    {"step_tokens_max", OPTION_U32, AT(step_tokens_max), .fallback = "512", .min = 1, .max = 8192,
     .unit = "tokens",
     .text = "Tokens that one step computes at most, prompts and generated ones together."},
    {"chunk_tokens_max", OPTION_U32, AT(chunk_tokens_max), .fallback = "256", .min = 1, .max = 8192,
     .unit = "tokens",
     .text = "Prompt tokens of one sequence in one step; a small number keeps other streams "
             "smooth."},
};
const size_t config_model_rows_count = array_count(config_model_rows);

#undef AT
#define AT(member) OPTION_AT(struct config_tenant, member)

const struct option_row config_tenant_rows[] = {
    {"name", OPTION_NAME, AT(name), .required = true, .example = "bank",
     .text = "What status, trace and errors call it; unique. It stays the same tenant as long as "
             "it has this name."},
    {"parent", OPTION_NAME, AT(parent), .example = "group", .fallback_text = "at the top",
     .text = "The tenant that it is part of. Three levels at most; clients belong to tenants that "
             "have none below them."},
    {"clients", OPTION_SECTION, .fallback_text = "none",
     .text = "Whose requests are its own, a list: names of certificates (common name, alternative "
             "name or SPIFFE id), SHA-256 fingerprints of certificates, and uid:NUMBER or "
             "user:NAME on the unix socket. No client has two tenants."},
    {"weight", OPTION_U32, AT(weight), .fallback = "1", .min = 1, .max = 1000000,
     .text = "Its share of the machine among the tenants beside it, while all of them want some."},
    {"class", OPTION_CHOICE, AT(class), .fallback = "interactive", .choices = classes,
     .text = "Priority of its requests that name none. Interactive ones go before batch ones of "
             "the same tenant."},
    {"closed", OPTION_BOOL, AT(closed), .fallback = "false",
     .text = "Takes no new requests; those that it has go on."},
    {"reserved_percent", OPTION_U32, AT(reserved_percent), .fallback = "0", .min = 0, .max = 50,
     .unit = "percent",
     .text = "Part of each model's KV blocks that nobody else may take, used or not. All together "
             "at most half."},
    {"limit_percent", OPTION_U32, AT(limit_percent), .fallback = "100", .min = 1, .max = 100,
     .unit = "percent", .text = "Part of each model's KV blocks that it never exceeds."},
    {"cached_percent", OPTION_U32, AT(cached_percent), .fallback = "100", .min = 1, .max = 100,
     .unit = "percent",
     .text = "Part of each model's KV blocks that its cached prompts may hold; beyond that, they "
             "are the first to go."},
    {"cache", OPTION_CHOICE, AT(cache), .fallback = "own", .choices = caches,
     .text = "With whom it shares computed prompts. own: its own clients. shared: all tenants of "
             "its parent that say so. none: nobody. public: it reads what those with publish "
             "computed, and adds nothing."},
    {"quota", OPTION_CHOICE, AT(quota.mode), .fallback = "soft", .choices = quota_modes,
     .text = "How its token limits count requests that run. hard: prompt and max_tokens of each "
             "are held until its end, and nothing is ever exceeded. soft: the prompt and a guess "
             "of the output; what comes on top is a debt, within overdraft_tokens."},
    {"requests_per_minute", OPTION_U64, AT(quota.requests_per_minute), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "requests",
     .text = "Requests of it, on all models together; 0: no limit."},
    {"requests_burst", OPTION_U64, AT(quota.requests_burst), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "requests",
     .text = "Of them, at once, after a pause; 0: a minute's."},
    {"tokens_per_minute", OPTION_U64, AT(quota.tokens_per_minute), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "tokens",
     .text = "Tokens of it, prompts and output together; 0: no limit."},
    {"tokens_burst", OPTION_U64, AT(quota.tokens_burst), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "tokens",
     .text = "Of them, at once, after a pause, and the most that one request may take; 0: a "
             "minute's."},
    {"concurrent_max", OPTION_U64, AT(quota.concurrent_max), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "requests",
     .text = "Requests of it that wait or run at once; 0: no limit."},
    {"queued_tokens_max", OPTION_U64, AT(quota.queued_tokens_max), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "tokens",
     .text = "Prompt tokens of its requests that wait for their turn; 0: no limit."},
    {"tokens_per_month", OPTION_U64, AT(quota.tokens_per_month), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "tokens",
     .text = "Tokens of it in a calendar month, UTC; 0: no limit."},
    {"overdraft_tokens", OPTION_U64, AT(quota.overdraft_tokens), .fallback = "0", .min = 0,
     .max = QUOTA_VALUE_MAX, .unit = "tokens",
     .text = "The most that a soft quota may be exceeded by; 0: tokens_burst, or a hundredth "
             "of tokens_per_month without one."},
};
const size_t config_tenant_rows_count = array_count(config_tenant_rows);
