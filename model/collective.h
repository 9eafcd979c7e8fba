/*
 * collective: what ranks of one model say to each other.
 *
 * A model that is spread over several devices sums and exchanges activations through this table:
 * `single` for one rank (nothing to do), NCCL among GPUs, MPI among CPU sockets and hosts. Never a
 * home-made network. Calls enqueue on the device's stream, like ops, in the same order on every
 * rank; sums are made in rank order, so that the result is the same on each. This header is the
 * seam only: the expert-parallel work brings the first implementation.
 */
#pragma once

#include "base/status.h"

struct device;

struct collective {
    const char *name; /* "single", "nccl", "mpi" */
    uint32_t rank;    /* 0..ranks_count-1; rank 0 faces the front */
    uint32_t ranks_count;

    /* values[i] = sum over ranks, in rank order. Device address, [count]. */
    enum status (*all_reduce)(struct collective *self, struct device *device, float *values,
                              size_t count, struct error *error);
    /* Rank r receives from rank s what s put for r: count_bytes[r] each, device addresses. */
    enum status (*all_to_all)(struct collective *self, struct device *device, const void *send,
                              void *receive, const size_t *count_bytes, struct error *error);
    /* Host bytes of rank 0 to every rank: the step records. */
    enum status (*broadcast)(struct collective *self, void *host, size_t size_bytes,
                             struct error *error);
    void (*close)(struct collective *self);
};
