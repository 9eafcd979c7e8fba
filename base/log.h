/*
 * log: levelled lines on standard error, one write(2) per line.
 *
 * Only daemon/ and admin/ log; libraries return errors. A line starts with the systemd priority
 * prefix "<3>" when the journal reads our standard error (JOURNAL_STREAM is set), else with the
 * time and the level's name. No line ever holds prompt or answer text. Any thread.
 */
#pragma once

#include "base/types.h"

enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7
};

/* `name` (static storage) is put before each line; lines above `level` are dropped. */
void log_open(const char *name, enum log_level level);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
