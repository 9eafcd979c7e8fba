#include "kernels/cuda/host_private.h"
#include "kernels/cuda/runtime.h"

/*
 * The emulator as a runtime: "enqueued" work is done at once. GALERNE_CUDA_HOST_SEED fixes what is
 * drawn; without it each device begins at another number.
 */
struct runtime {
    struct runtime_facts facts;
    struct host_memory memory;
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

enum status runtime_open(struct runtime **ret_runtime, struct error *error)
{
    static uint64_t opened;
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
    *ret_runtime = runtime;
    return STATUS_OK;
}

void runtime_close(struct runtime *runtime)
{
    if (!runtime)
        return;
    host_memory_close(&runtime->memory);
    free(runtime);
}

const struct runtime_facts *runtime_facts_of(const struct runtime *runtime)
{
    return &runtime->facts;
}

size_t runtime_free_bytes(const struct runtime *)
{
    return SIZE_MAX;
}

void *runtime_alloc(struct runtime *runtime, size_t bytes)
{
    return host_memory_alloc(&runtime->memory, bytes);
}

void runtime_free(struct runtime *runtime, void *memory)
{
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
                                     runtime->seed * 0x9e3779b97f4a7c15u + runtime->launches++};
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

enum status runtime_wait(struct runtime *runtime, struct error *error)
{
    if (runtime->failed)
        return error_set(error, STATUS_INTERNAL, "backend cuda-host: %s", runtime->report);
    return STATUS_OK;
}

void runtime_launch(struct runtime *runtime, const struct runtime_kernel *kernel,
                    const struct launch *launch, const void *task, size_t task_bytes)
{
    if (launch->x == 0 || launch->y == 0 || launch->z == 0)
        return;
    CHECK(launch->y <= LAUNCH_Y_MAX && launch->z <= LAUNCH_Y_MAX); /* as a card refuses it */
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
                                struct error *)
{
    CHECK(runtime->capturing);
    runtime->capturing = false;
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

void runtime_graph_settle(struct runtime *, struct runtime_graph *) {}

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
