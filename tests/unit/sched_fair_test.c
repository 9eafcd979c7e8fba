/* The fair policy: its lines, its shares, its predictions, and what they do together. */
#include "tests/unit/sched_fixture.h"

#include "sched/line.h"
#include "sched/shares.h"

/* ---- lines ---- */

#define SEQS 40

static struct seq seqs[SEQS];
static struct line_place places[SEQS];
static struct line line;

static void line_open(void)
{
    line_init(&line);
    memset(places, 0, sizeof places);
    for (uint32_t i = 0; i < SEQS; i++)
        seqs[i] =
            (struct seq){.id = i, .number = i + 1, .deadline_ns = UINT64_MAX, .prompt_tokens = 100};
}

static void enter(uint32_t id, uint64_t due_ns)
{
    line_enter(&line, places, &seqs[id], due_ns);
    line_check(&line, places);
}

static void next_is(uint32_t id)
{
    const struct seq *seq = line_pick(&line, places);
    assert_non_null(seq);
    assert_int_equal(seq->id, id);
    line_passed(&line, places, seq);
    line_leave(&line, places, seq);
    line_check(&line, places);
}

static void the_line_is_by_due_time_then_by_number(void **state)
{
    line_open();
    assert_null(line_pick(&line, places));
    enter(3, 500);
    enter(1, 900);
    enter(4, 500);
    enter(0, 900);
    enter(7, 0); /* ran before */
    enter(2, 700);
    line_leave(&line, places, &seqs[2]);
    line_check(&line, places);
    next_is(7);
    next_is(3);
    next_is(4);
    next_is(0);
    next_is(1);
    assert_null(line_pick(&line, places));
}

static void leaving_from_anywhere_keeps_the_order(void **state)
{
    for (uint32_t out = 0; out < SEQS; out++) {
        line_open();
        for (uint32_t i = 0; i < SEQS; i++)
            enter((i * 7) % SEQS, 1000 + (i * 7) % SEQS);
        line_leave(&line, places, &seqs[out]);
        line_check(&line, places);
        for (uint32_t i = 0; i < SEQS; i++)
            if (i != out)
                next_is(i);
    }
}

static void least_work_goes_first_and_passes_over_eight_times(void **state)
{
    line_open();
    for (uint32_t i = 0; i < 12; i++) {
        /* 2, 5, 8, 11 have most in the cache; then come shorter prompts, with less of it. */
        seqs[i].matched_tokens = i == 0 ? 0 : 50 + 10 * (i % 3);
        seqs[i].prompt_tokens -= i % 3 == 1 ? 5 : 0;
        enter(i, 1000 + i);
    }
    const uint32_t order[] = {2, 5, 8, 11, 1, 4, 7, 10, 0};
    for (size_t i = 0; i < array_count(order); i++)
        next_is(order[i]); /* 30 tokens, then 35; the first one was passed over often enough */
    next_is(3);
}

static void least_work_waits_behind_deadlines_and_those_that_ran(void **state)
{
    line_open();
    seqs[0].deadline_ns = 1000;
    seqs[2].prompt_tokens = 10;
    enter(0, 1000);
    enter(1, 1001);
    enter(2, 1002);
    next_is(0);
    enter(3, 0);
    next_is(3);
    next_is(2);
    next_is(1);
    /* Beyond the window it is not seen. */
    line_open();
    for (uint32_t i = 0; i < 20; i++) {
        seqs[i].prompt_tokens = i == LINE_WINDOW ? 9 : i == LINE_WINDOW - 1 ? 20 : 100;
        enter(i, 1000 + i);
    }
    next_is(LINE_WINDOW - 1);
    next_is(LINE_WINDOW);
}

/* ---- outputs ---- */

