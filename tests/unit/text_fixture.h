/*
 * text_fixture: a small tokenizer.json put together in memory, right or wrong, for tests.
 *
 * Ids 0..255 are the bytes; behind them come a few words and what their merges go through, then
 * special tokens. Each part can be replaced by other JSON text; NULL keeps the default.
 */
#pragma once

#include "text/chat_form.h"
#include "text/tokenizer_rules.h"

struct text_fixture {
    const char *vocab;  /* members behind those of the bytes, with a comma in front */
    const char *merges; /* elements */
    const char *model;  /* more members of the model, with a comma in front */
    const char *added;  /* elements of added_tokens */
    const char *normalizer;
    const char *pre_tokenizer;
    const char *post_processor;
    const char *decoder;
    const char *type; /* of the model */
};

#define FIXTURE_VOCAB                                                                              \
    ",\"he\":256,\"ll\":257,\"hell\":258,\"hello\":259,\"\xc4\xa0w\":260,\"or\":261,"              \
    "\"\xc4\xa0wor\":262,\"ld\":263,\"\xc4\xa0world\":264,\"\xc3\x83\xc2\xa9\":265"
#define FIXTURE_MERGES                                                                             \
    "\"h e\",\"l l\",\"he ll\",\"hell o\",\"\xc4\xa0 w\",\"o r\",\"\xc4\xa0w or\",\"l d\","        \
    "\"\xc4\xa0wor ld\",[\"\xc3\x83\",\"\xc2\xa9\"]"
#define FIXTURE_ADDED                                                                              \
    "{\"id\":266,\"content\":\"<s>\",\"special\":true},"                                           \
    "{\"id\":267,\"content\":\"</s>\",\"special\":true},"                                          \
    "{\"id\":268,\"content\":\"<|im_start|>\",\"special\":true},"                                  \
    "{\"id\":269,\"content\":\"<|im_end|>\",\"special\":true},"                                    \
    "{\"id\":270,\"content\":\"<tool>\",\"special\":false,\"normalized\":false}"
#define FIXTURE_BYTE_LEVEL                                                                         \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}"
#define FIXTURE_BOS                                                                                \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"            \
    "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[266]}}}"

enum {
    FIXTURE_HELLO = 259,
    FIXTURE_WORLD = 264,
    FIXTURE_E_ACUTE = 265,
    FIXTURE_BOS_ID = 266,
    FIXTURE_EOS_ID = 267,
    FIXTURE_IM_START = 268,
    FIXTURE_IM_END = 269,
    FIXTURE_TOOL = 270,
    FIXTURE_COUNT = 271,
};

/* The letter of a byte as UTF-8 in a JSON string. */
static inline void fixture_letter(FILE *out, uint32_t byte)
{
    bool plain = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    uint32_t code = byte;
    if (!plain)
        code = 0x100 + (byte <= 0x20 ? byte : byte == 0xad ? 67 : byte - 0x7f + 33);
    if (code == '"' || code == '\\')
        fprintf(out, "\\%c", (int)code);
    else if (code < 0x80)
        fputc((int)code, out);
    else
        fprintf(out, "%c%c", (int)(0xc0 | code >> 6), (int)(0x80 | (code & 0x3f)));
}

/* The caller frees the text. */
static inline char *text_fixture_json(const struct text_fixture *fixture)
{
    char *text = NULL;
    size_t size_bytes = 0;
    FILE *out = open_memstream(&text, &size_bytes);
    CHECK(out);
#define FIXTURE_PART(part, absent) (fixture && fixture->part ? fixture->part : (absent))
    fprintf(out, "{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,",
            FIXTURE_PART(added, FIXTURE_ADDED), FIXTURE_PART(normalizer, "null"),
            FIXTURE_PART(pre_tokenizer, FIXTURE_BYTE_LEVEL));
    fprintf(out, "\"post_processor\":%s,\"decoder\":%s,", FIXTURE_PART(post_processor, "null"),
            FIXTURE_PART(decoder, FIXTURE_BYTE_LEVEL));
    fprintf(out, "\"model\":{\"type\":%s%s,\"merges\":[%s],\"vocab\":{",
            FIXTURE_PART(type, "\"BPE\""), FIXTURE_PART(model, ""),
            FIXTURE_PART(merges, FIXTURE_MERGES));
    for (uint32_t byte = 0; byte < 256; byte++) {
        fputs(byte ? ",\"" : "\"", out);
        fixture_letter(out, byte);
        fprintf(out, "\":%u", byte);
    }
    fprintf(out, "%s}}}", FIXTURE_PART(vocab, FIXTURE_VOCAB));
#undef FIXTURE_PART
    fclose(out);
    return text;
}

/* Opens it; whatever goes wrong ends the test program. */
static inline struct tokenizer *text_fixture_open(const struct text_fixture *fixture)
{
    struct error error;
    struct tokenizer *tokenizer = NULL;
    char *text = text_fixture_json(fixture);
    if (tokenizer_open_bytes(span_of(text), "fixture", &tokenizer, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    free(text);
    return tokenizer;
}

/* Seeded numbers for tests. */
static inline uint64_t text_fixture_draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
