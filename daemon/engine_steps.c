/* The worker's side of a turn: steps out, results back, and what a new or lost worker means. */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/engine_private.h"

/* ---- flights ---- */

static struct flight *flight_add(struct engine *engine, uint64_t sched_step, uint64_t now_ns)
{
    CHECK(engine->n_flights < SCHED_STEPS_MAX);
    struct flight *flight = &engine->flights[engine->n_flights++];
    flight->number = ++engine->wire_number;
    flight->sched_step = sched_step;
    flight->handed_ns = now_ns;
    flight->n_sampled = 0;
    return flight;
}

static void flight_remove_oldest(struct engine *engine)
{
    struct flight oldest = engine->flights[0];
    engine->n_flights--;
    memmove(engine->flights, engine->flights + 1, engine->n_flights * sizeof oldest);
    engine->flights[engine->n_flights] = oldest; /* keeps its `sampled` array */
}

static void due_update(struct engine *engine)
{
    uint64_t due_ns = engine->n_flights
                          ? engine->flights[0].handed_ns + engine->options.config->step_limit_ns
                          : UINT64_MAX;
    atomic_store_explicit(&engine->step_due_ns, due_ns, memory_order_relaxed);
}

static void step_commit(struct engine *engine)
{
    ring_commit(engine->link.channel.down);
    wake_signal(&engine->link.channel.wake_down);
    engine->steps_total++;
    due_update(engine);
}

/* ---- a worker comes, a worker goes ---- */

/*
 * The self-test: one token through every layer of the new worker, before anybody relies on it.
 * Two steps: open slot 0 with one token and sample; then close it.
 */
void engine_begin_epoch(struct engine *engine, uint64_t now_ns)
{
    const struct step_limits *limits = &engine->options.limits;
    engine->wire_number = 0;
    engine->state = ENGINE_LOADING;
    engine->tests_left = 2;
    struct step *step = ring_reserve(engine->link.channel.down);
    CHECK(step);
    struct flight *flight = flight_add(engine, 0, now_ns);
    step_begin(step, limits, engine->link.epoch, flight->number);
    step_opens(step)[0] = (struct step_open){.n_tokens = 1, .n_blocks = 1};
    step_tokens(step)[0] = 0;
    step_blocks(step)[0] = 0;
    step_rows(step)[0] =
        (struct step_row){.n_tokens = 1, .flags = STEP_ROW_SAMPLES, .mask_slot = STEP_MASK_NONE};
    step->n_opens = step->n_tokens = step->n_blocks = step->n_rows = 1;
    step_commit(engine);

    step = ring_reserve(engine->link.channel.down);
    CHECK(step);
    flight = flight_add(engine, 0, now_ns);
    step_begin(step, limits, engine->link.epoch, flight->number);
    step_closes(step)[0] = 0;
    step->n_closes = 1;
    step_commit(engine);
}

void engine_lose_epoch(struct engine *engine)
{
    log_error("model %s: worker lost: %s", engine->options.model->name, engine->link.text);
    bool served = engine->tests_left == 0;
    engine->state = ENGINE_LOST;
    engine->n_flights = 0;
    due_update(engine);
    if (!served)
        return;
    for (sched_id id = 0; id < engine->lives_used; id++) {
        struct live *live = &engine->lives[id];
        if (live->request && ++live->replays_count >= ENGINE_REPLAYS_MAX) {
            error_set(&live->request->error, STATUS_INTERNAL,
                      "the worker of model %s was lost %u times while this request was here",
                      engine->options.model->name, ENGINE_REPLAYS_MAX);
            sched_cancel(engine->sched, id);
            engine_end(engine, id, FINISH_ERROR);
        }
    }
    for (sched_id id = 0; id < engine->lives_used; id++) {
        const struct live *live = &engine->lives[id];
        if (live->request)
            engine_trace(engine, live->request, WALK_REPLAYED, clock_now_ns(), live->replays_count);
    }
    sched_replay(engine->sched);
}

void engine_check_hang(struct engine *engine, uint64_t now_ns)
{
    if (engine->n_flights == 0 || engine->link.state != LINK_UP ||
        now_ns < atomic_load_explicit(&engine->step_due_ns, memory_order_relaxed))
        return;
    char why[128];
    snprintf(why, sizeof why, "the worker hung: a step took over %llu ms",
             (unsigned long long)(engine->options.config->step_limit_ns / NS_PER_MS));
    link_hung(&engine->link, LINK_END_HUNG, why);
    engine->flights[0].handed_ns = now_ns; /* said once; the link reports the loss */
    due_update(engine);
}

/* ---- results ---- */

