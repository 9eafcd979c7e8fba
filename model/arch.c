#include "model/arch.h"

#include <math.h>

/* The epsilon and base of the published models, and room around them. */
#define RMS_EPS_MIN 1e-12
#define RMS_EPS_MAX 1.0
#define ROPE_THETA_MIN 1.0
#define ROPE_THETA_MAX 1e12
#define ROPE_FACTOR_MAX 1e6
#define ROPE_TURNS_MIN 1e-6

/* Where the source says each thing: errors name it in the source's own words. */
struct words {
    const char *file;
    const char *hidden, *n_heads, *n_kv_heads, *head_dim, *n_experts, *top_k;
};

#define MISTRAL_WINDOW_TOKENS 4096 /* of transformers, where the file leaves it out */

enum { KNOWN_LLAMA, KNOWN_MISTRAL, KNOWN_MIXTRAL, KNOWN_COUNT };

static const struct {
    const char *architecture, *model_type;
    enum model_arch kind;
    double rope_theta, rms_eps; /* of transformers, where the file leaves them out */
} known[KNOWN_COUNT] = {
    {"LlamaForCausalLM", "llama", MODEL_LLAMA, 1e4, 1e-6},
    {"MistralForCausalLM", "mistral", MODEL_LLAMA, 1e4, 1e-6},
    {"MixtralForCausalLM", "mixtral", MODEL_MIXTRAL, 1e6, 1e-5},
};

/* Relations between the fields, each of which is in its own range already. */
static enum status arch_check(const struct arch *arch, const struct words *w, struct error *error)
{
    if (arch->n_kv_heads > arch->n_heads || arch->n_heads % arch->n_kv_heads)
        return error_set(error, STATUS_INVALID, "%s: %s: expected a divisor of %s %u, got %u",
                         w->file, w->n_kv_heads, w->n_heads, arch->n_heads, arch->n_kv_heads);
    if (arch->head_dim < 2 || arch->head_dim % 2 || arch->head_dim > ARCH_HEAD_DIM_MAX)
        return error_set(error, STATUS_INVALID, "%s: %s: expected an even number 2..%d, got %u",
                         w->file, w->head_dim, ARCH_HEAD_DIM_MAX, arch->head_dim);
    if (arch->kind == MODEL_MIXTRAL && arch->top_k > u32_min(arch->n_experts, MOE_TOP_K_MAX))
        return error_set(error, STATUS_INVALID, "%s: %s: expected 1..%u (of %s %u), got %u",
                         w->file, w->top_k, u32_min(arch->n_experts, MOE_TOP_K_MAX), w->n_experts,
                         arch->n_experts, arch->top_k);
    return STATUS_OK;
}

/* head_dim where the source leaves it out. */
static enum status head_dim_derive(struct arch *arch, const struct words *w, struct error *error)
{
    if (arch->hidden % arch->n_heads)
        return error_set(error, STATUS_INVALID,
                         "%s: %s: expected a multiple of %s %u (%s is not given), got %u", w->file,
                         w->hidden, w->n_heads, arch->n_heads, w->head_dim, arch->hidden);
    arch->head_dim = arch->hidden / arch->n_heads;
    return STATUS_OK;
}

static enum status json_kind(const struct json_at *at, struct arch *arch, size_t *ret_known,
                             struct error *error)
{
    const json_t *list = NULL;
    const char *type = NULL;
    enum status status = json_get_array(at, "architectures", &list, error);
    if (status)
        return status;
    const char *name = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) != 1 || !name)
        return error_set(error, STATUS_INVALID, "%s: architectures: expected one string", at->file);
    size_t k = 0;
    while (k < array_count(known) && strcmp(known[k].architecture, name) != 0)
        k++;
    if (k == array_count(known))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: architectures: \"%.64s\" is not supported, expected "
                         "LlamaForCausalLM, MistralForCausalLM or MixtralForCausalLM",
                         at->file, name);
    if (json_has(at, "model_type")) {
        status = json_get_string(at, "model_type", &type, error);
        if (!status && strcmp(type, known[k].model_type) != 0)
            return error_set(error, STATUS_INVALID,
                             "%s: model_type: expected \"%s\" with %s, got \"%.64s\"", at->file,
                             known[k].model_type, name, type);
    }
    snprintf(arch->name, sizeof arch->name, "%s", name);
    arch->kind = known[k].kind;
    *ret_known = k;
    return status;
}

