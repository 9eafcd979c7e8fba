#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * A block holds all layers and heads of its positions, so that a copy is one move. Inside, K of a
 * head is turned: for one feature the positions lie side by side, and attention computes the scores
 * of 16 positions in one vector without ever adding across it.
 */

static size_t head_bytes(const struct kv_shape *shape)
{
    return attend_head_bytes(shape->dtype, shape->head_dim, shape->block_tokens);
}

size_t cpu_kv_block_bytes(const struct kv_shape *shape)
{
    return size_product(size_product(head_bytes(shape), shape->n_kv_heads), shape->n_layers);
}

enum status cpu_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                        struct error *error)
{
    CHECK(shape->block_tokens == 16 || shape->block_tokens == 32);
    CHECK(shape->dtype == DTYPE_F32 || shape->dtype == DTYPE_BF16 || shape->dtype == DTYPE_Q8_0 ||
          shape->dtype == DTYPE_KV_E4M3);
    CHECK(shape->dtype == DTYPE_F32 || shape->head_dim % 2 == 0);
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
    return kv->data + head * head_bytes(shape);
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

/* Of at most KV_SCALE_VALUES values, by the rule of kv_shape; returns what they are multiplied by:
 * 0 when they are all to be 0. */
static float group_scale(const float *from, uint32_t count, uint16_t *ret_scale)
{
    uint32_t most_bits = 0;
    for (uint32_t i = 0; i < count; i++) {
        union attend_word word = {.f32 = from[i]};
        most_bits = u32_max(most_bits, word.bits & 0x7fffffffu);
    }
    union attend_word most = {.bits = most_bits}, scale = {.f32 = most.f32 / 127};
    *ret_scale = most_bits < 0x7f800000u ? 0 : 0x7fc0;
    if (most_bits >= 0x7f800000u || most.f32 < 0x1p-100f)
        return 0;
    scale.bits = (scale.bits + 0xffffu) & 0xffff0000u; /* up */
    *ret_scale = (uint16_t)(scale.bits >> 16);
    return 1 / scale.f32;
}

/* Feature i is value i % parts of word i / parts in K, where a word has `parts` features; in V it
 * is a value of word i, which has other positions beside it. */
static size_t key_index(uint32_t feature, uint32_t token, uint32_t block_tokens, uint32_t parts)
{
    return ((size_t)(feature / parts) * block_tokens + token) * parts + feature % parts;
}

static size_t value_index(uint32_t feature, uint32_t token, uint32_t head_dim, uint32_t parts)
{
    return ((size_t)(token / parts) * head_dim + feature) * parts + token % parts;
}

static int rounded(float value, float times)
{
    const float round = 0x1.8p23f; /* adding it rounds to a whole number, ties to even */
    return times == 0 ? 0 : (int)(value * times + round - round);
}

static void q8_store(const struct kv_shape *shape, uint32_t token, const float *k, const float *v,
                     char *to)
{
    const uint32_t n = shape->head_dim, block_tokens = shape->block_tokens;
    char *v_to = to + attend_values(DTYPE_Q8_0, n, block_tokens);
    char *k_scales = to + attend_key_scales(DTYPE_Q8_0, n, block_tokens);
    char *v_scales = to + attend_value_scales(DTYPE_Q8_0, n, block_tokens);
    for (uint32_t first = 0; first < n; first += KV_SCALE_VALUES) {
        uint32_t count = u32_min(KV_SCALE_VALUES, n - first);
        size_t at = (size_t)(first / KV_SCALE_VALUES) * block_tokens + token;
        float k_times = group_scale(k + first, count, (uint16_t *)(void *)k_scales + at);
        float v_times = group_scale(v + first, count, (uint16_t *)(void *)v_scales + at);
        for (uint32_t i = first; i < first + count; i++) {
            to[key_index(i, token, block_tokens, 4)] = (char)(rounded(k[i], k_times) ^ 0x80);
            v_to[value_index(i, token, n, 4)] = (char)rounded(v[i], v_times);
        }
    }
}

static void bf16_store(const struct kv_shape *shape, uint32_t token, const float *k, const float *v,
                       char *to)
{
    const uint32_t n = shape->head_dim, block_tokens = shape->block_tokens;
    uint16_t *k_to = (uint16_t *)(void *)to;
    uint16_t *v_to = (uint16_t *)(void *)(to + attend_values(DTYPE_BF16, n, block_tokens));
    for (uint32_t i = 0; i < n; i++) {
        k_to[key_index(i, token, block_tokens, 2)] = dtype_bf16(k[i]);
        v_to[value_index(i, token, n, 2)] = dtype_bf16(v[i]);
    }
}

static char e4m3_byte(float value)
{
    return (char)(isfinite(value) ? dtype_e4m3(value) : 0x7f);
}

static void e4m3_store(const struct kv_shape *shape, uint32_t token, const float *k, const float *v,
                       char *to)
{
    const uint32_t n = shape->head_dim, block_tokens = shape->block_tokens;
    char *v_to = to + attend_values(DTYPE_KV_E4M3, n, block_tokens);
    for (uint32_t i = 0; i < n; i++) {
        to[key_index(i, token, block_tokens, 4)] = e4m3_byte(k[i]);
        v_to[value_index(i, token, n, 4)] = e4m3_byte(v[i]);
    }
    for (uint32_t i = n; i < round_up(n, 4); i++)
        to[key_index(i, token, block_tokens, 4)] = 0;
}

static void f32_store(const struct kv_shape *shape, uint32_t token, const float *k, const float *v,
                      char *to)
{
    const uint32_t n = shape->head_dim, block_tokens = shape->block_tokens;
    float *k_to = (float *)(void *)to;
    float *v_to = (float *)(void *)(to + attend_values(DTYPE_F32, n, block_tokens));
    for (uint32_t i = 0; i < n; i++)
        k_to[key_index(i, token, block_tokens, 1)] = k[i];
    memcpy(v_to + value_index(0, token, n, 1), v, n * sizeof *v);
}

/* K turned, then V: see attend.h. */
static void head_store(const struct rope_kv_args *args, uint32_t row, uint32_t kv_head,
                       const float *k, const float *v)
{
    const struct kv *kv = args->kv;
    uint32_t position = args->host_positions[row], block_tokens = kv->shape.block_tokens;
    const uint32_t *blocks = cpu_kv_blocks(kv, args->host_slots[row], position, position);
    char *to = cpu_kv_head(kv, args->layer, kv_head) +
               blocks[position / block_tokens] * cpu_kv_block_bytes(&kv->shape);
    (kv->shape.dtype == DTYPE_F32       ? f32_store
     : kv->shape.dtype == DTYPE_BF16    ? bf16_store
     : kv->shape.dtype == DTYPE_KV_E4M3 ? e4m3_store
                                        : q8_store)(&kv->shape, position % block_tokens, k, v, to);
}

/*
 * Layers of a step rotate by the same angles, whose sines and cosines cost more than the rotation.
 * So those of the last call are kept, with all that they come from, and serve the next call when
 * that is the same.
 */
struct rope_run {
    const struct rope_kv_args *args;
    float *angles;  /* [n_rows][head_dim]: cosines, then sines */
    bool are_known; /* from the last call */
};

static float *angles_find(struct device *device, const struct rope_kv_args *args, bool *ret_known)
{
    uint32_t half = args->head_dim / 2;
    size_t positions_bytes = args->n_rows * sizeof(uint32_t), head_bytes = half * sizeof(float);
    uint32_t *key = cpu_work(device, &device->angles_key, cpu_angles_key_bytes(args->n_rows, half));
    float *angles = cpu_work(device, &device->angles,
                             size_product(args->n_rows, args->head_dim * sizeof(float)));
    if (!key || !angles)
        return NULL;
    uint32_t head[3] = {args->n_rows, half};
    memcpy(&head[2], &args->attention_factor, sizeof head[2]);
    uint32_t *positions = key + array_count(head), *inv_freq = positions + args->n_rows;
    *ret_known = memcmp(key, head, sizeof head) == 0 &&
                 memcmp(positions, args->host_positions, positions_bytes) == 0 &&
                 memcmp(inv_freq, args->inv_freq, head_bytes) == 0;
    memcpy(key, head, sizeof head);
    memcpy(positions, args->host_positions, positions_bytes);
    memcpy(inv_freq, args->inv_freq, head_bytes);
    return angles;
}

size_t cpu_angles_key_bytes(uint32_t n_rows, uint32_t half)
{
    return size_product(3ul + n_rows + half, sizeof(uint32_t));
}

static void angles_fill(const struct rope_kv_args *args, uint32_t row, float *angles)
{
    uint32_t half = args->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double angle = (double)args->host_positions[row] * (double)args->inv_freq[i], sine, cosine;
        sincos(angle, &sine, &cosine);
        angles[i] = (float)(cosine * (double)args->attention_factor);
        angles[half + i] = (float)(sine * (double)args->attention_factor);
    }
}

