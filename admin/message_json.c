#include "admin/message_json.h"

#include "base/types.h"

/* ---- values ---- */

static json_t *base64_json(const ProtobufCBinaryData *bytes)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc((bytes->len + 2) / 3 * 4 + 1), *to = text;
    CHECK(text != NULL);
    for (size_t i = 0; i < bytes->len; i += 3) {
        size_t n = size_min(3, bytes->len - i);
        uint32_t bits = (uint32_t)bytes->data[i] << 16;
        bits |= n > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0;
        bits |= n > 2 ? bytes->data[i + 2] : 0u;
        *to++ = letters[bits >> 18 & 63];
        *to++ = letters[bits >> 12 & 63];
        *to++ = n > 1 ? letters[bits >> 6 & 63] : '=';
        *to++ = n > 2 ? letters[bits & 63] : '=';
    }
    *to = '\0';
    json_t *value = json_string(text);
    free(text);
    return value;
}

/* jansson refuses what is not UTF-8: bytes above 127 are replaced then. */
static json_t *text_json(const char *text)
{
    json_t *value = json_string(text ? text : "");
    if (value)
        return value;
    char *copy = malloc(3 * strlen(text) + 1), *to = copy;
    CHECK(copy != NULL);
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x80) {
            *to++ = *c;
        } else {
            memcpy(to, "\xef\xbf\xbd", 3);
            to += 3;
        }
    }
    *to = '\0';
    value = json_string(copy);
    free(copy);
    return value;
}

static json_t *enum_json(const ProtobufCFieldDescriptor *field, int number)
{
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(field->descriptor, number);
    return value ? json_string(value->name) : json_integer(number);
}

static json_t *value_json(const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)at);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return json_integer(*(const int64_t *)at);
    case PROTOBUF_C_TYPE_FLOAT:
        return json_real((double)*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_real(*(const double *)at);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_json(field, *(const int *)at);
    case PROTOBUF_C_TYPE_STRING:
        return text_json(*(char *const *)at);
    case PROTOBUF_C_TYPE_BYTES:
        return base64_json(at);
    case PROTOBUF_C_TYPE_MESSAGE:
        return message_json(*(ProtobufCMessage *const *)at);
    }
    return json_null();
}

static size_t value_size_bytes(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

/* ---- fields ---- */

static json_t *list_json(const ProtobufCFieldDescriptor *field, const char *message)
{
    json_t *list = json_array();
    size_t count = *(const size_t *)(const void *)(message + field->quantifier_offset);
    const char *items = *(char *const *)(const void *)(message + field->offset);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, value_json(field, items + i * value_size_bytes(field->type)));
    return list;
}

static bool field_is_set(const ProtobufCFieldDescriptor *field, const char *message)
{
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)(const void *)(message + field->quantifier_offset) == field->id;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return *(void *const *)(const void *)(message + field->offset) != NULL;
    return true;
}

json_t *message_json(const ProtobufCMessage *message)
{
    json_t *object = json_object();
    const char *base = (const char *)message;
    CHECK(object != NULL);
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (field->label == PROTOBUF_C_LABEL_REPEATED)
            json_object_set_new(object, field->name, list_json(field, base));
        else if (field_is_set(field, base))
            json_object_set_new(object, field->name, value_json(field, base + field->offset));
    }
    return object;
}
