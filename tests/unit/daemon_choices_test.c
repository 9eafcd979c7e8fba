/* Several choices in one call: each has its own text, stop and end, the call has one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/grpc_calls.h"
#include "tests/unit/fake_front.h"

#define GENERATE "/galerne.v1.Inference/Generate"

static int setup(void **state)
{
    fake_open();
    return 0;
}

static int teardown(void **state)
{
    return fake_close() ? 0 : -1;
}

static void push_text(struct request *request, const char *text)
{
    for (const char *c = text; *c; c++)
        assert_true(fake_token(request, (uint8_t)*c));
}

/* A Generate call for n choices that the text pool holds; their requests. */
static struct fake_rpc_call *choose(uint32_t n, const char **stops, size_t n_stops,
                                    struct request *ret_requests[])
{
    Galerne__V1__GenerateRequest input = GALERNE__V1__GENERATE_REQUEST__INIT;
    Galerne__V1__Sampling sampling = GALERNE__V1__SAMPLING__INIT;
    input.model = (char *)(uintptr_t) "one";
    input.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    input.text = (char *)(uintptr_t) "hello";
    input.stop = (char **)(uintptr_t)stops;
    input.n_stop = n_stops;
    input._n_case = GALERNE__V1__GENERATE_REQUEST___N_N;
    input.n = n;
    sampling._seed_case = GALERNE__V1__SAMPLING___SEED_SEED;
    sampling.seed = 77;
    input.sampling = &sampling;
    uint32_t before = fake.n_submitted;
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_receive(rpc, &input.base);
    struct request *request = fake.n_submitted > before ? fake.submitted[before] : NULL;
    for (uint32_t i = 0; request; request = request->next_choice, i++) {
        assert_int_equal(request->choice, i);
        assert_int_equal(request->n_choices, n);
        assert_true(request->sampling.seed == request_choice_seed(77, i));
        ret_requests[i] = request;
    }
    return rpc;
}

/* choice, text, finish reason and stop of part `at` of message `index`. */
static void expect_part(const struct fake_rpc_call *rpc, uint32_t index, uint32_t at,
                        uint32_t choice, const char *text, Galerne__V1__FinishReason reason)
{
    Galerne__V1__GenerateResponse *response = fake_response(rpc, index);
    assert_true(at < response->n_choices);
    assert_int_equal(response->choices[at]->choice_index, choice);
    assert_string_equal(response->choices[at]->text, text);
    assert_int_equal(response->choices[at]->finish_reason, reason);
    galerne__v1__generate_response__free_unpacked(response, NULL);
}

#define RUNS GALERNE__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED
#define LENGTH GALERNE__V1__FINISH_REASON__FINISH_REASON_LENGTH
#define STOP GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP

