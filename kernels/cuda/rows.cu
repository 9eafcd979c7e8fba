#include "kernels/cuda/rows.h"

#include "kernels/cuda/weight.h"

/* The ops that look at one row at a time. */

#define ROW_THREADS 256

/* ---- tokens_gather ---- */

struct tokens_task {
    uint32_t n_rows;
    const uint32_t *from, *slots, *last_sampled;
    uint32_t *ids;
};

/* gate: sm_90a griddepcontrol.wait */
KERNEL(tokens_gather_kernel, struct tokens_task, ROW_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t r = block_x() * ROW_THREADS + thread_index();
    global<uint32_t> ids(a.ids);
    if (r < a.n_rows)
        ids[r] = a.from[r] == TOKEN_FROM_SLOT ? a.last_sampled[a.slots[r]] : a.from[r];
}

void cuda_tokens_gather(struct device *device, const struct tokens_gather_args *args)
{
    size_t bytes = args->n_rows * sizeof(uint32_t);
    struct tokens_task task = {args->n_rows,
                               (const uint32_t *)device_stage(device, args->host_ids, bytes),
                               (const uint32_t *)device_stage(device, args->host_slots, bytes),
                               args->last_sampled, args->ids};
    launch_kernel(tokens_gather_kernel, device->runtime,
                  (launch{div_up(args->n_rows, ROW_THREADS), 1, 1, ROW_THREADS, 0, true}), task);
}

/* ---- embed ---- */

struct embed_task {
    struct weight_view weight;
    const uint32_t *ids;
    float *out;
};

/* gate: sm_90a griddepcontrol.wait */
template <int dtype> KERNEL(embed_kernel, struct embed_task, ROW_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t r = block_x(), n = a.weight.in_count, id = a.ids[r];
    global<float> out(a.out + (size_t)r * n);
    for (uint32_t i = thread_index(); i < n; i += ROW_THREADS)
        out[i] = weight_value<dtype>(a.weight, id, i);
}

void cuda_embed(struct device *device, const struct embed_args *args)
{
    CHECK(args->weight->n_segments == 1);
    struct embed_task task = {weight_view_of(args->weight, 0, 0), args->ids, args->out};
    dtype_switch(task.weight.dtype, [&](auto constant) {
        launch_kernel(embed_kernel<constant.dtype>, device->runtime,
                      (launch{args->n_rows, 1, 1, ROW_THREADS, 0, true}), task);
    });
}

/* ---- rows_gather ---- */

struct rows_task {
    uint32_t n;
    const uint32_t *rows;
    const float *in;
    float *out;
};

/* gate: sm_90a griddepcontrol.wait */
KERNEL(rows_gather_kernel, struct rows_task, ROW_THREADS, 1)
{
    launch_next();
    launch_wait();
    const float *in = a.in + (size_t)a.rows[block_x()] * a.n;
    global<float> out(a.out + (size_t)block_x() * a.n);
    for (uint32_t i = thread_index(); i < a.n; i += ROW_THREADS)
        out[i] = in[i];
}

void cuda_rows_gather(struct device *device, const struct rows_gather_args *args)
{
    const void *rows = device_stage(device, args->host_rows, args->n_out * sizeof(uint32_t));
    struct rows_task task = {args->n, (const uint32_t *)rows, args->in, args->out};
    launch_kernel(rows_gather_kernel, device->runtime,
                  (launch{args->n_out, 1, 1, ROW_THREADS, 0, true}), task);
}

/* ---- the norm ---- */

struct norm_task {
    uint32_t n;
    float eps;
    const float *norm, *in;
    float *out;
};

/* gate: sm_90a griddepcontrol.wait */
KERNEL(rows_norm_kernel, struct norm_task, ROW_THREADS, 1)
{
    launch_next();
    launch_wait();
    const float *in = a.in + (size_t)block_x() * a.n;
    global<float> out(a.out + (size_t)block_x() * a.n);
    float sum = 0;
    for (uint32_t i = thread_index(); i < a.n; i += ROW_THREADS)
        sum = fma32(in[i], in[i], sum);
    sum = block_sum(sum, shared_at<float>(0));
    float scale = 1.0f / sqrtf(sum / (float)a.n + a.eps);
    for (uint32_t i = thread_index(); i < a.n; i += ROW_THREADS)
        out[i] = in[i] * scale * a.norm[i];
}

void rows_norm(struct device *device, const float *norm, float eps, uint32_t n_rows, uint32_t n,
               const float *in, float *out)
{
    struct norm_task task = {n, eps, norm, in, out};
    launch_kernel(rows_norm_kernel, device->runtime,
                  (launch{n_rows, 1, 1, ROW_THREADS, 33 * sizeof(float), true}), task);
}

/* ---- the gate ---- */

struct gate_task {
    uint32_t n;
    const float *gate_up;
    float *out;
};

/* gate: sm_90a griddepcontrol.wait */
KERNEL(rows_gate_kernel, struct gate_task, ROW_THREADS, 1)
{
    launch_next();
    launch_wait();
    const float *gate = a.gate_up + (size_t)block_x() * 2 * a.n;
    global<float> out(a.out + (size_t)block_x() * a.n);
    uint32_t i = block_y() * ROW_THREADS + thread_index();
    if (i < a.n)
        out[i] = silu(gate[i]) * gate[a.n + i];
}

void rows_gate(struct device *device, uint32_t n_rows, uint32_t n, const float *gate_up, float *out)
{
    struct gate_task task = {n, gate_up, out};
    launch_kernel(rows_gate_kernel, device->runtime,
                  (launch{n_rows, div_up(n, ROW_THREADS), 1, ROW_THREADS, 0, true}), task);
}
