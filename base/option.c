#include "base/option.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>

#include "base/clock.h"

#define WORD_MAX_BYTES 64  /* longer words are not compared */
#define QUOTE_MAX_BYTES 60 /* of a wrong value, in an error */
#define EXPECTED_MAX_BYTES 256
#define HELP_COLUMN 28
#define TEXT_WIDTH 96

/* ---- what a row accepts, in words ---- */

static void choices_print(const struct option_row *row, FILE *out)
{
    for (const struct option_choice *c = row->choices; c->name; c++)
        fprintf(out, "%s%s", c == row->choices ? "" : c[1].name ? ", " : " or ", c->name);
}

void option_expected(const struct option_row *row, char *ret_text, size_t capacity)
{
    FILE *out = fmemopen(ret_text, capacity, "w");
    CHECK(out != NULL);
    switch (row->type) {
    case OPTION_BOOL:
        fputs("true or false", out);
        break;
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_MS:
        fprintf(out, "a whole number from %llu to %llu", (unsigned long long)row->min,
                (unsigned long long)row->max);
        break;
    case OPTION_SECONDS:
    case OPTION_REAL:
        fprintf(out, "a number from %g to %g", row->real_min, row->real_max);
        break;
    case OPTION_CHOICE:
    case OPTION_WORD:
        choices_print(row, out);
        break;
    case OPTION_NAME:
        fputs("a name of a-z 0-9 . _ - that begins with a letter or digit", out);
        break;
    case OPTION_PATH:
        fputs("a path", out);
        break;
    case OPTION_STRING:
    case OPTION_TEXT:
    case OPTION_TEXTS:
        fputs("a text", out);
        break;
    case OPTION_SECTION:
        fputs("a list", out);
        break;
    }
    if (row->unit)
        fprintf(out, " (%s)", row->unit);
    fclose(out);
    ret_text[capacity - 1] = '\0';
}

static enum status refuse(const struct option_row *row, const char *value, struct error *error)
{
    char expected[EXPECTED_MAX_BYTES];
    size_t length = strlen(value);
    option_expected(row, expected, sizeof expected);
    if (length == 0)
        return error_set(error, STATUS_INVALID, "%s is empty: expected %s", row->name, expected);
    return error_set(error, STATUS_INVALID, "%s: expected %s, got \"%.*s%s\"", row->name, expected,
                     QUOTE_MAX_BYTES, value, length > QUOTE_MAX_BYTES ? "..." : "");
}

/* ---- from text to a value ---- */

/* Digits only: what strtoull lets through besides ("+1", "-1", " 1", "0x1") is a slip. */
static bool whole_parse(const struct option_row *row, const char *value, uint64_t *ret)
{
    uint64_t number = 0;
    if (!*value)
        return false;
    for (const char *c = value; *c; c++) {
        if (!isdigit((unsigned char)*c) || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*c - '0'), &number))
            return false;
    }
    *ret = number;
    return number >= row->min && number <= row->max;
}

static bool real_parse(const struct option_row *row, const char *value, double *ret)
{
    char *end;
    if (!isdigit((unsigned char)*value) && *value != '-' && *value != '.')
        return false;
    if (strpbrk(value, "xXpPnN")) /* hexadecimal, inf, nan */
        return false;
    errno = 0;
    *ret = strtod(value, &end);
    return !*end && end != value && isfinite(*ret) && *ret >= row->real_min &&
           *ret <= row->real_max;
}

static bool name_is_good(const char *value)
{
    if (!islower((unsigned char)*value) && !isdigit((unsigned char)*value))
        return false;
    for (const char *c = value; *c; c++)
        if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && !strchr("._-", *c))
            return false;
    return true;
}

static const struct option_choice *choice_find(const struct option_row *row, const char *value)
{
    for (const struct option_choice *c = row->choices; c->name; c++)
        if (strcmp(c->name, value) == 0)
            return c;
    return NULL;
}

