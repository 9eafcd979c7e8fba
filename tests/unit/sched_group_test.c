/* Choices of one prompt: it is computed once, and each of them is on its own in all else. */
#include "tests/unit/sched_fixture.h"

#include "sched/tenants.h"

static struct sched_digest chain[16];

static struct sched_submission submission_of(struct fixture *f, uint64_t domain, uint32_t prompt,
                                             uint32_t output, uint32_t n)
{
    struct sched_submission s = fixture_submission(f, prompt, output);
    for (uint32_t i = 0; i < 16; i++)
        memset(chain[i].bytes, (int)(100 + i), sizeof chain[i].bytes);
    s.cache_domain = domain;
    s.digests = chain;
    s.n_digests = prompt / 4;
    s.choices = n;
    return s;
}

static void send(struct fixture *f, uint64_t domain, uint32_t prompt, uint32_t output, uint32_t n,
                 sched_id *ret_ids)
{
    struct sched_submission s = submission_of(f, domain, prompt, output, n);
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, ret_ids, &f->error), STATUS_OK);
    sched_check(f->sched);
}

static const uint32_t *table_of(const struct fixture *f, sched_id id)
{
    return blocks_table(&f->sched->blocks, f->sched->seqs[id].slot);
}

/* Everybody's end, and the sum of what was computed of their prompts for the first time. */
static uint32_t run_out(struct fixture *f, uint32_t n)
{
    uint32_t computed = 0;
    for (int i = 0; i < 500 && n > 0; i++) {
        struct sched_ended e;
        step_whole(f);
        while (sched_next_ended(f->sched, &e)) {
            computed += e.prompt_computed_tokens;
            n--;
        }
        sched_check(f->sched);
    }
    assert_int_equal(n, 0);
    step_whole(f); /* the last closes */
    return computed;
}

/* A prompt of two full blocks and a half: all name the full ones, each has a copy of the tail. */
static void a_prompt_is_computed_once(void **state)
{
    for (uint64_t domain = 0; domain < 2; domain++) {
        struct fixture f;
        sched_id ids[4];
        fixture_open(&f, &fixture_limits);
        send(&f, domain, 10, 3, 4, ids);
        assert_int_equal(stats(&f).waiting, 4);
        uint64_t number = step(&f);
        assert_int_equal(f.plan->n_opens, 1);
        assert_int_equal(row_of(&f, ids[0])->n_tokens, 10);
        uint64_t second = step(&f); /* the first one decodes; the others are held */
        assert_int_equal(f.plan->n_opens, 0);
        assert_true(f.sched->seqs[ids[3]].held);
        sampled(&f, number, ids[0], false);
        retired(&f, number);
        assert_int_equal(step(&f), 3);
        assert_int_equal(f.plan->n_opens, 3);
        assert_int_equal(f.plan->n_copies, 3);
        for (uint32_t i = 1; i < 4; i++) {
            const struct sched_open_row *open = open_of(&f, ids[i]);
            assert_int_equal(open->cached_tokens, 9);
            assert_int_equal(row_of(&f, ids[i])->n_tokens, 1);
            assert_true(row_of(&f, ids[i])->samples);
            assert_memory_equal(table_of(&f, ids[i]), table_of(&f, ids[0]), 2 * sizeof(uint32_t));
            assert_int_equal(f.plan->copies[i - 1][0], table_of(&f, ids[0])[2]);
            assert_int_equal(f.plan->copies[i - 1][1], table_of(&f, ids[i])[2]);
        }
        assert_int_equal(stats(&f).blocks_used, 2 + 4);
        sampled(&f, second, ids[0], false);
        retired(&f, second);
        for (uint32_t i = 0; i < 4; i++)
            sampled(&f, 3, ids[i], false);
        retired(&f, 3);
        assert_int_equal(run_out(&f, 4), 10 + 3);
        assert_int_equal(stats(&f).prompt_tokens_total, 13);
        assert_int_equal(stats(&f).cached_tokens_total, 3 * 9);
        assert_int_equal(stats(&f).blocks_cached, domain ? 2 : 0); /* what others may find */
        if (domain == 0)
            all_quiet(&f);
        fixture_close(&f);
    }
}

static void lengths_of_every_kind(void **state)
{
    for (uint32_t prompt = 1; prompt <= 13; prompt++)
        for (uint32_t n = 2; n <= 8; n += 3)
            for (uint64_t domain = 0; domain < 2; domain++) {
                struct fixture f;
                sched_id ids[8];
                fixture_open_with(&f, &fixture_limits, domain ? &policy_fair : &policy_fcfs);
                send(&f, domain, prompt, 2, n, ids);
                assert_int_equal(run_out(&f, n), prompt + n - 1);
                fixture_close(&f);
            }
}

