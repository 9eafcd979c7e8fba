/*
 * books: everything the scheduler knows, and the moves that keep it consistent.
 *
 * sched.c (what the owner calls) and plan.c (the next step) decide; they change the books only
 * through the moves below, so that each invariant has one place where it is kept. check.c verifies
 * all of them.
 *
 *     seq_wait      FREE | RUNNING -> WAITING, in the policy's line
 *     seq_aside     a waiting one leaves the line, its turn came while it was paused
 *     seq_hold      the same: its turn came while another choice computes the prompt
 *     seq_run       WAITING -> RUNNING, with a free slot
 *     seq_return    RUNNING -> WAITING at the head of the line; its close is owed
 *     seq_end       WAITING | RUNNING -> ENDING (-> ENDED when nothing is in flight)
 *     seq_release   slot and blocks back: no step in flight names it any more (-> ENDED if ENDING)
 *
 * A slot is FREE, OPEN in the worker, OWED a close (its sequence is over, the worker has not
 * heard), or CLOSED (the close is in a planned step). It is `held` while a sequence has its number:
 * that ends with seq_release, which may come before the close or after it. Closed and not held is
 * free.
 *
 * A flight is what must be remembered of a step until it retires: whom it has rows of.
 *
 * Owner and thread: those of sched.h. Nothing here allocates.
 */
#pragma once

#include "sched/blocks.h"
#include "sched/deadlines.h"
#include "sched/forecast.h"
#include "sched/group.h"
#include "sched/policy.h"
#include "sched/seq.h"
#include "sched/tenants.h"
#include "sched/window.h"

enum slot_state { SLOT_FREE = 0, SLOT_OPEN, SLOT_OWED, SLOT_CLOSED };

struct slot {
    enum slot_state state;
    bool held; /* by the sequence in `holder` */
    sched_id holder;
};

struct flight {
    uint64_t step;
    uint32_t n_rows;
    sched_id *rows; /* [n_rows] of [slots_max] */
    uint32_t *ends; /* [n_rows] of [slots_max] positions of each that are computed with it */
};

struct sched {
    struct sched_limits limits;
    struct window window;
    const struct sched_policy *policy;
    void *policy_state;
    uint64_t now_ns; /* the latest time that the owner told; never goes back */

    struct seq *seqs; /* [requests_max] by id */
    uint32_t n_free_ids;
    sched_id *free_ids; /* [requests_max] a stack of the first n_free_ids */
    uint32_t n_running;
    struct seq **running;  /* [slots_max] in order of admission */
    uint32_t n_prefilling; /* of the running, as seq->prefilling says */
    uint32_t n_paused;     /* of the running */
    uint32_t n_waiting;
    uint32_t n_waiting_new; /* of them, never admitted: what waiting_max counts */
    uint32_t ended_first, n_ended;
    sched_id *ended; /* [requests_max] a ring: n_ended from ended_first on, in order of their end */
    struct deadlines deadlines;
    struct tenants tenants;
    struct group *groups; /* [requests_max] */
    uint32_t free_group;  /* GROUP_NONE: none */

    struct blocks blocks;
    uint32_t releasing_blocks; /* held by sequences that do not run: free when steps retire */
    struct slot *slots;        /* [slots_max] */
    uint32_t n_free_slots;
    uint32_t *free_slots; /* [slots_max] a stack of the first n_free_slots */
    uint32_t n_owed;
    uint32_t *owed; /* [slots_max] slots whose close is owed, in order */

    uint64_t next_step;
    uint64_t promises; /* times that the tenants' promised_blocks were counted; see admit.c */
    uint32_t n_flights;
    struct flight flights[SCHED_STEPS_MAX]; /* [n_flights] oldest first */

    struct sched_plan plan;        /* its arrays are the ones below */
    uint32_t *plan_closes;         /* [slots_max] */
    struct sched_open_row *opens;  /* [slots_max] */
    struct sched_row *rows;        /* [slots_max] */
    uint32_t *plan_blocks;         /* [blocks_count + shared_max] taken once, shared often */
    uint32_t (*copies)[2];         /* [slots_max] */
    uint32_t *matched;             /* [a table's most] blocks of the last look-up */
    uint32_t step_tokens;          /* of a step: step_tokens_max unless the owner wants fewer */
    struct seq **scratch;          /* [slots_max] for plan.c: whose turn it is */
    struct seq **candidates;       /* [slots_max] for plan.c: whom a policy may choose to preempt */
    struct forecast_one *foreseen; /* [slots_max] for admit.c: what each of the running takes */

