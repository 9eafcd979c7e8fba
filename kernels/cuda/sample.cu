#include "kernels/cuda/leaf.h"
#include "kernels/cuda/cuda.h"

/*
 * A block samples a row, and then another: of many rows, as many blocks as the card has processors
 * have a place of their own to work in, of 12 bytes for each id of the vocabulary. A greedy row
 * touches none of it. Weights are whole numbers, so that sums do not depend on the order of
 * adding, and "the first candidate, best first, at which the running sum exceeds a target" is found
 * by a radix search over the bits of the logits: top-k, top-p and the draw are such searches. What
 * a search rules out is not moved: a bound (order, id) and a least weight say who is still in.
 */

#define SAMPLE_THREADS 256
#define BUCKETS 2048
#define BUCKETS_EACH (BUCKETS / SAMPLE_THREADS)
#define WEIGHT_BITS 40
#define LARGEST 0x1.fffffep127f
#define SEEN 1u
#define COUNT 2u

struct sample_row {
    struct sample_params params;
    uint32_t position, prompt_tokens, slot, place;
};

struct sample_task {
    uint32_t n_rows, vocab, history_tokens;
    const float *logits;
    const struct sample_params *params;
    const uint32_t *positions, *prompts, *slots, *places;
    const struct sample_entry *entries;
    uint32_t *history, *last_sampled;
    struct sample_result *results;
    uint64_t *weights; /* [n_blocks][vocab]; before the draw, COUNT a time in the output, SEEN */
    float *changed;    /* [n_blocks][vocab]: the logits that a row is chosen by */
};

/* Shared memory of a block. */
struct sample_shared {
    uint64_t buckets[BUCKETS];
    double sums[33];
    uint32_t foreign[33];
    uint64_t totals[SAMPLE_THREADS / 32];
    uint64_t before, found;
    float best[SAMPLE_THREADS / 32];
    uint32_t ids[SAMPLE_THREADS / 32];
    uint32_t bucket, id;
};
#define SHARED_AT(type, field) shared_at<type>((uint32_t)offsetof(struct sample_shared, field))

LEAF float logit_clean(float logit)
{
    return isnan(logit) ? -INFINITY : fminf(logit, LARGEST);
}

/* Grows with the logit; minus zero is zero. */
LEAF uint32_t order_of(float logit)
{
    uint32_t bits = bits_of_float(logit + 0.0f), sign = 0x80000000u;
    return bits & sign ? ~bits : bits | sign;
}

struct best {
    float logit;
    uint32_t id; /* UINT32_MAX: none */
};

LEAF bool best_beats(struct best a, struct best b)
{
    return a.id != UINT32_MAX &&
           (b.id == UINT32_MAX || a.logit > b.logit || (a.logit == b.logit && a.id < b.id));
}

/* The largest logit of a row that comes after `after`, and its lowest id; all threads get it. */
LEAF struct best row_best(const float *logits, uint32_t vocab, struct best after)
{
    struct best mine = {-INFINITY, UINT32_MAX};
    for (uint32_t id = thread_index(); id < vocab; id += SAMPLE_THREADS) {
        struct best one = {logit_clean(logits[id]), id};
        if ((after.id == UINT32_MAX || best_beats(after, one)) && best_beats(one, mine))
            mine = one;
    }
    for (uint32_t mask = 16; mask > 0; mask >>= 1) {
        struct best other = {shuffle_xor(mine.logit, mask), shuffle_xor(mine.id, mask)};
        if (best_beats(other, mine))
            mine = other;
    }
    shared<float> best_logits = SHARED_AT(float, best);
    shared<uint32_t> best_ids = SHARED_AT(uint32_t, ids);
    if (lane_index() == 0) {
        best_logits[warp_index()] = mine.logit;
        best_ids[warp_index()] = mine.id;
    }
    barrier();
    for (uint32_t warp = 0; warp < SAMPLE_THREADS / 32; warp++) {
        struct best other = {best_logits[warp], best_ids[warp]};
        if (best_beats(other, mine))
            mine = other;
    }
    barrier();
    return mine;
}

