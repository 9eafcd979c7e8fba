#include "kernels/cuda/cuda.h"

/*
 * Arguments on their way. An op may stage several arrays and launch only then, so memory that was
 * given out stays until the next sync: a stage that is full gets a larger piece, and the old one is
 * kept until then. With `reserve` it never is: what comes before the ops of a step (block tables,
 * histories) leaves them the room that they need.
 */

#define SEVERAL 16 /* entries that the ops of a step need, and some */

struct stage_piece {
    struct stage_piece *next;
    char *pinned, *there;
};

static enum status piece_make(struct device *device, size_t bytes, char **ret_pinned,
                              char **ret_there, struct error *error)
{
    char *pinned = (char *)runtime_pinned_alloc(device->runtime, bytes);
    if (!pinned)
        return error_set(error, STATUS_EXHAUSTED,
                         "backend %s: no pinned memory of the host for arguments of kernels: %.1f "
                         "MiB are needed: free some of the host's memory, or lower step_tokens_max",
                         galerne_ops.name, (double)bytes / (1 << 20));
    char *there = (char *)runtime_alloc(device->runtime, bytes);
    if (!there) {
        runtime_pinned_free(device->runtime, pinned);
        return device_no_memory(device, "arguments of kernels", bytes,
                                "lower kv_memory or step_tokens_max, or see whether another "
                                "process holds the card's memory",
                                error);
    }
    *ret_pinned = pinned;
    *ret_there = there;
    return STATUS_OK;
}

enum status stage_open(struct device *device, size_t bytes, struct stage *stage,
                       struct error *error)
{
    stage_close(device, stage);
    enum status status = piece_make(device, bytes, &stage->pinned, &stage->there, error);
    stage->size_bytes = status == STATUS_OK ? bytes : 0;
    return status;
}

static void outgrown_free(struct device *device, struct stage *stage)
{
    while (stage->outgrown) {
        struct stage_piece *piece = stage->outgrown;
        stage->outgrown = piece->next;
        runtime_free(device->runtime, piece->there);
        runtime_pinned_free(device->runtime, piece->pinned);
        free(piece);
    }
}

void stage_close(struct device *device, struct stage *stage)
{
    outgrown_free(device, stage);
    runtime_free(device->runtime, stage->there);
    runtime_pinned_free(device->runtime, stage->pinned);
    stage->pinned = stage->there = NULL;
    stage->size_bytes = stage->used_bytes = 0;
    stage->n_entries = 0;
}

void stage_reset(struct device *device, struct stage *stage)
{
    outgrown_free(device, stage);
    stage->used_bytes = 0;
    stage->n_entries = 0;
}

size_t stage_step_bytes(const struct op_limits *limits)
{
    size_t row_arrays = 4, sampled_arrays = 6; /* of uint32_t; ids, positions, slots .. */
    size_t rows = size_product(row_arrays, size_product(limits->rows_max, sizeof(uint32_t)));
    size_t sampled = size_product(limits->sampled_max,
                                  sampled_arrays * sizeof(uint32_t) + sizeof(struct sample_params));
    return rows + sampled + SEVERAL * 16;
}

static bool has_room(const struct stage *stage, size_t bytes)
{
    return bytes <= stage->size_bytes && stage->used_bytes <= stage->size_bytes - bytes &&
           stage->n_entries < STAGE_ENTRIES_MAX;
}

/* The same array is sent for every layer of a step: sent once, it is found again. A graph knows
 * arrays by their place, since their contents will change. */
static const struct stage_entry *entry_find(const struct stage *stage, const void *host,
                                            size_t bytes, bool by_place)
{
    for (uint32_t i = 0; i < stage->n_entries; i++) {
        const struct stage_entry *entry = &stage->entries[i];
        if (entry->bytes == bytes &&
            (by_place ? entry->host == host
                      : memcmp(stage->pinned + entry->offset, host, bytes) == 0))
            return entry;
    }
    return NULL;
}

static bool stage_grow(struct device *device, size_t bytes)
{
    struct stage *stage = &device->stage;
    struct stage_piece *old = (struct stage_piece *)malloc(sizeof *old);
    size_t larger = 2 * (stage->size_bytes > bytes ? stage->size_bytes : bytes);
    struct stage_piece made = {};
    if (!old || piece_make(device, larger, &made.pinned, &made.there, NULL) != STATUS_OK) {
        free(old);
        runtime_fail(device->runtime, "no memory for arguments of kernels");
        return false;
    }
    *old = {stage->outgrown, stage->pinned, stage->there};
    stage->outgrown = old;
    stage->pinned = made.pinned;
    stage->there = made.there;
    stage->size_bytes = larger;
    stage->used_bytes = 0;
    stage->n_entries = 0;
    return true;
}

const void *device_stage(struct device *device, const void *host, size_t bytes)
{
    struct stage *stage = device->capturing ? &device->graph_stage : &device->stage;
    const struct stage_entry *found = entry_find(stage, host, bytes, device->capturing != NULL);
    if (found)
        return stage->there + found->offset;
    size_t room = round_up(bytes, 16);
    if (!has_room(stage, room)) {
        if (device->capturing) { /* what is captured with this address will not run */
            device->capture_fault = "its arrays are larger than what `reserve` was told of";
            return stage->there;
        }
        if (!stage_grow(device, room))
            return stage->there; /* nothing runs any more */
    }
    struct stage_entry *entry = &stage->entries[stage->n_entries++];
    *entry = (struct stage_entry){host, stage->used_bytes, bytes};
    stage->used_bytes += room;
    if (device->capturing) /* a launch sends all arrays at once */
        return stage->there + entry->offset;
    memcpy(stage->pinned + entry->offset, host, bytes);
    runtime_upload_pinned(device->runtime, stage->there + entry->offset,
                          stage->pinned + entry->offset, bytes);
    return stage->there + entry->offset;
}

const void *device_stage_once(struct device *device, const void *host, size_t bytes)
{
    struct stage *stage = &device->stage;
    size_t wanted = round_up(bytes, 16) + device->step_stage_bytes;
    if (!device->capturing &&
        (!has_room(stage, wanted) || stage->n_entries + SEVERAL >= STAGE_ENTRIES_MAX)) {
        (void)runtime_wait(device->runtime, NULL); /* a failure sticks until sync */
        stage_reset(device, stage);
        device->plan = {};
    }
    return device_stage(device, host, bytes);
}
