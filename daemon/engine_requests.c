/* What comes down the inlets, what clients give up, and how a request ends. */
#include "base/clock.h"
#include "daemon/engine_private.h"

/* ---- the way up ---- */

void engine_mark_dirty(struct engine *engine, struct outlet *outlet)
{
    for (uint32_t i = 0; i < engine->n_dirty; i++)
        if (engine->dirty[i] == outlet)
            return;
    CHECK(engine->n_dirty < ENGINE_OUTLETS_MAX);
    engine->dirty[engine->n_dirty++] = outlet;
}

void engine_flush(struct engine *engine)
{
    for (uint32_t i = 0; i < engine->n_dirty; i++)
        outlet_flush(engine->dirty[i], engine->options.producer);
    engine->n_dirty = 0;
}

/* The last touch of a request: afterwards it is its listener's alone. */
static void request_end(struct engine *engine, struct request *request, enum finish_reason finish,
                        uint64_t now_ns)
{
    struct outlet *outlet = request->outlet;
    request->finish = finish;
    request->ended_ns = now_ns;
    engine_trace(engine, request, WALK_ENDED, now_ns, request->output_tokens);
    if (finish == FINISH_CANCELLED && request->choice == 0)
        engine->requests_cancelled_total++;
    outlet_end(outlet, engine->options.producer, request);
    engine_mark_dirty(engine, outlet);
}

void engine_end(struct engine *engine, sched_id id, enum finish_reason finish)
{
    struct live *live = &engine->lives[id];
    if (!live->request)
        return;
    struct request *request = live->request;
    live->request = NULL;
    engine->output_tokens_total += request->output_tokens;
    /* What came after a stop string is not charged. */
    uint32_t stop_tokens = finish == FINISH_STOP ? atomic_load(&request->stop_tokens) : 0;
    engine_quota_end(engine, live->account,
                     stop_tokens ? u32_min(stop_tokens, request->output_tokens)
                                 : request->output_tokens);
    request_end(engine, request, finish, clock_now_ns());
}

void engine_fail_all(struct engine *engine, enum status status, const char *why)
{
    for (sched_id id = 0; id < engine->lives_used; id++) {
        struct request *request = engine->lives[id].request;
        if (!request)
            continue;
        error_set(&request->error, status, "model %s: %s", engine->options.model->name, why);
        sched_cancel(engine->sched, id);
        engine_end(engine, id, FINISH_ERROR);
    }
}

/* ---- the way down ---- */

static enum status submit_check(struct engine *engine, struct request *request)
{
    if (engine->state == ENGINE_FAILED)
        return error_set(&request->error, STATUS_UNAVAILABLE, "model %s does not serve: %s",
                         engine->options.model->name, engine->link.text);
    if (atomic_load(&engine->stopping))
        return error_set(&request->error, STATUS_UNAVAILABLE, "the daemon is stopping");
    return STATUS_OK;
}

/* Whatever would end it cannot be chosen before it has min_tokens tokens. */
static void holds_set(const struct engine *engine, struct request *request)
{
    uint32_t n = 0;
    if (request->sampling.min_tokens > 0) {
        uint32_t n_end_ids = request->ignore_eos ? 0 : engine->options.n_end_ids;
        CHECK(n_end_ids + request->n_stop_ids <= SAMPLE_HOLDS_MAX);
        for (uint32_t i = 0; i < n_end_ids; i++)
            request->hold_ids[n++] = engine->options.end_ids[i];
        for (uint32_t i = 0; i < request->n_stop_ids; i++)
            request->hold_ids[n++] = request->stop_ids[i];
    }
    request->sampling.n_holds = n;
}

static void request_refuse(struct engine *engine, struct request *request)
{
    uint64_t now_ns = clock_now_ns();
    struct error error = request->error;
    engine->requests_refused_total++;
    for (struct request *next; request; request = next) { /* gone with its END */
        next = request->next_choice;
        request->error = error;
        request_end(engine, request, FINISH_ERROR, now_ns);
    }
}

