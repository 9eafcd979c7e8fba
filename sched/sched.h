/*
 * sched: who runs next, on one model.
 *
 * A pure library: no I/O, no thread, no clock but the `now_ns` passed in, no malloc after
 * sched_open. One owner: the engine thread. It decides; the engine acts (hands the plan to the
 * worker) and reports what came back.
 *
 *     sched_submit    a request with its prompt's length and digests -> waiting; or several choices
 *                     of one prompt, which are sequences that share it
 *     sched_plan      the next step: who ends, who begins, which tokens of whom
 *     sched_sampled   what the worker chose: one token, and whether the sequence ends with it
 *     sched_retired   a step that was planned has come back (all its sampled calls were made)
 *     sched_cancel    the client left, the deadline passed, a stop string was met
 *     sched_replay    the worker is gone: everything that ran waits again, with all its tokens
 *
 * Sequence states. Each request has one `struct seq`, named by `sched_id`:
 *
 *     WAITING --plan: slot and blocks found--> RUNNING --sampled(finished)|cancel--> ENDING
 *        ^                                       |                                     |
 *        +------- plan: preempted, no blocks ----+          last step retires: blocks free, id free
 *
 * Steps overlap: step n+1 is planned while n runs. So a sequence that has a sampling row in flight
 * may be planned once more with `from_last` (its input is the token that is being sampled now).
 * At most SCHED_STEPS_MAX steps are planned and not retired.
 *
 * Slots and blocks. Every slot that was opened is closed once, in the next step that is planned
 * after its sequence ended or was preempted; a step of closes alone is a step. A step names a
 * sequence when it opens it or has a row of it. Its blocks are given back when the last step that
 * names it has retired, at once when there is none, and never before. Its slot is opened again
 * when that is so and its close is planned, at the earliest by the same step (closes take effect
 * first, and before any block of that step is used).
 *
 * Semantics built here (first come, first served, as vLLM V1): under one token budget a step serves
 * running sequences in order of admission: first one token of each that decodes, so that no chunk
 * can keep a decode waiting, then a chunk of each whose known tokens are not computed yet. Then it
 * admits from the head of the waiting line until a budget or the first allocation fails. A sequence
 * is admitted only with the blocks of all its known tokens and of the next one, so only decoding
 * takes blocks later (for a model with a sliding window see below). When a decoding sequence needs
 * a block and none is free or on its way back, the last admitted one is preempted: its blocks go,
 * its known tokens are computed again later, and it waits at the head of the line. Tokens of it
 * that are being sampled in steps in flight are kept (each is reported once, sched_sampled is true
 * for it). While a block on its way back is still held by a step in flight, the sequence that needs
 * it sits out. A step that preempted, or left somebody without a block, admits nobody. A request
 * whose blocks could never fit the pool is refused at submit; so the first of the running can
 * always go on, and everybody ends.
 *
 * Sliding window. With window_tokens a running sequence holds only blocks that a later position may
 * read (window.h): the others go back when the last step that reads them has retired, and listed
 * ones are cached then. A long sequence is admitted with as many blocks as it ever holds at once,
 * sched_sequence_blocks_max at most, and takes one for each that it gives back while it will need
 * it: so a chunk of a prompt waits for no one else's blocks, and neither does a decoding sequence
 * once it holds a window. (What it gives back may still be read by another one; when nothing is
 * free for it then, it takes a block as a decoding one does.) Tables keep their index by position;
 * an open says where its table begins. A preempted sequence is computed again from position 0, or
 * from what the prefix cache has: each layer sees through the window into what the layer below saw,
 * so later blocks cannot be made without the earlier ones.
 *
 * A paused sequence gets no rows and keeps its slot and blocks, but it pays first when somebody
 * needs them: it is preempted before all others for a running one; for the head of the waiting
 * line once it has been paused for SCHED_PAUSE_NS, or at once if nothing else runs. When its turn
 * to be admitted comes and it is still paused, it steps aside until it is resumed, and is then
 * first.
 *
 * Memory: everything is sized from `struct sched_limits`; sched_footprint says how much.
 */
#pragma once

#include "base/status.h"

#define SCHED_STEPS_MAX 2
#define SCHED_PAUSE_NS 1000000000ull /* a paused sequence is safe from waiting ones this long */

#define SCHED_NONE UINT32_MAX
#define SCHED_CHOICES_MAX 16 /* sequences of one submission */

struct sched;

/* How policy_fair weighs and bounds (docs/scheduler.md). Zeros are the defaults; SCHED_NONE is zero
 * where that makes sense. Costs are in units of a prompt token's. */
struct sched_fairness {
    uint32_t prompt_cost, output_cost; /* of a token; output_cost >= prompt_cost */
    uint32_t quantum_tokens;           /* prompt tokens of one grant */
    uint32_t lead_cost;    /* how far others may pass one who waits for blocks, and be admitted */
    uint32_t credit_cost;  /* how far behind the others one may be who comes back from idle */
    uint32_t reclaim_cost; /* how far ahead one must be to be preempted for fairness, at least .. */
    uint32_t reclaim_price;      /* .. and for each token that is then computed again */
    uint32_t recompute_permille; /* of the tokens processed may be computed again for fairness */
    uint32_t headroom_permille; /* of the pool stays free of those who have more than their share */
};

