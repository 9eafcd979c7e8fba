/*
 * engine: the loop of one model. It alone owns the model's scheduler, KV block map and sequences.
 *
 * One thread per model. Text threads put requests into its inlet (one ring each); it plans steps,
 * hands them to the worker up to two ahead, takes results, emits tokens to the requests' outlets
 * and supervises the worker (worker_link.h). After "ready" a turn allocates nothing.
 *
 * A turn, as engine.c reads: supervise the worker, follow the tenants, take submissions and
 * results, apply cancels and deadlines, plan and hand over, bury what has ended, publish, flush,
 * wait.
 */
#pragma once

#include "daemon/config.h"
#include "daemon/request.h"
#include "daemon/tenancy.h"
#include "daemon/walk.h"
#include "daemon/worker_link.h"
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
    struct tenancy *tenancy;           /* NULL: one tenant for ever, as in some tests */
    struct quota *quota;               /* of all engines; NULL: no limits, as in some tests */
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
    bool quantises; /* while it loads */
    uint32_t load_percent;
    int32_t worker_pid; /* 0: none; inline: our own */
    uint64_t epoch;
    uint32_t restarts_total;
    uint64_t ends_total[LINK_ENDS]; /* workers that were lost or did not come up, by cause */
    char end_text[256];             /* as the link has it */
    char device[96];
    struct device_facts facts; /* `known` 0: the device says nothing */
    uint64_t weights_bytes;
    struct sched_stats sched;
    uint64_t steps_total;
    uint32_t kv_block_tokens;
    uint64_t kv_block_bytes;
    uint64_t requests_total, requests_cancelled_total, requests_refused_total;
    uint64_t requests_not_finite_total; /* ended because a number was not finite */
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

/* The rows of tenancy on this model, as of at most ENGINE_TENANTS_NS before its last turn that had
 * something to do; ret_rows [TENANCY_ROWS_MAX]. Returns how many. Any thread. */
#define ENGINE_TENANTS_NS 100000000ull
uint32_t engine_tenants(struct engine *engine, struct sched_tenant_stats *ret_rows);

/* Whether the scheduler takes these rows: INVALID names the row, its line and the reason. Any
 * thread. */
enum status engine_check_tenants(const struct engine *engine, const struct tenant_table *table,
                                 struct error *error);
/* KV blocks of the model. Any thread. */
uint32_t engine_blocks_count(const struct engine *engine);

/* For the watchdog: a number that moves with every turn, and whether the engine is where a healthy
 * one may be (idle with a living worker, a step within its limit, a start within its limit). */
bool engine_is_healthy(struct engine *engine, uint64_t now_ns);
