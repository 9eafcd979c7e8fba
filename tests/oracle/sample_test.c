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

static const struct twin_token *twin_draw(struct twin *twin, const struct sample_params *params,
                                          uint32_t position)
{
    if (params->temperature == 0)
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
        sum = running;
    }
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

enum { ROWS_MAX = 64, SLOTS = ROWS_MAX };

struct draw {
    uint32_t n_rows, vocab;
    const float *logits; /* [n_rows][vocab] */
    struct sample_params params[ROWS_MAX];
    uint32_t positions[ROWS_MAX], slots[ROWS_MAX];
    struct sample_result results[ROWS_MAX];
    uint32_t sampled[SLOTS];
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
        .last_sampled = sampled,
        .results = results};
    rig->ops->sample(rig->device, &args);
    rig_get(rig, results, draw->results, draw->n_rows * sizeof *results);
    rig_get(rig, sampled, draw->sampled, sizeof draw->sampled);
}

static bool logprob_close(float got, double expected)
{
    if (isinf(expected))
        return (double)got == expected;
    return fabs((double)got - expected) <= 1e-6 * (1 + fabs(expected));
}

static void result_check(const struct draw *draw, uint32_t row)
{
    struct twin twin = twin_make(draw->logits + (size_t)row * draw->vocab, draw->vocab);
    const struct sample_params *params = &draw->params[row];
    const struct sample_result *result = &draw->results[row];
    const struct twin_token *token = twin_draw(&twin, params, draw->positions[row]);
    if (result->id != token->id)
        fail_msg("row %u (temperature %g, top_k %u, top_p %g): token %u, twin %u", row,
                 (double)params->temperature, params->top_k, (double)params->top_p, result->id,
                 token->id);
    assert_true(logprob_close(result->logprob, token->logit - twin.most - twin.log_sum));
    assert_int_equal(draw->sampled[draw->slots[row]], token->id);
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
    return ref ? rig_open("ref", NULL, 1) : rig_cpu(state);
}

/* Parameters of every kind, greedy among them. */
static struct sample_params params_random(struct dice *dice)
{
    static const float temperatures[] = {0, 0.01f, 0.3f, 0.7f, 1, 1.5f, 5, 100};
    static const float top_ps[] = {0, 1, 0.999f, 0.95f, 0.5f, 0.1f, 1e-6f};
    static const uint32_t top_ks[] = {0, 0, 1, 2, 5, 40, 1000000};
    return (struct sample_params){
        .temperature = temperatures[dice_below(dice, array_count(temperatures))],
        .top_p = top_ps[dice_below(dice, array_count(top_ps))],
        .top_k = top_ks[dice_below(dice, array_count(top_ks))],
        .n_logprobs = dice_below(dice, TOP_LOGPROBS_MAX + 1),
        .seed = (uint64_t)dice_below(dice, UINT32_MAX) << 20 ^ dice_below(dice, UINT32_MAX)};
}

/* `grain` > 0 rounds logits to multiples of it, which makes ties. */
static void random_rows(void **state, uint32_t vocab, float scale, float grain, uint64_t start)
{
    struct dice dice = {start};
    struct draw draw = {.n_rows = vocab > 10000 ? 12 : ROWS_MAX, .vocab = vocab};
    float *logits = dice_floats(&dice, (size_t)ROWS_MAX * vocab, scale);
    for (size_t i = 0; grain > 0 && i < (size_t)ROWS_MAX * vocab; i++)
        logits[i] = roundf(logits[i] / grain) * grain;
    draw.logits = logits;
    dice_shuffle(&dice, draw.slots, ROWS_MAX);
    for (uint32_t r = 0; r < ROWS_MAX; r++) {
        draw.params[r] = params_random(&dice);
        draw.positions[r] = dice_below(&dice, 100000);
    }
    for (int ref = 0; ref < 2; ref++) {
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
    random_rows(state, 49152, 12, 0, 99);
}

/* 20,000 draws from eight tokens: chi-square against the softmax, with and without top-k. */
static void distribution(void **state)
{
    static const float logits[8] = {0.5f, 2, -1, 1, 0, 1.5f, -3, 2};
    for (int top_k = 0; top_k <= 4; top_k += 4) {
        struct twin twin = twin_make(logits, 8);
        struct sample_params params = {.temperature = 0.8f, .top_k = (uint32_t)top_k, .seed = 1234};
        double expected[8] = {0}, sum = 0, chi = 0;
        uint32_t kept = top_k ? 4 : 8, counts[8] = {0}, n = 0;
        for (uint32_t i = 0; i < kept; i++)
            sum += exp(twin.tokens[i].logit / 0.8);
        for (uint32_t i = 0; i < kept; i++)
            expected[twin.tokens[i].id] = exp(twin.tokens[i].logit / 0.8) / sum;
        float *rows = malloc(ROWS_MAX * sizeof logits);
        struct draw draw = {.n_rows = ROWS_MAX, .vocab = 8, .logits = rows};
        struct rig rig = rig_cpu(state);
        for (uint32_t r = 0; r < ROWS_MAX; r++) {
            memcpy(rows + 8 * r, logits, sizeof logits);
            draw.params[r] = params;
        }
        void *device_logits = rig_put(&rig, rows, ROWS_MAX * sizeof logits);
        void *results = rig_poison(&rig, sizeof draw.results);
        for (; n < 20032; n += ROWS_MAX) {
            for (uint32_t r = 0; r < ROWS_MAX; r++)
                draw.positions[r] = n + r;
            struct sample_args args = {.n_rows = ROWS_MAX,
                                       .vocab = 8,
                                       .logits = device_logits,
                                       .host_params = draw.params,
                                       .host_positions = draw.positions,
                                       .host_slots = draw.slots,
                                       .last_sampled = draw.sampled,
                                       .results = results};
            rig.ops->sample(rig.device, &args);
            rig_get(&rig, results, draw.results, sizeof draw.results);
            for (uint32_t r = 0; r < ROWS_MAX; r++)
                counts[draw.results[r].id]++;
        }
        for (uint32_t id = 0; id < 8; id++) {
            double wanted = expected[id] * n;
            if (expected[id] == 0)
                assert_int_equal(counts[id], 0);
            else
                chi += (counts[id] - wanted) * (counts[id] - wanted) / wanted;
        }
        assert_true(chi < 30); /* 7 degrees of freedom: beyond it with probability 1e-4 */
        rig_close(&rig);
        free(twin.tokens);
        free(rows);
    }
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
        {"sample: distribution", distribution},
        {"sample: ties", ties_go_to_the_lower_id},
        {"sample: edges of top-p", top_p_edges},
        {"sample: NaN and infinities", foreign_values},
    };
    return rig_main("sample", tests, array_count(tests));
}
