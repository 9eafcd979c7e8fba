/* Request pool, outlet and ring: one item, one END, one wake; two threads under TSan. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "daemon/digest.h"
#include "daemon/outlet.h"

static void count_wake(void *context)
{
    atomic_fetch_add((_Atomic uint32_t *)context, 1);
}

static void test_pool(void **state)
{
    (void)state;
    struct request_pool *pool;
    struct error error;
    assert_int_equal(request_pool_open(3, &pool, &error), STATUS_OK);
    struct request *r[3];
    for (uint32_t i = 0; i < 3; i++) {
        r[i] = request_new(pool, 100);
        assert_non_null(r[i]);
        assert_int_equal(ring_free_count(r[i]->tokens), REQUEST_TOKENS_RING);
    }
    assert_null(request_new(pool, 100));
    assert_null(arena_alloc(&r[0]->arena, 101));
    assert_true(r[0]->arena.overflowed);
    r[1]->n_ids = 7;
    request_free(pool, r[1]);
    r[1] = request_new(pool, 100);
    assert_int_equal(r[1]->n_ids, 0); /* nothing of the one before */
    for (uint32_t i = 0; i < 3; i++)
        request_free(pool, r[i]);
    assert_int_equal(request_pool_used_count(pool), 0);
    request_pool_close(pool);
}

static void test_items(void **state)
{
    (void)state;
    struct outlet outlet;
    struct outlet_item item;
    struct error error;
    struct request request = {0};
    _Atomic uint32_t wakes = 0;
    assert_int_equal(outlet_open(&outlet, 2, 4, count_wake, &wakes, &error), STATUS_OK);
    assert_false(outlet_take(&outlet, &item));
    outlet_ready(&outlet, 1, &request);
    outlet_ready(&outlet, 1, &request);
    outlet_ready(&outlet, 1, &request);
    outlet_end(&outlet, 1, &request);
    outlet_flush(&outlet, 0); /* nothing from this producer */
    assert_int_equal(wakes, 0);
    outlet_flush(&outlet, 1);
    outlet_flush(&outlet, 1);
    assert_int_equal(wakes, 1);
    assert_true(outlet_take(&outlet, &item));
    assert_false(item.end);
    assert_false(atomic_load(&request.ready));
    assert_true(outlet_take(&outlet, &item));
    assert_true(item.end);
    assert_false(outlet_take(&outlet, &item));
    outlet_close(&outlet);
}

#define TOKENS 20000

struct side {
    struct outlet *outlet;
    struct request *request;
};

static void *producer(void *argument)
{
    struct side *side = argument;
    for (uint32_t i = 0; i < TOKENS;) {
        struct request_token *token = ring_reserve(side->request->tokens);
        if (!token)
            continue;
        token->sample.id = i++;
        ring_commit(side->request->tokens);
        outlet_ready(side->outlet, 0, side->request);
        outlet_flush(side->outlet, 0);
    }
    outlet_end(side->outlet, 0, side->request);
    outlet_flush(side->outlet, 0);
    return NULL;
}

/* Every token once, in order, and the END last, whatever the interleaving. */
static void test_two_threads(void **state)
{
    (void)state;
    struct outlet outlet;
    struct request_pool *pool;
    struct error error;
    _Atomic uint32_t wakes = 0;
    pthread_t thread;
    assert_int_equal(request_pool_open(1, &pool, &error), STATUS_OK);
    assert_int_equal(outlet_open(&outlet, 1, 1, count_wake, &wakes, &error), STATUS_OK);
    struct side side = {.outlet = &outlet, .request = request_new(pool, 0)};
    pthread_create(&thread, NULL, producer, &side);
    uint32_t next = 0;
    for (bool ended = false; !ended;) {
        struct outlet_item item;
        if (!outlet_take(&outlet, &item))
            continue;
        const struct request_token *token;
        while ((token = ring_peek(item.request->tokens))) {
            assert_int_equal(token->sample.id, next++);
            ring_release(item.request->tokens);
        }
        ended = item.end;
    }
    pthread_join(thread, NULL);
    assert_int_equal(next, TOKENS);
    assert_true(wakes > 0);
    request_free(pool, side.request);
    outlet_close(&outlet);
    request_pool_close(pool);
}

static void test_digests(void **state)
{
    (void)state;
    uint8_t model[32] = {1}, other_model[32] = {2};
    struct digest_scope scope = {.model_digest = model};
    uint32_t ids[40];
    struct sched_digest a[2], b[2];
    for (uint32_t i = 0; i < 40; i++)
        ids[i] = i;
    digest_blocks(&scope, ids, 40, 16, a);
    digest_blocks(&scope, ids, 33, 16, b);
    assert_memory_equal(a, b, sizeof a); /* the same full blocks */
    ids[20] = 99;
    digest_blocks(&scope, ids, 40, 16, b);
    assert_memory_equal(&a[0], &b[0], sizeof a[0]);
    assert_memory_not_equal(&a[1], &b[1], sizeof a[1]);
    ids[20] = 20;
    ids[0] = 5; /* a change in block 0 changes every name after it */
    digest_blocks(&scope, ids, 40, 16, b);
    assert_memory_not_equal(&a[1], &b[1], sizeof a[1]);
    ids[0] = 0;
    scope.cache_domain = 1;
    digest_blocks(&scope, ids, 40, 16, b);
    assert_memory_not_equal(&a[0], &b[0], sizeof a[0]);
    scope.cache_domain = 0;
    scope.model_digest = other_model;
    digest_blocks(&scope, ids, 40, 16, b);
    assert_memory_not_equal(&a[0], &b[0], sizeof a[0]);
}

/* One block after the other, the chain gives the same names; and who is who. */
static void test_digest_chain(void **state)
{
    (void)state;
    uint8_t model[32] = {1};
    struct digest_scope scope = digest_scope_of(model, DTYPE_F32, 5);
    struct digest_chain *chain;
    struct error error;
    uint32_t ids[48];
    struct sched_digest all[3], one;
    for (uint32_t i = 0; i < 48; i++)
        ids[i] = 3 * i;
    digest_blocks(&scope, ids, 48, 16, all);
    assert_int_equal(digest_chain_open(&chain, &error), STATUS_OK);
    for (int twice = 0; twice < 2; twice++)
        for (uint32_t i = 0; i < 3; i++) {
            digest_next(chain, &scope, i ? &one : NULL, ids + 16 * i, 16, &one);
            assert_memory_equal(&one, &all[i], sizeof one);
        }
    digest_chain_close(chain);

    assert_int_equal(digest_domain("", UINT32_MAX), 0);
    assert_true(digest_domain("", 0) != 0);
    assert_true(digest_domain("", 0) != digest_domain("", 1000));
    assert_true(digest_domain("a", 1000) == digest_domain("a", 1001));
    assert_true(digest_domain("a", 1000) != digest_domain("b", 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool),         cmocka_unit_test(test_items),
        cmocka_unit_test(test_two_threads),  cmocka_unit_test(test_digests),
        cmocka_unit_test(test_digest_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
