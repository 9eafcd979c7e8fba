#include "text/pattern.h"

#include "text/utf8.h"

/* White_Space, as members of a class. */
#define SPACE_MEMBERS                                                                              \
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"

struct translator {
    struct span in;
    size_t at;
    char *out;
    size_t written;
    int depth;
    bool caseless[PATTERN_GROUPS_MAX + 1]; /* [depth + 1] */
    char folded; /* the last literal if it was a letter within (?i:, in lower case; else 0 */
    struct error *error;
};

static enum status refuse(struct translator *t, size_t at, const char *what)
{
    return error_set(t->error, STATUS_UNSUPPORTED, "pattern, byte %zu: %s is not supported", at,
                     what);
}

static enum status malformed(struct translator *t, size_t at, const char *what)
{
    return error_set(t->error, STATUS_INVALID, "pattern, byte %zu: %s", at, what);
}

static int peek(const struct translator *t, size_t ahead)
{
    size_t at = t->at + ahead;
    return at < t->in.size_bytes ? (uint8_t)t->in.data[at] : -1;
}

static bool looking_at(const struct translator *t, const char *text)
{
    size_t size_bytes = strlen(text);
    return t->in.size_bytes - t->at >= size_bytes &&
           memcmp(t->in.data + t->at, text, size_bytes) == 0;
}

/* \S, two bytes, grows most: to under 2 * 48, see PATTERN_OUT_MAX_BYTES. */
static void emit(struct translator *t, const char *text, size_t size_bytes)
{
    CHECK(t->written + size_bytes < PATTERN_OUT_MAX_BYTES);
    memcpy(t->out + t->written, text, size_bytes);
    t->written += size_bytes;
}

static void emit_text(struct translator *t, const char *text)
{
    emit(t, text, strlen(text));
}

