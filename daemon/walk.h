/*
 * walk: the stages of a request, as the trace keeps them (base/trace.h).
 *
 * One event a stage under the request's id, written by the thread that does it. In the order of the
 * walk, which also orders events of the same nanosecond. No stage carries text, ids of tokens or
 * anything else of the content. Of several choices the engine's stages are the first one's. The
 * numbers are those of galerne.admin.v1.TraceStage.
 *
 * Rings: text threads and engines by their number as producers, then the listener's lanes.
 */
#pragma once

#include "base/trace.h"

enum walk_stage {
    WALK_ACCEPTED = 1, /* the call's headers were here */
    WALK_DECODED,      /* it is a good request; value: model and tenant, walk_decoded_value */
    WALK_TEXT,         /* a text thread has taken it */
    WALK_TOKENIZED,    /* value: tokens of the prompt */
    WALK_INLET,        /* on its way to the engine */
    WALK_SUBMITTED,    /* the scheduler has it; it waits for its turn */
    WALK_FIRST_STEP,   /* the first step with it went to the worker; value: number of the step */
    WALK_FIRST_TOKEN,  /* the first token came back */
    WALK_FIRST_SENT,   /* the first message was written to the client's socket */
    WALK_TOKENS,       /* value: so many tokens so far; at 2, 4, 8, ... */
    WALK_REPLAYED,     /* the worker was lost, it starts from its known tokens; value: times */
    WALK_ENDED,        /* engine or text thread is done with it; value: output tokens */
    WALK_FINISHED,     /* the last message and the status were handed over; value: gRPC code */
    WALK_LAST_SENT,    /* and written to the client's socket */
    WALK_STAGES_COUNT,
};

/* At most so many events of one request: each stage, doubling tokens, and some replays. */
#define WALK_EVENTS_MAX 56

/* Indexes of model (below 256) and tenant in one value. */
static inline uint32_t walk_decoded_value(uint32_t model, uint32_t tenant)
{
    return tenant << 8 | model;
}

/* Who writes: a thread's ring. */
struct walker {
    struct trace *trace; /* NULL: nothing is kept */
    uint32_t writer;
};

static inline void walk_add(struct walker walker, uint64_t id, enum walk_stage stage,
                            uint64_t at_ns, uint32_t value)
{
    trace_add(walker.trace, walker.writer,
              (struct trace_event){.id = id, .at_ns = at_ns, .kind = stage, .value = value});
}
