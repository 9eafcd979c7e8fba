#include "daemon/front.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/memory.h"
#include "kernels/module.h"

#define MIB (1024.0 * 1024.0)

/* ---- boot: from files to engines ---- */

static struct step_limits limits_of(const struct config_model *config, uint32_t context_tokens)
{
    return (struct step_limits){
        .slots_max = config->running_max,
        .rows_max = config->running_max,
        .tokens_max = u32_max(config->step_tokens_max, config->running_max),
        .open_tokens_max = u32_max(context_tokens, 4 * config->step_tokens_max),
        .context_tokens = context_tokens,
        .block_tokens = config->block_tokens,
        .blocks_count = div_up_u32(context_tokens, config->block_tokens),
        .kv_dtype = config->kv_type,
        .exact = config->exact,
        .quantise = config->quantise,
        .quantise_head = config->quantise_head,
    };
}

static struct model_options model_options_of(const struct config_model *config,
                                             const struct step_limits *limits)
{
    return (struct model_options){
        .ops = module_plan_ops(config->backend),
        .device = {.threads_count = config->threads_count,
                   .tier = config->tier[0] ? config->tier : NULL},
        .limits = *limits,
    };
}

/* Headers and text files only; the weights are the worker's. */
static enum status model_read(struct served_model *model, struct step_limits *ret_limits,
                              struct error *error)
{
    const struct config_model *config = model->config;
    struct step_limits none = {.quantise = config->quantise,
                               .quantise_head = config->quantise_head};
    struct model_options options = model_options_of(config, &none);
    if (!options.ops)
        return error_set(error, STATUS_INVALID,
                         "no backend is called %s: use cpu, cuda, auto or ref", config->backend);
    if (config->worker == CONFIG_WORKER_INLINE && !ops_find(config->backend))
        return error_set(error, STATUS_INVALID,
                         "backend %s needs a process of its own: remove worker: inline",
                         config->backend);
    enum status status = model_plan(config->path, &options, &model->plan, error);
    if (status != STATUS_OK)
        return status;
    uint32_t context = model->plan.arch.context_tokens;
    if (config->context_tokens > context)
        return error_set(error, STATUS_INVALID,
                         "context_tokens is %u, but the model was made for %u",
                         config->context_tokens, context);
    model->context_tokens = config->context_tokens ? config->context_tokens : context;
    *ret_limits = limits_of(config, model->context_tokens);
    options = model_options_of(config, ret_limits);
    status = model_plan(config->path, &options, &model->plan, error);
    if (status == STATUS_OK)
        status = tokenizer_open(config->path, &model->tokenizer, error);
    if (status != STATUS_OK)
        return status;
    uint32_t known = tokenizer_info(model->tokenizer)->vocab_count;
    if (known > model->plan.arch.vocab)
        return error_set(error, STATUS_INVALID,
                         "the tokenizer has %u tokens and the weights %u rows: files of two models",
                         known, model->plan.arch.vocab);
    return chat_open(config->path, model->tokenizer, &model->chat, error);
}

/* A whole context, or what the sliding window lets a sequence hold of it. */
static uint32_t sequence_blocks_max(const struct served_model *model)
{
    const struct config_model *config = model->config;
    return sched_sequence_blocks_max(
        &(struct sched_limits){.context_tokens = model->context_tokens,
                               .block_tokens = config->block_tokens,
                               .window_tokens = model->plan.arch.window_tokens,
                               .step_tokens_max = config->step_tokens_max,
                               .chunk_tokens_max = config->chunk_tokens_max});
}

static struct memory_row memory_row_of(const struct served_model *model)
{
    const struct config_model *config = model->config;
    uint32_t sequence_blocks = sequence_blocks_max(model);
    return (struct memory_row){
        .name = config->name,
        .weights_bytes = model->plan.weights_bytes,
        .scratch_bytes = model->plan.scratch_bytes,
        .block_bytes = model->plan.kv_block_bytes,
        .block_tokens = config->block_tokens,
        .blocks_min = sequence_blocks,
        .blocks_max = sequence_blocks * config->running_max,
        .blocks_fixed = config->kv_blocks_count,
    };
}

static void memory_log(const struct memory_row *rows, uint32_t n_rows, uint64_t free_bytes)
{
    log_info("memory: %.0f MiB free", (double)free_bytes / MIB);
    for (uint32_t i = 0; i < n_rows; i++)
        log_info("memory: model %s: weights %.1f MiB, activations %.1f MiB, KV %u blocks of %u "
                 "tokens, %.1f MiB when full",
                 rows[i].name, (double)rows[i].weights_bytes / MIB,
                 (double)rows[i].scratch_bytes / MIB, rows[i].blocks_count, rows[i].block_tokens,
                 (double)rows[i].block_bytes * rows[i].blocks_count / MIB);
}

