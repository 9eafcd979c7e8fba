/*
 * arena: memory with one lifetime. Allocations are bumped out of chunks and freed all at once.
 *
 * An arena has a hard cap: arena_alloc returns NULL past it (and sets `overflowed`), so foreign
 * input cannot grow it without bound. One thread at a time. An arena's name is its lifetime:
 * boot_, call_, step_.
 */
#pragma once

#include "base/types.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks; /* newest first */
    size_t used_bytes;          /* handed out, with padding */
    size_t max_bytes;           /* hard cap of used_bytes */
    bool overflowed;            /* a request did not fit, or malloc failed */
};

void arena_init(struct arena *arena, size_t max_bytes);

/* Zeroed, aligned to 16 bytes; NULL past the cap. `size_bytes` 0 gives a unique non-NULL pointer.
 */
void *arena_alloc(struct arena *arena, size_t size_bytes);

/* Copies `text` and adds a NUL; NULL past the cap. */
char *arena_copy(struct arena *arena, struct span text);

/* Frees everything; the arena can be used again. */
void arena_free(struct arena *arena);
