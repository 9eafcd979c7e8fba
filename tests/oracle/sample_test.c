/*
 * Sampling, against a twin in plain double that is written here from the definition in ops.h, and
 * against cases whose answer is known. Tokens must be equal; log-probabilities agree to
 * 1e-6 (1 + |logprob|). `ref` and every tier take the same tests.
 */
#include "tests/oracle/rig.h"

#include <math.h>

/* ---- the twin ---- */

struct twin_token {
    uint32_t id;
    double logit, weight;
};

static int twin_compare(const void *a, const void *b)
{
    const struct twin_token *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

struct twin {
    struct twin_token *tokens; /* [vocab], best first */
    uint32_t vocab;
    double most, log_sum;
};

static struct twin twin_make(const float *logits, uint32_t vocab)
{
    struct twin twin = {.tokens = calloc(vocab, sizeof *twin.tokens), .vocab = vocab};
    assert_non_null(twin.tokens);
    for (uint32_t id = 0; id < vocab; id++) {
        double logit = (double)logits[id];
        if (isnan(logit))
            logit = -INFINITY;
        if (logit > (double)0x1.fffffep127f)
            logit = (double)0x1.fffffep127f;
        twin.tokens[id] = (struct twin_token){.id = id, .logit = logit};
    }
    qsort(twin.tokens, vocab, sizeof *twin.tokens, twin_compare);
    double sum = 0, most = twin.most = twin.tokens[0].logit;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp(twin.tokens[i].logit - most);
    twin.log_sum = log(sum);
    return twin;
}

/* f32 arithmetic by rounding what double gives, cleaned as the definition says. */
static float rounded(double value)
{
    float near = (float)value;
    return isnan(near) ? -INFINITY : near > 0x1.fffffep127f ? 0x1.fffffep127f : near;
}

/* The logits that a row is chosen by, one id after the other, counting in the history anew for
 * each: malloc'ed. */
static float *twin_adjust(const float *logits, uint32_t vocab, const struct sample_params *params,
                          const struct sample_entry *entries, const uint32_t *history,
                          uint32_t prompt, uint32_t position)
{
    float *changed = malloc(vocab * sizeof *changed);
    uint32_t *in_output = calloc(vocab, sizeof *in_output), *in_all = calloc(vocab, sizeof *in_all);
    assert_true(changed && in_output && in_all);
    for (uint32_t i = 0; i < position; i++) {
        in_all[history[i]]++;
        in_output[history[i]] += i >= prompt;
    }
    double repetition = params->repetition_penalty > 0 ? (double)params->repetition_penalty : 1;
    for (uint32_t id = 0; id < vocab; id++) {
        float l = rounded((double)logits[id]);
        for (uint32_t i = 0; i < params->n_biases; i++)
            if (entries[i].id == id)
                l = rounded((double)l + (double)entries[i].value);
        if (in_all[id] > 0)
            l = rounded(l > 0 ? (double)l / repetition : (double)l * repetition);
        l = rounded((double)l - (double)rounded(in_output[id] * (double)params->frequency_penalty));
        l = rounded((double)l - (in_output[id] > 0) * (double)params->presence_penalty);
        for (uint32_t i = 0; i < params->n_holds; i++)
            if (entries[params->n_biases + i].id == id && position - prompt < params->min_tokens)
                l = -INFINITY;
        changed[id] = l;
    }
    free(in_output);
    free(in_all);
    return changed;
}

static const struct twin_token *twin_draw(struct twin *twin, const struct sample_params *params,
                                          uint32_t position)
{
    if (params->temperature == 0 || isinf(twin->most))
        return &twin->tokens[0];
    uint32_t kept = params->top_k && params->top_k < twin->vocab ? params->top_k : twin->vocab;
    double sum = 0, running = 0;
    for (uint32_t i = 0; i < kept; i++) {
        double below = twin->tokens[i].logit - twin->tokens[0].logit;
        twin->tokens[i].weight = exp(below / (double)params->temperature);
        sum += twin->tokens[i].weight;
    }
    if (params->top_p > 0 && params->top_p < 1) {
        uint32_t n = 0;
        while (n < kept && running < (double)params->top_p * sum)
            running += twin->tokens[n++].weight;
        kept = n;
    }
    while (twin->tokens[kept - 1].weight < (double)params->min_p)
        kept--;
    sum = running = 0;
    for (uint32_t i = 0; i < kept; i++)
        sum += twin->tokens[i].weight;
    double target = sample_uniform(params->seed, position) * sum;
    running = 0;
    for (uint32_t i = 0; i < kept; i++) {
        running += twin->tokens[i].weight;
        if (running > target)
            return &twin->tokens[i];
    }
    return &twin->tokens[kept - 1];
}

/* ---- running the op ---- */

enum { ROWS_MAX = 64, SLOTS = ROWS_MAX, HISTORY = 200 };

struct draw {
    uint32_t n_rows, vocab;
    const float *logits; /* [n_rows][vocab] */
    struct sample_params params[ROWS_MAX];
    uint32_t positions[ROWS_MAX], slots[ROWS_MAX], places[ROWS_MAX], prompts[ROWS_MAX];
    struct sample_result results[ROWS_MAX];
    uint32_t sampled[2 * SLOTS];
    /* NULL: no row needs them. */
    struct sample_entry (*entries)[SAMPLE_ENTRIES_MAX]; /* [SLOTS] */
    uint32_t (*history)[HISTORY];                       /* [SLOTS] */
    uint32_t after[SLOTS][HISTORY];                     /* what the op left of it */
};

static void draw_run(struct draw *draw, struct rig *rig)
{
    struct sample_result *results = rig_poison(rig, draw->n_rows * sizeof *results);
    uint32_t *sampled = rig_poison(rig, sizeof draw->sampled);
    struct sample_args args = {
        .n_rows = draw->n_rows,
        .vocab = draw->vocab,
        .logits = rig_put(rig, draw->logits, (size_t)draw->n_rows * draw->vocab * sizeof(float)),
        .host_params = draw->params,
        .host_positions = draw->positions,
        .host_slots = draw->slots,
        .host_places = draw->history ? draw->places : draw->slots,
        .last_sampled = sampled,
        .results = results};
    if (draw->history) {
        args.host_prompt_tokens = draw->prompts;
        args.entries = rig_put(rig, draw->entries, SLOTS * sizeof *draw->entries);
        args.history = rig_put(rig, draw->history, SLOTS * sizeof *draw->history);
        args.history_tokens = HISTORY;
    }
    rig->ops->sample(rig->device, &args);
    rig_get(rig, results, draw->results, draw->n_rows * sizeof *results);
    rig_get(rig, sampled, draw->sampled, sizeof draw->sampled);
    if (draw->history)
        rig_get(rig, args.history, draw->after, sizeof draw->after);
}

static bool logprob_close(float got, double expected)
{
    if (isinf(expected))
        return (double)got == expected;
    return fabs((double)got - expected) <= 1e-6 * (1 + fabs(expected));
}

/* The id that the twin chooses for a row. */
static uint32_t row_choose(const struct draw *draw, uint32_t row)
{
    const struct sample_params *params = &draw->params[row];
    const float *logits = draw->logits + (size_t)row * draw->vocab;
    uint32_t slot = draw->slots[row];
    float *changed =
        draw->history ? twin_adjust(logits, draw->vocab, params, draw->entries[slot],
                                    draw->history[slot], draw->prompts[row], draw->positions[row])
                      : NULL;
    struct twin twin = twin_make(changed ? changed : logits, draw->vocab);
    uint32_t id = twin_draw(&twin, params, draw->positions[row])->id;
    free(twin.tokens);
    free(changed);
    return id;
}

static void result_check(const struct draw *draw, uint32_t row)
{
    struct twin twin = twin_make(draw->logits + (size_t)row * draw->vocab, draw->vocab);
    const struct sample_params *params = &draw->params[row];
    const struct sample_result *result = &draw->results[row];
    uint32_t id = row_choose(draw, row);
    if (result->id != id)
        fail_msg("row %u (temperature %g, top_k %u, top_p %g, min_p %g, penalties %g %g %g, "
                 "%u biases, %u holds until %u): token %u, twin %u",
                 row, (double)params->temperature, params->top_k, (double)params->top_p,
                 (double)params->min_p, (double)params->repetition_penalty,
                 (double)params->presence_penalty, (double)params->frequency_penalty,
                 params->n_biases, params->n_holds, params->min_tokens, result->id, id);
    double logit = (double)rounded((double)draw->logits[(size_t)row * draw->vocab + id]);
    assert_true(logprob_close(result->logprob, logit - twin.most - twin.log_sum));
    uint32_t not_finite = 0;
    for (uint32_t i = 0; i < draw->vocab; i++)
        not_finite |= !isfinite(draw->logits[(size_t)row * draw->vocab + i]);
    assert_int_equal(result->not_finite, not_finite);
    assert_int_equal(draw->sampled[draw->history ? draw->places[row] : draw->slots[row]], id);
    uint32_t n_top = params->n_logprobs < draw->vocab ? params->n_logprobs : draw->vocab;
    assert_int_equal(result->n_top, n_top);
    for (uint32_t i = 0; i < n_top; i++) {
        assert_int_equal(result->top_id[i], twin.tokens[i].id);
        assert_true(
            logprob_close(result->top_logprob[i], twin.tokens[i].logit - twin.most - twin.log_sum));
    }
    free(twin.tokens);
}

static struct rig rig_of(void **state, bool ref)
{
    return ref ? rig_open("ref", NULL, 1) : rig_tested(state);
}

/* ref has no tiers and no threads: the long tests try it with the first configuration alone. */
static int backends_count(void **state)
{
    const struct config *config = *state;
    return strcmp(config->tier, "scalar") == 0 && config->threads_count == 1 ? 2 : 1;
}

/* Parameters of every kind, greedy among them. */
static struct sample_params params_random(struct dice *dice)
{
    static const float temperatures[] = {0, 0.01f, 0.3f, 0.7f, 1, 1.5f, 5, 100};
    static const float top_ps[] = {0, 1, 0.999f, 0.95f, 0.5f, 0.1f, 1e-6f};
    static const uint32_t top_ks[] = {0, 0, 1, 2, 5, 40, 1000000};
    static const float min_ps[] = {0, 0, 0, 0.01f, 0.1f, 0.5f, 0.9f, 1, 1e-6f};
    return (struct sample_params){
        .temperature = temperatures[dice_below(dice, array_count(temperatures))],
        .top_p = top_ps[dice_below(dice, array_count(top_ps))],
        .top_k = top_ks[dice_below(dice, array_count(top_ks))],
        .min_p = min_ps[dice_below(dice, array_count(min_ps))],
        .n_logprobs = dice_below(dice, TOP_LOGPROBS_MAX + 1),
        .seed = (uint64_t)dice_below(dice, UINT32_MAX) << 20 ^ dice_below(dice, UINT32_MAX)};
}

/* `grain` > 0 rounds logits to multiples of it, which makes ties. */
static void random_rows(void **state, uint32_t vocab, float scale, float grain, uint64_t start)
{
    struct dice dice = {start};
    struct draw draw = {.n_rows = vocab > 10000 ? 12 : ROWS_MAX, .vocab = vocab};
    draw.n_rows = rig_emulated(state) ? 4 : draw.n_rows;
    float *logits = dice_floats(&dice, (size_t)ROWS_MAX * vocab, scale);
    for (size_t i = 0; grain > 0 && i < (size_t)ROWS_MAX * vocab; i++)
        logits[i] = roundf(logits[i] / grain) * grain;
    draw.logits = logits;
    dice_shuffle(&dice, draw.slots, ROWS_MAX);
    for (uint32_t r = 0; r < ROWS_MAX; r++) {
        draw.params[r] = params_random(&dice);
        draw.positions[r] = dice_below(&dice, 100000);
    }
    for (int ref = 0; ref < backends_count(state); ref++) {
        struct rig rig = rig_of(state, ref);
        draw_run(&draw, &rig);
        for (uint32_t r = 0; r < draw.n_rows; r++)
            result_check(&draw, r);
        rig_close(&rig);
    }
    free(logits);
}

static void twin_agrees(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 15, 16, 17, 100, 511, 512, 513, 1024, 3001};
    for (size_t i = 0; i < array_count(vocabs); i++) {
        random_rows(state, vocabs[i], 10, 0, 40 + i);
        random_rows(state, vocabs[i], 1, 0, 60 + i);
        random_rows(state, vocabs[i], 6, 0.5f, 80 + i); /* many equal logits */
    }
}

