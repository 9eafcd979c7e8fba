/* Ends: by token, cancel and deadline, in each state and with steps in flight; pauses; checks. */
#include "tests/unit/sched_fixture.h"

static void cancel_while_waiting_ends_at_once(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id a = submit(&f, 3, 3), b = submit(&f, 3, 3), c = submit(&f, 3, 3);
    cancel(&f, b);
    struct sched_ended e = ended(&f, b);
    assert_int_equal(e.request_id, 101);
    assert_int_equal(e.prompt_computed_tokens, 0);
    step_whole(&f);
    assert_int_equal(f.plan->n_opens, 2);
    assert_int_equal(f.plan->n_closes, 0); /* it was never opened */
    assert_int_equal(f.plan->opens[0].id, a);
    assert_int_equal(f.plan->opens[1].id, c);
    fixture_close(&f);
}

static void cancel_idle_running_closes_promptly(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 5, 9);
    step_whole(&f);
    uint32_t slot = f.plan->opens[0].slot;
    cancel(&f, id);
    cancel(&f, id); /* again: nothing */
    assert_int_equal(stats(&f).blocks_used, 0);
    ended(&f, id);
    assert_int_equal(step(&f), 2);
    assert_int_equal(f.plan->n_closes, 1);
    assert_int_equal(f.plan->closes[0], slot);
    assert_int_equal(step(&f), 0); /* a close is sent once */
    retired(&f, 2);
    all_quiet(&f);
    fixture_close(&f);
}

/* Two steps in flight name it; its blocks come back with the second, its close goes out before. */
static void cancel_in_flight_waits_for_the_last_step(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 5, 9);
    step(&f);
    step(&f);
    cancel(&f, id);
    assert_int_equal(state_of(&f, id), SEQ_ENDING);
    assert_int_equal(stats(&f).running, 0);
    assert_int_equal(stats(&f).blocks_used, 2);
    assert_false(sampled(&f, 1, id, false));
    retired(&f, 1);
    nobody_ended(&f);
    assert_int_equal(stats(&f).blocks_used, 2);
    assert_int_equal(step(&f), 3);
    assert_int_equal(f.plan->n_closes, 1);
    assert_int_equal(f.sched->n_free_slots, 3); /* closed, but step 2 still names it */
    assert_false(sampled(&f, 2, id, true));
    retired(&f, 2);
    assert_int_equal(stats(&f).blocks_used, 0);
    assert_int_equal(f.sched->n_free_slots, 4);
    ended(&f, id);
    retired(&f, 3);
    assert_int_equal(stats(&f).dropped_total, 2);
    all_quiet(&f);
    fixture_close(&f);
}

/* The owner need not report tokens of a request that it has cancelled. */
static void cancelled_tokens_need_not_be_reported(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 5, 9);
    step(&f);
    step(&f);
    cancel(&f, id);
    retired(&f, 1);
    retired(&f, 2);
    ended(&f, id);
    assert_int_equal(stats(&f).unexpected_total, 0);
    fixture_close(&f);
}

static void overrun_token_is_dropped(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = submit(&f, 5, 9);
    step(&f);
    step(&f);
    assert_true(sampled(&f, 1, id, true)); /* a stop id: the last that counts */
    retired(&f, 1);
    nobody_ended(&f);
    assert_int_equal(step(&f), 3);
    assert_int_equal(f.plan->n_rows, 0);
    assert_int_equal(f.plan->n_closes, 1);
    assert_false(sampled(&f, 2, id, false));
    retired(&f, 2);
    ended(&f, id);
    assert_int_equal(stats(&f).dropped_total, 1);
    fixture_close(&f);
}

