/*
 * A sliding window: blocks of 4 tokens, a window of 6, chunks of 8. One that decodes holds 3 blocks
 * at most, one in prefill 6.
 */
#include "tests/unit/sched_fixture.h"

#define BLOCK 4
#define WINDOW 6
#define DECODE_BLOCKS 3
#define MOST_BLOCKS 6

static struct sched_limits limits_of(uint32_t blocks_count)
{
    struct sched_limits limits = fixture_limits;
    limits.blocks_count = blocks_count;
    limits.context_tokens = 256;
    limits.open_tokens_max = 512;
    limits.step_tokens_max = 32;
    limits.chunk_tokens_max = 8;
    limits.window_tokens = WINDOW;
    return limits;
}

static void open_pool(struct fixture *f, uint32_t blocks_count)
{
    struct sched_limits limits = limits_of(blocks_count);
    fixture_open(f, &limits);
}

static uint32_t held(const struct fixture *f, sched_id id)
{
    uint32_t slot = f->sched->seqs[id].slot;
    return slot == SEQ_NO_SLOT ? 0 : f->sched->blocks.table_counts[slot];
}

/* ---- two steps in flight, as an engine has them ---- */

struct pipe {
    struct fixture f;
    uint32_t n; /* steps in flight */
    uint64_t numbers[SCHED_STEPS_MAX];
    uint32_t n_rows[SCHED_STEPS_MAX];
    struct sched_row rows[SCHED_STEPS_MAX][4];
    uint32_t most_used; /* blocks */
};

/* Whatever a row in flight reads is in its sequence's table. */
static void rows_have_blocks(const struct pipe *p)
{
    for (uint32_t s = 0; s < p->n; s++)
        for (uint32_t i = 0; i < p->n_rows[s]; i++) {
            const struct sched_row *row = &p->rows[s][i];
            const struct seq *seq = &p->f.sched->seqs[row->id];
            uint32_t first = row->first_position, last = first + row->n_tokens - 1;
            uint32_t reach = first < WINDOW ? 0 : first - WINDOW + 1;
            if (seq->slot == SEQ_NO_SLOT)
                fail_msg("row in flight of a sequence without a table");
            assert_true(p->f.sched->blocks.table_firsts[seq->slot] <= reach / BLOCK);
            assert_true(blocks_table_end(&p->f.sched->blocks, seq->slot) > last / BLOCK);
        }
}

static bool pipe_plan(struct pipe *p)
{
    uint64_t number = step(&p->f);
    if (number == 0)
        return false;
    p->numbers[p->n] = number;
    p->n_rows[p->n] = p->f.plan->n_rows;
    memcpy(p->rows[p->n], p->f.plan->rows, p->f.plan->n_rows * sizeof *p->f.plan->rows);
    p->n++;
    p->most_used = u32_max(p->most_used, stats(&p->f).blocks_used);
    rows_have_blocks(p);
    return true;
}

static void pipe_retire(struct pipe *p)
{
    for (uint32_t i = 0; i < p->n_rows[0]; i++)
        if (p->rows[0][i].samples)
            sampled(&p->f, p->numbers[0], p->rows[0][i].id, false);
    uint64_t number = p->numbers[0];
    p->n--;
    memmove(p->numbers, p->numbers + 1, p->n * sizeof *p->numbers);
    memmove(p->n_rows, p->n_rows + 1, p->n * sizeof *p->n_rows);
    memmove(p->rows, p->rows + 1, p->n * sizeof *p->rows);
    retired(&p->f, number);
    p->most_used = u32_max(p->most_used, stats(&p->f).blocks_used);
    rows_have_blocks(p);
}

/* Returns how many steps it took. */
static uint32_t pipe_run(struct pipe *p, uint32_t steps_max)
{
    uint32_t n_steps = 0;
    for (;;) {
        while (p->n < SCHED_STEPS_MAX && pipe_plan(p))
            assert_true(++n_steps <= steps_max);
        if (p->n == 0)
            return n_steps;
        pipe_retire(p);
    }
}

/* ---- how many blocks ---- */

