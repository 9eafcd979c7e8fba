#include "base/gguf.h"

#include <inttypes.h>
#include <math.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place: little-endian");

/* Smallest bytes that an entry can take in the file: what a count is checked against. */
#define KEY_MIN_BYTES (8 + 4 + 1)
#define TENSOR_MIN_BYTES (8 + 4 + 8 + 4 + 8)
#define ALIGNMENT_MAX_BYTES 65536

struct storage {
    const char *name;
    uint16_t block_count; /* values in a block; 0: no such type (any more) */
    uint16_t block_bytes;
};

static const struct storage storages[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},
};

static const struct {
    const char *name;
    size_t size_bytes; /* 0: not of a fixed size */
} types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

const char *gguf_type_name(enum gguf_type type)
{
    return (unsigned)type < GGUF_TYPE_COUNT ? types[type].name : "?";
}

/* Where reading stands. Every take_* checks what is left; `what` is for the message. */
struct reader {
    struct span bytes;
    size_t at;
    const char *file;
    struct error *error;
};

static size_t reader_left(const struct reader *r)
{
    return r->bytes.size_bytes - r->at;
}

static enum status take(struct reader *r, uint64_t size_bytes, const char *what,
                        const char **ret_data)
{
    if (size_bytes > reader_left(r))
        return error_set(r->error, STATUS_INVALID,
                         "%s: byte %zu: %s needs %" PRIu64 " bytes, the file has %zu left", r->file,
                         r->at, what, size_bytes, reader_left(r));
    *ret_data = r->bytes.data + r->at;
    r->at += (size_t)size_bytes;
    return STATUS_OK;
}

static enum status take_u32(struct reader *r, const char *what, uint32_t *ret_value)
{
    const char *data = NULL;
    enum status status = take(r, sizeof *ret_value, what, &data);
    if (!status)
        memcpy(ret_value, data, sizeof *ret_value);
    return status;
}

static enum status take_u64(struct reader *r, const char *what, uint64_t *ret_value)
{
    const char *data = NULL;
    enum status status = take(r, sizeof *ret_value, what, &data);
    if (!status)
        memcpy(ret_value, data, sizeof *ret_value);
    return status;
}

static enum status take_string(struct reader *r, const char *what, struct span *ret_text)
{
    uint64_t length = 0;
    const char *data = NULL;
    enum status status = take_u64(r, what, &length);
    if (!status)
        status = take(r, length, what, &data);
    if (!status)
        *ret_text = (struct span){.data = data, .size_bytes = (size_t)length};
    return status;
}

static enum status take_name(struct reader *r, const char *what, struct span *ret_name)
{
    size_t start = r->at;
    enum status status = take_string(r, what, ret_name);
    if (!status && (ret_name->size_bytes == 0 || ret_name->size_bytes > GGUF_NAME_MAX_BYTES ||
                    memchr(ret_name->data, 0, ret_name->size_bytes)))
        return error_set(r->error, STATUS_INVALID,
                         "%s: byte %zu: %s of %zu bytes, expected 1..%d without NUL", r->file,
                         start, what, ret_name->size_bytes, GGUF_NAME_MAX_BYTES);
    return status;
}

/* `count` values of one type; strings have to be walked to know where they end. */
static enum status take_values(struct reader *r, const struct gguf_key *key, uint64_t count,
                               struct gguf_array *ret_value)
{
    enum gguf_type type = ret_value->type;
    size_t start = r->at;
    enum status status = STATUS_OK;
    char what[80];
    snprintf(what, sizeof what, "value of %.*s", (int)size_min(key->name.size_bytes, 60),
             key->name.data);
    if (type == GGUF_STRING) {
        struct span text;
        for (uint64_t i = 0; i < count && !status; i++)
            status = take_string(r, what, &text);
    } else {
        const char *data = NULL;
        /* The quotient is compared, since count * size could overflow. */
        if (count > reader_left(r) / types[type].size_bytes)
            return error_set(r->error, STATUS_INVALID,
                             "%s: byte %zu: %s: %" PRIu64 " x %s, the file has %zu bytes left",
                             r->file, r->at, what, count, types[type].name, reader_left(r));
        status = take(r, count * types[type].size_bytes, what, &data);
        for (uint64_t i = 0; type == GGUF_BOOL && i < count && !status; i++)
            if ((uint8_t)data[i] > 1)
                return error_set(r->error, STATUS_INVALID, "%s: %s: expected a bool 0 or 1, got %d",
                                 r->file, what, (uint8_t)data[i]);
    }
    if (!status) {
        ret_value->count = count;
        ret_value->bytes = (struct span){r->bytes.data + start, r->at - start};
    }
    return status;
}

