#include "model/safetensors.h"

#include <inttypes.h>

#include "base/json_read.h"

#define LENGTH_BYTES 8

static const struct {
    const char *name;
    uint32_t size_bytes;
    enum dtype dtype;
} types[] = {
    {"F32", 4, DTYPE_F32},       {"F16", 2, DTYPE_F16},       {"BF16", 2, DTYPE_BF16},
    {"F64", 8, DTYPE_COUNT},     {"F8_E4M3", 1, DTYPE_COUNT}, {"F8_E5M2", 1, DTYPE_COUNT},
    {"F8_E8M0", 1, DTYPE_COUNT}, {"I64", 8, DTYPE_COUNT},     {"I32", 4, DTYPE_COUNT},
    {"I16", 2, DTYPE_COUNT},     {"I8", 1, DTYPE_COUNT},      {"U64", 8, DTYPE_COUNT},
    {"U32", 4, DTYPE_COUNT},     {"U16", 2, DTYPE_COUNT},     {"U8", 1, DTYPE_COUNT},
    {"BOOL", 1, DTYPE_COUNT},    {"C64", 8, DTYPE_COUNT},
};

/* What reading one file carries along. */
struct reader {
    const char *file;
    struct span data; /* after the header */
    struct error *error;
};

static enum status fault(const struct reader *r, const char *name, const char *cause)
{
    return error_set(r->error, STATUS_INVALID, "%s: tensor %s: %s", r->file, name, cause);
}

static enum status header_find(struct span bytes, const char *file, struct span *ret_header,
                               struct error *error)
{
    uint64_t length = 0;
    if (bytes.size_bytes < LENGTH_BYTES)
        return error_set(error, STATUS_INVALID,
                         "%s: %zu bytes, expected a safetensors file of 8 or more", file,
                         bytes.size_bytes);
    memcpy(&length, bytes.data, sizeof length);
    if (length < 2 || length > SAFETENSORS_HEADER_MAX_BYTES)
        return error_set(error, STATUS_INVALID,
                         "%s: header of %" PRIu64 " bytes, expected 2..%u (is it safetensors?)",
                         file, length, SAFETENSORS_HEADER_MAX_BYTES);
    if (length > bytes.size_bytes - LENGTH_BYTES)
        return error_set(error, STATUS_INVALID,
                         "%s: header of %" PRIu64 " bytes, the file has %zu after its length: "
                         "it is truncated",
                         file, length, bytes.size_bytes - LENGTH_BYTES);
    *ret_header = (struct span){bytes.data + LENGTH_BYTES, (size_t)length};
    return STATUS_OK;
}

static enum status read_type(const struct reader *r, const struct json_at *at,
                             struct tensor *tensor, uint32_t *ret_item_bytes)
{
    const char *text = NULL;
    enum status status = json_get_string(at, "dtype", &text, r->error);
    if (status)
        return status;
    for (size_t i = 0; i < array_count(types); i++)
        if (strcmp(types[i].name, text) == 0) {
            tensor->dtype = types[i].dtype;
            tensor->type_name = types[i].name;
            *ret_item_bytes = types[i].size_bytes;
            return STATUS_OK;
        }
    return error_set(r->error, STATUS_INVALID, "%s: tensor %s: unknown dtype \"%.40s\"", r->file,
                     at->parent, text);
}

/* Shape and item size to bytes, without overflow. */
static enum status read_shape(const struct reader *r, const struct json_at *at,
                              struct tensor *tensor, uint64_t *size_bytes)
{
    const json_t *shape = NULL;
    enum status status = json_get_array(at, "shape", &shape, r->error);
    if (status)
        return status;
    if (json_array_size(shape) > TENSOR_DIMS_MAX)
        return fault(r, at->parent, "more than 4 dimensions");
    tensor->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t d = 0; d < tensor->n_dims; d++) {
        const json_t *item = json_array_get(shape, d);
        json_int_t n = json_integer_value(item);
        if (!json_is_integer(item) || n < 1)
            return fault(r, at->parent, "shape: expected integers of 1 or more");
        tensor->dims[d] = (uint64_t)n;
        if (__builtin_mul_overflow(*size_bytes, (uint64_t)n, size_bytes))
            return fault(r, at->parent, "shape: its bytes overflow 64 bits");
    }
    return STATUS_OK;
}

_Static_assert(TENSOR_DIMS_MAX == 4, "the message above says so");

static enum status read_offsets(const struct reader *r, const struct json_at *at,
                                struct tensor *tensor, uint64_t size_bytes)
{
    const json_t *pair = NULL;
    char cause[160];
    enum status status = json_get_array(at, "data_offsets", &pair, r->error);
    if (status)
        return status;
    const json_t *first = json_array_get(pair, 0), *second = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(first) || !json_is_integer(second))
        return fault(r, at->parent, "data_offsets: expected two integers");
    json_int_t begin = json_integer_value(first), end = json_integer_value(second);
    if (begin < 0 || end < begin || (uint64_t)end > r->data.size_bytes) {
        snprintf(cause, sizeof cause,
                 "data_offsets [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                 "]: the file has %zu bytes of data",
                 begin, end, r->data.size_bytes);
        return fault(r, at->parent, cause);
    }
    if ((uint64_t)(end - begin) != size_bytes) {
        snprintf(cause, sizeof cause,
                 "data_offsets span %" JSON_INTEGER_FORMAT " bytes, its %s shape needs %" PRIu64,
                 end - begin, tensor->type_name, size_bytes);
        return fault(r, at->parent, cause);
    }
    tensor->data = (const uint8_t *)r->data.data + begin;
    tensor->size_bytes = (size_t)size_bytes;
    return STATUS_OK;
}

