#include "kernels/ref/ref.h"

static enum status ref_device_open(const struct device_options *options, struct device **ret_device,
                                   struct error *error)
{
    if (options->tier)
        return error_set(error, STATUS_UNSUPPORTED,
                         "backend ref has no tiers: leave the tier unset, not '%s'", options->tier);
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return error_set(error, STATUS_EXHAUSTED, "backend ref: no memory for a device");
    *ret_device = device;
    return STATUS_OK;
}

static void ref_device_close(struct device *device)
{
    if (!device)
        return;
    scratch_free(&device->work);
    scratch_free(&device->normed);
    free(device);
}

static const char *ref_device_text(const struct device *device)
{
    return "ref, 1 thread";
}

static void *ref_buffer_alloc(struct device *device, size_t size_bytes)
{
    return memory_alloc(size_bytes);
}

static void ref_buffer_free(struct device *device, void *buffer)
{
    memory_free(buffer);
}

static void ref_buffer_write(struct device *device, void *buffer, const void *host,
                             size_t size_bytes)
{
    if (size_bytes)
        memcpy(buffer, host, size_bytes);
}

static void ref_buffer_read(struct device *device, const void *buffer, void *host,
                            size_t size_bytes)
{
    if (size_bytes)
        memcpy(host, buffer, size_bytes);
}

void *ref_work(struct device *device, size_t size_bytes)
{
    void *work = scratch_need(&device->work, size_bytes);
    if (!work)
        device->failed = true;
    return work;
}

static enum status ref_reserve(struct device *device, const struct op_limits *limits,
                               struct error *error)
{
    size_t attention = size_product(limits->context_tokens, sizeof(double));
    size_t moe = size_product((size_t)limits->hidden + limits->n_experts + limits->intermediate,
                              sizeof(double));
    size_t normed = size_product(size_product(limits->rows_max, limits->hidden), sizeof(float));
    size_t sample = ref_sample_work_bytes(limits->vocab);
    size_t most = size_max(attention, size_max(moe, sample));
    if (!scratch_need(&device->work, most) || !scratch_need(&device->normed, normed))
        return error_set(error, STATUS_EXHAUSTED, "backend ref: no memory for %zu bytes of scratch",
                         most + normed);
    return STATUS_OK;
}

static enum status ref_sync(struct device *device, struct error *error)
{
    if (device->failed)
        return error_set(error, STATUS_INTERNAL, "backend ref: memory ran out inside an op");
    return STATUS_OK;
}

const struct ops ops_ref = {
    .name = "ref",
    .summary = "plain loops in double precision, the oracle",
    .device_open = ref_device_open,
    .device_close = ref_device_close,
    .device_text = ref_device_text,
    .buffer_alloc = ref_buffer_alloc,
    .buffer_free = ref_buffer_free,
    .buffer_write = ref_buffer_write,
    .buffer_read = ref_buffer_read,
    .weight_pack = ref_weight_pack,
    .weight_free = ref_weight_free,
    .weight_bytes = ref_weight_bytes,
    .kv_block_bytes = ref_kv_block_bytes,
    .kv_open = ref_kv_open,
    .kv_close = ref_kv_close,
    .kv_table_set = ref_kv_table_set,
    .kv_copy = ref_kv_copy,
    .tokens_gather = ref_tokens_gather,
    .embed = ref_embed,
    .linear = ref_linear,
    .rope_kv = ref_rope_kv,
    .attention = ref_attention,
    .mlp = ref_mlp,
    .moe = ref_moe,
    .rows_gather = ref_rows_gather,
    .sample = ref_sample,
    .reserve = ref_reserve,
    .sync = ref_sync,
};
