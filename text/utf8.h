/*
 * utf8: is this text, and where not. Pure functions, any thread.
 */
#pragma once

#include "base/types.h"

/* Offset of the first byte that is not part of valid UTF-8 (RFC 3629: no surrogates, no overlong
 * forms, at most U+10FFFF), or size_bytes when all is valid. */
size_t utf8_invalid_offset(const char *text, size_t size_bytes);

/* Length in bytes (1..4) of the valid character at the start of `text`; 0 when the bytes there can
 * never become one; -1 when they are a proper prefix of one and size_bytes ends there. For 0,
 * `*ret_bad_bytes` (may be NULL) is the length of the maximal invalid part, >= 1. */
int utf8_next(const char *text, size_t size_bytes, size_t *ret_bad_bytes);
