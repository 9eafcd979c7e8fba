#include "daemon/engine.h"

#include <poll.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/engine_private.h"
#include "sched/policy.h"

/* An idle engine turns this often, which is what the watchdog sees of it. */
#define IDLE_TURN_NS NS_PER_S
#define TURN_LATE_NS (10 * NS_PER_S)
#define INLET_COUNT 256

/* ---- one turn ---- */

static void engine_supervise(struct engine *engine, uint64_t now_ns)
{
    engine_check_hang(engine, now_ns);
    switch (link_turn(&engine->link, now_ns)) {
    case LINK_READY:
        engine_begin_epoch(engine, now_ns);
        break;
    case LINK_LOST:
        engine_lose_epoch(engine);
        break;
    case LINK_NOTHING:
        break;
    }
    if (engine->link.state == LINK_UP)
        return;
    enum engine_state before = engine->state;
    if (engine->link.failed)
        engine->state = ENGINE_FAILED;
    else if (engine->link.state == LINK_LOADING && engine->state != ENGINE_LOST)
        engine->state = ENGINE_LOADING;
    if (engine->state == ENGINE_FAILED && before != ENGINE_FAILED) {
        log_error("model %s failed: %s", engine->options.model->name, engine->link.text);
        engine_fail_all(engine, STATUS_UNAVAILABLE, engine->link.text);
    }
}

static uint64_t turn_deadline(struct engine *engine, uint64_t now_ns)
{
    uint64_t until_ns = now_ns + IDLE_TURN_NS;
    uint64_t link_ns = link_next_ns(&engine->link, now_ns);
    uint64_t due_ns = atomic_load_explicit(&engine->step_due_ns, memory_order_relaxed);
    until_ns = link_ns < until_ns ? link_ns : until_ns;
    until_ns = due_ns < until_ns ? due_ns : until_ns;
    uint64_t deadline_ns = sched_next_deadline_ns(engine->sched);
    return deadline_ns < until_ns ? deadline_ns : until_ns;
}

static void engine_wait(struct engine *engine, uint64_t now_ns)
{
    struct pollfd fds[3] = {{.fd = engine->wake.fd, .events = POLLIN}};
    uint32_t n = 1 + link_poll_fds(&engine->link, fds + 1);
    uint64_t until_ns = turn_deadline(engine, now_ns);
    uint64_t wait_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait_ns / NS_PER_S),
                               .tv_nsec = (long)(wait_ns % NS_PER_S)};
    ppoll(fds, n, &timeout, NULL);
    wake_clear(&engine->wake);
}

static void engine_publish(struct engine *engine, uint64_t now_ns)
{
    /* With a worker that was killed and does not go away an engine turns for nothing, and the
     * watchdog may know. */
    if (!engine->link.hung_ns)
        atomic_store_explicit(&engine->turned_ns, now_ns, memory_order_relaxed);
    if (pthread_mutex_trylock(&engine->status_lock) != 0)
        return; /* somebody reads it just now; the next turn will do */
    struct engine_status *s = &engine->snapshot;
    const struct worker_link *link = &engine->link;
    s->state = engine->state;
    memcpy(s->text, link->text, sizeof s->text);
    s->quantises = link->quantises;
    s->load_percent = link->load_percent;
    s->worker_pid = (int32_t)link->peer;
    s->epoch = link->epoch;
    s->restarts_total = link->starts_total ? link->starts_total - 1 : 0;
    memcpy(s->ends_total, link->ends_total, sizeof s->ends_total);
    memcpy(s->end_text, link->end_text, sizeof s->end_text);
    memcpy(s->device, link->device, sizeof s->device);
    s->facts = link->facts;
    s->weights_bytes = link->weights_bytes;
    sched_stats(engine->sched, &s->sched);
    s->steps_total = engine->steps_total;
    s->kv_block_tokens = engine->options.limits.block_tokens;
    s->kv_block_bytes = engine->options.plan->kv_block_bytes;
    s->requests_total = engine->requests_total;
    s->requests_cancelled_total = engine->requests_cancelled_total;
    s->requests_refused_total = engine->requests_refused_total;
    s->requests_not_finite_total = engine->requests_not_finite_total;
    s->prompt_tokens_total = engine->prompt_tokens_total;
    s->output_tokens_total = engine->output_tokens_total;
    engine_publish_tenants(engine, now_ns);
    pthread_mutex_unlock(&engine->status_lock);
}

