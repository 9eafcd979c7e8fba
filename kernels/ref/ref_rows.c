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

const float *ref_rows_norm(struct device *device, const struct ref_rows *rows)
{
    if (!rows->norm)
        return rows->in;
    size_t bytes = size_product(size_product(rows->n_rows, rows->n), sizeof(float));
    float *normed = scratch_need(&device->normed, bytes);
    if (!normed) {
        device->failed = true;
        return NULL;
    }
    for (uint32_t r = 0; r < rows->n_rows; r++) {
        const float *in = rows->in + (size_t)r * rows->n;
        float *out = normed + (size_t)r * rows->n;
        double scale = 1 / sqrt(ref_dot(in, in, rows->n) / rows->n + (double)rows->norm_eps);
        for (uint32_t i = 0; i < rows->n; i++)
            out[i] = (float)((double)in[i] * scale * (double)rows->norm[i]);
    }
    return normed;
}
