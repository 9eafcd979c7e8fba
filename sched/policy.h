/*
 * policy: the order in which the scheduler serves, behind a table.
 *
 * The mechanism (sched.c, blocks, plan) knows how; a policy knows who. `policy_fcfs` is the plain
 * twin: first come, first served. The fair policy comes beside it and is compared with it in the
 * simulator. A policy sees sequences through `struct seq` (seq.h) and keeps its own state in
 * memory that it states. Same thread, same rules as sched.h: no clock, no allocation.
 */
#pragma once

#include "sched/sched.h"

struct seq;

struct sched_policy {
    const char *name;
    size_t (*footprint)(const struct sched_limits *limits);
    void (*init)(void *state, const struct sched_limits *limits);
    /* A new sequence waits; a preempted one waits again (`front`). */
    void (*enqueue)(void *state, struct seq *seq, bool front, uint64_t now_ns);
    /* The waiting sequence to try next, or NULL. It stays in line until `dequeue`. */
    struct seq *(*head)(void *state, uint64_t now_ns);
    void (*dequeue)(void *state, struct seq *seq);
    /* Service to pay for: prompt tokens when a step with them is planned, an output token when
     * it is sampled and counts. Tokens computed again are not charged. */
    void (*charge)(void *state, struct seq *seq, uint32_t prefill_tokens, uint32_t output_tokens);
    /* Whom to preempt among the running [n], in order of admission, so that `needy` gets a block
     * or a slot. Only those are shown that may be chosen: without a row in this step. `needy` may
     * be one of them, or wait in line. NULL = nobody: then `needy` just waits. */
    struct seq *(*victim)(void *state, struct seq *const *running, uint32_t n, struct seq *needy);
};

extern const struct sched_policy policy_fcfs;
