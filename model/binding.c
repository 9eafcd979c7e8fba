#include "model/binding.h"

#include <math.h>

#define DTYPES_FLOAT (1u << DTYPE_F32 | 1u << DTYPE_F16 | 1u << DTYPE_BF16)
#define NAME_MAX_BYTES 128

/* How a container names what a layer has; "%u" is not used, so that names stay plain data. */
struct names {
    const char *embed, *head, *final_norm;
    const char *layer; /* before the layer's number */
    const char *attention_norm, *q, *k, *v, *output, *mlp_norm;
    const char *gate, *up, *down; /* dense */
    const char *q_bias, *k_bias, *v_bias, *output_bias, *gate_bias, *up_bias, *down_bias;
    const char *rope_divisors;                         /* or NULL */
    const char *router;                                /* of a mixture */
    const char *experts;                               /* before an expert's number, or NULL: */
    const char *expert_gate, *expert_up, *expert_down; /* whole stacks, [n_experts] first */
};

static const struct names names_huggingface = {
    .embed = "model.embed_tokens.weight",
    .head = "lm_head.weight",
    .final_norm = "model.norm.weight",
    .layer = "model.layers.",
    .attention_norm = ".input_layernorm.weight",
    .q = ".self_attn.q_proj.weight",
    .k = ".self_attn.k_proj.weight",
    .v = ".self_attn.v_proj.weight",
    .output = ".self_attn.o_proj.weight",
    .mlp_norm = ".post_attention_layernorm.weight",
    .gate = ".mlp.gate_proj.weight",
    .up = ".mlp.up_proj.weight",
    .down = ".mlp.down_proj.weight",
    .q_bias = ".self_attn.q_proj.bias",
    .k_bias = ".self_attn.k_proj.bias",
    .v_bias = ".self_attn.v_proj.bias",
    .output_bias = ".self_attn.o_proj.bias",
    .gate_bias = ".mlp.gate_proj.bias",
    .up_bias = ".mlp.up_proj.bias",
    .down_bias = ".mlp.down_proj.bias",
    .router = ".block_sparse_moe.gate.weight",
    .experts = ".block_sparse_moe.experts.",
    .expert_gate = ".w1.weight",
    .expert_up = ".w3.weight",
    .expert_down = ".w2.weight",
};

static const struct names names_gguf = {
    .embed = "token_embd.weight",
    .head = "output.weight",
    .final_norm = "output_norm.weight",
    .layer = "blk.",
    .attention_norm = ".attn_norm.weight",
    .q = ".attn_q.weight",
    .k = ".attn_k.weight",
    .v = ".attn_v.weight",
    .output = ".attn_output.weight",
    .mlp_norm = ".ffn_norm.weight",
    .gate = ".ffn_gate.weight",
    .up = ".ffn_up.weight",
    .down = ".ffn_down.weight",
    .q_bias = ".attn_q.bias",
    .k_bias = ".attn_k.bias",
    .v_bias = ".attn_v.bias",
    .output_bias = ".attn_output.bias",
    .gate_bias = ".ffn_gate.bias",
    .up_bias = ".ffn_up.bias",
    .down_bias = ".ffn_down.bias",
    .rope_divisors = "rope_freqs.weight",
    .router = ".ffn_gate_inp.weight",
    .experts = NULL,
    .expert_gate = ".ffn_gate_exps.weight",
    .expert_up = ".ffn_up_exps.weight",
    .expert_down = ".ffn_down_exps.weight",
};

/* What binding carries along. `status` is the first error: later calls do nothing then, so that
 * the roles below read as a list. */
struct binder {
    struct weights_file *file;
    const struct names *names;
    const struct arch *arch;
    struct binding *binding;
    struct error *error;
    enum status status;
};

static const struct tensor *take(struct binder *b, const char *name, struct tensor_want want)
{
    const struct tensor *tensor = NULL;
    if (!b->status)
        b->status = weights_file_take(b->file, name, &want, &tensor, b->error);
    return b->status ? NULL : tensor;
}

static void layer_name(const struct binder *b, uint32_t layer, const char *suffix,
                       char ret_name[NAME_MAX_BYTES])
{
    snprintf(ret_name, NAME_MAX_BYTES, "%s%u%s", b->names->layer, layer, suffix);
}

