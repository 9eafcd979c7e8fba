/*
 * outlet: the way back to one listener thread.
 *
 * Producers (engines and text threads, numbered at boot) put ready requests into their own ring of
 * the outlet; after a step each producer flushes once, which calls the listener's `wake` at most
 * once, whatever the number of streams. The listener thread takes:
 *
 *     while (outlet_take(outlet, &item)) {
 *         drain ring_peek(item.request->tokens) ... ring_release
 *         if (item.end) { finish the call; request_free }
 *     }
 *
 * A request has at most one plain item waiting (its `ready` flag), and one END in its life, which
 * is always its last item: after it nobody but the listener touches the request. Rings hold
 * 2 * requests_max items, so an outlet is never full.
 */
#pragma once

#include "daemon/request.h"

struct outlet_item {
    struct request *request;
    bool end;
};

struct outlet {
    uint32_t n_producers;
    struct ring **rings;         /* [n_producers] of struct outlet_item */
    bool *dirty;                 /* [n_producers], each its producer's own */
    void (*wake)(void *context); /* any thread; must not block */
    void *context;
};

enum status outlet_open(struct outlet *ret_outlet, uint32_t n_producers, uint32_t requests_max,
                        void (*wake)(void *context), void *context, struct error *error);
void outlet_close(struct outlet *outlet);

/* Producer side. */
void outlet_ready(struct outlet *outlet, uint32_t producer, struct request *request);
void outlet_end(struct outlet *outlet, uint32_t producer, struct request *request);
void outlet_flush(struct outlet *outlet, uint32_t producer);

/* Listener side. Clears `ready` of the item's request, so drain its tokens after this. */
bool outlet_take(struct outlet *outlet, struct outlet_item *ret_item);
