#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * Each row is one item. Greedy is two passes over the logits: the best, unless the product noted it
 * already, and the sum of exponentials for the log-probability, unless nobody asks for that. Biases
 * and penalties change a copy of the row, and there only the few tokens that they name or that the
 * history has.
 *
 * A draw never sorts. Weights are whole numbers, so sums are exact in any order, and "the first
 * candidate, best first, at which the running sum exceeds a target" is found by a radix search: sum
 * the weights by the upper bits of the logit, walk down to the bucket in which the target lies,
 * and go on with the next bits inside it. Top-k is that search with weights of one, top-p is that
 * search on the sum, and so is the draw itself.
 */
#define BUCKETS 2048
#define CHUNK 512

/* Tokens that can be drawn, by id. */
struct sample_work {
    uint64_t *weights; /* [vocab], > 0 */
    uint32_t *orders;  /* [vocab]: grow with the logit; equal logits have equal orders */
    uint32_t *ids;     /* [vocab]; before there are candidates: what the history has of each id */
    uint32_t *list;    /* [vocab]: candidates that a search has not ruled out */
    float *logits;     /* [vocab]: a row that was changed */
    uint64_t *buckets; /* [BUCKETS] */
    uint32_t n;        /* candidates */
    uint64_t sum;      /* of their weights */
};

size_t cpu_sample_work_bytes(uint32_t vocab)
{
    size_t each = sizeof(uint64_t) + 3 * sizeof(uint32_t) + sizeof(float);
    return size_product(vocab, each) + BUCKETS * sizeof(uint64_t);
}

static struct sample_work work_layout(void *memory, uint32_t vocab)
{
    struct sample_work work = {.buckets = memory};
    work.weights = work.buckets + BUCKETS;
    work.orders = (uint32_t *)(work.weights + vocab);
    work.ids = work.orders + vocab;
    work.list = work.ids + vocab;
    work.logits = (float *)(work.list + vocab);
    return work;
}

static float logit_clean(float logit)
{
    return isnan(logit) ? -INFINITY : fminf(logit, 0x1.fffffep127f);
}

/* ---- biases, penalties, holds ---- */

static bool penalty_is_on(const struct sample_params *params)
{
    bool repeats = params->repetition_penalty != 0 && params->repetition_penalty != 1;
    return repeats || params->presence_penalty != 0 || params->frequency_penalty != 0;
}

/* One number per id: twice its count in the output, and one more when it was seen at all. */
#define SEEN 1u
#define COUNT 2u

static float logit_penalise(const struct sample_params *params, float logit, uint32_t number)
{
    float r = params->repetition_penalty, n = (float)(number / COUNT);
    if (r != 0)
        logit = logit_clean(logit > 0 ? logit / r : logit * r);
    if (number >= COUNT) {
        logit = logit_clean(logit - n * params->frequency_penalty);
        logit = logit_clean(logit - params->presence_penalty);
    }
    return logit;
}

static void history_penalise(const struct sample_args *args, uint32_t row, uint32_t prompt,
                             const struct sample_work *work)
{
    const struct sample_params *params = &args->host_params[row];
    const uint32_t *history = args->history + (size_t)args->host_slots[row] * args->history_tokens;
    uint32_t end = args->host_positions[row], *numbers = work->ids;
    CHECK(end < args->history_tokens);
    bool repeats = params->repetition_penalty != 0 && params->repetition_penalty != 1;
    uint32_t start = repeats ? 0 : prompt; /* the prompt matters to the repetition penalty alone */
    for (uint32_t i = start; i < end; i++) {
        CHECK(history[i] < args->vocab);
        numbers[history[i]] = 0;
    }
    for (uint32_t i = start; i < end; i++)
        numbers[history[i]] = (numbers[history[i]] + (i >= prompt ? COUNT : 0)) | SEEN;
    for (uint32_t i = start; i < end; i++) {
        uint32_t id = history[i];
        if (numbers[id] != 0)
            work->logits[id] = logit_penalise(params, logit_clean(work->logits[id]), numbers[id]);
        numbers[id] = 0; /* each once */
    }
}

