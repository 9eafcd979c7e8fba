/*
 * tokenizer_json: what the files that read tokenizer.json share.
 *
 * Private to this room. tokenizer_json.c reads the document; tokenizer_json_spaces.c those parts of
 * it that make a vocabulary one of characters (text/spaces.h): normalizers Prepend and Replace or
 * the pre-tokenizer Metaspace, and the decoders that go with them. One document, one thread.
 */
#pragma once

#include "base/json_read.h"
#include "text/tokenizer_rules.h"

/* UNSUPPORTED: "FILE: PARENT.FIELD: GOT is not supported, expected EXPECTED". */
enum status json_refuse(const struct json_at *at, const char *field, const char *got,
                        const char *expected, struct error *error);

/* A member that may be absent. */
enum status json_optional_bool(const struct json_at *at, const char *field, bool absent,
                               bool *ret_value, struct error *error);

/* The normalizer's: `at` is a Prepend, a Replace, or a Sequence of the two. Turns spaces on. */
enum status json_spaces_normalizer(const struct json_at *at, struct tokenizer *tokenizer,
                                   struct error *error);
/* The pre-tokenizer's: `at` is a Metaspace. Turns spaces on. */
enum status json_metaspace(const struct json_at *at, struct tokenizer *tokenizer,
                           struct error *error);
/* The decoder of a vocabulary with spaces on; says whether it joins bytes. */
enum status json_spaces_decoder(const struct json_at *root, struct tokenizer *tokenizer,
                                bool *ret_joins_bytes, struct error *error);
