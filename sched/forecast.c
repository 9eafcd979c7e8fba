#include "sched/forecast.h"

void forecast_begin(struct forecast *forecast, uint32_t longest_tokens, uint32_t block_tokens)
{
    uint32_t span = u32_max(div_up_u32(longest_tokens, FORECAST_SPANS), 1);
    *forecast = (struct forecast){.span_tokens = span, .block_tokens = block_tokens};
}

static uint32_t end_span(const struct forecast *forecast, uint32_t tokens)
{
    return u32_min((tokens - 1) / forecast->span_tokens, FORECAST_SPANS - 1);
}

void forecast_add(struct forecast *forecast, const struct forecast_one *one)
{
    if (one->tokens == 0)
        return;
    uint32_t end = end_span(forecast, one->tokens);
    forecast->back_blocks[end] += one->back_blocks;
    if (one->flat_tokens >= one->tokens)
        return;
    /* Where it stops growing it counts as one that ends, but keeps what it took until its end. */
    uint32_t span = end_span(forecast, one->tokens - one->flat_tokens);
    forecast->n_all++;
    forecast->n_ends[span]++;
    forecast->grow_blocks[span] += one->grow_blocks;
    if (one->flat_tokens > 0) {
        forecast->back_blocks[span] -= one->grow_blocks;
        forecast->back_blocks[end] += one->grow_blocks;
    }
}

uint32_t forecast_peak(const struct forecast *forecast, const struct forecast_one *one)
{
    uint32_t left = forecast->n_all; /* that end in later spans */
    uint32_t one_ends = one && one->tokens ? end_span(forecast, one->tokens) : FORECAST_SPANS;
    int64_t back = 0, peak = 0;
    for (uint32_t i = 0; i < FORECAST_SPANS; i++) {
        left -= forecast->n_ends[i];
        /* Those who go on have grown by so much each, and one more that has just begun. */
        uint32_t grown = (i + 1) * forecast->span_tokens / forecast->block_tokens + 1;
        int64_t demand = (int64_t)forecast->grow_blocks[i] + (int64_t)left * grown - back;
        if (one_ends < FORECAST_SPANS)
            demand += i < one_ends    ? u32_min(grown, one->grow_blocks)
                      : i == one_ends ? one->grow_blocks
                                      : -(int64_t)one->back_blocks;
        peak = demand > peak ? demand : peak;
        back += forecast->back_blocks[i];
    }
    return (uint32_t)peak;
}
