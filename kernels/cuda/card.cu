#include <cuda_runtime.h>

#include "kernels/cuda/runtime.h"

/*
 * A card through cudart, which is linked statically; only the driver's own library is looked up
 * when the process runs. One stream. The first error sticks, as the driver's own do.
 */
struct runtime {
    struct runtime_facts facts;
    cudaStream_t stream;
    bool capturing;
    cudaError_t failure;
    const char *failed_at;
};

struct runtime_graph {
    cudaGraphExec_t exec;
    cudaEvent_t launched; /* after its last launch */
};

#define ARCH_MIN 80

static bool note(struct runtime *runtime, cudaError_t result, const char *what)
{
    if (result != cudaSuccess && runtime->failure == cudaSuccess) {
        runtime->failure = result;
        runtime->failed_at = what;
    }
    return result == cudaSuccess;
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
        return error_set(error, STATUS_UNAVAILABLE, "backend cuda: %s", cudaGetErrorString(result));
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
    if (result != cudaSuccess) {
        status = error_set(error, STATUS_UNAVAILABLE, "backend cuda: the card cannot be opened: %s",
                           cudaGetErrorString(result));
        free(runtime);
        return status;
    }
    status = facts_read(runtime, error);
    if (status != STATUS_OK) {
        runtime_close(runtime);
        return status;
    }
    *ret_runtime = runtime;
    return STATUS_OK;
}

void runtime_close(struct runtime *runtime)
{
    if (!runtime)
        return;
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
    if (bytes && runtime->failure == cudaSuccess)
        note(runtime, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, runtime->stream),
             "a copy to the card");
}

void runtime_upload_pinned(struct runtime *runtime, void *to, const void *pinned, size_t bytes)
{
    if (bytes && runtime->failure == cudaSuccess)
        note(runtime, cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, runtime->stream),
             "a copy of arguments");
}

void runtime_download(struct runtime *runtime, void *host, const void *from, size_t bytes)
{
    CHECK(!runtime->capturing);
    if (!bytes || runtime->failure != cudaSuccess)
        return;
    if (note(runtime, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, runtime->stream),
             "a copy from the card"))
        note(runtime, cudaStreamSynchronize(runtime->stream), "a copy from the card");
}

void runtime_move(struct runtime *runtime, void *to, const void *from, size_t bytes)
{
    if (bytes && runtime->failure == cudaSuccess)
        note(runtime, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, runtime->stream),
             "a copy on the card");
}

void runtime_zero(struct runtime *runtime, void *to, size_t bytes)
{
    if (bytes && runtime->failure == cudaSuccess)
        note(runtime, cudaMemsetAsync(to, 0, bytes, runtime->stream), "zeroing memory");
}

enum status runtime_wait(struct runtime *runtime, struct error *error)
{
    if (runtime->failure == cudaSuccess)
        note(runtime, cudaStreamSynchronize(runtime->stream), "the kernels of a step");
    if (runtime->failure != cudaSuccess)
        return error_set(error, STATUS_INTERNAL, "backend cuda: %s failed: %s (%s)",
                         runtime->failed_at, cudaGetErrorString(runtime->failure),
                         cudaGetErrorName(runtime->failure));
    return STATUS_OK;
}

void runtime_launch(struct runtime *runtime, const struct runtime_kernel *kernel,
                    const struct launch *launch, const void *task, size_t)
{
    if (launch->x == 0 || launch->y == 0 || launch->z == 0 || runtime->failure != cudaSuccess)
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

/* ---- graphs ---- */

void runtime_capture_begin(struct runtime *runtime)
{
    CHECK(!runtime->capturing);
    runtime->capturing = true;
    note(runtime, cudaStreamBeginCapture(runtime->stream, cudaStreamCaptureModeThreadLocal),
         "the capture of a step");
}

enum status runtime_capture_end(struct runtime *runtime, struct runtime_graph **ret_graph,
                                struct error *error)
{
    CHECK(runtime->capturing);
    runtime->capturing = false;
    cudaGraph_t captured = NULL;
    struct runtime_graph *graph = (struct runtime_graph *)calloc(1, sizeof *graph);
    note(runtime, cudaStreamEndCapture(runtime->stream, &captured), "the capture of a step");
    if (graph && captured) {
        note(runtime, cudaGraphInstantiate(&graph->exec, captured, 0), "the making of a graph");
        note(runtime, cudaEventCreateWithFlags(&graph->launched, cudaEventDisableTiming),
             "the making of a graph");
    }
    if (captured)
        (void)cudaGraphDestroy(captured);
    if (!graph || runtime->failure != cudaSuccess) {
        runtime_graph_free(runtime, graph);
        return error_set(error, STATUS_INTERNAL, "backend cuda: %s failed: %s",
                         runtime->failed_at ? runtime->failed_at : "the making of a graph",
                         cudaGetErrorString(runtime->failure));
    }
    *ret_graph = graph;
    return STATUS_OK;
}

void runtime_graph_launch(struct runtime *runtime, struct runtime_graph *graph)
{
    CHECK(!runtime->capturing);
    if (runtime->failure != cudaSuccess)
        return;
    if (note(runtime, cudaGraphLaunch(graph->exec, runtime->stream), "the launch of a graph"))
        note(runtime, cudaEventRecord(graph->launched, runtime->stream), "the launch of a graph");
}

void runtime_graph_settle(struct runtime *runtime, struct runtime_graph *graph)
{
    if (runtime->failure == cudaSuccess)
        note(runtime, cudaEventSynchronize(graph->launched), "a graph");
}

void runtime_graph_free(struct runtime *, struct runtime_graph *graph)
{
    if (!graph)
        return;
    if (graph->exec)
        (void)cudaGraphExecDestroy(graph->exec);
    if (graph->launched)
        (void)cudaEventDestroy(graph->launched);
    free(graph);
}