static void the_formula(void **state)
{
    struct sched_limits limits = limits_of(1000);
    assert_int_equal(sched_sequence_blocks_max(&limits), MOST_BLOCKS);
    limits.chunk_tokens_max = 1;
    assert_int_equal(sched_sequence_blocks_max(&limits), DECODE_BLOCKS);
    limits.chunk_tokens_max = 1000; /* a step bounds a chunk too */
    assert_int_equal(sched_sequence_blocks_max(&limits), (6 + 64 - 2 + 3) / 4 + 1);
    limits.window_tokens = 1000; /* never more than a context */
    assert_int_equal(sched_sequence_blocks_max(&limits), 64);
    limits.window_tokens = 0;
    assert_int_equal(sched_sequence_blocks_max(&limits), 64);
    limits.window_tokens = UINT32_MAX;
    struct sched *sched;
    struct error error;
    assert_int_equal(sched_open(&limits, &policy_fcfs, &sched, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "window_tokens"));
}

/* 200 + 56 tokens are 64 blocks; the pool has 6, and each chunk is whole. */
static void a_stream_far_longer_than_the_pool(void **state)
{
    struct pipe p = {0};
    open_pool(&p.f, MOST_BLOCKS);
    sched_id id = submit(&p.f, 200, 56);
    uint32_t n_steps = pipe_run(&p, 100);
    assert_int_equal(p.most_used, MOST_BLOCKS);
    assert_true(n_steps <= 200 / 8 + 56 + 1); /* and the close */
    assert_int_equal(p.f.sched->processed_tokens_total, 255);
    ended(&p.f, id);
    assert_int_equal(stats(&p.f).preempted_total, 0);
    all_quiet(&p.f);
    fixture_close(&p.f);
}

/* In the smallest pool that can: chunks wait for their own steps, and nobody is preempted. */
static void the_smallest_pool(void **state)
{
    struct pipe p = {0};
    open_pool(&p.f, DECODE_BLOCKS);
    sched_id id = submit(&p.f, 200, 56);
    pipe_run(&p, 500);
    assert_int_equal(p.most_used, DECODE_BLOCKS);
    ended(&p.f, id);
    assert_int_equal(stats(&p.f).preempted_total, 0);
    fixture_close(&p.f);
}

static void what_never_fits_is_refused(void **state)
{
    struct fixture f;
    open_pool(&f, DECODE_BLOCKS - 1);
    struct sched_submission s = fixture_submission(&f, 7, 2);
    sched_id id;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_INVALID);
    assert_non_null(strstr(f.error.text, "2 blocks of 4 tokens"));
    s = fixture_submission(&f, 6, 2); /* two blocks are all it needs */
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_OK);
    while (step_whole(&f))
        ;
    ended(&f, id);
    fixture_close(&f);
}

/* ---- when they go back ---- */

static void a_block_goes_back_when_its_last_reader_has_retired(void **state)
{
    struct pipe p = {0};
    open_pool(&p.f, 16);
    sched_id id = submit(&p.f, 8, 40);
    pipe_plan(&p); /* positions 0..7 */
    pipe_plan(&p); /* 8 */
    pipe_retire(&p);
    pipe_plan(&p);   /* 9: reads 4..9 */
    pipe_retire(&p); /* 8, which read 3..8 */
    uint32_t slot = p.f.sched->seqs[id].slot;
    assert_int_equal(p.f.sched->blocks.table_firsts[slot], 1);
    for (uint32_t position = 10; position < 30; position++) {
        pipe_plan(&p);
        /* `position` - 1 has not retired: it reads from position - WINDOW on. */
        assert_int_equal(p.f.sched->blocks.table_firsts[slot], (position - WINDOW) / BLOCK);
        pipe_retire(&p);
    }
    cancel(&p.f, id);
    assert_true(stats(&p.f).blocks_used > 0); /* a step in flight names them */
    pipe_retire(&p);
    assert_int_equal(stats(&p.f).blocks_used, 0);
    ended(&p.f, id);
    fixture_close(&p.f);
}

/* What it gives back it takes again, so a full pool preempts nobody who has a window. */
static void a_full_pool_that_only_decodes(void **state)
{
    struct pipe p = {0};
    open_pool(&p.f, 4 * DECODE_BLOCKS);
    sched_id ids[4];
    for (uint32_t i = 0; i < 4; i++)
        ids[i] = submit(&p.f, 3 + i, 100);
    for (uint32_t i = 0; i < 20; i++) {
        pipe_plan(&p);
        if (p.n == SCHED_STEPS_MAX)
            pipe_retire(&p);
    }
    for (uint32_t i = 0; i < 60; i++) {
        pipe_plan(&p);
        assert_int_equal(p.f.plan->n_rows, 4);
        for (uint32_t k = 0; k < 4; k++)
            assert_int_equal(held(&p.f, ids[k]), DECODE_BLOCKS);
        pipe_retire(&p);
    }
    pipe_run(&p, 300);
    assert_int_equal(stats(&p.f).preempted_total, 0);
    assert_int_equal(stats(&p.f).admitted_total, 4);
    fixture_close(&p.f);
}