static enum status engines_open(struct front *front, struct step_limits *limits,
                                struct error *error)
{
    struct memory_row rows[CONFIG_MODELS_MAX];
    uint64_t free_bytes = memory_free_bytes("");
    for (uint32_t i = 0; i < front->n_models; i++)
        rows[i] = memory_row_of(&front->models[i]);
    enum status status =
        memory_share(rows, front->n_models, free_bytes, front->config->kv_memory_percent, error);
    if (status != STATUS_OK)
        return status;
    memory_log(rows, front->n_models, free_bytes);
    for (uint32_t i = 0; status == STATUS_OK && i < front->n_models; i++) {
        struct served_model *model = &front->models[i];
        const struct tokenizer_info *info = tokenizer_info(model->tokenizer);
        limits[i].blocks_count = rows[i].blocks_count;
        struct engine_options options = {
            .config = front->config,
            .model = model->config,
            .plan = &model->plan,
            .limits = limits[i],
            .inlets_count = front->config->text_threads_count,
            .producer = front->config->text_threads_count + i,
            .trace = front->trace,
            .n_end_ids = info->n_eos,
            .end_ids = info->eos_ids,
            .tenancy = front->tenancy,
            .quota = front->quota,
        };
        status = engine_open(&options, &model->engine, error);
        if (status != STATUS_OK)
            error_prefix(error, model->config->name);
    }
    return status;
}

/* The limits of the tenants in force, or about to be. Their tables were checked when the file was
 * read. */
static enum status quotas_follow(struct front *front, struct error *error)
{
    struct quota_row rows[TENANCY_ROWS_MAX];
    const struct quota_table table = {.n_rows = tenancy_preview_quotas(front->tenancy, rows),
                                      .rows = rows};
    const struct quota_time time = {.now_ns = clock_now_ns(), .wall_ns = clock_wall_ns()};
    return quota_set(front->quota, &table, &time, error);
}

/* A limit that a model's longest request can never pass is legal, and worth a word. */
static void quotas_warn(const struct front *front)
{
    struct quota_row rows[TENANCY_ROWS_MAX];
    uint32_t n_rows = tenancy_quotas(front->tenancy, rows), m;
    for (uint32_t i = 0; i < n_rows; i++) {
        uint64_t most = quota_row_most(&rows[i]);
        for (m = 0; m < front->n_models && front->models[m].context_tokens <= most; m++)
            continue;
        if (m < front->n_models)
            log_warning(
                "tenant %s (line %u): its quota never admits a request of more than %" PRIu64
                " tokens; those of model %s may have %u",
                rows[i].name, rows[i].line, most, front->models[m].config->name,
                front->models[m].context_tokens);
    }
}

enum status front_open(const struct config *config, struct front *ret_front, struct error *error)
{
    struct front *front = ret_front; /* threads keep its address; a failure leaves it closed */
    struct step_limits limits[CONFIG_MODELS_MAX];
    enum status status = STATUS_OK;
    memset(front, 0, sizeof *front);
    front->config = config;
    front->started_ns = clock_now_ns();
    front->n_models = config->n_models;
    atomic_store(&front->next_request_id, 1);
    status = tenancy_open(config, &front->tenancy, error);
    if (status == STATUS_OK)
        status = quota_open(TENANCY_ROWS_MAX, config->n_models, &front->quota, error);
    if (status == STATUS_OK)
        status = quotas_follow(front, error);
    for (uint32_t i = 0; status == STATUS_OK && i < config->n_models; i++) {
        struct served_model *model = &front->models[i];
        model->config = &config->models[i];
        model->index = i;
        status = model_read(model, &limits[i], error);
        if (status != STATUS_OK) {
            char prefix[CONFIG_NAME_MAX_BYTES + 8];
            snprintf(prefix, sizeof prefix, "model %s", model->config->name);
            error_prefix(error, prefix);
        }
    }
    if (status == STATUS_OK)
        status = trace_open(front_producers_count(config) + config->listener_threads_count,
                            config->trace_events_count, &front->trace, error);
    if (status == STATUS_OK)
        status = engines_open(front, limits, error);
    if (status == STATUS_OK)
        status = request_pool_open(config->requests_max, &front->requests, error);
    if (status == STATUS_OK)
        status = text_pool_open(front, &front->text_pool, error);
    if (status == STATUS_OK)
        quotas_warn(front);
    else
        front_close(front);
    return status;
}

void front_stop(struct front *front)
{
    text_pool_close(front->text_pool);
    front->text_pool = NULL;
    for (uint32_t i = 0; i < front->n_models; i++)
        if (front->models[i].engine)
            engine_stop(front->models[i].engine);
}

void front_close(struct front *front)
{
    front_stop(front);
    for (uint32_t i = 0; i < front->n_models; i++) {
        struct served_model *model = &front->models[i];
        engine_close(model->engine);
        if (model->chat)
            chat_close(model->chat);
        if (model->tokenizer)
            tokenizer_close(model->tokenizer);
        model->engine = NULL;
        model->chat = NULL;
        model->tokenizer = NULL;
    }
    request_pool_close(front->requests);
    front->requests = NULL;
    trace_close(front->trace);
    front->trace = NULL;
    quota_close(front->quota);
    front->quota = NULL;
    tenancy_close(front->tenancy);
    front->tenancy = NULL;
}

