/*
 * status: the closed list of outcomes, and the message that goes with a bad one.
 *
 * A function that can fail returns `enum status` and takes a `struct error *` last. On STATUS_OK
 * its `ret_` outputs are written; otherwise they are untouched and the error holds one sentence
 * that names what was wrong, where, what was expected and what to do. The caller owns the error;
 * a NULL error is allowed and drops the text. Any thread.
 *
 * The values map one to one to gRPC codes in one place of the daemon.
 */
#pragma once

#include "base/types.h"

enum status {
    STATUS_OK = 0,
    STATUS_CANCELLED,   /* the caller went away */
    STATUS_INVALID,     /* the request or the file is wrong; retrying cannot help */
    STATUS_DEADLINE,    /* the caller's time is over */
    STATUS_NOT_FOUND,   /* no such model, file, method */
    STATUS_EXISTS,      /* somebody else holds it (a live socket, a name) */
    STATUS_DENIED,      /* the caller may not */
    STATUS_EXHAUSTED,   /* a queue, a quota or memory is full; retrying later can help */
    STATUS_UNSUPPORTED, /* a known thing that we do not do: refused by name */
    STATUS_UNAVAILABLE, /* the worker or the daemon is not there just now */
    STATUS_IO,          /* the operating system refused; errno's text is in the message */
    STATUS_INTERNAL,    /* our fault */
    STATUS_COUNT,
};

#define ERROR_TEXT_MAX_BYTES 512

struct error {
    enum status status;
    uint64_t retry_ns;               /* with EXHAUSTED, UNAVAILABLE: wait this long; 0 unknown */
    char field[64];                  /* dotted name of the offending request field, or "" */
    char subject[80];                /* whose limit refuses, "project:north/b", or "" */
    char limit[32];                  /* which, "tokens_per_minute", or "" */
    char text[ERROR_TEXT_MAX_BYTES]; /* NUL-terminated UTF-8, cut with "..." when too long */
};

/* Stable upper-case name, e.g. "INVALID"; "?" for a number out of range. */
const char *status_name(enum status status);

/* Fills `error` (may be NULL) and returns `status`, so that it can end a function. */
enum status error_set(struct error *error, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, naming the request field at fault. */
enum status error_field(struct error *error, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text that is there (a file name, a model name). Returns its status. */
enum status error_prefix(struct error *error, const char *prefix);