/* Somebody who decodes wants every block that comes free; a long prompt goes on all the same. */
static void a_chunk_does_not_wait_for_others(void **state)
{
    struct pipe p = {0};
    open_pool(&p.f, 2 * MOST_BLOCKS + 1);
    sched_id a = submit(&p.f, 160, 4), b = submit(&p.f, 160, 4);
    sched_id c = submit(&p.f, 3, 200);
    for (uint32_t done = 0; done < 160; done += 8) {
        pipe_plan(&p);
        assert_int_equal(row_of(&p.f, a)->n_tokens, 8);
        assert_int_equal(row_of(&p.f, b)->n_tokens, 8);
        if (p.n == SCHED_STEPS_MAX)
            pipe_retire(&p);
    }
    pipe_run(&p, 400);
    assert_int_equal(ended(&p.f, a).preempted_count, 0);
    assert_int_equal(ended(&p.f, b).preempted_count, 0);
    assert_true(ended(&p.f, c).preempted_count > 0); /* it came last, and wanted more */
    fixture_close(&p.f);
}

static void a_preempted_one_begins_at_the_beginning(void **state)
{
    struct fixture f;
    open_pool(&f, 16);
    sched_id id = submit(&f, 30, 40);
    for (uint32_t i = 0; i < 10; i++)
        step_whole(&f);
    uint32_t known = seq_known_tokens(&f.sched->seqs[id]);
    replay(&f);
    uint64_t number = step(&f);
    const struct sched_open_row *open = open_of(&f, id);
    assert_int_equal(open->known_tokens, known);
    assert_int_equal(open->behind_blocks, 0);
    assert_int_equal(open->cached_tokens, 0);
    assert_int_equal(open->n_blocks, MOST_BLOCKS);
    assert_int_equal(row_of(&f, id)->first_position, 0);
    retired(&f, number);
    while (step_whole(&f))
        ;
    assert_int_equal(ended(&f, id).recomputed_tokens, known - 1);
    fixture_close(&f);
}

/* ---- the prefix cache ---- */

static struct sched_digest chain[64];

