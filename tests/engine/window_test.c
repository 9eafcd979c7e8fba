/*
 * A sliding window through the whole engine: streams far longer than the pool of KV blocks run to
 * their end, and every token and log-probability is the bits of a model that was driven by hand and
 * whose blocks stay where they are. Whatever the chunks, among others, preempted, and from a prefix
 * cache that has lost the beginning of the prompt.
 *
 * usage: window_test MODEL_DIRECTORY (its window must be shorter than the prompts here)
 * The CPU tier is what GALERNE_CPU_TIER names; exit code 77: this CPU lacks it.
 */
#include "base/clock.h"
#include "sched/policy.h"
#include "tests/engine/harness.h"
#include "tests/golden/drive.h"

#define CONTEXT 512
#define BLOCK 16
#define LONG_PROMPT 300
#define LONG_OUTPUT 200
#define STREAMS 8
#define OUTPUT 70
#define PROMPT_MAX (LONG_PROMPT + LONG_OUTPUT)
#define MINUTE (60 * NS_PER_S)

struct question {
    uint32_t n_ids;
    uint32_t ids[PROMPT_MAX];
    uint32_t output_tokens;
    struct sample_params sampling;
};

struct answer {
    struct sample_result samples[LONG_OUTPUT]; /* [output_tokens] */
};

static const char *path;
static uint32_t failures;

static uint64_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

static void question_make(struct question *q, uint32_t n_ids, uint32_t output_tokens, uint64_t seed)
{
    memset(q, 0, sizeof *q);
    q->n_ids = n_ids;
    q->output_tokens = output_tokens;
    for (uint32_t i = 0; i < n_ids; i++)
        q->ids[i] = 3 + (uint32_t)random_next(&seed) % 300;
    q->sampling.n_logprobs = 4;
    if (n_ids % 2) {
        q->sampling.temperature = 0.9f;
        q->sampling.seed = seed;
        q->sampling.top_p = 0.95f;
        q->sampling.repetition_penalty = 1.2f; /* which looks at the whole history */
    }
}

/* By hand: one token after the other after the prompt, in one table that only grows. */
static void answer_expect(struct drive *d, const struct question *q, struct answer *ret_answer)
{
    drive_slot_open(d, 0, q->ids, q->n_ids, &q->sampling);
    drive_row(d, 0, q->n_ids, STEP_HISTORY, true);
    for (uint32_t i = 0; i < q->output_tokens; i++) {
        const struct step_result *result = drive_run(d);
        CHECK(result->n_rows == 1 && result->rows[0].position == q->n_ids + i);
        ret_answer->samples[i] = result->rows[0].sample;
        if (i + 1 < q->output_tokens)
            drive_row(d, 0, 1, STEP_LAST_SAMPLED, true);
    }
    drive_slot_close(d, 0);
    drive_run(d);
}

static struct stream *question_start(struct harness *h, const struct question *q, uint64_t domain)
{
    struct stream_options options = {.ids = q->ids,
                                     .n_ids = q->n_ids,
                                     .output_tokens_max = q->output_tokens,
                                     .sampling = q->sampling,
                                     .cache_domain = domain};
    return stream_start(h, &options);
}

/* Until all have ended; the most blocks that were seen in use. */
static uint32_t drain(struct harness *h)
{
    uint64_t until_ns = clock_now_ns() + 5 * MINUTE;
    uint32_t most = 0;
    struct engine_status status;
    while (h->n_open) {
        CHECK(clock_now_ns() < until_ns);
        harness_turn(h, NS_PER_MS);
        engine_status(h->engine, &status);
        most = u32_max(most, status.sched.blocks_used);
    }
    return most;
}

static bool sample_equal(const struct sample_result *a, const struct sample_result *b)
{
    return a->id == b->id && memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 &&
           a->n_top == b->n_top &&
           memcmp(a->top_id, b->top_id, a->n_top * sizeof a->top_id[0]) == 0 &&
           memcmp(a->top_logprob, b->top_logprob, a->n_top * sizeof a->top_logprob[0]) == 0;
}

static void answer_check(struct stream *stream, const struct question *q,
                         const struct answer *expected, const char *what)
{
    bool same =
        stream->ended && stream->finish == FINISH_LENGTH && stream->n_tokens == q->output_tokens;
    if (!same)
        printf("  %s: %u of %u tokens: %s\n", what, stream->n_tokens, q->output_tokens,
               stream->text);
    for (uint32_t i = 0; same && i < q->output_tokens; i++) {
        same = sample_equal(&stream->tokens[i].sample, &expected->samples[i]);
        if (!same)
            printf("  %s: a prompt of %u tokens: token %u differs\n", what, q->n_ids, i);
    }
    failures += !same;
    stream_free(stream);
}

static void must(bool condition, const char *what)
{
    if (condition)
        return;
    printf("  %s: the case tests nothing, or too much\n", what);
    failures++;
}

static uint32_t formula(uint32_t window_tokens, uint32_t chunk_tokens)
{
    return (window_tokens + 2 * chunk_tokens - 2 + BLOCK - 1) / BLOCK + 1;
}

/* ---- cases ---- */

