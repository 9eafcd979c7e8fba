#include "base/arena.h"

#define ARENA_CHUNK_BYTES 4096
#define ARENA_ALIGN 16

struct arena_chunk {
    struct arena_chunk *next;
    size_t used_bytes;
    size_t room_bytes;
    _Alignas(ARENA_ALIGN) char data[];
};

void arena_init(struct arena *arena, size_t max_bytes)
{
    *arena = (struct arena){.max_bytes = max_bytes};
}

void *arena_alloc(struct arena *arena, size_t size_bytes)
{
    if (size_bytes > arena->max_bytes) {
        arena->overflowed = true;
        return NULL;
    }
    size_t need = round_up(size_max(size_bytes, 1), ARENA_ALIGN);
    if (need > arena->max_bytes - arena->used_bytes) {
        arena->overflowed = true;
        return NULL;
    }
    struct arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->room_bytes - chunk->used_bytes < need) {
        size_t room = size_max(need, ARENA_CHUNK_BYTES);
        chunk = calloc(1, sizeof *chunk + room);
        if (!chunk) {
            arena->overflowed = true;
            return NULL;
        }
        chunk->room_bytes = room;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
    }
    void *memory = chunk->data + chunk->used_bytes;
    chunk->used_bytes += need;
    arena->used_bytes += need;
    return memory;
}

char *arena_copy(struct arena *arena, struct span text)
{
    char *copy = arena_alloc(arena, text.size_bytes + 1);
    if (copy && text.size_bytes)
        memcpy(copy, text.data, text.size_bytes);
    return copy;
}

void arena_free(struct arena *arena)
{
    while (arena->chunks) {
        struct arena_chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    arena->used_bytes = 0;
    arena->overflowed = false;
}
