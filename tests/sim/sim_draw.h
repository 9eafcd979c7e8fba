/*
 * sim_draw: what a random day is made of (sched_sim.c plays it), and the dice.
 *
 * A day is drawn from its seed: limits, requests whose prompts share beginnings within and across
 * cache domains, tables of tenants of which many are wrong. The same seed gives the same day. One
 * thread, one day at a time, in `sim`.
 */
#pragma once

#include "sched/tenants.h"
#include "tests/sim/fake_worker.h"

#define REQUESTS_MAX 48
#define ROWS_MAX 12
#define STEMS_COUNT 3 /* beginnings that prompts share */

enum cause { CAUSE_NONE = 0, CAUSE_TOKENS, CAUSE_CANCEL, CAUSE_DEADLINE };

struct request {
    sched_id id;
    bool submitted, live, opened, paused, was_paused;
    enum cause cause; /* why it is over */
    uint32_t prompt_tokens, output_tokens_max, stop_after_tokens;
    uint64_t deadline_ns, domain;
    uint32_t tenant;
    enum sched_class class;
    bool readonly;
    uint32_t n_tokens, n_pending;
    uint32_t tokens[FAKE_CONTEXT_MAX]; /* [n_tokens] */
    struct fake_prefix prefix;         /* of those: the oracle */
    struct sched_digest digests[FAKE_CONTEXT_MAX];
    uint32_t n_digests;
    uint32_t planned_tokens, high_tokens, recomputed_tokens, cached_tokens;
    uint32_t opens_count, replays_count;

    /* Choices of one prompt: [n_choices] requests from `first` on, submitted as one. */
    uint32_t first, n_choices, choice; /* n_choices 1: it is alone */
    bool prompting;                    /* opened, and computes more of the prompt than its end */
};

/* Of the first of several choices: what all of them have cost, once they are over. */
struct choices_cost {
    uint32_t n_opened, n_over, prompt_tokens;
    uint64_t evicted_before;
    bool undisturbed; /* all ended by themselves, none was paused or preempted, lost its worker, or
                         had no room for a copy */
};

struct sim {
    uint64_t seed, random;
    struct sched_limits limits;
    struct sched *sched;
    struct sched *twin; /* NULL: first come, first served */
    struct fake_worker *worker;
    struct tenant_row rows[ROWS_MAX]; /* [n_rows] of the table in force */
    uint32_t n_rows;
    uint32_t stems[STEMS_COUNT][FAKE_CONTEXT_MAX];
    uint64_t now_ns;
    uint32_t n_requests, n_submitted, n_live;
    struct request requests[REQUESTS_MAX];
    struct choices_cost costs[REQUESTS_MAX]; /* by `first` */
    uint32_t request_of[REQUESTS_MAX];       /* by id */
    uint32_t opened_last; /* highest number of one that opened and never paused */
    uint32_t unexpected_count, dropped_count;
    uint64_t steps_count, turns_count;
    bool calm; /* the chaos is over: everybody must end now */
    uint32_t cancel_odds, pause_odds, loss_odds, deadline_odds; /* one in n turns; 0: never */
    uint32_t table_odds, domains_count;
    bool odd_victims;
    bool same_names; /* digests without the domain: the scheduler must keep domains apart itself */
};

extern struct sim sim;

uint64_t chance_next(void);
/* From low to high, both included. */
uint32_t between(uint32_t low, uint32_t high);
/* The same, small more often than large. */
uint32_t skewed(uint32_t low, uint32_t high);
bool one_in(uint32_t n);

void limits_draw(void);
void requests_draw(void);

/* It fits the context, and the blocks that it ever holds at once fit the pool. */
bool request_fits(const struct request *request);

/* The name of the block that ends with this prefix of a request. */
struct sched_digest digest_of(const struct request *request, const struct fake_prefix *prefix);

/* Rows [ROWS_MAX] of a table, as many as there were or more; returns how many. */
uint32_t rows_draw(struct tenant_row *ret_rows);

/* Whether another row of the table in force is below it. */
bool row_has_children(uint32_t row);
