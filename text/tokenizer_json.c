#include "text/tokenizer_json.h"

#include "text/byte_letters.h"

#define FILE_MAX_BYTES (64u << 20)
#define VALUES_MAX 4000000u

enum status json_optional_bool(const struct json_at *at, const char *field, bool absent,
                               bool *ret_value, struct error *error)
{
    if (json_has(at, field))
        return json_get_bool(at, field, ret_value, error);
    *ret_value = absent;
    return STATUS_OK;
}

enum status json_refuse(const struct json_at *at, const char *field, const char *got,
                        const char *expected, struct error *error)
{
    return error_set(error, STATUS_UNSUPPORTED, "%s: %s%s%s: %s is not supported, expected %s",
                     at->file, at->parent, *at->parent ? "." : "", field, got, expected);
}

/* "FILE: FIELD: " before what the rules said. */
static enum status located(enum status status, const struct json_at *at, const char *field,
                           struct error *error)
{
    char where[256];
    if (status) {
        snprintf(where, sizeof where, "%s: %s%s%s", at->file, at->parent, *at->parent ? "." : "",
                 field);
        error_prefix(error, where);
    }
    return status;
}

/* The options of the model that change what merging does; those that we do not do are refused. */
static enum status model_options(const struct json_at *model, struct tokenizer *tokenizer,
                                 bool *ret_fuse_unk, struct error *error)
{
    const char *type = NULL;
    enum status status = json_get_string(model, "type", &type, error);
    if (status)
        return status;
    if (strcmp(type, "BPE") != 0)
        return json_refuse(model, "type", type, "BPE", error);
    double dropout = 0;
    if (json_has(model, "dropout"))
        status = json_get_real(model, "dropout", (struct json_range_real){0, 1}, &dropout, error);
    if (status)
        return status;
    if (dropout > 0)
        return json_refuse(model, "dropout", "a random choice of merges", "null", error);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < array_count(affixes); i++) {
        const char *affix = "";
        if (json_has(model, affixes[i]))
            status = json_get_string(model, affixes[i], &affix, error);
        if (status)
            return status;
        if (*affix)
            return json_refuse(model, affixes[i], affix, "null", error);
    }
    status = json_optional_bool(model, "byte_fallback", false, &tokenizer->falls_back, error);
    if (!status)
        status =
            json_optional_bool(model, "ignore_merges", false, &tokenizer->ignore_merges, error);
    if (status)
        return status;
    if (tokenizer->falls_back && !tokenizer->spaces.on)
        return json_refuse(model, "byte_fallback", "true in a byte-level vocabulary", "false",
                           error);
    if (tokenizer->falls_back && tokenizer->ignore_merges)
        return json_refuse(model, "ignore_merges", "true beside byte_fallback", "false", error);
    return json_optional_bool(model, "fuse_unk", false, ret_fuse_unk, error);
}

static enum status normalizer_read(const struct json_at *root, struct tokenizer *tokenizer,
                                   struct error *error)
{
    if (!json_has(root, "normalizer"))
        return STATUS_OK;
    struct json_at at = {.file = root->file, .parent = "normalizer"};
    const char *type = NULL;
    enum status status = json_get_object(root, "normalizer", &at.object, error);
    if (!status)
        status = json_get_string(&at, "type", &type, error);
    if (status)
        return status;
    static const char *const spacing[] = {"Sequence", "Prepend", "Replace"};
    for (size_t i = 0; i < array_count(spacing); i++)
        if (strcmp(type, spacing[i]) == 0)
            return json_spaces_normalizer(&at, tokenizer, error);
    if (strcmp(type, "NFC") != 0)
        return json_refuse(&at, "type", type, "null, NFC, or Prepend and Replace", error);
    tokenizer->normalizes = true;
    return STATUS_OK;
}

static enum status token_id(const char *file, const char *what, const json_t *value,
                            uint32_t *ret_id, struct error *error)
{
    if (!json_is_integer(value))
        return error_set(error, STATUS_INVALID, "%s: %s: expected an integer, got %s", file, what,
                         json_kind_text(value));
    json_int_t id = json_integer_value(value);
    if (id < 0 || id >= VOCABULARY_IDS_MAX)
        return error_set(error, STATUS_INVALID, "%s: %s: token id %lld, expected 0 to %u", file,
                         what, (long long)id, VOCABULARY_IDS_MAX - 1);
    *ret_id = (uint32_t)id;
    return STATUS_OK;
}