static void twin_agrees_large(void **state)
{
    rig_large(state);
    random_rows(state, 49152, 12, 0, 99);
}

/* ---- biases, penalties, holds ---- */

/* Any of the penalties, biases and holds, on a history that goes on at `position`. */
static void adjusted_row_make(struct draw *draw, uint32_t row, struct dice *dice)
{
    static const float repetitions[] = {0, 1, 1.1f, 2, 0.5f, 10, 0.01f};
    static const float penalties[] = {0, 0, 0.1f, 1.3f, -0.7f, 2, -2};
    struct sample_params *params = &draw->params[row];
    uint32_t slot = draw->slots[row];
    *params = params_random(dice);
    params->repetition_penalty = repetitions[dice_below(dice, array_count(repetitions))];
    params->frequency_penalty = penalties[dice_below(dice, array_count(penalties))];
    params->presence_penalty = penalties[dice_below(dice, array_count(penalties))];
    params->n_biases = dice_below(dice, 2) ? dice_below(dice, SAMPLE_BIASES_MAX + 1) : 0;
    params->n_holds = dice_below(dice, SAMPLE_HOLDS_MAX + 1);
    draw->positions[row] = dice_between(dice, 1, HISTORY - 1);
    draw->prompts[row] = dice_between(dice, 1, draw->positions[row]);
    params->min_tokens = dice_below(dice, 3) * (draw->positions[row] - draw->prompts[row]);
    params->min_tokens += dice_below(dice, 2); /* just reached, or not yet */
    draw->places[row] = dice_below(dice, 4) ? slot : SLOTS + row;
    /* Few ids, so that they repeat: half of them from a small part of the vocabulary. */
    for (uint32_t i = 0; i < HISTORY; i++)
        draw->history[slot][i] = dice_below(dice, i % 2 ? draw->vocab : (draw->vocab + 9) / 10);
    for (uint32_t i = 0; i < SAMPLE_ENTRIES_MAX; i++)
        draw->entries[slot][i] =
            (struct sample_entry){dice_below(dice, draw->vocab), 8 * dice_float(dice)};
}

