#include "kernels/cpu/cpu.h"

/* One item is one row and the query heads that share one KV head. Neighbouring items are rows of
 * one KV head, so that a chunk of a prompt finds its keys in the cache. */

size_t cpu_attention_work_bytes(uint32_t context_tokens)
{
    /* Whole blocks at both ends. */
    size_t span = (size_t)context_tokens + 2 * 32;
    return size_product(span, ATTEND_HEADS_MAX * sizeof(float));
}

static void attention_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *run = context;
    const struct attention_args *args = run->args;
    uint32_t kv_head = item / args->n_rows, row = item % args->n_rows;
    uint32_t group = args->n_heads / args->n_kv_heads, n = args->head_dim;
    uint32_t last = args->host_positions[row], window = args->window_tokens;
    uint32_t first = window > 0 && last >= window ? last - window + 1 : 0;
    size_t row_values = (size_t)(args->n_heads + 2 * args->n_kv_heads) * n;
    size_t head_at = (size_t)kv_head * group * n;
    struct attend attend = {
        .n_heads = group,
        .head_dim = n,
        .block_tokens = args->kv->shape.block_tokens,
        .scale = args->scale,
        .q = args->qkv + row * row_values + head_at,
        .out = args->out + (size_t)row * args->n_heads * n + head_at,
        .kv = cpu_kv_head(args->kv, args->layer, kv_head),
        .block_stride = cpu_kv_block_stride(args->kv),
        .blocks = cpu_kv_blocks(args->kv, args->host_slots[row], first, last),
        .first = first,
        .last = last,
        .scores = run->device->threads[thread].data,
    };
    run->device->tier->attend(&attend);
}

void cpu_attention(struct device *device, const struct attention_args *args)
{
    CHECK(args->n_kv_heads > 0 && args->n_heads % args->n_kv_heads == 0);
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads);
    CHECK(args->head_dim == args->kv->shape.head_dim);
    uint32_t last = 0;
    size_t positions = 0;
    for (uint32_t r = 0; r < args->n_rows; r++) {
        last = u32_max(last, args->host_positions[r]);
        positions += (size_t)args->host_positions[r] + 1;
    }
    if (!cpu_threads_work(device, cpu_attention_work_bytes(last + 1)))
        return;
    struct rows_run run = {.args = args, .device = device, .n_rows = args->n_rows};
    run.n_items = args->n_rows * args->n_kv_heads;
    /* A few short rows are done before a thread is awake. */
    if (positions * args->n_heads * args->head_dim < 8192)
        for (uint32_t i = 0; i < run.n_items; i++)
            attention_item(&run, 0, i);
    else
        pool_run(device->pool, attention_item, &run, run.n_items);
}
