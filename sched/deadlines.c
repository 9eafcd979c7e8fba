#include "sched/deadlines.h"

size_t deadlines_footprint(uint32_t ids_max)
{
    return (size_t)ids_max * (sizeof(struct deadline) + sizeof(uint32_t));
}

void deadlines_init(struct deadlines *deadlines, uint32_t ids_max, void *memory)
{
    *deadlines = (struct deadlines){.ids_max = ids_max};
    deadlines->heap = memory;
    deadlines->places = (uint32_t *)(deadlines->heap + ids_max);
}

static void heap_put(struct deadlines *deadlines, uint32_t place, struct deadline deadline)
{
    deadlines->heap[place] = deadline;
    deadlines->places[deadline.id] = place + 1;
}

/* Finds the place of `deadline` from a free `place` on, towards the root. */
static void heap_rise(struct deadlines *deadlines, uint32_t place, struct deadline deadline)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;
        if (deadlines->heap[parent].at_ns <= deadline.at_ns)
            break;
        heap_put(deadlines, place, deadlines->heap[parent]);
        place = parent;
    }
    heap_put(deadlines, place, deadline);
}

/* The same, towards the leaves. */
static void heap_sink(struct deadlines *deadlines, uint32_t place, struct deadline deadline)
{
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= deadlines->count)
            break;
        if (child + 1 < deadlines->count &&
            deadlines->heap[child + 1].at_ns < deadlines->heap[child].at_ns)
            child++;
        if (deadlines->heap[child].at_ns >= deadline.at_ns)
            break;
        heap_put(deadlines, place, deadlines->heap[child]);
        place = child;
    }
    heap_put(deadlines, place, deadline);
}

void deadlines_add(struct deadlines *deadlines, sched_id id, uint64_t at_ns)
{
    if (at_ns == UINT64_MAX)
        return;
    CHECK(id < deadlines->ids_max && deadlines->places[id] == 0);
    heap_rise(deadlines, deadlines->count++, (struct deadline){.at_ns = at_ns, .id = id});
}

void deadlines_remove(struct deadlines *deadlines, sched_id id)
{
    CHECK(id < deadlines->ids_max);
    if (deadlines->places[id] == 0)
        return;
    uint32_t place = deadlines->places[id] - 1;
    deadlines->places[id] = 0;
    struct deadline last = deadlines->heap[--deadlines->count];
    if (place == deadlines->count)
        return;
    /* The last one fills the hole; it may belong above or below. */
    if (place > 0 && last.at_ns < deadlines->heap[(place - 1) / 2].at_ns)
        heap_rise(deadlines, place, last);
    else
        heap_sink(deadlines, place, last);
}

void deadlines_check(const struct deadlines *deadlines)
{
    CHECK(deadlines->count <= deadlines->ids_max);
    for (uint32_t i = 0; i < deadlines->count; i++) {
        CHECK(deadlines->heap[i].id < deadlines->ids_max);
        CHECK(deadlines->places[deadlines->heap[i].id] == i + 1);
        CHECK(i == 0 || deadlines->heap[(i - 1) / 2].at_ns <= deadlines->heap[i].at_ns);
    }
}
