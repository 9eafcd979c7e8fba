#include "kernels/cuda/leaf.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/rows.h"

/* Plain: every row's experts as rows of their own, then their sum in the order of rank. */

struct route_task {
    uint32_t n_rows, n_experts, top_k;
    bool normalise;
    float *logits;     /* [n_rows][n_experts] */
    uint32_t *experts; /* [n_rows][top_k] */
    float *weights;    /* [n_rows][top_k] */
};

#define ROUTE_THREADS 128

/* A warp for a row. Softmax never changes the order, so the logits choose: ties, the lower one. */
KERNEL(route_kernel, struct route_task, ROUTE_THREADS, 1)
{
    uint32_t r = block_x() * (ROUTE_THREADS / 32) + warp_index(), lane = lane_index();
    if (r >= a.n_rows)
        return;
    global<float> logits(a.logits + (size_t)r * a.n_experts);
    global<uint32_t> experts(a.experts + (size_t)r * a.top_k);
    global<float> weights(a.weights + (size_t)r * a.top_k);
    float most = -INFINITY, sum = 0;
    for (uint32_t e = lane; e < a.n_experts; e += 32)
        most = fmaxf(most, logits[e]);
    most = warp_max(most);
    for (uint32_t e = lane; e < a.n_experts; e += 32)
        sum += expf(logits[e] - most);
    sum = warp_sum(sum);
    float total = 0;
    for (uint32_t j = 0; j < a.top_k; j++) {
        float best = -INFINITY;
        uint32_t expert = a.n_experts;
        for (uint32_t e = lane; e < a.n_experts; e += 32)
            if (expert == a.n_experts ? !isnan((float)logits[e]) : logits[e] > best) {
                best = logits[e];
                expert = e;
            }
        for (uint32_t mask = 16; mask > 0; mask >>= 1) {
            float other = shuffle_xor(best, mask);
            uint32_t which = shuffle_xor(expert, mask);
            if (which < a.n_experts &&
                (expert == a.n_experts || other > best || (other == best && which < expert))) {
                best = other;
                expert = which;
            }
        }
        expert = expert == a.n_experts ? 0 : expert; /* all are NaN */
        float weight = expf(best - most) / sum;
        total += weight;
        if (lane == 0) {
            experts[j] = expert;
            weights[j] = weight;
        }
        if (lane == expert % 32)
            logits[expert] = NAN; /* taken */
    }
    warp_sync();
    for (uint32_t j = lane; j < a.top_k && a.normalise; j += 32)
        weights[j] = weights[j] / total;
}

struct mix_task {
    uint32_t hidden, top_k;
    const float *weights, *parts, *in; /* [n_rows][top_k], [n_rows][top_k][hidden], [n_rows] */
    float *out;
};

#define MIX_THREADS 256

KERNEL(mix_kernel, struct mix_task, MIX_THREADS, 1)
{
    uint32_t r = block_y(), i = block_x() * MIX_THREADS + thread_index();
    if (i >= a.hidden)
        return;
    float sum = 0;
    for (uint32_t j = 0; j < a.top_k; j++) {
        size_t at = (size_t)r * a.top_k + j;
        sum = fma32(a.weights[at], a.parts[at * a.hidden + i], sum);
    }
    global<float> out(a.out);
    out[(size_t)r * a.hidden + i] = a.in[(size_t)r * a.hidden + i] + sum;
}

struct moe_work {
    float *x, *logits, *weights, *gate_up, *gated, *parts;
    uint32_t *experts;
};

/* Lays the work out; its bytes when `memory` is NULL. */
static size_t work_lay(char *memory, const struct op_limits *limits, struct moe_work *work)
{
    size_t rows = limits->rows_max, pairs = rows * limits->top_k, at = 0;
    struct moe_work offsets = {};
    const struct {
        void **to;
        size_t count;
    } pieces[] = {
        {(void **)&offsets.x, rows * limits->hidden},
        {(void **)&offsets.logits, rows * limits->n_experts},
        {(void **)&offsets.weights, pairs},
        {(void **)&offsets.experts, pairs},
        {(void **)&offsets.gate_up, 2 * pairs * limits->intermediate},
        {(void **)&offsets.gated, pairs * limits->intermediate},
        {(void **)&offsets.parts, pairs * limits->hidden},
    };
    for (size_t i = 0; i < array_count(pieces); i++) {
        *pieces[i].to = memory ? memory + at : NULL;
        at += round_up(pieces[i].count * sizeof(float), 256);
    }
    if (work)
        *work = offsets;
    return at;
}

size_t cuda_moe_scratch_bytes(const struct device *, const struct op_limits *limits)
{
    return work_lay(NULL, limits, NULL);
}

void cuda_moe(struct device *device, const struct moe_args *args)
{
    CHECK(args->top_k > 0 && args->top_k <= args->n_experts && args->top_k <= MOE_TOP_K_MAX);
    CHECK(args->router->out_count == args->n_experts && args->router->in_count == args->hidden);
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    struct op_limits limits = {};
    limits.rows_max = args->n_rows;
    limits.hidden = args->hidden;
    limits.intermediate = args->intermediate;
    limits.n_experts = args->n_experts;
    limits.top_k = args->top_k;
    struct moe_work work;
    char *memory = (char *)device_scratch(device, SCRATCH_MLP, work_lay(NULL, &limits, NULL));
    if (!memory)
        return;
    work_lay(memory, &limits, &work);
    const float *in = args->in;
    if (args->norm) {
        rows_norm(device, args->norm, args->norm_eps, args->n_rows, args->hidden, in, work.x);
        in = work.x;
    }
    struct product router = {args->router, 0, NULL, args->n_rows, 1, in, NULL, NULL, work.logits};
    product_run(device, &router);
    struct route_task route = {args->n_rows, args->n_experts, args->top_k, args->normalise,
                               work.logits,  work.experts,    work.weights};
    launch_kernel(route_kernel, device->runtime,
                  (launch{div_up(args->n_rows, ROUTE_THREADS / 32), 1, 1, ROUTE_THREADS, 0, false}),
                  route);
    uint32_t pairs = args->n_rows * args->top_k;
    struct product up = {args->gate_up, 0, NULL, pairs, args->top_k, in, NULL, NULL, work.gate_up};
    up.experts = work.experts;
    product_run(device, &up);
    rows_gate(device, pairs, args->intermediate, work.gate_up, work.gated);
    struct product down = {args->down, 0,    work.experts, pairs,     1,
                           work.gated, NULL, NULL,         work.parts};
    product_run(device, &down);
    struct mix_task mix = {args->hidden, args->top_k, work.weights,
                           work.parts,   args->in,    args->out};
    launch_kernel(
        mix_kernel, device->runtime,
        (launch{div_up(args->hidden, MIX_THREADS), args->n_rows, 1, MIX_THREADS, 0, false}), mix);
}
