/*
 * month: calendar months in UTC, and what was used in each.
 *
 * A month is a number, year * 12 + month of the year (0 to 11), of the wall clock that the caller
 * passes in: nanoseconds since 1970. A wall clock may be set, ahead or back, to a wrong month and
 * back again. So that no month's budget is ever given twice, the use of the last MONTHS_KEPT months
 * that were seen is remembered by number: going back finds what was used there, and a visit to the
 * wrong future spends that month's budget and no other. A month that is forgotten, because more
 * than so many were seen, counts as used up, and so do all before it.
 *
 * Pure; the owner locks. Wall times up to 2554 (64 bits of nanoseconds); nothing overflows.
 */
#pragma once

#include "base/types.h"

#define MONTHS_KEPT 4

struct month_span {
    uint32_t month;
    uint64_t from_ns, until_ns; /* of the wall clock, the second not in it; UINT64_MAX: no end */
};

/* The month that a time is in. */
struct month_span month_of(uint64_t wall_ns);

struct month_use {
    uint32_t month; /* 0: none */
    uint64_t used;
};

struct month_uses {
    uint32_t forgotten; /* the highest month that is not remembered any more; 0: none */
    struct month_use uses[MONTHS_KEPT];
};

/* What was used in a month; UINT64_MAX when it is forgotten. */
uint64_t month_used(const struct month_uses *uses, uint32_t month);

/* Adds to it; the sum stops at UINT64_MAX - 1. Does nothing for a month that is forgotten. */
void month_add(struct month_uses *uses, uint32_t month, uint64_t n);
