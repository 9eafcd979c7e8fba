/*
 * probe: how fast this machine reads memory just now, the yardstick for a decode step.
 *
 * `threads_count` threads read one private part of a large buffer each, front to back, and do
 * nothing else. The figure moves with whatever else the machine does, so it belongs next to the
 * measurement that it judges: take it before, between and after, in the same run. One caller at a
 * time. The buffer (256 MB, several times the last cache) is made by the first call and kept.
 */
#pragma once

#include "base/types.h"

/* 1e9 bytes a second, median of five passes. */
double probe_read_gb_per_s(uint32_t threads_count);