/* How many ids there are: one more than the largest. */
static enum status ids_count(const char *file, json_t *vocab, const json_t *added,
                             uint32_t *ret_count, struct error *error)
{
    const char *key;
    json_t *value;
    uint32_t id = 0, count = 0;
    json_object_foreach (vocab, key, value) {
        enum status status = token_id(file, "model.vocab", value, &id, error);
        if (status)
            return status;
        count = u32_max(count, id + 1);
    }
    size_t index;
    json_array_foreach (added, index, value) {
        char what[64];
        snprintf(what, sizeof what, "added_tokens[%zu].id", index);
        if (!json_is_object(value))
            return error_set(error, STATUS_INVALID,
                             "%s: added_tokens[%zu]: expected an object, got %s", file, index,
                             json_kind_text(value));
        enum status status = token_id(file, what, json_object_get(value, "id"), &id, error);
        if (status)
            return status;
        count = u32_max(count, id + 1);
    }
    if (count == 0)
        return error_set(error, STATUS_INVALID, "%s: model.vocab: it is empty", file);
    *ret_count = count;
    return STATUS_OK;
}

static enum status added_read(const struct json_at *at, const json_t *vocab,
                              struct tokenizer *tokenizer, struct error *error)
{
    const char *content = NULL;
    json_int_t id = json_integer_value(json_object_get(at->object, "id")); /* see ids_count */
    struct tokenizer_added added = {.id = (uint32_t)id};
    bool single_word = false;
    enum status status = json_get_string(at, "content", &content, error);
    if (!status)
        status = json_get_bool(at, "special", &added.special, error);
    if (!status)
        status = json_optional_bool(at, "normalized", !added.special, &added.normalized, error);
    if (!status)
        status = json_optional_bool(at, "lstrip", false, &added.lstrip, error);
    if (!status)
        status = json_optional_bool(at, "rstrip", false, &added.rstrip, error);
    if (!status)
        status = json_optional_bool(at, "single_word", false, &single_word, error);
    if (status)
        return status;
    if (single_word)
        return json_refuse(at, "single_word", content, "false", error);
    /* The library would look for it with the leading space. */
    if (added.normalized && !added.special && tokenizer->spaces.lead == SPACES_LEAD_EVERY)
        return json_refuse(at, "normalized", "true beside the normalizer Prepend", "false", error);
    added.text = span_of(content);
    const json_t *same = json_object_get(vocab, content);
    if (same && json_integer_value(same) != added.id)
        return error_set(error, STATUS_INVALID,
                         "%s: added_tokens: \"%s\" has id %u here and %lld in model.vocab",
                         at->file, content, added.id, (long long)json_integer_value(same));
    return located(tokenizer_rules_add(tokenizer, &added, same != NULL, error), at, "content",
                   error);
}

static enum status added_tokens_read(const char *file, const json_t *list, const json_t *vocab,
                                     struct tokenizer *tokenizer, struct error *error)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        char where[64];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        struct json_at at = {.file = file, .parent = where, .object = json_array_get(list, i)};
        enum status status = added_read(&at, vocab, tokenizer, error);
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* Letters of the byte alphabet to the bytes they stand for, in `out` [VOCABULARY_TOKEN_MAX_BYTES]
 */
static enum status letters_read(struct span letters, char *out, struct span *ret_bytes,
                                struct error *error)
{
    /* A letter has at most two bytes, so nothing longer can be short enough. */
    char bytes[2 * VOCABULARY_TOKEN_MAX_BYTES];
    if (letters.size_bytes > sizeof bytes)
        return error_set(error, STATUS_INVALID, "\"%.40s...\" has over %d bytes", letters.data,
                         VOCABULARY_TOKEN_MAX_BYTES);
    size_t size_bytes = byte_letters_decode(letters, bytes);
    if (size_bytes == BYTE_LETTERS_BAD)
        return error_set(error, STATUS_INVALID,
                         "\"%.*s\" has a character that is no letter of the byte-level "
                         "alphabet",
                         (int)size_min(letters.size_bytes, 64), letters.data);
    if (size_bytes > VOCABULARY_TOKEN_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "\"%.40s...\" has %zu bytes, over %d", letters.data,
                         size_bytes, VOCABULARY_TOKEN_MAX_BYTES);
    memcpy(out, bytes, size_bytes);
    *ret_bytes = (struct span){out, size_bytes};
    return STATUS_OK;
}

