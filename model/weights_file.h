/*
 * weights_file: one reader over both kinds of model on disk.
 *
 *     a directory   config.json and model.safetensors (Hugging Face), or several files with
 *                   model.safetensors.index.json (model/shards.h)
 *     a file        GGUF version 3
 *
 * It maps the file, reads its architecture and lists its tensors. A role takes its tensor by name
 * and states the shape and types that it expects; what differs is an error that prints both. When
 * all roles are bound, tensors that nobody took are an error that names them: a file that has more
 * than we compute is not the model that we would serve. One thread at a time; the file must not
 * change while it is open (see base/map_file.h).
 */
#pragma once

#include "base/gguf.h"
#include "base/map_file.h"
#include "model/arch.h"
#include "model/shards.h"
#include "model/tensor.h"

struct weights_file {
    char *path; /* of the file with the tensors, or of the index of several */
    bool is_gguf;
    struct map_file map;    /* closed when there are several */
    struct shards shards;   /* closed otherwise */
    struct gguf gguf;       /* when is_gguf */
    struct map_file config; /* config.json, otherwise */
    struct arch arch;
    struct tensor_list list;
};

/* NOT_FOUND, INVALID, UNSUPPORTED (an architecture), IO; names the file. */
enum status weights_file_open(const char *path, struct weights_file *ret_file, struct error *error);

/* A closed file (zeroed) may be closed again. */
void weights_file_close(struct weights_file *file);

/* Every type that a tensor of a file can have by itself, as a set for `struct tensor_want`. */
#define DTYPES_ALL ((1u << DTYPE_F8_E4M3) - 1)

struct tensor_want {
    uint32_t dtypes;    /* 1 << enum dtype, or'ed */
    const char *stored; /* or: as the file says, "I32"; NULL: one of dtypes */
    uint32_t n_dims;
    uint64_t dims[TENSOR_DIMS_MAX]; /* [n_dims] row-major */
};

/* The tensor of that name; marks it taken. INVALID when it is missing or of another shape;
 * UNSUPPORTED when its type is not among those wanted. */
enum status weights_file_take(struct weights_file *file, const char *name,
                              const struct tensor_want *want, const struct tensor **ret_tensor,
                              struct error *error);

/* The same of a tensor that may be absent: then `*ret_tensor` is NULL. */
enum status weights_file_take_optional(struct weights_file *file, const char *name,
                                       const struct tensor_want *want,
                                       const struct tensor **ret_tensor, struct error *error);

/* INVALID with the names of the tensors that nobody took. Buffers that old files hold and that are
 * computed anyway (rotary_emb.inv_freq) do not count, nor, of packed checkpoints, what is not used:
 * scales of activations and of a KV cache in 8 bits, and biases of zeros beside 4 bits. */
enum status weights_file_all_taken(const struct weights_file *file, struct error *error);

/* SHA-256 over the configuration, every tensor's name, type, shape and place, and the first bytes
 * of each: tells revisions of a model apart without reading all of it. */
enum status weights_file_digest(const struct weights_file *file, uint8_t ret_digest[32],
                                struct error *error);

/* SHA-256 over that digest and the sizes and times of change (mtime and ctime: the latter moves
 * whatever a copying program sets) of all files: what is derived from every byte of the model is
 * good as long as this stays the same. */
enum status weights_file_stamp(const struct weights_file *file, uint8_t ret_stamp[32],
                               struct error *error);

/* Tells the kernel that all of it is about to be read. */
void weights_file_read_ahead(const struct weights_file *file);
