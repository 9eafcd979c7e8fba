/*
 * attend: attention over paged K and V by tensor instructions: what its kernels share.
 *
 * Rows that are neighbours in one sequence, times the query heads that share a KV head, are pairs;
 * up to 64 (or 128) pairs are a tile, the rows of one matrix product. Positions are walked 64 at a
 * time, a step, and eight steps are a split: steps and splits begin at fixed positions of the
 * sequence. Inside a split the softmax runs online, over steps in their order; splits begin anew
 * and are folded in their order. An item of work is a tile with all of its splits, or with one:
 * then each leaves its state, and the block that comes last folds them, the same folds in the same
 * order. So the bits of a row depend on its own positions alone: what a tile holds beside it, and
 * steps that others of its tile attend to and it does not, change nothing (their weights are 0, and
 * values that no pair of the tile attends to are taken as 0).
 *
 * A first kernel (attention.cu) cuts rows into tiles and lists the items, so that a captured graph
 * is right for any positions; blocks then walk the list. attend_warps.cu is for sm_80 and later:
 * cp.async, ldmatrix, mma. attend_groups.cu is for sm_90a: a warp that copies in bulk, warpgroups
 * that compute with wgmma. Both hold queries, scores, weights and values in registers in the same
 * layout, so that all in this file is theirs together.
 *
 * Q, and the weights before they meet V, are rounded to BF16; sums are F32. Limits: head_dim 64,
 * 80, 96 or 128, K and V in BF16 or E4M3, a scale above 0; all else goes through the plain kernel.
 *
 * K and V in E4M3 come as the rows of bytes that pages hold (raw), half of the traffic, and are
 * widened once for all pairs of a tile into the strips of BF16 that the rest of a kernel reads: in
 * BF16 they are the same numbers.
 *
 * A limit: a V that is not finite reaches all pairs of a tile that ends behind it.
 */
#pragma once

#include "kernels/cuda/kv.h"

#define ATTEND_STEP_TOKENS 64u
#define ATTEND_SPLIT_STEPS 8u
#define ATTEND_SPLIT_TOKENS (ATTEND_STEP_TOKENS * ATTEND_SPLIT_STEPS)
#define ATTEND_ALL_SPLITS UINT32_MAX
#define ATTEND_STATE_EXTRA 2u /* floats behind a pair's values: most, sum */

/* Rows row .. row + n_rows - 1, which attend to positions first .. last. */
struct attend_tile {
    uint32_t row, n_rows, slot;
    uint32_t position;    /* of the first row */
    uint32_t first, last; /* that any of the rows attends to */
    uint32_t n_items;     /* more than one: a split each */
    uint32_t state;       /* its first one in `states` */
};
struct attend_item {
    uint32_t tile, split; /* the split's number in the sequence, or ATTEND_ALL_SPLITS */
};
struct attend_counts {
    uint32_t n_tiles, n_items;
};

/* Scratch of one call. */
struct attend_memory {
    struct attend_counts *counts;
    struct attend_tile *tiles; /* [rows] */
    struct attend_item *items; /* [rows + states_max] */
    uint32_t *arrived;         /* [rows][units] */
    float *states;             /* [states_max][head_dim + ATTEND_STATE_EXTRA] */
    float *totals;             /* [blocks][head_dim / 2 + 4][threads]: what splits gave so far */
    uint32_t states_max;
};

struct attend_task {
    uint32_t n_rows, n_heads, n_kv_heads, layer, window_tokens;
    uint32_t group;                 /* query heads of a KV head */
    uint32_t tile_heads, tile_rows; /* of the group, that a tile takes; rows that fit then */
    uint32_t units;                 /* items of an attend_item: KV heads times cuts of the group */
    uint32_t few;                   /* fewer tiles times units: splits are items */
    float scale_log2;               /* scale * log2(e) */
    const float *qkv;
    const uint32_t *positions, *slots; /* [n_rows] */
    struct kv_view kv;
    struct attend_memory memory;
    float *out;
};

