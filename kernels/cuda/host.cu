#include "kernels/cuda/host_private.h"
#include "kernels/cuda/runtime.h"

#include <fcntl.h>
#include <unistd.h>

extern "C" {
#include "kernels/cuda/nvml.h"
}

/*
 * The emulator as a runtime: "enqueued" work is done at once. GALERNE_CUDA_HOST_SEED fixes what is
 * drawn; without it each device begins at another number.
 *
 * For tests of what follows when a card fails, this card can be told to. GALERNE_CUDA_HOST_FAULT is
 * WHAT:N[:FILE]: the N-th time in a process the thing goes wrong; with FILE only in the process
 * that can make that file, so that the worker after it is well. WHAT is
 *     open      the driver finds no card
 *     alloc     memory is out, once
 *     capture   a graph cannot be made
 *     sync      an error that sticks
 *     gone      the same, and from then on no process that finds FILE finds a card
 *     hang      a wait that does not end
 *
 * GALERNE_CUDA_HOST_MEMORY_MIB is how much memory the card has; GALERNE_CUDA_HOST_NVML a library
 * that stands for the driver's (nvml.h).
 */
enum fault { FAULT_OPEN, FAULT_SYNC, FAULT_HANG, FAULT_ALLOC, FAULT_CAPTURE, FAULT_GONE, FAULTS };

struct runtime {
    struct runtime_facts facts;
    struct host_memory memory;
    size_t memory_bytes, used_bytes; /* of the card's */
    struct nvml *nvml;
    char nvml_note[128];
    uint64_t seed, launches;
    bool failed;
    char report[ERROR_TEXT_MAX_BYTES];
    bool capturing;
    struct runtime_graph *graph;
};

struct graph_node {
    enum { NODE_LAUNCH, NODE_UPLOAD, NODE_MOVE, NODE_ZERO } kind;
    struct runtime_kernel kernel;
    struct launch launch;
    void *task; /* owned copy */
    void *to;
    const void *from;
    size_t bytes;
};
struct runtime_graph {
    struct graph_node *nodes;
    uint32_t n, capacity;
};

struct runtime_known *runtime_known_first;

/* Whether it goes wrong this time. */
static bool fault_now(enum fault fault)
{
    static const char *const names[FAULTS] = {"open", "sync", "hang", "alloc", "capture", "gone"};
    static uint32_t seen[FAULTS];
    const char *asked = getenv("GALERNE_CUDA_HOST_FAULT");
    size_t length = strlen(names[fault]);
    if (!asked || strncmp(asked, names[fault], length) != 0 || asked[length] != ':')
        return false;
    char *end = NULL;
    unsigned long number = strtoul(asked + length + 1, &end, 10);
    if (++seen[fault] != number)
        return false;
    if (*end != ':')
        return true;
    int file = open(end + 1, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file >= 0)
        close(file);
    return file >= 0;
}

static bool card_is_gone()
{
    const char *asked = getenv("GALERNE_CUDA_HOST_FAULT");
    const char *file = asked && strncmp(asked, "gone:", 5) == 0 ? strchr(asked + 5, ':') : NULL;
    return file && access(file + 1, F_OK) == 0;
}

/* As the card's own: nothing here is larger than what a process can have. */
#define MEMORY_DEFAULT_BYTES ((size_t)1 << 46)

static void memory_size(struct runtime *runtime)
{
    const char *asked = getenv("GALERNE_CUDA_HOST_MEMORY_MIB");
    unsigned long mib = asked ? strtoul(asked, NULL, 10) : 0;
    runtime->memory_bytes = mib ? (size_t)mib << 20 : MEMORY_DEFAULT_BYTES;
}

static void nvml_find(struct runtime *runtime)
{
    const char *library = getenv("GALERNE_CUDA_HOST_NVML");
    struct error why = {};
    if (library && nvml_open(library, "00000000:00:00.0", &runtime->nvml, &why) != STATUS_OK)
        snprintf(runtime->nvml_note, sizeof runtime->nvml_note, "%.127s", why.text);
}

enum status runtime_open(struct runtime **ret_runtime, struct error *error)
{
    static uint64_t opened;
    if (fault_now(FAULT_OPEN) || card_is_gone())
        return error_set(error, STATUS_UNAVAILABLE,
                         "backend cuda-host: the driver finds no card that this process may use");
    struct runtime *runtime = (struct runtime *)calloc(1, sizeof *runtime);
    if (!runtime)
        return error_set(error, STATUS_EXHAUSTED, "backend cuda-host: no memory for a device");
    const char *seed = getenv("GALERNE_CUDA_HOST_SEED");
    runtime->seed =
        seed ? strtoull(seed, NULL, 10) : __atomic_add_fetch(&opened, 1, __ATOMIC_RELAXED);
    struct runtime_facts *facts = &runtime->facts;
    snprintf(facts->text, sizeof facts->text, "cuda-host, emulated");
    facts->arch = 90;
    facts->has_wgmma = true;
    facts->processors = 4; /* few, so that small shapes have more blocks than processors */
    facts->shared_max_bytes = HOST_SHARED_MAX_BYTES;
    memory_size(runtime);
    nvml_find(runtime);
    *ret_runtime = runtime;
    return STATUS_OK;
}

