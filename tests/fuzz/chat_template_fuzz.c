/* Chat templates: any text is recognised or not; what is recognised renders a conversation whose
 * content is there once, in order and in pieces without special tokens. */
#include "tests/unit/text_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static void pieces_check(const struct text_piece *pieces, size_t n_pieces,
                         const struct chat_message *messages, size_t n)
{
    size_t next = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        CHECK(pieces[i].text.size_bytes > 0);
        if (pieces[i].parse_special)
            continue;
        CHECK(next < n && span_equal(pieces[i].text, messages[next].content));
        next++;
    }
    CHECK(next == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static struct tokenizer *tokenizer;
    static const struct chat_message messages[] = {{CHAT_ROLE_USER, {"one", 3}},
                                                   {CHAT_ROLE_ASSISTANT, {"two", 3}},
                                                   {CHAT_ROLE_USER, {"</s>", 4}}};
    if (!tokenizer) {
        tokenizer = text_fixture_open(&(struct text_fixture){.post_processor = FIXTURE_BOS});
        CHECK(tokenizer_rules_eos(tokenizer, "fixture", FIXTURE_EOS_ID, NULL) == STATUS_OK);
    }
    struct chat *chat = NULL;
    struct arena arena;
    const struct text_piece *pieces = NULL;
    size_t n_pieces = 0;
    struct span text = {(const char *)data, size_bytes};
    CHECK(chat_open_text(text, tokenizer, &chat, NULL) == STATUS_OK);
    arena_init(&arena, 1 << 12);
    enum status status = chat_render(chat, messages, 3, &arena, &pieces, &n_pieces, NULL);
    CHECK(status == STATUS_OK || status == STATUS_UNSUPPORTED);
    if (status == STATUS_OK)
        pieces_check(pieces, n_pieces, messages, 3);
    arena_free(&arena);
    chat_close(chat);
    return 0;
}
