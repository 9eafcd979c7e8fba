#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/step.h"

static const struct step_limits limits = {
    .slots_max = 4,
    .rows_max = 6,
    .tokens_max = 32,
    .open_tokens_max = 100,
    .context_tokens = 64,
    .block_tokens = 16,
    .blocks_count = 10,
};

static struct step *step;
static size_t step_bytes;

/* Close 0; open 1 with 5 tokens and a block; copy 2 to 3; two rows. All of it right. */
static void step_make(void)
{
    step_begin(step, &limits, 77, 5);
    step->n_closes = 1;
    step_closes(step)[0] = 0;
    step->n_opens = 1;
    step->n_tokens = 5;
    step->n_blocks = 2;
    step_opens(step)[0] = (struct step_open){
        .slot = 1, .n_tokens = 5, .n_blocks = 1, .output_tokens = 2, .entries_first = 1};
    step_opens(step)[0].sampling.n_biases = 2;
    step_opens(step)[0].sampling.n_holds = 1;
    step->n_entries = 4;
    for (uint32_t i = 0; i < step->n_entries; i++)
        step_entries(step)[i] = (struct sample_entry){i, 1.5f};
    step->n_copies = 1;
    step_copies(step)[0] = (struct step_copy){.from_block = 2, .to_block = 3};
    step->n_rows = 2;
    step_rows(step)[0] = (struct step_row){
        .slot = 1, .n_tokens = 5, .flags = STEP_ROW_SAMPLES, .mask_slot = STEP_MASK_NONE};
    step_rows(step)[1] = (struct step_row){.slot = 2,
                                           .first_position = 16,
                                           .n_tokens = 1,
                                           .source = STEP_LAST_SAMPLED,
                                           .n_blocks = 1,
                                           .blocks_first = 1,
                                           .mask_slot = STEP_MASK_NONE};
    for (uint32_t i = 0; i < step->n_tokens; i++)
        step_tokens(step)[i] = 1000 + i;
    for (uint32_t i = 0; i < step->n_blocks; i++)
        step_blocks(step)[i] = 8 + i;
}

static int step_open_memory(void **state)
{
    step_bytes = step_bytes_max(&limits);
    step = malloc(step_bytes); /* exactly, for ASan */
    assert_non_null(step);
    memset(step, 0xee, step_bytes);
    step_make();
    return 0;
}

static int step_free_memory(void **state)
{
    free(step);
    return 0;
}

static void takes_a_good_step(void **state)
{
    struct error error = {0};
    if (step_check(step, step_bytes, &limits, &error))
        fail_msg("%s", error.text);
    assert_int_equal(step->epoch, 77);
    assert_int_equal(step->number, 5);
    assert_int_equal(step->version, STEP_VERSION);
}

