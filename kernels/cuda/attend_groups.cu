#include "kernels/cuda/attend.h"
#include "kernels/cuda/ring.h"

/*
 * sm_90a: one warp brings K and V by bulk copies into a ring of steps, one or two warpgroups of 64
 * pairs each compute with wgmma, whose A is in registers throughout. Two: prompts, a block on a
 * processor. One: few pairs, where bytes count, two blocks on a processor.
 *
 * A step of the ring has three mbarriers: K is there, V is there, nobody reads them any more.
 *
 * E4M3: bulk copies bring rows of bytes into a second ring, raw, and the three other warps of the
 * warpgroup that copies widen them into the first one, whose readers notice nothing of it.
 */

#define GROUP_THREADS 128u
#define GROUP_PAIRS 64u

template <uint32_t n_steps, uint32_t bytes, uint32_t at_byte, uint32_t bars> struct ring {
    static constexpr uint32_t steps = n_steps, tile_bytes = bytes /* of K, or of V */, at = at_byte;
    static constexpr uint32_t bars_at = bars; /* [steps]{K, V, free} */
    static constexpr uint32_t end = at + 2 * steps * tile_bytes;
    static constexpr uint32_t bars_end = bars + steps * 3 * 8;
};

#define WIDENING_WARPS 3u

template <uint32_t head_dim, uint32_t groups, bool bytes_raw> struct ring_shape {
    static constexpr bool raw = bytes_raw;
    static constexpr uint32_t tile_bytes = ATTEND_STEP_TOKENS * head_dim * 2;
    static constexpr uint32_t steps = groups == 2 ? 4 : raw ? 2 : 3, raw_steps = raw ? 3 : 0;
    static constexpr uint32_t raw_at = 2 * steps * tile_bytes;
    static constexpr uint32_t bars_at = raw_at + raw_steps * tile_bytes;
    typedef struct ring<steps, tile_bytes, 0, bars_at> ready; /* what is computed with */
    typedef struct ring<raw_steps, tile_bytes / 2, raw_at, ready::bars_end> pages; /* E4M3 alone */
    static constexpr uint32_t word_at = pages::bars_end;
    static constexpr uint32_t bytes = word_at + 16;
    static constexpr uint32_t threads = (groups + 1) * GROUP_THREADS;
    /* Registers of a thread that computes and of one that copies; all of a processor's are 65536.
     */
    static constexpr uint32_t registers_copying = raw ? 48 : 40;
    static constexpr uint32_t registers = groups == 1 ? 256 - registers_copying : raw ? 224 : 232;
};

template <typename shape> LEAF shared<char> ring_tile(uint32_t step, uint32_t value)
{
    return shared_at<char>(shape::at + (2 * step + value) * shape::tile_bytes);
}

enum ring_bar { RING_K, RING_V, RING_FREE };
template <typename shape> LEAF shared<uint64_t> ring_bar(uint32_t step, enum ring_bar bar)
{
    return shared_at<uint64_t>(shape::bars_at + (3 * step + bar) * 8);
}

/* ---- the warp that copies ---- */

/* What no pair attends to is zero: rows of the first and the last step. */
template <uint32_t head_dim>
LEAF void rows_clear(uint32_t first, uint32_t last, shared<char> k, shared<char> v)
{
    const uint32_t pieces = head_dim / 8;
    for (uint32_t at = lane_index(); at < ATTEND_STEP_TOKENS * pieces; at += 32) {
        uint32_t row = at / pieces;
        if (row >= first && row <= last)
            continue;
        uint32_t to = kv_piece_at(head_dim, ATTEND_STEP_TOKENS, row, at % pieces);
        (k + to).template as<bytes16>()[0] = bytes16{};
        (v + to).template as<bytes16>()[0] = bytes16{};
    }
    async_fence();
}

/* Both expect what the pages of a step hold. */
template <typename shape> LEAF void step_expect(uint32_t ring_step, uint32_t bytes)
{
    warp_sync();
    if (lane_index() == 0) {
        mbarrier_expect(ring_bar<shape>(ring_step, RING_K), bytes);
        mbarrier_expect(ring_bar<shape>(ring_step, RING_V), bytes);
    }
    warp_sync();
}