static enum status json_dimensions(const struct json_at *at, size_t k, struct arch *arch,
                                   struct error *error)
{
    bool mixtral = arch->kind == MODEL_MIXTRAL;
    struct {
        const char *field;
        uint32_t *value;
        uint64_t max;
        bool wanted;
    } table[] = {
        {"num_hidden_layers", &arch->n_layers, ARCH_LAYERS_MAX, true},
        {"hidden_size", &arch->hidden, ARCH_HIDDEN_MAX, true},
        {"num_attention_heads", &arch->n_heads, ARCH_HEADS_MAX, true},
        {"num_key_value_heads", &arch->n_kv_heads, ARCH_HEADS_MAX,
         k != KNOWN_LLAMA || json_has(at, "num_key_value_heads")},
        {"head_dim", &arch->head_dim, ARCH_HEAD_DIM_MAX, json_has(at, "head_dim")},
        {"intermediate_size", &arch->intermediate, ARCH_INTERMEDIATE_MAX, true},
        {"vocab_size", &arch->vocab, ARCH_VOCAB_MAX, true},
        {"max_position_embeddings", &arch->context_tokens, ARCH_CONTEXT_MAX, true},
        {"num_local_experts", &arch->n_experts, ARCH_EXPERTS_MAX, mixtral},
        {"num_experts_per_tok", &arch->top_k, ARCH_EXPERTS_MAX, mixtral},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        struct json_range_u64 range = {1, table[i].max};
        if (!table[i].wanted)
            continue;
        enum status status = json_get_u32(at, table[i].field, range, table[i].value, error);
        if (status)
            return status;
    }
    if (arch->n_kv_heads == 0)
        arch->n_kv_heads = arch->n_heads;
    return STATUS_OK;
}

static const char *const scaling_names[] = {
    [ROPE_PLAIN] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3"};

/* "rope_type" in newer files, "type" in older ones; some have both. */
static enum status json_rope_type(const struct json_at *in, enum rope_scaling *ret_scaling,
                                  struct error *error)
{
    static const char *const fields[] = {"rope_type", "type"};
    const char *seen = NULL;
    for (size_t i = 0; i < array_count(fields); i++) {
        const char *type = NULL;
        size_t kind = 0;
        if (!json_has(in, fields[i]))
            continue;
        enum status status = json_get_string(in, fields[i], &type, error);
        if (status)
            return status;
        while (kind < array_count(scaling_names) && strcmp(scaling_names[kind], type) != 0)
            kind++;
        if (kind == array_count(scaling_names))
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %s.%s: \"%.64s\" is not supported, expected \"default\", "
                             "\"linear\" or \"llama3\"",
                             in->file, in->parent, fields[i], type);
        if (seen && strcmp(seen, type) != 0)
            return error_set(error, STATUS_INVALID,
                             "%s: %s: rope_type \"%.64s\" and type \"%.64s\"", in->file, in->parent,
                             seen, type);
        seen = type;
        *ret_scaling = (enum rope_scaling)kind;
    }
    return STATUS_OK;
}

static enum status json_float(const struct json_at *at, const char *field,
                              struct json_range_real range, float *ret_value, struct error *error)
{
    double value = 0;
    enum status status = json_get_real(at, field, range, &value, error);
    if (!status)
        *ret_value = (float)value;
    return status;
}

