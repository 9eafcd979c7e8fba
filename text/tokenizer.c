#include "text/tokenizer.h"

#include "base/gguf.h"
#include "text/model_files.h"
#include "text/normalize.h"
#include "text/tokenizer_rules.h"
#include "text/utf8.h"

#define KEPT_TEXT_BYTES (1u << 20) /* a scratch gives back what one large text made it grow to */
#define KEPT_SYMBOLS (1u << 16)

struct tokenizer_scratch {
    char *text; /* [text_capacity] all pieces, one after the other */
    size_t text_capacity;
    uint32_t *ids; /* [ids_capacity] */
    size_t ids_count;
    size_t ids_capacity;
    char *spaced; /* [spaced_capacity] a stretch of it with its spaces written out */
    size_t spaced_capacity;
    struct bpe_scratch bpe;
    struct pretokenizer_scratch *pretokenizer;
};

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    size_t ids_max;
    struct error *error;
};

enum status tokenizer_open_bytes(struct span bytes, const char *file,
                                 struct tokenizer **ret_tokenizer, struct error *error)
{
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return error_set(error, STATUS_EXHAUSTED, "%s: no memory for a tokenizer", file);
    enum status status = gguf_magic(bytes) ? tokenizer_gguf_read(bytes, file, tokenizer, error)
                                           : tokenizer_json_read(bytes, file, tokenizer, error);
    if (status)
        tokenizer_close(tokenizer);
    else
        *ret_tokenizer = tokenizer;
    return status;
}

enum status tokenizer_open(const char *path, struct tokenizer **ret_tokenizer, struct error *error)
{
    struct model_files files;
    struct map_file map = {0};
    struct tokenizer *tokenizer = NULL;
    enum status status = model_files_resolve(path, &files, error);
    if (status)
        goto out;
    status = map_file_open(files.main, SIZE_MAX, &map, error);
    if (status)
        goto out;
    struct span bytes = {.data = (const char *)map.data, .size_bytes = map.size_bytes};
    status = tokenizer_open_bytes(bytes, files.main, &tokenizer, error);
    if (!status && !gguf_magic(bytes))
        status = tokenizer_config_read(files.directory, tokenizer, error);
    if (!status)
        *ret_tokenizer = tokenizer;
out:
    map_file_close(&map);
    if (status)
        tokenizer_close(tokenizer);
    return status;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    pretokenizer_free(&tokenizer->pretokenizer);
    bpe_free(&tokenizer->bpe);
    added_free(&tokenizer->added);
    vocabulary_free(&tokenizer->vocabulary);
    free(tokenizer);
}

enum status tokenizer_scratch_new(const struct tokenizer *tokenizer,
                                  struct tokenizer_scratch **ret_scratch, struct error *error)
{
    struct tokenizer_scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch)
        return error_set(error, STATUS_EXHAUSTED, "no memory to encode with");
    enum status status = pretokenizer_scratch_new(&scratch->pretokenizer, error);
    if (status)
        tokenizer_scratch_free(scratch);
    else
        *ret_scratch = scratch;
    return status;
}

void tokenizer_scratch_free(struct tokenizer_scratch *scratch)
{
    if (!scratch)
        return;
    pretokenizer_scratch_free(scratch->pretokenizer);
    bpe_scratch_free(&scratch->bpe);
    free(scratch->text);
    free(scratch->spaced);
    free(scratch->ids);
    free(scratch);
}

static enum status id_emit(struct encoding *encoding, uint32_t id)
{
    struct tokenizer_scratch *scratch = encoding->scratch;
    if (scratch->ids_count >= encoding->ids_max)
        return error_set(encoding->error, STATUS_EXHAUSTED,
                         "the text has more than %zu tokens, and no more are allowed here",
                         encoding->ids_max);
    if (scratch->ids_count == scratch->ids_capacity) {
        size_t capacity = size_max(256, 2 * scratch->ids_capacity);
        uint32_t *ids = realloc(scratch->ids, capacity * sizeof *ids);
        if (!ids)
            return error_set(encoding->error, STATUS_EXHAUSTED, "no memory for %zu tokens",
                             capacity);
        scratch->ids = ids;
        scratch->ids_capacity = capacity;
    }
    scratch->ids[scratch->ids_count++] = id;
    return STATUS_OK;
}