/* A lane copies one page's rows of bytes of K or V. */
template <uint32_t head_dim, typename shape>
LEAF void step_bring_raw(const struct attend_task &a, const struct attend_work &w, uint32_t step,
                         uint32_t ring_step)
{
    uint32_t begin = step * ATTEND_STEP_TOKENS, page_tokens = a.kv.block_tokens;
    uint32_t first = max_u32(begin, w.tile.first);
    uint32_t last = min_u32(begin + ATTEND_STEP_TOKENS - 1, w.tile.last);
    step_expect<shape>(ring_step, (last - first + 1) * head_dim);
    uint32_t first_page = first / page_tokens, n_pages = last / page_tokens - first_page + 1;
    for (uint32_t at = lane_index(); at < 2 * n_pages; at += 32) {
        uint32_t value = at / n_pages, page = first_page + at % n_pages;
        uint32_t from = max_u32(first, page * page_tokens);
        uint32_t to = min_u32(last, page * page_tokens + page_tokens - 1);
        const char *tile =
            kv_tile(a.kv, kv_block(a.kv, w.tile.slot, from), a.layer, w.kv_head, value);
        copy_bulk(ring_tile<shape>(ring_step, value) + (from - begin) * head_dim,
                  tile + from % page_tokens * head_dim, (to - from + 1) * head_dim,
                  ring_bar<shape>(ring_step, value ? RING_V : RING_K));
    }
}

/* A lane copies one page's part of one strip of K or V, K first. */
template <uint32_t head_dim, typename shape>
LEAF void step_bring(const struct attend_task &a, const struct attend_work &w, uint32_t step,
                     uint32_t ring_step)
{
    uint32_t begin = step * ATTEND_STEP_TOKENS, page_tokens = a.kv.block_tokens;
    uint32_t first = max_u32(begin, w.tile.first);
    uint32_t last = min_u32(begin + ATTEND_STEP_TOKENS - 1, w.tile.last);
    shared<char> k = ring_tile<shape>(ring_step, 0), v = ring_tile<shape>(ring_step, 1);
    if (last - first + 1 < ATTEND_STEP_TOKENS)
        rows_clear<head_dim>(first - begin, last - begin, k, v);
    step_expect<shape>(ring_step, (last - first + 1) * head_dim * 2);
    uint32_t first_page = first / page_tokens, n_pages = last / page_tokens - first_page + 1;
    uint32_t n_strips = kv_strips_count(head_dim);
    for (uint32_t at = lane_index(); at < 2 * n_strips * n_pages; at += 32) {
        uint32_t value = at / (n_strips * n_pages), strip = at / n_pages % n_strips;
        uint32_t page = first_page + at % n_pages, width = kv_strip_width(head_dim, strip) * 2;
        uint32_t from = max_u32(first, page * page_tokens);
        uint32_t to = min_u32(last, page * page_tokens + page_tokens - 1);
        uint32_t strip_at = kv_strip_first(head_dim, strip) * 2;
        const char *tile =
            kv_tile(a.kv, kv_block(a.kv, w.tile.slot, from), a.layer, w.kv_head, value);
        copy_bulk((value ? v : k) + strip_at * ATTEND_STEP_TOKENS + (from - begin) * width,
                  tile + strip_at * page_tokens + from % page_tokens * width,
                  (to - from + 1) * width, ring_bar<shape>(ring_step, value ? RING_V : RING_K));
    }
}

template <uint32_t head_dim, typename shape, bool raw>
LEAF void steps_bring(const struct attend_task &a)
{
    struct ring_place place = {0, 0};
    uint32_t n_items = attend_items(a);
    for (uint32_t index = block_x(); index < n_items; index += grid_x()) {
        struct attend_work w = attend_work_get(a, index);
        for (uint32_t step = w.first_step; step <= w.last_step; step++) {
            mbarrier_wait(ring_bar<shape>(place.step, RING_FREE), place.parity ^ 1);
            if constexpr (raw)
                step_bring_raw<head_dim, shape>(a, w, step, place.step);
            else
                step_bring<head_dim, shape>(a, w, step, place.step);
            ring_next<shape::steps>(place);
        }
    }
}

