/*
 * tensor: what a weight file holds, whatever its container.
 *
 * safetensors.c and weights_file.c (for GGUF) turn a file's header into a list of these, checked
 * against the file's size: `data` has exactly `size_bytes` bytes, no two tensors overlap, no name
 * is there twice. The list points into the mapped file, which must outlive it.
 */
#pragma once

#include "base/arena.h"
#include "kernels/ops.h"

#define TENSOR_DIMS_MAX 4

struct tensor {
    struct span name;
    enum dtype dtype;               /* DTYPE_COUNT: known storage that we do not compute with */
    const char *type_name;          /* as the file says: "BF16", "Q6_K" */
    uint32_t n_dims;                /* 0..TENSOR_DIMS_MAX */
    uint64_t dims[TENSOR_DIMS_MAX]; /* [n_dims], all > 0; row-major: the last is contiguous */
    const uint8_t *data;            /* any alignment */
    size_t size_bytes;
    bool taken; /* a role uses it */
};

struct tensor_list {
    struct tensor *tensors; /* [count], by name */
    uint32_t count;
    struct span header; /* the bytes that describe the tensors */
    struct arena arena;
};

/* Sorts by name; to be called once, when the list is complete. */
void tensor_list_sort(struct tensor_list *list);

/* NULL when there is none of that name. */
struct tensor *tensor_list_find(const struct tensor_list *list, const char *name);

/* A closed list (zeroed) may be closed again. */
void tensor_list_close(struct tensor_list *list);

/* INVALID: value `at` of the tensor is not a finite number. `path` is its file's. */
enum status tensor_not_finite(const struct tensor *tensor, const char *path, size_t at,
                              struct error *error);
