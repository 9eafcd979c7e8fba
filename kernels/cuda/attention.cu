#include "kernels/cuda/attend.h"

/*
 * The op: tensor kernels (attend.h) where they apply, else the plain kernel here, which is also
 * their twin: slow, and easy to believe.
 *
 * Plain: a warp for one head of one row, 32 positions at a time: a lane has a position for the
 * scores, and then every 32nd value of the output. The order depends on the row alone.
 */

#define PLAIN_THREADS 128
#define PLAIN_WARPS (PLAIN_THREADS / 32)
#define LANE_VALUES_MAX 16 /* head_dim at most 512 */

struct plain_task {
    uint32_t n_heads, n_kv_heads, head_dim, layer, window_tokens;
    float scale;
    const float *qkv;
    const uint32_t *positions, *slots;
    struct kv_view kv;
    float *out;
};

LEAF float plain_score(const struct plain_task &a, const float *q, uint32_t kv_head, uint32_t slot,
                       uint32_t position)
{
    const char *tile = kv_tile(a.kv, kv_block(a.kv, slot, position), a.layer, kv_head, 0);
    uint32_t token = position % a.kv.block_tokens;
    float sum = 0;
    for (uint32_t i = 0; i < a.head_dim; i++)
        sum = fma32(q[i], kv_value(a.kv, tile, token, i), sum);
    return sum * a.scale;
}

KERNEL(plain_kernel, struct plain_task, PLAIN_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t r = block_y(), head = block_x() * PLAIN_WARPS + warp_index(), lane = lane_index();
    if (head >= a.n_heads)
        return;
    uint32_t kv_head = head / (a.n_heads / a.n_kv_heads), last = a.positions[r], slot = a.slots[r];
    uint32_t window = a.window_tokens, first = window > 0 && last >= window ? last - window + 1 : 0;
    const float *q = a.qkv + ((size_t)r * (a.n_heads + 2 * a.n_kv_heads) + head) * a.head_dim;
    float most = -INFINITY, sum = 0, acc[LANE_VALUES_MAX] = {};
    for (uint32_t t = first / 32 * 32; t <= last; t += 32) {
        uint32_t position = t + lane;
        bool seen = position >= first && position <= last;
        float score = seen ? plain_score(a, q, kv_head, slot, position) : -INFINITY;
        float best = fmaxf(most, warp_max(score));
        float fade = expf(most - best), weight = expf(score - best); /* exp(-inf) is 0 */
        most = best;
        sum = sum * fade + warp_sum(weight);
#pragma unroll
        for (uint32_t j = 0; j < LANE_VALUES_MAX; j++)
            acc[j] *= fade;
        for (uint32_t other = 0; other < 32; other++) {
            float w = shuffle(weight, other);
            uint32_t at = t + other;
            if (at < first || at > last)
                continue;
            const char *tile = kv_tile(a.kv, kv_block(a.kv, slot, at), a.layer, kv_head, 1);
#pragma unroll
            for (uint32_t j = 0; j < LANE_VALUES_MAX; j++)
                if (lane + 32 * j < a.head_dim)
                    acc[j] = fma32(w, kv_value(a.kv, tile, at % a.kv.block_tokens, lane + 32 * j),
                                   acc[j]);
        }
    }
    global<float> out(a.out + ((size_t)r * a.n_heads + head) * a.head_dim);
#pragma unroll
    for (uint32_t j = 0; j < LANE_VALUES_MAX; j++)
        if (lane + 32 * j < a.head_dim)
            out[lane + 32 * j] = acc[j] / sum;
}

static void plain_launch(struct device *device, const struct attention_args *args,
                         const uint32_t *positions, const uint32_t *slots)
{
    struct plain_task task = {
        args->n_heads, args->n_kv_heads, args->head_dim, args->layer, args->window_tokens,
        args->scale,   args->qkv,        positions,      slots,       kv_view_of(args->kv),
        args->out};
    launch_kernel(
        plain_kernel, device->runtime,
        (launch{div_up(args->n_heads, PLAIN_WARPS), args->n_rows, 1, PLAIN_THREADS, 0, true}),
        task);
}

