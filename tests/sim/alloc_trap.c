#include "tests/sim/alloc_trap.h"

static bool armed;
static struct alloc_counts counts;

void *__real_malloc(size_t size_bytes);
void *__real_calloc(size_t n, size_t size_bytes);
void *__real_realloc(void *memory, size_t size_bytes);
void *__real_aligned_alloc(size_t alignment, size_t size_bytes);
int __real_posix_memalign(void **ret_memory, size_t alignment, size_t size_bytes);
void __real_free(void *memory);

void *__wrap_malloc(size_t size_bytes);
void *__wrap_calloc(size_t n, size_t size_bytes);
void *__wrap_realloc(void *memory, size_t size_bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t size_bytes);
int __wrap_posix_memalign(void **ret_memory, size_t alignment, size_t size_bytes);
void __wrap_free(void *memory);

static void count(size_t size_bytes)
{
    if (!armed)
        return;
    counts.calls++;
    counts.last_bytes = size_bytes;
}

void alloc_trap_arm(void)
{
    counts = (struct alloc_counts){0};
    armed = true;
}

struct alloc_counts alloc_trap_disarm(void)
{
    armed = false;
    return counts;
}

void *__wrap_malloc(size_t size_bytes)
{
    count(size_bytes);
    return __real_malloc(size_bytes);
}

void *__wrap_calloc(size_t n, size_t size_bytes)
{
    count(n * size_bytes);
    return __real_calloc(n, size_bytes);
}

void *__wrap_realloc(void *memory, size_t size_bytes)
{
    count(size_bytes);
    return __real_realloc(memory, size_bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size_bytes)
{
    count(size_bytes);
    return __real_aligned_alloc(alignment, size_bytes);
}

int __wrap_posix_memalign(void **ret_memory, size_t alignment, size_t size_bytes)
{
    count(size_bytes);
    return __real_posix_memalign(ret_memory, alignment, size_bytes);
}

void __wrap_free(void *memory)
{
    count(0);
    __real_free(memory);
}
