/*
 * reservation: what one request has been promised, from before it is submitted until it is over.
 *
 *     NONE --quota_reserve--> HELD --quota_settle | quota_undo--> SETTLED
 *                              |
 *                         quota_begin: its first step; no longer queued
 *
 * It belongs to whoever owns the request, lies in it, and is written by the functions of quota.h
 * alone, under the lease that it was taken from. Preemption and replay change nothing: the request
 * is the same one. Whatever ends it (its last token, a cancel, a deadline, a refusal) settles it;
 * a second time does nothing, and is counted.
 *
 * It says all that a ledger needs: who, how much was promised, when, and which month pays.
 */
#pragma once

#include "base/types.h"

enum reservation_state { RESERVATION_NONE = 0, RESERVATION_HELD, RESERVATION_SETTLED };

struct reservation {
    enum reservation_state state;
    uint32_t tenant;
    uint32_t month; /* whose budget pays; month.h */
    uint32_t prompt_tokens;
    uint32_t choices;           /* outputs of one prompt, from 1 */
    uint32_t output_tokens_max; /* what each may have: as asked for, or less */
    bool is_cut;                /* less: when it has those, it ends because of its quota */
    bool is_queued;             /* it has not begun */
    uint64_t full_tokens;       /* prompt and the most of all outputs: what hard limits hold */
    uint64_t estimate_tokens;   /* prompt and what they will probably have: what soft ones hold */
    uint64_t taken_ns;
};
