#include "kernels/cuda/kv.h"

/* Plain: a warp for one head of one row, 32 positions at a time: a lane has a position for the
 * scores, and then every 32nd value of the output. The order depends on the row alone. */

#define ATTEND_THREADS 128
#define ATTEND_WARPS (ATTEND_THREADS / 32)
#define LANE_VALUES_MAX 16 /* head_dim at most 512 */

struct attend_task {
    uint32_t n_heads, n_kv_heads, head_dim, layer, window_tokens;
    float scale;
    const float *qkv;
    const uint32_t *positions, *slots;
    struct kv_view kv;
    float *out;
};

LEAF float attend_score(const struct attend_task &a, const float *q, uint32_t kv_head,
                        uint32_t slot, uint32_t position)
{
    const char *tile = kv_tile(a.kv, kv_block(a.kv, slot, position), a.layer, kv_head, 0);
    uint32_t token = position % a.kv.block_tokens;
    float sum = 0;
    for (uint32_t i = 0; i < a.head_dim; i++)
        sum = fma32(q[i], kv_value(a.kv, tile, token, i), sum);
    return sum * a.scale;
}

KERNEL(attend_kernel, struct attend_task, ATTEND_THREADS, 1)
{
    uint32_t r = block_y(), head = block_x() * ATTEND_WARPS + warp_index(), lane = lane_index();
    if (head >= a.n_heads)
        return;
    uint32_t kv_head = head / (a.n_heads / a.n_kv_heads), last = a.positions[r], slot = a.slots[r];
    uint32_t window = a.window_tokens, first = window > 0 && last >= window ? last - window + 1 : 0;
    const float *q = a.qkv + ((size_t)r * (a.n_heads + 2 * a.n_kv_heads) + head) * a.head_dim;
    float most = -INFINITY, sum = 0, acc[LANE_VALUES_MAX] = {};
    for (uint32_t t = first / 32 * 32; t <= last; t += 32) {
        uint32_t position = t + lane;
        bool seen = position >= first && position <= last;
        float score = seen ? attend_score(a, q, kv_head, slot, position) : -INFINITY;
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

size_t cuda_attention_scratch_bytes(const struct device *, const struct op_limits *)
{
    return 0;
}

void cuda_attention(struct device *device, const struct attention_args *args)
{
    CHECK(args->n_kv_heads > 0 && args->n_heads % args->n_kv_heads == 0);
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads);
    CHECK(args->head_dim == args->kv->shape.head_dim && args->head_dim <= 32 * LANE_VALUES_MAX);
    for (uint32_t r = 0; r < args->n_rows; r++) {
        uint32_t last = args->host_positions[r], window = args->window_tokens;
        kv_check(args->kv, args->layer, args->host_slots[r],
                 window > 0 && last >= window ? last - window + 1 : 0, last);
    }
    size_t bytes = args->n_rows * sizeof(uint32_t);
    struct attend_task task = {
        args->n_heads,
        args->n_kv_heads,
        args->head_dim,
        args->layer,
        args->window_tokens,
        args->scale,
        args->qkv,
        (const uint32_t *)device_stage(device, args->host_positions, bytes),
        (const uint32_t *)device_stage(device, args->host_slots, bytes),
        kv_view_of(args->kv),
        args->out,
    };
    launch_kernel(
        attend_kernel, device->runtime,
        (launch{div_up(args->n_heads, ATTEND_WARPS), args->n_rows, 1, ATTEND_THREADS, 0, false}),
        task);
}
