/* The prefix cache: what is listed, what is evicted first, who may read, and that a hit skips. */
#include "tests/unit/sched_fixture.h"

#include "sched/tenants.h"

static struct sched_digest named(uint32_t name)
{
    struct sched_digest digest;
    for (size_t i = 0; i < sizeof digest.bytes; i++)
        digest.bytes[i] = (uint8_t)(name >> (8 * (i % 4)));
    return digest;
}

/* ---- alone ---- */

static struct prefix prefix;
static void *memory;

static void cache_open(void)
{
    struct sched_limits limits = {.blocks_count = 8};
    memory = calloc(1, prefix_footprint(&limits));
    prefix_init(&prefix, &limits, memory);
    prefix_check(&prefix);
}

static bool list(uint32_t block, uint64_t domain, uint32_t name, uint32_t quota)
{
    struct sched_digest digest = named(name);
    prefix_name(&prefix, block, &digest);
    bool listed = prefix_list(&prefix, block, domain, quota);
    prefix_check(&prefix);
    return listed;
}

static uint32_t find(uint64_t domain, uint32_t name)
{
    struct sched_digest digest = named(name);
    return prefix_find(&prefix, domain, &digest);
}

static void cached(uint32_t block)
{
    prefix_cache(&prefix, block);
    prefix_check(&prefix);
}

static void evicts(uint32_t block)
{
    assert_int_equal(prefix_evict(&prefix), block);
    prefix_check(&prefix);
}

static void a_name_is_found_in_its_own_domain_only(void **state)
{
    cache_open();
    assert_true(list(3, 1, 77, UINT32_MAX));
    assert_int_equal(find(1, 77), 3);
    assert_int_equal(find(2, 77), PREFIX_NONE); /* as if digests had collided */
    assert_int_equal(find(0, 77), PREFIX_NONE);
    assert_true(list(4, 2, 77, UINT32_MAX));
    assert_int_equal(find(1, 77), 3);
    assert_int_equal(find(2, 77), 4);
    assert_false(list(5, 1, 77, UINT32_MAX)); /* the second copy stays private */
    assert_false(list(5, 0, 78, UINT32_MAX)); /* nobody's domain */
    struct sched_digest almost = named(77);
    almost.bytes[31] ^= 1; /* the whole digest counts, not the part that is hashed */
    assert_int_equal(prefix_find(&prefix, 1, &almost), PREFIX_NONE);
    free(memory);
}

static void the_least_recently_used_goes_first(void **state)
{
    cache_open();
    for (uint32_t i = 0; i < 4; i++)
        assert_true(list(i, 1 + i % 2, i, UINT32_MAX));
    cached(2);
    cached(0);
    cached(3);
    cached(1);
    prefix_uncache(&prefix, 0); /* read again */
    prefix_check(&prefix);
    evicts(2);
    evicts(3);
    assert_int_equal(find(1, 2), PREFIX_NONE);
    assert_int_equal(find(1, 0), 0);
    cached(0);
    evicts(1);
    assert_int_equal(prefix.n_domains, 1); /* that of block 0; the other is forgotten */
    evicts(0);
    assert_int_equal(prefix.n_domains + prefix.n_listed + prefix.n_cached, 0);
    free(memory);
}

static void over_its_quota_a_domain_goes_before_all(void **state)
{
    cache_open();
    for (uint32_t i = 0; i < 2; i++)
        assert_true(list(i, 1, i, UINT32_MAX));
    for (uint32_t i = 2; i < 6; i++)
        assert_true(list(i, 2, i, 2));
    for (uint32_t i = 0; i < 6; i++)
        cached(i);
    evicts(2); /* two over, though 0 and 1 are older */
    evicts(3);
    evicts(0); /* within its quota it is like all others */
    evicts(1);
    evicts(4);
    evicts(5);
    free(memory);
}

static void a_match_ends_at_the_first_that_is_missing(void **state)
{
    cache_open();
    struct sched_digest digests[6];
    uint32_t blocks[6];
    for (uint32_t i = 0; i < 6; i++)
        digests[i] = named(10 + i);
    assert_int_equal(prefix_match(&prefix, 1, digests, 6, blocks), 0);
    for (uint32_t i = 0; i < 6; i++)
        if (i != 3)
            assert_true(list(i, 1, 10 + i, UINT32_MAX));
    assert_int_equal(prefix_match(&prefix, 1, digests, 6, blocks), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(blocks[i], i);
    assert_int_equal(prefix_match(&prefix, 1, digests, 2, blocks), 2);
    assert_int_equal(prefix_match(&prefix, 2, digests, 6, blocks), 0);
    free(memory);
}

/* ---- behind the scheduler: prompts of 4 blocks of 4 tokens ---- */

static struct sched_digest chain[16];

static sched_id send(struct fixture *f, uint64_t domain, uint32_t prompt, uint32_t output)
{
    struct sched_submission s = fixture_submission(f, prompt, output);
    for (uint32_t i = 0; i < 16; i++)
        chain[i] = named(100 + i);
    s.cache_domain = domain;
    s.digests = chain;
    s.n_digests = prompt / 4;
    sched_id id;
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, &f->error), STATUS_OK);
    sched_check(f->sched);
    return id;
}