static sched_id send(struct fixture *f, uint64_t domain, uint32_t prompt, uint32_t output)
{
    struct sched_submission s = fixture_submission(f, prompt, output);
    for (uint32_t i = 0; i < 64; i++)
        chain[i] = (struct sched_digest){{(uint8_t)(i + 1), 7}};
    s.cache_domain = domain;
    s.digests = chain;
    s.n_digests = prompt / BLOCK;
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

/* Of 8 blocks these are listed; a window that reaches so many blocks finds so many. */
static uint32_t match(uint32_t window_tokens, uint64_t domain, uint32_t n_digests,
                      uint32_t ret_matched[8])
{
    struct fixture f;
    struct sched_limits limits = limits_of(16);
    const uint32_t listed[] = {0, 2, 3, 5, 6, 7};
    limits.window_tokens = window_tokens;
    fixture_open(&f, &limits);
    struct prefix *prefix = &f.sched->blocks.prefix;
    for (uint32_t i = 0; i < 8; i++)
        chain[i] = (struct sched_digest){{(uint8_t)i, 1}};
    for (uint32_t i = 0; i < 6; i++) {
        prefix_name(prefix, i, &chain[listed[i]]);
        assert_true(prefix_list(prefix, i, 1, UINT32_MAX));
    }
    struct seq seq = {.cache_domain = domain,
                      .digests = chain,
                      .n_digests = n_digests,
                      .prompt_tokens = 8 * BLOCK,
                      .group = GROUP_NONE};
    seq_look_up(f.sched, &seq);
    assert_int_equal(seq.matched_tokens, seq.matched_blocks * BLOCK);
    memcpy(ret_matched, f.sched->matched, 8 * sizeof *ret_matched);
    sched_close(f.sched);
    return seq.matched_blocks;
}

static void the_longest_match_whose_last_blocks_are_there(void **state)
{
    uint32_t found[8];
    assert_int_equal(match(9, 1, 8, found), 8); /* reaches 3 blocks */
    assert_int_equal(found[5], 3);
    assert_int_equal(found[7], 5);
    assert_int_equal(match(8, 1, 7, found), 7); /* 2 */
    assert_int_equal(found[5], 3);
    assert_int_equal(match(9, 1, 7, found), 1); /* all of one */
    assert_int_equal(found[0], 0);
    assert_int_equal(match(8, 1, 6, found), 4);
    assert_int_equal(found[2], 1);
    assert_int_equal(match(4, 1, 6, found), 6);
    assert_int_equal(match(12, 1, 5, found), 1);
    assert_int_equal(match(1, 1, 2, found), 1);
    assert_int_equal(match(8, 2, 8, found), 0); /* another domain */
    assert_int_equal(match(8, 0, 0, found), 0);
}

/* The early blocks of a prompt are gone; its later ones are enough. */
static void a_hit_needs_what_the_window_reaches(void **state)
{
    struct fixture f;
    open_pool(&f, 16);
    run_to_end(&f, send(&f, 1, 42, 1)); /* 10 full blocks, all listed */
    assert_int_equal(stats(&f).blocks_cached, 10);
    sched_id other = submit(&f, 30, 1); /* takes 6 free ones; then the blocks it gave back */
    run_to_end(&f, other);
    run_to_end(&f, send(&f, 2, 30, 1)); /* and 7 more, which evict the first ones of domain 1 */
    assert_true(stats(&f).evicted_blocks_total > 0);
    uint32_t first = 0;
    while (prefix_find(&f.sched->blocks.prefix, 1, &chain[first]) == PREFIX_NONE)
        first++;
    assert_true(first > 0 && first <= 8);

    sched_id id = send(&f, 1, 46, 3);
    uint64_t number = step(&f);
    const struct sched_open_row *open = open_of(&f, id);
    assert_int_equal(open->cached_tokens, 40); /* reads 35..40 first */
    assert_int_equal(open->behind_blocks, 35 / 4);
    assert_int_equal(open->n_blocks, 4); /* two shared, up to position 46 */
    assert_int_equal(row_of(&f, id)->first_position, 40);
    sampled(&f, number, id, false);
    retired(&f, number);
    assert_int_equal(run_to_end(&f, id).cached_tokens, 40);
    fixture_close(&f);
}

/* A prompt that is cached whole: its last block is copied, or all of it computed where no block is
 * left for that; the block before may be gone. */
static void a_whole_hit_copies_or_computes_all(void **state)
{
    struct fixture f;
    for (uint32_t blocks_count = DECODE_BLOCKS; blocks_count <= DECODE_BLOCKS + 1; blocks_count++) {
        open_pool(&f, blocks_count);
        run_to_end(&f, send(&f, 1, 20, 1));
        sched_id id = send(&f, 1, 20, 3);
        uint64_t number = step(&f);
        const struct sched_open_row *open = open_of(&f, id);
        bool copies = blocks_count > DECODE_BLOCKS;
        assert_int_equal(f.plan->n_copies, copies);
        assert_int_equal(open->cached_tokens, copies ? 19 : 0);
        assert_int_equal(open->behind_blocks, copies ? (19 - WINDOW + 1) / BLOCK : 0);
        assert_int_equal(open->n_blocks, DECODE_BLOCKS);
        if (row_of(&f, id)->samples)
            sampled(&f, number, id, false);
        retired(&f, number);
        run_to_end(&f, id);
        fixture_close(&f);
    }
}

/* Choices of a prompt that is longer than the pool: it is computed once, and each choice begins
 * with the blocks that its window reaches, the last one copied. */
static void choices_share_the_end_of_the_prompt(void **state)
{
    for (uint64_t domain = 0; domain <= 1; domain++) {
        struct fixture f;
        open_pool(&f, 14);
        struct sched_submission s = fixture_submission(&f, 90, 20);
        for (uint32_t i = 0; i < 64; i++)
            chain[i] = (struct sched_digest){{(uint8_t)(i + 1), 7}};
        s.choices = 4;
        s.cache_domain = domain;
        s.digests = chain;
        s.n_digests = domain ? 90 / BLOCK : 0;
        sched_id ids[SCHED_CHOICES_MAX];
        assert_int_equal(sched_submit(f.sched, &s, f.now_ns, ids, &f.error), STATUS_OK);
        uint32_t n_opens = 0, n_copies = 0;
        while (step(&f)) {
            for (uint32_t i = 0; i < f.plan->n_opens; i++) {
                const struct sched_open_row *open = &f.plan->opens[i];
                assert_int_equal(open->cached_tokens, n_opens ? 89 : 0);
                assert_int_equal(open->behind_blocks, n_opens ? (89 - WINDOW + 1) / BLOCK : 0);
                n_opens++;
            }
            n_copies += f.plan->n_copies;
            uint64_t number = f.plan->step;
            for (uint32_t i = 0; i < f.plan->n_rows; i++)
                if (f.plan->rows[i].samples)
                    sampled(&f, number, f.plan->rows[i].id, false);
            retired(&f, number);
        }
        assert_int_equal(n_opens, 4);
        assert_int_equal(n_copies, 3);
        assert_int_equal(f.sched->prompt_tokens_total, 90 + 3);
        assert_int_equal(stats(&f).blocks_used, 0);
        for (uint32_t i = 0; i < 4; i++) {
            struct sched_ended e;
            assert_true(sched_next_ended(f.sched, &e));
        }
        fixture_close(&f);
    }
}

/* Nobody tells of a block that is gone; a name that comes late is of no use. */
static void the_name_of_a_dead_block_is_ignored(void **state)
{
    struct fixture f;
    open_pool(&f, 16);
    struct sched_submission s = fixture_submission(&f, 20, 20);
    s.cache_domain = 1; /* without digests */
    sched_id id;
    assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &id, &f.error), STATUS_OK);
    for (uint32_t i = 0; i < 4; i++)
        step_whole(&f);
    struct sched_digest digest = {{1}};
    assert_true(f.sched->blocks.table_firsts[f.sched->seqs[id].slot] > 0);
    sched_block_filled(f.sched, id, 0, &digest);
    sched_check(f.sched);
    assert_int_equal(f.sched->seqs[id].named_blocks, 0);
    assert_int_equal(f.sched->blocks.prefix.n_listed, 0);
    fixture_close(&f);
}

