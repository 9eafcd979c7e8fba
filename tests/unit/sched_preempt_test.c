/* What happens when blocks run out: who goes, when they come back, what they lose (nothing). */
#include "tests/unit/sched_fixture.h"

/* 4 blocks of 4 tokens: two sequences of prompt 4 fill it until position 8. */
static struct sched_limits tight(uint32_t blocks_count)
{
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = blocks_count;
    return limits;
}

static void open_tight(struct fixture *f, uint32_t blocks_count)
{
    struct sched_limits limits = tight(blocks_count);
    fixture_open(f, &limits);
}

static void steps_whole(struct fixture *f, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        assert_int_not_equal(step_whole(f), 0);
}

static void last_admitted_goes(void **state)
{
    struct fixture f;
    open_tight(&f, 4);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12);
    steps_whole(&f, 5);
    assert_int_equal(stats(&f).blocks_free, 0);
    uint32_t slot = f.sched->seqs[b].slot;
    uint64_t number = step(&f); /* position 8 of both */
    assert_int_equal(number, 6);
    assert_int_equal(state_of(&f, b), SEQ_WAITING);
    assert_int_equal(f.plan->n_closes, 1);
    assert_int_equal(f.plan->closes[0], slot);
    assert_int_equal(f.plan->n_rows, 1);
    assert_int_equal(row_of(&f, a)->first_position, 8); /* nothing was in flight: at once */
    assert_int_equal(row_of(&f, a)->n_blocks, 1);
    assert_int_equal(stats(&f).preempted_total, 1);
    assert_true(sampled(&f, number, a, false));
    retired(&f, number);

    /* It needs 3 blocks for its 9 known tokens and the next; only a's end makes that room. */
    while (state_of(&f, a) == SEQ_RUNNING) {
        assert_int_not_equal(step_whole(&f), 0);
        assert_int_equal(f.plan->n_opens, 0);
    }
    assert_int_equal(ended(&f, a).preempted_count, 0);
    number = step(&f);
    assert_int_equal(open_of(&f, b)->known_tokens, 9);
    assert_int_equal(open_of(&f, b)->n_blocks, 3);
    assert_int_equal(row_of(&f, b)->n_tokens, 9);
    assert_true(row_of(&f, b)->samples);
    assert_true(sampled(&f, number, b, false));
    retired(&f, number);
    while (step_whole(&f))
        ;
    struct sched_ended e = ended(&f, b);
    assert_int_equal(e.preempted_count, 1);
    assert_int_equal(e.recomputed_tokens, 8); /* positions 0..7; 8 is new */
    assert_int_equal(e.prompt_computed_tokens, 4);
    assert_int_equal(stats(&f).recomputed_tokens_total, 8);
    assert_int_equal(f.sched->seqs[b].sampled_tokens, 12);
    all_quiet(&f);
    fixture_close(&f);
}

/* As above with a step in flight, up to the preemption. Returns the number of that step. */
static uint64_t overlapped_preemption(struct fixture *f, sched_id *ret_a, sched_id *ret_b)
{
    open_tight(f, 4);
    sched_id a = *ret_a = submit(f, 4, 12), b = *ret_b = submit(f, 4, 12);
    steps_whole(f, 4);
    assert_int_equal(step(f), 5);
    assert_int_equal(step(f), 6);
    assert_int_equal(f->plan->n_rows, 0); /* a sits out: b's blocks are in use by step 5 */
    assert_int_equal(f->plan->n_closes, 1);
    assert_int_equal(state_of(f, a), SEQ_RUNNING);
    assert_int_equal(state_of(f, b), SEQ_WAITING);
    assert_int_equal(stats(f).blocks_free, 0);
    return 6;
}

