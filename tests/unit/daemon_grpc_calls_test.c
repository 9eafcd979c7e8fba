/* Calls over a made-up library, engine and text pool: every order in which things may happen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/grpc_calls.h"
#include "tests/unit/fake_front.h"
#include "proto/health.pb-c.h"
#include "proto/reflection.pb-c.h"

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

/* A Generate call of model "one" that the text pool holds; *ret_request is its request. */
static struct fake_rpc_call *generate(const char **stops, size_t n_stops,
                                      struct request **ret_request)
{
    Galerne__V1__GenerateRequest input = GALERNE__V1__GENERATE_REQUEST__INIT;
    input.model = (char *)(uintptr_t) "one";
    input.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    input.text = (char *)(uintptr_t) "hello";
    input.stop = (char **)(uintptr_t)stops;
    input.n_stop = n_stops;
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_receive(rpc, &input.base);
    *ret_request = fake.n_submitted ? fake.submitted[fake.n_submitted - 1] : NULL;
    return rpc;
}

static void expect_message(const struct fake_rpc_call *rpc, uint32_t index, size_t n_tokens,
                           const char *text)
{
    Galerne__V1__GenerateResponse *response = fake_response(rpc, index);
    assert_int_equal(response->n_tokens, n_tokens);
    assert_string_equal(response->n_choices ? response->choices[0]->text : "", text);
    assert_int_equal(response->request_id[0] != '\0', index == 0);
    galerne__v1__generate_response__free_unpacked(response, NULL);
}

static void expect_last(const struct fake_rpc_call *rpc, Galerne__V1__FinishReason reason,
                        uint32_t output_tokens)
{
    Galerne__V1__GenerateResponse *response = fake_response(rpc, rpc->n_sent - 1);
    assert_int_equal(response->n_choices, 1);
    assert_int_equal(response->choices[0]->finish_reason, reason);
    assert_non_null(response->usage);
    assert_int_equal(response->usage->output_tokens, output_tokens);
    galerne__v1__generate_response__free_unpacked(response, NULL);
}

static void push_text(struct request *request, const char *text)
{
    for (const char *c = text; *c; c++)
        assert_true(fake_token(request, (uint8_t)*c));
}

static void test_stream(void **state)
{
    struct request *request;
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    assert_int_equal(fake.n_submitted, 1);
    assert_int_equal(request->prompt.kind, PROMPT_TEXT);
    assert_true(request->name[0] != '\0');
    assert_int_equal(rpc->reads, 1);
    push_text(request, "ab");
    fake_flush();
    assert_int_equal(rpc->n_sent, 1);
    expect_message(rpc, 0, 2, "ab");
    /* While that is being sent, tokens wait, and then leave together. */
    push_text(request, "cde");
    fake_flush();
    push_text(request, "f");
    fake_flush();
    assert_int_equal(rpc->n_sent, 1);
    fake_sent(rpc);
    assert_int_equal(rpc->n_sent, 2);
    expect_message(rpc, 1, 4, "cdef");
    /* The end comes while sending: the last message and the status go together. */
    push_text(request, "g");
    request->n_ids = 5;
    fake_end(request, FINISH_LENGTH, STATUS_OK);
    fake_flush();
    assert_false(rpc->finished);
    fake_sent(rpc);
    assert_true(rpc->finished && rpc->released);
    assert_int_equal((int)rpc->code, (int)RPC_OK);
    expect_message(rpc, 2, 1, "g");
    expect_last(rpc, GALERNE__V1__FINISH_REASON__FINISH_REASON_LENGTH, 7);
    assert_int_equal(fake.logged, 1);
    assert_int_equal(fake.cancels, 0);
    fake_call_free(rpc);
}