/* ---- what others have reserved, limits, the forecast ---- */

/* Two read the same blocks: the first one that gives them back gets nothing for them, and leaves
 * alone what is kept for another tenant. */
static void a_shared_block_is_not_exchanged_for_a_reserved_one(void **state)
{
    struct fixture f;
    struct sched_limits limits = limits_of(14);
    limits.context_tokens = 64;
    limits.tenants_max = 2;
    struct tenant_row rows[2] = {
        {.parent = TENANT_TOP, .weight = 1},
        {.parent = TENANT_TOP, .weight = 1, .reserved_blocks = 7},
    };
    struct tenant_table table = {.n_rows = 2, .rows = rows};
    fixture_open(&f, &limits);
    assert_int_equal(sched_set_tenants(f.sched, &table, &f.error), STATUS_OK);
    run_to_end(&f, send(&f, 1, 10, 1)); /* two blocks are cached */
    sched_id a = send(&f, 1, 9, 50), b = send(&f, 1, 9, 50);
    submit(&f, 8, 40); /* fills what is not kept */
    step_whole(&f);
    set_paused(&f, b, true);
    while (held(&f, a) == DECODE_BLOCKS) {
        assert_int_equal(stats(&f).blocks_free + stats(&f).blocks_cached, 7);
        step_whole(&f);
    }
    assert_int_equal(held(&f, a), DECODE_BLOCKS - 1);
    assert_int_equal(stats(&f).blocks_free + stats(&f).blocks_cached, 7);
    fixture_close(&f);
}

/* Two prompts begin with the same blocks and fill the pool. The first one that leaves those behind
 * gets nothing for them; in prefill as it is, it gets a place as one that decodes would. */
static void in_prefill_without_a_place(void **state)
{
    struct fixture f;
    struct sched_limits limits = limits_of(4);
    limits.chunk_tokens_max = 1;
    fixture_open(&f, &limits);
    run_to_end(&f, send(&f, 1, 10, 1)); /* two blocks are cached */
    sched_id ids[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct sched_submission s = fixture_submission(&f, 30, 4);
        s.cache_domain = 1;
        s.digests = chain;
        s.n_digests = 2;
        assert_int_equal(sched_submit(f.sched, &s, f.now_ns, &ids[i], &f.error), STATUS_OK);
    }
    step_whole(&f);
    assert_int_equal(stats(&f).running, 2);
    assert_int_equal(stats(&f).blocks_free + stats(&f).blocks_cached, 0);
    bool was_short = false;
    while (step_whole(&f))
        was_short |= state_of(&f, ids[0]) == SEQ_RUNNING && held(&f, ids[0]) < DECODE_BLOCKS;
    assert_true(was_short);
    assert_int_equal(ended(&f, ids[0]).preempted_count, 0);
    ended(&f, ids[1]);
    fixture_close(&f);
}

