#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "tests/unit/text_fixture.h"

#define SPLIT(pattern, more)                                                                       \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"" pattern "\"}," more "}," FIXTURE_BYTE_LEVEL "]}"
#define TEMPLATE(single, specials)                                                                 \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" specials "}}"
#define TOKEN(fields) FIXTURE_ADDED ",{" fields "}"

/* One part wrong at a time: what is said, and with which status. */
static const struct {
    struct text_fixture parts;
    enum status status;
    const char *says;
} refused[] = {
    {{.type = "\"WordPiece\""}, STATUS_UNSUPPORTED, "model.type: WordPiece is not supported"},
    {{.type = "7"}, STATUS_INVALID, "model.type: expected a string, got an integer"},
    {{.model = ",\"dropout\":0.1"}, STATUS_UNSUPPORTED, "model.dropout"},
    {{.model = ",\"dropout\":\"x\""}, STATUS_INVALID, "model.dropout: expected a number"},
    {{.model = ",\"byte_fallback\":true"}, STATUS_UNSUPPORTED, "model.byte_fallback: true"},
    {{.model = ",\"continuing_subword_prefix\":\"##\""}, STATUS_UNSUPPORTED, "subword_prefix: ##"},
    {{.model = ",\"end_of_word_suffix\":\"</w>\""}, STATUS_UNSUPPORTED, "word_suffix: </w>"},
    {{.model = ",\"ignore_merges\":1"}, STATUS_INVALID, "model.ignore_merges: expected true"},
    {{.model = ",\"unk_token\":\"<unk>\""}, STATUS_INVALID, "\"<unk>\" is no token"},
    {{.vocab = ",\"a b\":256"}, STATUS_INVALID, "\"a b\" has a character that is no letter"},
    {{.vocab = ",\"\xe2\x82\xac\":256"}, STATUS_INVALID, "no letter of the byte-level alphabet"},
    {{.vocab = ",\"he\":-1"}, STATUS_INVALID, "model.vocab: token id -1, expected 0 to 1048575"},
    {{.vocab = ",\"he\":1048576"}, STATUS_INVALID, "token id 1048576"},
    {{.vocab = ",\"he\":99999999999999"}, STATUS_INVALID, "token id 99999999999999"},
    {{.vocab = ",\"he\":\"x\""}, STATUS_INVALID, "expected an integer, got a string"},
    {{.vocab = ",\"he\":1.5"}, STATUS_INVALID, "expected an integer, got a number with a fraction"},
    {{.vocab = ",\"he\":7"}, STATUS_INVALID, "model.vocab: token id 7 is there twice"},
    {{.vocab = ",\"a\":256"}, STATUS_INVALID, "duplicate"},
    {{.vocab = ",\"\":256"}, STATUS_INVALID, "token id 256 has 0 bytes"},
    {{.merges = "\"h x1\""}, STATUS_INVALID, "its right part \"x1\" is not in the vocabulary"},
    {{.merges = "\"x1 h\""}, STATUS_INVALID, "its left part \"x1\" is not in the vocabulary"},
    {{.merges = "\"h h\""}, STATUS_INVALID, "what it makes, \"hh\" is not in the vocabulary"},
    {{.merges = "\"h e\",\"h e\""}, STATUS_INVALID, "merge 1 repeats merge 0"},
    {{.merges = "\"he\""}, STATUS_INVALID, "model.merges[0]: expected \"left right\""},
    {{.merges = "\"h e l\""}, STATUS_INVALID, "model.merges[0]: expected \"left right\""},
    {{.merges = "\"h \""}, STATUS_INVALID, "its right part \"\""},
    {{.merges = "[\"h\",\"e\",\"l\"]"}, STATUS_INVALID, "model.merges[0]"},
    {{.merges = "[\"h\",5]"}, STATUS_INVALID, "model.merges[0]"},
    {{.merges = "3"}, STATUS_INVALID, "model.merges[0]"},
    {{.merges = "[\"h \",\"e\"]"}, STATUS_INVALID, "no letter of the byte-level alphabet"},
    {{.added = "5"}, STATUS_INVALID, "added_tokens[0]: expected an object, got an integer"},
    {{.added = "{\"id\":266,\"special\":true}"}, STATUS_INVALID, "added_tokens[0].content"},
    {{.added = "{\"id\":-3,\"content\":\"<x>\",\"special\":true}"}, STATUS_INVALID, "token id -3"},
    {{.added = "{\"id\":300,\"content\":\"<x>\"}"}, STATUS_INVALID, "added_tokens[0].special"},
    {{.added = "{\"id\":300,\"content\":\"\",\"special\":true}"}, STATUS_INVALID, "has 0 bytes"},
    {{.added = TOKEN("\"id\":300,\"content\":\"<s>\",\"special\":true")},
     STATUS_INVALID,
     "ids 266 and 300 have the same content"},
    {{.added = TOKEN("\"id\":266,\"content\":\"<x>\",\"special\":true")},
     STATUS_INVALID,
     "token id 266 is there twice"},
    {{.added = TOKEN("\"id\":300,\"content\":\"hello\",\"special\":false")},
     STATUS_INVALID,
     "\"hello\" has id 300 here and 259 in model.vocab"},
    {{.added = TOKEN("\"id\":300,\"content\":\"<x>\",\"special\":false,\"single_word\":true")},
     STATUS_UNSUPPORTED,
     "single_word"},
    {{.normalizer = "{\"type\":\"Lowercase\"}"}, STATUS_UNSUPPORTED, "normalizer.type: Lowercase"},
    {{.normalizer = "[]"}, STATUS_INVALID, "normalizer: expected an object"},
    {{.pre_tokenizer = "null"}, STATUS_INVALID, "pre_tokenizer: expected an object"},
    {{.pre_tokenizer = "{\"type\":\"Metaspace\"}"}, STATUS_INVALID, "pre_tokenizer.replacement"},
    {{.pre_tokenizer = "{\"type\":\"Whitespace\"}"}, STATUS_UNSUPPORTED, "Whitespace"},
    {{.pre_tokenizer = "{\"type\":\"Digits\",\"individual_digits\":true}"},
     STATUS_UNSUPPORTED,
     "without ByteLevel"},
    {{.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"},
     STATUS_UNSUPPORTED,
     "add_prefix_space: true"},
    {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[" FIXTURE_BYTE_LEVEL
                       "," FIXTURE_BYTE_LEVEL "]}"},
     STATUS_UNSUPPORTED,
     "pretokenizers[1].type: a step after ByteLevel"},
    {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[3]}"},
     STATUS_INVALID,
     "pretokenizers[0]"},
    {{.pre_tokenizer = SPLIT("a+", "\"behavior\":\"MergedWithNext\"")},
     STATUS_UNSUPPORTED,
     "pretokenizers[0].behavior: MergedWithNext"},
    {{.pre_tokenizer = SPLIT("a*", "\"behavior\":\"Isolated\"")},
     STATUS_UNSUPPORTED,
     "pretokenizers[0].pattern: pattern: it matches empty text"},
    {{.pre_tokenizer = SPLIT("^a", "\"behavior\":\"Isolated\"")},
     STATUS_UNSUPPORTED,
     "pattern, byte 0: ^ is not supported"},
    {{.pre_tokenizer = SPLIT("(a", "\"behavior\":\"Isolated\"")},
     STATUS_INVALID,
     "( without its )"},
    {{.pre_tokenizer = SPLIT("[z-a]", "\"behavior\":\"Isolated\"")}, STATUS_INVALID, "range"},
    {{.decoder = "{\"type\":\"Metaspace\"}"}, STATUS_UNSUPPORTED, "decoder.type: Metaspace"},
    {{.post_processor = "{\"type\":\"BertProcessing\"}"}, STATUS_UNSUPPORTED, "BertProcessing"},
    {{.post_processor =
          TEMPLATE("{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"<s>\"}}",
                   "\"<s>\":{\"ids\":[266]}")},
     STATUS_UNSUPPORTED,
     "post_processor.single: what this template adds"},
    {{.post_processor = TEMPLATE("", "")}, STATUS_UNSUPPORTED, "post_processor.single"},
    {{.post_processor =
          TEMPLATE("{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}",
                   "\"<s>\":{\"ids\":[266,267]}")},
     STATUS_INVALID,
     "expected one id for \"<s>\""},
    {{.post_processor =
          TEMPLATE("{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}",
                   "\"<s>\":{\"ids\":[65]}")},
     STATUS_INVALID,
     "id 65 is not a special token"},
};

