#include "daemon/config_yaml.h"

#include <stdarg.h>

/* ---- errors with a place ---- */

enum status yaml_fail(struct yaml_reader *r, yaml_mark_t mark, const char *format, ...)
{
    char text[ERROR_TEXT_MAX_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(r->error, STATUS_INVALID, "%s:%zu:%zu: %s", r->name, mark.line + 1,
                     mark.column + 1, text);
}

/* The scanner gives no line for bytes that it cannot decode, only an offset. */
static yaml_mark_t mark_of_offset(struct span text, size_t offset)
{
    yaml_mark_t mark = {.index = offset};
    for (size_t i = 0; i < offset && i < text.size_bytes; i++) {
        if (text.data[i] == '\n') {
            mark.line++;
            mark.column = 0;
        } else if (((unsigned char)text.data[i] & 0xc0) != 0x80) {
            mark.column++;
        }
    }
    return mark;
}

static enum status fail_of_parser(struct yaml_reader *r)
{
    yaml_parser_t *p = &r->parser;
    const char *problem = p->problem ? p->problem : "out of memory";
    if (p->error == YAML_READER_ERROR)
        return yaml_fail(r, mark_of_offset(r->text, p->problem_offset),
                         "expected UTF-8 text without control characters: %s", problem);
    if (p->error == YAML_SCANNER_ERROR || p->error == YAML_PARSER_ERROR)
        return yaml_fail(r, p->problem_mark, "not YAML: %s%s%s", problem, p->context ? " " : "",
                         p->context ? p->context : "");
    return yaml_fail(r, p->mark, "not YAML: %s", problem);
}

/* ---- events ---- */

const char *yaml_event_text(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return "a single value";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a mapping of keys";
    case YAML_STREAM_END_EVENT:
        return "the end of the file";
    default:
        return "something else";
    }
}

/* Anchors and tags would let a small file say much, or something other than it seems to. */
static enum status event_check(struct yaml_reader *r)
{
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return yaml_fail(r, e->start_mark, "aliases (*%s) are not accepted: write the value out",
                         (const char *)e->data.alias.anchor);
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor)
        return yaml_fail(r, e->start_mark, "anchors (&%s) are not accepted: write the value out",
                         (const char *)anchor);
    if (tag)
        return yaml_fail(r, e->start_mark, "tags (%s) are not accepted: write the plain value",
                         (const char *)tag);
    return STATUS_OK;
}

enum status yaml_next(struct yaml_reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = yaml_parser_parse(&r->parser, &r->event) == 1;
    return r->has_event ? event_check(r) : fail_of_parser(r);
}

enum status yaml_open(struct yaml_reader *r, const char *name, struct span text,
                      struct error *error)
{
    *r = (struct yaml_reader){.name = name, .text = text, .error = error};
    if (!yaml_parser_initialize(&r->parser))
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", name);
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)(text.data ? text.data : ""),
                                 text.size_bytes);
    return STATUS_OK;
}

void yaml_close(struct yaml_reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
}

/* ---- values ---- */

/* Numbers, bools and choices are written without quotes; texts either way. */
static bool row_is_text(const struct option_row *row)
{
    return row->type == OPTION_STRING || row->type == OPTION_PATH || row->type == OPTION_NAME;
}

bool yaml_is_null(const yaml_event_t *e)
{
    const char *value = (const char *)e->data.scalar.value;
    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*value || strcmp(value, "~") == 0 || strcasecmp(value, "null") == 0);
}

