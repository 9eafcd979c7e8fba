/*
 * The engine under everything that is not the usual case: clients that leave, are late or do not
 * read, a full queue, a pool that is too small, a worker that dies, hangs, lies or does not start.
 *
 * Arguments by environment: GALERNE_TEST_MODEL a model directory, GALERNE_WORKER the worker binary.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "sched/policy.h"
#include "tests/engine/harness.h"

#define MINUTE (60 * NS_PER_S)

static const char *model_path;
static const char *worker_binary;

static const uint32_t prompt_ids[] = {3, 17, 9, 41, 5, 88, 23, 14, 60, 7, 31, 2, 77, 54, 19, 6, 12};

static struct stream_options simple(uint32_t output_tokens)
{
    return (struct stream_options){
        .ids = prompt_ids, .n_ids = array_count(prompt_ids), .output_tokens_max = output_tokens};
}

static struct harness_options inline_options(void)
{
    return (struct harness_options){.path = model_path, .context_tokens = 128};
}

/* Blocks go back once the steps already handed over have retired. */
static void assert_all_free(struct harness *h)
{
    struct engine_status status;
    uint64_t until_ns = clock_now_ns() + 10 * NS_PER_S;
    do {
        engine_wake(h->engine);
        usleep(2000);
        engine_status(h->engine, &status);
    } while ((status.sched.blocks_used || status.sched.running || status.sched.waiting) &&
             clock_now_ns() < until_ns);
    assert_int_equal(status.sched.blocks_used, 0);
    assert_int_equal(status.sched.running, 0);
    assert_int_equal(status.sched.waiting, 0);
    assert_int_equal(status.sched.blocks_free, status.sched.blocks_count);
}

static void wait_tokens(struct stream *stream, uint32_t n)
{
    uint64_t until_ns = clock_now_ns() + 30 * NS_PER_S;
    while (stream->n_tokens < n && !stream->ended && clock_now_ns() < until_ns)
        harness_turn(stream->harness, 10 * NS_PER_MS);
    assert_true(stream->n_tokens >= n);
}

static void test_length_and_stop_ids(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    struct harness h;
    harness_open(&h, &options);
    struct stream_options o = simple(20);
    struct stream *whole = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    assert_int_equal(whole->finish, FINISH_LENGTH);
    assert_int_equal(whole->n_tokens, 20);
    assert_int_equal(whole->output_tokens, 20);

    /* The first id that appears late enough ends a second run right there. */
    uint32_t stop_at = 0;
    for (uint32_t i = 5; i < 20 && !stop_at; i++) {
        bool seen = false;
        for (uint32_t k = 0; k < i; k++)
            seen |= whole->tokens[k].sample.id == whole->tokens[i].sample.id;
        stop_at = seen ? 0 : i;
    }
    assert_true(stop_at > 0);
    o.stop_ids = &whole->tokens[stop_at].sample.id;
    o.n_stop_ids = 1;
    struct stream *stopped = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    assert_int_equal(stopped->finish, FINISH_STOP);
    assert_int_equal(stopped->n_tokens, stop_at + 1);
    assert_int_equal(stopped->tokens[stop_at].from_end_id, 1);
    assert_all_free(&h);
    stream_free(whole);
    stream_free(stopped);
    harness_close(&h);
}

static void test_cancel_frees_blocks(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    options.running_max = 4; /* some run, some wait */
    struct harness h;
    struct stream *streams[12];
    harness_open(&h, &options);
    struct stream_options o = simple(100);
    for (uint32_t i = 0; i < array_count(streams); i++)
        streams[i] = stream_start(&h, &o);
    wait_tokens(streams[0], 3);
    for (uint32_t i = 0; i < array_count(streams); i++)
        if (!streams[i]->ended)
            stream_cancel(streams[i]);
    assert_true(harness_drain(&h, MINUTE));
    uint32_t cancelled = 0;
    for (uint32_t i = 0; i < array_count(streams); i++) {
        cancelled += streams[i]->finish == FINISH_CANCELLED;
        stream_free(streams[i]);
    }
    assert_true(cancelled >= 8);
    assert_all_free(&h);
    harness_close(&h);
}

