#include "kernels/cuda/kv.h"

#include "kernels/cuda/rows.h"

size_t cuda_kv_block_bytes(const struct kv_shape *shape)
{
    size_t position = size_product(shape->n_kv_heads, kv_row_bytes(shape));
    return size_product(size_product(position, shape->block_tokens), 2ul * shape->n_layers);
}

enum status cuda_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                         struct error *error)
{
    CHECK(shape->block_tokens % 16 == 0 && shape->block_tokens > 0);
    if (shape->dtype != DTYPE_F32 && shape->dtype != DTYPE_BF16 && shape->dtype != DTYPE_KV_E4M3)
        return error_set(error, STATUS_UNSUPPORTED,
                         "GPUs keep K and V as fp8, bf16 or f32, not as %s: set kv_type to one of "
                         "them (fp8 has 8 bits too)",
                         dtype_name(shape->dtype));
    size_t data_bytes = size_product(cuda_kv_block_bytes(shape), shape->blocks_count);
    size_t table_bytes =
        size_product(size_product(shape->slots_count, shape->slot_blocks_max), sizeof(uint32_t));
    struct kv *kv = (struct kv *)calloc(1, sizeof *kv);
    if (kv) {
        kv->shape = *shape;
        kv->data = (char *)runtime_alloc(device->runtime, data_bytes);
        kv->table = (uint32_t *)runtime_alloc(device->runtime, table_bytes);
        kv->host_table = (uint32_t *)malloc(table_bytes);
    }
    if (!kv || !kv->data || !kv->table || !kv->host_table) {
        cuda_kv_close(device, kv);
        return device_no_memory(device, "the KV cache", data_bytes,
                                "have fewer blocks: lower kv_memory", error);
    }
    memset(kv->host_table, 0xff, table_bytes); /* no block: kv_check aborts */
    *ret_kv = kv;
    return STATUS_OK;
}

void cuda_kv_close(struct device *device, struct kv *kv)
{
    if (!kv)
        return;
    runtime_free(device->runtime, kv->data);
    runtime_free(device->runtime, kv->table);
    free(kv->host_table);
    free(kv);
}

void cuda_kv_table_set(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
                       const uint32_t *host_blocks, uint32_t n)
{
    const struct kv_shape *shape = &kv->shape;
    CHECK(slot < shape->slots_count);
    CHECK(first <= shape->slot_blocks_max && n <= shape->slot_blocks_max - first);
    size_t at = (size_t)slot * shape->slot_blocks_max + first;
    for (uint32_t i = 0; i < n; i++) {
        CHECK(host_blocks[i] < shape->blocks_count);
        kv->host_table[at + i] = host_blocks[i];
    }
    kv->seen = {};
    if (n > 0)
        runtime_move(device->runtime, kv->table + at,
                     device_stage_once(device, host_blocks, n * sizeof(uint32_t)),
                     n * sizeof(uint32_t));
}

void cuda_kv_copy(struct device *device, struct kv *kv, const uint32_t *host_from,
                  const uint32_t *host_to, uint32_t n)
{
    size_t page = cuda_kv_block_bytes(&kv->shape);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(host_from[i] < kv->shape.blocks_count && host_to[i] < kv->shape.blocks_count);
        if (host_from[i] != host_to[i])
            runtime_move(device->runtime, kv->data + host_to[i] * page,
                         kv->data + host_from[i] * page, page);
    }
}

void kv_check(const struct kv *kv, uint32_t layer, uint32_t slot, uint32_t first, uint32_t last)
{
    const struct kv_shape *shape = &kv->shape;
    CHECK(layer < shape->n_layers && slot < shape->slots_count);
    CHECK(last / shape->block_tokens < shape->slot_blocks_max);
    const uint32_t *blocks = kv->host_table + (size_t)slot * shape->slot_blocks_max;
    uint32_t most = 0; /* a loop without a branch: it runs for each row and layer */
    for (uint32_t i = first / shape->block_tokens; i <= last / shape->block_tokens; i++)
        most = max_u32(most, blocks[i]);
    CHECK(most < shape->blocks_count);
}