/* Nothing of an ended sequence is used again before its last step is back. */
static void slot_and_blocks_are_not_reused_early(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.slots_max = 1;
    limits.blocks_count = 4;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 5, 9), b = submit(&f, 5, 9);
    step(&f);
    step(&f);
    assert_true(sampled(&f, 1, a, true));
    retired(&f, 1);
    assert_int_equal(step(&f), 3);
    assert_int_equal(f.plan->n_closes, 1);
    assert_int_equal(f.plan->n_opens, 0);
    assert_int_equal(step(&f), 0);
    retired(&f, 2);
    ended(&f, a);
    assert_int_equal(step(&f), 4);
    assert_non_null(open_of(&f, b));
    assert_int_equal(f.plan->n_closes, 0);
    fixture_close(&f);
}

static void id_is_free_only_after_its_report(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.requests_max = limits.waiting_max = 4;
    fixture_open(&f, &limits);
    sched_id ids[4];
    for (int i = 0; i < 4; i++)
        ids[i] = submit(&f, 3, 3);
    for (int i = 0; i < 4; i++)
        cancel(&f, ids[3 - i]);
    cancel(&f, ids[0]);
    set_paused(&f, ids[0], true);
    struct sched_submission s = fixture_submission(&f, 3, 3);
    sched_id id;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, NULL), STATUS_EXHAUSTED);
    for (int i = 0; i < 4; i++)
        ended(&f, ids[3 - i]); /* in the order of their ends */
    nobody_ended(&f);
    submit(&f, 3, 3);
    fixture_close(&f);
}

static void cancel_dead_id(void *argument)
{
    sched_cancel(((struct fixture *)argument)->sched, 5);
}

static void cancel_absurd_id(void *argument)
{
    sched_cancel(((struct fixture *)argument)->sched, 16);
}

static void dead_id_aborts(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    must_abort(cancel_dead_id, &f);
    must_abort(cancel_absurd_id, &f);
    fixture_close(&f);
}

static void expiry_ends_in_order_of_deadline(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    assert_int_equal(sched_next_deadline_ns(f.sched), UINT64_MAX);
    sched_id none = submit(&f, 3, 3), late = submit_until(&f, 3000), early = submit_until(&f, 2000),
             cancelled = submit_until(&f, 1500);
    assert_int_equal(sched_next_deadline_ns(f.sched), 1500);
    cancel(&f, cancelled);
    assert_int_equal(sched_next_deadline_ns(f.sched), 2000);
    step(&f); /* all three run */
    sched_id id;
    assert_false(sched_next_expired(f.sched, 1999, &id));
    assert_true(sched_next_expired(f.sched, 3000, &id));
    assert_int_equal(id, early);
    assert_true(sched_next_expired(f.sched, 3000, &id));
    assert_int_equal(id, late);
    assert_false(sched_next_expired(f.sched, 3000, &id));
    sched_check(f.sched);
    assert_int_equal(state_of(&f, early), SEQ_ENDING);
    assert_false(sampled(&f, 1, early, false));
    assert_true(sampled(&f, 1, none, false));
    retired(&f, 1);
    ended(&f, cancelled);
    ended(&f, late);
    ended(&f, early);
    assert_int_equal(sched_next_deadline_ns(f.sched), UINT64_MAX);
    fixture_close(&f);
}

static void expiry_reaches_waiting_ones(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id a = submit_until(&f, 2000), id;
    assert_true(sched_next_expired(f.sched, 2000, &id));
    assert_int_equal(id, a);
    ended(&f, a);
    all_quiet(&f);
    fixture_close(&f);
}

static void paused_gets_no_rows_and_keeps_its_blocks(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id a = submit(&f, 5, 20), b = submit(&f, 5, 20);
    step(&f);
    set_paused(&f, a, true);
    assert_int_equal(step(&f), 2);
    assert_null(row_of(&f, a));
    assert_non_null(row_of(&f, b));
    assert_true(sampled(&f, 1, a, false)); /* what was in flight still counts */
    assert_true(sampled(&f, 1, b, false));
    retired(&f, 1);
    assert_int_equal(stats(&f).running, 2);
    assert_int_equal(stats(&f).blocks_used, 4);
    set_paused(&f, a, true);
    set_paused(&f, a, false);
    assert_int_equal(step(&f), 3);
    assert_int_equal(row_of(&f, a)->first_position, 5);
    assert_false(row_of(&f, a)->from_last);
    assert_true(row_of(&f, b)->from_last);
    fixture_close(&f);
}

