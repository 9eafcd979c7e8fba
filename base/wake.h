/*
 * wake: an eventfd that says "look again". Any thread may signal; one thread waits.
 *
 * A signal is never lost: the reader clears first, then looks at its rings, then waits.
 */
#pragma once

#include "base/status.h"

struct wake {
    int fd; /* -1 when closed */
};

enum status wake_open(struct wake *ret_wake, struct error *error);
void wake_close(struct wake *wake);
void wake_signal(const struct wake *wake);
void wake_clear(const struct wake *wake);

/* Waits for a signal, at most `timeout_ns`; returns true when one came (not cleared yet). */
bool wake_wait(const struct wake *wake, uint64_t timeout_ns);
