#include "kernels/cuda/route.h"

/* In shared memory: sums of blocks, then [block_rows][hidden] of x, [block_rows][n_experts] of
 * logits; for the sort, two counters for each expert. */

#define ROUTE_ROWS_MAX 4
#define ROUTE_HEAD_BYTES 256 /* block_sum's, and a flag */
#define ROUTE_FLAG_AT 192

LEAF shared<float> route_x(const struct route_task &a, uint32_t q)
{
    return shared_at<float>(ROUTE_HEAD_BYTES) + q * a.router.in_count;
}

LEAF shared<float> route_logits(const struct route_task &a, uint32_t q)
{
    return route_x(a, a.block_rows) + q * a.n_experts;
}

LEAF void row_norm(const struct route_task &a, uint32_t r, uint32_t q)
{
    shared<float> scratch = shared_at<float>(0);
    uint32_t n = a.router.in_count;
    struct rows_source source = {a.in + (size_t)r * n, a.norm, n, 1};
    if (a.norm)
        source.scale = rows_norm_scale(source.in, n, a.norm_eps, scratch);
    for (uint32_t i = thread_index(); i < n; i += ROWS_THREADS)
        route_x(a, q)[i] = rows_value(source, i);
    if (a.ready.kind != ROWS_PLAIN)
        rows_write(a.ready, source, r, scratch);
}

/* A warp for an expert. */
template <int dtype> LEAF void rows_route(const struct route_task &a)
{
    for (uint32_t e = warp_index(); e < a.n_experts; e += ROWS_THREADS / 32) {
        float sums[ROUTE_ROWS_MAX] = {};
        for (uint32_t i = lane_index(); i < a.router.in_count; i += 32) {
            float w = weight_value<dtype>(a.router, e, i);
#pragma unroll
            for (uint32_t q = 0; q < ROUTE_ROWS_MAX; q++)
                if (q < a.block_rows)
                    sums[q] = fma32(w, route_x(a, q)[i], sums[q]);
        }
#pragma unroll
        for (uint32_t q = 0; q < ROUTE_ROWS_MAX; q++) {
            float sum = warp_sum(sums[q]);
            if (q < a.block_rows && lane_index() == 0)
                route_logits(a, q)[e] = sum;
        }
    }
}

/* A lane's best expert that is not taken; then the warp's. Ties: the lower one. */
LEAF uint32_t expert_best(shared<float> logits, uint32_t n_experts, float &best)
{
    uint32_t expert = n_experts;
    best = -INFINITY;
    for (uint32_t e = lane_index(); e < n_experts; e += 32) {
        float logit = logits[e];
        if (expert == n_experts ? !isnan(logit) : logit > best) {
            best = logit;
            expert = e;
        }
    }
    for (uint32_t mask = 16; mask > 0; mask >>= 1) {
        float other = shuffle_xor(best, mask);
        uint32_t which = shuffle_xor(expert, mask);
        if (which < n_experts &&
            (expert == n_experts || other > best || (other == best && which < expert))) {
            best = other;
            expert = which;
        }
    }
    return expert;
}

/* A warp, of row r. Softmax never changes the order, so the logits choose. */
LEAF void experts_choose(const struct route_task &a, uint32_t r, shared<float> logits)
{
    uint32_t lane = lane_index();
    global<uint32_t> experts(a.experts + (size_t)r * a.top_k);
    global<float> weights(a.weights + (size_t)r * a.top_k);
    float most = -INFINITY, sum = 0, total = 0;
    for (uint32_t e = lane; e < a.n_experts; e += 32)
        most = fmaxf(most, (float)logits[e]);
    most = warp_max(most);
    for (uint32_t e = lane; e < a.n_experts; e += 32) {
        sum += expf(logits[e] - most);
        if (isnan(logits[e])) /* the sum is too, and with it all weights: experts stay distinct */
            logits[e] = -INFINITY;
    }
    sum = warp_sum(sum);
    for (uint32_t j = 0; j < a.top_k; j++) {
        float best;
        uint32_t expert = expert_best(logits, a.n_experts, best);
        float weight = expf(best - most) / sum;
        total += weight;
        if (lane == 0) {
            experts[j] = expert;
            weights[j] = weight;
        }
        if (lane == expert % 32)
            logits[expert] = NAN; /* taken */
        warp_sync();
    }
    for (uint32_t j = lane; j < a.top_k && a.normalise; j += 32)
        weights[j] = weights[j] / total;
}

/* ---- pairs by expert, one block ---- */

LEAF uint32_t warp_sum_before(uint32_t value)
{
    uint32_t sum = value;
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t other = shuffle(sum, (lane_index() - step) & 31);
        sum += lane_index() >= step ? other : 0;
    }
    return sum - value;
}