/* All arrays at their largest have room, 8-byte aligned, and do not overlap. */
static void lays_out_the_largest_step(void **state)
{
    struct error error = {0};
    char *end = (char *)step + step_bytes;
    step->n_closes = limits.slots_max;
    step->n_opens = limits.slots_max;
    step->n_copies = limits.blocks_count;
    step->n_rows = limits.rows_max;
    step->n_tokens = limits.open_tokens_max;
    step->n_blocks = limits.slots_max * step_slot_blocks_max(&limits);
    step->n_entries = limits.slots_max * SAMPLE_ENTRIES_MAX;
    assert_int_equal(step_slot_blocks_max(&limits), 4);
    const struct {
        void *start, *end;
    } arrays[] = {
        {step_closes(step), step_closes(step) + step->n_closes},
        {step_opens(step), step_opens(step) + step->n_opens},
        {step_copies(step), step_copies(step) + step->n_copies},
        {step_rows(step), step_rows(step) + step->n_rows},
        {step_tokens(step), step_tokens(step) + step->n_tokens},
        {step_blocks(step), step_blocks(step) + step->n_blocks},
        {step_entries(step), step_entries(step) + step->n_entries},
    };
    char *before = (char *)(step + 1);
    for (size_t i = 0; i < array_count(arrays); i++) {
        assert_int_equal(((char *)arrays[i].start - (char *)step) % 8, 0);
        assert_true((char *)arrays[i].start >= before && (char *)arrays[i].end <= end);
        before = arrays[i].end;
    }
    for (uint32_t i = 0; i < limits.slots_max; i++) {
        step_closes(step)[i] = i;
        step_opens(step)[i] = (struct step_open){.slot = i,
                                                 .n_tokens = 25,
                                                 .tokens_first = 25 * i,
                                                 .n_blocks = 4,
                                                 .blocks_first = 4 * i,
                                                 .entries_first = SAMPLE_ENTRIES_MAX * i};
        step_opens(step)[i].sampling.n_biases = SAMPLE_BIASES_MAX;
        step_opens(step)[i].sampling.n_holds = SAMPLE_HOLDS_MAX;
    }
    for (uint32_t i = 0; i < step->n_entries; i++)
        step_entries(step)[i] = (struct sample_entry){i, -100};
    for (uint32_t i = 0; i < limits.blocks_count; i++)
        step_copies(step)[i] = (struct step_copy){i, 9 - i};
    for (uint32_t i = 0; i < limits.rows_max; i++)
        step_rows(step)[i] = (struct step_row){.n_tokens = i ? 6 : 2, .mask_slot = STEP_MASK_NONE};
    for (uint32_t i = 0; i < step->n_blocks; i++)
        step_blocks(step)[i] = i % limits.blocks_count;
    if (step_check(step, step_bytes, &limits, &error))
        fail_msg("%s", error.text);
    assert_int_equal(step_result_bytes_max(&limits),
                     sizeof(struct step_result) + 6 * sizeof(struct step_result_row));
}

/* The last positions of the longest sequence, and one past them. */
static void knows_the_context(void **state)
{
    struct error error = {0};
    struct step_row *row = &step_rows(step)[1];
    row->first_position = 63;
    assert_int_equal(step_check(step, step_bytes, &limits, &error), STATUS_OK);
    row->flags = STEP_ROW_SAMPLES;
    assert_int_equal(step_check(step, step_bytes, &limits, &error), STATUS_INVALID);
    row->first_position = 62;
    assert_int_equal(step_check(step, step_bytes, &limits, &error), STATUS_OK);
    row->flags = 0;
    row->first_position = 64;
    assert_int_equal(step_check(step, step_bytes, &limits, &error), STATUS_INVALID);
}

#define OPEN step_opens(step)[0]
#define ROW step_rows(step)[1]
/* Each row sets one field to a value that must be refused. */
#define BAD(name, assignment)                                                                      \
    static void bad_##name(void)                                                                   \
    {                                                                                              \
        assignment;                                                                                \
    }
