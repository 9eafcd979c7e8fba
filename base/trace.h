/*
 * trace: what happened to whom and when, kept for a while.
 *
 * Every thread that takes part has a ring of its own and writes fixed events into it: an id, a
 * time, a kind and a number. Nothing is locked, nothing is allocated, nothing waits: the oldest
 * event is overwritten. Whoever asks copies the rings while they are written to; an event that is
 * overwritten meanwhile is left out, and never read half. An id has a name, for people: names are
 * kept in the same way. What the kinds mean is the caller's affair.
 *
 * trace_add and trace_name: the one thread that owns the ring `writer`. Reading: any thread; it
 * takes time proportional to the rings' size. A NULL trace is one that keeps nothing.
 */
#pragma once

#include "base/status.h"

#define TRACE_NAME_MAX_BYTES 128

struct trace;

struct trace_event {
    uint64_t id;
    uint64_t at_ns;
    uint32_t kind;
    uint32_t value;
};

/* All memory now, touched as used: n_writers rings of `events_count` events and an eighth as many
 * names. 0 events: *ret_trace is NULL. */
enum status trace_open(uint32_t n_writers, uint32_t events_count, struct trace **ret_trace,
                       struct error *error);
void trace_close(struct trace *trace);

void trace_add(struct trace *trace, uint32_t writer, struct trace_event event);
/* `name` is cut at TRACE_NAME_MAX_BYTES. Ids are not 0. */
void trace_name(struct trace *trace, uint32_t writer, uint64_t id, const char *name);

/* The events of `id`, oldest first; at most `capacity`, the oldest of them. */
uint32_t trace_read(struct trace *trace, uint64_t id, struct trace_event *ret_events,
                    uint32_t capacity);

struct trace_named {
    uint64_t id;
    char name[TRACE_NAME_MAX_BYTES + 1];
};

/* The ids that have a name and are still kept, largest id first; at most `capacity`. With `name`
 * (not NULL) only those of that name. */
uint32_t trace_names(struct trace *trace, const char *name, struct trace_named *ret_names,
                     uint32_t capacity);
