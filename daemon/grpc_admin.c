/*
 * galerne.admin.v1.Admin: what an operator sees. Only the operator's socket offers it.
 */
#include <inttypes.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/grpc_calls.h"
#include "proto/admin.pb-c.h"

/* Resident bytes of a process; 0 when the kernel does not say. */
static uint64_t resident_bytes(int32_t pid)
{
    char path[48];
    unsigned long long size_pages, resident_pages = 0;
    snprintf(path, sizeof path, "/proc/%" PRId32 "/statm", pid);
    FILE *file = pid > 0 ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &size_pages, &resident_pages) != 2)
        resident_pages = 0;
    fclose(file);
    return (uint64_t)resident_pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static Galerne__Admin__V1__DaemonState daemon_state_of(enum front_state state)
{
    switch (state) {
    case FRONT_READY:
        return GALERNE__ADMIN__V1__DAEMON_STATE__DAEMON_STATE_READY;
    case FRONT_DEGRADED:
    case FRONT_FAILED: /* "some model does not serve": the models' rows say which */
        return GALERNE__ADMIN__V1__DAEMON_STATE__DAEMON_STATE_DEGRADED;
    case FRONT_DRAINING:
        return GALERNE__ADMIN__V1__DAEMON_STATE__DAEMON_STATE_DRAINING;
    case FRONT_STARTING:
        break;
    }
    return GALERNE__ADMIN__V1__DAEMON_STATE__DAEMON_STATE_STARTING;
}

static Galerne__Admin__V1__WorkerState worker_state_of(enum engine_state state)
{
    switch (state) {
    case ENGINE_STARTING:
        return GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_STARTING;
    case ENGINE_LOADING:
        return GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_LOADING;
    case ENGINE_SERVING:
        return GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_SERVING;
    case ENGINE_LOST:
        return GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_LOST;
    case ENGINE_FAILED:
        break;
    }
    return GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_FAILED;
}

struct model_row {
    Galerne__Admin__V1__ModelStatus row;
    Galerne__Admin__V1__WorkerEnds ends;
    Galerne__Admin__V1__DeviceFacts facts;
    char *throttled_by[3];
    char name[CONFIG_NAME_MAX_BYTES + 8];
    struct engine_status status;
};

/* The tenants of all models, and what the answer's rows point to. */
struct tenant_rows {
    struct tenant_row rows[TENANCY_ROWS_MAX];
    struct sched_tenant_stats stats[TENANCY_ROWS_MAX];
    Galerne__Admin__V1__TenantStatus values[CONFIG_MODELS_MAX][TENANCY_ROWS_MAX];
    Galerne__Admin__V1__TenantStatus *pointers[CONFIG_MODELS_MAX][TENANCY_ROWS_MAX];
};

static void tenant_show(struct tenant_rows *tenants, uint32_t index, uint32_t n_rows,
                        Galerne__Admin__V1__TenantStatus *ret)
{
    const struct tenant_row *row = &tenants->rows[index];
    const struct sched_tenant_stats *stats = &tenants->stats[index];
    uint64_t weights = 0; /* of those beside it that are open */
    for (uint32_t i = 0; i < n_rows; i++)
        if (tenants->rows[i].parent == row->parent && !tenants->rows[i].closed)
            weights += (uint64_t)tenants->rows[i].weight;
    galerne__admin__v1__tenant_status__init(ret);
    ret->name = (char *)(uintptr_t)row->name;
    if (row->parent != TENANT_TOP)
        ret->parent = (char *)(uintptr_t)tenants->rows[row->parent].name;
    ret->weight = (uint32_t)row->weight;
    if (!row->closed)
        ret->share_permille = (uint32_t)((uint64_t)row->weight * 1000 / weights);
    ret->closed = row->closed;
    ret->requests_waiting = stats->waiting;
    ret->requests_running = stats->running;
    ret->kv_blocks_used = stats->blocks;
    ret->kv_blocks_reserved = stats->blocks_reserved;
    ret->kv_blocks_limit = stats->blocks_limit == UINT32_MAX ? 0 : stats->blocks_limit;
    ret->prompt_tokens_total = stats->prefill_tokens_total;
    ret->output_tokens_total = stats->output_tokens_total;
    ret->cached_tokens_total = stats->cached_tokens_total;
    ret->recomputed_tokens_total = stats->recomputed_tokens_total;
    ret->admitted_total = stats->admitted_total;
    ret->preempted_total = stats->preempted_total;
}

