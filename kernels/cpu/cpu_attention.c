#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * Rows are cut into tiles (attend.h) and neighbouring tiles of a sequence into bundles. An item is
 * one KV head of a bundle, or of several when they are single rows: it walks the splits of the
 * positions, each for all of its tiles while the keys and values are in the cache, and folds what
 * comes out; meanwhile it asks for what it reads next. When there are few items, as in decode of
 * few sequences, each split is an item of its own, and the folding follows; the fold is the same
 * function in the same order, so that a row's bits do not depend on which way was taken.
 */

#define BUNDLE_TILES_MAX 8
#define STATE_EXTRA 16 /* floats behind a pair's values: most, sum */

/* Pairs: rows row .. row + n_rows - 1, of each the heads head .. head + n_heads - 1 of a KV head's
 * group. */
struct tile {
    uint32_t row, n_rows, head, n_heads;
};

struct bundle {
    uint32_t first_tile, n_tiles;
};

struct attention_run {
    const struct attention_args *args;
    struct device *device;
    const struct tile *tiles; /* [n_tiles] */
    const struct bundle *bundles;
    uint32_t n_tiles, n_bundles;
    uint32_t n_lots;                /* of bundles of a KV head: an item takes one */
    uint32_t first_split, n_splits; /* that somebody attends to some of */
    uint32_t group;                 /* query heads of one KV head */
    size_t state_floats;
    float *partials; /* [n_kv_heads][n_tiles][n_splits][pairs] states, when splits are items */
};

/* ---- sizes ---- */

static size_t out_stride(uint32_t head_dim)
{
    return round_up(head_dim, ATTEND_OUT_MULTIPLE);
}

/* Of a pair: its values, then most and sum. */
static size_t state_floats(uint32_t head_dim)
{
    return out_stride(head_dim) + STATE_EXTRA;
}

/* What an item keeps: scores, the queries and states of its tiles, what a split gives. */
struct room {
    float *scores;        /* [ATTEND_PAIRS_MAX][ATTEND_SPLIT_TOKENS] */
    union attend_word *q; /* [BUNDLE_TILES_MAX][query_words] */
    float *states;        /* [BUNDLE_TILES_MAX][ATTEND_PAIRS_MAX] */
    float *out;           /* [ATTEND_PAIRS_MAX][out_stride] */
};

/* Of a tile: enough for every form (attend.h). */
static size_t query_words(uint32_t head_dim)
{
    return round_up(head_dim, 4) * ATTEND_PAIRS_MAX;
}

static size_t room_floats(uint32_t head_dim)
{
    size_t tile = query_words(head_dim) + ATTEND_PAIRS_MAX * state_floats(head_dim);
    return ATTEND_PAIRS_MAX * (ATTEND_SPLIT_TOKENS + out_stride(head_dim)) +
           BUNDLE_TILES_MAX * tile;
}

static struct room room_of(float *memory, uint32_t head_dim)
{
    struct room room = {.scores = memory};
    room.out = room.scores + (size_t)ATTEND_PAIRS_MAX * ATTEND_SPLIT_TOKENS;
    room.states = room.out + ATTEND_PAIRS_MAX * out_stride(head_dim);
    float *q = room.states + BUNDLE_TILES_MAX * ATTEND_PAIRS_MAX * state_floats(head_dim);
    room.q = (union attend_word *)(void *)q;
    return room;
}

size_t cpu_attention_thread_bytes(uint32_t head_dim)
{
    return size_product(room_floats(head_dim), sizeof(float));
}

/* Splits are items only below this. */
static size_t few_items(const struct device *device)
{
    return 4ul * pool_threads_count(device->pool);
}

static size_t plan_bytes(size_t n_tiles)
{
    size_t bytes = n_tiles * (sizeof(struct tile) + sizeof(struct bundle));
    return round_up(bytes, MEMORY_LINE_BYTES);
}

