/*
 * step: the records that the front hands to a worker, and what comes back.
 *
 * They are flat, offset-based and bounded by limits fixed at boot, so that the same bytes serve an
 * inline model, a thread and another process in shared memory. No pointer, no length that the
 * reader trusts: `step_check` validates a whole step against the limits before it is run, and a
 * worker refuses the step (an error result) rather than touch memory outside of it.
 *
 * One message down is a `struct step`: in this order
 *     closes   sequence slots that end here (finished, cancelled or preempted)
 *     opens    sequence slots that begin here, with everything known of the sequence: sampling,
 *              seed, first blocks and all token ids so far. A prompt travels once, here.
 *     copies   KV blocks to copy before the rows run
 *     rows     what to compute: n_tokens positions of a slot from first_position on
 * and its arrays of token ids, block numbers and sampling entries. One message up is a `struct
 * step_result` with one entry per *sampling* row, in the order of the rows.
 *
 * Preemption is a close, and later an open with every token so far. Steps run in order. Step n+1
 * may be handed over while n runs: a row whose source is STEP_LAST_SAMPLED continues from the token
 * that the worker itself sampled last in this slot. A token sampled for a sequence that the
 * front has ended meanwhile is dropped by the front and never charged.
 *
 * A block table is indexed by position. Behind a sliding window its first entries are dead: nobody
 * reads them, so the front may give such a block to another sequence without a word, and an open
 * may leave them out.
 *
 * The worker keeps, per slot: the token history and where the output begins in it, the block table,
 * the sampling parameters with their entries (logit biases, then held ids). All of it can be
 * rebuilt from an open. It knows no tenant and no request.
 *
 * Layout of a step message (offsets are in the header, from the start of the message; every array
 * starts 8-byte aligned):
 *     step header | closes u32[n_closes] | opens[n_opens] | copies[n_copies] | rows[n_rows]
 *     | tokens u32[n_tokens] | blocks u32[n_blocks] | entries[n_entries]
 */
#pragma once

#include "base/status.h"
#include "kernels/ops.h"

#define STEP_VERSION 4

/* Fixed when the worker starts; both sides compute the same message sizes from it. */
struct step_limits {
    uint32_t slots_max;       /* sequences open at once; slots are 0..slots_max-1 */
    uint32_t rows_max;        /* row records in a step */
    uint32_t tokens_max;      /* sum of n_tokens over the rows of a step */
    uint32_t open_tokens_max; /* sum of token ids over the opens of a step; >= context_tokens */
    uint32_t context_tokens;  /* longest sequence, prompt and output */
    uint32_t block_tokens;    /* positions of a KV block */
    uint32_t blocks_count;    /* KV blocks in the pool */
    uint32_t kv_dtype;        /* enum dtype of K and V: F32, BF16, Q8_0, KV_E4M3 */
    uint32_t exact;           /* 1: no input of a product is quantised (weight_source.exact) */
    uint32_t quantise;        /* enum dtype: what wide weights become while they load, Q8_0 or Q4_0;
                                 0: they stay as they are */
    uint32_t quantise_head;   /* 1: the head too */
};

/* Every limit is in a sane range and a step message stays below 1 GiB. INVALID names the limit. The
 * functions below expect limits that passed. */
enum status step_limits_check(const struct step_limits *limits, struct error *error);

/* ceil(context_tokens / block_tokens) */
uint32_t step_slot_blocks_max(const struct step_limits *limits);

struct step_open {
    uint32_t slot;
    uint32_t n_tokens;      /* ids known now; >= 1 */
    uint32_t tokens_first;  /* index of the first in the step's token array */
    uint32_t n_blocks;      /* entries of its block table, the first ones behind behind_blocks */
    uint32_t blocks_first;  /* index of the first in the step's block array */
    uint32_t adapter;       /* 0: none; others are not built yet and refused */
    uint32_t cached_tokens; /* positions that its first blocks already hold, of the same tokens:
                               rows begin there. Less than n_tokens; the front vouches for them */
    uint32_t output_tokens; /* of its ids, how many at the end were generated: the rest is the
                               prompt, which is at least one. Penalties tell them apart */
    uint32_t entries_first; /* index in the step's entries of its sampling.n_biases biases, and
                               then its sampling.n_holds held ids */
    uint32_t behind_blocks; /* entries at the table's beginning that are not there: the window of
                               position cached_tokens does not reach them */
    struct sample_params sampling;
};

