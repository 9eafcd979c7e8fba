#include "tests/engine/harness.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/front.h"

#define REQUESTS_MAX 128

static void must(enum status status, const struct error *error, const char *what)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "harness: %s: %s\n", what, error->text);
    abort();
}

static void outlet_wake(void *context)
{
    wake_signal(&((struct harness *)context)->wake);
}

static void config_fill(struct harness *h, const struct harness_options *o)
{
    struct config_model *m = &h->config.models[0];
    h->owns_runtime_dir = !o->runtime_dir;
    snprintf(h->runtime_dir, sizeof h->runtime_dir, "%s",
             o->runtime_dir ? o->runtime_dir : "/tmp/galerne-test-XXXXXX");
    if (h->owns_runtime_dir)
        CHECK(mkdtemp(h->runtime_dir));
    snprintf(h->config.runtime_dir, sizeof h->config.runtime_dir, "%s", h->runtime_dir);
    if (o->worker_binary)
        snprintf(h->config.worker_binary, sizeof h->config.worker_binary, "%s", o->worker_binary);
    h->config.text_threads_count = 1;
    h->config.requests_max = REQUESTS_MAX;
    h->config.worker_start_limit_ns = 60 * NS_PER_S;
    h->config.step_limit_ns = o->step_limit_ns ? o->step_limit_ns : 60 * NS_PER_S;
    h->config.n_models = 1;
    snprintf(m->name, sizeof m->name, "test");
    snprintf(m->path, sizeof m->path, "%s", o->path);
    snprintf(m->backend, sizeof m->backend, "%s", o->backend ? o->backend : "cpu");
    snprintf(m->tier, sizeof m->tier, "%s", o->tier ? o->tier : "");
    m->worker = o->worker_binary ? CONFIG_WORKER_PROCESS : CONFIG_WORKER_INLINE;
    m->threads_count = o->threads_count ? o->threads_count : 1;
    m->block_tokens = 16;
    m->running_max = o->running_max ? o->running_max : 32;
    m->waiting_max = o->waiting_max ? o->waiting_max : 64;
    m->step_tokens_max = o->step_tokens ? o->step_tokens : 256;
    m->chunk_tokens_max = o->chunk_tokens ? o->chunk_tokens : 64;
}

static void quota_make(struct harness *h)
{
    static const struct quota_row row = {.name = "test",
                                         .parent = QUOTA_TOP,
                                         .mode = QUOTA_HARD,
                                         .requests_per_minute = QUOTA_VALUE_MAX,
                                         .tokens_per_minute = QUOTA_VALUE_MAX,
                                         .concurrent_max = 1000000,
                                         .queued_tokens_max = QUOTA_VALUE_MAX,
                                         .tokens_per_month = QUOTA_VALUE_MAX};
    const struct quota_table table = {.n_rows = 1, .rows = &row};
    const struct quota_time time = {.now_ns = clock_now_ns(), .wall_ns = clock_wall_ns()};
    struct error error;
    must(quota_open(1, 1, &h->quota, &error), &error, "quota_open");
    must(quota_set(h->quota, &table, &time, &error), &error, "quota_set");
}

/* However requests ended: each promise was settled once, and nothing is held. */
static void quota_close_settled(struct harness *h)
{
    const struct quota_time time = {.now_ns = clock_now_ns(), .wall_ns = clock_wall_ns()};
    struct quota_stats stats;
    struct quota_row_stats row;
    quota_audit(h->quota);
    quota_stats(h->quota, &stats);
    CHECK(stats.reserved_total == stats.settled_total + stats.undone_total);
    CHECK(stats.settled_again_total == 0 && stats.overused_total == 0);
    CHECK(quota_row_stats(h->quota, 0, &time, &row));
    CHECK(row.concurrent == 0 && row.queued_tokens == 0 && row.held_tokens == 0);
    quota_close(h->quota);
}

