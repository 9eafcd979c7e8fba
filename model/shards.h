/*
 * shards: a checkpoint in several safetensors files with one index.
 *
 *     model.safetensors.index.json
 *         {"metadata": {"total_size": bytes of all tensors}, "weight_map": {tensor: file, ...}}
 *
 * Every file that the index names is mapped and read; each tensor must lie in the file that the
 * index says and in no other, none may be missing or more than the index has, and the sizes must
 * add up to total_size where it is given. Files lie beside the index: a name with a path in it is
 * refused. One thread at a time; the files must not change while they are open.
 */
#pragma once

#include <jansson.h>

#include "base/map_file.h"
#include "model/tensor.h"

#define SHARDS_MAX 1024
#define SHARDS_NAME_MAX_BYTES 200
#define SHARDS_INDEX_MAX_BYTES (16u << 20)

struct shard_index {
    const char *file; /* for errors, borrowed */
    json_t *root;
    json_t *weight_map;        /* tensor -> name of its file; all checked strings */
    uint64_t total_size_bytes; /* 0: not said */
    uint32_t count;
    const char *names[SHARDS_MAX]; /* [count] file names, by name */
};

/* INVALID names the member; a closed index (zeroed) may be closed again. */
enum status shard_index_read(struct span bytes, const char *file, struct shard_index *ret_index,
                             struct error *error);
void shard_index_close(struct shard_index *index);

struct shard {
    struct map_file map;
    struct tensor_list list;
};

struct shards {
    struct map_file index_map;
    struct shard_index index;
    struct shard *items; /* [index.count] */
};

/* Opens the index at `path` and all files beside it, and lists their tensors in `ret_list`, which
 * points into the shards. On failure `shards` may be half open: close it. NOT_FOUND, INVALID, IO,
 * EXHAUSTED. */
enum status shards_open(const char *path, struct shards *shards, struct tensor_list *ret_list,
                        struct error *error);
/* A closed object (zeroed) may be closed again. */
void shards_close(struct shards *shards);