static void *engine_run(void *argument)
{
    struct engine *engine = argument;
    char name[16]; /* as `top -H` shows it, and as long as a thread's may be */
    snprintf(name, sizeof name, "engine %.8s", engine->options.model->name);
    pthread_setname_np(pthread_self(), name);
    while (!atomic_load(&engine->stopping)) {
        uint64_t now_ns = clock_now_ns();
        engine_supervise(engine, now_ns);
        engine_follow_tenants(engine);
        engine_take_submissions(engine, now_ns);
        engine_take_results(engine, now_ns);
        engine_apply_cancels(engine, now_ns);
        engine_hand_over(engine, now_ns);
        engine_bury_ended(engine);
        engine_quota_turn(engine, now_ns);
        engine_publish(engine, now_ns); /* first: whoever has an answer finds it counted */
        engine_flush(engine);
        engine_wait(engine, now_ns);
    }
    engine_take_submissions(engine, clock_now_ns()); /* refused: we are stopping */
    engine_fail_all(engine, STATUS_UNAVAILABLE, "the daemon is stopping");
    engine_flush(engine);
    link_stop(&engine->link);
    return NULL;
}

/* ---- what others may call ---- */

bool engine_submit(struct engine *engine, uint32_t inlet, struct request *request)
{
    CHECK(inlet < engine->options.inlets_count);
    struct request **item = ring_reserve(engine->inlets[inlet]);
    if (!item)
        return false;
    *item = request;
    ring_commit(engine->inlets[inlet]);
    wake_signal(&engine->wake);
    return true;
}

void engine_wake(struct engine *engine)
{
    wake_signal(&engine->wake);
}

void engine_status(struct engine *engine, struct engine_status *ret_status)
{
    pthread_mutex_lock(&engine->status_lock);
    *ret_status = engine->snapshot;
    pthread_mutex_unlock(&engine->status_lock);
}

bool engine_is_healthy(struct engine *engine, uint64_t now_ns)
{
    uint64_t turned_ns = atomic_load_explicit(&engine->turned_ns, memory_order_relaxed);
    uint64_t due_ns = atomic_load_explicit(&engine->step_due_ns, memory_order_relaxed);
    /* A late step is the engine's to handle; only if it did not, the watchdog should bite. */
    return turned_ns + TURN_LATE_NS > now_ns &&
           (due_ns == UINT64_MAX || due_ns + TURN_LATE_NS > now_ns);
}

/* ---- life ---- */

static struct sched_limits sched_limits_of(const struct engine_options *options)
{
    const struct config_model *model = options->model;
    return (struct sched_limits){
        .requests_max =
            model->running_max + model->waiting_max + SCHED_STEPS_MAX * model->running_max,
        .waiting_max = model->waiting_max,
        .slots_max = options->limits.slots_max,
        .blocks_count = options->limits.blocks_count,
        .block_tokens = options->limits.block_tokens,
        .context_tokens = options->limits.context_tokens,
        .step_tokens_max = options->limits.tokens_max,
        .step_rows_max = options->limits.rows_max,
        .chunk_tokens_max = model->chunk_tokens_max,
        .open_tokens_max = options->limits.open_tokens_max,
        .tenants_max = options->tenancy ? TENANCY_ROWS_MAX : 1,
        .window_tokens = options->plan->arch.window_tokens,
    };
}

