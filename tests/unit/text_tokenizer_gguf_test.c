#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "tests/unit/gguf_build.h"
#include "tests/unit/text_fixture.h"

/* The tokenizer of text_fixture.h as a GGUF file. Zeroed fields: as they should be. */
struct parts {
    const char *model, *pre; /* "-": absent */
    const char *token;       /* instead of "he" */
    const char *merge;       /* instead of "h e" */
    int32_t type_of_he;
    uint32_t types_missing; /* at the end of the list */
    bool no_tokens, no_merges, no_types, types_f32;
    bool space_prefix, adds_eos, adds_bos;
    bool no_bos;
    int64_t bos, eos, eot;
    const char *template;
};

static const char *const words[] = {
    "he", "ll",          "hell", "hello",         "\xc4\xa0w",
    "or", "\xc4\xa0wor", "ld",   "\xc4\xa0world", "\xc3\x83\xc2\xa9"};
static const char *const merges[] = {
    "h e", "l l",          "he ll", "hell o",         "\xc4\xa0 w",
    "o r", "\xc4\xa0w or", "l d",   "\xc4\xa0wor ld", "\xc3\x83 \xc2\xa9"};
static const char *const added[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool>"};

static void letters_put(struct gguf_build *b)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        char *text = NULL;
        size_t size_bytes = 0;
        FILE *out = open_memstream(&text, &size_bytes);
        fixture_letter(out, byte);
        fclose(out);
        bytes_string(&b->keys, byte == '"' || byte == '\\' ? text + 1 : text);
        free(text);
    }
}

static void tokens_put(struct gguf_build *b, const struct parts *p)
{
    build_array(b, "tokenizer.ggml.tokens", GGUF_STRING, FIXTURE_COUNT);
    letters_put(b);
    for (size_t i = 0; i < array_count(words); i++)
        bytes_string(&b->keys, i == 0 && p->token ? p->token : words[i]);
    for (size_t i = 0; i < array_count(added); i++)
        bytes_string(&b->keys, added[i]);
    if (p->no_types)
        return;
    build_array(b, "tokenizer.ggml.token_type", p->types_f32 ? GGUF_F32 : GGUF_I32,
                FIXTURE_COUNT - p->types_missing);
    for (uint32_t id = 0; id < FIXTURE_COUNT - p->types_missing; id++)
        bytes_u32(&b->keys, id == 256 && p->type_of_he ? (uint32_t)p->type_of_he
                            : id < FIXTURE_BOS_ID      ? 1
                            : id < FIXTURE_TOOL        ? 3
                                                       : 4);
}

static void flag_put(struct gguf_build *b, const char *name)
{
    build_key(b, name, GGUF_BOOL);
    bytes_put(&b->keys, "\1", 1);
}

static struct bytes file_build(const struct parts *p)
{
    struct gguf_build b = {0};
    if (!p->model || *p->model != '-')
        build_string(&b, "tokenizer.ggml.model", p->model ? p->model : "gpt2");
    if (!p->pre || *p->pre != '-')
        build_string(&b, "tokenizer.ggml.pre", p->pre ? p->pre : "gpt-2");
    if (!p->no_tokens)
        tokens_put(&b, p);
    if (!p->no_merges) {
        build_array(&b, "tokenizer.ggml.merges", GGUF_STRING, array_count(merges));
        for (size_t i = 0; i < array_count(merges); i++)
            bytes_string(&b.keys, i == 0 && p->merge ? p->merge : merges[i]);
    }
    if (p->space_prefix)
        flag_put(&b, "tokenizer.ggml.add_space_prefix");
    if (p->adds_eos)
        flag_put(&b, "tokenizer.ggml.add_eos_token");
    if (p->adds_bos)
        flag_put(&b, "tokenizer.ggml.add_bos_token");
    if (!p->no_bos)
        build_u32(&b, "tokenizer.ggml.bos_token_id", p->bos ? (uint32_t)p->bos : FIXTURE_BOS_ID);
    build_u32(&b, "tokenizer.ggml.eos_token_id", p->eos ? (uint32_t)p->eos : FIXTURE_EOS_ID);
    if (p->eot)
        build_u32(&b, "tokenizer.ggml.eot_token_id", (uint32_t)p->eot);
    if (p->template)
        build_string(&b, "tokenizer.chat_template", p->template);
    return gguf_build_finish(&b);
}

