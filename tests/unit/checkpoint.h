/*
 * checkpoint: a very small model written to disk, as safetensors or as GGUF, right or wrong.
 *
 * A list of named float32 tensors with drawn values that a test may change before it is written.
 * The GGUF twin holds the same numbers the way llama.cpp's converter lays them out: other names,
 * the rows of q and k interleaved for its rotation, the experts of a layer in one stack.
 */
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/gguf_build.h"

/* 4 where rows have to be whole blocks of 32. */
#ifndef CHECKPOINT_SCALE
#define CHECKPOINT_SCALE 1
#endif

enum {
    CP_LAYERS = 2,
    CP_HIDDEN = 16 * CHECKPOINT_SCALE,
    CP_HEADS = 4,
    CP_KV_HEADS = 2,
    CP_HEAD_DIM = 6 * CHECKPOINT_SCALE,
    CP_INTERMEDIATE = 24 * CHECKPOINT_SCALE,
    CP_VOCAB = 40,
    CP_EXPERTS = 3,
};

struct cp_tensor {
    char name[96];
    char
        dtype[8]; /* "F32" unless a test says otherwise; the bytes are always of this type's size */
    uint32_t n_dims;
    uint64_t dims[4];
    float *values; /* [product of dims] */
};

struct checkpoint {
    bool mixture;
    const char *config_more; /* members that go before the others, or "" */
    struct cp_tensor tensors[80];
    uint32_t count;
    uint64_t random;
};

static inline uint64_t cp_count(const struct cp_tensor *t)
{
    uint64_t count = 1;
    for (uint32_t d = 0; d < t->n_dims; d++)
        count *= t->dims[d];
    return count;
}

static inline void cp_add(struct checkpoint *cp, const char *name, uint64_t rows, uint64_t columns)
{
    struct cp_tensor *t = &cp->tensors[cp->count++];
    CHECK(cp->count <= array_count(cp->tensors));
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->dtype, sizeof t->dtype, "F32");
    t->n_dims = rows ? 2 : 1;
    t->dims[0] = rows ? rows : columns;
    t->dims[1] = columns;
    t->values = calloc(cp_count(t), sizeof *t->values);
    CHECK(t->values);
    for (uint64_t i = 0; i < cp_count(t); i++) {
        cp->random = cp->random * 6364136223846793005ull + 1442695040888963407ull;
        t->values[i] = (float)((double)(cp->random >> 40) / (1 << 23) - 1.0);
    }
}

static inline void cp_add_layer(struct checkpoint *cp, uint32_t layer)
{
    char name[96];
    const struct {
        const char *suffix;
        uint64_t rows, columns;
        bool dense;
    } table[] = {
        {"input_layernorm.weight", 0, CP_HIDDEN, false},
        {"self_attn.q_proj.weight", CP_HEADS * CP_HEAD_DIM, CP_HIDDEN, false},
        {"self_attn.k_proj.weight", CP_KV_HEADS * CP_HEAD_DIM, CP_HIDDEN, false},
        {"self_attn.v_proj.weight", CP_KV_HEADS * CP_HEAD_DIM, CP_HIDDEN, false},
        {"self_attn.o_proj.weight", CP_HIDDEN, CP_HEADS * CP_HEAD_DIM, false},
        {"post_attention_layernorm.weight", 0, CP_HIDDEN, false},
        {"mlp.gate_proj.weight", CP_INTERMEDIATE, CP_HIDDEN, true},
        {"mlp.up_proj.weight", CP_INTERMEDIATE, CP_HIDDEN, true},
        {"mlp.down_proj.weight", CP_HIDDEN, CP_INTERMEDIATE, true},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        if (table[i].dense && cp->mixture)
            continue;
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, table[i].suffix);
        cp_add(cp, name, table[i].rows, table[i].columns);
    }
    if (!cp->mixture)
        return;
    snprintf(name, sizeof name, "model.layers.%u.block_sparse_moe.gate.weight", layer);
    cp_add(cp, name, CP_EXPERTS, CP_HIDDEN);
    for (uint32_t e = 0; e < CP_EXPERTS; e++)
        for (uint32_t w = 1; w <= 3; w++) {
            snprintf(name, sizeof name, "model.layers.%u.block_sparse_moe.experts.%u.w%u.weight",
                     layer, e, w);
            cp_add(cp, name, w == 2 ? CP_HIDDEN : CP_INTERMEDIATE,
                   w == 2 ? CP_INTERMEDIATE : CP_HIDDEN);
        }
}

