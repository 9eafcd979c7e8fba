/*
 * fake_worker: a worker that trusts nothing, and a model whose every token depends on all of its
 * KV memory.
 *
 * The fake model: the cell of position p is a hash of the cell before it and of token p; a sampled
 * token is a hash over all cells 0..p, read through the block table. So one cell that another
 * sequence overwrote, one block given away too early, one position skipped or computed from the
 * wrong token gives another token than the oracle, which knows the prompt and no blocks. With a
 * window, a cell comes from the one before it and the oldest one in its window, a token from all
 * cells of the window: each still depends on everything before it, as through the layers of a real
 * model.
 *
 * The worker keeps two views. The *front's* is as of the last step handed over; against it each new
 * step is checked (budgets, slots and blocks not named by a step in flight, positions without gap,
 * where the input of a row comes from, that no row writes a block which another table names, that
 * no table names a block which another domain wrote, that blocks are there for all that a window
 * reads; behind it they may be anybody's). The *device's* is as of the last step run; it
 * alone holds tokens and cells, and an open that claims computed positions must find their very
 * cells there. Steps run in order, one a call.
 *
 * A breach calls sim_fail (sched_sim.c), which names the seed and aborts.
 */
#pragma once

#include "sched/sched.h"

#define FAKE_SLOTS_MAX 16
#define FAKE_BLOCKS_MAX 64
#define FAKE_BLOCK_TOKENS_MAX 8
#define FAKE_CONTEXT_MAX 96
#define FAKE_OPEN_TOKENS_MAX (2 * FAKE_CONTEXT_MAX)

_Noreturn void sim_fail(const char *file, int line, const char *condition);
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_fail(__FILE__, __LINE__, #condition);                                              \
    } while (0)

/* The running hash of a prefix: what the oracle keeps per request. */
struct fake_prefix {
    uint64_t cell; /* of the last position */
    uint64_t fold; /* over all cells */
    uint32_t n_tokens;
    uint32_t window_tokens;           /* 0: none */
    uint64_t cells[FAKE_CONTEXT_MAX]; /* [n_tokens] */
};

void fake_prefix_add(struct fake_prefix *prefix, uint32_t token);
/* Choices of one prompt have different draws. */
uint32_t fake_prefix_sample(const struct fake_prefix *prefix, uint32_t draw);

/* The name of the block that ends with this prefix, in a domain. */
struct sched_digest fake_prefix_digest(const struct fake_prefix *prefix, uint64_t domain);

/* All known tokens of a sequence, when it is opened. */
struct fake_known {
    uint32_t n_tokens;
    const uint32_t *tokens; /* [n_tokens] */
    uint32_t n_pending;     /* sampled in flight, not reported */
    uint64_t domain;        /* whose cache it may read; 0: nobody's */
    uint32_t draw;
};
typedef struct fake_known (*fake_known_of)(void *context, sched_id id);

struct fake_token {
    sched_id id;
    uint32_t token;
};

struct fake_worker;

struct fake_worker *fake_worker_new(const struct sched_limits *limits, uint64_t seed);
void fake_worker_free(struct fake_worker *worker);

/* A new worker: no slot is open, its memory is noise, nothing is in flight. */
void fake_worker_restart(struct fake_worker *worker);

/* Checks the plan and takes a copy of it. */
void fake_worker_hand_over(struct fake_worker *worker, const struct sched_plan *plan,
                           fake_known_of known_of, void *context);

uint32_t fake_worker_steps(const struct fake_worker *worker);

/* Runs the oldest step; returns its tokens [FAKE_SLOTS_MAX], one a sampling row, and its number. */
uint32_t fake_worker_run(struct fake_worker *worker, struct fake_token *ret_tokens,
                         uint64_t *ret_step);

/* The step that ran last has been retired: its blocks and slots may be used again. */
void fake_worker_retired(struct fake_worker *worker);

/* What the front has in a slot that is open for `id`; false when none is. */
struct fake_slot {
    uint32_t room_tokens; /* positions that its blocks hold */
    uint64_t row_in;      /* the last step with a row of it */
};
bool fake_worker_slot(const struct fake_worker *worker, sched_id id, struct fake_slot *ret_slot);

/* Slots that the front has opened and not closed. */
uint32_t fake_worker_open_slots(const struct fake_worker *worker);