/* The history goes on with the chosen token where the place is the slot, and nowhere else. */
static void history_check(const struct draw *draw)
{
    uint32_t expected[SLOTS][HISTORY];
    memcpy(expected, draw->history, sizeof expected);
    for (uint32_t r = 0; r < draw->n_rows; r++)
        if (draw->places[r] == draw->slots[r])
            expected[draw->slots[r]][draw->positions[r]] = draw->results[r].id;
    assert_memory_equal(expected, draw->after, sizeof expected);
}

static void adjusted_rows(void **state, uint32_t vocab, float scale, float grain, uint64_t start)
{
    struct dice dice = {start};
    struct draw draw = {.n_rows = vocab > 10000 ? 4 : ROWS_MAX, .vocab = vocab};
    draw.n_rows = rig_emulated(state) ? 5 : draw.n_rows;
    float *logits = dice_floats(&dice, (size_t)ROWS_MAX * vocab, scale);
    draw.logits = logits;
    draw.entries = calloc(SLOTS, sizeof *draw.entries);
    draw.history = calloc(SLOTS, sizeof *draw.history);
    assert_true(draw.entries && draw.history);
    for (size_t i = 0; i < (size_t)ROWS_MAX * vocab; i++) {
        if (grain > 0)
            logits[i] = roundf(logits[i] / grain) * grain;
        if (dice_below(&dice, 200) == 0) {
            static const float foreign[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
            logits[i] = foreign[dice_below(&dice, array_count(foreign))];
        }
    }
    dice_shuffle(&dice, draw.slots, ROWS_MAX);
    for (uint32_t r = 0; r < draw.n_rows; r++)
        adjusted_row_make(&draw, r, &dice);
    for (int ref = 0; ref < backends_count(state); ref++) {
        struct rig rig = rig_of(state, ref);
        draw_run(&draw, &rig);
        for (uint32_t r = 0; r < draw.n_rows; r++)
            result_check(&draw, r);
        history_check(&draw);
        rig_close(&rig);
    }
    free(draw.entries);
    free(draw.history);
    free(logits);
}

static void adjusted_agree(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 17, 40, 333, 900};
    for (uint64_t turn = 0; turn < 2; turn++)
        for (size_t i = 0; i < array_count(vocabs); i++) {
            adjusted_rows(state, vocabs[i], 9, 0, 1000 * turn + i);
            adjusted_rows(state, vocabs[i], 4, 0.5f, 2000 * turn + i);
        }
    if (!rig_emulated(state))
        adjusted_rows(state, 32003, 10, 0, 77);
}

