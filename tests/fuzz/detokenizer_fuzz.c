/* The detokenizer: any bytes, cut anywhere, with any stop strings, give whole characters, and the
 * same text as in one push. Input: a byte with the number of stop strings, each a length and its
 * bytes; then bytes of which every first says how long the next part is. */
#include "text/detokenizer.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

struct input {
    const uint8_t *data;
    size_t size_bytes;
};

static struct span take(struct input *input, size_t size_bytes)
{
    size_bytes = size_min(size_bytes, input->size_bytes);
    struct span part = {(const char *)input->data, size_bytes};
    input->data += size_bytes;
    input->size_bytes -= size_bytes;
    return part;
}

static uint8_t take_byte(struct input *input)
{
    struct span byte = take(input, 1);
    return byte.size_bytes ? (uint8_t)byte.data[0] : 0;
}

static size_t push(struct detokenizer *detokenizer, struct span bytes, char *out)
{
    char *room = malloc(detokenizer_out_max(bytes.size_bytes)); /* exact, for ASan */
    CHECK(room);
    size_t n = detokenizer_push(detokenizer, bytes, room);
    CHECK(n <= detokenizer_out_max(bytes.size_bytes));
    CHECK(utf8_invalid_offset(room, n) == n);
    memcpy(out, room, n);
    free(room);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    struct input input = {data, size_bytes};
    struct span stops[STOP_STRINGS_MAX];
    struct stop_set set;
    size_t n_stops = take_byte(&input) % (STOP_STRINGS_MAX + 1), together = 0, parted = 0,
           joint = 0;
    for (size_t i = 0; i < n_stops; i++)
        stops[i] = take(&input, take_byte(&input));
    if (stop_set_compile(stops, n_stops, &set, NULL) != STATUS_OK)
        set = (struct stop_set){0};
    char *out = malloc(2 * detokenizer_out_max(size_bytes) + detokenizer_out_max(0));
    char *parts = malloc(2 * detokenizer_out_max(size_bytes) + detokenizer_out_max(0));
    char *bytes = malloc(size_bytes + 1);
    CHECK(out && parts && bytes);
    struct detokenizer one, many;
    detokenizer_init(&many, &set);
    while (input.size_bytes > 0) {
        struct span part = take(&input, take_byte(&input) % 9);
        memcpy(bytes + joint, part.data, part.size_bytes);
        joint += part.size_bytes;
        parted += push(&many, part, parts + parted);
    }
    parted += detokenizer_finish(&many, parts + parted);
    detokenizer_init(&one, &set);
    together = push(&one, (struct span){bytes, joint}, out);
    together += detokenizer_finish(&one, out + together);
    CHECK(utf8_invalid_offset(out, together) == together);
    CHECK(together == parted && memcmp(out, parts, together) == 0);
    CHECK(one.stopped == many.stopped && one.stop_index == many.stop_index);
    free(out);
    free(parts);
    free(bytes);
    return 0;
}
