/*
 * serve_cost: how long a step takes, on machines that are not here.
 *
 *     T = base + token * n + context * sum(ctx) + pair * sum(chunk * ctx) + expert * distinct
 *
 * over the rows of a step: n tokens in all; ctx is what a row has in its KV blocks when it is done;
 * chunk * ctx is what attention computes. `distinct` is how many of E experts n tokens of k each
 * are expected to touch, E * (1 - (1 - k/E)^n): their weights are read.
 *
 * A preset is such a model, and the pool and limits that one would run there. The constants follow
 * from data sheets (bytes read over bandwidth, arithmetic over what is reached of the peak), not
 * from measurements: they are there to compare policies, not to predict a machine. `CARD_24GB` is
 * the one that the scenarios and the claims use; it is not to be tuned.
 *
 * Pure; any thread.
 */
#pragma once

#include "sched/sched.h"

struct serve_cost {
    double base_ns, token_ns, context_ns, pair_ns;
    double expert_ns;   /* 0: a dense model */
    double experts;     /* in a layer */
    double experts_hit; /* by a token */
};

struct serve_preset {
    const char *name;
    struct serve_cost cost;
    uint32_t pool_tokens, step_tokens, slots;
};

enum serve_machine { CARD_24GB, CPU_SMALL, CARD_H100, CARD_H200, CARD_H200_MOE, MACHINES_COUNT };

/* [MACHINES_COUNT] */
extern const struct serve_preset serve_presets[];

/* A step that only closes takes no time. */
double serve_cost_step_ns(const struct serve_cost *cost, const struct sched_plan *plan);
