/*
 * serve_workload: what tenants send. A habit says when, how long and how honestly; from it and a
 * seed a source draws one request after the other. A source has a stream of chance of its own, so
 * the n-th request of a tenant is the same whatever the scheduler does with the others: policies
 * are compared on the same day.
 *
 * Habits of the ill-meaning are made of the same parts: prompts that flood, outputs of one token by
 * the hundred, max_tokens far from what is taken, clients that leave, silence and then a burst,
 * documents without end in the cache.
 *
 * Owner: serve_world. No allocation.
 */
#pragma once

#include "base/types.h"

enum serve_shape {
    LENGTH_FIXED,     /* a */
    LENGTH_LOGNORMAL, /* median a, 99th percentile b */
    LENGTH_GEOMETRIC, /* mean a */
    LENGTH_UNIFORM    /* a to b */
};

struct serve_lengths {
    enum serve_shape shape;
    double a, b;
};

enum serve_coming {
    COMES_POISSON,
    COMES_EVENLY,
    COMES_FULL /* keeps line_count in line, whatever happens */
};

struct serve_habit {
    const char *name;
    bool is_heavy;   /* the one that the others suffer from: not among those that are measured */
    uint32_t weight; /* 0 reads as 1 */
    enum serve_coming coming;
    double rate_per_s;   /* while on */
    double on_s, off_s;  /* on first; 0, 0: always on */
    uint32_t line_count; /* of COMES_FULL */
    struct serve_lengths prompt, output;
    uint32_t asks_tokens;  /* max_tokens; outputs end there. 0: exactly what it takes */
    double leaves_after_s; /* the client goes, so long after it came; 0: never */
    uint32_t long_every;   /* each so many requests .. */
    uint32_t long_tokens;  /* .. the output is so long; 0: no such request */
    uint32_t documents;    /* prompts begin with one of so many; 0: nothing is shared */
    uint32_t document_tokens;
};

struct serve_request {
    uint64_t at_ns, leaves_at_ns; /* UINT64_MAX: it stays */
    uint32_t prompt_tokens, output_tokens, asks_tokens;
    uint32_t document; /* of the habit's */
};

struct serve_source {
    const struct serve_habit *habit;
    uint64_t chance;
    uint64_t count; /* of requests drawn */
    double next_s;  /* when the next one comes; no meaning for COMES_FULL */
    uint32_t context_tokens;
};

/* A number in (0, 1). */
double serve_chance(uint64_t *state);
uint32_t serve_length(const struct serve_lengths *lengths, uint64_t *state);
double serve_length_mean(const struct serve_lengths *lengths);

/* Tokens of a request of this habit, prompt and output, on average. */
double serve_habit_tokens(const struct serve_habit *habit);

void serve_source_open(struct serve_source *source, const struct serve_habit *habit, uint64_t seed,
                       uint32_t context_tokens);

/* When the next request comes; UINT64_MAX for COMES_FULL, which does not go by time. */
uint64_t serve_source_next_ns(const struct serve_source *source);

/* The next request, at its time, or `now_ns` for COMES_FULL. */
struct serve_request serve_source_take(struct serve_source *source, uint64_t now_ns);
