#include "base/trace.h"

#include <stdatomic.h>

#define NAME_WORDS (TRACE_NAME_MAX_BYTES / 8)
#define EVENT_WORDS 3
#define SLOT_WORDS_MAX (1 + NAME_WORDS)

/* Slots of a sequence number and n_words words. The number is 0 while the slot is written, else one
 * more than how many slots were written before it. */
struct ring_of_words {
    uint32_t count; /* of slots */
    uint32_t n_words;
    _Atomic uint64_t written; /* slots, ever; the owner's */
    _Atomic uint64_t *words;  /* [count][1 + n_words] */
};

struct writer {
    struct ring_of_words events, names;
};

struct trace {
    uint32_t n_writers;
    struct writer writers[]; /* [n_writers] */
};

/* ---- slots ---- */

/*
 * A reader sees the number before and after the words. If one of the words it read is of a later
 * event, that word's store (release) was after the 0; the load (acquire) makes the 0, or a later
 * number, visible to the second look, and the copy is thrown away.
 */
static void slot_write(struct ring_of_words *ring, const uint64_t *words)
{
    uint64_t number = atomic_load_explicit(&ring->written, memory_order_relaxed);
    _Atomic uint64_t *slot = ring->words + (number % ring->count) * (1 + ring->n_words);
    atomic_store_explicit(slot, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < ring->n_words; i++)
        atomic_store_explicit(slot + 1 + i, words[i], memory_order_release);
    atomic_store_explicit(slot, number + 1, memory_order_release);
    atomic_store_explicit(&ring->written, number + 1, memory_order_release);
}

static bool slot_read(struct ring_of_words *ring, uint32_t index, uint64_t *ret_words)
{
    _Atomic uint64_t *slot = ring->words + (size_t)index * (1 + ring->n_words);
    uint64_t number = atomic_load_explicit(slot, memory_order_acquire);
    for (uint32_t i = 0; number && i < ring->n_words; i++)
        ret_words[i] = atomic_load_explicit(slot + 1 + i, memory_order_acquire);
    return number && atomic_load_explicit(slot, memory_order_relaxed) == number;
}

/* How many slots have ever been written to, which is where to stop looking. */
static uint32_t slots_used(struct ring_of_words *ring)
{
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_acquire);
    return written < ring->count ? (uint32_t)written : ring->count;
}

static bool ring_open(struct ring_of_words *ring, uint32_t count, uint32_t n_words)
{
    ring->count = count;
    ring->n_words = n_words;
    ring->words = calloc((size_t)count * (1 + n_words), sizeof *ring->words);
    return ring->words != NULL;
}

/* ---- open, write ---- */

enum status trace_open(uint32_t n_writers, uint32_t events_count, struct trace **ret_trace,
                       struct error *error)
{
    struct trace *trace = NULL;
    bool complete = true;
    if (events_count) {
        trace = calloc(1, sizeof *trace + n_writers * sizeof trace->writers[0]);
        complete = trace != NULL;
    }
    for (uint32_t i = 0; trace && complete && i < n_writers; i++) {
        struct writer *writer = &trace->writers[i];
        trace->n_writers = i + 1;
        complete = ring_open(&writer->events, events_count, EVENT_WORDS) &&
                   ring_open(&writer->names, u32_max(events_count / 8, 1), 1 + NAME_WORDS);
    }
    if (!complete) {
        trace_close(trace);
        return error_set(error, STATUS_EXHAUSTED, "no memory for a trace of %u x %u events",
                         n_writers, events_count);
    }
    *ret_trace = trace;
    return STATUS_OK;
}

void trace_close(struct trace *trace)
{
    for (uint32_t i = 0; trace && i < trace->n_writers; i++) {
        free(trace->writers[i].events.words);
        free(trace->writers[i].names.words);
    }
    free(trace);
}

void trace_add(struct trace *trace, uint32_t writer, struct trace_event event)
{
    if (!trace)
        return;
    CHECK(writer < trace->n_writers);
    const uint64_t words[EVENT_WORDS] = {event.id, event.at_ns,
                                         (uint64_t)event.kind << 32 | event.value};
    slot_write(&trace->writers[writer].events, words);
}

void trace_name(struct trace *trace, uint32_t writer, uint64_t id, const char *name)
{
    if (!trace)
        return;
    CHECK(writer < trace->n_writers && id != 0);
    uint64_t words[SLOT_WORDS_MAX] = {id};
    memcpy(words + 1, name, strnlen(name, TRACE_NAME_MAX_BYTES));
    slot_write(&trace->writers[writer].names, words);
}

/* ---- read ---- */

static bool is_before(const struct trace_event *a, const struct trace_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->kind < b->kind;
}

/* Keeps ret_events[*n] sorted; the latest falls off the end. */
static void event_insert(struct trace_event *events, uint32_t *n, uint32_t capacity,
                         struct trace_event event)
{
    if (*n == capacity) {
        if (capacity == 0 || !is_before(&event, &events[capacity - 1]))
            return;
        --*n;
    }
    uint32_t at = (*n)++;
    for (; at > 0 && is_before(&event, &events[at - 1]); at--)
        events[at] = events[at - 1];
    events[at] = event;
}

uint32_t trace_read(struct trace *trace, uint64_t id, struct trace_event *ret_events,
                    uint32_t capacity)
{
    uint32_t n = 0;
    for (uint32_t w = 0; trace && w < trace->n_writers; w++) {
        struct ring_of_words *ring = &trace->writers[w].events;
        uint32_t used = slots_used(ring);
        for (uint32_t i = 0; i < used; i++) {
            uint64_t words[EVENT_WORDS];
            if (slot_read(ring, i, words) && words[0] == id)
                event_insert(ret_events, &n, capacity,
                             (struct trace_event){.id = id,
                                                  .at_ns = words[1],
                                                  .kind = (uint32_t)(words[2] >> 32),
                                                  .value = (uint32_t)words[2]});
        }
    }
    return n;
}

uint32_t trace_names(struct trace *trace, const char *name, struct trace_named *ret_names,
                     uint32_t capacity)
{
    uint32_t n = 0;
    for (uint32_t w = 0; trace && w < trace->n_writers; w++) {
        struct ring_of_words *ring = &trace->writers[w].names;
        uint32_t used = slots_used(ring);
        for (uint32_t i = 0; i < used; i++) {
            uint64_t words[SLOT_WORDS_MAX];
            struct trace_named found = {.id = 0};
            if (!slot_read(ring, i, words))
                continue;
            found.id = words[0];
            memcpy(found.name, words + 1, TRACE_NAME_MAX_BYTES);
            if (name && strcmp(found.name, name) != 0)
                continue;
            if (n == capacity && (capacity == 0 || ret_names[n - 1].id > found.id))
                continue;
            uint32_t at = n < capacity ? n++ : n - 1;
            for (; at > 0 && ret_names[at - 1].id < found.id; at--)
                ret_names[at] = ret_names[at - 1];
            ret_names[at] = found;
        }
    }
    return n;
}
