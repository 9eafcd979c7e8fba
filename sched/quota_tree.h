/*
 * quota_tree: the inside of quota.h, shared by its own files only.
 *
 *     quota.c        the tree: what fits, what is held, refusals; open, close, statistics
 *     quota_table.c  which tables are good; replacing one
 *     lease.c        an engine's side: credit, reservations, what flows back
 *
 * What a request takes is a vector of kinds; a row holds the same vector whatever its mode and
 * limits, and looks at those parts that it limits. So a table may change modes, limits and parents
 * while requests are here.
 *
 * Three places hold a tenant's promises: reservations (`live`), credit that the lease may still
 * promise, and what was used but not told yet (`spent`). Their sum over all leases is `own` of the
 * tenant's node, and `held` of a node is the sum of `own` over itself and all below. Telling what
 * was spent turns it from held to used; giving credit back takes it from held.
 *
 * Why a soft row stays within burst + overdraft. P = used + held estimates + held overdraft. A draw
 * is allowed at P <= burst + overdraft, since both parts are asked for. A request that settles with
 * o more than its estimate turns estimate and o of its overdraft into use: P stays. One with less
 * gives back: P falls. Draining lets P fall as well. Nothing else moves.
 *
 * Functions that take a tree: its lock is held. That take a lease: its lock is held.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "sched/gcra.h"
#include "sched/month.h"
#include "sched/quota.h"

enum quota_kind {
    KIND_REQUESTS = 0,
    KIND_CONCURRENT,
    KIND_QUEUED,    /* prompt tokens */
    KIND_FULL,      /* prompt and most output: what hard rows count */
    KIND_ESTIMATE,  /* prompt and probable output: what soft rows count */
    KIND_OVERDRAFT, /* the difference */
    KIND_COUNT,
};

struct quota_vector {
    uint64_t n[KIND_COUNT];
};

struct quota_node {
    char name[QUOTA_NAME_MAX_BYTES];
    uint32_t parent, level;
    bool is_hard;
    struct gcra requests, tokens;
    uint64_t concurrent_max, queued_tokens_max, tokens_per_month, overdraft_tokens; /* UINT64_MAX */
    struct quota_vector held, own;
    struct month_uses months;
    uint64_t refused_total;
};

/* The smallest of a path's soft rows that limit tokens; UINT64_MAX: there is none. */
struct soft_bounds {
    uint64_t most_tokens;      /* an estimate that the row can admit */
    uint64_t overdraft_tokens; /* on top of an estimate */
};

/* A tenant as one lease sees it. */
struct lease_entry {
    struct quota_vector credit, live;
    uint64_t spent_requests, spent_tokens;    /* used and not told yet; of the tokens .. */
    uint64_t spent_estimate, spent_overdraft; /* .. within the estimates, and on top of them */
    struct soft_bounds soft;                  /* as of the table `generation` */
    uint32_t generation;
    uint32_t month;                     /* that pays for what is here */
    bool is_listed;                     /* has credit, or something spent */
    bool is_touched;                    /* since the last sweep */
    bool has_history;                   /* some request of it has ended with output */
    int64_t output_mean, output_spread; /* of recent outputs, in 1/16 tokens */
};

struct quota_lease {
    struct quota *quota;
    pthread_mutex_t lock;
    bool is_open, has_spent;
    struct month_span span; /* the month that the last wall time was in */
    uint64_t swept_ns;
    uint64_t hold_mean_ns; /* how long reservations last, recently */
    uint32_t n_listed;
    uint32_t *listed;            /* [rows_max] tenants whose entry is listed: the first n_listed */
    struct lease_entry *entries; /* [rows_max] by tenant */
    uint64_t reserved_total, settled_total, undone_total, settled_again_total, overused_total;
};

struct quota {
    pthread_mutex_t lock;
    uint32_t rows_max, n_rows, leases_max, n_open;
    struct quota_node *nodes;   /* [rows_max], the first n_rows */
    struct quota_lease *leases; /* [leases_max] */
    uint32_t month;             /* the latest that a draw was made in */
    _Atomic uint64_t now_ns;    /* the latest that anybody told, in any call */
    _Atomic uint64_t clock_back_total;
    _Atomic uint32_t generation; /* of the table */
    struct quota_stats totals;   /* those that the tree counts */
};

/* A request on its way to a reservation. */
struct claim {
    uint32_t tenant, prompt_tokens, choices, output_tokens; /* the last of each choice */
    bool is_open, is_cut;
    struct quota_vector cost;
};

static inline uint64_t claim_full_tokens(const struct claim *claim)
{
    return claim->prompt_tokens + (uint64_t)claim->choices * claim->output_tokens;
}

/* What it takes to begin at all: a token of each choice. */
static inline uint64_t claim_least_tokens(const struct claim *claim)
{
    return (uint64_t)claim->prompt_tokens + claim->choices;
}

/* A refusal. */
struct verdict {
    bool refused, for_ever, waits; /* waits: some request must end first, time is not enough */
    uint64_t retry_ns;
    uint32_t row;
    const char *limit;
    uint64_t limit_value, asked, room;
};

static inline struct quota_node *node_above(const struct quota *quota,
                                            const struct quota_node *node)
{
    return node->parent == QUOTA_TOP ? NULL : &quota->nodes[node->parent];
}

/* ---- quota.c ---- */

/* Without the lock. The latest time of all, which is what counts, is returned. */
uint64_t tree_tick(struct quota *quota, uint64_t now_ns);
/* Does it fit, at all levels? hold_ns: how long one has to wait for others to end. */
struct verdict tree_check(struct quota *quota, const struct claim *claim,
                          const struct month_span *span, const struct quota_time *time,
                          uint64_t hold_ns);
/* Lowers the output of one that named none to what the path can ever admit. */
void tree_cut_open(const struct quota *quota, struct claim *claim);
/* Lowers the output to what the month's budgets of hard rows have left, if they are ending. True
 * when it did. */
bool tree_cut_ending(const struct quota *quota, struct claim *claim, uint32_t month);
/* How many more claims like this one fit beside it and may lie in one lease. */
uint64_t tree_batch(struct quota *quota, const struct claim *claim, uint32_t month);
void tree_hold(struct quota *quota, uint32_t tenant, const struct quota_vector *vector);
void tree_release(struct quota *quota, uint32_t tenant, const struct quota_vector *vector);
/* What of an entry was spent is told; with `all` its credit goes back too. */
void tree_take_back(struct quota *quota, struct quota_lease *lease, uint32_t tenant, bool all);
/* All credit of all leases. No lease is locked: one at a time is, here. */
void tree_recall(struct quota *quota);
struct soft_bounds tree_soft_bounds(const struct quota *quota, uint32_t tenant);
enum status tree_refuse(struct quota *quota, const struct claim *claim,
                        const struct verdict *verdict, struct error *error);

/* ---- lease.c ---- */

/* The claim's cost anew, from its output. */
void claim_price(struct claim *claim, const struct lease_entry *entry);
bool entry_is_empty(const struct lease_entry *entry);
