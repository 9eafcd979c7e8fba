#include "base/status.h"

#include <stdarg.h>

static const char *const status_names[STATUS_COUNT] = {
    [STATUS_OK] = "OK",
    [STATUS_CANCELLED] = "CANCELLED",
    [STATUS_INVALID] = "INVALID",
    [STATUS_DEADLINE] = "DEADLINE",
    [STATUS_NOT_FOUND] = "NOT_FOUND",
    [STATUS_EXISTS] = "EXISTS",
    [STATUS_DENIED] = "DENIED",
    [STATUS_EXHAUSTED] = "EXHAUSTED",
    [STATUS_UNSUPPORTED] = "UNSUPPORTED",
    [STATUS_UNAVAILABLE] = "UNAVAILABLE",
    [STATUS_IO] = "IO",
    [STATUS_INTERNAL] = "INTERNAL",
};

const char *status_name(enum status status)
{
    return (unsigned)status < STATUS_COUNT ? status_names[status] : "?";
}

/*
 * A message may quote bytes of a hostile file. Cutting it must not split a character, and control
 * bytes must not reach a terminal or a log line.
 */
static void text_clean(char *text, int wanted_bytes)
{
    size_t length = strlen(text);
    if (wanted_bytes >= ERROR_TEXT_MAX_BYTES) {
        length = ERROR_TEXT_MAX_BYTES - 4;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80)
            length--;
        memcpy(text + length, "...", 4);
    }
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

enum status error_set(struct error *error, enum status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->status = status;
        error->retry_ns = 0;
        error->field[0] = error->subject[0] = error->limit[0] = '\0';
        text_clean(error->text, vsnprintf(error->text, sizeof error->text, format, arguments));
        va_end(arguments);
    }
    return status;
}

enum status error_field(struct error *error, const char *field, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        error->status = STATUS_INVALID;
        error->retry_ns = 0;
        error->subject[0] = error->limit[0] = '\0';
        snprintf(error->field, sizeof error->field, "%s", field);
        text_clean(error->text, vsnprintf(error->text, sizeof error->text, format, arguments));
        va_end(arguments);
    }
    return STATUS_INVALID;
}

enum status error_prefix(struct error *error, const char *prefix)
{
    if (!error)
        return STATUS_INTERNAL;
    char old[ERROR_TEXT_MAX_BYTES];
    memcpy(old, error->text, sizeof old);
    text_clean(error->text, snprintf(error->text, sizeof error->text, "%s: %s", prefix, old));
    return error->status;
}
