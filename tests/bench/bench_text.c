/*
 * bench_text: how fast text becomes tokens, plain English and what somebody could send to hurt.
 *
 *     bench_text [MODEL [FILE]]    MODEL: the file that GALERNE_SMOLLM2 names; FILE: instead of
 *                                  4 MB of English drawn from the sentences below
 *
 * One thread; the best of five. Hostile texts are 1 MiB each, the most that one word may have.
 */
#include "base/clock.h"
#include "base/map_file.h"
#include "text/tokenizer.h"

#define ENGLISH_BYTES 4000000u
#define HOSTILE_BYTES (1u << 20)
#define ROUNDS 5

static const char *const sentences[] = {
    "The north-west wind brings rain from the sea into the harbour. ",
    "On 3 March 2024 the museum sold 1,250 tickets at 4.50 each, more than in any week before. ",
    "It's what they'd have wanted, isn't it? We're sure he'll say that I'm wrong.\n\n",
    "Chop the onion finely, fry it for five minutes, and add the tomatoes with a little salt. ",
    "A scheduler decides who runs next; it knows neither the text nor the network. ",
    "She looked at the map (an old one), shook her head and said: \"We should have turned left.\" ",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. ",
    "How much is one euro today? I don't know, but I'll find out before the shops close. ",
    "The committee adjourned without a decision, as its chairwoman had predicted. ",
    "Railways made it possible to cross the continent in days rather than in months.\n",
    "In the morning the fishermen mend their nets while their children run along the quay. ",
    "Whoever measures twice and cuts once wastes less timber than whoever is in a hurry. ",
};

static struct tokenizer *tokenizer;
static struct tokenizer_scratch *scratch;

static void measure(const char *name, struct span text)
{
    struct text_piece piece = {text, false};
    struct error error;
    const uint32_t *ids;
    size_t n = 0;
    double best_s = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start_ns = clock_now_ns();
        if (tokenizer_encode(tokenizer, scratch, &piece, 1, SIZE_MAX, &ids, &n, &error)) {
            printf("%s: %s\n", name, error.text);
            return;
        }
        double spent_s = (double)(clock_now_ns() - start_ns) / 1e9;
        best_s = spent_s < best_s ? spent_s : best_s;
    }
    printf("%-16s %8zu bytes %8zu tokens %7.3f s %7.2f MB/s\n", name, text.size_bytes, n, best_s,
           (double)text.size_bytes / best_s / 1e6);
    if (strcmp(name, "english") == 0)
        printf("measure english %.2f MB/s\n", (double)text.size_bytes / best_s / 1e6);
    else
        printf("measure %s %.3f s\n", name, best_s);
}

static uint32_t random_next(void)
{
    static uint64_t state = 20261124;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

static void english_measure(char *text)
{
    size_t size_bytes = 0;
    for (;;) {
        const char *sentence = sentences[random_next() % array_count(sentences)];
        if (size_bytes + strlen(sentence) > ENGLISH_BYTES)
            break;
        memcpy(text + size_bytes, sentence, strlen(sentence));
        size_bytes += strlen(sentence);
    }
    measure("english", (struct span){text, size_bytes});
}

static void hostile_measure(char *text)
{
    static const struct {
        const char *name, *unit;
    } kinds[] = {{"one_letter", "a"},     {"spaces", " "},   {"tabs_and_spaces", "\t "},
                 {"accents", "\xc3\xa9"}, {"digits", "7"},   {"angles", "<"},
                 {"quotes", "' "},        {"lines", "\r\n"}, {"nearly_special", "<|im_start|"}};
    struct span whole = {text, HOSTILE_BYTES};
    for (size_t i = 0; i < HOSTILE_BYTES; i++)
        text[i] = (char)('a' + random_next() % 26);
    measure("random_word", whole);
    for (size_t k = 0; k < array_count(kinds); k++) {
        size_t unit_bytes = strlen(kinds[k].unit);
        whole.size_bytes = HOSTILE_BYTES / unit_bytes * unit_bytes;
        for (size_t i = 0; i < whole.size_bytes; i++)
            text[i] = kinds[k].unit[i % unit_bytes];
        measure(kinds[k].name, whole);
    }
}

static int file_measure(const char *path)
{
    struct map_file map;
    struct error error;
    if (map_file_open(path, TOKENIZER_TEXT_MAX_BYTES, &map, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    measure("file", (struct span){(const char *)map.data, map.size_bytes});
    map_file_close(&map);
    return 0;
}

int main(int argc, char **argv)
{
    const char *model = argc > 1 ? argv[1] : getenv("GALERNE_SMOLLM2");
    struct error error;
    if (!model || !*model) {
        printf("not run: name a model, or set GALERNE_SMOLLM2\n");
        return 0;
    }
    uint64_t start_ns = clock_now_ns();
    if (tokenizer_open(model, &tokenizer, &error) ||
        tokenizer_scratch_new(tokenizer, &scratch, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("opened in %.3f s\n", (double)(clock_now_ns() - start_ns) / 1e9);
    int failed = 0;
    if (argc > 2) {
        failed = file_measure(argv[2]);
    } else {
        char *text = malloc(ENGLISH_BYTES);
        CHECK(text);
        english_measure(text);
        hostile_measure(text);
        free(text);
    }
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
    return failed;
}
