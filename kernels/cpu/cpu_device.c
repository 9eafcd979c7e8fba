#include "kernels/cpu/cpu.h"

static void cpu_device_close(struct device *device)
{
    if (!device)
        return;
    for (uint32_t i = 0; device->threads && i < pool_threads_count(device->pool); i++)
        scratch_free(&device->threads[i]);
    memory_free(device->threads);
    for (size_t i = 0; i < array_count(device->rooms); i++) {
        scratch_free(&device->rooms[i].rows);
        scratch_free(&device->rooms[i].tiles);
        scratch_free(&device->rooms[i].pairs);
        scratch_free(&device->rooms[i].blocks);
    }
    scratch_free(&device->moe);
    scratch_free(&device->attention);
    scratch_free(&device->bests);
    scratch_free(&device->angles);
    scratch_free(&device->angles_key);
    pool_close(device->pool);
    free(device);
}

static enum status cpu_device_open(const struct device_options *options, struct device **ret_device,
                                   struct error *error)
{
    const struct tier *tier;
    enum status status = tier_find(options->tier, &tier, error);
    if (status != STATUS_OK)
        return status;
    uint32_t threads_count = options->threads_count;
    if (threads_count == 0)
        threads_count = pool_threads_default();
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return error_set(error, STATUS_EXHAUSTED, "backend cpu: no memory for a device");
    device->tier = tier;
    status = pool_open(threads_count, &device->pool, error);
    if (status != STATUS_OK)
        goto out;
    device->threads = memory_alloc(size_product(threads_count, sizeof *device->threads));
    if (!device->threads) {
        status = error_set(error, STATUS_EXHAUSTED, "backend cpu: no memory for a device");
        goto out;
    }
    snprintf(device->text, sizeof device->text, "cpu %s, %u thread%s", tier->name, threads_count,
             threads_count == 1 ? "" : "s");
    *ret_device = device;
    device = NULL;
out:
    cpu_device_close(device);
    return status;
}

static const char *cpu_device_text(const struct device *device)
{
    return device->text;
}

static void *cpu_buffer_alloc(struct device *device, size_t size_bytes)
{
    return memory_alloc(size_bytes);
}

static void cpu_buffer_free(struct device *device, void *buffer)
{
    memory_free(buffer);
}

static void cpu_buffer_write(struct device *device, void *buffer, const void *host,
                             size_t size_bytes)
{
    if (size_bytes)
        memcpy(buffer, host, size_bytes);
}

static void cpu_buffer_read(struct device *device, const void *buffer, void *host,
                            size_t size_bytes)
{
    if (size_bytes)
        memcpy(host, buffer, size_bytes);
}

void *cpu_work(struct device *device, struct scratch *scratch, size_t size_bytes)
{
    void *work = scratch_need(scratch, size_bytes);
    if (!work)
        device->failed = true;
    return work;
}

bool cpu_threads_work(struct device *device, size_t size_bytes)
{
    for (uint32_t i = 0; i < pool_threads_count(device->pool); i++)
        if (!cpu_work(device, &device->threads[i], size_bytes))
            return false;
    return true;
}

bool cpu_products_reserve(struct device *device)
{
    bool have = true;
    struct forms forms;
    for (size_t i = 0; i < array_count(device->rooms) && device->rows_max > 0; i++)
        have = have &&
               cpu_forms_room(device, &device->rooms[i], device->rows_max, device->in_max, &forms);
    size_t item = size_max(cpu_gate_item_bytes(device->rows_max), device->in_max * sizeof(float));
    for (uint32_t i = 0; have && i < pool_threads_count(device->pool); i++)
        have = scratch_need(&device->threads[i], item) != NULL;
    return have;
}

/* Less than this many values is not worth waking a thread for. */
#define ITEM_VALUES_MIN 8192

void rows_run(struct device *device, const void *args, uint32_t n_rows, size_t values_per_row,
              pool_item item)
{
    size_t worth = n_rows * values_per_row / ITEM_VALUES_MIN;
    size_t most = size_min(n_rows, 4ul * pool_threads_count(device->pool));
    struct rows_run run = {.args = args,
                           .device = device,
                           .n_rows = n_rows,
                           .n_items = (uint32_t)size_max(1, size_min(worth, most))};
    pool_run(device->pool, item, &run, run.n_items);
}

static enum status cpu_reserve(struct device *device, const struct op_limits *limits,
                               struct error *error)
{
    device->rows_max = limits->rows_max;
    size_t item = size_max(cpu_attention_thread_bytes(limits->head_dim),
                           cpu_sample_work_bytes(limits->vocab));
    size_t attention = cpu_attention_bytes(device, limits);
    bool have = cpu_products_reserve(device);
    have = have && cpu_moe_reserve(device, limits);
    have = have && scratch_need(&device->bests, cpu_bests_bytes(device, limits->sampled_max));
    have = have && scratch_need(&device->angles,
                                size_product(limits->rows_max, limits->head_dim * sizeof(float)));
    have = have && scratch_need(&device->angles_key,
                                cpu_angles_key_bytes(limits->rows_max, limits->head_dim / 2));
    have = have && scratch_need(&device->attention, attention);
    for (uint32_t i = 0; have && i < pool_threads_count(device->pool); i++)
        have = scratch_need(&device->threads[i], item) != NULL;
    if (!have)
        return error_set(error, STATUS_EXHAUSTED,
                         "backend cpu: no memory for scratch: %zu bytes of attention, %zu for "
                         "each of %u threads, forms of %u rows: lower the tokens of a step",
                         attention, item, pool_threads_count(device->pool), limits->rows_max);
    return STATUS_OK;
}

static enum status cpu_sync(struct device *device, struct error *error)
{
    if (device->failed)
        return error_set(error, STATUS_INTERNAL, "backend cpu: memory ran out inside an op");
    return STATUS_OK;
}

const struct ops ops_cpu = {
    .name = "cpu",
    .widens = 1u << DTYPE_F8_E4M3,
    .summary =
        "threads and vector instructions of this CPU (tiers scalar, avx2, avx2-vnni, avx512, "
        "avx512-vnni, avx512-bf16)",
    .device_open = cpu_device_open,
    .device_close = cpu_device_close,
    .device_text = cpu_device_text,
    .buffer_alloc = cpu_buffer_alloc,
    .buffer_free = cpu_buffer_free,
    .buffer_write = cpu_buffer_write,
    .buffer_read = cpu_buffer_read,
    .weight_pack = cpu_weight_pack,
    .weight_free = cpu_weight_free,
    .weight_bytes = cpu_weight_bytes,
    .kv_block_bytes = cpu_kv_block_bytes,
    .kv_open = cpu_kv_open,
    .kv_close = cpu_kv_close,
    .kv_table_set = cpu_kv_table_set,
    .kv_copy = cpu_kv_copy,
    .tokens_gather = cpu_tokens_gather,
    .embed = cpu_embed,
    .linear = cpu_linear,
    .rope_kv = cpu_rope_kv,
    .attention = cpu_attention,
    .mlp = cpu_mlp,
    .moe = cpu_moe,
    .rows_gather = cpu_rows_gather,
    .sample = cpu_sample,
    .reserve = cpu_reserve,
    .sync = cpu_sync,
};
