#include "kernels/cuda/products.h"
#include "kernels/cuda/rows.h"

/* [n_rows] of x, gate and up, and what the gate lets through. */
static size_t row_bytes(uint32_t hidden, uint32_t intermediate)
{
    return ((size_t)hidden + 3 * (size_t)intermediate) * sizeof(float);
}

size_t cuda_mlp_scratch_bytes(const struct device *, const struct op_limits *limits)
{
    return size_product(limits->rows_max, row_bytes(limits->hidden, limits->intermediate));
}

void cuda_mlp(struct device *device, const struct mlp_args *args)
{
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->gate_up->in_count == args->hidden);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    size_t n_rows = args->n_rows;
    float *x = (float *)device_scratch(device, SCRATCH_MLP,
                                       n_rows * row_bytes(args->hidden, args->intermediate));
    if (!x)
        return;
    float *gate_up = x + n_rows * args->hidden, *gated = gate_up + 2 * n_rows * args->intermediate;
    const float *in = args->in;
    if (args->norm) {
        rows_norm(device, args->norm, args->norm_eps, args->n_rows, args->hidden, in, x);
        in = x;
    }
    struct product up = {args->gate_up,      0,    NULL,   args->n_rows, 1, in,
                         args->gate_up_bias, NULL, gate_up};
    product_run(device, &up);
    rows_gate(device, args->n_rows, args->intermediate, gate_up, gated);
    struct product down = {args->down,      0,        NULL,     args->n_rows, 1, gated,
                           args->down_bias, args->in, args->out};
    product_run(device, &down);
}
