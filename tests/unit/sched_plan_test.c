/* What a step holds: positions, budgets, order, and how steps overlap. */
#include "tests/unit/sched_fixture.h"

static void row_is(const struct sched_row *row, uint32_t first, uint32_t n, bool from_last,
                   bool samples)
{
    assert_non_null(row);
    assert_int_equal(row->first_position, first);
    assert_int_equal(row->n_tokens, n);
    assert_int_equal(row->from_last, from_last);
    assert_int_equal(row->samples, samples);
}

static void nothing_to_do_is_no_step(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    assert_int_equal(step(&f), 0);
    assert_int_equal(f.plan->n_rows + f.plan->n_opens + f.plan->n_closes, 0);
    all_quiet(&f);
    fixture_close(&f);
}

static void one_request_from_prompt_to_end(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 7, 3);
    assert_int_equal(step(&f), 1);
    assert_int_equal(f.plan->n_opens, 1);
    assert_int_equal(f.plan->n_closes, 0);
    assert_int_equal(f.plan->n_copies, 0);
    const struct sched_open_row *open = open_of(&f, id);
    assert_int_equal(open->known_tokens, 7);
    assert_int_equal(open->n_blocks, 2); /* 7 known and the next one */
    assert_int_equal(f.plan->n_blocks, 2);
    row_is(row_of(&f, id), 0, 7, false, true);
    assert_int_equal(row_of(&f, id)->slot, open->slot);
    assert_int_equal(row_of(&f, id)->n_blocks, 0);
    assert_true(sampled(&f, 1, id, false));
    retired(&f, 1);

    assert_int_equal(step(&f), 2);
    assert_int_equal(f.plan->n_opens, 0);
    row_is(row_of(&f, id), 7, 1, false, true);
    assert_int_equal(row_of(&f, id)->n_blocks, 0);
    assert_true(sampled(&f, 2, id, false));
    retired(&f, 2);

    assert_int_equal(step(&f), 3); /* position 8 needs a third block */
    row_is(row_of(&f, id), 8, 1, false, true);
    assert_int_equal(row_of(&f, id)->n_blocks, 1);
    assert_int_equal(row_of(&f, id)->blocks_first, 0);
    assert_true(sampled(&f, 3, id, false)); /* the third: the limit ends it */
    assert_int_equal(state_of(&f, id), SEQ_ENDING);
    nobody_ended(&f);
    retired(&f, 3);
    struct sched_ended e = ended(&f, id);
    assert_int_equal(e.request_id, 100);
    assert_int_equal(e.prompt_computed_tokens, 7);
    assert_int_equal(e.recomputed_tokens, 0);
    assert_int_equal(e.preempted_count, 0);

    assert_int_equal(step(&f), 4); /* its close, alone */
    assert_int_equal(f.plan->n_closes, 1);
    assert_int_equal(f.plan->n_rows + f.plan->n_opens, 0);
    retired(&f, 4);
    all_quiet(&f);
    fixture_close(&f);
}

static void overlapped_decode_goes_on_from_the_last(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 3, 10);
    assert_int_equal(step(&f), 1);
    row_is(row_of(&f, id), 0, 3, false, true);
    assert_int_equal(step(&f), 2); /* while 1 runs */
    row_is(row_of(&f, id), 3, 1, true, true);
    assert_int_equal(step(&f), 0); /* two are in flight */
    assert_true(sampled(&f, 1, id, false));
    assert_int_equal(step(&f), 0); /* not retired yet */
    retired(&f, 1);
    assert_int_equal(step(&f), 3);
    row_is(row_of(&f, id), 4, 1, true, true);
    assert_int_equal(row_of(&f, id)->n_blocks, 1);
    assert_true(sampled(&f, 2, id, false));
    retired(&f, 2);
    assert_true(sampled(&f, 3, id, false));
    retired(&f, 3);
    assert_int_equal(step(&f), 4); /* nothing in flight: the input is known */
    row_is(row_of(&f, id), 5, 1, false, true);
    fixture_close(&f);
}

static void nothing_beyond_the_last_token_is_planned(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 3, 2);
    assert_int_equal(step(&f), 1);
    assert_int_equal(step(&f), 2);
    assert_true(sampled(&f, 1, id, false));
    retired(&f, 1);
    assert_int_equal(step(&f), 0); /* 1 sampled and 1 in flight are 2 */
    assert_true(sampled(&f, 2, id, false));
    retired(&f, 2);
    ended(&f, id);
    assert_int_equal(stats(&f).dropped_total, 0);

    sched_id single = submit(&f, 3, 1);
    assert_int_equal(step(&f), 3);
    assert_int_equal(step(&f), 0);
    assert_true(sampled(&f, 3, single, false));
    assert_int_equal(state_of(&f, single), SEQ_ENDING);
    fixture_close(&f);
}

