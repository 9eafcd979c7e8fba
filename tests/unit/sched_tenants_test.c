/* Tables of tenants: which are refused and why; what rights a good one gives. */
#include "tests/unit/sched_fixture.h"

#include "sched/tenants.h"

#define ROWS 8

/* Room for reservations: the largest legal request takes 4 of 16 blocks. */
static struct sched_limits roomy(void)
{
    struct sched_limits limits = fixture_limits;
    limits.context_tokens = 16;
    limits.tenants_max = ROWS;
    return limits;
}

/* Three organisations, two projects below the first, two keys below the second project. */
static void good_rows(struct tenant_row rows[ROWS])
{
    static const struct tenant_row good[7] = {
        {.name = "north", .line = 3, .parent = TENANT_TOP, .weight = 1},
        {.name = "south", .line = 9, .parent = TENANT_TOP, .weight = 2},
        {.name = "east", .line = 12, .parent = TENANT_TOP, .weight = 3},
        {.name = "north/a", .line = 4, .parent = 0, .weight = 1},
        {.name = "north/b", .line = 5, .parent = 0, .weight = 1},
        {.name = "north/b/1", .line = 6, .parent = 4, .weight = 1},
        {.name = "north/b/2", .line = 7, .parent = 4, .weight = 1, .class = CLASS_BATCH},
    };
    memcpy(rows, good, sizeof good);
}

static void take(struct fixture *f, const struct tenant_row *rows, uint32_t n)
{
    struct tenant_table table = {.n_rows = n, .rows = rows};
    assert_int_equal(sched_set_tenants(f->sched, &table, &f->error), STATUS_OK);
    sched_check(f->sched);
}

static void table_refused(struct fixture *f, const struct tenant_row *rows, uint32_t n,
                          const char *field, const char *text)
{
    struct tenant_table table = {.n_rows = n, .rows = rows};
    uint32_t count = f->sched->tenants.count;
    assert_int_equal(sched_set_tenants(f->sched, &table, &f->error), STATUS_INVALID);
    assert_string_equal(f->error.field, field);
    if (!strstr(f->error.text, text))
        fail_msg("'%s' was expected in: %s", text, f->error.text);
    assert_int_equal(f->sched->tenants.count, count);
    sched_check(f->sched);
}

static void bad_tables_are_refused_and_the_old_one_stays(void **state)
{
    struct fixture f;
    struct sched_limits limits = roomy();
    struct tenant_row rows[ROWS + 1] = {{0}};
    fixture_open(&f, &limits);
    good_rows(rows);
    take(&f, rows, 7);
#define BAD(change, field, text)                                                                   \
    do {                                                                                           \
        good_rows(rows);                                                                           \
        change;                                                                                    \
        table_refused(&f, rows, 7, field, text);                                                   \
    } while (0)
    BAD(rows[5].weight = 0, "weight", "row 5 (north/b/1, line 6): the weight is 0");
    BAD(rows[5].weight = -4, "weight", "the weight is -4");
    BAD(rows[5].weight = 1000001, "weight", "from 1 to 1000000");
    BAD(rows[2].parent = 7, "parent", "row 2 (east, line 12): its parent is row 7");
    BAD(rows[2].parent = 2, "parent", "circle");
    BAD(rows[0].parent = 5, "parent", "circle");
    BAD(rows[2].parent = 5, "parent", "three levels");
    BAD(rows[2].class = CLASS_DEFAULT, "class", "interactive or batch");
    BAD(rows[1].limit_blocks = 3, "limit_blocks", "needs 4");
    BAD(rows[1].reserved_blocks = 9, "reserved_blocks", "9 blocks are reserved of a pool of 16");
    BAD(rows[1].reserved_blocks = 5; rows[2].reserved_blocks = 4, "reserved_blocks", "row 2");
    BAD(rows[4].reserved_blocks = 1;
        rows[6].reserved_blocks = 1, "reserved_blocks", "row 4 above it");
    BAD(rows[1].reserved_blocks = 6; rows[1].limit_blocks = 5, "reserved_blocks", "its limit");
    good_rows(rows);
    table_refused(&f, rows, 6, "tenants", "closed, not left out");
    table_refused(&f, rows, 0, "tenants", "1 to 8");
    table_refused(&f, rows, ROWS + 1, "tenants", "9 rows");
    fixture_close(&f);
}

