#include "admin/output.h"

#include <inttypes.h>
#include <langinfo.h>
#include <libsmartcols.h>
#include <locale.h>
#include <stdarg.h>
#include <unistd.h>

static bool is_terminal, has_color;

void output_open(bool no_color)
{
    const char *term = getenv("TERM"), *wish = getenv("NO_COLOR");
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8"); /* the contract speaks UTF-8, and so do terminals */
    is_terminal = isatty(STDOUT_FILENO) == 1;
    has_color = is_terminal && !no_color && !(wish && wish[0]) && term && strcmp(term, "dumb") != 0;
}

bool output_is_terminal(void)
{
    return is_terminal;
}

/* ---- text of foreign origin ---- */

/* Length of the character at `c`, or 0 when the bytes are no UTF-8. */
static size_t character_read(const unsigned char *c, size_t left, uint32_t *ret_code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = c[0] < 0x80           ? 1
               : (c[0] >> 5) == 0x06 ? 2
               : (c[0] >> 4) == 0x0e ? 3
               : (c[0] >> 3) == 0x1e ? 4
                                     : 0;
    if (n == 0 || n > left)
        return 0;
    uint32_t code = n == 1 ? c[0] : c[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((c[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (c[i] & 0x3f);
    }
    *ret_code = code;
    return code < least[n] || code > 0x10ffff ? 0 : n;
}

/* Controls of both sets, and the marks that turn the direction of writing. */
static bool code_is_safe(uint32_t code)
{
    return code >= 0x20 && !(code >= 0x7f && code < 0xa0) && !(code >= 0x202a && code <= 0x202e) &&
           !(code >= 0x2066 && code <= 0x2069) && code != 0x200e && code != 0x200f;
}

static void print_escaped(FILE *out, struct span text, const char *kept)
{
    const unsigned char *c = (const unsigned char *)text.data;
    size_t n = 0;
    for (size_t i = 0; i < text.size_bytes; i += n) {
        uint32_t code = 0;
        n = character_read(c + i, text.size_bytes - i, &code);
        if (n && (code_is_safe(code) || (code && code < 0x80 && strchr(kept, (int)code)))) {
            fwrite(c + i, 1, n, out);
        } else if (n <= 1) {
            fprintf(out, "\\x%02x", c[i]);
            n = 1;
        } else {
            fprintf(out, "\\u%04" PRIx32, code);
        }
    }
}

bool output_text(struct span text)
{
    if (is_terminal)
        print_escaped(stdout, text, "\n\t");
    else
        fwrite(text.data, 1, text.size_bytes, stdout);
    return fflush(stdout) == 0 && !ferror(stdout);
}

char *output_escape(struct span text)
{
    char *word = NULL;
    size_t size_bytes;
    FILE *out = open_memstream(&word, &size_bytes);
    CHECK(out != NULL);
    print_escaped(out, text, "");
    CHECK(fclose(out) == 0);
    return word;
}

bool output_json(const json_t *value, bool pretty)
{
    size_t flags = JSON_REAL_PRECISION(9) | (pretty ? JSON_INDENT(2) : JSON_COMPACT);
    flags |= is_terminal ? JSON_ENSURE_ASCII : 0; /* nothing left that a terminal would obey */
    json_dumpf(value, stdout, flags);
    fputc('\n', stdout);
    return fflush(stdout) == 0 && !ferror(stdout);
}

/* ---- tables ---- */

struct table {
    struct libscols_table *scols;
    struct libscols_line *line;
    size_t column;
};

struct table *table_new(const struct table_column *columns, size_t n_columns)
{
    struct table *table = calloc(1, sizeof *table);
    CHECK(table != NULL);
    table->scols = scols_new_table();
    CHECK(table->scols != NULL);
    scols_table_enable_colors(table->scols, has_color);
    scols_table_enable_noencoding(table->scols, 1); /* the cells are escaped already */
    if (!is_terminal)
        scols_table_set_termforce(table->scols, SCOLS_TERMFORCE_NEVER);
    for (size_t i = 0; i < n_columns; i++)
        CHECK(scols_table_new_column(table->scols, columns[i].title, 0,
                                     columns[i].is_number ? SCOLS_FL_RIGHT : 0) != NULL);
    return table;
}

void table_line(struct table *table)
{
    table->line = scols_table_new_line(table->scols, NULL);
    table->column = 0;
    CHECK(table->line != NULL);
}

void table_cell(struct table *table, enum tone tone, const char *format, ...)
{
    static const char *const colors[] = {NULL, "green", "yellow", "red"};
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    CHECK(vasprintf(&text, format, arguments) >= 0);
    va_end(arguments);
    char *word = output_escape(span_of(text));
    free(text);
    if (colors[tone] && has_color)
        scols_cell_set_color(scols_line_get_cell(table->line, table->column), colors[tone]);
    CHECK(scols_line_refer_data(table->line, table->column++, word) == 0); /* frees it */
}

void table_print(const struct table *table)
{
    scols_print_table(table->scols);
}

void table_free(struct table *table)
{
    if (!table)
        return;
    scols_unref_table(table->scols);
    free(table);
}

void bytes_text(uint64_t bytes, char *ret_text, size_t capacity)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < array_count(units); unit++)
        value /= 1024;
    snprintf(ret_text, capacity, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

void duration_text(uint64_t ms, char *ret_text, size_t capacity)
{
    uint64_t s = ms / 1000;
    if (s < 60)
        snprintf(ret_text, capacity, "%" PRIu64 " s", s);
    else if (s < 3600)
        snprintf(ret_text, capacity, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(ret_text, capacity, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s / 60 % 60);
    else
        snprintf(ret_text, capacity, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s / 3600 % 24);
}
