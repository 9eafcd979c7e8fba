/*
 * memory: how much there is, and who gets what: decided once at boot, printed as a table.
 *
 * Weights, activations and KV blocks live in the workers; the front decides their sizes, because it
 * knows all models. What does not fit is refused before anything is loaded. Pure but for
 * memory_free_bytes, which reads the kernel's files.
 */
#pragma once

#include "base/status.h"

/* Free bytes as a new process could use: MemAvailable, or less where a cgroup (v2) of ours, or one
 * above it, has a limit. `root` is put before "/proc" and "/sys" ("" outside of tests). 0 when the
 * kernel does not say. */
uint64_t memory_free_bytes(const char *root);

/* One model's part. */
struct memory_row {
    const char *name;
    uint64_t weights_bytes, scratch_bytes;
    uint64_t block_bytes;
    uint32_t block_tokens;
    uint32_t blocks_min;   /* one sequence: a whole context, or what a sliding window holds of it */
    uint32_t blocks_max;   /* more is of no use: every running sequence with so many */
    uint32_t blocks_fixed; /* the operator's kv_blocks_count; 0: share what there is */
    uint32_t blocks_count; /* out */
};

/* Shares `percent` of what weights and scratch leave among the rows. EXHAUSTED: what is needed,
 * what there is, which setting helps. INVALID: kv_blocks_count below one sequence. */
enum status memory_share(struct memory_row *rows, uint32_t n_rows, uint64_t free_bytes,
                         uint32_t percent, struct error *error);