static void test_deadline(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    struct harness h;
    harness_open(&h, &options);
    struct stream_options o = simple(100);
    o.does_not_read = true; /* it will be paused: only the deadline can end it */
    o.deadline_ns = clock_now_ns() + 200 * NS_PER_MS;
    struct stream *late = stream_start(&h, &o);
    o.deadline_ns = clock_now_ns() - 1;
    struct stream *too_late = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    assert_int_equal(late->finish, FINISH_ERROR);
    assert_int_equal(late->status, STATUS_DEADLINE);
    assert_int_equal(too_late->status, STATUS_DEADLINE);
    assert_int_equal(too_late->n_tokens, 0);
    assert_all_free(&h);
    stream_free(late);
    stream_free(too_late);
    harness_close(&h);
}

static void test_slow_reader_stalls_itself_only(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    struct harness h;
    struct engine_status before, after;
    harness_open(&h, &options);
    struct stream_options o = simple(100);
    struct stream *slow = stream_start(&h, &o);
    slow->reads = false;
    struct stream *brisk = stream_start(&h, &o);
    while (!brisk->ended)
        harness_turn(&h, 10 * NS_PER_MS);
    assert_int_equal(brisk->finish, FINISH_LENGTH);
    assert_false(slow->ended);
    usleep(100000);
    engine_status(h.engine, &before);
    usleep(200000);
    engine_status(h.engine, &after);
    assert_int_equal(before.steps_total, after.steps_total); /* it is paused, not polled */
    slow->reads = true;
    /* The outlet's item was taken long ago: a reader that comes back looks by itself. */
    const struct request_token *token;
    while ((token = ring_peek(slow->request->tokens))) {
        slow->tokens[slow->n_tokens++] = *token;
        ring_release(slow->request->tokens);
    }
    assert_true(atomic_exchange(&slow->request->stalled, false));
    engine_wake(h.engine);
    assert_true(harness_drain(&h, MINUTE));
    assert_int_equal(slow->finish, FINISH_LENGTH);
    assert_int_equal(slow->n_tokens, 100);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(slow->tokens[i].sample.id, brisk->tokens[i].sample.id);
    assert_all_free(&h);
    stream_free(slow);
    stream_free(brisk);
    harness_close(&h);
}

static void test_full_queue_refuses(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    options.running_max = 1;
    options.waiting_max = 4;
    struct harness h;
    struct stream *streams[24];
    uint32_t refused = 0, served = 0;
    harness_open(&h, &options);
    struct stream_options o = simple(50);
    for (uint32_t i = 0; i < array_count(streams); i++)
        streams[i] = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    for (uint32_t i = 0; i < array_count(streams); i++) {
        if (streams[i]->finish == FINISH_ERROR) {
            assert_int_equal(streams[i]->status, STATUS_EXHAUSTED);
            assert_true(streams[i]->retry_ns > 0);
            refused++;
        } else {
            assert_int_equal(streams[i]->n_tokens, 50);
            served++;
        }
        stream_free(streams[i]);
    }
    assert_true(refused > 0 && served >= 4);
    assert_all_free(&h);
    harness_close(&h);
}

static void test_pool_too_small(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    options.blocks_count = 3; /* 48 positions */
    struct harness h;
    harness_open(&h, &options);
    struct stream_options o = simple(100);
    struct stream *never = stream_start(&h, &o);
    o.output_tokens_max = 20;
    struct stream *fits = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    assert_int_equal(never->finish, FINISH_ERROR);
    assert_int_equal(never->status, STATUS_INVALID);
    assert_int_equal(fits->finish, FINISH_LENGTH);
    stream_free(never);
    stream_free(fits);
    harness_close(&h);
}

/* ---- choices ---- */

static struct stream_options sampled_options(uint32_t output_tokens)
{
    struct stream_options o = simple(output_tokens);
    o.sampling = (struct sample_params){.temperature = 1.2f, .top_p = 1, .seed = 99};
    return o;
}

static void assert_same_start(const struct stream *a, const struct stream *whole)
{
    assert_true(a->n_tokens <= whole->n_tokens);
    for (uint32_t i = 0; i < a->n_tokens; i++)
        assert_int_equal(a->tokens[i].sample.id, whole->tokens[i].sample.id);
}

static void streams_free(struct stream **streams, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        stream_free(streams[i]);
}