/* Which kernel runs, how its blocks look. */
struct attend_kernel {
    uint32_t pairs, threads, blocks_per_processor; /* threads: those that hold values */
    void (*launch)(struct runtime *runtime, uint32_t blocks, const struct attend_task *task);
};
/* NULL when there is none for this head_dim. `bytes`: K and V are E4M3. */
const struct attend_kernel *attend_warps_find(uint32_t head_dim, bool bytes);
const struct attend_kernel *attend_groups_find(uint32_t head_dim, bool bytes, bool many_pairs);

/* ---- one item, as a thread sees it ---- */

struct attend_work {
    struct attend_tile tile;
    uint32_t tile_index, split, unit;
    uint32_t kv_head, head, n_heads; /* heads head .. head + n_heads - 1 of all heads */
    uint32_t first_step, last_step;
};

LEAF uint32_t attend_items(const struct attend_task &a)
{
    return a.memory.counts->n_items * a.units;
}

/* Items are taken from the last, which is the longest of a prompt, to the first. */
LEAF struct attend_work attend_work_get(const struct attend_task &a, uint32_t index)
{
    struct attend_work w;
    struct attend_item item = a.memory.items[a.memory.counts->n_items - 1 - index / a.units];
    w.unit = index % a.units;
    w.tile_index = item.tile;
    w.tile = a.memory.tiles[item.tile];
    w.split = item.split;
    uint32_t cuts = a.units / a.n_kv_heads, in_group = w.unit % cuts * a.tile_heads;
    w.kv_head = w.unit / cuts;
    w.head = w.kv_head * a.group + in_group;
    w.n_heads = min_u32(a.tile_heads, a.group - in_group);
    w.first_step = w.tile.first / ATTEND_STEP_TOKENS;
    w.last_step = w.tile.last / ATTEND_STEP_TOKENS;
    if (item.split != ATTEND_ALL_SPLITS) {
        uint32_t begin = item.split * ATTEND_SPLIT_STEPS;
        w.first_step = max_u32(w.first_step, begin);
        w.last_step = min_u32(w.last_step, begin + ATTEND_SPLIT_STEPS - 1);
    }
    return w;
}

LEAF uint32_t attend_pairs(const struct attend_work &w)
{
    return w.tile.n_rows * w.n_heads;
}

/* The step is the last of its split, or of the item. */
LEAF bool attend_split_ends(const struct attend_work &w, uint32_t step)
{
    return step == w.last_step || step % ATTEND_SPLIT_STEPS == ATTEND_SPLIT_STEPS - 1;
}

LEAF const float *attend_query(const struct attend_task &a, const struct attend_work &w,
                               uint32_t pair, uint32_t head_dim)
{
    size_t heads = a.n_heads + 2 * a.n_kv_heads, row = w.tile.row + pair / w.n_heads;
    return a.qkv + (row * heads + w.head + pair % w.n_heads) * head_dim;
}

LEAF global<float> attend_out(const struct attend_task &a, const struct attend_work &w,
                              uint32_t pair, uint32_t head_dim)
{
    size_t row = w.tile.row + pair / w.n_heads;
    return global<float>(a.out + (row * a.n_heads + w.head + pair % w.n_heads) * head_dim);
}

/* State of a pair of a tile for one of its splits. */
LEAF global<float> attend_state(const struct attend_task &a, const struct attend_work &w,
                                uint32_t split_index, uint32_t pair, uint32_t head_dim)
{
    size_t index = w.tile.state +
                   ((size_t)split_index * a.units + w.unit) * (w.tile.n_rows * a.tile_heads) + pair;
    return global<float>(a.memory.states + index * (head_dim + ATTEND_STATE_EXTRA));
}

/* ---- E4M3 ---- */

/* 16 features of row `row` of a step, or zeros, from where they came raw to their place in a tile
 * of BF16. Neighbouring threads have neighbouring pieces; which half goes first keeps their stores
 * in different banks. */
