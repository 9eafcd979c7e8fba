#include "model/graphs.h"

void graphs_open(const struct ops *ops, struct device *device, struct graphs *ret_graphs)
{
    *ret_graphs = (struct graphs){.ops = ops, .device = device, .is_off = !ops->graph_begin};
}

static void graph_drop(struct graphs *graphs, uint32_t index)
{
    struct graph *graph = &graphs->kept[index];
    graphs->ops->graph_free(graphs->device, graph->captured);
    graphs->bytes -= graph->bytes;
    graphs->seen[graph->n_rows] = false; /* twice again, before it takes another's place */
    graphs->kept[index] = graphs->kept[--graphs->n_kept];
}

void graphs_close(struct graphs *graphs)
{
    while (graphs->n_kept)
        graph_drop(graphs, graphs->n_kept - 1);
    *graphs = (struct graphs){.is_off = true};
}

static struct graph *graph_find(struct graphs *graphs, uint32_t n_rows, uint32_t n_sampled)
{
    for (uint32_t i = 0; i < graphs->n_kept; i++)
        if (graphs->kept[i].n_rows == n_rows && graphs->kept[i].n_sampled == n_sampled)
            return &graphs->kept[i];
    return NULL;
}

static void room_make(struct graphs *graphs)
{
    uint32_t oldest = 0;
    if (graphs->n_kept < GRAPHS_MAX)
        return;
    for (uint32_t i = 1; i < graphs->n_kept; i++)
        if (graphs->kept[i].used < graphs->kept[oldest].used)
            oldest = i;
    graph_drop(graphs, oldest);
}

static size_t free_bytes(const struct graphs *graphs)
{
    return graphs->ops->memory_free_bytes ? graphs->ops->memory_free_bytes(graphs->device) : 0;
}

/* NULL: it went wrong, and nothing has run. */
static struct graph *graph_make(struct graphs *graphs, uint32_t n_rows, uint32_t n_sampled,
                                void (*run)(void *context), void *context)
{
    struct error error = {0};
    void *captured = NULL;
    room_make(graphs);
    size_t before = free_bytes(graphs);
    enum status status = graphs->ops->graph_begin(graphs->device, &error);
    if (!status) {
        run(context);
        status = graphs->ops->graph_end(graphs->device, &captured, &error);
    }
    if (status) {
        graphs->is_off = true;
        snprintf(graphs->note, sizeof graphs->note,
                 "decode steps run op by op, without graphs, and cost the host more: %.160s",
                 error.text);
        return NULL;
    }
    size_t after = free_bytes(graphs);
    struct graph *graph = &graphs->kept[graphs->n_kept++];
    *graph = (struct graph){.n_rows = n_rows, .n_sampled = n_sampled, .captured = captured};
    graph->bytes = before > after ? before - after : 0;
    graphs->bytes += graph->bytes;
    return graph;
}

void graphs_run(struct graphs *graphs, uint32_t n_rows, uint32_t n_sampled,
                void (*run)(void *context), void *context)
{
    struct graph *graph = NULL;
    if (!graphs->is_off && n_rows > 0 && n_rows <= GRAPH_ROWS_MAX) {
        graphs->runs++;
        graph = graph_find(graphs, n_rows, n_sampled);
        if (!graph && graphs->seen[n_rows])
            graph = graph_make(graphs, n_rows, n_sampled, run, context);
        graphs->seen[n_rows] = true;
    }
    if (!graph) {
        run(context);
        return;
    }
    graph->used = graphs->runs;
    graphs->replays++;
    graphs->ops->graph_launch(graphs->device, graph->captured);
}
