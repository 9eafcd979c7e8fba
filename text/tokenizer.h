/*
 * tokenizer: between text and token ids, by the model's own files.
 *
 * One of two files behind one reader: Hugging Face `tokenizer.json` (BPE, byte-level with its
 * pre-tokenizer's regular expression through PCRE2, or in characters with byte fallback as
 * SentencePiece makes it; added and special tokens), or the tokenizer inside a GGUF file (`gpt2`
 * model with a named pre-tokenizer, or `llama`, SentencePiece's merges by score). What is not
 * supported (another model, normaliser, pre-tokenizer) is refused by name when the file is opened,
 * never approximated.
 *
 * A tokenizer is immutable after tokenizer_open and may be used by many threads at once; each
 * thread brings its own `struct tokenizer_scratch`.
 *
 * Limits: text up to 16 MiB a call, and a piece (pre-token: a word, a run of spaces) up to 1 MiB of
 * it. Encoding is linear in practice: a piece of n bytes costs at most O(n log n).
 *
 * A byte that the vocabulary has no token for is dropped (or becomes the file's unknown token), as
 * the library does that made the vocabulary; few vocabularies lack any.
 */
#pragma once

#include "base/status.h"

#define TOKENIZER_TEXT_MAX_BYTES (16u << 20)

struct tokenizer;
struct tokenizer_scratch;

/* `path`: a model directory holding tokenizer.json, a tokenizer.json, or a .gguf file. */
enum status tokenizer_open(const char *path, struct tokenizer **ret_tokenizer, struct error *error);
void tokenizer_close(struct tokenizer *tokenizer);

enum status tokenizer_scratch_new(const struct tokenizer *tokenizer,
                                  struct tokenizer_scratch **ret_scratch, struct error *error);
void tokenizer_scratch_free(struct tokenizer_scratch *scratch);

#define TOKEN_NONE UINT32_MAX
#define TOKENIZER_EOS_MAX 8

struct tokenizer_info {
    uint32_t vocab_count;                /* ids are 0..vocab_count-1; some may have no bytes */
    uint32_t bos_id;                     /* TOKEN_NONE if there is none */
    uint32_t n_eos;                      /* ids that end a generation, from the model's files
                                            (tokenizer_config.json, generation_config.json,
                                            config.json; GGUF: eos, eot, eom) */
    uint32_t eos_ids[TOKENIZER_EOS_MAX]; /* [n_eos], the one that templates call eos_token first */
    bool adds_bos;     /* encoding a plain prompt puts bos_id first, as the files say */
    bool strips_space; /* encoding put a space in front: a text decoded from its very first token on
                          loses one (detokenizer_strip); what continues a prompt keeps it */
};
const struct tokenizer_info *tokenizer_info(const struct tokenizer *tokenizer);

/*
 * One piece of the text to encode. Pieces are encoded as one text, so that a word that crosses a
 * border is not split there; but a special token ("<|im_end|>") is recognised only when it lies
 * wholly inside one piece with `parse_special`: what a user wrote cannot end his own turn.
 */
struct text_piece {
    struct span text; /* valid UTF-8 */
    bool parse_special;
};

/*
 * Encodes. Adds no BOS by itself: see `adds_bos`. On success `ret_ids` points into the scratch
 * until its next use. INVALID (invalid UTF-8, with its byte offset; text too long), EXHAUSTED
 * (more than `ids_max` tokens: says how many are allowed).
 */
enum status tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                             const struct text_piece *pieces, size_t n_pieces, size_t ids_max,
                             const uint32_t **ret_ids, size_t *ret_n, struct error *error);

/* Exact bytes of a token, which may be part of a character. Empty for ids without bytes, and for
 * special tokens unless `with_special`. */
struct span tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id,
                                  bool with_special);
bool tokenizer_token_is_special(const struct tokenizer *tokenizer, uint32_t id);

/* The id of a token with exactly this content ("<|im_end|>"), or TOKEN_NONE. */
uint32_t tokenizer_token_id(const struct tokenizer *tokenizer, struct span content);

/* SHA-256 over vocabulary, merges and rules: two tokenizers with one digest encode alike. */
const uint8_t *tokenizer_digest(const struct tokenizer *tokenizer); /* [32] */
