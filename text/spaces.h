/*
 * spaces: vocabularies in characters, as SentencePiece makes them and Llama 1, 2 and Mistral use.
 *
 * Their tokens are text with U+2581 in the place of each space; a text is encoded with one more
 * space in front; a character without a token is written as its UTF-8 bytes, each a token of its
 * own ("<0xE2>"). We keep tokens with real spaces and turn U+2581 in a text into a space too, which
 * is the same and lets a token's bytes stand for what it spells.
 *
 * Such files know no pre-tokenizer: all of a text is one piece. Where no token has a space behind
 * something else, no merge can cross from a word into the next space, so cutting there changes
 * nothing; `cuts` says so, and a text is then encoded word by word.
 *
 * Immutable once built; any thread.
 */
#pragma once

#include "text/bpe.h"

#define SPACES_MARK "\xe2\x96\x81" /* U+2581 */
#define SPACES_TOKEN_MAX_BYTES 256

enum spaces_lead {
    SPACES_LEAD_NONE = 0,
    SPACES_LEAD_EVERY,  /* one space before every stretch between tokens found as a whole */
    SPACES_LEAD_ABSENT, /* the same, unless it begins with one */
    SPACES_LEAD_START,  /* the same, at the very start of the text alone */
};

enum spaces_cuts {
    SPACES_CUT_NEVER = 0,
    SPACES_CUT_WORDS, /* before a space behind something else */
    SPACES_CUT_EACH,  /* before every space */
};

struct spaces {
    bool on;
    enum spaces_lead lead;
    enum spaces_cuts cuts;
    bool strips; /* decoding a text drops one space at its start */
};

/* Bytes that spaces_write puts out at most. */
static inline size_t spaces_out_max(size_t size_bytes)
{
    return size_bytes + 1;
}

/* A stretch of text with real spaces and its leading one; returns how many bytes. */
size_t spaces_write(const struct spaces *spaces, struct span text, bool at_start, char *out);

/* Where the piece that begins at `start` ends. */
size_t spaces_piece_end(const struct spaces *spaces, struct span text, size_t start);

/* Whether words can be cut apart: see above. */
bool spaces_may_cut(const struct bpe *bpe, const struct vocabulary *vocabulary);

/* A token's text with real spaces, in `out` [text.size_bytes]. False when it has a space already:
 * no text ever becomes that token. */
bool spaces_token(struct span text, char *out, size_t *ret_size_bytes);

/* The byte of "<0xE2>"; -1 for other texts. */
int spaces_byte(struct span text);

/*
 * SentencePiece's own merges: any two neighbours merge whose joint text is a token, the one of the
 * best score first, the leftmost of equals. `scores` [vocabulary->count]. INVALID: a score that is
 * no number, a token with a character that is none itself; UNSUPPORTED: a token that is too long.
 */
enum status spaces_merges(struct bpe *bpe, const struct vocabulary *vocabulary, const float *scores,
                          struct error *error);
/* The most that spaces_merges adds, or BPE_MERGES_MAX, past which it refuses. */
uint32_t spaces_merges_max(const struct vocabulary *vocabulary);