static enum status memory_open(struct engine *engine, struct error *error)
{
    const struct engine_options *options = &engine->options;
    size_t context = options->limits.context_tokens;
    engine->lives = calloc(engine->lives_count, sizeof *engine->lives);
    engine->flights_memory =
        calloc((size_t)SCHED_STEPS_MAX * options->limits.rows_max, sizeof(sched_id));
    engine->inlets = calloc(options->inlets_count, sizeof(struct ring *));
    /* Pages appear when a long sequence first needs them. */
    void *tokens = mmap(NULL, engine->lives_count * context * sizeof(uint32_t),
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    engine->tokens_memory = tokens == MAP_FAILED ? NULL : tokens;
    bool complete =
        engine->lives && engine->flights_memory && engine->inlets && engine->tokens_memory;
    for (uint32_t i = 0; complete && i < options->inlets_count; i++) {
        engine->inlets[i] = ring_new(sizeof(struct request *), INLET_COUNT);
        complete = engine->inlets[i] != NULL;
    }
    if (!complete)
        return error_set(error, STATUS_EXHAUSTED,
                         "no memory for an engine of %u requests of %zu tokens",
                         engine->lives_count, context);
    for (uint32_t i = 0; i < engine->lives_count; i++)
        engine->lives[i].tokens = engine->tokens_memory + i * context;
    for (uint32_t i = 0; i < SCHED_STEPS_MAX; i++)
        engine->flights[i].sampled = engine->flights_memory + (size_t)i * options->limits.rows_max;
    return STATUS_OK;
}

enum status engine_open(const struct engine_options *options, struct engine **ret_engine,
                        struct error *error)
{
    struct sched_limits limits = sched_limits_of(options);
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return error_set(error, STATUS_EXHAUSTED, "no memory for an engine");
    engine->options = *options;
    engine->sched_limits = limits;
    engine->wake.fd = -1;
    engine->lives_count = limits.requests_max;
    atomic_store(&engine->step_due_ns, UINT64_MAX);
    atomic_store(&engine->turned_ns, clock_now_ns());
    pthread_mutex_init(&engine->status_lock, NULL);
    enum status status = wake_open(&engine->wake, error);
    if (status == STATUS_OK)
        status = memory_open(engine, error);
    if (status == STATUS_OK)
        status = digest_chain_open(&engine->digests, error);
    if (status == STATUS_OK)
        status = sched_open(&limits, options->policy ? options->policy : &policy_fair,
                            &engine->sched, error);
    if (status == STATUS_OK)
        status = engine_take_tenants(engine, error);
    if (status == STATUS_OK)
        status = engine_quota_open(engine, error);
    if (status != STATUS_OK) {
        engine_close(engine);
        return status;
    }
    struct link_options link = {.config = options->config,
                                .model = options->model,
                                .limits = options->limits,
                                .model_digest = options->plan->digest};
    link_init(&engine->link, &link);
    engine_publish(engine, clock_now_ns());
    *ret_engine = engine;
    return STATUS_OK;
}

enum status engine_start(struct engine *engine, struct error *error)
{
    if (pthread_create(&engine->thread, NULL, engine_run, engine) != 0)
        return error_set(error, STATUS_EXHAUSTED, "the engine thread of model %s did not start",
                         engine->options.model->name);
    engine->started = true;
    return STATUS_OK;
}

void engine_stop(struct engine *engine)
{
    if (!engine->started)
        return;
    atomic_store(&engine->stopping, true);
    engine_wake(engine);
    pthread_join(engine->thread, NULL);
    engine->started = false;
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    engine_stop(engine);
    engine_quota_close(engine);
    if (engine->sched)
        sched_close(engine->sched);
    digest_chain_close(engine->digests);
    if (engine->tokens_memory)
        munmap(engine->tokens_memory, (size_t)engine->lives_count *
                                          engine->options.limits.context_tokens * sizeof(uint32_t));
    for (uint32_t i = 0; engine->inlets && i < engine->options.inlets_count; i++)
        free(engine->inlets[i]);
    free(engine->inlets);
    free(engine->lives);
    free(engine->flights_memory);
    wake_close(&engine->wake);
    pthread_mutex_destroy(&engine->status_lock);
    free(engine);
}
