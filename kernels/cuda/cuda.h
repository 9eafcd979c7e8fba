/*
 * cuda: the backend for GPUs: what its ops share.
 *
 * One source makes two tables: `cuda` (nvcc, a card) and `cuda-host` (the host's compiler, the
 * emulator). An op is a `*.cu` file: a C function that checks the shapes, then launches kernels
 * whose bodies are written over the leaves (leaf.h). Ops never wait, and after `reserve` they never
 * allocate. Small host arrays reach kernels through `device_stage`; that is what makes a step
 * capturable in a graph. One thread.
 *
 * Pinned memory of the host: the stage (4 MiB and what a step of the largest size needs), and as
 * much as such a step needs once more, which all graphs share. Nothing else is pinned; weights are
 * uploaded from where their files are mapped, piece by piece.
 */
#pragma once

#include "kernels/cuda/runtime.h"

extern "C" {
#include "kernels/memory.h"
#include "kernels/source.h"
}

extern "C" __attribute__((visibility("default"))) const struct ops galerne_ops;

#define STAGE_ENTRIES_MAX 4096

/* A host array on its way: the same bytes are sent once in a step. */
struct stage_entry {
    const void *host; /* while capturing: where the array lies, read again at each launch */
    size_t offset, bytes;
};
struct stage_piece;
struct stage {
    char *pinned, *there; /* [size_bytes] each: host memory, memory of the card */
    size_t size_bytes, used_bytes;
    struct stage_entry entries[STAGE_ENTRIES_MAX];
    uint32_t n_entries;
    struct stage_piece *outgrown; /* full, and still read until the next sync */
};

/* Working memory of ops: one piece for each use, made by `reserve` and grown when an op runs
 * without it (tests). */
enum scratch_kind {
    SCRATCH_SAMPLE,
    SCRATCH_LINEAR, /* of linear, and of the products inside mlp and moe */
    SCRATCH_MLP,    /* of mlp and moe */
    SCRATCH_ATTENTION,
    SCRATCH_COUNT,
};

/* The first bytes of SCRATCH_MLP are zero between ops: counters of blocks that have ended. */
#define SCRATCH_KEPT_BYTES 256

/* For which call of attention the plan in its scratch was made; a memory of NULL: for none. Arrays
 * of the stage keep their contents until it is emptied. */
struct attention_plan {
    const void *memory, *positions, *slots;
    uint32_t n_rows, n_heads, n_kv_heads, head_dim, window_tokens, pairs;
};

struct device {
    struct runtime *runtime;
    bool wgmma; /* the sm_90a paths are taken */
    bool plain; /* no tensor instructions: the twins that the other kernels are compared with */
    uint32_t shared_max_bytes; /* of a block */
    char text[96];
    struct stage stage;
    struct stage graph_stage; /* of all graphs: each fills it anew when it is launched */
    size_t step_stage_bytes;  /* of the ops of a step, by op_limits */
    struct device_graph *capturing, *graphs;
    const char *capture_fault; /* why the capture that runs must not be used; NULL */
    void *scratch[SCRATCH_COUNT];
    size_t scratch_bytes[SCRATCH_COUNT];
    struct attention_plan plan;
    bool failed; /* memory ran out inside an op */
};

/* Shared memory of a block, so that two are on a processor: 1 KiB of each is the card's. */
static inline uint32_t device_shared_half(const struct device *device)
{
    return (device->shared_max_bytes - 1024) / 2;
}

/* One part of a weight's outputs that is kept in one type. */
struct weight_segment {
    enum dtype dtype;
    bool panels; /* in the order of tensor instructions: see weight.h */
    uint32_t first_out, out_count;
    size_t row_bytes;    /* of a row, or of a panel */
    size_t offset_bytes; /* in a matrix */
};
struct weight {
    uint32_t stack_count, out_count, in_count;
    uint32_t n_segments;
    struct weight_segment segments[WEIGHT_PARTS_MAX];
    size_t matrix_bytes; /* a multiple of 256 */
    char *data;          /* [stack_count] matrices of segments */
};

