#include "kernels/cuda/products.h"

/* [n_rows] of gate and up, where they cannot be multiplied at once, and what the gate lets through.
 */
static size_t row_bytes(uint32_t intermediate)
{
    return 3 * (size_t)intermediate * sizeof(float);
}

size_t cuda_mlp_scratch_bytes(const struct device *, const struct op_limits *limits)
{
    return size_product(limits->rows_max, row_bytes(limits->intermediate)) + SCRATCH_KEPT_BYTES;
}

void cuda_mlp(struct device *device, const struct mlp_args *args)
{
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->gate_up->in_count == args->hidden);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    size_t n_rows = args->n_rows;
    char *memory = (char *)device_scratch(
        device, SCRATCH_MLP, n_rows * row_bytes(args->intermediate) + SCRATCH_KEPT_BYTES);
    if (!memory)
        return;
    float *gated = (float *)(void *)(memory + SCRATCH_KEPT_BYTES);
    struct product up = {};
    up.weight = args->gate_up;
    up.n_rows = args->n_rows;
    up.row_share = 1;
    up.norm = args->norm;
    up.norm_eps = args->norm_eps;
    up.in = args->in;
    up.bias = args->gate_up_bias;
    up.out = gated;
    up.gated = true;
    up.spare = gated + n_rows * args->intermediate;
    product_run(device, &up);
    struct product down = {};
    down.weight = args->down;
    down.n_rows = args->n_rows;
    down.row_share = 1;
    down.in = gated;
    down.bias = args->down_bias;
    down.residual = args->in;
    down.out = args->out;
    product_run(device, &down);
}
