#include "text/utf8.h"

/*
 * Bytes that may follow a lead byte in second place; the ranges keep out overlong forms (E0, F0),
 * surrogates (ED) and what lies above U+10FFFF (F4). Third and fourth bytes are always 80..BF.
 */
struct lead {
    uint8_t size_bytes; /* of the character; 0: no character starts with this byte */
    uint8_t second_min, second_max;
};

static struct lead lead_of(uint8_t byte)
{
    if (byte < 0x80)
        return (struct lead){1, 0, 0};
    if (byte < 0xc2 || byte > 0xf4)
        return (struct lead){0, 0, 0};
    if (byte < 0xe0)
        return (struct lead){2, 0x80, 0xbf};
    if (byte < 0xf0)
        return (struct lead){3, byte == 0xe0 ? 0xa0 : 0x80, byte == 0xed ? 0x9f : 0xbf};
    return (struct lead){4, byte == 0xf0 ? 0x90 : 0x80, byte == 0xf4 ? 0x8f : 0xbf};
}

int utf8_next(const char *text, size_t size_bytes, size_t *ret_bad_bytes)
{
    if (size_bytes == 0)
        return -1;
    const uint8_t *bytes = (const uint8_t *)text;
    struct lead lead = lead_of(bytes[0]);
    size_t good = 1;
    while (good < lead.size_bytes && good < size_bytes) {
        uint8_t min = good == 1 ? lead.second_min : 0x80;
        uint8_t max = good == 1 ? lead.second_max : 0xbf;
        if (bytes[good] < min || bytes[good] > max)
            break;
        good++;
    }
    if (lead.size_bytes && good == lead.size_bytes)
        return (int)good;
    if (lead.size_bytes && good == size_bytes)
        return -1;
    if (ret_bad_bytes)
        *ret_bad_bytes = good;
    return 0;
}

size_t utf8_invalid_offset(const char *text, size_t size_bytes)
{
    size_t at = 0;
    while (at < size_bytes) {
        uint64_t word;
        if (size_bytes - at >= sizeof word) { /* most text is ASCII: eight at a time */
            memcpy(&word, text + at, sizeof word);
            if (!(word & 0x8080808080808080ull)) {
                at += sizeof word;
                continue;
            }
        }
        int step = utf8_next(text + at, size_bytes - at, NULL);
        if (step <= 0)
            return at;
        at += (size_t)step;
    }
    return size_bytes;
}
