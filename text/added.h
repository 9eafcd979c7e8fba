/*
 * added: the tokens that are found as a whole wherever they stand in a text.
 *
 * Special tokens ("<|im_end|>") and what a model's makers added beside the vocabulary. The leftmost
 * occurrence counts, and of several at one place the longest; an occurrence used up by one token
 * cannot be part of another. Three classes are searched one after the other, each in the text that
 * the one before left: special tokens first, so that no other token can hide one; then added
 * tokens; then those that are looked for in normalised text.
 *
 * A trie with sibling lists: small, and its cost at a byte is the length of the match that nearly
 * was. Built once, then immutable and free for any thread.
 */
#pragma once

#include "base/status.h"

#define ADDED_TOKEN_MAX_BYTES 256
#define ADDED_NODES_MAX (1u << 20)

enum added_class { ADDED_SPECIAL = 0, ADDED_PLAIN, ADDED_NORMALIZED, ADDED_CLASS_COUNT };

struct added_token {
    struct span text; /* borrowed while added_insert runs */
    uint32_t id;
    enum added_class class;
    bool lstrip; /* takes the white space before it along */
    bool rstrip; /* takes the white space after it along */
};

struct added_node {
    uint32_t child;   /* first; 0: none */
    uint32_t sibling; /* next; 0: none */
    uint32_t token;   /* index in `tokens`; UINT32_MAX: no token ends here */
    char byte;
};

struct added_set {
    struct added_node *nodes; /* [nodes_capacity], [0] is the root */
    uint32_t nodes_count;
    uint32_t nodes_capacity;
    struct added_token *tokens; /* [tokens_capacity], without their text */
    uint32_t tokens_count;
    uint32_t tokens_capacity;
    bool starts[ADDED_CLASS_COUNT][256]; /* a token of the class starts with this byte */
};

/* INVALID: the same text twice, an empty or too long one; EXHAUSTED. */
enum status added_insert(struct added_set *set, const struct added_token *token,
                         struct error *error);
void added_free(struct added_set *set);

struct added_match {
    const struct added_token *token;
    size_t start; /* byte offsets in the text */
    size_t end;
};

/* The first token of `class` in text[start..end). False: none. */
bool added_find(const struct added_set *set, enum added_class class, const char *text, size_t start,
                size_t end, struct added_match *ret_match);

/* The token with exactly this text, or NULL. */
const struct added_token *added_exact(const struct added_set *set, struct span text);

/* Where the white space that ends at `end` begins, not before `min`. */
size_t white_space_start(const char *text, size_t min, size_t end);
/* Where the white space that begins at `start` ends, not after `max`. */
size_t white_space_end(const char *text, size_t start, size_t max);
