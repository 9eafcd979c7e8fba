#include "model/shards.h"

#include <inttypes.h>

#include "base/json_read.h"
#include "model/safetensors.h"

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool name_is_good(const char *name)
{
    static const char ending[] = ".safetensors";
    size_t length = strlen(name), end = sizeof ending - 1;
    return length > end && length <= SHARDS_NAME_MAX_BYTES && !strchr(name, '/') &&
           name[0] != '.' && strcmp(name + length - end, ending) == 0;
}

/* The file names without repetition. The map may be large, so it is sorted once. */
static enum status names_collect(struct shard_index *index, struct error *error)
{
    const char *tensor;
    json_t *value;
    size_t count = 0, n = json_object_size(index->weight_map);
    const char **all = malloc((n + 1) * sizeof *all);
    enum status status = STATUS_OK;
    if (!all)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", index->file);
    json_object_foreach (index->weight_map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !name_is_good(name)) {
            status = error_set(error, STATUS_INVALID,
                               "%s: weight_map.%.80s: expected the name of a .safetensors file in "
                               "the same directory, got %.80s",
                               index->file, tensor, name ? name : json_kind_text(value));
            break;
        }
        all[count++] = name;
    }
    if (!status && count)
        qsort(all, count, sizeof *all, name_compare);
    for (size_t i = 0; i < count && !status; i++) {
        if (i > 0 && strcmp(all[i], all[i - 1]) == 0)
            continue;
        if (index->count == SHARDS_MAX)
            status = error_set(error, STATUS_INVALID, "%s: weight_map: more than %d files",
                               index->file, SHARDS_MAX);
        else
            index->names[index->count++] = all[i];
    }
    free(all);
    return status;
}

static enum status index_fill(struct shard_index *index, struct error *error)
{
    struct json_at root = {.file = index->file, .parent = "", .object = index->root};
    struct json_at metadata = {.file = index->file, .parent = "metadata"};
    const json_t *map = NULL;
    struct json_range_u64 range = {1, INT64_MAX};
    enum status status = json_get_object(&root, "weight_map", &map, error);
    if (!status && json_object_size(map) == 0)
        return error_set(error, STATUS_INVALID, "%s: weight_map: it is empty", index->file);
    if (!status && json_has(&root, "metadata"))
        status = json_get_object(&root, "metadata", &metadata.object, error);
    if (!status && metadata.object && json_has(&metadata, "total_size"))
        status = json_get_u64(&metadata, "total_size", range, &index->total_size_bytes, error);
    if (status)
        return status;
    index->weight_map = json_object_get(index->root, "weight_map"); /* the same, for walking */
    return names_collect(index, error);
}

enum status shard_index_read(struct span bytes, const char *file, struct shard_index *ret_index,
                             struct error *error)
{
    const struct json_limits limits = {.max_bytes = SHARDS_INDEX_MAX_BYTES,
                                       .values_max = SAFETENSORS_TENSORS_MAX + 64};
    struct shard_index index = {.file = file};
    enum status status = json_read_text(bytes, file, &limits, &index.root, error);
    if (!status)
        status = index_fill(&index, error);
    if (status)
        shard_index_close(&index);
    else
        *ret_index = index;
    return status;
}

void shard_index_close(struct shard_index *index)
{
    json_decref(index->root);
    *index = (struct shard_index){0};
}

static enum status shard_open(const struct shard_index *index, uint32_t i, struct shard *shard,
                              struct error *error)
{
    const char *slash = strrchr(index->file, '/');
    char *path = NULL;
    int directory = slash ? (int)(slash - index->file) + 1 : 0;
    if (asprintf(&path, "%.*s%s", directory, index->file, index->names[i]) < 0)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", index->file);
    enum status status = map_file_open(path, SIZE_MAX, &shard->map, error);
    if (!status) {
        struct span bytes = {(const char *)shard->map.data, shard->map.size_bytes};
        status = safetensors_read(bytes, path, &shard->list, error);
    }
    free(path);
    return status;
}

/* The tensors of one file join the list; each must be where the index says. */
static enum status shard_list(const struct shards *shards, uint32_t i, struct tensor_list *list,
                              struct error *error)
{
    const struct shard_index *index = &shards->index;
    const struct tensor_list *from = &shards->items[i].list;
    for (uint32_t t = 0; t < from->count; t++) {
        const char *name = from->tensors[t].name.data; /* ends with a NUL, as in safetensors.c */
        const char *said = json_string_value(json_object_get(index->weight_map, name));
        if (!said)
            return error_set(error, STATUS_INVALID, "%s: tensor %s of %s is missing in weight_map",
                             index->file, name, index->names[i]);
        if (strcmp(said, index->names[i]) != 0)
            return error_set(error, STATUS_INVALID,
                             "%s: tensor %s is in %s, but weight_map says %s", index->file, name,
                             index->names[i], said);
        list->tensors[list->count++] = from->tensors[t];
    }
    return STATUS_OK;
}

/* As many tensors as names, each name with its tensor: none is missing and none is there twice. */
static enum status list_check(const struct shards *shards, struct tensor_list *list,
                              struct error *error)
{
    const struct shard_index *index = &shards->index;
    const char *name;
    json_t *value;
    uint64_t total_bytes = 0;
    json_object_foreach (index->weight_map, name, value)
        if (!tensor_list_find(list, name))
            return error_set(error, STATUS_INVALID,
                             "%s: weight_map.%s: the tensor is missing in %s", index->file, name,
                             json_string_value(value));
    for (uint32_t i = 0; i < list->count; i++)
        total_bytes += list->tensors[i].size_bytes;
    if (index->total_size_bytes && index->total_size_bytes != total_bytes)
        return error_set(error, STATUS_INVALID,
                         "%s: metadata.total_size: %" PRIu64 " bytes, but the tensors of its files "
                         "have %" PRIu64 ": are they of one revision?",
                         index->file, index->total_size_bytes, total_bytes);
    return STATUS_OK;
}

enum status shards_open(const char *path, struct shards *shards, struct tensor_list *ret_list,
                        struct error *error)
{
    struct tensor_list list = {0};
    uint64_t count = 0;
    arena_init(&list.arena, SIZE_MAX);
    enum status status = map_file_open(path, SHARDS_INDEX_MAX_BYTES, &shards->index_map, error);
    if (status)
        return status;
    struct span bytes = {(const char *)shards->index_map.data, shards->index_map.size_bytes};
    status = shard_index_read(bytes, path, &shards->index, error);
    if (status)
        return status;
    shards->items = calloc(shards->index.count, sizeof *shards->items);
    if (!shards->items)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    for (uint32_t i = 0; i < shards->index.count && !status; i++) {
        status = shard_open(&shards->index, i, &shards->items[i], error);
        count += shards->items[i].list.count;
    }
    if (!status) {
        list.tensors = arena_alloc(&list.arena, count * sizeof *list.tensors);
        if (!list.tensors)
            status = error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    }
    for (uint32_t i = 0; i < shards->index.count && !status; i++)
        status = shard_list(shards, i, &list, error);
    list.header = bytes;
    tensor_list_sort(&list);
    if (!status)
        status = list_check(shards, &list, error);
    if (status)
        arena_free(&list.arena);
    else
        *ret_list = list;
    return status;
}

void shards_close(struct shards *shards)
{
    for (uint32_t i = 0; shards->items && i < shards->index.count; i++) {
        tensor_list_close(&shards->items[i].list);
        map_file_close(&shards->items[i].map);
    }
    free(shards->items);
    shard_index_close(&shards->index);
    map_file_close(&shards->index_map);
    *shards = (struct shards){0};
}