/* What others reserve must leave everybody room for the largest legal request. */
static void reservations_leave_room_for_all(void **state)
{
    struct fixture f;
    struct sched_limits limits = roomy();
    struct tenant_row rows[ROWS] = {{0}};
    limits.context_tokens = 52; /* 13 of 16 blocks */
    fixture_open(&f, &limits);
    good_rows(rows);
    rows[1].reserved_blocks = 3;
    take(&f, rows, 7);
    rows[1].reserved_blocks = 4;
    table_refused(&f, rows, 7, "reserved_blocks", "row 0 (north, line 3): what others reserve");
    fixture_close(&f);
}

static enum status try_submit(struct fixture *f, uint32_t tenant, enum sched_class class,
                              sched_id *ret_id)
{
    struct sched_submission s = fixture_submission(f, 4, 4);
    s.tenant = tenant;
    s.class = class;
    enum status status = sched_submit(f->sched, &s, f->now_ns, ret_id, &f->error);
    sched_check(f->sched);
    return status;
}

static void requests_come_from_open_leaves(void **state)
{
    struct fixture f;
    struct sched_limits limits = roomy();
    struct tenant_row rows[ROWS] = {{0}};
    sched_id id;
    fixture_open(&f, &limits);
    assert_int_equal(try_submit(&f, 1, CLASS_BATCH, &id), STATUS_INVALID);
    good_rows(rows);
    take(&f, rows, 7);
    assert_int_equal(try_submit(&f, 7, CLASS_BATCH, &id), STATUS_INVALID);
    assert_string_equal(f.error.field, "tenant");
    assert_int_equal(try_submit(&f, 0, CLASS_BATCH, &id), STATUS_INVALID);
    assert_int_equal(try_submit(&f, 2, (enum sched_class)7, &id), STATUS_INVALID);
    assert_string_equal(f.error.field, "class");
    assert_int_equal(try_submit(&f, 5, CLASS_DEFAULT, &id), STATUS_OK);
    assert_int_equal(f.sched->seqs[id].class, CLASS_INTERACTIVE);
    assert_int_equal(try_submit(&f, 6, CLASS_DEFAULT, &id), STATUS_OK);
    assert_int_equal(f.sched->seqs[id].class, CLASS_BATCH);

    rows[4].closed = true; /* and all below it */
    take(&f, rows, 7);
    assert_int_equal(try_submit(&f, 5, CLASS_DEFAULT, &id), STATUS_DENIED);
    assert_int_equal(try_submit(&f, 3, CLASS_DEFAULT, &id), STATUS_OK);
    struct sched_tenant_stats s;
    assert_true(sched_tenant_stats(f.sched, 0, &s));
    assert_int_equal(s.waiting, 3); /* those that it had go on */
    assert_false(sched_tenant_stats(f.sched, 7, &s));
    fixture_close(&f);
}

static void nobody_gets_tenants_below_his_own_requests(void **state)
{
    struct fixture f;
    struct sched_limits limits = roomy();
    struct tenant_row rows[ROWS] = {{0}};
    sched_id id;
    fixture_open(&f, &limits);
    good_rows(rows);
    take(&f, rows, 7);
    assert_int_equal(try_submit(&f, 2, CLASS_BATCH, &id), STATUS_OK);
    rows[7] = (struct tenant_row){.name = "east/a", .parent = 2, .weight = 1};
    table_refused(&f, rows, 8, "parent", "row 7 (east/a)");
    cancel(&f, id);
    take(&f, rows, 8);
    fixture_close(&f);
}

