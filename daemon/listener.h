/*
 * listener: what main does with every kind of listener (gRPC now; HTTP and QUIC later).
 *
 *     open   binds its sockets (so a second daemon is refused before models load)
 *     start  takes calls; until the front is ready, calls are answered UNAVAILABLE, or wait where
 *            the service manager listened before the daemon ran
 *     drain  no new calls; lets running calls finish until the deadline, then cancels the rest;
 *            tells clients (GOAWAY); returns when none is left, or some seconds after the deadline
 *     close  frees everything; text threads and engines have stopped, so that nobody wakes it
 */
#pragma once

#include "base/status.h"

struct front;
struct listener;

struct listener_ops {
    const char *name;
    enum status (*open)(struct front *front, struct listener **ret_listener, struct error *error);
    enum status (*start)(struct listener *listener, struct error *error);
    void (*drain)(struct listener *listener, uint64_t deadline_ns);
    void (*close)(struct listener *listener);
    /* Now and then, from the control thread: files that have changed; `reload`: look at once. */
    void (*turn)(struct listener *listener, bool reload);
    /* For the watchdog: every thread of it has turned within the last `limit_ns`. */
    bool (*is_healthy)(struct listener *listener, uint64_t now_ns, uint64_t limit_ns);
};

extern const struct listener_ops listener_grpc;