/* One is cancelled, one meets its stop id, one is not read for a while: each by itself. */
static void test_choices_end_apart(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    struct harness h;
    struct stream *whole[5], *streams[5];
    harness_open(&h, &options);
    struct stream_options o = sampled_options(100);
    streams_start(&h, &o, 5, whole);
    assert_true(harness_drain(&h, MINUTE));
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(whole[i]->finish, FINISH_LENGTH);
        assert_int_equal(whole[i]->n_tokens, 100);
        for (uint32_t k = 0; k < 100; k++)
            assert_int_equal(whole[i]->tokens[k].choice, i);
    }
    uint32_t stop_id = whole[3]->tokens[40].sample.id, first[5];
    for (uint32_t i = 0; i < 5; i++)
        for (first[i] = 0; first[i] < 100; first[i]++)
            if (whole[i]->tokens[first[i]].sample.id == stop_id)
                break;
    o.stop_ids = &stop_id;
    o.n_stop_ids = 1;
    streams_start(&h, &o, 5, streams);
    streams[2]->reads = false;
    wait_tokens(streams[1], 1);
    if (!streams[1]->ended)
        stream_cancel(streams[1]);
    while (!streams[0]->ended || !streams[1]->ended || !streams[3]->ended || !streams[4]->ended)
        harness_turn(&h, 10 * NS_PER_MS);
    for (uint32_t i = 0; i < 5; i++) {
        if (i == 2)
            continue;
        assert_same_start(streams[i], whole[i]);
        if (i == 1 && streams[i]->finish == FINISH_CANCELLED)
            continue;
        assert_int_equal(streams[i]->finish, first[i] < 100 ? FINISH_STOP : FINISH_LENGTH);
        assert_int_equal(streams[i]->n_tokens, u32_min(first[i] + 1, 100));
    }
    assert_int_equal(streams[3]->finish, FINISH_STOP);
    /* The third one waits for its reader, if there is so much of it, and takes nobody along. */
    if (first[2] > REQUEST_TOKENS_RING)
        assert_false(streams[2]->ended);
    streams[2]->reads = true;
    if (!streams[2]->ended)
        stream_cancel(streams[2]);
    assert_true(harness_drain(&h, MINUTE));
    assert_same_start(streams[2], whole[2]);
    assert_all_free(&h);
    streams_free(whole, 5);
    streams_free(streams, 5);
    harness_close(&h);
}

static void test_choices_deadline(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    options.running_max = 2; /* some run, some wait */
    struct harness h;
    struct stream *streams[6];
    harness_open(&h, &options);
    struct stream_options o = sampled_options(100);
    o.does_not_read = true;
    o.deadline_ns = clock_now_ns() + 200 * NS_PER_MS;
    streams_start(&h, &o, 6, streams);
    assert_true(harness_drain(&h, MINUTE));
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(streams[i]->finish, FINISH_ERROR);
        assert_int_equal(streams[i]->status, STATUS_DEADLINE);
    }
    assert_all_free(&h);
    streams_free(streams, 6);
    harness_close(&h);
}

/* All of them are queued, or none. */
static void test_choices_full_queue(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    options.running_max = 1;
    options.waiting_max = 4;
    struct harness h;
    struct stream *streams[8][3];
    uint32_t n_refused = 0;
    harness_open(&h, &options);
    struct stream_options o = sampled_options(30);
    for (uint32_t i = 0; i < 8; i++)
        streams_start(&h, &o, 3, streams[i]);
    assert_true(harness_drain(&h, MINUTE));
    for (uint32_t i = 0; i < 8; i++) {
        bool refused = streams[i][0]->finish == FINISH_ERROR;
        n_refused += refused;
        for (uint32_t k = 0; k < 3; k++) {
            assert_int_equal(streams[i][k]->finish, refused ? FINISH_ERROR : FINISH_LENGTH);
            assert_int_equal(streams[i][k]->n_tokens, refused ? 0 : 30);
            if (refused)
                assert_int_equal(streams[i][k]->status, STATUS_EXHAUSTED);
        }
        streams_free(streams[i], 3);
    }
    assert_true(n_refused > 0 && n_refused < 8);
    assert_all_free(&h);
    harness_close(&h);
}

/* ---- memory ---- */

/* The linker sends our rooms' allocations here (--wrap); only the engine's thread is counted. */
static atomic_bool trap_set;
static _Atomic uint32_t trapped_count;
static pthread_t trapped_thread;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);

static void trap(void)
{
    if (atomic_load(&trap_set) && pthread_equal(pthread_self(), trapped_thread))
        atomic_fetch_add(&trapped_count, 1);
}

void *__wrap_malloc(size_t size)
{
    trap();
    return __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    trap();
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    trap();
    return __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    trap();
    return __real_aligned_alloc(align, size);
}

