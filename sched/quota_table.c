/* Which tables of quotas are good, and how one replaces another. */
#include "sched/quota_tree.h"

/* ---- is a table good ---- */

/* A row under examination, and where its errors go. */
struct quota_exam {
    const struct quota_table *table;
    uint32_t index;
    struct error *error;
};

static enum status fault(const struct quota_exam *e, const char *column, const char *reason)
{
    const struct quota_row *row = &e->table->rows[e->index];
    char place[32] = "";
    if (row->line)
        snprintf(place, sizeof place, ", line %u", row->line);
    return error_field(e->error, column, "tenants: row %u (%s%s): %s: %s", e->index,
                       row->name ? row->name : "no name", place, column, reason);
}

static enum status parents_check(const struct quota_exam *e)
{
    const struct quota_row *rows = e->table->rows;
    uint32_t n_above = 0;
    for (uint32_t at = e->index; rows[at].parent != QUOTA_TOP; at = rows[at].parent) {
        if (rows[at].parent >= e->table->n_rows)
            return fault(e, "parent", "there is no such row");
        if (++n_above >= QUOTA_LEVELS_MAX)
            return fault(e, "parent",
                         "more than organisation, project and key are above one another, or they "
                         "go in a circle");
    }
    return STATUS_OK;
}

static enum status ranges_check(const struct quota_exam *e)
{
    const struct quota_row *r = &e->table->rows[e->index];
    const struct {
        const char *column;
        uint64_t value;
    } all[] = {{"requests_per_minute", r->requests_per_minute},
               {"requests_burst", r->requests_burst},
               {"tokens_per_minute", r->tokens_per_minute},
               {"tokens_burst", r->tokens_burst},
               {"concurrent_max", r->concurrent_max},
               {"queued_tokens_max", r->queued_tokens_max},
               {"tokens_per_month", r->tokens_per_month},
               {"overdraft_tokens", r->overdraft_tokens}};
    char reason[96];
    for (size_t i = 0; i < array_count(all); i++) {
        if (all[i].value <= QUOTA_VALUE_MAX)
            continue;
        snprintf(reason, sizeof reason, "is %llu; expected at most %llu",
                 (unsigned long long)all[i].value, QUOTA_VALUE_MAX);
        return fault(e, all[i].column, reason);
    }
    return STATUS_OK;
}

static uint64_t tokens_burst_of(const struct quota_row *row)
{
    return row->tokens_burst ? row->tokens_burst : row->tokens_per_minute;
}

/* The smallest request is one token of a prompt and one of output. */
static enum status values_check(const struct quota_exam *e)
{
    const struct quota_row *r = &e->table->rows[e->index];
    bool limits_tokens = r->tokens_per_minute || r->tokens_per_month;
    if (r->mode != QUOTA_SOFT && r->mode != QUOTA_HARD)
        return fault(e, "quota", "expected soft or hard");
    if (r->requests_burst && !r->requests_per_minute)
        return fault(e, "requests_burst", "needs requests_per_minute: a burst is of a rate");
    if (r->tokens_burst && !r->tokens_per_minute)
        return fault(e, "tokens_burst", "needs tokens_per_minute: a burst is of a rate");
    if (r->tokens_per_minute && tokens_burst_of(r) < 2)
        return fault(e, r->tokens_burst ? "tokens_burst" : "tokens_per_minute",
                     "a burst of 1 can never admit a request: the smallest takes 2 tokens, one of "
                     "prompt and one of output");
    if (r->tokens_per_month == 1)
        return fault(e, "tokens_per_month",
                     "1 can never admit a request: the smallest takes 2 tokens, one of prompt and "
                     "one of output");
    if (r->mode == QUOTA_HARD && !limits_tokens)
        return fault(e, "quota",
                     "hard needs tokens_per_minute or tokens_per_month: it says how those count");
    if (r->overdraft_tokens && r->mode == QUOTA_HARD)
        return fault(e, "overdraft_tokens", "a hard quota has none: leave it out, or say soft");
    if (r->overdraft_tokens && !limits_tokens)
        return fault(e, "overdraft_tokens", "needs tokens_per_minute or tokens_per_month");
    return STATUS_OK;
}

