/*
 * The emulator that GPU kernels are tested on: that leaves compute what the instructions do (tiles,
 * swizzles and registers of wgmma and mma against a plain product), and that each mistake that it
 * is there to find is found: every kernel below is wrong in one way, and its twin is right. Each
 * runs under many seeds. C++, as kernels are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include "kernels/cuda/leaf.h"
#include "kernels/cuda/runtime.h"

#define THREADS 128
#define SEEDS 12

struct task {
    float *out;
    const float *in;
    uint32_t mistake; /* 0: none */
};

/* ---- running one kernel ---- */

static struct runtime *runtime_make(uint32_t seed)
{
    char text[16];
    snprintf(text, sizeof text, "%u", seed);
    setenv("GALERNE_CUDA_HOST_SEED", text, 1);
    struct runtime *runtime = NULL;
    assert_int_equal(runtime_open(&runtime, NULL), STATUS_OK);
    return runtime;
}

/* Runs under many seeds: without the mistake never a report, with it one that has the word. */
template <auto kernel> static void finds(const char *name, const char *word, uint32_t blocks)
{
    for (uint32_t mistake = 0; mistake < 2; mistake++)
        for (uint32_t seed = 0; seed < SEEDS; seed++) {
            struct runtime *runtime = runtime_make(seed);
            struct task task = {(float *)runtime_alloc(runtime, 4096 * sizeof(float)),
                                (const float *)runtime_alloc(runtime, 4096 * sizeof(float)),
                                mistake};
            struct error error = {};
            launch_named<kernel>(runtime, name, launch{blocks, 1, 1, THREADS, 16384, false}, task);
            enum status status = runtime_wait(runtime, &error);
            if (!mistake && status != STATUS_OK)
                fail_msg("%s, seed %u, without its mistake: %s", name, seed, error.text);
            if (mistake && status == STATUS_OK)
                fail_msg("%s, seed %u: nothing was found", name, seed);
            if (mistake && !strstr(error.text, word))
                fail_msg("%s, seed %u: \"%s\" is not in: %s", name, seed, word, error.text);
            runtime_close(runtime);
        }
}

/* ---- mistakes ---- */

KERNEL(no_barrier, struct task, THREADS, 1)
{
    shared<float> s = shared_at<float>(0);
    s[thread_index()] = 1;
    if (!a.mistake)
        barrier();
    global<float>(a.out)[thread_index()] = s[(thread_index() + 64) % THREADS];
}

KERNEL(no_second_barrier, struct task, THREADS, 1)
{
    shared<float> s = shared_at<float>(0);
    for (uint32_t i = 0; i < 3; i++) {
        s[thread_index()] = (float)i;
        barrier();
        global<float>(a.out)[thread_index()] = s[(thread_index() + 64) % THREADS];
        if (!a.mistake)
            barrier();
    }
}

KERNEL(no_warp_sync, struct task, THREADS, 1)
{
    shared<float> s = shared_at<float>(0);
    s[thread_index()] = 1;
    if (!a.mistake)
        warp_sync();
    global<float>(a.out)[thread_index()] = s[thread_index() ^ 1];
}

KERNEL(never_written, struct task, THREADS, 1)
{
    shared<float> s = shared_at<float>(0);
    if (!a.mistake || thread_index() != 5)
        s[thread_index()] = 1;
    global<float>(a.out)[thread_index()] = s[thread_index()];
}

KERNEL(too_far, struct task, THREADS, 1)
{
    shared<float> s = shared_at<float>(16384 - THREADS * 4);
    s[thread_index() + a.mistake] = 1;
}

KERNEL(nobodys_memory, struct task, THREADS, 1)
{
    global<float>(a.out)[thread_index() * (a.mistake ? 1000000u : 1u)] = 1;
}

KERNEL(blocks_race, struct task, THREADS, 1)
{
    global<float>(a.out)[thread_index() + (a.mistake ? 0 : block_x() * THREADS)] = 1;
}

/* The last block to arrive reads what the others wrote. */
KERNEL(unordered_merge, struct task, THREADS, 1)
{
    uint32_t *count = (uint32_t *)(void *)(a.out + 4000);
    global<float> out(a.out);
    out[block_x() * THREADS + thread_index()] = 1;
    barrier();
    shared<uint32_t> last = shared_at<uint32_t>(0);
    if (thread_index() == 0)
        last[0] =
            (a.mistake ? atomic_add(count, 1u) : atomic_add_ordered(count, 1u)) == grid_x() - 1;
    barrier();
    if (last[0] == 0)
        return;
    float sum = 0;
    for (uint32_t i = 0; i < grid_x(); i++)
        sum += out[i * THREADS + thread_index()];
    out[2000 + thread_index()] = sum;
}

