#include "kernels/cuda/cuda.h"

extern "C" {
#include "kernels/module.h"
}

#ifdef __CUDACC__
#define BACKEND "cuda"
#define SUMMARY "NVIDIA GPUs: compute capability 8.0 and later, tensor paths for 9.0"
#else
#define BACKEND "cuda-host"
#define SUMMARY "the kernels of cuda, emulated on the host: for tests"
#endif

#define STAGE_BYTES ((size_t)4 << 20)

static void cuda_device_close(struct device *device)
{
    if (!device)
        return;
    while (device->graphs)
        cuda_graph_free(device, device->graphs);
    if (device->runtime) {
        for (uint32_t i = 0; i < SCRATCH_COUNT; i++)
            runtime_free(device->runtime, device->scratch[i]);
        stage_close(device, &device->stage);
        stage_close(device, &device->graph_stage);
    }
    runtime_close(device->runtime);
    free(device);
}

/* What a block has on the smallest of the cards: 8.6, 8.9 and 12.0. */
#define SHARED_LEAST_BYTES (99u << 10)

/* The tier names a path that the card has, for tests: "sm80" leaves out what some card lacks,
 * "plain" all tensor instructions of products. */
static enum status tier_take(struct device *device, const char *tier, struct error *error)
{
    device->wgmma = runtime_facts_of(device->runtime)->has_wgmma;
    device->shared_max_bytes = runtime_facts_of(device->runtime)->shared_max_bytes;
    if (!tier || strcmp(tier, "sm90") == 0) {
        if (tier && !device->wgmma)
            return error_set(error, STATUS_UNSUPPORTED,
                             "backend " BACKEND ": tier sm90 is not supported by %s",
                             runtime_facts_of(device->runtime)->text);
        return STATUS_OK;
    }
    device->plain = strcmp(tier, "plain") == 0;
    if (strcmp(tier, "sm80") != 0 && !device->plain)
        return error_set(error, STATUS_UNSUPPORTED,
                         "backend " BACKEND " has no tier '%s': use sm80, sm90, plain or none",
                         tier);
    device->wgmma = false;
    device->shared_max_bytes = (uint32_t)size_min(device->shared_max_bytes, SHARED_LEAST_BYTES);
    return STATUS_OK;
}

static enum status cuda_device_open(const struct device_options *options,
                                    struct device **ret_device, struct error *error)
{
    struct device *device = (struct device *)calloc(1, sizeof *device);
    if (!device)
        return error_set(error, STATUS_EXHAUSTED, "backend " BACKEND ": no memory for a device");
    enum status status = runtime_open(&device->runtime, error);
    if (status == STATUS_OK)
        status = tier_take(device, options->tier, error);
    if (status == STATUS_OK)
        status = stage_open(device, STAGE_BYTES, &device->stage, error);
    if (status == STATUS_OK) {
        snprintf(device->text, sizeof device->text, "%s", runtime_facts_of(device->runtime)->text);
        *ret_device = device;
        return STATUS_OK;
    }
    cuda_device_close(device);
    return status;
}

static const char *cuda_device_text(const struct device *device)
{
    return device->text;
}

static double mib(size_t bytes)
{
    return (double)bytes / (1024 * 1024);
}

enum status device_no_memory(struct device *device, const char *what, size_t bytes,
                             const char *helps, struct error *error)
{
    return error_set(error, STATUS_EXHAUSTED,
                     "backend " BACKEND ": no memory for %s: %.1f MiB are needed, %.1f MiB of the "
                     "device are free: %s",
                     what, mib(bytes), mib(runtime_free_bytes(device->runtime)), helps);
}

/* ---- buffers ---- */

static void *cuda_buffer_alloc(struct device *device, size_t size_bytes)
{
    return runtime_alloc(device->runtime, size_bytes);
}

static void cuda_buffer_free(struct device *device, void *buffer)
{
    runtime_free(device->runtime, buffer);
}

/* What fits goes through the stage, so that it can be captured and never waits. */
static void cuda_buffer_write(struct device *device, void *buffer, const void *host,
                              size_t size_bytes)
{
    if (size_bytes == 0)
        return;
    if (device->capturing || size_bytes <= STAGE_BYTES / 64)
        runtime_move(device->runtime, buffer, device_stage_once(device, host, size_bytes),
                     size_bytes);
    else
        runtime_upload(device->runtime, buffer, host, size_bytes);
}

static void cuda_buffer_read(struct device *device, const void *buffer, void *host,
                             size_t size_bytes)
{
    if (size_bytes)
        runtime_download(device->runtime, host, buffer, size_bytes);
}

/* ---- scratch ---- */