/* ---- the warps that widen ---- */

template <uint32_t head_dim, typename from, typename to>
LEAF void steps_widen(const struct attend_task &a, uint32_t thread)
{
    struct ring_place raw = {0, 0}, ready = {0, 0};
    uint32_t n_items = attend_items(a);
    for (uint32_t index = block_x(); index < n_items; index += grid_x()) {
        struct attend_work w = attend_work_get(a, index);
        for (uint32_t step = w.first_step; step <= w.last_step; step++) {
            mbarrier_wait(ring_bar<to>(ready.step, RING_FREE), ready.parity ^ 1);
            for (uint32_t value = 0; value < 2; value++) {
                enum ring_bar bar = value ? RING_V : RING_K;
                mbarrier_wait(ring_bar<from>(raw.step, bar), raw.parity);
                step_widen<head_dim>(w, step, ring_tile<from>(raw.step, value),
                                     ring_tile<to>(ready.step, value), thread, WIDENING_WARPS * 32);
                async_fence();
                ring_tell(ring_bar<to>(ready.step, bar));
            }
            ring_tell(ring_bar<from>(raw.step, RING_FREE));
            ring_next<from::steps>(raw);
            ring_next<to::steps>(ready);
        }
    }
}

/* ---- the warpgroups that compute ---- */

template <uint32_t head_dim> struct strip_of {
    uint32_t at, row_bytes;
    enum swizzle swizzle;
};

template <uint32_t head_dim> LEAF struct strip_of<head_dim> strip_get(uint32_t feature) {
    uint32_t strip = kv_strip_of(head_dim, feature), width = kv_strip_width(head_dim, strip);
    return {kv_strip_first(head_dim, strip) * 2 * ATTEND_STEP_TOKENS, width * 2,
            width == 64   ? SWIZZLE_128
            : width == 32 ? SWIZZLE_64
                          : SWIZZLE_32};
}

/* s = q k^T of the warpgroup's 64 pairs and the step's 64 positions, in one group. */
template <uint32_t head_dim>
LEAF void scores_issue(const uint32_t (&q)[head_dim / 16][4], shared<char> k, float (&s)[32])
{
    wgmma_fence();
#pragma unroll
    for (uint32_t i = 0; i < head_dim / 16; i++) {
        struct strip_of<head_dim> strip = strip_get<head_dim>(16 * i);
        uint32_t feature = 16 * i - strip.at / (2 * ATTEND_STEP_TOKENS);
        uint64_t tile =
            wgmma_tile(k + strip.at + feature * 2, 16, 8 * strip.row_bytes, strip.swizzle);
        wgmma_bf16<64>(s, q[i], tile, i > 0);
    }
    wgmma_commit();
}

/* values += p v for one strip and 16 positions. */
template <uint32_t head_dim, uint32_t width>
LEAF void strip_add(const uint32_t (&p)[4], shared<char> v, uint32_t keys, uint32_t first,
                    float *values)
{
    uint32_t row_bytes = width * 2;
    enum swizzle swizzle = width == 64 ? SWIZZLE_128 : width == 32 ? SWIZZLE_64 : SWIZZLE_32;
    uint64_t tile = wgmma_tile(v + first * 2 * ATTEND_STEP_TOKENS + 16 * keys * row_bytes, 16,
                               8 * row_bytes, swizzle);
    wgmma_bf16<width, true>(*(float(*)[width / 2])(values + first / 2), p, tile, true);
}

template <uint32_t head_dim>
LEAF void values_issue(const uint32_t (&p)[4][4], shared<char> v, float (&values)[head_dim / 2])
{
    wgmma_fence();
#pragma unroll
    for (uint32_t keys = 0; keys < 4; keys++) {
#pragma unroll
        for (uint32_t first = 0; first + 64 <= head_dim; first += 64)
            strip_add<head_dim, 64>(p[keys], v, keys, first, values);
        if constexpr (head_dim % 64 >= 32)
            strip_add<head_dim, 32>(p[keys], v, keys, head_dim / 64 * 64, values);
        if constexpr (head_dim % 32 >= 16)
            strip_add<head_dim, 16>(p[keys], v, keys, head_dim / 32 * 32, values);
    }
    wgmma_commit();
}