static const struct tensor *take_norm(struct binder *b, const char *name)
{
    return take(
        b, name,
        (struct tensor_want){.dtypes = DTYPES_FLOAT, .n_dims = 1, .dims = {b->arch->hidden}});
}

static uint32_t matrix_dtypes(const struct binder *b)
{
    return b->file->is_gguf ? DTYPES_ALL : DTYPES_FLOAT;
}

/* An empty source of stack x parts, to be filled part by part; false when memory was or is out. */
static bool parts_new(struct binder *b, struct matrix_binding *matrix, uint32_t stack_count,
                      uint32_t n_parts)
{
    if (!b->status) {
        size_t count = (size_t)stack_count * n_parts;
        matrix->parts = arena_alloc(&b->binding->arena, count * sizeof *matrix->parts);
        matrix->tensors = arena_alloc(&b->binding->arena, count * sizeof *matrix->tensors);
        bool packed = b->arch->packing.kind != PACKING_NONE;
        if (packed)
            matrix->packed = arena_alloc(&b->binding->arena, count * sizeof *matrix->packed);
        if (!matrix->parts || !matrix->tensors || (packed && !matrix->packed))
            b->status = error_set(b->error, STATUS_EXHAUSTED, "%s: out of memory", b->file->path);
    }
    matrix->source = (struct weight_source){
        .stack_count = stack_count, .n_parts = n_parts, .parts = matrix->parts};
    return !b->status;
}

/* True when the part is held in several tensors, and bound to them. */
static bool part_take_packed(struct binder *b, const char *name, uint32_t out_count,
                             struct matrix_binding *matrix, uint32_t at)
{
    if (b->status || !matrix->packed)
        return false;
    struct packed_part *packed = &matrix->packed[at];
    b->status = packed_find(b->file, name, out_count, matrix->source.in_count, packed, b->error);
    if (b->status || packed->kind == PACKING_NONE)
        return false;
    matrix->tensors[at] = packed->values;
    matrix->parts[at] = (struct weight_part){.dtype = packed->dtype, .out_count = out_count};
    return true;
}

/* Part `at` of a matrix, whose in_count is known. */
static void part_take(struct binder *b, const char *name, uint32_t out_count,
                      struct matrix_binding *matrix, uint32_t at)
{
    uint32_t in_count = matrix->source.in_count;
    if (part_take_packed(b, name, out_count, matrix, at))
        return;
    const struct tensor *tensor =
        take(b, name,
             (struct tensor_want){
                 .dtypes = matrix_dtypes(b), .n_dims = 2, .dims = {out_count, in_count}});
    if (!tensor)
        return;
    matrix->tensors[at] = tensor;
    matrix->parts[at] =
        (struct weight_part){.dtype = tensor->dtype, .out_count = out_count, .data = tensor->data};
}

static void bind_matrix(struct binder *b, const char *name, uint32_t out_count, uint32_t in_count,
                        struct matrix_binding *matrix)
{
    parts_new(b, matrix, 1, 1);
    matrix->source.out_count = out_count;
    matrix->source.in_count = in_count;
    part_take(b, name, out_count, matrix, 0);
}

static void bind_bias(struct binder *b, uint32_t layer, const char *suffix, uint32_t count,
                      struct bias_binding *bias)
{
    char name[NAME_MAX_BYTES];
    layer_name(b, layer, suffix, name);
    bias->parts[bias->n_parts++] =
        take(b, name, (struct tensor_want){.dtypes = DTYPES_FLOAT, .n_dims = 1, .dims = {count}});
}

/* Those that the architecture has; a tensor more than these stays untaken and is refused. */
static void bind_biases(struct binder *b, uint32_t layer, struct layer_binding *l)
{
    const struct arch *a = b->arch;
    if (a->qkv_bias) {
        bind_bias(b, layer, b->names->q_bias, a->n_heads * a->head_dim, &l->qkv_bias);
        bind_bias(b, layer, b->names->k_bias, a->n_kv_heads * a->head_dim, &l->qkv_bias);
        bind_bias(b, layer, b->names->v_bias, a->n_kv_heads * a->head_dim, &l->qkv_bias);
    }
    if (a->output_bias)
        bind_bias(b, layer, b->names->output_bias, a->hidden, &l->output_bias);
    if (a->mlp_bias && a->kind == MODEL_LLAMA) {
        bind_bias(b, layer, b->names->gate_bias, a->intermediate, &l->gate_up_bias);
        bind_bias(b, layer, b->names->up_bias, a->intermediate, &l->gate_up_bias);
        bind_bias(b, layer, b->names->down_bias, a->hidden, &l->down_bias);
    }
}

