#include "daemon/wire_check.h"

#include <inttypes.h>

#include "text/utf8.h"

#define VARINT_MAX_BYTES 10
#define TAG_MAX_BYTES 5
#define FIELD_NUMBER_MAX ((1u << 29) - 1)

enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_SIZED = 2, WIRE_32 = 5 };

/* One field as it stands on the wire. */
struct wire_field {
    uint32_t number;
    enum wire_type wire;
    struct span value; /* what follows the tag; of a sized field without its length */
    size_t end;        /* offset behind it in its message */
};

struct walk {
    uint32_t elements;
    struct error *error;
};

/* Bytes of the varint at `offset`, 0 when it does not end. */
static size_t varint_read(struct span bytes, size_t offset, size_t max_bytes, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (size_t i = 0; i < max_bytes && offset + i < bytes.size_bytes; i++) {
        uint8_t byte = (uint8_t)bytes.data[offset + i];
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (!(byte & 0x80)) {
            *ret_value = value;
            return i + 1;
        }
    }
    return 0;
}

/* Bytes of the value at `offset` and, in *ret_start, how many of them are its length prefix;
 * false when they reach past the end. */
static bool value_measure(struct span bytes, size_t offset, enum wire_type wire, size_t *ret_start,
                          size_t *ret_size)
{
    uint64_t number = 0;
    size_t room = bytes.size_bytes - offset;
    *ret_start = 0;
    switch (wire) {
    case WIRE_VARINT:
        *ret_size = varint_read(bytes, offset, VARINT_MAX_BYTES, &number);
        return *ret_size > 0;
    case WIRE_64:
        *ret_size = 8;
        return room >= 8;
    case WIRE_32:
        *ret_size = 4;
        return room >= 4;
    case WIRE_SIZED:
        *ret_start = varint_read(bytes, offset, TAG_MAX_BYTES, &number);
        *ret_size = *ret_start + (size_t)number;
        return *ret_start > 0 && number <= room - *ret_start;
    }
    return false;
}

static bool wire_is_known(uint32_t wire)
{
    return wire == WIRE_VARINT || wire == WIRE_64 || wire == WIRE_SIZED || wire == WIRE_32;
}

static enum status field_read(struct walk *walk, struct span bytes, size_t offset,
                              struct wire_field *ret_field)
{
    uint64_t tag;
    size_t tag_bytes = varint_read(bytes, offset, TAG_MAX_BYTES, &tag);
    if (tag_bytes == 0 || (tag >> 3) < 1 || (tag >> 3) > FIELD_NUMBER_MAX)
        return error_set(walk->error, STATUS_INVALID,
                         "the message is not protobuf: no field tag at byte %zu", offset);
    uint32_t wire = (uint32_t)(tag & 7), number = (uint32_t)(tag >> 3);
    if (!wire_is_known(wire))
        return error_set(walk->error, STATUS_INVALID,
                         "the message is not proto3: field %" PRIu32 " has wire type %" PRIu32
                         " (groups are not supported)",
                         number, wire);
    size_t start, size, from = offset + tag_bytes;
    if (!value_measure(bytes, from, wire, &start, &size))
        return error_set(walk->error, STATUS_INVALID,
                         "the message is cut short: field %" PRIu32 " ends past its message",
                         number);
    ret_field->number = number;
    ret_field->wire = wire;
    ret_field->value = (struct span){bytes.data + from + start, size - start};
    ret_field->end = from + size;
    return STATUS_OK;
}

/* The wire type of one value of this type. */
static enum wire_type type_wire(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_SIZED;
    default:
        return WIRE_VARINT;
    }
}

/* "messages[3]" of the field that ends at `end`: its earlier occurrences are counted only now. */
static void field_label(const ProtobufCFieldDescriptor *field, struct span bytes, size_t end,
                        char *label, size_t room)
{
    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        snprintf(label, room, "%s", field->name);
        return;
    }
    struct walk quiet = {0};
    struct wire_field earlier;
    size_t index = 0;
    for (size_t offset = 0; offset < end; offset = earlier.end) {
        if (field_read(&quiet, bytes, offset, &earlier) != STATUS_OK)
            break;
        index += earlier.number == field->id && earlier.end < end;
    }
    snprintf(label, room, "%s[%zu]", field->name, index);
}

/* Puts this field's label before the path that the error has so far. */
static void error_label(struct error *error, const ProtobufCFieldDescriptor *field,
                        struct span bytes, size_t end)
{
    if (!error || error->status != STATUS_INVALID)
        return;
    char label[sizeof error->field], path[2 * sizeof error->field];
    field_label(field, bytes, end, label, sizeof label);
    snprintf(path, sizeof path, "%s%s%s", label, error->field[0] ? "." : "", error->field);
    memcpy(error->field, path, sizeof error->field - 1);
    error->field[sizeof error->field - 1] = '\0';
}

