/*
 * tenants: the tree of those who share one model, and what each of them holds just now.
 *
 * The tree has up to three levels, organisation -> project -> key, and comes as a flat table: a row
 * names its parent by index. Requests come from rows that have no row below them, whatever their
 * level, so a table of lone organisations is a flat world. A row's index is the tenant's name here:
 * it stays that tenant's for the life of the scheduler. A new table may change everything about a
 * row and append rows; it may not drop one (close it instead: it takes no new requests, and those
 * that it has go on).
 *
 * Rights of a row hold for all below it together:
 *     weight           its share among its siblings, in service, while all of them want some
 *     reserved_blocks  KV blocks that nobody outside may take, used or not
 *     limit_blocks     KV blocks that it never exceeds
 *     cached_blocks    blocks that a cache domain keeps without a reader before it is the first to
 *                      lose some; a domain goes by the row that added a block to it last
 *
 * A table is refused whole, the one before stays: a parent that does not exist, a circle, more than
 * three levels, a weight of zero or less, requests that could never run (a limit or other tenants'
 * reservations leave less than the largest legal request needs), reservations over half of the
 * pool, a reservation both of a row and of one above it.
 *
 * tenants_check is pure. The rest belongs to the scheduler; policies read it.
 */
#pragma once

#include "sched/sched.h"

#define TENANT_TOP UINT32_MAX /* the parent of a row that has none */
#define TENANT_LEVELS_MAX 3
#define TENANT_WEIGHT_MAX 1000000

struct tenant_row {
    const char *name;       /* for errors; may be NULL */
    uint32_t line;          /* where its configuration stands; 0: in no file */
    uint32_t parent;        /* index of a row, or TENANT_TOP */
    int64_t weight;         /* 1..TENANT_WEIGHT_MAX; wide, so that a negative one can be refused */
    enum sched_class class; /* of its requests that name none; CLASS_DEFAULT is refused */
    bool closed;
    uint32_t reserved_blocks; /* 0: none */
    uint32_t limit_blocks;    /* 0: no limit */
    uint32_t cached_blocks;   /* 0: no quota */
};

struct tenant_table {
    uint32_t n_rows;
    const struct tenant_row *rows; /* [n_rows] not needed after the call */
};

/* One tenant, interactive, weight 1, no limits: what a scheduler begins with. */
extern const struct tenant_table tenant_table_local;

/* OK when a scheduler with these limits can take the table. INVALID names the row (index, name and
 * line, as far as there are any) and the reason. `field` is the column at fault. */
enum status tenants_check(const struct tenant_table *table, const struct sched_limits *limits,
                          struct error *error);

/* A row as the scheduler knows it, and the sums over it and all below it. */
struct tenant {
    uint32_t parent; /* TENANT_TOP: none */
    uint32_t level;  /* 0: an organisation */
    uint32_t weight;
    uint32_t reserved_blocks, limit_blocks, cached_blocks; /* limit, quota: UINT32_MAX is none */
    enum sched_class class;
    bool closed;
    bool has_children;

    uint32_t n_waiting; /* not ended, not running */
    uint32_t n_running;
    uint32_t n_prefilling;     /* of the running: known tokens are left to plan */
    uint32_t blocks;           /* entries of its sequences' block tables */
    uint32_t releasing_blocks; /* of them: given back when steps in flight retire */
    uint32_t promised_blocks;  /* what its running sequences will take, as of .. */
    uint64_t promised_at;      /* .. this count of promises; none when it is another */
    uint64_t prefill_tokens_total, output_tokens_total; /* service: what was charged */
    uint64_t cached_tokens_total, recomputed_tokens_total;
    uint64_t admitted_total, preempted_total;
};

struct tenants {
    uint32_t max; /* rows there is room for */
    uint32_t count;
    struct tenant *rows;    /* [max], the first `count` */
    uint32_t unused_blocks; /* reserved and not used, over all rows */
    bool has_limits;        /* some row has one */
};

size_t tenants_footprint(const struct sched_limits *limits);

/* Takes tenant_table_local. `memory` is zeroed, tenants_footprint bytes, aligned to 16. */
void tenants_init(struct tenants *tenants, const struct sched_limits *limits, void *memory);

/* Takes a table that tenants_check found good and that drops no row; sums stay. */
void tenants_replace(struct tenants *tenants, const struct tenant_table *table);

/* The row above, NULL at the top: walks a path as
 *     for (struct tenant *t = &tenants->rows[i]; t; t = tenant_above(tenants, t)) */
static inline struct tenant *tenant_above(const struct tenants *tenants, const struct tenant *t)
{
    return t->parent == TENANT_TOP ? NULL : &tenants->rows[t->parent];
}

/* A path's tables get n entries more, or less. */
void tenants_blocks_add(struct tenants *tenants, uint32_t tenant, uint32_t n);
void tenants_blocks_remove(struct tenants *tenants, uint32_t tenant, uint32_t n);

/* Blocks that are kept for others than `tenant`, used or not. */
uint32_t tenants_kept_blocks(const struct tenants *tenants, uint32_t tenant);

/* Whether n more blocks of `tenant` are within what it, or one above it, has reserved. */
bool tenants_has_reserved(const struct tenants *tenants, uint32_t tenant, uint32_t n);

/* The lowest row of the path whose limit does not allow n blocks more; NULL when all do. */
struct tenant *tenants_full_row(const struct tenants *tenants, uint32_t tenant, uint32_t n);

/* Whether `tenant` is `row` or below it. */
bool tenants_is_below(const struct tenants *tenants, uint32_t tenant, const struct tenant *row);
