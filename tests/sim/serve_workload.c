#include "tests/sim/serve_workload.h"

#include <math.h>

#define NORMAL_P99 2.3263478740408408

double serve_chance(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x ^= x >> 31;
    return ((double)(x >> 11) + 0.5) * 0x1p-53;
}

static double normal(uint64_t *state)
{
    double radius = sqrt(-2 * log(serve_chance(state)));
    return radius * cos(6.283185307179586 * serve_chance(state));
}

static double sigma_of(const struct serve_lengths *l)
{
    return log(l->b / l->a) / NORMAL_P99;
}

uint32_t serve_length(const struct serve_lengths *l, uint64_t *state)
{
    double x = l->a;
    switch (l->shape) {
    case LENGTH_FIXED:
        break;
    case LENGTH_LOGNORMAL:
        x = l->a * exp(sigma_of(l) * normal(state));
        break;
    case LENGTH_GEOMETRIC:
        x = l->a <= 1 ? 1 : ceil(log(serve_chance(state)) / log(1 - 1 / l->a));
        break;
    case LENGTH_UNIFORM:
        x = l->a + (l->b - l->a) * serve_chance(state);
        break;
    }
    return x < 1 ? 1 : x > 1e9 ? 1000000000 : (uint32_t)x;
}

double serve_length_mean(const struct serve_lengths *l)
{
    double sigma;
    switch (l->shape) {
    case LENGTH_LOGNORMAL:
        sigma = sigma_of(l);
        return l->a * exp(sigma * sigma / 2);
    case LENGTH_UNIFORM:
        return (l->a + l->b) / 2;
    default:
        return l->a;
    }
}

double serve_habit_tokens(const struct serve_habit *habit)
{
    return serve_length_mean(&habit->prompt) + serve_length_mean(&habit->output);
}

/* ---- when ---- */

static double pause_draw(struct serve_source *source)
{
    double mean_s = 1 / source->habit->rate_per_s;
    return source->habit->coming == COMES_EVENLY ? mean_s
                                                 : -log(serve_chance(&source->chance)) * mean_s;
}

/* Time runs only while it is on: what falls into the silence comes after it. */
static double silence_skip(const struct serve_habit *habit, double from_s, double pause_s)
{
    if (habit->on_s <= 0)
        return from_s + pause_s;
    double period_s = habit->on_s + habit->off_s;
    double on_before =
        floor(from_s / period_s) * habit->on_s + fmin(fmod(from_s, period_s), habit->on_s);
    double on_after = on_before + pause_s;
    return floor(on_after / habit->on_s) * period_s + fmod(on_after, habit->on_s);
}

void serve_source_open(struct serve_source *source, const struct serve_habit *habit, uint64_t seed,
                       uint32_t context_tokens)
{
    *source =
        (struct serve_source){.habit = habit, .chance = seed, .context_tokens = context_tokens};
    if (habit->coming == COMES_FULL)
        return;
    double first_s = habit->coming == COMES_EVENLY
                         ? serve_chance(&source->chance) / habit->rate_per_s
                         : pause_draw(source);
    source->next_s = silence_skip(habit, 0, first_s);
}

uint64_t serve_source_next_ns(const struct serve_source *source)
{
    return source->habit->coming == COMES_FULL ? UINT64_MAX : 1 + (uint64_t)(source->next_s * 1e9);
}

/* ---- what ---- */

static uint32_t output_draw(struct serve_source *source)
{
    const struct serve_habit *h = source->habit;
    uint32_t n = serve_length(&h->output, &source->chance);
    return h->long_every > 0 && source->count % h->long_every == 0 ? h->long_tokens : n;
}

struct serve_request serve_source_take(struct serve_source *source, uint64_t now_ns)
{
    const struct serve_habit *h = source->habit;
    struct serve_request r = {.at_ns = now_ns, .leaves_at_ns = UINT64_MAX};
    if (h->coming != COMES_FULL) {
        r.at_ns = serve_source_next_ns(source);
        source->next_s = silence_skip(h, source->next_s, pause_draw(source));
    }
    source->count++;
    r.prompt_tokens =
        u32_min(serve_length(&h->prompt, &source->chance), source->context_tokens - 1);
    r.output_tokens = output_draw(source);
    r.asks_tokens = h->asks_tokens ? h->asks_tokens : r.output_tokens;
    r.asks_tokens = u32_min(r.asks_tokens, source->context_tokens - r.prompt_tokens);
    r.output_tokens = u32_min(r.output_tokens, r.asks_tokens);
    if (h->leaves_after_s > 0)
        r.leaves_at_ns = r.at_ns + (uint64_t)(h->leaves_after_s * 1e9);
    if (h->documents > 0)
        r.document = (uint32_t)(serve_chance(&source->chance) * h->documents);
    return r;
}
