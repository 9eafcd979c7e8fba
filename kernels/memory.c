#include "kernels/memory.h"

#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* Weights and KV pages are read in long runs or in many places: with small pages the walks of the
 * page table cost as much as the reading. A system that has no huge pages says so, and nothing is
 * lost. */
static void pages_widen(uintptr_t start, size_t size_bytes)
{
    uintptr_t first = round_up(start, HUGE_PAGE_BYTES);
    uintptr_t end = (start + size_bytes) & ~(uintptr_t)(HUGE_PAGE_BYTES - 1);
    if (end > first)
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
}

/* calloc knows which pages are zero already; aligned_alloc with memset would touch them all. So the
 * aligned address is found inside a larger piece, whose own address is kept in front of it. */
void *memory_alloc(size_t size_bytes)
{
    if (size_bytes > SIZE_MAX / 2)
        return NULL;
    char *raw = calloc(1, size_bytes + 2 * MEMORY_LINE_BYTES);
    if (!raw)
        return NULL;
    uintptr_t start =
        ((uintptr_t)raw + sizeof raw + MEMORY_LINE_BYTES - 1) & ~(uintptr_t)(MEMORY_LINE_BYTES - 1);
    memcpy((char *)start - sizeof raw, &raw, sizeof raw);
    if (size_bytes >= 4 * HUGE_PAGE_BYTES)
        pages_widen(start, size_bytes);
    return (void *)start;
}

void memory_free(void *memory)
{
    if (!memory)
        return;
    char *raw;
    memcpy(&raw, (char *)memory - sizeof raw, sizeof raw);
    free(raw);
}

void *scratch_need(struct scratch *scratch, size_t size_bytes)
{
    if (scratch->data && scratch->size_bytes >= size_bytes)
        return scratch->data;
    void *data = memory_alloc(size_bytes);
    if (!data)
        return NULL;
    memory_free(scratch->data);
    scratch->data = data;
    scratch->size_bytes = size_bytes;
    return data;
}

void scratch_free(struct scratch *scratch)
{
    memory_free(scratch->data);
    *scratch = (struct scratch){0};
}

size_t size_product(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}
