/* Encoding: any text, in pieces, gives ids that spell it exactly; what stands in a piece without
 * special tokens gives none; bytes that are no text are refused. The first two bytes of the input
 * say where it is cut and which parts may hold special tokens. */
#include "tests/unit/text_fixture.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static struct tokenizer *tokenizer;
static struct tokenizer_scratch *scratch;

static void ids_check(struct span text, const struct text_piece *pieces, const uint32_t *ids,
                      size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        struct span bytes = tokenizer_token_bytes(tokenizer, ids[i], true);
        CHECK(bytes.size_bytes > 0 && at + bytes.size_bytes <= text.size_bytes);
        CHECK(memcmp(text.data + at, bytes.data, bytes.size_bytes) == 0);
        if (tokenizer_token_is_special(tokenizer, ids[i])) {
            size_t piece = at >= pieces[0].text.size_bytes;
            size_t border = piece ? text.size_bytes : pieces[0].text.size_bytes;
            CHECK(pieces[piece].parse_special && at + bytes.size_bytes <= border);
        }
        at += bytes.size_bytes;
    }
    CHECK(at == text.size_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    if (!tokenizer) {
        tokenizer = text_fixture_open(NULL);
        CHECK(tokenizer_scratch_new(tokenizer, &scratch, NULL) == STATUS_OK);
    }
    if (size_bytes < 2)
        return 0;
    struct span text = {(const char *)data + 2, size_bytes - 2};
    size_t cut = data[0] % (text.size_bytes + 1);
    struct text_piece pieces[2] = {{{text.data, cut}, data[1] & 1},
                                   {{text.data + cut, text.size_bytes - cut}, data[1] & 2}};
    const uint32_t *ids = NULL;
    size_t n = 0;
    enum status status =
        tokenizer_encode(tokenizer, scratch, pieces, 2, size_bytes, &ids, &n, NULL);
    bool valid = utf8_invalid_offset(text.data, cut) == cut &&
                 utf8_invalid_offset(pieces[1].text.data, pieces[1].text.size_bytes) ==
                     pieces[1].text.size_bytes;
    CHECK(status == (valid ? STATUS_OK : STATUS_INVALID));
    if (valid)
        ids_check(text, pieces, ids, n);
    return 0;
}
