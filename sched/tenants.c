#include "sched/tenants.h"

#include "sched/window.h"

static const struct tenant_row row_local = {
    .name = "local", .parent = TENANT_TOP, .weight = 1, .class = CLASS_INTERACTIVE};

const struct tenant_table tenant_table_local = {.n_rows = 1, .rows = &row_local};

/* ---- is a table good ---- */

/* A table under examination, and the words for its errors. */
struct examination {
    const struct tenant_table *table;
    const struct sched_limits *limits;
    struct error *error;
    uint32_t largest_blocks; /* of the largest legal request */
    uint64_t reserved_blocks;
};

static enum status row_fault(const struct examination *e, uint32_t index, const char *column,
                             const char *reason)
{
    const struct tenant_row *row = &e->table->rows[index];
    char place[32] = "";
    if (row->line)
        snprintf(place, sizeof place, ", line %u", row->line);
    return error_field(e->error, column, "tenants: row %u (%s%s): %s", index,
                       row->name ? row->name : "no name", place, reason);
}

static uint32_t tenants_max(const struct sched_limits *limits)
{
    return u32_max(limits->tenants_max, 1);
}

static enum status values_check(const struct examination *e, uint32_t index)
{
    const struct tenant_row *row = &e->table->rows[index];
    char reason[200];
    if (row->weight < 1 || row->weight > TENANT_WEIGHT_MAX) {
        snprintf(reason, sizeof reason, "the weight is %lld; it must be from 1 to %d",
                 (long long)row->weight, TENANT_WEIGHT_MAX);
        return row_fault(e, index, "weight", reason);
    }
    if (row->class != CLASS_INTERACTIVE && row->class != CLASS_BATCH)
        return row_fault(e, index, "class", "the class must be interactive or batch");
    return STATUS_OK;
}

/* Parents first: everything else walks up. A path that does not end goes in a circle. */
static enum status path_check(const struct examination *e, uint32_t index)
{
    const struct tenant_row *rows = e->table->rows;
    uint32_t n_above = 0;
    char reason[200];
    for (uint32_t at = index; rows[at].parent != TENANT_TOP; at = rows[at].parent) {
        if (rows[at].parent >= e->table->n_rows) {
            snprintf(reason, sizeof reason, "its parent is row %u; the table has %u rows",
                     rows[at].parent, e->table->n_rows);
            return row_fault(e, at, "parent", reason);
        }
        if (++n_above >= e->table->n_rows)
            return row_fault(e, index, "parent", "its parents go in a circle");
    }
    if (n_above < TENANT_LEVELS_MAX)
        return STATUS_OK;
    snprintf(reason, sizeof reason,
             "%u rows are above it; organisation, project and key make three levels", n_above);
    return row_fault(e, index, "parent", reason);
}

static enum status rights_check(const struct examination *e, uint32_t index)
{
    const struct tenant_row *rows = e->table->rows, *row = &rows[index];
    uint64_t reserved = 0; /* on the path */
    char reason[240];
    for (uint32_t at = index; at != TENANT_TOP; at = rows[at].parent) {
        reserved += rows[at].reserved_blocks;
        if (at == index || !row->reserved_blocks)
            continue;
        if (rows[at].reserved_blocks) {
            snprintf(reason, sizeof reason,
                     "it reserves blocks and so does row %u above it; only one of a path may", at);
            return row_fault(e, index, "reserved_blocks", reason);
        }
    }
    if (row->limit_blocks && row->limit_blocks < e->largest_blocks) {
        snprintf(reason, sizeof reason,
                 "its limit is %u blocks; the largest legal request needs %u and could never run",
                 row->limit_blocks, e->largest_blocks);
        return row_fault(e, index, "limit_blocks", reason);
    }
    if (row->limit_blocks && row->limit_blocks < row->reserved_blocks)
        return row_fault(e, index, "reserved_blocks", "it reserves more blocks than its limit");
    uint64_t left = e->limits->blocks_count - (e->reserved_blocks - reserved);
    if (left < e->largest_blocks) {
        snprintf(reason, sizeof reason,
                 "what others reserve leaves it %llu of %u blocks; the largest legal request needs "
                 "%u and could never run",
                 (unsigned long long)left, e->limits->blocks_count, e->largest_blocks);
        return row_fault(e, index, "reserved_blocks", reason);
    }
    return STATUS_OK;
}

