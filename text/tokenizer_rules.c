#include "text/tokenizer_rules.h"

#include <gnutls/crypto.h>

#include "text/byte_letters.h"

#define DIGEST_FORM "galerne-tokenizer-1"

enum status tokenizer_rules_begin(struct tokenizer *tokenizer, uint32_t count, struct error *error)
{
    tokenizer->info.bos_id = TOKEN_NONE;
    tokenizer->info.vocab_count = count;
    memset(tokenizer->byte_tokens, 0xff, sizeof tokenizer->byte_tokens);
    return vocabulary_init(&tokenizer->vocabulary, count, error);
}

/*
 * Merges can make an added token only if its content means the same as text and in the letters of
 * a byte-level vocabulary, which holds for ASCII without spaces and controls.
 */
static bool reads_as_letters(struct span text)
{
    char bytes[ADDED_TOKEN_MAX_BYTES];
    if (text.size_bytes > sizeof bytes)
        return false;
    size_t size_bytes = byte_letters_decode(text, bytes);
    return size_bytes == text.size_bytes && memcmp(bytes, text.data, size_bytes) == 0;
}

enum status tokenizer_rules_add(struct tokenizer *tokenizer, const struct tokenizer_added *added,
                                bool in_vocabulary, struct error *error)
{
    struct added_token token = {.text = added->text,
                                .id = added->id,
                                .class = added->special      ? ADDED_SPECIAL
                                         : added->normalized ? ADDED_NORMALIZED
                                                             : ADDED_PLAIN,
                                .lstrip = added->lstrip,
                                .rstrip = added->rstrip};
    enum status status = added_insert(&tokenizer->added, &token, error);
    if (status)
        return status;
    if (tokenizer->spaces.on && !added->special &&
        memmem(added->text.data, added->text.size_bytes, SPACES_MARK, strlen(SPACES_MARK)))
        return error_set(error, STATUS_UNSUPPORTED,
                         "added token id %u has U+2581 in it and is not special", added->id);
    bool readable = tokenizer->spaces.on ? !memchr(added->text.data, ' ', added->text.size_bytes)
                                         : reads_as_letters(added->text);
    bool merges = in_vocabulary && !added->special && readable;
    return vocabulary_set(&tokenizer->vocabulary, added->id, added->text,
                          added->special ? TOKEN_SPECIAL : TOKEN_ADDED, merges, error);
}

enum status tokenizer_rules_byte(struct tokenizer *tokenizer, uint32_t id, struct span text,
                                 struct error *error)
{
    int byte = spaces_byte(text);
    if (byte < 0)
        return error_set(error, STATUS_INVALID, "token id %u: expected \"<0x00>\" to \"<0xFF>\"",
                         id);
    if (tokenizer->byte_tokens[byte] != TOKEN_NONE)
        return error_set(error, STATUS_INVALID, "token ids %u and %u are the same byte",
                         tokenizer->byte_tokens[byte], id);
    char spelled = (char)byte;
    tokenizer->byte_tokens[byte] = id;
    return vocabulary_set(&tokenizer->vocabulary, id, (struct span){&spelled, 1}, TOKEN_BYTE, false,
                          error);
}

enum status tokenizer_rules_index(struct tokenizer *tokenizer, uint32_t merges_max,
                                  struct error *error)
{
    enum status status = vocabulary_index(&tokenizer->vocabulary, error);
    if (!status)
        status = bpe_init(&tokenizer->bpe, &tokenizer->vocabulary, merges_max, error);
    if (status)
        return status;
    tokenizer->bpe.characters = tokenizer->spaces.on;
    tokenizer->bpe.falls_back = tokenizer->falls_back;
    for (int byte = 0; byte < 256 && tokenizer->falls_back; byte++) {
        if (tokenizer->byte_tokens[byte] == TOKEN_NONE)
            return error_set(error, STATUS_UNSUPPORTED,
                             "byte fallback without a token <0x%02X>, expected all 256", byte);
        tokenizer->bpe.fallback_ids[byte] = tokenizer->byte_tokens[byte];
    }
    return STATUS_OK;
}

/*
 * Most words of ordinary text are one token. Which pieces become exactly one token is worked out
 * here once, so that encoding them is one look-up.
 */
static enum status whole_find(struct tokenizer *tokenizer, struct error *error)
{
    struct vocabulary *vocabulary = &tokenizer->vocabulary;
    struct bpe_scratch scratch = {0};
    enum status status = STATUS_OK;
    for (uint32_t id = 0; id < vocabulary->count && !status; id++) {
        struct vocabulary_token *token = &vocabulary->tokens[id];
        if (!token->merges)
            continue;
        token->whole = tokenizer->ignore_merges;
        if (token->whole)
            continue;
        uint32_t count = 0;
        status =
            bpe_encode(&tokenizer->bpe, &scratch, vocabulary_bytes(vocabulary, id), &count, error);
        token->whole = !status && count == 1 && scratch.symbols[0].id == id;
    }
    bpe_scratch_free(&scratch);
    return status;
}

static void hash_u32(gnutls_hash_hd_t hash, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                        (uint8_t)(value >> 24)};
    gnutls_hash(hash, bytes, sizeof bytes);
}

