#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "tests/unit/gguf_build.h"
#include "text/tokenizer_rules.h"

/* A vocabulary of characters: three special tokens, 256 bytes, then these; "|" is U+2581. */
static const char *const words[] = {"|", "a", "b", "c", "|a", "ab", "bc", "|ab", "||", "abc"};
#define WORDS_FIRST 259
enum { SPACE = WORDS_FIRST, A, B, C, SPACE_A, AB, BC, SPACE_AB, SPACES, ABC, WORDS_END };

#define MARK SPACES_MARK
#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}"
#define PREPEND "{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}"
#define BACK "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK "\"},\"content\":\" \"}"
#define STRIP "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define SEQUENCE(of, steps) "{\"type\":\"Sequence\",\"" of "\":[" steps "]}"
#define METASPACE(more) "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"" more "}"
#define NORMALIZER SEQUENCE("normalizers", PREPEND "," REPLACE)
#define DECODER SEQUENCE("decoders", BACK ",{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}," STRIP)

/* Members of a tokenizer.json; NULL keeps the default. */
struct parts {
    const char *normalizer, *pre_tokenizer, *decoder;
    const char *model;  /* more members, with a comma in front */
    const char *merges; /* elements */
    const char *vocab;  /* more members, with a comma in front */
    const char *added;  /* more elements, with a comma in front */
    uint32_t bytes_missing;
};

static char *json_build(const struct parts *p)
{
    char *text = NULL;
    size_t size_bytes = 0;
    FILE *out = open_memstream(&text, &size_bytes);
#define PART(part, absent) (p && p->part ? p->part : (absent))
    fprintf(out, "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,",
            PART(normalizer, NORMALIZER), PART(pre_tokenizer, "null"), PART(decoder, DECODER));
    fprintf(out,
            "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false}"
            "%s],\"model\":{\"type\":\"BPE\"%s,\"merges\":[%s],",
            PART(added, ""), PART(model, ",\"byte_fallback\":true"),
            PART(merges, "\"" MARK " a\",\"a b\",\"b c\",\"" MARK " ab\",\"" MARK "a b\",\"" MARK
                         " " MARK "\",\"ab c\""));
    fprintf(out, "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2");
    for (uint32_t byte = p ? p->bytes_missing : 0; byte < 256; byte++)
        fprintf(out, ",\"<0x%02X>\":%u", byte, 3 + byte);
    for (uint32_t i = 0; i < array_count(words); i++) {
        fprintf(out, ",\"");
        for (const char *c = words[i]; *c; c++)
            *c == '|' ? fputs(MARK, out) : fputc(*c, out);
        fprintf(out, "\":%u", WORDS_FIRST + i);
    }
    fprintf(out, "%s}}}", PART(vocab, ""));
#undef PART
    fclose(out);
    return text;
}

static struct tokenizer *json_open(const struct parts *p)
{
    struct tokenizer *tokenizer = NULL;
    struct error error = {.text = ""};
    char *text = json_build(p);
    if (tokenizer_open_bytes(span_of(text), "t.json", &tokenizer, &error))
        fail_msg("%s", error.text);
    free(text);
    return tokenizer;
}

/* `expected` ends with TOKEN_NONE. */
static void encodes(const struct tokenizer *tokenizer, const char *text, const uint32_t *expected)
{
    struct tokenizer_scratch *scratch;
    struct text_piece piece = {span_of(text), true};
    const uint32_t *ids;
    size_t n = 0;
    struct error error = {.text = ""};
    assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch, &error), STATUS_OK);
    if (tokenizer_encode(tokenizer, scratch, &piece, 1, 100, &ids, &n, &error))
        fail_msg("%s", error.text);
    for (size_t i = 0; i < n || expected[i] != TOKEN_NONE; i++)
        if (i == n || ids[i] != expected[i])
            fail_msg("\"%s\": token %zu is %d, expected %d", text, i, i < n ? (int)ids[i] : -1,
                     (int)expected[i]);
    tokenizer_scratch_free(scratch);
}

#define IDS(...) ((const uint32_t[]){__VA_ARGS__ __VA_OPT__(, ) TOKEN_NONE})

static void test_prepended(void **state)
{
    struct tokenizer *tokenizer = json_open(NULL);
    encodes(tokenizer, "", IDS());
    encodes(tokenizer, "abc", IDS(SPACE_A, BC));
    encodes(tokenizer, " a", IDS(SPACE, SPACE_A));
    encodes(tokenizer, " ", IDS(SPACES));
    encodes(tokenizer, "a" MARK "a", IDS(SPACE_A, SPACE_A));
    encodes(tokenizer, "\xe2\x82\xac", IDS(SPACE, 3 + 0xe2, 3 + 0x82, 3 + 0xac));
    encodes(tokenizer, "a<s>a", IDS(SPACE_A, 1, SPACE_A)); /* each stretch */
    assert_true(tokenizer_info(tokenizer)->strips_space);
    assert_int_equal(tokenizer->spaces.cuts, SPACES_CUT_WORDS);
    tokenizer_close(tokenizer);
}

