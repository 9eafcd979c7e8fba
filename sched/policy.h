/*
 * policy: the order in which the scheduler serves, behind a table.
 *
 * The mechanism (sched.c, plan.c, blocks) knows how; a policy knows who. `policy_fcfs` is the plain
 * one: first come, first served, as vLLM V1. `policy_fair` shares by weight among tenants
 * (docs/scheduler.md). Others may be written outside of this room, to compare with.
 *
 * A policy sees all of the scheduler (books.h) and writes none of it; it keeps its own state in
 * memory that it states. Same thread, same rules as sched.h: no clock, no allocation. Functions
 * marked "or NULL" may be missing.
 *
 * A step as the policy sees it:
 *
 *     reclaim*            whom to preempt for somebody who waits, before any row is given
 *     order, victim       only when the decoding ones need more blocks than there are
 *     begin
 *     next, granted | refused   again and again, while tokens are left
 *     end
 *
 * and between steps: enqueue, dequeue, charge, ended.
 */
#pragma once

#include "sched/sched.h"

struct seq;

/* Why a sequence stands in line. */
enum arrival {
    ARRIVES_NEW,
    ARRIVES_PREEMPTED, /* it ran until now */
    ARRIVES_RESUMED,   /* it was set aside: its reader was slow, or another choice had to compute */
};

/* Why a waiting one was not admitted. */
enum refusal {
    REFUSED_BLOCKS, /* the pool has not got them, for it */
    REFUSED_LIMIT,  /* its tenant, or one above, is at its limit */
    REFUSED_STEP,   /* this step cannot open it: slots, known tokens, its old slot is not back */
};

struct sched_policy {
    const char *name;
    size_t (*footprint)(const struct sched_limits *limits);
    /* `sched` outlives the state; its limits and its tenants are there. `state` is zeroed. */
    void (*init)(void *state, const struct sched *sched);
    /* The tenants' table was replaced: rows changed, rows were added. Or NULL. */
    void (*tenants_changed)(void *state);

    void (*enqueue)(void *state, struct seq *seq, enum arrival arrival);
    /* It leaves the line: admitted, ended, set aside (`paused` or `held`). */
    void (*dequeue)(void *state, struct seq *seq);
    /* A sequence is over; sampled_tokens is what it produced. Or NULL. */
    void (*ended)(void *state, struct seq *seq);
    /* Service to pay for: prompt tokens when a step with them is planned, an output token when
     * it is sampled and counts. Tokens computed again or found in the cache are not charged. */
    void (*charge)(void *state, struct seq *seq, uint32_t prefill_tokens, uint32_t output_tokens);

    /* Tokens that it will probably still sample, >= 1. Room for the first is taken when it is
     * admitted; the others are part of a forecast (forecast.h), and an admission must leave what
     * the forecast demands. 1: no forecast. */
    uint32_t (*foresee)(void *state, const struct seq *seq);
    /* Blocks that must stay takeable besides when it is admitted. Or NULL: none. */
    uint32_t (*headroom)(void *state, const struct seq *seq);
    /* Whether it may be admitted although what the forecast demands does not stay: somebody will be
     * preempted if it comes true. Or NULL: nobody may. */
    bool (*dares)(void *state, const struct seq *seq);

    void (*begin)(void *state);
    /* Who gets the next tokens, and at most how many at once: a running one that has known tokens
     * to compute (it may be named again, its row grows), or a waiting one, to be admitted. NULL:
     * nobody else in this step. */
    struct seq *(*next)(void *state, uint32_t *ret_tokens_max);
    /* What became of it. After `granted` it runs and n_tokens more are planned. */
    void (*granted)(void *state, struct seq *seq, uint32_t n_tokens);
    void (*refused)(void *state, struct seq *seq, enum refusal why);
    void (*end)(void *state); /* or NULL */

    /* Whom to preempt among the running [n], in order of admission, so that `needy` gets a block
     * or a slot. Only those are shown that may be chosen: without a row in this step. `needy` may
     * be one of them, or wait in line. NULL = nobody: then `needy` just waits. */
    struct seq *(*victim)(void *state, struct seq *const *running, uint32_t n, struct seq *needy);
    /* Puts those who decode [n] in the order in which they get scarce blocks: whom it would rather
     * preempt last. Or NULL: order of admission. */
    void (*order)(void *state, struct seq **decoding, uint32_t n);
    /* A running one to preempt for somebody in line, or NULL. Asked again after each. Or NULL. */
    struct seq *(*reclaim)(void *state);
};

extern const struct sched_policy policy_fcfs;
extern const struct sched_policy policy_fair;