static void prompt_is_cut_into_chunks_that_overlap(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = 5;
    fixture_open(&f, &limits);
    sched_id id = submit(&f, 12, 4);
    assert_int_equal(step(&f), 1);
    assert_int_equal(open_of(&f, id)->n_blocks, 4); /* all of 13 at once */
    row_is(row_of(&f, id), 0, 5, false, false);
    assert_int_equal(step(&f), 2);
    row_is(row_of(&f, id), 5, 5, false, false);
    retired(&f, 1);
    assert_int_equal(step(&f), 3);
    row_is(row_of(&f, id), 10, 2, false, true);
    retired(&f, 2);
    assert_int_equal(step(&f), 4);
    row_is(row_of(&f, id), 12, 1, true, true);
    assert_true(sampled(&f, 3, id, false));
    retired(&f, 3);
    fixture_close(&f);
}

static void token_budget_is_shared(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits); /* 16 tokens a step */
    sched_id a = submit(&f, 10, 4), b = submit(&f, 10, 4), c = submit(&f, 3, 4);
    step_whole(&f);
    row_is(row_of(&f, a), 0, 10, false, true);
    row_is(row_of(&f, b), 0, 6, false, false);
    assert_null(open_of(&f, c)); /* no token left */
    step_whole(&f);
    row_is(row_of(&f, a), 10, 1, false, true);
    row_is(row_of(&f, b), 6, 4, false, true);
    row_is(row_of(&f, c), 0, 3, false, true);
    fixture_close(&f);
}

/* A long chunk admitted earlier does not keep a later decode waiting. */
static void decodes_come_before_chunks(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.step_tokens_max = 8;
    limits.chunk_tokens_max = 8;
    limits.blocks_count = 32;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 4, 20), b = submit(&f, 3, 20);
    step_whole(&f);
    step_whole(&f);
    sched_id longer = submit(&f, 40, 4);
    for (int i = 0; i < 4; i++) {
        step_whole(&f);
        assert_non_null(row_of(&f, a));
        assert_non_null(row_of(&f, b));
        row_is(row_of(&f, longer), (uint32_t)i * 6, 6, false, false);
    }
    /* The worker is lost: now the earlier ones compute their past again, in chunks. */
    replay(&f);
    step_whole(&f);
    assert_int_equal(row_of(&f, a)->n_tokens, 8);
    for (int i = 0; i < 20; i++) {
        uint32_t ready = 0, total = 0;
        for (uint32_t r = 0; r < f.sched->n_running; r++)
            ready += seq_ready_tokens(f.sched->running[r]) == 1;
        if (step_whole(&f) == 0)
            break;
        uint32_t singles = 0;
        for (uint32_t r = 0; r < f.plan->n_rows; r++) {
            singles += f.plan->rows[r].n_tokens == 1;
            total += f.plan->rows[r].n_tokens;
        }
        assert_true(singles >= ready);
        assert_true(total <= 8);
    }
    fixture_close(&f);
}

static void open_budget_holds_admission_back(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.open_tokens_max = 64;
    limits.blocks_count = 64;
    fixture_open(&f, &limits);
    limits = f.sched->limits;
    sched_id a = submit(&f, 10, 4), b = submit(&f, 55, 4), c = submit(&f, 1, 4);
    step_whole(&f);
    assert_non_null(open_of(&f, a));
    assert_null(open_of(&f, b)); /* 65 > 64 */
    assert_null(open_of(&f, c)); /* nobody passes */
    step_whole(&f);
    assert_non_null(open_of(&f, b));
    fixture_close(&f);
}

static void slots_hold_admission_back(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id ids[6];
    for (int i = 0; i < 6; i++)
        ids[i] = submit(&f, 1, 8);
    step_whole(&f);
    assert_int_equal(f.plan->n_opens, 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(f.plan->opens[i].id, ids[i]); /* in order */
        for (uint32_t j = 0; j < i; j++)
            assert_int_not_equal(f.plan->opens[i].slot, f.plan->opens[j].slot);
    }
    assert_int_equal(stats(&f).waiting, 2);
    assert_int_equal(stats(&f).running, 4);
    fixture_close(&f);
}