void runtime_close(struct runtime *runtime)
{
    if (!runtime)
        return;
    nvml_close(runtime->nvml);
    host_memory_close(&runtime->memory);
    free(runtime);
}

const struct runtime_facts *runtime_facts_of(const struct runtime *runtime)
{
    return &runtime->facts;
}

size_t runtime_free_bytes(const struct runtime *runtime)
{
    return runtime->memory_bytes - runtime->used_bytes;
}

void runtime_facts_ask(struct runtime *runtime, struct device_facts *ret_facts)
{
    if (runtime->nvml)
        nvml_ask(runtime->nvml, ret_facts);
    else
        snprintf(ret_facts->note, sizeof ret_facts->note, "%s", runtime->nvml_note);
    if (!(ret_facts->known & DEVICE_MEMORY) && runtime->memory_bytes < MEMORY_DEFAULT_BYTES) {
        ret_facts->memory_bytes = runtime->memory_bytes;
        ret_facts->memory_free_bytes = runtime_free_bytes(runtime);
        ret_facts->known |= DEVICE_MEMORY;
    }
}

void *runtime_alloc(struct runtime *runtime, size_t bytes)
{
    if (bytes > runtime_free_bytes(runtime) || fault_now(FAULT_ALLOC))
        return NULL;
    void *memory = host_memory_alloc(&runtime->memory, bytes);
    runtime->used_bytes += memory ? bytes : 0;
    return memory;
}

void runtime_free(struct runtime *runtime, void *memory)
{
    if (memory)
        runtime->used_bytes -= host_memory_find(&runtime->memory, memory, 0)->bytes;
    host_memory_free(&runtime->memory, memory);
}

void *runtime_pinned_alloc(struct runtime *, size_t bytes)
{
    return memory_alloc(bytes);
}

void runtime_pinned_free(struct runtime *, void *memory)
{
    memory_free(memory);
}

static void fail(struct runtime *runtime, const char *what)
{
    if (!runtime->failed)
        snprintf(runtime->report, sizeof runtime->report, "%s", what);
    runtime->failed = true;
}

void runtime_fail(struct runtime *runtime, const char *what)
{
    fail(runtime, what);
}

/* Every byte that the card is said to hold must be its own. */
static bool owned(struct runtime *runtime, const void *at, size_t bytes)
{
    if (!host_memory_find(&runtime->memory, at, bytes)) {
        fail(runtime, "a copy touches what is no memory of the card");
        return false;
    }
    return !runtime->failed;
}

static void node_do(struct runtime *runtime, const struct graph_node *node)
{
    if (node->kind != graph_node::NODE_LAUNCH)
        host_writes_settle(&runtime->memory); /* copies wait for launches, and launches for them */
    switch (node->kind) {
    case graph_node::NODE_LAUNCH: {
        struct host_launch launch = {node->kernel.name,
                                     node->launch.x,
                                     node->launch.y,
                                     node->launch.z,
                                     node->launch.threads,
                                     node->launch.shared_bytes,
                                     node->kernel.run,
                                     node->task,
                                     runtime->seed * 0x9e3779b97f4a7c15u + runtime->launches++,
                                     node->launch.overlaps};
        char report[ERROR_TEXT_MAX_BYTES];
        if (!host_launch_run(&launch, &runtime->memory, report, sizeof report))
            fail(runtime, report);
        break;
    }
    case graph_node::NODE_UPLOAD:
        if (owned(runtime, node->to, node->bytes))
            memcpy(node->to, node->from, node->bytes);
        break;
    case graph_node::NODE_MOVE:
        if (owned(runtime, node->to, node->bytes) && owned(runtime, node->from, node->bytes))
            memmove(node->to, node->from, node->bytes);
        break;
    case graph_node::NODE_ZERO:
        if (owned(runtime, node->to, node->bytes))
            memset(node->to, 0, node->bytes);
        break;
    }
}

/* Does it, or keeps it for the graph that is being captured. */
static void node_take(struct runtime *runtime, const struct graph_node *node, size_t task_bytes)
{
    if (runtime->failed)
        return;
    if (!runtime->capturing) {
        node_do(runtime, node);
        return;
    }
    struct runtime_graph *graph = runtime->graph;
    if (graph->n == graph->capacity) {
        graph->capacity = graph->capacity ? 2 * graph->capacity : 64;
        graph->nodes =
            (struct graph_node *)realloc(graph->nodes, graph->capacity * sizeof *graph->nodes);
        CHECK(graph->nodes);
    }
    struct graph_node *kept = &graph->nodes[graph->n++];
    *kept = *node;
    if (task_bytes) {
        kept->task = malloc(task_bytes);
        CHECK(kept->task);
        memcpy(kept->task, node->task, task_bytes);
    }
}

static struct graph_node copy_node(int kind, void *to, const void *from, size_t bytes)
{
    struct graph_node node = {};
    node.kind = (decltype(node.kind))kind;
    node.to = to;
    node.from = from;
    node.bytes = bytes;
    return node;
}