enum status quota_check(const struct quota_table *table, struct error *error)
{
    struct quota_exam e = {.table = table, .error = error};
    if (table->n_rows == 0)
        return error_field(error, "tenants", "tenants: the table has no rows");
    for (; e.index < table->n_rows; e.index++) {
        enum status status = parents_check(&e);
        if (status == STATUS_OK)
            status = ranges_check(&e);
        if (status == STATUS_OK)
            status = values_check(&e);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* ---- one after another ---- */

static uint64_t cap_of(uint64_t value)
{
    return value ? value : UINT64_MAX;
}

static uint64_t overdraft_of(const struct quota_row *row)
{
    if (row->overdraft_tokens)
        return row->overdraft_tokens;
    return row->tokens_per_minute ? tokens_burst_of(row) : row->tokens_per_month / 100;
}

uint64_t quota_row_most(const struct quota_row *row)
{
    uint64_t most = cap_of(row->tokens_per_month);
    if (row->tokens_per_minute && tokens_burst_of(row) < most)
        most = tokens_burst_of(row);
    if (most == UINT64_MAX || row->mode == QUOTA_HARD)
        return most;
    return most + overdraft_of(row);
}

static void node_set(struct quota_node *node, const struct quota_row *row, uint64_t now_ns)
{
    uint64_t requests_burst = row->requests_burst ? row->requests_burst : row->requests_per_minute;
    snprintf(node->name, sizeof node->name, "%s", row->name ? row->name : "");
    node->parent = row->parent;
    node->is_hard = row->mode == QUOTA_HARD;
    gcra_set(&node->requests, row->requests_per_minute, requests_burst, now_ns);
    gcra_set(&node->tokens, row->tokens_per_minute, tokens_burst_of(row), now_ns);
    node->concurrent_max = cap_of(row->concurrent_max);
    node->queued_tokens_max = cap_of(row->queued_tokens_max);
    node->tokens_per_month = cap_of(row->tokens_per_month);
    node->overdraft_tokens = overdraft_of(row);
}

/* What its own requests hold moves with a row: off the old path, on to the new one. */
static void rows_move(struct quota *quota, const struct quota_table *table)
{
    static const struct quota_vector nothing = {{0}};
    for (uint32_t i = 0; i < quota->n_rows; i++)
        for (struct quota_node *n = &quota->nodes[i]; n; n = node_above(quota, n))
            n->held = nothing;
    uint64_t now_ns = atomic_load(&quota->now_ns);
    for (uint32_t i = 0; i < table->n_rows; i++)
        node_set(&quota->nodes[i], &table->rows[i], now_ns);
    quota->n_rows = table->n_rows;
    for (uint32_t i = 0; i < quota->n_rows; i++) {
        struct quota_vector own = quota->nodes[i].own;
        quota->nodes[i].own = nothing;
        quota->nodes[i].level = 0;
        for (const struct quota_node *n = node_above(quota, &quota->nodes[i]); n;
             n = node_above(quota, n))
            quota->nodes[i].level++;
        tree_hold(quota, i, &own);
    }
}

enum status quota_set(struct quota *quota, const struct quota_table *table,
                      const struct quota_time *time, struct error *error)
{
    enum status status = quota_check(table, error);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&quota->lock);
    if (table->n_rows > quota->rows_max)
        status = error_field(error, "tenants",
                             "tenants: the table has %u rows; there is room for "
                             "%u",
                             table->n_rows, quota->rows_max);
    else if (table->n_rows < quota->n_rows)
        status = error_field(error, "tenants",
                             "tenants: the table has %u rows and the one before %u: a tenant is "
                             "closed, not left out",
                             table->n_rows, quota->n_rows);
    if (status == STATUS_OK) {
        tree_tick(quota, time->now_ns);
        tree_recall(quota);
        rows_move(quota, table);
        atomic_fetch_add(&quota->generation, 1);
    }
    pthread_mutex_unlock(&quota->lock);
    return status;
}
