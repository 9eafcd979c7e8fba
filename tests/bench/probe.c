#include "tests/bench/probe.h"

#include <pthread.h>

#include "base/clock.h"

#define BUFFER_BYTES (256ul << 20)
#define PASSES 5
#define WORDS_PER_LINE 8
#define THREADS_MAX 256

struct reader {
    pthread_t thread;
    pthread_barrier_t *barrier; /* all readers and the caller, before and after each pass */
    const uint64_t *words;
    size_t words_count; /* a multiple of WORDS_PER_LINE */
    uint64_t sum;       /* so that the reads are not thrown away */
    uint64_t own_ns;    /* of the last pass */
};

/* Eight sums, so that no addition waits for the one before it. */
static uint64_t words_sum(const uint64_t *words, size_t count)
{
    uint64_t sums[WORDS_PER_LINE] = {0}, sum = 0;
    for (size_t i = 0; i < count; i += WORDS_PER_LINE)
        for (size_t lane = 0; lane < WORDS_PER_LINE; lane++)
            sums[lane] += words[i + lane];
    for (size_t lane = 0; lane < WORDS_PER_LINE; lane++)
        sum += sums[lane];
    return sum;
}

static void *reader_main(void *context)
{
    struct reader *reader = context;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(reader->barrier);
        uint64_t start_ns = probe_thread_ns();
        reader->sum += words_sum(reader->words, reader->words_count);
        reader->own_ns = probe_thread_ns() - start_ns;
        pthread_barrier_wait(reader->barrier);
    }
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const uint64_t *buffer_make(void)
{
    static uint64_t *buffer;
    if (!buffer) {
        buffer = aligned_alloc(64, BUFFER_BYTES);
        CHECK(buffer != NULL);
        memset(buffer, 1, BUFFER_BYTES); /* real pages, not the one page of zeros */
    }
    return buffer;
}

double probe_read_gb_per_s(uint32_t threads_count)
{
    static struct reader readers[THREADS_MAX];
    pthread_barrier_t barrier;
    double rates[PASSES];
    CHECK(threads_count > 0 && threads_count <= THREADS_MAX);
    const uint64_t *words = buffer_make();
    size_t lines = BUFFER_BYTES / sizeof(uint64_t) / WORDS_PER_LINE / threads_count;
    pthread_barrier_init(&barrier, NULL, threads_count + 1);
    for (uint32_t i = 0; i < threads_count; i++) {
        readers[i] = (struct reader){.barrier = &barrier,
                                     .words = words + i * lines * WORDS_PER_LINE,
                                     .words_count = lines * WORDS_PER_LINE};
        CHECK(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]) == 0);
    }
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t start_ns = clock_now_ns();
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        double bytes = (double)(lines * threads_count * WORDS_PER_LINE * sizeof(uint64_t));
        uint64_t wall_ns = clock_now_ns() - start_ns;
        rates[pass] = bytes / (double)(threads_count == 1 ? readers[0].own_ns : wall_ns);
    }
    for (uint32_t i = 0; i < threads_count; i++)
        pthread_join(readers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    qsort(rates, PASSES, sizeof rates[0], by_value);
    return rates[PASSES / 2];
}
