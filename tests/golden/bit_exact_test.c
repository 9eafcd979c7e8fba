/*
 * bit_exact: a token's bits depend on its own prefix only.
 *
 * Each sequence first runs alone, its prompt in one piece, on one thread. Then all of them run
 * together under random schedules: chunks of every size, decodes beside prefills, sequences that
 * start late, are preempted (closed, then opened again with every token so far, in another slot and
 * other blocks), prefixes whose blocks another sequence computed, shared or copied, 1, 2 and 3
 * threads. Every result and every logit must be the same to the bit.
 *
 *     bit_exact_test FOLDER BACKEND [TIER [KV_TYPE]]
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/drive.h"

#define SEQUENCES 12
#define OUTPUT_TOKENS 20
#define PROMPT_TOKENS_MAX 70
#define TOKENS_MAX (PROMPT_TOKENS_MAX + OUTPUT_TOKENS)
#define STEPS_MAX 20000
#define SHARED_BLOCKS 2 /* sequences 2 and 3, 4 and 5 ... begin with the same tokens */
#define SHARED_TOKENS (SHARED_BLOCKS * 16)

struct sequence {
    struct sample_params sampling;
    struct sample_entry entries[12]; /* biases, then held ids */
    uint32_t n_prompt;
    uint32_t tokens[TOKENS_MAX]; /* prompt, then what was sampled when alone */
    struct sample_result alone[OUTPUT_TOKENS];
    float *logits; /* [OUTPUT_TOKENS][vocab] when alone */

    /* In the schedule that runs now. */
    bool is_open, sampled_here; /* its last known token was sampled in this slot */
    uint32_t slot, known_tokens, n_rows_seen, preempted_count;
};

static struct {
    const char *folder, *tier;
    const struct ops *ops;
    uint32_t vocab;
    struct sequence sequences[SEQUENCES];
    uint64_t random;
    uint32_t shared_count, copied_count;
} test;

static struct step_limits limits = {
    /* kv_dtype: as the command line says */
    .slots_max = SEQUENCES + 3,
    .rows_max = SEQUENCES,
    .tokens_max = 96,
    .open_tokens_max = SEQUENCES * TOKENS_MAX,
    .context_tokens = 128,
    .block_tokens = 16,
    .blocks_count = SEQUENCES * 8,
};

/* 0..n-1, by a fixed generator. */
static uint32_t draw(uint32_t n)
{
    test.random = test.random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(test.random >> 33) % n;
}

/* Biases, penalties and holds for two of three sequences, among them greedy ones. */
static void sampling_enrich(struct sequence *s, uint32_t i)
{
    if (i % 3 == 0)
        return;
    s->sampling.repetition_penalty = i % 2 ? 1.3f : 0.9f;
    s->sampling.presence_penalty = i % 4 == 2 ? 0.8f : 0;
    s->sampling.frequency_penalty = i % 4 == 1 ? 0.4f : -0.1f;
    s->sampling.min_p = i % 5 ? 0.02f : 0;
    s->sampling.min_tokens = 4 + i;
    s->sampling.n_biases = i % 8;
    s->sampling.n_holds = 4;
    for (uint32_t k = 0; k < array_count(s->entries); k++)
        s->entries[k] = (struct sample_entry){(97 * i + 31 * k * k) % test.vocab,
                                              (float)(7 * (i + k) % 60) / 10 - 2};
}

static void sequences_make(void)
{
    test.random = 7;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct sequence *s = &test.sequences[i];
        /* One of one token, one of many; greedy and sampled. */
        s->n_prompt = i == 0 ? 1 : i == 1 ? PROMPT_TOKENS_MAX : 2 + draw(PROMPT_TOKENS_MAX - 1);
        if (i >= 2)
            s->n_prompt = u32_max(s->n_prompt, SHARED_TOKENS + 1 + i % 2);
        for (uint32_t t = 0; t < s->n_prompt; t++)
            s->tokens[t] = draw(test.vocab);
        if (i > 2 && i % 2)
            memcpy(s->tokens, s[-1].tokens, SHARED_TOKENS * sizeof *s->tokens);
        s->sampling = (struct sample_params){.n_logprobs = i % 6, .seed = 1000 + i};
        if (i % 2) {
            s->sampling.temperature = 0.5f + 0.25f * (float)(i % 5);
            s->sampling.top_k = i % 3 ? 0 : 40;
            s->sampling.top_p = i % 4 == 1 ? 0.9f : 1.0f;
        }
        sampling_enrich(s, i);
        s->logits = calloc((size_t)OUTPUT_TOKENS * test.vocab, sizeof *s->logits);
        assert_non_null(s->logits);
    }
}

