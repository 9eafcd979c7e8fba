#include "text/chat_template.h"

#include "text/utf8.h"

struct reader {
    struct span in;
    size_t at;
    struct arena *arena;
    struct template_tokens *out;
};

static char byte_at(const struct reader *r, size_t at)
{
    return at < r->in.size_bytes ? r->in.data[at] : '\0';
}

static bool looking_at(const struct reader *r, const char *text)
{
    size_t size_bytes = strlen(text);
    return r->in.size_bytes - r->at >= size_bytes &&
           memcmp(r->in.data + r->at, text, size_bytes) == 0;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool token_add(struct reader *r, enum template_kind kind, struct span text)
{
    if (r->out->count == TEMPLATE_TOKENS_MAX)
        return false;
    r->out->tokens[r->out->count++] = (struct template_token){kind, text};
    return true;
}

static bool last_is(const struct reader *r, uint32_t back, const char *word)
{
    uint32_t count = r->out->count;
    return count >= back && r->out->tokens[count - back].kind == TEMPLATE_WORD &&
           span_equal(r->out->tokens[count - back].text, span_of(word));
}

/* 'a' + 'b' is 'ab', unless something that binds tighter than + stands before. */
static bool string_add(struct reader *r, struct span text)
{
    struct template_tokens *out = r->out;
    bool sum = last_is(r, 1, "+") && out->count >= 3 &&
               out->tokens[out->count - 2].kind == TEMPLATE_STRING &&
               (last_is(r, 3, "+") || out->tokens[out->count - 3].kind == TEMPLATE_TAG);
    if (!sum)
        return token_add(r, TEMPLATE_STRING, text);
    struct span *left = &out->tokens[out->count - 2].text;
    char *joint = arena_alloc(r->arena, left->size_bytes + text.size_bytes + 1);
    if (!joint)
        return false;
    memcpy(joint, left->data, left->size_bytes);
    memcpy(joint + left->size_bytes, text.data, text.size_bytes);
    *left = (struct span){joint, left->size_bytes + text.size_bytes};
    out->count--; /* the "+" */
    return true;
}

static bool string_read(struct reader *r)
{
    char quote = r->in.data[r->at++];
    size_t end = r->at;
    while (byte_at(r, end) != quote) {
        if (end >= r->in.size_bytes)
            return false;
        end += byte_at(r, end) == '\\' ? 2 : 1;
    }
    if (end >= r->in.size_bytes)
        return false;
    char *text = arena_alloc(r->arena, end - r->at + 1);
    if (!text)
        return false;
    size_t written = 0;
    for (size_t i = r->at; i < end; i++) {
        char c = r->in.data[i];
        if (c == '\\') {
            c = r->in.data[++i];
            if (c == 'n')
                c = '\n';
            else if (c == 't')
                c = '\t';
            else if (c != '\\' && c != '\'' && c != '"')
                return false;
        }
        text[written++] = c;
    }
    r->at = end + 1;
    return string_add(r, (struct span){text, written});
}

/* message.role is message['role']. */
static bool attribute_read(struct reader *r)
{
    size_t start = ++r->at;
    while (is_name(byte_at(r, r->at)))
        r->at++;
    struct span name = {r->in.data + start, r->at - start};
    return name.size_bytes > 0 && token_add(r, TEMPLATE_WORD, span_of("[")) &&
           token_add(r, TEMPLATE_STRING, name) && token_add(r, TEMPLATE_WORD, span_of("]"));
}

static bool word_read(struct reader *r)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//", "**"};
    size_t start = r->at;
    if (is_name(byte_at(r, start))) {
        while (is_name(byte_at(r, r->at)))
            r->at++;
    } else {
        r->at++;
        for (size_t i = 0; i < array_count(pairs); i++)
            if (r->in.data[start] == pairs[i][0] && byte_at(r, start + 1) == pairs[i][1])
                r->at = start + 2;
    }
    return token_add(r, TEMPLATE_WORD, (struct span){r->in.data + start, r->at - start});
}

/* From after "{{" or "{%" to behind its end. `*ret_trim`: it ends in a "-". */
static bool tag_read(struct reader *r, bool block, bool *ret_trim)
{
    const char *close = block ? "%}" : "}}", *trim = block ? "-%}" : "-}}";
    if (!token_add(r, TEMPLATE_TAG, span_of(block ? "{%" : "{{")))
        return false;
    for (;;) {
        while (is_blank(byte_at(r, r->at)))
            r->at++;
        if (r->at >= r->in.size_bytes)
            return false;
        *ret_trim = looking_at(r, trim);
        if (*ret_trim || looking_at(r, close)) {
            r->at += *ret_trim ? 3 : 2;
            return token_add(r, TEMPLATE_TAG, span_of(close));
        }
        char c = byte_at(r, r->at);
        bool name_before =
            r->at > 0 && (is_name(byte_at(r, r->at - 1)) || byte_at(r, r->at - 1) == ']');
        bool good = c == '\'' || c == '"'     ? string_read(r)
                    : c == '.' && name_before ? attribute_read(r)
                                              : word_read(r);
        if (!good)
            return false;
    }
}