void harness_open_only(struct harness *h, const struct harness_options *o)
{
    struct error error;
    memset(h, 0, sizeof *h);
    config_fill(h, o);
    const struct config_model *m = &h->config.models[0];
    struct model_options model = {.ops = ops_find(m->backend)};
    must(model_plan(o->path, &model, &h->plan, &error), &error, "model_plan");
    uint32_t context =
        o->context_tokens ? o->context_tokens : u32_min(h->plan.arch.context_tokens, 512);
    model.limits = (struct step_limits){
        .slots_max = m->running_max,
        .rows_max = m->running_max,
        .tokens_max = u32_max(m->step_tokens_max, m->running_max),
        .open_tokens_max = u32_max(context, 4 * m->step_tokens_max),
        .context_tokens = context,
        .block_tokens = m->block_tokens,
        .blocks_count = o->blocks_count ? o->blocks_count : 32 * div_up_u32(context, 16),
        .kv_dtype = o->kv_dtype,
    };
    must(model_plan(o->path, &model, &h->plan, &error), &error, "model_plan");
    must(request_pool_open(REQUESTS_MAX, &h->pool, &error), &error, "request_pool_open");
    must(wake_open(&h->wake, &error), &error, "wake_open");
    must(outlet_open(&h->outlet, 2, REQUESTS_MAX, outlet_wake, h, &error), &error, "outlet_open");
    must(trace_open(2, 4096, &h->trace, &error), &error, "trace_open");
    quota_make(h);
    struct engine_options options = {.config = &h->config,
                                     .model = m,
                                     .plan = &h->plan,
                                     .limits = model.limits,
                                     .inlets_count = 1,
                                     .producer = 1,
                                     .policy = o->policy,
                                     .quota = h->quota,
                                     .trace = h->trace};
    must(engine_open(&options, &h->engine, &error), &error, "engine_open");
    h->model = calloc(1, sizeof *h->model);
    h->model->config = m;
    h->model->plan = h->plan;
    h->model->engine = h->engine;
    must(engine_start(h->engine, &error), &error, "engine_start");
}

bool harness_wait_state(struct harness *h, enum engine_state state, uint64_t timeout_ns)
{
    uint64_t until_ns = clock_now_ns() + timeout_ns;
    struct engine_status status;
    do {
        engine_status(h->engine, &status);
        if (status.state == state)
            return true;
        usleep(2000);
    } while (clock_now_ns() < until_ns);
    fprintf(stderr, "harness: the engine is in state %d, not %d: %s\n", (int)status.state,
            (int)state, status.text);
    return false;
}

void harness_open(struct harness *h, const struct harness_options *o)
{
    harness_open_only(h, o);
    CHECK(harness_wait_state(h, ENGINE_SERVING, 60 * NS_PER_S));
}

void harness_close(struct harness *h)
{
    engine_stop(h->engine);
    harness_turn(h, 0);
    CHECK(h->n_open == 0);
    engine_close(h->engine);
    quota_close_settled(h);
    trace_close(h->trace);
    outlet_close(&h->outlet);
    request_pool_close(h->pool);
    wake_close(&h->wake);
    free(h->model);
    if (!h->owns_runtime_dir)
        return;
    char path[128];
    snprintf(path, sizeof path, "%s/worker-test.sock", h->runtime_dir);
    unlink(path);
    rmdir(h->runtime_dir);
}

static struct stream *stream_new(struct harness *h, const struct stream_options *o,
                                 struct request *request, struct request *first)
{
    struct stream *stream = calloc(1, sizeof *stream);
    CHECK(stream);
    stream->tokens = calloc(o->output_tokens_max, sizeof *stream->tokens);
    CHECK(stream->tokens);
    stream->harness = h;
    stream->request = request;
    stream->first = first;
    stream->reads = !o->does_not_read;
    request->call = stream;
    h->n_open++;
    return stream;
}