/* What the scaling of the kind needs. */
static enum status json_rope_factors(const struct json_at *in, enum rope_scaling scaling,
                                     struct arch *arch, struct error *error)
{
    const struct json_range_real factors = {1, ROPE_FACTOR_MAX};
    const struct json_range_real turns = {ROPE_TURNS_MIN, ROPE_FACTOR_MAX};
    const struct json_range_u64 tokens = {1, ARCH_CONTEXT_MAX};
    enum status status = STATUS_OK;
    if (scaling == ROPE_PLAIN)
        return STATUS_OK;
    status = json_float(in, "factor", factors, &arch->rope_factor, error);
    if (!status && scaling == ROPE_LLAMA3) {
        status = json_float(in, "low_freq_factor", turns, &arch->rope_low_freq, error);
        if (!status)
            status = json_float(in, "high_freq_factor", turns, &arch->rope_high_freq, error);
        if (!status)
            status = json_get_u32(in, "original_max_position_embeddings", tokens,
                                  &arch->rope_original_tokens, error);
        if (!status && arch->rope_high_freq <= arch->rope_low_freq)
            return error_set(
                error, STATUS_INVALID,
                "%s: %s.high_freq_factor: expected more than low_freq_factor %g, got %g", in->file,
                in->parent, (double)arch->rope_low_freq, (double)arch->rope_high_freq);
    }
    if (!status && arch->rope_scaling != ROPE_PLAIN)
        return error_set(error, STATUS_INVALID, "%s: %s: a second rope scaling", in->file,
                         in->parent);
    arch->rope_scaling = scaling;
    return status;
}

/* Heads are rotated whole. `at` is an object that may say otherwise. */
static enum status json_rope_whole(const struct json_at *at, struct error *error)
{
    double factor = 0;
    const struct json_range_real range = {0, 1};
    if (!json_has(at, "partial_rotary_factor"))
        return STATUS_OK;
    enum status status = json_get_real(at, "partial_rotary_factor", range, &factor, error);
    if (!status && factor != 1.0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: %s%spartial_rotary_factor: %g is not supported, expected 1", at->file,
                         at->parent, *at->parent ? "." : "", factor);
    return status;
}

/* An object that describes the rotation. Objects within it would be for some of the layers only. */
static enum status json_rope_object(const struct json_at *in, struct arch *arch,
                                    struct error *error)
{
    const char *key;
    const json_t *value;
    enum rope_scaling scaling = ROPE_PLAIN;
    json_object_foreach ((json_t *)(uintptr_t)in->object, key, value)
        if (json_is_object(value))
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %s.%.64s: a rotation for some layers is not supported", in->file,
                             in->parent, key);
    enum status status = json_rope_type(in, &scaling, error);
    if (!status)
        status = json_rope_whole(in, error);
    return status ? status : json_rope_factors(in, scaling, arch, error);
}

/* transformers 5 says rope_parameters, 4 said rope_theta beside rope_scaling; files mix them. */
static enum status json_rope(const struct json_at *at, double theta_default, struct arch *arch,
                             struct error *error)
{
    static const char *const objects[] = {"rope_parameters", "rope_scaling"};
    struct json_range_real range = {ROPE_THETA_MIN, ROPE_THETA_MAX};
    double theta = theta_default;
    bool given = json_has(at, "rope_theta");
    enum status status = json_rope_whole(at, error);
    if (!status && given)
        status = json_get_real(at, "rope_theta", range, &theta, error);
    for (size_t i = 0; i < array_count(objects) && !status; i++) {
        struct json_at in = {.file = at->file, .parent = objects[i]};
        double inner = 0;
        if (!json_has(at, objects[i]))
            continue;
        status = json_get_object(at, objects[i], &in.object, error);
        if (!status)
            status = json_rope_object(&in, arch, error);
        if (status || !json_has(&in, "rope_theta"))
            continue;
        status = json_get_real(&in, "rope_theta", range, &inner, error);
        if (!status && given && inner != theta)
            return error_set(error, STATUS_INVALID, "%s: rope_theta: %g here and %g in %s",
                             at->file, theta, inner, objects[i]);
        theta = inner;
        given = true;
    }
    arch->rope_theta = (float)theta;
    return status;
}

