/*
 * serve_world: a served model without a model. The production scheduler, unchanged, behind two
 * seams: the clock is simulated time, and the executor is a model of cost (serve_cost.h) in place
 * of a worker. Tenants send as their habits say (serve_workload.h), and what they see is measured
 * (serve_metrics.h).
 *
 * The loop: what has come is submitted; a step is planned when fewer than `flights` are under way;
 * the executor takes them one after the other; when one is done its tokens are reported. One flight
 * is an engine that plans when the last step is back, as the published baselines do; two is the
 * product's.
 *
 * Deterministic: the same setting gives the same result, on any machine with the same arithmetic.
 * `fingerprint` of the result is of every token in its order.
 *
 * One thread; worlds do not know each other.
 */
#pragma once

#include "sched/policy.h"
#include "sched/tenants.h"
#include "tests/sim/serve_cost.h"
#include "tests/sim/serve_metrics.h"
#include "tests/sim/serve_workload.h"

struct serve_setting {
    const struct serve_preset *preset;
    const struct sched_policy *policy;
    struct sched_fairness fairness; /* zeros: the defaults */
    uint32_t n_habits;
    const struct serve_habit *habits; /* [n_habits] a tenant each, on one level */
    uint64_t seed;
    double duration_s;
    uint32_t pool_tokens; /* 0: the preset's */
    uint32_t flights;     /* 0 reads as 1 */
    bool drains;          /* when the time is over nobody sends, and it runs until all have ended */
    uint32_t checks_every; /* so many steps the scheduler's books are checked; 0: never */
    uint32_t requests_max; /* live at a time, others are refused; 0 reads as 32,768 */
};

/* Runs it all. False when drained but not everybody ended, or ids and blocks are left over; says
 * what on stderr. The result is to be closed in any case. */
bool serve_world_run(const struct serve_setting *setting, struct serve_result *ret_result);
