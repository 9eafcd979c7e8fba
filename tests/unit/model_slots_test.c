#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/slots.h"

#define VOCAB 50

static const struct step_limits limits = {
    .slots_max = 3,
    .rows_max = 6,
    .tokens_max = 64,
    .open_tokens_max = 64,
    .context_tokens = 64,
    .block_tokens = 16,
    .blocks_count = 16,
};

static struct slots slots;
static struct step *step;

static void step_new(void)
{
    step_begin(step, &limits, 1, step->number + 1);
}

static void add_close(uint32_t slot)
{
    step_closes(step)[step->n_closes++] = slot;
}

static void add_open(uint32_t slot, uint32_t n_tokens, uint32_t n_blocks)
{
    step_opens(step)[step->n_opens++] = (struct step_open){
        .slot = slot,
        .n_tokens = n_tokens,
        .tokens_first = step->n_tokens,
        .n_blocks = n_blocks,
        .blocks_first = step->n_blocks,
        .sampling = {.seed = slot},
    };
    for (uint32_t i = 0; i < n_tokens; i++)
        step_tokens(step)[step->n_tokens++] = (10 * slot + i) % VOCAB;
    for (uint32_t i = 0; i < n_blocks; i++)
        step_blocks(step)[step->n_blocks++] = i;
}

static void add_row(uint32_t slot, uint32_t first, uint32_t n_tokens, uint32_t n_blocks,
                    bool samples)
{
    step_rows(step)[step->n_rows++] = (struct step_row){
        .slot = slot,
        .first_position = first,
        .n_tokens = n_tokens,
        .flags = samples ? STEP_ROW_SAMPLES : 0,
        .n_blocks = n_blocks,
        .blocks_first = step->n_blocks,
        .mask_slot = STEP_MASK_NONE,
    };
    for (uint32_t i = 0; i < n_blocks; i++)
        step_blocks(step)[step->n_blocks++] = i;
}

static void add_last_row(uint32_t slot, uint32_t first)
{
    add_row(slot, first, 1, 0, true);
    step_rows(step)[step->n_rows - 1].source = STEP_LAST_SAMPLED;
}

static void accept(void)
{
    struct error error = {0};
    assert_int_equal(step_check(step, step_bytes_max(&limits), &limits, &error), STATUS_OK);
    if (slots_check(&slots, step, &error))
        fail_msg("%s", error.text);
    slots_commit(&slots, step);
    step_new();
}

/* Refused with this text, and the state is as before. */
static void refuse(const char *text)
{
    struct error error = {0};
    struct slot before[3];
    memcpy(before, slots.now, sizeof before);
    assert_int_equal(step_check(step, step_bytes_max(&limits), &limits, &error), STATUS_OK);
    assert_int_equal(slots_check(&slots, step, &error), STATUS_INVALID);
    if (!strstr(error.text, text))
        fail_msg("expected \"%s\", got \"%s\"", text, error.text);
    assert_memory_equal(before, slots.now, sizeof before);
    step_new();
}

/* Slot 1 is open with 20 tokens and two blocks, nothing computed. */
static int slots_make(void **state)
{
    struct error error = {0};
    if (slots_open(&limits, VOCAB, 0, &slots, &error))
        fail_msg("%s", error.text);
    step = calloc(1, step_bytes_max(&limits));
    assert_non_null(step);
    step_new();
    add_open(1, 20, 2);
    accept();
    return 0;
}

static int slots_drop(void **state)
{
    slots_close(&slots);
    slots_close(&slots);
    free(step);
    return 0;
}

