/*
 * graphs: a decode step that is replayed gives the bits of its ops run one by one.
 *
 * Two models on the emulated GPU, one with graphs and one whose table has none, run the same steps
 * of random schedules: sequences come and go, in other slots and other blocks, their positions
 * cross blocks, with and without penalties, biases, held ids and a draw; steps that only decode are
 * mixed with prefill. Every result and every logit must be the same to the bit, and most decode
 * steps must have been replayed.
 *
 *     graphs_test FOLDER BACKEND TIER STEPS
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/module.h"
#include "tests/golden/drive.h"

#define SLOTS 4
#define TOKENS_MAX 40

static struct {
    const char *folder, *backend, *tier;
    uint32_t steps_max;
    uint64_t random;
    struct {
        bool is_open;
        uint32_t n_prompt, n_known, n_given; /* tokens; those with a row so far */
        uint32_t tokens[TOKENS_MAX];
        uint32_t stops_at;
    } slots[SLOTS];
} test;

static const struct step_limits limits = {
    .slots_max = SLOTS,
    .rows_max = SLOTS,
    .tokens_max = 64,
    .open_tokens_max = SLOTS * 48,
    .context_tokens = 48,
    .block_tokens = 16,
    .blocks_count = SLOTS * 3 + 2,
    .kv_dtype = DTYPE_BF16,
};

static uint32_t draw(uint32_t n)
{
    test.random = test.random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(test.random >> 33) % n;
}

/* Every way of sampling has its turn. */
static void sampling_draw(struct sample_params *ret, struct sample_entry entries[6], uint32_t vocab)
{
    static uint32_t turn;
    uint32_t way = turn++ % 6;
    *ret = (struct sample_params){.n_logprobs = draw(4), .seed = draw(1000)};
    if (way % 2) {
        ret->temperature = 0.9f;
        ret->top_k = draw(2) ? 20 : 0;
        ret->top_p = 0.9f;
        ret->min_p = draw(2) ? 0.05f : 0;
    }
    if (way >= 2) {
        ret->repetition_penalty = 1.3f;
        ret->presence_penalty = 0.4f;
        ret->frequency_penalty = draw(2) ? 0.3f : 0;
    }
    if (way >= 4) {
        ret->n_biases = 3;
        ret->n_holds = 3;
        ret->min_tokens = 4;
    }
    for (uint32_t i = 0; i < 6; i++)
        entries[i] = (struct sample_entry){draw(vocab), (float)draw(40) / 10 - 2};
}

static void open_both(struct drive *both, uint32_t slot, uint32_t vocab)
{
    struct sample_params sampling;
    struct sample_entry entries[6];
    sampling_draw(&sampling, entries, vocab);
    uint32_t n = 1 + draw(12);
    for (uint32_t i = 0; i < n; i++)
        test.slots[slot].tokens[i] = draw(vocab);
    test.slots[slot].is_open = true;
    test.slots[slot].n_prompt = test.slots[slot].n_known = n;
    test.slots[slot].n_given = 0;
    test.slots[slot].stops_at = n + 4 + draw(TOKENS_MAX - 4 - n);
    for (uint32_t i = 0; i < 2; i++) {
        drive_slot_open(&both[i], slot, test.slots[slot].tokens, n, &sampling);
        drive_slot_sample_by(&both[i], 0, entries);
    }
}

/* The next records of one slot, for both. */
static void slot_step(struct drive *both, uint32_t slot, uint32_t vocab)
{
    if (test.slots[slot].is_open && test.slots[slot].n_known >= test.slots[slot].stops_at) {
        test.slots[slot].is_open = false;
        for (uint32_t i = 0; i < 2; i++)
            drive_slot_close(&both[i], slot);
        return;
    }
    if (!test.slots[slot].is_open) {
        if (draw(6))
            return;
        open_both(both, slot, vocab);
    }
    if (draw(12) == 0)
        return; /* a step without it */
    uint32_t left = test.slots[slot].n_known - test.slots[slot].n_given;
    bool decodes = test.slots[slot].n_known > test.slots[slot].n_prompt;
    enum step_source source = decodes && draw(2) ? STEP_LAST_SAMPLED : STEP_HISTORY;
    test.slots[slot].n_given += left;
    for (uint32_t i = 0; i < 2; i++)
        drive_row(&both[i], slot, left, source, true);
}

static void results_compare(struct drive *both, const struct step_result *a,
                            const struct step_result *b, uint32_t vocab)
{
    assert_int_equal(a->n_rows, b->n_rows);
    for (uint32_t r = 0; r < a->n_rows; r++) {
        const struct step_result_row *row = &a->rows[r];
        assert_memory_equal(row, &b->rows[r], sizeof *row);
        assert_memory_equal(drive_logits(&both[0], r), drive_logits(&both[1], r),
                            vocab * sizeof(float));
        test.slots[row->slot].tokens[test.slots[row->slot].n_known++] = row->sample.id;
    }
}

static void same_bits(void **state)
{
    const struct ops *ops = NULL;
    struct error error = {0};
    if (module_ops(test.backend, &ops, &error))
        fail_msg("%s", error.text);
    struct ops plain = *ops;
    plain.graph_begin = NULL;
    const struct ops *tables[] = {ops, &plain};
    struct drive both[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct drive_backend backend = {.ops = tables[i], .tier = test.tier, .threads_count = 1};
        enum status status = drive_open(&both[i], test.folder, &backend, &limits, &error);
        if (status == STATUS_UNSUPPORTED && strstr(error.text, "not supported by")) {
            print_message("skipped: %s\n", error.text);
            skip(); /* a card without what the tier asks for: the first of both says so */
        }
        if (status)
            fail_msg("%s", error.text);
    }
    uint32_t vocab = model_info(both[0].model)->arch.vocab;
    test.random = 11;
    for (uint32_t step = 0; step < test.steps_max; step++) {
        for (uint32_t slot = 0; slot < SLOTS; slot++)
            slot_step(both, slot, vocab);
        const struct step_result *a = drive_run(&both[0]), *b = drive_run(&both[1]);
        results_compare(both, a, b, vocab);
    }
    struct model_graphs with = model_graphs_info(both[0].model);
    struct model_graphs without = model_graphs_info(both[1].model);
    print_message("%u steps: %llu could be replayed, %llu were, by %u graphs\n", test.steps_max,
                  (unsigned long long)with.runs_total, (unsigned long long)with.replays_total,
                  with.kept_count);
    assert_false(with.is_off);
    assert_true(with.kept_count >= 3);
    assert_true(with.replays_total > with.runs_total / 2 && with.replays_total > 10);
    assert_int_equal(without.replays_total, 0);
    for (uint32_t i = 0; i < 2; i++)
        drive_close(&both[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits)};
    if (argc != 5) {
        fprintf(stderr, "usage: graphs_test FOLDER BACKEND TIER STEPS\n");
        return 2;
    }
    test.folder = argv[1];
    test.backend = argv[2];
    test.tier = argv[3];
    test.steps_max = (uint32_t)strtoul(argv[4], NULL, 10);
    return cmocka_run_group_tests_name("graphs", tests, NULL, NULL);
}
