#include "text/tokenizer_json.h"

/* The elements of a Sequence, as objects with a type. */
static enum status step_type(const struct json_at *at, const char **ret_type, struct error *error)
{
    if (!json_is_object(at->object))
        return error_set(error, STATUS_INVALID, "%s: %s: expected an object, got %s", at->file,
                         at->parent, json_kind_text(at->object));
    return json_get_string(at, "type", ret_type, error);
}

/* {"pattern": {"String": FROM}, "content": TO} */
static enum status replace_check(const struct json_at *at, const char *from, const char *to,
                                 struct error *error)
{
    const char *content = NULL;
    enum status status = json_get_string(at, "content", &content, error);
    if (status)
        return status;
    const json_t *pattern = json_object_get(json_object_get(at->object, "pattern"), "String");
    const char *text = json_string_value(pattern);
    if (!text || strcmp(text, from) != 0 || strcmp(content, to) != 0)
        return json_refuse(at, "pattern", "another replacement",
                           "the one between a space and U+2581", error);
    return STATUS_OK;
}

/* One step of the normalizer. HF prepends before every stretch between added tokens, so do we. */
static enum status normalizer_step(const struct json_at *at, struct tokenizer *tokenizer,
                                   struct error *error)
{
    struct spaces *spaces = &tokenizer->spaces;
    const char *type = NULL, *prepend = NULL;
    enum status status = step_type(at, &type, error);
    if (status)
        return status;
    if (strcmp(type, "Replace") == 0 && !spaces->on) {
        spaces->on = true;
        return replace_check(at, " ", SPACES_MARK, error);
    }
    if (strcmp(type, "Prepend") != 0 || spaces->lead != SPACES_LEAD_NONE)
        return json_refuse(at, "type", type, "Prepend and Replace, once each", error);
    status = json_get_string(at, "prepend", &prepend, error);
    if (!status && strcmp(prepend, SPACES_MARK) != 0)
        return json_refuse(at, "prepend", prepend, "U+2581", error);
    spaces->lead = SPACES_LEAD_EVERY;
    return status;
}

enum status json_spaces_normalizer(const struct json_at *at, struct tokenizer *tokenizer,
                                   struct error *error)
{
    const char *type = NULL;
    const json_t *steps = NULL;
    enum status status = json_get_string(at, "type", &type, error);
    if (status)
        return status;
    if (strcmp(type, "Sequence") == 0)
        status = json_get_array(at, "normalizers", &steps, error);
    else
        status = normalizer_step(at, tokenizer, error);
    for (size_t i = 0; i < json_array_size(steps) && !status; i++) {
        char where[64];
        snprintf(where, sizeof where, "%s.normalizers[%zu]", at->parent, i);
        struct json_at step = {at->file, where, json_array_get(steps, i)};
        status = normalizer_step(&step, tokenizer, error);
    }
    if (!status && !tokenizer->spaces.on)
        return json_refuse(at, "type", "a normalizer without Replace",
                           "null, NFC, or Prepend and Replace", error);
    return status;
}

enum status json_metaspace(const struct json_at *at, struct tokenizer *tokenizer,
                           struct error *error)
{
    static const struct {
        const char *scheme;
        enum spaces_lead lead;
    } schemes[] = {
        {"always", SPACES_LEAD_ABSENT}, {"first", SPACES_LEAD_START}, {"never", SPACES_LEAD_NONE}};
    struct spaces *spaces = &tokenizer->spaces;
    const char *mark = NULL, *scheme = "always";
    bool splits = true;
    if (spaces->on || tokenizer->normalizes)
        return json_refuse(at, "type", "Metaspace after a normalizer", "normalizer null", error);
    enum status status = json_get_string(at, "replacement", &mark, error);
    if (!status && json_has(at, "prepend_scheme"))
        status = json_get_string(at, "prepend_scheme", &scheme, error);
    else if (!status && json_has(at, "add_prefix_space")) /* what older files say */
        status = json_refuse(at, "add_prefix_space", "it", "prepend_scheme", error);
    if (!status)
        status = json_optional_bool(at, "split", true, &splits, error);
    if (status)
        return status;
    if (strcmp(mark, SPACES_MARK) != 0)
        return json_refuse(at, "replacement", mark, "U+2581", error);
    size_t i = 0;
    while (i < array_count(schemes) && strcmp(schemes[i].scheme, scheme) != 0)
        i++;
    if (i == array_count(schemes))
        return json_refuse(at, "prepend_scheme", scheme, "always, first or never", error);
    *spaces = (struct spaces){
        .on = true, .lead = schemes[i].lead, .cuts = splits ? SPACES_CUT_EACH : SPACES_CUT_NEVER};
    return STATUS_OK;
}

/* {"content": " ", "start": 1, "stop": 0} */
static enum status strip_check(const struct json_at *at, struct error *error)
{
    const struct json_range_u64 range = {0, UINT32_MAX};
    const char *content = NULL;
    uint64_t start = 0, stop = 0;
    enum status status = json_get_string(at, "content", &content, error);
    if (!status)
        status = json_get_u64(at, "start", range, &start, error);
    if (!status)
        status = json_get_u64(at, "stop", range, &stop, error);
    if (!status && (strcmp(content, " ") != 0 || start != 1 || stop != 0))
        return json_refuse(at, "type", "this Strip", "one space at the start", error);
    return status;
}

/* The steps may leave some out, but not change places. */
static enum status decoder_step(const struct json_at *at, size_t *stage, bool seen[4],
                                struct error *error)
{
    static const char *const order[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
    const char *type = NULL;
    enum status status = step_type(at, &type, error);
    if (status)
        return status;
    while (*stage < array_count(order) && strcmp(order[*stage], type) != 0)
        ++*stage;
    if (*stage == array_count(order))
        return json_refuse(at, "type", type, "Replace, ByteFallback, Fuse, Strip in this order",
                           error);
    seen[*stage] = true;
    switch ((*stage)++) {
    case 0:
        return replace_check(at, SPACES_MARK, " ", error);
    case 3:
        return strip_check(at, error);
    default:
        return STATUS_OK;
    }
}

enum status json_spaces_decoder(const struct json_at *root, struct tokenizer *tokenizer,
                                bool *ret_joins_bytes, struct error *error)
{
    struct json_at at = {.file = root->file, .parent = "decoder"};
    const char *type = NULL;
    const json_t *steps = NULL;
    bool seen[4] = {false};
    size_t stage = 0;
    enum status status = json_get_object(root, "decoder", &at.object, error);
    if (!status)
        status = json_get_string(&at, "type", &type, error);
    if (!status && strcmp(type, "Sequence") != 0)
        return json_refuse(&at, "type", type, "a Sequence of Replace, ByteFallback, Fuse, Strip",
                           error);
    if (!status)
        status = json_get_array(&at, "decoders", &steps, error);
    for (size_t i = 0; i < json_array_size(steps) && !status; i++) {
        char where[64];
        snprintf(where, sizeof where, "decoder.decoders[%zu]", i);
        struct json_at step = {at.file, where, json_array_get(steps, i)};
        status = decoder_step(&step, &stage, seen, error);
    }
    if (status)
        return status;
    /* Strip works on what Fuse made one; without it, every token would lose a space. */
    if (!seen[0] || !seen[2])
        return json_refuse(&at, "decoders", "a decoder without Replace or Fuse",
                           "Replace, ByteFallback, Fuse, Strip", error);
    tokenizer->spaces.strips = seen[3];
    *ret_joins_bytes = seen[1];
    return STATUS_OK;
}