static void follows_a_sequence(void **state)
{
    const struct slot *slot = &slots.now[1];
    const uint32_t *history = slots_history(&slots, 1);
    assert_int_equal(slot->known_tokens, 20);
    assert_int_equal(history[19], 29);
    add_row(1, 0, 7, 0, false);
    accept();
    add_row(1, 7, 13, 0, true);
    accept();
    slot = &slots.now[1];
    assert_true(slot->samples_now);
    assert_int_equal(slot->computed_tokens, 20);
    assert_int_equal(slot->known_tokens, 21);
    slots_sampled(&slots, 1, 20, 42);
    assert_int_equal(history[20], 42);
    add_last_row(1, 20);
    accept();
    slots_sampled(&slots, 1, 21, 43);
    add_row(1, 21, 1, 0, true); /* the same token, read from the history */
    accept();
    slots_sampled(&slots, 1, 22, 44);
    assert_int_equal(history[21] * 100 + history[22], 4344);
    /* Preemption: everything known comes back. */
    assert_int_equal(slots.now[1].prompt_tokens, 20);
    add_close(1);
    add_open(1, 23, 0);
    step_opens(step)[0].output_tokens = 3;
    add_row(1, 0, 23, 2, true);
    accept();
    slot = &slots.now[1];
    assert_int_equal(slot->prompt_tokens, 20);
    assert_int_equal(slot->n_blocks, 2);
    assert_int_equal(slot->known_tokens, 24);
    assert_int_equal(slot->sampled_position, 23);
    slots_reset(&slots);
    assert_false(slots.now[1].is_open);
}

/* Sampling where the history already goes on: reported by the model, ignored here. */
static void keeps_known_tokens(void **state)
{
    for (uint32_t i = 0; i < 3; i++)
        add_row(1, 5 * i, 5, 0, true);
    accept();
    assert_int_equal(slots.now[1].known_tokens, 20);
    assert_int_equal(slots.now[1].computed_tokens, 15);
    assert_false(slots.now[1].samples_now);
    slots_sampled(&slots, 1, 15, 49);
    assert_int_equal(slots_history(&slots, 1)[15], 25);
    add_last_row(1, 15);
    refuse("row 0: slot 1 did not sample the token of position 15 last");
}

static void remembers_where_blocks_go(void **state)
{
    add_row(1, 0, 20, 0, false);
    add_open(2, 40, 0);
    add_row(2, 0, 16, 1, false);
    add_row(2, 16, 20, 2, false);
    accept();
    assert_int_equal(slots.table_first[0], 2);
    assert_int_equal(slots.table_first[1], 0);
    assert_int_equal(slots.table_first[2], 1);
    assert_int_equal(slots.now[2].n_blocks, 3);
}

/* Positions that the blocks of an open hold already: rows go on from there. */
static void begins_after_what_is_cached(void **state)
{
    add_open(2, 20, 1);
    step_opens(step)[0].cached_tokens = 16;
    add_row(2, 0, 20, 1, true);
    refuse("row 0: first_position 0, but slot 2 has 16 positions computed");
    add_open(2, 20, 1);
    step_opens(step)[0].cached_tokens = 16;
    add_row(2, 16, 4, 1, true);
    accept();
    assert_int_equal(slots.now[2].known_tokens, 21);
    assert_int_equal(slots_history(&slots, 2)[15], 35);
}

/* A table may begin behind what the window of the first row does not reach, and not further. */
static void begins_behind_the_window(void **state)
{
    struct step_open *open = &step_opens(step)[0];
    add_close(1);
    add_open(1, 50, 2);
    *open = (struct step_open){
        .slot = 1, .n_tokens = 50, .n_blocks = 2, .behind_blocks = 1, .cached_tokens = 40};
    refuse("its table begins at block 1, but position 40 reads from block 0 on");

    slots.window_tokens = 25; /* position 40 reads 16..40 */
    for (uint32_t position = 39; position <= 40; position++) {
        add_close(1);
        add_open(1, 50, 2);
        open->behind_blocks = 1;
        open->cached_tokens = position;
        if (position == 39)
            refuse("its table begins at block 1, but position 39 reads from block 0 on");
    }
    add_row(1, 40, 8, 0, false);
    accept();
    assert_int_equal(slots.now[1].n_blocks, 3); /* the dead one counts: by position */
    add_row(1, 48, 2, 1, true);
    accept();
    assert_int_equal(slots.table_first[0], 3);
    add_row(1, 50, 1, 1, false);
    refuse("slot 1 would have 5 blocks, expected at most 4");
}

