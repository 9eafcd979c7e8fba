#include "base/ring.h"

static uint32_t power_of_two(uint32_t n)
{
    uint32_t p = 1;
    while (p < n)
        p <<= 1;
    return p;
}

size_t ring_footprint(size_t item_bytes, uint32_t capacity_count)
{
    return sizeof(struct ring) +
           round_up(item_bytes, RING_LINE_BYTES) * power_of_two(capacity_count);
}

struct ring *ring_init(void *memory, size_t item_bytes, uint32_t capacity_count)
{
    CHECK(((uintptr_t)memory & (RING_LINE_BYTES - 1)) == 0);
    CHECK(capacity_count > 0 && capacity_count <= 1u << 30);
    struct ring *ring = memory;
    memset(ring, 0, sizeof *ring);
    ring->capacity_count = power_of_two(capacity_count);
    ring->stride_bytes = (uint32_t)round_up(item_bytes, RING_LINE_BYTES);
    return ring;
}

struct ring *ring_new(size_t item_bytes, uint32_t capacity_count)
{
    void *memory = aligned_alloc(RING_LINE_BYTES, ring_footprint(item_bytes, capacity_count));
    return memory ? ring_init(memory, item_bytes, capacity_count) : NULL;
}
