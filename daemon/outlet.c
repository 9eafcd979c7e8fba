#include "daemon/outlet.h"

enum status outlet_open(struct outlet *ret_outlet, uint32_t n_producers, uint32_t requests_max,
                        void (*wake)(void *context), void *context, struct error *error)
{
    struct outlet outlet = {.n_producers = n_producers, .wake = wake, .context = context};
    outlet.rings = calloc(n_producers, sizeof(struct ring *));
    outlet.dirty = calloc(n_producers, sizeof(bool));
    bool complete = outlet.rings && outlet.dirty;
    for (uint32_t i = 0; complete && i < n_producers; i++) {
        outlet.rings[i] = ring_new(sizeof(struct outlet_item), 2 * requests_max);
        complete = outlet.rings[i] != NULL;
    }
    if (!complete) {
        outlet_close(&outlet);
        return error_set(error, STATUS_EXHAUSTED, "no memory for an outlet of %u x %u items",
                         n_producers, 2 * requests_max);
    }
    *ret_outlet = outlet;
    return STATUS_OK;
}

void outlet_close(struct outlet *outlet)
{
    for (uint32_t i = 0; outlet->rings && i < outlet->n_producers; i++)
        free(outlet->rings[i]);
    free(outlet->rings);
    free(outlet->dirty);
    *outlet = (struct outlet){0};
}

static void outlet_put(struct outlet *outlet, uint32_t producer, struct outlet_item item)
{
    CHECK(producer < outlet->n_producers);
    struct outlet_item *slot = ring_reserve(outlet->rings[producer]);
    CHECK(slot); /* 2 items a request at most: a full ring is a broken invariant */
    *slot = item;
    ring_commit(outlet->rings[producer]);
    outlet->dirty[producer] = true;
}

void outlet_ready(struct outlet *outlet, uint32_t producer, struct request *request)
{
    if (!atomic_exchange_explicit(&request->ready, true, memory_order_acq_rel))
        outlet_put(outlet, producer, (struct outlet_item){.request = request});
}

void outlet_end(struct outlet *outlet, uint32_t producer, struct request *request)
{
    outlet_put(outlet, producer, (struct outlet_item){.request = request, .end = true});
}

void outlet_flush(struct outlet *outlet, uint32_t producer)
{
    if (outlet->dirty[producer]) {
        outlet->dirty[producer] = false;
        outlet->wake(outlet->context);
    }
}

bool outlet_take(struct outlet *outlet, struct outlet_item *ret_item)
{
    for (uint32_t i = 0; i < outlet->n_producers; i++) {
        struct outlet_item *item = ring_peek(outlet->rings[i]);
        if (item) {
            *ret_item = *item;
            ring_release(outlet->rings[i]);
            if (!ret_item->end)
                atomic_store_explicit(&ret_item->request->ready, false, memory_order_release);
            return true;
        }
    }
    return false;
}