static enum status parts_open(const struct parts *p, struct tokenizer **ret_tokenizer,
                              struct error *error)
{
    struct bytes file = file_build(p);
    char *exact = malloc(file.size);
    memcpy(exact, file.data, file.size);
    enum status status =
        tokenizer_open_bytes((struct span){exact, file.size}, "t.gguf", ret_tokenizer, error);
    free(exact);
    free(file.data);
    return status;
}

static void test_as_json(void **state)
{
    struct tokenizer *gguf, *json = text_fixture_open(NULL);
    struct error error;
    if (parts_open(&(struct parts){.eot = FIXTURE_IM_END, .adds_bos = true}, &gguf, &error))
        fail_msg("%s", error.text);
    assert_memory_equal(tokenizer_digest(gguf), tokenizer_digest(json), TOKENIZER_DIGEST_BYTES);
    const struct tokenizer_info *info = tokenizer_info(gguf);
    assert_int_equal(info->vocab_count, FIXTURE_COUNT);
    assert_int_equal(info->bos_id, FIXTURE_BOS_ID);
    assert_true(info->adds_bos);
    assert_int_equal(info->n_eos, 2);
    assert_int_equal(info->eos_ids[0], FIXTURE_EOS_ID);
    assert_int_equal(info->eos_ids[1], FIXTURE_IM_END);
    assert_true(tokenizer_token_is_special(gguf, FIXTURE_IM_START));
    assert_false(tokenizer_token_is_special(gguf, FIXTURE_TOOL));
    tokenizer_close(gguf);
    tokenizer_close(json);
}

/* What the name of the pre-tokenizer decides beside the splits. */
static void test_named(void **state)
{
    struct tokenizer *tokenizer;
    assert_int_equal(parts_open(&(struct parts){.pre = "llama-bpe"}, &tokenizer, NULL), STATUS_OK);
    assert_true(tokenizer_info(tokenizer)->adds_bos);
    assert_true(tokenizer->ignore_merges);
    tokenizer_close(tokenizer);
    assert_int_equal(parts_open(&(struct parts){.pre = "qwen2"}, &tokenizer, NULL), STATUS_OK);
    assert_false(tokenizer_info(tokenizer)->adds_bos);
    assert_true(tokenizer->normalizes);
    tokenizer_close(tokenizer);
    assert_int_equal(parts_open(&(struct parts){.pre = "smollm"}, &tokenizer, NULL), STATUS_OK);
    assert_int_equal(tokenizer->pretokenizer.n_splits, 2);
    tokenizer_close(tokenizer);
}

static void test_unused_token(void **state)
{
    struct tokenizer *tokenizer;
    struct parts parts = {.type_of_he = 5, .token = "\xe2\x82\xac", .merge = "o r"};
    struct error error;
    assert_int_equal(parts_open(&parts, &tokenizer, &error), STATUS_INVALID); /* merges need it */
    assert_non_null(strstr(error.text, "is not in the vocabulary"));
}