struct spelled {
    struct span bytes;
    bool reachable; /* text can become it */
};

/* What a text of the vocabulary spells, in `out` [VOCABULARY_TOKEN_MAX_BYTES]. */
static enum status spelled_read(const struct tokenizer *tokenizer, struct span text, char *out,
                                struct spelled *ret_spelled, struct error *error)
{
    ret_spelled->reachable = true;
    if (!tokenizer->spaces.on)
        return letters_read(text, out, &ret_spelled->bytes, error);
    if (text.size_bytes > SPACES_TOKEN_MAX_BYTES)
        return error_set(error, STATUS_UNSUPPORTED, "\"%.40s...\" has %zu bytes, over %d",
                         text.data, text.size_bytes, SPACES_TOKEN_MAX_BYTES);
    ret_spelled->bytes.data = out;
    ret_spelled->reachable = spaces_token(text, out, &ret_spelled->bytes.size_bytes);
    return STATUS_OK;
}

static enum status vocab_entry(struct tokenizer *tokenizer, struct span key, uint32_t id,
                               struct error *error)
{
    char bytes[VOCABULARY_TOKEN_MAX_BYTES];
    struct spelled token;
    if (tokenizer->falls_back && spaces_byte(key) >= 0)
        return tokenizer_rules_byte(tokenizer, id, key, error);
    enum status status = spelled_read(tokenizer, key, bytes, &token, error);
    if (status)
        return status;
    return vocabulary_set(&tokenizer->vocabulary, id, token.bytes, TOKEN_NORMAL, token.reachable,
                          error);
}

static enum status vocab_read(const char *file, json_t *vocab, struct tokenizer *tokenizer,
                              struct error *error)
{
    const char *key;
    json_t *value;
    struct json_at at = {.file = file, .parent = "model"};
    json_object_foreach (vocab, key, value) {
        if (added_exact(&tokenizer->added, span_of(key)))
            continue;
        uint32_t id = (uint32_t)json_integer_value(value);
        enum status status =
            located(vocab_entry(tokenizer, span_of(key), id, error), &at, "vocab", error);
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* A merge is "left right" in older files and ["left", "right"] in newer ones. */
static bool merge_parts(const json_t *merge, struct span *ret_left, struct span *ret_right)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (!json_is_string(left) || !json_is_string(right))
            return false;
        *ret_left = span_of(json_string_value(left));
        *ret_right = span_of(json_string_value(right));
        return true;
    }
    const char *text = json_string_value(merge); /* NULL for what is no string */
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return false;
    *ret_left = (struct span){text, (size_t)(space - text)};
    *ret_right = span_of(space + 1);
    return true;
}

static enum status merge_read(const json_t *merge, struct tokenizer *tokenizer, struct error *error)
{
    struct span texts[2];
    struct spelled parts[2];
    char bytes[2][VOCABULARY_TOKEN_MAX_BYTES];
    if (!merge_parts(merge, &texts[0], &texts[1]))
        return error_set(error, STATUS_INVALID, "expected \"left right\" or [left, right]");
    for (int p = 0; p < 2; p++) {
        enum status status = spelled_read(tokenizer, texts[p], bytes[p], &parts[p], error);
        if (status)
            return status;
    }
    return bpe_merge_add(&tokenizer->bpe, &tokenizer->vocabulary, parts[0].bytes, parts[1].bytes,
                         error);
}

static enum status merges_read(const char *file, const json_t *merges, struct tokenizer *tokenizer,
                               struct error *error)
{
    struct json_at at = {.file = file, .parent = "model"};
    for (size_t i = 0; i < json_array_size(merges); i++) {
        char field[32];
        enum status status = merge_read(json_array_get(merges, i), tokenizer, error);
        snprintf(field, sizeof field, "merges[%zu]", i);
        if (status)
            return located(status, &at, field, error);
    }
    return STATUS_OK;
}

