/*
 * vocabulary: the tokens of a model, by id and by bytes.
 *
 * Built once (vocabulary_init, vocabulary_set for every id, vocabulary_index), then immutable and
 * free for any thread. Ids may have holes: an id that was never set is TOKEN_ABSENT.
 *
 * Only the tokens that text can be made of are found by their bytes: the normal ones, and added
 * ones that are normal entries too. Special tokens are not: merging what a user wrote can never
 * give one.
 */
#pragma once

#include "base/status.h"

#define VOCABULARY_IDS_MAX (1u << 20)
#define VOCABULARY_TOKEN_MAX_BYTES 1024
#define VOCABULARY_NONE UINT32_MAX

enum token_kind {
    TOKEN_ABSENT = 0,
    TOKEN_NORMAL,  /* text is made of it by merges */
    TOKEN_ADDED,   /* found as a whole wherever it stands in the text */
    TOKEN_SPECIAL, /* found as a whole, and only where special tokens are wanted */
    TOKEN_BYTE,    /* one byte of a character that has no token */
};

struct vocabulary_token {
    uint32_t offset; /* in `bytes` */
    uint16_t size_bytes;
    uint8_t kind;    /* enum token_kind */
    bool merges : 1; /* found by its bytes */
    bool whole : 1;  /* a piece of exactly these bytes becomes this one token */
};

struct vocabulary {
    uint32_t count;
    struct vocabulary_token *tokens; /* [count] */
    char *bytes;                     /* [bytes_capacity] */
    size_t bytes_count;
    size_t bytes_capacity;
    uint32_t *slots; /* [slots_mask + 1] ids by hash of their bytes, VOCABULARY_NONE: free */
    uint32_t slots_mask;
};

/* `count` ids, 1..VOCABULARY_IDS_MAX. EXHAUSTED when memory is short. */
enum status vocabulary_init(struct vocabulary *vocabulary, uint32_t count, struct error *error);
void vocabulary_free(struct vocabulary *vocabulary);

/* The id must be below count. INVALID: the id was set before, no bytes, too many bytes. */
enum status vocabulary_set(struct vocabulary *vocabulary, uint32_t id, struct span bytes,
                           enum token_kind kind, bool merges, struct error *error);

/* Makes vocabulary_find work. INVALID: two tokens of the same bytes. */
enum status vocabulary_index(struct vocabulary *vocabulary, struct error *error);

/* The id of the token that text of these bytes can become, or VOCABULARY_NONE. */
uint32_t vocabulary_find(const struct vocabulary *vocabulary, struct span bytes);

static inline struct span vocabulary_bytes(const struct vocabulary *vocabulary, uint32_t id)
{
    const struct vocabulary_token *token = &vocabulary->tokens[id];
    return (struct span){.data = vocabulary->bytes + token->offset,
                         .size_bytes = token->size_bytes};
}
