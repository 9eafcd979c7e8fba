/*
 * arch: hyper-parameters from a model's own description, validated once.
 *
 * Two sources: config.json as Hugging Face transformers writes it (5 with `rope_parameters`, and
 * 4's flat `rope_theta` and `rope_scaling`), and the metadata of a GGUF file. Llama, Mistral and
 * Mixtral are read; what is packed in 8 or 4 bits says model/packing.h. A setting that changes the
 * arithmetic and that we do not compute (another rope scaling than linear and llama3, another
 * activation) is UNSUPPORTED, by name and value; a dimension that is zero, negative, huge or does
 * not fit the others is INVALID. Pure; any thread.
 */
#pragma once

#include "base/gguf.h"
#include "base/json_read.h"
#include "model/model.h"

#define ARCH_LAYERS_MAX 1024
#define ARCH_HIDDEN_MAX (1u << 17)
#define ARCH_HEADS_MAX 1024
#define ARCH_HEAD_DIM_MAX 1024
#define ARCH_INTERMEDIATE_MAX (1u << 20)
#define ARCH_EXPERTS_MAX 1024
#define ARCH_VOCAB_MAX (1u << 22)
#define ARCH_CONTEXT_MAX (1u << 24)

/* `root` is the document of `file` (config.json). */
enum status arch_from_json(const json_t *root, const char *file, struct arch *ret_arch,
                           struct error *error);

enum status arch_from_gguf(const struct gguf *gguf, struct arch *ret_arch, struct error *error);

/* inv_freq[i] = rope_theta^(-2 i / head_dim), scaled   [head_dim / 2] */
void arch_inv_freq(const struct arch *arch, float *ret_inv_freq);
