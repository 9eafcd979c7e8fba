/*
 * ring: where a thread is in a ring of stages in shared memory, which some warps fill and others
 * empty. Each stage has mbarriers whose parity changes with every round.
 */
#pragma once

#include "kernels/cuda/leaf.h"

struct ring_place {
    uint32_t step, parity;
};

template <uint32_t steps> LEAF void ring_next(struct ring_place &place)
{
    if (++place.step == steps) {
        place.step = 0;
        place.parity ^= 1;
    }
}

/* Every warp says so for itself. */
LEAF void ring_tell(shared<uint64_t> bar)
{
    warp_sync();
    if (lane_index() == 0)
        mbarrier_arrive(bar);
}
