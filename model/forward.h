/*
 * forward: the layer loop, from a batch of token rows to sampled tokens.
 *
 * A `struct batch` is what one step computes, flat: one entry per token row, whatever sequences and
 * chunks they come from, and one per row that is sampled. `forward_run` enqueues the arithmetic of
 * the network over it and returns; results are read by the owner after `sync`. All buffers are made
 * by forward_open for the largest step. One thread.
 */
#pragma once

#include "model/weights.h"

struct batch {
    uint32_t n_rows;
    uint32_t *ids;       /* host [tokens_max]; TOKEN_FROM_SLOT: what the slot sampled last */
    uint32_t *positions; /* host [tokens_max] */
    uint32_t *slots;     /* host [tokens_max] */

    uint32_t n_sampled;
    uint32_t *sampled_rows;       /* host [rows_max]: which of the rows */
    uint32_t *sampled_positions;  /* host [rows_max]: of the token being chosen */
    uint32_t *sampled_slots;      /* host [rows_max]: whose sequence */
    uint32_t *sampled_places;     /* host [rows_max]: where in last_sampled the id goes */
    uint32_t *prompt_tokens;      /* host [rows_max]: of the sampled row's sequence */
    struct sample_params *params; /* host [rows_max] */

    /* Every row is the only one of its sequence: the step decodes. */
    bool decodes;
};

enum status batch_open(const struct step_limits *limits, struct batch *ret_batch,
                       struct error *error);
void batch_close(struct batch *batch);

struct forward {
    const struct ops *ops;
    struct device *device;
    const struct arch *arch;       /* borrowed */
    const struct weights *weights; /* borrowed */
    struct kv *kv;                 /* borrowed */

    /* Device buffers. T = tokens_max, R = rows_max. */
    float *inv_freq;               /* [head_dim / 2] */
    uint32_t *ids;                 /* [T] */
    float *x;                      /* [T][hidden] the residual stream */
    float *qkv;                    /* [T][(n_heads + 2 n_kv_heads) * head_dim] */
    float *attended;               /* [T][n_heads * head_dim] */
    float *sampled;                /* [R][hidden] */
    float *logits;                 /* [R][vocab] */
    struct logits_note *notes;     /* [R] of the logits, from product to sample */
    struct sample_result *results; /* [R] */
    uint32_t *last_sampled;        /* [slots_max + R]: by slot; then for rows of no consequence */
    struct sample_entry *entries;  /* [slots_max][SAMPLE_ENTRIES_MAX] biases and held ids */
    uint32_t *history;             /* [slots_max][context_tokens] what penalties look at */
    uint32_t context_tokens;
};

/* The borrowed fields and ops, device are set by the caller. EXHAUSTED names the size. */
enum status forward_open(struct forward *forward, const struct step_limits *limits,
                         struct error *error);
void forward_close(struct forward *forward);

/* Bytes of the buffers, and of what a backend keeps inside of ops. */
uint64_t forward_bytes(const struct arch *arch, const struct step_limits *limits);

/* What a sequence that begins in `slot` samples by: entries [n_entries], and every id so far. */
void forward_slot_open(const struct forward *forward, uint32_t slot,
                       const struct sample_entry *entries, uint32_t n_entries,
                       const uint32_t *tokens, uint32_t n_tokens);

/* Calls the same ops with the same addresses for the same numbers of rows: those of the batch lie
 * still from batch_open on, so that a step can be captured. */
void forward_run(const struct forward *forward, const struct batch *batch);