/* One slot: each is over before the next one begins, and what it computed is not lost. */
static void one_after_the_other(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.slots_max = 1;
    sched_id ids[5];
    for (uint32_t prompt = 3; prompt <= 16; prompt++) {
        fixture_open(&f, &limits);
        send(&f, 0, prompt, 1, 5, ids);
        assert_int_equal(run_out(&f, 5), prompt + 4);
        all_quiet(&f);
        fixture_close(&f);
    }
}

/* Nobody else can find what a group has listed for itself. */
static void others_find_nothing(void **state)
{
    struct fixture f;
    sched_id ids[2], other;
    fixture_open(&f, &fixture_limits);
    send(&f, 0, 14, 9, 2, ids);
    step_whole(&f);
    send(&f, 0, 14, 9, 1, &other);
    step_whole(&f);
    assert_int_equal(open_of(&f, ids[1])->cached_tokens, 13);
    assert_int_equal(open_of(&f, other)->cached_tokens, 0);
    run_out(&f, 3);
    all_quiet(&f);
    fixture_close(&f);
}

static void a_public_domain_gets_nothing(void **state)
{
    struct fixture f;
    sched_id ids[3];
    fixture_open(&f, &fixture_limits);
    send(&f, 9, 8, 1, 1, ids); /* who may add */
    run_out(&f, 1);
    struct sched_submission s = submission_of(&f, 9, 14, 1, 3);
    s.cache_readonly = true;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, ids, &f.error), STATUS_OK);
    assert_int_equal(run_out(&f, 3), 14 - 8 + 2);
    assert_int_equal(stats(&f).blocks_cached, 2);
    fixture_close(&f);
}

/* The one that computes leaves half way: the next one goes on where it was. */
static void another_takes_over(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = limits.step_tokens_max = 5;
    sched_id ids[3];
    fixture_open(&f, &limits);
    send(&f, 0, 18, 2, 3, ids);
    step_whole(&f);
    step_whole(&f); /* 10 of 18 */
    cancel(&f, ids[0]);
    ended(&f, ids[0]);
    step_whole(&f);
    assert_int_equal(open_of(&f, ids[1])->cached_tokens, 8);
    assert_null(open_of(&f, ids[2]));
    assert_int_equal(run_out(&f, 2), 18 - 8 + 1);
    all_quiet(&f);
    fixture_close(&f);
}

/* Over with its prompt in flight: what it computed still counts. */
static void a_prompter_that_is_over_still_lists(void **state)
{
    struct fixture f;
    sched_id ids[2];
    fixture_open(&f, &fixture_limits);
    send(&f, 0, 10, 1, 2, ids);
    uint64_t number = step(&f);
    assert_true(sampled(&f, number, ids[0], true));
    retired(&f, number);
    ended(&f, ids[0]);
    assert_int_equal(stats(&f).blocks_cached, 3);
    assert_int_equal(run_out(&f, 1), 1);
    all_quiet(&f);
    fixture_close(&f);
}

static void a_slow_prompter_holds_nobody(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = 4;
    sched_id ids[3];
    fixture_open(&f, &limits);
    send(&f, 0, 10, 2, 3, ids);
    step_whole(&f);
    assert_int_equal(step_whole(&f), 2);
    set_paused(&f, ids[0], true);
    step_whole(&f);
    assert_int_equal(open_of(&f, ids[1])->cached_tokens, 8);
    for (int i = 0; i < 20; i++)
        step_whole(&f);
    ended(&f, ids[1]);
    ended(&f, ids[2]);
    set_paused(&f, ids[0], false);
    run_out(&f, 1);
    all_quiet(&f);
    fixture_close(&f);
}

static void a_held_one_may_be_paused_and_leave(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.chunk_tokens_max = 4;
    sched_id ids[4];
    fixture_open(&f, &limits);
    send(&f, 0, 10, 2, 4, ids);
    step_whole(&f);
    set_paused(&f, ids[1], true);
    set_paused(&f, ids[2], true);
    set_paused(&f, ids[2], false); /* still held */
    assert_false(f.sched->seqs[ids[2]].in_line);
    cancel(&f, ids[3]);
    ended(&f, ids[3]);
    for (int i = 0; i < 20; i++)
        step_whole(&f);
    ended(&f, ids[0]);
    ended(&f, ids[2]);
    assert_int_equal(state_of(&f, ids[1]), SEQ_WAITING);
    set_paused(&f, ids[1], false);
    run_out(&f, 1);
    all_quiet(&f);
    fixture_close(&f);
}