enum status device_scratch_reserve(struct device *device, enum scratch_kind kind, size_t bytes,
                                   const char *what, struct error *error)
{
    if (bytes <= device->scratch_bytes[kind])
        return STATUS_OK;
    CHECK(!device->graphs); /* they have the old address; `reserve` came before them */
    runtime_free(device->runtime, device->scratch[kind]);
    device->scratch_bytes[kind] = 0;
    device->scratch[kind] = runtime_alloc(device->runtime, bytes);
    if (!device->scratch[kind])
        return device_no_memory(device, what, bytes, "lower step_tokens_max", error);
    device->scratch_bytes[kind] = bytes;
    return STATUS_OK;
}

void *device_scratch(struct device *device, enum scratch_kind kind, size_t bytes)
{
    if (device->capturing && bytes > device->scratch_bytes[kind]) {
        device->capture_fault = "its ops need more memory than `reserve` was told of";
        return NULL;
    }
    if (device_scratch_reserve(device, kind, bytes, "scratch", NULL) != STATUS_OK) {
        device->failed = true;
        return NULL;
    }
    return device->scratch[kind];
}

static enum status cuda_reserve(struct device *device, const struct op_limits *limits,
                                struct error *error)
{
    const struct {
        enum scratch_kind kind;
        const char *what;
        size_t bytes;
    } needs[] = {
        {SCRATCH_LINEAR, "scratch of products", cuda_linear_scratch_bytes(device, limits)},
        {SCRATCH_MLP, "scratch of feed-forward blocks",
         limits->n_experts ? cuda_moe_scratch_bytes(device, limits)
                           : cuda_mlp_scratch_bytes(device, limits)},
        {SCRATCH_ATTENTION, "scratch of attention", cuda_attention_scratch_bytes(device, limits)},
        {SCRATCH_SAMPLE, "scratch of sampling", cuda_sample_scratch_bytes(device, limits)},
    };
    for (size_t i = 0; i < array_count(needs); i++) {
        enum status status =
            device_scratch_reserve(device, needs[i].kind, needs[i].bytes, needs[i].what, error);
        if (status != STATUS_OK)
            return status;
    }
    device->step_stage_bytes = round_up(stage_step_bytes(limits), 256);
    enum status status = runtime_wait(device->runtime, error);
    device->plan = {};
    if (status == STATUS_OK)
        status = stage_open(device, STAGE_BYTES + device->step_stage_bytes, &device->stage, error);
    if (status == STATUS_OK)
        status = stage_open(device, device->step_stage_bytes, &device->graph_stage, error);
    return status;
}

static enum status cuda_sync(struct device *device, struct error *error)
{
    enum status status = runtime_wait(device->runtime, error);
    stage_reset(device, &device->stage);
    device->plan = {};
    if (status == STATUS_OK && device->failed)
        return error_set(error, STATUS_INTERNAL,
                         "backend " BACKEND ": memory ran out inside an op");
    return status;
}

/* ---- what the card says of itself ---- */

static size_t cuda_memory_free_bytes(struct device *device)
{
    return runtime_free_bytes(device->runtime);
}

static void cuda_device_facts(struct device *device, struct device_facts *ret_facts)
{
    *ret_facts = {};
    runtime_facts_ask(device->runtime, ret_facts);
}

extern "C" __attribute__((visibility("default"))) const struct module_stamp galerne_module;
const struct module_stamp galerne_module = {GALERNE_VERSION, sizeof(struct ops)};

const struct ops galerne_ops = {
    .name = BACKEND,
    .summary = SUMMARY,
    .device_open = cuda_device_open,
    .device_close = cuda_device_close,
    .device_text = cuda_device_text,
    .buffer_alloc = cuda_buffer_alloc,
    .buffer_free = cuda_buffer_free,
    .buffer_write = cuda_buffer_write,
    .buffer_read = cuda_buffer_read,
    .weight_pack = cuda_weight_pack,
    .weight_free = cuda_weight_free,
    .weight_bytes = cuda_weight_bytes,
    .kv_block_bytes = cuda_kv_block_bytes,
    .kv_open = cuda_kv_open,
    .kv_close = cuda_kv_close,
    .kv_table_set = cuda_kv_table_set,
    .kv_copy = cuda_kv_copy,
    .tokens_gather = cuda_tokens_gather,
    .embed = cuda_embed,
    .linear = cuda_linear,
    .rope_kv = cuda_rope_kv,
    .qkv = cuda_qkv,
    .attention = cuda_attention,
    .mlp = cuda_mlp,
    .moe = cuda_moe,
    .rows_gather = cuda_rows_gather,
    .sample = cuda_sample,
    .reserve = cuda_reserve,
    .sync = cuda_sync,
    .graph_begin = cuda_graph_begin,
    .graph_end = cuda_graph_end,
    .graph_launch = cuda_graph_launch,
    .graph_free = cuda_graph_free,
    .memory_free_bytes = cuda_memory_free_bytes,
    .device_facts = cuda_device_facts,
};