static void test_turns_allocate_nothing(void **state)
{
    (void)state;
    struct harness_options options = inline_options();
    options.blocks_count = 16; /* with preemption, which the fair policy avoids */
    options.policy = &policy_fcfs;
    struct harness h;
    struct stream *streams[24];
    struct engine_status status;
    harness_open(&h, &options);
    trapped_thread = pthread_self();
    atomic_store(&trap_set, true);
    free(__wrap_malloc(1)); /* the trap works */
    assert_int_equal(atomic_exchange(&trapped_count, 0), 1);
    trapped_thread = h.engine->thread;
    struct stream_options o = simple(60);
    streams_start(&h, &o, 6, streams);
    for (uint32_t i = 6; i < array_count(streams); i++)
        streams[i] = stream_start(&h, &o);
    stream_cancel(streams[5]);
    assert_true(harness_drain(&h, MINUTE));
    assert_all_free(&h);
    atomic_store(&trap_set, false);
    assert_int_equal(atomic_load(&trapped_count), 0);
    engine_status(h.engine, &status);
    assert_true(status.sched.preempted_total > 0);
    for (uint32_t i = 0; i < array_count(streams); i++)
        stream_free(streams[i]);
    harness_close(&h);
}

/* ---- workers ---- */

static struct harness_options process_options(void)
{
    struct harness_options options = inline_options();
    options.worker_binary = worker_binary;
    return options;
}

static int32_t worker_pid(struct harness *h)
{
    struct engine_status status;
    engine_status(h->engine, &status);
    return status.worker_pid;
}

static void assert_same_tokens(const struct stream *a, const struct stream *b)
{
    assert_int_equal(a->n_tokens, b->n_tokens);
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        assert_int_equal(a->tokens[i].sample.id, b->tokens[i].sample.id);
        assert_memory_equal(&a->tokens[i].sample.logprob, &b->tokens[i].sample.logprob,
                            sizeof(float));
    }
}

/* A request that lost its worker once: each stage once, the loss between two counts of tokens. */
static void assert_walk(struct harness *h, uint64_t id)
{
    struct trace_event events[WALK_EVENTS_MAX];
    uint32_t counts[WALK_STAGES_COUNT] = {0}, last_value = 0;
    uint32_t n = trace_read(h->trace, id, events, WALK_EVENTS_MAX);
    assert_true(n >= 6);
    for (uint32_t i = 0; i < n; i++) {
        counts[events[i].kind]++;
        if (events[i].kind == WALK_REPLAYED)
            assert_int_equal(events[i].value, 1);
        else if (events[i].kind >= WALK_FIRST_TOKEN) {
            assert_true(events[i].value >= last_value);
            last_value = events[i].value;
        }
    }
    assert_int_equal(events[0].kind, WALK_SUBMITTED);
    assert_int_equal(events[1].kind, WALK_FIRST_STEP);
    assert_int_equal(events[2].kind, WALK_FIRST_TOKEN);
    assert_int_equal(events[n - 1].kind, WALK_ENDED);
    assert_int_equal(counts[WALK_FIRST_STEP], 1);
    assert_int_equal(counts[WALK_FIRST_TOKEN], 1);
    assert_int_equal(counts[WALK_REPLAYED], 1);
    assert_int_equal(counts[WALK_ENDED], 1);
    assert_true(counts[WALK_TOKENS] >= 3);
}

/* Kills or stops the worker once the victim has some tokens; the stream must not notice. */
static void worker_loss(int signal_number, uint64_t step_limit_ns, bool choices)
{
    struct harness_options options = process_options();
    options.step_limit_ns = step_limit_ns;
    struct harness h;
    struct engine_status status;
    harness_open(&h, &options);
    struct stream_options o = simple(100);
    struct stream *calm = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    struct stream *victims[3];
    if (choices)
        streams_start(&h, &o, 3, victims);
    for (uint32_t i = 0; i < 3 && !choices; i++)
        victims[i] = stream_start(&h, &o);
    uint64_t traced_id = victims[0]->request->id;
    wait_tokens(victims[0], 10);
    int32_t before = worker_pid(&h);
    assert_true(before > 0 && before != getpid());
    kill(before, signal_number);
    assert_true(harness_drain(&h, MINUTE));
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(victims[i]->finish, FINISH_LENGTH);
        assert_same_tokens(victims[i], calm);
        stream_free(victims[i]);
    }
    assert_true(harness_wait_state(&h, ENGINE_SERVING, MINUTE));
    assert_walk(&h, traced_id);
    engine_status(h.engine, &status);
    assert_int_not_equal(status.worker_pid, before);
    assert_int_equal(status.restarts_total, 1);
    assert_all_free(&h);
    stream_free(calm);
    harness_close(&h);
}