/* The logits that the row is chosen by: its own, or a changed copy. */
static const float *logits_adjust(const struct sample_args *args, uint32_t row, const float *logits,
                                  const struct sample_work *work)
{
    const struct sample_params *params = &args->host_params[row];
    uint32_t position = args->host_positions[row];
    uint32_t prompt = args->host_prompt_tokens ? args->host_prompt_tokens[row] : position;
    CHECK(prompt <= position);
    bool holds = params->n_holds > 0 && position - prompt < params->min_tokens;
    if (params->n_biases == 0 && !holds && !penalty_is_on(params))
        return logits;
    CHECK(params->n_biases <= SAMPLE_BIASES_MAX && params->n_holds <= SAMPLE_HOLDS_MAX);
    memcpy(work->logits, logits, args->vocab * sizeof *logits);
    const struct sample_entry *entry = args->entries;
    if (entry)
        entry += (size_t)args->host_slots[row] * SAMPLE_ENTRIES_MAX;
    for (uint32_t i = 0; i < params->n_biases; i++, entry++) {
        CHECK(entry->id < args->vocab);
        float logit = logit_clean(work->logits[entry->id]);
        work->logits[entry->id] = logit_clean(logit + entry->value);
    }
    if (penalty_is_on(params))
        history_penalise(args, row, prompt, work);
    for (uint32_t i = 0; i < params->n_holds && holds; i++, entry++) {
        CHECK(entry->id < args->vocab);
        work->logits[entry->id] = -INFINITY;
    }
    return work->logits;
}

/* ---- the draw ---- */

/* Not for NaN: its weight is zero, and it never is a candidate. */
static uint32_t order_of(float logit)
{
    const uint32_t sign = 0x80000000u, infinity = 0x7f800000u;
    uint32_t bits;
    float value = logit + 0.0f; /* minus zero becomes zero */
    memcpy(&bits, &value, sizeof bits);
    bits -= bits == infinity; /* the largest float is the one before it */
    return bits & sign ? ~bits : bits | sign;
}

/* Tokens whose weight rounds to zero (below 2^-41 of the best) can never be drawn. */
static void candidates_collect(const struct device *device, const float *logits, uint32_t vocab,
                               float most, const struct sample_params *params,
                               struct sample_work *work)
{
    work->n = 0;
    work->sum = 0;
    for (uint32_t first = 0; first < vocab; first += CHUNK) {
        uint64_t weights[CHUNK];
        uint32_t n = u32_min(CHUNK, vocab - first);
        device->tier->logits_weigh(logits + first, n, most, 1 / (double)params->temperature,
                                   weights);
        for (uint32_t i = 0; i < n; i++) {
            /* Written always, kept when the weight is not zero. */
            work->weights[work->n] = weights[i];
            work->orders[work->n] = order_of(logits[first + i]);
            work->ids[work->n] = first + i;
            work->n += weights[i] > 0;
            work->sum += weights[i];
        }
    }
}

/* Adds the weights (or ones) of the listed candidates up by `bits` bits of their orders, walks down
 * to the bucket in which the sum exceeds `target`, and keeps its candidates in the list alone. A
 * NULL list is all candidates. Moves *before to the sum of all that come before the bucket. */
static uint32_t bucket_enter(const struct sample_work *work, const uint32_t *list, uint32_t n,
                             uint32_t shift, uint32_t bits, bool ones, uint64_t target,
                             uint64_t *before)
{
    uint32_t bucket = (1u << bits) - 1, n_kept = 0, mask = bucket;
    memset(work->buckets, 0, sizeof(uint64_t) << bits);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = list ? list[i] : i;
        work->buckets[work->orders[at] >> shift & mask] += ones ? 1 : work->weights[at];
    }
    while (*before + work->buckets[bucket] <= target) {
        *before += work->buckets[bucket];
        CHECK(bucket > 0);
        bucket--;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = list ? list[i] : i;
        work->list[n_kept] = at;
        n_kept += (work->orders[at] >> shift & mask) == bucket;
    }
    return n_kept;
}

