/*
 * types: the few words that every room speaks.
 *
 * CHECK aborts with a report in every build: use it for invariants whose breach would corrupt
 * another tenant's data. DCHECK is for invariants that are expensive or local; it is on unless
 * NDEBUG is set. Neither is for bad input: that is a `struct error`.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define array_count(a) (sizeof(a) / sizeof((a)[0]))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (unlikely(!(condition)))                                                                \
            check_failed(__FILE__, __LINE__, __func__, #condition);                                \
    } while (0)

#ifdef NDEBUG
#define DCHECK(condition) ((void)sizeof(condition))
#else
#define DCHECK(condition) CHECK(condition)
#endif

/* A view of bytes that somebody else owns. Not NUL-terminated. */
struct span {
    const char *data; /* [size_bytes], NULL only when size_bytes is 0 */
    size_t size_bytes;
};

static inline struct span span_of(const char *text)
{
    return (struct span){.data = text, .size_bytes = text ? strlen(text) : 0};
}

static inline bool span_equal(struct span a, struct span b)
{
    return a.size_bytes == b.size_bytes &&
           (a.size_bytes == 0 || memcmp(a.data, b.data, a.size_bytes) == 0);
}

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}
static inline uint32_t u32_min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
static inline uint32_t u32_max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static inline uint64_t u64_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Rounds `n` up to a multiple of `step` (any positive number). */
static inline size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}
static inline uint32_t div_up_u32(uint32_t n, uint32_t d)
{
    return (n + d - 1) / d;
}

static inline _Noreturn void check_failed(const char *file, int line, const char *function,
                                          const char *condition)
{
    fprintf(stderr, "galerne: broken invariant: %s (%s:%d in %s)\n", condition, file, line,
            function);
    abort();
}
