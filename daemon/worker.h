/*
 * worker: one model on one device, behind a socket and a channel.
 *
 * The process `galerne-worker` listens on its socket and serves one front at a time with
 * worker_session; an inline worker is a thread that runs worker_session on one end of a socketpair.
 * It knows no tenant, no request and no network. One thread (beside the device's own).
 *
 * A session: receive the hello, attach the channel, open the model (or, if it is open with the same
 * limits, drop its sequences), answer READY with a new epoch, run steps until the front is gone.
 * The model outlives the session, so that a new front finds its weights loaded. Between steps it
 * asks its device now and again how it is, tells the front, and logs what an operator should see.
 */
#pragma once

#include <stdatomic.h>

#include "base/status.h"
#include "model/model.h"

struct worker_options {
    const char *name;    /* of the model, for the log */
    const char *path;    /* of the model's files */
    const char *backend; /* "cpu", "cuda", "auto", "cuda-host", "ref" */
    const char *tier;    /* "" or NULL: best */
    uint32_t threads_count;
    const char *cache_dir; /* where quantised weights are kept; "" or NULL: nowhere */
};

struct worker {
    struct worker_options options;
    struct model *model; /* NULL until the first hello */
    struct step_limits limits;
    uint64_t epoch;            /* of the last session */
    struct device_facts facts; /* as told last */
    uint64_t facts_ns;         /* when; 0: not yet in this session */
    atomic_bool *stop;         /* set by a signal: leave at the next turn; may be NULL */
};

void worker_init(struct worker *worker, const struct worker_options *options, atomic_bool *stop);

/* Serves one front on `socket` until it is gone, then closes the socket. Returns OK when the front
 * left, or the error that ended the session (it has been sent as FAILED, where one could). */
enum status worker_session(struct worker *worker, int socket, struct error *error);

void worker_close(struct worker *worker);
