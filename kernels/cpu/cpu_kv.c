#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * A block holds all layers and heads of its positions, so that a copy is one move. Inside, K of a
 * head is turned: for one feature the positions lie side by side, and attention computes the scores
 * of 16 positions in one vector without ever adding across it.
 */

static size_t element_bytes(const struct kv_shape *shape)
{
    return dtype_block_bytes(shape->dtype);
}

size_t cpu_kv_block_bytes(const struct kv_shape *shape)
{
    size_t position = size_product(shape->n_kv_heads, shape->head_dim);
    size_t block = size_product(size_product(position, shape->block_tokens), 2ul * shape->n_layers);
    return size_product(block, element_bytes(shape));
}

enum status cpu_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                        struct error *error)
{
    CHECK(shape->block_tokens == 16 || shape->block_tokens == 32);
    CHECK(shape->dtype == DTYPE_F32 || shape->dtype == DTYPE_BF16);
    size_t data_bytes = size_product(cpu_kv_block_bytes(shape), shape->blocks_count);
    size_t table_count = size_product(shape->slots_count, shape->slot_blocks_max);
    struct kv *kv = calloc(1, sizeof *kv);
    if (kv) {
        kv->shape = *shape;
        kv->data = data_bytes > SIZE_MAX - ATTEND_SLACK_BYTES
                       ? NULL
                       : memory_alloc(data_bytes + ATTEND_SLACK_BYTES);
        kv->table = memory_alloc(size_product(table_count, sizeof(uint32_t)));
    }
    if (!kv || !kv->data || !kv->table) {
        cpu_kv_close(device, kv);
        return error_set(error, STATUS_EXHAUSTED,
                         "backend cpu: no memory for a KV cache of %zu bytes (%u blocks): "
                         "lower the number of blocks",
                         data_bytes, shape->blocks_count);
    }
    memset(kv->table, 0xff, table_count * sizeof(uint32_t)); /* no block: cpu_kv_blocks aborts */
    *ret_kv = kv;
    return STATUS_OK;
}

void cpu_kv_close(struct device *device, struct kv *kv)
{
    if (!kv)
        return;
    memory_free(kv->data);
    memory_free(kv->table);
    free(kv);
}

void cpu_kv_table_set(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
                      const uint32_t *host_blocks, uint32_t n)
{
    const struct kv_shape *shape = &kv->shape;
    CHECK(slot < shape->slots_count);
    CHECK(first <= shape->slot_blocks_max && n <= shape->slot_blocks_max - first);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(host_blocks[i] < shape->blocks_count);
        kv->table[(size_t)slot * shape->slot_blocks_max + first + i] = host_blocks[i];
    }
}

void cpu_kv_copy(struct device *device, struct kv *kv, const uint32_t *host_from,
                 const uint32_t *host_to, uint32_t n)
{
    size_t stride = cpu_kv_block_bytes(&kv->shape);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(host_from[i] < kv->shape.blocks_count && host_to[i] < kv->shape.blocks_count);
        memmove(kv->data + host_to[i] * stride, kv->data + host_from[i] * stride, stride);
    }
}

char *cpu_kv_head(const struct kv *kv, uint32_t layer, uint32_t kv_head)
{
    const struct kv_shape *shape = &kv->shape;
    CHECK(layer < shape->n_layers && kv_head < shape->n_kv_heads);
    size_t head = (size_t)layer * shape->n_kv_heads + kv_head;
    return kv->data + head * 2 * shape->head_dim * shape->block_tokens * element_bytes(shape);
}

const uint32_t *cpu_kv_blocks(const struct kv *kv, uint32_t slot, uint32_t first, uint32_t last)
{
    const struct kv_shape *shape = &kv->shape;
    CHECK(slot < shape->slots_count && last / shape->block_tokens < shape->slot_blocks_max);
    const uint32_t *blocks = kv->table + (size_t)slot * shape->slot_blocks_max;
    for (uint32_t i = first / shape->block_tokens; i <= last / shape->block_tokens; i++)
        CHECK(blocks[i] < shape->blocks_count);
    return blocks;
}

static void element_store(char *to, size_t index, float value, bool bf16)
{
    if (bf16)
        ((uint16_t *)(void *)to)[index] = dtype_bf16(value);
    else
        ((float *)(void *)to)[index] = value;
}

/* K turned, then V: see attend.h. */
static void head_store(const struct rope_kv_args *args, uint32_t row, uint32_t kv_head,
                       const float *k, const float *v)
{
    const struct kv *kv = args->kv;
    bool bf16 = kv->shape.dtype == DTYPE_BF16;
    uint32_t n = args->head_dim, block_tokens = kv->shape.block_tokens;
    uint32_t position = args->host_positions[row], token = position % block_tokens;
    const uint32_t *blocks = cpu_kv_blocks(kv, args->host_slots[row], position, position);
    char *to = cpu_kv_head(kv, args->layer, kv_head) +
               blocks[position / block_tokens] * cpu_kv_block_bytes(&kv->shape);
    for (uint32_t i = 0; i < n; i++)
        element_store(to, (size_t)i * block_tokens + token, k[i], bf16);
    for (uint32_t i = 0; i < n; i++)
        element_store(to, (size_t)n * (block_tokens + token) + i, v[i], bf16);
}

static void rope_row(const struct rope_kv_args *args, uint32_t row, const struct tier *tier,
                     float *angles)
{
    uint32_t half = args->head_dim / 2;
    float *cosines = angles, *sines = angles + half;
    for (uint32_t i = 0; i < half; i++) {
        double angle = (double)args->host_positions[row] * (double)args->inv_freq[i], sine, cosine;
        sincos(angle, &sine, &cosine);
        cosines[i] = (float)(cosine * (double)args->attention_factor);
        sines[i] = (float)(sine * (double)args->attention_factor);
    }
    size_t row_values = (size_t)(args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
    float *q = args->qkv + row * row_values;
    float *k = q + (size_t)args->n_heads * args->head_dim;
    const float *v = k + (size_t)args->n_kv_heads * args->head_dim;
    for (uint32_t h = 0; h < args->n_heads + args->n_kv_heads; h++)
        tier->rotate(q + (size_t)h * args->head_dim, cosines, sines, half);
    for (uint32_t h = 0; h < args->n_kv_heads; h++)
        head_store(args, row, h, k + (size_t)h * args->head_dim, v + (size_t)h * args->head_dim);
}

static void rope_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *run = context;
    for (uint32_t r = rows_first(run, item); r < rows_first(run, item + 1); r++)
        rope_row(run->args, r, run->device->tier, run->device->threads[thread].data);
}

void cpu_rope_kv(struct device *device, const struct rope_kv_args *args)
{
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads && args->head_dim % 2 == 0);
    CHECK(args->head_dim == args->kv->shape.head_dim);
    if (!cpu_threads_work(device, args->head_dim * sizeof(float)))
        return;
    size_t row_values = (size_t)(args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
    rows_run(device, args, args->n_rows, 4 * row_values, rope_item);
}
