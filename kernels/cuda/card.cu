#include <cuda_runtime.h>

#include "kernels/cuda/runtime.h"

extern "C" {
#include "kernels/cuda/nvml.h"
}

/*
 * A card through cudart, which is linked statically; only the driver's own library is looked up
 * when the process runs. One stream. The first error sticks, as the driver's own do; one inside of
 * a capture does not, for the stream is as it was before.
 */
struct runtime {
    struct runtime_facts facts;
    cudaStream_t stream;
    cudaEvent_t mark;
    struct nvml *nvml; /* NULL: see nvml_note */
    char nvml_note[128];
    bool capturing;
    cudaError_t failure, capture_failure;
    const char *failed_at, *capture_failed_at;
    const char *failed_words; /* our own, when the card has none */
};

struct runtime_graph {
    cudaGraphExec_t exec;
};

#define ARCH_MIN 80

struct runtime_known *runtime_known_first;

static bool note(struct runtime *runtime, cudaError_t result, const char *what)
{
    cudaError_t *failure = runtime->capturing ? &runtime->capture_failure : &runtime->failure;
    if (result != cudaSuccess && *failure == cudaSuccess) {
        *failure = result;
        *(runtime->capturing ? &runtime->capture_failed_at : &runtime->failed_at) = what;
    }
    return result == cudaSuccess;
}

static bool is_well(const struct runtime *runtime)
{
    return runtime->failure == cudaSuccess &&
           (!runtime->capturing || runtime->capture_failure == cudaSuccess);
}

static enum status facts_read(struct runtime *runtime, struct error *error)
{
    struct cudaDeviceProp card;
    cudaError_t result = cudaGetDeviceProperties(&card, 0);
    if (result != cudaSuccess)
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda: the card says nothing of "
                         "itself: %s",
                         cudaGetErrorString(result));
    struct runtime_facts *facts = &runtime->facts;
    facts->arch = (uint32_t)(card.major * 10 + card.minor);
    facts->has_wgmma = facts->arch == 90; /* the code of sm_90a runs on 9.0 alone */
    facts->processors = (uint32_t)card.multiProcessorCount;
    facts->shared_max_bytes = (uint32_t)card.sharedMemPerBlockOptin;
    snprintf(facts->text, sizeof facts->text, "cuda %.64s, sm_%u", card.name, facts->arch);
    if (facts->arch < ARCH_MIN)
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda: %s has compute capability %d.%d: 8.0 or later is needed",
                         card.name, card.major, card.minor);
    return STATUS_OK;
}

/*
 * Kernels are loaded when they are first used, unless somebody asks for them: memory of the card
 * that is out would then show in the middle of a request.
 */
static enum status kernels_load(struct runtime *runtime, struct error *error)
{
    for (const struct runtime_known *it = runtime_known_first; it; it = it->next) {
        struct cudaFuncAttributes unused;
        cudaError_t result = cudaFuncGetAttributes(&unused, it->function);
        if (result == cudaErrorMemoryAllocation)
            return error_set(error, STATUS_EXHAUSTED,
                             "backend cuda: no memory of the card for the kernels themselves: %.1f "
                             "MiB are free: see whether another process holds it",
                             (double)runtime_free_bytes(runtime) / (1 << 20));
        if (result != cudaSuccess)
            return error_set(error, STATUS_UNAVAILABLE,
                             "backend cuda: a kernel cannot be loaded: %s: the module has code for "
                             "8.0 and later, this card is %s",
                             cudaGetErrorString(result), runtime->facts.text);
    }
    return STATUS_OK;
}

/* Told through the library of the driver, where there is one; the card works without. */
static void nvml_find(struct runtime *runtime)
{
    char bus[32] = "";
    struct error why = {};
    (void)cudaDeviceGetPCIBusId(bus, sizeof bus, 0);
    if (nvml_open(NVML_LIBRARY, bus, &runtime->nvml, &why) != STATUS_OK)
        snprintf(runtime->nvml_note, sizeof runtime->nvml_note, "%.127s", why.text);
}

/* Why there is no card, in words of whoever has to act. */
static enum status card_find(struct error *error)
{
    int driver = 0, built = 0, cards = 0;
    (void)cudaRuntimeGetVersion(&built);
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda: no NVIDIA driver (libcuda.so.1) is installed");
    cudaError_t result = cudaGetDeviceCount(&cards);
    if (result == cudaErrorInsufficientDriver || driver / 1000 < built / 1000)
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda: the driver supports CUDA %d.%d, %d.%d is needed: update it",
                         driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10);
    if (result == cudaErrorNoDevice || (result == cudaSuccess && cards == 0))
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda: the driver finds no card that this process may use (is "
                         "CUDA_VISIBLE_DEVICES set, are its device files allowed?)");
    if (result != cudaSuccess)
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda: the driver does not start: %s (%s): nvidia-smi and the "
                         "kernel's log say more",
                         cudaGetErrorString(result), cudaGetErrorName(result));
    return STATUS_OK;
}