/* null is no window; where the member is absent, it is the library's default. */
static enum status json_window(const struct json_at *at, size_t k, struct arch *arch,
                               struct error *error)
{
    const struct json_range_u64 range = {1, ARCH_CONTEXT_MAX};
    if (!json_object_get(at->object, "sliding_window") && k == KNOWN_MISTRAL)
        arch->window_tokens = MISTRAL_WINDOW_TOKENS;
    if (!json_has(at, "sliding_window"))
        return STATUS_OK;
    if (k == KNOWN_LLAMA)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: sliding_window: %s is not supported of this architecture, expected "
                         "null",
                         at->file, json_kind_text(json_object_get(at->object, "sliding_window")));
    return json_get_u32(at, "sliding_window", range, &arch->window_tokens, error);
}

static enum status json_biases(const struct json_at *at, size_t k, struct arch *arch,
                               struct error *error)
{
    static const char *const fields[] = {"attention_bias", "mlp_bias"};
    bool set[array_count(fields)] = {false};
    for (size_t i = 0; i < array_count(fields); i++) {
        if (!json_has(at, fields[i]))
            continue;
        enum status status = json_get_bool(at, fields[i], &set[i], error);
        if (status)
            return status;
        if (set[i] && k != KNOWN_LLAMA)
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %s: true is not supported of this architecture, expected false",
                             at->file, fields[i]);
    }
    arch->qkv_bias = arch->output_bias = set[0];
    arch->mlp_bias = set[1];
    return STATUS_OK;
}

/* Settings that would change the arithmetic to something that we do not compute. */
static enum status json_refusals(const struct json_at *at, struct error *error)
{
    const char *activation = "silu";
    enum status status = STATUS_OK;
    if (json_has(at, "hidden_act"))
        status = json_get_string(at, "hidden_act", &activation, error);
    if (!status && strcmp(activation, "silu") != 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: hidden_act: \"%.64s\" is not supported, expected \"silu\"", at->file,
                         activation);
    return status;
}

enum status arch_from_json(const json_t *root, const char *file, struct arch *ret_arch,
                           struct error *error)
{
    static const struct words fields = {
        .hidden = "hidden_size",
        .n_heads = "num_attention_heads",
        .n_kv_heads = "num_key_value_heads",
        .head_dim = "head_dim",
        .n_experts = "num_local_experts",
        .top_k = "num_experts_per_tok",
    };
    struct words words = fields;
    struct json_at at = {.file = file, .parent = "", .object = root};
    struct json_range_real eps_range = {RMS_EPS_MIN, RMS_EPS_MAX};
    struct arch arch = {.rope_factor = 1};
    size_t k = 0;
    words.file = file;
    enum status status = json_kind(&at, &arch, &k, error);
    if (status)
        return status;
    double eps = known[k].rms_eps;
    status = json_dimensions(&at, k, &arch, error);
    if (!status && arch.head_dim == 0)
        status = head_dim_derive(&arch, &words, error);
    if (!status)
        status = json_refusals(&at, error);
    if (!status)
        status = packing_from_json(&at, &arch.packing, error);
    if (!status)
        status = json_rope(&at, known[k].rope_theta, &arch, error);
    if (!status)
        status = json_window(&at, k, &arch, error);
    if (!status)
        status = json_biases(&at, k, &arch, error);
    if (!status && json_has(&at, "rms_norm_eps"))
        status = json_get_real(&at, "rms_norm_eps", eps_range, &eps, error);
    if (!status && json_has(&at, "tie_word_embeddings"))
        status = json_get_bool(&at, "tie_word_embeddings", &arch.tied_embeddings, error);
    arch.rms_eps = (float)eps;
    if (!status)
        status = arch_check(&arch, &words, error);
    if (!status)
        *ret_arch = arch;
    return status;
}