static void test_metaspace(void **state)
{
    struct parts first = {.normalizer = "null",
                          .pre_tokenizer =
                              METASPACE(",\"prepend_scheme\":\"first\",\"split\":false")};
    struct parts always = {.normalizer = "null",
                           .pre_tokenizer = METASPACE(",\"prepend_scheme\":\"always\"")};
    struct parts never = {.normalizer = "null",
                          .pre_tokenizer =
                              METASPACE(",\"prepend_scheme\":\"never\",\"split\":false")};
    struct tokenizer *tokenizer = json_open(&first);
    encodes(tokenizer, "a<s>a", IDS(SPACE_A, 1, A));
    encodes(tokenizer, " a", IDS(SPACE_A));
    encodes(tokenizer, "<s>a", IDS(1, A));
    encodes(tokenizer, "  a", IDS(SPACE, SPACE_A));
    tokenizer_close(tokenizer);
    tokenizer = json_open(&always);
    encodes(tokenizer, "a<s>a", IDS(SPACE_A, 1, SPACE_A));
    encodes(tokenizer, "  a", IDS(SPACE, SPACE_A));
    tokenizer_close(tokenizer);
    tokenizer = json_open(&never);
    encodes(tokenizer, "a a", IDS(A, SPACE_A));
    tokenizer_close(tokenizer);
}

static const struct {
    struct parts parts;
    enum status status;
    const char *says;
} refused_json[] = {
    {{.normalizer = PREPEND}, STATUS_UNSUPPORTED, "a normalizer without Replace"},
    {{.normalizer = SEQUENCE("normalizers", REPLACE "," REPLACE)},
     STATUS_UNSUPPORTED,
     "normalizers[1].type: Replace"},
    {{.normalizer = SEQUENCE("normalizers", "{\"type\":\"NFKC\"}")},
     STATUS_UNSUPPORTED,
     "normalizers[0].type: NFKC"},
    {{.normalizer = SEQUENCE("normalizers", "4")}, STATUS_INVALID, "normalizers[0]: expected"},
    {{.normalizer = SEQUENCE("steps", "")}, STATUS_INVALID, "normalizer.normalizers"},
    {{.normalizer = BACK}, STATUS_UNSUPPORTED, "normalizer.pattern"},
    {{.normalizer = SEQUENCE("normalizers", "{\"type\":\"Prepend\",\"prepend\":\"x\"}," REPLACE)},
     STATUS_UNSUPPORTED,
     "prepend: x"},
    {{.pre_tokenizer = METASPACE("")}, STATUS_UNSUPPORTED, "Metaspace after a normalizer"},
    {{.pre_tokenizer = "{\"type\":\"Digits\",\"individual_digits\":true}"},
     STATUS_UNSUPPORTED,
     "pre_tokenizer: one beside"},
    {{.normalizer = "null", .pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"_\"}"},
     STATUS_UNSUPPORTED,
     "replacement: _"},
    {{.normalizer = "null", .pre_tokenizer = METASPACE(",\"prepend_scheme\":\"last\"")},
     STATUS_UNSUPPORTED,
     "prepend_scheme: last"},
    {{.normalizer = "null", .pre_tokenizer = METASPACE(",\"add_prefix_space\":true")},
     STATUS_UNSUPPORTED,
     "add_prefix_space"},
    {{.normalizer = "null", .pre_tokenizer = METASPACE(",\"split\":1")},
     STATUS_INVALID,
     "pre_tokenizer.split"},
    {{.decoder = "null"}, STATUS_INVALID, "decoder: expected an object"},
    {{.decoder = "{\"type\":\"Metaspace\"}"}, STATUS_UNSUPPORTED, "decoder.type: Metaspace"},
    {{.decoder = SEQUENCE("decoders", BACK ",{\"type\":\"Fuse\"}")},
     STATUS_UNSUPPORTED,
     "one without ByteFallback"},
    {{.decoder = SEQUENCE("decoders", "{\"type\":\"Fuse\"}," BACK)},
     STATUS_UNSUPPORTED,
     "decoders[1].type: Replace"},
    {{.decoder = SEQUENCE("decoders", BACK ",{\"type\":\"ByteFallback\"}," STRIP)},
     STATUS_UNSUPPORTED,
     "without Replace or Fuse"},
    {{.decoder = SEQUENCE("decoders", BACK ",{\"type\":\"Fuse\"},{\"type\":\"Strip\","
                                           "\"content\":\" \",\"start\":2,\"stop\":0}")},
     STATUS_UNSUPPORTED,
     "decoders[2].type: this Strip"},
    {{.decoder = SEQUENCE("decoders", "{\"type\":\"CTC\"}")}, STATUS_UNSUPPORTED, "CTC"},
    {{.bytes_missing = 1}, STATUS_UNSUPPORTED, "without a token <0x00>"},
    {{.model = ",\"byte_fallback\":true,\"ignore_merges\":true"},
     STATUS_UNSUPPORTED,
     "ignore_merges"},
    {{.vocab = ",\" \":300,\"d\":300"}, STATUS_INVALID, "token id 300 is there twice"},
    {{.added = ",{\"id\":300,\"content\":\"<t>\",\"special\":false,\"normalized\":true}"},
     STATUS_UNSUPPORTED,
     "normalized: true beside the normalizer Prepend"},
    {{.added = ",{\"id\":300,\"content\":\"" MARK "\",\"special\":false,\"normalized\":false}"},
     STATUS_INVALID,
     "has id 300 here and 259"},
    {{.added = ",{\"id\":300,\"content\":\"" MARK "x\",\"special\":false,\"normalized\":false}"},
     STATUS_UNSUPPORTED,
     "U+2581"},
    {{.merges = "\"a x\""}, STATUS_INVALID, "model.merges[0]"},
};