KERNEL(lane_missing, struct task, THREADS, 1)
{
    if (a.mistake && thread_index() == 7)
        return;
    global<float>(a.out)[thread_index()] = warp_sum(1.0f);
}

KERNEL(early_read, struct task, THREADS, 1)
{
    shared<float> s = shared_at<float>(0);
    copy_async16(s + thread_index() * 4, a.in + thread_index() * 4, true);
    copy_async_commit();
    if (!a.mistake)
        copy_async_wait<0>();
    float value = s[thread_index() * 4];
    copy_async_wait<0>();
    global<float>(a.out)[thread_index()] = value;
}

KERNEL(wrong_parity, struct task, THREADS, 1)
{
    shared<uint64_t> bar = shared_at<uint64_t>(8192);
    shared<float> s = shared_at<float>(0);
    if (thread_index() == 0) {
        mbarrier_init(bar, 1);
        mbarrier_fence();
    }
    barrier();
    if (thread_index() == 0) {
        mbarrier_expect(bar, 2048);
        copy_bulk(s, a.in, 2048, bar);
    }
    mbarrier_wait(bar, a.mistake); /* the phase before the first one is complete */
    global<float>(a.out)[thread_index()] = s[thread_index()];
    barrier();
    mbarrier_wait(bar, 0);
}

/* One lane tells another warp what its whole warp wrote. */
KERNEL(lane_tells, struct task, THREADS, 1)
{
    shared<uint64_t> bar = shared_at<uint64_t>(8192);
    shared<float> s = shared_at<float>(0);
    if (thread_index() == 0) {
        mbarrier_init(bar, 1);
        mbarrier_fence();
    }
    barrier();
    if (warp_index() == 0) {
        s[thread_index()] = 1;
        if (!a.mistake)
            warp_sync();
        if (lane_index() == 0)
            mbarrier_arrive(bar);
        return;
    }
    mbarrier_wait(bar, 0);
    global<float>(a.out)[thread_index()] = s[lane_index()];
}

KERNEL(no_fence, struct task, THREADS, 1)
{
    shared<uint16_t> tile = shared_at<uint16_t>(0);
    float d[4] = {};
    for (uint32_t i = thread_index(); i < 8192; i += THREADS)
        tile[i] = bf16_of(1);
    if (!a.mistake)
        async_fence();
    barrier();
    wgmma_fence();
    wgmma_bf16<8>(d, wgmma_tile(tile, 0, 1024, SWIZZLE_128),
                  wgmma_tile(tile + 4096, 0, 1024, SWIZZLE_128), false);
    wgmma_commit();
    wgmma_wait<0>();
    global<float>(a.out)[thread_index()] = d[0];
}

KERNEL(overwritten_tile, struct task, THREADS, 1)
{
    shared<uint16_t> tile = shared_at<uint16_t>(0);
    float d[4] = {};
    for (uint32_t i = thread_index(); i < 8192; i += THREADS)
        tile[i] = bf16_of(1);
    async_fence();
    barrier();
    wgmma_bf16<8>(d, wgmma_tile(tile, 0, 1024, SWIZZLE_128),
                  wgmma_tile(tile + 4096, 0, 1024, SWIZZLE_128), false);
    wgmma_commit();
    if (!a.mistake)
        wgmma_wait<0>();
    barrier();
    for (uint32_t i = thread_index(); i < 8192; i += THREADS)
        tile[i] = bf16_of(2);
    wgmma_wait<0>();
    global<float>(a.out)[thread_index()] = d[0];
}

/* ---- launches that overlap the one before ---- */

KERNEL(fills, struct task, THREADS, 1)
{
    launch_next();
    launch_wait();
    global<float>(a.out)[block_x() * THREADS + thread_index()] = 7;
}

/* A plain read, which the emulator does not see: what it gets tells. */
KERNEL(reads_early, struct task, THREADS, 1)
{
    uint32_t i = block_x() * THREADS + thread_index();
    float early = a.in[i];
    launch_wait();
    float late = a.in[i];
    global<float>(a.out)[i] = a.mistake ? early : late;
}

