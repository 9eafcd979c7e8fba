#include "kernels/cpu/cpu.h"

/* The ops that treat each row by itself: gathers and the embedding. */

void cpu_tokens_gather(struct device *device, const struct tokens_gather_args *args)
{
    for (uint32_t r = 0; r < args->n_rows; r++)
        args->ids[r] = args->host_ids[r] == TOKEN_FROM_SLOT
                           ? args->last_sampled[args->host_slots[r]]
                           : args->host_ids[r];
}

static void embed_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *run = context;
    const struct embed_args *args = run->args;
    for (uint32_t r = rows_first(run, item); r < rows_first(run, item + 1); r++) {
        CHECK(args->ids[r] < args->weight->out_count);
        cpu_weight_row(args->weight, args->ids[r], args->out + (size_t)r * args->weight->in_count);
    }
}

void cpu_embed(struct device *device, const struct embed_args *args)
{
    /* A value costs a line of cache. */
    rows_run(device, args, args->n_rows, 8ul * args->weight->in_count, embed_item);
}

void cpu_rows_gather(struct device *device, const struct rows_gather_args *args)
{
    for (uint32_t r = 0; r < args->n_out; r++)
        memcpy(args->out + (size_t)r * args->n, args->in + (size_t)args->host_rows[r] * args->n,
               args->n * sizeof(float));
}