enum step_source {
    STEP_HISTORY = 0, /* tokens first_position .. first_position + n_tokens - 1 of the history */
    STEP_LAST_SAMPLED = 1, /* n_tokens is 1: the token sampled last in this slot */
};

#define STEP_ROW_SAMPLES 1u /* flag: sample the token that follows this row's last position */
#define STEP_MASK_NONE UINT32_MAX

struct step_row {
    uint32_t slot;
    uint32_t first_position;
    uint32_t n_tokens; /* >= 1 */
    uint32_t source;   /* enum step_source */
    uint32_t flags;
    uint32_t n_blocks;     /* appended to the slot's block table before the row runs */
    uint32_t blocks_first; /* index of the first in the step's block array */
    uint32_t mask_slot;  /* grammar mask, filled late; STEP_MASK_NONE: none (the only value yet) */
    uint64_t mask_ready; /* the number that the mask's ready counter must reach before sampling */
};

struct step_copy {
    uint32_t from_block, to_block;
};

struct step {
    uint32_t version;       /* STEP_VERSION */
    uint32_t size_bytes;    /* of the whole message */
    uint64_t number;        /* 1, 2, 3 ... within an epoch */
    uint64_t epoch;         /* of the worker that this step is meant for */
    uint64_t time_limit_ns; /* the front considers the worker hung after this long */
    uint32_t n_closes, n_opens, n_copies, n_rows, n_tokens, n_blocks, n_entries;
    uint32_t closes_offset, opens_offset, copies_offset, rows_offset, tokens_offset, blocks_offset,
        entries_offset;
};

/* Views into a checked step. */
static inline uint32_t *step_closes(const struct step *s)
{
    return (uint32_t *)((uintptr_t)s + s->closes_offset);
}
static inline struct step_open *step_opens(const struct step *s)
{
    return (struct step_open *)((uintptr_t)s + s->opens_offset);
}
static inline struct step_copy *step_copies(const struct step *s)
{
    return (struct step_copy *)((uintptr_t)s + s->copies_offset);
}
static inline struct step_row *step_rows(const struct step *s)
{
    return (struct step_row *)((uintptr_t)s + s->rows_offset);
}
static inline uint32_t *step_tokens(const struct step *s)
{
    return (uint32_t *)((uintptr_t)s + s->tokens_offset);
}
static inline uint32_t *step_blocks(const struct step *s)
{
    return (uint32_t *)((uintptr_t)s + s->blocks_offset);
}
static inline struct sample_entry *step_entries(const struct step *s)
{
    return (struct sample_entry *)((uintptr_t)s + s->entries_offset);
}

/* Largest bytes of a step and of a result message under these limits. */
size_t step_bytes_max(const struct step_limits *limits);
size_t step_result_bytes_max(const struct step_limits *limits);

/* Writes an empty step with all array offsets at their largest places into `memory`
 * (step_bytes_max bytes): the builder then fills arrays and counts. */
void step_begin(struct step *step, const struct step_limits *limits, uint64_t epoch,
                uint64_t number);

/* Everything that makes a step safe to run, save the state of slots (which the model checks):
 * version, sizes, offsets, alignment, counts within limits, slots, blocks and indices in range,
 * sampling values finite and in range. INVALID with the record at fault. Pure. */
enum status step_check(const struct step *step, size_t message_bytes,
                       const struct step_limits *limits, struct error *error);

/* Flag of a result's row: a number on the way to its token was not finite (NaN, or too large for
 * its type). The token means nothing, and nor does what follows it; other rows are as they would
 * be. */
#define STEP_RESULT_NOT_FINITE 1u

struct step_result_row {
    uint32_t slot;
    uint32_t n_tokens; /* 1 today; 0..k once tokens are speculated */
    uint32_t position; /* of the sampled token */
    uint32_t flags;
    struct sample_result sample;
};

struct step_result {
    uint32_t version;
    uint32_t status; /* enum status of the whole step; rows are valid only when 0 */
    uint64_t number; /* of the step */
    uint64_t epoch;
    uint64_t run_ns; /* time the device spent on it */
    uint32_t n_rows; /* sampling rows of the step */
    uint32_t reserved;
    char error_text[256];          /* when status is not 0 */
    struct step_result_row rows[]; /* [n_rows] */
};