/* One greedy row with one history; the token. */
static uint32_t greedy_with(void **state, bool ref, const float *logits, uint32_t vocab,
                            struct sample_params params, const struct sample_entry *entries,
                            const uint32_t *history, uint32_t prompt, uint32_t position)
{
    struct draw draw = {.n_rows = 1, .vocab = vocab, .logits = logits, .params = {params}};
    draw.positions[0] = position;
    draw.prompts[0] = prompt;
    draw.entries = calloc(SLOTS, sizeof *draw.entries);
    draw.history = calloc(SLOTS, sizeof *draw.history);
    assert_true(draw.entries && draw.history);
    if (entries)
        memcpy(draw.entries[0], entries, (params.n_biases + params.n_holds) * sizeof *entries);
    memcpy(draw.history[0], history, position * sizeof *history);
    struct rig rig = rig_of(state, ref);
    draw_run(&draw, &rig);
    rig_close(&rig);
    free(draw.entries);
    free(draw.history);
    return draw.results[0].id;
}

/* Answers worked out by hand. */
static void known_penalties(void **state)
{
    const float logits[4] = {4, 3, -1, -2};
    const float below[4] = {-1, -1.5f, -3, -4};
    const uint32_t zeros[3] = {0, 0, 0};
    const struct sample_entry up = {3, 6.5f}, hold = {0, 0};
    for (int ref = 0; ref < 2; ref++) {
#define WITH(...) ((struct sample_params){__VA_ARGS__})
        /* 4 / 1.4 < 3 < 4 / 1.3, in the prompt as in the output, however often. */
        assert_int_equal(
            greedy_with(state, ref, logits, 4, WITH(.repetition_penalty = 1.4f), NULL, zeros, 1, 1),
            1);
        assert_int_equal(
            greedy_with(state, ref, logits, 4, WITH(.repetition_penalty = 1.3f), NULL, zeros, 1, 3),
            0);
        /* A negative logit is multiplied: -1 * 1.6 < -1.5. */
        assert_int_equal(
            greedy_with(state, ref, below, 4, WITH(.repetition_penalty = 1.6f), NULL, zeros, 1, 1),
            1);
        /* Presence and frequency look at the output alone: none yet, then two. */
        assert_int_equal(
            greedy_with(state, ref, logits, 4, WITH(.presence_penalty = 1.5f), NULL, zeros, 3, 3),
            0);
        assert_int_equal(
            greedy_with(state, ref, logits, 4, WITH(.presence_penalty = 1.5f), NULL, zeros, 2, 3),
            1);
        assert_int_equal(
            greedy_with(state, ref, logits, 4, WITH(.frequency_penalty = 0.6f), NULL, zeros, 2, 3),
            0);
        assert_int_equal(
            greedy_with(state, ref, logits, 4, WITH(.frequency_penalty = 0.6f), NULL, zeros, 1, 3),
            1);
        /* A bias: -2 + 6.5 > 4. A hold: until the output has two tokens. */
        assert_int_equal(greedy_with(state, ref, logits, 4, WITH(.n_biases = 1), &up, zeros, 1, 1),
                         3);
        assert_int_equal(greedy_with(state, ref, logits, 4, WITH(.n_holds = 1, .min_tokens = 2),
                                     &hold, zeros, 1, 2),
                         1);
        assert_int_equal(greedy_with(state, ref, logits, 4, WITH(.n_holds = 1, .min_tokens = 2),
                                     &hold, zeros, 1, 3),
                         0);
#undef WITH
    }
}

