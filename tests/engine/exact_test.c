/*
 * Bit-exactness through the whole engine: what 32 concurrent requests get is, token for token and
 * log-probability for log-probability, what each gets alone, whatever the chunk size, the number of
 * threads, however often they are preempted, and whatever the prefix cache spared them. Greedy and
 * sampled in every way: top-k, top-p, min-p, penalties, logit biases and ids held back, alone and
 * together; weights in f32 and bf16, K and V in both and in 8 bits.
 *
 * usage: exact_test [f32 | bf16 | q8 | fp8 | MODEL]...: a type is that of K and V from there on
 * The CPU tier is what GALERNE_CPU_TIER names; exit code 77: this CPU lacks it.
 */
#include "base/clock.h"
#include "sched/policy.h"
#include "tests/engine/harness.h"

#define STREAMS 32
#define OUTPUT_TOKENS 24
#define PROMPT_TOKENS_MAX 90
#define BIASES 40
#define STOP_IDS 3
#define MINUTE (60 * NS_PER_S)

struct prompt_set {
    uint32_t n_ids[STREAMS];
    uint32_t ids[STREAMS][PROMPT_TOKENS_MAX];
    struct sample_params sampling[STREAMS];
    struct sample_entry biases[STREAMS][BIASES];
    uint32_t stop_ids[STREAMS][STOP_IDS]; /* held back to the end where min_tokens says so */
};

struct answer {
    uint32_t n_tokens;
    struct request_token tokens[OUTPUT_TOKENS];
};

static uint64_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* Six of eight streams have something: each parameter alone, then all of them. */
static void penalties_make(struct prompt_set *set, uint32_t i, uint32_t vocab, uint64_t *state)
{
    struct sample_params *sampling = &set->sampling[i];
    uint32_t kind = i / 2 % 8; /* greedy and sampled both have each */
    bool all = kind == 6;
    if (kind == 1 || all)
        sampling->min_p = 0.05f;
    if (kind == 2 || all)
        sampling->repetition_penalty = i % 4 < 2 ? 1.4f : 0.8f;
    if (kind == 3 || all)
        sampling->presence_penalty = 0.9f;
    if (kind == 4 || all)
        sampling->frequency_penalty = i % 4 < 2 ? 0.6f : -0.3f;
    if (kind == 5 || all) {
        sampling->n_biases = BIASES;
        sampling->min_tokens = OUTPUT_TOKENS;
    }
    for (uint32_t k = 0; k < BIASES; k++)
        set->biases[i][k] = (struct sample_entry){(uint32_t)random_next(state) % vocab,
                                                  (float)(random_next(state) % 400) / 100 - 2};
    for (uint32_t k = 0; k < STOP_IDS; k++)
        set->stop_ids[i][k] = (uint32_t)random_next(state) % vocab;
}

static void prompts_make(struct prompt_set *set, uint32_t vocab)
{
    uint64_t state = 20261124;
    for (uint32_t i = 0; i < STREAMS; i++) {
        set->n_ids[i] = 1 + (uint32_t)random_next(&state) % PROMPT_TOKENS_MAX;
        for (uint32_t k = 0; k < set->n_ids[i]; k++)
            set->ids[i][k] = (uint32_t)random_next(&state) % vocab;
        set->sampling[i] = (struct sample_params){.n_logprobs = i % 6};
        if (i % 2)
            set->sampling[i] = (struct sample_params){.temperature = 0.8f,
                                                      .top_k = i % 4 == 1 ? 20 : 0,
                                                      .top_p = i % 8 < 4 ? 0.9f : 1.0f,
                                                      .seed = i * 7919,
                                                      .n_logprobs = 3};
        penalties_make(set, i, vocab, &state);
    }
}

static struct stream *prompt_start(struct harness *h, const struct prompt_set *set, uint32_t i,
                                   uint64_t cache_domain)
{
    struct stream_options options = {.cache_domain = cache_domain,
                                     .ids = set->ids[i],
                                     .n_ids = set->n_ids[i],
                                     .output_tokens_max = OUTPUT_TOKENS,
                                     .sampling = set->sampling[i],
                                     .biases = set->biases[i],
                                     .stop_ids = set->stop_ids[i],
                                     .n_stop_ids = set->sampling[i].min_tokens ? STOP_IDS : 0};
    return stream_start(h, &options);
}

static void answer_take(struct stream *stream, struct answer *ret_answer)
{
    CHECK(stream->ended && stream->finish == FINISH_LENGTH);
    memset(ret_answer, 0, sizeof *ret_answer);
    ret_answer->n_tokens = stream->n_tokens;
    memcpy(ret_answer->tokens, stream->tokens, stream->n_tokens * sizeof *stream->tokens);
    stream_free(stream);
}