#define FEW 32 /* candidates that are quicker looked through than counted in buckets */

/* The same among few, of which `before` is the sum of all that come before them; spoils the list.
 */
static uint32_t few_find(const struct sample_work *work, uint32_t n, bool ones, uint64_t target,
                         uint64_t before)
{
    for (;;) {
        CHECK(n > 0);
        uint32_t best = 0;
        for (uint32_t i = 1; i < n; i++)
            if (work->orders[work->list[i]] > work->orders[work->list[best]])
                best = i;
        uint32_t at = work->list[best];
        before += ones ? 1 : work->weights[at];
        if (before > target)
            return at;
        n--;
        memmove(work->list + best, work->list + best + 1, (n - best) * sizeof *work->list);
    }
}

/* The first candidate, in order of descending logit and ascending id, at which the running sum of
 * weights (or of ones) exceeds `target`; the sum of all does exceed it. */
static uint32_t candidate_find(const struct sample_work *work, bool ones, uint64_t target)
{
    static const struct {
        uint32_t shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint64_t before = 0;
    uint32_t n = work->n, *list = NULL;
    for (size_t d = 0; d < array_count(digits) && n > FEW; d++, list = work->list)
        n = bucket_enter(work, list, n, digits[d].shift, digits[d].bits, ones, target, &before);
    for (uint32_t i = 0; !list && i < n; i++)
        work->list[i] = i;
    if (n <= FEW)
        return few_find(work, n, ones, target, before);
    /* Equal logits are left, by ascending id. */
    uint32_t i = 0;
    while (i < n && (before += ones ? 1 : work->weights[work->list[i]]) <= target)
        i++;
    CHECK(i < n);
    return work->list[i];
}

/* Drops all candidates that come after candidate `last`. */
static void candidates_cut(struct sample_work *work, uint32_t last)
{
    uint32_t n = 0, order = work->orders[last];
    work->sum = 0;
    for (uint32_t i = 0; i < work->n; i++) {
        if (work->orders[i] < order || (work->orders[i] == order && i > last))
            continue;
        work->weights[n] = work->weights[i];
        work->orders[n] = work->orders[i];
        work->ids[n] = work->ids[i];
        work->sum += work->weights[n++];
    }
    work->n = n;
}

/* Keeps weights of at least `least`; the best one's is 2^WEIGHT_BITS. */
static void candidates_sift(struct sample_work *work, uint64_t least)
{
    uint32_t n = 0;
    work->sum = 0;
    for (uint32_t i = 0; i < work->n; i++) {
        work->weights[n] = work->weights[i];
        work->orders[n] = work->orders[i];
        work->ids[n] = work->ids[i];
        if (work->weights[i] >= least)
            work->sum += work->weights[n++];
    }
    work->n = n;
}

static uint32_t token_draw(const struct sample_params *params, uint32_t position,
                           struct sample_work *work)
{
    if (params->top_k > 0 && params->top_k < work->n)
        candidates_cut(work, candidate_find(work, true, params->top_k - 1));
    if (params->top_p > 0 && params->top_p < 1) {
        uint64_t wanted = (uint64_t)ceil((double)params->top_p * (double)work->sum);
        wanted = wanted > work->sum ? work->sum : wanted;
        candidates_cut(work, candidate_find(work, false, wanted > 0 ? wanted - 1 : 0));
    }
    if (params->min_p > 0)
        candidates_sift(work, (uint64_t)ceil(ldexp((double)params->min_p, WEIGHT_BITS)));
    /* The running sum is whole, so it exceeds u * sum exactly when it exceeds the whole part. */
    uint64_t u = (uint64_t)(sample_uniform(params->seed, position) * 0x1p53);
    uint64_t target = (uint64_t)((unsigned __int128)u * work->sum >> 53);
    return work->ids[candidate_find(work, false, target)];
}

/* The n best of a row by insertion: few of its tokens get past the first comparison. */
static void best_report(const float *logits, uint32_t vocab, double most, double log_sum,
                        struct sample_result *result)
{
    float best[TOP_LOGPROBS_MAX];
    uint32_t held = 0, n = result->n_top;
    for (uint32_t id = 0; id < vocab && n > 0; id++) {
        if (held == n && !(logits[id] > best[n - 1])) /* NaN is not greater */
            continue;
        float logit = logit_clean(logits[id]);
        if (held == n && logit == best[n - 1])
            continue;
        uint32_t at = held < n ? held++ : n - 1;
        for (; at > 0 && best[at - 1] < logit; at--) {
            best[at] = best[at - 1];
            result->top_id[at] = result->top_id[at - 1];
        }
        best[at] = logit;
        result->top_id[at] = id;
    }
    for (uint32_t i = 0; i < n; i++)
        result->top_logprob[i] = (float)((double)best[i] - most - log_sum);
}

struct logits_best cpu_logits_best(const struct tier *tier, const float *logits, uint32_t n,
                                   uint32_t first_id)
{
    struct logits_best best = {0};
    best.value = tier->logits_best(logits, n, &best.id);
    best.id += first_id;
    const uint32_t exponent = 0x7f800000u;
    uint32_t n_bad = 0; /* without a way out: the compiler makes vectors of it */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        n_bad += (bits & exponent) == exponent;
    }
    best.not_finite = n_bad > 0;
    return best;
}