size_t cpu_attention_bytes(const struct device *device, const struct op_limits *limits)
{
    size_t tiles = size_product(limits->rows_max, limits->n_heads + 1ul);
    size_t splits = limits->context_tokens / ATTEND_SPLIT_TOKENS + 1;
    size_t partials = few_items(device) * ATTEND_PAIRS_MAX * state_floats(limits->head_dim);
    return size_product(splits, partials * sizeof(float)) + plan_bytes(tiles);
}

/* ---- rows into tiles ---- */

/* Rows from `row` on that are neighbours in one sequence. */
static uint32_t run_length(const struct attention_args *args, uint32_t row)
{
    uint32_t n = 1;
    while (row + n < args->n_rows && args->host_slots[row + n] == args->host_slots[row] &&
           args->host_positions[row + n] == args->host_positions[row] + n)
        n++;
    return n;
}

static uint32_t tiles_of_run(uint32_t n_rows, uint32_t group, uint32_t pairs)
{
    uint32_t heads = u32_min(group, pairs), rows = pairs / heads;
    return div_up_u32(n_rows, rows) * div_up_u32(group, heads);
}

static void run_cut(struct attention_run *run, struct tile *tiles, struct bundle *bundles,
                    uint32_t row, uint32_t n_rows)
{
    uint32_t pairs = run->device->tier->attend_pairs;
    uint32_t heads = u32_min(run->group, pairs), rows = pairs / heads;
    uint32_t first = run->n_tiles;
    for (uint32_t r = row; r < row + n_rows; r += rows)
        for (uint32_t h = 0; h < run->group; h += heads)
            tiles[run->n_tiles++] = (struct tile){.row = r,
                                                  .n_rows = u32_min(rows, row + n_rows - r),
                                                  .head = h,
                                                  .n_heads = u32_min(heads, run->group - h)};
    for (uint32_t t = first; t < run->n_tiles; t += BUNDLE_TILES_MAX)
        bundles[run->n_bundles++] = (struct bundle){
            .first_tile = t, .n_tiles = u32_min(BUNDLE_TILES_MAX, run->n_tiles - t)};
}

/* ---- one tile ---- */

static uint32_t row_first(const struct attention_args *args, uint32_t row)
{
    uint32_t last = args->host_positions[row], window = args->window_tokens;
    return window > 0 && last >= window ? last - window + 1 : 0;
}