static void test_refused(void **state)
{
    static const struct {
        struct parts parts;
        enum status status;
        const char *says;
    } cases[] = {
        {{.model = "-"}, STATUS_INVALID, "tokenizer.ggml.model"},
        {{.model = "bert"},
         STATUS_UNSUPPORTED,
         "\"bert\" is not supported, expected gpt2 or llama"},
        {{.model = "llama"}, STATUS_INVALID, "tokenizer.ggml.scores"},
        {{.pre = "-"}, STATUS_INVALID, "tokenizer.ggml.pre"},
        {{.pre = "falcon"}, STATUS_UNSUPPORTED, "pre-tokenizer \"falcon\" is not supported"},
        {{.no_tokens = true}, STATUS_INVALID, "tokenizer.ggml.tokens"},
        {{.no_merges = true}, STATUS_INVALID, "tokenizer.ggml.merges"},
        {{.types_f32 = true}, STATUS_INVALID, "tokenizer.ggml.token_type"},
        {{.types_missing = 1}, STATUS_INVALID, "270 types for 271 tokens"},
        {{.type_of_he = 6}, STATUS_UNSUPPORTED, "token id 256 has type 6"},
        {{.type_of_he = -1}, STATUS_UNSUPPORTED, "token id 256 has type -1"},
        {{.token = "a b"}, STATUS_INVALID, "token id 256, \"a b\", is too long or has"},
        {{.token = "a"}, STATUS_INVALID, "token ids 97 and 256 have the same content"},
        {{.token = ""}, STATUS_INVALID, "token id 256 has 0 bytes"},
        {{.token = "<s>", .type_of_he = 3}, STATUS_INVALID, "256 and 266 have the same content"},
        {{.token = "a\xff", .type_of_he = 3}, STATUS_INVALID, "token id 256 is not valid UTF-8"},
        {{.type_of_he = 3}, STATUS_INVALID, "\"he\" is not in the vocabulary"},
        {{.merge = "he"}, STATUS_INVALID, "merge 0: expected \"left right\""},
        {{.merge = "h e l"}, STATUS_INVALID, "merge 0, \"h e l\""},
        {{.merge = "x y"}, STATUS_INVALID, "\"xy\" is not in the vocabulary"},
        {{.merge = "l l"}, STATUS_INVALID, "merge 1 repeats merge 0"},
        {{.space_prefix = true}, STATUS_UNSUPPORTED, "add_space_prefix: true"},
        {{.adds_eos = true}, STATUS_UNSUPPORTED, "add_eos_token: true"},
        {{.adds_bos = true, .no_bos = true}, STATUS_INVALID, "bos_token_id is missing"},
        {{.bos = 271}, STATUS_INVALID, "bos_token_id: token id 271, expected below 271"},
        {{.eos = 4000}, STATUS_INVALID, "eos_token_id: token id 4000, expected below 271"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        struct tokenizer *tokenizer = (void *)&cases;
        struct error error = {.text = ""};
        enum status status = parts_open(&cases[i].parts, &tokenizer, &error);
        if (status != cases[i].status || !strstr(error.text, cases[i].says) ||
            strncmp(error.text, "t.gguf: ", 8) != 0)
            fail_msg("case %zu: expected \"%s\", got %s \"%s\"", i, cases[i].says,
                     status_name(status), error.text);
        assert_ptr_equal(tokenizer, &cases);
    }
}

/* Files in a file: opened by path, and their chat template with them. */
static void test_by_path(void **state)
{
    char path[] = "/tmp/text_tokenizer_gguf.XXXXXX";
    struct bytes file = file_build(&(struct parts){
        .template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
                    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if "
                    "add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"});
    struct tokenizer *tokenizer;
    struct chat *chat = NULL;
    struct error error;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file.data, file.size), (ssize_t)file.size);
    close(fd);
    if (tokenizer_open(path, &tokenizer, &error) || chat_open(path, tokenizer, &chat, &error))
        fail_msg("%s", error.text);
    assert_string_equal(chat_name(chat), "chatml");
    chat_close(chat);
    tokenizer_close(tokenizer);
    free(file.data);
    unlink(path);
}

static void test_cut(void **state)
{
    struct bytes file = file_build(&(struct parts){0});
    for (size_t cut = 0; cut < file.size; cut += 5) {
        struct tokenizer *tokenizer;
        char *exact = malloc(cut ? cut : 1);
        memcpy(exact, file.data, cut);
        assert_int_not_equal(
            tokenizer_open_bytes((struct span){exact, cut}, "t.gguf", &tokenizer, NULL), STATUS_OK);
        free(exact);
    }
    free(file.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_json),      cmocka_unit_test(test_named),
        cmocka_unit_test(test_unused_token), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_by_path),      cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
