/*
 * slots: what a worker remembers of each open sequence.
 *
 * Per slot: every token known so far, how many positions have keys and values in the pages, how
 * long its block table is, and how it samples. A step is checked against this state before anything
 * is touched: `slots_check` plays the step's records on a copy of the state and says what is wrong;
 * only `slots_commit` makes the copy the state. So a refused step changes nothing.
 *
 * The rules that a step must keep, beside step_check's:
 *     a close names an open slot, an open names a closed one (closes come first)
 *     token ids, and those of biases and held ids, are below the vocabulary's size
 *     a row names an open slot and begins where the row before it ended, the first one where the
 *         open's cached tokens end: pages have no holes
 *     history rows read tokens that are known; a last-sampled row reads the token that the slot
 *         itself sampled last, and only that
 *     an open's table leaves out only entries that the window of its first row does not reach
 *     a row's positions lie inside of the slot's block table, which never outgrows its maximum
 *     a slot that samples a new token has no further row in the same step
 * A token sampled at a position that the history already has is reported and otherwise ignored.
 *
 * One thread. Memory: slots_max * context_tokens ids, touched as they are used.
 */
#pragma once

#include "model/step.h"

struct slot {
    bool is_open;
    bool samples_now;          /* this step samples a token that the history does not have yet */
    uint32_t known_tokens;     /* ids in the history */
    uint32_t prompt_tokens;    /* the first of them; the rest is output */
    uint32_t computed_tokens;  /* positions with keys and values */
    uint32_t n_blocks;         /* entries of the block table, those behind the window too */
    uint32_t sampled_position; /* of the last token that the slot itself sampled; 0: none */
    struct sample_params sampling;
};

struct slots {
    struct step_limits limits;
    uint32_t vocab;
    uint32_t window_tokens; /* of the model; 0: none */
    struct slot *now;       /* [slots_max] */
    struct slot *next;      /* [slots_max] the state after the step that slots_check saw */
    uint32_t *history;      /* [slots_max][context_tokens] */
    uint32_t *table_first;  /* [rows_max] per row of that step: where its blocks go in the table */
};

/* EXHAUSTED when memory is out. */
enum status slots_open(const struct step_limits *limits, uint32_t vocab, uint32_t window_tokens,
                       struct slots *ret_slots, struct error *error);
void slots_close(struct slots *slots);
uint64_t slots_bytes(const struct step_limits *limits);

/* Forgets every sequence. */
void slots_reset(struct slots *slots);

/* `step` has passed step_check with the same limits. INVALID with the record at fault. */
enum status slots_check(struct slots *slots, const struct step *step, struct error *error);

/* The step that slots_check just accepted becomes the state; histories of opens are copied. */
void slots_commit(struct slots *slots, const struct step *step);

/* Ids of a slot. [known_tokens] */
const uint32_t *slots_history(const struct slots *slots, uint32_t slot);

/* The id that was sampled for `position` of `slot`, in the step just committed. */
void slots_sampled(struct slots *slots, uint32_t slot, uint32_t position, uint32_t id);