/* The current event is the value of `row`. */
enum status yaml_value(struct yaml_reader *r, const struct option_row *row, void *target)
{
    const yaml_event_t *e = &r->event;
    struct error error;
    char expected[256];
    option_expected(row, expected, sizeof expected);
    if (e->type != YAML_SCALAR_EVENT)
        return yaml_fail(r, e->start_mark, "%s: expected %s, got %s", row->name, expected,
                         yaml_event_text(e));
    if (yaml_is_null(e))
        return yaml_fail(r, e->start_mark, "%s has no value: expected %s", row->name, expected);
    const char *value = (const char *)e->data.scalar.value;
    for (size_t i = 0; i < e->data.scalar.length; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return yaml_fail(r, e->start_mark,
                             "%s: expected %s on one line, without control "
                             "characters",
                             row->name, expected);
    if (!row_is_text(row) && e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return yaml_fail(r, e->start_mark,
                         "%s: expected %s, got a quoted text: leave the quotes out", row->name,
                         expected);
    if (option_set(row, target, value, &error) != STATUS_OK)
        return yaml_fail(r, e->start_mark, "%s", error.text);
    return STATUS_OK;
}

static enum status fail_unknown_key(struct yaml_reader *r, const struct yaml_section *s,
                                    const char *key)
{
    const char *near = option_nearest(s->rows, s->n_rows, key);
    yaml_mark_t mark = r->event.start_mark;
    const char *hint = s->key_hint ? s->key_hint(s, key) : NULL;
    if (hint)
        return yaml_fail(r, mark, "%s belongs to %s", key, hint);
    if (near)
        return yaml_fail(r, mark, "unknown key \"%.60s\": did you mean %s?", key, near);
    return yaml_fail(r, mark, "unknown key \"%.60s\": galerned --print-config lists the keys of %s",
                     key, s->title);
}

/* The current event is a key; finds its row and moves on to its value. */
static enum status key_read(struct yaml_reader *r, struct yaml_section *s,
                            const struct option_row **ret_row)
{
    const yaml_event_t *e = &r->event;
    if (e->type != YAML_SCALAR_EVENT)
        return yaml_fail(r, e->start_mark, "expected a key, got %s", yaml_event_text(e));
    const char *key = (const char *)e->data.scalar.value;
    const struct option_row *row = option_find(s->rows, s->n_rows, key);
    if (!row || strlen(key) != e->data.scalar.length)
        return fail_unknown_key(r, s, key);
    size_t i = (size_t)(row - s->rows);
    if (s->is_seen[i])
        return yaml_fail(r, e->start_mark, "%s is set twice: first in line %zu", row->name,
                         s->seen[i].line + 1);
    s->is_seen[i] = true;
    s->seen[i] = e->start_mark;
    *ret_row = row;
    return yaml_next(r);
}

static enum status required_check(struct yaml_reader *r, const struct yaml_section *s)
{
    for (size_t i = 0; i < s->n_rows; i++)
        if (s->rows[i].required && !s->is_seen[i])
            return yaml_fail(r, s->mark, "%s lacks %s: %s", s->title, s->rows[i].name,
                             s->rows[i].text);
    return STATUS_OK;
}

/* The current event begins a mapping; reads to its end. */
enum status yaml_section(struct yaml_reader *r, struct yaml_section *s)
{
    enum status status;
    CHECK(s->n_rows <= YAML_ROWS_MAX);
    s->mark = r->event.start_mark;
    while ((status = yaml_next(r)) == STATUS_OK && r->event.type != YAML_MAPPING_END_EVENT) {
        const struct option_row *row = NULL;
        status = key_read(r, s, &row);
        if (status == STATUS_OK)
            status =
                row->type == OPTION_SECTION ? s->nested(r, s, row) : yaml_value(r, row, s->target);
        if (status != STATUS_OK)
            return status;
    }
    return status == STATUS_OK ? required_check(r, s) : status;
}

/* ---- lists ---- */

enum status yaml_items(struct yaml_reader *r, const struct yaml_list *list)
{
    enum status status;
    if (r->event.type != YAML_SEQUENCE_START_EVENT)
        return yaml_fail(r, r->event.start_mark, "%s: expected %s, got %s", list->key,
                         list->list_text, yaml_event_text(&r->event));
    while ((status = yaml_next(r)) == STATUS_OK && r->event.type != YAML_SEQUENCE_END_EVENT) {
        if (r->event.type != list->item_type)
            return yaml_fail(r, r->event.start_mark, "%s: expected %s, got %s", list->key,
                             list->item_text, yaml_event_text(&r->event));
        status = list->item(r, list->context);
        if (status != STATUS_OK)
            return status;
    }
    return status;
}

/* ---- the file ---- */

enum status yaml_root(struct yaml_reader *r, struct yaml_section *section)
{
    enum status status = yaml_next(r); /* the stream's start */
    if (status == STATUS_OK)
        status = yaml_next(r);
    if (status != STATUS_OK)
        return status;
    if (r->event.type == YAML_STREAM_END_EVENT)
        return required_check(r, section);
    status = yaml_next(r); /* past the document's start */
    if (status != STATUS_OK)
        return status;
    section->mark = r->event.start_mark;
    if (r->event.type == YAML_MAPPING_START_EVENT)
        status = yaml_section(r, section);
    else if (r->event.type == YAML_SCALAR_EVENT && yaml_is_null(&r->event))
        status = required_check(r, section);
    else
        status = yaml_fail(r, section->mark, "expected lines of \"key: value\", got %s",
                           yaml_event_text(&r->event));
    if (status == STATUS_OK)
        status = yaml_next(r); /* the document's end */
    if (status == STATUS_OK)
        status = yaml_next(r);
    if (status == STATUS_OK && r->event.type != YAML_STREAM_END_EVENT)
        status = yaml_fail(r, r->event.start_mark, "a second document begins here: expected one");
    return status;
}
