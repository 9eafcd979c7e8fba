/*
 * gcra: one integer bucket of a rate, the generic cell rate algorithm.
 *
 * A bucket lets `burst` through at once and `per_minute` on the whole. The usual form keeps one
 * time, the theoretical arrival TAT; here the same is kept as what is in the bucket, which loses
 * nothing by division: TAT = at_ns + used / per_minute. One counted thing is GCRA_NS units, a
 * minute's nanoseconds; the bucket drains `per_minute` units a nanosecond. So a rate of 7 a minute
 * is exactly that, and a table that changes the rate leaves what is in the bucket as it is.
 *
 * `held` things are promised but not used yet: they take room and do not drain (the caller passes
 * their sum; quota.h says why). Whoever asks before each charge, at any time,
 *
 *     used + held + asked <= burst
 *
 * is never given more than burst + per_minute * t in any window t, whatever the moment between the
 * promise and the charge at which a thing is counted: in a window what is used is charged in it or
 * held at its end, and both fitted.
 *
 * Time that goes back is the latest time that was seen; a jump ahead empties the bucket, once.
 * Ranges: rate and burst up to GCRA_MAX; a charge may pass the burst (debt) up to GCRA_USED_MAX.
 * No product leaves 128 bits: 2^64 ns times 2^40 a minute, 2^60 things times 2^36 units.
 *
 * Pure; the owner locks.
 */
#pragma once

#include "base/types.h"

#define GCRA_NS 60000000000ull     /* the minute of `per_minute`, and the units of one thing */
#define GCRA_MAX 1000000000000ull  /* of a rate and of a burst */
#define GCRA_USED_MAX (1ull << 60) /* things in a bucket; more is cut to it */
#define GCRA_NEVER UINT64_MAX

__extension__ typedef unsigned __int128 gcra_units;

struct gcra {
    gcra_units used;
    uint64_t at_ns;      /* `used` is as of then */
    uint64_t per_minute; /* 0: no limit, and nothing is kept */
    uint64_t burst;
};

/* Drains up to now. */
static inline void gcra_tick(struct gcra *gcra, uint64_t now_ns)
{
    if (now_ns <= gcra->at_ns)
        return;
    gcra_units drained = (gcra_units)(now_ns - gcra->at_ns) * gcra->per_minute;
    gcra->used = gcra->used > drained ? gcra->used - drained : 0;
    gcra->at_ns = now_ns;
}

/* A rate and burst from now on; what is in the bucket stays, unless there was no limit. */
static inline void gcra_set(struct gcra *gcra, uint64_t per_minute, uint64_t burst, uint64_t now_ns)
{
    DCHECK(per_minute <= GCRA_MAX && burst <= GCRA_MAX);
    gcra_tick(gcra, now_ns);
    if (gcra->per_minute == 0 || per_minute == 0)
        gcra->used = 0;
    gcra->per_minute = per_minute;
    gcra->burst = burst;
}

/* Things that fit just now beside `held`; after gcra_tick. UINT64_MAX: no limit. */
static inline uint64_t gcra_room(const struct gcra *gcra, uint64_t held)
{
    if (gcra->per_minute == 0)
        return UINT64_MAX;
    gcra_units burst = (gcra_units)gcra->burst * GCRA_NS;
    gcra_units taken = gcra->used + (gcra_units)held * GCRA_NS;
    return taken < burst ? (uint64_t)((burst - taken) / GCRA_NS) : 0;
}

/* Puts n into the bucket, whether they fit or not: the caller asked for room before. */
static inline void gcra_charge(struct gcra *gcra, uint64_t n)
{
    if (gcra->per_minute == 0)
        return;
    gcra_units most = (gcra_units)GCRA_USED_MAX * GCRA_NS;
    gcra_units more = (gcra_units)(n < GCRA_USED_MAX ? n : GCRA_USED_MAX) * GCRA_NS;
    gcra->used = gcra->used + more < most ? gcra->used + more : most;
}

/*
 * Nanoseconds until n more fit, if what is held now stays so; 0: they fit now; after gcra_tick.
 * When they do not fit beside what is held, the time until the bucket is empty, and *ret_waits:
 * some of that must end as well. GCRA_NEVER: n is more than the burst.
 */
static inline uint64_t gcra_wait_ns(const struct gcra *gcra, uint64_t held, uint64_t n,
                                    bool *ret_waits)
{
    *ret_waits = false;
    if (gcra->per_minute == 0)
        return 0;
    if (n > gcra->burst)
        return GCRA_NEVER;
    gcra_units burst = (gcra_units)gcra->burst * GCRA_NS;
    gcra_units wanted = gcra->used + ((gcra_units)held + n) * GCRA_NS;
    if (wanted <= burst)
        return 0;
    gcra_units drain = wanted - burst;
    if (drain > gcra->used) {
        *ret_waits = true;
        drain = gcra->used;
    }
    gcra_units wait_ns = (drain + gcra->per_minute - 1) / gcra->per_minute;
    return wait_ns < GCRA_NEVER ? (uint64_t)wait_ns : GCRA_NEVER - 1;
}
