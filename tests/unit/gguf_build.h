/*
 * gguf_build: GGUF files put together in memory, right or wrong, for tests.
 *
 * Keys first, then tensors, then gguf_build_finish. Tensors are laid out as the format wants;
 * tests that want lies patch the fields before or the bytes after.
 */
#pragma once

#include "base/gguf.h"

struct bytes {
    char *data; /* malloc'ed [capacity] */
    size_t size, capacity;
};

static inline void bytes_put(struct bytes *b, const void *data, size_t size)
{
    if (b->size + size > b->capacity) {
        b->capacity = (b->size + size) * 2;
        b->data = realloc(b->data, b->capacity);
        CHECK(b->data);
    }
    if (size)
        memcpy(b->data + b->size, data, size);
    b->size += size;
}

static inline void bytes_u32(struct bytes *b, uint32_t value)
{
    bytes_put(b, &value, sizeof value);
}

static inline void bytes_u64(struct bytes *b, uint64_t value)
{
    bytes_put(b, &value, sizeof value);
}

static inline void bytes_string(struct bytes *b, const char *text)
{
    bytes_u64(b, strlen(text));
    bytes_put(b, text, strlen(text));
}

static inline void bytes_pad(struct bytes *b, size_t alignment)
{
    while (b->size % alignment)
        bytes_put(b, "", 1);
}

struct gguf_build {
    uint32_t version;   /* 0: the right one */
    uint32_t alignment; /* 0: the default; written as a key when set */
    uint64_t n_keys, n_tensors;
    struct bytes keys, infos, data;
};

static inline void build_key(struct gguf_build *b, const char *name, enum gguf_type type)
{
    bytes_string(&b->keys, name);
    bytes_u32(&b->keys, type);
    b->n_keys++;
}

static inline void build_u32(struct gguf_build *b, const char *name, uint32_t value)
{
    build_key(b, name, GGUF_U32);
    bytes_u32(&b->keys, value);
}

static inline void build_f32(struct gguf_build *b, const char *name, float value)
{
    build_key(b, name, GGUF_F32);
    bytes_put(&b->keys, &value, sizeof value);
}

static inline void build_string(struct gguf_build *b, const char *name, const char *value)
{
    build_key(b, name, GGUF_STRING);
    bytes_string(&b->keys, value);
}

/* Type and count of an array; its values follow by bytes_*(&b->keys, ...). */
static inline void build_array(struct gguf_build *b, const char *name, enum gguf_type type,
                               uint64_t count)
{
    build_key(b, name, GGUF_ARRAY);
    bytes_u32(&b->keys, type);
    bytes_u64(&b->keys, count);
}

/* The description alone; dims[0] is contiguous. */
static inline void build_info(struct gguf_build *b, const char *name, uint32_t type,
                              uint32_t n_dims, const uint64_t *dims, uint64_t offset)
{
    bytes_string(&b->infos, name);
    bytes_u32(&b->infos, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        bytes_u64(&b->infos, dims[d]);
    bytes_u32(&b->infos, type);
    bytes_u64(&b->infos, offset);
    b->n_tensors++;
}

/* Description and data; zeros when `data` is NULL. */
static inline void build_tensor(struct gguf_build *b, const char *name, uint32_t type,
                                uint32_t n_dims, const uint64_t *dims, const void *data,
                                size_t size)
{
    bytes_pad(&b->data, b->alignment ? b->alignment : GGUF_ALIGNMENT_DEFAULT);
    build_info(b, name, type, n_dims, dims, b->data.size);
    for (size_t i = 0; !data && i < size; i++)
        bytes_put(&b->data, "", 1);
    if (data)
        bytes_put(&b->data, data, size);
}

/* The whole file; frees the build. */
static inline struct bytes gguf_build_finish(struct gguf_build *b)
{
    struct bytes file = {0};
    bytes_put(&file, "GGUF", 4);
    bytes_u32(&file, b->version ? b->version : GGUF_VERSION);
    bytes_u64(&file, b->n_tensors);
    bytes_u64(&file, b->n_keys + (b->alignment ? 1 : 0));
    if (b->alignment) {
        bytes_string(&file, "general.alignment");
        bytes_u32(&file, GGUF_U32);
        bytes_u32(&file, b->alignment);
    }
    bytes_put(&file, b->keys.data, b->keys.size);
    bytes_put(&file, b->infos.data, b->infos.size);
    if (b->data.size)
        bytes_pad(&file, b->alignment ? b->alignment : GGUF_ALIGNMENT_DEFAULT);
    bytes_put(&file, b->data.data, b->data.size);
    free(b->keys.data);
    free(b->infos.data);
    free(b->data.data);
    *b = (struct gguf_build){0};
    return file;
}
