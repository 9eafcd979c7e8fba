/*
 * quota: how much the tenants may use, over all models of the process together.
 *
 * One `struct quota` has a row for each row of the tenants' tree (tenants.h: organisation ->
 * project -> key, the same indexes), and each row may limit everything below it:
 *
 *     requests_per_minute, requests_burst   a bucket (gcra.h)
 *     tokens_per_minute, tokens_burst       a bucket of tokens, prompt and output together
 *     concurrent_max                        requests here at once, queued or running
 *     queued_tokens_max                     prompt tokens of requests that have not begun
 *     tokens_per_month                      in a calendar month, UTC
 *
 * 0 is no limit. A request passes all limits of its path or takes nothing.
 *
 * Tokens are promised before they are used. A *hard* row holds prompt and most output of each
 * request until it is over: what it limits is never exceeded, in any window. A *soft* row holds
 * the prompt and an estimate of the output (from what its tenant's recent requests had). What comes
 * on top becomes debt, which the bucket must drain before it admits again. The debt is bounded: a
 * row admits only while the most that all its requests can still need on top of their estimates is
 * within `overdraft_tokens`. So a soft row is never over burst + overdraft + rate * t in any window
 * t, and a month never over budget + overdraft. Either way, what was not used goes back.
 *
 * Promised tokens do not drain: they are charged when their request is over. Promising at once and
 * paying back later would let what drained meanwhile be spent twice.
 *
 * The end of a month's budget: a request whose most output passes what is left of a hard row's
 * budget gets what is left (`is_cut`), and ends there. The same goes for a request that names no
 * most output, where the burst allows less than the model. Otherwise what does not fit is refused.
 *
 * Refusals. EXHAUSTED carries error->limit (the key above), error->subject ("project:north/b") and
 * error->retry_ns: exact when time alone is missing; an estimate, from how long requests last, when
 * some must end first; of all limits that refuse, the one with the longest. INVALID: it can never
 * be admitted; limit and subject are set too, retry_ns is 0.
 *
 * Leases. An engine does not lock the tree for each request. Its `quota_lease` draws credit for a
 * tenant, debited at every level beforehand, for up to LEASE_BATCH requests like the one at hand
 * when limits are far, for this one alone when they are near. Before anything is refused, all
 * credit that is not promised comes back from all leases; and a lease gives back what it has not
 * touched for LEASE_IDLE_NS. Nobody is refused for credit that lies in an idle engine.
 *
 * Threads. A lease has one owner, who calls the functions that take it; different leases at the
 * same time. The rest is for any thread. The tree has one lock, each lease has one; the order
 * is tree, then one lease. They are held for a microsecond, without a call out.
 *
 * Time is passed in: `now_ns` monotonic, `wall_ns` since 1970. A monotonic time behind the latest
 * one counts as that (threads differ a little; over QUOTA_BACK_NS is counted). A wall clock may go
 * anywhere: month.h.
 */
#pragma once

#include "base/status.h"
#include "sched/reservation.h"

#define QUOTA_TOP UINT32_MAX             /* the parent of a row that has none; as TENANT_TOP */
#define QUOTA_LEVELS_MAX 3               /* as TENANT_LEVELS_MAX */
#define QUOTA_NAME_MAX_BYTES 64          /* of a row's name; longer ones are cut */
#define QUOTA_VALUE_MAX 1000000000000ull /* of every limit below */
#define QUOTA_BACK_NS 1000000000ull
#define LEASE_BATCH 16 /* requests that one draw is for, at most */
#define LEASE_IDLE_NS 1000000000ull

enum quota_mode { QUOTA_SOFT = 0, QUOTA_HARD };

struct quota_row {
    const char *name; /* for errors; may be NULL */
    uint32_t line;    /* where its configuration stands; 0: in no file */
    uint32_t parent;  /* index of a row, or QUOTA_TOP */
    enum quota_mode mode;
    uint64_t requests_per_minute, requests_burst; /* burst 0: as many as a minute's */
    uint64_t tokens_per_minute, tokens_burst;     /* the same */
    uint64_t concurrent_max, queued_tokens_max;
    uint64_t tokens_per_month;
    uint64_t overdraft_tokens; /* soft; 0: the burst, or a hundredth of the month without one */
};

struct quota_table {
    uint32_t n_rows;
    const struct quota_row *rows; /* [n_rows] not needed after the call */
};

struct quota;
struct quota_lease;

