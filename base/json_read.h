/*
 * json_read: JSON documents of foreign origin, read with limits and typed getters.
 *
 * Loading caps the size, the nesting and the number of values, and refuses duplicate keys, so
 * that a small hostile file cannot become a large tree. Getters take a `struct json_at`, an object
 * together with the words that errors use: "config.json: rope_parameters.rope_theta: expected a
 * number, got a string". A member that is null counts as absent. Strings that a getter returns
 * belong to the document. Any thread; one document, one thread at a time.
 */
#pragma once

#include <jansson.h>

#include "base/status.h"

#define JSON_READ_DEPTH_MAX 64

struct json_limits {
    size_t max_bytes;  /* of the text */
    size_t values_max; /* members and elements of the whole document */
};

/* An object within a document. */
struct json_at {
    const char *file;     /* "config.json", a path */
    const char *parent;   /* dotted name of the object, "" for the root */
    const json_t *object; /* borrowed */
};

/* Parses `text`; `file` is for errors. The caller owns *ret_root (json_decref). INVALID. */
enum status json_read_text(struct span text, const char *file, const struct json_limits *limits,
                           json_t **ret_root, struct error *error);

/* The same of the file at `path`. NOT_FOUND, INVALID, IO. */
enum status json_read_file(const char *path, const struct json_limits *limits, json_t **ret_root,
                           struct error *error);

/* Present and not null. */
bool json_has(const struct json_at *at, const char *field);

/* "an object", "a string", "null" ...: for messages. */
const char *json_kind_text(const json_t *value);

/* The typed getters: INVALID when the field is absent, of another type or out of range. */
enum status json_get_object(const struct json_at *at, const char *field, const json_t **ret_object,
                            struct error *error);
enum status json_get_array(const struct json_at *at, const char *field, const json_t **ret_array,
                           struct error *error);
enum status json_get_string(const struct json_at *at, const char *field, const char **ret_text,
                            struct error *error);
enum status json_get_bool(const struct json_at *at, const char *field, bool *ret_value,
                          struct error *error);

struct json_range_u64 {
    uint64_t min, max; /* both allowed; at most INT64_MAX */
};
enum status json_get_u64(const struct json_at *at, const char *field, struct json_range_u64 range,
                         uint64_t *ret_value, struct error *error);
enum status json_get_u32(const struct json_at *at, const char *field, struct json_range_u64 range,
                         uint32_t *ret_value, struct error *error);

struct json_range_real {
    double min, max; /* both allowed */
};
/* An integer is a number too. */
enum status json_get_real(const struct json_at *at, const char *field, struct json_range_real range,
                          double *ret_value, struct error *error);
