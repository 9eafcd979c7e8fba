/*
 * serve_metrics: what clients saw of a run, and who was given what.
 *
 * Service is `prompt` a prompt token that was computed for the first time and `output` an output
 * token, 1 and 2. The worst gap is the largest change of the difference of two tenants' services,
 * by weight, over any interval in which both had somebody in line all the time. A first token that
 * has not come by the end of the run counts as having taken until then: nobody looks good by
 * starving the slow ones. Times to the first token are from the arrival; time per output token is
 * the mean over a request, of those that ended by themselves.
 *
 * Owner: serve_world. Samples are kept in arrays that grow.
 */
#pragma once

#include "base/types.h"

#define SERVE_TENANTS_MAX 16
#define SERVE_PROMPT_COST 1.0
#define SERVE_OUTPUT_COST 2.0

struct serve_times {
    size_t count, room;
    float *seconds; /* [count] of [room] */
};

void serve_times_add(struct serve_times *times, double seconds);
/* All of `from` too. */
void serve_times_join(struct serve_times *times, const struct serve_times *from);
/* Sorts. The smallest that a part q of all do not exceed; 0 when there are none. */
double serve_times_quantile(struct serve_times *times, double q);
void serve_times_free(struct serve_times *times);

struct serve_tenant_result {
    uint64_t sent_count, refused_count, ended_count, left_count;
    uint64_t prompt_tokens, output_tokens; /* that it was given */
    double service;                        /* of them, not by weight */
    double backlogged_s;                   /* had somebody in line */
    double backlogged_service;             /* was given meanwhile */
    uint32_t running_most, line_most;
    struct serve_times first, each; /* to the first token; per output token */
};

struct serve_result {
    uint32_t n_tenants;
    struct serve_tenant_result tenants[SERVE_TENANTS_MAX]; /* [n_tenants] */
    double duration_s;                                     /* simulated */
    double useful_tokens_per_s;                            /* computed once, or put out */
    double recomputed_part;                                /* of all that was computed */
    double cached_part;                                    /* of all prompt tokens */
    double worst_gap, last_gap; /* the latter: of the first two tenants, over the whole run */
    double jain;                /* on weighted rates of those who were backlogged */
    double spent_s;             /* of this CPU, for all of it */
    uint64_t steps, preempted, running_most;
    uint64_t fingerprint; /* of all that happened, in order */
};

/* The gaps of all pairs while they are backlogged. */
struct serve_gaps {
    uint32_t n;
    bool counts[SERVE_TENANTS_MAX][SERVE_TENANTS_MAX];
    double low[SERVE_TENANTS_MAX][SERVE_TENANTS_MAX], high[SERVE_TENANTS_MAX][SERVE_TENANTS_MAX];
    double worst;
};

/* Services [n] by weight before a step, and after it; `backlogged` [n] during it. */
void serve_gaps_step(struct serve_gaps *gaps, const double *before, const double *after,
                     const bool *backlogged);

/* Jain's index of the rates of those that were backlogged for a tenth of the run; 1 is even. */
double serve_jain(const struct serve_result *result, const uint32_t *weights);

/* Frees the samples. */
void serve_result_close(struct serve_result *result);