struct quota_time {
    uint64_t now_ns, wall_ns;
};

/* OK when the table makes sense by itself. INVALID: row, name, line and reason; `field` is the
 * column. Pure. */
enum status quota_check(const struct quota_table *table, struct error *error);

/* The most tokens, prompt and output together, that this row can ever admit of one request;
 * UINT64_MAX: any number. Pure. */
uint64_t quota_row_most(const struct quota_row *row);

/* Room for so many rows and leases, now; begins with one row without limits. */
enum status quota_open(uint32_t rows_max, uint32_t leases_max, struct quota **ret_quota,
                       struct error *error);
/* All leases are closed. */
void quota_close(struct quota *quota);

/* Replaces all limits. What was used and what is held stays with its rows; a row may move, none may
 * go (as with tenants.h). INVALID as quota_check; the old table stays then. */
enum status quota_set(struct quota *quota, const struct quota_table *table,
                      const struct quota_time *time, struct error *error);

/* ---- an engine's side ---- */

/* EXHAUSTED when all leases are taken. */
enum status quota_lease_open(struct quota *quota, struct quota_lease **ret_lease,
                             struct error *error);
/* Every reservation of it was settled. Gives everything back. */
void quota_lease_close(struct quota_lease *lease, const struct quota_time *time);

struct quota_ask {
    uint32_t tenant;
    uint32_t prompt_tokens;     /* at least 1 */
    uint32_t output_tokens_max; /* of each choice, at least 1 */
    uint32_t choices;           /* at least 1: outputs that are made of the one prompt */
    bool is_open;               /* the caller named no most output: it is what the model allows */
};

/* All limits or none; see "Refusals". INVALID also when there is no such tenant. *ret_reservation
 * must not be HELD. */
enum status quota_reserve(struct quota_lease *lease, const struct quota_ask *ask,
                          const struct quota_time *time, struct reservation *ret_reservation,
                          struct error *error);

/* Its first step is planned: it is no longer queued. Idempotent. */
void quota_begin(struct quota_lease *lease, struct reservation *reservation);

/* It is over and used so many tokens, prompt and output (more than it might is cut, and counted).
 * Output 0 does not count for the forecast. Output is that of all choices together. */
void quota_settle(struct quota_lease *lease, struct reservation *reservation,
                  uint32_t prompt_tokens, uint32_t output_tokens, uint64_t now_ns);

/* It never came to be (somebody else refused it in the same turn): as if it had not been asked, the
 * request itself included. */
void quota_undo(struct quota_lease *lease, struct reservation *reservation);

/* Once a turn: tells the tree what was used, and gives back what lies idle. */
void quota_lease_turn(struct quota_lease *lease, const struct quota_time *time);

/* ---- what there is ---- */

struct quota_stats {
    uint64_t reserved_total, settled_total, undone_total;
    uint64_t refused_total, refused_for_ever_total, cut_total;
    uint64_t settled_again_total; /* a reservation that was not held: nothing was done */
    uint64_t overused_total;      /* settled with more than it might use: cut to that */
    uint64_t draws_total,
        recalls_total;         /* of credit, by leases; from all leases, before a refusal */
    uint64_t clock_back_total; /* now_ns was over QUOTA_BACK_NS behind the latest */
    uint64_t month_back_total; /* the month was one before the latest */
};
void quota_stats(struct quota *quota, struct quota_stats *ret_stats);

/* All leases tell what was used and give back what is not promised: figures that follow are exact.
 * Any thread, now and then. */
void quota_recall(struct quota *quota, const struct quota_time *time);

/* One row, with everything below it. Sums are as of what leases have told. */
struct quota_row_stats {
    bool is_limited, is_hard;            /* has a limit of any kind */
    uint64_t refused_total;              /* for a limit of this row */
    uint64_t month_room;                 /* as below */
    uint64_t requests_room, tokens_room; /* that fit now; UINT64_MAX: no limit */
    uint64_t concurrent, queued_tokens;  /* promised, or lent to leases */
    uint64_t held_tokens;                /* the same, as the row's mode counts them */
    uint64_t month_used_tokens;          /* UINT64_MAX: of a month that is forgotten */
};
/* False when there is no such row. */
bool quota_row_stats(struct quota *quota, uint32_t row, const struct quota_time *time,
                     struct quota_row_stats *ret_stats);

/* Aborts with a report when the sums of rows do not agree with those of leases (tests). No lease is
 * in use meanwhile. */
void quota_audit(struct quota *quota);