void runtime_upload(struct runtime *runtime, void *to, const void *host, size_t bytes)
{
    CHECK(!runtime->capturing);
    struct graph_node node = copy_node(graph_node::NODE_UPLOAD, to, host, bytes);
    if (bytes)
        node_take(runtime, &node, 0);
}

void runtime_upload_pinned(struct runtime *runtime, void *to, const void *pinned, size_t bytes)
{
    CHECK(!runtime->capturing);
    struct graph_node node = copy_node(graph_node::NODE_UPLOAD, to, pinned, bytes);
    if (bytes)
        node_take(runtime, &node, 0);
}

void runtime_download(struct runtime *runtime, void *host, const void *from, size_t bytes)
{
    CHECK(!runtime->capturing);
    if (bytes && owned(runtime, from, bytes))
        memcpy(host, from, bytes);
}

void runtime_move(struct runtime *runtime, void *to, const void *from, size_t bytes)
{
    struct graph_node node = copy_node(graph_node::NODE_MOVE, to, from, bytes);
    if (bytes)
        node_take(runtime, &node, 0);
}

void runtime_zero(struct runtime *runtime, void *to, size_t bytes)
{
    struct graph_node node = copy_node(graph_node::NODE_ZERO, to, NULL, bytes);
    if (bytes)
        node_take(runtime, &node, 0);
}

void runtime_mark(struct runtime *) {}
void runtime_mark_wait(struct runtime *) {}

enum status runtime_wait(struct runtime *runtime, struct error *error)
{
    if (fault_now(FAULT_SYNC) || fault_now(FAULT_GONE))
        fail(runtime, "the kernels of a step failed: the card has fallen off the bus");
    if (fault_now(FAULT_HANG))
        for (;;)
            pause();
    if (runtime->failed)
        return error_set(error, STATUS_INTERNAL, "backend cuda-host: %s", runtime->report);
    return STATUS_OK;
}

/* The compiler gave the kernel the registers of as many threads and blocks as KERNEL says. */
static bool budget_kept(struct runtime *runtime, const struct runtime_kernel *kernel,
                        const struct launch *launch)
{
    char text[ERROR_TEXT_MAX_BYTES] = "";
    uint32_t all = kernel->blocks * (launch->shared_bytes + HOST_SHARED_KEPT_BYTES);
    if (launch->threads != kernel->threads)
        snprintf(text, sizeof text, "%s: %u threads a block, but KERNEL says %u", kernel->name,
                 launch->threads, kernel->threads);
    else if (all > HOST_SHARED_PROCESSOR_BYTES)
        snprintf(text, sizeof text,
                 "%s: %u bytes of shared memory: on no card do %u blocks of that fit a processor, "
                 "as KERNEL says",
                 kernel->name, launch->shared_bytes, kernel->blocks);
    if (text[0])
        fail(runtime, text);
    return !text[0];
}

void runtime_launch(struct runtime *runtime, const struct runtime_kernel *kernel,
                    const struct launch *launch, const void *task, size_t task_bytes)
{
    if (launch->x == 0 || launch->y == 0 || launch->z == 0)
        return;
    CHECK(launch->y <= LAUNCH_Y_MAX && launch->z <= LAUNCH_Y_MAX); /* as a card refuses it */
    if (!budget_kept(runtime, kernel, launch))
        return;
    struct graph_node node = {};
    node.kind = graph_node::NODE_LAUNCH;
    node.kernel = *kernel;
    node.launch = *launch;
    node.task = (void *)task;
    node_take(runtime, &node, task_bytes);
}

/* ---- graphs: a list of what was asked for ---- */

void runtime_capture_begin(struct runtime *runtime)
{
    CHECK(!runtime->capturing);
    runtime->graph = (struct runtime_graph *)calloc(1, sizeof *runtime->graph);
    CHECK(runtime->graph);
    runtime->capturing = true;
}

enum status runtime_capture_end(struct runtime *runtime, struct runtime_graph **ret_graph,
                                struct error *error)
{
    CHECK(runtime->capturing);
    runtime->capturing = false;
    if (fault_now(FAULT_CAPTURE)) {
        runtime_graph_free(runtime, runtime->graph);
        runtime->graph = NULL;
        return error_set(error, STATUS_INTERNAL,
                         "backend cuda-host: the making of a graph failed: not supported");
    }
    *ret_graph = runtime->graph;
    runtime->graph = NULL;
    return STATUS_OK;
}

void runtime_graph_launch(struct runtime *runtime, struct runtime_graph *graph)
{
    CHECK(!runtime->capturing);
    for (uint32_t i = 0; i < graph->n && !runtime->failed; i++)
        node_do(runtime, &graph->nodes[i]);
}

void runtime_graph_free(struct runtime *, struct runtime_graph *graph)
{
    if (!graph)
        return;
    for (uint32_t i = 0; i < graph->n; i++)
        if (graph->nodes[i].kind == graph_node::NODE_LAUNCH)
            free(graph->nodes[i].task);
    free(graph->nodes);
    free(graph);
}