static inline struct checkpoint *checkpoint_new(bool mixture)
{
    struct checkpoint *cp = calloc(1, sizeof *cp);
    CHECK(cp);
    cp->mixture = mixture;
    cp->random = 1;
    cp->config_more = "";
    cp_add(cp, "model.embed_tokens.weight", CP_VOCAB, CP_HIDDEN);
    cp_add(cp, "lm_head.weight", CP_VOCAB, CP_HIDDEN);
    cp_add(cp, "model.norm.weight", 0, CP_HIDDEN);
    for (uint32_t i = 0; i < CP_LAYERS; i++)
        cp_add_layer(cp, i);
    return cp;
}

static inline void checkpoint_free(struct checkpoint *cp)
{
    for (uint32_t i = 0; i < cp->count; i++)
        free(cp->tensors[i].values);
    free(cp);
}

static inline struct cp_tensor *cp_find(struct checkpoint *cp, const char *name)
{
    for (uint32_t i = 0; i < cp->count; i++)
        if (strcmp(cp->tensors[i].name, name) == 0)
            return &cp->tensors[i];
    fprintf(stderr, "no tensor %s\n", name);
    abort();
}

static inline void cp_file_write(const char *directory, const char *name, const void *data,
                                 size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(data, 1, size, file) == size);
    CHECK(fclose(file) == 0);
}

static inline void cp_config_write(const struct checkpoint *cp, const char *directory)
{
    char text[2048];
    int n =
        snprintf(text, sizeof text,
                 "{%s\"architectures\":[\"%s\"],\"hidden_size\":%d,\"num_hidden_layers\":%d,"
                 "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,"
                 "\"intermediate_size\":%d,\"vocab_size\":%d,\"max_position_embeddings\":64,"
                 "\"rope_theta\":500.0,\"rms_norm_eps\":1e-5%s}",
                 cp->config_more, cp->mixture ? "MixtralForCausalLM" : "LlamaForCausalLM",
                 CP_HIDDEN, CP_LAYERS, CP_HEADS, CP_KV_HEADS, CP_HEAD_DIM, CP_INTERMEDIATE,
                 CP_VOCAB, cp->mixture ? ",\"num_local_experts\":3,\"num_experts_per_tok\":2" : "");
    cp_file_write(directory, "config.json", text, (size_t)n);
}

/* config.json and model.safetensors into a directory that exists. */
static inline void checkpoint_write(const struct checkpoint *cp, const char *directory)
{
    struct bytes header = {0}, data = {0}, file = {0};
    for (uint32_t i = 0; i < cp->count; i++) {
        const struct cp_tensor *t = &cp->tensors[i];
        size_t size = cp_count(t) * (strcmp(t->dtype, "I64") == 0 ? 8 : 4), start = data.size;
        char text[400];
        for (size_t k = 0; k < size; k += 4)
            bytes_put(&data, &t->values[k / 4 % cp_count(t)], 4);
        int n = snprintf(text, sizeof text, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? ',' : '{',
                         t->name, t->dtype);
        bytes_put(&header, text, (size_t)n);
        for (uint32_t d = 0; d < t->n_dims; d++) {
            n = snprintf(text, sizeof text, "%s%d", d ? "," : "", (int)t->dims[d]);
            bytes_put(&header, text, (size_t)n);
        }
        n = snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", start, data.size);
        bytes_put(&header, text, (size_t)n);
    }
    bytes_put(&header, "}", 1);
    while (header.size % 8)
        bytes_put(&header, " ", 1);
    bytes_u64(&file, header.size);
    bytes_put(&file, header.data, header.size);
    bytes_put(&file, data.data, data.size);
    cp_config_write(cp, directory);
    cp_file_write(directory, "model.safetensors", file.data, file.size);
    free(header.data);
    free(data.data);
    free(file.data);
}

static inline void cp_gguf_keys(const struct checkpoint *cp, struct gguf_build *b)
{
    build_string(b, "general.architecture", "llama");
    build_u32(b, "llama.block_count", CP_LAYERS);
    build_u32(b, "llama.embedding_length", CP_HIDDEN);
    build_u32(b, "llama.attention.head_count", CP_HEADS);
    build_u32(b, "llama.attention.head_count_kv", CP_KV_HEADS);
    build_u32(b, "llama.attention.key_length", CP_HEAD_DIM);
    build_u32(b, "llama.attention.value_length", CP_HEAD_DIM);
    build_u32(b, "llama.rope.dimension_count", CP_HEAD_DIM);
    build_u32(b, "llama.feed_forward_length", CP_INTERMEDIATE);
    build_u32(b, "llama.context_length", 64);
    build_u32(b, "llama.vocab_size", CP_VOCAB);
    build_f32(b, "llama.rope.freq_base", 500);
    build_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (cp->mixture) {
        build_u32(b, "llama.expert_count", CP_EXPERTS);
        build_u32(b, "llama.expert_used_count", 2);
    }
}

