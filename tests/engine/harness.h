/*
 * harness: an engine with a real worker and a listener of a few lines, for tests.
 *
 * It opens one engine on a model directory (inline worker unless told otherwise), plays the text
 * thread (token ids go straight down inlet 0) and the listener (one outlet), and keeps what each
 * stream received. One thread drives it: the test.
 */
#pragma once

#include "base/wake.h"
#include "daemon/engine_private.h"

struct stream {
    struct request *request, *first; /* its own, and the first of its choices */
    struct harness *harness;
    uint32_t n_tokens;
    struct request_token *tokens; /* [n_tokens] */
    bool ended;
    bool reads; /* false: a client that does not read */
    /* copied when it ended */
    enum finish_reason finish;
    enum status status;
    uint64_t retry_ns;
    char text[ERROR_TEXT_MAX_BYTES];
    uint32_t output_tokens, cached_tokens;
};

struct harness_options {
    const char *path;           /* model */
    const char *backend, *tier; /* NULL: cpu, best */
    uint32_t threads_count, chunk_tokens, step_tokens, running_max, waiting_max, blocks_count;
    uint32_t context_tokens;           /* 0: the model's, at most 512 */
    enum dtype kv_dtype;               /* of K and V */
    const char *worker_binary;         /* NULL: inline */
    const char *runtime_dir;           /* NULL: a new one, removed at the end */
    uint64_t step_limit_ns;            /* 0: a minute */
    const struct sched_policy *policy; /* NULL: the engine's own choice */
};

struct harness {
    struct config config;
    struct model_plan plan;
    struct engine *engine;
    struct quota *quota; /* limits that nobody meets, so that every promise is kept and counted */
    struct served_model *model; /* only so far as engine_wake needs it */
    struct request_pool *pool;
    struct outlet outlet;
    struct wake wake;
    struct trace *trace; /* ring 1 is the engine's */
    uint64_t next_id;
    uint32_t n_open;
    char runtime_dir[64];
    bool owns_runtime_dir;
};

/* Aborts the test with a message when it cannot. Waits until the engine serves. */
void harness_open(struct harness *harness, const struct harness_options *options);
/* The same, without waiting. */
void harness_open_only(struct harness *harness, const struct harness_options *options);
bool harness_wait_state(struct harness *harness, enum engine_state state, uint64_t timeout_ns);
void harness_close(struct harness *harness);

struct stream_options {
    const uint32_t *ids;
    uint32_t n_ids;
    uint32_t output_tokens_max;
    struct sample_params sampling;
    const struct sample_entry *biases; /* [sampling.n_biases], outlives the stream */
    uint64_t deadline_ns;              /* 0: none */
    const uint32_t *stop_ids;
    uint32_t n_stop_ids;
    bool does_not_read;
    uint64_t cache_domain; /* 0: nobody's */
};

struct stream *stream_start(struct harness *harness, const struct stream_options *options);
/* Several choices of one prompt, in one call. */
void streams_start(struct harness *harness, const struct stream_options *options, uint32_t n,
                   struct stream **ret_streams /* [n] */);
void stream_cancel(struct stream *stream);
void stream_free(struct stream *stream); /* after it ended */

/* Takes what is there; waits for a wake at most `timeout_ns`. */
void harness_turn(struct harness *harness, uint64_t timeout_ns);
/* Turns until every stream has ended; false after `timeout_ns`. */
bool harness_drain(struct harness *harness, uint64_t timeout_ns);