template <uint32_t head_dim>
LEAF void piece_widen(shared<char> raw, uint32_t row, uint32_t piece, bool there, shared<char> tile)
{
    bytes16 bytes = {}, halves[2];
    if (there)
        bytes = (raw + row * head_dim + piece * 16).template as<bytes16>()[0];
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        halves[i / 4].word[i % 4] = bf16x2_of_e4m3x2((uint16_t)(bytes.word[i / 2] >> 16 * (i % 2)));
    bool turned = piece / 4 % 2 == 1;
    uint32_t first = kv_piece_at(head_dim, ATTEND_STEP_TOKENS, row, 2 * piece + turned);
    uint32_t second = kv_piece_at(head_dim, ATTEND_STEP_TOKENS, row, 2 * piece + !turned);
    (tile + first).template as<bytes16>()[0] = turned ? halves[1] : halves[0];
    (tile + second).template as<bytes16>()[0] = turned ? halves[0] : halves[1];
}

/* A step's K, or V, by `threads` threads; rows that no pair of the tile attends to become zeros. */
template <uint32_t head_dim>
LEAF void step_widen(const struct attend_work &w, uint32_t step, shared<char> raw,
                     shared<char> tile, uint32_t thread, uint32_t threads)
{
    constexpr uint32_t pieces = head_dim / 16;
#pragma unroll 1 /* the warps that do this beside others have few registers */
    for (uint32_t at = thread; at < ATTEND_STEP_TOKENS * pieces; at += threads) {
        uint32_t row = at / pieces, position = step * ATTEND_STEP_TOKENS + row;
        bool there = position >= w.tile.first && position <= w.tile.last;
        piece_widen<head_dim>(raw, row, at % pieces, there, tile);
    }
}

/* ---- registers ----
 *
 * A thread holds values of two pairs, 8 apart: `pair` and pair + 8. Value 4 j + 2 h + i of its
 * scores is of pair h and position 8 j + 2 (lane % 4) + i of the step; of its values likewise with
 * features. That is what mma and wgmma leave, and what the next of them takes as its A. */

template <uint32_t head_dim> struct attend_lane {
    float values[head_dim / 2];
    float most[2], sum[2];
    uint32_t first[2], last[2]; /* positions that each pair attends to; none: last < first */
};

/* Queries in BF16, zeros where there is no pair: A of head_dim / 16 products. */
template <uint32_t head_dim>
LEAF void attend_begin(const struct attend_task &a, const struct attend_work &w, uint32_t pair,
                       uint32_t (&q)[head_dim / 16][4], struct attend_lane<head_dim> &lane)
{
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t at = pair + 8 * h, position = w.tile.position + at / w.n_heads;
        bool there = at < attend_pairs(w);
        const float *from = attend_query(a, w, there ? at : 0, head_dim) + 2 * (lane_index() % 4);
#pragma unroll
        for (uint32_t k = 0; k < head_dim / 16; k++)
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                float low = from[16 * k + 8 * i], high = from[16 * k + 8 * i + 1];
                q[k][2 * i + h] = there ? pack_bf16(low, high) : 0;
            }
        bool cut = a.window_tokens > 0 && position >= a.window_tokens;
        lane.first[h] = there ? (cut ? position - a.window_tokens + 1 : 0) : 1;
        lane.last[h] = there ? position : 0;
    }
}

template <uint32_t head_dim> LEAF void attend_reset(struct attend_lane<head_dim> &lane)
{
#pragma unroll
    for (uint32_t i = 0; i < head_dim / 2; i++)
        lane.values[i] = 0;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        lane.most[h] = -INFINITY;
        lane.sum[h] = 0;
    }
}

/* Every pair of the tile attends to the whole step. */
LEAF bool attend_step_full(const struct attend_task &a, const struct attend_work &w, uint32_t step)
{
    uint32_t begin = step * ATTEND_STEP_TOKENS, end = begin + ATTEND_STEP_TOKENS - 1;
    uint32_t last_row = w.tile.position + w.tile.n_rows - 1;
    bool behind = a.window_tokens > 0 && last_row >= a.window_tokens &&
                  begin < last_row - a.window_tokens + 1;
    return end <= w.tile.position && !behind;
}

template <uint32_t head_dim>
LEAF void attend_mask(float (&s)[32], const struct attend_lane<head_dim> &lane, uint32_t step)
{
    uint32_t begin = step * ATTEND_STEP_TOKENS + 2 * (lane_index() % 4);
#pragma unroll
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t position = begin + i / 4 * 8 + i % 2, h = i / 2 % 2;
        if (position < lane.first[h] || position > lane.last[h])
            s[i] = -INFINITY;
    }
}