/* The last call of attention whose blocks were looked at; arrays as they were staged. */
struct kv_seen {
    const void *positions, *slots;
    uint32_t n_rows, window_tokens, layer;
};

struct kv {
    struct kv_shape shape;
    char *data;           /* [blocks_count] pages, see kv.h */
    uint32_t *table;      /* of the card: [slots_count][slot_blocks_max] */
    uint32_t *host_table; /* the same, for checks */
    struct kv_seen seen;
};

/* Where the `bytes` of a host array will lie on the card when the kernels launched next run: valid
 * until the next sync. 16-byte aligned. `host` is the caller's array itself, never a copy that an
 * op made: a graph reads it again at each launch. */
const void *device_stage(struct device *device, const void *host, size_t bytes);
/* The same for what is enqueued before anything else is staged, and read by nothing later: when the
 * stage is full it waits, and what was staged before is gone. */
const void *device_stage_once(struct device *device, const void *host, size_t bytes);
/* Working memory of one kind, at least `bytes`; NULL with the device marked as failed. Not kept
 * from op to op. */
void *device_scratch(struct device *device, enum scratch_kind kind, size_t bytes);
enum status device_scratch_reserve(struct device *device, enum scratch_kind kind, size_t bytes,
                                   const char *what, struct error *error);
/* EXHAUSTED: what was needed, what is free, what helps. */
enum status device_no_memory(struct device *device, const char *what, size_t bytes,
                             const char *helps, struct error *error);

/* ---- the stage (stage.cu) ---- */

enum status stage_open(struct device *device, size_t bytes, struct stage *stage,
                       struct error *error);
void stage_close(struct device *device, struct stage *stage);
/* Nothing on the card reads it any more. */
void stage_reset(struct device *device, struct stage *stage);
/* Bytes that the ops of one step stage at most. */
size_t stage_step_bytes(const struct op_limits *limits);

/* ---- graphs (graph.cu): what ops.h says of them ---- */

enum status cuda_graph_begin(struct device *device, struct error *error);
enum status cuda_graph_end(struct device *device, void **ret_graph, struct error *error);
void cuda_graph_launch(struct device *device, void *graph);
void cuda_graph_free(struct device *device, void *graph);

/* ---- the ops, one file each ---- */

enum status cuda_weight_pack(struct device *device, const struct weight_source *source,
                             struct weight **ret_weight, struct error *error);
void cuda_weight_free(struct device *device, struct weight *weight);
size_t cuda_weight_bytes(const struct weight *weight);

size_t cuda_kv_block_bytes(const struct kv_shape *shape);
enum status cuda_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                         struct error *error);
void cuda_kv_close(struct device *device, struct kv *kv);
void cuda_kv_table_set(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
                       const uint32_t *host_blocks, uint32_t n);
void cuda_kv_copy(struct device *device, struct kv *kv, const uint32_t *host_from,
                  const uint32_t *host_to, uint32_t n);

void cuda_tokens_gather(struct device *device, const struct tokens_gather_args *args);
void cuda_embed(struct device *device, const struct embed_args *args);
void cuda_linear(struct device *device, const struct linear_args *args);
void cuda_rope_kv(struct device *device, const struct rope_kv_args *args);
void cuda_qkv(struct device *device, const struct linear_args *linear,
              const struct rope_kv_args *rope);
void cuda_attention(struct device *device, const struct attention_args *args);
void cuda_mlp(struct device *device, const struct mlp_args *args);
void cuda_moe(struct device *device, const struct moe_args *args);
void cuda_rows_gather(struct device *device, const struct rows_gather_args *args);
void cuda_sample(struct device *device, const struct sample_args *args);

/* Bytes of scratch that each needs within these limits. */
size_t cuda_linear_scratch_bytes(const struct device *device, const struct op_limits *limits);
size_t cuda_mlp_scratch_bytes(const struct device *device, const struct op_limits *limits);
size_t cuda_moe_scratch_bytes(const struct device *device, const struct op_limits *limits);
size_t cuda_attention_scratch_bytes(const struct device *device, const struct op_limits *limits);
size_t cuda_sample_scratch_bytes(const struct device *device, const struct op_limits *limits);