/* After a lost worker one of them computes the prompt for all, as it was at first. */
static void a_lost_worker_is_made_up_for_once(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.step_tokens_max = limits.chunk_tokens_max = 64;
    sched_id ids[4];
    fixture_open(&f, &limits);
    send(&f, 0, 14, 20, 4, ids);
    for (int i = 0; i < 4; i++)
        step_whole(&f);
    uint64_t before = f.sched->processed_tokens_total;
    replay(&f);
    step_whole(&f);
    assert_int_equal(f.plan->n_opens, 1);
    step_whole(&f);
    assert_int_equal(f.plan->n_opens, 3);
    for (uint32_t i = 0; i < f.plan->n_opens; i++)
        assert_int_equal(f.plan->opens[i].cached_tokens, 14);
    /* The prompt, what was sampled of each (4 and 3 times 3), and a decode. */
    assert_int_equal(f.sched->processed_tokens_total - before, 14 + 4 + 3 * 3 + 1);
    run_out(&f, 4);
    all_quiet(&f);
    fixture_close(&f);
}

static void preempted_ones_find_it_again(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 9;
    sched_id ids[4];
    fixture_open(&f, &limits);
    send(&f, 0, 10, 14, 4, ids); /* 2 shared, and 4 each at the end */
    assert_int_equal(run_out(&f, 4), 13);
    assert_true(stats(&f).preempted_total > 0);
    all_quiet(&f);
    fixture_close(&f);
}

/* A tail has one name. While somebody waits for it, that is the group's; then its owner's. */
static void a_tail_gets_its_own_name_later(void **state)
{
    for (uint32_t slots = 1; slots <= 2; slots++) {
        struct fixture f;
        struct sched_limits limits = fixture_limits;
        limits.slots_max = slots;
        sched_id ids[2];
        fixture_open(&f, &limits);
        send(&f, 7, 6, 9, 2, ids);
        step_whole(&f);
        step_whole(&f); /* 8 tokens of the first one are known */
        assert_int_equal(f.sched->blocks.prefix.n_listed, 2);
        struct sched_digest name;
        memset(name.bytes, 55, sizeof name.bytes);
        sched_block_filled(f.sched, ids[0], 1, &name);
        sched_check(f.sched);
        step_whole(&f);
        bool found = prefix_find(&f.sched->blocks.prefix, 7, &name) != PREFIX_NONE;
        assert_int_equal(found, slots == 2);
        run_out(&f, 2);
        assert_int_equal(stats(&f).blocks_cached, slots);
        assert_int_equal(f.sched->blocks.prefix.n_domains, 1);
        fixture_close(&f);
    }
}

static void all_or_none_are_submitted(void **state)
{
    struct fixture f;
    sched_id ids[16];
    fixture_open(&f, &fixture_limits); /* 8 may wait */
    struct sched_submission s = submission_of(&f, 0, 5, 5, 9);
    memset(ids, 0xff, sizeof ids);
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, ids, &f.error), STATUS_INVALID);
    assert_string_equal(f.error.field, "n");
    send(&f, 0, 5, 5, 6, ids);
    s.choices = 3;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, ids + 6, &f.error), STATUS_EXHAUSTED);
    assert_true(f.error.retry_ns > 0);
    assert_int_equal(ids[6], SCHED_NONE);
    assert_int_equal(stats(&f).waiting, 6);
    s.choices = SCHED_CHOICES_MAX + 1;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, ids + 6, &f.error), STATUS_INVALID);
    s.choices = 1;
    s.cache_domain = 3ull << 62;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, ids + 6, &f.error), STATUS_INVALID);
    assert_string_equal(f.error.field, "cache_domain");
    send(&f, 0, 5, 5, 2, ids + 6);
    run_out(&f, 8);
    all_quiet(&f);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_computed_once),
        cmocka_unit_test(lengths_of_every_kind),
        cmocka_unit_test(one_after_the_other),
        cmocka_unit_test(others_find_nothing),
        cmocka_unit_test(a_public_domain_gets_nothing),
        cmocka_unit_test(another_takes_over),
        cmocka_unit_test(a_prompter_that_is_over_still_lists),
        cmocka_unit_test(a_slow_prompter_holds_nobody),
        cmocka_unit_test(a_held_one_may_be_paused_and_leave),
        cmocka_unit_test(a_lost_worker_is_made_up_for_once),
        cmocka_unit_test(preempted_ones_find_it_again),
        cmocka_unit_test(a_tail_gets_its_own_name_later),
        cmocka_unit_test(all_or_none_are_submitted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
