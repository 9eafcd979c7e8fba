/*
 * detokenizer: from a stream of token bytes to text that may be shown.
 *
 * A token's bytes may end in the middle of a character; a stop string may begin in the bytes that
 * we have and end in those to come. This filter holds such bytes back and releases the rest:
 *
 *     detokenizer_push   the bytes of one more token  -> text that is now certain
 *     detokenizer_finish no more tokens               -> the rest, a cut character as U+FFFD
 *
 * Once a stop string has been seen, the text ends before it, `stopped` is set, and everything
 * after it is dropped. The string that is complete first counts; of several complete at the same
 * byte the longest. So the text is the same wherever the tokens were cut. Bytes that can never
 * become valid UTF-8 turn into one U+FFFD for each maximal invalid part (Unicode 15, 3.9,
 * "substitution of maximal subparts").
 *
 * One per choice of a request, one thread at a time. No allocation: the hold-back is bounded by
 * the longest stop string plus 3 bytes.
 */
#pragma once

#include "base/status.h"

#define STOP_STRINGS_MAX 16
#define STOP_STRING_MAX_BYTES 256

/* Compiled stop strings; immutable, may be shared. */
struct stop_set {
    uint32_t n;
    uint32_t longest_bytes;
    uint16_t size_bytes[STOP_STRINGS_MAX];
    char text[STOP_STRINGS_MAX][STOP_STRING_MAX_BYTES];
    /* Length of the longest proper border (prefix that is also a suffix) of the first i + 1 bytes.
     */
    uint16_t border[STOP_STRINGS_MAX][STOP_STRING_MAX_BYTES];
};

/* INVALID for more than STOP_STRINGS_MAX, an empty, too long or not UTF-8 string. */
enum status stop_set_compile(const struct span *strings, size_t n, struct stop_set *ret_set,
                             struct error *error);

#define DETOKENIZER_HELD_MAX_BYTES (STOP_STRING_MAX_BYTES + 4)

struct detokenizer {
    const struct stop_set *stops;       /* NULL: none */
    bool strips;                        /* the next byte is dropped if it is a space */
    bool stopped;                       /* a stop string was met */
    uint32_t stop_index;                /* which, when stopped */
    uint16_t matched[STOP_STRINGS_MAX]; /* how much of each stop string the held text ends with */
    uint32_t held_bytes;                /* valid text held back for a stop string */
    uint32_t cut_bytes;                 /* of a cut character, behind it */
    char held[DETOKENIZER_HELD_MAX_BYTES];
};

void detokenizer_init(struct detokenizer *detokenizer, const struct stop_set *stops);

/*
 * The tokens to come begin a text whose tokenizer put a space in front (strips_space): one space at
 * the start is dropped, whichever token brings it. To be called before the first push, and not for
 * tokens that continue a prompt.
 */
void detokenizer_strip(struct detokenizer *detokenizer);

/* Bytes that one push (or finish) of `size_bytes` can put out at most: 3 a byte, plus the held. */
size_t detokenizer_out_max(size_t size_bytes);

/* Appends to `out` (detokenizer_out_max(bytes.size_bytes) bytes); returns how many. Always whole
 * characters of valid UTF-8. */
size_t detokenizer_push(struct detokenizer *detokenizer, struct span bytes, char *out);
size_t detokenizer_finish(struct detokenizer *detokenizer, char *out);