static void token_in_flight_is_kept(void **state)
{
    struct fixture f;
    sched_id a, b;
    overlapped_preemption(&f, &a, &b);
    assert_true(sampled(&f, 5, a, false));
    assert_true(sampled(&f, 5, b, false)); /* it counts, though b waits */
    assert_int_equal(stats(&f).blocks_free, 0);
    retired(&f, 5);
    assert_int_equal(stats(&f).blocks_free, 2);
    assert_int_equal(step(&f), 7);
    assert_int_equal(row_of(&f, a)->first_position, 8);
    assert_false(row_of(&f, a)->from_last);
    retired(&f, 6);
    assert_true(sampled(&f, 7, a, true));
    retired(&f, 7);
    assert_int_equal(step(&f), 8);
    assert_int_equal(open_of(&f, b)->known_tokens, 4 + 5);
    fixture_close(&f);
}

static void token_in_flight_may_be_the_last(void **state)
{
    struct fixture f;
    sched_id a, b;
    overlapped_preemption(&f, &a, &b);
    assert_true(sampled(&f, 5, a, false));
    assert_true(sampled(&f, 5, b, true));
    assert_int_equal(state_of(&f, b), SEQ_ENDING);
    nobody_ended(&f);
    retired(&f, 5);
    ended(&f, b);
    assert_int_equal(stats(&f).waiting, 0);
    assert_int_equal(step(&f), 7);
    assert_int_equal(f.plan->n_closes, 0); /* sent with step 6 */
    assert_int_equal(f.plan->n_opens, 0);
    fixture_close(&f);
}

static void cancel_of_preempted_in_flight(void **state)
{
    struct fixture f;
    sched_id a, b;
    overlapped_preemption(&f, &a, &b);
    cancel(&f, b);
    nobody_ended(&f);
    assert_true(sampled(&f, 5, a, false));
    assert_false(sampled(&f, 5, b, false));
    retired(&f, 5);
    ended(&f, b);
    assert_int_equal(stats(&f).blocks_free, 2);
    retired(&f, 6);
    fixture_close(&f);
}

/* Two need a block, the victim holds two: one victim is enough. */
static void blocks_on_their_way_are_counted(void **state)
{
    struct fixture f;
    open_tight(&f, 6);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12), c = submit(&f, 4, 12);
    steps_whole(&f, 4);
    step(&f);
    assert_int_equal(step(&f), 6);
    assert_int_equal(f.plan->n_rows, 0);
    assert_int_equal(stats(&f).preempted_total, 1);
    assert_int_equal(state_of(&f, c), SEQ_WAITING);
    assert_true(sampled(&f, 5, a, false) && sampled(&f, 5, b, false) && sampled(&f, 5, c, false));
    retired(&f, 5);
    assert_int_equal(step(&f), 7);
    assert_int_equal(row_of(&f, a)->n_blocks + row_of(&f, b)->n_blocks, 2);
    assert_int_equal(f.plan->n_opens, 0);
    assert_int_equal(stats(&f).preempted_total, 1);
    fixture_close(&f);
}

/* One that needs no block goes on while another sits out. */
static void only_the_needy_sit_out(void **state)
{
    struct fixture f;
    open_tight(&f, 7);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 6, 8), c = submit(&f, 4, 12);
    step_whole(&f); /* tokens 4 + 6 + 4; blocks 2 + 2 + 2 */
    steps_whole(&f, 3);
    assert_int_equal(stats(&f).blocks_free, 0); /* b took a third at position 8 */
    assert_int_equal(step(&f), 5);
    assert_int_equal(step(&f), 6);
    assert_null(row_of(&f, a)); /* position 8 */
    assert_int_equal(row_of(&f, b)->first_position, 10);
    assert_int_equal(state_of(&f, c), SEQ_WAITING);
    fixture_close(&f);
}

static void step_that_preempted_admits_nobody(void **state)
{
    struct fixture f;
    open_tight(&f, 4);
    submit(&f, 4, 12);
    submit(&f, 4, 12);
    steps_whole(&f, 5);
    sched_id small = submit(&f, 1, 1);
    step_whole(&f);
    assert_int_equal(stats(&f).preempted_total, 1);
    assert_true(stats(&f).blocks_free > 0);
    assert_int_equal(f.plan->n_opens, 0);
    step_whole(&f);
    assert_int_equal(f.plan->n_opens, 0); /* b is at the head and does not fit */
    assert_int_equal(state_of(&f, small), SEQ_WAITING);
    fixture_close(&f);
}