static bool is_letter(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(int c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/*
 * Case-insensitive matching folds "ss" to "ß" and "fi" to "ﬁ" in the one library and not in the
 * other, so such neighbours are refused; so is all that is not ASCII.
 */
static enum status fold_check(struct translator *t, size_t at, int c)
{
    static const char *const joined[] = {"ss", "ff", "fi", "fl", "st"};
    char before = t->folded;
    t->folded = 0;
    if (!t->caseless[t->depth])
        return STATUS_OK;
    if (c >= 0x80)
        return refuse(t, at, "a character outside ASCII within (?i:");
    if (!is_letter(c))
        return STATUS_OK;
    t->folded = (char)(c | 0x20);
    for (size_t i = 0; i < array_count(joined); i++)
        if (before == joined[i][0] && t->folded == joined[i][1])
            return refuse(t, at, "a pair of letters with a ligature within (?i:");
    return STATUS_OK;
}

static enum status literal(struct translator *t)
{
    size_t at = t->at;
    int length = utf8_next(t->in.data + at, t->in.size_bytes - at, NULL);
    CHECK(length > 0); /* the whole pattern was checked */
    enum status status = fold_check(t, at, (uint8_t)t->in.data[at]);
    if (status)
        return status;
    emit(t, t->in.data + at, (size_t)length);
    t->at += (size_t)length;
    return STATUS_OK;
}

/* \p{..}: general categories mean the same to both libraries. */
static enum status property(struct translator *t)
{
    static const char *const names[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc",
                                        "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
                                        "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",
                                        "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co"};
    size_t start = t->at;
    for (size_t i = 0; i < array_count(names); i++) {
        char whole[8];
        snprintf(whole, sizeof whole, "{%s}", names[i]);
        t->at += 2;
        bool found = looking_at(t, whole);
        t->at = start;
        if (!found)
            continue;
        if (t->caseless[t->depth])
            return refuse(t, start, "\\p within (?i:");
        emit(t, t->in.data + start, 2 + strlen(whole));
        t->at += 2 + strlen(whole);
        return STATUS_OK;
    }
    return refuse(t, start, "a property other than a general category such as \\p{Lu}");
}

/* \x{H..}, \xHH (ASCII), \uHHHH. */
static enum status code_point(struct translator *t)
{
    size_t start = t->at;
    bool braces = peek(t, 1) == 'x' && peek(t, 2) == '{';
    size_t digits = braces ? 3 : 2, count = 0;
    uint32_t code = 0, wanted = peek(t, 1) == 'u' ? 4 : 2;
    while (is_hex(peek(t, digits + count)) && count < (braces ? 6 : wanted)) {
        int c = peek(t, digits + count++);
        code = code << 4 | (uint32_t)(is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    bool complete = braces ? count > 0 && peek(t, digits + count) == '}' : count == wanted;
    if (!complete || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return malformed(t, start, "expected the hexadecimal number of a character");
    if (!braces && wanted == 2 && code > 0x7f)
        return refuse(t, start, "\\xHH beyond 7F");
    enum status status = fold_check(t, start, (int)u32_min(code, 0x80));
    if (status)
        return status;
    char text[16];
    snprintf(text, sizeof text, "\\x{%x}", code);
    emit_text(t, text);
    t->at += digits + count + braces;
    return STATUS_OK;
}

/* What a backslash begins, outside (`in_class` false) or inside a class. */
static enum status escape(struct translator *t, bool in_class)
{
    size_t start = t->at;
    int c = peek(t, 1);
    const char *rewritten = NULL;
    switch (c) {
    case 'p':
    case 'P':
        t->folded = 0;
        return property(t);
    case 'x':
    case 'u':
        return code_point(t);
    case 's':
        rewritten = in_class ? SPACE_MEMBERS : "[" SPACE_MEMBERS "]";
        break;
    case 'S':
        if (in_class)
            return refuse(t, start, "\\S in a class");
        rewritten = "[^" SPACE_MEMBERS "]";
        break;
    case 'd':
        rewritten = "\\p{Nd}";
        break;
    case 'D':
        rewritten = "\\P{Nd}";
        break;
    case 'v':
        rewritten = "\\x0b";
        break;
    case -1:
        return malformed(t, start, "ends in a backslash");
    default:
        break;
    }
    t->folded = 0;
    if (rewritten) {
        emit_text(t, rewritten);
    } else if (c == 'n' || c == 'r' || c == 't' || c == 'f' ||
               (c < 0x7f && c >= 0x20 && !is_letter(c) && !is_digit(c))) {
        emit(t, t->in.data + start, 2);
    } else {
        char what[16];
        snprintf(what, sizeof what, c < 0x80 ? "\\%c" : "this escape", c);
        return refuse(t, start, what);
    }
    t->at += 2;
    return STATUS_OK;
}

/* Whether what follows is a whole set (\s, \p{L}), which cannot be an end of a range. */
static bool is_set(const struct translator *t, size_t ahead)
{
    int c = peek(t, ahead) == '\\' ? peek(t, ahead + 1) : 0;
    return c == 's' || c == 'd' || c == 'D' || c == 'p' || c == 'P';
}

static enum status class_member(struct translator *t, bool *after_set)
{
    int c = peek(t, 0);
    if (c == '[')
        return refuse(t, t->at, "a class within a class");
    if (c == '&' && peek(t, 1) == '&')
        return refuse(t, t->at, "&& in a class");
    if (c == '-' && peek(t, 1) != ']' && (*after_set || is_set(t, 1)))
        return refuse(t, t->at, "a range from or to a set");
    *after_set = is_set(t, 0);
    enum status status = c == '\\' ? escape(t, true) : literal(t);
    t->folded = 0; /* members of a class do not follow one another in the text */
    return status;
}

static enum status class_translate(struct translator *t)
{
    size_t start = t->at, members = 0;
    bool after_set = false;
    emit_text(t, "[");
    t->at++;
    if (peek(t, 0) == '^') {
        emit_text(t, "^");
        t->at++;
    }
    while (peek(t, 0) != ']' || members == 0) {
        if (peek(t, 0) < 0)
            return malformed(t, start, "a class without its ]");
        if (peek(t, 0) == ']')
            return refuse(t, t->at, "an empty class, or ] as its first member,");
        enum status status = class_member(t, &after_set);
        if (status)
            return status;
        members++;
    }
    emit_text(t, "]");
    t->at++;
    t->folded = 0;
    return STATUS_OK;
}

static enum status group_open(struct translator *t)
{
    static const struct {
        const char *in, *out;
    } kinds[] = {{"(?:", "(?:"},   {"(?=", "(?="}, {"(?!", "(?!"},  {"(?<=", "(?<="},
                 {"(?<!", "(?<!"}, {"(?>", "(?>"}, {"(?i:", "(?i:"}};
    if (t->depth >= PATTERN_GROUPS_MAX)
        return malformed(t, t->at, "groups nested too deeply");
    const char *in = "(", *out = "(?:";
    for (size_t i = 0; i < array_count(kinds) && peek(t, 1) == '?'; i++)
        if (looking_at(t, kinds[i].in)) {
            in = kinds[i].in;
            out = kinds[i].out;
        }
    if (!in[1] && (peek(t, 1) == '?' || peek(t, 1) == '*'))
        return refuse(t, t->at, "this kind of group");
    bool caseless = t->caseless[t->depth] || strcmp(in, "(?i:") == 0;
    t->caseless[++t->depth] = caseless;
    t->folded = 0;
    emit_text(t, out);
    t->at += strlen(in);
    return STATUS_OK;
}

/* {n}, {n,}, {n,m}. */
static enum status interval(struct translator *t)
{
    size_t length = 1;
    if (!is_digit(peek(t, length)))
        return refuse(t, t->at, "{ without a number after it");
    while (is_digit(peek(t, length)))
        length++;
    if (peek(t, length) == ',')
        for (length++; is_digit(peek(t, length));)
            length++;
    if (peek(t, length) != '}')
        return refuse(t, t->at, "{ that begins no repetition");
    length++;
    int after = peek(t, length);
    if (after == '?' || after == '+' || after == '*')
        return refuse(t, t->at, "{n,m} followed by ?, + or *");
    emit(t, t->in.data + t->at, length);
    t->at += length;
    t->folded = 0;
    return STATUS_OK;
}

static enum status construct(struct translator *t)
{
    int c = peek(t, 0);
    switch (c) {
    case '\\':
        return escape(t, false);
    case '[':
        return class_translate(t);
    case '(':
        return group_open(t);
    case ')':
        if (t->depth == 0)
            return malformed(t, t->at, ") without its (");
        t->depth--;
        break;
    case '{':
        return interval(t);
    case '^':
    case '$':
        return refuse(t, t->at, c == '^' ? "^" : "$");
    case '}':
    case ']':
        emit_text(t, "\\");
        break;
    case '*':
    case '+':
    case '?':
    case '|':
    case '.':
        break;
    default:
        return literal(t);
    }
    t->folded = 0;
    emit(t, t->in.data + t->at, 1);
    t->at++;
    return STATUS_OK;
}

enum status pattern_translate(struct span pattern, char *out, size_t *ret_size_bytes,
                              struct error *error)
{
    if (pattern.size_bytes == 0 || pattern.size_bytes > PATTERN_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "pattern of %zu bytes, expected 1 to %d",
                         pattern.size_bytes, PATTERN_MAX_BYTES);
    size_t bad = utf8_invalid_offset(pattern.data, pattern.size_bytes);
    if (bad < pattern.size_bytes)
        return error_set(error, STATUS_INVALID, "pattern, byte %zu: not valid UTF-8", bad);
    struct translator t = {.in = pattern, .out = out, .error = error};
    while (t.at < pattern.size_bytes) {
        enum status status = construct(&t);
        if (status)
            return status;
    }
    if (t.depth > 0)
        return malformed(&t, t.at, "( without its )");
    out[t.written] = '\0';
    *ret_size_bytes = t.written;
    return STATUS_OK;
}