/* Each expert's rows begin on an eight. */
LEAF uint32_t places_of(uint32_t count)
{
    return div_up(count, 8) * 8;
}

/* A warp: where each expert's rows start, and its tiles; a lane has neighbouring experts. Returns
 * the number of tiles. */
LEAF uint32_t tiles_cut(const struct route_task &a, shared<uint32_t> counts,
                        shared<uint32_t> starts)
{
    uint32_t each = div_up(a.n_experts, 32), first = lane_index() * each, rows = 0, n_tiles = 0;
    uint32_t end = min_u32(first + each, a.n_experts);
    for (uint32_t e = first; e < end; e++) {
        rows += places_of(counts[e]);
        n_tiles += div_up(counts[e], a.tile_rows);
    }
    uint32_t all_tiles = warp_sum(n_tiles);
    rows = warp_sum_before(rows);
    n_tiles = warp_sum_before(n_tiles);
    global<struct product_tile> tiles(a.tiles);
    for (uint32_t e = first; e < end; e++) {
        uint32_t count = counts[e];
        starts[e] = rows;
        for (uint32_t at = 0; at < count; at += a.tile_rows) {
            struct product_tile tile = {e, rows + at, min_u32(a.tile_rows, count - at)};
            tiles[n_tiles++] = tile;
        }
        rows += places_of(count);
    }
    return all_tiles;
}

LEAF void pairs_sort(const struct route_task &a)
{
    shared<uint32_t> counts = shared_at<uint32_t>(ROUTE_HEAD_BYTES);
    shared<uint32_t> starts = counts + a.n_experts, flag = shared_at<uint32_t>(ROUTE_FLAG_AT);
    global<uint32_t> experts(a.experts), order(a.order);
    uint32_t n = a.n_rows * a.top_k;
    for (uint32_t e = thread_index(); e < a.n_experts; e += ROWS_THREADS)
        counts[e] = 0;
    barrier();
    for (uint32_t i = thread_index(); i < n; i += ROWS_THREADS)
        shared_atomic_add(counts, (uint32_t)experts[i], 1u);
    barrier();
    if (warp_index() == 0) {
        uint32_t n_tiles = tiles_cut(a, counts, starts);
        if (lane_index() == 0)
            flag[0] = n_tiles;
    }
    barrier();
    global<struct product_tile> tiles(a.tiles);
    const struct product_tile none = {};
    for (uint32_t i = flag[0] + thread_index(); i < a.tiles_max; i += ROWS_THREADS)
        tiles[i] = none;
    for (uint32_t i = thread_index(); i < n; i += ROWS_THREADS)
        order[shared_atomic_add(starts, (uint32_t)experts[i], 1u)] = i;
}

/* gate: sm_90a griddepcontrol.wait */
template <int dtype> KERNEL(route_kernel, struct route_task, ROWS_THREADS, 2)
{
    launch_next();
    launch_wait();
    uint32_t first = block_x() * a.block_rows, last = min_u32(first + a.block_rows, a.n_rows);
    for (uint32_t q = 0; q < a.block_rows; q++)
        row_norm(a, min_u32(first + q, a.n_rows - 1), q); /* the last may be done again */
    barrier();
    rows_route<dtype>(a);
    barrier();
    for (uint32_t r = first + warp_index(); r < last; r += ROWS_THREADS / 32)
        experts_choose(a, r, route_logits(a, r - first));
    barrier();
    shared<uint32_t> flag = shared_at<uint32_t>(ROUTE_FLAG_AT);
    if (thread_index() == 0)
        flag[0] = atomic_add_ordered(a.counter, 1u);
    barrier();
    if (flag[0] != grid_x() - 1)
        return;
    barrier();
    pairs_sort(a);
    if (thread_index() == 0)
        atomic_exchange(a.counter, 0u);
}

void route_run(struct device *device, struct route_task *task)
{
    uint32_t n = task->router.in_count + task->n_experts;
    bool fit = ROUTE_HEAD_BYTES + 4 * ROUTE_ROWS_MAX * n <= device_shared_half(device);
    task->block_rows = task->n_rows >= 512 && fit ? ROUTE_ROWS_MAX : 1;
    uint32_t shared_bytes =
        ROUTE_HEAD_BYTES + 4 * max_u32(task->block_rows * n, 2 * task->n_experts);
    dtype_switch(task->router.dtype, [&](auto constant) {
        launch_kernel(route_kernel<constant.dtype>, device->runtime,
                      (launch{div_up(task->n_rows, task->block_rows), 1, 1, ROWS_THREADS,
                              shared_bytes, true}),
                      *task);
    });
}
