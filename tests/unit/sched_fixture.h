/*
 * sched_fixture: a scheduler under test and the few words that its tests are written in.
 *
 * The default limits are small enough to think in: 4 slots, 16 blocks of 4 tokens. Each word
 * checks all books after its call.
 */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sched/books.h"

static const struct sched_limits fixture_limits = {.requests_max = 16,
                                                   .waiting_max = 8,
                                                   .slots_max = 4,
                                                   .blocks_count = 16,
                                                   .block_tokens = 4,
                                                   .context_tokens = 64,
                                                   .step_tokens_max = 16,
                                                   .step_rows_max = 8,
                                                   .chunk_tokens_max = 16,
                                                   .open_tokens_max = 128};

struct fixture {
    struct sched *sched;
    const struct sched_plan *plan; /* of the last `step` */
    uint64_t now_ns;
    uint64_t next_request;
    struct error error;
};

static inline void fixture_open_with(struct fixture *f, const struct sched_limits *limits,
                                     const struct sched_policy *policy)
{
    *f = (struct fixture){.now_ns = 1000, .next_request = 100};
    assert_int_equal(sched_open(limits, policy, &f->sched, &f->error), STATUS_OK);
    sched_check(f->sched);
}

static inline void fixture_open(struct fixture *f, const struct sched_limits *limits)
{
    fixture_open_with(f, limits, &policy_fcfs);
}

static inline void fixture_close(struct fixture *f)
{
    sched_check(f->sched);
    sched_close(f->sched);
}

static inline struct sched_submission fixture_submission(struct fixture *f, uint32_t prompt_tokens,
                                                         uint32_t output_tokens_max)
{
    return (struct sched_submission){.request_id = f->next_request++,
                                     .deadline_ns = UINT64_MAX,
                                     .prompt_tokens = prompt_tokens,
                                     .output_tokens_max = output_tokens_max};
}

static inline sched_id submit(struct fixture *f, uint32_t prompt_tokens, uint32_t output_tokens_max)
{
    struct sched_submission s = fixture_submission(f, prompt_tokens, output_tokens_max);
    sched_id id = UINT32_MAX;
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, &f->error), STATUS_OK);
    sched_check(f->sched);
    return id;
}

static inline sched_id submit_until(struct fixture *f, uint64_t deadline_ns)
{
    struct sched_submission s = fixture_submission(f, 3, 3);
    s.deadline_ns = deadline_ns;
    sched_id id = UINT32_MAX;
    assert_int_equal(sched_submit(f->sched, &s, f->now_ns, &id, &f->error), STATUS_OK);
    sched_check(f->sched);
    return id;
}

/* Plans a step; returns its number, 0 when there was none. */
static inline uint64_t step(struct fixture *f)
{
    f->plan = sched_plan(f->sched, f->now_ns);
    sched_check(f->sched);
    return f->plan->step;
}

static inline const struct sched_row *row_of(const struct fixture *f, sched_id id)
{
    for (uint32_t i = 0; i < f->plan->n_rows; i++)
        if (f->plan->rows[i].id == id)
            return &f->plan->rows[i];
    return NULL;
}

static inline const struct sched_open_row *open_of(const struct fixture *f, sched_id id)
{
    for (uint32_t i = 0; i < f->plan->n_opens; i++)
        if (f->plan->opens[i].id == id)
            return &f->plan->opens[i];
    return NULL;
}

static inline bool sampled(struct fixture *f, uint64_t step_number, sched_id id, bool finished)
{
    bool counts = sched_sampled(f->sched, step_number, id, finished);
    sched_check(f->sched);
    return counts;
}

static inline void retired(struct fixture *f, uint64_t step_number)
{
    sched_retired(f->sched, step_number, f->now_ns);
    sched_check(f->sched);
}

/* One whole step alone: planned, every sampling row gave a token, retired. Returns its number. */
static inline uint64_t step_whole(struct fixture *f)
{
    uint64_t number = step(f);
    if (number == 0)
        return 0;
    for (uint32_t i = 0; i < f->plan->n_rows; i++)
        if (f->plan->rows[i].samples)
            sampled(f, number, f->plan->rows[i].id, false);
    retired(f, number);
    return number;
}

/* Whom the policy would admit next. */
static inline struct seq *line_head(struct fixture *f)
{
    uint32_t tokens_max;
    f->sched->policy->begin(f->sched->policy_state);
    return f->sched->policy->next(f->sched->policy_state, &tokens_max);
}

static inline void cancel(struct fixture *f, sched_id id)
{
    sched_cancel(f->sched, id);
    sched_check(f->sched);
}

static inline void set_paused(struct fixture *f, sched_id id, bool paused)
{
    sched_pause(f->sched, id, paused);
    sched_check(f->sched);
}

static inline void replay(struct fixture *f)
{
    sched_replay(f->sched);
    sched_check(f->sched);
}

static inline struct sched_stats stats(const struct fixture *f)
{
    struct sched_stats s;
    sched_stats(f->sched, &s);
    return s;
}

static inline enum seq_state state_of(const struct fixture *f, sched_id id)
{
    return f->sched->seqs[id].state;
}

/* The next end must be that of `id`. */
static inline struct sched_ended ended(struct fixture *f, sched_id id)
{
    struct sched_ended e = {.id = UINT32_MAX};
    assert_true(sched_next_ended(f->sched, &e));
    assert_int_equal(e.id, id);
    sched_check(f->sched);
    return e;
}

static inline void nobody_ended(struct fixture *f)
{
    struct sched_ended e;
    assert_false(sched_next_ended(f->sched, &e));
}

/* Nothing is held and nothing is owed. */
static inline void all_quiet(struct fixture *f)
{
    struct sched_stats s = stats(f);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.running, 0);
    assert_int_equal(s.steps_in_flight, 0);
    assert_int_equal(s.blocks_free, s.blocks_count);
    assert_int_equal(step(f), 0);
    assert_int_equal(f->sched->n_free_slots, f->sched->limits.slots_max);
    nobody_ended(f);
    assert_int_equal(f->sched->n_free_ids, f->sched->limits.requests_max);
}

/* Runs `body` in a child and demands that it aborts. */
static inline void must_abort(void (*body)(void *), void *argument)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0});
        signal(SIGABRT, SIG_DFL); /* cmocka catches it otherwise */
        freopen("/dev/null", "w", stderr);
        body(argument);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
