/* A pre-tokenizer's pattern: refused, or compiled to one that cuts a text into pieces without
 * losing a byte. */
#include "text/pattern.h"
#include "text/pretokenize.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static const char sample[] =
        "Don't 12\xc2\xbd  \n\xc3\x89t\xc3\xa9!\t{x}\xe1\xa0\x8e\xf0\x9f\x8c\xac";
    static struct pretokenizer_scratch *scratch;
    struct pretokenizer rules = {0};
    struct pretokens walk;
    if (!scratch)
        CHECK(pretokenizer_scratch_new(&scratch, NULL) == STATUS_OK);
    struct span pattern = {(const char *)data, size_bytes}, piece;
    if (pretokenizer_add(&rules, pattern, SPLIT_KEEPS_ALL, NULL) != STATUS_OK)
        return 0;
    size_t at = 0;
    pretokenizer_scratch_allow(scratch, sizeof sample - 1);
    pretokens_init(&walk, &rules, scratch, (struct span){sample, sizeof sample - 1});
    enum status status;
    while ((status = pretokens_next(&walk, &piece, NULL)) == STATUS_OK && piece.size_bytes > 0) {
        CHECK(piece.data == sample + at);
        at += piece.size_bytes;
    }
    CHECK(status == STATUS_INVALID || at == sizeof sample - 1);
    pretokenizer_free(&rules);
    return 0;
}