/* A number, a bool or the value of a choice. */
static enum status scalar_set(const struct option_row *row, void *field, const char *value,
                              struct error *error)
{
    const struct option_choice *choice;
    uint64_t whole = 0;
    double real = 0;
    switch (row->type) {
    case OPTION_BOOL:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return refuse(row, value, error);
        *(bool *)field = value[0] == 't';
        return STATUS_OK;
    case OPTION_U32:
        CHECK(row->size_bytes == sizeof(uint32_t) && row->max <= UINT32_MAX);
        if (!whole_parse(row, value, &whole))
            return refuse(row, value, error);
        *(uint32_t *)field = (uint32_t)whole;
        return STATUS_OK;
    case OPTION_U64:
    case OPTION_MS:
        CHECK(row->size_bytes == sizeof(uint64_t));
        CHECK(row->type == OPTION_U64 || row->max <= UINT64_MAX / NS_PER_MS);
        if (!whole_parse(row, value, &whole))
            return refuse(row, value, error);
        *(uint64_t *)field = row->type == OPTION_MS ? whole * NS_PER_MS : whole;
        return STATUS_OK;
    case OPTION_SECONDS:
    case OPTION_REAL:
        CHECK(row->size_bytes == sizeof(uint64_t) && sizeof(double) == sizeof(uint64_t));
        if (!real_parse(row, value, &real))
            return refuse(row, value, error);
        if (row->type == OPTION_REAL)
            *(double *)field = real;
        else
            *(uint64_t *)field = (uint64_t)(real * 1e9);
        return STATUS_OK;
    default:
        CHECK(row->type == OPTION_CHOICE && row->size_bytes == sizeof(uint32_t));
        choice = choice_find(row, value);
        if (!choice)
            return refuse(row, value, error);
        memcpy(field, &choice->value, sizeof choice->value);
        return STATUS_OK;
    }
}

/* A text that the target keeps. */
static enum status text_set(const struct option_row *row, char *field, const char *value,
                            struct error *error)
{
    size_t length = strlen(value);
    if (length == 0 || (row->type == OPTION_NAME && !name_is_good(value)) ||
        (row->type == OPTION_WORD && !choice_find(row, value)))
        return refuse(row, value, error);
    if (length >= row->size_bytes)
        return error_set(error, STATUS_INVALID, "%s: expected at most %zu bytes, got %zu",
                         row->name, row->size_bytes - 1, length);
    memcpy(field, value, length + 1);
    return STATUS_OK;
}

enum status option_set(const struct option_row *row, void *target, const char *value,
                       struct error *error)
{
    char *field = (char *)target + row->offset;
    struct option_texts *texts;
    switch (row->type) {
    case OPTION_WORD:
    case OPTION_NAME:
    case OPTION_STRING:
    case OPTION_PATH:
        return text_set(row, field, value, error);
    case OPTION_TEXT:
        CHECK(row->size_bytes == sizeof(const char *));
        memcpy(field, &value, sizeof value);
        return STATUS_OK;
    case OPTION_TEXTS:
        CHECK(row->size_bytes == sizeof *texts);
        texts = (struct option_texts *)(void *)field;
        if (texts->count == OPTION_TEXTS_MAX)
            return error_set(error, STATUS_INVALID, "%s: expected at most %d of them", row->name,
                             OPTION_TEXTS_MAX);
        texts->items[texts->count++] = value;
        return STATUS_OK;
    case OPTION_SECTION:
        return error_set(error, STATUS_INVALID, "%s: expected a list, got a single value",
                         row->name);
    default:
        return scalar_set(row, field, value, error);
    }
}

void option_defaults(const struct option_row *rows, size_t n_rows, void *target)
{
    for (size_t i = 0; i < n_rows; i++)
        if (rows[i].fallback)
            CHECK(option_set(&rows[i], target, rows[i].fallback, NULL) == STATUS_OK);
}

/* ---- names ---- */