static enum status gguf_count(const struct gguf *gguf, const char *key, uint32_t max,
                              uint32_t *ret_value, struct error *error)
{
    uint32_t value = 0;
    enum status status = gguf_get_u32(gguf, key, &value, error);
    if (status == STATUS_NOT_FOUND)
        return error_set(error, STATUS_INVALID, "%s: key %s is missing", gguf->file, key);
    if (!status && (value == 0 || value > max))
        return error_set(error, STATUS_INVALID, "%s: %s: expected 1..%u, got %u", gguf->file, key,
                         max, value);
    if (!status)
        *ret_value = value;
    return status;
}

static enum status gguf_vocab(const struct gguf *gguf, struct arch *arch, struct error *error)
{
    struct gguf_array tokens = {0};
    if (gguf_key_find(gguf, "llama.vocab_size"))
        return gguf_count(gguf, "llama.vocab_size", ARCH_VOCAB_MAX, &arch->vocab, error);
    enum status status = gguf_get_array(gguf, "tokenizer.ggml.tokens", GGUF_STRING, &tokens, error);
    if (status == STATUS_NOT_FOUND)
        return error_set(error, STATUS_INVALID,
                         "%s: keys llama.vocab_size and tokenizer.ggml.tokens are missing",
                         gguf->file);
    if (!status && (tokens.count == 0 || tokens.count > ARCH_VOCAB_MAX))
        return error_set(error, STATUS_INVALID, "%s: tokenizer.ggml.tokens: expected 1..%u tokens",
                         gguf->file, ARCH_VOCAB_MAX);
    if (!status)
        arch->vocab = (uint32_t)tokens.count;
    return status;
}

static enum status gguf_dimensions(const struct gguf *gguf, struct arch *arch, struct error *error)
{
    struct {
        const char *key;
        uint32_t *value;
        uint32_t max;
        bool wanted;
    } table[] = {
        {"llama.block_count", &arch->n_layers, ARCH_LAYERS_MAX, true},
        {"llama.embedding_length", &arch->hidden, ARCH_HIDDEN_MAX, true},
        {"llama.attention.head_count", &arch->n_heads, ARCH_HEADS_MAX, true},
        {"llama.attention.head_count_kv", &arch->n_kv_heads, ARCH_HEADS_MAX,
         gguf_key_find(gguf, "llama.attention.head_count_kv") != NULL},
        {"llama.attention.key_length", &arch->head_dim, ARCH_HEAD_DIM_MAX,
         gguf_key_find(gguf, "llama.attention.key_length") != NULL},
        {"llama.feed_forward_length", &arch->intermediate, ARCH_INTERMEDIATE_MAX, true},
        {"llama.context_length", &arch->context_tokens, ARCH_CONTEXT_MAX, true},
        {"llama.expert_used_count", &arch->top_k, ARCH_EXPERTS_MAX, arch->n_experts > 0},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < array_count(table) && !status; i++)
        if (table[i].wanted)
            status = gguf_count(gguf, table[i].key, table[i].max, table[i].value, error);
    if (arch->n_kv_heads == 0)
        arch->n_kv_heads = arch->n_heads;
    return status ? status : gguf_vocab(gguf, arch, error);
}

static enum status gguf_refused(const struct gguf *gguf, const char *key, const char *expected,
                                struct error *error)
{
    return error_set(error, STATUS_UNSUPPORTED, "%s: %s: its value is not supported, expected %s",
                     gguf->file, key, expected);
}

