/*
 * deadlines: which live sequence is over its time first. A heap of ids by deadline, each id at most
 * once. Adding and removing cost O(log n), the first is at hand. An id without a deadline
 * (UINT64_MAX) is never added. Laid out once in what deadlines_footprint asked for. Owner: the
 * scheduler.
 */
#pragma once

#include "sched/sched.h"

struct deadline {
    uint64_t at_ns;
    sched_id id;
};

struct deadlines {
    uint32_t count;
    uint32_t ids_max;
    struct deadline *heap; /* [ids_max], the first `count`; no child is before its parent */
    uint32_t *places;      /* [ids_max] where in the heap an id is, plus 1; 0: not there */
};

size_t deadlines_footprint(uint32_t ids_max);

/* Empty. `memory` is zeroed, deadlines_footprint bytes, aligned to 16. */
void deadlines_init(struct deadlines *deadlines, uint32_t ids_max, void *memory);

/* `id` must not be there. UINT64_MAX does nothing. */
void deadlines_add(struct deadlines *deadlines, sched_id id, uint64_t at_ns);

/* Does nothing when `id` is not there. */
void deadlines_remove(struct deadlines *deadlines, sched_id id);

/* The earliest, or NULL. Valid until the next add or remove. */
static inline const struct deadline *deadlines_first(const struct deadlines *deadlines)
{
    return deadlines->count ? &deadlines->heap[0] : NULL;
}

/* Aborts when the heap is out of order. */
void deadlines_check(const struct deadlines *deadlines);
