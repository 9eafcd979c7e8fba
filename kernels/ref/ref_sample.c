#include <math.h>

#include "kernels/ref/ref.h"

/*
 * Adjusts, sorts the whole row and walks down it, as the definition reads. A row that changes its
 * logits is sorted twice: as the model gave them for the log-probabilities, as changed for the
 * choice.
 */
struct sample_work {
    uint32_t *order;  /* [vocab]: ids by descending logit, ties by id */
    float *logits;    /* [vocab], cleaned */
    double *weights;  /* [vocab], by rank: exp((logit - most) / temperature) */
    uint32_t *counts; /* [vocab]: how often in the output */
    bool *seen;       /* [vocab]: in the prompt or the output */
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

static void logits_count(const struct sample_args *args, uint32_t row,
                         const struct sample_work *work)
{
    const uint32_t *history = args->history + (size_t)args->host_slots[row] * args->history_tokens;
    uint32_t position = args->host_positions[row];
    uint32_t prompt = args->host_prompt_tokens ? args->host_prompt_tokens[row] : position;
    memset(work->counts, 0, args->vocab * sizeof *work->counts);
    memset(work->seen, 0, args->vocab * sizeof *work->seen);
    for (uint32_t i = 0; i < position; i++) {
        CHECK(history[i] < args->vocab);
        work->seen[history[i]] = true;
        work->counts[history[i]] += i >= prompt;
    }
}

/* One step is one rounding to f32: (float) of a sum, product or quotient of two floats in double
 * rounds as f32 arithmetic does. */
static void logits_penalise(const struct sample_params *params, uint32_t vocab,
                            const struct sample_work *work)
{
    double r = (double)params->repetition_penalty;
    for (uint32_t id = 0; id < vocab; id++) {
        double n = work->counts[id];
        float logit = work->logits[id];
        if (r != 0 && work->seen[id])
            logit = logit_clean((float)(logit > 0 ? (double)logit / r : (double)logit * r));
        float much = (float)(n * (double)params->frequency_penalty);
        if (n > 0) {
            logit = logit_clean((float)((double)logit - (double)much));
            logit = logit_clean((float)((double)logit - (double)params->presence_penalty));
        }
        work->logits[id] = logit;
    }
}

/* From the model's logits to those that the row is chosen by. */
static void logits_adjust(const struct sample_args *args, uint32_t row,
                          const struct sample_work *work)
{
    const struct sample_params *params = &args->host_params[row];
    const struct sample_entry *entries = NULL;
    if (params->n_biases + params->n_holds > 0)
        entries = args->entries + (size_t)args->host_slots[row] * SAMPLE_ENTRIES_MAX;
    for (uint32_t i = 0; i < params->n_biases; i++) {
        CHECK(entries[i].id < args->vocab);
        double logit = (double)work->logits[entries[i].id];
        work->logits[entries[i].id] = logit_clean((float)(logit + (double)entries[i].value));
    }
    bool repeats = params->repetition_penalty != 0 && params->repetition_penalty != 1;
    if (repeats || params->presence_penalty != 0 || params->frequency_penalty != 0) {
        logits_count(args, row, work);
        logits_penalise(params, args->vocab, work);
    }
    uint32_t position = args->host_positions[row];
    uint32_t prompt = args->host_prompt_tokens ? args->host_prompt_tokens[row] : position;
    for (uint32_t i = 0; i < params->n_holds && position - prompt < params->min_tokens; i++) {
        CHECK(entries[params->n_biases + i].id < args->vocab);
        work->logits[entries[params->n_biases + i].id] = -INFINITY;
    }
}

/* The number of ranks that top-k, then top-p, then min-p keep, and the sum of their weights. */
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
    if (weights[kept - 1] < (double)params->min_p) {
        while (weights[kept - 1] < (double)params->min_p)
            kept--;
        sum = 0;
        for (uint32_t rank = 0; rank < kept; rank++)
            sum += weights[rank];
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

static void order_make(const struct sample_work *work, uint32_t vocab)
{
    for (uint32_t id = 0; id < vocab; id++)
        work->order[id] = id;
    order_sort(work, vocab);
}

/* Log-probabilities of the model's own softmax; the token's own is left to row_sample. */
static void best_report(const struct sample_work *work, uint32_t vocab, double most, double log_sum,
                        struct sample_result *result)
{
    for (uint32_t i = 0; i < result->n_top; i++) {
        result->top_id[i] = work->order[i];
        result->top_logprob[i] = (float)((double)work->logits[work->order[i]] - most - log_sum);
    }
}

static uint32_t token_choose(const struct sample_args *args, uint32_t row,
                             const struct sample_work *work)
{
    const struct sample_params *params = &args->host_params[row];
    double most = (double)work->logits[work->order[0]];
    if (params->temperature <= 0 || isinf(most)) /* greedy, or all are minus infinity */
        return work->order[0];
    for (uint32_t i = 0; i < args->vocab; i++) {
        double logit = (double)work->logits[work->order[i]];
        work->weights[i] = exp((logit - most) / (double)params->temperature);
    }
    return work->order[rank_draw(params, args->vocab, args->host_positions[row], work->weights)];
}

static void row_sample(const struct sample_args *args, uint32_t row, const struct sample_work *work)
{
    const struct sample_params *params = &args->host_params[row];
    const float *logits = args->logits + (size_t)row * args->vocab;
    struct sample_result result = {.n_top = u32_min(params->n_logprobs, args->vocab)};
    for (uint32_t id = 0; id < args->vocab; id++) {
        work->logits[id] = logit_clean(logits[id]);
        result.not_finite |= !isfinite(logits[id]);
    }
    order_make(work, args->vocab);
    double most = (double)work->logits[work->order[0]], sum = 0;
    bool nothing = isinf(most); /* every logit is minus infinity: there is nothing to compare */
    for (uint32_t id = 0; id < args->vocab && !nothing; id++)
        sum += exp((double)work->logits[id] - most);
    double log_sum = nothing ? 0 : log(sum);
    most = nothing ? 0 : most;
    best_report(work, args->vocab, most, log_sum, &result);

    logits_adjust(args, row, work);
    order_make(work, args->vocab);
    result.id = token_choose(args, row, work);
    result.logprob = (float)((double)logit_clean(logits[result.id]) - most - log_sum);
    args->results[row] = result;
}

size_t ref_sample_work_bytes(uint32_t vocab)
{
    size_t each = 2 * sizeof(uint32_t) + sizeof(float) + sizeof(double) + sizeof(bool);
    return size_product(vocab, each);
}

void ref_sample(struct device *device, const struct sample_args *args)
{
    size_t vocab = args->vocab;
    char *memory = ref_work(device, ref_sample_work_bytes(args->vocab));
    if (!memory)
        return;
    struct sample_work work = {.weights = (double *)memory};
    work.order = (uint32_t *)(work.weights + vocab);
    work.counts = work.order + vocab;
    work.logits = (float *)(work.counts + vocab);
    work.seen = (bool *)(work.logits + vocab);
    for (uint32_t r = 0; r < args->n_rows; r++) {
        CHECK(args->host_params[r].n_logprobs <= TOP_LOGPROBS_MAX);
        row_sample(args, r, &work);
    }
    for (uint32_t r = 0; r < args->n_rows; r++) {
        uint32_t slot = args->host_slots[r], id = args->results[r].id;
        args->last_sampled[args->host_places[r]] = id;
        if (args->history && args->host_places[r] == slot)
            args->history[(size_t)slot * args->history_tokens + args->host_positions[r]] = id;
    }
}