struct sched_limits {
    uint32_t requests_max;          /* waiting and running together */
    uint32_t waiting_max;           /* waiting, for sched_submit; preempted ones do not count */
    uint32_t slots_max;             /* running: sequences open in the worker */
    uint32_t blocks_count;          /* KV blocks in the pool */
    uint32_t block_tokens;          /* positions a block */
    uint32_t context_tokens;        /* longest prompt + output */
    uint32_t step_tokens_max;       /* token budget of a step; >= slots_max */
    uint32_t step_rows_max;         /* rows of a step; >= slots_max */
    uint32_t chunk_tokens_max;      /* prefill tokens of one sequence in one step */
    uint32_t open_tokens_max;       /* known tokens of all sequences that open in one step;
                                       >= context_tokens */
    uint32_t tenants_max;           /* rows of a tenants' table; 0 reads as 1 */
    uint32_t window_tokens;         /* a position reads itself and those before it, so many in
                                       all; 0: all of them */
    struct sched_fairness fairness; /* zeros: the defaults */
};

/* Inside of a tenant, interactive goes before batch. */
enum sched_class {
    CLASS_INTERACTIVE = 0,
    CLASS_BATCH,
    CLASS_DEFAULT /* what the tenant's row says */
};

/* SHA-256 chain value of a full block of the prompt. */
struct sched_digest {
    uint8_t bytes[32];
};

struct sched_submission {
    uint64_t request_id; /* the caller's, unique among live ones */
    uint32_t tenant;     /* row of the tenants' table; 0 = the local one */
    enum sched_class class;
    uint64_t deadline_ns;       /* of the clock that `now_ns` comes from; UINT64_MAX = none */
    uint64_t cache_domain;      /* whose cached blocks may be shared; 0 = nobody's. One with both of
                                   the highest bits set is refused: group.h */
    bool cache_readonly;        /* uses blocks of the domain, adds none: a public domain */
    uint32_t prompt_tokens;     /* >= 1 */
    uint32_t output_tokens_max; /* >= 1; prompt + output <= context_tokens */
    uint32_t choices;           /* sequences of this prompt; 0 reads as 1, <= SCHED_CHOICES_MAX */
    uint32_t n_digests;         /* full blocks of the prompt; 0 = not known */
    /* [n_digests], not copied: valid until the sequence, and the last of its choices, is over,
     * which is when its owner cancels it, is told that it expired, or reports its last token. */
    const struct sched_digest *digests;
};

typedef uint32_t sched_id; /* index of a live sequence, 0..requests_max-1 */

struct sched_policy; /* policy.h */
struct tenant_table; /* tenants.h */

/* The most blocks that one sequence holds at once, in a pool that is large enough. Reads the
 * context, block, window, step and chunk tokens only. */
uint32_t sched_sequence_blocks_max(const struct sched_limits *limits);

/* Bytes of the one allocation that sched_open makes; 0 when the limits are inconsistent. */
size_t sched_footprint(const struct sched_limits *limits, const struct sched_policy *policy);
/* INVALID names the limit that is inconsistent; EXHAUSTED when the memory is not there. */
enum status sched_open(const struct sched_limits *limits, const struct sched_policy *policy,
                       struct sched **ret_sched, struct error *error);
void sched_close(struct sched *sched);

/* Replaces the tenants' table, from the local one of the start on. INVALID names the row and the
 * reason, and the table that was there stays. Not in a step: it costs a walk over all rows. */
enum status sched_set_tenants(struct sched *sched, const struct tenant_table *table,
                              struct error *error);

/* Tokens of a step from now on, at most step_tokens_max and at least slots_max: for an owner who
 * watches how long steps take. */
void sched_set_step_tokens(struct sched *sched, uint32_t n_tokens);

/* OK: each of ret_ids [choices] is live until sched_next_ended reports it; choices share what they
 * compute of the prompt (group.h) and are nothing else to each other. EXHAUSTED (queue full;
 * retry_ns is set from recent turnover), INVALID (can never fit; says what there is and what it
 * needs; `field` is "prompt", "max_tokens" or "n"; or no such tenant), DENIED (the tenant is
 * closed), DEADLINE (already over): then none of them is. */
enum status sched_submit(struct sched *sched, const struct sched_submission *submission,
                         uint64_t now_ns, sched_id *ret_ids, struct error *error);

/* Ends a sequence without another token. Idempotent; may be called in any live state. */
void sched_cancel(struct sched *sched, sched_id id);

/* A paused sequence keeps its blocks but gets no rows: its reader is slow. */
void sched_pause(struct sched *sched, sched_id id, bool paused);

struct sched_open_row {
    sched_id id;
    uint32_t slot;
    uint32_t known_tokens;  /* prompt + sampled so far: what the open must carry */
    uint32_t cached_tokens; /* of them, computed already in its first blocks; < known_tokens */
    uint32_t found_tokens;  /* prompt tokens that the cache has saved it so far */
    uint32_t behind_blocks; /* entries of its table that are behind the window: not there */
    uint32_t n_blocks;      /* the next entries, in plan.blocks from blocks_first */
    uint32_t blocks_first;
};

