/*
 * pretokenize: cuts text into the pieces that are encoded one by one.
 *
 * A list of splits, each applied to every piece that the one before left. A split is a regular
 * expression and what to do with its matches: keep them as pieces of their own (the text between
 * them too), or remove them (or the text between them). Within a split, look-around sees the piece
 * that is split and nothing beyond it.
 *
 * The rules are immutable once built, free for any thread. A walk (struct pretokens) needs a
 * scratch of its thread. The pieces come one at a time; nothing is stored per piece.
 *
 * A pattern comes from a model's file and may be catastrophic: each match has a limit of
 * backtracking and memory, and all walks over one text have one of time (2 s + 4 us for each byte).
 * Past them the walk fails; it never hangs.
 */
#pragma once

#include "base/status.h"

#define PRETOKENIZER_SPLITS_MAX 8

struct pretokenizer_scratch;

enum split_keeps { SPLIT_KEEPS_ALL = 0, SPLIT_KEEPS_MATCHES, SPLIT_KEEPS_GAPS };

struct split {
    void *code;    /* pcre2_code_8 */
    char *pattern; /* what it was compiled from, for digests */
    uint32_t pattern_bytes;
    uint32_t options; /* PCRE2's */
    enum split_keeps keeps;
};

struct pretokenizer {
    uint32_t n_splits;
    struct split splits[PRETOKENIZER_SPLITS_MAX]; /* [n_splits] */
};

/* Patterns that file formats know by name. */
#define PRETOKENIZER_DIGIT "\\p{N}"
#define PRETOKENIZER_NUMBER "\\p{N}+"
#define PRETOKENIZER_GPT2                                                                          \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Appends a split by a pattern in a tokenizer file's dialect (text/pattern.h). */
enum status pretokenizer_add(struct pretokenizer *pretokenizer, struct span pattern,
                             enum split_keeps keeps, struct error *error);
/* A split by plain text. */
enum status pretokenizer_add_literal(struct pretokenizer *pretokenizer, struct span text,
                                     enum split_keeps keeps, struct error *error);
void pretokenizer_free(struct pretokenizer *pretokenizer);

enum status pretokenizer_scratch_new(struct pretokenizer_scratch **ret_scratch,
                                     struct error *error);
void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch);

/* Starts the time that walks over a text of this size may take together. */
void pretokenizer_scratch_allow(struct pretokenizer_scratch *scratch, size_t size_bytes);

/* Byte offsets in the text. */
struct pretoken_level {
    size_t start, end;             /* what this split works on */
    size_t done;                   /* everything before is handed on */
    size_t match_start, match_end; /* the next match, if known */
    bool match_known;
};

struct pretokens {
    const struct pretokenizer *pretokenizer;
    struct pretokenizer_scratch *scratch;
    const char *text;
    uint32_t depth;
    struct pretoken_level levels[PRETOKENIZER_SPLITS_MAX + 1]; /* [n_splits + 1] */
};

/* Starts a walk over valid UTF-8, not empty. */
void pretokens_init(struct pretokens *pretokens, const struct pretokenizer *pretokenizer,
                    struct pretokenizer_scratch *scratch, struct span text);

/* OK with an empty piece at the end of the walk. INVALID when a pattern is too hard on this text.
 */
enum status pretokens_next(struct pretokens *pretokens, struct span *ret_piece,
                           struct error *error);