/* Llama 3's scaling as GGUF files have it: by a table. */
static void bind_rope_divisors(struct binder *b)
{
    float values[ARCH_HEAD_DIM_MAX / 2];
    struct tensor_want want = {
        .dtypes = 1u << DTYPE_F32, .n_dims = 1, .dims = {b->arch->head_dim / 2}};
    if (b->status || !b->names->rope_divisors)
        return;
    b->status = weights_file_take_optional(b->file, b->names->rope_divisors, &want,
                                           &b->binding->rope_divisors, b->error);
    if (b->status || !b->binding->rope_divisors)
        return;
    memcpy(values, b->binding->rope_divisors->data, want.dims[0] * sizeof *values);
    for (uint32_t i = 0; i < want.dims[0] && !b->status; i++)
        if (!(values[i] > 0 && isfinite(values[i])))
            b->status = error_set(b->error, STATUS_INVALID,
                                  "%s: tensor %s: expected positive numbers, got %g", b->file->path,
                                  b->names->rope_divisors, (double)values[i]);
}

static void bind_qkv(struct binder *b, uint32_t layer, struct matrix_binding *matrix)
{
    const struct arch *a = b->arch;
    const char *const suffixes[] = {b->names->q, b->names->k, b->names->v};
    const uint32_t heads[] = {a->n_heads, a->n_kv_heads, a->n_kv_heads};
    parts_new(b, matrix, 1, 3);
    matrix->source.in_count = a->hidden;
    for (uint32_t p = 0; p < 3 && !b->status; p++) {
        char name[NAME_MAX_BYTES];
        layer_name(b, layer, suffixes[p], name);
        part_take(b, name, heads[p] * a->head_dim, matrix, p);
        matrix->source.out_count += heads[p] * a->head_dim;
        matrix->interleaved_heads[p] = b->file->is_gguf && p < 2 ? heads[p] : 0;
    }
}

static void bind_dense(struct binder *b, uint32_t layer, struct layer_binding *l)
{
    const struct arch *a = b->arch;
    char name[NAME_MAX_BYTES];
    bool have = parts_new(b, &l->gate_up, 1, 2);
    l->gate_up.source.out_count = 2 * a->intermediate;
    l->gate_up.source.in_count = a->hidden;
    l->gate_up.source.paired = true;
    if (!have)
        return;
    layer_name(b, layer, b->names->gate, name);
    part_take(b, name, a->intermediate, &l->gate_up, 0);
    layer_name(b, layer, b->names->up, name);
    part_take(b, name, a->intermediate, &l->gate_up, 1);
    layer_name(b, layer, b->names->down, name);
    bind_matrix(b, name, a->hidden, a->intermediate, &l->down);
}

/* Part `part` of every expert's matrix. */
static void bind_experts(struct binder *b, uint32_t layer, const char *suffix, uint32_t out_count,
                         struct matrix_binding *matrix, uint32_t part)
{
    uint32_t n_experts = b->arch->n_experts, n_parts = matrix->source.n_parts;
    char name[NAME_MAX_BYTES];
    if (!b->names->experts) {
        struct tensor_want shape = {.dtypes = matrix_dtypes(b),
                                    .n_dims = 3,
                                    .dims = {n_experts, out_count, matrix->source.in_count}};
        layer_name(b, layer, suffix, name);
        const struct tensor *stack = take(b, name, shape);
        for (uint32_t e = 0, at = part; stack && e < n_experts; e++, at += n_parts) {
            matrix->tensors[at] = stack;
            matrix->parts[at] =
                (struct weight_part){.dtype = stack->dtype,
                                     .out_count = out_count,
                                     .data = stack->data + stack->size_bytes / n_experts * e};
        }
        return;
    }
    for (uint32_t e = 0; e < n_experts && !b->status; e++) {
        snprintf(name, sizeof name, "%s%u%s%u%s", b->names->layer, layer, b->names->experts, e,
                 suffix);
        part_take(b, name, out_count, matrix, e * n_parts + part);
    }
}

