/*
 * clock: the only reader of time. Rooms below the daemon get `now_ns` as an argument.
 * Any thread. Never fails.
 */
#pragma once

#include "base/types.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t clock_now_ns(void);

/* Nanoseconds since 1970, as the host's wall clock says just now; it may be set at any time. */
uint64_t clock_wall_ns(void);
