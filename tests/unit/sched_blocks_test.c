/* The block pool: taking, giving back, and that the check sees each kind of damage. */
#include "tests/unit/sched_fixture.h"

static void pool_open(struct blocks *blocks, void **ret_memory)
{
    *ret_memory = calloc(1, blocks_footprint(&fixture_limits));
    assert_non_null(*ret_memory);
    blocks_init(blocks, &fixture_limits, *ret_memory);
    blocks_check(blocks);
}

static void blocks_come_and_go(void **state)
{
    struct blocks pool;
    void *memory;
    uint32_t taken[16], again[16];
    pool_open(&pool, &memory);
    assert_int_equal(pool.free_count, 16);
    blocks_take(&pool, 0, 7, 3, taken);
    blocks_take(&pool, 2, 8, 2, taken + 3);
    blocks_take(&pool, 0, 7, 1, taken + 5);
    blocks_check(&pool);
    assert_int_equal(pool.free_count, 10);
    assert_int_equal(pool.table_counts[0], 4);
    assert_int_equal(pool.tables[0], taken[0]);
    assert_int_equal(pool.tables[3], taken[5]);
    assert_int_equal(pool.blocks[taken[5]].owner, 7);
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++)
            assert_int_not_equal(taken[i], taken[j]);

    /* The one given back last comes first, in the same order. */
    assert_int_equal(blocks_give_back(&pool, 0), 4);
    blocks_check(&pool);
    blocks_take(&pool, 1, 9, 4, again);
    assert_memory_equal(again, taken, 3 * sizeof *again);
    assert_int_equal(again[3], taken[5]);
    assert_int_equal(blocks_give_back(&pool, 3), 0);

    blocks_reset(&pool);
    blocks_check(&pool);
    assert_int_equal(pool.free_count, 16);
    assert_int_equal(pool.table_counts[1], 0);
    free(memory);
}

static void blocks_for_rounds_up(void **state)
{
    const struct blocks pool = {.block_tokens = 4};
    assert_int_equal(blocks_for(&pool, 0), 0);
    assert_int_equal(blocks_for(&pool, 1), 1);
    assert_int_equal(blocks_for(&pool, 4), 1);
    assert_int_equal(blocks_for(&pool, 5), 2);
}

/* A table never holds more than a context, nor than the pool. */
static void table_is_bounded(void **state)
{
    struct sched_limits limits = fixture_limits;
    struct blocks pool;
    void *memory = calloc(1, 1 << 16);
    blocks_init(&pool, &limits, memory);
    assert_int_equal(pool.table_max, 16);
    limits.context_tokens = 9;
    blocks_init(&pool, &limits, memory);
    assert_int_equal(pool.table_max, 3);
    limits.context_tokens = 1000;
    blocks_init(&pool, &limits, memory);
    assert_int_equal(pool.table_max, 16);
    free(memory);
}

struct damage {
    struct blocks pool;
    uint32_t taken[16];
};

static void take_too_many(void *argument)
{
    struct damage *d = argument;
    blocks_take(&d->pool, 1, 1, d->pool.free_count + 1, d->taken);
}

static void table_overflow(void *argument)
{
    struct damage *d = argument;
    d->pool.table_max = 4;
    blocks_take(&d->pool, 0, 1, 2, d->taken);
}

static void block_lost(void *argument)
{
    struct damage *d = argument;
    d->pool.free_count--;
    blocks_check(&d->pool);
}

static void block_freed_twice(void *argument)
{
    struct damage *d = argument;
    d->pool.free[0] = d->pool.free[1];
    blocks_check(&d->pool);
}

static void block_in_two_tables(void *argument)
{
    struct damage *d = argument;
    d->pool.tables[d->pool.table_max] = d->pool.tables[0];
    d->pool.table_counts[1] = 1;
    blocks_check(&d->pool);
}

static void used_block_is_free(void *argument)
{
    struct damage *d = argument;
    d->pool.free[0] = d->pool.tables[0];
    blocks_check(&d->pool);
}

static void damage_aborts(void **state)
{
    struct damage d;
    void *memory;
    pool_open(&d.pool, &memory);
    blocks_take(&d.pool, 0, 5, 3, d.taken);
    blocks_check(&d.pool);
    must_abort(take_too_many, &d);
    must_abort(table_overflow, &d);
    must_abort(block_lost, &d);
    must_abort(block_freed_twice, &d);
    must_abort(block_in_two_tables, &d);
    must_abort(used_block_is_free, &d);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_and_go),
        cmocka_unit_test(blocks_for_rounds_up),
        cmocka_unit_test(table_is_bounded),
        cmocka_unit_test(damage_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
