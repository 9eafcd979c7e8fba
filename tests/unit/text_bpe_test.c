#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "tests/unit/text_fixture.h"
#include "text/byte_letters.h"

/* A random vocabulary over a small alphabet: letters, then tokens that merges of others make. */
#define LETTERS 4
#define TOKENS_MAX 200

struct model {
    struct vocabulary vocabulary;
    struct bpe bpe;
    char text[TOKENS_MAX][64];
    uint32_t count;
    struct {
        uint32_t left, right, whole;
    } merges[4 * TOKENS_MAX];
    uint32_t merges_count;
};

static void model_build(struct model *m, uint64_t *seed)
{
    memset(m, 0, sizeof *m);
    for (; m->count < LETTERS; m->count++)
        m->text[m->count][0] = (char)('a' + m->count);
    for (uint32_t tries = 0; tries < TOKENS_MAX && m->count < TOKENS_MAX; tries++) {
        uint32_t left = (uint32_t)(text_fixture_draw(seed) % m->count);
        uint32_t right = (uint32_t)(text_fixture_draw(seed) % m->count);
        char whole[64];
        if (strlen(m->text[left]) + strlen(m->text[right]) > 12)
            continue;
        snprintf(whole, sizeof whole, "%s%s", m->text[left], m->text[right]);
        uint32_t id = 0;
        while (id < m->count && strcmp(m->text[id], whole) != 0)
            id++;
        bool again = false;
        for (uint32_t i = 0; i < m->merges_count; i++)
            again |= m->merges[i].left == left && m->merges[i].right == right;
        if (again)
            continue;
        if (id == m->count)
            memcpy(m->text[m->count++], whole, sizeof whole);
        m->merges[m->merges_count].left = left;
        m->merges[m->merges_count].right = right;
        m->merges[m->merges_count++].whole = id;
    }
    assert_int_equal(vocabulary_init(&m->vocabulary, m->count, NULL), STATUS_OK);
    for (uint32_t id = 0; id < m->count; id++)
        assert_int_equal(
            vocabulary_set(&m->vocabulary, id, span_of(m->text[id]), TOKEN_NORMAL, true, NULL),
            STATUS_OK);
    assert_int_equal(vocabulary_index(&m->vocabulary, NULL), STATUS_OK);
    assert_int_equal(bpe_init(&m->bpe, &m->vocabulary, m->merges_count, NULL), STATUS_OK);
    for (uint32_t i = 0; i < m->merges_count; i++)
        assert_int_equal(bpe_merge_add(&m->bpe, &m->vocabulary, span_of(m->text[m->merges[i].left]),
                                       span_of(m->text[m->merges[i].right]), NULL),
                         STATUS_OK);
}

static void model_free(struct model *m)
{
    bpe_free(&m->bpe);
    vocabulary_free(&m->vocabulary);
}

/* The definition, word for word: again and again the merge of the lowest rank, leftmost first. */
static uint32_t plain_encode(const struct model *m, const char *text, uint32_t *ids)
{
    uint32_t n = 0;
    for (; text[n]; n++)
        ids[n] = (uint32_t)(text[n] - 'a');
    for (;;) {
        uint32_t best = UINT32_MAX, where = 0;
        for (uint32_t i = 0; i + 1 < n; i++)
            for (uint32_t rank = 0; rank < m->merges_count && rank < best; rank++)
                if (m->merges[rank].left == ids[i] && m->merges[rank].right == ids[i + 1]) {
                    best = rank;
                    where = i;
                }
        if (best == UINT32_MAX)
            return n;
        ids[where] = m->merges[best].whole;
        memmove(ids + where + 1, ids + where + 2, (n - where - 2) * sizeof *ids);
        n--;
    }
}

static void test_as_defined(void **state)
{
    uint64_t seed = 11;
    struct bpe_scratch scratch = {0};
    for (int round = 0; round < 60; round++) {
        struct model m;
        model_build(&m, &seed);
        for (int word = 0; word < 60; word++) {
            char text[64] = "";
            uint32_t ids[64], count = 0;
            for (size_t n = text_fixture_draw(&seed) % 60; n > 0; n--)
                strcat(text, m.text[text_fixture_draw(&seed) % LETTERS]);
            uint32_t expected = plain_encode(&m, text, ids);
            assert_int_equal(bpe_encode(&m.bpe, &scratch, span_of(text), &count, NULL), STATUS_OK);
            assert_int_equal(count, expected);
            for (uint32_t i = 0; i < count; i++)
                assert_int_equal(scratch.symbols[i].id, ids[i]);
        }
        model_free(&m);
    }
    bpe_scratch_free(&scratch);
}

