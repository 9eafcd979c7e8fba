/*
 * engine: the loop of one model. It alone owns the model's scheduler, KV block map and sequences.
 *
 * One thread per model. Text threads put requests into its inlet (one ring each); it plans steps,
 * hands them to the worker up to two ahead, takes results, emits tokens to the requests' outlets
 * and supervises the worker (worker_link.h). After "ready" a turn allocates nothing.
 *
 * A turn, as engine.c reads: supervise the worker, take submissions, apply cancels and deadlines,
 * take results, emit, plan and hand over, report ends, wait.
 */
#pragma once

#include "daemon/config.h"
#include "daemon/request.h"
#include "daemon/walk.h"
#include "model/model.h"

struct engine;

struct engine_options {
    const struct config *config;
    const struct config_model *model;
    const struct model_plan *plan;
    struct step_limits limits;         /* blocks_count decided */
    uint32_t inlets_count;             /* text threads */
    uint32_t producer;                 /* its number in every outlet */
    struct trace *trace;               /* its ring there has the same number; NULL: none */
    uint32_t n_end_ids;                /* the model's own end tokens */
    const uint32_t *end_ids;           /* [n_end_ids], outlives the engine */
    const struct sched_policy *policy; /* NULL: the fair one */
};

enum engine_state {
    ENGINE_STARTING = 0, /* the worker is not there yet */
    ENGINE_LOADING,
    ENGINE_SERVING, /* the self-test token came back */
    ENGINE_LOST,    /* the worker died or hung; it is started again */
    ENGINE_FAILED,  /* the worker refused (text says why) or does not start: needs an operator */
};

/* A snapshot; any thread. */
struct engine_status {
    enum engine_state state;
    char text[256]; /* why, when it does not serve */
    uint32_t load_percent;
    int32_t worker_pid; /* 0: none; inline: our own */
    uint64_t epoch;
    uint32_t restarts_total;
    char device[96];
    uint64_t weights_bytes;
    struct sched_stats sched;
    uint64_t steps_total;
    uint32_t kv_block_tokens;
    uint64_t kv_block_bytes;
    uint64_t requests_total, requests_cancelled_total, requests_refused_total;
    uint64_t prompt_tokens_total, output_tokens_total;
};

enum status engine_open(const struct engine_options *options, struct engine **ret_engine,
                        struct error *error);

/* Starts the thread (and through it the worker). */
enum status engine_start(struct engine *engine, struct error *error);

/* Ends what still runs with UNAVAILABLE, stops the worker and the thread. */
void engine_stop(struct engine *engine);
void engine_close(struct engine *engine);

/* Puts a request into inlet `inlet` (its one text thread only). False: the inlet is full. */
bool engine_submit(struct engine *engine, uint32_t inlet, struct request *request);

/* "Look again": a cancel flag was set, a ring was drained. Any thread. */
void engine_wake(struct engine *engine);

void engine_status(struct engine *engine, struct engine_status *ret_status);

/* For the watchdog: a number that moves with every turn, and whether the engine is where a healthy
 * one may be (idle with a living worker, a step within its limit, a start within its limit). */
bool engine_is_healthy(struct engine *engine, uint64_t now_ns);