static enum status string_check(struct walk *walk, struct span text)
{
    size_t bad = utf8_invalid_offset(text.data, text.size_bytes);
    if (bad < text.size_bytes)
        return error_set(walk->error, STATUS_INVALID, "is not valid UTF-8 at byte %zu of %zu", bad,
                         text.size_bytes);
    const char *nul = text.size_bytes ? memchr(text.data, 0, text.size_bytes) : NULL;
    if (nul)
        return error_set(walk->error, STATUS_INVALID,
                         "has a NUL at byte %zu, which is not supported in text",
                         (size_t)(nul - text.data));
    return STATUS_OK;
}

static enum status packed_check(struct walk *walk, ProtobufCType type, struct span list)
{
    enum wire_type wire = type_wire(type);
    for (size_t offset = 0; offset < list.size_bytes;) {
        size_t start, size;
        if (!value_measure(list, offset, wire, &start, &size))
            return error_set(walk->error, STATUS_INVALID, "is a list that ends inside an element");
        offset += size;
    }
    return STATUS_OK;
}

static enum status message_check(struct walk *walk, const ProtobufCMessageDescriptor *type,
                                 struct span bytes, uint32_t depth);

static enum status value_check(struct walk *walk, const ProtobufCFieldDescriptor *field,
                               const struct wire_field *found, uint32_t depth)
{
    enum wire_type wire = type_wire(field->type);
    if (found->wire == WIRE_SIZED && wire != WIRE_SIZED &&
        field->label == PROTOBUF_C_LABEL_REPEATED)
        return packed_check(walk, field->type, found->value);
    if (found->wire != wire)
        return error_set(walk->error, STATUS_INVALID,
                         "has wire type %d where %d belongs: the message is of another schema",
                         (int)found->wire, (int)wire);
    if (field->type == PROTOBUF_C_TYPE_STRING)
        return string_check(walk, found->value);
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return message_check(walk, field->descriptor, found->value, depth + 1);
    return STATUS_OK;
}

static enum status message_check(struct walk *walk, const ProtobufCMessageDescriptor *type,
                                 struct span bytes, uint32_t depth)
{
    if (depth > WIRE_DEPTH_MAX)
        return error_set(walk->error, STATUS_INVALID,
                         "is nested more than %d messages deep, which is not allowed",
                         WIRE_DEPTH_MAX);
    struct wire_field found;
    for (size_t offset = 0; offset < bytes.size_bytes; offset = found.end) {
        if (++walk->elements > WIRE_ELEMENTS_MAX)
            return error_set(walk->error, STATUS_EXHAUSTED,
                             "the message has more than %d fields; send number lists packed",
                             WIRE_ELEMENTS_MAX);
        enum status status = field_read(walk, bytes, offset, &found);
        if (status != STATUS_OK)
            return status;
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(type, found.number);
        if (!field)
            continue;
        status = value_check(walk, field, &found, depth);
        if (status != STATUS_OK) {
            error_label(walk->error, field, bytes, found.end);
            return status;
        }
    }
    return STATUS_OK;
}

enum status wire_check(const ProtobufCMessageDescriptor *type, struct span bytes,
                       struct error *error)
{
    struct walk walk = {.error = error};
    if (error)
        error->field[0] = '\0'; /* the labels of a failure are collected there */
    return message_check(&walk, type, bytes, 1);
}

size_t wire_unpacked_max_bytes(size_t message_bytes)
{
    /* A packed list of one-byte numbers grows fourfold; protobuf-c's own notes of the fields it
     * found are the constant (WIRE_ELEMENTS_MAX of them, in slabs that double). */
    return 4u * 1024 * 1024 + 8 * message_bytes;
}

static void *arena_allocator_alloc(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void arena_allocator_free(void *arena, void *pointer) {}

enum status wire_unpack(const ProtobufCMessageDescriptor *type, struct span bytes,
                        struct arena *arena, ProtobufCMessage **ret_message, struct error *error)
{
    enum status status = wire_check(type, bytes, error);
    if (status != STATUS_OK)
        return status;
    ProtobufCAllocator allocator = {
        .alloc = arena_allocator_alloc, .free = arena_allocator_free, .allocator_data = arena};
    static const uint8_t nothing[1];
    const uint8_t *data = bytes.size_bytes ? (const uint8_t *)bytes.data : nothing;
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, bytes.size_bytes, data);
    if (message) {
        *ret_message = message;
        return STATUS_OK;
    }
    if (arena->overflowed)
        return error_set(error, STATUS_EXHAUSTED,
                         "the message of %zu bytes needs more than %zu bytes of memory unpacked",
                         bytes.size_bytes, arena->max_bytes);
    return error_set(error, STATUS_INVALID, "the message is not a valid %s", type->name);
}