enum status runtime_open(struct runtime **ret_runtime, struct error *error)
{
    enum status status = card_find(error);
    if (status != STATUS_OK)
        return status;
    struct runtime *runtime = (struct runtime *)calloc(1, sizeof *runtime);
    if (!runtime)
        return error_set(error, STATUS_EXHAUSTED, "backend cuda: no memory for a device");
    cudaError_t result = cudaSetDevice(0);
    if (result == cudaSuccess)
        result = cudaStreamCreateWithFlags(&runtime->stream, cudaStreamNonBlocking);
    if (result == cudaSuccess)
        result = cudaEventCreateWithFlags(&runtime->mark, cudaEventDisableTiming);
    if (result != cudaSuccess) {
        status = error_set(
            error, STATUS_UNAVAILABLE, "backend cuda: the card cannot be opened: %s (%s)%s",
            cudaGetErrorString(result), cudaGetErrorName(result),
            result == cudaErrorMemoryAllocation || result == cudaErrorDevicesUnavailable
                ? ": see whether another process holds it"
                : "");
        runtime_close(runtime);
        return status;
    }
    status = facts_read(runtime, error);
    if (status == STATUS_OK)
        status = kernels_load(runtime, error);
    if (status != STATUS_OK) {
        runtime_close(runtime);
        return status;
    }
    nvml_find(runtime);
    *ret_runtime = runtime;
    return STATUS_OK;
}

void runtime_close(struct runtime *runtime)
{
    if (!runtime)
        return;
    nvml_close(runtime->nvml);
    if (runtime->mark)
        (void)cudaEventDestroy(runtime->mark);
    if (runtime->stream)
        (void)cudaStreamDestroy(runtime->stream);
    free(runtime);
}

const struct runtime_facts *runtime_facts_of(const struct runtime *runtime)
{
    return &runtime->facts;
}

size_t runtime_free_bytes(const struct runtime *)
{
    size_t unused = 0, all = 0;
    return cudaMemGetInfo(&unused, &all) == cudaSuccess ? unused : 0;
}

void runtime_facts_ask(struct runtime *runtime, struct device_facts *ret_facts)
{
    if (runtime->nvml)
        nvml_ask(runtime->nvml, ret_facts);
    else
        snprintf(ret_facts->note, sizeof ret_facts->note, "%s", runtime->nvml_note);
    size_t unused = 0, all = 0;
    if (!(ret_facts->known & DEVICE_MEMORY) && cudaMemGetInfo(&unused, &all) == cudaSuccess) {
        ret_facts->memory_bytes = all;
        ret_facts->memory_free_bytes = unused;
        ret_facts->known |= DEVICE_MEMORY;
    }
}

void runtime_fail(struct runtime *runtime, const char *what)
{
    if (runtime->failure != cudaSuccess)
        return;
    runtime->failure = cudaErrorUnknown;
    runtime->failed_words = what;
}

void *runtime_alloc(struct runtime *runtime, size_t bytes)
{
    void *memory = NULL;
    cudaError_t result = cudaMalloc(&memory, size_max(bytes, 1));
    if (result != cudaSuccess) {
        (void)cudaGetLastError();
        if (result != cudaErrorMemoryAllocation) /* memory that is out is no failure of the card */
            note(runtime, result, "an allocation");
        return NULL;
    }
    if (!note(runtime, cudaMemsetAsync(memory, 0, bytes, runtime->stream), "zeroing memory")) {
        (void)cudaFree(memory);
        return NULL;
    }
    return memory;
}

void runtime_free(struct runtime *, void *memory)
{
    if (memory)
        (void)cudaFree(memory);
}

void *runtime_pinned_alloc(struct runtime *, size_t bytes)
{
    void *memory = NULL;
    if (cudaHostAlloc(&memory, size_max(bytes, 1), cudaHostAllocDefault) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    return memory;
}

void runtime_pinned_free(struct runtime *, void *memory)
{
    if (memory)
        (void)cudaFreeHost(memory);
}

/* Pageable memory is copied away before the call returns, or the copy is over. */
void runtime_upload(struct runtime *runtime, void *to, const void *host, size_t bytes)
{
    CHECK(!runtime->capturing);
    if (bytes && is_well(runtime))
        note(runtime, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, runtime->stream),
             "a copy to the card");
}

void runtime_upload_pinned(struct runtime *runtime, void *to, const void *pinned, size_t bytes)
{
    CHECK(!runtime->capturing);
    if (bytes && is_well(runtime))
        note(runtime, cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, runtime->stream),
             "a copy of arguments");
}

void runtime_download(struct runtime *runtime, void *host, const void *from, size_t bytes)
{
    CHECK(!runtime->capturing);
    if (!bytes || !is_well(runtime))
        return;
    if (note(runtime, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, runtime->stream),
             "a copy from the card"))
        note(runtime, cudaStreamSynchronize(runtime->stream), "a copy from the card");
}