/* ---- the plan of the tensor kernels ---- */

#define PLAN_THREADS 256u
#define PLAN_SHARED_BYTES (10 * sizeof(uint32_t))

/* The sum over the threads before this one; *total over all. */
LEAF uint32_t threads_before(uint32_t value, shared<uint32_t> scratch, uint32_t *total)
{
    uint32_t sum = value;
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t other = shuffle(sum, lane_index() >= step ? lane_index() - step : 0);
        sum += lane_index() >= step ? other : 0;
    }
    if (lane_index() == 31)
        scratch[warp_index()] = sum;
    barrier();
    uint32_t before = 0, all = 0;
    for (uint32_t warp = 0; warp < PLAN_THREADS / 32; warp++) {
        uint32_t part = scratch[warp];
        before += warp < warp_index() ? part : 0;
        all += part;
    }
    barrier();
    *total = all;
    return before + sum - value;
}

/* Tiles begin where a sequence does, and at fixed positions. */
LEAF bool tile_begins(const struct attend_task &a, uint32_t row)
{
    return row == 0 || a.slots[row] != a.slots[row - 1] ||
           a.positions[row] != a.positions[row - 1] + 1 || a.positions[row] % a.tile_rows == 0;
}

LEAF struct attend_tile tile_make(const struct attend_task &a, uint32_t row, uint32_t next_row)
{
    struct attend_tile tile = {};
    tile.row = row;
    tile.n_rows = next_row - row;
    tile.slot = a.slots[row];
    tile.position = a.positions[row];
    uint32_t window = a.window_tokens;
    tile.first = window > 0 && tile.position >= window ? tile.position - window + 1 : 0;
    tile.last = tile.position + tile.n_rows - 1;
    return tile;
}

/* One block. Whether a tile's splits are items of their own is a matter of speed alone. */
KERNEL(attend_plan_kernel, struct attend_task, PLAN_THREADS, 1)
{
    launch_next(); /* the kernel that walks the list waits for its end */
    launch_wait();
    shared<uint32_t> scratch = shared_at<uint32_t>(0);
    global<struct attend_tile> tiles(a.memory.tiles);
    global<struct attend_item> items(a.memory.items);
    global<uint32_t> rows(a.memory.arrived); /* where tiles begin, until they are made */
    uint32_t n_tiles = 0, n_items = 0, n_states = 0, total;
    for (uint32_t first = 0; first < a.n_rows; first += PLAN_THREADS) {
        uint32_t row = first + thread_index();
        bool begins = row < a.n_rows && tile_begins(a, row);
        uint32_t at = n_tiles + threads_before(begins, scratch, &total);
        if (begins)
            rows[at] = row;
        n_tiles += total;
    }
    barrier();
    for (uint32_t first = 0; first < n_tiles; first += PLAN_THREADS) {
        uint32_t at = first + thread_index();
        bool there = at < n_tiles;
        struct attend_tile tile = {};
        uint32_t n_splits = 1, states = 0;
        if (there) {
            tile = tile_make(a, rows[at], at + 1 < n_tiles ? (uint32_t)rows[at + 1] : a.n_rows);
            n_splits = tile.last / ATTEND_SPLIT_TOKENS - tile.first / ATTEND_SPLIT_TOKENS + 1;
            bool alone = n_tiles * a.units < a.few || tile.n_rows == 1;
            uint32_t needed = n_splits * a.units * tile.n_rows * a.tile_heads;
            if (alone && n_splits > 1 && needed <= a.memory.states_max)
                states = needed;
        }
        tile.state = n_states + threads_before(states, scratch, &total);
        if (states > a.memory.states_max || tile.state > a.memory.states_max - states)
            states = 0;
        n_states = min_u32(n_states + total, a.memory.states_max);
        tile.n_items = states > 0 ? n_splits : 1;
        uint32_t item_at = n_items + threads_before(there ? tile.n_items : 0, scratch, &total);
        n_items += total;
        if (there)
            tiles[at] = tile;
        for (uint32_t i = 0; there && i < tile.n_items; i++)
            items[item_at + i] = attend_item{at, states > 0 ? tile.first / ATTEND_SPLIT_TOKENS + i
                                                            : ATTEND_ALL_SPLITS};
    }
    barrier();
    for (uint32_t at = thread_index(); at < n_tiles * a.units; at += PLAN_THREADS)
        rows[at] = 0;
    if (thread_index() == 0)
        global<struct attend_counts>(a.memory.counts)[0] = attend_counts{n_tiles, n_items};
}

