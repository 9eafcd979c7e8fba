#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "tests/bench/probe.h"

/* Sixteen sums, so that no instruction waits for the one before it. */
#define SUMS 16
#define TURNS 400000
#define PASSES 3
#define THREADS_MAX 256
#define UNROLL _Pragma("GCC unroll 16")

/* What a thread does: TURNS turns; returns the operations. The sums are kept from the compiler,
 * lest it throws them away. */
typedef double (*work)(void);

#if defined(__x86_64__)
#define KEEP(register_class, sums)                                                                 \
    UNROLL for (int i = 0; i < SUMS; i++) __asm__ volatile("" : "+" register_class(sums[i]))

__attribute__((target("avx512f"))) static double f32_avx512(void)
{
    __m512 sums[SUMS], a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(0.5f);
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm512_set1_ps((float)i);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
        KEEP("v", sums);
    }
    return 2.0 * 16 * SUMS * TURNS;
}

__attribute__((target("avx512f,avx512vnni"))) static double int8_vnni(void)
{
    __m512i sums[SUMS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-1);
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm512_set1_epi32(i);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
        KEEP("v", sums);
    }
    return 2.0 * 64 * SUMS * TURNS;
}

__attribute__((target("avx512f,avx512bf16"))) static double bf16_avx512(void)
{
    __m512 sums[SUMS];
    __m512i bits = _mm512_set1_epi16(0x3f80);
    __m512bh a, b;
    memcpy(&a, &bits, sizeof a);
    memcpy(&b, &bits, sizeof b);
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm512_set1_ps((float)i);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
        KEEP("v", sums);
    }
    return 2.0 * 32 * SUMS * TURNS;
}

__attribute__((target("avx2,fma"))) static double f32_avx2(void)
{
    __m256 sums[SUMS], a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(0.5f);
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm256_set1_ps((float)i);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        UNROLL for (int i = 0; i < 12; i++) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
        UNROLL for (int i = 0; i < 12; i++) __asm__ volatile("" : "+x"(sums[i]));
    }
    return 2.0 * 8 * 12 * TURNS;
}

__attribute__((target("avx2"))) static double int8_avx2(void)
{
    __m256i sums[SUMS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-1);
    __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = _mm256_set1_epi32(i);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        UNROLL for (int i = 0; i < 8; i++) __asm__ volatile("" : "+x"(a));
        UNROLL for (int i = 0; i < 8; i++) sums[i] =
            _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        UNROLL for (int i = 0; i < 8; i++) __asm__ volatile("" : "+x"(sums[i]));
    }
    return 2.0 * 32 * 8 * TURNS;
}
#endif

static double plain(void)
{
    static volatile float kept;
    float sums[SUMS] = {0};
    for (uint32_t turn = 0; turn < TURNS; turn++)
        UNROLL for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * 0.5f + (float)turn;
    for (int i = 0; i < SUMS; i++)
        kept = kept + sums[i];
    return 2.0 * SUMS * TURNS;
}

struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    work run;
    double rates[PASSES]; /* operations a nanosecond of the thread's own time */
};

static void *worker_main(void *context)
{
    struct worker *worker = context;
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(worker->barrier);
        uint64_t start_ns = probe_thread_ns();
        double ops = worker->run();
        worker->rates[pass] = ops / (double)(probe_thread_ns() - start_ns);
    }
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double gop_per_s(uint32_t threads_count, work run)
{
    static struct worker workers[THREADS_MAX];
    pthread_barrier_t barrier;
    double sum = 0;
    CHECK(threads_count > 0 && threads_count <= THREADS_MAX);
    pthread_barrier_init(&barrier, NULL, threads_count);
    for (uint32_t i = 0; i < threads_count; i++) {
        workers[i] = (struct worker){.barrier = &barrier, .run = run};
        CHECK(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0);
    }
    for (uint32_t i = 0; i < threads_count; i++) {
        pthread_join(workers[i].thread, NULL);
        qsort(workers[i].rates, PASSES, sizeof workers[i].rates[0], by_value);
        sum += workers[i].rates[PASSES / 2];
    }
    pthread_barrier_destroy(&barrier);
    return sum;
}

uint64_t probe_thread_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

double probe_f32_gop_per_s(uint32_t threads_count)
{
    work run = plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        run = f32_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        run = f32_avx2;
#endif
    return gop_per_s(threads_count, run);
}

double probe_bf16_gop_per_s(uint32_t threads_count)
{
#if defined(__x86_64__)
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (__builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
        (a >> 5 & 1))
        return gop_per_s(threads_count, bf16_avx512);
#endif
    return probe_f32_gop_per_s(threads_count);
}

double probe_int8_gop_per_s(uint32_t threads_count)
{
    work run = plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"))
        run = int8_vnni;
    else if (__builtin_cpu_supports("avx2"))
        run = int8_avx2;
#endif
    return gop_per_s(threads_count, run);
}