/* exp2(most * scale - base) of nothing is 0, also where all is nothing. */
LEAF float attend_base(float most, float scale_log2)
{
    return most == -INFINITY ? 0.0f : most * scale_log2;
}

/* Scores become weights; what was summed before fades by `fade`. */
template <uint32_t head_dim>
LEAF void attend_weigh(float (&s)[32], struct attend_lane<head_dim> &lane, float scale_log2,
                       float (&fade)[2])
{
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        float most = lane.most[h], sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < 16; i++)
            most = fmaxf(most, s[i / 2 * 4 + 2 * h + i % 2]);
        most = fmaxf(most, shuffle_xor(most, 1));
        most = fmaxf(most, shuffle_xor(most, 2));
        float base = attend_base(most, scale_log2);
        fade[h] = exp2_near(lane.most[h] * scale_log2 - base);
        lane.most[h] = most;
#pragma unroll
        for (uint32_t i = 0; i < 16; i++) {
            float &value = s[i / 2 * 4 + 2 * h + i % 2];
            value = exp2_near(fma32(value, scale_log2, -base));
            sum += value;
        }
        lane.sum[h] = fma32(lane.sum[h], fade[h], sum);
    }
}

template <uint32_t head_dim>
LEAF void attend_fade(struct attend_lane<head_dim> &lane, const float (&fade)[2])
{
#pragma unroll
    for (uint32_t i = 0; i < head_dim / 2; i++)
        lane.values[i] *= fade[i / 2 % 2];
}

/* Weights as A of the four products with V: 16 positions each. */
LEAF void attend_pack(const float (&s)[32], uint32_t (&p)[4][4])
{
#pragma unroll
    for (uint32_t k = 0; k < 4; k++)
#pragma unroll
        for (uint32_t r = 0; r < 4; r++)
            p[k][r] = pack_bf16(s[8 * k + 4 * (r >> 1) + 2 * (r & 1)],
                                s[8 * k + 4 * (r >> 1) + 2 * (r & 1) + 1]);
}

/* ---- the end of a split ---- */

struct attend_fold {
    float most, had, next; /* factors of what was there and of what comes */
};

LEAF struct attend_fold attend_fold_of(float had, float next, float scale_log2)
{
    float most = fmaxf(had, next), base = attend_base(most, scale_log2);
    return {most, exp2_near(had * scale_log2 - base), exp2_near(next * scale_log2 - base)};
}

LEAF float attend_folded(const struct attend_fold &fold, float had, float next)
{
    return fma32(had, fold.had, next * fold.next);
}

/* A sum lies in four lanes until its split ends. */
template <uint32_t head_dim> LEAF void attend_sums_gather(struct attend_lane<head_dim> &lane)
{
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        lane.sum[h] += shuffle_xor(lane.sum[h], 1);
        lane.sum[h] += shuffle_xor(lane.sum[h], 2);
    }
}

/* What the splits before gave is kept in memory, each thread its own: read and written once in
 * ATTEND_SPLIT_TOKENS positions. */
template <uint32_t head_dim>
LEAF void attend_total(const struct attend_task &a, struct attend_lane<head_dim> &lane,
                       uint32_t threads, bool is_first, bool is_last)
{
    size_t block = (size_t)block_x() * (head_dim / 2 + 4) * threads + thread_index();
    global<float> total(a.memory.totals + block);
    if (!is_first) {
        struct attend_fold fold[2];
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            float most = total[(size_t)(head_dim / 2 + h) * threads];
            float sum = total[(size_t)(head_dim / 2 + 2 + h) * threads];
            fold[h] = attend_fold_of(most, lane.most[h], a.scale_log2);
            lane.most[h] = fold[h].most;
            lane.sum[h] = attend_folded(fold[h], sum, lane.sum[h]);
        }
#pragma unroll
        for (uint32_t i = 0; i < head_dim / 2; i++)
            lane.values[i] =
                attend_folded(fold[i / 2 % 2], total[(size_t)i * threads], lane.values[i]);
    }
    if (is_last)
        return;
