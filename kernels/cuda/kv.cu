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

/* ---- rope_kv ---- */

struct rope_task {
    uint32_t n_heads, n_kv_heads, head_dim, layer;
    float *qkv;
    const float *inv_freq;
    float attention_factor;
    const uint32_t *positions, *slots;
    struct kv_view kv;
};

#define ROPE_THREADS 128
#define HEAD_DIM_MAX 512

/*
 * Sine and cosine of an angle below 2^24 in size. The library's ones keep a frame in local memory
 * for angles that no position has; these give the same bits on every device. Quarter turns are
 * taken off in three parts that fma makes exact enough, then Taylor's series to x^17 and x^16: what
 * is left out is below 2^-58 of the value.
 */
LEAF void angle_turn(double angle, double *ret_sine, double *ret_cosine)
{
    double n = rint(angle * 0x1.45f306dc9c883p-1); /* 2 / pi */
    double x = fma(-n, 0x1.921fb54442d18p+0, angle);
    x = fma(-n, 0x1.1a62633145c07p-54, x);
    x = fma(-n, -0x1.f1976b7ed8fbcp-110, x);
    double y = x * x, sine = 1, cosine = 1;
#pragma unroll
    for (int k = 16; k >= 2; k -= 2) {
        sine = fma(-y * sine, 1.0 / (k * (k + 1)), 1.0);
        cosine = fma(-y * cosine, 1.0 / (k * (k - 1)), 1.0);
    }
    sine *= x;
    int quarter = (int)((long long)n & 3);
    double a = quarter & 1 ? cosine : sine, b = quarter & 1 ? sine : cosine;
    *ret_sine = quarter & 2 ? -a : a;
    *ret_cosine = (quarter + 1) & 2 ? -b : b;
}

/* A block for a row: angles first, once for all heads; then pairs of values.
 * gate: sm_90a griddepcontrol.wait */
KERNEL(rope_kv_kernel, struct rope_task, ROPE_THREADS, 1)
{
    launch_next();
    launch_wait();
    uint32_t r = block_x(), half = a.head_dim / 2, position = a.positions[r];
    shared<float> cosines = shared_at<float>(0), sines = cosines + half;
    for (uint32_t i = thread_index(); i < half; i += ROPE_THREADS) {
        double angle = (double)position * (double)a.inv_freq[i];
        double sine, cosine;
        angle_turn(angle, &sine, &cosine);
        cosines[i] = (float)(cosine * (double)a.attention_factor);
        sines[i] = (float)(sine * (double)a.attention_factor);
    }
    barrier();
    uint32_t n_rotated = a.n_heads + a.n_kv_heads, token = position % a.kv.block_tokens;
    uint32_t block = kv_block(a.kv, a.slots[r], position);
    global<float> row(a.qkv + (size_t)r * (n_rotated + a.n_kv_heads) * a.head_dim);
    for (uint32_t at = thread_index(); at < n_rotated * half; at += ROPE_THREADS) {
        uint32_t head = at / half, i = at % half;
        size_t low = (size_t)head * a.head_dim + i, high = low + half;
        float x = row[low], y = row[high], c = cosines[i], s = sines[i];
        float turned_x = x * c - y * s, turned_y = y * c + x * s;
        row[low] = turned_x;
        row[high] = turned_y;
        if (head >= a.n_heads) {
            char *tile = kv_tile(a.kv, block, a.layer, head - a.n_heads, 0);
            kv_store(a.kv, tile, token, i, turned_x);
            kv_store(a.kv, tile, token, i + half, turned_y);
        }
    }
    for (uint32_t at = thread_index(); at < a.n_kv_heads * a.head_dim; at += ROPE_THREADS) {
        uint32_t head = at / a.head_dim;
        kv_store(a.kv, kv_tile(a.kv, block, a.layer, head, 1), token, at % a.head_dim,
                 row[(size_t)n_rotated * a.head_dim + at]);
    }
}

void cuda_rope_kv(struct device *device, const struct rope_kv_args *args)
{
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads && args->head_dim % 2 == 0);
    CHECK(args->head_dim == args->kv->shape.head_dim && args->head_dim <= HEAD_DIM_MAX);
    for (uint32_t r = 0; r < args->n_rows; r++)
        kv_check(args->kv, args->layer, args->host_slots[r], args->host_positions[r],
                 args->host_positions[r]);
    size_t bytes = args->n_rows * sizeof(uint32_t);
    struct rope_task task = {
        args->n_heads,
        args->n_kv_heads,
        args->head_dim,
        args->layer,
        args->qkv,
        args->inv_freq,
        args->attention_factor,
        (const uint32_t *)device_stage(device, args->host_positions, bytes),
        (const uint32_t *)device_stage(device, args->host_slots, bytes),
        kv_view_of(args->kv),
    };
    launch_kernel(rope_kv_kernel, device->runtime,
                  (launch{args->n_rows, 1, 1, ROPE_THREADS,
                          (uint32_t)(args->head_dim * sizeof(float)), true}),
                  task);
}