/* Bits, not values: a NaN that differs is a difference too. */
static bool sample_equal(const struct sample_result *a, const struct sample_result *b)
{
    return a->id == b->id && memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 &&
           a->n_top == b->n_top &&
           memcmp(a->top_id, b->top_id, a->n_top * sizeof a->top_id[0]) == 0 &&
           memcmp(a->top_logprob, b->top_logprob, a->n_top * sizeof a->top_logprob[0]) == 0;
}

static uint32_t differences(const struct answer *expected, const struct answer *got,
                            const char *what)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < STREAMS; i++) {
        bool same = expected[i].n_tokens == got[i].n_tokens;
        for (uint32_t k = 0; same && k < got[i].n_tokens; k++)
            same = sample_equal(&expected[i].tokens[k].sample, &got[i].tokens[k].sample);
        if (!same && n++ == 0)
            printf("  %s: stream %u differs (%u and %u tokens)\n", what, i, expected[i].n_tokens,
                   got[i].n_tokens);
    }
    return n;
}

/* With a window few blocks are enough: window_test.c sees to it that some are preempted. */
static bool was_preempted(const struct harness *h, const struct sched_stats *stats)
{
    return stats->preempted_total > 0 || h->plan.arch.window_tokens > 0;
}

static enum dtype kv_dtype = DTYPE_F32; /* of K and V, in all runs of a model */

static uint32_t together(const struct harness_options *options, const struct prompt_set *set,
                         const struct answer *expected, const char *what)
{
    static struct answer got[STREAMS];
    struct stream *streams[STREAMS];
    struct harness h;
    struct engine_status status;
    harness_open(&h, options);
    for (uint32_t i = 0; i < STREAMS; i++)
        streams[i] = prompt_start(&h, set, i, 0);
    CHECK(harness_drain(&h, 5 * MINUTE));
    for (uint32_t i = 0; i < STREAMS; i++)
        answer_take(streams[i], &got[i]);
    harness_turn(&h, 50 * NS_PER_MS);
    engine_status(h.engine, &status);
    harness_close(&h);
    uint32_t n = differences(expected, got, what);
    printf("  %-44s %s, %llu preemptions\n", what, n ? "DIFFERS" : "equal",
           (unsigned long long)status.sched.preempted_total);
    if (options->policy == &policy_fcfs && !was_preempted(&h, &status.sched)) {
        printf("  %s: nothing was preempted: the case tests nothing\n", what);
        n++;
    }
    return n;
}

/* The next turn of each conversation: the prompt, the answer, and a word more. */
static void set_continue(struct prompt_set *set, const struct answer *answers, uint32_t vocab)
{
    for (uint32_t i = 0; i < STREAMS; i++) {
        uint32_t room = PROMPT_TOKENS_MAX - set->n_ids[i];
        uint32_t n = u32_min(answers[i].n_tokens, room > 0 ? room - 1 : 0);
        for (uint32_t k = 0; k < n; k++)
            set->ids[i][set->n_ids[i]++] = answers[i].tokens[k].sample.id;
        if (room > n)
            set->ids[i][set->n_ids[i]++] = (7 * i + 3) % vocab;
    }
}

static uint32_t pass(struct harness *h, const struct prompt_set *set, uint64_t domain,
                     struct answer *ret_answers)
{
    struct stream *streams[STREAMS];
    uint32_t cached_tokens = 0;
    for (uint32_t i = 0; i < STREAMS; i++)
        streams[i] = prompt_start(h, set, i, domain);
    CHECK(harness_drain(h, 5 * MINUTE));
    for (uint32_t i = 0; i < STREAMS; i++) {
        cached_tokens += streams[i]->cached_tokens;
        CHECK(streams[i]->cached_tokens < set->n_ids[i]);
        answer_take(streams[i], &ret_answers[i]);
    }
    return cached_tokens;
}

/* Everything twice, then the next turn of each: with blocks of the domain and without. */
static uint32_t cached(const char *path, const struct prompt_set *set, const struct answer *alone)
{
    static struct answer got[STREAMS], expected[STREAMS];
    static struct prompt_set next;
    struct harness h;
    struct harness_options options = {.path = path,
                                      .kv_dtype = kv_dtype,
                                      .threads_count = 2,
                                      .context_tokens = 128,
                                      .chunk_tokens = 24,
                                      .blocks_count = 1024};
    uint32_t n = 0, hits[5];
    harness_open(&h, &options);
    hits[0] = pass(&h, set, 7, got);
    n += differences(alone, got, "cache empty");
    hits[1] = pass(&h, set, 7, got);
    n += differences(alone, got, "the same prompts again");
    hits[2] = pass(&h, set, 8, got);
    n += differences(alone, got, "another domain");
    next = *set;
    set_continue(&next, alone, h.plan.arch.vocab);
    hits[3] = pass(&h, &next, 0, expected);
    hits[4] = pass(&h, &next, 7, got);
    n += differences(expected, got, "the next turn");
    harness_close(&h);
    printf("  %-44s %s, %u tokens of the same, %u of the next turn\n", "from the prefix cache",
           n ? "DIFFERS" : "equal", hits[1], hits[4]);
    if (hits[1] == 0 || hits[4] <= hits[1] || hits[2] || hits[3]) {
        printf("  cache: %u %u %u %u %u tokens: the case tests nothing, or too much\n", hits[0],
               hits[1], hits[2], hits[3], hits[4]);
        n++;
    }
    return n;
}