static void four_of_five_were_not_longer(void **state)
{
    struct outputs outputs = {0};
    for (uint32_t i = 1; i < OUTPUTS_MIN; i++)
        outputs_add(&outputs, 10 * i);
    assert_int_equal(outputs_p80(&outputs), 0);
    outputs_add(&outputs, 40);
    outputs_add(&outputs, 50);
    assert_int_equal(outputs_p80(&outputs), 40);
    for (uint32_t i = 0; i < 3 * OUTPUTS_COUNT; i++)
        outputs_add(&outputs, 1 + (i * 11) % 32); /* the old ones are forgotten */
    assert_int_equal(outputs.n, OUTPUTS_COUNT);
    assert_int_equal(outputs_p80(&outputs), 26);
}

/* ---- forecast ---- */

static void the_worst_moment_is_less_than_the_sum(void **state)
{
    struct forecast f;
    forecast_begin(&f, 320, 10);
    assert_int_equal(forecast_peak(&f, NULL), 0);
    struct forecast_one one = {.tokens = 320, .grow_blocks = 32, .back_blocks = 5};
    assert_int_equal(forecast_peak(&f, &one), 32);
    forecast_add(&f, &one);
    assert_int_equal(forecast_peak(&f, NULL), 32);
    /* One that ends soon and holds much gives back more than the other takes meanwhile. */
    struct forecast_one soon = {.tokens = 10, .grow_blocks = 1, .back_blocks = 100};
    forecast_add(&f, &soon);
    assert_int_equal(forecast_peak(&f, NULL), 1 + 2);
    /* All that end together need all at once. */
    forecast_begin(&f, 320, 10);
    for (int i = 0; i < 4; i++)
        forecast_add(&f, &one);
    assert_int_equal(forecast_peak(&f, NULL), 4 * 32);
    assert_int_equal(forecast_peak(&f, &one), 5 * 32);
    struct forecast_one nothing = {0};
    assert_int_equal(forecast_peak(&f, &nothing), 4 * 32);
}

/* ---- together: 6 tenants ---- */

#define TENANTS 6

static struct sched_limits shared_limits(void)
{
    struct sched_limits limits = fixture_limits;
    limits.requests_max = 64;
    limits.waiting_max = 64;
    limits.slots_max = 8;
    limits.blocks_count = 64;
    limits.tenants_max = TENANTS;
    limits.fairness = (struct sched_fairness){.quantum_tokens = 4};
    return limits;
}

static void tenants_open(struct fixture *f, const struct sched_limits *limits,
                         const uint32_t *parents, const uint32_t *weights)
{
    struct tenant_row rows[TENANTS];
    for (uint32_t i = 0; i < TENANTS; i++)
        rows[i] = (struct tenant_row){.parent = parents ? parents[i] : TENANT_TOP,
                                      .weight = weights ? weights[i] : 1};
    struct tenant_table table = {.n_rows = TENANTS, .rows = rows};
    fixture_open_with(f, limits, &policy_fair);
    assert_int_equal(sched_set_tenants(f->sched, &table, &f->error), STATUS_OK);
}

static sched_id submit_of(struct fixture *f, uint32_t tenant, uint32_t prompt, uint32_t output)
{
    struct sched_submission s = fixture_submission(f, prompt, output);
    s.tenant = tenant;
    s.class = CLASS_DEFAULT;
    sched_id id;
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, &f->error), STATUS_OK);
    sched_check(f->sched);
    return id;
}

static double service_of(struct fixture *f, uint32_t tenant)
{
    struct sched_tenant_stats s;
    assert_true(sched_tenant_stats(f->sched, tenant, &s));
    return (double)s.prefill_tokens_total + 2.0 * (double)s.output_tokens_total;
}

/* Keeps three of each leaf in line for so many steps. */
static void backlogged(struct fixture *f, const uint32_t *leaves, uint32_t n, int steps)
{
    struct sched_ended e;
    for (int i = 0; i < steps; i++) {
        for (uint32_t l = 0; l < n; l++) {
            struct sched_tenant_stats s;
            assert_true(sched_tenant_stats(f->sched, leaves[l], &s));
            for (uint32_t w = s.waiting; w < 3; w++)
                submit_of(f, leaves[l], 8 + w * 5, 6 + w * 3);
        }
        step_whole(f);
        while (sched_next_ended(f->sched, &e))
            ;
    }
}