/* Every model must take the rows before any does. */
static enum status tenants_preview(struct front *front, const struct config *config,
                                   struct error *error)
{
    struct tenant_row rows[TENANCY_ROWS_MAX];
    struct tenant_table table = {.rows = rows};
    for (uint32_t i = 0; i < front->n_models; i++) {
        const struct engine *engine = front->models[i].engine;
        enum status status = tenancy_preview(front->tenancy, config, engine_blocks_count(engine),
                                             rows, &table.n_rows, error);
        if (status == STATUS_OK && engine_check_tenants(engine, &table, error) != STATUS_OK)
            status = error_prefix(error, front->models[i].config->name);
        if (status != STATUS_OK)
            return error_prefix(error, config->file);
    }
    return STATUS_OK;
}

enum status front_reload(struct front *front, struct error *error)
{
    struct config *config = malloc(sizeof *config);
    if (!config)
        return error_set(error, STATUS_EXHAUSTED, "no memory to read the configuration again");
    enum status status = config_load(front->config->file, config, error);
    if (status == STATUS_OK)
        status = tenants_preview(front, config, error);
    if (status == STATUS_OK) /* first: nobody is a tenant whose limits are not there yet */
        status = quotas_follow(front, error);
    if (status == STATUS_OK)
        status = tenancy_replace(front->tenancy, config, error);
    for (uint32_t i = 0; status == STATUS_OK && i < front->n_models; i++)
        engine_wake(front->models[i].engine);
    if (status == STATUS_OK)
        log_info("%s was read again: %u tenants are in force; other keys are read at start only",
                 config->file, config->n_tenants);
    if (status == STATUS_OK)
        quotas_warn(front);
    free(config);
    return status;
}

/* ---- what listeners ask ---- */

uint32_t front_producers_count(const struct config *config)
{
    return config->text_threads_count + config->n_models;
}

struct served_model *front_model_find(struct front *front, struct span name)
{
    static const char prefix[] = "models/";
    size_t prefix_bytes = sizeof prefix - 1;
    if (name.size_bytes > prefix_bytes && memcmp(name.data, prefix, prefix_bytes) == 0) {
        name.data += prefix_bytes;
        name.size_bytes -= prefix_bytes;
    }
    for (uint32_t i = 0; i < front->n_models; i++)
        if (span_equal(name, span_of(front->models[i].config->name)))
            return &front->models[i];
    return NULL;
}

enum front_state front_state(struct front *front)
{
    uint32_t serving = 0, failed = 0, starting = 0;
    if (atomic_load(&front->draining))
        return FRONT_DRAINING;
    for (uint32_t i = 0; i < front->n_models; i++) {
        struct engine_status status;
        engine_status(front->models[i].engine, &status);
        serving += status.state == ENGINE_SERVING;
        failed += status.state == ENGINE_FAILED;
        starting += status.state == ENGINE_STARTING || status.state == ENGINE_LOADING;
    }
    if (serving == front->n_models)
        return FRONT_READY;
    if (failed == front->n_models)
        return FRONT_FAILED;
    return starting ? FRONT_STARTING : FRONT_DEGRADED;
}

void request_cancel(struct request *request, bool met_stop)
{
    if (met_stop)
        atomic_store(&request->cancel_stop, true);
    atomic_store_explicit(&request->cancelled, true, memory_order_release);
    engine_wake(request->model->engine);
}

void request_drained(struct request *request)
{
    if (atomic_exchange_explicit(&request->stalled, false, memory_order_acq_rel))
        engine_wake(request->model->engine);
}

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) / (double)NS_PER_MS : 0.0;
}

void request_log(const struct request *request)
{
    char peer[sizeof request->peer + 8];
    if (request->peer[0])
        snprintf(peer, sizeof peer, "peer \"%s\"", request->peer);
    else
        snprintf(peer, sizeof peer, "uid %d", (int)request->peer_uid);
    static const char *const finish_names[] = {"none",      "stop",  "length",
                                               "cancelled", "error", "quota"};
    bool bad = request->finish == FINISH_ERROR || request->finish == FINISH_CANCELLED;
    char choices[24] = "";
    if (request->n_choices > 1)
        snprintf(choices, sizeof choices, "choices %u, ", request->n_choices);
    uint32_t output_tokens = 0;
    uint64_t ended_ns = request->ended_ns;
    for (const struct request *choice = request; choice; choice = choice->next_choice) {
        output_tokens += choice->output_tokens;
        ended_ns = u64_max(ended_ns, choice->ended_ns);
    }
    log_info("request %s: model %s, tenant %s, %s, prompt %u, %soutput %u, finish %s%s%s, "
             "text %.1f ms, first token %.1f ms, total %.1f ms, preempted %u",
             request->name, request->model->config->name,
             request->tenant_name ? request->tenant_name : "none", peer, request->n_ids, choices,
             output_tokens, finish_names[request->finish], bad ? " " : "",
             bad ? status_name(request->error.status) : "",
             ms_between(request->accepted_ns, request->tokenized_ns),
             ms_between(request->accepted_ns, request->first_token_ns),
             ms_between(request->accepted_ns, ended_ns), request->preempted_count);
}