static bool is_end_id(const struct engine *engine, const struct request *request, uint32_t id)
{
    uint32_t n_end_ids = request->ignore_eos ? 0 : engine->options.n_end_ids;
    for (uint32_t i = 0; i < n_end_ids; i++)
        if (engine->options.end_ids[i] == id)
            return true;
    for (uint32_t i = 0; i < request->n_stop_ids; i++)
        if (request->stop_ids[i] == id)
            return true;
    return false;
}

static void token_emit(struct engine *engine, sched_id id, const struct sample_result *sample,
                       bool is_end, uint64_t now_ns)
{
    struct live *live = &engine->lives[id];
    struct request *request = live->request;
    struct request_token *token = ring_reserve(request->tokens);
    CHECK(token); /* a sequence is paused while there is room for every step in flight */
    *token =
        (struct request_token){.choice = request->choice, .from_end_id = is_end, .sample = *sample};
    ring_commit(request->tokens);
    request->output_tokens++;
    if (!request->first_token_ns)
        request->first_token_ns = now_ns;
    request->last_token_ns = now_ns;
    if ((request->output_tokens & (request->output_tokens - 1)) == 0) /* 1, 2, 4, 8, ... */
        engine_trace(engine, request, request->output_tokens == 1 ? WALK_FIRST_TOKEN : WALK_TOKENS,
                     now_ns, request->output_tokens);
    outlet_ready(request->outlet, engine->options.producer, request);
    engine_mark_dirty(engine, request->outlet);

    if (!live->paused && ring_free_count(request->tokens) <= 2 * SCHED_STEPS_MAX) {
        /*
         * First the flag, then one more look; the reader drains, then takes the flag. Both exchange
         * it, so one comes second: the reader and wakes us, or we and see what it has drained.
         */
        atomic_exchange_explicit(&request->stalled, true, memory_order_acq_rel);
        if (ring_free_count(request->tokens) <= 2 * SCHED_STEPS_MAX) {
            live->paused = true;
            sched_pause(engine->sched, id, true);
        }
    }
}

/* All tokens of one more block are known: the scheduler hears its name. */
static void block_note(struct engine *engine, sched_id id)
{
    struct live *live = &engine->lives[id];
    uint32_t block_tokens = engine->options.limits.block_tokens;
    if (live->request->cache_domain == 0 || live->n_tokens % block_tokens ||
        live->n_tokens / block_tokens != live->n_digests + 1)
        return;
    const struct model_plan *plan = engine->options.plan;
    struct digest_scope scope =
        digest_scope_of(plan->digest, plan->kv_dtype, live->request->cache_domain);
    digest_next(engine->digests, &scope, live->n_digests ? &live->digest : NULL,
                live->tokens + live->n_tokens - block_tokens, block_tokens, &live->digest);
    sched_block_filled(engine->sched, id, live->n_digests++, &live->digest);
}

/* Numbers that overflowed: the request ends, alone. Its tokens so far were good. */
static void row_fail(struct engine *engine, sched_id id, const struct step_result_row *row)
{
    struct request *request = engine->lives[id].request;
    engine->requests_not_finite_total++;
    error_set(&request->error, STATUS_INTERNAL,
              "model %s: a number is not finite (NaN or too large) on the way to the token at "
              "position %u: the model's weights do not carry this text; leave out or change what "
              "it holds, or have the operator serve the model in a wider type",
              engine->options.model->name, row->position);
    log_warning("model %s: request %s ends: a number is not finite on the way to the token at "
                "position %u",
                engine->options.model->name, request->name, row->position);
    engine_end(engine, id, FINISH_ERROR);
}

static void row_take(struct engine *engine, const struct flight *flight, sched_id id,
                     const struct step_result_row *row, uint64_t now_ns)
{
    struct live *live = &engine->lives[id];
    struct request *request = live->request;
    /* A client that is gone: the scheduler drops the token, and nobody is charged. */
    bool is_bad = row->flags & STEP_RESULT_NOT_FINITE;
    bool is_end = request && !is_bad && is_end_id(engine, request, row->sample.id);
    if (!sched_sampled(engine->sched, flight->sched_step, id, is_end || is_bad) || !request)
        return;
    if (is_bad) {
        row_fail(engine, id, row);
        return;
    }
    CHECK(live->n_tokens < engine->options.limits.context_tokens);
    live->tokens[live->n_tokens++] = row->sample.id;
    block_note(engine, id);
    token_emit(engine, id, &row->sample, is_end, now_ns);
    if (is_end)
        engine_end(engine, id, FINISH_STOP);
    else if (request->output_tokens == request->output_tokens_max)
        engine_end(engine, id, request->is_cut ? FINISH_QUOTA : FINISH_LENGTH);
}