static enum status split_read(const struct json_at *at, struct tokenizer *tokenizer,
                              struct error *error)
{
    struct json_at pattern = {.file = at->file, .parent = "pre_tokenizer.pattern"};
    const char *behavior = NULL, *text = NULL;
    bool invert = false;
    enum status status = json_get_string(at, "behavior", &behavior, error);
    if (!status)
        status = json_optional_bool(at, "invert", false, &invert, error);
    if (!status)
        status = json_get_object(at, "pattern", &pattern.object, error);
    bool literal = !status && json_has(&pattern, "String");
    if (!status)
        status = json_get_string(&pattern, literal ? "String" : "Regex", &text, error);
    if (status)
        return status;
    enum split_keeps keeps = SPLIT_KEEPS_ALL;
    if (strcmp(behavior, "Removed") == 0)
        keeps = invert ? SPLIT_KEEPS_MATCHES : SPLIT_KEEPS_GAPS;
    else if (strcmp(behavior, "Isolated") != 0)
        return json_refuse(at, "behavior", behavior, "Isolated or Removed", error);
    status = literal
                 ? pretokenizer_add_literal(&tokenizer->pretokenizer, span_of(text), keeps, error)
                 : pretokenizer_add(&tokenizer->pretokenizer, span_of(text), keeps, error);
    return located(status, at, "pattern", error);
}

static enum status byte_level_read(const struct json_at *at, struct tokenizer *tokenizer,
                                   struct error *error)
{
    bool prefix = false, regex = true;
    enum status status = json_get_bool(at, "add_prefix_space", &prefix, error);
    if (!status)
        status = json_optional_bool(at, "use_regex", true, &regex, error);
    if (status)
        return status;
    if (prefix)
        return json_refuse(at, "add_prefix_space", "true", "false", error);
    if (!regex)
        return STATUS_OK;
    return located(pretokenizer_add(&tokenizer->pretokenizer, span_of(PRETOKENIZER_GPT2),
                                    SPLIT_KEEPS_ALL, error),
                   at, "use_regex", error);
}

/* One step, which must not be a sequence itself. ByteLevel ends the list: after it, pieces are in
 * letters and no longer text. */
static enum status step_read(const struct json_at *at, struct tokenizer *tokenizer,
                             bool *byte_level, struct error *error)
{
    const char *type = NULL;
    enum status status = json_get_string(at, "type", &type, error);
    if (status)
        return status;
    if (*byte_level)
        return json_refuse(at, "type", "a step after ByteLevel", "ByteLevel as the last", error);
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return byte_level_read(at, tokenizer, error);
    }
    if (strcmp(type, "Split") == 0)
        return split_read(at, tokenizer, error);
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        status = json_get_bool(at, "individual_digits", &individual, error);
        if (status)
            return status;
        return pretokenizer_add(&tokenizer->pretokenizer,
                                span_of(individual ? PRETOKENIZER_DIGIT : PRETOKENIZER_NUMBER),
                                SPLIT_KEEPS_ALL, error);
    }
    return json_refuse(at, "type", type, "ByteLevel, Split, Digits or a Sequence of them", error);
}

/* A vocabulary of characters has no other pre-tokenizer than Metaspace, or none. */
static enum status metaspace_find(const struct json_at *root, struct tokenizer *tokenizer,
                                  struct error *error)
{
    struct json_at at = {.file = root->file, .parent = "pre_tokenizer"};
    at.object = json_object_get(root->object, "pre_tokenizer");
    const char *type = json_string_value(json_object_get(at.object, "type"));
    if (type && strcmp(type, "Metaspace") == 0)
        return json_metaspace(&at, tokenizer, error);
    if (tokenizer->spaces.on && json_has(root, "pre_tokenizer"))
        return json_refuse(root, "pre_tokenizer", "one beside the normalizer Replace", "null",
                           error);
    return STATUS_OK;
}