static void paused_prefill_stops_between_chunks(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = 4;
    fixture_open(&f, &limits);
    sched_id id = submit(&f, 10, 4);
    step_whole(&f);
    set_paused(&f, id, true);
    assert_int_equal(step(&f), 0);
    set_paused(&f, id, false);
    assert_int_equal(step(&f), 2);
    assert_int_equal(row_of(&f, id)->first_position, 4);
    fixture_close(&f);
}

/* One whose turn comes while it is paused steps aside; it is first when it is resumed. */
static void paused_waiting_steps_aside(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.slots_max = 2;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 3, 9), b = submit(&f, 3, 9), c = submit(&f, 3, 9), d = submit(&f, 3, 9);
    set_paused(&f, a, true);
    step_whole(&f);
    assert_null(open_of(&f, a));
    assert_non_null(open_of(&f, b));
    assert_non_null(open_of(&f, c));
    set_paused(&f, a, false);
    cancel(&f, b);
    ended(&f, b);
    step_whole(&f);
    assert_non_null(open_of(&f, a));
    assert_null(open_of(&f, d));
    cancel(&f, c);
    set_paused(&f, d, true);
    step_whole(&f); /* d steps aside; then it is cancelled from there */
    assert_null(open_of(&f, d));
    cancel(&f, d);
    ended(&f, c);
    ended(&f, d);
    fixture_close(&f);
}

/* Damage that the check must see. */
static void wrong_rows(void *argument)
{
    struct sched *sched = argument;
    sched->running[0]->rows_in_flight++;
    sched_check(sched);
}

static void wrong_state(void *argument)
{
    struct sched *sched = argument;
    sched->running[0]->state = SEQ_WAITING;
    sched_check(sched);
}

static void wrong_owner(void *argument)
{
    struct sched *sched = argument;
    sched->blocks.blocks[sched->blocks.tables[0]].owner++;
    sched_check(sched);
}

static void wrong_slot(void *argument)
{
    struct sched *sched = argument;
    sched->slots[sched->running[0]->slot].state = SLOT_OWED;
    sched_check(sched);
}

static void wrong_tokens(void *argument)
{
    struct sched *sched = argument;
    sched->running[0]->sampled_tokens++;
    sched_check(sched);
}

static void wrong_step(void *argument)
{
    struct sched *sched = argument;
    sched->running[0]->pending_steps[0]++;
    sched_check(sched);
}

static void wrong_deadline(void *argument)
{
    struct sched *sched = argument;
    sched->running[0]->deadline_ns = 5;
    sched_check(sched);
}

static void damage_aborts(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    submit(&f, 5, 9);
    step(&f);
    must_abort(wrong_rows, f.sched);
    must_abort(wrong_state, f.sched);
    must_abort(wrong_owner, f.sched);
    must_abort(wrong_slot, f.sched);
    must_abort(wrong_tokens, f.sched);
    must_abort(wrong_step, f.sched);
    must_abort(wrong_deadline, f.sched);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancel_while_waiting_ends_at_once),
        cmocka_unit_test(cancel_idle_running_closes_promptly),
        cmocka_unit_test(cancel_in_flight_waits_for_the_last_step),
        cmocka_unit_test(cancelled_tokens_need_not_be_reported),
        cmocka_unit_test(overrun_token_is_dropped),
        cmocka_unit_test(slot_and_blocks_are_not_reused_early),
        cmocka_unit_test(id_is_free_only_after_its_report),
        cmocka_unit_test(dead_id_aborts),
        cmocka_unit_test(expiry_ends_in_order_of_deadline),
        cmocka_unit_test(expiry_reaches_waiting_ones),
        cmocka_unit_test(paused_gets_no_rows_and_keeps_its_blocks),
        cmocka_unit_test(paused_prefill_stops_between_chunks),
        cmocka_unit_test(paused_waiting_steps_aside),
        cmocka_unit_test(damage_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
