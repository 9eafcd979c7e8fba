#include "kernels/cuda/attend.h"

/*
 * sm_80 and later: four warps, 16 pairs each, share two steps of K and V that cp.async brings. In
 * E4M3 both steps are raw, and the one that is due is widened into a tile beside them.
 */

#define WARPS_THREADS 128u
#define WARPS_PAIRS 64u

/* Bytes of a step's K, or V, in shared memory: strips of 64 rows. */
template <uint32_t head_dim> struct warps_shared {
    static constexpr uint32_t tile_bytes = ATTEND_STEP_TOKENS * head_dim * 2;
    static constexpr uint32_t bytes = 4 * tile_bytes + 16; /* [2]{K, V}, a word; or [2]{K, V} raw,
                                                              half of it, {K, V}, a word */
    static constexpr uint32_t word_at = 4 * tile_bytes;
};

/* K and V of a step; what no pair attends to is zero. */
template <uint32_t head_dim>
LEAF void step_copy(const struct attend_task &a, const struct attend_work &w, uint32_t step,
                    shared<char> k, shared<char> v)
{
    const uint32_t pieces = head_dim / 8;
#pragma unroll
    for (uint32_t i = 0; i < pieces / 2; i++) {
        uint32_t at = i * WARPS_THREADS + thread_index(), row = at / pieces, piece = at % pieces;
        uint32_t position = step * ATTEND_STEP_TOKENS + row;
        bool there = position >= w.tile.first && position <= w.tile.last;
        const char *from_k = a.kv.data, *from_v = a.kv.data;
        if (there) {
            uint32_t token = position % a.kv.block_tokens;
            uint32_t place = kv_piece_at(head_dim, a.kv.block_tokens, token, piece);
            uint32_t block = kv_block(a.kv, w.tile.slot, position);
            from_k = kv_tile(a.kv, block, a.layer, w.kv_head, 0) + place;
            from_v = kv_tile(a.kv, block, a.layer, w.kv_head, 1) + place;
        }
        uint32_t to = kv_piece_at(head_dim, ATTEND_STEP_TOKENS, row, piece);
        copy_async16(k + to, from_k, there);
        copy_async16(v + to, from_v, there);
    }
    copy_async_commit();
}

/* The same for rows of bytes. */
template <uint32_t head_dim>
LEAF void step_copy_raw(const struct attend_task &a, const struct attend_work &w, uint32_t step,
                        shared<char> k, shared<char> v)
{
    constexpr uint32_t pieces = head_dim / 16;
#pragma unroll
    for (uint32_t i = 0; i < pieces / 2 + pieces % 2; i++) {
        uint32_t at = i * WARPS_THREADS + thread_index(), row = at / pieces;
        uint32_t position = step * ATTEND_STEP_TOKENS + row;
        if (row >= ATTEND_STEP_TOKENS || position < w.tile.first || position > w.tile.last)
            continue;
        uint32_t block = kv_block(a.kv, w.tile.slot, position);
        uint32_t place = position % a.kv.block_tokens * head_dim + at % pieces * 16;
        copy_async16(k + at * 16, kv_tile(a.kv, block, a.layer, w.kv_head, 0) + place, true);
        copy_async16(v + at * 16, kv_tile(a.kv, block, a.layer, w.kv_head, 1) + place, true);
    }
    copy_async_commit();
}

template <uint32_t head_dim>
LEAF void scores_make(const uint32_t (&q)[head_dim / 16][4], shared<char> k, float (&s)[32])
{
    uint32_t matrix = lane_index() / 8, row = lane_index() % 8 + 8 * (matrix >> 1);
#pragma unroll
    for (uint32_t i = 0; i < 32; i++)
        s[i] = 0;
#pragma unroll
    for (uint32_t keys = 0; keys < 4; keys++)
#pragma unroll
        for (uint32_t i = 0; i < head_dim / 16; i++) {
            uint32_t r[4];
            ldmatrix_x4(r, k + kv_piece_at(head_dim, ATTEND_STEP_TOKENS, 16 * keys + row,
                                           2 * i + (matrix & 1)));
            mma_bf16(*(float(*)[4])(s + 8 * keys), q[i], {r[0], r[1]});
            mma_bf16(*(float(*)[4])(s + 8 * keys + 4), q[i], {r[2], r[3]});
        }
}

template <uint32_t head_dim>
LEAF void values_add(const uint32_t (&p)[4][4], shared<char> v, float (&values)[head_dim / 2])
{
    uint32_t matrix = lane_index() / 8, row = lane_index() % 8 + 8 * (matrix & 1);
#pragma unroll
    for (uint32_t keys = 0; keys < 4; keys++)
#pragma unroll
        for (uint32_t i = 0; i < head_dim / 16; i++) {
            uint32_t r[4];
            ldmatrix_x4_turned(r, v + kv_piece_at(head_dim, ATTEND_STEP_TOKENS, 16 * keys + row,
                                                  2 * i + (matrix >> 1)));
            mma_bf16(*(float(*)[4])(values + 8 * i), p[keys], {r[0], r[1]});
            mma_bf16(*(float(*)[4])(values + 8 * i + 4), p[keys], {r[2], r[3]});
        }
}

