/* Opening, and everything that sched_submit accepts or refuses, with what it says. */
#include "tests/unit/sched_fixture.h"

static void says(const struct error *error, enum status status, const char *text)
{
    assert_int_equal(error->status, status);
    if (!strstr(error->text, text))
        fail_msg("'%s' does not say '%s'", error->text, text);
}

static void refused_limits(struct sched_limits limits, const char *name)
{
    struct sched *sched = (struct sched *)&limits;
    struct error error = {0};
    assert_int_equal(sched_open(&limits, &policy_fcfs, &sched, &error), STATUS_INVALID);
    says(&error, STATUS_INVALID, name);
    assert_ptr_equal(sched, &limits); /* outputs are untouched */
    assert_int_equal(sched_footprint(&limits, &policy_fcfs), 0);
}

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        struct sched_limits changed = fixture_limits;                                              \
        changed.field = (value);                                                                   \
        refused_limits(changed, #field);                                                           \
    } while (0)

static void bad_limits_are_named(void **state)
{
    REFUSED(requests_max, 0);
    REFUSED(waiting_max, 0);
    REFUSED(slots_max, 0);
    REFUSED(blocks_count, 0);
    REFUSED(block_tokens, 0);
    REFUSED(context_tokens, 0);
    REFUSED(step_tokens_max, 0);
    REFUSED(step_rows_max, 0);
    REFUSED(chunk_tokens_max, 0);
    REFUSED(open_tokens_max, 0);
    REFUSED(requests_max, UINT32_MAX);
    REFUSED(slots_max, UINT32_MAX);
    REFUSED(blocks_count, UINT32_MAX);
    REFUSED(requests_max, 7);     /* < waiting_max */
    REFUSED(step_tokens_max, 3);  /* < slots_max */
    REFUSED(step_rows_max, 3);    /* < slots_max */
    REFUSED(open_tokens_max, 63); /* < context_tokens */
    struct sched_limits limits = fixture_limits;
    limits.slots_max = limits.step_rows_max = limits.step_tokens_max = 17; /* > requests_max */
    refused_limits(limits, "requests_max");
}

static void footprint_grows_with_each_limit(void **state)
{
    size_t small = sched_footprint(&fixture_limits, &policy_fcfs);
    assert_true(small > 0 && small < 64 * 1024);
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 1016;
    limits.context_tokens = 64;
    size_t more_blocks = sched_footprint(&limits, &policy_fcfs);
    /* A block: owner, references, free entry, mark, plan entry; what it holds, a domain. */
    size_t per_block = 5 * 4 + sizeof(struct prefix_block) + sizeof(struct prefix_domain);
    assert_true(more_blocks - small >= 1000 * per_block);
    assert_true(more_blocks - small <= 1000 * per_block + 2 * 4 * 2048);
    limits.requests_max *= 2;
    assert_true(sched_footprint(&limits, &policy_fcfs) > more_blocks);
}

/* The address sanitizer is to refuse memory as the C library does, not to abort. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void no_memory_is_said(void **state)
{
    struct sched_limits limits = fixture_limits;
    struct error error;
    struct sched *sched = NULL;
    limits.slots_max = limits.step_rows_max = limits.step_tokens_max = 1 << 20;
    limits.requests_max = 1 << 20;
    limits.blocks_count = 1 << 28;
    limits.block_tokens = 1;
    limits.context_tokens = limits.open_tokens_max = 1 << 28;
    /* 1 PiB of tables: more than a process can address. */
    assert_int_equal(sched_open(&limits, &policy_fcfs, &sched, &error), STATUS_EXHAUSTED);
    says(&error, STATUS_EXHAUSTED, "bytes");
    assert_null(sched);
}

static void refused(struct fixture *f, uint32_t prompt, uint32_t output, const char *field,
                    const char *text)
{
    struct sched_submission s = fixture_submission(f, prompt, output);
    sched_id id = 77;
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, &f->error), STATUS_INVALID);
    says(&f->error, STATUS_INVALID, text);
    assert_string_equal(f->error.field, field);
    assert_int_equal(f->error.retry_ns, 0);
    assert_int_equal(id, 77);
    sched_check(f->sched);
}

static void what_never_fits_is_refused(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    refused(&f, 0, 5, "prompt", "no tokens");
    refused(&f, 5, 0, "max_tokens", "0");
    refused(&f, 64, 1, "prompt", "64");
    refused(&f, UINT32_MAX, 1, "prompt", "4294967295");
    refused(&f, 60, 5, "max_tokens", "lower max_tokens to 4");
    refused(&f, 2, UINT32_MAX, "max_tokens", "4294967295");
    cancel(&f, submit(&f, 60, 4)); /* exactly the context */
    assert_int_equal(stats(&f).waiting, 0);
    fixture_close(&f);

    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 5; /* 20 tokens */
    fixture_open(&f, &limits);
    refused(&f, 16, 5, "max_tokens", "5 blocks of 4 tokens");
    refused(&f, 20, 1, "prompt", "5 blocks of 4 tokens");
    submit(&f, 16, 4);
    fixture_close(&f);
}

