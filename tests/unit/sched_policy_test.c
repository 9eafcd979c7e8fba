/* The line of policy_fcfs alone; and what any policy is told and asked, seen through a spy. */
#include "tests/unit/sched_fixture.h"

#define SEQS 6

static struct seq seqs[SEQS];

static struct sched quiet; /* nobody runs */

static void *line_open(void)
{
    quiet = (struct sched){.limits = {.requests_max = SEQS, .chunk_tokens_max = 7}};
    void *line = calloc(1, policy_fcfs.footprint(&quiet.limits));
    policy_fcfs.init(line, &quiet);
    for (uint32_t i = 0; i < SEQS; i++)
        seqs[i] = (struct seq){.id = i};
    return line;
}

static struct seq *first_of(void *line)
{
    uint32_t tokens_max = 0;
    policy_fcfs.begin(line);
    struct seq *head = policy_fcfs.next(line, &tokens_max);
    assert_int_equal(tokens_max, 7);
    return head;
}

static void line_is(void *line, const char *ids)
{
    for (const char *id = ids; *id; id++) {
        struct seq *head = first_of(line);
        assert_non_null(head);
        assert_int_equal(head->id, *id - '0');
        policy_fcfs.dequeue(line, head);
    }
    assert_null(first_of(line));
    free(line);
}

static void first_come_first_served(void **state)
{
    void *line = line_open();
    assert_null(first_of(line));
    for (uint32_t i = 0; i < 4; i++)
        policy_fcfs.enqueue(line, &seqs[i], ARRIVES_NEW);
    policy_fcfs.enqueue(line, &seqs[5], ARRIVES_PREEMPTED);
    policy_fcfs.enqueue(line, &seqs[4], ARRIVES_RESUMED);
    line_is(line, "450123");
}

/* Whoever is refused keeps all behind him out for this step, and is asked again in the next. */
static void the_head_keeps_others_out(void **state)
{
    void *line = line_open();
    uint32_t tokens_max;
    policy_fcfs.enqueue(line, &seqs[2], ARRIVES_NEW);
    policy_fcfs.enqueue(line, &seqs[3], ARRIVES_NEW);
    assert_ptr_equal(first_of(line), &seqs[2]);
    policy_fcfs.refused(line, &seqs[2], REFUSED_BLOCKS);
    assert_null(policy_fcfs.next(line, &tokens_max));
    line_is(line, "23");
}

static void leaving_from_anywhere(void **state)
{
    void *line = line_open();
    for (uint32_t i = 0; i < SEQS; i++)
        policy_fcfs.enqueue(line, &seqs[i], ARRIVES_NEW);
    policy_fcfs.dequeue(line, &seqs[0]);
    policy_fcfs.dequeue(line, &seqs[3]);
    policy_fcfs.dequeue(line, &seqs[5]);
    policy_fcfs.enqueue(line, &seqs[3], ARRIVES_NEW);
    policy_fcfs.enqueue(line, &seqs[0], ARRIVES_PREEMPTED);
    line_is(line, "01243");

    line = line_open();
    policy_fcfs.enqueue(line, &seqs[2], ARRIVES_PREEMPTED);
    policy_fcfs.dequeue(line, &seqs[2]);
    line_is(line, "");
}

static void victim_is_a_paused_one_or_the_last(void **state)
{
    void *line = line_open();
    struct seq *running[] = {&seqs[0], &seqs[1], &seqs[2]};
    assert_ptr_equal(policy_fcfs.victim(line, running, 3, &seqs[0]), &seqs[2]);
    assert_ptr_equal(policy_fcfs.victim(line, running, 1, &seqs[0]), &seqs[0]);
    assert_null(policy_fcfs.victim(line, running, 0, &seqs[0]));
    seqs[0].paused = seqs[1].paused = true;
    assert_ptr_equal(policy_fcfs.victim(line, running, 3, &seqs[2]), &seqs[1]);
    free(line);
}