struct sched_row {
    sched_id id;
    uint32_t slot;
    uint32_t first_position;
    uint32_t n_tokens;
    bool from_last; /* the input is the token that an earlier step in flight samples */
    bool samples;
    uint32_t n_blocks; /* appended to the table, in plan.blocks from blocks_first */
    uint32_t blocks_first;
};

struct sched_ended {
    sched_id id;
    uint64_t request_id;
    uint32_t prompt_computed_tokens; /* prompt tokens computed, recomputation not counted */
    uint32_t recomputed_tokens;
    uint32_t cached_tokens; /* prompt tokens served by the prefix cache */
    uint32_t preempted_count;
};

/* Owned by the scheduler, valid until the next sched_plan. Order of effects: closes, opens, copies
 * (all of them at once: no block is both copied from and to), rows. */
struct sched_plan {
    uint64_t step; /* 1, 2, 3 ...; 0: nothing to hand to the worker */
    uint32_t n_closes, n_opens, n_rows, n_blocks, n_copies;
    const uint32_t *closes;             /* [n_closes] slots */
    const struct sched_open_row *opens; /* [n_opens] */
    const struct sched_row *rows;       /* [n_rows] */
    const uint32_t *blocks;             /* [n_blocks] */
    const uint32_t (*copies)[2];        /* [n_copies] from, to */
};

/* Makes the next step, if there is anything to do and fewer than SCHED_STEPS_MAX are in flight;
 * otherwise step is 0. */
const struct sched_plan *sched_plan(struct sched *sched, uint64_t now_ns);

/* A row with `samples` of step `step` gave one token. `finished`: it was the last one of this
 * sequence (stop id or limit). True: the token counts; it is known from now on, and an open that is
 * planned later carries it. False: drop it, the sequence was cancelled or finished by an earlier
 * token (counted in dropped_total), or no such row is in flight (counted in unexpected_total). The
 * scheduler itself ends a sequence that reaches output_tokens_max. */
bool sched_sampled(struct sched *sched, uint64_t step, sched_id id, bool finished);

/* The step came back whole. Steps retire in order, and each sampling row of a live sequence was
 * reported before: anything else aborts. (When a step failed, cancel its sequences first, or
 * replay.) */
void sched_retired(struct sched *sched, uint64_t step, uint64_t now_ns);

/* A block of a sequence became full by decoding; its digest, for the prefix cache. To be called in
 * order of the blocks, once all tokens of the block are known; others read it when the steps that
 * compute it have retired. Ignored when the sequence does not run, holds no such block, or one
 * before it is not listed. */
void sched_block_filled(struct sched *sched, sched_id id, uint32_t block_index,
                        const struct sched_digest *digest);

/* The next sequence whose end is complete (blocks free, nothing in flight): its id dies with this
 * call. False when there is none. */
bool sched_next_ended(struct sched *sched, struct sched_ended *ret_ended);

/* Ids whose deadline has passed are ended as by sched_cancel and reported one a call. */
bool sched_next_expired(struct sched *sched, uint64_t now_ns, sched_id *ret_id);

/* The earliest deadline of a sequence that has not ended; UINT64_MAX when there is none. */
uint64_t sched_next_deadline_ns(const struct sched *sched);

/* The worker was lost: steps in flight never retire, slots and blocks are all free again and no
 * close is owed, running sequences wait at the head of the line in their order with every token
 * they have; the step number starts again at 1. */
void sched_replay(struct sched *sched);

struct sched_stats {
    uint32_t waiting, running, steps_in_flight;
    uint32_t blocks_free, blocks_used, blocks_cached; /* together blocks_count */
    uint32_t blocks_count;
    uint64_t cached_tokens_total; /* prompt tokens that others had computed, choices of the same
                                     prompt among them */
    uint64_t prompt_tokens_total; /* prompt tokens that were computed, once each */
    uint64_t evicted_blocks_total;
    uint64_t preempted_total, admitted_total, ended_total, recomputed_tokens_total;
    uint64_t dropped_total;    /* tokens of sequences that were over already */
    uint64_t unexpected_total; /* tokens that no row in flight could have given */
    uint64_t clock_back_total; /* calls whose now_ns was before the latest, which counted instead */
};
void sched_stats(const struct sched *sched, struct sched_stats *ret_stats);

/* One row and all below it. */
struct sched_tenant_stats {
    uint32_t waiting, running;
    uint32_t blocks, blocks_reserved, blocks_limit; /* UINT32_MAX: no limit */
    uint64_t prefill_tokens_total, output_tokens_total, cached_tokens_total;
    uint64_t recomputed_tokens_total, admitted_total, preempted_total;
};
/* False when there is no such row. */
bool sched_tenant_stats(const struct sched *sched, uint32_t tenant,
                        struct sched_tenant_stats *ret_stats);

/* Aborts with a report when the books do not balance (tests and the debug plane call it). */
void sched_check(const struct sched *sched);