static void is_part(double service, double all, double part)
{
    double share = service / all;
    if (share < 0.99 * part || share > 1.01 * part)
        fail_msg("a share of %.4f, %.4f was due", share, part);
}

static void weights_are_shares(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    const uint32_t weights[TENANTS] = {1, 2, 3, 4, 1, 1}, leaves[] = {0, 1, 2, 3};
    tenants_open(&f, &limits, NULL, weights);
    backlogged(&f, leaves, 4, 6000);
    double all = 0;
    for (uint32_t i = 0; i < 4; i++)
        all += service_of(&f, i);
    for (uint32_t i = 0; i < 4; i++)
        is_part(service_of(&f, i), all, weights[i] / 10.0);
    fixture_close(&f);
}

/* Organisations 0 (weight 1) and 1 (weight 3); keys 2, 3 (1:1) of 0 and 4, 5 (1:4) of 1. */
static void shares_hold_at_each_level(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    const uint32_t parents[TENANTS] = {TENANT_TOP, TENANT_TOP, 0, 0, 1, 1};
    const uint32_t weights[TENANTS] = {1, 3, 1, 1, 1, 4}, leaves[] = {2, 3, 4, 5};
    tenants_open(&f, &limits, parents, weights);
    backlogged(&f, leaves, 4, 8000);
    double all = service_of(&f, 0) + service_of(&f, 1);
    is_part(service_of(&f, 0), all, 1.0 / 4);
    is_part(service_of(&f, 2), service_of(&f, 0), 1.0 / 2);
    is_part(service_of(&f, 4), service_of(&f, 1), 1.0 / 5);
    /* What one key leaves is its siblings', not another organisation's. */
    double before = service_of(&f, 0), all_before = all;
    const uint32_t fewer[] = {3, 4, 5};
    backlogged(&f, fewer, 3, 8000);
    all = service_of(&f, 0) + service_of(&f, 1);
    is_part(service_of(&f, 0) - before, all - all_before, 1.0 / 4);
    fixture_close(&f);
}

/* A long prompt in prefill does not keep out one who is behind. */
static void the_light_one_overtakes_a_long_prompt(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    tenants_open(&f, &limits, NULL, NULL);
    sched_id heavy = submit_of(&f, 0, 60, 4);
    step_whole(&f);
    assert_int_equal(row_of(&f, heavy)->n_tokens, 16);
    sched_id light = submit_of(&f, 1, 8, 4);
    step_whole(&f);
    assert_int_equal(row_of(&f, light)->n_tokens, 8);
    assert_true(row_of(&f, light)->samples);
    assert_int_equal(row_of(&f, heavy)->n_tokens, 8); /* and nothing is left over */
    fixture_close(&f);
}

/* Who was idle has a credit, and no more than that. */
static void idle_time_is_not_saved_up(void **state)
{
    for (uint32_t credit = 0; credit <= 200; credit += 200) {
        struct fixture f;
        struct sched_limits limits = shared_limits();
        limits.fairness.credit_cost = credit ? credit : SCHED_NONE;
        const uint32_t busy[] = {0}, both[] = {0, 1};
        tenants_open(&f, &limits, NULL, NULL);
        backlogged(&f, busy, 1, 3000);
        double other = service_of(&f, 0);
        assert_true(other > 20000);
        backlogged(&f, both, 2, 1000);
        double gap = service_of(&f, 1) - (service_of(&f, 0) - other);
        /* Residents of either may still take some 8 * 60 each. */
        assert_true(gap < credit + 500 && gap > -500.0);
        fixture_close(&f);
    }
}

static void interactive_goes_before_batch_of_its_own_tenant_only(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    limits.slots_max = 1;
    limits.step_rows_max = 1;
    tenants_open(&f, &limits, NULL, NULL);
    struct sched_submission s = fixture_submission(&f, 8, 1);
    sched_id batch, interactive, other;
    s.class = CLASS_BATCH;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &batch, &f.error), STATUS_OK);
    s.class = CLASS_INTERACTIVE;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &interactive, &f.error), STATUS_OK);
    s.tenant = 1;
    s.class = CLASS_BATCH;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &other, &f.error), STATUS_OK);
    const sched_id order[] = {interactive, other, batch};
    for (size_t i = 0; i < array_count(order); i++) {
        while (f.sched->n_ended == 0)
            step_whole(&f);
        ended(&f, order[i]);
    }
    fixture_close(&f);
}