static enum status reserved_check(struct examination *e)
{
    char reason[160];
    for (uint32_t i = 0; i < e->table->n_rows; i++) {
        e->reserved_blocks += e->table->rows[i].reserved_blocks;
        if (e->reserved_blocks <= e->limits->blocks_count / 2)
            continue;
        snprintf(reason, sizeof reason,
                 "with it, %llu blocks are reserved of a pool of %u; at most half may be",
                 (unsigned long long)e->reserved_blocks, e->limits->blocks_count);
        return row_fault(e, i, "reserved_blocks", reason);
    }
    return STATUS_OK;
}

enum status tenants_check(const struct tenant_table *table, const struct sched_limits *limits,
                          struct error *error)
{
    struct examination e = {.table = table,
                            .limits = limits,
                            .error = error,
                            .largest_blocks = window_of(limits).most_blocks};
    if (table->n_rows == 0 || table->n_rows > tenants_max(limits))
        return error_field(error, "tenants", "tenants: the table has %u rows; it must have 1 to %u",
                           table->n_rows, tenants_max(limits));
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < table->n_rows && status == STATUS_OK; i++) {
        status = values_check(&e, i);
        if (status == STATUS_OK)
            status = path_check(&e, i);
    }
    if (status == STATUS_OK)
        status = reserved_check(&e);
    for (uint32_t i = 0; i < table->n_rows && status == STATUS_OK; i++)
        status = rights_check(&e, i);
    return status;
}

/* ---- the rows and their sums ---- */

size_t tenants_footprint(const struct sched_limits *limits)
{
    return tenants_max(limits) * sizeof(struct tenant);
}

void tenants_init(struct tenants *tenants, const struct sched_limits *limits, void *memory)
{
    *tenants = (struct tenants){.max = tenants_max(limits), .rows = memory};
    tenants_replace(tenants, &tenant_table_local);
}

static uint32_t row_unused(const struct tenant *t)
{
    return t->reserved_blocks > t->blocks ? t->reserved_blocks - t->blocks : 0;
}

void tenants_replace(struct tenants *tenants, const struct tenant_table *table)
{
    CHECK(table->n_rows >= tenants->count && table->n_rows <= tenants->max);
    tenants->count = table->n_rows;
    tenants->unused_blocks = 0;
    tenants->has_limits = false;
    for (uint32_t i = 0; i < table->n_rows; i++) {
        const struct tenant_row *row = &table->rows[i];
        struct tenant *t = &tenants->rows[i];
        t->parent = row->parent;
        t->weight = (uint32_t)row->weight;
        t->reserved_blocks = row->reserved_blocks;
        t->limit_blocks = row->limit_blocks ? row->limit_blocks : UINT32_MAX;
        t->cached_blocks = row->cached_blocks ? row->cached_blocks : UINT32_MAX;
        t->class = row->class;
        t->closed = row->closed;
        t->has_children = false;
        t->n_waiting = t->n_running = t->n_prefilling = t->blocks = t->releasing_blocks = 0;
        t->promised_at = 0;
        tenants->unused_blocks += t->reserved_blocks;
        tenants->has_limits |= row->limit_blocks > 0;
    }
    for (uint32_t i = 0; i < table->n_rows; i++) {
        struct tenant *t = &tenants->rows[i];
        t->level = 0;
        if (t->parent != TENANT_TOP)
            tenants->rows[t->parent].has_children = true;
        for (struct tenant *up = tenant_above(tenants, t); up; up = tenant_above(tenants, up))
            t->level++;
    }
}

void tenants_blocks_add(struct tenants *tenants, uint32_t tenant, uint32_t n)
{
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t)) {
        tenants->unused_blocks -= row_unused(t);
        t->blocks += n;
        tenants->unused_blocks += row_unused(t);
    }
}

void tenants_blocks_remove(struct tenants *tenants, uint32_t tenant, uint32_t n)
{
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t)) {
        CHECK(t->blocks >= n);
        tenants->unused_blocks -= row_unused(t);
        t->blocks -= n;
        tenants->unused_blocks += row_unused(t);
    }
}

uint32_t tenants_kept_blocks(const struct tenants *tenants, uint32_t tenant)
{
    uint32_t kept = tenants->unused_blocks;
    if (kept == 0)
        return 0;
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t))
        kept -= row_unused(t);
    return kept;
}

bool tenants_has_reserved(const struct tenants *tenants, uint32_t tenant, uint32_t n)
{
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t))
        if (t->blocks + (uint64_t)n <= t->reserved_blocks)
            return true;
    return false;
}

struct tenant *tenants_full_row(const struct tenants *tenants, uint32_t tenant, uint32_t n)
{
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t))
        if (t->blocks + (uint64_t)n > t->limit_blocks)
            return t;
    return NULL;
}

bool tenants_is_below(const struct tenants *tenants, uint32_t tenant, const struct tenant *row)
{
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t))
        if (t == row)
            return true;
    return false;
}