static enum status take_type(struct reader *r, const struct gguf_key *key, enum gguf_type *ret_type)
{
    uint32_t type = 0;
    enum status status = take_u32(r, "type of a key", &type);
    if (!status && type >= GGUF_TYPE_COUNT)
        return error_set(r->error, STATUS_INVALID, "%s: key %.*s: type %u, expected 0..%d", r->file,
                         (int)key->name.size_bytes, key->name.data, type, GGUF_TYPE_COUNT - 1);
    if (!status)
        *ret_type = (enum gguf_type)type;
    return status;
}

static enum status take_key(struct reader *r, struct gguf_key *key)
{
    enum status status = take_name(r, "name of a key", &key->name);
    uint64_t count = 1;
    if (!status)
        status = take_type(r, key, &key->type);
    if (status)
        return status;
    key->value.type = key->type;
    if (key->type == GGUF_ARRAY) {
        status = take_type(r, key, &key->value.type);
        if (!status && key->value.type == GGUF_ARRAY)
            return error_set(r->error, STATUS_UNSUPPORTED,
                             "%s: key %.*s: arrays of arrays are not supported", r->file,
                             (int)key->name.size_bytes, key->name.data);
        if (!status)
            status = take_u64(r, "count of an array", &count);
    }
    return status ? status : take_values(r, key, count, &key->value);
}

static enum status tensor_fault(const struct reader *r, const struct gguf_tensor *tensor,
                                const char *cause)
{
    return error_set(r->error, STATUS_INVALID, "%s: tensor %.*s: %s", r->file,
                     (int)tensor->name.size_bytes, tensor->name.data, cause);
}

/* Type and dimensions to bytes, without overflow. */
static enum status tensor_measure(const struct reader *r, struct gguf_tensor *tensor)
{
    char cause[160];
    const struct storage *storage =
        tensor->type < array_count(storages) ? &storages[tensor->type] : NULL;
    if (!storage || !storage->block_count) {
        snprintf(cause, sizeof cause, "unknown tensor type %u", tensor->type);
        return tensor_fault(r, tensor, cause);
    }
    tensor->type_name = storage->name;
    uint64_t blocks = tensor->dims[0] / storage->block_count;
    if (tensor->dims[0] % storage->block_count) {
        snprintf(cause, sizeof cause, "%s rows of %" PRIu64 " values, expected a multiple of %u",
                 storage->name, tensor->dims[0], storage->block_count);
        return tensor_fault(r, tensor, cause);
    }
    uint64_t size = 0;
    bool overflow = __builtin_mul_overflow(blocks, (uint64_t)storage->block_bytes, &size);
    for (uint32_t d = 1; d < tensor->n_dims; d++)
        overflow = overflow || __builtin_mul_overflow(size, tensor->dims[d], &size);
    if (overflow || size > r->bytes.size_bytes)
        return tensor_fault(r, tensor, "its dimensions need more bytes than the file has");
    tensor->size_bytes = (size_t)size;
    return STATUS_OK;
}