static void test_refused(void **state)
{
    for (size_t i = 0; i < array_count(refused); i++) {
        struct tokenizer *tokenizer = (void *)&refused;
        struct error error = {.text = ""};
        char *text = text_fixture_json(&refused[i].parts);
        enum status status = tokenizer_open_bytes(span_of(text), "t.json", &tokenizer, &error);
        if (status != refused[i].status || !strstr(error.text, refused[i].says) ||
            strncmp(error.text, "t.json: ", 8) != 0)
            fail_msg("case %zu: expected \"%s\", got %s \"%s\"", i, refused[i].says,
                     status_name(status), error.text);
        assert_ptr_equal(tokenizer, &refused); /* untouched on failure */
        free(text);
    }
}

static void test_not_json(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "not valid JSON"},
        {"{", "not valid JSON"},
        {"[]", "expected an object, got an array"},
        {"{}", "model: expected an object, got nothing"},
        {"{\"model\":{}}", "model.type: expected a string"},
        {"{\"model\":{\"type\":\"BPE\"}}", "model.vocab: expected an object"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "model.merges: expected an array"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "model.vocab: it is empty"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", "pre_tokenizer"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        struct tokenizer *tokenizer = NULL;
        struct error error = {.text = ""};
        assert_int_equal(tokenizer_open_bytes(span_of(cases[i].text), "t.json", &tokenizer, &error),
                         STATUS_INVALID);
        if (!strstr(error.text, cases[i].says))
            fail_msg("case %zu: \"%s\"", i, error.text);
    }
}

