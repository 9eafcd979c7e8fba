/*
 * byte_letters: the alphabet that byte-level vocabularies are written in.
 *
 * GPT-2's tokenizer gave every byte a printable letter, so that a vocabulary can be kept in text
 * files: printable Latin-1 stands for itself, the other 68 bytes are U+0100..U+0143 in order ("Ġ"
 * is the space, "Ċ" the line feed). Pure functions, any thread.
 */
#pragma once

#include "base/types.h"

#define BYTE_LETTERS_BAD SIZE_MAX

/*
 * Turns letters (UTF-8) into the bytes that they stand for. `out` has room for letters.size_bytes.
 * Returns how many bytes, or BYTE_LETTERS_BAD when a character is no letter of the alphabet.
 */
size_t byte_letters_decode(struct span letters, char *out);