BAD(version, step->version = 1)
BAD(size_small, step->size_bytes = 8)
BAD(size_large, step->size_bytes += 1)
BAD(closes_count, step->n_closes = 5)
BAD(opens_count, step->n_opens = UINT32_MAX)
BAD(copies_count, step->n_copies = 11)
BAD(rows_count, step->n_rows = 7)
BAD(tokens_count, step->n_tokens = 101)
BAD(blocks_count, step->n_blocks = 17)
BAD(closes_offset, step->closes_offset = 0)
BAD(opens_offset, step->opens_offset += 4)
BAD(copies_offset, step->copies_offset = UINT32_MAX - 7)
BAD(rows_offset, step->rows_offset = step->size_bytes)
BAD(tokens_offset, step->tokens_offset = step->size_bytes - 16)
BAD(blocks_offset, step->blocks_offset = step->size_bytes & ~7u)
BAD(close_slot, step_closes(step)[0] = 4)
BAD(copy_from, step_copies(step)[0].from_block = 10)
BAD(copy_to, step_copies(step)[0].to_block = UINT32_MAX)
BAD(block, step_blocks(step)[1] = 10)
BAD(open_slot, OPEN.slot = 4)
BAD(open_no_tokens, OPEN.n_tokens = 0)
BAD(open_tokens_many, OPEN.n_tokens = 65)
BAD(open_tokens_first, OPEN.tokens_first = 1)
BAD(open_tokens_wrap, OPEN.tokens_first = UINT32_MAX)
BAD(open_blocks_many, OPEN.n_blocks = 5)
BAD(open_blocks_behind, OPEN.behind_blocks = 5 - OPEN.n_blocks)
BAD(open_behind_wrap, OPEN.behind_blocks = UINT32_MAX)
BAD(open_blocks_first, OPEN.blocks_first = 2)
BAD(open_blocks_wrap, OPEN.blocks_first = UINT32_MAX)
BAD(open_cached_all, OPEN.cached_tokens = 5)
BAD(open_cached_more, (step->n_tokens = 20, OPEN.n_tokens = 20, OPEN.cached_tokens = 17))
BAD(open_adapter, OPEN.adapter = 1)
BAD(temperature_negative, OPEN.sampling.temperature = -0.5f)
BAD(temperature_nan, OPEN.sampling.temperature = NAN)
BAD(temperature_infinite, OPEN.sampling.temperature = INFINITY)
BAD(top_p_nan, OPEN.sampling.top_p = NAN)
BAD(top_p_large, OPEN.sampling.top_p = 1.5f)
BAD(top_p_negative, OPEN.sampling.top_p = -0.1f)
BAD(logprobs, OPEN.sampling.n_logprobs = 21)
BAD(min_p_nan, OPEN.sampling.min_p = NAN)
BAD(min_p_large, OPEN.sampling.min_p = 1.01f)
BAD(repetition_nan, OPEN.sampling.repetition_penalty = NAN)
BAD(repetition_negative, OPEN.sampling.repetition_penalty = -1)
BAD(repetition_infinite, OPEN.sampling.repetition_penalty = INFINITY)
BAD(presence_nan, OPEN.sampling.presence_penalty = NAN)
BAD(presence_infinite, OPEN.sampling.presence_penalty = -INFINITY)
BAD(frequency_nan, OPEN.sampling.frequency_penalty = NAN)
BAD(frequency_large, OPEN.sampling.frequency_penalty = 1001)
BAD(biases_many, OPEN.sampling.n_biases = 301)
BAD(biases_wrap, OPEN.sampling.n_biases = UINT32_MAX)
BAD(holds_many, OPEN.sampling.n_holds = 33)
BAD(holds_wrap, OPEN.sampling.n_holds = UINT32_MAX)
BAD(entries_first, OPEN.entries_first = 2)
BAD(entries_first_wrap, OPEN.entries_first = UINT32_MAX)
BAD(entries_count, step->n_entries = 4 * 332 + 1)
BAD(entries_few, step->n_entries = 3)
BAD(entries_offset, step->entries_offset = step->size_bytes - 24)
BAD(bias_nan, step_entries(step)[2].value = NAN)
BAD(bias_infinite, step_entries(step)[1].value = -INFINITY)
BAD(open_output_all, OPEN.output_tokens = 5)
BAD(open_output_wrap, OPEN.output_tokens = UINT32_MAX)
BAD(row_slot, ROW.slot = 4)
BAD(row_no_tokens, ROW.n_tokens = 0)
BAD(row_position, ROW.first_position = 64)
BAD(row_position_wrap, ROW.first_position = UINT32_MAX)
BAD(row_tokens_wrap, (ROW.source = STEP_HISTORY, ROW.n_tokens = UINT32_MAX))
BAD(row_source, ROW.source = 2)
BAD(row_last_two, ROW.n_tokens = 2)
BAD(row_flags, ROW.flags = 2)
BAD(row_blocks_many, ROW.n_blocks = 5)
BAD(row_blocks_first, ROW.blocks_first = 2)
BAD(row_mask, ROW.mask_slot = 0)
BAD(rows_tokens, (step_rows(step)[0].n_tokens = 20, ROW.source = STEP_HISTORY, ROW.n_tokens = 13))