/* The same where there would be room: the preempted one is paused, so the next in line is small. */
static void step_that_preempted_admits_not_even_what_fits(void **state)
{
    struct fixture f;
    open_tight(&f, 4);
    sched_id a = submit(&f, 4, 12), slow = submit(&f, 4, 12);
    steps_whole(&f, 5);
    set_paused(&f, slow, true);
    sched_id small = submit(&f, 1, 1);
    step_whole(&f);
    assert_int_equal(row_of(&f, a)->first_position, 8);
    assert_int_equal(state_of(&f, slow), SEQ_WAITING);
    assert_int_equal(stats(&f).blocks_free, 1);
    assert_int_equal(f.plan->n_opens, 0);
    step_whole(&f);
    assert_non_null(open_of(&f, small));
    fixture_close(&f);
}

/* Two need a block, each victim holds one: two go, and at once, not one after the other. */
static void promised_blocks_are_not_promised_twice(void **state)
{
    struct fixture f;
    open_tight(&f, 6);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12);
    steps_whole(&f, 3);
    sched_id c = submit(&f, 1, 9), d = submit(&f, 1, 9);
    steps_whole(&f, 1);
    step(&f);
    assert_int_equal(step(&f), 6);
    assert_int_equal(f.plan->n_rows, 0);
    assert_int_equal(stats(&f).preempted_total, 2);
    assert_int_equal(state_of(&f, c), SEQ_WAITING);
    assert_int_equal(state_of(&f, d), SEQ_WAITING);
    sched_id ids[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        assert_true(sampled(&f, 5, ids[i], false));
    retired(&f, 5);
    assert_int_equal(step(&f), 7);
    assert_int_equal(f.plan->n_rows, 2);
    assert_int_equal(stats(&f).blocks_free, 0);
    fixture_close(&f);
}

/* While a sequence sits out, nobody new takes the block that it waits for. */
static void step_with_one_sitting_out_admits_nobody(void **state)
{
    struct fixture f;
    open_tight(&f, 4);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12);
    steps_whole(&f, 3);
    step(&f);
    step(&f); /* 4 and 5 in flight */
    sched_id small = submit(&f, 1, 1);
    assert_true(sampled(&f, 4, a, false));
    assert_true(sampled(&f, 4, b, true)); /* ends, with a row in step 5 */
    retired(&f, 4);
    assert_int_equal(step(&f), 6);
    assert_int_equal(stats(&f).preempted_total, 0); /* b's blocks are coming */
    assert_int_equal(f.plan->n_rows, 0);
    assert_true(sampled(&f, 5, a, false));
    assert_false(sampled(&f, 5, b, false));
    retired(&f, 5);
    assert_int_equal(step(&f), 7);
    assert_int_equal(row_of(&f, a)->first_position, 8);
    assert_non_null(open_of(&f, small));
    fixture_close(&f);
}

static void last_admitted_may_be_the_needy(void **state)
{
    struct fixture f;
    open_tight(&f, 4);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 7, 9);
    steps_whole(&f, 2);
    step_whole(&f); /* position 8 of b */
    assert_int_equal(state_of(&f, b), SEQ_WAITING);
    assert_int_equal(f.plan->n_rows, 1);
    assert_non_null(row_of(&f, a));
    assert_int_equal(stats(&f).blocks_free, 2);
    fixture_close(&f);
}

