/*
 * drive: a model under test, and the records of a step written by hand.
 *
 * It stands where the engine stands: it owns the pool of KV blocks, hands them out in a scattered
 * order, fills a step record by record and runs it. A step that the model refuses fails the test.
 * One thread.
 */
#pragma once

#include "model/model.h"

#define DRIVE_SLOTS_MAX 64

struct drive_slot {
    uint32_t blocks[512];
    uint32_t n_blocks;        /* in the block table */
    uint32_t computed_tokens; /* positions given to rows so far */
    uint32_t ready_tokens;    /* of them, in steps that have run */
};

struct drive {
    struct model *model;
    struct step_limits limits;
    struct step *step;
    size_t step_bytes;
    struct step_result *result;
    uint64_t steps_count;
    uint32_t *free_blocks;
    uint32_t free_count;
    uint32_t *block_uses; /* [blocks_count] tables that hold it */
    struct drive_slot slots[DRIVE_SLOTS_MAX];
    uint64_t run_ns; /* sum over the steps */
};

struct drive_backend {
    const struct ops *ops;
    const char *tier; /* NULL: the best */
    uint32_t threads_count;
};

/* What model_open returns; `limits` as given to it. */
enum status drive_open(struct drive *drive, const char *path, const struct drive_backend *backend,
                       const struct step_limits *limits, struct error *error);
void drive_close(struct drive *drive);

/* Records of the step to come. */
void drive_slot_open(struct drive *drive, uint32_t slot, const uint32_t *tokens, uint32_t n_tokens,
                     const struct sample_params *sampling);
/* Directly after drive_slot_open: the last output_tokens of its tokens were generated, and these
 * are its sampling's biases and then its held ids. */
void drive_slot_sample_by(struct drive *drive, uint32_t output_tokens,
                          const struct sample_entry *entries);
/* The same: the first n_blocks come from the table of slot `from`, whose
 * tokens are the same so far; the blocks themselves or copies of them. */
void drive_slot_share(struct drive *drive, uint32_t slot, uint32_t from, uint32_t n_blocks,
                      bool copied);
void drive_slot_close(struct drive *drive, uint32_t slot);
/* The next n_tokens positions of a slot. */
void drive_row(struct drive *drive, uint32_t slot, uint32_t n_tokens, enum step_source source,
               bool samples);

/* Runs the records and starts the next step. The result, with a row per sampling row. */
const struct step_result *drive_run(struct drive *drive);

/* Logits of sampling row `row` of the last step: [vocab]. */
const float *drive_logits(struct drive *drive, uint32_t row);