static bool comment_skip(struct reader *r, bool *ret_trim)
{
    while (r->at < r->in.size_bytes && !looking_at(r, "#}"))
        r->at++;
    if (r->at >= r->in.size_bytes)
        return false;
    *ret_trim = byte_at(r, r->at - 1) == '-';
    r->at += 2;
    return true;
}

/* The end of the text before a tag at `end`, without what Jinja takes away there. */
static size_t text_end(const struct reader *r, size_t start, size_t end)
{
    char kind = byte_at(r, end + 1), mark = byte_at(r, end + 2);
    if (mark == '-') {
        while (end > start && is_blank(byte_at(r, end - 1)))
            end--;
        return end;
    }
    if (kind == '{' || mark == '+')
        return end;
    size_t line = end;
    while (line > start && (byte_at(r, line - 1) == ' ' || byte_at(r, line - 1) == '\t'))
        line--;
    bool whole = line == 0 || byte_at(r, line - 1) == '\n';
    return whole ? line : end;
}

/* Text up to the next tag, and the tag. `trim_*` say what the tag before takes away. */
static bool text_read(struct reader *r, bool trim_blank, bool trim_newline)
{
    if (trim_newline && byte_at(r, r->at) == '\n')
        r->at++;
    while (trim_blank && is_blank(byte_at(r, r->at)))
        r->at++;
    size_t start = r->at;
    while (r->at < r->in.size_bytes &&
           !(looking_at(r, "{{") || looking_at(r, "{%") || looking_at(r, "{#")))
        r->at++;
    size_t end = r->at < r->in.size_bytes ? text_end(r, start, r->at) : r->at;
    if (end == start)
        return true;
    return token_add(r, TEMPLATE_TEXT, (struct span){r->in.data + start, end - start});
}

bool template_read(struct span text, struct arena *arena, struct template_tokens *ret_tokens)
{
    if (text.size_bytes > TEMPLATE_MAX_BYTES ||
        utf8_invalid_offset(text.data, text.size_bytes) < text.size_bytes)
        return false;
    if (text.size_bytes > 0 && text.data[text.size_bytes - 1] == '\n')
        text.size_bytes--; /* Jinja drops one line feed at the very end */
    struct reader r = {.in = text, .arena = arena, .out = ret_tokens};
    ret_tokens->count = 0;
    bool trim_blank = false, trim_newline = false;
    for (;;) {
        if (!text_read(&r, trim_blank, trim_newline))
            return false;
        if (r.at >= text.size_bytes)
            return true;
        char kind = r.in.data[r.at + 1];
        r.at += 2;
        if (byte_at(&r, r.at) == '-' || byte_at(&r, r.at) == '+')
            r.at++;
        trim_newline = kind != '{';
        bool good =
            kind == '#' ? comment_skip(&r, &trim_blank) : tag_read(&r, kind == '%', &trim_blank);
        if (!good)
            return false;
    }
}

static bool token_matches(const struct template_token *token, const struct template_token *wanted,
                          struct template_holes *holes)
{
    if (token->kind != wanted->kind)
        return false;
    bool hole = wanted->kind == TEMPLATE_STRING && wanted->text.size_bytes > 1 &&
                wanted->text.data[0] == '?';
    if (!hole)
        return span_equal(token->text, wanted->text);
    CHECK(holes->count < TEMPLATE_HOLES_MAX);
    holes->name[holes->count] = (struct span){wanted->text.data + 1, wanted->text.size_bytes - 1};
    holes->text[holes->count++] = token->text;
    return true;
}

bool template_matches(const struct template_tokens *tokens, uint32_t first,
                      const struct template_tokens *shape, struct template_holes *ret_holes)
{
    struct template_holes holes = {0};
    if (first > tokens->count || tokens->count - first != shape->count)
        return false;
    for (uint32_t i = 0; i < shape->count; i++)
        if (!token_matches(&tokens->tokens[first + i], &shape->tokens[i], &holes))
            return false;
    *ret_holes = holes;
    return true;
}

bool template_begins(const struct template_tokens *tokens, const struct template_tokens *start)
{
    struct template_holes none = {0};
    if (tokens->count < start->count)
        return false;
    for (uint32_t i = 0; i < start->count; i++)
        if (!token_matches(&tokens->tokens[i], &start->tokens[i], &none))
            return false;
    return true;
}

struct span template_hole(const struct template_holes *holes, const char *name)
{
    uint32_t i = 0;
    while (i < holes->count && !span_equal(holes->name[i], span_of(name)))
        i++;
    CHECK(i < holes->count);
    return holes->text[i];
}