static void bind_mixture(struct binder *b, uint32_t layer, struct layer_binding *l)
{
    const struct arch *a = b->arch;
    char name[NAME_MAX_BYTES];
    layer_name(b, layer, b->names->router, name);
    bind_matrix(b, name, a->n_experts, a->hidden, &l->router);
    l->router.source.exact = true; /* a choice is not left to the rounding of a row */
    if (!parts_new(b, &l->gate_up, a->n_experts, 2) || !parts_new(b, &l->down, a->n_experts, 1))
        return;
    l->gate_up.source.out_count = 2 * a->intermediate;
    l->gate_up.source.in_count = a->hidden;
    l->gate_up.source.paired = true;
    l->down.source.out_count = a->hidden;
    l->down.source.in_count = a->intermediate;
    bind_experts(b, layer, b->names->expert_gate, a->intermediate, &l->gate_up, 0);
    bind_experts(b, layer, b->names->expert_up, a->intermediate, &l->gate_up, 1);
    bind_experts(b, layer, b->names->expert_down, a->hidden, &l->down, 0);
}

static void bind_layer(struct binder *b, uint32_t layer, struct layer_binding *l)
{
    const struct arch *a = b->arch;
    char name[NAME_MAX_BYTES];
    layer_name(b, layer, b->names->attention_norm, name);
    l->attention_norm = take_norm(b, name);
    bind_qkv(b, layer, &l->qkv);
    layer_name(b, layer, b->names->output, name);
    bind_matrix(b, name, a->hidden, a->n_heads * a->head_dim, &l->output);
    layer_name(b, layer, b->names->mlp_norm, name);
    l->mlp_norm = take_norm(b, name);
    if (a->kind == MODEL_MIXTRAL)
        bind_mixture(b, layer, l);
    else
        bind_dense(b, layer, l);
    bind_biases(b, layer, l);
}

enum status binding_open(struct weights_file *file, struct binding *ret_binding,
                         struct error *error)
{
    struct binding binding = {.path = file->path, .n_layers = file->arch.n_layers};
    struct binder b = {
        .file = file,
        .names = file->is_gguf ? &names_gguf : &names_huggingface,
        .arch = &file->arch,
        .binding = &binding,
        .error = error,
    };
    arena_init(&binding.arena, SIZE_MAX);
    binding.layers = arena_alloc(&binding.arena, binding.n_layers * sizeof *binding.layers);
    if (!binding.layers)
        b.status = error_set(error, STATUS_EXHAUSTED, "%s: out of memory", file->path);
    bind_matrix(&b, b.names->embed, file->arch.vocab, file->arch.hidden, &binding.embed);
    if (!file->arch.tied_embeddings)
        bind_matrix(&b, b.names->head, file->arch.vocab, file->arch.hidden, &binding.head);
    binding.final_norm = take_norm(&b, b.names->final_norm);
    bind_rope_divisors(&b);
    for (uint32_t layer = 0; layer < binding.n_layers && !b.status; layer++)
        bind_layer(&b, layer, &binding.layers[layer]);
    if (!b.status)
        b.status = weights_file_all_taken(file, error);
    if (b.status)
        arena_free(&binding.arena);
    else
        *ret_binding = binding;
    return b.status;
}

void binding_set_exact(struct binding *binding)
{
    binding->embed.source.exact = binding->head.source.exact = true;
    for (uint32_t i = 0; i < binding->n_layers; i++) {
        struct layer_binding *l = &binding->layers[i];
        l->qkv.source.exact = l->output.source.exact = true;
        l->gate_up.source.exact = l->down.source.exact = true;
    }
}

void binding_close(struct binding *binding)
{
    arena_free(&binding->arena);
    *binding = (struct binding){0};
}

/* ---- quantised ---- */

/* How every matrix of a network is visited: embedding, head, then layer by layer. */
typedef void (*matrix_visit)(void *context, const struct binding *binding,
                             struct matrix_binding *matrix);

static void layers_visit(const struct binding *binding, matrix_visit visit, void *context)
{
    for (uint32_t i = 0; i < binding->n_layers; i++) {
        struct layer_binding *l = &binding->layers[i];
        struct matrix_binding *const matrices[] = {&l->qkv, &l->output, &l->gate_up, &l->down};
        for (size_t m = 0; m < array_count(matrices); m++)
            visit(context, binding, matrices[m]);
    }
}

