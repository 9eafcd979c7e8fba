#include "text/byte_letters.h"

#include "text/utf8.h"

#define FIRST_SHIFTED 0x100u
#define CONTROLS 0x21u    /* bytes 0x00..0x20 */
#define DELETE_TO_NBSP 34 /* bytes 0x7f..0xa0 */

/* The byte of a code point, or -1. */
static int letter_byte(uint32_t code)
{
    if (code < FIRST_SHIFTED) {
        bool printable = (code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code != 0xad);
        return printable ? (int)code : -1;
    }
    uint32_t index = code - FIRST_SHIFTED;
    if (index < CONTROLS)
        return (int)index;
    if (index < CONTROLS + DELETE_TO_NBSP)
        return (int)(0x7f + index - CONTROLS);
    return index == CONTROLS + DELETE_TO_NBSP ? 0xad : -1;
}

size_t byte_letters_decode(struct span letters, char *out)
{
    size_t written = 0;
    for (size_t at = 0; at < letters.size_bytes;) {
        const uint8_t *c = (const uint8_t *)letters.data + at;
        int length = utf8_next(letters.data + at, letters.size_bytes - at, NULL);
        if (length < 1 || length > 2)
            return BYTE_LETTERS_BAD;
        uint32_t code = length == 1 ? c[0] : (uint32_t)(c[0] & 0x1f) << 6 | (c[1] & 0x3f);
        int byte = letter_byte(code);
        if (byte < 0)
            return BYTE_LETTERS_BAD;
        out[written++] = (char)byte;
        at += (size_t)length;
    }
    return written;
}
