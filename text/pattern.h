/*
 * pattern: from the regular expressions of tokenizer files to ours.
 *
 * tokenizer.json holds patterns in Oniguruma's dialect (its Ruby syntax); we match with PCRE2. Most
 * of what such patterns use is written and means the same in both. The rest is of two kinds:
 *
 *   rewritten   \s and \S (Unicode's White_Space; PCRE2 would add U+180E), \d and \D, \v, \uHHHH,
 *               plain groups (never referred to)
 *   refused     what means another thing there, or might: ^ $ \A \z \b \w \h \R \X \G \K, named
 *               groups, back references, options other than (?i:, {n,m} followed by ? or +, {,n},
 *               classes in classes, && in classes, \S in classes, scripts (\p{Greek}); and within
 *               (?i: anything that folds to more than one character
 *
 * so that a pattern is either matched exactly as its tokenizer was trained, or refused by name.
 * Pure functions, any thread.
 */
#pragma once

#include "base/status.h"

#define PATTERN_MAX_BYTES 4096
#define PATTERN_OUT_MAX_BYTES (48 * PATTERN_MAX_BYTES)
#define PATTERN_GROUPS_MAX 32 /* nested */

/*
 * Writes the PCRE2 pattern (to be compiled with UTF and UCP) to `out` [PATTERN_OUT_MAX_BYTES] and a
 * NUL. INVALID: not valid UTF-8, too long, unbalanced; UNSUPPORTED: as above. Errors name the byte.
 */
enum status pattern_translate(struct span pattern, char *out, size_t *ret_size_bytes,
                              struct error *error);
