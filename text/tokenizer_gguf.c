#include "base/gguf.h"
#include "text/byte_letters.h"
#include "text/tokenizer_rules.h"
#include "text/utf8.h"

/*
 * A GGUF file names its pre-tokenizer instead of spelling it. These are the ones whose splits are
 * known here, written as the models' own tokenizer.json files have them.
 */
#define CONTRACTIONS_ANY_CASE "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS_AND_LINES(numbers)                                                                   \
    CONTRACTIONS_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers                                \
                          "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

struct named_pre {
    const char *name;
    const char *splits[4]; /* NULL: no more */
    bool normalizes;
    bool ignore_merges;
    bool adds_bos; /* unless the file says otherwise */
};

static const struct named_pre named_pres[] = {
    {.name = "gpt-2", .splits = {PRETOKENIZER_GPT2}},
    {.name = "smollm", .splits = {PRETOKENIZER_DIGIT, PRETOKENIZER_GPT2}},
    {.name = "starcoder", .splits = {PRETOKENIZER_DIGIT, PRETOKENIZER_GPT2}},
    {.name = "llama-bpe",
     .splits = {WORDS_AND_LINES("\\p{N}{1,3}")},
     .ignore_merges = true,
     .adds_bos = true},
    {.name = "qwen2", .splits = {WORDS_AND_LINES("\\p{N}")}, .normalizes = true},
    {.name = "default",
     .splits = {"[\\p{P}\\$\\+<=>\\^~\\|]+", PRETOKENIZER_GPT2, PRETOKENIZER_NUMBER,
                "[0-9][0-9][0-9]"}},
};

enum gguf_token_type {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN,
    GGUF_TOKEN_CONTROL,
    GGUF_TOKEN_USER_DEFINED,
    GGUF_TOKEN_UNUSED,
    GGUF_TOKEN_BYTE
};

static enum status keyed(enum status status, const char *file, const char *key, struct error *error)
{
    char where[256];
    if (status) {
        snprintf(where, sizeof where, "%s: %s", file, key);
        error_prefix(error, where);
    }
    return status;
}

static bool span_is(struct span text, const char *word)
{
    return span_equal(text, span_of(word));
}

enum status tokenizer_pre_named(struct span name, struct tokenizer *tokenizer, struct error *error)
{
    const struct named_pre *pre = NULL;
    for (size_t i = 0; i < array_count(named_pres); i++)
        if (span_is(name, named_pres[i].name))
            pre = &named_pres[i];
    if (!pre)
        return error_set(error, STATUS_UNSUPPORTED,
                         "pre-tokenizer \"%.*s\" is not supported, expected gpt-2, smollm, "
                         "starcoder, llama-bpe, qwen2 or default",
                         (int)size_min(name.size_bytes, 64), name.data);
    tokenizer->normalizes = pre->normalizes;
    tokenizer->ignore_merges = pre->ignore_merges;
    tokenizer->info.adds_bos = pre->adds_bos;
    for (size_t i = 0; i < array_count(pre->splits) && pre->splits[i]; i++) {
        enum status status = pretokenizer_add(&tokenizer->pretokenizer, span_of(pre->splits[i]),
                                              SPLIT_KEEPS_ALL, error);
        if (status)
            return status;
    }
    return STATUS_OK;
}

static enum status pre_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                            struct error *error)
{
    static const char *const key = "tokenizer.ggml.pre";
    struct span name;
    enum status status = gguf_get_string(gguf, key, &name, error);
    return status ? status
                  : keyed(tokenizer_pre_named(name, tokenizer, error), gguf->file, key, error);
}

/* A token in the letters of the byte alphabet. */
static enum status letters_read(struct tokenizer *tokenizer, uint32_t id, struct span text,
                                struct error *error)
{
    char bytes[2 * VOCABULARY_TOKEN_MAX_BYTES];
    size_t size_bytes =
        text.size_bytes > sizeof bytes ? BYTE_LETTERS_BAD : byte_letters_decode(text, bytes);
    if (size_bytes == BYTE_LETTERS_BAD)
        return error_set(error, STATUS_INVALID,
                         "token id %u, \"%.*s\", is too long or has a character that is no letter "
                         "of the byte-level alphabet",
                         id, (int)size_min(text.size_bytes, 64), text.data);
    return vocabulary_set(&tokenizer->vocabulary, id, (struct span){bytes, size_bytes},
                          TOKEN_NORMAL, true, error);
}