static const struct {
    void (*spoil)(void);
    const char *text;
} bad_steps[] = {
    {bad_version, "version 1, expected 4"},
    {bad_size_small, "step 5: it says 8 bytes"},
    {bad_size_large, "step 5: it says "},
    {bad_closes_count, "5 closes, expected at most 4"},
    {bad_opens_count, "4294967295 opens, expected at most 4"},
    {bad_copies_count, "11 copies, expected at most 10"},
    {bad_rows_count, "7 rows, expected at most 6"},
    {bad_tokens_count, "101 tokens, expected at most 100"},
    {bad_blocks_count, "17 blocks, expected at most 16"},
    {bad_closes_offset, "closes: 4 bytes at offset 0"},
    {bad_opens_offset, "opens: "},
    {bad_copies_offset, "copies: 8 bytes at offset 4294967288"},
    {bad_rows_offset, "rows: "},
    {bad_tokens_offset, "tokens: 20 bytes at offset"},
    {bad_blocks_offset, "blocks: 8 bytes at offset"},
    {bad_close_slot, "close 0: slot out of range"},
    {bad_copy_from, "copy 0: block out of range"},
    {bad_copy_to, "copy 0: block out of range"},
    {bad_block, "block entry 1: block out of range"},
    {bad_open_slot, "open 0: slot out of range"},
    {bad_open_no_tokens, "open 0: n_tokens: expected 1..context_tokens"},
    {bad_open_tokens_many, "open 0: n_tokens: expected 1..context_tokens"},
    {bad_open_tokens_first, "open 0: its tokens lie outside"},
    {bad_open_tokens_wrap, "open 0: its tokens lie outside"},
    {bad_open_blocks_many, "open 0: more blocks than the longest sequence needs"},
    {bad_open_blocks_behind, "open 0: more blocks than the longest sequence needs"},
    {bad_open_behind_wrap, "open 0: more blocks than the longest sequence needs"},
    {bad_open_blocks_first, "open 0: its blocks lie outside"},
    {bad_open_blocks_wrap, "open 0: its blocks lie outside"},
    {bad_open_cached_all, "open 0: cached_tokens: expected less than n_tokens"},
    {bad_open_cached_more, "open 0: cached_tokens: expected less than n_tokens"},
    {bad_open_adapter, "open 0: adapter: expected 0"},
    {bad_temperature_negative, "open 0: temperature: expected a number 0..1000"},
    {bad_temperature_nan, "open 0: temperature"},
    {bad_temperature_infinite, "open 0: temperature"},
    {bad_top_p_nan, "open 0: top_p: expected a number 0..1"},
    {bad_top_p_large, "open 0: top_p"},
    {bad_top_p_negative, "open 0: top_p"},
    {bad_logprobs, "open 0: n_logprobs: expected at most 20"},
    {bad_min_p_nan, "open 0: min_p: expected a number 0..1"},
    {bad_min_p_large, "open 0: min_p"},
    {bad_repetition_nan, "open 0: repetition_penalty: expected a number 0..1000"},
    {bad_repetition_negative, "open 0: repetition_penalty"},
    {bad_repetition_infinite, "open 0: repetition_penalty"},
    {bad_presence_nan, "open 0: presence_penalty: expected a number -1000..1000"},
    {bad_presence_infinite, "open 0: presence_penalty"},
    {bad_frequency_nan, "open 0: frequency_penalty: expected a number -1000..1000"},
    {bad_frequency_large, "open 0: frequency_penalty"},
    {bad_biases_many, "open 0: n_biases: expected at most 300"},
    {bad_biases_wrap, "open 0: n_biases"},
    {bad_holds_many, "open 0: n_holds: expected at most 32"},
    {bad_holds_wrap, "open 0: n_holds"},
    {bad_entries_first, "open 0: its entries lie outside"},
    {bad_entries_first_wrap, "open 0: its entries lie outside"},
    {bad_entries_count, "1329 entries, expected at most 1328"},
    {bad_entries_few, "open 0: its entries lie outside"},
    {bad_entries_offset, "entries: 32 bytes at offset"},
    {bad_bias_nan, "open 0: bias: expected a number -1000..1000"},
    {bad_bias_infinite, "open 0: bias"},
    {bad_open_output_all, "open 0: output_tokens: expected less than n_tokens"},
    {bad_open_output_wrap, "open 0: output_tokens"},
    {bad_row_slot, "row 1: slot out of range"},
    {bad_row_no_tokens, "row 1: n_tokens: expected 1 or more"},
    {bad_row_position, "row 1: its positions"},
    {bad_row_position_wrap, "row 1: its positions"},
    {bad_row_tokens_wrap, "row 1: its positions"},
    {bad_row_source, "row 1: source: expected 0 (history) or 1"},
    {bad_row_last_two, "row 1: n_tokens: expected 1 with the source last sampled"},
    {bad_row_flags, "row 1: flags: an unknown flag"},
    {bad_row_blocks_many, "row 1: more blocks than"},
    {bad_row_blocks_first, "row 1: its blocks lie outside"},
    {bad_row_mask, "row 1: mask_slot: expected none"},
    {bad_rows_tokens, "rows have 33 tokens, expected at most 32"},
};