/* ---- distribution ---- */

enum { DRAWS = 100032 };

/* 100,032 draws from eight tokens: chi-square against the probabilities that the definition gives
 * for these parameters, worked out here from the twin's adjusted logits. */
static void distribution_check(void **state, struct sample_params params)
{
    static const float logits[8] = {0.5f, 2, -1, 1, 0, 1.5f, -3, 2};
    static const uint32_t ids[] = {1, 3, 3, 1, 5, 7}; /* the first two are the prompt */
    static const struct sample_entry bias[] = {{6, 3.5f}, {1, -1}, {2, 0}};
    float *changed = twin_adjust(logits, 8, &params, bias, ids, 2, array_count(ids));
    struct twin twin = twin_make(changed, 8);
    double expected[8] = {0}, sum = 0, chi = 0, t = (double)params.temperature;
    uint32_t counts[8] = {0}, kept = params.top_k ? params.top_k : 8;
    for (uint32_t i = 0; i < kept; i++) {
        double weight = exp((twin.tokens[i].logit - twin.tokens[0].logit) / t);
        if (weight >= (double)params.min_p)
            sum += expected[twin.tokens[i].id] = weight;
    }
    struct rig rig = rig_tested(state);
    struct draw draw = {.n_rows = ROWS_MAX};
    float rows[ROWS_MAX][8];
    uint32_t history[array_count(ids) + 1];
    memcpy(history, ids, sizeof ids);
    for (uint32_t r = 0; r < ROWS_MAX; r++) {
        memcpy(rows[r], logits, sizeof logits);
        draw.params[r] = params;
        draw.positions[r] = array_count(ids);
        draw.prompts[r] = 2;
        draw.places[r] = 1; /* of no consequence */
    }
    struct sample_args args = {.n_rows = ROWS_MAX,
                               .vocab = 8,
                               .logits = rig_put(&rig, rows, sizeof rows),
                               .host_params = draw.params,
                               .host_positions = draw.positions,
                               .host_prompt_tokens = draw.prompts,
                               .host_slots = draw.slots,
                               .host_places = draw.places,
                               .entries = rig_put(&rig, bias, sizeof bias),
                               .history = rig_put(&rig, history, sizeof history),
                               .history_tokens = array_count(history),
                               .last_sampled = rig_poison(&rig, sizeof draw.sampled),
                               .results = rig_poison(&rig, sizeof draw.results)};
    for (uint32_t n = 0; n < DRAWS; n += ROWS_MAX) {
        for (uint32_t r = 0; r < ROWS_MAX; r++)
            draw.params[r].seed = params.seed + n + r; /* the position is the history's */
        rig.ops->sample(rig.device, &args);
        rig_get(&rig, args.results, draw.results, sizeof draw.results);
        for (uint32_t r = 0; r < ROWS_MAX; r++)
            counts[draw.results[r].id]++;
    }
    rig_close(&rig);
    for (uint32_t id = 0; id < 8; id++) {
        double wanted = expected[id] / sum * DRAWS;
        if (expected[id] == 0)
            assert_int_equal(counts[id], 0);
        else
            chi += (counts[id] - wanted) * (counts[id] - wanted) / wanted;
    }
    if (chi >= 30) /* at most 7 degrees of freedom: beyond it with probability 1e-4 */
        fail_msg("chi-square %g", chi);
    free(twin.tokens);
    free(changed);
}