static struct sched_ended run_to_end(struct fixture *f, sched_id id)
{
    for (int i = 0; i < 100 && f->sched->n_ended == 0; i++)
        step_whole(f);
    return ended(f, id);
}

static void a_hit_skips_what_is_there(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    struct sched_ended e = run_to_end(&f, send(&f, 1, 14, 2));
    assert_int_equal(e.cached_tokens, 0);
    assert_int_equal(e.prompt_computed_tokens, 14);
    assert_int_equal(stats(&f).blocks_cached, 3); /* the fourth was not full with the prompt */
    assert_int_equal(stats(&f).blocks_free, 13);

    sched_id id = send(&f, 1, 14, 2);
    uint64_t number = step(&f);
    const struct sched_open_row *open = open_of(&f, id);
    assert_int_equal(open->cached_tokens, 12);
    assert_int_equal(open->n_blocks, 4);
    assert_int_equal(row_of(&f, id)->first_position, 12);
    assert_int_equal(row_of(&f, id)->n_tokens, 2);
    assert_int_equal(f.plan->n_copies, 0);
    assert_int_equal(stats(&f).blocks_cached, 0);
    sampled(&f, number, id, true);
    retired(&f, number);
    e = ended(&f, id);
    assert_int_equal(e.cached_tokens, 12);
    assert_int_equal(e.prompt_computed_tokens, 2);
    fixture_close(&f);
}

/* The last position is computed in any case; its block is another's, so it is copied first. */
static void a_whole_hit_copies_the_last_block(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    run_to_end(&f, send(&f, 1, 16, 1)); /* one step: listed when that retires */
    assert_int_equal(stats(&f).blocks_cached, 4);
    sched_id id = send(&f, 1, 16, 3);
    uint64_t number = step(&f);
    const struct sched_open_row *open = open_of(&f, id);
    assert_int_equal(open->cached_tokens, 15);
    assert_int_equal(f.plan->n_copies, 1);
    assert_int_equal(f.plan->copies[0][1], f.plan->blocks[open->blocks_first + 3]);
    assert_int_not_equal(f.plan->copies[0][0], f.plan->copies[0][1]);
    assert_int_equal(row_of(&f, id)->first_position, 15);
    assert_int_equal(row_of(&f, id)->n_tokens, 1);
    assert_int_equal(stats(&f).blocks_cached, 1); /* the one that was copied */
    sampled(&f, number, id, false);
    retired(&f, number);
    assert_int_equal(run_to_end(&f, id).cached_tokens, 15);
    fixture_close(&f);
}

static void two_readers_share_and_the_last_one_leaves_it(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.step_tokens_max = 64;
    fixture_open(&f, &limits);
    run_to_end(&f, send(&f, 1, 14, 1));
    sched_id a = send(&f, 1, 14, 9), b = send(&f, 1, 14, 9);
    step_whole(&f);
    assert_int_equal(stats(&f).blocks_used, 3 + 2 * 1); /* the fourth of each, with its output */
    cancel(&f, a);
    assert_int_equal(stats(&f).blocks_used, 3 + 1);
    cancel(&f, b);
    assert_int_equal(stats(&f).blocks_cached, 3);
    ended(&f, a);
    ended(&f, b);
    fixture_close(&f);
}

static void nobody_else_hits(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    run_to_end(&f, send(&f, 1, 14, 1));
    assert_int_equal(run_to_end(&f, send(&f, 2, 14, 1)).cached_tokens, 0);
    assert_int_equal(run_to_end(&f, send(&f, 0, 14, 1)).cached_tokens, 0);
    assert_int_equal(run_to_end(&f, send(&f, 0, 14, 1)).cached_tokens, 0);
    assert_int_equal(run_to_end(&f, send(&f, 1, 14, 1)).cached_tokens, 12);
    fixture_close(&f);
}

static void a_reader_of_a_public_domain_adds_nothing(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    struct sched_submission s = fixture_submission(&f, 14, 1);
    for (uint32_t i = 0; i < 16; i++)
        chain[i] = named(100 + i);
    s.cache_domain = 9;
    s.cache_readonly = true;
    s.digests = chain;
    s.n_digests = 3;
    sched_id id;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_OK);
        assert_int_equal(run_to_end(&f, id).cached_tokens, 0);
    }
    run_to_end(&f, send(&f, 9, 14, 1)); /* an administrator */
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_OK);
    assert_int_equal(run_to_end(&f, id).cached_tokens, 12);
    fixture_close(&f);
}