/* ---- a spy: first come first served, which writes down what it was charged ---- */

static uint32_t prefill_charged[16], output_charged[16];
static bool spares_everybody;

static void spy_charge(void *state, struct seq *seq, uint32_t prefill_tokens,
                       uint32_t output_tokens)
{
    prefill_charged[seq->id] += prefill_tokens;
    output_charged[seq->id] += output_tokens;
}

static struct seq *spy_victim(void *state, struct seq *const *running, uint32_t n,
                              struct seq *needy)
{
    if (spares_everybody)
        return NULL;
    /* The first without a row in this step: most unlike what the plain policy does. */
    return running[0];
}

static void spy_open(struct fixture *f, const struct sched_limits *limits)
{
    static struct sched_policy spy;
    spy = policy_fcfs;
    spy.charge = spy_charge;
    spy.victim = spy_victim;
    memset(prefill_charged, 0, sizeof prefill_charged);
    memset(output_charged, 0, sizeof output_charged);
    *f = (struct fixture){.now_ns = 1000};
    assert_int_equal(sched_open(limits, &spy, &f->sched, &f->error), STATUS_OK);
}

static void tokens_are_charged_once(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = 4;
    spares_everybody = false;
    spy_open(&f, &limits);
    sched_id id = submit(&f, 10, 5);
    step(&f);
    assert_int_equal(prefill_charged[id], 4); /* when it is planned */
    step(&f);
    assert_int_equal(prefill_charged[id], 8);
    replay(&f);
    while (stats(&f).ended_total == 0) {
        step(&f);
        step(&f); /* overlapped, so the last one overruns */
        for (int i = 0; i < 2; i++) {
            uint64_t number = f.sched->flights[0].step;
            if (f.sched->n_flights == 0)
                break;
            sampled(&f, number, id, f.sched->seqs[id].sampled_tokens == 3);
            retired(&f, number);
        }
    }
    assert_int_equal(prefill_charged[id], 10);
    assert_int_equal(output_charged[id], 4);
    assert_int_equal(ended(&f, id).recomputed_tokens, 8);
    fixture_close(&f);
}

/* Any victim without a row in the step works, and everybody still ends. */
static void another_choice_of_victims_works(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 8;
    spares_everybody = false;
    spy_open(&f, &limits);
    sched_id ids[4];
    for (int i = 0; i < 4; i++)
        ids[i] = submit(&f, 4, 28);
    for (int i = 0; i < 2000 && stats(&f).ended_total < 4; i++)
        step_whole(&f);
    assert_int_equal(stats(&f).ended_total, 4);
    assert_true(stats(&f).preempted_total > 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(prefill_charged[ids[i]], 4);
        assert_int_equal(output_charged[ids[i]], 28);
    }
    fixture_close(&f);
}

static void without_a_victim_the_needy_waits(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 5;
    spares_everybody = true;
    spy_open(&f, &limits);
    sched_id a = submit(&f, 4, 12), b = submit(&f, 4, 12);
    for (int i = 0; i < 6; i++)
        step_whole(&f);
    assert_int_equal(row_of(&f, a)->first_position, 8); /* took the last block */
    assert_null(row_of(&f, b));
    for (int i = 0; i < 3; i++)
        step_whole(&f);
    assert_int_equal(step(&f), 0); /* position 12: nobody can go on, as this policy wants it */
    assert_int_equal(stats(&f).preempted_total, 0);
    cancel(&f, b);
    step_whole(&f);
    assert_int_equal(row_of(&f, a)->first_position, 12);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_come_first_served),
        cmocka_unit_test(the_head_keeps_others_out),
        cmocka_unit_test(leaving_from_anywhere),
        cmocka_unit_test(victim_is_a_paused_one_or_the_last),
        cmocka_unit_test(tokens_are_charged_once),
        cmocka_unit_test(another_choice_of_victims_works),
        cmocka_unit_test(without_a_victim_the_needy_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