/* Keys that would change the arithmetic. Absent keys are fine. */
static enum status gguf_refusals(const struct gguf *gguf, const struct arch *arch,
                                 struct error *error)
{
    static const char *const absent[] = {
        "llama.attention.scale",     "llama.logit_scale",        "llama.residual_scale",
        "llama.embedding_scale",     "llama.attention.causal",   "llama.attention.clamp_kqv",
        "llama.expert_shared_count", "llama.expert_gating_func",
    };
    static const char *const must_be_head_dim[] = {"llama.attention.value_length",
                                                   "llama.rope.dimension_count"};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < array_count(absent) && !status; i++)
        if (gguf_key_find(gguf, absent[i]))
            return gguf_refused(gguf, absent[i], "no such key", error);
    for (size_t i = 0; i < array_count(must_be_head_dim) && !status; i++) {
        uint32_t value = arch->head_dim;
        if (gguf_key_find(gguf, must_be_head_dim[i]))
            status = gguf_get_u32(gguf, must_be_head_dim[i], &value, error);
        if (!status && value != arch->head_dim)
            return gguf_refused(gguf, must_be_head_dim[i], "the length of a key head", error);
    }
    return status;
}

static enum status gguf_real(const struct gguf *gguf, const char *key, struct json_range_real range,
                             float *ret_value, struct error *error)
{
    float value = 0;
    enum status status = gguf_get_f32(gguf, key, &value, error);
    if (!status && !((double)value >= range.min && (double)value <= range.max))
        return error_set(error, STATUS_INVALID, "%s: %s: expected a number %g..%g, got %g",
                         gguf->file, key, range.min, range.max, (double)value);
    if (!status)
        *ret_value = value;
    return status;
}

/* An absent type is linear, as the converters of old wrote it. */
static enum status gguf_scaling(const struct gguf *gguf, struct arch *arch, struct error *error)
{
    static const char *const keys[] = {"llama.rope.scaling.factor", "llama.rope.scale_linear"};
    static const char *const type_key = "llama.rope.scaling.type";
    const struct json_range_real range = {1, ROPE_FACTOR_MAX};
    struct span type = span_of("linear");
    enum status status = STATUS_OK;
    if (gguf_key_find(gguf, type_key))
        status = gguf_get_string(gguf, type_key, &type, error);
    bool none = !status && span_equal(type, span_of("none"));
    if (!status && !none && !span_equal(type, span_of("linear")))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: %s: \"%.*s\" is not supported, expected none or linear", gguf->file,
                         type_key, (int)size_min(type.size_bytes, 64), type.data);
    for (size_t i = 0; i < array_count(keys) && !status; i++) {
        if (!gguf_key_find(gguf, keys[i]))
            continue;
        status = gguf_real(gguf, keys[i], range, &arch->rope_factor, error);
        if (!status && none && arch->rope_factor != 1)
            return gguf_refused(gguf, keys[i], "1 beside the scaling type none", error);
        break;
    }
    arch->rope_scaling = arch->rope_factor != 1 ? ROPE_LINEAR : ROPE_PLAIN;
    return status;
}

/* What a container without flags says by having tensors. */
static enum status gguf_extras(const struct gguf *gguf, struct arch *arch, struct error *error)
{
    static const char *const window = "llama.attention.sliding_window";
    enum status status = STATUS_OK;
    if (gguf_key_find(gguf, window))
        status = gguf_get_u32(gguf, window, &arch->window_tokens, error);
    if (!status && arch->window_tokens > ARCH_CONTEXT_MAX)
        return error_set(error, STATUS_INVALID, "%s: %s: expected 0..%u, got %u", gguf->file,
                         window, ARCH_CONTEXT_MAX, arch->window_tokens);
    arch->tied_embeddings = gguf_tensor_find(gguf, "output.weight") == NULL;
    arch->qkv_bias = gguf_tensor_find(gguf, "blk.0.attn_q.bias") != NULL;
    arch->output_bias = gguf_tensor_find(gguf, "blk.0.attn_output.bias") != NULL;
    arch->mlp_bias = gguf_tensor_find(gguf, "blk.0.ffn_up.bias") != NULL;
    return status;
}