/* `data` holds the offset until the start of the data section is known. */
static enum status take_tensor(struct reader *r, struct gguf_tensor *tensor, uint64_t *ret_offset)
{
    enum status status = take_name(r, "name of a tensor", &tensor->name);
    if (!status)
        status = take_u32(r, "dimension count of a tensor", &tensor->n_dims);
    if (!status && (tensor->n_dims == 0 || tensor->n_dims > GGUF_DIMS_MAX)) {
        char cause[80];
        snprintf(cause, sizeof cause, "%u dimensions, expected 1..%d", tensor->n_dims,
                 GGUF_DIMS_MAX);
        return tensor_fault(r, tensor, cause);
    }
    for (uint32_t d = 0; d < GGUF_DIMS_MAX && !status; d++) {
        tensor->dims[d] = 1;
        if (d < tensor->n_dims)
            status = take_u64(r, "dimensions of a tensor", &tensor->dims[d]);
        if (!status && tensor->dims[d] == 0)
            return tensor_fault(r, tensor, "a dimension is 0");
    }
    if (!status)
        status = take_u32(r, "type of a tensor", &tensor->type);
    if (!status)
        status = take_u64(r, "offset of a tensor", ret_offset);
    return status ? status : tensor_measure(r, tensor);
}

static int name_compare(struct span a, struct span b)
{
    int order = memcmp(a.data, b.data, size_min(a.size_bytes, b.size_bytes));
    return order ? order : (a.size_bytes > b.size_bytes) - (a.size_bytes < b.size_bytes);
}

static int key_compare(const void *a, const void *b)
{
    return name_compare(((const struct gguf_key *)a)->name, ((const struct gguf_key *)b)->name);
}

static int tensor_compare(const void *a, const void *b)
{
    return name_compare(((const struct gguf_tensor *)a)->name,
                        ((const struct gguf_tensor *)b)->name);
}

static int tensor_data_compare(const void *a, const void *b)
{
    const uint8_t *left = ((const struct gguf_tensor *)a)->data;
    const uint8_t *right = ((const struct gguf_tensor *)b)->data;
    return (left > right) - (left < right);
}

static enum status twice(const struct reader *r, const char *what, struct span name)
{
    return error_set(r->error, STATUS_INVALID, "%s: %s %.*s is there twice", r->file, what,
                     (int)name.size_bytes, name.data);
}

static enum status read_header(struct reader *r, struct gguf *gguf)
{
    const char *magic = NULL;
    uint32_t version = 0;
    uint64_t tensors_count = 0, keys_count = 0;
    enum status status = take(r, 4, "magic", &magic);
    if (!status && memcmp(magic, "GGUF", 4) != 0)
        return error_set(r->error, STATUS_INVALID,
                         "%s: expected the magic \"GGUF\", got bytes %02x %02x %02x %02x", r->file,
                         (uint8_t)magic[0], (uint8_t)magic[1], (uint8_t)magic[2],
                         (uint8_t)magic[3]);
    if (!status)
        status = take_u32(r, "version", &version);
    if (!status && version != GGUF_VERSION)
        return error_set(r->error, STATUS_UNSUPPORTED,
                         "%s: GGUF version %u is not supported, expected version %d%s", r->file,
                         version, GGUF_VERSION,
                         __builtin_bswap32(version) <= GGUF_VERSION ? " (a big-endian file?)" : "");
    if (!status)
        status = take_u64(r, "tensor count", &tensors_count);
    if (!status)
        status = take_u64(r, "key count", &keys_count);
    if (status)
        return status;
    if (keys_count > GGUF_ENTRIES_MAX || keys_count > reader_left(r) / KEY_MIN_BYTES)
        return error_set(r->error, STATUS_INVALID,
                         "%s: %" PRIu64 " keys, expected at most %d, and the file has %zu bytes",
                         r->file, keys_count, GGUF_ENTRIES_MAX, r->bytes.size_bytes);
    if (tensors_count > GGUF_ENTRIES_MAX || tensors_count > reader_left(r) / TENSOR_MIN_BYTES)
        return error_set(r->error, STATUS_INVALID,
                         "%s: %" PRIu64 " tensors, expected at most %d, and the file has %zu bytes",
                         r->file, tensors_count, GGUF_ENTRIES_MAX, r->bytes.size_bytes);
    gguf->keys_count = (uint32_t)keys_count;
    gguf->tensors_count = (uint32_t)tensors_count;
    gguf->keys = arena_alloc(&gguf->arena, gguf->keys_count * sizeof *gguf->keys);
    gguf->tensors = arena_alloc(&gguf->arena, gguf->tensors_count * sizeof *gguf->tensors);
    if (!gguf->keys || !gguf->tensors)
        return error_set(r->error, STATUS_EXHAUSTED, "%s: out of memory", r->file);
    return STATUS_OK;
}

