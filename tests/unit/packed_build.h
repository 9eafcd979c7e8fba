/*
 * packed_build: models of one layer whose matrices lie in 8 or 4 bits, written to disk, and their
 * twins in F32 of the values that they stand for, worked out from the layouts' definitions.
 *
 * A layout says how; a test may spoil what was made before it is written. Static state: one
 * directory, one run of drawn numbers.
 */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/model.h"
#include "tests/unit/gguf_build.h"

enum { VOCAB = 40, HEADS = 2, ROWS = 16 };

static const struct model_options options = {
    .ops = &ops_ref,
    .device = {.threads_count = 2},
    .limits = {.slots_max = 2,
               .rows_max = ROWS,
               .tokens_max = 32,
               .open_tokens_max = 64,
               .block_tokens = 16,
               .blocks_count = 8},
};

/* ---- a file ---- */

struct item {
    char name[160];
    const char *dtype;
    uint32_t n_dims;
    uint64_t dims[2];
    struct bytes bytes;
};

struct file {
    struct item items[80];
    uint32_t count;
    const char *quantization; /* the object of config.json, or NULL */
    uint32_t hidden, intermediate, head_dim;
};

static inline struct item *item_find(struct file *file, const char *name)
{
    for (uint32_t i = 0; i < file->count; i++)
        if (strcmp(file->items[i].name, name) == 0)
            return &file->items[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static inline struct item *item_new(struct file *file, const char *name, const char *dtype,
                                    uint32_t n_dims, uint64_t first, uint64_t second)
{
    struct item *item = &file->items[file->count++];
    assert_true(file->count <= array_count(file->items));
    *item = (struct item){.dtype = dtype, .n_dims = n_dims, .dims = {first, second}};
    snprintf(item->name, sizeof item->name, "%s", name);
    return item;
}

static inline void item_drop(struct file *file, const char *name)
{
    struct item *item = item_find(file, name);
    free(item->bytes.data);
    *item = file->items[--file->count];
}

static inline void file_free(struct file *file)
{
    for (uint32_t i = 0; i < file->count; i++)
        free(file->items[i].bytes.data);
    file->count = 0;
}

static char directory[64];

static inline void text_write(const char *name, const void *data, size_t size)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *out = fopen(path, "wb");
    assert_true(out && fwrite(data, 1, size, out) == size);
    assert_int_equal(fclose(out), 0);
}

/* The items [first, last) as a file of safetensors; wide types first, so that all are aligned. */
static inline void part_write(const struct file *file, const char *name, uint32_t first,
                              uint32_t last)
{
    static const char *const order[] = {"F32", "I32", "F16", "BF16", "F8_E4M3"};
    struct bytes header = {0}, data = {0}, whole = {0};
    char text[400];
    bytes_put(&header, "{", 1);
    for (size_t o = 0; o < array_count(order); o++)
        for (uint32_t i = first; i < last; i++) {
            const struct item *item = &file->items[i];
            if (strcmp(item->dtype, order[o]) != 0)
                continue;
            size_t begin = data.size;
            bytes_put(&data, item->bytes.data, item->bytes.size);
            int n = snprintf(text, sizeof text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                             header.size > 1 ? "," : "", item->name, item->dtype);
            bytes_put(&header, text, (size_t)n);
            for (uint32_t d = 0; d < item->n_dims; d++) {
                n = snprintf(text, sizeof text, "%s%d", d ? "," : "", (int)item->dims[d]);
                bytes_put(&header, text, (size_t)n);
            }
            n = snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", begin, data.size);
            bytes_put(&header, text, (size_t)n);
        }
    bytes_put(&header, "}", 1);
    while (header.size % 8)
        bytes_put(&header, " ", 1);
    bytes_u64(&whole, header.size);
    bytes_put(&whole, header.data, header.size);
    bytes_put(&whole, data.data, data.size);
    text_write(name, whole.data, whole.size);
    free(header.data);
    free(data.data);
    free(whole.data);
}

static inline void config_write(const struct file *file)
{
    char text[2048];
    int n = snprintf(text, sizeof text,
                     "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":%u,"
                     "\"num_hidden_layers\":1,\"num_attention_heads\":%d,"
                     "\"num_key_value_heads\":1,\"head_dim\":%u,\"intermediate_size\":%u,"
                     "\"vocab_size\":%d,\"max_position_embeddings\":64,\"rope_theta\":500.0,"
                     "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,"
                     "\"quantization_config\":%s}",
                     file->hidden, HEADS, file->head_dim, file->intermediate, VOCAB,
                     file->quantization ? file->quantization : "null");
    text_write("config.json", text, (size_t)n);
}

static inline void files_remove(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "a.safetensors",
                                        "b.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < array_count(names); i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
}

static inline void file_write(const struct file *file)
{
    files_remove();
    config_write(file);
    part_write(file, "model.safetensors", 0, file->count);
}

/* Two files with an index; a matrix's tensors may lie in both. */
static inline void shards_write(const struct file *file)
{
    struct bytes index = {0};
    char text[200];
    files_remove();
    config_write(file);
    part_write(file, "a.safetensors", 0, file->count / 2);
    part_write(file, "b.safetensors", file->count / 2, file->count);
    bytes_put(&index, "{\"weight_map\":{", 15);
    for (uint32_t i = 0; i < file->count; i++) {
        int n = snprintf(text, sizeof text, "%s\"%s\":\"%c.safetensors\"", i ? "," : "",
                         file->items[i].name, i < file->count / 2 ? 'a' : 'b');
        bytes_put(&index, text, (size_t)n);
    }
    bytes_put(&index, "}}", 2);
    text_write("model.safetensors.index.json", index.data, index.size);
    free(index.data);
}

static inline int directory_make(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/galerne_packed_XXXXXX");
    assert_non_null(mkdtemp(directory));
    return 0;
}

static inline int directory_drop(void **state)
{
    files_remove();
    assert_int_equal(rmdir(directory), 0);
    return 0;
}

/* ---- values ---- */

static uint64_t dice = 1;

static inline uint32_t drawn(uint32_t n)
{
    dice = dice * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(dice >> 33) % n;
}

static inline float drawn_float(float scale)
{
    return ((float)drawn(1 << 20) / (1 << 19) - 1) * scale;
}

/* A value of one of the three types, as it comes back. */
static inline float value_put(struct item *item, float value)
{
    uint16_t half = strcmp(item->dtype, "F16") == 0 ? dtype_f16(value) : dtype_bf16(value);
    enum dtype dtype = strcmp(item->dtype, "F16") == 0 ? DTYPE_F16 : DTYPE_BF16;
    if (strcmp(item->dtype, "F32") == 0) {
        bytes_put(&item->bytes, &value, sizeof value);
        return value;
    }
    bytes_put(&item->bytes, &half, sizeof half);
    dtype_widen(dtype, &half, 1, &value);
    return value;
}

/* How a test's file holds its matrices. */
struct layout {
    const char *quantization;
    enum { ROWS_F8, BITS_GPTQ, BITS_AWQ } kind;
    const char *scale_name, *scale_dtype;
    uint32_t rows, columns; /* of a scale: of F8 0 is all; of 4 bits columns of a group, 0 all */
    uint32_t scale_dims;    /* F8 without blocks */
    uint32_t zero_offset;
    bool symmetric, order, bias;
    uint32_t hidden, intermediate, head_dim; /* 0: 128, 256, 64 */
};

static inline uint32_t ceil_of(uint32_t n, uint32_t d)
{
    return (n + d - 1) / d;
}

/* What a part in F8_E4M3 stands for: BF16 where its rows are of an odd length. */
static inline float f8_value(float scale, uint8_t byte, uint32_t in)
{
    float value = scale * dtype_of_e4m3(byte);
    uint16_t half = dtype_bf16(value);
    if (in % 128)
        dtype_widen(DTYPE_BF16, &half, 1, &value);
    return value;
}

static inline void f8_put(struct file *file, const struct layout *l, const char *stem, uint32_t out,
                          uint32_t in, float *ret_wide)
{
    uint32_t rows = l->rows ? l->rows : out, columns = l->columns ? l->columns : in;
    uint32_t n = ceil_of(in, columns), m = ceil_of(out, rows);
    float *scales = calloc((size_t)m * n, sizeof *scales);
    char name[160];
    snprintf(name, sizeof name, "%s.%s", stem, l->scale_name);
    struct item *item =
        item_new(file, name, l->scale_dtype, l->columns ? 2 : l->scale_dims, m, l->columns ? n : 1);
    for (uint32_t i = 0; i < m * n; i++) /* some of zero, some negative */
        scales[i] = value_put(item, i % 7 == 5 ? 0 : drawn_float(0.001f));
    snprintf(name, sizeof name, "%s.weight", stem);
    item = item_new(file, name, "F8_E4M3", 2, out, in);
    for (uint32_t o = 0; o < out; o++)
        for (uint32_t i = 0; i < in; i++) {
            uint8_t byte = (uint8_t)(drawn(127) | drawn(2) << 7);
            bytes_put(&item->bytes, &byte, 1);
            ret_wide[o * in + i] = f8_value(scales[o / rows * n + i / columns], byte, in);
        }
    free(scales);
}

static const uint32_t awq_order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

/* [n][m] nibbles, eight along m to a word: place i is column order[i]. */
static inline void words_put(struct item *item, const uint8_t *nibbles, uint32_t n, uint32_t m,
                             const uint32_t *order)
{
    for (uint32_t row = 0; row < n; row++)
        for (uint32_t c = 0; c < m; c += 8) {
            uint32_t word = 0;
            for (uint32_t i = 0; i < 8; i++)
                word |= (uint32_t)nibbles[row * m + c + (order ? order[i] : i)] << 4 * i;
            bytes_put(&item->bytes, &word, sizeof word);
        }
}

/* [in][out] nibbles, eight down a column to a word. */
static inline void columns_put(struct item *item, const uint8_t *nibbles, uint32_t in, uint32_t out)
{
    for (uint32_t row = 0; row < in; row += 8)
        for (uint32_t o = 0; o < out; o++) {
            uint32_t word = 0;
            for (uint32_t i = 0; i < 8; i++)
                word |= (uint32_t)nibbles[(row + i) * out + o] << 4 * i;
            bytes_put(&item->bytes, &word, sizeof word);
        }
}

static inline void order_put(struct file *file, const char *stem, uint32_t in, uint32_t group)
{
    char name[160];
    snprintf(name, sizeof name, "%s.g_idx", stem);
    struct item *item = item_new(file, name, "I32", 1, in, 0);
    for (uint32_t i = 0; i < in; i++)
        bytes_u32(&item->bytes, i / group);
}

static inline float half_of(float value)
{
    uint16_t half = dtype_f16(value);
    dtype_widen(DTYPE_F16, &half, 1, &value);
    return value;
}

static inline void bits_put(struct file *file, const struct layout *l, const char *stem,
                            uint32_t out, uint32_t in, float *ret_wide)
{
    uint32_t group = l->columns ? l->columns : in, n = ceil_of(in, group);
    bool gptq = l->kind == BITS_GPTQ;
    uint8_t *q = calloc(in, out), *zeros = calloc(n, out);
    float *scales = calloc((size_t)n * out, sizeof *scales);
    char name[160];
    snprintf(name, sizeof name, "%s.scales", stem);
    struct item *item = item_new(file, name, l->scale_dtype, 2, n, out);
    for (uint32_t i = 0; i < n * out; i++) {
        scales[i] = half_of(value_put(item, drawn_float(0.02f)));
        zeros[i] = l->symmetric ? (uint8_t)(8 - l->zero_offset) : (uint8_t)drawn(16);
    }
    for (uint32_t i = 0; i < in * out; i++)
        q[i] = (uint8_t)drawn(16);
    snprintf(name, sizeof name, "%s.qweight", stem);
    item = item_new(file, name, "I32", 2, gptq ? in / 8 : in, gptq ? out : out / 8);
    if (gptq)
        columns_put(item, q, in, out);
    else
        words_put(item, q, in, out, awq_order);
    snprintf(name, sizeof name, "%s.qzeros", stem);
    item = item_new(file, name, "I32", 2, n, out / 8);
    words_put(item, zeros, n, out, gptq ? NULL : awq_order);
    if (l->order)
        order_put(file, stem, in, group);
    for (uint32_t o = 0; o < out; o++)
        for (uint32_t i = 0; i < in; i++) {
            uint32_t at = i / group * out + o, zero = zeros[at] + l->zero_offset;
            float value = (float)q[i * out + o], scale = scales[at];
            double exact = (double)scale * ((double)value - zero), *check = &exact;
            ret_wide[o * in + i] =
                l->symmetric ? scale * (value - 8) : scale * value + half_of(-scale * (float)zero);
            /* The bound that model/packed.h states, and the rounding of what is widened. */
            if (!(fabs((double)ret_wide[o * in + i] - *check) <=
                  0x1p-11 * zero * fabs((double)scale) + 0x1p-25 + 0x1p-23 * fabs(*check)))
                fail_msg("%g is not %g", (double)ret_wide[o * in + i], *check);
        }
    free(q);
    free(zeros);
    free(scales);
}

/* ---- models ---- */

static inline void wide_put(struct file *file, const char *name, uint32_t out, uint32_t in,
                            const float *values)
{
    struct item *item = item_new(file, name, "F32", in ? 2 : 1, out, in);
    bytes_put(&item->bytes, values, sizeof *values * out * (in ? in : 1));
}

/* The same drawn vector or embedding in both. */
static inline void both_put(struct file *packed, struct file *wide, const char *name, uint32_t out,
                            uint32_t in)
{
    uint32_t n = out * (in ? in : 1);
    float *values = calloc(n, sizeof *values);
    for (uint32_t i = 0; i < n; i++)
        values[i] = drawn_float(1) + (in ? 0 : 1.5f);
    wide_put(packed, name, out, in, values);
    wide_put(wide, name, out, in, values);
    free(values);
}

/* A model of one layer twice: packed, and in F32 what that stands for. */
static inline void models_make(const struct layout *l, struct file *packed, struct file *wide)
{
    uint32_t h = l->hidden ? l->hidden : 128, w = l->intermediate ? l->intermediate : 256;
    uint32_t d = l->head_dim ? l->head_dim : 64;
    const struct {
        const char *name;
        uint32_t out, in;
    } matrices[] = {{"self_attn.q_proj", HEADS * d, h},
                    {"self_attn.k_proj", d, h},
                    {"self_attn.v_proj", d, h},
                    {"self_attn.o_proj", h, HEADS * d},
                    {"mlp.gate_proj", w, h},
                    {"mlp.up_proj", w, h},
                    {"mlp.down_proj", h, w}};
    *packed = (struct file){
        .quantization = l->quantization, .hidden = h, .intermediate = w, .head_dim = d};
    *wide = (struct file){.hidden = h, .intermediate = w, .head_dim = d};
    both_put(packed, wide, "model.embed_tokens.weight", VOCAB, h);
    both_put(packed, wide, "model.norm.weight", h, 0);
    both_put(packed, wide, "model.layers.0.input_layernorm.weight", h, 0);
    both_put(packed, wide, "model.layers.0.post_attention_layernorm.weight", h, 0);
    for (size_t i = 0; i < array_count(matrices); i++) {
        char stem[80], name[96];
        float *values = calloc((size_t)matrices[i].out * matrices[i].in, sizeof *values);
        snprintf(stem, sizeof stem, "model.layers.0.%s", matrices[i].name);
        snprintf(name, sizeof name, "%s.weight", stem);
        (l->kind == ROWS_F8 ? f8_put : bits_put)(packed, l, stem, matrices[i].out, matrices[i].in,
                                                 values);
        wide_put(wide, name, matrices[i].out, matrices[i].in, values);
        if (l->bias) {
            snprintf(name, sizeof name, "%s.bias", stem);
            struct item *bias = item_new(packed, name, "F16", 1, matrices[i].out, 0);
            for (uint32_t o = 0; o < matrices[i].out; o++)
                bytes_put(&bias->bytes, "\0", 2);
        }
        free(values);
    }
}

#define BLOCKS "{\"quant_method\":\"fp8\",\"weight_block_size\":[48,128]}"
#define PLAIN8 "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}"
#define GROUP8(strategy, more)                                                                     \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\","                     \
    "\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":8,"        \
    "\"type\":\"float\",\"strategy\":\"" strategy "\"" more "}}}}"
#define GPTQ(group, more)                                                                          \
    "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":" group ",\"desc_act\":false" more "}"
#define AWQ(group, more)                                                                           \
    "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":" group ",\"zero_point\":true" more "}"

/* clang-format off */
static const struct layout layouts[] = {
    {BLOCKS, ROWS_F8, "weight_scale_inv", "F32", 48, 128, .scale_dims = 2},
    {BLOCKS, ROWS_F8, "weight_scale_inv", "BF16", 48, 128, .scale_dims = 2},
    {BLOCKS, ROWS_F8, "weight_scale", "F16", 48, 128, .scale_dims = 2},
    {PLAIN8, ROWS_F8, "weight_scale", "F32", 0, 0, .scale_dims = 0},
    {PLAIN8, ROWS_F8, "weight_scale_inv", "F32", 0, 0, .scale_dims = 1},
    {GROUP8("tensor", ""), ROWS_F8, "weight_scale", "BF16", 0, 0, .scale_dims = 1},
    {GROUP8("channel", ""), ROWS_F8, "weight_scale", "F32", 1, 0, .scale_dims = 2},
    {GROUP8("channel", ""), ROWS_F8, "weight_scale", "BF16", 1, 0, .scale_dims = 1},
    {GROUP8("block", ",\"block_structure\":[128,256]"), ROWS_F8, "weight_scale", "F32", 128, 256,
     .scale_dims = 2},
    {BLOCKS, ROWS_F8, "weight_scale_inv", "F32", 48, 128,
     .hidden = 96, .intermediate = 136, .head_dim = 40},
    {GPTQ("32", ""), BITS_GPTQ, NULL, "F16", 1, 32, .zero_offset = 1, .order = true},
    {GPTQ("128", ",\"sym\":true"), BITS_GPTQ, NULL, "F16", 1, 128, .zero_offset = 1,
     .symmetric = true, .order = true, .bias = true},
    {GPTQ("-1", ",\"sym\":false,\"checkpoint_format\":\"gptq_v2\""), BITS_GPTQ, NULL, "BF16", 1, 0,
     .order = false},
    {GPTQ("64", ",\"sym\":true,\"checkpoint_format\":\"gptq_v2\""), BITS_GPTQ, NULL, "F32", 1, 64,
     .symmetric = true},
    {GPTQ("96", ""), BITS_GPTQ, NULL, "F16", 1, 96, .zero_offset = 1},
    {AWQ("128", ",\"version\":\"gemm\""), BITS_AWQ, NULL, "F16", 1, 128, .order = false},
    {AWQ("32", ",\"version\":\"GEMM\""), BITS_AWQ, NULL, "F32", 1, 32,
     .hidden = 96, .intermediate = 160, .head_dim = 48},
};
/* clang-format on */