static enum status pre_tokenizer_read(const struct json_at *root, struct tokenizer *tokenizer,
                                      struct error *error)
{
    struct json_at at = {.file = root->file, .parent = "pre_tokenizer"};
    const char *type = NULL;
    bool byte_level = false;
    if (tokenizer->spaces.on)
        return STATUS_OK; /* see metaspace_find */
    enum status status = json_get_object(root, "pre_tokenizer", &at.object, error);
    if (!status)
        status = json_get_string(&at, "type", &type, error);
    if (status)
        return status;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *steps = NULL;
        status = json_get_array(&at, "pretokenizers", &steps, error);
        for (size_t i = 0; !status && i < json_array_size(steps); i++) {
            char where[64];
            snprintf(where, sizeof where, "pre_tokenizer.pretokenizers[%zu]", i);
            struct json_at step = {at.file, where, json_array_get(steps, i)};
            status = step_read(&step, tokenizer, &byte_level, error);
        }
    } else {
        status = step_read(&at, tokenizer, &byte_level, error);
    }
    if (!status && !byte_level)
        return json_refuse(&at, "type", "a tokenizer without ByteLevel",
                           "ByteLevel as the last step", error);
    return status;
}

static enum status decoder_read(const struct json_at *root, struct tokenizer *tokenizer,
                                struct error *error)
{
    bool joins_bytes = false;
    if (tokenizer->spaces.on) {
        enum status status = json_spaces_decoder(root, tokenizer, &joins_bytes, error);
        if (!status && tokenizer->falls_back && !joins_bytes)
            return json_refuse(root, "decoder", "one without ByteFallback",
                               "ByteFallback, as model.byte_fallback is true", error);
        return status;
    }
    if (!json_has(root, "decoder"))
        return STATUS_OK;
    struct json_at at = {.file = root->file, .parent = "decoder"};
    const char *type = NULL;
    enum status status = json_get_object(root, "decoder", &at.object, error);
    if (!status)
        status = json_get_string(&at, "type", &type, error);
    if (status)
        return status;
    return strcmp(type, "ByteLevel") == 0 ? STATUS_OK
                                          : json_refuse(&at, "type", type, "ByteLevel", error);
}

/* The id of {"SpecialToken": {"id": NAME}}, by the processor's own table of names. */
static enum status special_read(const struct json_at *at, const char *name,
                                struct tokenizer *tokenizer, struct error *error)
{
    const json_t *table = json_object_get(at->object, "special_tokens");
    const json_t *ids = json_object_get(json_object_get(table, name), "ids");
    uint32_t id = 0;
    if (json_array_size(ids) != 1)
        return error_set(error, STATUS_INVALID,
                         "%s: post_processor.special_tokens: expected one id for \"%s\"", at->file,
                         name);
    enum status status =
        token_id(at->file, "post_processor.special_tokens", json_array_get(ids, 0), &id, error);
    if (status)
        return status;
    if (!tokenizer_token_is_special(tokenizer, id))
        return error_set(error, STATUS_INVALID,
                         "%s: post_processor.special_tokens: id %u is not a special token",
                         at->file, id);
    tokenizer->info.bos_id = id;
    tokenizer->info.adds_bos = true;
    return STATUS_OK;
}

/* "single" may be the text alone, or one special token before it: the BOS. */
static enum status template_read(const struct json_at *at, struct tokenizer *tokenizer,
                                 struct error *error)
{
    const json_t *single = NULL;
    enum status status = json_get_array(at, "single", &single, error);
    if (status)
        return status;
    size_t count = json_array_size(single);
    const json_t *first = json_array_get(single, 0), *last = json_array_get(single, count - 1);
    const json_t *special = json_object_get(first, "SpecialToken");
    if (count == 0 || count > 2 || !json_object_get(last, "Sequence") || (count == 2) != !!special)
        return json_refuse(at, "single", "what this template adds to a text",
                           "at most one special token, before it", error);
    if (!special)
        return STATUS_OK;
    const char *name = json_string_value(json_object_get(special, "id"));
    if (!name)
        return error_set(error, STATUS_INVALID,
                         "%s: post_processor.single: expected the name of a special token",
                         at->file);
    return special_read(at, name, tokenizer, error);
}

