/*
 * front: what the front process consists of, and what a listener may ask of it.
 *
 * Made by main before the listeners start; the parts lock or are read-only, as their headers say.
 * A listener needs: front_model_find, request_new/free (pool), text_pool_submit, request_cancel,
 * and the two status snapshots.
 */
#pragma once

#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/outlet.h"
#include "daemon/request.h"
#include "daemon/text_pool.h"
#include "model/model.h"

/* One model that is served: text side, engine side. Made at boot, read-only. */
struct served_model {
    const struct config_model *config;
    uint32_t index;
    struct model_plan plan; /* of the files' headers; digest, arch */
    uint32_t context_tokens;
    struct tokenizer *tokenizer;
    struct chat *chat;
    struct engine *engine;
};

enum front_state {
    FRONT_STARTING =
        0,          /* some model is loading for the first time, and none has failed or all wait */
    FRONT_READY,    /* every model serves */
    FRONT_DEGRADED, /* some serve, others failed or are being restarted */
    FRONT_FAILED,   /* none serves and none is on its way */
    FRONT_DRAINING,
};

struct front {
    const struct config *config;
    uint32_t n_models;
    struct served_model models[CONFIG_MODELS_MAX];
    struct request_pool *requests;
    struct text_pool *text_pool;
    struct tenancy *tenancy;
    struct quota *quota; /* of the tenants, over all models */
    struct trace *trace; /* of the requests' stages; NULL: none is kept */
    uint64_t started_ns;
    atomic_bool draining;
    _Atomic uint64_t next_request_id;
    _Atomic uint32_t calls_open; /* every method, every listener */
    _Atomic uint64_t calls_total;
};

/* Reads the models' files, decides memory, makes pool, engines and text threads; starts nothing but
 * the text threads. The error names the model and file. */
enum status front_open(const struct config *config, struct front *ret_front, struct error *error);
/* Reads the configuration file again and puts its tenants in force, whole or not at all; its other
 * keys are read at start only. The error names file and line; what was in force goes on. Control
 * thread. */
enum status front_reload(struct front *front, struct error *error);

/* Text threads, then engines: what still runs ends with UNAVAILABLE. Listeners must still take. */
void front_stop(struct front *front);
void front_close(struct front *front);

/* Producers of every outlet are numbered: text threads first, then engines. */
uint32_t front_producers_count(const struct config *config);

/* "demo" or "models/demo"; NULL when there is none of that name. */
struct served_model *front_model_find(struct front *front, struct span name);

/* From the engines' states. Any thread. */
enum front_state front_state(struct front *front);

/* Sets the flag and wakes the engine. Listener only; the END still comes. `met_stop`: a stop string
 * was met, the request ends as FINISH_STOP. */
void request_cancel(struct request *request, bool met_stop);

/* After draining a token ring: if the engine had paused this request, wakes it. */
void request_drained(struct request *request);

/* One line, without content: id, name, peer, model, counts, times, finish. Called by the listener
 * when a generate call is over. */
void request_log(const struct request *request);