/* The head that does not fit is not passed by a smaller one. */
static void blocks_hold_admission_back(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 4;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 6, 2), big = submit(&f, 8, 4), small = submit(&f, 1, 1);
    step_whole(&f);
    assert_non_null(open_of(&f, a));
    assert_int_equal(f.plan->n_opens, 1);
    assert_int_equal(stats(&f).blocks_free, 2);
    step_whole(&f); /* a ends */
    step_whole(&f);
    assert_int_equal(f.plan->n_closes, 1); /* effects: closes, then opens in the same slot */
    assert_non_null(open_of(&f, big));
    assert_int_equal(open_of(&f, big)->n_blocks, 3);
    assert_non_null(open_of(&f, small));
    fixture_close(&f);
}

static void retire_out_of_order(void *argument)
{
    struct fixture *f = argument;
    sched_retired(f->sched, 2, f->now_ns);
}

static void retire_without_its_token(void *argument)
{
    struct fixture *f = argument;
    sched_retired(f->sched, 1, f->now_ns);
}

static void steps_retire_in_order_and_whole(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 3, 10);
    step(&f);
    step(&f);
    must_abort(retire_out_of_order, &f);
    must_abort(retire_without_its_token, &f);
    assert_true(sampled(&f, 1, id, false));
    retired(&f, 1);
    fixture_close(&f);
}

/* What a worker could get wrong reaches nobody's books. */
static void unexpected_tokens_are_counted(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 20, 10), other = submit(&f, 3, 3);
    step(&f); /* 16 tokens of `id`: samples nothing */
    assert_false(sampled(&f, 1, id, false));
    assert_false(sampled(&f, 1, other, false));
    assert_false(sampled(&f, 1, 9, false));
    assert_false(sampled(&f, 1, UINT32_MAX, false));
    step(&f);
    assert_false(sampled(&f, 1, id, true)); /* its row is in step 2 */
    assert_true(sampled(&f, 2, id, false));
    assert_false(sampled(&f, 2, id, false)); /* twice */
    assert_int_equal(stats(&f).unexpected_total, 6);
    assert_int_equal(stats(&f).dropped_total, 0);
    assert_int_equal(f.sched->seqs[id].sampled_tokens, 1);
    fixture_close(&f);
}

/* A clock that went back is the latest time that was told: no deadline is undone, none comes late.
 */
static void a_clock_that_goes_back_is_counted(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 20, 10), expired;
    struct sched_submission s = {
        .request_id = 7, .deadline_ns = f.now_ns + 500, .prompt_tokens = 3, .output_tokens_max = 3};
    sched_id late;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &late, NULL), STATUS_OK);
    assert_int_equal(stats(&f).clock_back_total, 0);
    assert_false(sched_next_expired(f.sched, f.now_ns + 499, &expired));
    assert_false(sched_next_expired(f.sched, 1, &expired));
    assert_int_equal(stats(&f).clock_back_total, 1);
    s.deadline_ns = f.now_ns + 498; /* that is over, whatever the time that is told */
    assert_int_equal(sched_submit(f.sched, &s, 1, &late, NULL), STATUS_DEADLINE);
    assert_true(sched_next_expired(f.sched, f.now_ns + 500, &expired));
    const struct sched_plan *plan = sched_plan(f.sched, 2);
    assert_int_equal(plan->n_rows, 1);
    assert_int_equal(plan->rows[0].id, id);
    assert_int_equal(stats(&f).clock_back_total, 3);
    sched_check(f.sched);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do_is_no_step),
        cmocka_unit_test(one_request_from_prompt_to_end),
        cmocka_unit_test(overlapped_decode_goes_on_from_the_last),
        cmocka_unit_test(nothing_beyond_the_last_token_is_planned),
        cmocka_unit_test(prompt_is_cut_into_chunks_that_overlap),
        cmocka_unit_test(token_budget_is_shared),
        cmocka_unit_test(decodes_come_before_chunks),
        cmocka_unit_test(open_budget_holds_admission_back),
        cmocka_unit_test(slots_hold_admission_back),
        cmocka_unit_test(blocks_hold_admission_back),
        cmocka_unit_test(steps_retire_in_order_and_whole),
        cmocka_unit_test(unexpected_tokens_are_counted),
        cmocka_unit_test(a_clock_that_goes_back_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
