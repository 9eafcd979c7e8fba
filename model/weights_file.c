#include "model/weights_file.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/safetensors.h"

#define CONFIG_MAX_BYTES (1u << 20)
#define CONFIG_VALUES_MAX 65536
#define DIGEST_SAMPLE_BYTES 256

static const struct {
    uint32_t type;
    enum dtype dtype;
} gguf_dtypes[] = {
    {GGUF_TENSOR_F32, DTYPE_F32},   {GGUF_TENSOR_F16, DTYPE_F16},   {GGUF_TENSOR_BF16, DTYPE_BF16},
    {GGUF_TENSOR_Q8_0, DTYPE_Q8_0}, {GGUF_TENSOR_Q4_0, DTYPE_Q4_0}, {GGUF_TENSOR_Q4_1, DTYPE_Q4_1},
};

static struct span map_span(const struct map_file *map)
{
    return (struct span){.data = (const char *)map->data, .size_bytes = map->size_bytes};
}

/* GGUF writes the contiguous dimension first; a tensor's dims have it last. */
static void tensor_of_gguf(const struct gguf_tensor *from, struct tensor *to)
{
    *to = (struct tensor){
        .name = from->name,
        .dtype = DTYPE_COUNT,
        .type_name = from->type_name,
        .n_dims = from->n_dims,
        .data = from->data,
        .size_bytes = from->size_bytes,
    };
    for (uint32_t d = 0; d < from->n_dims; d++)
        to->dims[d] = from->dims[from->n_dims - 1 - d];
    for (size_t i = 0; i < array_count(gguf_dtypes); i++)
        if (gguf_dtypes[i].type == from->type)
            to->dtype = gguf_dtypes[i].dtype;
}

static enum status open_gguf(struct weights_file *file, struct error *error)
{
    struct tensor_list *list = &file->list;
    enum status status = gguf_open(map_span(&file->map), file->path, &file->gguf, error);
    if (status)
        return status;
    list->tensors = arena_alloc(&list->arena, file->gguf.tensors_count * sizeof *list->tensors);
    if (!list->tensors)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", file->path);
    list->count = file->gguf.tensors_count;
    for (uint32_t i = 0; i < list->count; i++)
        tensor_of_gguf(&file->gguf.tensors[i], &list->tensors[i]);
    list->header = map_span(&file->map);
    for (uint32_t i = 0; i < list->count; i++)
        list->header.size_bytes =
            size_min(list->header.size_bytes, (size_t)(list->tensors[i].data - file->map.data));
    return arch_from_gguf(&file->gguf, &file->arch, error);
}