static void test_refused_json(void **state)
{
    for (size_t i = 0; i < array_count(refused_json); i++) {
        struct tokenizer *tokenizer = (void *)&refused_json;
        struct error error = {.text = ""};
        char *text = json_build(&refused_json[i].parts);
        enum status status = tokenizer_open_bytes(span_of(text), "t.json", &tokenizer, &error);
        if (status != refused_json[i].status || !strstr(error.text, refused_json[i].says))
            fail_msg("case %zu: expected \"%s\", got %s \"%s\"", i, refused_json[i].says,
                     status_name(status), error.text);
        assert_ptr_equal(tokenizer, &refused_json);
        free(text);
    }
}

/* A GGUF file of the same vocabulary; the scores fall with the id unless `equal`. */
struct scored {
    const char *token; /* instead of "abc" */
    float score;       /* of it; 0: as it should be */
    uint32_t scores_missing;
    int32_t type; /* of it; 0: normal */
    bool equal, adds_eos, extra_spaces, charsmap, no_lead, no_scores;
};

static void flag_put(struct gguf_build *b, const char *name, bool value)
{
    build_key(b, name, GGUF_BOOL);
    bytes_put(&b->keys, value ? "\1" : "", 1);
}

static void tokens_put(struct gguf_build *b, const struct scored *s)
{
    char text[64];
    build_array(b, "tokenizer.ggml.tokens", GGUF_STRING, WORDS_END);
    bytes_string(&b->keys, "<unk>");
    bytes_string(&b->keys, "<s>");
    bytes_string(&b->keys, "</s>");
    for (uint32_t byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", byte);
        bytes_string(&b->keys, text);
    }
    for (size_t i = 0; i < array_count(words); i++) {
        size_t n = 0;
        text[0] = '\0';
        for (const char *c = i == ABC - WORDS_FIRST && s->token ? s->token : words[i]; *c; c++)
            n += (size_t)snprintf(text + n, sizeof text - n, *c == '|' ? MARK : "%c", *c);
        bytes_string(&b->keys, text);
    }
    build_array(b, "tokenizer.ggml.token_type", GGUF_I32, WORDS_END);
    for (uint32_t id = 0; id < WORDS_END; id++)
        bytes_u32(&b->keys, id == 0                ? 2
                            : id < 3               ? 3
                            : id < WORDS_FIRST     ? 6
                            : id == ABC && s->type ? (uint32_t)s->type
                                                   : 1);
}

static enum status scored_open(const struct scored *s, struct tokenizer **ret_tokenizer,
                               struct error *error)
{
    struct gguf_build b = {0};
    build_string(&b, "tokenizer.ggml.model", "llama");
    tokens_put(&b, s);
    if (!s->no_scores) {
        build_array(&b, "tokenizer.ggml.scores", GGUF_F32, WORDS_END - s->scores_missing);
        for (uint32_t id = 0; id < WORDS_END - s->scores_missing; id++) {
            float score = id == ABC && s->score != 0 ? s->score : s->equal ? 1 : -(float)id;
            bytes_put(&b.keys, &score, sizeof score);
        }
    }
    build_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    build_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    if (s->adds_eos)
        flag_put(&b, "tokenizer.ggml.add_eos_token", true);
    if (s->extra_spaces)
        flag_put(&b, "tokenizer.ggml.remove_extra_whitespaces", true);
    if (s->no_lead)
        flag_put(&b, "tokenizer.ggml.add_space_prefix", false);
    if (s->charsmap) {
        build_array(&b, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, 1);
        bytes_put(&b.keys, "", 1);
    }
    struct bytes file = gguf_build_finish(&b);
    enum status status =
        tokenizer_open_bytes((struct span){file.data, file.size}, "t.gguf", ret_tokenizer, error);
    free(file.data);
    return status;
}