static enum status read_tensor(const struct reader *r, const char *name, const json_t *value,
                               struct tensor *tensor)
{
    struct json_at at = {.file = r->file, .parent = name, .object = value};
    uint32_t item_bytes = 0;
    if (!json_is_object(value))
        return fault(r, name, "expected an object with dtype, shape and data_offsets");
    if (json_object_size(value) != 3)
        return fault(r, name, "expected exactly dtype, shape and data_offsets");
    enum status status = read_type(r, &at, tensor, &item_bytes);
    uint64_t size_bytes = item_bytes;
    if (!status)
        status = read_shape(r, &at, tensor, &size_bytes);
    if (!status)
        status = read_offsets(r, &at, tensor, size_bytes);
    /* The map is page-aligned, so an address tells the alignment within the file. */
    if (!status && (uintptr_t)tensor->data % item_bytes)
        return fault(r, name, "its data is not aligned to its dtype");
    return status;
}

static enum status check_metadata(const struct reader *r, json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return error_set(r->error, STATUS_INVALID, "%s: __metadata__: expected an object, got %s",
                         r->file, json_kind_text(metadata));
    json_object_foreach (metadata, key, value)
        if (!json_is_string(value))
            return error_set(r->error, STATUS_INVALID,
                             "%s: __metadata__: %.80s: expected a string, got %s", r->file, key,
                             json_kind_text(value));
    return STATUS_OK;
}

static int data_compare(const void *a, const void *b)
{
    const uint8_t *left = ((const struct tensor *)a)->data;
    const uint8_t *right = ((const struct tensor *)b)->data;
    return (left > right) - (left < right);
}

/* In the order of their data, each tensor starts where the one before ends, up to the end. */
static enum status check_layout(const struct reader *r, struct tensor_list *list)
{
    size_t expected = 0;
    char cause[120];
    qsort(list->tensors, list->count, sizeof *list->tensors, data_compare);
    for (uint32_t i = 0; i < list->count; i++) {
        const struct tensor *tensor = &list->tensors[i];
        size_t begin = (size_t)(tensor->data - (const uint8_t *)r->data.data);
        if (begin != expected) {
            snprintf(cause, sizeof cause, "its data begins at %zu, expected %zu (%s)", begin,
                     expected, begin < expected ? "they overlap" : "a hole");
            return fault(r, tensor->name.data, cause);
        }
        expected = begin + tensor->size_bytes;
    }
    if (expected != r->data.size_bytes)
        return error_set(r->error, STATUS_INVALID,
                         "%s: %zu bytes of data follow the header, its tensors have %zu", r->file,
                         r->data.size_bytes, expected);
    return STATUS_OK;
}

static enum status read_entries(const struct reader *r, json_t *root, struct tensor_list *list)
{
    const char *name;
    json_t *value;
    size_t count = json_object_size(root);
    if (count > SAFETENSORS_TENSORS_MAX)
        return error_set(r->error, STATUS_INVALID, "%s: %zu tensors, expected at most %d", r->file,
                         count, SAFETENSORS_TENSORS_MAX);
    list->tensors = arena_alloc(&list->arena, count * sizeof *list->tensors);
    if (!list->tensors)
        return error_set(r->error, STATUS_EXHAUSTED, "%s: out of memory", r->file);
    json_object_foreach (root, name, value) {
        enum status status;
        if (strcmp(name, "__metadata__") == 0) {
            status = check_metadata(r, value);
        } else {
            struct tensor *tensor = &list->tensors[list->count++];
            /* The copy ends with a NUL, which check_layout's messages use. */
            tensor->name = span_of(arena_copy(&list->arena, span_of(name)));
            if (!tensor->name.data)
                return error_set(r->error, STATUS_EXHAUSTED, "%s: out of memory", r->file);
            status = read_tensor(r, name, value, tensor);
        }
        if (status)
            return status;
    }
    return check_layout(r, list);
}

enum status safetensors_read(struct span bytes, const char *file, struct tensor_list *ret_list,
                             struct error *error)
{
    const struct json_limits limits = {.max_bytes = SAFETENSORS_HEADER_MAX_BYTES,
                                       .values_max = SAFETENSORS_TENSORS_MAX * 16};
    struct tensor_list list = {0};
    struct reader reader = {.file = file, .error = error};
    json_t *root = NULL;
    arena_init(&list.arena, SIZE_MAX);
    enum status status = header_find(bytes, file, &list.header, error);
    if (!status)
        status = json_read_text(list.header, file, &limits, &root, error);
    if (!status) {
        size_t start = LENGTH_BYTES + list.header.size_bytes;
        reader.data = (struct span){bytes.data + start, bytes.size_bytes - start};
        status = read_entries(&reader, root, &list);
    }
    json_decref(root);
    if (status) {
        arena_free(&list.arena);
    } else {
        tensor_list_sort(&list);
        *ret_list = list;
    }
    return status;
}
