#include "text/spaces.h"

#include <math.h>

#include "text/utf8.h"

#define MARK_BYTES 3

size_t spaces_write(const struct spaces *spaces, struct span text, bool at_start, char *out)
{
    size_t written = 0, at = 0;
    bool has_lead = text.size_bytes > 0 && text.data[0] == ' ';
    has_lead |= text.size_bytes >= MARK_BYTES && memcmp(text.data, SPACES_MARK, MARK_BYTES) == 0;
    if (spaces->lead == SPACES_LEAD_EVERY || (spaces->lead == SPACES_LEAD_ABSENT && !has_lead) ||
        (spaces->lead == SPACES_LEAD_START && !has_lead && at_start))
        out[written++] = ' ';
    while (at < text.size_bytes) {
        const char *mark = memmem(text.data + at, text.size_bytes - at, SPACES_MARK, MARK_BYTES);
        size_t plain = mark ? (size_t)(mark - text.data) - at : text.size_bytes - at;
        memcpy(out + written, text.data + at, plain);
        written += plain;
        at += plain;
        if (mark) {
            out[written++] = ' ';
            at += MARK_BYTES;
        }
    }
    return written;
}

size_t spaces_piece_end(const struct spaces *spaces, struct span text, size_t start)
{
    if (spaces->cuts == SPACES_CUT_NEVER)
        return text.size_bytes;
    for (size_t at = start + 1; at < text.size_bytes; at++) {
        const char *space = memchr(text.data + at, ' ', text.size_bytes - at);
        if (!space)
            break;
        at = (size_t)(space - text.data);
        if (spaces->cuts == SPACES_CUT_EACH || text.data[at - 1] != ' ')
            return at;
    }
    return text.size_bytes;
}

bool spaces_may_cut(const struct bpe *bpe, const struct vocabulary *vocabulary)
{
    /* An unknown space could melt into one with unknown characters on both of its sides. */
    if (bpe->byte_ids[' '] == VOCABULARY_NONE)
        return false;
    for (uint32_t id = 0; id < vocabulary->count; id++) {
        struct span text = vocabulary_bytes(vocabulary, id);
        for (size_t i = 1; vocabulary->tokens[id].merges && i < text.size_bytes; i++)
            if (text.data[i] == ' ' && text.data[i - 1] != ' ')
                return false;
    }
    return true;
}

bool spaces_token(struct span text, char *out, size_t *ret_size_bytes)
{
    static const struct spaces none = {.on = true};
    *ret_size_bytes = spaces_write(&none, text, false, out);
    return text.size_bytes == 0 || !memchr(text.data, ' ', text.size_bytes);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int spaces_byte(struct span text)
{
    if (text.size_bytes != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

struct scored {
    float score;
    uint32_t id;
};

static int scored_compare(const void *a, const void *b)
{
    const struct scored *left = a, *right = b;
    if (left->score != right->score)
        return left->score > right->score ? -1 : 1;
    return (left->id > right->id) - (left->id < right->id);
}

static uint32_t characters_count(struct span text)
{
    uint32_t count = 0;
    for (size_t i = 0; i < text.size_bytes; i++)
        count += ((uint8_t)text.data[i] & 0xc0) != 0x80;
    return count;
}

uint32_t spaces_merges_max(const struct vocabulary *vocabulary)
{
    uint64_t most = 0;
    for (uint32_t id = 0; id < vocabulary->count; id++)
        if (vocabulary->tokens[id].merges)
            most += characters_count(vocabulary_bytes(vocabulary, id)) - 1;
    return (uint32_t)(most < BPE_MERGES_MAX ? most : BPE_MERGES_MAX);
}

/* Every way to put this token together from two others. */
static enum status token_merges(struct bpe *bpe, const struct vocabulary *vocabulary,
                                struct scored token, uint32_t rank, struct error *error)
{
    struct span text = vocabulary_bytes(vocabulary, token.id);
    if (text.size_bytes > SPACES_TOKEN_MAX_BYTES)
        return error_set(error, STATUS_UNSUPPORTED,
                         "token id %u has %zu bytes, expected at most %d", token.id,
                         text.size_bytes, SPACES_TOKEN_MAX_BYTES);
    size_t start = 0;
    for (size_t at = 1; at <= text.size_bytes; at++) {
        if (at < text.size_bytes && ((uint8_t)text.data[at] & 0xc0) == 0x80)
            continue;
        struct span character = {text.data + start, at - start};
        if (vocabulary_find(vocabulary, character) == VOCABULARY_NONE)
            return error_set(error, STATUS_UNSUPPORTED,
                             "token id %u, \"%.*s\": its character at byte %zu is no token itself",
                             token.id, (int)text.size_bytes, text.data, start);
        start = at;
        if (at == text.size_bytes)
            break;
        uint32_t left = vocabulary_find(vocabulary, (struct span){text.data, at});
        uint32_t right =
            vocabulary_find(vocabulary, (struct span){text.data + at, text.size_bytes - at});
        if (left == VOCABULARY_NONE || right == VOCABULARY_NONE)
            continue;
        enum status status =
            bpe_merge_put(bpe, &(struct bpe_merge_ids){left, right, token.id}, rank, error);
        if (status)
            return status;
    }
    return STATUS_OK;
}

enum status spaces_merges(struct bpe *bpe, const struct vocabulary *vocabulary, const float *scores,
                          struct error *error)
{
    struct scored *order = malloc(vocabulary->count * sizeof *order);
    uint32_t count = 0, rank = 0;
    enum status status = STATUS_OK;
    if (!order)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %u scores", vocabulary->count);
    for (uint32_t id = 0; id < vocabulary->count && !status; id++) {
        if (!vocabulary->tokens[id].merges)
            continue;
        if (!isfinite(scores[id]))
            status = error_set(error, STATUS_INVALID,
                               "token id %u: its score is %g, expected a finite number", id,
                               (double)scores[id]);
        order[count++] = (struct scored){scores[id], id};
    }
    if (count)
        qsort(order, count, sizeof *order, scored_compare);
    for (uint32_t i = 0; i < count && !status; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        status = token_merges(bpe, vocabulary, order[i], rank, error);
    }
    free(order);
    return status;
}