/* Sums follow their tenant when it moves, with all that it has running. */
static void rows_may_move_while_they_run(void **state)
{
    struct fixture f;
    struct sched_limits limits = roomy();
    struct tenant_row rows[ROWS] = {{0}};
    sched_id id;
    fixture_open_with(&f, &limits, &policy_fair);
    good_rows(rows);
    take(&f, rows, 7);
    assert_int_equal(try_submit(&f, 3, CLASS_BATCH, &id), STATUS_OK);
    assert_int_equal(try_submit(&f, 5, CLASS_BATCH, &id), STATUS_OK);
    step(&f);
    rows[3].parent = TENANT_TOP;
    rows[4].parent = 2;
    rows[1].reserved_blocks = 2;
    take(&f, rows, 7);
    struct sched_tenant_stats s;
    assert_true(sched_tenant_stats(f.sched, 0, &s));
    assert_int_equal(s.running, 0);
    assert_true(sched_tenant_stats(f.sched, 2, &s));
    assert_int_equal(s.running, 1);
    assert_int_equal(s.blocks, 2);
    assert_int_equal(f.sched->tenants.unused_blocks, 2);
    while (f.sched->n_flights > 0) {
        uint64_t number = f.sched->flights[0].step;
        for (uint32_t i = 0; i < f.plan->n_rows; i++)
            sampled(&f, number, f.plan->rows[i].id, true);
        retired(&f, number);
    }
    fixture_close(&f);
}

/* 8 of 16 blocks are kept for row 1; two others fill the rest and stop there. */
static void what_is_reserved_is_there(void **state)
{
    const struct sched_policy *policies[] = {&policy_fcfs, &policy_fair};
    for (size_t p = 0; p < array_count(policies); p++) {
        struct fixture f;
        struct sched_limits limits = roomy();
        struct tenant_row rows[ROWS] = {{0}};
        fixture_open_with(&f, &limits, policies[p]);
        good_rows(rows);
        rows[1].reserved_blocks = 8;
        take(&f, rows, 7);
        sched_id other[6], own[2];
        for (int i = 0; i < 6; i++)
            assert_int_equal(try_submit(&f, 2, CLASS_BATCH, &other[i]), STATUS_OK);
        for (int i = 0; i < 3; i++)
            step_whole(&f);
        assert_true(f.sched->tenants.rows[2].blocks <= 8);
        assert_true(f.sched->tenants.rows[2].n_waiting > 0);
        cancel(&f, other[5]); /* a place in the line of 8, and slots */
        cancel(&f, other[4]);
        if (policies[p] == &policy_fcfs) { /* it lets nobody pass the head */
            fixture_close(&f);
            continue;
        }
        for (int i = 0; i < 2; i++)
            assert_int_equal(try_submit(&f, 1, CLASS_BATCH, &own[i]), STATUS_OK);
        for (int i = 0; i < 2 && state_of(&f, own[0]) != SEQ_RUNNING; i++)
            step_whole(&f);
        assert_int_equal(state_of(&f, own[0]), SEQ_RUNNING);
        assert_int_equal(stats(&f).preempted_total, 0);
        fixture_close(&f);
    }
}

/* A limit holds while its tenant grows, and it pays with its own. */
static void a_limit_is_never_passed(void **state)
{
    const struct sched_policy *policies[] = {&policy_fcfs, &policy_fair};
    for (size_t p = 0; p < array_count(policies); p++) {
        struct fixture f;
        struct sched_limits limits = roomy();
        struct tenant_row rows[ROWS] = {{0}};
        fixture_open_with(&f, &limits, policies[p]);
        good_rows(rows);
        rows[0].limit_blocks = 5; /* for two keys and a project together */
        take(&f, rows, 7);
        for (int i = 0; i < 6; i++) {
            struct sched_submission s = fixture_submission(&f, 3, 9);
            s.tenant = i % 2 ? 5 : 3;
            sched_id id;
            assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_OK);
        }
        struct sched_ended e;
        int n_ended = 0;
        for (int i = 0; i < 400 && n_ended < 6; i++) {
            step_whole(&f);
            assert_true(f.sched->tenants.rows[0].blocks <= 5);
            n_ended += sched_next_ended(f.sched, &e);
        }
        assert_int_equal(n_ended, 6);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_tables_are_refused_and_the_old_one_stays),
        cmocka_unit_test(reservations_leave_room_for_all),
        cmocka_unit_test(requests_come_from_open_leaves),
        cmocka_unit_test(nobody_gets_tenants_below_his_own_requests),
        cmocka_unit_test(rows_may_move_while_they_run),
        cmocka_unit_test(what_is_reserved_is_there),
        cmocka_unit_test(a_limit_is_never_passed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
