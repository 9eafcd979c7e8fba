/*
 * window: which blocks of a sequence a model with a sliding window can still read, and how many of
 * them a sequence holds.
 *
 * Position p reads the positions p - tokens + 1 .. p. So once all positions below n are computed,
 * and no step in flight computes one of them, entries of the block table that end at or before
 * n - tokens + 1 are *behind the window*: nobody reads them for this sequence any more, and they go
 * back to the pool. A table keeps its index by position all the same; entries behind the window are
 * dead.
 *
 * How many a sequence holds follows from the worst place of the window among the blocks, and from
 * what may be computed ahead of the last step that retired: SCHED_STEPS_MAX times n tokens make
 *
 *     ceil((tokens + SCHED_STEPS_MAX * n - 2) / block_tokens) + 1 blocks
 *
 * With n = 1 that is `decode_blocks`, with n = a chunk `most_blocks`. A pool that is smaller than
 * `most_blocks` only makes chunks of a long prompt wait for one another; one that is smaller than
 * `decode_blocks` cannot take sequences that are longer than the pool.
 *
 * Without a window the same fields say that nothing is ever behind. Pure.
 */
#pragma once

#include "sched/sched.h"

struct window {
    uint32_t tokens; /* 0: none */
    uint32_t block_tokens;
    uint32_t reach_blocks;  /* full blocks before a position that it, or the one before, may read */
    uint32_t decode_blocks; /* one that decodes needs no more; UINT32_MAX without a window */
    uint32_t most_blocks;   /* of a sequence in prefill, and of any; at most the pool */
};

static inline struct window window_of(const struct sched_limits *limits)
{
    uint32_t context_blocks = div_up_u32(limits->context_tokens, limits->block_tokens);
    struct window window = {.tokens = limits->window_tokens,
                            .block_tokens = limits->block_tokens,
                            .reach_blocks = UINT32_MAX,
                            .decode_blocks = UINT32_MAX,
                            .most_blocks = u32_min(context_blocks, limits->blocks_count)};
    if (window.tokens == 0)
        return window;
    window.reach_blocks = div_up_u32(window.tokens, window.block_tokens);
    window.decode_blocks = window.reach_blocks + 1;
    window.most_blocks = u32_min(sched_sequence_blocks_max(limits), limits->blocks_count);
    return window;
}

/* Entries of a table that no position from `position` on reads. */
static inline uint32_t window_behind(const struct window *window, uint32_t position)
{
    if (window->tokens == 0 || position < window->tokens)
        return 0;
    return (position - window->tokens + 1) / window->block_tokens;
}