/* Deadlines order a line; without one, the patience of the class stands for it. */
static void the_sooner_deadline_goes_first(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    limits.slots_max = 1;
    limits.step_rows_max = 1;
    tenants_open(&f, &limits, NULL, NULL);
    const uint64_t deadlines_ns[] = {UINT64_MAX, 80000000000ull, 20000000000ull, UINT64_MAX};
    sched_id ids[4];
    for (int i = 0; i < 4; i++) {
        struct sched_submission s = fixture_submission(&f, 8, 1);
        s.deadline_ns = deadlines_ns[i];
        f.now_ns++;
        assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &ids[i], &f.error), STATUS_OK);
    }
    const int order[] = {2, 0, 3, 1};
    for (int i = 0; i < 4; i++) {
        while (f.sched->n_ended == 0)
            step_whole(&f);
        ended(&f, ids[order[i]]);
    }
    fixture_close(&f);
}

/* Outputs as long as those before are foreseen: the third is not admitted to be preempted later. */
static void what_will_be_sampled_keeps_its_room(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    limits.blocks_count = 20;
    limits.fairness.headroom_permille = SCHED_NONE;
    tenants_open(&f, &limits, NULL, NULL);
    struct sched_ended e;
    for (int i = 0; i < 6; i++)
        submit_of(&f, 0, 4, 32);
    for (int i = 0; i < 1000 && stats(&f).ended_total < 6; i++)
        step_whole(&f);
    while (sched_next_ended(f.sched, &e))
        ;
    uint64_t before = stats(&f).preempted_total;
    for (int i = 0; i < 6; i++)
        submit_of(&f, 0, 4, 32);
    step_whole(&f);
    step_whole(&f);
    assert_int_equal(stats(&f).running, 2); /* of 9 blocks at their end */
    for (int i = 0; i < 1000 && stats(&f).ended_total < 12; i++)
        step_whole(&f);
    assert_int_equal(stats(&f).ended_total, 12);
    assert_int_equal(stats(&f).preempted_total, before);
    fixture_close(&f);
}

/* Who has more than his share leaves room; who comes finds it. */
static void headroom_is_for_those_who_come(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    limits.blocks_count = 40;
    limits.slots_max = limits.step_rows_max = 16;
    limits.open_tokens_max = 400;
    limits.step_tokens_max = 200;
    limits.fairness.headroom_permille = 200; /* 8 blocks */
    tenants_open(&f, &limits, NULL, NULL);
    for (int i = 0; i < 16; i++)
        submit_of(&f, 0, 15, 1);
    step(&f);
    assert_int_equal(f.sched->tenants.rows[0].blocks, 32);
    submit_of(&f, 1, 15, 1);
    step(&f);
    assert_int_equal(f.sched->tenants.rows[1].blocks, 4);
    for (uint32_t n = f.sched->n_flights; n > 0; n--) {
        uint64_t number = f.sched->flights[0].step;
        for (uint32_t i = 0; i < f.sched->limits.requests_max; i++)
            if (f.sched->seqs[i].n_pending > 0 && f.sched->seqs[i].pending_steps[0] == number)
                sampled(&f, number, i, true);
        retired(&f, number);
    }
    fixture_close(&f);
}

/* What is expected of those who begin counts half, so that they begin in the proportion in which
 * they will be served. */