static void refuses_wrong_slots(void **state)
{
    add_close(0);
    refuse("close 0: its slot is not open");
    add_close(1);
    add_close(1);
    refuse("close 1: its slot is not open");
    add_open(1, 1, 0);
    refuse("open 0: slot 1 is open already");
    add_open(0, 1, 0);
    add_open(0, 1, 0);
    refuse("open 1: slot 0 is open already");
    add_row(0, 0, 1, 1, false);
    refuse("row 0: slot 0 is not open");
    add_close(1);
    add_row(1, 0, 1, 0, false);
    refuse("row 0: slot 1 is not open");
    add_open(0, 3, 0);
    step_tokens(step)[2] = VOCAB;
    refuse("open 0: token 2 is id 50, expected 0..49");
    add_open(0, 3, 0);
    step_tokens(step)[0] = UINT32_MAX;
    refuse("open 0: token 0 is id 4294967295");
}

static void refuses_wrong_entries(void **state)
{
    for (uint32_t i = 0; i < 3; i++) {
        add_open(0, 3, 0);
        step_opens(step)[0].entries_first = 1;
        step_opens(step)[0].sampling.n_biases = 1;
        step_opens(step)[0].sampling.n_holds = 1;
        step->n_entries = 3;
        step_entries(step)[0] = (struct sample_entry){.id = UINT32_MAX}; /* nobody's */
        step_entries(step)[1] = (struct sample_entry){i == 0 ? VOCAB : VOCAB - 1, 3};
        step_entries(step)[2] = (struct sample_entry){.id = i == 1 ? UINT32_MAX : 0};
        if (i == 0)
            refuse("open 0: a bias is for id 50, expected 0..49");
        else if (i == 1)
            refuse("open 0: a hold is for id 4294967295, expected 0..49");
        else
            accept();
    }
    assert_int_equal(slots.now[0].sampling.n_biases, 1);
}

static void refuses_holes(void **state)
{
    add_row(1, 1, 5, 0, false);
    refuse("row 0: first_position 1, but slot 1 has 0 positions computed");
    add_row(1, 0, 5, 0, false);
    accept();
    add_row(1, 0, 5, 0, false);
    refuse("first_position 0, but slot 1 has 5 positions computed");
    add_row(1, 5, 5, 0, false);
    add_row(1, 11, 1, 0, false);
    refuse("row 1: first_position 11, but slot 1 has 10 positions computed");
    add_row(1, 5, 16, 0, false);
    refuse("positions up to 21, but slot 1 has 20 tokens");
}

static void refuses_wrong_sources(void **state)
{
    add_last_row(1, 0);
    refuse("slot 1 did not sample the token of position 0 last");
    add_row(1, 0, 20, 0, true);
    add_last_row(1, 20);
    refuse("row 1: slot 1 samples a new token in this step already");
    add_row(1, 0, 20, 0, false);
    accept();
    add_last_row(1, 20);
    refuse("positions up to 21, but slot 1 has 20 tokens");
}

static void refuses_short_tables(void **state)
{
    add_open(2, 33, 1);
    add_row(2, 0, 17, 0, false);
    refuse("row 0: positions up to 17, but slot 2 has 1 blocks of 16");
    add_open(2, 33, 1);
    add_row(2, 0, 17, 4, false);
    refuse("row 0: slot 2 would have 5 blocks, expected at most 4");
}

int main(void)
{
#define SLOTS_TEST(f) cmocka_unit_test_setup_teardown(f, slots_make, slots_drop)
    const struct CMUnitTest tests[] = {
        SLOTS_TEST(follows_a_sequence),          SLOTS_TEST(keeps_known_tokens),
        SLOTS_TEST(refuses_wrong_slots),         SLOTS_TEST(remembers_where_blocks_go),
        SLOTS_TEST(begins_after_what_is_cached), SLOTS_TEST(refuses_holes),
        SLOTS_TEST(refuses_wrong_sources),       SLOTS_TEST(refuses_short_tables),
        SLOTS_TEST(refuses_wrong_entries),       SLOTS_TEST(begins_behind_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
