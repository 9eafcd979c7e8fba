/* The worker is lost: everybody keeps what is known, nothing is held, numbers start again. */
#include "tests/unit/sched_fixture.h"

static void nothing_is_held(struct fixture *f)
{
    struct sched_stats s = stats(f);
    assert_int_equal(s.running, 0);
    assert_int_equal(s.steps_in_flight, 0);
    assert_int_equal(s.blocks_free, s.blocks_count);
    assert_int_equal(f->sched->n_free_slots, f->sched->limits.slots_max);
    assert_int_equal(f->sched->n_owed, 0);
}

static void idle_replay_changes_nothing(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    replay(&f);
    sched_id id = submit(&f, 3, 3);
    replay(&f);
    nothing_is_held(&f);
    assert_int_equal(step(&f), 1);
    assert_non_null(open_of(&f, id));
    fixture_close(&f);
}

static void running_ones_come_back_in_order(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.step_tokens_max = 64;
    fixture_open(&f, &limits);
    sched_id ids[6];
    for (int i = 0; i < 6; i++)
        ids[i] = submit(&f, 3, 9);
    step_whole(&f);
    step_whole(&f);
    step(&f);
    step(&f); /* steps 3 and 4 are lost */
    assert_true(sampled(&f, 3, ids[0], false));
    replay(&f);
    nothing_is_held(&f);
    assert_int_equal(stats(&f).waiting, 6);
    assert_int_equal(stats(&f).preempted_total, 0);
    assert_int_equal(step(&f), 1);
    assert_int_equal(f.plan->n_closes, 0); /* the new worker knows no slot */
    assert_int_equal(f.plan->n_opens, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(f.plan->opens[i].id, ids[i]);
    assert_int_equal(open_of(&f, ids[0])->known_tokens, 3 + 3);
    assert_int_equal(open_of(&f, ids[1])->known_tokens, 3 + 2);
    assert_int_equal(row_of(&f, ids[1])->first_position, 0);
    assert_int_equal(row_of(&f, ids[1])->n_tokens, 5);
    assert_false(row_of(&f, ids[1])->from_last);
    assert_true(row_of(&f, ids[1])->samples);
    /* A late word of the old worker finds nothing. */
    assert_false(sampled(&f, 4, ids[0], false));
    assert_int_equal(stats(&f).unexpected_total, 1);
    assert_true(sampled(&f, 1, ids[0], false));
    fixture_close(&f);
}

static void whoever_was_ending_has_ended(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id a = submit(&f, 3, 9), b = submit(&f, 3, 9), c = submit(&f, 3, 9);
    step(&f);
    step(&f);
    cancel(&f, a);
    assert_true(sampled(&f, 1, b, true));
    nobody_ended(&f);
    replay(&f);
    ended(&f, a);
    ended(&f, b);
    nobody_ended(&f);
    nothing_is_held(&f);
    assert_int_equal(step(&f), 1);
    assert_int_equal(f.plan->n_opens, 1);
    assert_non_null(open_of(&f, c));
    fixture_close(&f);
}

static void preempted_in_flight_lets_go(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 4;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12);
    for (int i = 0; i < 4; i++)
        step_whole(&f);
    step(&f);
    step(&f);
    assert_int_equal(state_of(&f, b), SEQ_WAITING);
    assert_int_equal(stats(&f).blocks_free, 0);
    replay(&f);
    nothing_is_held(&f);
    assert_int_equal(step(&f), 1);
    assert_non_null(open_of(&f, a));
    assert_int_equal(open_of(&f, a)->known_tokens, 8);
    assert_null(open_of(&f, b)); /* 3 + 3 blocks are more than 4 */
    fixture_close(&f);
}

static void owed_closes_are_forgotten(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 3, 9);
    step_whole(&f);
    cancel(&f, id);
    ended(&f, id);
    assert_int_equal(f.sched->n_owed, 1);
    replay(&f);
    nothing_is_held(&f);
    all_quiet(&f);
    fixture_close(&f);
}

static void paused_steps_aside_after_replay(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id a = submit(&f, 3, 9), b = submit(&f, 3, 9);
    step_whole(&f);
    set_paused(&f, a, true);
    replay(&f);
    assert_int_equal(step(&f), 1);
    assert_null(open_of(&f, a));
    assert_non_null(open_of(&f, b));
    set_paused(&f, a, false);
    assert_int_equal(step(&f), 2);
    assert_int_equal(open_of(&f, a)->known_tokens, 4);
    fixture_close(&f);
}

/* A step number of the old worker must not be mistaken for one of the new. */
static void numbers_start_again(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id a = submit(&f, 14, 9), b = submit(&f, 1, 9);
    step_whole(&f);
    assert_int_equal(step(&f), 2);
    assert_true(sampled(&f, 2, a, false));
    assert_true(sampled(&f, 2, b, false));
    replay(&f);
    assert_int_equal(step(&f), 1);
    assert_int_equal(row_of(&f, a)->n_tokens, 16); /* all of the budget */
    assert_int_equal(step(&f), 2);
    assert_non_null(open_of(&f, b)); /* whose last row was in the old step 2 */
    assert_non_null(row_of(&f, b));
    fixture_close(&f);
}

static void recomputed_tokens_are_counted_once(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = 4;
    fixture_open(&f, &limits);
    sched_id id = submit(&f, 10, 2);
    step(&f);
    retired(&f, 1);
    step(&f); /* 8 of 10 */
    replay(&f);
    while (step_whole(&f))
        ;
    struct sched_ended e = ended(&f, id);
    assert_int_equal(e.prompt_computed_tokens, 10);
    assert_int_equal(e.recomputed_tokens, 8);
    assert_int_equal(e.preempted_count, 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idle_replay_changes_nothing),
        cmocka_unit_test(running_ones_come_back_in_order),
        cmocka_unit_test(whoever_was_ending_has_ended),
        cmocka_unit_test(preempted_in_flight_lets_go),
        cmocka_unit_test(owed_closes_are_forgotten),
        cmocka_unit_test(paused_steps_aside_after_replay),
        cmocka_unit_test(numbers_start_again),
        cmocka_unit_test(recomputed_tokens_are_counted_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