static size_t row_floats(const struct attention_args *args)
{
    return (size_t)(args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
}

static enum attend_query query_form(const struct attention_run *run)
{
    const struct kv_shape *shape = &run->args->kv->shape;
    const struct tier *tier = run->device->tier;
    enum dtype dtype = shape->exact ? DTYPE_F32 : shape->dtype;
    return dtype == DTYPE_BF16   ? tier->bf16_query
           : dtype == DTYPE_Q8_0 ? tier->q8_query
                                 : QUERY_F32;
}

/* One pair's query as bytes: see attend.h. */
static void query_bytes(const float *from, uint32_t head_dim, union attend_word *q)
{
    uint32_t words = div_up_u32(head_dim, 4), groups = attend_groups(head_dim);
    union attend_word *scales = q + (size_t)words * ATTEND_PAIRS_MAX;
    union attend_word *minus = scales + (size_t)groups * ATTEND_PAIRS_MAX;
    for (uint32_t g = 0; g < groups; g++) {
        int8_t bytes[KV_SCALE_VALUES] = {0};
        uint32_t first = g * KV_SCALE_VALUES, n = u32_min(KV_SCALE_VALUES, head_dim - first);
        union attend_word most = {.bits = 0};
        for (uint32_t i = 0; i < n; i++) {
            union attend_word word = {.f32 = from[first + i]};
            most.bits = u32_max(most.bits, word.bits & 0x7fffffffu);
        }
        struct row_block block = {0};
        float times = row_block_begin(&block, most.bits);
        int32_t sum = 0;
        for (uint32_t i = 0; i < n && times != 0; i++) {
            const float round = 0x1.8p23f; /* adding it rounds, ties to even */
            bytes[i] = (int8_t)(from[first + i] * times + round - round);
            sum += bytes[i];
        }
        for (uint32_t i = 0; i < div_up_u32(n, 4); i++)
            memcpy(&q[(size_t)(first / 4 + i) * ATTEND_PAIRS_MAX], bytes + (size_t)i * 4, 4);
        scales[(size_t)g * ATTEND_PAIRS_MAX].f32 = block.scale;
        minus[(size_t)g * ATTEND_PAIRS_MAX].count = -128 * sum;
    }
}

static void query_turn(enum attend_query form, const float *from, uint32_t n, union attend_word *q)
{
    if (form == QUERY_BYTES) {
        query_bytes(from, n, q);
        return;
    }
    for (uint32_t i = 0; i < n && form == QUERY_BF16; i += 2)
        q[(size_t)i / 2 * ATTEND_PAIRS_MAX].bits =
            dtype_bf16(from[i]) | (uint32_t)dtype_bf16(from[i + 1]) << 16;
    for (uint32_t i = 0; i < round_up(n, 4) && form == QUERY_F32; i++)
        q[(size_t)i * ATTEND_PAIRS_MAX].f32 = i < n ? from[i] : 0;
}

static void tile_turn_queries(const struct attention_run *run, const struct tile *tile,
                              uint32_t kv_head, union attend_word *q)
{
    const struct attention_args *args = run->args;
    enum attend_query form = query_form(run);
    uint32_t n = args->head_dim, pair = 0;
    for (uint32_t r = 0; r < tile->n_rows; r++)
        for (uint32_t h = 0; h < tile->n_heads; h++, pair++)
            query_turn(form,
                       args->qkv + (tile->row + r) * row_floats(args) +
                           (size_t)(kv_head * run->group + tile->head + h) * n,
                       n, q + pair);
}

/* The positions of a split that the pairs of a tile attend to: false when there are none. Pairs
 * that do are neighbours, *ret_pair is the first of them. */
static bool split_ranges(const struct attention_args *args, const struct tile *tile, uint32_t split,
                         struct attend *attend, uint32_t *ret_pair)
{
    uint32_t begin = split * ATTEND_SPLIT_TOKENS, end = begin + ATTEND_SPLIT_TOKENS - 1, n = 0;
    for (uint32_t r = 0; r < tile->n_rows; r++) {
        uint32_t from = u32_max(row_first(args, tile->row + r), begin);
        uint32_t to = u32_min(args->host_positions[tile->row + r], end);
        if (from > to)
            continue;
        if (n == 0)
            *ret_pair = r * tile->n_heads;
        for (uint32_t h = 0; h < tile->n_heads; h++, n++) {
            attend->first[n] = from;
            attend->last[n] = to;
        }
    }
    attend->n_pairs = n;
    return n > 0;
}

/* One split of a tile; false when none of its pairs attends to any of it. */
static bool tile_split(const struct attention_run *run, const struct tile *tile, uint32_t kv_head,
                       uint32_t split, const struct room *room, const union attend_word *q,
                       struct attend *ret_attend, uint32_t *ret_pair)
{
    const struct attention_args *args = run->args;
    const struct kv *kv = args->kv;
    struct attend *attend = ret_attend;
    if (!split_ranges(args, tile, split, attend, ret_pair))
        return false;
    attend->head_dim = args->head_dim;
    attend->block_tokens = kv->shape.block_tokens;
    attend->dtype = kv->shape.dtype;
    attend->query = query_form(run);
    attend->scale = args->scale;
    attend->q = q + *ret_pair;
    attend->kv = cpu_kv_head(kv, args->layer, kv_head);
    attend->block_stride_bytes = cpu_kv_block_bytes(&kv->shape);
    attend->blocks = cpu_kv_blocks(kv, args->host_slots[tile->row], attend->first[0],
                                   attend->last[attend->n_pairs - 1]);
    attend->split = split;
    attend->scores = room->scores;
    attend->out_stride = out_stride(args->head_dim);
    attend->out = room->out;
    run->device->tier->attend(attend);
    return true;
}

/* ---- states ---- */

/* What a pair has of its splits so far: [head_dim] values, then most and sum behind out_stride. */
struct split_state {
    const float *out; /* [head_dim] */
    float most, sum;
};

static void state_set(float *state, const struct split_state *split, uint32_t head_dim)
{
    memcpy(state, split->out, head_dim * sizeof *state);
    state[out_stride(head_dim)] = split->most;
    state[out_stride(head_dim) + 1] = split->sum;
}

static void state_fold(const struct tier *tier, float *state, const struct split_state *split,
                       uint32_t head_dim)
{
    float *had = state + out_stride(head_dim);
    float largest = fmaxf(had[0], split->most);
    float scale_had = expf(had[0] - largest), scale_new = expf(split->most - largest);
    tier->attend_fold(state, split->out, scale_had, scale_new, head_dim);
    had[1] = had[1] * scale_had + split->sum * scale_new;
    had[0] = largest;
}

/* A pair of a tile takes its next split, which may be its first. */
static void pair_take(const struct attention_run *run, const struct tile *tile, uint32_t pair,
                      uint32_t split, float *states, const struct split_state *from)
{
    uint32_t row = tile->row + pair / tile->n_heads, n = run->args->head_dim;
    float *state = states + pair * run->state_floats;
    if (row_first(run->args, row) / ATTEND_SPLIT_TOKENS == split)
        state_set(state, from, n);
    else
        state_fold(run->device->tier, state, from, n);
}

static void tile_finish(const struct attention_run *run, const struct tile *tile, uint32_t kv_head,
                        const float *states)
{
    const struct attention_args *args = run->args;
    uint32_t n = args->head_dim;
    for (uint32_t r = 0; r < tile->n_rows; r++)
        for (uint32_t h = 0; h < tile->n_heads; h++, states += run->state_floats) {
            float *out = args->out + (size_t)(tile->row + r) * args->n_heads * n +
                         (size_t)(kv_head * run->group + tile->head + h) * n;
            float sum = states[out_stride(n) + 1];
            for (uint32_t i = 0; i < n; i++)
                out[i] = states[i] / sum;
        }
}

static uint32_t tile_split_first(const struct attention_args *args, const struct tile *tile)
{
    return row_first(args, tile->row) / ATTEND_SPLIT_TOKENS;
}

static uint32_t tile_split_last(const struct attention_args *args, const struct tile *tile)
{
    return args->host_positions[tile->row + tile->n_rows - 1] / ATTEND_SPLIT_TOKENS;
}

/* ---- items ---- */

/* What follows on a split of a tile: its next one, or the first one of `next`, if there is one. */
static void ahead_set(const struct attention_run *run, const struct tile *tile, uint32_t split,
                      const struct tile *next, struct attend *attend)
{
    const struct attention_args *args = run->args;
    const struct kv *kv = args->kv;
    uint32_t first = (split + 1) * ATTEND_SPLIT_TOKENS;
    attend->ahead_blocks = NULL;
    if (split == tile_split_last(args, tile)) {
        if (!next)
            return;
        tile = next;
        first = row_first(args, tile->row);
    }
    uint32_t last =
        u32_min(args->host_positions[tile->row + tile->n_rows - 1],
                first / ATTEND_SPLIT_TOKENS * ATTEND_SPLIT_TOKENS + ATTEND_SPLIT_TOKENS - 1);
    attend->ahead_blocks = cpu_kv_blocks(kv, args->host_slots[tile->row], first, last);
    attend->ahead_first = first / kv->shape.block_tokens;
    attend->ahead_last = last / kv->shape.block_tokens;
}

static void bundle_attend(const struct attention_run *run, uint32_t thread, uint32_t kv_head,
                          const struct bundle *bundle, const struct tile *next)
{
    const struct attention_args *args = run->args;
    const struct tile *tiles = &run->tiles[bundle->first_tile];
    uint32_t n = args->head_dim;
    struct room room = room_of(run->device->threads[thread].data, n);
    size_t q_words = query_words(n);
    size_t tile_floats = ATTEND_PAIRS_MAX * run->state_floats;
    for (uint32_t t = 0; t < bundle->n_tiles; t++)
        tile_turn_queries(run, &tiles[t], kv_head, room.q + t * q_words);
    uint32_t last = tile_split_last(args, &tiles[bundle->n_tiles - 1]);
    for (uint32_t split = tile_split_first(args, &tiles[0]); split <= last; split++)
        for (uint32_t t = 0; t < bundle->n_tiles; t++) {
            struct attend attend;
            uint32_t pair = 0;
            ahead_set(run, &tiles[t], split, t + 1 == bundle->n_tiles ? next : NULL, &attend);
            if (!tile_split(run, &tiles[t], kv_head, split, &room, room.q + t * q_words, &attend,
                            &pair))
                continue;
            for (uint32_t p = 0; p < attend.n_pairs; p++)
                pair_take(run, &tiles[t], pair + p, split, room.states + t * tile_floats,
                          &(struct split_state){attend.out + p * attend.out_stride, attend.most[p],
                                                attend.sum[p]});
        }
    for (uint32_t t = 0; t < bundle->n_tiles; t++)
        tile_finish(run, &tiles[t], kv_head, room.states + t * tile_floats);
}

/* Some bundles of one KV head; those of a head lie together: its keys are in the cache. */
static void bundles_item(void *context, uint32_t thread, uint32_t item)
{
    const struct attention_run *run = context;
    uint32_t kv_head = item / run->n_lots, lot = item % run->n_lots;
    uint32_t at = (uint32_t)((uint64_t)run->n_bundles * lot / run->n_lots);
    uint32_t end = (uint32_t)((uint64_t)run->n_bundles * (lot + 1) / run->n_lots);
    for (; at < end; at++)
        bundle_attend(run, thread, kv_head, &run->bundles[at],
                      at + 1 < end ? &run->tiles[run->bundles[at + 1].first_tile] : NULL);
}

/* States of all pairs of a tile for one split: pairs that attend to none of it are not written. */
static float *partial_of(const struct attention_run *run, uint32_t tile, uint32_t kv_head,
                         uint32_t split)
{
    size_t index =
        ((size_t)kv_head * run->n_tiles + tile) * run->n_splits + split - run->first_split;
    return run->partials + index * ATTEND_PAIRS_MAX * run->state_floats;
}

static void split_item(void *context, uint32_t thread, uint32_t item)
{
    const struct attention_run *run = context;
    uint32_t split = run->first_split + item % run->n_splits, index = item / run->n_splits;
    uint32_t kv_head = index / run->n_tiles, tile = index % run->n_tiles, pair = 0;
    struct room room = room_of(run->device->threads[thread].data, run->args->head_dim);
    float *partial = partial_of(run, tile, kv_head, split);
    struct attend attend = {.ahead_blocks = NULL};
    if (!split_ranges(run->args, &run->tiles[tile], split, &attend, &pair))
        return;
    tile_turn_queries(run, &run->tiles[tile], kv_head, room.q);
    tile_split(run, &run->tiles[tile], kv_head, split, &room, room.q, &attend, &pair);
    for (uint32_t p = 0; p < attend.n_pairs; p++)
        state_set(partial + (pair + p) * run->state_floats,
                  &(struct split_state){attend.out + p * attend.out_stride, attend.most[p],
                                        attend.sum[p]},
                  run->args->head_dim);
}

static void fold_item(void *context, uint32_t thread, uint32_t item)
{
    const struct attention_run *run = context;
    const struct attention_args *args = run->args;
    uint32_t kv_head = item / run->n_tiles;
    const struct tile *tile = &run->tiles[item % run->n_tiles];
    struct room room = room_of(run->device->threads[thread].data, args->head_dim);
    uint32_t first = tile_split_first(args, tile), last = tile_split_last(args, tile);
    for (uint32_t split = first; split <= last; split++) {
        const float *partial = partial_of(run, item % run->n_tiles, kv_head, split);
        struct attend attend;
        uint32_t pair = 0;
        split_ranges(args, tile, split, &attend, &pair);
        for (uint32_t p = pair; p < pair + attend.n_pairs; p++) {
            const float *from = partial + p * run->state_floats;
            const float *had = from + out_stride(args->head_dim);
            pair_take(run, tile, p, split, room.states,
                      &(struct split_state){from, had[0], had[1]});
        }
    }
    tile_finish(run, tile, kv_head, room.states);
}

/* ---- the op ---- */

/* Cuts all rows; false when memory is out. Returns how many positions are attended to at most. */
static bool run_plan(struct attention_run *run, uint32_t *ret_last)
{
    const struct attention_args *args = run->args;
    uint32_t pairs = run->device->tier->attend_pairs, n_tiles = 0, first = UINT32_MAX, last = 0;
    for (uint32_t r = 0, n; r < args->n_rows; r += n) {
        n = run_length(args, r);
        n_tiles += tiles_of_run(n, run->group, pairs);
        first = u32_min(first, row_first(args, r));
        last = u32_max(last, args->host_positions[r + n - 1]);
    }
    run->first_split = first / ATTEND_SPLIT_TOKENS;
    run->n_splits = last / ATTEND_SPLIT_TOKENS - run->first_split + 1;
    size_t n_items = (size_t)n_tiles * args->n_kv_heads, partials = 0;
    bool by_splits = run->n_splits > 1 && n_items < few_items(run->device);
    if (by_splits)
        partials = n_items * run->n_splits * ATTEND_PAIRS_MAX * run->state_floats;
    char *memory = cpu_work(run->device, &run->device->attention,
                            plan_bytes(n_tiles) + partials * sizeof(float));
    if (!memory)
        return false;
    struct tile *tiles = (struct tile *)(void *)memory;
    struct bundle *bundles = (struct bundle *)(void *)(tiles + n_tiles);
    run->tiles = tiles;
    run->bundles = bundles;
    for (uint32_t r = 0, n; r < args->n_rows; r += n) {
        n = run_length(args, r);
        run_cut(run, tiles, bundles, r, n);
    }
    DCHECK(run->n_tiles == n_tiles);
    if (by_splits)
        run->partials = (float *)(void *)(memory + plan_bytes(n_tiles));
    *ret_last = last;
    return true;
}

/* Long bundles are items by themselves; of single rows an item takes some, one after the other, so
 * that it knows what to ask for meanwhile. */
static uint32_t lots_count(const struct attention_run *run)
{
    if (run->n_bundles < run->args->n_rows)
        return run->n_bundles;
    uint32_t threads = pool_threads_count(run->device->pool);
    return u32_min(run->n_bundles, div_up_u32(8 * threads, run->args->n_kv_heads));
}

void cpu_attention(struct device *device, const struct attention_args *args)
{
    CHECK(args->n_kv_heads > 0 && args->n_heads % args->n_kv_heads == 0);
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads);
    CHECK(args->head_dim == args->kv->shape.head_dim);
    struct attention_run run = {.args = args,
                                .device = device,
                                .group = args->n_heads / args->n_kv_heads,
                                .state_floats = state_floats(args->head_dim)};
    uint32_t last = 0;
    if (!run_plan(&run, &last) ||
        !cpu_threads_work(device, cpu_attention_thread_bytes(args->head_dim)))
        return;
    uint32_t n_items = run.n_tiles * args->n_kv_heads;
    if (run.partials) {
        pool_run(device->pool, split_item, &run, n_items * run.n_splits);
        pool_run(device->pool, fold_item, &run, n_items);
        return;
    }
    run.n_lots = lots_count(&run);
    n_items = run.n_lots * args->n_kv_heads;
    /* A few short rows are done before a thread is awake. */
    if ((size_t)args->n_rows * (last + 1) * args->n_heads * args->head_dim < 8192)
        for (uint32_t i = 0; i < n_items; i++)
            bundles_item(&run, 0, i);
    else
        pool_run(device->pool, bundles_item, &run, n_items);
}
