/*
 * engine_private: the inside of an engine, shared by its own files only.
 *
 *     engine.c           the thread, its loop, what others may call
 *     engine_requests.c  submissions, cancels, deadlines, ends
 *     engine_steps.c     plan and hand over; results
 *     engine_tenants.c   the tenants that are in force, and what each of them has
 *     engine_quota.c     what each call has been promised, and what it used
 *
 * Everything here belongs to the engine's thread, save what is marked.
 */
#pragma once

#include <pthread.h>

#include "base/wake.h"
#include "daemon/digest.h"
#include "daemon/engine.h"
#include "daemon/outlet.h"
#include "daemon/step_build.h"
#include "daemon/worker_link.h"

#define ENGINE_OUTLETS_MAX 64
#define ENGINE_NO_ACCOUNT UINT32_MAX
/* A request that was running in this many lost workers is the likely cause: it ends. */
#define ENGINE_REPLAYS_MAX 3

/* One live sequence, by sched_id. */
struct live {
    struct request *request; /* NULL: it has ended for its client; the scheduler still winds up */
    uint32_t *tokens;        /* [context_tokens] prompt, then what was sampled */
    uint32_t n_tokens, prompt_tokens;
    uint32_t replays_count;
    uint32_t account;           /* its call's, or ENGINE_NO_ACCOUNT without quotas */
    uint32_t n_digests;         /* full blocks whose digest is known .. */
    struct sched_digest digest; /* .. and that of the last one */
    bool stepped;               /* a step with it went to the worker */
    bool used;                  /* between submit and the scheduler's last word */
    bool paused;
};

/* What a call was promised, until the last of its choices ends. */
struct account {
    struct reservation reservation;
    uint32_t n_open;        /* choices that have not ended */
    uint32_t output_tokens; /* of those that have */
    uint32_t next_free;
};

/* A step that the worker has: whose its sampling rows are. */
struct flight {
    uint64_t number;     /* on the wire, 1, 2, 3 ... in an epoch */
    uint64_t sched_step; /* 0: a self-test step */
    uint64_t handed_ns;
    uint32_t n_sampled;
    sched_id *sampled; /* [rows_max] in the order of the rows */
};

struct engine {
    struct engine_options options;
    struct sched *sched;
    struct worker_link link;
    struct digest_chain *digests; /* of blocks that decoding fills */
    enum engine_state state;
    uint64_t wire_number; /* of the last step handed over in this epoch */
    uint32_t tests_left;  /* self-test steps not back yet; 0 once it serves */

    uint32_t lives_count;
    struct live *lives;      /* [lives_count] */
    uint32_t *tokens_memory; /* [lives_count][context_tokens], touched as used */
    uint32_t lives_used;     /* one past the highest used */

    struct flight flights[SCHED_STEPS_MAX]; /* oldest first */
    uint32_t n_flights;
    sched_id *flights_memory;

    struct outlet *dirty[ENGINE_OUTLETS_MAX]; /* to flush at the end of the turn */
    uint32_t n_dirty;

    struct ring **inlets; /* [inlets_count] of struct request *, each one text thread's */
    struct wake wake;     /* any thread signals */
    pthread_t thread;
    bool started;
    atomic_bool stopping;          /* main sets */
    _Atomic uint64_t turned_ns;    /* the watchdog reads */
    _Atomic uint64_t step_due_ns;  /* the watchdog reads; UINT64_MAX: no step is out */
    pthread_mutex_t status_lock;   /* the engine only tries it */
    struct engine_status snapshot; /* under status_lock */
    uint32_t n_tenants;            /* under status_lock .. */
    struct sched_tenant_stats tenants[TENANCY_ROWS_MAX]; /* .. [n_tenants] */
    uint64_t tenants_ns;                                 /* when those were taken */
    uint64_t tenancy_generation;                         /* of the rows that the scheduler has */
    struct sched_limits sched_limits;
    struct quota_lease *lease; /* NULL: no quotas */
    struct account *accounts;  /* [lives_count] */
    uint32_t free_account;     /* the first free one; each names the next */

    uint64_t steps_total, requests_total, requests_cancelled_total, requests_refused_total;
    uint64_t requests_not_finite_total;
    uint64_t prompt_tokens_total, output_tokens_total;
};

/* Of several choices the first one is traced. */
static inline void engine_trace(const struct engine *engine, const struct request *request,
                                enum walk_stage stage, uint64_t at_ns, uint32_t value)
{
    struct walker walker = {.trace = engine->options.trace, .writer = engine->options.producer};
    if (request->choice == 0)
        walk_add(walker, request->id, stage, at_ns, value);
}

/* engine_tenants.c */
/* What is in force, when it is not what the scheduler has; INVALID as sched_set_tenants. */
enum status engine_take_tenants(struct engine *engine, struct error *error);
void engine_follow_tenants(struct engine *engine);
void engine_publish_tenants(struct engine *engine, uint64_t now_ns); /* under status_lock */

/* engine_quota.c */
enum status engine_quota_open(struct engine *engine, struct error *error);
void engine_quota_close(struct engine *engine);
/* A promise for all choices of a call, whose most output may be lowered by it; the error names
 * limit, subject and time. *ret_account is ENGINE_NO_ACCOUNT without quotas. */
enum status engine_quota_reserve(struct engine *engine, struct request *request, uint64_t now_ns,
                                 uint32_t *ret_account);
/* The scheduler did not take the call. */
void engine_quota_undo(struct engine *engine, uint32_t account);
/* A step with it is on its way. */
void engine_quota_begin(struct engine *engine, uint32_t account);
/* One choice is over. */
void engine_quota_end(struct engine *engine, uint32_t account, uint32_t output_tokens);
void engine_quota_turn(struct engine *engine, uint64_t now_ns);

/* engine_requests.c */
void engine_take_submissions(struct engine *engine, uint64_t now_ns);
void engine_apply_cancels(struct engine *engine, uint64_t now_ns);
void engine_bury_ended(struct engine *engine);
/* Ends a live request for its client: the END goes out, the scheduler is told if it still runs. */
void engine_end(struct engine *engine, sched_id id, enum finish_reason finish);
/* The same with an error in request->error. */
void engine_fail_all(struct engine *engine, enum status status, const char *why);
void engine_mark_dirty(struct engine *engine, struct outlet *outlet);
void engine_flush(struct engine *engine);

/* engine_steps.c */
void engine_begin_epoch(struct engine *engine, uint64_t now_ns);
void engine_lose_epoch(struct engine *engine);
void engine_take_results(struct engine *engine, uint64_t now_ns);
void engine_hand_over(struct engine *engine, uint64_t now_ns);
void engine_check_hang(struct engine *engine, uint64_t now_ns);