static void test_scores(void **state)
{
    struct tokenizer *tokenizer;
    struct error error = {.text = ""};
    if (scored_open(&(struct scored){0}, &tokenizer, &error))
        fail_msg("%s", error.text);
    encodes(tokenizer, "abc", IDS(SPACE_A, BC));
    encodes(tokenizer, "a<s>a", IDS(SPACE_A, 1, SPACE_A));
    encodes(tokenizer, "\xe2\x82\xac", IDS(SPACE, 3 + 0xe2, 3 + 0x82, 3 + 0xac));
    assert_true(tokenizer_info(tokenizer)->adds_bos && tokenizer_info(tokenizer)->strips_space);
    tokenizer_close(tokenizer);
    /* Of equal scores the leftmost: "bc" alone, but "ab" before it. */
    assert_int_equal(
        scored_open(&(struct scored){.equal = true, .no_lead = true}, &tokenizer, &error),
        STATUS_OK);
    encodes(tokenizer, "bc", IDS(BC));
    encodes(tokenizer, "abbc", IDS(AB, BC));
    encodes(tokenizer, "abc", IDS(ABC));
    assert_false(tokenizer_info(tokenizer)->strips_space);
    tokenizer_close(tokenizer);
}

static void test_refused_scores(void **state)
{
    static const struct {
        struct scored file;
        enum status status;
        const char *says;
    } cases[] = {
        {{.no_scores = true}, STATUS_INVALID, "tokenizer.ggml.scores"},
        {{.scores_missing = 1}, STATUS_INVALID, "268 scores for 269 tokens"},
        {{.score = NAN}, STATUS_INVALID, "token id 268: its score is nan"},
        {{.score = INFINITY}, STATUS_INVALID, "token id 268: its score is inf"},
        {{.token = "ax"}, STATUS_UNSUPPORTED, "its character at byte 1 is no token itself"},
        {{.token = "a\xff"}, STATUS_INVALID, "token id 268 is not valid UTF-8 at byte 1"},
        {{.token = ""}, STATUS_INVALID, "token id 268 has 0 bytes"},
        {{.token = "ab"}, STATUS_INVALID, "token ids 264 and 268 have the same content"},
        {{.token = "<0xZZ>", .type = 6}, STATUS_INVALID, "expected \"<0x00>\" to \"<0xFF>\""},
        {{.token = "<0x41>", .type = 6}, STATUS_INVALID, "token ids 68 and 268 are the same byte"},
        {{.type = 9}, STATUS_UNSUPPORTED, "token id 268 has type 9"},
        {{.token = "|t", .type = 4}, STATUS_UNSUPPORTED, "U+2581"},
        {{.adds_eos = true}, STATUS_UNSUPPORTED, "add_eos_token: true"},
        {{.extra_spaces = true}, STATUS_UNSUPPORTED, "remove_extra_whitespaces: true"},
        {{.charsmap = true}, STATUS_UNSUPPORTED, "precompiled_charsmap"},
    };
    for (size_t i = 0; i < array_count(cases); i++) {
        struct tokenizer *tokenizer = (void *)&cases;
        struct error error = {.text = ""};
        enum status status = scored_open(&cases[i].file, &tokenizer, &error);
        if (status != cases[i].status || !strstr(error.text, cases[i].says))
            fail_msg("case %zu: expected \"%s\", got %s \"%s\"", i, cases[i].says,
                     status_name(status), error.text);
        assert_ptr_equal(tokenizer, &cases);
    }
}

/* What is cut at words is what the whole text gives. */
static void test_pieces(void **state)
{
    static const char *const texts[] = {" a", "a  b c", "   ", "a", "ab c  ", "  a b  c"};
    struct spaces words_cut = {.on = true, .cuts = SPACES_CUT_WORDS};
    struct spaces each_cut = {.on = true, .cuts = SPACES_CUT_EACH};
    const size_t word_ends[] = {2, 1, 3, 1, 2, 3}, each_ends[] = {2, 1, 1, 1, 2, 1};
    for (size_t i = 0; i < array_count(texts); i++) {
        assert_int_equal(spaces_piece_end(&words_cut, span_of(texts[i]), 0), word_ends[i]);
        assert_int_equal(spaces_piece_end(&each_cut, span_of(texts[i]), 0), each_ends[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prepended),      cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_refused_json),   cmocka_unit_test(test_scores),
        cmocka_unit_test(test_refused_scores), cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
