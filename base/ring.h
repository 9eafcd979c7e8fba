/*
 * ring: a bounded queue of equal items between one writer and one reader.
 *
 * The ring is one flat piece of memory without pointers, so it works between threads and, in
 * shared memory, between processes. `ring_footprint` tells its size, `ring_init` lays it out.
 *
 *   writer:  slot = ring_reserve(r); if (slot) { fill it; ring_commit(r); } else the ring is full
 *   reader:  item = ring_peek(r);    if (item) { use it;  ring_release(r); } else it is empty
 *
 * Items are used in place; nothing is copied. A full ring is back-pressure, never growth. The
 * writer keeps a cached copy of the reader's position and the other way round, so that in the
 * usual case neither touches the other's cache line. The counters run for ever (2^64 items).
 * The ring does not wake anybody: see wake.h.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

#define RING_LINE_BYTES 64

struct ring {
    _Alignas(RING_LINE_BYTES) _Atomic uint64_t written; /* items committed; writer stores */
    uint64_t read_seen;                                 /* writer's cached copy of `read` */
    _Alignas(RING_LINE_BYTES) _Atomic uint64_t read;    /* items released; reader stores */
    uint64_t written_seen;                              /* reader's cached copy of `written` */
    _Alignas(RING_LINE_BYTES) uint32_t capacity_count;  /* power of two */
    uint32_t stride_bytes;                              /* item size rounded up to a line */
};

_Static_assert(sizeof(struct ring) == 3 * RING_LINE_BYTES, "items start on a line of their own");

/* Bytes for a ring of `capacity_count` items (rounded up to a power of two). */
size_t ring_footprint(size_t item_bytes, uint32_t capacity_count);

/* Lays a ring out in `memory` (64-byte aligned, ring_footprint bytes, zeroed or not). */
struct ring *ring_init(void *memory, size_t item_bytes, uint32_t capacity_count);

/* malloc + init, for rings inside one process. NULL when memory is out. Freed with free(). */
struct ring *ring_new(size_t item_bytes, uint32_t capacity_count);

static inline void *ring_item(const struct ring *ring, uint64_t position)
{
    size_t index = (size_t)(position & (ring->capacity_count - 1));
    return (char *)(uintptr_t)(ring + 1) + index * ring->stride_bytes;
}

/* The next free item, or NULL when fewer than one is free. Writer only. */
static inline void *ring_reserve(struct ring *ring)
{
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    if (written - ring->read_seen >= ring->capacity_count) {
        ring->read_seen = atomic_load_explicit(&ring->read, memory_order_acquire);
        if (written - ring->read_seen >= ring->capacity_count)
            return NULL;
    }
    return ring_item(ring, written);
}

static inline void ring_commit(struct ring *ring)
{
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    atomic_store_explicit(&ring->written, written + 1, memory_order_release);
}

/* Free items as the writer sees them now. Writer only. */
static inline uint32_t ring_free_count(struct ring *ring)
{
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    ring->read_seen = atomic_load_explicit(&ring->read, memory_order_acquire);
    return ring->capacity_count - (uint32_t)(written - ring->read_seen);
}

/* The oldest unread item, or NULL. Reader only. */
static inline void *ring_peek(struct ring *ring)
{
    uint64_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
    if (read == ring->written_seen) {
        ring->written_seen = atomic_load_explicit(&ring->written, memory_order_acquire);
        if (read == ring->written_seen)
            return NULL;
    }
    return ring_item(ring, read);
}

static inline void ring_release(struct ring *ring)
{
    uint64_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);
    atomic_store_explicit(&ring->read, read + 1, memory_order_release);
}
