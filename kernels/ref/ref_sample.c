#include <math.h>

#include "kernels/ref/ref.h"

/*
 * Sorts the whole row and walks down it, as the definition reads. What the header leaves to us:
 * NaN counts as minus infinity, plus infinity as the largest float.
 */
struct sample_work {
    uint32_t *order; /* [vocab]: ids by descending logit, ties by id */
    float *logits;   /* [vocab], cleaned */
    double *weights; /* [vocab], by rank: exp((logit - most) / temperature) */
};

static float logit_clean(float logit)
{
    return isnan(logit) ? -INFINITY : fminf(logit, 0x1.fffffep127f);
}

/* True when id `a` comes before id `b`. */
static bool order_before(const float *logits, uint32_t a, uint32_t b)
{
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
}

static void heap_sift(const struct sample_work *work, uint32_t root, uint32_t n)
{
    uint32_t *order = work->order;
    for (uint32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && order_before(work->logits, order[child], order[child + 1]))
            child++;
        if (order_before(work->logits, order[child], order[root]))
            return;
        uint32_t id = order[root];
        order[root] = order[child];
        order[child] = id;
    }
}

/* Heapsort: no op allocates, and qsort may. */
static void order_sort(const struct sample_work *work, uint32_t n)
{
    for (uint32_t root = n / 2; root-- > 0;)
        heap_sift(work, root, n);
    for (uint32_t end = n; end-- > 1;) {
        uint32_t id = work->order[0];
        work->order[0] = work->order[end];
        work->order[end] = id;
        heap_sift(work, 0, end);
    }
}

/* The number of ranks that top-k and then top-p keep, and the sum of their weights. */
static uint32_t ranks_keep(const struct sample_params *params, uint32_t vocab,
                           const double *weights, double *ret_sum)
{
    uint32_t kept = params->top_k > 0 ? u32_min(params->top_k, vocab) : vocab;
    double sum = 0;
    for (uint32_t rank = 0; rank < kept; rank++)
        sum += weights[rank];
    if (params->top_p > 0 && params->top_p < 1) {
        double wanted = sum * (double)params->top_p, partial = 0;
        uint32_t rank = 0;
        while (rank < kept && partial < wanted)
            partial += weights[rank++];
        kept = u32_max(rank, 1);
        sum = rank ? partial : weights[0];
    }
    *ret_sum = sum;
    return kept;
}

static uint32_t rank_draw(const struct sample_params *params, uint32_t vocab, uint32_t position,
                          const double *weights)
{
    double sum, partial = 0;
    uint32_t kept = ranks_keep(params, vocab, weights, &sum);
    double target = sample_uniform(params->seed, position) * sum;
    for (uint32_t rank = 0; rank < kept; rank++) {
        partial += weights[rank];
        if (partial > target)
            return rank;
    }
    return kept - 1; /* only by rounding of the partial sums */
}

static void row_sample(const struct sample_args *args, uint32_t row, const struct sample_work *work)
{
    const struct sample_params *params = &args->host_params[row];
    struct sample_result result = {0};
    for (uint32_t id = 0; id < args->vocab; id++) {
        work->logits[id] = logit_clean(args->logits[(size_t)row * args->vocab + id]);
        work->order[id] = id;
    }
    order_sort(work, args->vocab);

    double most = (double)work->logits[work->order[0]], sum = 0;
    bool nothing = isinf(most); /* every logit is minus infinity: there is nothing to compare */
    for (uint32_t id = 0; id < args->vocab && !nothing; id++)
        sum += exp((double)work->logits[id] - most);
    double log_sum = nothing ? 0 : log(sum);
    most = nothing ? 0 : most;

    uint32_t rank = 0;
    if (params->temperature > 0 && !nothing) {
        for (uint32_t i = 0; i < args->vocab; i++) {
            double logit = (double)work->logits[work->order[i]];
            work->weights[i] = exp((logit - most) / (double)params->temperature);
        }
        rank = rank_draw(params, args->vocab, args->host_positions[row], work->weights);
    }
    result.id = work->order[rank];
    result.logprob = (float)((double)work->logits[result.id] - most - log_sum);
    result.n_top = u32_min(params->n_logprobs, args->vocab);
    for (uint32_t i = 0; i < result.n_top; i++) {
        result.top_id[i] = work->order[i];
        result.top_logprob[i] = (float)((double)work->logits[work->order[i]] - most - log_sum);
    }
    args->results[row] = result;
    args->last_sampled[args->host_slots[row]] = result.id;
}

void ref_sample(struct device *device, const struct sample_args *args)
{
    size_t id_bytes = sizeof(uint32_t), logit_bytes = sizeof(float), weight_bytes = sizeof(double);
    char *memory = ref_work(device, args->vocab * (id_bytes + logit_bytes + weight_bytes));
    if (!memory)
        return;
    struct sample_work work = {
        .weights = (double *)memory,
        .order = (uint32_t *)(memory + args->vocab * weight_bytes),
        .logits = (float *)(memory + args->vocab * (weight_bytes + id_bytes)),
    };
    for (uint32_t r = 0; r < args->n_rows; r++) {
        CHECK(args->host_params[r].n_logprobs <= TOP_LOGPROBS_MAX);
        row_sample(args, r, &work);
    }
}
