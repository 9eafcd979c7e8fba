/*
 * config: what the operator wrote, checked once.
 *
 * One YAML file over the option table (config_table.c): each row has type, unit, range, default and
 * text; the table makes the parser, --help, the commented sample file and the errors (file, line,
 * column, what was expected, the nearest known key). `struct config` is plain values; it is filled
 * before any thread starts and read-only afterwards. Any thread may read.
 */
#pragma once

#include "sched/quota.h"
#include "sched/sched.h"

#define CONFIG_MODELS_MAX 16
#define CONFIG_TENANTS_MAX 256
#define CONFIG_CLIENTS_MAX 1024    /* of all tenants together */
#define CONFIG_PATH_MAX_BYTES 4096 /* PATH_MAX */
#define CONFIG_NAME_MAX_BYTES 64
#define CONFIG_CLIENT_MAX_BYTES 128
#define CONFIG_ADDRESSES_MAX_BYTES 512
#define CONFIG_NONE UINT32_MAX

enum config_worker { CONFIG_WORKER_PROCESS = 0, CONFIG_WORKER_INLINE };

/* One entry of `models:`. */
struct config_model {
    char name[CONFIG_NAME_MAX_BYTES]; /* [a-z0-9][a-z0-9._-]*, unique; required */
    char path[CONFIG_PATH_MAX_BYTES]; /* directory or .gguf; required; relative: to the config file
                                       */
    char backend[16];                 /* "cpu" (default), "cuda", "auto", "cuda-host", "ref" */
    char tier[16];                    /* "" (default): best of this CPU; "scalar", "avx2" ... */
    enum config_worker worker;        /* process (default); inline: a thread, for tests */
    uint32_t threads_count;           /* 0 (default): all CPUs the process may use; 1..256 */
    uint32_t context_tokens;          /* 0 (default): the model's; else at most the model's */
    uint32_t block_tokens;            /* 16 (default) or 32 */
    bool exact;                       /* inputs of products are never quantised; default false */
    uint32_t kv_type;                 /* enum dtype of K and V; default f32 */
    uint32_t quantise;                /* key quantize: enum dtype that wide matrices become while
                                         they load, Q8_0 or Q4_0; 0 (default): none */
    bool quantise_head;               /* key quantize_head: the output head too; default false */
    uint32_t kv_blocks_count;         /* 0 (default): from kv_memory_percent */
    uint32_t running_max;             /* sequences at once, 1..1024; default 64 */
    uint32_t waiting_max;             /* 1..65536; default 256 */
    uint32_t step_tokens_max;         /* token budget of a step, 1..8192; default 512 */
    uint32_t chunk_tokens_max;        /* prefill tokens of one sequence a step; default 256 */
};

/* With whom a tenant shares the prefix cache. */
enum config_cache {
    CONFIG_CACHE_OWN = 0, /* its own clients */
    CONFIG_CACHE_SHARED,  /* all tenants of its parent that say so too */
    CONFIG_CACHE_NONE,    /* nobody, itself included */
    CONFIG_CACHE_PUBLIC,  /* reads what publishers computed, adds nothing */
    CONFIG_CACHE_PUBLISH, /* reads and adds to what the public ones read */
};

/* One entry of `tenants:`; rights hold for all below it together, and on each model. */
struct config_tenant {
    char name[CONFIG_NAME_MAX_BYTES];   /* unique; required */
    char parent[CONFIG_NAME_MAX_BYTES]; /* "" (default): at the top */
    uint32_t parent_index;              /* of `tenants`, or CONFIG_NONE */
    uint32_t line;                      /* of the file, from 1 */
    uint32_t weight;                    /* share among its siblings, 1..1000000; default 1 */
    enum sched_class class;             /* of requests that name none; default interactive */
    bool closed;                        /* takes no new requests */
    uint32_t reserved_percent;          /* of a model's KV blocks, 0..50; default 0 */
    uint32_t limit_percent;             /* 1..100; default 100 */
    uint32_t cached_percent;            /* 1..100; default 100 */
    enum config_cache cache;            /* default: own */
    struct quota_row quota;             /* limits, default none; name, line and parent are not set:
                                           config_quota_row does */
};

/* One name of a tenant's list `clients:`. */
struct config_client {
    char
        name[CONFIG_CLIENT_MAX_BYTES]; /* of a certificate, its fingerprint, "uid:N", "user:NAME" */
    uint32_t tenant;                   /* index of `tenants` */
    uint32_t line;
};