static enum status piece_encode(struct encoding *encoding, struct span piece)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    uint32_t id = vocabulary_find(&tokenizer->vocabulary, piece);
    if (id != VOCABULARY_NONE && tokenizer->vocabulary.tokens[id].whole)
        return id_emit(encoding, id);
    struct bpe_scratch *scratch = &encoding->scratch->bpe;
    uint32_t count = 0;
    enum status status = bpe_encode(&tokenizer->bpe, scratch, piece, &count, encoding->error);
    for (uint32_t i = 0; i < count && !status; i++)
        status = id_emit(encoding, scratch->symbols[i].id);
    return status;
}

/* In a vocabulary of characters. */
static enum status spaced_encode(struct encoding *encoding, struct span text)
{
    struct tokenizer_scratch *scratch = encoding->scratch;
    const struct spaces *spaces = &encoding->tokenizer->spaces;
    size_t wanted = spaces_out_max(text.size_bytes);
    if (wanted > scratch->spaced_capacity) {
        free(scratch->spaced);
        scratch->spaced_capacity = 0;
        scratch->spaced = malloc(wanted);
        if (!scratch->spaced)
            return error_set(encoding->error, STATUS_EXHAUSTED, "no memory for a text of %zu bytes",
                             wanted);
        scratch->spaced_capacity = wanted;
    }
    struct span spaced = {scratch->spaced, 0};
    spaced.size_bytes = spaces_write(spaces, text, text.data == scratch->text, scratch->spaced);
    enum status status = STATUS_OK;
    for (size_t at = 0, end; at < spaced.size_bytes && !status; at = end) {
        end = spaces_piece_end(spaces, spaced, at);
        status = piece_encode(encoding, (struct span){spaced.data + at, end - at});
    }
    return status;
}

static enum status plain_encode(struct encoding *encoding, struct span text)
{
    if (encoding->tokenizer->spaces.on)
        return spaced_encode(encoding, text);
    struct pretokens walk;
    pretokens_init(&walk, &encoding->tokenizer->pretokenizer, encoding->scratch->pretokenizer,
                   text);
    for (;;) {
        struct span piece;
        enum status status = pretokens_next(&walk, &piece, encoding->error);
        if (status || piece.size_bytes == 0)
            return status;
        status = piece_encode(encoding, piece);
        if (status)
            return status;
    }
}

/* Where a token found as a whole ends, with the white space that it takes along. */
static size_t match_end(const struct added_match *match, const char *text, size_t max)
{
    return match->token->rstrip ? white_space_end(text, match->end, max) : match->end;
}

static size_t match_start(const struct added_match *match, const char *text, size_t min)
{
    return match->token->lstrip ? white_space_start(text, min, match->start) : match->start;
}

static enum status normalized_encode(struct encoding *encoding, struct span text);

/* Text without special tokens: added tokens of `class`, and what lies between them. */
static enum status added_encode(struct encoding *encoding, struct span text, enum added_class class)
{
    size_t done = 0;
    enum status status = STATUS_OK;
    while (done < text.size_bytes && !status) {
        struct added_match match;
        bool found = added_find(&encoding->tokenizer->added, class, text.data, done,
                                text.size_bytes, &match);
        size_t start = found ? match_start(&match, text.data, done) : text.size_bytes;
        struct span before = {text.data + done, start - done};
        if (before.size_bytes > 0)
            status = class == ADDED_PLAIN ? normalized_encode(encoding, before)
                                          : plain_encode(encoding, before);
        if (found && !status)
            status = id_emit(encoding, match.token->id);
        done = found ? match_end(&match, text.data, text.size_bytes) : text.size_bytes;
    }
    return status;
}

static enum status normalized_encode(struct encoding *encoding, struct span text)
{
    char *normal = NULL;
    if (encoding->tokenizer->normalizes) {
        size_t size_bytes = 0;
        enum status status = normalize_nfc(text, &normal, &size_bytes, encoding->error);
        if (status)
            return status;
        if (normal)
            text = (struct span){normal, size_bytes};
    }
    enum status status = added_encode(encoding, text, ADDED_NORMALIZED);
    free(normal);
    return status;
}

/*
 * Special tokens come first and only from pieces that may hold them; the text between two of them
 * is encoded as one, wherever the borders of the pieces were.
 */