void runtime_move(struct runtime *runtime, void *to, const void *from, size_t bytes)
{
    if (bytes && is_well(runtime))
        note(runtime, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, runtime->stream),
             "a copy on the card");
}

void runtime_zero(struct runtime *runtime, void *to, size_t bytes)
{
    if (bytes && is_well(runtime))
        note(runtime, cudaMemsetAsync(to, 0, bytes, runtime->stream), "zeroing memory");
}

enum status runtime_wait(struct runtime *runtime, struct error *error)
{
    if (runtime->failure == cudaSuccess)
        note(runtime, cudaStreamSynchronize(runtime->stream), "the kernels of a step");
    if (runtime->failed_words)
        return error_set(error, STATUS_INTERNAL, "backend cuda: %s", runtime->failed_words);
    if (runtime->failure != cudaSuccess)
        return error_set(error, STATUS_INTERNAL, "backend cuda: %s failed: %s (%s)",
                         runtime->failed_at, cudaGetErrorString(runtime->failure),
                         cudaGetErrorName(runtime->failure));
    return STATUS_OK;
}

void runtime_launch(struct runtime *runtime, const struct runtime_kernel *kernel,
                    const struct launch *launch, const void *task, size_t)
{
    if (launch->x == 0 || launch->y == 0 || launch->z == 0 || !is_well(runtime))
        return;
    if (launch->shared_bytes > *kernel->shared_allowed_bytes) {
        if (!note(runtime,
                  cudaFuncSetAttribute(kernel->function,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       (int)launch->shared_bytes),
                  kernel->name))
            return;
        *kernel->shared_allowed_bytes = launch->shared_bytes;
    }
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t shape = {};
    shape.gridDim = dim3(launch->x, launch->y, launch->z);
    shape.blockDim = dim3(launch->threads);
    shape.dynamicSmemBytes = launch->shared_bytes;
    shape.stream = runtime->stream;
    shape.attrs = &overlap;
    /* What waits for the launch before is griddepcontrol, which the code for sm_90a alone has:
     * later cards run that of compute_80. */
    shape.numAttrs = launch->overlaps && runtime->facts.has_wgmma ? 1 : 0;
    void *arguments[1] = {(void *)task};
    note(runtime, cudaLaunchKernelExC(&shape, kernel->function, arguments), kernel->name);
}

void runtime_mark(struct runtime *runtime)
{
    if (is_well(runtime))
        note(runtime, cudaEventRecord(runtime->mark, runtime->stream), "a mark");
}

void runtime_mark_wait(struct runtime *runtime)
{
    if (is_well(runtime))
        note(runtime, cudaEventSynchronize(runtime->mark), "the kernels of a step");
}

/* ---- graphs ---- */

void runtime_capture_begin(struct runtime *runtime)
{
    CHECK(!runtime->capturing);
    runtime->capturing = true;
    runtime->capture_failure = cudaSuccess;
    runtime->capture_failed_at = NULL;
    note(runtime, cudaStreamBeginCapture(runtime->stream, cudaStreamCaptureModeThreadLocal),
         "the capture of a step");
}

/* Every call is made whatever went wrong before: the stream must come out of its capture. */
enum status runtime_capture_end(struct runtime *runtime, struct runtime_graph **ret_graph,
                                struct error *error)
{
    CHECK(runtime->capturing);
    cudaGraph_t captured = NULL;
    struct runtime_graph *graph = (struct runtime_graph *)calloc(1, sizeof *graph);
    note(runtime, cudaStreamEndCapture(runtime->stream, &captured), "the capture of a step");
    if (graph && captured && is_well(runtime))
        note(runtime, cudaGraphInstantiate(&graph->exec, captured, 0), "the making of a graph");
    if (graph && graph->exec) /* now, and not in the first launch */
        note(runtime, cudaGraphUpload(graph->exec, runtime->stream), "the making of a graph");
    if (captured)
        (void)cudaGraphDestroy(captured);
    bool good = graph && is_well(runtime);
    runtime->capturing = false;
    if (!good) {
        (void)cudaGetLastError();
        runtime_graph_free(runtime, graph);
        return error_set(error, STATUS_INTERNAL, "backend cuda: %s failed: %s",
                         runtime->capture_failed_at ? runtime->capture_failed_at
                                                    : "the making of a graph",
                         cudaGetErrorString(runtime->capture_failure));
    }
    *ret_graph = graph;
    return STATUS_OK;
}

void runtime_graph_launch(struct runtime *runtime, struct runtime_graph *graph)
{
    CHECK(!runtime->capturing);
    if (is_well(runtime))
        note(runtime, cudaGraphLaunch(graph->exec, runtime->stream), "the launch of a graph");
}

void runtime_graph_free(struct runtime *, struct runtime_graph *graph)
{
    if (!graph)
        return;
    if (graph->exec)
        (void)cudaGraphExecDestroy(graph->exec);
    free(graph);
}