/* Brings a step into stage 0 or 1. */
template <uint32_t head_dim, bool bytes>
LEAF void step_begin(const struct attend_task &a, const struct attend_work &w, uint32_t step,
                     uint32_t stage)
{
    constexpr uint32_t part = warps_shared<head_dim>::tile_bytes / (bytes ? 2 : 1);
    shared<char> k = shared_at<char>(2 * part * stage);
    if constexpr (bytes)
        step_copy_raw<head_dim>(a, w, step, k, k + part);
    else
        step_copy<head_dim>(a, w, step, k, k + part);
}

/* Where K of the step is to be read, V behind it, after all threads have met. */
template <uint32_t head_dim, bool bytes>
LEAF shared<char> step_ready(const struct attend_work &w, uint32_t step, uint32_t stage)
{
    constexpr uint32_t tile = warps_shared<head_dim>::tile_bytes;
    if constexpr (!bytes)
        return shared_at<char>(2 * tile * stage);
    shared<char> raw = shared_at<char>(tile * stage), k = shared_at<char>(2 * tile);
    step_widen<head_dim>(w, step, raw, k, thread_index(), WARPS_THREADS);
    step_widen<head_dim>(w, step, raw + tile / 2, k + tile, thread_index(), WARPS_THREADS);
    barrier();
    return k;
}

template <uint32_t head_dim, bool bytes> LEAF void attend_by_warps(const struct attend_task &a)
{
    constexpr uint32_t tile = warps_shared<head_dim>::tile_bytes;
    shared<uint32_t> is_last = shared_at<uint32_t>(warps_shared<head_dim>::word_at);
    launch_wait();
    uint32_t pair = warp_index() * 16 + lane_index() / 4, n_items = attend_items(a);
    for (uint32_t index = block_x(); index < n_items; index += grid_x()) {
        struct attend_work w = attend_work_get(a, index);
        bool busy = warp_index() * 16 < attend_pairs(w);
        struct attend_lane<head_dim> lane;
        uint32_t q[head_dim / 16][4];
        step_begin<head_dim, bytes>(a, w, w.first_step, 0);
        attend_begin(a, w, pair, q, lane);
        attend_reset(lane);
        for (uint32_t step = w.first_step, stage = 0; step <= w.last_step; step++, stage ^= 1) {
            if (step < w.last_step) {
                step_begin<head_dim, bytes>(a, w, step + 1, stage ^ 1);
                copy_async_wait<1>();
            } else {
                copy_async_wait<0>();
            }
            barrier();
            shared<char> k = step_ready<head_dim, bytes>(w, step, stage);
            if (busy) {
                float s[32], fade[2];
                uint32_t p[4][4];
                scores_make<head_dim>(q, k, s);
                if (!attend_step_full(a, w, step))
                    attend_mask(s, lane, step);
                attend_weigh(s, lane, a.scale_log2, fade);
                attend_fade(lane, fade);
                attend_pack(s, p);
                values_add<head_dim>(p, k + tile, lane.values);
                if (attend_split_ends(w, step))
                    attend_split_end(a, w, pair, WARPS_THREADS, step, lane);
            }
            barrier();
        }
        if (w.split != ATTEND_ALL_SPLITS)
            attend_merge<head_dim>(a, w, WARPS_THREADS, is_last);
    }
}

/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_64, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<64, false>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_80, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<80, false>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_96, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<96, false>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_128, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<128, false>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_8_64, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<64, true>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_8_80, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<80, true>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_8_96, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<96, true>(a);
}
/* gate: sm_80 mma.sync ldmatrix cp.async.cg */
KERNEL(attend_warps_8_128, struct attend_task, WARPS_THREADS, 2)
{
    attend_by_warps<128, true>(a);
}

#define WARPS_LAUNCH(name, head_dim)                                                               \
    static void launch_##name(struct runtime *runtime, uint32_t blocks,                            \
                              const struct attend_task *task)                                      \
    {                                                                                              \
        launch_kernel(attend_warps_##name, runtime,                                                \
                      (launch{blocks, 1, 1, WARPS_THREADS, warps_shared<head_dim>::bytes, true}),  \
                      *task);                                                                      \
    }
WARPS_LAUNCH(64, 64)
WARPS_LAUNCH(80, 80)
WARPS_LAUNCH(96, 96)
WARPS_LAUNCH(128, 128)
WARPS_LAUNCH(8_64, 64)
WARPS_LAUNCH(8_80, 80)
WARPS_LAUNCH(8_96, 96)
WARPS_LAUNCH(8_128, 128)

const struct attend_kernel *attend_warps_find(uint32_t head_dim, bool bytes)
{
    static const struct attend_kernel kernels[][2] = {
        {{WARPS_PAIRS, WARPS_THREADS, 2, launch_64}, {WARPS_PAIRS, WARPS_THREADS, 2, launch_8_64}},
        {{WARPS_PAIRS, WARPS_THREADS, 2, launch_80}, {WARPS_PAIRS, WARPS_THREADS, 2, launch_8_80}},
        {{WARPS_PAIRS, WARPS_THREADS, 2, launch_96}, {WARPS_PAIRS, WARPS_THREADS, 2, launch_8_96}},
        {{WARPS_PAIRS, WARPS_THREADS, 2, launch_128},
         {WARPS_PAIRS, WARPS_THREADS, 2, launch_8_128}}};
    uint32_t at = head_dim == 64 ? 0 : head_dim == 80 ? 1 : head_dim == 96 ? 2 : 3;
    return at < 3 || head_dim == 128 ? &kernels[at][bytes] : NULL;
}
