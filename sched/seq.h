/*
 * seq: one request as the scheduler sees it, and the states that it walks through.
 *
 *     from        to       on                                     by
 *     FREE        WAITING  a request comes                        sched_submit
 *     WAITING     RUNNING  slot and blocks are there              sched_plan
 *     RUNNING     WAITING  preempted; the worker is lost          sched_plan; sched_replay
 *     WAITING or  ENDING   cancelled; late; its last token came   sched_cancel; sched_next_expired;
 *      RUNNING                                                    sched_sampled
 *     ENDING      ENDED    no step in flight names it             any of those, or sched_retired
 *     ENDED       FREE     its owner was told                     sched_next_ended
 *
 * WAITING: in the policy's line, or set aside because its turn came while it was paused. One that
 * was preempted may still hold its slot and blocks, until the steps that name it have retired; it
 * is not admitted before that. Or *held*: another choice computes the prompt for it (group.h).
 * Tokens sampled there still count, and the last one ends it from here. RUNNING: has a slot, open
 * in the worker, and a block table; it is in `running`. ENDING: gets no rows and no tokens; holds
 * slot and blocks while steps name it. ENDED: holds nothing but its id, until the owner has heard
 * of the end.
 *
 * The moves are functions of books.h, one each; nobody else writes `state`, save for the last one,
 * which only frees the id.
 *
 * Tokens and positions. Token p sits at position p: the prompt first, then what was sampled. The
 * first `prompt_tokens + sampled_tokens` are known. Positions below `planned_tokens` are computed,
 * or will be by a step in flight. A row that reaches the last known token samples the next one.
 * While n samples are pending, planned = known - 1 + n: a decoding sequence runs at most n tokens
 * ahead of what is known, and a sequence in prefill has none pending. Positions that the prefix
 * cache holds count as planned when the sequence is opened; the last known one is never among them,
 * since it takes a computed position to sample from.
 *
 * Owner: the scheduler. A policy reads all of it and writes none.
 */
#pragma once

#include "sched/sched.h"

#define SEQ_NO_SLOT UINT32_MAX

enum seq_state { SEQ_FREE = 0, SEQ_WAITING, SEQ_RUNNING, SEQ_ENDING, SEQ_ENDED };

struct seq {
    /* What was submitted. */
    uint64_t request_id;
    uint64_t deadline_ns;
    uint64_t cache_domain;
    const struct sched_digest *digests; /* [n_digests] its owner's, while it is not over */
    uint32_t n_digests;
    uint32_t tenant;
    enum sched_class class; /* never CLASS_DEFAULT */
    bool cache_readonly;
    uint32_t prompt_tokens;
    uint32_t output_tokens_max;
    uint64_t number; /* of submissions, this is the n-th */

    /* Its group, while it is not over (group.h). */
    uint32_t group;       /* GROUP_NONE: it has none */
    sched_id next_member; /* SCHED_NONE: the last */
    bool lists_in_group;  /* full blocks of the prompt, not in the cache domain */
    bool held;            /* waits for what another member computes; not in line */

    /* Where it is. */
    sched_id id;
    enum seq_state state;
    uint32_t slot;            /* its block table too; SEQ_NO_SLOT when it holds nothing */
    bool in_line;             /* the policy has it */
    bool admitted;            /* ran before: its place is not one of waiting_max */
    bool paused;              /* its reader is slow */
    uint64_t paused_since_ns; /* when `paused` */

    /* How far it is. */
    uint32_t sampled_tokens;      /* that count */
    uint32_t planned_tokens;      /* since it was opened last; begins with what was cached */
    uint32_t planned_high_tokens; /* the most that planned_tokens ever was */
    uint32_t recomputed_tokens;   /* planned below the high mark */
    uint32_t cached_tokens;       /* found in the cache above the high mark */
    uint32_t preempted_count;
    bool prefilling; /* runs, is not paused, has more than one known token to plan */

    /* Its blocks in the prefix cache, since it was opened last; the first ones of its table. */
    uint32_t shared_blocks;   /* the end of those that were listed when it was opened */
    uint32_t matched_blocks;  /* at the last look-up: the first of its prompt that are listed; with
                                 a window, those before count that it does not reach */
    uint32_t matched_tokens;  /* the positions in those, and in the group's tail after them */
    uint32_t told_blocks;     /* the end of those that the worker has heard of */
    uint32_t computed_tokens; /* by steps that have retired */
    uint32_t named_blocks;    /* whose digest is known: of the prompt, then told by its owner */
    uint32_t listed_blocks;   /* that are computed, and listed unless somebody else's is */

    /* What is in flight. */
    uint32_t rows_in_flight;                 /* rows of steps that have not retired */
    uint32_t n_pending;                      /* sampling rows whose token was not reported */
    uint64_t pending_steps[SCHED_STEPS_MAX]; /* [n_pending] their steps, oldest first */
    uint64_t row_step;                       /* the last step that was given a row of it */
    uint32_t row_at;                         /* the place of that row in its step */
};

static inline uint32_t seq_known_tokens(const struct seq *seq)
{
    return seq->prompt_tokens + seq->sampled_tokens;
}

/*
 * Tokens that a running sequence could be given in the next step: none while it is paused or when
 * the samples in flight are the last it may have; 1 while it decodes, where the input is a known
 * token or the one that is being sampled; else all known tokens that are not planned yet.
 */
static inline uint32_t seq_ready_tokens(const struct seq *seq)
{
    if (seq->paused || seq->sampled_tokens + seq->n_pending >= seq->output_tokens_max)
        return 0;
    uint32_t known = seq_known_tokens(seq);
    return seq->planned_tokens < known ? known - seq->planned_tokens : 1;
}
