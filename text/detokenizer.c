#include "text/detokenizer.h"

#include "text/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
#define CHARACTER_MAX_BYTES 4

/* Knuth, Morris and Pratt: where matching goes on after a mismatch. */
static void border_compute(const char *text, uint32_t size_bytes, uint16_t *border)
{
    uint16_t length = 0;
    border[0] = 0;
    for (uint32_t i = 1; i < size_bytes; i++) {
        while (length > 0 && text[i] != text[length])
            length = border[length - 1];
        if (text[i] == text[length])
            length++;
        border[i] = length;
    }
}

static enum status stop_check(struct span string, size_t index, struct error *error)
{
    if (string.size_bytes == 0)
        return error_field(error, "stop", "stop string %zu is empty, expected 1 to %d bytes", index,
                           STOP_STRING_MAX_BYTES);
    if (string.size_bytes > STOP_STRING_MAX_BYTES)
        return error_field(error, "stop", "stop string %zu has %zu bytes, expected at most %d",
                           index, string.size_bytes, STOP_STRING_MAX_BYTES);
    size_t bad = utf8_invalid_offset(string.data, string.size_bytes);
    if (bad < string.size_bytes)
        return error_field(error, "stop", "stop string %zu is not valid UTF-8 at byte %zu", index,
                           bad);
    return STATUS_OK;
}

enum status stop_set_compile(const struct span *strings, size_t n, struct stop_set *ret_set,
                             struct error *error)
{
    if (n > STOP_STRINGS_MAX)
        return error_field(error, "stop", "%zu stop strings, expected at most %d", n,
                           STOP_STRINGS_MAX);
    for (size_t i = 0; i < n; i++) {
        enum status status = stop_check(strings[i], i, error);
        if (status)
            return status;
    }
    memset(ret_set, 0, sizeof *ret_set);
    ret_set->n = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        uint32_t size_bytes = (uint32_t)strings[i].size_bytes;
        memcpy(ret_set->text[i], strings[i].data, size_bytes);
        ret_set->size_bytes[i] = (uint16_t)size_bytes;
        ret_set->longest_bytes = u32_max(ret_set->longest_bytes, size_bytes);
        border_compute(ret_set->text[i], size_bytes, ret_set->border[i]);
    }
    return STATUS_OK;
}

void detokenizer_init(struct detokenizer *detokenizer, const struct stop_set *stops)
{
    memset(detokenizer, 0, sizeof *detokenizer);
    detokenizer->stops = stops && stops->n ? stops : NULL;
}

void detokenizer_strip(struct detokenizer *detokenizer)
{
    detokenizer->strips = true;
}

size_t detokenizer_out_max(size_t size_bytes)
{
    return 3 * (size_bytes + CHARACTER_MAX_BYTES) + DETOKENIZER_HELD_MAX_BYTES;
}

/* One more byte for every stop string; true when one is complete (the longest of them). */
static bool stops_feed(struct detokenizer *self, char byte)
{
    const struct stop_set *stops = self->stops;
    uint32_t longest = 0;
    for (uint32_t s = 0; s < stops->n; s++) {
        uint16_t length = self->matched[s];
        DCHECK(length < stops->size_bytes[s]);
        while (length > 0 && stops->text[s][length] != byte)
            length = stops->border[s][length - 1];
        if (stops->text[s][length] == byte)
            length++;
        self->matched[s] = length;
        if (length == stops->size_bytes[s] && length > longest) {
            longest = length;
            self->stop_index = s;
        }
    }
    return longest > 0;
}

/* The first `count` held bytes are certain. */
static size_t held_release(struct detokenizer *self, size_t count, char *out)
{
    DCHECK(count <= self->held_bytes);
    memcpy(out, self->held, count);
    self->held_bytes -= (uint32_t)count;
    memmove(self->held, self->held + count, self->held_bytes);
    return count;
}

/* A whole character: either it is certain now, or it is held, or it ends a stop string. */
static size_t character_add(struct detokenizer *self, const char *text, size_t size_bytes,
                            char *out)
{
    if (!self->stops) {
        memcpy(out, text, size_bytes);
        return size_bytes;
    }
    /* held + one character: longest - 1 + 4 at most */
    CHECK(self->held_bytes + size_bytes <= sizeof self->held);
    memcpy(self->held + self->held_bytes, text, size_bytes);
    self->held_bytes += (uint32_t)size_bytes;
    for (size_t i = 0; i < size_bytes; i++)
        self->stopped = stops_feed(self, text[i]);
    uint32_t keep = 0;
    for (uint32_t s = 0; s < self->stops->n; s++)
        keep = u32_max(keep, self->matched[s]);
    if (self->stopped) {
        uint32_t stop_bytes = self->stops->size_bytes[self->stop_index];
        size_t written = held_release(self, self->held_bytes - stop_bytes, out);
        self->held_bytes = 0;
        return written;
    }
    return held_release(self, self->held_bytes - keep, out);
}

size_t detokenizer_push(struct detokenizer *self, struct span bytes, char *out)
{
    /* The cut character of the last push, completed by at most three new bytes or found bad. */
    char joint[2 * CHARACTER_MAX_BYTES];
    size_t written = 0, at = 0;
    if (self->strips && bytes.size_bytes > 0) {
        at = bytes.data[0] == ' ';
        self->strips = false;
    }
    while (!self->stopped && at < bytes.size_bytes) {
        const char *text = bytes.data + at;
        size_t size_bytes = bytes.size_bytes - at, cut = self->cut_bytes;
        if (cut > 0) {
            size_t more = size_min(size_bytes, CHARACTER_MAX_BYTES);
            memcpy(joint, self->held + self->held_bytes, cut);
            memcpy(joint + cut, text, more);
            text = joint;
            size_bytes = cut + more;
        }
        size_t bad = 0;
        int length = utf8_next(text, size_bytes, &bad);
        if (length < 0) { /* ends within a character; the whole input is used up */
            CHECK(self->held_bytes + size_bytes <= sizeof self->held && size_bytes < 4);
            memcpy(self->held + self->held_bytes, text, size_bytes);
            self->cut_bytes = (uint32_t)size_bytes;
            break;
        }
        /* A cut character was a proper prefix of a good one: what is decided now covers it. */
        size_t used = length > 0 ? (size_t)length : bad;
        DCHECK(used >= cut);
        self->cut_bytes = 0;
        at += used - cut;
        written += length > 0 ? character_add(self, text, used, out + written)
                              : character_add(self, REPLACEMENT, 3, out + written);
    }
    return written;
}

size_t detokenizer_finish(struct detokenizer *self, char *out)
{
    size_t written = 0;
    if (self->cut_bytes > 0 && !self->stopped) {
        self->cut_bytes = 0;
        written = character_add(self, REPLACEMENT, 3, out);
    }
    self->cut_bytes = 0;
    if (!self->stopped)
        written += held_release(self, self->held_bytes, out + written);
    memset(self->matched, 0, sizeof self->matched);
    return written;
}
