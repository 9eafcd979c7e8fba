#include "kernels/cuda/rope.h"

#include "kernels/cuda/products.h"

#define ROPE_THREADS 128
#define HEAD_DIM_MAX 512

/* A block for a row: angles first, once for all heads; then pairs of values.
 * gate: sm_90a griddepcontrol.wait */
KERNEL(rope_kv_kernel, struct rope_task, ROPE_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t r = block_x(), half = a.head_dim / 2, position = a.positions[r];
    shared<struct rope_angle> angles = shared_at<struct rope_angle>(0);
    for (uint32_t i = thread_index(); i < half; i += ROPE_THREADS)
        angles[i] = rope_angle_of(a, position, i);
    barrier();
    uint32_t block = kv_block(a.kv, a.slots[r], position), n_heads = a.n_heads + 2 * a.n_kv_heads;
    const float *row = a.qkv + (size_t)r * n_heads * a.head_dim;
    for (uint32_t at = thread_index(); at < n_heads * half; at += ROPE_THREADS) {
        uint32_t head = at / half, i = at % half, low = head * a.head_dim + i;
        struct rope_angle angle = angles[i];
        rope_pair_put(a, r, block, head, i, row[low], row[low + half], angle);
    }
}

struct rope_task rope_task_of(struct device *device, const struct rope_kv_args *args)
{
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads && args->head_dim % 2 == 0);
    CHECK(args->head_dim == args->kv->shape.head_dim && args->head_dim <= HEAD_DIM_MAX);
    for (uint32_t r = 0; r < args->n_rows; r++)
        kv_check(args->kv, args->layer, args->host_slots[r], args->host_positions[r],
                 args->host_positions[r]);
    size_t bytes = args->n_rows * sizeof(uint32_t);
    return {
        args->n_heads,
        args->n_kv_heads,
        args->head_dim,
        args->layer,
        args->qkv,
        args->inv_freq,
        args->attention_factor,
        (const uint32_t *)device_stage(device, args->host_positions, bytes),
        (const uint32_t *)device_stage(device, args->host_slots, bytes),
        kv_view_of(args->kv),
    };
}

void cuda_rope_kv(struct device *device, const struct rope_kv_args *args)
{
    struct rope_task task = rope_task_of(device, args);
    launch_kernel(rope_kv_kernel, device->runtime,
                  (launch{args->n_rows, 1, 1, ROPE_THREADS,
                          (uint32_t)(args->head_dim / 2 * sizeof(struct rope_angle)), true}),
                  task);
}

void cuda_qkv(struct device *device, const struct linear_args *linear,
              const struct rope_kv_args *args)
{
    CHECK(linear->out == args->qkv && linear->n_rows == args->n_rows && !linear->residual);
    CHECK(linear->weight->out_count == (args->n_heads + 2 * args->n_kv_heads) * args->head_dim);
    struct product product = product_of(linear);
    if (!product_turns(device, &product, args->head_dim)) {
        product_run(device, &product);
        cuda_rope_kv(device, args);
        return;
    }
    struct rope_task task = rope_task_of(device, args);
    product.rope = &task;
    product_run(device, &product);
}