/* ---- choices ---- */

#define CHOICES 4 /* of each of the first STREAMS / CHOICES prompts */

/* Every choice alone, as a request of its own with the seed that the choice has. */
static void choices_alone(struct harness *h, const struct prompt_set *set, struct answer *ret_alone)
{
    for (uint32_t i = 0; i < STREAMS; i++) {
        static struct prompt_set one;
        one = *set;
        struct sample_params *sampling = &one.sampling[i / CHOICES];
        sampling->seed = request_choice_seed(sampling->seed, i % CHOICES);
        struct stream *stream = prompt_start(h, &one, i / CHOICES, 0);
        CHECK(harness_drain(h, 5 * MINUTE));
        answer_take(stream, &ret_alone[i]);
    }
}

static uint32_t answers_differ(const struct answer *a, const struct answer *b)
{
    uint32_t n = a->n_tokens != b->n_tokens;
    for (uint32_t k = 0; n == 0 && k < a->n_tokens; k++)
        n += !sample_equal(&a->tokens[k].sample, &b->tokens[k].sample);
    return n;
}

/* Greedy choices are equal; sampled ones are not all the same. */
static uint32_t choices_kinds(const struct prompt_set *set, const struct answer *got)
{
    uint32_t failures = 0, n_different = 0;
    for (uint32_t i = 0; i < STREAMS; i++) {
        uint32_t different = answers_differ(&got[i], &got[i / CHOICES * CHOICES]);
        if (set->sampling[i / CHOICES].temperature > 0)
            n_different += different;
        else
            failures += different;
    }
    if (failures || n_different < STREAMS / 4) {
        printf("  choices: %u greedy ones differ, %u sampled ones do\n", failures, n_different);
        failures++;
    }
    return failures;
}

static void choices_start(struct harness *h, const struct prompt_set *set, uint64_t domain,
                          struct stream **ret_streams)
{
    for (uint32_t i = 0; i < STREAMS / CHOICES; i++) {
        struct stream_options options = {.cache_domain = domain,
                                         .ids = set->ids[i],
                                         .n_ids = set->n_ids[i],
                                         .output_tokens_max = OUTPUT_TOKENS,
                                         .sampling = set->sampling[i],
                                         .biases = set->biases[i],
                                         .stop_ids = set->stop_ids[i],
                                         .n_stop_ids = set->sampling[i].min_tokens ? STOP_IDS : 0};
        streams_start(h, &options, CHOICES, &ret_streams[i * CHOICES]);
    }
}

/* Prompts are computed once, and their last token by each choice. */
static uint32_t choices_cost(const struct prompt_set *set, const struct sched_stats *stats,
                             const char *what)
{
    uint64_t expected = 0;
    for (uint32_t i = 0; i < STREAMS / CHOICES; i++)
        expected += set->n_ids[i] + CHOICES - 1;
    if (stats->prompt_tokens_total == expected)
        return 0;
    printf("  %s: %llu prompt tokens were computed; once is %llu\n", what,
           (unsigned long long)stats->prompt_tokens_total, (unsigned long long)expected);
    return 1;
}

static uint32_t choices_together(const struct harness_options *options,
                                 const struct prompt_set *set, uint64_t domain,
                                 const struct answer *alone, const char *what)
{
    static struct answer got[STREAMS];
    struct stream *streams[STREAMS];
    struct harness h;
    struct engine_status status;
    harness_open(&h, options);
    choices_start(&h, set, domain, streams);
    CHECK(harness_drain(&h, 5 * MINUTE));
    for (uint32_t i = 0; i < STREAMS; i++)
        answer_take(streams[i], &got[i]);
    harness_turn(&h, 50 * NS_PER_MS);
    engine_status(h.engine, &status);
    harness_close(&h);
    uint32_t n = differences(alone, got, what) + choices_kinds(set, got);
    printf("  %-44s %s, %llu prompt tokens computed, %llu preemptions\n", what,
           n ? "DIFFERS" : "equal", (unsigned long long)status.sched.prompt_tokens_total,
           (unsigned long long)status.sched.preempted_total);
    if (options->policy == &policy_fcfs ? !was_preempted(&h, &status.sched)
                                        : choices_cost(set, &status.sched, what)) {
        printf("  %s: the case tests nothing, or costs too much\n", what);
        n++;
    }
    return n;
}

