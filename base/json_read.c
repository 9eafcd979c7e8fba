#include "base/json_read.h"

#include <inttypes.h>

#include "base/map_file.h"

#define REAL_WHOLE_MAX 9007199254740992.0 /* 2^53: every whole number below is exact */

/*
 * jansson builds a tree as it parses, some 40 bytes for a value of two. So the text is measured
 * first: brackets and commas outside of strings give depth and an upper bound of the values. Text
 * that is not JSON may be counted wrongly here; the parser refuses it afterwards.
 */
static enum status text_measure(struct span text, const char *file,
                                const struct json_limits *limits, struct error *error)
{
    size_t depth = 0, values_count = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size_bytes; i++) {
        char c = text.data[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"')
            in_string = true;
        else if (c == '[' || c == '{')
            depth++, values_count++;
        else if ((c == ']' || c == '}') && depth > 0)
            depth--;
        else if (c == ',')
            values_count++;
        if (depth > JSON_READ_DEPTH_MAX)
            return error_set(error, STATUS_INVALID, "%s: nested deeper than %d levels", file,
                             JSON_READ_DEPTH_MAX);
    }
    if (values_count > limits->values_max)
        return error_set(error, STATUS_INVALID, "%s: %zu values, expected at most %zu", file,
                         values_count, limits->values_max);
    return STATUS_OK;
}

enum status json_read_text(struct span text, const char *file, const struct json_limits *limits,
                           json_t **ret_root, struct error *error)
{
    if (text.size_bytes > limits->max_bytes)
        return error_set(error, STATUS_INVALID, "%s: %zu bytes, expected at most %zu", file,
                         text.size_bytes, limits->max_bytes);
    enum status status = text_measure(text, file, limits, error);
    if (status)
        return status;
    json_error_t cause;
    const char *bytes = text.size_bytes ? text.data : "";
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    json_t *root = json_loadb(bytes, text.size_bytes, flags, &cause);
    /* Hugging Face writes "no limit" as 10^30. Such a document has every integer as a real. */
    if (!root && json_error_code(&cause) == json_error_numeric_overflow)
        root = json_loadb(bytes, text.size_bytes, flags | JSON_DECODE_INT_AS_REAL, &cause);
    if (!root)
        return error_set(error, STATUS_INVALID, "%s: line %d, column %d: not valid JSON: %s", file,
                         cause.line, cause.column, cause.text);
    if (!json_is_object(root)) {
        status = error_set(error, STATUS_INVALID, "%s: expected an object, got %s", file,
                           json_kind_text(root));
        json_decref(root);
        return status;
    }
    *ret_root = root;
    return STATUS_OK;
}

enum status json_read_file(const char *path, const struct json_limits *limits, json_t **ret_root,
                           struct error *error)
{
    struct map_file map = {0};
    enum status status = map_file_open(path, limits->max_bytes, &map, error);
    if (status)
        return status;
    struct span text = {.data = (const char *)map.data, .size_bytes = map.size_bytes};
    status = json_read_text(text, path, limits, ret_root, error);
    map_file_close(&map);
    return status;
}

bool json_has(const struct json_at *at, const char *field)
{
    const json_t *value = json_object_get(at->object, field);
    return value && !json_is_null(value);
}

const char *json_kind_text(const json_t *value)
{
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "an unknown value";
}

static enum status wrong_kind(const struct json_at *at, const char *field, const char *expected,
                              struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s: %s%s%s: expected %s, got %s", at->file, at->parent,
                     *at->parent ? "." : "", field, expected,
                     json_kind_text(json_object_get(at->object, field)));
}

enum status json_get_object(const struct json_at *at, const char *field, const json_t **ret_object,
                            struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    if (!json_is_object(value))
        return wrong_kind(at, field, "an object", error);
    *ret_object = value;
    return STATUS_OK;
}

enum status json_get_array(const struct json_at *at, const char *field, const json_t **ret_array,
                           struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    if (!json_is_array(value))
        return wrong_kind(at, field, "an array", error);
    *ret_array = value;
    return STATUS_OK;
}

enum status json_get_string(const struct json_at *at, const char *field, const char **ret_text,
                            struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    if (!json_is_string(value))
        return wrong_kind(at, field, "a string", error);
    *ret_text = json_string_value(value);
    return STATUS_OK;
}

enum status json_get_bool(const struct json_at *at, const char *field, bool *ret_value,
                          struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    if (!json_is_boolean(value))
        return wrong_kind(at, field, "true or false", error);
    *ret_value = json_is_true(value);
    return STATUS_OK;
}

enum status json_get_u64(const struct json_at *at, const char *field, struct json_range_u64 range,
                         uint64_t *ret_value, struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    double real = json_is_real(value) ? json_real_value(value) : 0.5;
    bool whole = real >= 0 && real <= REAL_WHOLE_MAX && real == (double)(json_int_t)real;
    if (!json_is_integer(value) && !whole) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer %" PRIu64 "..%" PRIu64, range.min,
                 range.max);
        return wrong_kind(at, field, expected, error);
    }
    json_int_t number = whole ? (json_int_t)real : json_integer_value(value);
    if (number < 0 || (uint64_t)number < range.min || (uint64_t)number > range.max)
        return error_set(
            error, STATUS_INVALID,
            "%s: %s%s%s: expected an integer %" PRIu64 "..%" PRIu64 ", got %" JSON_INTEGER_FORMAT,
            at->file, at->parent, *at->parent ? "." : "", field, range.min, range.max, number);
    *ret_value = (uint64_t)number;
    return STATUS_OK;
}

enum status json_get_u32(const struct json_at *at, const char *field, struct json_range_u64 range,
                         uint32_t *ret_value, struct error *error)
{
    uint64_t number = 0;
    if (range.max > UINT32_MAX)
        range.max = UINT32_MAX;
    enum status status = json_get_u64(at, field, range, &number, error);
    if (!status)
        *ret_value = (uint32_t)number;
    return status;
}

enum status json_get_real(const struct json_at *at, const char *field, struct json_range_real range,
                          double *ret_value, struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    if (!json_is_number(value))
        return wrong_kind(at, field, "a number", error);
    double number = json_number_value(value);
    if (!(number >= range.min && number <= range.max))
        return error_set(error, STATUS_INVALID, "%s: %s%s%s: expected a number %g..%g, got %g",
                         at->file, at->parent, *at->parent ? "." : "", field, range.min, range.max,
                         number);
    *ret_value = number;
    return STATUS_OK;
}