static void distribution(void **state)
{
    rig_large(state);
    const struct sample_params kinds[] = {
        {.temperature = 0.8f, .seed = 1234},
        {.temperature = 0.8f, .top_k = 4, .seed = 5678},
        {.temperature = 1.2f, .min_p = 0.1f, .seed = 91011},
        {.temperature = 1, .repetition_penalty = 1.3f, .seed = 121314},
        {.temperature = 1, .presence_penalty = 0.7f, .frequency_penalty = 0.4f, .seed = 151617},
        {.temperature = 0.9f, .n_biases = 2, .n_holds = 1, .min_tokens = 9, .seed = 181920},
        {.temperature = 0.7f,
         .top_k = 6,
         .min_p = 0.05f,
         .repetition_penalty = 0.8f,
         .presence_penalty = -0.5f,
         .frequency_penalty = 0.2f,
         .n_biases = 2,
         .seed = 212223},
    };
    for (size_t i = 0; i < array_count(kinds); i++)
        distribution_check(state, kinds[i]);
}

/* Also when one seed goes through all positions, as an answer does. */
static void distribution_of_positions(void **state)
{
    rig_large(state);
    static const float logits[8] = {0.5f, 2, -1, 1, 0, 1.5f, -3, 2};
    double sum = 0, chi = 0;
    uint32_t counts[8] = {0};
    for (uint32_t id = 0; id < 8; id++)
        sum += exp((double)logits[id] / 0.8);
    struct rig rig = rig_tested(state);
    struct draw draw = {.n_rows = ROWS_MAX};
    float rows[ROWS_MAX][8];
    for (uint32_t r = 0; r < ROWS_MAX; r++) {
        memcpy(rows[r], logits, sizeof logits);
        draw.params[r] = (struct sample_params){.temperature = 0.8f, .seed = 99};
    }
    struct sample_args args = {.n_rows = ROWS_MAX,
                               .vocab = 8,
                               .logits = rig_put(&rig, rows, sizeof rows),
                               .host_params = draw.params,
                               .host_positions = draw.positions,
                               .host_slots = draw.slots,
                               .host_places = draw.slots,
                               .last_sampled = rig_poison(&rig, sizeof draw.sampled),
                               .results = rig_poison(&rig, sizeof draw.results)};
    for (uint32_t n = 0; n < DRAWS; n += ROWS_MAX) {
        for (uint32_t r = 0; r < ROWS_MAX; r++)
            draw.positions[r] = n + r;
        rig.ops->sample(rig.device, &args);
        rig_get(&rig, args.results, draw.results, sizeof draw.results);
        for (uint32_t r = 0; r < ROWS_MAX; r++)
            counts[draw.results[r].id]++;
    }
    rig_close(&rig);
    for (uint32_t id = 0; id < 8; id++) {
        double wanted = exp((double)logits[id] / 0.8) / sum * DRAWS;
        chi += (counts[id] - wanted) * (counts[id] - wanted) / wanted;
    }
    assert_true(chi < 30);
}