static bool part_quantises(const struct matrix_binding *matrix, uint32_t part, enum dtype kind)
{
    return !dtype_has_blocks(matrix->parts[part].dtype) &&
           matrix->source.in_count % dtype_block_count(kind) == 0;
}

static uint32_t parts_count(const struct matrix_binding *matrix)
{
    return matrix->source.stack_count * matrix->source.n_parts;
}

static void parts_mark(void *context, const struct binding *binding, struct matrix_binding *matrix)
{
    uint32_t *n_quantised = context; /* so far */
    enum dtype kind = binding->quantise_kind;
    matrix->first_quantised = *n_quantised;
    for (uint32_t i = 0; i < parts_count(matrix); i++) {
        struct weight_part *part = &matrix->parts[i];
        const struct tensor *tensor = matrix->tensors[i];
        if (!part_quantises(matrix, i, kind))
            continue;
        uint32_t at = (*n_quantised)++;
        bool is_stack = tensor->n_dims > 2;
        binding->quantised[at] =
            (struct quantise_part){.name = tensor->name.data,
                                   .name_bytes = (uint32_t)tensor->name.size_bytes,
                                   .index = is_stack ? i / matrix->source.n_parts : 0,
                                   .out_count = part->out_count,
                                   .in_count = matrix->source.in_count};
        binding->quantised_from[at] = (struct quantised_part){.tensor = tensor, .wide = *part};
        if (matrix->packed) {
            binding->quantised_from[at].packed = matrix->packed[i];
            matrix->packed[i].kind = PACKING_NONE;
        }
        *part = (struct weight_part){.dtype = kind, .out_count = part->out_count};
        matrix->n_quantised++;
    }
}

static void parts_add(void *context, const struct binding *binding, struct matrix_binding *matrix)
{
    for (uint32_t i = 0; i < parts_count(matrix); i++)
        *(uint32_t *)context += part_quantises(matrix, i, binding->quantise_kind);
}

enum status binding_quantise(struct binding *binding, enum dtype kind, bool with_head,
                             struct error *error)
{
    bool tied = binding->head.source.stack_count == 0;
    struct matrix_binding *head = tied ? &binding->embed : &binding->head;
    uint32_t n = 0;
    CHECK(binding->n_quantised == 0 && dtype_has_blocks(kind));
    binding->quantise_kind = kind;
    binding->quantise_head = with_head;
    if (with_head)
        parts_add(&n, binding, head);
    layers_visit(binding, parts_add, &n);
    binding->quantised = arena_alloc(&binding->arena, n * sizeof *binding->quantised);
    binding->quantised_from = arena_alloc(&binding->arena, n * sizeof *binding->quantised_from);
    if (!binding->quantised || !binding->quantised_from)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", binding->path);
    if (with_head)
        parts_mark(&binding->n_quantised, binding, head);
    layers_visit(binding, parts_mark, &binding->n_quantised);
    CHECK(binding->n_quantised == n);
    return STATUS_OK;
}

static void values_add(void *context, const struct binding *binding, struct matrix_binding *matrix)
{
    uint64_t *values = context; /* [DTYPE_COUNT] */
    (void)binding;
    for (uint32_t i = 0; i < parts_count(matrix); i++)
        values[matrix->parts[i].dtype] +=
            (uint64_t)matrix->parts[i].out_count * matrix->source.in_count;
}

void binding_values(const struct binding *binding, uint64_t *ret_values)
{
    struct matrix_binding embed = binding->embed, head = binding->head;
    memset(ret_values, 0, DTYPE_COUNT * sizeof *ret_values);
    values_add(ret_values, binding, &embed);
    values_add(ret_values, binding, &head);
    layers_visit(binding, values_add, ret_values);
}

enum dtype binding_dtype(const struct binding *binding)
{
    uint64_t values[DTYPE_COUNT];
    enum dtype most = DTYPE_F32;
    binding_values(binding, values);
    for (uint32_t t = 0; t < DTYPE_COUNT; t++)
        if (values[t] > values[most])
            most = (enum dtype)t;
    return most;
}