/* One step after the other: scores, weights, values. While one warpgroup weighs, the other's
 * products run (or another block's). To issue the next scores ahead as well was tried: with queries
 * and weights in registers nvcc 13.0 then serialises all wgmma (C7511). */
template <uint32_t head_dim, typename shape, uint32_t threads>
LEAF void item_run(const struct attend_task &a, const struct attend_work &w, uint32_t pair,
                   const uint32_t (&q)[head_dim / 16][4], struct attend_lane<head_dim> &lane,
                   struct ring_place &place)
{
    for (uint32_t step = w.first_step; step <= w.last_step; step++) {
        float s[32], fade[2];
        uint32_t p[4][4];
        mbarrier_wait(ring_bar<shape>(place.step, RING_K), place.parity);
        scores_issue<head_dim>(q, ring_tile<shape>(place.step, 0), s);
        wgmma_wait<0>();
        wgmma_hold(s);
        if (!attend_step_full(a, w, step))
            attend_mask(s, lane, step);
        attend_weigh(s, lane, a.scale_log2, fade);
        attend_fade(lane, fade);
        attend_pack(s, p);
        mbarrier_wait(ring_bar<shape>(place.step, RING_V), place.parity);
        values_issue<head_dim>(p, ring_tile<shape>(place.step, 1), lane.values);
        wgmma_wait<0>();
        wgmma_hold(lane.values);
        ring_tell(ring_bar<shape>(place.step, RING_FREE));
        ring_next<shape::steps>(place);
        if (attend_split_ends(w, step))
            attend_split_end(a, w, pair, threads, step, lane);
    }
}

/* A warpgroup without pairs lets the steps pass. */
template <typename shape> LEAF void item_skip(const struct attend_work &w, struct ring_place &place)
{
    for (uint32_t step = w.first_step; step <= w.last_step; step++) {
        mbarrier_wait(ring_bar<shape>(place.step, RING_K), place.parity);
        mbarrier_wait(ring_bar<shape>(place.step, RING_V), place.parity);
        ring_tell(ring_bar<shape>(place.step, RING_FREE));
        ring_next<shape::steps>(place);
    }
}

/* K and V arrive by `n_there` signs, and are free by `n_free`. */
template <typename shape> LEAF void ring_init(uint32_t n_there, uint32_t n_free)
{
    for (uint32_t step = 0; step < shape::steps; step++) {
        mbarrier_init(ring_bar<shape>(step, RING_K), n_there);
        mbarrier_init(ring_bar<shape>(step, RING_V), n_there);
        mbarrier_init(ring_bar<shape>(step, RING_FREE), n_free);
    }
}

/* The warpgroup that brings K and V: its first warp copies, the others widen or do nothing. */
template <uint32_t head_dim, typename shape>
LEAF void bring(const struct attend_task &a, uint32_t thread)
{
    typedef typename shape::ready ready;
    typedef typename shape::pages pages;
    if constexpr (!shape::raw) {
        if (thread < 32)
            steps_bring<head_dim, ready, false>(a);
    } else {
        if (thread < 32)
            steps_bring<head_dim, pages, true>(a);
        else
            steps_widen<head_dim, pages, ready>(a, thread - 32);
    }
}