#pragma unroll
    for (uint32_t i = 0; i < head_dim / 2; i++)
        total[(size_t)i * threads] = lane.values[i];
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        total[(size_t)(head_dim / 2 + h) * threads] = lane.most[h];
        total[(size_t)(head_dim / 2 + 2 + h) * threads] = lane.sum[h];
    }
}

template <uint32_t head_dim>
LEAF void attend_finish(const struct attend_task &a, const struct attend_work &w, uint32_t pair,
                        const struct attend_lane<head_dim> &lane)
{
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        if (pair + 8 * h >= attend_pairs(w))
            continue;
        global<float> out = attend_out(a, w, pair + 8 * h, head_dim) + 2 * (lane_index() % 4);
        float inverse = 1.0f / lane.sum[h];
#pragma unroll
        for (uint32_t i = 0; i < head_dim / 4; i++)
            out[i / 2 * 8 + i % 2] = lane.values[i / 2 * 4 + 2 * h + i % 2] * inverse;
    }
}

template <uint32_t head_dim>
LEAF void attend_leave(const struct attend_task &a, const struct attend_work &w, uint32_t pair,
                       const struct attend_lane<head_dim> &lane)
{
    uint32_t split_index = w.split - w.tile.first / ATTEND_SPLIT_TOKENS;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        if (pair + 8 * h >= attend_pairs(w))
            continue;
        global<float> state = attend_state(a, w, split_index, pair + 8 * h, head_dim);
        uint32_t column = 2 * (lane_index() % 4);
#pragma unroll
        for (uint32_t i = 0; i < head_dim / 4; i++)
            state[column + i / 2 * 8 + i % 2] = lane.values[i / 2 * 4 + 2 * h + i % 2];
        if (column == 0) {
            state[head_dim] = lane.most[h];
            state[head_dim + 1] = lane.sum[h];
        }
    }
}

/* A split of an item is over. True: so is the item, and its states wait for attend_merge. */
template <uint32_t head_dim>
LEAF void attend_split_end(const struct attend_task &a, const struct attend_work &w, uint32_t pair,
                           uint32_t threads, uint32_t step, struct attend_lane<head_dim> &lane)
{
    attend_sums_gather(lane);
    if (w.split != ATTEND_ALL_SPLITS) {
        attend_leave(a, w, pair, lane);
        return;
    }
    uint32_t split = step / ATTEND_SPLIT_STEPS;
    bool is_first = split == w.first_step / ATTEND_SPLIT_STEPS, is_last = step == w.last_step;
    if (!is_first || !is_last)
        attend_total(a, lane, threads, is_first, is_last);
    if (is_last)
        attend_finish(a, w, pair, lane);
    else
        attend_reset(lane);
}

/* All threads that hold values, after an item that is one split: whoever comes last folds the
 * states of all. `is_last` is one word of the block. */
template <uint32_t head_dim>
LEAF void attend_merge(const struct attend_task &a, const struct attend_work &w, uint32_t threads,
                       shared<uint32_t> is_last)
{
    barrier_of(1, threads);
    if (thread_index() == 0) {
        uint32_t *arrived = a.memory.arrived + (size_t)w.tile_index * a.units + w.unit;
        bool last = atomic_add_ordered(arrived, 1u) + 1 == w.tile.n_items;
        if (last)
            atomic_exchange(arrived, 0u); /* for the call that uses this plan next */
        is_last[0] = last;
    }
    barrier_of(1, threads);
    if (is_last[0] == 0)
        return;
    for (uint32_t at = thread_index(); at < attend_pairs(w) * head_dim; at += threads) {
        uint32_t pair = at / head_dim, i = at % head_dim;
        global<float> first = attend_state(a, w, 0, pair, head_dim);
        float value = first[i], most = first[head_dim], sum = first[head_dim + 1];
        for (uint32_t s = 1; s < w.tile.n_items; s++) {
            global<float> next = attend_state(a, w, s, pair, head_dim);
            struct attend_fold fold = attend_fold_of(most, next[head_dim], a.scale_log2);
            value = attend_folded(fold, value, next[i]);
            sum = attend_folded(fold, sum, next[head_dim + 1]);
            most = fold.most;
        }
        attend_out(a, w, pair, head_dim)[i] = value * (1.0f / sum);
    }
}
