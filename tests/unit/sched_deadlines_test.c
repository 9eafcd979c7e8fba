/* The heap of deadlines against a plain scan, over random adds and removes. */
#include "tests/unit/sched_fixture.h"

#define IDS 64

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static uint64_t scan_first(const uint64_t *at_ns)
{
    uint64_t first = UINT64_MAX;
    for (int i = 0; i < IDS; i++)
        if (at_ns[i] < first)
            first = at_ns[i];
    return first;
}

static void heap_equals_scan(void **state)
{
    uint64_t at_ns[IDS];
    memset(at_ns, 0xff, sizeof at_ns);
    struct deadlines deadlines;
    void *memory = calloc(1, deadlines_footprint(IDS));
    deadlines_init(&deadlines, IDS, memory);
    uint32_t seed = 1, most = 0;
    for (int turn = 0; turn < 20000; turn++) {
        sched_id id = random_next(&seed) % IDS;
        if (at_ns[id] == UINT64_MAX) {
            /* Few values, so that many are equal; sometimes none. */
            uint64_t at = random_next(&seed) % 40;
            at_ns[id] = at == 0 ? UINT64_MAX : at;
            deadlines_add(&deadlines, id, at_ns[id]);
        } else {
            at_ns[id] = UINT64_MAX;
            deadlines_remove(&deadlines, id);
        }
        deadlines_check(&deadlines);
        most = u32_max(most, deadlines.count);
        const struct deadline *first = deadlines_first(&deadlines);
        assert_int_equal(first ? first->at_ns : UINT64_MAX, scan_first(at_ns));
        if (first)
            assert_int_equal(at_ns[first->id], first->at_ns);
    }
    assert_true(most > IDS / 2);
    free(memory);
}

static void comes_out_in_order(void **state)
{
    struct deadlines deadlines;
    void *memory = calloc(1, deadlines_footprint(IDS));
    deadlines_init(&deadlines, IDS, memory);
    for (uint32_t i = 0; i < IDS; i++)
        deadlines_add(&deadlines, i, (i * 37) % 101 + 1);
    uint64_t last = 0;
    for (uint32_t i = 0; i < IDS; i++) {
        struct deadline first = *deadlines_first(&deadlines);
        assert_true(first.at_ns >= last);
        last = first.at_ns;
        deadlines_remove(&deadlines, first.id);
        deadlines_remove(&deadlines, first.id); /* not there: nothing happens */
    }
    assert_null(deadlines_first(&deadlines));
    free(memory);
}

static void add_twice(void *argument)
{
    deadlines_add(argument, 3, 5);
}

static void out_of_order(void *argument)
{
    struct deadlines *deadlines = argument;
    deadlines->heap[0].at_ns = 100;
    deadlines_check(deadlines);
}

static void damage_aborts(void **state)
{
    struct deadlines deadlines;
    void *memory = calloc(1, deadlines_footprint(IDS));
    deadlines_init(&deadlines, IDS, memory);
    deadlines_add(&deadlines, 3, 5);
    deadlines_add(&deadlines, 4, 6);
    must_abort(add_twice, &deadlines);
    must_abort(out_of_order, &deadlines);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heap_equals_scan),
        cmocka_unit_test(comes_out_in_order),
        cmocka_unit_test(damage_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
