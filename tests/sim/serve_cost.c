#include "tests/sim/serve_cost.h"

#include <math.h>

const struct serve_preset serve_presets[MACHINES_COUNT] = {
    /* 14.5 GB of weights at 580 GB/s; 14 GFLOP a token at 47 TFLOP/s; 128 KiB of KV a token. */
    [CARD_24GB] = {.name = "24 GB card, 7B dense",
                   .cost = {.base_ns = 25e6, .token_ns = 300e3, .context_ns = 250, .pair_ns = 10},
                   .pool_tokens = 40000,
                   .step_tokens = 512,
                   .slots = 256},
    /* Two cores: 0.27 GB of weights at 12 GB/s; 0.27 GFLOP a token at 90 GFLOP/s. */
    [CPU_SMALL] = {.name = "two CPU cores, 135M dense",
                   .cost = {.base_ns = 22e6, .token_ns = 3e6, .context_ns = 1900, .pair_ns = 700},
                   .pool_tokens = 16000,
                   .step_tokens = 64,
                   .slots = 16},
    /* 16 GB at 2.9 TB/s and launches; 16 GFLOP a token at 600 TFLOP/s. */
    [CARD_H100] = {.name = "H100, 8B dense",
                   .cost = {.base_ns = 6e6, .token_ns = 27e3, .context_ns = 45, .pair_ns = 1},
                   .pool_tokens = 400000,
                   .step_tokens = 2048,
                   .slots = 256},
    [CARD_H200] = {.name = "H200, 8B dense",
                   .cost = {.base_ns = 4.4e6, .token_ns = 27e3, .context_ns = 30, .pair_ns = 1},
                   .pool_tokens = 900000,
                   .step_tokens = 2048,
                   .slots = 256},
    /* 30B, 3B of them for a token: 128 experts in a layer, 8 chosen; one over all layers is 0.45 GB
     * at 4.4 TB/s. */
    [CARD_H200_MOE] = {.name = "H200, 30B of 128 experts",
                       .cost = {.base_ns = 3e6,
                                .token_ns = 16e3,
                                .context_ns = 22,
                                .pair_ns = 1,
                                .expert_ns = 100e3,
                                .experts = 128,
                                .experts_hit = 8},
                       .pool_tokens = 700000,
                       .step_tokens = 2048,
                       .slots = 256},
};

double serve_cost_step_ns(const struct serve_cost *cost, const struct sched_plan *plan)
{
    double n_tokens = 0, context = 0, pairs = 0;
    if (plan->n_rows == 0)
        return 0;
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        const struct sched_row *row = &plan->rows[i];
        double n = row->n_tokens, before = row->first_position;
        n_tokens += n;
        context += before + n;
        pairs += n * (before + n / 2);
    }
    double ns = cost->base_ns + cost->token_ns * n_tokens + cost->context_ns * context +
                cost->pair_ns * pairs;
    if (cost->expert_ns > 0)
        ns += cost->expert_ns * cost->experts *
              (1 - pow(1 - cost->experts_hit / cost->experts, n_tokens));
    return ns;
}
