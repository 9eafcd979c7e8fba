#include "base/log.h"

#include <stdarg.h>
#include <time.h>
#include <unistd.h>

static struct {
    const char *name;
    enum log_level level;
    bool journal;
} log_state = {.name = "galerne", .level = LOG_LEVEL_INFO};

void log_open(const char *name, enum log_level level)
{
    log_state.name = name;
    log_state.level = level;
    log_state.journal = getenv("JOURNAL_STREAM") != NULL;
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_WARNING:
        return "warning";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_DEBUG:
        return "debug";
    }
    return "?";
}

static size_t line_head(char *line, size_t room, enum log_level level)
{
    int n;
    if (log_state.journal) {
        n = snprintf(line, room, "<%d>", (int)level);
    } else {
        struct timespec t;
        struct tm utc;
        clock_gettime(CLOCK_REALTIME, &t);
        gmtime_r(&t.tv_sec, &utc);
        n = snprintf(line, room, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s: ", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     t.tv_nsec / 1000000, log_state.name, level_name(level));
    }
    return n > 0 ? size_min((size_t)n, room - 1) : 0;
}

void log_line(enum log_level level, const char *format, ...)
{
    if (level > log_state.level)
        return;
    char line[1024];
    size_t used = line_head(line, sizeof line, level);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line + used, sizeof line - used, format, arguments);
    va_end(arguments);
    if (n > 0)
        used += size_min((size_t)n, sizeof line - used - 1);
    if (used > sizeof line - 2)
        used = sizeof line - 2;
    line[used++] = '\n';
    /* A full or closed standard error must not stop the daemon. */
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written;
}