static void refuses_bad_steps(void **state)
{
    for (size_t i = 0; i < array_count(bad_steps); i++) {
        struct error error = {0};
        step_make();
        bad_steps[i].spoil();
        enum status status = step_check(step, step_bytes, &limits, &error);
        if (status != STATUS_INVALID || !strstr(error.text, bad_steps[i].text))
            fail_msg("row %zu (\"%s\"): %s, %s", i, bad_steps[i].text, status_name(status),
                     error.text);
    }
}

static void refuses_short_messages(void **state)
{
    struct error error = {0};
    for (size_t size = 0; size < step_bytes; size++)
        assert_int_equal(step_check(step, size, &limits, &error), STATUS_INVALID);
}

static void checks_limits(void **state)
{
    static const struct {
        size_t offset;
        uint32_t value;
        const char *text;
    } table[] = {
        {offsetof(struct step_limits, slots_max), 0, "slots_max: expected 1..65536, got 0"},
        {offsetof(struct step_limits, slots_max), 1u << 31, "slots_max"},
        {offsetof(struct step_limits, rows_max), 0, "rows_max"},
        {offsetof(struct step_limits, tokens_max), 0, "tokens_max"},
        {offsetof(struct step_limits, open_tokens_max), 63, "open_tokens_max: expected 64.."},
        {offsetof(struct step_limits, context_tokens), 0, "context_tokens"},
        {offsetof(struct step_limits, context_tokens), UINT32_MAX, "context_tokens"},
        {offsetof(struct step_limits, block_tokens), 0, "block_tokens"},
        {offsetof(struct step_limits, blocks_count), 0, "blocks_count"},
    };
    struct error error = {0};
    assert_int_equal(step_limits_check(&limits, &error), STATUS_OK);
    for (size_t i = 0; i < array_count(table); i++) {
        struct step_limits bad = limits;
        memcpy((char *)&bad + table[i].offset, &table[i].value, sizeof table[i].value);
        enum status status = step_limits_check(&bad, &error);
        if (status != STATUS_INVALID || !strstr(error.text, table[i].text))
            fail_msg("row %zu: %s, %s", i, status_name(status), error.text);
    }
    struct step_limits huge = limits;
    huge.slots_max = 1 << 16;
    huge.context_tokens = 1 << 24;
    huge.open_tokens_max = 1 << 24;
    assert_int_equal(step_limits_check(&huge, &error), STATUS_INVALID);
    assert_true(strstr(error.text, "a step would have"));
}

int main(void)
{
#define STEP_TEST(f) cmocka_unit_test_setup_teardown(f, step_open_memory, step_free_memory)
    const struct CMUnitTest tests[] = {
        STEP_TEST(takes_a_good_step),      STEP_TEST(lays_out_the_largest_step),
        STEP_TEST(knows_the_context),      STEP_TEST(refuses_bad_steps),
        STEP_TEST(refuses_short_messages), cmocka_unit_test(checks_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