static void blocks_that_decoding_fills_are_listed_once_computed(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    sched_id id = send(&f, 1, 6, 9);
    step_whole(&f); /* token 6 is known, 0..5 are computed */
    step_whole(&f);
    struct sched_digest second = named(101);
    sched_block_filled(f.sched, id, 1, &second); /* 8 tokens are known */
    assert_int_equal(f.sched->blocks.prefix.n_listed, 1);
    step_whole(&f); /* and now computed */
    assert_int_equal(f.sched->blocks.prefix.n_listed, 2);
    sched_block_filled(f.sched, id, 1, &second); /* twice */
    sched_block_filled(f.sched, id, 3, &second); /* not there yet */
    sched_check(f.sched);
    cancel(&f, id);
    ended(&f, id);
    assert_int_equal(stats(&f).blocks_cached, 2);
    assert_int_equal(run_to_end(&f, send(&f, 1, 14, 1)).cached_tokens, 8);
    fixture_close(&f);
}

/* What a preempted one has computed is found again; computing again is counted without it. */
static void a_preempted_one_finds_its_blocks(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 8;
    limits.step_tokens_max = 32;
    fixture_open(&f, &limits);
    sched_id a = send(&f, 1, 8, 20), b = send(&f, 1, 12, 8);
    while (stats(&f).preempted_total == 0)
        assert_int_not_equal(step_whole(&f), 0);
    assert_int_equal(state_of(&f, b), SEQ_WAITING);
    assert_true(stats(&f).blocks_cached > 0);
    cancel(&f, a);
    ended(&f, a);
    uint32_t known = seq_known_tokens(&f.sched->seqs[b]);
    uint64_t number = step(&f);
    uint32_t cached_tokens = open_of(&f, b)->cached_tokens;
    assert_true(cached_tokens >= 8);
    sampled(&f, number, b, true);
    retired(&f, number);
    struct sched_ended e = ended(&f, b);
    assert_int_equal(e.cached_tokens, 0); /* it computed them itself */
    assert_int_equal(e.recomputed_tokens, known - 1 - cached_tokens);
    fixture_close(&f);
}

static void a_lost_worker_takes_its_blocks_along(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    run_to_end(&f, send(&f, 1, 14, 1));
    assert_int_equal(stats(&f).blocks_cached, 3);
    replay(&f);
    assert_int_equal(stats(&f).blocks_cached, 0);
    assert_int_equal(stats(&f).blocks_free, 16);
    assert_int_equal(run_to_end(&f, send(&f, 1, 14, 1)).cached_tokens, 0);
    fixture_close(&f);
}

/* The pool is full of cached blocks: they are as good as free, and go one by one. */
static void cached_blocks_make_room(void **state)
{
    struct fixture f;
    fixture_open(&f, &fixture_limits);
    for (uint64_t domain = 1; domain <= 5; domain++)
        run_to_end(&f, send(&f, domain, 14, 1));
    assert_int_equal(stats(&f).blocks_cached, 15);
    assert_int_equal(run_to_end(&f, send(&f, 6, 14, 1)).cached_tokens, 0);
    assert_int_equal(stats(&f).evicted_blocks_total, 3);
    assert_int_equal(run_to_end(&f, send(&f, 5, 14, 1)).cached_tokens, 12);
    /* The oldest is gone from its end on. */
    assert_int_equal(run_to_end(&f, send(&f, 1, 14, 1)).cached_tokens, 0);
    fixture_close(&f);
}

/* A prompt that needs the whole pool, and is cached: the copy has no room, so it is not made. */
static void without_room_for_a_copy_the_block_is_computed(void **state)
{
    struct fixture f;
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = 4;
    fixture_open(&f, &limits);
    run_to_end(&f, send(&f, 1, 12, 1));
    assert_int_equal(stats(&f).blocks_cached, 3);
    sched_id id = send(&f, 1, 12, 4);
    step(&f);
    assert_int_equal(open_of(&f, id)->cached_tokens, 8);
    assert_int_equal(f.plan->n_copies, 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_found_in_its_own_domain_only),
        cmocka_unit_test(the_least_recently_used_goes_first),
        cmocka_unit_test(over_its_quota_a_domain_goes_before_all),
        cmocka_unit_test(a_match_ends_at_the_first_that_is_missing),
        cmocka_unit_test(a_hit_skips_what_is_there),
        cmocka_unit_test(a_whole_hit_copies_the_last_block),
        cmocka_unit_test(two_readers_share_and_the_last_one_leaves_it),
        cmocka_unit_test(nobody_else_hits),
        cmocka_unit_test(a_reader_of_a_public_domain_adds_nothing),
        cmocka_unit_test(blocks_that_decoding_fills_are_listed_once_computed),
        cmocka_unit_test(a_preempted_one_finds_its_blocks),
        cmocka_unit_test(a_lost_worker_takes_its_blocks_along),
        cmocka_unit_test(cached_blocks_make_room),
        cmocka_unit_test(without_room_for_a_copy_the_block_is_computed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
