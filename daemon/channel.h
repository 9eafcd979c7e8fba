/*
 * channel: the shared memory between an engine and its worker.
 *
 * One memfd with a header and two rings of whole messages, and one eventfd each way:
 *     down  CHANNEL_SLOTS steps    written by the engine, read by the worker
 *     up    CHANNEL_SLOTS results  written by the worker, read by the engine
 * Slots are as large as the largest message under the step limits, so that a message is built and
 * read in place. The engine creates the channel and passes the three descriptors in its hello; the
 * memfd is sealed against shrinking, so that a mapped page cannot vanish.
 *
 * Each side is one thread. A channel serves one worker epoch: a new worker gets a new channel.
 */
#pragma once

#include "base/ring.h"
#include "base/wake.h"
#include "model/step.h"

#define CHANNEL_SLOTS 4

struct channel {
    int memory_fd; /* -1 when not open */
    void *memory;
    size_t memory_bytes;
    struct ring *down, *up;
    struct wake wake_down, wake_up;
};

#define CHANNEL_CLOSED                                                                             \
    (struct channel)                                                                               \
    {                                                                                              \
        .memory_fd = -1, .wake_down = {.fd = -1}, .wake_up = {.fd = -1 }                           \
    }

size_t channel_memory_bytes(const struct step_limits *limits);

/* Engine side: makes memory and eventfds. */
enum status channel_create(const struct step_limits *limits, struct channel *ret_channel,
                           struct error *error);

/* Worker side: maps `memory_fd` and takes the three descriptors over (also on failure). INVALID
 * when the memory is not what the limits say. */
enum status channel_attach(const struct step_limits *limits, const int fds[3],
                           struct channel *ret_channel, struct error *error);

/* Unmaps and closes; a closed channel is allowed. */
void channel_close(struct channel *channel);