static void a_limit_counts_what_is_held(void **state)
{
    struct fixture f;
    struct sched_limits limits = limits_of(64);
    limits.tenants_max = 1;
    struct tenant_row row = {.parent = TENANT_TOP, .weight = 1, .limit_blocks = MOST_BLOCKS - 1};
    struct tenant_table table = {.n_rows = 1, .rows = &row};
    fixture_open_with(&f, &limits, &policy_fair);
    assert_int_equal(sched_set_tenants(f.sched, &table, &f.error), STATUS_INVALID);
    assert_non_null(strstr(f.error.text, "the largest legal request needs 6"));
    row.limit_blocks = MOST_BLOCKS;
    assert_int_equal(sched_set_tenants(f.sched, &table, &f.error), STATUS_OK);
    submit(&f, 200, 50); /* 63 blocks in all */
    struct sched_tenant_stats s;
    uint32_t most = 0;
    while (step_whole(&f)) {
        assert_true(sched_tenant_stats(f.sched, 0, &s));
        most = u32_max(most, s.blocks);
    }
    assert_int_equal(most, MOST_BLOCKS);
    assert_int_equal(s.output_tokens_total, 50);
    fixture_close(&f);
}

/* A sequence that fills its window takes nothing more: four of them find room for good. */
static void the_forecast_knows_the_window(void **state)
{
    struct fixture f;
    struct sched_limits limits = limits_of(4 * DECODE_BLOCKS + 1);
    limits.fairness.headroom_permille = SCHED_NONE;
    fixture_open_with(&f, &limits, &policy_fair);
    for (uint32_t i = 0; i < 4; i++)
        submit(&f, 6, 200); /* 128 more are expected of each */
    step_whole(&f);
    assert_int_equal(stats(&f).running, 4);
    while (step_whole(&f))
        ;
    assert_int_equal(stats(&f).preempted_total, 0);
    fixture_close(&f);

    limits.window_tokens = 0;
    limits.context_tokens = 52;
    fixture_open_with(&f, &limits, &policy_fair);
    for (uint32_t i = 0; i < 4; i++)
        submit(&f, 6, 46);
    step_whole(&f);
    assert_int_equal(stats(&f).running, 1); /* without it they would be 12 blocks each */
    fixture_close(&f);
}

static void a_forecast_of_one_that_stops_growing(void **state)
{
    struct forecast f;
    forecast_begin(&f, 320, 10);
    /* Takes 5 blocks within 50 tokens, and gives 8 back at the end. */
    struct forecast_one one = {
        .tokens = 320, .grow_blocks = 5, .back_blocks = 3, .flat_tokens = 270};
    forecast_add(&f, &one);
    assert_int_equal(forecast_peak(&f, NULL), 5);
    struct forecast_one full = {.tokens = 100, .back_blocks = 3, .flat_tokens = 100};
    forecast_add(&f, &full);
    assert_int_equal(forecast_peak(&f, NULL), 5);
    /* One that joins and grows to its end meets the others where they stand by then. */
    struct forecast_one grows = {.tokens = 320, .grow_blocks = 32, .back_blocks = 1};
    assert_int_equal(forecast_peak(&f, &grows), 32 + 5 - 3);
    struct forecast_one late = {.tokens = 90, .grow_blocks = 9};
    assert_int_equal(forecast_peak(&f, &late), 9 + 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_formula),
        cmocka_unit_test(a_stream_far_longer_than_the_pool),
        cmocka_unit_test(the_smallest_pool),
        cmocka_unit_test(what_never_fits_is_refused),
        cmocka_unit_test(a_block_goes_back_when_its_last_reader_has_retired),
        cmocka_unit_test(a_full_pool_that_only_decodes),
        cmocka_unit_test(a_chunk_does_not_wait_for_others),
        cmocka_unit_test(a_preempted_one_begins_at_the_beginning),
        cmocka_unit_test(the_longest_match_whose_last_blocks_are_there),
        cmocka_unit_test(a_hit_needs_what_the_window_reaches),
        cmocka_unit_test(a_whole_hit_copies_or_computes_all),
        cmocka_unit_test(choices_share_the_end_of_the_prompt),
        cmocka_unit_test(the_name_of_a_dead_block_is_ignored),
        cmocka_unit_test(a_shared_block_is_not_exchanged_for_a_reserved_one),
        cmocka_unit_test(in_prefill_without_a_place),
        cmocka_unit_test(a_limit_counts_what_is_held),
        cmocka_unit_test(the_forecast_knows_the_window),
        cmocka_unit_test(a_forecast_of_one_that_stops_growing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
