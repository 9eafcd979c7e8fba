#include "kernels/cuda/cuda.h"

/*
 * Captured calls. The host arrays of a step lie where the caller has them; a launch copies them
 * into the stage that all graphs share, sends them at once, and lets the kernels run.
 */
struct device_graph {
    struct device_graph *next; /* of the device: freed with it at the latest */
    struct runtime_graph *graph;
    struct stage_entry *entries; /* [n_entries] */
    uint32_t n_entries;
    size_t used_bytes;
};

#define GRAPH_STAGE_LEAST_BYTES ((size_t)64 << 10) /* without `reserve`: tests */

enum status cuda_graph_begin(struct device *device, struct error *error)
{
    CHECK(!device->capturing);
    struct stage *stage = &device->graph_stage;
    size_t bytes = size_max(device->step_stage_bytes, GRAPH_STAGE_LEAST_BYTES);
    enum status status =
        stage->size_bytes ? STATUS_OK : stage_open(device, round_up(bytes, 256), stage, error);
    if (status != STATUS_OK)
        return status;
    struct device_graph *graph = (struct device_graph *)calloc(1, sizeof *graph);
    if (!graph)
        return error_set(error, STATUS_EXHAUSTED, "backend %s: no memory for a graph",
                         galerne_ops.name);
    stage_reset(device, stage);
    device->capturing = graph;
    device->capture_fault = NULL;
    device->plan = {};
    runtime_capture_begin(device->runtime);
    return STATUS_OK;
}

enum status cuda_graph_end(struct device *device, void **ret_graph, struct error *error)
{
    struct device_graph *graph = device->capturing;
    struct stage *stage = &device->graph_stage;
    CHECK(graph);
    device->capturing = NULL;
    device->plan = {};
    enum status status = runtime_capture_end(device->runtime, &graph->graph, error);
    if (status == STATUS_OK && device->capture_fault)
        status = error_set(error, STATUS_EXHAUSTED, "backend %s: a step cannot be a graph: %s",
                           galerne_ops.name, device->capture_fault);
    size_t entries_bytes = size_max(stage->n_entries, 1) * sizeof *graph->entries;
    if (status == STATUS_OK) {
        graph->entries = (struct stage_entry *)malloc(entries_bytes);
        if (!graph->entries)
            status = error_set(error, STATUS_EXHAUSTED, "backend %s: no memory for a graph",
                               galerne_ops.name);
    }
    graph->next = device->graphs;
    device->graphs = graph;
    if (status != STATUS_OK) {
        cuda_graph_free(device, graph);
        return status;
    }
    memcpy(graph->entries, stage->entries, stage->n_entries * sizeof *graph->entries);
    graph->n_entries = stage->n_entries;
    graph->used_bytes = stage->used_bytes;
    *ret_graph = graph;
    return STATUS_OK;
}

void cuda_graph_launch(struct device *device, void *captured)
{
    const struct device_graph *graph = (const struct device_graph *)captured;
    struct stage *stage = &device->graph_stage;
    CHECK(!device->capturing && graph->used_bytes <= stage->size_bytes);
    runtime_mark_wait(device->runtime); /* the launch before may still read it */
    for (uint32_t i = 0; i < graph->n_entries; i++)
        memcpy(stage->pinned + graph->entries[i].offset, graph->entries[i].host,
               graph->entries[i].bytes);
    runtime_upload_pinned(device->runtime, stage->there, stage->pinned, graph->used_bytes);
    runtime_mark(device->runtime);
    runtime_graph_launch(device->runtime, graph->graph);
    device->plan = {}; /* the graph made its own in the same place */
}

void cuda_graph_free(struct device *device, void *captured)
{
    struct device_graph *graph = (struct device_graph *)captured;
    if (!graph)
        return;
    struct device_graph **at = &device->graphs;
    while (*at != graph)
        at = &(*at)->next;
    *at = graph->next;
    runtime_graph_free(device->runtime, graph->graph);
    free(graph->entries);
    free(graph);
}
