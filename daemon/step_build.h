/*
 * step_build: from the scheduler's plan to the records that the worker reads.
 *
 * The one place that knows both sched's and the step's vocabulary, so that neither room knows the
 * other. Pure: it asks its caller for the tokens and the sampling of a sequence.
 */
#pragma once

#include "model/step.h"
#include "sched/sched.h"

struct step_sequence {
    const uint32_t *tokens; /* [known_tokens] prompt, then what was sampled */
    uint32_t prompt_tokens; /* the first of them */
    const struct sample_params *sampling;
    const struct sample_entry *biases; /* [sampling->n_biases] */
    const uint32_t *holds;             /* [sampling->n_holds] */
};

struct step_builder {
    const struct step_limits *limits;
    struct step_sequence (*sequence)(void *context, sched_id id);
    void *context;
};

/* Fills `step` (step_bytes_max of room). A plan is within the limits by construction: a breach
 * aborts. */
void step_build(const struct step_builder *builder, const struct sched_plan *plan, uint64_t epoch,
                uint64_t number, struct step *step);