/* One row of logits and one of parameters; the token. */
static struct sample_result sample_one(void **state, bool ref, const float *logits, uint32_t vocab,
                                       struct sample_params params)
{
    struct draw draw = {.n_rows = 1, .vocab = vocab, .logits = logits, .params = {params}};
    draw.positions[0] = 17;
    struct rig rig = rig_of(state, ref);
    draw_run(&draw, &rig);
    rig_close(&rig);
    assert_int_equal(draw.sampled[0], draw.results[0].id);
    return draw.results[0];
}

static void ties_go_to_the_lower_id(void **state)
{
    float logits[40] = {0};
    for (int ref = 0; ref < 2; ref++) {
        logits[7] = logits[21] = logits[39] = 3;
        struct sample_params greedy = {.n_logprobs = 4};
        struct sample_result result = sample_one(state, ref, logits, 40, greedy);
        assert_int_equal(result.id, 7);
        assert_int_equal(result.top_id[0], 7);
        assert_int_equal(result.top_id[1], 21);
        assert_int_equal(result.top_id[2], 39);
        assert_int_equal(result.top_id[3], 0);
        /* Top-k of 2 keeps 7 and 21 of the three that are equal; so does top-p of 0.5 of them. */
        bool seen[40] = {false};
        for (uint64_t seed = 0; seed < 40; seed++) {
            struct sample_params two = {.temperature = 1, .top_k = 2, .seed = seed};
            seen[sample_one(state, ref, logits, 40, two).id] = true;
        }
        assert_true(seen[7] && seen[21] && !seen[39] && !seen[0]);
        /* Minus zero and zero are equal. */
        const float zeros[3] = {-0.0f, 0.0f, -0.0f};
        assert_int_equal(sample_one(state, ref, zeros, 3, (struct sample_params){0}).id, 0);
        struct sample_params one = {.temperature = 1, .top_k = 1, .seed = 5};
        assert_int_equal(sample_one(state, ref, zeros, 3, one).id, 0);
    }
}

