/*
 * bpe: byte-pair encoding of one piece of text.
 *
 * The piece starts as one token per byte, or per character in a vocabulary of characters. While any
 * two neighbours have a merge, the merge of the lowest rank is applied, the leftmost first. Ranks
 * are the order of the merges in the model's file. With a heap of candidates this costs O(n log n)
 * for n bytes.
 *
 * A byte or character that has no token of its own is dropped before merging begins (its neighbours
 * may merge), or becomes `unk_id` when the file names an unknown token: so does the library that
 * trained such vocabularies, and models have seen nothing else. With `falls_back` a character
 * becomes the tokens of its bytes instead.
 *
 * Built once over a finished vocabulary, then immutable and free for any thread; a scratch belongs
 * to one thread.
 */
#pragma once

#include "text/vocabulary.h"

#define BPE_MERGES_MAX (1u << 20)
#define BPE_PIECE_MAX_BYTES (1u << 20)

struct bpe_merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: a free slot */
    uint32_t rank;
    uint32_t id; /* what they become */
};

struct bpe {
    uint32_t byte_ids[256];     /* VOCABULARY_NONE: no token of that byte */
    uint32_t unk_id;            /* VOCABULARY_NONE: drop such bytes */
    bool fuse_unk;              /* a run of unknown bytes is one unk_id */
    bool characters;            /* pieces start as characters: then pieces must be valid UTF-8 */
    bool falls_back;            /* a character without a token is its bytes' `fallback_ids` */
    uint32_t fallback_ids[256]; /* all set when falls_back */
    const struct vocabulary *vocabulary; /* borrowed, for characters */
    struct bpe_merge *merges;            /* [merges_mask + 1], by hash of the pair */
    uint32_t merges_mask;
    uint32_t merges_count;
};

struct bpe_merge_ids {
    uint32_t left, right, whole;
};

struct bpe_symbol {
    uint32_t id;
    uint32_t rank;           /* of merging with the next one; UINT32_MAX: no merge, or gone */
    uint32_t previous, next; /* index; UINT32_MAX: none */
};

struct bpe_scratch {
    struct bpe_symbol *symbols; /* [capacity] */
    uint64_t *heap;             /* [2 * capacity] rank << 32 | index of the left symbol */
    uint32_t heap_count;
    uint32_t capacity;
};

/* For at most `merges_max` merges. The vocabulary must be indexed and outlive it. EXHAUSTED,
 * INVALID.
 */
enum status bpe_init(struct bpe *bpe, const struct vocabulary *vocabulary, uint32_t merges_max,
                     struct error *error);
void bpe_free(struct bpe *bpe);

/* The next merge, in order of rank. INVALID: a part or the whole is no token, or it was there. */
enum status bpe_merge_add(struct bpe *bpe, const struct vocabulary *vocabulary, struct span left,
                          struct span right, struct error *error);

/* A merge by ids and rank; several may have one rank. INVALID: too many, or it was there. */
enum status bpe_merge_put(struct bpe *bpe, const struct bpe_merge_ids *ids, uint32_t rank,
                          struct error *error);

/* Ids are scratch->symbols[0..*ret_count).id. INVALID: the piece is over BPE_PIECE_MAX_BYTES. */
enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, struct span piece,
                       uint32_t *ret_count, struct error *error);
void bpe_scratch_free(struct bpe_scratch *scratch);