const struct option_row *option_find(const struct option_row *rows, size_t n_rows, const char *name)
{
    for (size_t i = 0; i < n_rows; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static uint32_t min3(uint32_t a, uint32_t b, uint32_t c)
{
    return u32_min(a, u32_min(b, c));
}

/* Letters added, left out, changed or swapped with their neighbour; small and capital are alike. */
static uint32_t word_distance(const char *a, const char *b)
{
    uint32_t rows[3]
                 [WORD_MAX_BYTES + 1]; /* distances of a[..i-2], a[..i-1], a[..i] to each b[..j] */
    uint32_t n_a = (uint32_t)strlen(a), n_b = (uint32_t)strlen(b);
    for (uint32_t j = 0; j <= n_b; j++)
        rows[0][j] = rows[1][j] = rows[2][j] = j;
    for (uint32_t i = 1; i <= n_a; i++) {
        uint32_t *old = rows[(i + 1) % 3], *before = rows[(i + 2) % 3], *now = rows[i % 3];
        now[0] = i;
        for (uint32_t j = 1; j <= n_b; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            now[j] = min3(before[j] + 1, now[j - 1] + 1, before[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                tolower((unsigned char)a[i - 2]) == y)
                now[j] = u32_min(now[j], old[j - 2] + 1);
        }
    }
    return rows[n_a % 3][n_b];
}

/* The better of `best` and `candidate`, if it is near enough to `word` at all. */
static const char *nearer(const char *best, const char *candidate, const char *word)
{
    size_t length = strlen(word);
    if (length == 0 || length > WORD_MAX_BYTES || strlen(candidate) > WORD_MAX_BYTES)
        return best;
    uint32_t allowed = u32_max(1, (uint32_t)length / 3);
    uint32_t distance = word_distance(word, candidate);
    if (distance > allowed || (best && word_distance(word, best) <= distance))
        return best;
    return candidate;
}

const char *option_nearest(const struct option_row *rows, size_t n_rows, const char *name)
{
    const char *best = NULL;
    for (size_t i = 0; i < n_rows; i++)
        best = nearer(best, rows[i].name, name);
    return best;
}

const char *word_nearest(const char *const words[], size_t n_words, const char *word)
{
    const char *best = NULL;
    for (size_t i = 0; i < n_words; i++)
        best = nearer(best, words[i], word);
    return best;
}

/* ---- help, sample file, manual ---- */

/* Words of `text` in lines of TEXT_WIDTH; the first goes on at `column`, the others begin with
 * `lead` (which ends at `start`). */
static void print_wrapped(FILE *out, const char *lead, uint32_t column, const char *text)
{
    uint32_t start = (uint32_t)strlen(lead);
    while (*text) {
        uint32_t length = (uint32_t)strcspn(text, " ");
        if (column + 1 + length > TEXT_WIDTH && column > start) {
            fprintf(out, "\n%s", lead);
            column = start;
        }
        column += length + (column > start);
        fprintf(out, "%s%.*s", column == start + length ? "" : " ", (int)length, text);
        text += length + (text[length] == ' ');
    }
    fputc('\n', out);
}

/* "Text. 1 to 90 percent. Default: 40." */
static void description_print(const struct option_row *row, FILE *out)
{
    char expected[EXPECTED_MAX_BYTES];
    bool says_more = row->type != OPTION_BOOL && row->type != OPTION_SECTION &&
                     row->type != OPTION_STRING && row->type != OPTION_TEXT &&
                     row->type != OPTION_TEXTS && row->type != OPTION_PATH;
    option_expected(row, expected, sizeof expected);
    fputs(row->text, out);
    if (says_more)
        fprintf(out, " Expects %s.", expected);
    if (row->required)
        fputs(" Required.", out);
    else if (row->fallback_text)
        fprintf(out, " Default: %s.", row->fallback_text);
    else if (row->fallback && row->type != OPTION_BOOL)
        fprintf(out, " Default: %s.", row->fallback);
}

static char *description_of(const struct option_row *row)
{
    char *text = NULL;
    size_t size_bytes;
    FILE *out = open_memstream(&text, &size_bytes);
    CHECK(out != NULL);
    description_print(row, out);
    CHECK(fclose(out) == 0);
    return text;
}

void option_print_help(FILE *out, const struct option_row *rows, size_t n_rows)
{
    char lead[HELP_COLUMN + 1];
    memset(lead, ' ', HELP_COLUMN);
    lead[HELP_COLUMN] = '\0';
    for (size_t i = 0; i < n_rows; i++) {
        const struct option_row *row = &rows[i];
        char letter[5] = "    ";
        if (row->letter)
            snprintf(letter, sizeof letter, "-%c, ", row->letter);
        int used = fprintf(out, "  %s--%s%s%s", letter, row->name, row->value ? " " : "",
                           row->value ? row->value : "");
        if (used + 2 > HELP_COLUMN)
            fprintf(out, "\n%s", lead);
        else
            fprintf(out, "%*s", HELP_COLUMN - used, "");
        char *text = description_of(row);
        print_wrapped(out, lead, HELP_COLUMN, text);
        free(text);
    }
}

void option_print_yaml(FILE *out, const struct option_row *rows, size_t n_rows, uint32_t indent)
{
    char lead[64];
    snprintf(lead, sizeof lead, "%*s# ", (int)indent, "");
    for (size_t i = 0; i < n_rows; i++) {
        const struct option_row *row = &rows[i];
        const char *shown = row->fallback ? row->fallback : row->example;
        if (row->type == OPTION_SECTION)
            continue;
        char *text = description_of(row);
        fprintf(out, "%s%s", i ? "\n" : "", lead);
        print_wrapped(out, lead, indent + 2, text);
        fprintf(out, "%*s%s%s: %s\n", (int)indent, "", row->required ? "" : "# ", row->name,
                shown ? shown : "");
        free(text);
    }
}

void option_print_markdown(FILE *out, const struct option_row *rows, size_t n_rows)
{
    fputs("| key | expects | default | meaning |\n|---|---|---|---|\n", out);
    for (size_t i = 0; i < n_rows; i++) {
        const struct option_row *row = &rows[i];
        char expected[EXPECTED_MAX_BYTES];
        option_expected(row, expected, sizeof expected);
        fprintf(out, "| `%s` | %s | ", row->name, expected);
        if (row->required)
            fputs("required", out);
        else if (row->fallback_text)
            fputs(row->fallback_text, out);
        else if (row->fallback)
            fprintf(out, "`%s`", row->fallback);
        fprintf(out, " | %s |\n", row->text);
    }
}