static uint32_t choices(const char *path, const struct prompt_set *set)
{
    static struct answer alone[STREAMS];
    struct harness h;
    struct harness_options options = {
        .path = path, .kv_dtype = kv_dtype, .threads_count = 1, .context_tokens = 128};
    uint32_t n = 0;
    harness_open(&h, &options);
    choices_alone(&h, set, alone);
    harness_close(&h);
    options.chunk_tokens = 64;
    n += choices_together(&options, set, 0, alone, "8 prompts of 4 choices, chunks of 64");
    options.chunk_tokens = 7;
    options.threads_count = 2;
    n += choices_together(&options, set, 7, alone, "4 choices, chunks of 7, 2 threads, a domain");
    options.running_max = 3;
    n += choices_together(&options, set, 0, alone, "4 choices, 3 at a time");
    options.running_max = 32;
    options.policy = &policy_fcfs;
    options.blocks_count = 14;
    n += choices_together(&options, set, 0, alone, "4 choices, preempted");
    return n;
}

static uint32_t model_test(const char *path)
{
    static struct prompt_set set;
    static struct answer alone[STREAMS];
    struct harness h;
    uint32_t failures = 0;
    struct harness_options options = {
        .path = path, .kv_dtype = kv_dtype, .threads_count = 1, .context_tokens = 128};
    printf("%s\n", path);
    harness_open(&h, &options);
    prompts_make(&set, h.plan.arch.vocab);
    for (uint32_t i = 0; i < STREAMS; i++) {
        struct stream *stream = prompt_start(&h, &set, i, 0);
        CHECK(harness_drain(&h, 5 * MINUTE));
        answer_take(stream, &alone[i]);
    }
    harness_close(&h);

    options.chunk_tokens = 64;
    failures += together(&options, &set, alone, "32 at once, chunks of 64, 1 thread");
    options.chunk_tokens = 7;
    failures += together(&options, &set, alone, "32 at once, chunks of 7, 1 thread");
    options.threads_count = 2;
    options.chunk_tokens = 33;
    options.step_tokens = 100;
    failures += together(&options, &set, alone, "32 at once, chunks of 33, 2 threads");
    options.chunk_tokens = 1;
    failures += together(&options, &set, alone, "32 at once, chunks of 1, 2 threads");
    options.chunk_tokens = 19;
    options.policy = &policy_fcfs; /* which preempts; the fair one foresees */
    options.blocks_count = 30;     /* 32 streams want up to 8 blocks each */
    failures += together(&options, &set, alone, "32 at once, preempted, 2 threads");
    options.threads_count = 1;
    options.blocks_count = 12;
    failures += together(&options, &set, alone, "32 at once, preempted often, 1 thread");
    options.policy = &policy_fair;
    failures += together(&options, &set, alone, "32 at once, fair, the same pool");
    failures += choices(path, &set);
    return failures + cached(path, &set, alone);
}

static bool tier_missing(void)
{
    struct device_options options = {.threads_count = 1};
    struct device *device;
    struct error error = {0};
    if (ops_cpu.device_open(&options, &device, &error) != STATUS_OK) {
        printf("skipped: %s\n", error.text);
        CHECK(strstr(error.text, "not supported by this CPU"));
        return true;
    }
    printf("%s\n", ops_cpu.device_text(device));
    ops_cpu.device_close(device);
    return false;
}

/* Whether a word is a type of K and V, for the models after it. */
static bool kv_dtype_set(const char *word)
{
    static const struct {
        const char *word;
        enum dtype dtype;
    } types[] = {
        {"f32", DTYPE_F32}, {"bf16", DTYPE_BF16}, {"q8", DTYPE_Q8_0}, {"fp8", DTYPE_KV_E4M3}};
    for (size_t i = 0; i < array_count(types); i++)
        if (strcmp(word, types[i].word) == 0) {
            kv_dtype = types[i].dtype;
            printf("K and V in %s\n", dtype_name(kv_dtype));
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    uint32_t failures = 0, n_models = 0;
    if (tier_missing())
        return 77;
    for (int i = 1; i < argc; i++) {
        if (kv_dtype_set(argv[i]))
            continue;
        failures += model_test(argv[i]);
        n_models++;
    }
    CHECK(n_models > 0);
    printf("%u differences\n", failures);
    return failures ? 1 : 0;
}