static enum status gguf_kind(const struct gguf *gguf, struct arch *arch, struct error *error)
{
    struct span name = {0};
    enum status status = gguf_get_string(gguf, "general.architecture", &name, error);
    if (status == STATUS_NOT_FOUND)
        return error_set(error, STATUS_INVALID, "%s: key general.architecture is missing",
                         gguf->file);
    if (!status && !span_equal(name, span_of("llama")))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: general.architecture: \"%.*s\" is not supported, expected llama",
                         gguf->file, (int)size_min(name.size_bytes, 64), name.data);
    if (!status && gguf_key_find(gguf, "llama.expert_count"))
        status = gguf_get_u32(gguf, "llama.expert_count", &arch->n_experts, error);
    if (!status && arch->n_experts > ARCH_EXPERTS_MAX)
        return error_set(error, STATUS_INVALID, "%s: llama.expert_count: expected 0..%d, got %u",
                         gguf->file, ARCH_EXPERTS_MAX, arch->n_experts);
    snprintf(arch->name, sizeof arch->name, "llama");
    arch->kind = arch->n_experts ? MODEL_MIXTRAL : MODEL_LLAMA;
    return status;
}

enum status arch_from_gguf(const struct gguf *gguf, struct arch *ret_arch, struct error *error)
{
    const struct words words = {
        .file = gguf->file,
        .hidden = "llama.embedding_length",
        .n_heads = "llama.attention.head_count",
        .n_kv_heads = "llama.attention.head_count_kv",
        .head_dim = "llama.attention.key_length",
        .n_experts = "llama.expert_count",
        .top_k = "llama.expert_used_count",
    };
    const struct json_range_real theta_range = {ROPE_THETA_MIN, ROPE_THETA_MAX};
    const struct json_range_real eps_range = {RMS_EPS_MIN, RMS_EPS_MAX};
    const char *eps_key = "llama.attention.layer_norm_rms_epsilon";
    struct arch arch = {.rope_theta = 10000.0f, .rope_factor = 1};
    enum status status = gguf_kind(gguf, &arch, error);
    if (!status)
        status = gguf_dimensions(gguf, &arch, error);
    if (!status && arch.head_dim == 0)
        status = head_dim_derive(&arch, &words, error);
    if (!status)
        status = gguf_refusals(gguf, &arch, error);
    if (!status && gguf_key_find(gguf, "llama.rope.freq_base"))
        status = gguf_real(gguf, "llama.rope.freq_base", theta_range, &arch.rope_theta, error);
    if (!status)
        status = gguf_scaling(gguf, &arch, error);
    if (!status)
        status = gguf_extras(gguf, &arch, error);
    if (!status)
        status = gguf_real(gguf, eps_key, eps_range, &arch.rms_eps, error);
    if (status == STATUS_NOT_FOUND)
        return error_set(error, STATUS_INVALID, "%s: key %s is missing", gguf->file, eps_key);
    if (!status)
        status = arch_check(&arch, &words, error);
    if (!status)
        *ret_arch = arch;
    return status;
}

/*
 * How Llama 3.1 stretches its context: a pair of values that turns fewer than low_freq times within
 * the first context gets slower by the factor, one that turns more than high_freq times stays, and
 * between the two the shares change linearly with the number of turns.
 */
static double llama3_speed(const struct arch *arch, double speed)
{
    double turns = arch->rope_original_tokens * speed / (2 * M_PI);
    double low = (double)arch->rope_low_freq, high = (double)arch->rope_high_freq;
    double kept = fmin(fmax((turns - low) / (high - low), 0), 1);
    return speed * (kept + (1 - kept) / (double)arch->rope_factor);
}

void arch_inv_freq(const struct arch *arch, float *ret_inv_freq)
{
    uint32_t half = arch->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double speed = pow((double)arch->rope_theta, -(double)i / half);
        if (arch->rope_scaling == ROPE_LINEAR)
            speed /= (double)arch->rope_factor;
        else if (arch->rope_scaling == ROPE_LLAMA3)
            speed = llama3_speed(arch, speed);
        ret_inv_freq[i] = (float)speed;
    }
}