static enum status read_keys(struct reader *r, struct gguf *gguf)
{
    for (uint32_t i = 0; i < gguf->keys_count; i++) {
        enum status status = take_key(r, &gguf->keys[i]);
        if (status)
            return status;
    }
    qsort(gguf->keys, gguf->keys_count, sizeof *gguf->keys, key_compare);
    for (uint32_t i = 1; i < gguf->keys_count; i++)
        if (key_compare(&gguf->keys[i - 1], &gguf->keys[i]) == 0)
            return twice(r, "key", gguf->keys[i].name);

    gguf->alignment_bytes = GGUF_ALIGNMENT_DEFAULT;
    if (gguf_key_find(gguf, "general.alignment")) {
        uint32_t n;
        enum status status = gguf_get_u32(gguf, "general.alignment", &n, r->error);
        if (status)
            return status;
        if (n == 0 || n > ALIGNMENT_MAX_BYTES || (n & (n - 1)))
            return error_set(r->error, STATUS_INVALID,
                             "%s: general.alignment: expected a power of two 1..%d, got %u",
                             r->file, ALIGNMENT_MAX_BYTES, n);
        gguf->alignment_bytes = n;
    }
    return STATUS_OK;
}

/* Tensors in the order of their data: each starts where the one before ends, rounded up. */
static enum status check_layout(const struct reader *r, struct gguf *gguf, const uint8_t *start)
{
    qsort(gguf->tensors, gguf->tensors_count, sizeof *gguf->tensors, tensor_data_compare);
    const uint8_t *end = (const uint8_t *)r->bytes.data + r->bytes.size_bytes;
    size_t expected = 0;
    char cause[160];
    for (uint32_t i = 0; i < gguf->tensors_count; i++) {
        const struct gguf_tensor *tensor = &gguf->tensors[i];
        size_t offset = (size_t)(tensor->data - start);
        if (offset != expected) {
            snprintf(cause, sizeof cause, "its data is at offset %zu, expected %zu (%s)", offset,
                     expected, offset < expected ? "they overlap" : "a hole");
            return tensor_fault(r, tensor, cause);
        }
        if (tensor->size_bytes > (size_t)(end - tensor->data)) {
            snprintf(cause, sizeof cause, "%zu bytes at offset %zu, the file has %zu there",
                     tensor->size_bytes, offset, (size_t)(end - tensor->data));
            return tensor_fault(r, tensor, cause);
        }
        expected = round_up(offset + tensor->size_bytes, gguf->alignment_bytes);
    }
    return STATUS_OK;
}