static void test_choices(void **state)
{
    static const char *stops[] = {"STOP"};
    struct request *r[3] = {NULL};
    struct fake_rpc_call *rpc = choose(3, stops, 1, r);
    assert_int_equal(request_pool_used_count(fake.front.requests), 3);
    assert_int_equal(fake.n_submitted, 1);
    push_text(r[1], "bb");
    push_text(r[0], "a");
    fake_flush();
    assert_int_equal(rpc->n_sent, 1); /* the wake found all of them */
    expect_part(rpc, 0, 0, 0, "a", RUNS);
    expect_part(rpc, 0, 1, 1, "bb", RUNS);
    Galerne__V1__GenerateResponse *response = fake_response(rpc, 0);
    assert_int_equal(response->n_tokens, 3);
    assert_int_equal(response->tokens[0]->choice_index, 0);
    assert_int_equal(response->tokens[2]->choice_index, 1);
    galerne__v1__generate_response__free_unpacked(response, NULL);

    push_text(r[2], "cST"); /* held back for this choice alone */
    push_text(r[0], "a");
    fake_end(r[0], FINISH_LENGTH, STATUS_OK);
    fake_flush();
    fake_sent(rpc);
    expect_part(rpc, 1, 0, 0, "a", LENGTH);
    expect_part(rpc, 1, 1, 2, "c", RUNS);
    push_text(r[2], "OPd");
    push_text(r[1], "ST");
    fake_flush();
    fake_sent(rpc);
    assert_int_equal(fake.stop_cancels, 1);
    assert_true(atomic_load(&r[2]->cancelled) && !atomic_load(&r[1]->cancelled));
    fake_end(r[2], FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_sent(rpc);
    response = fake_response(rpc, rpc->n_sent - 1);
    assert_int_equal(response->n_choices, 1);
    assert_string_equal(response->choices[0]->stop, "STOP");
    assert_null(response->usage);
    galerne__v1__generate_response__free_unpacked(response, NULL);
    assert_false(rpc->finished);
    r[0]->n_ids = 5;
    r[0]->cached_tokens = 4;
    fake_end(r[1], FINISH_LENGTH, STATUS_OK);
    fake_flush();
    if (!rpc->finished)
        fake_sent(rpc);
    assert_true(rpc->finished && rpc->code == RPC_OK);
    expect_part(rpc, rpc->n_sent - 1, 0, 1, "ST", LENGTH); /* what was held */
    response = fake_response(rpc, rpc->n_sent - 1);
    assert_int_equal(response->n_choices, 1);
    assert_int_equal(response->usage->prompt_tokens, 5);
    assert_int_equal(response->usage->cached_tokens, 4);
    assert_int_equal(response->usage->output_tokens,
                     2 + 4 + 5); /* STOP is the third's 2nd to 5th */
    galerne__v1__generate_response__free_unpacked(response, NULL);
    assert_int_equal(fake.logged, 1);
    fake_call_free(rpc);
}

/* Refused as one: a status, and no message. */
static void test_choices_are_refused(void **state)
{
    struct request *r[4] = {NULL};
    struct fake_rpc_call *rpc = choose(4, NULL, 0, r);
    for (uint32_t i = 0; i < 4; i++) {
        fake_end(r[i], FINISH_ERROR, STATUS_EXHAUSTED);
        fake_flush();
        assert_int_equal(rpc->finished, i == 3);
    }
    assert_int_equal(rpc->n_sent, 0);
    assert_int_equal(rpc->code, RPC_RESOURCE_EXHAUSTED);
    fake_call_free(rpc);

    struct request *alone[1];
    struct fake_rpc_call *first = choose(1, NULL, 0, alone);
    rpc = choose(4, NULL, 0, r); /* of 4 places one is taken */
    assert_int_equal(rpc->code, RPC_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(rpc->message, "1 requests are open and 4 may; n is 4"));
    assert_int_equal(request_pool_used_count(fake.front.requests), 1);
    fake_call_free(rpc);
    fake_end(alone[0], FINISH_LENGTH, STATUS_OK);
    fake_flush();
    fake_call_free(first);

    static const struct {
        uint32_t n;
        const char *words;
    } wrong[] = {{0, "is 0: expected 1 to 16"},
                 {17, "is 17: expected 1 to 16"},
                 {UINT32_MAX, "is 4294967295: expected 1 to 16"},
                 {5, "is 5: the daemon has places for 4"}};
    for (size_t i = 0; i < array_count(wrong); i++) {
        rpc = choose(wrong[i].n, NULL, 0, r);
        assert_int_equal(rpc->code, RPC_INVALID_ARGUMENT);
        assert_non_null(strstr(rpc->message, wrong[i].words));
        fake_call_free(rpc);
    }
}

/* One of them fails: the others go on to their end, and the call has its error. */
static void test_a_choice_fails(void **state)
{
    struct request *r[2] = {NULL};
    struct fake_rpc_call *rpc = choose(2, NULL, 0, r);
    push_text(r[0], "ab");
    fake_end(r[1], FINISH_ERROR, STATUS_INTERNAL);
    fake_flush();
    assert_false(rpc->finished);
    fake_end(r[0], FINISH_LENGTH, STATUS_OK);
    fake_flush();
    fake_sent(rpc);
    assert_true(rpc->finished);
    assert_int_equal(rpc->code, RPC_INTERNAL);
    expect_part(rpc, 1, 1, 1, "", GALERNE__V1__FINISH_REASON__FINISH_REASON_ERROR);
    fake_call_free(rpc);
}

/* The client leaves while one of them has ended, one waits for its reader, and one has nothing. */
static void test_choices_leave(void **state)
{
    struct request *r[3] = {NULL};
    struct fake_rpc_call *rpc = choose(3, NULL, 0, r);
    fake_token(r[0], 'a');
    fake_end(r[0], FINISH_LENGTH, STATUS_OK);
    fake_flush();
    while (fake_token(r[1], 'b'))
        ;
    fake_leave(rpc);
    assert_int_equal(fake.cancels, 2);
    assert_int_equal(fake.engines[0].wakes, 1);
    assert_false(rpc->released);
    fake_end(r[2], FINISH_CANCELLED, STATUS_CANCELLED);
    fake_flush();
    assert_false(rpc->released);
    fake_end(r[1], FINISH_CANCELLED, STATUS_CANCELLED);
    fake_flush();
    assert_true(rpc->released);
    fake_call_free(rpc);
}

/* Full rings of all choices go out with none left behind. */
static void test_choices_share_a_message(void **state)
{
    struct request *r[4] = {NULL};
    struct fake_rpc_call *rpc = choose(4, NULL, 0, r);
    uint32_t counts[4] = {0}, sent = 0;
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t k = 0; k < REQUEST_TOKENS_RING - 4 * i; k++)
            assert_true(fake_token(r[i], 'a'));
    for (uint32_t i = 0; i < 4; i++)
        fake_end(r[i], FINISH_LENGTH, STATUS_OK);
    fake_flush();
    while (!rpc->finished)
        fake_sent(rpc);
    for (uint32_t m = 0; m < rpc->n_sent; m++) {
        Galerne__V1__GenerateResponse *response = fake_response(rpc, m);
        for (size_t t = 0; t < response->n_tokens; t++, sent++)
            counts[response->tokens[t]->choice_index]++;
        galerne__v1__generate_response__free_unpacked(response, NULL);
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(counts[i], REQUEST_TOKENS_RING - 4 * i);
    fake_call_free(rpc);
}

/* A seed that is used twice would give the same answer twice. */
static void test_choice_seeds(void **state)
{
    static const uint64_t seeds[] = {0, 1, 2, 77, UINT64_MAX, 0x9e3779b97f4a7c15ull};
    uint64_t all[array_count(seeds) * REQUEST_CHOICES_MAX];
    size_t n = 0;
    for (size_t s = 0; s < array_count(seeds); s++)
        for (uint32_t i = 0; i < REQUEST_CHOICES_MAX; i++)
            all[n++] = request_choice_seed(seeds[s], i);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            assert_true(all[i] != all[k]);
    assert_true(request_choice_seed(42, 0) == 42);
    /* As docs/api.md has it; made by its Python. */
    assert_true(request_choice_seed(0, 1) == 0xea8568d2e45fd6cbull);
    assert_true(request_choice_seed(7, 3) == 0x27fc3d62819d71a4ull);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_choices),       CASE(test_choices_are_refused),     CASE(test_a_choice_fails),
        CASE(test_choices_leave), CASE(test_choices_share_a_message), CASE(test_choice_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