void streams_start(struct harness *h, const struct stream_options *o, uint32_t n,
                   struct stream **ret_streams)
{
    struct request *request = request_new(h->pool, 1 << 20);
    CHECK(request);
    request->id = ++h->next_id;
    request->model = h->model;
    request->outlet = &h->outlet;
    request->output_tokens_max = o->output_tokens_max;
    request->sampling = o->sampling;
    request->biases = o->biases;
    request->n_stop_ids = o->n_stop_ids;
    for (uint32_t i = 0; i < o->n_stop_ids; i++)
        request->stop_ids[i] = o->stop_ids[i];
    if (o->deadline_ns)
        request->deadline_ns = o->deadline_ns;
    request->cache_domain = o->cache_domain;
    request->n_choices = n;
    CHECK(request_choices_new(h->pool, request));

    uint32_t *ids = arena_alloc(&request->arena, o->n_ids * sizeof *ids);
    memcpy(ids, o->ids, o->n_ids * sizeof *ids);
    request->ids = ids;
    request->n_ids = o->n_ids;
    request->n_digests = o->n_ids / h->config.models[0].block_tokens;
    struct sched_digest *digests =
        arena_alloc(&request->arena, request->n_digests * sizeof *digests);
    struct digest_scope scope = digest_scope_of(h->plan.digest, h->plan.kv_dtype, o->cache_domain);
    digest_blocks(&scope, ids, o->n_ids, h->config.models[0].block_tokens, digests);
    request->digests = digests;
    request_choices_share(request);
    for (struct request *choice = request; choice; choice = choice->next_choice)
        *ret_streams++ = stream_new(h, o, choice, request);
    CHECK(engine_submit(h->engine, 0, request));
}

struct stream *stream_start(struct harness *h, const struct stream_options *o)
{
    struct stream *stream;
    streams_start(h, o, 1, &stream);
    return stream;
}

void stream_cancel(struct stream *stream)
{
    atomic_store(&stream->request->cancelled, true);
    engine_wake(stream->harness->engine);
}

void stream_free(struct stream *stream)
{
    CHECK(stream->ended);
    free(stream->tokens);
    free(stream);
}

static void stream_drain(struct stream *stream)
{
    struct request *request = stream->request;
    const struct request_token *token;
    while ((token = ring_peek(request->tokens))) {
        stream->tokens[stream->n_tokens++] = *token;
        ring_release(request->tokens);
    }
    if (atomic_exchange_explicit(&request->stalled, false, memory_order_acq_rel))
        engine_wake(stream->harness->engine);
}

static void stream_end(struct stream *stream)
{
    struct request *request = stream->request;
    stream_drain(stream);
    stream->ended = true;
    stream->finish = request->finish;
    stream->status = request->error.status;
    stream->retry_ns = request->error.retry_ns;
    memcpy(stream->text, request->error.text, sizeof stream->text);
    stream->output_tokens = request->output_tokens;
    stream->cached_tokens = request->cached_tokens;
    stream->harness->n_open--;
    stream->request = NULL;
    request->ended = true;
    for (const struct request *choice = stream->first; choice; choice = choice->next_choice)
        if (!choice->ended)
            return;
    request_choices_free(stream->harness->pool, stream->first);
}

void harness_turn(struct harness *h, uint64_t timeout_ns)
{
    struct outlet_item item;
    if (timeout_ns)
        wake_wait(&h->wake, timeout_ns);
    wake_clear(&h->wake);
    while (outlet_take(&h->outlet, &item)) {
        struct stream *stream = item.request->call;
        if (item.end)
            stream_end(stream);
        else if (stream->reads)
            stream_drain(stream);
    }
}

bool harness_drain(struct harness *h, uint64_t timeout_ns)
{
    uint64_t until_ns = clock_now_ns() + timeout_ns;
    while (h->n_open && clock_now_ns() < until_ns)
        harness_turn(h, 50 * NS_PER_MS);
    return h->n_open == 0;
}