/* Several are preempted: they wait in the order in which they ran. */
static void preempted_wait_in_order(void **state)
{
    struct fixture f;
    struct sched_limits limits = tight(8);
    limits.step_tokens_max = 32;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 11, 21), b = submit(&f, 4, 8), c = submit(&f, 4, 8);
    step_whole(&f); /* 3 + 2 + 2 blocks */
    sched_id d = submit(&f, 1, 4);
    while (stats(&f).preempted_total < 2)
        assert_int_not_equal(step_whole(&f), 0);
    assert_int_equal(state_of(&f, a), SEQ_RUNNING);
    assert_int_equal(state_of(&f, b), SEQ_RUNNING);
    assert_int_equal(state_of(&f, c), SEQ_WAITING);
    assert_int_equal(state_of(&f, d), SEQ_WAITING);
    assert_ptr_equal(line_head(&f), &f.sched->seqs[c]);
    fixture_close(&f);
}

static void paused_goes_before_the_last_admitted(void **state)
{
    struct fixture f;
    open_tight(&f, 6);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12), c = submit(&f, 4, 12);
    steps_whole(&f, 5);
    set_paused(&f, b, true);
    step_whole(&f);
    assert_int_equal(state_of(&f, a), SEQ_RUNNING);
    assert_int_equal(state_of(&f, b), SEQ_WAITING);
    assert_int_equal(state_of(&f, c), SEQ_RUNNING);
    step_whole(&f); /* its turn comes while it is paused */
    assert_false(f.sched->seqs[b].in_line);
    set_paused(&f, b, false);
    assert_true(f.sched->seqs[b].in_line);
    fixture_close(&f);
}

/* A slow reader holds most of the pool; a small one runs; a big one waits. */
static void paused_makes_room_after_a_while(void **state)
{
    struct fixture f;
    open_tight(&f, 6);
    sched_id slow = submit(&f, 12, 8), runs = submit(&f, 1, 7);
    step_whole(&f); /* 4 + 1 */
    set_paused(&f, slow, true);
    sched_id big = submit(&f, 8, 4); /* 3 */
    steps_whole(&f, 1);
    assert_int_equal(state_of(&f, slow), SEQ_RUNNING);
    f.now_ns += SCHED_PAUSE_NS - 1;
    steps_whole(&f, 1);
    assert_int_equal(state_of(&f, slow), SEQ_RUNNING);
    f.now_ns += 1;
    step_whole(&f);
    assert_int_equal(state_of(&f, slow), SEQ_WAITING);
    assert_int_equal(f.plan->n_closes, 1);
    assert_int_equal(f.plan->n_opens, 0);
    assert_non_null(row_of(&f, runs));
    step_whole(&f);
    assert_non_null(open_of(&f, big));
    fixture_close(&f);
}

static void paused_makes_room_at_once_when_nothing_runs(void **state)
{
    struct fixture f;
    open_tight(&f, 6);
    sched_id slow = submit(&f, 12, 8);
    step_whole(&f);
    set_paused(&f, slow, true);
    assert_int_equal(step(&f), 0); /* nobody wants its blocks */
    sched_id big = submit(&f, 8, 4);
    step_whole(&f);
    assert_int_equal(f.plan->n_closes, 1);
    step_whole(&f);
    assert_non_null(open_of(&f, big));
    fixture_close(&f);
}

/* The head would fit now, but not what it is expected to sample: that is no reason to wait for a
 * reader who may never come. */
static void paused_makes_room_for_what_is_foreseen(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 6;
    limits.context_tokens = 24;
    fixture_open_with(&f, &limits, &policy_fair);
    sched_id slow = submit(&f, 8, 4); /* 3 of 6 */
    step_whole(&f);
    set_paused(&f, slow, true);
    sched_id big = submit(&f, 4, 16); /* 2, and 3 more to come */
    step_whole(&f);
    assert_int_equal(state_of(&f, slow), SEQ_WAITING);
    step_whole(&f);
    assert_non_null(open_of(&f, big));
    fixture_close(&f);
}