static void tenants_show(struct front *front, uint32_t model, struct tenant_rows *tenants,
                         Galerne__Admin__V1__ModelStatus *ret_row)
{
    struct engine *engine = front->models[model].engine;
    uint64_t generation;
    uint32_t n =
        tenancy_rows(front->tenancy, engine_blocks_count(engine), tenants->rows, &generation);
    uint32_t n_stats = engine_tenants(engine, tenants->stats);
    if (!tenancy_is_shared(front->tenancy))
        return;
    for (uint32_t i = n_stats; i < n; i++) /* new ones that the engine has not taken yet */
        tenants->stats[i] = (struct sched_tenant_stats){0};
    for (uint32_t i = 0; i < n; i++) {
        tenants->pointers[model][i] = &tenants->values[model][i];
        tenant_show(tenants, i, n, tenants->pointers[model][i]);
    }
    ret_row->tenants = tenants->pointers[model];
    ret_row->n_tenants = n;
}

/* The limits of all tenants, and what the answer's rows point to. */
struct quota_rows {
    Galerne__Admin__V1__QuotaStatus values[TENANCY_ROWS_MAX];
    Galerne__Admin__V1__QuotaStatus *pointers[TENANCY_ROWS_MAX];
};

static void quota_show(const struct quota_row_stats *stats, const char *tenant,
                       Galerne__Admin__V1__QuotaStatus *ret)
{
    galerne__admin__v1__quota_status__init(ret);
    ret->tenant = (char *)(uintptr_t)tenant;
    ret->hard = stats->is_hard;
    if (stats->requests_room != UINT64_MAX) {
        ret->_requests_left_case = GALERNE__ADMIN__V1__QUOTA_STATUS___REQUESTS_LEFT_REQUESTS_LEFT;
        ret->requests_left = stats->requests_room;
    }
    if (stats->tokens_room != UINT64_MAX) {
        ret->_tokens_left_case = GALERNE__ADMIN__V1__QUOTA_STATUS___TOKENS_LEFT_TOKENS_LEFT;
        ret->tokens_left = stats->tokens_room;
    }
    if (stats->month_room != UINT64_MAX) {
        ret->_month_tokens_left_case =
            GALERNE__ADMIN__V1__QUOTA_STATUS___MONTH_TOKENS_LEFT_MONTH_TOKENS_LEFT;
        ret->month_tokens_left = stats->month_room;
    }
    ret->requests_held = stats->concurrent;
    ret->tokens_held = stats->held_tokens;
    ret->queued_tokens = stats->queued_tokens;
    ret->month_tokens_used = stats->month_used_tokens;
    ret->refused_total = stats->refused_total;
}

static void quotas_show(struct front *front, struct quota_rows *quotas,
                        Galerne__Admin__V1__StatusResponse *ret)
{
    const struct quota_time time = {.now_ns = clock_now_ns(), .wall_ns = clock_wall_ns()};
    struct quota_row_stats stats;
    if (front->quota)
        quota_recall(front->quota, &time);
    for (uint32_t i = 0; front->quota && quota_row_stats(front->quota, i, &time, &stats); i++) {
        if (!stats.is_limited)
            continue;
        Galerne__Admin__V1__QuotaStatus *value = &quotas->values[ret->n_quotas];
        quota_show(&stats, tenancy_name(front->tenancy, i), value);
        quotas->pointers[ret->n_quotas++] = value;
    }
    ret->quotas = quotas->pointers;
}

static void ends_show(const struct engine_status *status, struct model_row *ret)
{
    Galerne__Admin__V1__WorkerEnds *ends = &ret->ends;
    galerne__admin__v1__worker_ends__init(ends);
    ends->died = status->ends_total[LINK_END_DIED];
    ends->hung = status->ends_total[LINK_END_HUNG];
    ends->device = status->ends_total[LINK_END_DEVICE];
    ends->nonsense = status->ends_total[LINK_END_NONSENSE];
    ends->start = status->ends_total[LINK_END_START];
    ret->row.worker_ends = ends;
    ret->row.worker_end_text = ret->status.end_text;
}