/* A token in characters. */
static enum status characters_read(struct tokenizer *tokenizer, uint32_t id, struct span text,
                                   struct error *error)
{
    char bytes[SPACES_TOKEN_MAX_BYTES];
    if (text.size_bytes > sizeof bytes)
        return error_set(error, STATUS_UNSUPPORTED,
                         "token id %u has %zu bytes, expected at most %zu", id, text.size_bytes,
                         sizeof bytes);
    size_t bad = utf8_invalid_offset(text.data, text.size_bytes), size_bytes = 0;
    if (bad < text.size_bytes)
        return error_set(error, STATUS_INVALID, "token id %u is not valid UTF-8 at byte %zu", id,
                         bad);
    bool reachable = spaces_token(text, bytes, &size_bytes);
    return vocabulary_set(&tokenizer->vocabulary, id, (struct span){bytes, size_bytes},
                          TOKEN_NORMAL, reachable, error);
}

/* One token; `type` GGUF_TOKEN_NORMAL when the file has no types. */
static enum status token_read(const struct gguf *gguf, struct tokenizer *tokenizer, uint32_t id,
                              struct span text, int32_t type, struct error *error)
{
    switch (type) {
    case GGUF_TOKEN_UNUSED:
        return STATUS_OK;
    case GGUF_TOKEN_CONTROL:
    case GGUF_TOKEN_UNKNOWN:
    case GGUF_TOKEN_USER_DEFINED: {
        struct tokenizer_added added = {
            .id = id, .text = text, .special = type != GGUF_TOKEN_USER_DEFINED};
        return tokenizer_rules_add(tokenizer, &added, true, error);
    }
    case GGUF_TOKEN_NORMAL:
        break;
    case GGUF_TOKEN_BYTE:
        if (tokenizer->spaces.on)
            return tokenizer_rules_byte(tokenizer, id, text, error);
        /* fall through */
    default:
        return error_set(error, STATUS_UNSUPPORTED,
                         "token id %u has type %d, expected normal, unknown, control, user-defined "
                         "or unused (or byte, of the model llama)",
                         id, type);
    }
    return tokenizer->spaces.on ? characters_read(tokenizer, id, text, error)
                                : letters_read(tokenizer, id, text, error);
}

static enum status tokens_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                               struct error *error)
{
    static const char *const key = "tokenizer.ggml.tokens", *const type_key =
                                                                "tokenizer.ggml.token_type";
    struct gguf_array tokens, types = {0};
    enum status status = gguf_get_array(gguf, key, GGUF_STRING, &tokens, error);
    if (!status && gguf_key_find(gguf, type_key))
        status = gguf_get_array(gguf, type_key, GGUF_I32, &types, error);
    if (status)
        return status;
    if (types.count > 0 && types.count != tokens.count)
        return error_set(error, STATUS_INVALID, "%s: %s: %llu types for %llu tokens", gguf->file,
                         type_key, (unsigned long long)types.count,
                         (unsigned long long)tokens.count);
    bool adds_bos = tokenizer->info.adds_bos;
    uint32_t count = (uint32_t)(tokens.count < UINT32_MAX ? tokens.count : UINT32_MAX);
    status = tokenizer_rules_begin(tokenizer, count, error);
    tokenizer->info.adds_bos = adds_bos;
    size_t cursor = 0;
    struct span text;
    for (uint32_t id = 0; id < count && !status && gguf_array_string(&tokens, &cursor, &text); id++)
        status = token_read(gguf, tokenizer, id, text,
                            types.count ? gguf_array_i32(&types, id) : GGUF_TOKEN_NORMAL, error);
    return keyed(status, gguf->file, key, error);
}

