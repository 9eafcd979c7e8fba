/*
 * graphs: decode steps that a device replays.
 *
 * In a step that only decodes, every sequence has one row, and the host would hand over the same
 * few hundred launches each time: with few rows the device waits for the host. So the ops of such a
 * step are captured (kernels/ops.h says what a graph promises), kept by what decides them, the
 * number of rows and of those that are sampled, and run from then on with one call. Host arrays of
 * the batch lie where they lay.
 *
 * A number of rows is captured when it is seen for the second time. At most GRAPHS_MAX are kept;
 * the one that was not used for the longest goes first. More than GRAPH_ROWS_MAX rows keep a device
 * busy for longer than a host needs to hand them over: their ops are run, as are those of prefill.
 *
 * A device that cannot (or has no memory for one more graph) is not asked again: `note` says why,
 * once, and ops are run for good. In a backend without graphs nothing happens here.
 *
 * One thread, the model's. Memory: what the driver keeps for a list of kernels; `bytes` is what the
 * device had less after the captures.
 */
#pragma once

#include "kernels/ops.h"

#define GRAPHS_MAX 32
#define GRAPH_ROWS_MAX 64

struct graph {
    uint32_t n_rows, n_sampled;
    void *captured;
    uint64_t used;  /* at which run, for who goes first */
    uint64_t bytes; /* of the device, as far as it says */
};

struct graphs {
    const struct ops *ops;
    struct device *device;
    bool is_off;                   /* the backend has none, or it went wrong */
    bool seen[GRAPH_ROWS_MAX + 1]; /* [n_rows]: a step of so many rows ran without a graph */
    struct graph kept[GRAPHS_MAX];
    uint32_t n_kept;
    uint64_t runs, replays; /* steps that could be replayed, and were */
    uint64_t bytes;         /* of those that are kept */
    char note[256];         /* why is_off; taken by the owner, "" afterwards */
};

void graphs_open(const struct ops *ops, struct device *device, struct graphs *ret_graphs);
void graphs_close(struct graphs *graphs);

/* Runs a step of one row for each of n_rows sequences, of which n_sampled are sampled: `run` calls
 * its ops, with the same addresses for the same numbers. */
void graphs_run(struct graphs *graphs, uint32_t n_rows, uint32_t n_sampled,
                void (*run)(void *context), void *context);