static void sample_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *run = context;
    const struct sample_args *args = run->args;
    const struct tier *tier = run->device->tier;
    const struct sample_params *params = &args->host_params[item];
    const float *logits = args->logits + (size_t)item * args->vocab;
    struct sample_work work = work_layout(run->device->threads[thread].data, args->vocab);

    struct sample_result result = {.n_top = u32_min(params->n_logprobs, args->vocab)};
    struct logits_best found;
    if (args->notes)
        memcpy(&found, &args->notes[item], sizeof found);
    else
        found = cpu_logits_best(tier, logits, args->vocab, 0);
    result.id = found.id;
    result.not_finite = found.not_finite;
    float best = found.value;
    bool nothing = isinf(best); /* every logit is minus infinity */
    double most = nothing ? 0 : (double)best, log_sum = 0;
    if (!nothing && (!params->logprob_off || params->n_logprobs > 0))
        log_sum = log(tier->logits_exp_sum(logits, args->vocab, best));
    const float *chosen_by = logits_adjust(args, item, logits, &work);
    if (chosen_by != logits)
        best = tier->logits_best(chosen_by, args->vocab, &result.id);
    if (params->temperature > 0 && !isinf(best)) {
        candidates_collect(run->device, chosen_by, args->vocab, best, params, &work);
        result.id = token_draw(params, args->host_positions[item], &work);
    }
    result.logprob = (float)((double)logit_clean(logits[result.id]) - most - log_sum);
    best_report(logits, args->vocab, most, log_sum, &result);
    args->results[item] = result;
}

void cpu_sample(struct device *device, const struct sample_args *args)
{
    for (uint32_t r = 0; r < args->n_rows; r++)
        CHECK(args->host_params[r].n_logprobs <= TOP_LOGPROBS_MAX);
    CHECK(args->vocab > 0 && args->vocab < 1u << (63 - WEIGHT_BITS));
    if (!cpu_threads_work(device, cpu_sample_work_bytes(args->vocab)))
        return;
    struct rows_run run = {.args = args, .device = device, .n_rows = args->n_rows};
    pool_run(device->pool, sample_item, &run, args->n_rows);
    for (uint32_t r = 0; r < args->n_rows; r++) {
        uint32_t slot = args->host_slots[r], id = args->results[r].id;
        args->last_sampled[args->host_places[r]] = id;
        if (args->history && args->host_places[r] == slot)
            args->history[(size_t)slot * args->history_tokens + args->host_positions[r]] = id;
    }
}