template <uint32_t head_dim, uint32_t groups, bool bytes>
LEAF void attend_by_groups(const struct attend_task &a)
{
#if ON_HOST || CARD_HAS_WGMMA
    typedef struct ring_shape<head_dim, groups, bytes> shape;
    typedef typename shape::ready ready;
    constexpr uint32_t threads = groups * GROUP_THREADS;
    if (thread_index() == 0) {
        ring_init<ready>(bytes ? WIDENING_WARPS : 1, groups * 4);
        if constexpr (bytes)
            ring_init<typename shape::pages>(1, WIDENING_WARPS);
        mbarrier_fence();
    }
    barrier();
    launch_wait();
    if (thread_index() >= threads) {
        registers_drop<shape::registers_copying>();
        bring<head_dim, shape>(a, thread_index() - threads);
        return;
    }
    registers_raise<shape::registers>();
    struct ring_place place = {0, 0};
    uint32_t n_items = attend_items(a), group = thread_index() / GROUP_THREADS;
    uint32_t pair = group * GROUP_PAIRS + warp_index() % 4 * 16 + lane_index() / 4;
    for (uint32_t index = block_x(); index < n_items; index += grid_x()) {
        struct attend_work w = attend_work_get(a, index);
        if (group * GROUP_PAIRS < attend_pairs(w)) {
            struct attend_lane<head_dim> lane;
            uint32_t q[head_dim / 16][4];
            attend_begin(a, w, pair, q, lane);
            attend_reset(lane);
            item_run<head_dim, ready, threads>(a, w, pair, q, lane, place);
        } else {
            item_skip<ready>(w, place);
        }
        if (w.split != ATTEND_ALL_SPLITS)
            attend_merge<head_dim>(a, w, threads, shared_at<uint32_t>(shape::word_at));
    }
#else
    (void)a;
    __trap();
#endif
}

/* Blocks of one computing warpgroup and one that copies; and of two and one. */
#define GROUPS_THREADS_1 256u
#define GROUPS_THREADS_2 384u

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_64_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<64, 1, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_64_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<64, 2, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_80_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<80, 1, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_80_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<80, 2, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_96_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<96, 1, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_96_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<96, 2, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_128_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<128, 1, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_128_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<128, 2, false>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_64_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<64, 1, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_64_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<64, 2, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_80_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<80, 1, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_80_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<80, 2, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_96_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<96, 1, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_96_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<96, 2, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_128_1, struct attend_task, GROUPS_THREADS_1, 2)
{
    attend_by_groups<128, 1, true>(a);
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
KERNEL(attend_groups_8_128_2, struct attend_task, GROUPS_THREADS_2, 1)
{
    attend_by_groups<128, 2, true>(a);
}

#define GROUPS_LAUNCH(name, head_dim, groups, bytes_raw)                                           \
    static void launch_##name##_##groups(struct runtime *runtime, uint32_t n,                      \
                                         const struct attend_task *task)                           \
    {                                                                                              \
        typedef struct ring_shape<head_dim, groups, bytes_raw> shape;                              \
        static_assert(shape::threads == GROUPS_THREADS_##groups, "the blocks of the kernel");      \
        static_assert(shape::bytes <= (227u << 10) / (3 - groups), "they fit beside each other");  \
        launch_kernel(attend_groups_##name##_##groups, runtime,                                    \
                      (launch{n, 1, 1, shape::threads, shape::bytes, true}), *task);               \
    }
#define GROUPS_LAUNCHES(head_dim)                                                                  \
    GROUPS_LAUNCH(head_dim, head_dim, 1, false)                                                    \
    GROUPS_LAUNCH(head_dim, head_dim, 2, false)                                                    \
    GROUPS_LAUNCH(8_##head_dim, head_dim, 1, true)                                                 \
    GROUPS_LAUNCH(8_##head_dim, head_dim, 2, true)
GROUPS_LAUNCHES(64)
GROUPS_LAUNCHES(80)
GROUPS_LAUNCHES(96)
GROUPS_LAUNCHES(128)

#define GROUPS_PAIR(name)                                                                          \
    {                                                                                              \
        {GROUP_PAIRS, GROUP_THREADS, 2, launch_##name##_1},                                        \
            {2 * GROUP_PAIRS, 2 * GROUP_THREADS, 1, launch_##name##_2},                            \
    }
#define GROUPS_ROW(head_dim)                                                                       \
    {                                                                                              \
        GROUPS_PAIR(head_dim), GROUPS_PAIR(8_##head_dim)                                           \
    }

const struct attend_kernel *attend_groups_find(uint32_t head_dim, bool bytes, bool many_pairs)
{
    static const struct attend_kernel kernels[][2][2] = {GROUPS_ROW(64), GROUPS_ROW(80),
                                                         GROUPS_ROW(96), GROUPS_ROW(128)};
    uint32_t at = head_dim == 64 ? 0 : head_dim == 80 ? 1 : head_dim == 96 ? 2 : 3;
    return at < 3 || head_dim == 128 ? &kernels[at][bytes][many_pairs] : NULL;
}