static void hash_text(gnutls_hash_hd_t hash, struct span text)
{
    hash_u32(hash, (uint32_t)text.size_bytes);
    gnutls_hash(hash, text.data, text.size_bytes);
}

static void vocabulary_hash(gnutls_hash_hd_t hash, const struct tokenizer *tokenizer)
{
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    hash_u32(hash, vocabulary->count);
    for (uint32_t id = 0; id < vocabulary->count; id++) {
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        hash_u32(hash, token->kind);
        struct span bytes = vocabulary_bytes(vocabulary, id);
        hash_text(hash, bytes);
        if (token->kind != TOKEN_ADDED && token->kind != TOKEN_SPECIAL)
            continue;
        const struct added_token *added = added_exact(&tokenizer->added, bytes);
        hash_u32(hash, (uint32_t)added->class | (uint32_t)added->lstrip << 8 |
                           (uint32_t)added->rstrip << 16);
    }
}

static int merge_compare(const void *a, const void *b)
{
    const struct bpe_merge *left = *(const struct bpe_merge *const *)a;
    const struct bpe_merge *right = *(const struct bpe_merge *const *)b;
    if (left->rank != right->rank)
        return left->rank < right->rank ? -1 : 1;
    return (left->pair > right->pair) - (left->pair < right->pair);
}

static enum status merges_hash(gnutls_hash_hd_t hash, const struct tokenizer *tokenizer,
                               struct error *error)
{
    const struct bpe *bpe = &tokenizer->bpe;
    const struct bpe_merge **by_rank = malloc((bpe->merges_count + 1u) * sizeof *by_rank);
    uint32_t count = 0;
    if (!by_rank)
        return error_set(error, STATUS_EXHAUSTED, "no memory to digest %u merges",
                         bpe->merges_count);
    for (uint32_t slot = 0; slot <= bpe->merges_mask; slot++)
        if (bpe->merges[slot].pair != UINT64_MAX)
            by_rank[count++] = &bpe->merges[slot];
    qsort(by_rank, count, sizeof(const struct bpe_merge *), merge_compare);
    hash_u32(hash, bpe->merges_count);
    for (uint32_t i = 0; i < count; i++) {
        if (tokenizer->spaces.on) /* several merges may have one rank */
            hash_u32(hash, by_rank[i]->rank);
        hash_u32(hash, (uint32_t)(by_rank[i]->pair >> 32));
        hash_u32(hash, (uint32_t)by_rank[i]->pair);
    }
    free(by_rank);
    return STATUS_OK;
}

static enum status digest_compute(struct tokenizer *tokenizer, struct error *error)
{
    gnutls_hash_hd_t hash;
    CHECK(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0);
    hash_text(hash, span_of(DIGEST_FORM));
    vocabulary_hash(hash, tokenizer);
    enum status status = merges_hash(hash, tokenizer, error);
    hash_u32(hash, (uint32_t)tokenizer->normalizes | (uint32_t)tokenizer->ignore_merges << 1 |
                       (uint32_t)tokenizer->bpe.fuse_unk << 2);
    hash_u32(hash, tokenizer->bpe.unk_id);
    hash_u32(hash, tokenizer->pretokenizer.n_splits);
    for (uint32_t i = 0; i < tokenizer->pretokenizer.n_splits; i++) {
        const struct split *split = &tokenizer->pretokenizer.splits[i];
        hash_u32(hash, split->options);
        hash_u32(hash, (uint32_t)split->keeps);
        hash_text(hash, (struct span){split->pattern, split->pattern_bytes});
    }
    if (tokenizer->spaces.on) {
        const struct spaces *spaces = &tokenizer->spaces;
        hash_u32(hash, (uint32_t)spaces->lead | (uint32_t)(spaces->cuts == SPACES_CUT_EACH) << 8 |
                           (uint32_t)spaces->strips << 16 | (uint32_t)tokenizer->falls_back << 24);
    }
    gnutls_hash_deinit(hash, tokenizer->digest);
    return status;
}

enum status tokenizer_rules_finish(struct tokenizer *tokenizer, struct error *error)
{
    struct spaces *spaces = &tokenizer->spaces;
    if (spaces->on && spaces->cuts == SPACES_CUT_NEVER &&
        spaces_may_cut(&tokenizer->bpe, &tokenizer->vocabulary))
        spaces->cuts = SPACES_CUT_WORDS;
    tokenizer->info.strips_space = spaces->on && spaces->strips;
    enum status status = whole_find(tokenizer, error);
    return status ? status : digest_compute(tokenizer, error);
}

enum status tokenizer_rules_eos(struct tokenizer *tokenizer, const char *what, uint64_t id,
                                struct error *error)
{
    struct tokenizer_info *info = &tokenizer->info;
    if (id >= info->vocab_count)
        return error_set(error, STATUS_INVALID, "%s: token id %llu, expected below %u", what,
                         (unsigned long long)id, info->vocab_count);
    for (uint32_t i = 0; i < info->n_eos; i++)
        if (info->eos_ids[i] == id)
            return STATUS_OK;
    if (info->n_eos == TOKENIZER_EOS_MAX)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: more than %d different ids that end a generation", what,
                         TOKENIZER_EOS_MAX);
    info->eos_ids[info->n_eos++] = (uint32_t)id;
    return STATUS_OK;
}
