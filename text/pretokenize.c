#include "text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/clock.h"
#include "text/pattern.h"

#define MATCH_LIMIT 8000000u        /* backtracking points of one match; a run of 1 MB needs 1 M */
#define HEAP_LIMIT_KIB (32u * 1024) /* of one match */
#define ALLOWED_NS (2 * NS_PER_S)
#define ALLOWED_BYTE_NS 4000ull
#define MATCHES_PER_LOOK 256u /* at the clock */

struct pretokenizer_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    uint64_t deadline_ns;
    uint32_t matches_count;
};

static enum status code_compile(struct span pattern, uint32_t options, pcre2_code **ret_code,
                                struct error *error)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return error_set(error, STATUS_EXHAUSTED, "no memory to compile a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, PATTERN_GROUPS_MAX);
    int cause = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern.data, pattern.size_bytes,
                                     PCRE2_UTF | options, &cause, &at, context);
    pcre2_compile_context_free(context);
    if (!code) {
        char text[128] = "";
        pcre2_get_error_message(cause, (PCRE2_UCHAR *)text, sizeof text);
        return error_set(error, STATUS_INVALID, "pattern: %s", text);
    }
    *ret_code = code;
    return STATUS_OK;
}

static enum status split_append(struct pretokenizer *pretokenizer, struct span pattern,
                                uint32_t options, enum split_keeps keeps, struct error *error)
{
    if (pretokenizer->n_splits == PRETOKENIZER_SPLITS_MAX)
        return error_set(error, STATUS_UNSUPPORTED, "more than %d splits", PRETOKENIZER_SPLITS_MAX);
    pcre2_code *code = NULL;
    enum status status = code_compile(pattern, options, &code, error);
    if (status)
        return status;
    uint32_t matches_empty = 0;
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    char *copy = malloc(pattern.size_bytes);
    if (matches_empty || !copy) {
        pcre2_code_free(code);
        free(copy);
        return matches_empty
                   ? error_set(error, STATUS_UNSUPPORTED, "pattern: it matches empty text")
                   : error_set(error, STATUS_EXHAUSTED, "no memory for a pattern");
    }
    memcpy(copy, pattern.data, pattern.size_bytes);
    pretokenizer->splits[pretokenizer->n_splits++] =
        (struct split){code, copy, (uint32_t)pattern.size_bytes, options, keeps};
    return STATUS_OK;
}

/*
 * The same as \p{N}, written so that the library sees which bytes a match can start with and skips
 * the others: most text is ASCII without digits, and a split by digits reads all of it.
 */
#define FAST_DIGIT "(?:[0-9]|[^\\x00-\\x7f](?<=\\p{N}))"

static enum status split_translate(struct pretokenizer *pretokenizer, struct span pattern,
                                   char *translated, enum split_keeps keeps, struct error *error)
{
    struct span ours = {translated, 0};
    enum status status = pattern_translate(pattern, translated, &ours.size_bytes, error);
    if (status)
        return status;
    if (span_equal(pattern, span_of(PRETOKENIZER_DIGIT)))
        ours = span_of(FAST_DIGIT);
    else if (span_equal(pattern, span_of(PRETOKENIZER_NUMBER)))
        ours = span_of(FAST_DIGIT "+");
    return split_append(pretokenizer, ours,
                        PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C, keeps, error);
}

enum status pretokenizer_add(struct pretokenizer *pretokenizer, struct span pattern,
                             enum split_keeps keeps, struct error *error)
{
    char *translated = malloc(PATTERN_OUT_MAX_BYTES);
    if (!translated)
        return error_set(error, STATUS_EXHAUSTED, "no memory to translate a pattern");
    enum status status = split_translate(pretokenizer, pattern, translated, keeps, error);
    free(translated);
    return status;
}

enum status pretokenizer_add_literal(struct pretokenizer *pretokenizer, struct span text,
                                     enum split_keeps keeps, struct error *error)
{
    if (text.size_bytes == 0 || text.size_bytes > PATTERN_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "pattern of %zu bytes, expected 1 to %d",
                         text.size_bytes, PATTERN_MAX_BYTES);
    return split_append(pretokenizer, text, PCRE2_LITERAL, keeps, error);
}

void pretokenizer_free(struct pretokenizer *pretokenizer)
{
    for (uint32_t i = 0; i < pretokenizer->n_splits; i++) {
        pcre2_code_free(pretokenizer->splits[i].code);
        free(pretokenizer->splits[i].pattern);
    }
    memset(pretokenizer, 0, sizeof *pretokenizer);
}

