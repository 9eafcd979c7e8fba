#include "kernels/cuda/products.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/weight.h"

/* A plain product: a warp for one output of one row. Lane l takes values l, l + 32, ...: a block of
 * the Q formats at a time. */

#define PRODUCT_THREADS 128
#define PRODUCT_WARPS (PRODUCT_THREADS / 32)

struct product_task {
    struct weight_view weight;
    size_t matrix_bytes;
    const uint32_t *experts;
    uint32_t row_share, out_count; /* of all segments */
    const float *in, *bias, *residual;
    float *out;
};

template <int dtype> KERNEL(product_kernel, struct product_task, PRODUCT_THREADS, 1)
{
    uint32_t o = block_x() * PRODUCT_WARPS + warp_index(), r = block_y();
    if (o >= a.weight.out_count)
        return;
    const char *row = a.weight.data + o * a.weight.row_bytes;
    if (a.experts)
        row += a.experts[r] * a.matrix_bytes;
    const float *in = a.in + (size_t)(r / a.row_share) * a.weight.in_count;
    float sum = 0;
    for (uint32_t i = lane_index(); i < a.weight.in_count; i += 32)
        sum = fma32(weight_value<dtype>(row, i), in[i], sum);
    sum = warp_sum(sum);
    if (lane_index() != 0)
        return;
    uint32_t to = a.weight.first_out + o;
    size_t at = (size_t)r * a.out_count + to;
    global<float> out(a.out);
    if (a.bias)
        sum += a.bias[to];
    if (a.residual)
        sum += a.residual[at];
    out[at] = sum;
}

void product_run(struct device *device, const struct product *product)
{
    const struct weight *weight = product->weight;
    for (uint32_t i = 0; i < weight->n_segments; i++) {
        struct product_task task = {weight_view_of(weight, product->stack_index, i),
                                    weight->matrix_bytes,
                                    product->experts,
                                    product->row_share,
                                    weight->out_count,
                                    product->in,
                                    product->bias,
                                    product->residual,
                                    product->out};
        struct launch shape = {div_up(task.weight.out_count, PRODUCT_WARPS),
                               product->n_rows,
                               1,
                               PRODUCT_THREADS,
                               0,
                               false};
        dtype_switch(task.weight.dtype, [&](auto constant) {
            launch_kernel(product_kernel<constant.dtype>, device->runtime, shape, task);
        });
    }
}

size_t cuda_linear_scratch_bytes(const struct device *, const struct op_limits *limits)
{
    return size_product(size_product(limits->rows_max, limits->hidden), sizeof(float));
}

void cuda_linear(struct device *device, const struct linear_args *args)
{
    const float *in = args->in;
    if (args->norm) {
        uint32_t n = args->weight->in_count;
        float *normed = (float *)device_scratch(device, SCRATCH_LINEAR,
                                                (size_t)args->n_rows * n * sizeof(float));
        if (!normed)
            return;
        rows_norm(device, args->norm, args->norm_eps, args->n_rows, n, in, normed);
        in = normed;
    }
    struct product product = {args->weight, args->stack_index, NULL,           args->n_rows, 1,
                              in,           args->bias,        args->residual, args->out};
    product_run(device, &product);
}