/* Row j of half h of a head goes to row 2 j + h. */
static inline void cp_gguf_interleaved(struct gguf_build *b, const struct cp_tensor *t,
                                       const char *name)
{
    uint64_t columns = t->dims[1], half = CP_HEAD_DIM / 2;
    uint64_t dims[] = {columns, t->dims[0]};
    float *rows = calloc(cp_count(t), sizeof *rows);
    CHECK(rows);
    for (uint64_t r = 0; r < t->dims[0]; r++) {
        uint64_t head = r / CP_HEAD_DIM, h = r % CP_HEAD_DIM / half, j = r % half;
        memcpy(rows + (head * CP_HEAD_DIM + 2 * j + h) * columns, t->values + r * columns,
               columns * sizeof *rows);
    }
    build_tensor(b, name, GGUF_TENSOR_F32, 2, dims, rows, cp_count(t) * sizeof *rows);
    free(rows);
}

static inline void cp_gguf_tensor(struct gguf_build *b, struct checkpoint *cp, const char *name,
                                  const char *gguf_name)
{
    const struct cp_tensor *t = cp_find(cp, name);
    uint64_t dims[] = {t->dims[t->n_dims - 1], t->dims[0]};
    build_tensor(b, gguf_name, GGUF_TENSOR_F32, t->n_dims, dims, t->values,
                 cp_count(t) * sizeof *t->values);
}

static inline void cp_gguf_experts(struct gguf_build *b, struct checkpoint *cp, uint32_t layer)
{
    static const char *const names[] = {"gate", "down", "up"}; /* w1, w2, w3 */
    for (uint32_t w = 1; w <= 3; w++) {
        struct bytes stack = {0};
        char name[96];
        uint64_t dims[3] = {0, 0, CP_EXPERTS};
        for (uint32_t e = 0; e < CP_EXPERTS; e++) {
            snprintf(name, sizeof name, "model.layers.%u.block_sparse_moe.experts.%u.w%u.weight",
                     layer, e, w);
            const struct cp_tensor *t = cp_find(cp, name);
            dims[0] = t->dims[1];
            dims[1] = t->dims[0];
            bytes_put(&stack, t->values, cp_count(t) * sizeof *t->values);
        }
        snprintf(name, sizeof name, "blk.%u.ffn_%s_exps.weight", layer, names[w - 1]);
        build_tensor(b, name, GGUF_TENSOR_F32, 3, dims, stack.data, stack.size);
        free(stack.data);
    }
}

static inline void cp_gguf_layer(struct gguf_build *b, struct checkpoint *cp, uint32_t layer)
{
    static const struct {
        const char *name, *gguf_name;
        bool interleaved;
        int mixture; /* -1: both kinds */
    } table[] = {
        {"input_layernorm", "attn_norm", false, -1},
        {"self_attn.q_proj", "attn_q", true, -1},
        {"self_attn.k_proj", "attn_k", true, -1},
        {"self_attn.v_proj", "attn_v", false, -1},
        {"self_attn.o_proj", "attn_output", false, -1},
        {"post_attention_layernorm", "ffn_norm", false, -1},
        {"mlp.gate_proj", "ffn_gate", false, 0},
        {"mlp.up_proj", "ffn_up", false, 0},
        {"mlp.down_proj", "ffn_down", false, 0},
        {"block_sparse_moe.gate", "ffn_gate_inp", false, 1},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        char name[96], gguf_name[96];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, table[i].name);
        snprintf(gguf_name, sizeof gguf_name, "blk.%u.%s.weight", layer, table[i].gguf_name);
        if (table[i].mixture >= 0 && table[i].mixture != cp->mixture)
            continue;
        if (table[i].interleaved)
            cp_gguf_interleaved(b, cp_find(cp, name), gguf_name);
        else
            cp_gguf_tensor(b, cp, name, gguf_name);
    }
    if (cp->mixture)
        cp_gguf_experts(b, cp, layer);
}

/* Keys and tensors; the caller may add to them before gguf_build_finish. */
static inline void checkpoint_build_gguf(struct checkpoint *cp, struct gguf_build *b)
{
    cp_gguf_keys(cp, b);
    cp_gguf_tensor(b, cp, "model.embed_tokens.weight", "token_embd.weight");
    cp_gguf_tensor(b, cp, "lm_head.weight", "output.weight");
    cp_gguf_tensor(b, cp, "model.norm.weight", "output_norm.weight");
    for (uint32_t i = 0; i < CP_LAYERS; i++)
        cp_gguf_layer(b, cp, i);
}
