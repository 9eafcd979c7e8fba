/*
 * fair_twin: the fair policy once more, from its description alone (docs/scheduler.md), with no
 * heap, no index and no sum that is kept: each question is answered by looking at everybody. It
 * decides the same as policy_fair on the same input, or one of them is wrong. O(n) to O(n^2).
 */
#pragma once

#include "sched/policy.h"

extern const struct sched_policy policy_fair_twin;