static void digests_must_match_the_prompt(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    struct sched_digest digests[3] = {0};
    struct sched_submission s = fixture_submission(&f, 11, 4);
    s.digests = digests;
    s.n_digests = 3;
    sched_id id;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_INVALID);
    says(&f.error, STATUS_INVALID, "fills 2 blocks");
    s.n_digests = 2;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_OK);
    sched_block_filled(f.sched, id, 0, digests);
    sched_check(f.sched);
    fixture_close(&f);
}

static void past_deadline_is_refused(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    struct sched_submission s = fixture_submission(&f, 3, 3);
    s.deadline_ns = f.now_ns;
    sched_id id = 77;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_DEADLINE);
    assert_int_equal(id, 77);
    submit_until(&f, f.now_ns + 1);
    /* The clock does not go back. */
    assert_int_equal(sched_submit(f.sched, &s, 0, &id, &f.error), STATUS_DEADLINE);
    fixture_close(&f);
}

static void exhausted(struct fixture *f, const char *text)
{
    struct sched_submission s = fixture_submission(f, 3, 3);
    sched_id id = 77;
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, &f->error), STATUS_EXHAUSTED);
    says(&f->error, STATUS_EXHAUSTED, text);
    assert_int_equal(id, 77);
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, NULL), STATUS_EXHAUSTED);
    sched_check(f->sched);
}

static void full_queue_is_refused(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    for (int i = 0; i < 8; i++)
        submit(&f, 3, 3);
    exhausted(&f, "8 requests wait");
    assert_int_equal(f.error.retry_ns, 1000000000ull); /* nothing is known yet */
    step_whole(&f);                                    /* 4 run, 4 wait */
    for (int i = 0; i < 4; i++)
        submit(&f, 3, 3);
    exhausted(&f, "queue is full");
    fixture_close(&f);
}

static void ids_run_out(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.requests_max = 9;
    fixture_open(&f, &limits);
    for (int i = 0; i < 4; i++)
        submit(&f, 3, 3);
    step_whole(&f);
    for (int i = 0; i < 5; i++)
        submit(&f, 3, 3);
    exhausted(&f, "all places are taken: 9");
    fixture_close(&f);
}

/* One request after another ends every `interval_ns`; then the queue is filled. */
static uint64_t retry_after(uint64_t interval_ns)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    f.now_ns = 5000000000000ull; /* idle for long: that does not count */
    for (int i = 0; i < 64; i++) {
        sched_id id = submit(&f, 1, 1);
        uint64_t number = step(&f);
        f.now_ns += interval_ns;
        assert_true(sampled(&f, number, id, true));
        retired(&f, number);
        ended(&f, id);
        while (step_whole(&f))
            ;
    }
    for (int i = 0; i < 8; i++)
        submit(&f, 3, 3);
    exhausted(&f, "queue is full");
    fixture_close(&f);
    return f.error.retry_ns;
}

static void retry_follows_the_rate_of_ends(void **state)
{
    assert_int_equal(retry_after(1), 100000000ull);                /* never below 100 ms */
    assert_int_equal(retry_after(1000000000ull), 5000000000ull);   /* half of 8 waiting, and 1 */
    assert_int_equal(retry_after(20000000000ull), 30000000000ull); /* never above 30 s */
    assert_int_equal(retry_after(1ull << 62), 30000000000ull);
}

/* A request that was preempted has been admitted: it does not take a new one's place in line. */
static void preempted_ones_do_not_fill_the_queue(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 4;
    limits.waiting_max = 1;
    fixture_open(&f, &limits);
    sched_id a = submit(&f, 4, 12);
    step_whole(&f);
    sched_id b = submit(&f, 4, 12);
    for (int i = 0; i < 5; i++)
        step_whole(&f);
    assert_int_equal(state_of(&f, a), SEQ_RUNNING);
    assert_int_equal(state_of(&f, b), SEQ_WAITING);
    submit(&f, 3, 3);
    exhausted(&f, "1 requests wait, 1 may");
    assert_int_equal(stats(&f).waiting, 2);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_limits_are_named),
        cmocka_unit_test(footprint_grows_with_each_limit),
        cmocka_unit_test(no_memory_is_said),
        cmocka_unit_test(what_never_fits_is_refused),
        cmocka_unit_test(digests_must_match_the_prompt),
        cmocka_unit_test(past_deadline_is_refused),
        cmocka_unit_test(full_queue_is_refused),
        cmocka_unit_test(ids_run_out),
        cmocka_unit_test(retry_follows_the_rate_of_ends),
        cmocka_unit_test(preempted_ones_do_not_fill_the_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
