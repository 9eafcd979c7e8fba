/*
 * chat: conversations as the model's own template renders them, down to the ids.
 *
 * The reference rendered each conversation with the template in the model's files and encoded the
 * result as one text. We render pieces and encode those; text and ids must be the same.
 *
 *     chat_test MODEL GOLDEN.json...     MODEL "smollm2": the file that GALERNE_SMOLLM2 names
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json_read.h"
#include "text/chat.h"

#define SKIPPED 77
#define MESSAGES_MAX 16
#define TEXT_MAX_BYTES 65536

static struct {
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct chat *chat;
    char **files;
    int n_files;
} fixture;

static struct span member(const json_t *object, const char *name)
{
    return span_of(json_string_value(json_object_get(object, name)));
}

/* "messages" with roles, or "asked": turns of user and assistant. */
static size_t messages_read(const json_t *item, struct chat_message *messages)
{
    static const char *const roles[] = {NULL, "system", "user", "assistant"};
    const json_t *list = json_object_get(item, "messages");
    const json_t *asked = json_object_get(item, "asked");
    size_t n = json_array_size(list ? list : asked);
    assert_in_range(n, 1, MESSAGES_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *message = json_array_get(list ? list : asked, i);
        if (!list) {
            messages[i].role = i % 2 ? CHAT_ROLE_ASSISTANT : CHAT_ROLE_USER;
            messages[i].content = span_of(json_string_value(message));
            continue;
        }
        messages[i].role = CHAT_ROLE_UNSPECIFIED;
        for (size_t r = 1; r < array_count(roles); r++)
            if (span_equal(member(message, "role"), span_of(roles[r])))
                messages[i].role = (enum chat_role)r;
        messages[i].content = member(message, "content");
    }
    return n;
}

/* A prompt without template: the text behind the BOS, if the files ask for one. */
static size_t plain_pieces(const json_t *item, struct text_piece *pieces)
{
    const struct tokenizer_info *info = tokenizer_info(fixture.tokenizer);
    size_t n = 0;
    if (info->adds_bos)
        pieces[n++] =
            (struct text_piece){tokenizer_token_bytes(fixture.tokenizer, info->bos_id, true), true};
    pieces[n++] = (struct text_piece){member(item, "asked"), false};
    return n;
}

static void pieces_compare(const json_t *item, const struct text_piece *pieces, size_t n_pieces)
{
    static char text[TEXT_MAX_BYTES];
    size_t size_bytes = 0, n = 0;
    const uint32_t *ids;
    struct error error;
    for (size_t i = 0; i < n_pieces; i++) {
        assert_true(size_bytes + pieces[i].text.size_bytes < sizeof text);
        memcpy(text + size_bytes, pieces[i].text.data, pieces[i].text.size_bytes);
        size_bytes += pieces[i].text.size_bytes;
    }
    text[size_bytes] = '\0';
    assert_string_equal(text, member(item, "rendered").data);
    if (tokenizer_encode(fixture.tokenizer, fixture.scratch, pieces, n_pieces, 65536, &ids, &n,
                         &error))
        fail_msg("%s", error.text);
    const json_t *prompt = json_object_get(item, "prompt");
    assert_int_equal(n, json_array_size(prompt));
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], json_integer_value(json_array_get(prompt, i)));
}

static void item_compare(const json_t *item)
{
    struct text_piece plain[2];
    if (json_is_string(json_object_get(item, "asked"))) {
        size_t n = plain_pieces(item, plain);
        pieces_compare(item, plain, n);
        return;
    }
    struct chat_message messages[MESSAGES_MAX];
    struct arena arena;
    const struct text_piece *pieces;
    size_t n_pieces, n = messages_read(item, messages);
    struct error error;
    arena_init(&arena, 1 << 16);
    if (chat_render(fixture.chat, messages, n, &arena, &pieces, &n_pieces, &error))
        fail_msg("%s", error.text);
    pieces_compare(item, pieces, n_pieces);
    arena_free(&arena);
}

static void test_golden(void **state)
{
    size_t count = 0;
    for (int i = 0; i < fixture.n_files; i++) {
        json_error_t cause;
        json_t *root = json_load_file(fixture.files[i], 0, &cause);
        if (!root)
            fail_msg("%s: %s", fixture.files[i], cause.text);
        const json_t *prompts = json_object_get(root, "prompts");
        for (size_t p = 0; p < json_array_size(prompts); p++, count++)
            item_compare(json_array_get(prompts, p));
        if (!prompts) {
            item_compare(root);
            count++;
        }
        json_decref(root);
    }
    printf("%s: %zu prompts rendered and encoded\n", chat_name(fixture.chat), count);
    assert_true(count >= (size_t)fixture.n_files);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};
    struct error error;
    if (argc < 3) {
        fprintf(stderr, "usage: chat_test MODEL GOLDEN.json...\n");
        return 2;
    }
    const char *model = strcmp(argv[1], "smollm2") == 0 ? getenv("GALERNE_SMOLLM2") : argv[1];
    if (!model || !*model) {
        printf("skipped: GALERNE_SMOLLM2 does not name the GGUF file (packaging/fetch-model "
               "smollm2 gets it)\n");
        return SKIPPED;
    }
    fixture.files = argv + 2;
    fixture.n_files = argc - 2;
    if (tokenizer_open(model, &fixture.tokenizer, &error) ||
        tokenizer_scratch_new(fixture.tokenizer, &fixture.scratch, &error) ||
        chat_open(model, fixture.tokenizer, &fixture.chat, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    chat_close(fixture.chat);
    tokenizer_scratch_free(fixture.scratch);
    tokenizer_close(fixture.tokenizer);
    return failed;
}