/* One logit as biases, penalties and holds leave it, from the whole sequence so far. */
static float logit_after(const struct sequence *s, uint32_t id, float logit, uint32_t n_tokens)
{
    const struct sample_params *p = &s->sampling;
    uint32_t in_output = 0;
    bool seen = false;
    for (uint32_t i = 0; i < p->n_biases; i++)
        if (s->entries[i].id == id)
            logit += s->entries[i].value;
    for (uint32_t t = 0; t < n_tokens; t++) {
        seen |= s->tokens[t] == id;
        in_output += t >= s->n_prompt && s->tokens[t] == id;
    }
    if (seen && p->repetition_penalty > 0)
        logit = logit > 0 ? logit / p->repetition_penalty : logit * p->repetition_penalty;
    if (in_output > 0)
        logit = logit - (float)in_output * p->frequency_penalty - p->presence_penalty;
    for (uint32_t i = 0; i < p->n_holds && n_tokens - s->n_prompt < p->min_tokens; i++)
        if (s->entries[p->n_biases + i].id == id)
            logit = -INFINITY;
    return logit;
}

/* What a greedy sequence chose is the largest of those: prompt and output are told apart, and the
 * history and the entries are its own. */
static void greedy_check(const struct sequence *s, uint32_t i, const float *logits)
{
    uint32_t best = 0;
    float most = -INFINITY;
    for (uint32_t id = 0; id < test.vocab && s->sampling.temperature <= 0; id++) {
        float logit = logit_after(s, id, logits[id], s->n_prompt + i);
        if (logit > most) {
            most = logit;
            best = id;
        }
    }
    if (s->sampling.temperature <= 0)
        assert_int_equal(s->alone[i].id, best);
}

static void run_alone(struct drive *d, struct sequence *s, uint32_t slot)
{
    drive_slot_open(d, slot, s->tokens, s->n_prompt, &s->sampling);
    drive_slot_sample_by(d, 0, s->entries);
    drive_row(d, slot, s->n_prompt, STEP_HISTORY, true);
    for (uint32_t i = 0; i < OUTPUT_TOKENS; i++) {
        const struct step_result *result = drive_run(d);
        assert_int_equal(result->n_rows, 1);
        s->alone[i] = result->rows[0].sample;
        s->tokens[s->n_prompt + i] = result->rows[0].sample.id;
        memcpy(s->logits + (size_t)i * test.vocab, drive_logits(d, 0),
               test.vocab * sizeof *s->logits);
        greedy_check(s, i, s->logits + (size_t)i * test.vocab);
        if (i + 1 < OUTPUT_TOKENS)
            drive_row(d, slot, 1, STEP_LAST_SAMPLED, true);
    }
    drive_slot_close(d, slot);
    drive_run(d);
}

static struct sequence *sequence_in(uint32_t slot)
{
    for (uint32_t i = 0; i < SEQUENCES; i++)
        if (test.sequences[i].is_open && test.sequences[i].slot == slot)
            return &test.sequences[i];
    return NULL;
}

static bool sequence_done(const struct sequence *s)
{
    return s->known_tokens == s->n_prompt + OUTPUT_TOKENS;
}

static void sequence_open(struct drive *d, struct sequence *s)
{
    do
        s->slot = draw(limits.slots_max);
    while (sequence_in(s->slot));
    drive_slot_open(d, s->slot, s->tokens, s->known_tokens, &s->sampling);
    drive_slot_sample_by(d, s->known_tokens - s->n_prompt, s->entries);
    s->is_open = true;
    s->sampled_here = false;
    /* What the other one of the pair has computed may be had for nothing. */
    uint32_t i = (uint32_t)(s - test.sequences);
    const struct sequence *other = &test.sequences[i ^ 1];
    if (i >= 2 && other->is_open && d->slots[other->slot].ready_tokens >= SHARED_TOKENS &&
        draw(4)) {
        bool copied = draw(2);
        drive_slot_share(d, s->slot, other->slot, SHARED_BLOCKS, copied);
        test.shared_count += !copied;
        test.copied_count += copied;
    }
}

static void sequence_close(struct drive *d, struct sequence *s)
{
    drive_slot_close(d, s->slot);
    s->is_open = false;
}

/* The next piece of a sequence, as large as the draw and the budget of the step allow. */
static void sequence_row(struct drive *d, struct sequence *s, uint32_t chunk_max, uint32_t *budget)
{
    uint32_t left = s->known_tokens - d->slots[s->slot].computed_tokens;
    uint32_t n = u32_min(u32_min(left, 1 + draw(chunk_max)), *budget);
    if (n == 0)
        return;
    bool last = s->sampled_here && left == 1 && draw(2);
    drive_row(d, s->slot, n, last ? STEP_LAST_SAMPLED : STEP_HISTORY, n == left);
    *budget -= n;
}