static void rope_row(const struct rope_kv_args *args, uint32_t row, const struct tier *tier,
                     const float *angles)
{
    uint32_t half = args->head_dim / 2;
    size_t row_values = (size_t)(args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
    float *q = args->qkv + row * row_values;
    float *k = q + (size_t)args->n_heads * args->head_dim;
    const float *v = k + (size_t)args->n_kv_heads * args->head_dim;
    for (uint32_t h = 0; h < args->n_heads + args->n_kv_heads; h++)
        tier->rotate(q + (size_t)h * args->head_dim, angles, angles + half, half);
    for (uint32_t h = 0; h < args->n_kv_heads; h++)
        head_store(args, row, h, k + (size_t)h * args->head_dim, v + (size_t)h * args->head_dim);
}

static void rope_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *rows = context;
    const struct rope_run *run = rows->args;
    for (uint32_t r = rows_first(rows, item); r < rows_first(rows, item + 1); r++) {
        float *angles = run->angles + (size_t)r * run->args->head_dim;
        if (!run->are_known)
            angles_fill(run->args, r, angles);
        rope_row(run->args, r, rows->device->tier, angles);
    }
}

void cpu_rope_kv(struct device *device, const struct rope_kv_args *args)
{
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads && args->head_dim % 2 == 0);
    CHECK(args->head_dim == args->kv->shape.head_dim);
    struct rope_run run = {.args = args};
    run.angles = angles_find(device, args, &run.are_known);
    if (!run.angles)
        return;
    size_t row_values = (size_t)(args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
    rows_run(device, &run, args->n_rows, 4 * row_values, rope_item);
}