KERNEL(writes_early, struct task, THREADS, 1)
{
    if (!a.mistake)
        launch_wait();
    global<float>(a.out)[thread_index()] = 1;
    launch_wait();
}

KERNEL(sees_early, struct task, THREADS, 1)
{
    global<float> out(a.out);
    float value = 0;
    if (a.mistake)
        value = out[thread_index()];
    launch_wait();
    out[thread_index()] = value;
}

KERNEL(some_never_wait, struct task, THREADS, 1)
{
    if (!a.mistake || thread_index() < 32)
        launch_wait();
    if (thread_index() < 32)
        global<float>(a.out)[thread_index()] = 1;
}

template <auto kernel>
static void overlap_finds(const char *name, const char *word, struct runtime *runtime,
                          struct task task)
{
    struct error error = {};
    launch_named<kernel>(runtime, name, launch{1, 1, 1, THREADS, 0, true}, task);
    enum status status = runtime_wait(runtime, &error);
    if (!task.mistake && status != STATUS_OK)
        fail_msg("%s without its mistake: %s", name, error.text);
    if (task.mistake && (status == STATUS_OK || !strstr(error.text, word)))
        fail_msg("%s: \"%s\" is not in: %s", name, word, error.text);
}

static void launches_that_overlap(void **)
{
    for (uint32_t mistake = 0; mistake < 2; mistake++)
        for (uint32_t seed = 0; seed < SEEDS; seed++) {
            struct runtime *runtimes[4];
            struct task task = {NULL, NULL, mistake};
            for (uint32_t i = 0; i < 4; i++)
                runtimes[i] = runtime_make(seed);
#define OVERLAP(i, kernel, word)                                                                   \
    task.out = (float *)runtime_alloc(runtimes[i], 4096 * sizeof(float));                          \
    overlap_finds<kernel>(#kernel, word, runtimes[i], task);
            OVERLAP(0, writes_early, "writes memory before launch_wait")
            OVERLAP(1, sees_early, "reads memory before launch_wait")
            OVERLAP(2, some_never_wait, "ends without launch_wait")
            enum { BLOCKS = 6 };
            float *from = (float *)runtime_alloc(runtimes[3], 4096 * sizeof(float));
            float *to = (float *)runtime_alloc(runtimes[3], 4096 * sizeof(float));
            float got[BLOCKS * THREADS];
            struct task fill = {from, NULL, 0}, read = {to, from, mistake};
            for (uint32_t copied = 0; copied < 2; copied++) { /* after a copy nothing is in doubt */
                launch_named<fills>(runtimes[3], "fills", launch{BLOCKS, 1, 1, THREADS, 0, true},
                                    fill);
                if (copied)
                    runtime_move(runtimes[3], to, from, sizeof got);
                launch_named<reads_early>(runtimes[3], "reads_early",
                                          launch{BLOCKS, 1, 1, THREADS, 0, true}, read);
                assert_int_equal(runtime_wait(runtimes[3], NULL), STATUS_OK);
                runtime_download(runtimes[3], got, to, sizeof got);
                uint32_t missed = 0;
                for (float value : got)
                    missed += value != 7;
                assert_true(mistake && !copied ? missed >= 4 : missed == 0);
            }
            for (struct runtime *runtime : runtimes)
                runtime_close(runtime);
        }
}

/* The budget that KERNEL states is that of the launch. */
KERNEL(two_fit, struct task, THREADS, 2)
{
    global<float>(a.out)[thread_index()] = 1;
}

static void budgets_are_kept(void **)
{
    const struct {
        uint32_t threads, shared_bytes;
        const char *word;
    } launches[] = {{THREADS, 113u << 10, NULL},
                    {THREADS, (113u << 10) + 1, "2 blocks of that fit"},
                    {THREADS / 2, 0, "threads a block"},
                    {2 * THREADS, 0, "threads a block"}};
    for (const auto &it : launches) {
        struct runtime *runtime = runtime_make(1);
        struct task task = {(float *)runtime_alloc(runtime, 4096 * sizeof(float)), NULL, 0};
        struct error error = {};
        launch_kernel(two_fit, runtime, (launch{1, 1, 1, it.threads, it.shared_bytes, false}), task);
        enum status status = runtime_wait(runtime, &error);
        if (it.word ? status == STATUS_OK || !strstr(error.text, it.word) : status != STATUS_OK)
            fail_msg("%u threads, %u bytes: %s", it.threads, it.shared_bytes, error.text);
        runtime_close(runtime);
    }
}

static void mistakes_are_found(void **)
{
#define FINDS(kernel, word, blocks) finds<kernel>(#kernel, word, blocks)
    FINDS(no_barrier, "shared memory", 1);
    FINDS(no_second_barrier, "race in shared memory", 1);
    FINDS(no_warp_sync, "shared memory", 1);
    FINDS(never_written, "nobody wrote it", 1);
    FINDS(too_far, "of shared memory, which has 16384", 1);
    FINDS(nobodys_memory, "no memory of the card", 1);
    FINDS(blocks_race, "race in memory", 4);
    FINDS(unordered_merge, "race in memory", 4);
    FINDS(lane_missing, "waits for ever", 1);
    FINDS(early_read, "while a copy into it is on its way", 1);
    FINDS(wrong_parity, "of shared memory is read", 1);
    FINDS(lane_tells, "shared memory", 1);
    FINDS(no_fence, "async_fence", 1);
    FINDS(overwritten_tile, "that no wait covers", 1);
}

/* ---- what tensor instructions compute ---- */

/* out[64][n] = A[64][k] B[n][k]^T, tiles by stores through the swizzle, A by its tile or its
 * registers, B by rows of k or turned. */
#define N 64
#define K 64

LEAF uint32_t swizzled(uint32_t row, uint32_t byte)
{
    uint32_t at = row * 128 + byte;
    return at ^ (at >> 7 & 7) << 4;
}

template <bool held, bool turned> KERNEL(product, struct task, THREADS, 1)
{
    shared<uint16_t> ta = shared_at<uint16_t>(0), tb = shared_at<uint16_t>(64 * 128);
    const float *in_a = a.in, *in_b = a.in + 64 * K;
    for (uint32_t i = thread_index(); i < 64 * K; i += THREADS) {
        uint32_t row = i / K, k = i % K;
        ta[swizzled(row, 2 * k) / 2] = bf16_of(in_a[i]);
        tb[turned ? swizzled(k, 2 * row) / 2 : swizzled(row, 2 * k) / 2] = bf16_of(in_b[i]);
    }
    async_fence();
    barrier();
    float d[N / 2] = {};
    uint32_t t = thread_index(), row = t / 32 * 16 + t % 32 / 4;
    wgmma_fence();
    for (uint32_t k = 0; k < K; k += 16) {
        uint32_t b_at = turned ? k * 128 / 2 : k;
        uint64_t b = wgmma_tile(tb + b_at, turned ? 8192 : 0, 1024, SWIZZLE_128);
        if (held) {
            uint32_t r[4];
            for (uint32_t i = 0; i < 4; i++) {
                const float *at = in_a + (row + 8 * (i & 1)) * K + k + 2 * (t % 4) + 8 * (i >> 1);
                r[i] = pack_bf16(at[0], at[1]);
            }
            wgmma_bf16<N, turned>(d, r, b, k > 0);
            wgmma_commit();
            wgmma_wait<0>(); /* before r is written again */
        } else {
            wgmma_bf16<N, turned>(d, wgmma_tile(ta + k, 0, 1024, SWIZZLE_128), b, k > 0);
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
    global<float> out(a.out);
    for (uint32_t i = 0; i < N / 2; i++)
        out[(row + 8 * (i / 2 % 2)) * N + 8 * (i / 4) + 2 * (t % 4) + i % 2] = d[i];
}

/* The same by mma: each warp 16 rows, A by ldmatrix from plain rows, B from memory. */
KERNEL(product_by_warps, struct task, THREADS, 1)
{
    shared<uint16_t> ta = shared_at<uint16_t>(0);
    const float *in_b = a.in + 64 * K;
    for (uint32_t i = thread_index(); i < 64 * K; i += THREADS)
        ta[i] = bf16_of(a.in[i]);
    barrier();
    uint32_t lane = lane_index(), first = warp_index() * 16;
    global<float> out(a.out);
    for (uint32_t n = 0; n < N; n += 8) {
        float d[4] = {};
        for (uint32_t k = 0; k < K; k += 16) {
            uint32_t r[4], b[2];
            ldmatrix_x4(r, ta + (first + lane % 16) * K + k + lane / 16 * 8);
            for (uint32_t i = 0; i < 2; i++) {
                const float *at = in_b + (n + lane / 4) * K + k + 2 * (lane % 4) + 8 * i;
                b[i] = pack_bf16(at[0], at[1]);
            }
            mma_bf16(d, r, b);
        }
        for (uint32_t i = 0; i < 4; i++)
            out[(first + lane / 4 + 8 * (i >> 1)) * N + n + 2 * (lane % 4) + (i & 1)] = d[i];
    }
}

/* Whole numbers, so that the result is exact in any order. */
static void products_check(struct runtime *runtime, const struct task *task)
{
    static float in[128 * K], out[64 * N];
    struct error error = {};
    if (runtime_wait(runtime, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    runtime_download(runtime, in, task->in, sizeof in);
    runtime_download(runtime, out, task->out, sizeof out);
    for (uint32_t row = 0; row < 64; row++)
        for (uint32_t n = 0; n < N; n++) {
            float sum = 0;
            for (uint32_t k = 0; k < K; k++)
                sum += in[row * K + k] * in[(64 + n) * K + k];
            assert_true(out[row * N + n] == sum);
        }
}

template <auto kernel> static void product_is(const char *name)
{
    static float in[128 * K], nothing[64 * N];
    for (uint32_t i = 0; i < 128 * K; i++)
        in[i] = (float)((int32_t)(i * 2654435761u >> 20) % 17 - 8);
    memset(nothing, 0xff, sizeof nothing);
    struct runtime *runtime = runtime_make(1);
    float *there = (float *)runtime_alloc(runtime, sizeof in);
    struct task task = {(float *)runtime_alloc(runtime, sizeof nothing), there, 0};
    runtime_upload(runtime, there, in, sizeof in);
    runtime_upload(runtime, task.out, nothing, sizeof nothing);
    launch_named<kernel>(runtime, name, launch{1, 1, 1, THREADS, 16384, false}, task);
    products_check(runtime, &task);
    runtime_close(runtime);
}

static void tensor_products(void **)
{
    product_is<product<false, false>>("tiles");
    product_is<product<true, false>>("A in registers");
    product_is<product<false, true>>("B turned");
    product_is<product<true, true>>("A in registers, B turned");
    product_is<product_by_warps>("mma");
}

/* ---- small numbers ---- */

static void small_numbers(void **)
{
    for (uint32_t half = 0; half < 65536; half++) {
        float value = host_float_of_f16((uint16_t)half);
        if (value == value)
            assert_int_equal(host_f16_of(value), half);
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        float value = host_float_of_e4m3((uint8_t)byte);
        if (value == value)
            assert_int_equal(host_e4m3_of(value), byte);
    }
    for (uint32_t pair = 0; pair < 65536; pair++) {
        float low = host_float_of_e4m3((uint8_t)pair),
              high = host_float_of_e4m3((uint8_t)(pair >> 8));
        uint32_t f16 = f16x2_of_e4m3x2((uint16_t)pair), bf16 = bf16x2_of_e4m3x2((uint16_t)pair);
        if (low != low)
            assert_true((f16 & 0xffff) == 0x7fff && (bf16 & 0xffff) == 0x7fff);
        else
            assert_true(float_of_f16((uint16_t)f16) == low && float_of_bf16((uint16_t)bf16) == low);
        if (high != high)
            assert_true(f16 >> 16 == 0x7fff && bf16 >> 16 == 0x7fff);
        else
            assert_true(float_of_f16((uint16_t)(f16 >> 16)) == high &&
                        float_of_bf16((uint16_t)(bf16 >> 16)) == high);
        if (low == low && high == high)
            assert_int_equal(e4m3x2_of(low, high), pair);
    }
    /* Halves go to the even neighbour; what is too large saturates in e4m3 and not in f16. */
    assert_int_equal(host_f16_of(1 + 0x1p-11f), 0x3c00);
    assert_int_equal(host_f16_of(1 + 0x3p-11f), 0x3c02);
    assert_int_equal(host_f16_of(65520), 0x7c00);
    assert_int_equal(host_f16_of(0x1p-25f), 0);
    assert_int_equal(host_e4m3_of(1e9f), 0x7e);
    assert_int_equal(host_e4m3_of(17), 0x58);
    assert_int_equal(host_e4m3_of(-19), 0xda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_found),
        cmocka_unit_test(launches_that_overlap),
        cmocka_unit_test(budgets_are_kept),
        cmocka_unit_test(tensor_products),
        cmocka_unit_test(small_numbers),
    };
    return cmocka_run_group_tests_name("cuda leaves", tests, NULL, NULL);
}