/* ---- memory of the tensor kernels ---- */

/* Tiles that fit on a processor at once, at most. */
#define BLOCKS_PER_PROCESSOR_MAX 2u
#define STATES_PER_PROCESSOR 512u

static uint32_t processors_of(const struct device *device)
{
    return runtime_facts_of(device->runtime)->processors;
}

static size_t totals_bytes(const struct device *device, uint32_t head_dim)
{
    size_t threads = size_product(processors_of(device) * BLOCKS_PER_PROCESSOR_MAX, 256);
    return size_product(threads, (head_dim / 2 + 4) * sizeof(float));
}

/* Cut from one piece in this order; `units` at most the number of query heads. Returns the bytes;
 * fills *ret when there is memory. */
static size_t memory_cut(const struct device *device, size_t rows, size_t units, uint32_t head_dim,
                         char *memory, struct attend_memory *ret)
{
    size_t states_max = (size_t)processors_of(device) * STATES_PER_PROCESSOR;
    size_t bytes[] = {
        sizeof(struct attend_counts),
        size_product(rows, sizeof(struct attend_tile)),
        size_product(rows + states_max, sizeof(struct attend_item)),
        size_product(rows, units * sizeof(uint32_t)),
        size_product(states_max, (head_dim + ATTEND_STATE_EXTRA) * sizeof(float)),
        totals_bytes(device, head_dim),
    };
    char *parts[array_count(bytes)];
    size_t at = 0;
    for (size_t i = 0; i < array_count(bytes); i++) {
        parts[i] = memory ? memory + at : NULL;
        at += round_up(bytes[i], 256);
    }
    if (memory)
        *ret = {(struct attend_counts *)(void *)parts[0],
                (struct attend_tile *)(void *)parts[1],
                (struct attend_item *)(void *)parts[2],
                (uint32_t *)(void *)parts[3],
                (float *)(void *)parts[4],
                (float *)(void *)parts[5],
                (uint32_t)states_max};
    return at;
}

size_t cuda_attention_scratch_bytes(const struct device *device, const struct op_limits *limits)
{
    return memory_cut(device, limits->rows_max, limits->n_heads, limits->head_dim, NULL, NULL);
}

/* ---- the op ---- */

/* Rows that follow one another in a sequence, on average, fill more than one warpgroup's pairs. */
static bool has_many_pairs(const struct attention_args *args)
{
    size_t n_runs = 0, pairs = size_product(args->n_rows, args->n_heads / args->n_kv_heads);
    for (uint32_t r = 0; r < args->n_rows; r++)
        n_runs += r == 0 || args->host_slots[r] != args->host_slots[r - 1] ||
                  args->host_positions[r] != args->host_positions[r - 1] + 1;
    return pairs > 64 * n_runs;
}

/* NULL: the plain one. */
static const struct attend_kernel *kernel_find(const struct device *device,
                                               const struct attention_args *args)
{
    enum dtype dtype = args->kv->shape.dtype;
    bool bytes = dtype == DTYPE_KV_E4M3;
    if (device->plain || args->kv->shape.exact || (dtype != DTYPE_BF16 && !bytes) ||
        !(args->scale > 0))
        return NULL;
    if (device->wgmma)
        return attend_groups_find(args->head_dim, bytes, has_many_pairs(args));
    return attend_warps_find(args->head_dim, bytes);
}

static bool plan_same(const struct attention_plan *a, const struct attention_plan *b)
{
    return a->memory == b->memory && a->positions == b->positions && a->slots == b->slots &&
           a->n_rows == b->n_rows && a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads &&
           a->head_dim == b->head_dim && a->window_tokens == b->window_tokens &&
           a->pairs == b->pairs;
}