static void what_is_begun_counts_half(void **state)
{
    struct fixture f;
    struct sched_limits limits = shared_limits();
    limits.slots_max = limits.step_rows_max = 9;
    limits.open_tokens_max = 400;
    limits.step_tokens_max = 200;
    limits.blocks_count = 400;
    limits.fairness.quantum_tokens = 8;
    tenants_open(&f, &limits, NULL, NULL);
    for (int i = 0; i < 9; i++) {
        submit_of(&f, 0, 8, 40);
        submit_of(&f, 1, 8, 1);
    }
    step(&f);
    assert_int_equal(f.sched->tenants.rows[0].n_running, 2); /* at 8 + 40 after its first */
    assert_int_equal(f.sched->tenants.rows[1].n_running, 7); /* at 9 each */
    fixture_close(&f);
}

/* Who has little does not wait for what others will take, while recomputing may be paid. */
static void who_has_little_dares(void **state)
{
    for (int dares = 0; dares < 2; dares++) {
        struct fixture f;
        struct sched_limits limits = shared_limits();
        limits.blocks_count = 20;
        limits.fairness.headroom_permille = SCHED_NONE;
        limits.fairness.reclaim_cost = 100000; /* nobody is preempted for fairness */
        limits.fairness.recompute_permille = dares ? 1000 : SCHED_NONE;
        tenants_open(&f, &limits, NULL, NULL);
        struct sched_ended e;
        for (int i = 0; i < 6; i++)
            submit_of(&f, 0, 4, 32);
        for (int i = 0; i < 1000 && stats(&f).ended_total < 6; i++)
            step_whole(&f);
        while (sched_next_ended(f.sched, &e))
            ;
        submit_of(&f, 0, 4, 32);
        submit_of(&f, 0, 4, 32);
        step_whole(&f);
        step_whole(&f);
        assert_int_equal(stats(&f).running, 2); /* of 9 blocks at their end, of 20 */
        sched_id light = submit_of(&f, 1, 4, 32);
        step_whole(&f);
        assert_int_equal(state_of(&f, light), dares ? SEQ_RUNNING : SEQ_WAITING);
        fixture_close(&f);
    }
}

/* One who is far ahead loses the sequence that costs least, within the budget. */
static void the_one_ahead_pays_within_the_budget(void **state)
{
    for (int pays = 0; pays < 2; pays++) {
        struct fixture f;
        struct sched_limits limits = shared_limits();
        limits.blocks_count = 16;
        limits.fairness.headroom_permille = SCHED_NONE;
        limits.fairness.reclaim_cost = 8;
        limits.fairness.reclaim_price = SCHED_NONE;
        limits.fairness.recompute_permille = pays ? 1000 : SCHED_NONE;
        tenants_open(&f, &limits, NULL, NULL);
        sched_id heavy = submit_of(&f, 0, 30, 30);
        for (int i = 0; i < 12; i++)
            step_whole(&f);
        sched_id light = submit_of(&f, 1, 30, 20);
        for (int i = 0; i < 8; i++)
            step_whole(&f);
        assert_int_equal(state_of(&f, light), pays ? SEQ_RUNNING : SEQ_WAITING);
        assert_int_equal(state_of(&f, heavy), pays ? SEQ_WAITING : SEQ_RUNNING);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_line_is_by_due_time_then_by_number),
        cmocka_unit_test(leaving_from_anywhere_keeps_the_order),
        cmocka_unit_test(least_work_goes_first_and_passes_over_eight_times),
        cmocka_unit_test(least_work_waits_behind_deadlines_and_those_that_ran),
        cmocka_unit_test(four_of_five_were_not_longer),
        cmocka_unit_test(the_worst_moment_is_less_than_the_sum),
        cmocka_unit_test(weights_are_shares),
        cmocka_unit_test(shares_hold_at_each_level),
        cmocka_unit_test(the_light_one_overtakes_a_long_prompt),
        cmocka_unit_test(idle_time_is_not_saved_up),
        cmocka_unit_test(interactive_goes_before_batch_of_its_own_tenant_only),
        cmocka_unit_test(the_sooner_deadline_goes_first),
        cmocka_unit_test(what_will_be_sampled_keeps_its_room),
        cmocka_unit_test(headroom_is_for_those_who_come),
        cmocka_unit_test(what_is_begun_counts_half),
        cmocka_unit_test(who_has_little_dares),
        cmocka_unit_test(the_one_ahead_pays_within_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