/* "left right" in letters; the left part may begin with a space in no vocabulary that we read. */
static enum status merge_read(struct tokenizer *tokenizer, struct span text, struct error *error)
{
    const char *space = text.size_bytes ? memchr(text.data, ' ', text.size_bytes) : NULL;
    char bytes[2][2 * VOCABULARY_TOKEN_MAX_BYTES];
    struct span parts[2];
    if (!space)
        return error_set(error, STATUS_INVALID, "merge %u: expected \"left right\"",
                         tokenizer->bpe.merges_count);
    parts[0] = (struct span){text.data, (size_t)(space - text.data)};
    parts[1] = (struct span){space + 1, text.size_bytes - parts[0].size_bytes - 1};
    for (int p = 0; p < 2; p++) {
        size_t size_bytes = parts[p].size_bytes > sizeof bytes[p]
                                ? BYTE_LETTERS_BAD
                                : byte_letters_decode(parts[p], bytes[p]);
        if (size_bytes == BYTE_LETTERS_BAD)
            return error_set(error, STATUS_INVALID,
                             "merge %u, \"%.*s\": a part is too long or has a character that is no "
                             "letter of the byte-level alphabet",
                             tokenizer->bpe.merges_count, (int)size_min(text.size_bytes, 64),
                             text.data);
        parts[p] = (struct span){bytes[p], size_bytes};
    }
    return bpe_merge_add(&tokenizer->bpe, &tokenizer->vocabulary, parts[0], parts[1], error);
}

static enum status merges_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                               struct error *error)
{
    static const char *const key = "tokenizer.ggml.merges";
    struct gguf_array merges;
    enum status status = gguf_get_array(gguf, key, GGUF_STRING, &merges, error);
    if (status)
        return status;
    uint32_t count = (uint32_t)(merges.count < UINT32_MAX ? merges.count : UINT32_MAX);
    status = tokenizer_rules_index(tokenizer, count, error);
    size_t cursor = 0;
    struct span text;
    while (!status && gguf_array_string(&merges, &cursor, &text))
        status = merge_read(tokenizer, text, error);
    return keyed(status, gguf->file, key, error);
}

/* The merges of a vocabulary in characters follow from its scores. */
static enum status scores_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                               struct error *error)
{
    static const char *const key = "tokenizer.ggml.scores";
    struct gguf_array scores;
    uint32_t count = tokenizer->vocabulary.count;
    enum status status = gguf_get_array(gguf, key, GGUF_F32, &scores, error);
    if (status)
        return status;
    if (scores.count != count)
        return error_set(error, STATUS_INVALID, "%s: %s: %llu scores for %u tokens", gguf->file,
                         key, (unsigned long long)scores.count, count);
    float *values = malloc(count * sizeof *values);
    if (!values)
        return error_set(error, STATUS_EXHAUSTED, "%s: no memory for %u scores", gguf->file, count);
    for (uint32_t id = 0; id < count; id++)
        values[id] = gguf_array_f32(&scores, id);
    status = tokenizer_rules_index(tokenizer, spaces_merges_max(&tokenizer->vocabulary), error);
    if (!status)
        status = spaces_merges(&tokenizer->bpe, &tokenizer->vocabulary, values, error);
    free(values);
    return keyed(status, gguf->file, "tokenizer.ggml", error);
}

/* Absent flags keep what *ret_value holds. */
static enum status optional_flag(const struct gguf *gguf, const char *key, bool *ret_value,
                                 struct error *error)
{
    return gguf_key_find(gguf, key) ? gguf_get_bool(gguf, key, ret_value, error) : STATUS_OK;
}

