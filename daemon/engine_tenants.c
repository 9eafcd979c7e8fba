/* The tenants of one model: what is in force, and what each of them has just now. */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/engine_private.h"

enum status engine_check_tenants(const struct engine *engine, const struct tenant_table *table,
                                 struct error *error)
{
    return tenants_check(table, &engine->sched_limits, error);
}

uint32_t engine_blocks_count(const struct engine *engine)
{
    return engine->sched_limits.blocks_count;
}

enum status engine_take_tenants(struct engine *engine, struct error *error)
{
    struct tenancy *tenancy = engine->options.tenancy;
    struct tenant_row rows[TENANCY_ROWS_MAX];
    uint64_t generation;
    if (!tenancy || tenancy_generation(tenancy) == engine->tenancy_generation)
        return STATUS_OK;
    const struct tenant_table table = {
        .n_rows = tenancy_rows(tenancy, engine_blocks_count(engine), rows, &generation),
        .rows = rows};
    engine->tenancy_generation = generation;
    return sched_set_tenants(engine->sched, &table, error);
}

void engine_follow_tenants(struct engine *engine)
{
    struct error error;
    if (engine_take_tenants(engine, &error) != STATUS_OK) /* they were checked before */
        log_error("model %s: new tenants are not taken: %s", engine->options.model->name,
                  error.text);
}

void engine_publish_tenants(struct engine *engine, uint64_t now_ns)
{
    bool due = now_ns - engine->tenants_ns >= ENGINE_TENANTS_NS || engine->n_flights == 0;
    if (!engine->options.tenancy || !due)
        return;
    engine->tenants_ns = now_ns;
    uint32_t n = 0;
    while (n < TENANCY_ROWS_MAX && sched_tenant_stats(engine->sched, n, &engine->tenants[n]))
        n++;
    engine->n_tenants = n;
}

uint32_t engine_tenants(struct engine *engine, struct sched_tenant_stats *ret_rows)
{
    pthread_mutex_lock(&engine->status_lock);
    uint32_t n = engine->n_tenants;
    memcpy(ret_rows, engine->tenants, n * sizeof *ret_rows);
    pthread_mutex_unlock(&engine->status_lock);
    return n;
}