static bool result_is_good(const struct engine *engine, const struct step_result *result,
                           const struct flight *flight)
{
    return result->status == STATUS_OK && result->version == STEP_VERSION &&
           result->epoch == engine->link.epoch && result->number == flight->number &&
           (flight->sched_step == 0 || result->n_rows == flight->n_sampled);
}

static void result_take(struct engine *engine, const struct step_result *result, uint64_t now_ns)
{
    struct flight *flight = &engine->flights[0];
    if (engine->n_flights == 0 || !result_is_good(engine, result, flight)) {
        char why[sizeof result->error_text + 32];
        enum link_end cause = LINK_END_NONSENSE;
        if (result->status == STATUS_INTERNAL)
            cause = LINK_END_DEVICE;
        if (result->status != STATUS_OK)
            snprintf(why, sizeof why, "a step failed: %.*s", (int)sizeof result->error_text - 1,
                     result->error_text);
        else
            snprintf(why, sizeof why, "a result is not of the step that is due");
        link_hung(&engine->link, cause, why);
        return;
    }
    if (flight->sched_step == 0) {
        if (result->n_rows && result->rows[0].flags & STEP_RESULT_NOT_FINITE)
            log_warning("model %s: a number of its first test is not finite: its weights may be "
                        "damaged",
                        engine->options.model->name);
        engine->tests_left--;
        if (engine->tests_left == 0) {
            engine->state = ENGINE_SERVING;
            log_info("model %s serves: %s, worker %d", engine->options.model->name,
                     engine->link.device, (int)engine->link.peer);
        }
    } else {
        for (uint32_t i = 0; i < flight->n_sampled; i++)
            row_take(engine, flight, flight->sampled[i], &result->rows[i], now_ns);
        sched_retired(engine->sched, flight->sched_step, now_ns);
    }
    flight_remove_oldest(engine);
    due_update(engine);
}

void engine_take_results(struct engine *engine, uint64_t now_ns)
{
    if (engine->link.state != LINK_UP)
        return;
    wake_clear(&engine->link.channel.wake_up);
    const struct step_result *result;
    while ((result = ring_peek(engine->link.channel.up))) {
        result_take(engine, result, now_ns);
        ring_release(engine->link.channel.up);
    }
}

/* ---- plan and hand over ---- */

static struct step_sequence sequence_of(void *context, sched_id id)
{
    struct engine *engine = context;
    static const struct sample_params greedy = {0};
    const struct live *live = &engine->lives[id];
    struct step_sequence sequence = {
        .tokens = live->tokens, .prompt_tokens = live->prompt_tokens, .sampling = &greedy};
    if (live->request) {
        sequence.sampling = &live->request->sampling;
        sequence.biases = live->request->biases;
        sequence.holds = live->request->hold_ids;
    }
    return sequence;
}

/* The first step of each request that is in it for the first time. */
static void first_steps_trace(struct engine *engine, const struct sched_plan *plan, uint64_t number)
{
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        struct live *live = &engine->lives[plan->rows[i].id];
        if (live->stepped || !live->request)
            continue;
        live->stepped = true;
        engine_quota_begin(engine, live->account);
        engine_trace(engine, live->request, WALK_FIRST_STEP, clock_now_ns(), (uint32_t)number);
    }
}

void engine_hand_over(struct engine *engine, uint64_t now_ns)
{
    struct step_builder builder = {
        .limits = &engine->options.limits, .sequence = sequence_of, .context = engine};
    while (engine->state == ENGINE_SERVING && engine->n_flights < SCHED_STEPS_MAX) {
        const struct sched_plan *plan = sched_plan(engine->sched, now_ns);
        if (plan->step == 0)
            return;
        struct step *step = ring_reserve(engine->link.channel.down);
        CHECK(step); /* CHANNEL_SLOTS > SCHED_STEPS_MAX */
        struct flight *flight = flight_add(engine, plan->step, now_ns);
        for (uint32_t i = 0; i < plan->n_rows; i++)
            if (plan->rows[i].samples)
                flight->sampled[flight->n_sampled++] = plan->rows[i].id;
        for (uint32_t i = 0; i < plan->n_opens; i++)
            if (engine->lives[plan->opens[i].id].request)
                engine->lives[plan->opens[i].id].request->cached_tokens =
                    plan->opens[i].found_tokens;
        step_build(&builder, plan, engine->link.epoch, flight->number, step);
        step->time_limit_ns = engine->options.config->step_limit_ns;
        first_steps_trace(engine, plan, flight->number);
        step_commit(engine);
    }
}