static enum status flags_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                              struct error *error)
{
    static const char *const unwanted[] = {"tokenizer.ggml.add_eos_token",
                                           "tokenizer.ggml.remove_extra_whitespaces",
                                           "tokenizer.ggml.add_space_prefix"};
    /* The last is known in a vocabulary of characters. */
    size_t count = array_count(unwanted) - tokenizer->spaces.on;
    for (size_t i = 0; i < count; i++) {
        bool wanted = false;
        enum status status = optional_flag(gguf, unwanted[i], &wanted, error);
        if (status)
            return status;
        if (wanted)
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %s: true is not supported, expected false", gguf->file,
                             unwanted[i]);
    }
    return optional_flag(gguf, "tokenizer.ggml.add_bos_token", &tokenizer->info.adds_bos, error);
}

static enum status ids_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                            struct error *error)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    static const char *const bos = "tokenizer.ggml.bos_token_id";
    struct tokenizer_info *info = &tokenizer->info;
    for (size_t i = 0; i < array_count(ends); i++) {
        uint32_t id = 0;
        if (!gguf_key_find(gguf, ends[i]))
            continue;
        enum status status = gguf_get_u32(gguf, ends[i], &id, error);
        if (!status)
            status = keyed(tokenizer_rules_eos(tokenizer, ends[i], id, error), gguf->file,
                           "tokenizer", error);
        if (status)
            return status;
    }
    if (gguf_key_find(gguf, bos)) {
        enum status status = gguf_get_u32(gguf, bos, &info->bos_id, error);
        if (status)
            return status;
        if (info->bos_id >= info->vocab_count)
            return error_set(error, STATUS_INVALID, "%s: %s: token id %u, expected below %u",
                             gguf->file, bos, info->bos_id, info->vocab_count);
    }
    if (info->adds_bos && info->bos_id == TOKEN_NONE)
        return error_set(error, STATUS_INVALID,
                         "%s: %s is missing, but a text should begin with it", gguf->file, bos);
    return STATUS_OK;
}

/* What the model llama does with spaces: one in front, taken away again from a whole text. */
static enum status spaces_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                               struct error *error)
{
    static const char *const charsmap = "tokenizer.ggml.precompiled_charsmap";
    bool leads = true;
    enum status status = optional_flag(gguf, "tokenizer.ggml.add_space_prefix", &leads, error);
    if (!status && gguf_key_find(gguf, charsmap))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: %s: a normalisation table is not supported, expected no such key",
                         gguf->file, charsmap);
    tokenizer->spaces = (struct spaces){
        .on = true, .lead = leads ? SPACES_LEAD_EVERY : SPACES_LEAD_NONE, .strips = leads};
    tokenizer->falls_back = true;
    tokenizer->info.adds_bos = true;
    return status;
}

static enum status rules_read(const struct gguf *gguf, struct tokenizer *tokenizer,
                              struct error *error)
{
    static const char *const key = "tokenizer.ggml.model";
    struct span model;
    enum status status = gguf_get_string(gguf, key, &model, error);
    if (status)
        return status;
    bool characters = span_is(model, "llama");
    if (!characters && !span_is(model, "gpt2"))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: %s: \"%.*s\" is not supported, expected gpt2 or llama", gguf->file,
                         key, (int)size_min(model.size_bytes, 64), model.data);
    status = characters ? spaces_read(gguf, tokenizer, error) : pre_read(gguf, tokenizer, error);
    if (!status)
        status = tokens_read(gguf, tokenizer, error);
    if (!status)
        status =
            characters ? scores_read(gguf, tokenizer, error) : merges_read(gguf, tokenizer, error);
    if (!status)
        status = flags_read(gguf, tokenizer, error);
    if (!status)
        status = ids_read(gguf, tokenizer, error);
    return status ? status : tokenizer_rules_finish(tokenizer, error);
}

enum status tokenizer_gguf_read(struct span bytes, const char *file, struct tokenizer *tokenizer,
                                struct error *error)
{
    struct gguf gguf = {0};
    enum status status = gguf_open(bytes, file, &gguf, error);
    if (status)
        return status;
    status = rules_read(&gguf, tokenizer, error);
    gguf_close(&gguf);
    if (status == STATUS_NOT_FOUND) { /* a key; the file is there and is wrong */
        status = STATUS_INVALID;
        if (error)
            error->status = status;
    }
    return status;
}
