#include "text/model_files.h"
#include "text/tokenizer_rules.h"

/*
 * Which ids end a generation is spread over three files, and models disagree on which of them is
 * complete: a chat model's end of turn may be in one alone. All count. The tokenizer's own
 * eos_token comes first, because templates speak of it.
 */

/* A token by its text: a string, or an object with "content". */
static enum status token_member(const struct json_at *at, const char *field,
                                const struct tokenizer *tokenizer, uint32_t *ret_id,
                                struct error *error)
{
    const json_t *value = json_object_get(at->object, field);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    const char *text = json_string_value(value);
    if (!text)
        return error_set(error, STATUS_INVALID,
                         "%s: %s: expected a token's text, or an object with its content", at->file,
                         field);
    *ret_id = tokenizer_token_id(tokenizer, span_of(text));
    if (*ret_id == TOKEN_NONE)
        return error_set(error, STATUS_INVALID, "%s: %s: \"%s\" is no token of the tokenizer",
                         at->file, field, text);
    return STATUS_OK;
}

static enum status tokenizer_file_read(const struct json_at *at, struct tokenizer *tokenizer,
                                       struct error *error)
{
    struct tokenizer_info *info = &tokenizer->info;
    uint32_t id = 0;
    enum status status = STATUS_OK;
    if (json_has(at, "eos_token")) {
        status = token_member(at, "eos_token", tokenizer, &id, error);
        if (!status)
            status = tokenizer_rules_eos(tokenizer, at->file, id, error);
    }
    if (status || !json_has(at, "bos_token"))
        return status;
    status = token_member(at, "bos_token", tokenizer, &id, error);
    if (status)
        return status;
    if (info->bos_id != TOKEN_NONE && info->bos_id != id)
        return error_set(error, STATUS_INVALID,
                         "%s: bos_token has id %u, but tokenizer.json puts id %u first", at->file,
                         id, info->bos_id);
    info->bos_id = id;
    return STATUS_OK;
}

/* "eos_token_id": an id or a list of ids. */
static enum status eos_ids_read(const struct json_at *at, struct tokenizer *tokenizer,
                                struct error *error)
{
    if (!json_has(at, "eos_token_id"))
        return STATUS_OK;
    char what[MODEL_PATH_MAX_BYTES + 32];
    snprintf(what, sizeof what, "%s: eos_token_id", at->file);
    const json_t *value = json_object_get(at->object, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return error_set(error, STATUS_INVALID, "%s: expected a token id or a list of them",
                             what);
        enum status status =
            tokenizer_rules_eos(tokenizer, what, (uint64_t)json_integer_value(item), error);
        if (status)
            return status;
    }
    return STATUS_OK;
}

enum status tokenizer_config_read(const char *directory, struct tokenizer *tokenizer,
                                  struct error *error)
{
    static const struct {
        const char *name;
        enum status (*read)(const struct json_at *, struct tokenizer *, struct error *);
    } files[] = {{"tokenizer_config.json", tokenizer_file_read},
                 {"generation_config.json", eos_ids_read},
                 {"config.json", eos_ids_read}};
    for (size_t i = 0; i < array_count(files); i++) {
        char path[MODEL_PATH_MAX_BYTES];
        json_t *root = NULL;
        enum status status = model_files_json(directory, files[i].name, path, &root, error);
        if (!status && root) {
            struct json_at at = {.file = path, .parent = "", .object = root};
            status = files[i].read(&at, tokenizer, error);
        }
        json_decref(root);
        if (status)
            return status;
    }
    return STATUS_OK;
}