static enum status processor_read(const struct json_at *at, struct tokenizer *tokenizer,
                                  bool in_sequence, struct error *error)
{
    const char *type = NULL;
    enum status status = json_get_string(at, "type", &type, error);
    if (status)
        return status;
    if (strcmp(type, "ByteLevel") == 0) /* only shifts offsets */
        return STATUS_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return template_read(at, tokenizer, error);
    if (strcmp(type, "Sequence") != 0 || in_sequence)
        return json_refuse(at, "type", type, "TemplateProcessing, ByteLevel or a Sequence of them",
                           error);
    const json_t *list = NULL;
    status = json_get_array(at, "processors", &list, error);
    for (size_t i = 0; !status && i < json_array_size(list); i++) {
        struct json_at item = {at->file, "post_processor.processors", json_array_get(list, i)};
        status = processor_read(&item, tokenizer, true, error);
    }
    return status;
}

static enum status post_processor_read(const struct json_at *root, struct tokenizer *tokenizer,
                                       struct error *error)
{
    if (!json_has(root, "post_processor"))
        return STATUS_OK;
    struct json_at at = {.file = root->file, .parent = "post_processor"};
    enum status status = json_get_object(root, "post_processor", &at.object, error);
    return status ? status : processor_read(&at, tokenizer, false, error);
}

static enum status unk_read(const struct json_at *model, struct tokenizer *tokenizer, bool fuse_unk,
                            struct error *error)
{
    const char *unk = NULL;
    if (!json_has(model, "unk_token"))
        return STATUS_OK;
    enum status status = json_get_string(model, "unk_token", &unk, error);
    if (status)
        return status;
    uint32_t id = tokenizer_token_id(tokenizer, span_of(unk));
    if (id == TOKEN_NONE)
        return error_set(error, STATUS_INVALID, "%s: model.unk_token: \"%s\" is no token",
                         model->file, unk);
    tokenizer->bpe.unk_id = id;
    tokenizer->bpe.fuse_unk = fuse_unk;
    return STATUS_OK;
}

static enum status model_read(const struct json_at *root, const struct json_at *model,
                              struct tokenizer *tokenizer, struct error *error)
{
    const json_t *field = NULL, *merges = NULL, *added = NULL;
    bool fuse_unk = false;
    enum status status = model_options(model, tokenizer, &fuse_unk, error);
    if (!status)
        status = json_get_object(model, "vocab", &field, error);
    if (!status)
        status = json_get_array(model, "merges", &merges, error);
    if (!status && json_has(root, "added_tokens"))
        status = json_get_array(root, "added_tokens", &added, error);
    if (status)
        return status;
    json_t *vocab = json_object_get(model->object, "vocab"); /* the same, for walking */
    uint32_t count = 0;
    status = ids_count(root->file, vocab, added, &count, error);
    if (!status)
        status = located(tokenizer_rules_begin(tokenizer, count, error), model, "vocab", error);
    if (!status)
        status = added_tokens_read(root->file, added, vocab, tokenizer, error);
    if (!status)
        status = vocab_read(root->file, vocab, tokenizer, error);
    if (status)
        return status;
    size_t merges_count = json_array_size(merges);
    status = located(
        tokenizer_rules_index(tokenizer, (uint32_t)size_min(merges_count, UINT32_MAX), error),
        model, "vocab", error);
    if (!status)
        status = merges_read(root->file, merges, tokenizer, error);
    return status ? status : unk_read(model, tokenizer, fuse_unk, error);
}

enum status tokenizer_json_read(struct span text, const char *file, struct tokenizer *tokenizer,
                                struct error *error)
{
    static const struct json_limits limits = {FILE_MAX_BYTES, VALUES_MAX};
    json_t *document = NULL;
    enum status status = json_read_text(text, file, &limits, &document, error);
    if (status)
        return status;
    struct json_at root = {.file = file, .parent = "", .object = document};
    struct json_at model = {.file = file, .parent = "model"};
    /* What the vocabulary is written in comes before the vocabulary. */
    status = json_get_object(&root, "model", &model.object, error);
    if (!status)
        status = normalizer_read(&root, tokenizer, error);
    if (!status)
        status = metaspace_find(&root, tokenizer, error);
    if (!status)
        status = model_read(&root, &model, tokenizer, error);
    if (!status)
        status = pre_tokenizer_read(&root, tokenizer, error);
    if (!status)
        status = decoder_read(&root, tokenizer, error);
    if (!status)
        status = post_processor_read(&root, tokenizer, error);
    if (!status)
        status = tokenizer_rules_finish(tokenizer, error);
    json_decref(document);
    return status;
}