static enum status special_encode(struct encoding *encoding, const struct text_piece *pieces,
                                  size_t n_pieces, size_t size_bytes)
{
    const char *text = encoding->scratch->text;
    size_t done = 0, piece_end = 0;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n_pieces; i++) {
        size_t at = piece_end;
        piece_end += pieces[i].text.size_bytes;
        struct added_match match;
        while (pieces[i].parse_special && !status &&
               added_find(&encoding->tokenizer->added, ADDED_SPECIAL, text, size_max(at, done),
                          piece_end, &match)) {
            size_t start = match_start(&match, text, done);
            if (start > done)
                status =
                    added_encode(encoding, (struct span){text + done, start - done}, ADDED_PLAIN);
            if (!status)
                status = id_emit(encoding, match.token->id);
            done = match_end(&match, text, size_bytes);
        }
        if (status)
            return status;
    }
    if (done < size_bytes)
        status = added_encode(encoding, (struct span){text + done, size_bytes - done}, ADDED_PLAIN);
    return status;
}

/* Checks the pieces and puts them one after the other. */
static enum status pieces_join(struct tokenizer_scratch *scratch, const struct text_piece *pieces,
                               size_t n_pieces, size_t *ret_size_bytes, struct error *error)
{
    size_t total = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        struct span text = pieces[i].text;
        if (text.size_bytes > TOKENIZER_TEXT_MAX_BYTES - total)
            return error_set(error, STATUS_INVALID,
                             "a text of over %u bytes, and no more are allowed",
                             TOKENIZER_TEXT_MAX_BYTES);
        size_t bad = utf8_invalid_offset(text.data, text.size_bytes);
        if (bad < text.size_bytes)
            return error_set(error, STATUS_INVALID, "the text is not valid UTF-8 at byte %zu",
                             total + bad);
        total += text.size_bytes;
    }
    if (total > scratch->text_capacity) {
        free(scratch->text);
        scratch->text_capacity = 0;
        scratch->text = malloc(total);
        if (!scratch->text)
            return error_set(error, STATUS_EXHAUSTED, "no memory for a text of %zu bytes", total);
        scratch->text_capacity = total;
    }
    size_t at = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        if (pieces[i].text.size_bytes > 0)
            memcpy(scratch->text + at, pieces[i].text.data, pieces[i].text.size_bytes);
        at += pieces[i].text.size_bytes;
    }
    *ret_size_bytes = total;
    return STATUS_OK;
}

static void scratch_shrink(struct tokenizer_scratch *scratch)
{
    if (scratch->bpe.capacity > KEPT_SYMBOLS)
        bpe_scratch_free(&scratch->bpe);
    if (scratch->text_capacity > KEPT_TEXT_BYTES) {
        free(scratch->text);
        scratch->text = NULL;
        scratch->text_capacity = 0;
    }
    if (scratch->spaced_capacity > KEPT_TEXT_BYTES) {
        free(scratch->spaced);
        scratch->spaced = NULL;
        scratch->spaced_capacity = 0;
    }
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                             const struct text_piece *pieces, size_t n_pieces, size_t ids_max,
                             const uint32_t **ret_ids, size_t *ret_n, struct error *error)
{
    struct encoding encoding = {tokenizer, scratch, ids_max, error};
    size_t size_bytes = 0;
    scratch->ids_count = 0;
    enum status status = pieces_join(scratch, pieces, n_pieces, &size_bytes, error);
    if (!status) {
        pretokenizer_scratch_allow(scratch->pretokenizer, size_bytes);
        status = special_encode(&encoding, pieces, n_pieces, size_bytes);
    }
    scratch_shrink(scratch);
    if (status)
        return status;
    *ret_ids = scratch->ids;
    *ret_n = scratch->ids_count;
    return STATUS_OK;
}

const struct tokenizer_info *tokenizer_info(const struct tokenizer *tokenizer)
{
    return &tokenizer->info;
}

bool tokenizer_token_is_special(const struct tokenizer *tokenizer, uint32_t id)
{
    return id < tokenizer->vocabulary.count &&
           tokenizer->vocabulary.tokens[id].kind == TOKEN_SPECIAL;
}

struct span tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, bool with_special)
{
    if (id >= tokenizer->vocabulary.count ||
        tokenizer->vocabulary.tokens[id].kind == TOKEN_ABSENT ||
        (!with_special && tokenizer_token_is_special(tokenizer, id)))
        return (struct span){0};
    return vocabulary_bytes(&tokenizer->vocabulary, id);
}

uint32_t tokenizer_token_id(const struct tokenizer *tokenizer, struct span content)
{
    const struct added_token *added = added_exact(&tokenizer->added, content);
    return added ? added->id : vocabulary_find(&tokenizer->vocabulary, content);
}

const uint8_t *tokenizer_digest(const struct tokenizer *tokenizer)
{
    return tokenizer->digest;
}
