#include <math.h>

#include "kernels/ref/ref.h"

/* Scratch of one row. */
struct moe_work {
    double *logits; /* [n_experts], then probabilities */
    double *gated;  /* [intermediate] */
    double *sum;    /* [hidden] */
};

static void router_softmax(const struct moe_args *args, const float *in, double *probabilities)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t e = 0; e < args->n_experts; e++) {
        /* "In f32" is part of the op: a near tie must fall as the f32 logit says. */
        const float *row = ref_weight_row(args->router, 0, e);
        probabilities[e] = (double)(float)ref_dot(row, in, args->hidden);
        most = fmax(most, probabilities[e]);
    }
    for (uint32_t e = 0; e < args->n_experts; e++) {
        probabilities[e] = exp(probabilities[e] - most);
        sum += probabilities[e];
    }
    for (uint32_t e = 0; e < args->n_experts; e++)
        probabilities[e] /= sum;
}

/* The largest that is not taken yet (its entry is then set to -1); ties: the lower expert. */
static uint32_t expert_take(double *probabilities, uint32_t n_experts, double *ret_probability)
{
    uint32_t best = 0;
    for (uint32_t e = 1; e < n_experts; e++)
        if (probabilities[e] > probabilities[best])
            best = e;
    *ret_probability = probabilities[best];
    probabilities[best] = -1;
    return best;
}

static void expert_add(const struct moe_args *args, uint32_t expert, double weight, const float *in,
                       const struct moe_work *work)
{
    ref_gate(args->gate_up, expert, NULL, in, work->gated);
    for (uint32_t o = 0; o < args->hidden; o++)
        work->sum[o] += weight * ref_dot_wide(ref_weight_row(args->down, expert, o), work->gated,
                                              args->intermediate);
}

/* `in` is normed. */
static void row_mix(const struct moe_args *args, uint32_t row, const float *in,
                    const struct moe_work *work)
{
    const float *residual = args->in + (size_t)row * args->hidden;
    router_softmax(args, in, work->logits);
    double chosen[MOE_TOP_K_MAX], total = 0;
    uint32_t experts[MOE_TOP_K_MAX];
    for (uint32_t j = 0; j < args->top_k; j++) {
        experts[j] = expert_take(work->logits, args->n_experts, &chosen[j]);
        total += chosen[j];
    }
    for (uint32_t o = 0; o < args->hidden; o++)
        work->sum[o] = 0;
    for (uint32_t j = 0; j < args->top_k; j++)
        expert_add(args, experts[j], args->normalise ? chosen[j] / total : chosen[j], in, work);
    for (uint32_t o = 0; o < args->hidden; o++)
        args->out[(size_t)row * args->hidden + o] = (float)((double)residual[o] + work->sum[o]);
}

void ref_moe(struct device *device, const struct moe_args *args)
{
    CHECK(args->top_k > 0 && args->top_k <= args->n_experts && args->top_k <= MOE_TOP_K_MAX);
    CHECK(args->router->out_count == args->n_experts && args->router->in_count == args->hidden);
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    double *doubles = ref_work(
        device, sizeof(double) * ((size_t)args->n_experts + args->intermediate + args->hidden));
    const float *in = ref_rows_norm(device, &(struct ref_rows){.norm = args->norm,
                                                               .norm_eps = args->norm_eps,
                                                               .in = args->in,
                                                               .n_rows = args->n_rows,
                                                               .n = args->hidden});
    if (!doubles || !in)
        return;
    struct moe_work work = {.logits = doubles,
                            .gated = doubles + args->n_experts,
                            .sum = doubles + args->n_experts + args->intermediate};
    for (uint32_t r = 0; r < args->n_rows; r++)
        row_mix(args, r, in + (size_t)r * args->hidden, &work);
}