static void live_begin(struct engine *engine, sched_id id, struct request *request,
                       uint32_t account)
{
    struct live *live = &engine->lives[id];
    DCHECK(!live->used);
    uint32_t *tokens = live->tokens;
    *live = (struct live){.request = request, .tokens = tokens, .account = account, .used = true};
    memcpy(tokens, request->ids, request->n_ids * sizeof *tokens);
    live->n_tokens = live->prompt_tokens = request->n_ids;
    live->n_digests = request->n_digests;
    if (live->n_digests)
        live->digest = request->digests[live->n_digests - 1];
    holds_set(engine, request);
    engine->lives_used = u32_max(engine->lives_used, id + 1);
}

/* All choices of a call, or none. */
static void request_submit(struct engine *engine, struct request *request, uint64_t now_ns)
{
    sched_id ids[REQUEST_CHOICES_MAX];
    uint32_t account = ENGINE_NO_ACCOUNT;
    engine->requests_total++;
    enum status status = submit_check(engine, request);
    if (status == STATUS_OK)
        status = engine_quota_reserve(engine, request, now_ns, &account);
    struct sched_submission submission = {
        .request_id = request->id,
        .tenant = request->tenant,
        .class = request->class,
        .deadline_ns = request->deadline_ns,
        .cache_domain = request->cache_domain,
        .cache_readonly = request->cache_readonly,
        .prompt_tokens = request->n_ids,
        .output_tokens_max = request->output_tokens_max,
        .choices = request->n_choices,
        .n_digests = request->n_digests,
        .digests = request->digests,
    };
    if (status == STATUS_OK)
        status = sched_submit(engine->sched, &submission, now_ns, ids, &request->error);
    if (status != STATUS_OK) {
        engine_quota_undo(engine, account);
        request_refuse(engine, request);
        return;
    }
    /* Not the turn's now_ns: it may have been put into the inlet since. */
    engine_trace(engine, request, WALK_SUBMITTED, clock_now_ns(), 0);
    engine->prompt_tokens_total += request->n_ids;
    for (const sched_id *id = ids; request; request = request->next_choice)
        live_begin(engine, *id++, request, account);
}

void engine_take_submissions(struct engine *engine, uint64_t now_ns)
{
    for (uint32_t i = 0; i < engine->options.inlets_count; i++) {
        struct request **item;
        while ((item = ring_peek(engine->inlets[i]))) {
            struct request *request = *item;
            ring_release(engine->inlets[i]);
            engine_follow_tenants(engine); /* its tenant may be newer than this turn */
            request_submit(engine, request, now_ns);
        }
    }
}

/* ---- giving up, slowing down ---- */

static void live_resume(struct engine *engine, sched_id id)
{
    struct live *live = &engine->lives[id];
    if (live->paused && ring_free_count(live->request->tokens) >= REQUEST_TOKENS_RING / 2) {
        live->paused = false;
        sched_pause(engine->sched, id, false);
    }
}

void engine_apply_cancels(struct engine *engine, uint64_t now_ns)
{
    for (sched_id id = 0; id < engine->lives_used; id++) {
        struct request *request = engine->lives[id].request;
        if (!request)
            continue;
        if (atomic_load_explicit(&request->cancelled, memory_order_acquire)) {
            bool met_stop = atomic_load(&request->cancel_stop);
            if (!met_stop)
                error_set(&request->error, STATUS_CANCELLED, "cancelled by the caller");
            sched_cancel(engine->sched, id);
            engine_end(engine, id, met_stop ? FINISH_STOP : FINISH_CANCELLED);
        } else {
            live_resume(engine, id);
        }
    }
    sched_id id;
    while (sched_next_expired(engine->sched, now_ns, &id)) {
        struct request *request = engine->lives[id].request;
        if (request) {
            error_set(&request->error, STATUS_DEADLINE,
                      "the deadline passed after %u output tokens", request->output_tokens);
            engine_end(engine, id, FINISH_ERROR);
        }
    }
}

void engine_bury_ended(struct engine *engine)
{
    struct sched_ended ended;
    while (sched_next_ended(engine->sched, &ended)) {
        struct live *live = &engine->lives[ended.id];
        CHECK(live->used && !live->request); /* the client heard of it before */
        live->used = false;
    }
    while (engine->lives_used > 0 && !engine->lives[engine->lives_used - 1].used)
        engine->lives_used--;
}