static enum status read_tensors(struct reader *r, struct gguf *gguf)
{
    uint64_t *offsets = arena_alloc(&gguf->arena, gguf->tensors_count * sizeof *offsets);
    if (!offsets)
        return error_set(r->error, STATUS_EXHAUSTED, "%s: out of memory", r->file);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < gguf->tensors_count && !status; i++)
        status = take_tensor(r, &gguf->tensors[i], &offsets[i]);
    if (status)
        return status;

    size_t start = size_min(round_up(r->at, gguf->alignment_bytes), r->bytes.size_bytes);
    size_t room = r->bytes.size_bytes - start;
    for (uint32_t i = 0; i < gguf->tensors_count; i++) {
        struct gguf_tensor *tensor = &gguf->tensors[i];
        char cause[120];
        snprintf(cause, sizeof cause, "offset %" PRIu64 ", the file has %zu bytes of data",
                 offsets[i], room);
        if (offsets[i] > room)
            return tensor_fault(r, tensor, cause);
        snprintf(cause, sizeof cause, "offset %" PRIu64 ", expected a multiple of %u", offsets[i],
                 gguf->alignment_bytes);
        if (offsets[i] % gguf->alignment_bytes)
            return tensor_fault(r, tensor, cause);
        tensor->data = (const uint8_t *)r->bytes.data + start + offsets[i];
    }
    status = check_layout(r, gguf, (const uint8_t *)r->bytes.data + start);
    if (status)
        return status;
    qsort(gguf->tensors, gguf->tensors_count, sizeof *gguf->tensors, tensor_compare);
    for (uint32_t i = 1; i < gguf->tensors_count; i++)
        if (tensor_compare(&gguf->tensors[i - 1], &gguf->tensors[i]) == 0)
            return twice(r, "tensor", gguf->tensors[i].name);
    return STATUS_OK;
}

enum status gguf_open(struct span bytes, const char *file, struct gguf *ret_gguf,
                      struct error *error)
{
    struct gguf gguf = {.file = file};
    struct reader reader = {.bytes = bytes, .file = file, .error = error};
    arena_init(&gguf.arena, SIZE_MAX);
    enum status status = read_header(&reader, &gguf);
    if (!status)
        status = read_keys(&reader, &gguf);
    if (!status)
        status = read_tensors(&reader, &gguf);
    if (status)
        arena_free(&gguf.arena);
    else
        *ret_gguf = gguf;
    return status;
}

void gguf_close(struct gguf *gguf)
{
    arena_free(&gguf->arena);
    *gguf = (struct gguf){0};
}

bool gguf_magic(struct span bytes)
{
    return bytes.size_bytes >= 4 && memcmp(bytes.data, "GGUF", 4) == 0;
}

const struct gguf_key *gguf_key_find(const struct gguf *gguf, const char *name)
{
    struct gguf_key wanted = {.name = span_of(name)};
    if (gguf->keys_count == 0)
        return NULL;
    return bsearch(&wanted, gguf->keys, gguf->keys_count, sizeof wanted, key_compare);
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name)
{
    struct gguf_tensor wanted = {.name = span_of(name)};
    if (gguf->tensors_count == 0)
        return NULL;
    return bsearch(&wanted, gguf->tensors, gguf->tensors_count, sizeof wanted, tensor_compare);
}

static enum status wrong_type(const struct gguf *gguf, const struct gguf_key *key,
                              const char *expected, struct error *error)
{
    const char *array = key->type == GGUF_ARRAY ? "an array of " : "";
    return error_set(error, STATUS_INVALID, "%s: key %.*s: expected %s, got %s%s", gguf->file,
                     (int)key->name.size_bytes, key->name.data, expected, array,
                     gguf_type_name(key->value.type));
}

static enum status find(const struct gguf *gguf, const char *name, const struct gguf_key **ret_key,
                        struct error *error)
{
    const struct gguf_key *key = gguf_key_find(gguf, name);
    if (!key)
        return error_set(error, STATUS_NOT_FOUND, "%s: key %s is missing", gguf->file, name);
    *ret_key = key;
    return STATUS_OK;
}

/* Any integer scalar that is not negative. */
static bool integer_value(const struct gguf_key *key, uint64_t *ret_value)
{
    const char *data = key->value.bytes.data;
    size_t size = types[key->value.type].size_bytes;
    uint64_t value = 0;
    switch (key->type) {
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        if ((int8_t)data[size - 1] < 0)
            return false;
        break;
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        break;
    default:
        return false;
    }
    memcpy(&value, data, size);
    *ret_value = value;
    return true;
}

enum status gguf_get_u64(const struct gguf *gguf, const char *name, uint64_t *ret_value,
                         struct error *error)
{
    const struct gguf_key *key = NULL;
    enum status status = find(gguf, name, &key, error);
    if (!status && !integer_value(key, ret_value))
        return wrong_type(gguf, key, "an integer of 0 or more", error);
    return status;
}