static void result_compare(struct drive *d, uint32_t row, const struct step_result_row *got)
{
    struct sequence *s = sequence_in(got->slot);
    assert_non_null(s);
    uint32_t i = s->known_tokens - s->n_prompt;
    const struct sample_result *wanted = &s->alone[i];
    assert_int_equal(got->position, s->known_tokens);
    assert_int_equal(got->sample.id, wanted->id);
    assert_memory_equal(&got->sample.logprob, &wanted->logprob, sizeof wanted->logprob);
    assert_int_equal(got->sample.n_top, wanted->n_top);
    assert_memory_equal(got->sample.top_id, wanted->top_id, wanted->n_top * sizeof(uint32_t));
    assert_memory_equal(got->sample.top_logprob, wanted->top_logprob,
                        wanted->n_top * sizeof(float));
    assert_memory_equal(drive_logits(d, row), s->logits + (size_t)i * test.vocab,
                        test.vocab * sizeof(float));
    s->known_tokens++;
    s->sampled_here = true;
    s->n_rows_seen++;
}

/* One random step over all sequences; false when every one is done. */
static bool schedule_step(struct drive *d, uint32_t chunk_max)
{
    uint32_t budget = limits.tokens_max, first = draw(SEQUENCES), busy = 0;
    for (uint32_t k = 0; k < SEQUENCES; k++) {
        struct sequence *s = &test.sequences[(first + k) % SEQUENCES];
        if (sequence_done(s)) {
            if (s->is_open)
                sequence_close(d, s);
            continue;
        }
        busy++;
        if (s->is_open && draw(16) == 0) {
            sequence_close(d, s);
            s->preempted_count++;
            if (draw(2))
                continue;
        }
        if (!s->is_open && draw(3) == 0)
            sequence_open(d, s);
        if (s->is_open && draw(8))
            sequence_row(d, s, chunk_max, &budget);
    }
    const struct step_result *result = drive_run(d);
    for (uint32_t row = 0; row < result->n_rows; row++)
        result_compare(d, row, &result->rows[row]);
    return busy > 0;
}

static void run_together(struct drive *d, uint32_t chunk_max)
{
    uint32_t steps = 0, preempted = 0;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        test.sequences[i].known_tokens = test.sequences[i].n_prompt;
        test.sequences[i].n_rows_seen = test.sequences[i].preempted_count = 0;
    }
    while (schedule_step(d, chunk_max))
        assert_true(++steps < STEPS_MAX);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        assert_int_equal(test.sequences[i].n_rows_seen, OUTPUT_TOKENS);
        preempted += test.sequences[i].preempted_count;
    }
    assert_true(preempted > 0);
    assert_int_equal(d->free_count, limits.blocks_count);
}

static void same_bits(void **state)
{
    static const uint32_t chunks[] = {1, 3, 7, 16, 31, TOKENS_MAX};
    uint32_t threads_max = test.ops == &ops_ref ? 1 : 3; /* ref has no threads */
    for (uint32_t threads = 1; threads <= threads_max; threads++) {
        struct drive_backend backend = {
            .ops = test.ops, .tier = test.tier, .threads_count = threads};
        struct drive d;
        struct error error = {0};
        if (drive_open(&d, test.folder, &backend, &limits, &error))
            fail_msg("%s", error.text);
        if (threads == 1) {
            test.vocab = model_info(d.model)->arch.vocab;
            sequences_make();
            for (uint32_t i = 0; i < SEQUENCES; i++)
                run_alone(&d, &test.sequences[i], i);
        }
        for (size_t c = 0; c < array_count(chunks); c++)
            run_together(&d, chunks[c]);
        drive_close(&d);
    }
    assert_true(test.shared_count > 10 && test.copied_count > 10);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        free(test.sequences[i].logits);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits)};
    struct device *device = NULL;
    struct error error = {0};
    static const struct {
        const char *name;
        enum dtype dtype;
    } kv_types[] = {
        {"f32", DTYPE_F32}, {"bf16", DTYPE_BF16}, {"q8", DTYPE_Q8_0}, {"fp8", DTYPE_KV_E4M3}};
    size_t kv_type = 0;
    while (argc == 5 && kv_type < array_count(kv_types) &&
           strcmp(argv[4], kv_types[kv_type].name) != 0)
        kv_type++;
    if (argc < 3 || argc > 5 || !ops_find(argv[2]) || kv_type == array_count(kv_types)) {
        fprintf(stderr, "usage: bit_exact_test FOLDER ref|cpu [TIER [f32|bf16|q8|fp8]]\n");
        return 2;
    }
    limits.kv_dtype = kv_types[kv_type].dtype;
    test.folder = argv[1];
    test.ops = ops_find(argv[2]);
    test.tier = argc > 3 && argv[3][0] ? argv[3] : NULL; /* "": the best */
    struct device_options options = {.threads_count = 1, .tier = test.tier};
    if (test.ops->device_open(&options, &device, &error)) {
        bool tier_missing = strstr(error.text, "not supported by this CPU") != NULL;
        printf("%s: %s\n", tier_missing ? "skipped" : "failed", error.text);
        return tier_missing ? 77 : 1;
    }
    test.ops->device_close(device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
