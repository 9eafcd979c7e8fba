#include <math.h>

#include "kernels/ref/ref.h"

/* The ops that look at one row at a time and at no weight matrix, save the embedding's lookup. */

void ref_tokens_gather(struct device *device, const struct tokens_gather_args *args)
{
    for (uint32_t r = 0; r < args->n_rows; r++)
        args->ids[r] = args->host_ids[r] == TOKEN_FROM_SLOT
                           ? args->last_sampled[args->host_slots[r]]
                           : args->host_ids[r];
}

void ref_embed(struct device *device, const struct embed_args *args)
{
    uint32_t n = args->weight->in_count;
    for (uint32_t r = 0; r < args->n_rows; r++)
        memcpy(args->out + (size_t)r * n, ref_weight_row(args->weight, 0, args->ids[r]),
               n * sizeof(float));
}

void ref_rows_gather(struct device *device, const struct rows_gather_args *args)
{
    for (uint32_t r = 0; r < args->n_out; r++)
        memcpy(args->out + (size_t)r * args->n, args->in + (size_t)args->host_rows[r] * args->n,
               args->n * sizeof(float));
}

void ref_rmsnorm(struct device *device, const struct rmsnorm_args *args)
{
    for (uint32_t r = 0; r < args->n_rows; r++) {
        const float *in = args->in + (size_t)r * args->n;
        float *out = args->out + (size_t)r * args->n;
        double scale = 1 / sqrt(ref_dot(in, in, args->n) / args->n + (double)args->eps);
        for (uint32_t i = 0; i < args->n; i++)
            out[i] = (float)((double)in[i] * scale * (double)args->weight[i]);
    }
}

double ref_silu(double x)
{
    return x / (1 + exp(-x));
}

void ref_silu_mul(struct device *device, const struct silu_mul_args *args)
{
    for (uint32_t r = 0; r < args->n_rows; r++) {
        const float *gate = args->gate_up + (size_t)r * 2 * args->n;
        const float *up = gate + args->n;
        for (uint32_t i = 0; i < args->n; i++)
            args->out[(size_t)r * args->n + i] = (float)(ref_silu((double)gate[i]) * (double)up[i]);
    }
}