    uint64_t submitted_total, admitted_total, preempted_total, ended_total;
    uint64_t processed_tokens_total, recomputed_tokens_total, cached_tokens_total;
    uint64_t prompt_tokens_total; /* computed for the first time */
    uint64_t dropped_total, unexpected_total, clock_back_total;
    uint64_t end_interval_ns; /* recent mean time between two ends; 0: none was seen */
    uint64_t end_seen_ns;     /* when ended_total was end_seen_total */
    uint64_t end_seen_total;
};

/* The only reading of time: the latest `now` that the owner has told. */
void books_tick(struct sched *sched, uint64_t now_ns);

/* ---- moves (books.c) ---- */

/* A free id becomes a waiting sequence (the caller fills what was submitted before). */
void seq_wait(struct sched *sched, struct seq *seq, enum arrival arrival);
void seq_aside(struct sched *sched, struct seq *seq);
void seq_hold(struct sched *sched, struct seq *seq);
/* The caller puts its blocks into the table of its new slot. */
void seq_run(struct sched *sched, struct seq *seq, uint32_t cached_tokens);
void seq_return(struct sched *sched, struct seq *seq);
void seq_end(struct sched *sched, struct seq *seq);
void seq_release(struct sched *sched, struct seq *seq);

/* After any change of planned_tokens, known tokens or paused. */
void seq_prefilling_update(struct sched *sched, struct seq *seq);

/* Of a running one: blocks behind its window go back, and it takes others for them (sched.h). */
void seq_slide(struct sched *sched, struct seq *seq);

/* Planned blocks of the prompt get their digests; computed ones of those are listed. */
void seq_name_blocks(struct sched *sched, struct seq *seq);
void seq_list_blocks(struct sched *sched, struct seq *seq);

/* The sums of all tenants anew, from the sequences: after tenants_replace. */
void tenants_recount(struct sched *sched);

/* The close of an owed slot is in the step being planned. */
void slot_closed(struct sched *sched, uint32_t slot);

/* All slots free, no close owed: at the start and when the worker was lost. */
void sched_slots_reset(struct sched *sched);

/* Steps in flight that will never retire are forgotten; nobody has anything in flight. */
void flights_reset(struct sched *sched);

/* ---- a step in the making (plan.c) and who joins it (admit.c) ---- */

struct draft {
    uint32_t tokens_left;      /* of step_tokens */
    uint32_t open_tokens_left; /* of open_tokens_max */
    uint32_t promised_blocks;  /* on their way back, for sequences that sit out this step */
    bool forecast_made;
    struct forecast forecast; /* of the running ones, once it is made */
    bool preempted;           /* since blocks ran out: nobody is admitted */
};

/* What is listed of its prompt: sched->matched, matched_blocks, matched_tokens. */
void seq_look_up(const struct sched *sched, struct seq *seq);

/* What it takes to admit a waiting one. */
struct need {
    uint32_t known_tokens, cached_tokens;
    uint32_t behind_blocks; /* first entries of its table, behind its window: not there */
    uint32_t shared_blocks; /* the next ones, listed already */
    uint32_t copy_block;    /* the next entry is a copy of this one; PREFIX_NONE: no copy */
    uint32_t new_blocks;    /* further entries, taken at once (the copy is one) */
    uint32_t cost_blocks;   /* by how much the takeable blocks shrink at once: new and cached */
    struct forecast_one later;
};

/* Exact when `looks_up`: then sched->matched has the shared blocks. Else from its last look-up, and
 * cost_blocks does not count cached ones. */
struct need need_of(const struct sched *sched, struct seq *seq, bool looks_up);

/* Forecasts what the running ones will take. */
void draft_forecast(const struct sched *sched, struct draft *draft);

/* Lets a waiting one run, with its first row, if it can be: else says why not. */
bool seq_admit(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t tokens_max,
               enum refusal *ret_why);

/* Gives n known tokens to a running one, in a row of its own or the one that it has. */
void row_grant(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t n_tokens);

/* The same for at most n_max; returns how many, 0 when the step or its chunk is full. */
uint32_t chunk_grant(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t n_max);

/* Preempts the one of sched->candidates [n] that the policy chooses; NULL when it wants nobody. */
struct seq *victim_preempt(struct sched *sched, struct draft *draft, uint32_t n, struct seq *needy);

/* Free blocks, and those that steps in flight still hold, less what is promised or kept. */
uint32_t blocks_coming(const struct sched *sched, const struct draft *draft, uint32_t tenant);

/* Blocks of a running one that it did not find in the cache: about what its end would free. */
static inline uint32_t seq_own_blocks(const struct sched *sched, const struct seq *seq)
{
    uint32_t first = sched->blocks.table_firsts[seq->slot];
    uint32_t shared = seq->shared_blocks > first ? seq->shared_blocks - first : 0;
    return sched->blocks.table_counts[seq->slot] - shared;
}

static inline bool row_given(const struct sched *sched, const struct seq *seq)
{
    return seq->row_step == sched->next_step;
}
