/*
 * forecast: how many more blocks the running ones will hold at the worst moment to come.
 *
 * Each running sequence will probably sample so many tokens more: until then it takes blocks, then
 * it gives back those that it holds. The sum of what all will take is far more than what they will
 * ever hold at once, because some end while others grow. So time (in tokens: each running one gets
 * one a step) is cut into spans, and the demand is looked at where it is highest: at the end of
 * each span, just before those give back who end in it.
 *
 * A forecast that is wrong costs a preemption, never correctness. Made anew for each step that
 * weighs an admission: O(running), then O(spans) an admission. Pure.
 */
#pragma once

#include "base/types.h"

#define FORECAST_SPANS 32

struct forecast {
    uint32_t span_tokens, block_tokens;
    uint32_t n_all;                       /* sequences in it */
    uint32_t n_ends[FORECAST_SPANS];      /* that end in a span */
    uint32_t grow_blocks[FORECAST_SPANS]; /* what those will have taken by then */
    int64_t back_blocks[FORECAST_SPANS];  /* what they hold now, and give back then */
};

/* A sequence: it will end after so many tokens, take so many blocks until then, and give back those
 * that it holds now. Tokens 0: it is expected to take nothing, and is no part of a forecast. With a
 * sliding window it takes nothing during the last flat_tokens of its tokens. */
struct forecast_one {
    uint32_t tokens, grow_blocks, back_blocks, flat_tokens;
};

/* Empty. Spans are made for ends up to longest_tokens; later ones count as that. */
void forecast_begin(struct forecast *forecast, uint32_t longest_tokens, uint32_t block_tokens);
void forecast_add(struct forecast *forecast, const struct forecast_one *one);

/* Blocks that must be takeable now, for all in it and for one that would join (NULL: nobody). */
uint32_t forecast_peak(const struct forecast *forecast, const struct forecast_one *one);