static void test_one_wake_for_many_tokens(void **state)
{
    struct request *a, *b;
    struct fake_rpc_call *rpc_a = generate(NULL, 0, &a), *rpc_b = generate(NULL, 0, &b);
    push_text(a, "xx");
    push_text(b, "yyy");
    fake_flush();
    assert_int_equal(fake.queue_wakes, 1);
    expect_message(rpc_a, 0, 2, "xx");
    expect_message(rpc_b, 0, 3, "yyy");
    fake_end(a, FINISH_STOP, STATUS_OK);
    fake_end(b, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_sent(rpc_a);
    fake_sent(rpc_b);
    fake_call_free(rpc_a);
    fake_call_free(rpc_b);
}

static void test_slow_reader_pauses_the_engine(void **state)
{
    struct request *request;
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    fake_token(request, 'a');
    fake_flush(); /* this one is being sent, and the client does not read it */
    uint32_t pushed = 0;
    while (fake_token(request, 'b'))
        pushed++;
    assert_int_equal(pushed, REQUEST_TOKENS_RING);
    fake_flush();
    assert_int_equal(rpc->n_sent, 1);
    assert_true(atomic_load(&request->stalled));
    assert_int_equal(fake.engines[0].wakes, 0);
    fake_sent(rpc);
    assert_int_equal(fake.engines[0].wakes, 1); /* drained: the engine is told */
    Galerne__V1__GenerateResponse *response = fake_response(rpc, 1);
    assert_int_equal(response->n_tokens, REQUEST_TOKENS_RING);
    galerne__v1__generate_response__free_unpacked(response, NULL);
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_sent(rpc);
    fake_call_free(rpc);
}

static void test_stop_string(void **state)
{
    static const char *stops[] = {"nothing like it", "STOP"};
    struct request *request;
    struct fake_rpc_call *rpc = generate(stops, 2, &request);
    push_text(request, "abST");
    fake_flush();
    expect_message(rpc, 0, 4, "ab"); /* "ST" is held back */
    push_text(request, "OPxyz");     /* three of these overran */
    fake_flush();
    fake_sent(rpc);
    assert_int_equal(fake.stop_cancels, 1);
    expect_message(rpc, 1, 2, "");
    push_text(request, "more"); /* the engine has not seen the flag yet */
    fake_flush();
    fake_sent(rpc);
    assert_int_equal(rpc->n_sent, 2);
    assert_int_equal(fake.cancels, 1); /* not once for each message */
    request->finish = FINISH_NONE;
    fake_end(request, FINISH_CANCELLED, STATUS_CANCELLED); /* even if the engine says so */
    fake_flush();
    assert_int_equal((int)rpc->code, (int)RPC_OK);
    expect_last(rpc, GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP, 6);
    Galerne__V1__GenerateResponse *last = fake_response(rpc, 2);
    assert_string_equal(last->choices[0]->stop, "STOP");
    galerne__v1__generate_response__free_unpacked(last, NULL);
    fake_call_free(rpc);
}

static void test_held_text_is_given_back_at_the_end(void **state)
{
    static const char *stops[] = {"STOP"};
    struct request *request;
    struct fake_rpc_call *rpc = generate(stops, 1, &request);
    push_text(request, "abSTO");
    fake_token(request, 0xc3); /* half of a character */
    fake_token(request, 2);    /* the end token: no text */
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    /* One message would hold it all, but the item of the tokens comes before the END. */
    assert_int_equal(rpc->n_sent, 1);
    expect_message(rpc, 0, 7, "ab"); /* "STO" and half of a character are held back */
    fake_sent(rpc);
    expect_message(rpc, 1, 0, "STO\xef\xbf\xbd");
    expect_last(rpc, GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP, 7);
    fake_call_free(rpc);
}

static void test_logprobs_and_special_tokens(void **state)
{
    Galerne__V1__GenerateRequest input = GALERNE__V1__GENERATE_REQUEST__INIT;
    input.model = (char *)(uintptr_t) "models/two";
    input.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    input.text = (char *)(uintptr_t) "hello";
    input._logprobs_case = GALERNE__V1__GENERATE_REQUEST___LOGPROBS_LOGPROBS;
    input.logprobs = 3;
    input.request_id = (char *)(uintptr_t) "my name";
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_receive(rpc, &input.base);
    struct request *request = fake.submitted[0];
    assert_ptr_equal(request->model, &fake.front.models[1]);
    fake_token(request, 'a');
    fake_token(request, 2);
    fake_token(request, 0); /* a NUL */
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_sent(rpc);
    Galerne__V1__GenerateResponse *response = fake_response(rpc, 0);
    assert_string_equal(response->request_id, "my name");
    assert_int_equal(response->n_tokens, 3);
    assert_int_equal(response->tokens[0]->n_top_logprobs, 3);
    assert_int_equal(response->tokens[0]->_logprob_case, GALERNE__V1__TOKEN___LOGPROB_LOGPROB);
    assert_int_equal(response->tokens[0]->top_logprobs[2]->bytes.len, 4); /* "</s>" */
    assert_int_equal(response->tokens[1]->bytes.len, 0);
    assert_int_equal(response->tokens[2]->bytes.len, 1);
    assert_string_equal(response->choices[0]->text, "a\xef\xbf\xbd");
    galerne__v1__generate_response__free_unpacked(response, NULL);
    fake_call_free(rpc);
}

/* The far ends of what is allowed arrive as they are. */
static void test_decoded_limits(void **state)
{
    static const char longest[STOP_STRING_MAX_BYTES + 1] = {[0 ... STOP_STRING_MAX_BYTES - 1] =
                                                                'x'};
    const char *stops[STOP_STRINGS_MAX];
    uint32_t ids[REQUEST_STOP_IDS_MAX];
    Galerne__V1__GenerateRequest input = GALERNE__V1__GENERATE_REQUEST__INIT;
    Galerne__V1__Sampling sampling = GALERNE__V1__SAMPLING__INIT;
    Galerne__V1__ChatPrompt chat = GALERNE__V1__CHAT_PROMPT__INIT;
    Galerne__V1__ChatMessage messages[2] = {GALERNE__V1__CHAT_MESSAGE__INIT,
                                            GALERNE__V1__CHAT_MESSAGE__INIT};
    Galerne__V1__ChatMessage *rows[] = {&messages[0], &messages[1]};
    for (size_t i = 0; i < STOP_STRINGS_MAX; i++)
        stops[i] = longest;
    for (uint32_t i = 0; i < REQUEST_STOP_IDS_MAX; i++)
        ids[i] = FAKE_VOCAB - 1;
    messages[0].role = GALERNE__V1__ROLE__ROLE_SYSTEM;
    messages[0].content = (char *)(uintptr_t) "be brief";
    messages[1].role = GALERNE__V1__ROLE__ROLE_USER;
    chat.messages = rows;
    chat.n_messages = 2;
    sampling._temperature_case = GALERNE__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
    sampling.temperature = 100;
    sampling._top_p_case = GALERNE__V1__SAMPLING___TOP_P_TOP_P;
    sampling.top_p = 1e-30f;
    sampling._top_k_case = GALERNE__V1__SAMPLING___TOP_K_TOP_K;
    sampling.top_k = UINT32_MAX;
    sampling._seed_case = GALERNE__V1__SAMPLING___SEED_SEED;
    sampling.seed = UINT64_MAX;
    input.model = (char *)(uintptr_t) "one";
    input.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_CHAT;
    input.chat = &chat;
    input.sampling = &sampling;
    input._max_tokens_case = GALERNE__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    input.max_tokens = 512;
    input._logprobs_case = GALERNE__V1__GENERATE_REQUEST___LOGPROBS_LOGPROBS;
    input.logprobs = 20;
    input.stop = (char **)(uintptr_t)stops;
    input.n_stop = STOP_STRINGS_MAX;
    input.stop_token_ids = ids;
    input.n_stop_token_ids = REQUEST_STOP_IDS_MAX;
    input.priority = GALERNE__V1__PRIORITY__PRIORITY_BATCH;
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_receive(rpc, &input.base);
    assert_int_equal(fake.n_submitted, 1);
    struct request *request = fake.submitted[0];
    assert_int_equal(request->prompt.kind, PROMPT_CHAT);
    assert_int_equal(request->prompt.n_messages, 2);
    assert_int_equal(request->prompt.messages[0].role, CHAT_ROLE_SYSTEM);
    assert_true(span_equal(request->prompt.messages[0].content, span_of("be brief")));
    assert_int_equal(request->prompt.messages[1].content.size_bytes, 0);
    assert_true(request->sampling.temperature == 100 && request->sampling.top_p == 1e-30f);
    assert_true(request->sampling.seed == UINT64_MAX && request->sampling.top_k == UINT32_MAX);
    assert_true(request->wants_logprobs);
    assert_int_equal(request->sampling.n_logprobs, 20);
    assert_int_equal(request->output_tokens_max, 512);
    assert_int_equal(request->stops->n, STOP_STRINGS_MAX);
    assert_int_equal(request->n_stop_ids, REQUEST_STOP_IDS_MAX);
    assert_int_equal(request->class, CLASS_BATCH);
    assert_true(request->deadline_ns != UINT64_MAX); /* no call runs for ever */
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_call_free(rpc);
}

/* The far ends of penalties, and as many biases as there may be, sorted by id. */
static void test_decoded_penalties(void **state)
{
    Galerne__V1__GenerateRequest input = GALERNE__V1__GENERATE_REQUEST__INIT;
    Galerne__V1__Sampling sampling = GALERNE__V1__SAMPLING__INIT;
    sampling._min_p_case = GALERNE__V1__SAMPLING___MIN_P_MIN_P;
    sampling.min_p = 1;
    sampling._repetition_penalty_case =
        GALERNE__V1__SAMPLING___REPETITION_PENALTY_REPETITION_PENALTY;
    sampling.repetition_penalty = 10;
    sampling._presence_penalty_case = GALERNE__V1__SAMPLING___PRESENCE_PENALTY_PRESENCE_PENALTY;
    sampling.presence_penalty = -2;
    sampling._frequency_penalty_case = GALERNE__V1__SAMPLING___FREQUENCY_PENALTY_FREQUENCY_PENALTY;
    sampling.frequency_penalty = 2;
    Galerne__V1__LogitBias biases[FAKE_VOCAB < SAMPLE_BIASES_MAX ? FAKE_VOCAB : SAMPLE_BIASES_MAX];
    Galerne__V1__LogitBias *bias_rows[array_count(biases)];
    for (uint32_t i = 0; i < array_count(biases); i++) {
        biases[i] = (Galerne__V1__LogitBias)GALERNE__V1__LOGIT_BIAS__INIT;
        biases[i].id = FAKE_VOCAB - 1 - i; /* not in order */
        biases[i].value = i % 2 ? 100 : -100;
        bias_rows[i] = &biases[i];
    }
    sampling.logit_bias = bias_rows;
    sampling.n_logit_bias = array_count(biases);
    input.sampling = &sampling;
    input._min_tokens_case = GALERNE__V1__GENERATE_REQUEST___MIN_TOKENS_MIN_TOKENS;
    input.min_tokens = 512;
    input.ignore_eos = true;
    input.model = (char *)(uintptr_t) "one";
    input.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT;
    input.text = (char *)(uintptr_t) "x";
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_receive(rpc, &input.base);
    assert_int_equal(fake.n_submitted, 1);
    struct request *request = fake.submitted[0];
    assert_true(request->sampling.min_p == 1 && request->sampling.repetition_penalty == 10);
    assert_true(request->sampling.presence_penalty == -2);
    assert_true(request->sampling.frequency_penalty == 2);
    assert_int_equal(request->sampling.min_tokens, 512);
    assert_true(request->ignore_eos);
    assert_int_equal(request->sampling.n_biases, array_count(biases));
    for (uint32_t i = 0; i < array_count(biases); i++) {
        const struct sample_entry *bias = &request->biases[i];
        assert_int_equal(bias->id, FAKE_VOCAB - array_count(biases) + i);
        assert_true(bias->value == ((FAKE_VOCAB - 1 - bias->id) % 2 ? 100 : -100));
    }
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_call_free(rpc);
}

static void test_greedy_by_default(void **state)
{
    struct request *request;
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    assert_true(request->sampling.temperature == 0 && request->sampling.top_p == 1);
    assert_true(request->sampling.min_p == 0 && request->sampling.repetition_penalty == 0);
    assert_true(request->sampling.presence_penalty == 0);
    assert_true(request->sampling.frequency_penalty == 0);
    assert_int_equal(request->sampling.n_biases + request->sampling.min_tokens, 0);
    assert_false(request->ignore_eos);
    assert_false(request->wants_logprobs);
    assert_int_equal(request->output_tokens_max, 0);
    assert_null(request->stops);
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_call_free(rpc);
}

static void test_error_before_the_first_token(void **state)
{
    struct request *request;
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    fake_end(request, FINISH_ERROR, STATUS_INVALID);
    fake_flush();
    assert_true(rpc->released);
    assert_int_equal(rpc->n_sent, 0);
    assert_int_equal((int)rpc->code, (int)RPC_INVALID_ARGUMENT);
    assert_string_equal(rpc->message, "made up by the test");
    assert_true(rpc->details_bytes > 0);
    assert_int_equal(fake.logged, 1);
    fake_call_free(rpc);
}

static void test_error_in_mid_stream(void **state)
{
    struct request *request;
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    push_text(request, "ab");
    fake_flush();
    push_text(request, "c");
    fake_end(request, FINISH_ERROR, STATUS_UNAVAILABLE);
    fake_flush();
    fake_sent(rpc);
    assert_int_equal((int)rpc->code, (int)RPC_UNAVAILABLE);
    expect_message(rpc, 1, 1, "c");
    expect_last(rpc, GALERNE__V1__FINISH_REASON__FINISH_REASON_ERROR, 3);
    fake_call_free(rpc);
}

/* The client leaves: before the message, before a token, in mid send, after the END. */
static void test_client_leaves(void **state)
{
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_leave(rpc);
    assert_true(rpc->released);
    fake_call_free(rpc);

    struct request *request;
    rpc = generate(NULL, 0, &request);
    fake_leave(rpc);
    assert_false(rpc->released); /* the engine still holds the request */
    assert_int_equal(fake.cancels, 1);
    push_text(request, "too late");
    fake_flush();
    assert_null(ring_peek(request->tokens));
    fake_end(request, FINISH_CANCELLED, STATUS_CANCELLED);
    fake_flush();
    assert_true(rpc->released);
    assert_int_equal(rpc->n_sent, 0);
    fake_call_free(rpc);

    rpc = generate(NULL, 0, &request);
    push_text(request, "ab");
    fake_flush();
    push_text(request, "cd");
    fake_leave(rpc); /* in mid send */
    assert_int_equal(fake.cancels, 2);
    fake_end(request, FINISH_CANCELLED, STATUS_CANCELLED);
    fake_flush();
    assert_true(rpc->released);
    fake_call_free(rpc);

    rpc = generate(NULL, 0, &request);
    push_text(request, "ab");
    fake_flush();
    fake_end(request, FINISH_LENGTH, STATUS_OK);
    fake_flush();
    assert_false(rpc->released); /* the first message is still on its way */
    fake_leave(rpc);
    assert_true(rpc->released);
    assert_int_equal(fake.cancels, 2); /* it had ended by itself */
    assert_int_equal(fake.logged, 3);
    fake_call_free(rpc);
}

static void test_leaves_while_stalled(void **state)
{
    struct request *request;
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    fake_token(request, 'a');
    fake_flush();
    while (fake_token(request, 'b'))
        ;
    fake_leave(rpc);
    assert_int_equal(fake.engines[0].wakes, 1); /* a paused request must hear of its end */
    fake_end(request, FINISH_CANCELLED, STATUS_CANCELLED);
    fake_flush();
    fake_call_free(rpc);
}

static void test_no_room_for_requests(void **state)
{
    struct fake_rpc_call *rpc[5];
    struct request *request[5];
    for (int i = 0; i < 5; i++)
        rpc[i] = generate(NULL, 0, &request[i]);
    assert_int_equal(fake.n_submitted, 4);
    assert_true(rpc[4]->released);
    assert_int_equal((int)rpc[4]->code, (int)RPC_RESOURCE_EXHAUSTED);
    fake_call_free(rpc[4]);
    for (int i = 0; i < 4; i++) {
        fake_end(request[i], FINISH_STOP, STATUS_OK);
        fake_flush();
        fake_call_free(rpc[i]);
    }
}

static void expect_refused(const char *path, enum rpc_code code, const char *words)
{
    struct fake_rpc_call *rpc = fake_call(path);
    assert_true(rpc->released);
    assert_int_equal(rpc->reads, 0); /* refused on its headers */
    assert_int_equal((int)rpc->code, (int)code);
    if (!strstr(rpc->message, words))
        fail_msg("\"%s\" does not say \"%s\"", rpc->message, words);
    fake_call_free(rpc);
}

static void test_interceptors(void **state)
{
    expect_refused("/no.such/Method", RPC_UNIMPLEMENTED, "/no.such/Method");
    strcpy(fake.listener.sockets[GRPC_OPERATOR].path, "/run/admin.sock");
    /* The public server does not register the operator's methods: there they are unknown. */
    struct fake_rpc_call *rpc = calloc(1, sizeof *rpc);
    strcpy(rpc->call.path, "/galerne.admin.v1.Admin/Status");
    grpc_calls_callbacks.accepted(&rpc->call);
    assert_int_equal((int)rpc->code, (int)RPC_UNIMPLEMENTED);
    assert_non_null(strstr(rpc->message, "/run/admin.sock"));
    fake_call_free(rpc);

    fake.state = FRONT_STARTING;
    expect_refused(GENERATE, RPC_UNAVAILABLE, "starting");
    fake.state = FRONT_FAILED;
    expect_refused(GENERATE, RPC_UNAVAILABLE, "no model");
    fake.state = FRONT_DRAINING;
    expect_refused(GENERATE, RPC_UNAVAILABLE, "stopping");
    fake.state = FRONT_READY;
    atomic_store(&fake.front.calls_open, fake.config.requests_max + CALLS_EXTRA_MAX);
    expect_refused(GENERATE, RPC_RESOURCE_EXHAUSTED, "calls are open");
    atomic_store(&fake.front.calls_open, 0);
}

static void test_model_states(void **state)
{
    struct request *request;
    fake.state = FRONT_DEGRADED;
    fake.engines[0].status.state = ENGINE_FAILED;
    strcpy(fake.engines[0].status.text, "the file is gone");
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    assert_int_equal((int)rpc->code, (int)RPC_UNAVAILABLE);
    assert_non_null(strstr(rpc->message, "the file is gone"));
    fake_call_free(rpc);
    fake.engines[0].status.state = ENGINE_LOADING;
    rpc = generate(NULL, 0, &request);
    assert_int_equal((int)rpc->code, (int)RPC_UNAVAILABLE);
    assert_non_null(strstr(rpc->message, "loading"));
    fake_call_free(rpc);
    assert_int_equal(fake.n_submitted, 0);
    fake.engines[0].status.state = ENGINE_LOST; /* it is on its way back: the engine queues */
    rpc = generate(NULL, 0, &request);
    assert_int_equal(fake.n_submitted, 1);
    fake_end(request, FINISH_STOP, STATUS_OK);
    fake_flush();
    fake_call_free(rpc);
}

static void test_messages_that_are_none(void **state)
{
    struct fake_rpc_call *rpc = fake_call(GENERATE);
    fake_receive_bytes(rpc, (struct span){0});
    assert_int_equal((int)rpc->code, (int)RPC_INVALID_ARGUMENT);
    assert_non_null(strstr(rpc->message, "without a request"));
    fake_call_free(rpc);
    rpc = fake_call(GENERATE);
    fake_receive_bytes(rpc, (struct span){"\x0b", 1});
    assert_int_equal((int)rpc->code, (int)RPC_INVALID_ARGUMENT);
    fake_call_free(rpc);
}

/* Unpacked messages of all calls together have a bound. */
static void test_memory_budget(void **state)
{
    struct request *request;
    fake.config.message_max_bytes = 1024; /* 64 KiB together */
    size_t free_bytes = 64 * 1024 - 100;
    atomic_store(&fake.listener.memory_bytes, free_bytes);
    struct fake_rpc_call *rpc = generate(NULL, 0, &request);
    assert_int_equal((int)rpc->code, (int)RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(atomic_load(&fake.listener.memory_bytes), free_bytes);
    fake_call_free(rpc);
    atomic_store(&fake.listener.memory_bytes, 0);
}

static void test_watch(void **state)
{
    Grpc__Health__V1__HealthCheckRequest input = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    input.service = (char *)(uintptr_t) "models/two";
    struct fake_rpc_call *rpc = fake_call("/grpc.health.v1.Health/Watch");
    fake_tick(rpc); /* before its message */
    fake_receive(rpc, &input.base);
    assert_int_equal(rpc->n_sent, 1);
    fake_tick(rpc);
    fake_sent(rpc);
    fake_tick(rpc);
    assert_int_equal(rpc->n_sent, 1); /* no news */
    fake.engines[1].status.state = ENGINE_LOST;
    fake_tick(rpc);
    assert_int_equal(rpc->n_sent, 2);
    fake.engines[1].status.state = ENGINE_SERVING;
    fake_tick(rpc); /* still sending: later */
    assert_int_equal(rpc->n_sent, 2);
    fake_sent(rpc);
    assert_int_equal(rpc->n_sent, 3);
    fake_sent(rpc);
    fake.state = FRONT_DRAINING;
    atomic_store(&fake.front.draining, true);
    fake_tick(rpc);
    assert_int_equal(rpc->n_sent, 4);
    assert_int_equal((int)rpc->code, (int)RPC_UNAVAILABLE);
    for (uint32_t i = 0; i < 4; i++) {
        Grpc__Health__V1__HealthCheckResponse *answer =
            grpc__health__v1__health_check_response__unpack(NULL, rpc->sent_bytes[i], rpc->sent[i]);
        assert_int_equal(answer->status, i % 2 ? 2 : 1); /* NOT_SERVING, SERVING */
        grpc__health__v1__health_check_response__free_unpacked(answer, NULL);
    }
    fake_call_free(rpc);
}

static void test_reflection_stream(void **state)
{
    Grpc__Reflection__V1__ServerReflectionRequest input =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    input.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES;
    input.list_services = (char *)(uintptr_t) "*";
    struct fake_rpc_call *rpc =
        fake_call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(rpc->reads, i + 1);
        fake_receive(rpc, &input.base);
        assert_int_equal(rpc->n_sent, i + 1);
        assert_false(rpc->reading); /* one question at a time */
        fake_sent(rpc);
    }
    fake_receive_bytes(rpc, (struct span){0});
    assert_int_equal((int)rpc->code, (int)RPC_OK);
    fake_call_free(rpc);
}

static void test_table(void **state)
{
    grpc_calls_check();
    uint32_t public = 0;
    for (uint32_t i = 0; i < service_methods_count; i++)
    public += grpc_calls_public(&service_methods[i]);
    assert_int_equal(public, service_methods_count - 2); /* all but Status and Trace */
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_stream),
        CASE(test_one_wake_for_many_tokens),
        CASE(test_slow_reader_pauses_the_engine),
        CASE(test_stop_string),
        CASE(test_held_text_is_given_back_at_the_end),
        CASE(test_logprobs_and_special_tokens),
        CASE(test_decoded_limits),
        CASE(test_decoded_penalties),
        CASE(test_greedy_by_default),
        CASE(test_error_before_the_first_token),
        CASE(test_error_in_mid_stream),
        CASE(test_client_leaves),
        CASE(test_leaves_while_stalled),
        CASE(test_no_room_for_requests),
        CASE(test_interceptors),
        CASE(test_model_states),
        CASE(test_messages_that_are_none),
        CASE(test_memory_budget),
        CASE(test_watch),
        CASE(test_reflection_stream),
        CASE(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