static void test_long_words(void **state)
{
    uint64_t seed = 3;
    struct model m;
    struct bpe_scratch scratch = {0};
    struct error error;
    uint32_t count = 0;
    model_build(&m, &seed);
    char *text = malloc(BPE_PIECE_MAX_BYTES + 1);
    uint64_t start_ns = clock_now_ns();
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i <= BPE_PIECE_MAX_BYTES; i++)
            text[i] = kind == 0   ? 'a'
                      : kind == 1 ? "ab"[i % 2]
                                  : (char)('a' + text_fixture_draw(&seed) % LETTERS);
        assert_int_equal(
            bpe_encode(&m.bpe, &scratch, (struct span){text, BPE_PIECE_MAX_BYTES}, &count, NULL),
            STATUS_OK);
        size_t total = 0;
        for (uint32_t i = 0; i < count; i++) {
            struct span bytes = vocabulary_bytes(&m.vocabulary, scratch.symbols[i].id);
            assert_memory_equal(text + total, bytes.data, bytes.size_bytes);
            total += bytes.size_bytes;
        }
        assert_int_equal(total, BPE_PIECE_MAX_BYTES);
    }
    printf("three words of 1 MiB: %.2f s\n", (double)(clock_now_ns() - start_ns) / 1e9);
    assert_int_equal(
        bpe_encode(&m.bpe, &scratch, (struct span){text, BPE_PIECE_MAX_BYTES + 1}, &count, &error),
        STATUS_INVALID);
    assert_non_null(strstr(error.text, "1048577 bytes without a break, expected at most 1048576"));
    free(text);
    bpe_scratch_free(&scratch);
    model_free(&m);
}

static void test_unknown_bytes(void **state)
{
    uint64_t seed = 5;
    struct model m;
    struct bpe_scratch scratch = {0};
    uint32_t count = 0;
    model_build(&m, &seed);
    assert_int_equal(bpe_encode(&m.bpe, &scratch, span_of("zz"), &count, NULL), STATUS_OK);
    assert_int_equal(count, 0);
    uint32_t without = 0;
    assert_int_equal(bpe_encode(&m.bpe, &scratch, span_of("abba"), &without, NULL), STATUS_OK);
    assert_int_equal(bpe_encode(&m.bpe, &scratch, span_of("azbzzbaz"), &count, NULL), STATUS_OK);
    assert_int_equal(count, without); /* dropped before anything merges */
    m.bpe.unk_id = 2;
    assert_int_equal(bpe_encode(&m.bpe, &scratch, span_of("zyx"), &count, NULL), STATUS_OK);
    assert_int_equal(count, plain_encode(&m, "ccc", (uint32_t[8]){0}));
    m.bpe.fuse_unk = true;
    assert_int_equal(bpe_encode(&m.bpe, &scratch, span_of("zyx"), &count, NULL), STATUS_OK);
    assert_int_equal(count, 1);
    bpe_scratch_free(&scratch);
    model_free(&m);
}

static void test_letters(void **state)
{
    bool seen[256] = {false};
    for (uint32_t byte = 0; byte < 256; byte++) {
        char *text = NULL, got[8];
        size_t size_bytes = 0;
        FILE *out = open_memstream(&text, &size_bytes);
        fixture_letter(out, byte);
        fclose(out);
        struct span letter = {text, size_bytes};
        if (byte == '"' || byte == '\\') /* escaped for JSON */
            letter = (struct span){text + 1, 1};
        assert_int_equal(byte_letters_decode(letter, got), 1);
        assert_int_equal((uint8_t)got[0], byte);
        seen[(uint8_t)got[0]] = true;
        free(text);
    }
    for (int byte = 0; byte < 256; byte++)
        assert_true(seen[byte]);
    static const char *const bad[] = {" ",        "\t",       "\x7f",         "\xc2\xa0",
                                      "\xc2\xad", "\xc5\x84", "\xe2\x82\xac", "a\xff"};
    char out[16];
    for (size_t i = 0; i < array_count(bad); i++)
        assert_true(byte_letters_decode(span_of(bad[i]), out) == BYTE_LETTERS_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_defined),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_unknown_bytes),
        cmocka_unit_test(test_letters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
