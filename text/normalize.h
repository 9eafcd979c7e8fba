/*
 * normalize: Unicode normalisation form C, for the tokenizers whose files ask for it.
 *
 * Pure function, any thread. The work is GNU libunistring's.
 */
#pragma once

#include "base/status.h"

/*
 * Writes the text (valid UTF-8) in form C to `*ret_text`, which the caller frees; NULL when the
 * text is ASCII and stands for itself. EXHAUSTED when memory is short.
 */
enum status normalize_nfc(struct span text, char **ret_text, size_t *ret_size_bytes,
                          struct error *error);
