/*
 * memory: host memory as the CPU backends hand it out, and scratch that grows.
 *
 * Everything is zeroed and starts on a 64-byte line. Large pieces come from the kernel as untouched
 * zero pages, so that a KV pool costs only what is written; they are huge pages where the system
 * has some. One thread at a time per object.
 */
#pragma once

#include "base/types.h"

#define MEMORY_LINE_BYTES 64

/* NULL when memory is out or `size_bytes` is absurd. Size 0 gives a unique address. */
void *memory_alloc(size_t size_bytes);
/* NULL is allowed. */
void memory_free(void *memory);

/* Working memory of an op. Its contents do not survive a call of scratch_need. */
struct scratch {
    void *data;
    size_t size_bytes;
};

/* At least `size_bytes`, 64-byte aligned, contents unspecified; grows when it must. NULL when
 * memory is out: the old memory is then kept. */
void *scratch_need(struct scratch *scratch, size_t size_bytes);
void scratch_free(struct scratch *scratch);

/* a * b, or SIZE_MAX on overflow, which no allocation can satisfy. */
size_t size_product(size_t a, size_t b);
