/*
 * model: one network on one device, behind three calls.
 *
 *     model_open   maps the weight files, checks every tensor, packs weights, makes the KV pages
 *     model_step   runs one checked step: closes, opens, copies, rows; writes the result
 *     model_close  gives everything back
 *
 * A model is a directory with config.json and model.safetensors or several files with an index (as
 * Hugging Face transformers 4 and 5 write it), or one GGUF file (version 3). Architectures: Llama,
 * Mistral and Mixtral. What is not supported is refused by name: architecture, activation, rope
 * scaling, tensor type.
 *
 * One thread (the worker's step loop) calls; nothing is shared. After model_open no call
 * allocates, but for graphs of decode steps on a device that has them (model/graphs.h).
 * Memory: weights as packed by the backend, KV as blocks_count says, activations for
 * limits.tokens_max rows; `model_plan` tells all three before anything is loaded.
 *
 * limits.quantise makes blocks of 8 or 4 bits of wide matrices while they load (model/binding.h
 * says of which); they are kept in a file of `cache_dir`, which the next model_open maps.
 */
#pragma once

#include "kernels/ops.h"
#include "model/packing.h"
#include "model/step.h"

enum model_arch { MODEL_LLAMA = 0, MODEL_MIXTRAL }; /* Mistral is a Llama, with a window or none */

enum rope_scaling {
    ROPE_PLAIN = 0,
    ROPE_LINEAR, /* all speeds divided by the factor */
    ROPE_LLAMA3, /* slow ones divided, fast ones kept, smooth between */
};

/* Hyper-parameters, validated once (model/arch.c). All counts are > 0 unless said. */
struct arch {
    enum model_arch kind;
    char name[32]; /* as the file says, e.g. "llama", "MixtralForCausalLM" */
    uint32_t n_layers;
    uint32_t hidden;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t intermediate;     /* of the dense MLP, or of one expert */
    uint32_t n_experts, top_k; /* 0, 0 for a dense model */
    uint32_t vocab;
    uint32_t context_tokens; /* max_position_embeddings */
    float rms_eps;
    float rope_theta;
    enum rope_scaling rope_scaling;
    float rope_factor;                   /* 1 when plain */
    float rope_low_freq, rope_high_freq; /* llama3: turns within rope_original_tokens */
    uint32_t rope_original_tokens;       /* llama3: the context it was trained with first */
    uint32_t window_tokens;              /* a token sees itself and those before it, so many in
                                            all; 0: all of them */
    bool qkv_bias, output_bias, mlp_bias;
    bool tied_embeddings; /* the head is the embedding matrix */
    struct packing packing;
};

struct model_plan {
    struct arch arch;
    enum dtype weights_dtype; /* of the largest matrices, as computed with */
    uint64_t weights_bytes;   /* estimate of the packed weights on this backend, page-rounded */
    uint64_t kv_block_bytes;  /* one block, all layers */
    enum dtype kv_dtype;      /* of K and V, as the limits say */
    uint64_t scratch_bytes;   /* activations and scratch for the limits given */
    uint8_t digest[32];       /* SHA-256 over the configuration, the headers of the weight file
                                 (names, types, shapes, places) and the first bytes of each
                                 tensor: identifies a model revision */
};

struct model_options {
    const struct ops *ops;
    struct device_options device;
    struct step_limits limits; /* context_tokens: at most the model's; 0 = the model's */
    const char *cache_dir;     /* where quantised weights are kept; NULL or "": nowhere */
};

struct model;

/* Reads headers only (milliseconds). INVALID, UNSUPPORTED, NOT_FOUND or IO name file and field.
 * `options->limits` may be zeroed: then scratch_bytes is 0. */
enum status model_plan(const char *path, const struct model_options *options,
                       struct model_plan *ret_plan, struct error *error);

/* What model_open has to tell meanwhile, on the calling thread. Both may be NULL. */
enum model_stage { MODEL_LOADING = 0, MODEL_QUANTISING };
struct model_progress {
    /* 0..100 of the weights, rising; a stage may become QUANTISING on the way. */
    void (*report)(void *context, enum model_stage stage, uint32_t percent);
    /* A sentence for the log about the quantised weights: where they are, or why they are not. */
    void (*note)(void *context, bool is_warning, const char *text);
    void *context;
};
/* `progress` may be NULL. */
enum status model_open(const char *path, const struct model_options *options,
                       const struct model_progress *progress, struct model **ret_model,
                       struct error *error);
void model_close(struct model *model);

/* Closes every open sequence slot, as after model_open: another front begins. Weights stay. */
void model_reset(struct model *model);

const struct model_plan *model_info(const struct model *model);
const struct step_limits *model_limits(const struct model *model);
const char *model_device_text(const struct model *model);

/* Bytes of weights that one decode step of one row reads (all of a dense model; of a mixture, the
 * router and top_k experts), for the bandwidth figure of the bench. */
uint64_t model_decode_bytes(const struct model *model);

/*
 * Runs one step. Validates it (step_check and the state of its slots); an invalid step changes
 * nothing and returns INVALID, and `ret_result` holds the same status and text. A device failure is
 * INTERNAL: the model must then be closed. `ret_result` has room for step_result_bytes_max.
 */
enum status model_step(struct model *model, const struct step *step, size_t step_bytes,
                       struct step_result *ret_result);

/* A sentence for the log that a step left, once: true, and it is in ret_text. */
bool model_note_take(struct model *model, char *ret_text, size_t text_bytes);

/* What the device says of itself; false: the backend has nothing to say. Not in a step. */
bool model_device_facts(struct model *model, struct device_facts *ret_facts);

/* Decode steps that were replayed (model/graphs.h). */
struct model_graphs {
    uint32_t kept_count;
    uint64_t runs_total, replays_total; /* steps that a graph would do, and those that one did */
    uint64_t bytes;                     /* of the device */
    bool is_off;
};
struct model_graphs model_graphs_info(const struct model *model);

/* For tests: logits of each sampling row of the last step, host copy. [n][vocab] */
const float *model_last_logits(struct model *model, uint32_t *ret_rows_count);