/* Momentarily no rows is not nothing to run: a token is in flight. */
static void paused_is_safe_while_a_step_is_in_flight(void **state)
{
    struct fixture f;
    open_tight(&f, 6);
    sched_id slow = submit(&f, 12, 8), runs = submit(&f, 1, 2);
    step_whole(&f);
    set_paused(&f, slow, true);
    submit(&f, 8, 4);
    assert_int_equal(step(&f), 2); /* the last token of `runs` */
    assert_int_equal(step(&f), 0);
    assert_int_equal(state_of(&f, slow), SEQ_RUNNING);
    assert_true(sampled(&f, 2, runs, false));
    retired(&f, 2);
    assert_int_equal(step(&f), 3); /* now it is */
    assert_int_equal(state_of(&f, slow), SEQ_WAITING);
    fixture_close(&f);
}

/* A slot on its way back is as good as a free one: nobody has to go for it. */
static void paused_keeps_its_slot_when_another_is_coming(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.slots_max = 2;
    fixture_open(&f, &limits);
    sched_id slow = submit(&f, 4, 20), runs = submit(&f, 4, 40);
    step_whole(&f);
    set_paused(&f, slow, true);
    sched_id small = submit(&f, 4, 4);
    step(&f);
    step(&f);
    f.now_ns += SCHED_PAUSE_NS;
    assert_true(sampled(&f, 2, runs, true));
    retired(&f, 2);
    assert_int_equal(step(&f), 4); /* the close; step 3 still names the slot */
    assert_int_equal(state_of(&f, slow), SEQ_RUNNING);
    assert_int_equal(f.plan->n_opens, 0);
    retired(&f, 3);
    assert_int_equal(step(&f), 5);
    assert_non_null(open_of(&f, small));
    assert_int_equal(state_of(&f, slow), SEQ_RUNNING);
    fixture_close(&f);
}

/* The same for slots. And preempting that would not make enough room does not happen. */
static void paused_gives_its_slot(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.slots_max = 2;
    fixture_open(&f, &limits);
    sched_id slow = submit(&f, 4, 20), runs = submit(&f, 4, 40);
    step_whole(&f);
    set_paused(&f, slow, true);
    f.now_ns += SCHED_PAUSE_NS;
    sched_id huge = submit(&f, 60, 4);
    for (int i = 0; i < 40; i++) { /* until `runs` holds so much that both do not fit */
        step_whole(&f);
        assert_null(open_of(&f, huge));
        if (f.sched->seqs[runs].sampled_tokens >= 8)
            break;
    }
    assert_int_equal(state_of(&f, slow), SEQ_RUNNING);
    cancel(&f, huge);
    ended(&f, huge);
    sched_id small = submit(&f, 4, 4);
    step_whole(&f);
    assert_int_equal(state_of(&f, slow), SEQ_WAITING);
    step_whole(&f);
    assert_non_null(open_of(&f, small));
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_admitted_goes),
        cmocka_unit_test(token_in_flight_is_kept),
        cmocka_unit_test(token_in_flight_may_be_the_last),
        cmocka_unit_test(cancel_of_preempted_in_flight),
        cmocka_unit_test(blocks_on_their_way_are_counted),
        cmocka_unit_test(only_the_needy_sit_out),
        cmocka_unit_test(step_that_preempted_admits_nobody),
        cmocka_unit_test(step_that_preempted_admits_not_even_what_fits),
        cmocka_unit_test(promised_blocks_are_not_promised_twice),
        cmocka_unit_test(step_with_one_sitting_out_admits_nobody),
        cmocka_unit_test(last_admitted_may_be_the_needy),
        cmocka_unit_test(preempted_wait_in_order),
        cmocka_unit_test(paused_goes_before_the_last_admitted),
        cmocka_unit_test(paused_makes_room_after_a_while),
        cmocka_unit_test(paused_makes_room_at_once_when_nothing_runs),
        cmocka_unit_test(paused_makes_room_for_what_is_foreseen),
        cmocka_unit_test(paused_is_safe_while_a_step_is_in_flight),
        cmocka_unit_test(paused_keeps_its_slot_when_another_is_coming),
        cmocka_unit_test(paused_gives_its_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
