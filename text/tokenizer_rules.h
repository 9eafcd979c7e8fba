/*
 * tokenizer_rules: what a tokenizer is made of, and how the two readers put it together.
 *
 * Private to this room. A reader (tokenizer_json, tokenizer_gguf) fills a zeroed struct tokenizer:
 *
 *     tokenizer_rules_begin    how many ids
 *     vocabulary_set, tokenizer_rules_add       every token; special and added ones by the second
 *     tokenizer_rules_byte     the token of a byte, in a vocabulary of characters
 *     tokenizer_rules_index    the vocabulary is complete; how many merges follow
 *     bpe_merge_add            every merge in order (or spaces_merges: by score)
 *     pretokenizer_add...      the splits
 *     tokenizer_rules_finish   whole tokens, digest
 *
 * and sets info, and spaces.on before the first token. Errors of these calls name ids and ranks;
 * the reader prefixes file and field.
 */
#pragma once

#include "text/added.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/spaces.h"
#include "text/tokenizer.h"

#define TOKENIZER_DIGEST_BYTES 32

struct tokenizer {
    struct tokenizer_info info;
    struct vocabulary vocabulary;
    struct added_set added;
    struct bpe bpe;
    struct pretokenizer pretokenizer;
    struct spaces spaces;      /* a vocabulary in characters; then the pretokenizer has no splits */
    bool normalizes;           /* to NFC, before pre-tokenising */
    bool ignore_merges;        /* a piece that is a token is that token, whatever the merges say */
    bool falls_back;           /* to the tokens of bytes */
    uint32_t byte_tokens[256]; /* ids of tokenizer_rules_byte; TOKEN_NONE: none */
    uint8_t digest[TOKENIZER_DIGEST_BYTES];
};

struct tokenizer_added {
    uint32_t id;
    struct span text;
    bool special;
    bool normalized;
    bool lstrip, rstrip;
};

enum status tokenizer_rules_begin(struct tokenizer *tokenizer, uint32_t count, struct error *error);
/* `in_vocabulary`: the model's own vocabulary has it too, under the same id. */
enum status tokenizer_rules_add(struct tokenizer *tokenizer, const struct tokenizer_added *added,
                                bool in_vocabulary, struct error *error);
/* `text` is "<0x00>" to "<0xFF>"; any other text, or a byte twice, is INVALID. */
enum status tokenizer_rules_byte(struct tokenizer *tokenizer, uint32_t id, struct span text,
                                 struct error *error);
/* `tokenizer->spaces.on` and `falls_back` must be known by now. INVALID also: a byte without token.
 */
enum status tokenizer_rules_index(struct tokenizer *tokenizer, uint32_t merges_max,
                                  struct error *error);
enum status tokenizer_rules_finish(struct tokenizer *tokenizer, struct error *error);

/* One more id that ends a generation; one that is there already is no error. `what` names the
 * file and field. INVALID: out of range, too many. */
enum status tokenizer_rules_eos(struct tokenizer *tokenizer, const char *what, uint64_t id,
                                struct error *error);

/* Splits and rules of a pre-tokenizer that GGUF files name. UNSUPPORTED: not known here. */
enum status tokenizer_pre_named(struct span name, struct tokenizer *tokenizer, struct error *error);

/* The readers. `file` is for errors. */
enum status tokenizer_json_read(struct span text, const char *file, struct tokenizer *tokenizer,
                                struct error *error);
enum status tokenizer_gguf_read(struct span bytes, const char *file, struct tokenizer *tokenizer,
                                struct error *error);
/* Ids from generation_config.json, config.json and tokenizer_config.json of a directory. */
enum status tokenizer_config_read(const char *directory, struct tokenizer *tokenizer,
                                  struct error *error);

/* The same as tokenizer_open, of bytes: for tests. `file` decides nothing but error texts. */
enum status tokenizer_open_bytes(struct span bytes, const char *file,
                                 struct tokenizer **ret_tokenizer, struct error *error);
