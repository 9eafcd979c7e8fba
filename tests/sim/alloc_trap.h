/*
 * alloc_trap: counts what the code under test asks the allocator for. The program is linked with
 * --wrap for malloc, calloc, realloc, aligned_alloc, posix_memalign and free, so every call from
 * the linked objects comes by here; only those between arm and disarm are counted. One thread.
 */
#pragma once

#include "base/types.h"

struct alloc_counts {
    uint64_t calls; /* allocations and frees */
    size_t last_bytes;
};

void alloc_trap_arm(void);
/* What happened since alloc_trap_arm. */
struct alloc_counts alloc_trap_disarm(void);
