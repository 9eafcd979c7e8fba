#include <math.h>

#include "kernels/ref/ref.h"

static size_t block_values(const struct kv_shape *shape)
{
    size_t position = size_product(shape->n_kv_heads, shape->head_dim);
    return size_product(size_product(position, shape->block_tokens), 2ul * shape->n_layers);
}

size_t ref_kv_block_bytes(const struct kv_shape *shape)
{
    return size_product(block_values(shape), sizeof(float));
}

enum status ref_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                        struct error *error)
{
    CHECK(shape->block_tokens == 16 || shape->block_tokens == 32);
    CHECK(shape->dtype == DTYPE_F32 || shape->dtype == DTYPE_BF16 || shape->dtype == DTYPE_Q8_0 ||
          shape->dtype == DTYPE_KV_E4M3);
    size_t data_bytes = size_product(ref_kv_block_bytes(shape), shape->blocks_count);
    size_t table_count = size_product(shape->slots_count, shape->slot_blocks_max);
    struct kv *kv = calloc(1, sizeof *kv);
    if (kv) {
        kv->shape = *shape;
        kv->data = memory_alloc(data_bytes);
        kv->table = memory_alloc(size_product(table_count, sizeof(uint32_t)));
    }
    if (!kv || !kv->data || !kv->table) {
        ref_kv_close(device, kv);
        return error_set(error, STATUS_EXHAUSTED,
                         "backend ref: no memory for a KV cache of %zu bytes (%u blocks): "
                         "lower the number of blocks",
                         data_bytes, shape->blocks_count);
    }
    memset(kv->table, 0xff, table_count * sizeof(uint32_t)); /* no block: ref_kv_at would abort */
    *ret_kv = kv;
    return STATUS_OK;
}

void ref_kv_close(struct device *device, struct kv *kv)
{
    if (!kv)
        return;
    memory_free(kv->data);
    memory_free(kv->table);
    free(kv);
}

void ref_kv_table_set(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
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

void ref_kv_copy(struct device *device, struct kv *kv, const uint32_t *host_from,
                 const uint32_t *host_to, uint32_t n)
{
    size_t count = block_values(&kv->shape);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(host_from[i] < kv->shape.blocks_count && host_to[i] < kv->shape.blocks_count);
        memmove(kv->data + host_to[i] * count, kv->data + host_from[i] * count,
                count * sizeof(float));
    }
}

float *ref_kv_at(struct kv *kv, uint32_t layer, uint32_t slot, uint32_t position, int value)
{
    const struct kv_shape *shape = &kv->shape;
    CHECK(layer < shape->n_layers && slot < shape->slots_count);
    uint32_t entry = position / shape->block_tokens, token = position % shape->block_tokens;
    CHECK(entry < shape->slot_blocks_max);
    uint32_t block = kv->table[(size_t)slot * shape->slot_blocks_max + entry];
    CHECK(block < shape->blocks_count);
    size_t index = ((size_t)block * shape->n_layers + layer) * 2 + (size_t)value;
    index = index * shape->block_tokens + token;
    return kv->data + index * shape->n_kv_heads * shape->head_dim;
}

static void head_rotate(const struct rope_kv_args *args, uint32_t position, float *head)
{
    uint32_t half = args->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double angle = (double)position * (double)args->inv_freq[i];
        double cosine = cos(angle) * (double)args->attention_factor;
        double sine = sin(angle) * (double)args->attention_factor;
        double a = (double)head[i], b = (double)head[i + half];
        head[i] = (float)(a * cosine - b * sine);
        head[i + half] = (float)(b * cosine + a * sine);
    }
}

static float bf16_value(uint16_t bits)
{
    float value;
    dtype_widen(DTYPE_BF16, &bits, 1, &value);
    return value;
}

static float e4m3_value(float value)
{
    return isfinite(value) ? dtype_of_e4m3(dtype_e4m3(value)) : NAN;
}

/* At most KV_SCALE_VALUES values, by the rule of kv_shape. */
static void group_store(const float *from, uint32_t count, float *to)
{
    float most = 0, scale = NAN;
    bool finite = true;
    for (uint32_t i = 0; i < count; i++) {
        finite &= isfinite(from[i]) != 0;
        most = fmaxf(most, fabsf(from[i]));
    }
    if (finite) {
        uint16_t bits = dtype_bf16(most / 127);
        if (bf16_value(bits) < most / 127)
            bits++;
        scale = most < 0x1p-100f ? 0 : bf16_value(bits);
    }
    for (uint32_t i = 0; i < count; i++)
        to[i] = scale == 0 ? 0 : scale * nearbyintf(from[i] * (1 / scale));
}

/* As the pool's type has it: one head. */
static void head_store(const struct kv *kv, const float *from, float *to)
{
    uint32_t n = kv->shape.head_dim;
    for (uint32_t i = 0; i < n; i++)
        to[i] = kv->shape.dtype == DTYPE_BF16      ? bf16_value(dtype_bf16(from[i]))
                : kv->shape.dtype == DTYPE_KV_E4M3 ? e4m3_value(from[i])
                                                   : from[i];
    for (uint32_t i = 0; i < n && kv->shape.dtype == DTYPE_Q8_0; i += KV_SCALE_VALUES)
        group_store(from + i, u32_min(KV_SCALE_VALUES, n - i), to + i);
}

void ref_rope_kv(struct device *device, const struct rope_kv_args *args)
{
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads && args->head_dim % 2 == 0);
    CHECK(args->head_dim == args->kv->shape.head_dim);
    size_t row_count = (size_t)(args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
    for (uint32_t r = 0; r < args->n_rows; r++) {
        float *q = args->qkv + r * row_count;
        float *k = q + (size_t)args->n_heads * args->head_dim;
        float *v = k + (size_t)args->n_kv_heads * args->head_dim;
        uint32_t position = args->host_positions[r], slot = args->host_slots[r];
        for (uint32_t h = 0; h < args->n_heads + args->n_kv_heads; h++)
            head_rotate(args, position, q + (size_t)h * args->head_dim);
        float *k_to = ref_kv_at(args->kv, args->layer, slot, position, 0);
        float *v_to = ref_kv_at(args->kv, args->layer, slot, position, 1);
        for (uint32_t i = 0; i < args->n_kv_heads * args->head_dim; i += args->head_dim) {
            head_store(args->kv, k + i, k_to + i);
            head_store(args->kv, v + i, v_to + i);
        }
    }
}
