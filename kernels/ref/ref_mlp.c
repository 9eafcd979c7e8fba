#include <math.h>

#include "kernels/ref/ref.h"

static double silu(double x)
{
    return x / (1 + exp(-x));
}

void ref_gate(const struct weight *gate_up, uint32_t index, const float *bias, const float *in,
              double *out)
{
    uint32_t n = gate_up->out_count / 2, in_count = gate_up->in_count;
    for (uint32_t i = 0; i < n; i++) {
        double gate = ref_dot(ref_weight_row(gate_up, index, i), in, in_count);
        double up = ref_dot(ref_weight_row(gate_up, index, n + i), in, in_count);
        gate += bias ? (double)bias[i] : 0;
        up += bias ? (double)bias[n + i] : 0;
        out[i] = silu(gate) * up;
    }
}

void ref_mlp(struct device *device, const struct mlp_args *args)
{
    const struct weight *down = args->down;
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->gate_up->in_count == args->hidden);
    CHECK(down->out_count == args->hidden && down->in_count == args->intermediate);
    double *gated = ref_work(device, sizeof(double) * args->intermediate);
    const float *in = ref_rows_norm(device, &(struct ref_rows){.norm = args->norm,
                                                               .norm_eps = args->norm_eps,
                                                               .in = args->in,
                                                               .n_rows = args->n_rows,
                                                               .n = args->hidden});
    if (!gated || !in)
        return;
    for (uint32_t r = 0; r < args->n_rows; r++) {
        ref_gate(args->gate_up, 0, args->gate_up_bias, in + (size_t)r * args->hidden, gated);
        for (uint32_t o = 0; o < args->hidden; o++) {
            size_t at = (size_t)r * args->hidden + o;
            double sum = ref_dot_wide(ref_weight_row(down, 0, o), gated, args->intermediate);
            sum += args->down_bias ? (double)args->down_bias[o] : 0;
            args->out[at] = (float)((double)args->in[at] + sum);
        }
    }
}
