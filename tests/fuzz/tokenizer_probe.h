/* A tokenizer's file of either format: whatever it holds, it is refused with a place, or gives a
 * tokenizer that encodes a text to ids in range, each with bytes, none special where none may be.
 */
#pragma once

#include "text/tokenizer_rules.h"

static const char sample[] = "Hello world, it's 1 234,5\xc2\xbd\n\t<s>e\xcc\x81\xf0\x9f\x8c\xac";

static inline void tokenizer_probe_encode(const struct tokenizer *tokenizer, bool parse_special)
{
    struct tokenizer_scratch *scratch = NULL;
    struct text_piece piece = {{sample, sizeof sample - 1}, parse_special};
    const uint32_t *ids = NULL;
    size_t n = 0;
    struct error error;
    CHECK(tokenizer_scratch_new(tokenizer, &scratch, &error) == STATUS_OK);
    if (tokenizer_encode(tokenizer, scratch, &piece, 1, 1000, &ids, &n, &error) == STATUS_OK)
        for (size_t i = 0; i < n; i++) {
            CHECK(ids[i] < tokenizer_info(tokenizer)->vocab_count);
            CHECK(tokenizer_token_bytes(tokenizer, ids[i], true).size_bytes > 0);
            CHECK(parse_special || !tokenizer_token_is_special(tokenizer, ids[i]) ||
                  ids[i] == tokenizer->bpe.unk_id);
        }
    tokenizer_scratch_free(scratch);
}

static inline void tokenizer_probe(struct span text)
{
    struct tokenizer *tokenizer = NULL;
    struct error error = {.text = ""};
    if (tokenizer_open_bytes(text, "f", &tokenizer, &error) != STATUS_OK) {
        CHECK(strncmp(error.text, "f:", 2) == 0);
        return;
    }
    tokenizer_probe_encode(tokenizer, true);
    tokenizer_probe_encode(tokenizer, false);
    tokenizer_close(tokenizer);
}
