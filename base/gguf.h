/*
 * gguf: the GGUF container, version 3, over bytes that somebody mapped.
 *
 * A GGUF file is a header, a list of typed keys ("metadata"), a list of tensors and their data:
 *
 *     "GGUF" | version u32 | tensor count u64 | key count u64
 *     per key     name | type u32 | value            (array: element type u32 | count u64 | values)
 *     per tensor  name | n_dims u32 | dims u64[n_dims] | type u32 | offset u64
 *     padding to the alignment | tensor data, each tensor at a multiple of the alignment
 *
 * Everything is little-endian; a string is its length (u64) and its bytes. gguf_open reads and
 * checks all of it before it returns, so that the getters and tensors need no further bounds
 * checks: counts against what the file can hold, strings, types, alignment, sizes without
 * overflow, data in bounds without overlap or holes, no name twice. Nested arrays are refused.
 * What it keeps points into the bytes, which must outlive it.
 *
 * It knows the storage of every tensor type (so that bounds can be checked), not its arithmetic.
 * After gguf_open a `struct gguf` is read-only: any thread may read it.
 */
#pragma once

#include "base/arena.h"
#include "base/status.h"

#define GGUF_VERSION 3
#define GGUF_DIMS_MAX 4
#define GGUF_ENTRIES_MAX 65536  /* keys, and tensors */
#define GGUF_NAME_MAX_BYTES 512 /* of a key or tensor */
#define GGUF_ALIGNMENT_DEFAULT 32

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT,
};

/* Tensor types that the product computes with; the file's own numbers. Others have a name only. */
enum gguf_tensor_type {
    GGUF_TENSOR_F32 = 0,
    GGUF_TENSOR_F16 = 1,
    GGUF_TENSOR_Q4_0 = 2,
    GGUF_TENSOR_Q4_1 = 3,
    GGUF_TENSOR_Q8_0 = 8,
    GGUF_TENSOR_BF16 = 30,
};

/* Values of one type, one after the other, at any alignment. */
struct gguf_array {
    enum gguf_type type; /* of the elements; never GGUF_ARRAY */
    uint64_t count;
    struct span bytes; /* strings: each a u64 length and its bytes */
};

struct gguf_key {
    struct span name;
    enum gguf_type type;
    struct gguf_array value; /* a scalar is an array of one */
};

struct gguf_tensor {
    struct span name;
    uint32_t type;                /* enum gguf_tensor_type, or another known number */
    const char *type_name;        /* "Q4_1" */
    uint32_t n_dims;              /* 1..GGUF_DIMS_MAX */
    uint64_t dims[GGUF_DIMS_MAX]; /* [n_dims], all > 0; dims[0] is contiguous; the rest are 1 */
    const uint8_t *data;
    size_t size_bytes;
};

struct gguf {
    const char *file; /* for errors, borrowed */
    uint32_t alignment_bytes;
    uint32_t keys_count;
    uint32_t tensors_count;
    struct gguf_key *keys;       /* [keys_count], by name */
    struct gguf_tensor *tensors; /* [tensors_count], by name */
    struct arena arena;
};

/* Reads `bytes`; `file` is for errors and must outlive the gguf. INVALID, UNSUPPORTED (a version or
 * type that we know of and do not read), EXHAUSTED. */
enum status gguf_open(struct span bytes, const char *file, struct gguf *ret_gguf,
                      struct error *error);

/* A closed gguf (zeroed) may be closed again. */
void gguf_close(struct gguf *gguf);

/* True when the first bytes are GGUF's, whatever follows. */
bool gguf_magic(struct span bytes);

/* NULL when there is none of that name. */
const struct gguf_key *gguf_key_find(const struct gguf *gguf, const char *name);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name);

/*
 * Typed getters. NOT_FOUND when the key is absent; INVALID when it is of another type or out of
 * range, with both named. Integers of every width are taken as long as the value fits; f32 takes
 * F64 as well when it is finite in f32. Strings are not NUL-terminated.
 */
enum status gguf_get_u32(const struct gguf *gguf, const char *name, uint32_t *ret_value,
                         struct error *error);
enum status gguf_get_u64(const struct gguf *gguf, const char *name, uint64_t *ret_value,
                         struct error *error);
enum status gguf_get_f32(const struct gguf *gguf, const char *name, float *ret_value,
                         struct error *error);
enum status gguf_get_bool(const struct gguf *gguf, const char *name, bool *ret_value,
                          struct error *error);
enum status gguf_get_string(const struct gguf *gguf, const char *name, struct span *ret_text,
                            struct error *error);
/* An array whose elements are exactly of `type`. */
enum status gguf_get_array(const struct gguf *gguf, const char *name, enum gguf_type type,
                           struct gguf_array *ret_array, struct error *error);

/* Elements of an array of that type; `index` < count. */
int32_t gguf_array_i32(const struct gguf_array *array, uint64_t index);
float gguf_array_f32(const struct gguf_array *array, uint64_t index);

/*
 * Walks an array of strings: start with *cursor = 0; returns false at the end.
 *
 *     size_t cursor = 0;
 *     while (gguf_array_string(&array, &cursor, &text)) ...
 */
bool gguf_array_string(const struct gguf_array *array, size_t *cursor, struct span *ret_text);

const char *gguf_type_name(enum gguf_type type);