/* top_p = 0.5 of four equal tokens keeps exactly two; a tiny top_p keeps the best one. */
static void top_p_edges(void **state)
{
    const float equal[4] = {1, 1, 1, 1};
    for (int ref = 0; ref < 2; ref++) {
        bool seen[4] = {false};
        for (uint64_t seed = 0; seed < 60; seed++) {
            struct sample_params half = {.temperature = 1, .top_p = 0.5f, .seed = seed};
            seen[sample_one(state, ref, equal, 4, half).id] = true;
            struct sample_params tiny = {.temperature = 1, .top_p = 1e-30f, .seed = seed};
            assert_int_equal(sample_one(state, ref, equal, 4, tiny).id, 0);
        }
        assert_true(seen[0] && seen[1] && !seen[2] && !seen[3]);
    }
}

static void foreign_values(void **state)
{
    enum { VOCAB = 50 };
    float logits[VOCAB];
    struct sample_params kinds[] = {{.n_logprobs = 5},
                                    {.temperature = 1, .n_logprobs = 5, .seed = 3},
                                    {.temperature = 1, .top_k = 3, .top_p = 0.9f, .seed = 4},
                                    {.temperature = 1e-38f, .top_p = 0.9f, .seed = 5},
                                    {.temperature = 1e38f, .seed = 6}};
    for (int ref = 0; ref < 2; ref++)
        for (size_t k = 0; k < array_count(kinds); k++) {
            /* All NaN, all minus infinity: token 0. */
            for (int i = 0; i < VOCAB; i++)
                logits[i] = i % 2 ? NAN : -INFINITY;
            struct sample_result result = sample_one(state, ref, logits, VOCAB, kinds[k]);
            assert_int_equal(result.id, 0);
            assert_int_equal(result.not_finite, 1);
            assert_true(result.logprob == -INFINITY);
            for (uint32_t i = 0; i < result.n_top; i++)
                assert_true(result.top_id[i] == i && result.top_logprob[i] == -INFINITY);
            /* One finite among NaN: that one, for certain. */
            logits[33] = -5;
            result = sample_one(state, ref, logits, VOCAB, kinds[k]);
            assert_int_equal(result.id, 33);
            assert_true(result.logprob == 0);
            if (result.n_top)
                assert_true(result.top_id[0] == 33 && result.top_id[1] == 0);
            /* Plus infinity is the largest float. */
            logits[40] = INFINITY;
            logits[44] = 0x1.fffffep127f;
            result = sample_one(state, ref, logits, VOCAB, kinds[k]);
            assert_true(result.id == 40 || (result.id == 44 && kinds[k].temperature > 0));
            assert_true(fabs((double)result.logprob - log(0.5)) < 1e-6);
        }
    /* Which are equal, so that the lower id comes first whichever way round they are. */
    struct sample_params one = {.temperature = 1, .top_k = 1, .seed = 7};
    for (int ref = 0; ref < 2; ref++)
        for (int swapped = 0; swapped < 2; swapped++) {
            logits[40] = swapped ? 0x1.fffffep127f : INFINITY;
            logits[44] = swapped ? INFINITY : 0x1.fffffep127f;
            assert_int_equal(sample_one(state, ref, logits, VOCAB, one).id, 40);
        }
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"sample: a twin in double agrees", twin_agrees},
        {"sample: a vocabulary of 49,152", twin_agrees_large},
        {"sample: biases, penalties, holds: a twin agrees", adjusted_agree},
        {"sample: penalties worked out by hand", known_penalties},
        {"sample: distribution over seeds", distribution},
        {"sample: distribution over positions", distribution_of_positions},
        {"sample: ties", ties_go_to_the_lower_id},
        {"sample: edges of top-p", top_p_edges},
        {"sample: NaN and infinities", foreign_values},
    };
    return rig_main("sample", tests, array_count(tests));
}