/* Cut anywhere, a file is refused and nothing is read beyond it. */
static void test_cut(void **state)
{
    char *text = text_fixture_json(NULL);
    size_t size_bytes = strlen(text);
    for (size_t cut = 0; cut < size_bytes; cut += 7) {
        struct tokenizer *tokenizer;
        char *copy = malloc(cut ? cut : 1);
        memcpy(copy, text, cut);
        assert_int_equal(tokenizer_open_bytes((struct span){copy, cut}, "t.json", &tokenizer, NULL),
                         STATUS_INVALID);
        free(copy);
    }
    free(text);
}

static void test_sparse_ids(void **state)
{
    struct tokenizer *tokenizer =
        text_fixture_open(&(struct text_fixture){.vocab = ",\"he\":1048575", .merges = "\"h e\""});
    assert_int_equal(tokenizer_info(tokenizer)->vocab_count, 1048576);
    assert_int_equal(tokenizer_token_bytes(tokenizer, 1048574, true).size_bytes, 0);
    assert_int_equal(tokenizer_token_id(tokenizer, span_of("he")), 1048575);
    tokenizer_close(tokenizer);
}

/* A directory with files in it, for the ids that end a generation. */
static char directory[64];

static void file_write(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static void files_write(const char *tokenizer_config, const char *generation, const char *config)
{
    char *text = text_fixture_json(&(struct text_fixture){.post_processor = FIXTURE_BOS});
    file_write("tokenizer.json", text);
    file_write("tokenizer_config.json", tokenizer_config);
    file_write("generation_config.json", generation);
    file_write("config.json", config);
    free(text);
}

static void test_eos(void **state)
{
    struct tokenizer *tokenizer;
    struct error error;
    files_write("{\"eos_token\":{\"content\":\"</s>\"},\"bos_token\":\"<s>\"}",
                "{\"eos_token_id\":[269,267]}", "{\"eos_token_id\":269}");
    if (tokenizer_open(directory, &tokenizer, &error))
        fail_msg("%s", error.text);
    const struct tokenizer_info *info = tokenizer_info(tokenizer);
    assert_int_equal(info->n_eos, 2);
    assert_int_equal(info->eos_ids[0], FIXTURE_EOS_ID);
    assert_int_equal(info->eos_ids[1], FIXTURE_IM_END);
    assert_int_equal(info->bos_id, FIXTURE_BOS_ID);
    tokenizer_close(tokenizer);
    files_write("{\"eos_token\":null}", "{}", "{\"eos_token_id\":null}");
    char path[128];
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    assert_int_equal(tokenizer_open(path, &tokenizer, &error), STATUS_OK);
    assert_int_equal(tokenizer_info(tokenizer)->n_eos, 0);
    tokenizer_close(tokenizer);
}

static void test_config_refused(void **state)
{
    static const struct {
        const char *tokenizer_config, *generation, *config, *says;
    } cases[] = {
        {"{\"eos_token\":\"<end>\"}", "{}", "{}", "eos_token: \"<end>\" is no token"},
        {"{\"eos_token\":5}", "{}", "{}", "eos_token: expected a token's text"},
        {"{\"bos_token\":\"</s>\"}", "{}", "{}", "bos_token has id 267, but tokenizer.json puts"},
        {"{}", "{\"eos_token_id\":271}", "{}", "eos_token_id: token id 271, expected below 271"},
        {"{}", "{\"eos_token_id\":-1}", "{}", "eos_token_id: expected a token id"},
        {"{}", "{\"eos_token_id\":\"x\"}", "{}", "eos_token_id: expected a token id"},
        {"{}", "{\"eos_token_id\":[1,[2]]}", "{}", "eos_token_id: expected a token id"},
        {"{}", "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "{}", "more than 8 different ids"},
        {"{}", "{}", "[]", "config.json: expected an object"},
        {"{", "{}", "{}", "tokenizer_config.json: line 1"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        struct tokenizer *tokenizer;
        struct error error = {.text = ""};
        files_write(cases[i].tokenizer_config, cases[i].generation, cases[i].config);
        assert_int_not_equal(tokenizer_open(directory, &tokenizer, &error), STATUS_OK);
        if (!strstr(error.text, cases[i].says) || !strstr(error.text, directory))
            fail_msg("case %zu: \"%s\"", i, error.text);
    }
}

static void test_no_file(void **state)
{
    struct tokenizer *tokenizer;
    struct error error;
    assert_int_equal(tokenizer_open("/nowhere/at/all", &tokenizer, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "/nowhere/at/all"));
    assert_int_equal(tokenizer_open("/proc", &tokenizer, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "/proc/tokenizer.json"));
    char *long_path = malloc(8192);
    memset(long_path, '/', 8191);
    long_path[8191] = '\0';
    assert_int_not_equal(tokenizer_open(long_path, &tokenizer, &error), STATUS_OK);
    free(long_path);
}

static int directory_make(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/text_tokenizer_json.XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int directory_remove(void **state)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "generation_config.json", "config.json"};
    char path[128];
    for (size_t i = 0; i < array_count(names); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_cut),     cmocka_unit_test(test_sparse_ids),
        cmocka_unit_test(test_eos),     cmocka_unit_test(test_config_refused),
        cmocka_unit_test(test_no_file),
    };
    return cmocka_run_group_tests(tests, directory_make, directory_remove);
}