static void long_stream(const struct question *q, const struct answer *expected,
                        uint32_t chunk_tokens, uint32_t blocks_count)
{
    struct harness h;
    struct harness_options options = {.path = path,
                                      .context_tokens = CONTEXT,
                                      .chunk_tokens = chunk_tokens,
                                      .blocks_count = blocks_count,
                                      .threads_count = 1 + chunk_tokens % 2};
    harness_open(&h, &options);
    uint32_t window = h.plan.arch.window_tokens, bound = formula(window, chunk_tokens);
    struct stream *stream = question_start(&h, q, 0);
    uint32_t most = drain(&h);
    answer_check(stream, q, expected, "a long stream");
    harness_turn(&h, 50 * NS_PER_MS);
    struct engine_status status;
    engine_status(h.engine, &status);
    harness_close(&h);
    must(window > 0 && window < q->n_ids, "window");
    must(status.sched.preempted_total == 0 && status.sched.blocks_used == 0, "a long stream");
    if (most > bound) {
        printf("  %u blocks were in use, the formula says %u\n", most, bound);
        failures++;
    }
    printf("  %u + %u tokens are %u blocks; chunks of %u; a pool of %u: at most %u in use of %u\n",
           q->n_ids, q->output_tokens, (q->n_ids + q->output_tokens + BLOCK - 1) / BLOCK,
           chunk_tokens, blocks_count, most, bound);
}

/* Returns how often one was preempted. */
static uint64_t together(const struct question *questions, const struct answer *expected,
                         const struct sched_policy *policy, uint32_t blocks_count)
{
    struct harness h;
    struct stream *streams[STREAMS];
    struct engine_status status;
    struct harness_options options = {.path = path,
                                      .context_tokens = CONTEXT,
                                      .chunk_tokens = 8,
                                      .step_tokens = 32,
                                      .blocks_count = blocks_count,
                                      .threads_count = 2,
                                      .policy = policy};
    harness_open_only(&h, &options); /* all are in line before the first step */
    for (uint32_t i = 0; i < STREAMS; i++)
        streams[i] = question_start(&h, &questions[i], 0);
    uint32_t most = drain(&h);
    for (uint32_t i = 0; i < STREAMS; i++)
        answer_check(streams[i], &questions[i], &expected[i], "together");
    harness_turn(&h, 50 * NS_PER_MS);
    engine_status(h.engine, &status);
    harness_close(&h);
    printf("  %u streams, %s, a pool of %u: at most %u in use, %llu preemptions\n", STREAMS,
           policy->name, blocks_count, most, (unsigned long long)status.sched.preempted_total);
    return status.sched.preempted_total;
}

/* The same prompt again, and the next turn of it; the pool is shorter than the prompt, so what is
 * found begins in its middle. */
static void cached(struct drive *d, const struct question *first, const struct answer *answer)
{
    static struct question next;
    static struct answer expected;
    struct harness h;
    struct harness_options options = {
        .path = path, .context_tokens = CONTEXT, .chunk_tokens = 16, .blocks_count = 10};
    next = *first;
    for (uint32_t i = 0; i < 50; i++)
        next.ids[next.n_ids++] = answer->samples[i].id;
    next.output_tokens = 40;
    answer_expect(d, &next, &expected);
    struct question short_first = *first;
    short_first.output_tokens = 60;
    harness_open(&h, &options);
    uint32_t hits[3];
    const struct question *questions[] = {&short_first, &short_first, &next};
    const struct answer *answers[] = {answer, answer, &expected};
    for (uint32_t i = 0; i < 3; i++) {
        struct stream *stream = question_start(&h, questions[i], 7);
        drain(&h);
        hits[i] = stream->cached_tokens;
        answer_check(stream, questions[i], answers[i], "from the cache");
    }
    harness_close(&h);
    printf(
        "  a prompt of %u tokens, a pool of %u: %u tokens found, then %u of its next turn's %u\n",
        first->n_ids, options.blocks_count, hits[1], hits[2], next.n_ids);
    must(hits[0] == 0 && hits[1] > 0 && hits[2] >= first->n_ids, "from the cache");
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

static void drive_begin(struct drive *d)
{
    struct error error = {0};
    struct drive_backend backend = {.ops = &ops_cpu, .threads_count = 1};
    struct step_limits limits = {.slots_max = 1,
                                 .rows_max = 1,
                                 .tokens_max = CONTEXT,
                                 .open_tokens_max = CONTEXT,
                                 .context_tokens = CONTEXT,
                                 .block_tokens = BLOCK,
                                 .blocks_count = CONTEXT / BLOCK};
    if (drive_open(d, path, &backend, &limits, &error) != STATUS_OK) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

int main(int argc, char **argv)
{
    static struct question longest, questions[STREAMS];
    static struct answer expected, answers[STREAMS];
    static const uint32_t chunks[] = {1, 7, 16, 64};
    struct drive drive;
    CHECK(argc == 2);
    path = argv[1];
    if (tier_missing())
        return 77;
    drive_begin(&drive);
    uint32_t window = model_info(drive.model)->arch.window_tokens;
    question_make(&longest, LONG_PROMPT, LONG_OUTPUT, 1);
    answer_expect(&drive, &longest, &expected);
    for (uint32_t i = 0; i < array_count(chunks); i++)
        long_stream(&longest, &expected, chunks[i], formula(window, chunks[i]));
    long_stream(&longest, &expected, 64, formula(window, 1)); /* chunks wait for one another */
    long_stream(&longest, &expected, 16, 200);

    for (uint32_t i = 0; i < STREAMS; i++) {
        question_make(&questions[i], 1 + 3 * i, OUTPUT, 20 + i);
        answer_expect(&drive, &questions[i], &answers[i]);
    }
    together(questions, answers, &policy_fair, 2 * STREAMS);
    /* Each takes one block or two to begin with, and all want two. */
    must(together(questions, answers, &policy_fcfs, STREAMS + 3) > 0, "preempted");
    cached(&drive, &longest, &expected);
    drive_close(&drive);
    printf("%u failures\n", failures);
    return failures ? 1 : 0;
}