static void tiles_launch(struct device *device, const struct attention_args *args,
                         const struct attend_kernel *kernel, const uint32_t *positions,
                         const uint32_t *slots)
{
    struct attend_task task = {};
    task.n_rows = args->n_rows;
    task.n_heads = args->n_heads;
    task.n_kv_heads = args->n_kv_heads;
    task.layer = args->layer;
    task.window_tokens = args->window_tokens;
    task.group = args->n_heads / args->n_kv_heads;
    task.tile_heads = min_u32(task.group, kernel->pairs);
    task.tile_rows = kernel->pairs / task.tile_heads;
    task.units = args->n_kv_heads * div_up(task.group, task.tile_heads);
    uint32_t blocks = processors_of(device) * kernel->blocks_per_processor;
    task.few = 3 * blocks;
    task.scale_log2 = args->scale * 1.44269504f;
    task.qkv = args->qkv;
    task.positions = positions;
    task.slots = slots;
    task.kv = kv_view_of(args->kv);
    task.out = args->out;
    size_t bytes = memory_cut(device, args->n_rows, task.units, args->head_dim, NULL, NULL);
    char *memory = (char *)device_scratch(device, SCRATCH_ATTENTION, bytes);
    if (!memory)
        return;
    memory_cut(device, args->n_rows, task.units, args->head_dim, memory, &task.memory);
    struct attention_plan plan = {memory,         positions,           slots,
                                  args->n_rows,   args->n_heads,       args->n_kv_heads,
                                  args->head_dim, args->window_tokens, kernel->pairs};
    if (!plan_same(&plan, &device->plan)) /* the first layer of a step makes it */
        launch_kernel(attend_plan_kernel, device->runtime,
                      (launch{1, 1, 1, PLAN_THREADS, PLAN_SHARED_BYTES, true}), task);
    device->plan = plan;
    size_t items = size_product(args->n_rows, task.units) + task.memory.states_max;
    kernel->launch(device->runtime, (uint32_t)size_min(blocks, items), &task);
}

/* Rows that follow one another in a sequence at once: a prompt's would look at the same blocks. */
static void blocks_check(const struct attention_args *args)
{
    const uint32_t *positions = args->host_positions, *slots = args->host_slots;
    uint32_t window = args->window_tokens;
    for (uint32_t r = 0, end; r < args->n_rows; r = end) {
        for (end = r + 1; end < args->n_rows && slots[end] == slots[r] &&
                          positions[end] == positions[end - 1] + 1;)
            end++;
        uint32_t first = window > 0 && positions[r] >= window ? positions[r] - window + 1 : 0;
        kv_check(args->kv, args->layer, slots[r], first, positions[end - 1]);
    }
}

/* A step calls its layers in their order: a later one with the same arrays asks for the same. */
static bool seen_before(const struct kv_seen *had, const struct kv_seen *now)
{
    return had->positions && now->layer > had->layer && now->positions == had->positions &&
           now->slots == had->slots && now->n_rows == had->n_rows &&
           now->window_tokens == had->window_tokens;
}

void cuda_attention(struct device *device, const struct attention_args *args)
{
    CHECK(args->n_kv_heads > 0 && args->n_heads % args->n_kv_heads == 0);
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads);
    CHECK(args->head_dim == args->kv->shape.head_dim && args->head_dim <= 32 * LANE_VALUES_MAX);
    CHECK(args->layer < args->kv->shape.n_layers);
    if (args->n_rows == 0)
        return;
    size_t bytes = args->n_rows * sizeof(uint32_t);
    const uint32_t *positions = (const uint32_t *)device_stage(device, args->host_positions, bytes);
    const uint32_t *slots = (const uint32_t *)device_stage(device, args->host_slots, bytes);
    struct kv_seen seen = {positions, slots, args->n_rows, args->window_tokens, args->layer};
    if (!seen_before(&args->kv->seen, &seen))
        blocks_check(args);
    args->kv->seen = seen;
    const struct attend_kernel *kernel = kernel_find(device, args);
    if (kernel)
        tiles_launch(device, args, kernel, positions, slots);
    else
        plain_launch(device, args, positions, slots);
}