static char *path_join(const char *directory, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

static enum status read_config(const char *path, struct weights_file *file, struct error *error)
{
    const struct json_limits limits = {.max_bytes = CONFIG_MAX_BYTES,
                                       .values_max = CONFIG_VALUES_MAX};
    json_t *root = NULL;
    enum status status = map_file_open(path, CONFIG_MAX_BYTES, &file->config, error);
    if (!status)
        status = json_read_text(map_span(&file->config), path, &limits, &root, error);
    if (!status)
        status = arch_from_json(root, path, &file->arch, error);
    json_decref(root);
    return status;
}

static enum status open_directory(const char *directory, struct weights_file *file,
                                  struct error *error)
{
    enum status status = STATUS_EXHAUSTED;
    char *config = path_join(directory, "config.json");
    char *index = path_join(directory, "model.safetensors.index.json");
    file->path = path_join(directory, "model.safetensors");
    if (!config || !index || !file->path) {
        error_set(error, status, "%s: out of memory", directory);
        goto out;
    }
    status = read_config(config, file, error);
    if (status)
        goto out;
    if (access(file->path, F_OK) != 0 && access(index, F_OK) == 0) {
        free(file->path);
        file->path = index;
        index = NULL;
        status = shards_open(file->path, &file->shards, &file->list, error);
        goto out;
    }
    status = map_file_open(file->path, SIZE_MAX, &file->map, error);
    if (!status)
        status = safetensors_read(map_span(&file->map), file->path, &file->list, error);
out:
    free(config);
    free(index);
    return status;
}

static enum status open_file(const char *path, struct weights_file *file, struct error *error)
{
    file->path = strdup(path);
    if (!file->path)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    enum status status = map_file_open(path, SIZE_MAX, &file->map, error);
    if (!status && !gguf_magic(map_span(&file->map)))
        return error_set(error, STATUS_INVALID,
                         "%s: expected a GGUF file, or the directory that holds config.json and "
                         "model.safetensors",
                         path);
    return status ? status : open_gguf(file, error);
}

enum status weights_file_open(const char *path, struct weights_file *ret_file, struct error *error)
{
    struct weights_file file = {0};
    struct stat facts;
    arena_init(&file.list.arena, SIZE_MAX);
    if (stat(path, &facts) < 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s", path,
                         strerror(errno));
    file.is_gguf = !S_ISDIR(facts.st_mode);
    enum status status =
        file.is_gguf ? open_file(path, &file, error) : open_directory(path, &file, error);
    if (status)
        weights_file_close(&file);
    else
        *ret_file = file;
    return status;
}

void weights_file_close(struct weights_file *file)
{
    tensor_list_close(&file->list);
    gguf_close(&file->gguf);
    shards_close(&file->shards);
    map_file_close(&file->map);
    map_file_close(&file->config);
    free(file->path);
    *file = (struct weights_file){0};
}

struct text_buffer {
    char text[160];
    size_t length;
};

static void buffer_add(struct text_buffer *b, const char *text)
{
    int n = snprintf(b->text + b->length, sizeof b->text - b->length, "%s", text);
    b->length = size_min(b->length + (size_t)n, sizeof b->text - 1);
}

/* "[192, 64]" */
static void buffer_add_shape(struct text_buffer *b, uint32_t n_dims, const uint64_t *dims)
{
    char number[32];
    buffer_add(b, " [");
    for (uint32_t d = 0; d < n_dims; d++) {
        snprintf(number, sizeof number, "%s%" PRIu64, d ? ", " : "", dims[d]);
        buffer_add(b, number);
    }
    buffer_add(b, "]");
}

static struct text_buffer want_text(const struct tensor_want *want)
{
    struct text_buffer b = {.length = 0};
    uint32_t left = want->stored ? 0 : want->dtypes;
    if (want->stored)
        buffer_add(&b, want->stored);
    for (uint32_t t = 0; t < DTYPE_COUNT; t++) {
        if (!(left & (1u << t)))
            continue;
        left &= ~(1u << t);
        buffer_add(&b, dtype_name((enum dtype)t));
        if (left)
            buffer_add(&b, left & (left - 1) ? ", " : " or ");
    }
    buffer_add_shape(&b, want->n_dims, want->dims);
    return b;
}

enum status weights_file_take(struct weights_file *file, const char *name,
                              const struct tensor_want *want, const struct tensor **ret_tensor,
                              struct error *error)
{
    struct tensor *tensor = tensor_list_find(&file->list, name);
    if (!tensor)
        return error_set(error, STATUS_INVALID, "%s: tensor %s is missing, expected %s", file->path,
                         name, want_text(want).text);
    bool type_fits = want->stored
                         ? strcmp(tensor->type_name, want->stored) == 0
                         : tensor->dtype != DTYPE_COUNT && (want->dtypes & (1u << tensor->dtype));
    bool shape_fits = tensor->n_dims == want->n_dims;
    for (uint32_t d = 0; shape_fits && d < want->n_dims; d++)
        shape_fits = tensor->dims[d] == want->dims[d];
    if (!type_fits || !shape_fits) {
        struct text_buffer got = {.length = 0};
        buffer_add(&got, tensor->type_name);
        buffer_add_shape(&got, tensor->n_dims, tensor->dims);
        return error_set(error, shape_fits ? STATUS_UNSUPPORTED : STATUS_INVALID,
                         "%s: tensor %s: expected %s, got %s", file->path, name,
                         want_text(want).text, got.text);
    }
    tensor->taken = true;
    *ret_tensor = tensor;
    return STATUS_OK;
}

enum status weights_file_take_optional(struct weights_file *file, const char *name,
                                       const struct tensor_want *want,
                                       const struct tensor **ret_tensor, struct error *error)
{
    if (tensor_list_find(&file->list, name))
        return weights_file_take(file, name, want, ret_tensor, error);
    *ret_tensor = NULL;
    return STATUS_OK;
}

static bool name_ends(struct span name, const char *end)
{
    size_t length = strlen(end);
    return name.size_bytes >= length &&
           memcmp(name.data + name.size_bytes - length, end, length) == 0;
}

static bool all_zero(const struct tensor *tensor)
{
    size_t i = 0;
    while (i < tensor->size_bytes && tensor->data[i] == 0)
        i++;
    return i == tensor->size_bytes;
}

/* Tensors that are no part of what we compute: see the header. */
static bool is_unused(const struct weights_file *file, const struct tensor *tensor)
{
    static const char *const scales[] = {".input_scale", ".activation_scale", ".k_scale",
                                         ".v_scale"};
    enum packing_kind kind = file->arch.packing.kind;
    for (size_t i = 0; i < array_count(scales); i++)
        if (kind == PACKING_F8 && name_ends(tensor->name, scales[i]))
            return true;
    return name_ends(tensor->name, "rotary_emb.inv_freq") ||
           (kind > PACKING_F8 && name_ends(tensor->name, ".bias") && all_zero(tensor));
}

enum status weights_file_all_taken(const struct weights_file *file, struct error *error)
{
    struct text_buffer names = {.length = 0};
    uint32_t count = 0;
    for (uint32_t i = 0; i < file->list.count; i++) {
        const struct tensor *tensor = &file->list.tensors[i];
        char name[64];
        if (tensor->taken || is_unused(file, tensor))
            continue;
        snprintf(name, sizeof name, "%s%.*s", count ? ", " : "",
                 (int)size_min(tensor->name.size_bytes, sizeof name - 3), tensor->name.data);
        if (count < 3)
            buffer_add(&names, name);
        count++;
    }
    if (count)
        return error_set(error, STATUS_INVALID,
                         "%s: %u tensors that the architecture %s does not have: %s%s", file->path,
                         count, file->arch.name, names.text, count > 3 ? ", ..." : "");
    return STATUS_OK;
}

enum status weights_file_digest(const struct weights_file *file, uint8_t ret_digest[32],
                                struct error *error)
{
    gnutls_hash_hd_t hash;
    uint8_t digest[32];
    int failure = gnutls_hash_init(&hash, GNUTLS_DIG_SHA256);
    if (failure)
        return error_set(error, STATUS_INTERNAL, "SHA-256: %s", gnutls_strerror(failure));
    uint64_t sizes[2] = {file->map.size_bytes, file->config.size_bytes};
    failure = gnutls_hash(hash, sizes, sizeof sizes);
    if (!failure && file->config.size_bytes)
        failure = gnutls_hash(hash, file->config.data, file->config.size_bytes);
    if (!failure)
        failure = gnutls_hash(hash, file->list.header.data, file->list.header.size_bytes);
    for (uint32_t i = 0; i < file->shards.index.count && !failure; i++)
        failure = gnutls_hash(hash, file->shards.items[i].list.header.data,
                              file->shards.items[i].list.header.size_bytes);
    for (uint32_t i = 0; i < file->list.count && !failure; i++)
        failure = gnutls_hash(hash, file->list.tensors[i].data,
                              size_min(file->list.tensors[i].size_bytes, DIGEST_SAMPLE_BYTES));
    gnutls_hash_deinit(hash, digest);
    if (failure)
        return error_set(error, STATUS_INTERNAL, "SHA-256: %s", gnutls_strerror(failure));
    memcpy(ret_digest, digest, sizeof digest);
    return STATUS_OK;
}

enum status weights_file_stamp(const struct weights_file *file, uint8_t ret_stamp[32],
                               struct error *error)
{
    gnutls_hash_hd_t hash;
    uint8_t digest[32];
    enum status status = weights_file_digest(file, digest, error);
    if (status)
        return status;
    int failure = gnutls_hash_init(&hash, GNUTLS_DIG_SHA256);
    if (failure)
        return error_set(error, STATUS_INTERNAL, "SHA-256: %s", gnutls_strerror(failure));
    failure = gnutls_hash(hash, digest, sizeof digest);
    for (uint32_t i = 0; i <= file->shards.index.count && !failure; i++) {
        const struct map_file *map = i ? &file->shards.items[i - 1].map : &file->map;
        uint64_t facts[] = {map->size_bytes, map->changed_ns, map->touched_ns};
        failure = gnutls_hash(hash, facts, sizeof facts);
    }
    gnutls_hash_deinit(hash, digest);
    if (failure)
        return error_set(error, STATUS_INTERNAL, "SHA-256: %s", gnutls_strerror(failure));
    memcpy(ret_stamp, digest, sizeof digest);
    return STATUS_OK;
}

void weights_file_read_ahead(const struct weights_file *file)
{
    map_file_read_ahead(&file->map);
    for (uint32_t i = 0; i < file->shards.index.count; i++)
        map_file_read_ahead(&file->shards.items[i].map);
}