static void test_worker_killed(void **state)
{
    (void)state;
    worker_loss(SIGKILL, 0, false);
}

static void test_worker_killed_under_choices(void **state)
{
    (void)state;
    worker_loss(SIGKILL, 0, true);
}

static void test_worker_hung(void **state)
{
    (void)state;
    worker_loss(SIGSTOP, 300 * NS_PER_MS, false);
}

static pid_t worker_by_hand(const char *runtime_dir)
{
    char socket_path[128];
    snprintf(socket_path, sizeof socket_path, "%s/worker-test.sock", runtime_dir);
    pid_t pid = fork();
    if (pid == 0) {
        execl(worker_binary, "galerne-worker", "--name", "test", "--path", model_path, "--socket",
              socket_path, "--threads", "1", (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    for (uint32_t i = 0; i < 5000 && access(socket_path, F_OK) != 0; i++)
        usleep(1000);
    return pid;
}

/* A worker that the service manager started: one front after the other finds it as it is. */
static void test_worker_adopted(void **state)
{
    (void)state;
    char runtime_dir[] = "/tmp/galerne-test-XXXXXX";
    assert_non_null(mkdtemp(runtime_dir));
    pid_t pid = worker_by_hand(runtime_dir);
    struct harness_options options = process_options();
    options.runtime_dir = runtime_dir;
    uint64_t epochs[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct harness h;
        struct engine_status status;
        harness_open(&h, &options);
        engine_status(h.engine, &status);
        assert_int_equal(status.worker_pid, pid);
        epochs[i] = status.epoch;
        struct stream_options o = simple(10);
        struct stream *stream = stream_start(&h, &o);
        assert_true(harness_drain(&h, MINUTE));
        assert_int_equal(stream->finish, FINISH_LENGTH);
        stream_free(stream);
        harness_close(&h);
    }
    assert_int_not_equal(epochs[0], epochs[1]);
    kill(pid, SIGTERM);
    int code;
    assert_int_equal(waitpid(pid, &code, 0), pid);
    assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
    assert_int_equal(rmdir(runtime_dir), 0); /* it took its socket with it */
}

static void test_worker_missing(void **state)
{
    (void)state;
    struct harness_options options = process_options();
    options.worker_binary = "/nonexistent/galerne-worker";
    struct harness h;
    struct engine_status status;
    harness_open_only(&h, &options);
    struct stream_options o = simple(10);
    assert_true(harness_wait_state(&h, ENGINE_FAILED, MINUTE));
    engine_status(h.engine, &status);
    assert_non_null(strstr(status.text, "/nonexistent/galerne-worker"));
    struct stream *refused = stream_start(&h, &o);
    assert_true(harness_drain(&h, MINUTE));
    assert_int_equal(refused->finish, FINISH_ERROR);
    assert_int_equal(refused->status, STATUS_UNAVAILABLE);
    stream_free(refused);
    harness_close(&h);
}

static void test_worker_is_something_else(void **state)
{
    (void)state;
    struct harness_options options = process_options();
    options.worker_binary = "/bin/true"; /* starts, and leaves at once */
    struct harness h;
    harness_open_only(&h, &options);
    assert_true(harness_wait_state(&h, ENGINE_FAILED, MINUTE));
    harness_close(&h);
}

int main(void)
{
    model_path = getenv("GALERNE_TEST_MODEL");
    worker_binary = getenv("GALERNE_WORKER");
    CHECK(model_path && worker_binary);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_length_and_stop_ids),
        cmocka_unit_test(test_cancel_frees_blocks),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_slow_reader_stalls_itself_only),
        cmocka_unit_test(test_full_queue_refuses),
        cmocka_unit_test(test_pool_too_small),
        cmocka_unit_test(test_choices_end_apart),
        cmocka_unit_test(test_choices_deadline),
        cmocka_unit_test(test_choices_full_queue),
        cmocka_unit_test(test_turns_allocate_nothing),
        cmocka_unit_test(test_worker_killed),
        cmocka_unit_test(test_worker_killed_under_choices),
        cmocka_unit_test(test_worker_hung),
        cmocka_unit_test(test_worker_adopted),
        cmocka_unit_test(test_worker_missing),
        cmocka_unit_test(test_worker_is_something_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