enum status pretokenizer_scratch_new(struct pretokenizer_scratch **ret_scratch, struct error *error)
{
    struct pretokenizer_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch) {
        scratch->data = pcre2_match_data_create(1, NULL);
        scratch->context = pcre2_match_context_create(NULL);
    }
    if (!scratch || !scratch->data || !scratch->context) {
        pretokenizer_scratch_free(scratch);
        return error_set(error, STATUS_EXHAUSTED, "no memory for matching patterns");
    }
    pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
    pcre2_set_heap_limit(scratch->context, HEAP_LIMIT_KIB);
    *ret_scratch = scratch;
    return STATUS_OK;
}

void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch)
{
    if (!scratch)
        return;
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->context);
    free(scratch);
}

static void level_start(struct pretoken_level *level, size_t start, size_t end)
{
    *level = (struct pretoken_level){.start = start, .end = end, .done = start};
}

void pretokenizer_scratch_allow(struct pretokenizer_scratch *scratch, size_t size_bytes)
{
    scratch->deadline_ns = clock_now_ns() + ALLOWED_NS + ALLOWED_BYTE_NS * size_bytes;
    scratch->matches_count = 0;
}

void pretokens_init(struct pretokens *pretokens, const struct pretokenizer *pretokenizer,
                    struct pretokenizer_scratch *scratch, struct span text)
{
    *pretokens = (struct pretokens){.pretokenizer = pretokenizer, .scratch = scratch};
    pretokens->text = text.data;
    level_start(&pretokens->levels[0], 0, text.size_bytes);
}

static enum status too_hard(const struct pretokens *pretokens, const char *what,
                            struct error *error)
{
    return error_set(error, STATUS_INVALID,
                     "the tokenizer's pattern %u takes too much %s on this text",
                     pretokens->depth + 1, what);
}

/* The next match of this level's split from level->done on; at the end of the piece if none. */
static enum status match_find(struct pretokens *pretokens, struct pretoken_level *level,
                              struct error *error)
{
    const struct split *split = &pretokens->pretokenizer->splits[pretokens->depth];
    struct pretokenizer_scratch *scratch = pretokens->scratch;
    if (++scratch->matches_count % MATCHES_PER_LOOK == 0 && clock_now_ns() > scratch->deadline_ns)
        return too_hard(pretokens, "time", error);
    int found = pcre2_match(split->code, (PCRE2_SPTR)pretokens->text + level->start,
                            level->end - level->start, level->done - level->start,
                            PCRE2_NO_UTF_CHECK, scratch->data, scratch->context);
    if (found == PCRE2_ERROR_NOMATCH) {
        level->match_start = level->match_end = level->end;
    } else if (found > 0) {
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(scratch->data);
        level->match_start = level->start + ends[0];
        level->match_end = level->start + ends[1];
        CHECK(level->match_start >= level->done && level->match_end > level->match_start);
    } else {
        return too_hard(pretokens, found == PCRE2_ERROR_HEAPLIMIT ? "memory" : "backtracking",
                        error);
    }
    level->match_known = true;
    return STATUS_OK;
}

/* The next stretch of this level that its split keeps; empty at its end. */
static enum status stretch_next(struct pretokens *pretokens, struct pretoken_level *level,
                                size_t *ret_start, size_t *ret_end, struct error *error)
{
    enum split_keeps keeps = pretokens->pretokenizer->splits[pretokens->depth].keeps;
    while (level->done < level->end) {
        if (!level->match_known) {
            enum status status = match_find(pretokens, level, error);
            if (status)
                return status;
        }
        bool gap = level->match_start > level->done;
        size_t start = level->done;
        level->done = gap ? level->match_start : level->match_end;
        level->match_known = gap;
        if (keeps == SPLIT_KEEPS_ALL || (keeps == SPLIT_KEEPS_GAPS) == gap) {
            *ret_start = start;
            *ret_end = level->done;
            return STATUS_OK;
        }
    }
    *ret_start = *ret_end = level->end;
    return STATUS_OK;
}

enum status pretokens_next(struct pretokens *pretokens, struct span *ret_piece, struct error *error)
{
    for (;;) {
        struct pretoken_level *level = &pretokens->levels[pretokens->depth];
        size_t start = level->done, end = level->end;
        bool last = pretokens->depth == pretokens->pretokenizer->n_splits;
        if (last) {
            level->done = level->end;
        } else {
            enum status status = stretch_next(pretokens, level, &start, &end, error);
            if (status)
                return status;
        }
        if (start == end && pretokens->depth > 0) {
            pretokens->depth--;
        } else if (start == end || last) {
            *ret_piece = (struct span){pretokens->text + start, end - start};
            return STATUS_OK;
        } else {
            level_start(&pretokens->levels[++pretokens->depth], start, end);
        }
    }
}