/* ---- biases, penalties, holds ---- */

LEAF bool repeats(const struct sample_params &p)
{
    return p.repetition_penalty != 0 && p.repetition_penalty != 1;
}

LEAF bool penalty_is_on(const struct sample_params &p)
{
    return repeats(p) || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

LEAF float logit_penalise(const struct sample_params &p, float logit, uint32_t number)
{
    float r = p.repetition_penalty, n = (float)(number / COUNT);
    if (r != 0)
        logit = logit_clean(logit > 0 ? logit / r : logit * r);
    if (number >= COUNT) {
        logit = logit_clean(logit - n * p.frequency_penalty);
        logit = logit_clean(logit - p.presence_penalty);
    }
    return logit;
}

/* The first entry of an id applies all of them, in their order. */
LEAF void biases_add(const struct sample_entry *entries, uint32_t n, global<float> logits)
{
    for (uint32_t i = thread_index(); i < n; i += SAMPLE_THREADS) {
        uint32_t id = entries[i].id;
        bool first = true;
        for (uint32_t j = 0; j < i; j++)
            first = first && entries[j].id != id;
        if (!first)
            continue;
        float logit = logit_clean(logits[id]);
        for (uint32_t j = i; j < n; j++)
            if (entries[j].id == id)
                logit = logit_clean(logit + entries[j].value);
        logits[id] = logit;
    }
    barrier();
}

/* Counts, where weights will be, in what ids of the history have there; then whoever takes an id's
 * number away first changes its logit. */
LEAF void history_penalise(const struct sample_params &p, const uint32_t *history, uint32_t prompt,
                           uint32_t end, uint32_t *numbers, global<float> logits)
{
    uint32_t start = repeats(p) ? 0 : prompt;
    for (uint32_t i = start + thread_index(); i < end; i += SAMPLE_THREADS)
        atomic_exchange(&numbers[history[i]], 0u);
    barrier();
    for (uint32_t i = start + thread_index(); i < end; i += SAMPLE_THREADS) {
        atomic_or(&numbers[history[i]], SEEN);
        if (i >= prompt)
            atomic_add(&numbers[history[i]], COUNT);
    }
    barrier();
    for (uint32_t i = start + thread_index(); i < end; i += SAMPLE_THREADS) {
        uint32_t id = history[i], number = atomic_exchange(&numbers[id], 0u);
        if (number != 0)
            logits[id] = logit_penalise(p, logit_clean(logits[id]), number);
    }
    barrier();
}

/* The logits that the row is chosen by: its own, or a changed copy. */
LEAF const float *logits_adjust(const struct sample_task &a, uint32_t row,
                                const struct sample_params &p, const float *own)
{
    uint32_t position = a.positions[row], prompt = a.prompts ? a.prompts[row] : position;
    bool holds = p.n_holds > 0 && position - prompt < p.min_tokens;
    if (p.n_biases == 0 && !holds && !penalty_is_on(p))
        return own;
    float *copy = a.changed + (size_t)block_x() * a.vocab;
    global<float> logits(copy);
    for (uint32_t id = thread_index(); id < a.vocab; id += SAMPLE_THREADS)
        logits[id] = own[id];
    barrier();
    const struct sample_entry *entries = a.entries;
    if (p.n_biases + p.n_holds > 0)
        entries += (size_t)a.slots[row] * SAMPLE_ENTRIES_MAX;
    if (p.n_biases > 0)
        biases_add(entries, p.n_biases, logits);
    if (penalty_is_on(p))
        history_penalise(p, a.history + (size_t)a.slots[row] * a.history_tokens, prompt, position,
                         (uint32_t *)(void *)(a.weights + (size_t)block_x() * a.vocab), logits);
    if (holds && thread_index() == 0) /* few, and maybe one twice */
        for (uint32_t i = 0; i < p.n_holds; i++)
            logits[entries[p.n_biases + i].id] = -INFINITY;
    barrier();
    return copy;
}

/* ---- the draw ---- */

/* Who can still be drawn: those not after (order, id), with at least the weight. */
struct candidates {
    const float *logits;
    const uint64_t *weights;
    uint32_t vocab, order, id;
    uint64_t least;
};

LEAF bool candidate_is(const struct candidates &c, uint32_t id, uint32_t order)
{
    return c.weights[id] >= c.least && (order > c.order || (order == c.order && id <= c.id));
}

/* Sum over the threads before this one, and *ret_all over all. */
LEAF uint64_t sum_before(uint64_t mine, uint64_t *ret_all)
{
    shared<uint64_t> totals = SHARED_AT(uint64_t, totals);
    uint64_t running = mine, before = 0, all = 0;
    for (uint32_t step = 1; step < 32; step <<= 1) {
        uint64_t other = shuffle(running, lane_index() >= step ? lane_index() - step : 0);
        running += lane_index() >= step ? other : 0;
    }
    if (lane_index() == 31)
        totals[warp_index()] = running;
    barrier();
    for (uint32_t warp = 0; warp < SAMPLE_THREADS / 32; warp++) {
        uint64_t total = totals[warp];
        before += warp < warp_index() ? total : 0;
        all += total;
    }
    barrier();
    *ret_all = all;
    return before + running - mine;
}

/* One step of a search: among candidates whose order has `prefix` above `shift + bits`, sums by the
 * next bits; the bucket, best first, in which the sum exceeds `target`. *before moves along. */
LEAF uint32_t bucket_enter(const struct candidates &c, uint32_t prefix, uint32_t shift,
                           uint32_t bits, bool ones, uint64_t target, uint64_t *before)
{
    shared<uint64_t> buckets = SHARED_AT(uint64_t, buckets);
    shared<uint64_t> before_place = SHARED_AT(uint64_t, before);
    shared<uint32_t> bucket_place = SHARED_AT(uint32_t, bucket);
    uint32_t mask = (1u << bits) - 1, above = shift + bits;
    for (uint32_t i = thread_index(); i < BUCKETS; i += SAMPLE_THREADS)
        buckets[i] = 0;
    barrier();
    for (uint32_t id = thread_index(); id < c.vocab; id += SAMPLE_THREADS) {
        uint32_t order = order_of(logit_clean(c.logits[id]));
        if (candidate_is(c, id, order) && (above >= 32 || order >> above == prefix))
            shared_atomic_add(buckets, order >> shift & mask,
                              ones ? (uint64_t)1 : (uint64_t)c.weights[id]);
    }
    barrier();
    uint64_t mine = 0, all;
    uint32_t first = BUCKETS - 1 - thread_index() * BUCKETS_EACH; /* going down */
    for (uint32_t i = 0; i < BUCKETS_EACH; i++)
        mine += buckets[first - i];
    uint64_t sum = *before + sum_before(mine, &all);
    if (sum <= target && sum + mine > target) {
        uint32_t i = 0;
        while (sum + buckets[first - i] <= target)
            sum += buckets[first - i++];
        before_place[0] = sum;
        bucket_place[0] = first - i;
    }
    barrier();
    *before = before_place[0];
    uint32_t bucket = bucket_place[0];
    barrier();
    return bucket;
}

/* The first candidate, by descending logit and ascending id, at which the running sum of weights
 * (or of ones) exceeds `target`; the sum of all does exceed it. */
LEAF uint32_t candidate_find(const struct candidates &c, bool ones, uint64_t target,
                             uint32_t *ret_order)
{
    uint64_t before = 0, all;
    uint32_t order = bucket_enter(c, 0, 21, 11, ones, target, &before);
    order = order << 11 | bucket_enter(c, order, 10, 11, ones, target, &before);
    order = order << 10 | bucket_enter(c, order, 0, 10, ones, target, &before);
    /* Equal logits are left, with equal weights, by ascending id: a range for each thread. */
    shared<uint32_t> id_place = SHARED_AT(uint32_t, id);
    uint32_t each = div_up(c.vocab, SAMPLE_THREADS), from = min_u32(thread_index() * each, c.vocab);
    uint32_t to = min_u32(from + each, c.vocab);
    uint64_t mine = 0;
    for (uint32_t id = from; id < to; id++) {
        uint32_t one = order_of(logit_clean(c.logits[id]));
        if (one == order && candidate_is(c, id, one))
            mine += ones ? 1 : c.weights[id];
    }
    uint64_t sum = before + sum_before(mine, &all);
    if (sum <= target && sum + mine > target)
        for (uint32_t id = from; id < to; id++) {
            uint32_t one = order_of(logit_clean(c.logits[id]));
            if (one != order || !candidate_is(c, id, one))
                continue;
            sum += ones ? 1 : c.weights[id];
            if (sum > target) {
                id_place[0] = id;
                break;
            }
        }
    barrier();
    uint32_t id = id_place[0];
    barrier();
    *ret_order = order;
    return id;
}

LEAF uint64_t candidates_sum(const struct candidates &c)
{
    uint64_t mine = 0, all;
    for (uint32_t id = thread_index(); id < c.vocab; id += SAMPLE_THREADS)
        if (candidate_is(c, id, order_of(logit_clean(c.logits[id]))))
            mine += c.weights[id];
    (void)sum_before(mine, &all);
    return all;
}

/* The first 53 bits of the generator: sample_uniform times 2^53. */
LEAF uint64_t uniform_bits(uint64_t seed, uint32_t position)
{
    uint32_t counter[4] = {position, 0, 0, 0}, key_0 = (uint32_t)seed,
             key_1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t product_0 = (uint64_t)0xD2511F53u * counter[0];
        uint64_t product_1 = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t next_0 = (uint32_t)(product_1 >> 32) ^ counter[1] ^ key_0;
        uint32_t next_2 = (uint32_t)(product_0 >> 32) ^ counter[3] ^ key_1;
        counter[0] = next_0;
        counter[1] = (uint32_t)product_1;
        counter[2] = next_2;
        counter[3] = (uint32_t)product_0;
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
    return ((uint64_t)counter[0] << 32 | counter[1]) >> 11;
}

/* u * sum / 2^53, whole. */
LEAF uint64_t product_53(uint64_t u, uint64_t sum)
{
    uint64_t low = (u & 0xffffffffu) * (sum & 0xffffffffu);
    uint64_t mid_1 = (u >> 32) * (sum & 0xffffffffu), mid_2 = (u & 0xffffffffu) * (sum >> 32);
    uint64_t mid = (low >> 32) + (mid_1 & 0xffffffffu) + (mid_2 & 0xffffffffu);
    uint64_t high = (u >> 32) * (sum >> 32) + (mid_1 >> 32) + (mid_2 >> 32) + (mid >> 32);
    return high << 11 | (mid << 32 | (low & 0xffffffffu)) >> 53;
}

LEAF uint32_t token_draw(const struct sample_task &a, uint32_t row, const struct sample_params &p,
                         const float *logits, float most)
{
    uint64_t *all_weights = a.weights + (size_t)block_x() * a.vocab;
    global<uint64_t> weights(all_weights);
    double inverse = 1 / (double)p.temperature;
    uint64_t mine = 0, n;
    for (uint32_t id = thread_index(); id < a.vocab; id += SAMPLE_THREADS) {
        double x = ((double)logit_clean(logits[id]) - (double)most) * inverse;
        uint64_t weight = (uint64_t)rint(exp(x) * 0x1p40);
        weights[id] = weight;
        mine += weight > 0;
    }
    (void)sum_before(mine, &n);
    struct candidates c = {logits, all_weights, a.vocab, 0, UINT32_MAX, 1};
    if (p.top_k > 0 && p.top_k < n)
        c.id = candidate_find(c, true, p.top_k - 1, &c.order);
    if (p.top_p > 0 && p.top_p < 1) {
        uint64_t sum = candidates_sum(c), wanted = (uint64_t)ceil((double)p.top_p * (double)sum);
        wanted = wanted > sum ? sum : wanted;
        c.id = candidate_find(c, false, wanted > 0 ? wanted - 1 : 0, &c.order);
    }
    if (p.min_p > 0) {
        uint64_t least = (uint64_t)ceil((double)p.min_p * 0x1p40);
        c.least = least > 1 ? least : 1;
    }
    uint64_t target = product_53(uniform_bits(p.seed, a.positions[row]), candidates_sum(c));
    uint32_t order;
    return candidate_find(c, false, target, &order);
}

/* The best ones by the model's own softmax; zeros after them. */
LEAF void best_report(const struct sample_task &a, uint32_t row, struct best best, double most,
                      double log_sum)
{
    struct sample_result *result = a.results + row;
    global<uint32_t> ids(result->top_id);
    global<float> logprobs(result->top_logprob);
    uint32_t n = min_u32(a.params[row].n_logprobs, a.vocab);
    for (uint32_t i = 0; i < TOP_LOGPROBS_MAX; i++) {
        if (i > 0 && i < n)
            best = row_best(a.logits + (size_t)row * a.vocab, a.vocab, best);
        if (thread_index() == 0) {
            ids[i] = i < n ? best.id : 0;
            logprobs[i] = i < n ? (float)((double)best.logit - most - log_sum) : 0.0f;
        }
    }
}

LEAF void row_sample(const struct sample_task &a, uint32_t row)
{
    const struct sample_params &p = a.params[row];
    const float *own = a.logits + (size_t)row * a.vocab;
    const struct best none = {0, UINT32_MAX};
    struct best best = row_best(own, a.vocab, none);
    bool nothing = isinf(best.logit); /* every logit is minus infinity */
    double most = nothing ? 0 : (double)best.logit, sum = 0;
    uint32_t foreign = 0;
    for (uint32_t id = thread_index(); id < a.vocab; id += SAMPLE_THREADS) {
        foreign += !isfinite(own[id]);
        sum += nothing ? 0 : exp((double)logit_clean(own[id]) - most);
    }
    sum = block_sum(sum, SHARED_AT(double, sums));
    foreign = block_sum(foreign, SHARED_AT(uint32_t, foreign));
    double log_sum = nothing ? 0 : log(sum);
    best_report(a, row, best, most, log_sum);
    const float *chosen_by = logits_adjust(a, row, p, own);
    if (chosen_by != own)
        best = row_best(chosen_by, a.vocab, none);
    uint32_t id = best.id;
    if (p.temperature > 0 && !isinf(best.logit))
        id = token_draw(a, row, p, chosen_by, best.logit);
    if (thread_index() != 0)
        return;
    struct sample_result *result = a.results + row;
    global<uint32_t>(&result->id)[0] = id;
    global<uint32_t>(&result->n_top)[0] = min_u32(p.n_logprobs, a.vocab);
    global<uint32_t>(&result->not_finite)[0] = foreign > 0;
    global<float>(&result->logprob)[0] = (float)((double)logit_clean(own[id]) - most - log_sum);
}

/* gate: sm_90a griddepcontrol.wait */
KERNEL(sample_kernel, struct sample_task, SAMPLE_THREADS, 1)
{
    launch_next();
    launch_wait();
    for (uint32_t row = block_x(); row < a.n_rows; row += grid_x()) {
        row_sample(a, row);
        barrier(); /* the next row has the same memory */
    }
}

/* gate: sm_90a griddepcontrol.wait
 * Every row has read; now they write, the last of equal places at the end. */
KERNEL(sample_write_kernel, struct sample_task, SAMPLE_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t row = block_x() * SAMPLE_THREADS + thread_index();
    if (row >= a.n_rows)
        return;
    uint32_t place = a.places[row], slot = a.slots[row], position = a.positions[row];
    bool last = true, last_there = true;
    for (uint32_t other = row + 1; other < a.n_rows; other++) {
        last = last && a.places[other] != place;
        last_there = last_there && !(a.places[other] == a.slots[other] && a.slots[other] == slot &&
                                     a.positions[other] == position);
    }
    global<uint32_t> last_sampled(a.last_sampled), history(a.history);
    uint32_t id = a.results[row].id;
    if (last)
        last_sampled[place] = id;
    if (a.history && place == slot && last_there)
        history[(size_t)slot * a.history_tokens + position] = id;
}

/* A processor is busy with one row: more places would wait for the same memory. */
static uint32_t places_count(const struct device *device, uint32_t n_rows)
{
    return min_u32(n_rows, runtime_facts_of(device->runtime)->processors);
}

static size_t place_bytes(uint32_t vocab)
{
    return size_product(vocab, sizeof(uint64_t) + sizeof(float));
}

size_t cuda_sample_scratch_bytes(const struct device *device, const struct op_limits *limits)
{
    return size_product(places_count(device, limits->sampled_max), place_bytes(limits->vocab));
}

static bool work_lay(struct device *device, uint32_t n_places, struct sample_task *task)
{
    char *memory = (char *)device_scratch(device, SCRATCH_SAMPLE,
                                          size_product(n_places, place_bytes(task->vocab)));
    if (!memory)
        return false;
    task->weights = (uint64_t *)(void *)memory;
    task->changed = (float *)(void *)(task->weights + (size_t)n_places * task->vocab);
    return true;
}

static const uint32_t *stage_u32(struct device *device, const uint32_t *host, uint32_t n)
{
    return host ? (const uint32_t *)device_stage(device, host, n * sizeof *host) : NULL;
}

void cuda_sample(struct device *device, const struct sample_args *args)
{
    for (uint32_t r = 0; r < args->n_rows; r++) {
        const struct sample_params *p = &args->host_params[r];
        CHECK(p->n_logprobs <= TOP_LOGPROBS_MAX);
        CHECK(p->n_biases <= SAMPLE_BIASES_MAX && p->n_holds <= SAMPLE_HOLDS_MAX);
        CHECK(!args->history || args->host_positions[r] < args->history_tokens);
        CHECK(!args->host_prompt_tokens || args->host_prompt_tokens[r] <= args->host_positions[r]);
    }
    CHECK(args->vocab > 0 && args->vocab < 1u << (63 - WEIGHT_BITS));
    uint32_t n = args->n_rows;
    if (n == 0)
        return;
    struct sample_task task = {};
    task.n_rows = n;
    task.vocab = args->vocab;
    task.history_tokens = args->history_tokens;
    task.logits = args->logits;
    task.params = (const struct sample_params *)device_stage(device, args->host_params,
                                                             n * sizeof *args->host_params);
    task.positions = stage_u32(device, args->host_positions, n);
    task.prompts = stage_u32(device, args->host_prompt_tokens, n);
    task.slots = stage_u32(device, args->host_slots, n);
    task.places = stage_u32(device, args->host_places, n);
    task.entries = args->entries;
    task.history = args->history;
    task.last_sampled = args->last_sampled;
    task.results = args->results;
    uint32_t n_places = places_count(device, n);
    if (!work_lay(device, n_places, &task))
        return;
    launch_kernel(sample_kernel, device->runtime,
                  (launch{n_places, 1, 1, SAMPLE_THREADS, sizeof(struct sample_shared), true}),
                  task);
    launch_kernel(sample_write_kernel, device->runtime,
                  (launch{div_up(n, SAMPLE_THREADS), 1, 1, SAMPLE_THREADS, 0, true}), task);
}