enum status gguf_get_u32(const struct gguf *gguf, const char *name, uint32_t *ret_value,
                         struct error *error)
{
    uint64_t value = 0;
    enum status status = gguf_get_u64(gguf, name, &value, error);
    if (!status && value > UINT32_MAX)
        return error_set(error, STATUS_INVALID,
                         "%s: key %s: expected at most %" PRIu32 ", got %" PRIu64, gguf->file, name,
                         UINT32_MAX, value);
    if (!status)
        *ret_value = (uint32_t)value;
    return status;
}

enum status gguf_get_f32(const struct gguf *gguf, const char *name, float *ret_value,
                         struct error *error)
{
    const struct gguf_key *key = NULL;
    float value = 0;
    enum status status = find(gguf, name, &key, error);
    if (status)
        return status;
    if (key->type == GGUF_F64) {
        double wide;
        memcpy(&wide, key->value.bytes.data, sizeof wide);
        value = (float)wide;
    } else if (key->type == GGUF_F32) {
        memcpy(&value, key->value.bytes.data, sizeof value);
    } else {
        return wrong_type(gguf, key, "f32", error);
    }
    if (!isfinite(value))
        return error_set(error, STATUS_INVALID, "%s: key %s: expected a finite number, got %g",
                         gguf->file, name, (double)value);
    *ret_value = value;
    return STATUS_OK;
}

enum status gguf_get_bool(const struct gguf *gguf, const char *name, bool *ret_value,
                          struct error *error)
{
    const struct gguf_key *key = NULL;
    enum status status = find(gguf, name, &key, error);
    if (!status && key->type != GGUF_BOOL)
        return wrong_type(gguf, key, "bool", error);
    if (!status)
        *ret_value = key->value.bytes.data[0] != 0;
    return status;
}

enum status gguf_get_string(const struct gguf *gguf, const char *name, struct span *ret_text,
                            struct error *error)
{
    const struct gguf_key *key = NULL;
    enum status status = find(gguf, name, &key, error);
    if (!status && key->type != GGUF_STRING)
        return wrong_type(gguf, key, "string", error);
    if (!status)
        *ret_text = (struct span){key->value.bytes.data + 8, key->value.bytes.size_bytes - 8};
    return status;
}

enum status gguf_get_array(const struct gguf *gguf, const char *name, enum gguf_type type,
                           struct gguf_array *ret_array, struct error *error)
{
    const struct gguf_key *key = NULL;
    enum status status = find(gguf, name, &key, error);
    if (!status && (key->type != GGUF_ARRAY || key->value.type != type)) {
        char expected[40];
        snprintf(expected, sizeof expected, "an array of %s", gguf_type_name(type));
        return wrong_type(gguf, key, expected, error);
    }
    if (!status)
        *ret_array = key->value;
    return status;
}

int32_t gguf_array_i32(const struct gguf_array *array, uint64_t index)
{
    int32_t value;
    CHECK(array->type == GGUF_I32 && index < array->count);
    memcpy(&value, array->bytes.data + index * sizeof value, sizeof value);
    return value;
}

float gguf_array_f32(const struct gguf_array *array, uint64_t index)
{
    float value;
    CHECK(array->type == GGUF_F32 && index < array->count);
    memcpy(&value, array->bytes.data + index * sizeof value, sizeof value);
    return value;
}

bool gguf_array_string(const struct gguf_array *array, size_t *cursor, struct span *ret_text)
{
    uint64_t length = 0;
    CHECK(array->type == GGUF_STRING);
    if (*cursor >= array->bytes.size_bytes)
        return false;
    memcpy(&length, array->bytes.data + *cursor, sizeof length);
    CHECK(length <= array->bytes.size_bytes - *cursor - sizeof length);
    *ret_text = (struct span){array->bytes.data + *cursor + sizeof length, (size_t)length};
    *cursor += sizeof length + (size_t)length;
    return true;
}