static void facts_show(struct model_row *ret)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } reasons[] = {{DEVICE_THROTTLE_POWER, "power"},
                   {DEVICE_THROTTLE_HEAT, "heat"},
                   {DEVICE_THROTTLE_OTHER, "other"}};
    struct device_facts *from = &ret->status.facts;
    Galerne__Admin__V1__DeviceFacts *to = &ret->facts;
    if (!from->known)
        return;
    galerne__admin__v1__device_facts__init(to);
    to->name = from->name;
    to->driver = from->driver;
    to->note = from->note;
    if (from->known & DEVICE_MEMORY) {
        to->_memory_bytes_case = GALERNE__ADMIN__V1__DEVICE_FACTS___MEMORY_BYTES_MEMORY_BYTES;
        to->memory_bytes = from->memory_bytes;
        to->_memory_free_bytes_case =
            GALERNE__ADMIN__V1__DEVICE_FACTS___MEMORY_FREE_BYTES_MEMORY_FREE_BYTES;
        to->memory_free_bytes = from->memory_free_bytes;
    }
    if (from->known & DEVICE_TEMPERATURE) {
        to->_temperature_celsius_case =
            GALERNE__ADMIN__V1__DEVICE_FACTS___TEMPERATURE_CELSIUS_TEMPERATURE_CELSIUS;
        to->temperature_celsius = from->temperature_celsius;
    }
    if (from->known & DEVICE_POWER) {
        to->_power_watts_case = GALERNE__ADMIN__V1__DEVICE_FACTS___POWER_WATTS_POWER_WATTS;
        to->power_watts = from->power_milliwatts / 1e3;
    }
    if (from->known & DEVICE_ECC) {
        to->_ecc_corrected_total_case =
            GALERNE__ADMIN__V1__DEVICE_FACTS___ECC_CORRECTED_TOTAL_ECC_CORRECTED_TOTAL;
        to->ecc_corrected_total = from->ecc_corrected_total;
        to->_ecc_uncorrected_total_case =
            GALERNE__ADMIN__V1__DEVICE_FACTS___ECC_UNCORRECTED_TOTAL_ECC_UNCORRECTED_TOTAL;
        to->ecc_uncorrected_total = from->ecc_uncorrected_total;
    }
    to->throttled_by = ret->throttled_by;
    for (size_t i = 0; i < array_count(reasons); i++)
        if (from->known & DEVICE_THROTTLE && from->throttle & reasons[i].bit)
            to->throttled_by[to->n_throttled_by++] = (char *)(uintptr_t)reasons[i].name;
    ret->row.device_facts = to;
}

static void model_show(const struct served_model *served, struct model_row *ret)
{
    struct engine_status *status = &ret->status;
    Galerne__Admin__V1__ModelStatus *row = &ret->row;
    engine_status(served->engine, status);
    galerne__admin__v1__model_status__init(row);
    snprintf(ret->name, sizeof ret->name, "models/%s", served->config->name);
    row->name = ret->name;
    row->worker_state = worker_state_of(status->state);
    row->state_text = status->text;
    row->quantising = status->quantises;
    row->load_percent = status->load_percent;
    row->worker_pid = (uint32_t)status->worker_pid;
    row->epoch = status->epoch;
    row->restarts_total = status->restarts_total;
    row->device = status->device;
    row->worker_resident_bytes = resident_bytes(status->worker_pid);
    row->weights_bytes = status->weights_bytes;
    row->requests_waiting = status->sched.waiting;
    row->requests_running = status->sched.running;
    row->steps_in_flight = status->sched.steps_in_flight;
    row->steps_total = status->steps_total;
    row->kv_blocks_count = status->sched.blocks_count;
    row->kv_blocks_used = status->sched.blocks_used;
    row->kv_blocks_free = status->sched.blocks_free;
    row->kv_block_tokens = status->kv_block_tokens;
    row->kv_block_bytes = status->kv_block_bytes;
    row->requests_total = status->requests_total;
    row->requests_cancelled_total = status->requests_cancelled_total;
    row->requests_refused_total = status->requests_refused_total;
    row->requests_not_finite_total = status->requests_not_finite_total;
    ends_show(status, ret);
    facts_show(ret);
    row->prompt_tokens_total = status->prompt_tokens_total;
    row->output_tokens_total = status->output_tokens_total;
    row->preempted_total = status->sched.preempted_total;
    row->prompt_tokens_computed_total = status->sched.prompt_tokens_total;
}

static void status_start(struct call *call)
{
    struct front *front = call->front;
    Galerne__Admin__V1__StatusResponse output = GALERNE__ADMIN__V1__STATUS_RESPONSE__INIT;
    Galerne__Admin__V1__ModelStatus *models[CONFIG_MODELS_MAX];
    struct model_row *rows = call_alloc(call, front->n_models * sizeof *rows);
    struct tenant_rows *tenants = call_alloc(call, sizeof *tenants);
    struct quota_rows *quotas = call_alloc(call, sizeof *quotas);
    if (!rows || !tenants || !quotas) {
        struct error error;
        error_set(&error, STATUS_EXHAUSTED, "no memory for the status");
        call_fail(call, &error);
        return;
    }
    for (uint32_t i = 0; i < front->n_models; i++) {
        model_show(&front->models[i], &rows[i]);
        tenants_show(front, i, tenants, &rows[i].row);
        models[i] = &rows[i].row;
    }
    quotas_show(front, quotas, &output);
    output.version = (char *)(uintptr_t)GALERNE_VERSION;
    output.state = daemon_state_of(front_state(front));
    output.uptime_ms = (clock_now_ns() - front->started_ns) / NS_PER_MS;
    output.pid = (uint32_t)getpid();
    output.resident_bytes = resident_bytes(getpid());
    output.models = models;
    output.n_models = front->n_models;
    output.calls_open = atomic_load(&front->calls_open);
    output.calls_total = atomic_load(&front->calls_total);
    output.requests_max = front->config->requests_max;
    call_reply(call, &output.base);
}

const struct call_handler call_status = {
    .path = "/galerne.admin.v1.Admin/Status", .always = true, .start = status_start};