struct config {
    char file[CONFIG_PATH_MAX_BYTES];          /* where it came from; "" for defaults */
    char runtime_dir[CONFIG_PATH_MAX_BYTES];   /* sockets; default: RUNTIME_DIRECTORY, else
                                                  /run/galerne for root, else
                                                  $XDG_RUNTIME_DIR/galerne */
    char socket_group[CONFIG_NAME_MAX_BYTES];  /* group of galerne.sock; default "galerne"; when it
                                                  does not exist the daemon's own group serves */
    char worker_binary[CONFIG_PATH_MAX_BYTES]; /* default: galerne-worker beside galerned */
    char cache_dir[CONFIG_PATH_MAX_BYTES];     /* where workers keep quantised weights; default:
                                                  CACHE_DIRECTORY, else /var/cache/galerne for
                                                  root, else $XDG_CACHE_HOME/galerne, else
                                                  ~/.cache/galerne */
    uint32_t log_level;                        /* enum log_level; default info */
    uint32_t requests_max;                     /* generate calls at once, 1..65536; default 1024 */
    uint32_t text_threads_count;               /* 1..64; default 2 */
    uint32_t listener_threads_count;           /* 1..16; default 1 */
    uint32_t message_max_bytes;      /* a received message, 1 KiB..64 MiB; default 4 MiB */
    uint32_t connection_streams_max; /* 1..10000; default 256 */
    uint32_t kv_memory_percent;      /* of free memory, all models together, 1..90;
                                        default 40 */
    uint64_t drain_timeout_ns;       /* key drain_timeout_ms, 0..3600000; default 30000 */
    uint64_t stall_timeout_ns;       /* key stall_timeout_ms: a stream whose client reads
                                        nothing this long is cancelled; default 60000 */
    uint64_t worker_start_limit_ns;  /* key worker_start_limit_ms; default 300000 */
    uint64_t step_limit_ns;          /* key step_limit_ms: a step that takes longer means
                                        a hung worker; default 60000 */
    uint32_t trace_events_count;     /* of each thread's ring, 0..65536; default 8192 */
    /* TCP, always with TLS and client certificates; none unless tcp_listen is set */
    char tcp_listen[CONFIG_ADDRESSES_MAX_BYTES]; /* "127.0.0.1:7443, [::1]:7443"; default "" */
    char tls_certificate[CONFIG_PATH_MAX_BYTES]; /* a path; a name without '/' is first looked */
    char tls_key[CONFIG_PATH_MAX_BYTES];         /* for in $CREDENTIALS_DIRECTORY */
    char tls_client_ca[CONFIG_PATH_MAX_BYTES];   /* whose clients may come */
    char tls_clients[CONFIG_PATH_MAX_BYTES];     /* which of them; default "": all */
    uint32_t tcp_connections_max;                /* 1..60000; default 1024 */
    uint64_t tls_handshake_timeout_ns;           /* key ..._ms, 100..60000; default 10000 */
    uint64_t keepalive_time_ns;                  /* key ..._ms; default 30000 */
    uint64_t keepalive_timeout_ns;               /* key ..._ms; default 20000 */
    uint64_t ping_interval_min_ns;               /* key ..._ms; default 5000 */
    uint64_t connection_idle_max_ns;             /* key ..._ms; default 0, no end */
    uint64_t connection_age_max_ns;              /* key ..._ms; default 0, no end */
    uint64_t connection_age_grace_ns;            /* key ..._ms; default 0, no end */
    char default_tenant[CONFIG_NAME_MAX_BYTES];  /* of clients that no tenant lists; default "":
                                                    they are refused */
    uint32_t n_models;
    struct config_model models[CONFIG_MODELS_MAX];    /* [n_models] */
    uint32_t n_tenants;                               /* 0: everybody is one tenant, "local" */
    struct config_tenant tenants[CONFIG_TENANTS_MAX]; /* [n_tenants] */
    uint32_t n_clients;
    struct config_client clients[CONFIG_CLIENTS_MAX]; /* [n_clients] in the file's order */
};

/* Defaults, as with an empty file (no models). */
void config_default(struct config *ret_config);

/* Reads and checks `path`. The error says FILE:LINE:COLUMN. */
enum status config_load(const char *path, struct config *ret_config, struct error *error);

/* The same from memory; `name` stands for the file (relative paths stay as they are). */
enum status config_parse(const char *name, struct span text, struct config *ret_config,
                         struct error *error);

/* The commented sample file, made from the table. */
void config_print_sample(FILE *out);
