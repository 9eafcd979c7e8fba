#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/arch.h"
#include "tests/unit/gguf_build.h"

static const struct json_limits limits = {.max_bytes = 65536, .values_max = 1000};

#define LLAMA                                                                                      \
    "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"attention_bias\":false,"  \
    "\"head_dim\":null,\"hidden_act\":\"silu\",\"hidden_size\":64,\"intermediate_size\":96,"       \
    "\"max_position_embeddings\":512,\"mlp_bias\":false,\"num_attention_heads\":4,"                \
    "\"num_hidden_layers\":2,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-05,\"vocab_size\":320"
#define ROPE_5 "\"rope_parameters\":{\"rope_theta\":50000.0,\"rope_type\":\"default\"}"
#define MIXTRAL                                                                                    \
    "\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\",\"hidden_size\":48,"    \
    "\"head_dim\":8,\"intermediate_size\":24,\"max_position_embeddings\":512,"                     \
    "\"num_attention_heads\":4,\"num_hidden_layers\":2,\"num_key_value_heads\":2,"                 \
    "\"num_local_experts\":8,\"num_experts_per_tok\":2,\"sliding_window\":null,"                   \
    "\"tie_word_embeddings\":true,\"vocab_size\":320"

/* `base` with the members of `change` put in (null removes nothing: it is a value). */
static enum status read_changed(const char *base, const char *change, struct arch *arch,
                                struct error *error)
{
    json_t *root = NULL, *patch = NULL;
    char text[2048];
    snprintf(text, sizeof text, "{%s}", base);
    if (json_read_text(span_of(text), "base", &limits, &root, error))
        fail_msg("%s", error->text);
    snprintf(text, sizeof text, "{%s}", change);
    if (json_read_text(span_of(text), "change", &limits, &patch, error))
        fail_msg("%s", error->text);
    const char *key;
    json_t *value;
    json_object_foreach (patch, key, value) {
        if (json_is_string(value) && strcmp(json_string_value(value), "REMOVE") == 0)
            json_object_del(root, key);
        else
            json_object_set(root, key, value);
    }
    enum status status = arch_from_json(root, "config.json", arch, error);
    json_decref(root);
    json_decref(patch);
    return status;
}

static struct arch read_good(const char *base, const char *change)
{
    struct arch arch = {0};
    struct error error = {0};
    if (read_changed(base, change, &arch, &error))
        fail_msg("%s", error.text);
    return arch;
}

static void reads_llama(void **state)
{
    struct arch a = read_good(LLAMA, ROPE_5);
    assert_int_equal(a.kind, MODEL_LLAMA);
    assert_string_equal(a.name, "LlamaForCausalLM");
    assert_int_equal(a.n_layers, 2);
    assert_int_equal(a.hidden, 64);
    assert_int_equal(a.n_heads, 4);
    assert_int_equal(a.n_kv_heads, 2);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.intermediate, 96);
    assert_int_equal(a.n_experts, 0);
    assert_int_equal(a.top_k, 0);
    assert_int_equal(a.vocab, 320);
    assert_int_equal(a.context_tokens, 512);
    assert_true(a.rms_eps == 1e-5f && a.rope_theta == 50000.0f);
    assert_false(a.tied_embeddings);
    a = read_good(LLAMA, "\"head_dim\":20,\"num_key_value_heads\":\"REMOVE\"");
    assert_int_equal(a.head_dim, 20);
    assert_int_equal(a.n_kv_heads, 4);
}

static void reads_mixtral(void **state)
{
    struct arch a = read_good(MIXTRAL, "");
    assert_int_equal(a.kind, MODEL_MIXTRAL);
    assert_int_equal(a.n_experts, 8);
    assert_int_equal(a.top_k, 2);
    assert_int_equal(a.head_dim, 8);
    assert_true(a.tied_embeddings);
    assert_true(a.rope_theta == 1e6f && a.rms_eps == 1e-5f);
}

/* transformers 5, 4, what lies between, and the defaults. */
static void reads_every_rope_spelling(void **state)
{
    static const struct {
        const char *change;
        float theta;
    } table[] = {
        {"\"rope_theta\":7000", 7000},
        {"\"rope_theta\":7000.5,\"rope_scaling\":null", 7000.5f},
        {"\"rope_scaling\":{\"type\":\"default\"},\"rope_theta\":3000", 3000},
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":7000}", 7000},
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":7000},\"rope_theta\":7000",
         7000},
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":1.0}", 10000},
        {"\"rope_parameters\":null", 10000},
        {"", 10000},
    };
    for (size_t i = 0; i < array_count(table); i++)
        assert_true(read_good(LLAMA, table[i].change).rope_theta == table[i].theta);
}

#define LLAMA3_ROPE(factor, low, high, tokens)                                                     \
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":" factor ",\"low_freq_factor\":" low    \
    ",\"high_freq_factor\":" high ",\"original_max_position_embeddings\":" tokens "}"
#define MISTRAL                                                                                    \
    "\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\",\"hidden_size\":64,"    \
    "\"intermediate_size\":96,\"max_position_embeddings\":512,\"num_attention_heads\":4,"          \
    "\"num_hidden_layers\":2,\"num_key_value_heads\":2,\"vocab_size\":320"

static void reads_scaling_window_biases(void **state)
{
    struct arch a = read_good(LLAMA, LLAMA3_ROPE("8", "1", "4", "8192"));
    float plain[ARCH_HEAD_DIM_MAX / 2], scaled[ARCH_HEAD_DIM_MAX / 2];
    assert_int_equal(a.rope_scaling, ROPE_LLAMA3);
    assert_int_equal(a.rope_original_tokens, 8192);
    arch_inv_freq(&a, scaled);
    a.rope_scaling = ROPE_PLAIN;
    arch_inv_freq(&a, plain);
    uint32_t last = a.head_dim / 2 - 1; /* with base 1e4, 0.66 turns of the slowest pair or more */
    assert_true(scaled[0] == plain[0]);
    assert_true(scaled[last] <= plain[last] && scaled[last] >= plain[last] / 8);
    a = read_good(LLAMA, "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}");
    assert_int_equal(a.rope_scaling, ROPE_LINEAR);
    arch_inv_freq(&a, scaled);
    for (uint32_t i = 0; i <= last; i++)
        assert_true(scaled[i] == plain[i] / 2);
    assert_int_equal(read_good(MISTRAL, "\"sliding_window\":17").window_tokens, 17);
    assert_int_equal(read_good(MISTRAL, "\"sliding_window\":null").window_tokens, 0);
    assert_int_equal(read_good(MISTRAL, "\"hidden_act\":\"silu\"").window_tokens, 4096);
    assert_int_equal(read_good(MIXTRAL, "\"sliding_window\":99").window_tokens, 99);
    a = read_good(LLAMA, "\"attention_bias\":true");
    assert_true(a.qkv_bias && a.output_bias && !a.mlp_bias);
    assert_true(read_good(LLAMA, "\"mlp_bias\":true").mlp_bias);
}

static const struct {
    const char *base, *change;
    enum status status;
    const char *text;
} bad_configs[] = {
    {LLAMA, "\"architectures\":[\"Qwen2ForCausalLM\"]", STATUS_UNSUPPORTED,
     "architectures: \"Qwen2ForCausalLM\" is not supported"},
    {LLAMA, "\"architectures\":[]", STATUS_INVALID, "architectures: expected one string"},
    {LLAMA, "\"architectures\":[7]", STATUS_INVALID, "architectures: expected one string"},
    {LLAMA, "\"architectures\":\"LlamaForCausalLM\"", STATUS_INVALID,
     "architectures: expected an array"},
    {LLAMA, "\"architectures\":\"REMOVE\"", STATUS_INVALID,
     "architectures: expected an array, got nothing"},
    {LLAMA, "\"model_type\":\"mixtral\"", STATUS_INVALID,
     "model_type: expected \"llama\" with LlamaForCausalLM"},
    {LLAMA, "\"num_hidden_layers\":0", STATUS_INVALID,
     "num_hidden_layers: expected an integer 1..1024, got 0"},
    {LLAMA, "\"num_hidden_layers\":-2", STATUS_INVALID,
     "num_hidden_layers: expected an integer 1..1024, got -2"},
    {LLAMA, "\"num_hidden_layers\":1000000", STATUS_INVALID, "num_hidden_layers"},
    {LLAMA, "\"num_hidden_layers\":\"2\"", STATUS_INVALID,
     "num_hidden_layers: expected an integer 1..1024, got a string"},
    {LLAMA, "\"num_hidden_layers\":2.5", STATUS_INVALID, "num_hidden_layers"},
    {LLAMA, "\"num_hidden_layers\":\"REMOVE\"", STATUS_INVALID,
     "num_hidden_layers: expected an integer 1..1024, got nothing"},
    {LLAMA, "\"hidden_size\":0", STATUS_INVALID, "hidden_size"},
    {LLAMA, "\"hidden_size\":9223372036854775807", STATUS_INVALID,
     "hidden_size: expected an integer 1..131072, got 9223372036854775807"},
    {LLAMA, "\"hidden_size\":66", STATUS_INVALID,
     "hidden_size: expected a multiple of num_attention_heads 4 (head_dim is not given), got 66"},
    {LLAMA, "\"num_attention_heads\":0", STATUS_INVALID, "num_attention_heads"},
    {LLAMA, "\"num_key_value_heads\":3", STATUS_INVALID,
     "num_key_value_heads: expected a divisor of num_attention_heads 4, got 3"},
    {LLAMA, "\"num_key_value_heads\":8", STATUS_INVALID, "num_key_value_heads: expected a divisor"},
    {LLAMA, "\"num_key_value_heads\":0", STATUS_INVALID,
     "num_key_value_heads: expected an integer"},
    {LLAMA, "\"head_dim\":15", STATUS_INVALID, "head_dim: expected an even number 2..1024, got 15"},
    {LLAMA, "\"head_dim\":0", STATUS_INVALID, "head_dim: expected an integer 1..1024, got 0"},
    {LLAMA, "\"head_dim\":4096", STATUS_INVALID, "head_dim: expected an integer 1..1024, got 4096"},
    {LLAMA, "\"hidden_size\":131072", STATUS_INVALID,
     "head_dim: expected an even number 2..1024, got 32768"},
    {LLAMA, "\"intermediate_size\":-1", STATUS_INVALID, "intermediate_size"},
    {LLAMA, "\"vocab_size\":4294967295", STATUS_INVALID, "vocab_size"},
    {LLAMA, "\"max_position_embeddings\":0", STATUS_INVALID, "max_position_embeddings"},
    {LLAMA, "\"rms_norm_eps\":0", STATUS_INVALID, "rms_norm_eps: expected a number"},
    {LLAMA, "\"rms_norm_eps\":\"1e-5\"", STATUS_INVALID,
     "rms_norm_eps: expected a number, got a string"},
    {LLAMA, "\"rope_theta\":0.5", STATUS_INVALID,
     "rope_theta: expected a number 1..1e+12, got 0.5"},
    {LLAMA, "\"rope_theta\":-10000", STATUS_INVALID, "rope_theta"},
    {LLAMA, "\"rope_theta\":1e300", STATUS_INVALID, "rope_theta"},
    {LLAMA, "\"rope_theta\":5000," ROPE_5, STATUS_INVALID,
     "rope_theta: 5000 here and 50000 in rope_parameters"},
    {LLAMA, "\"rope_parameters\":[]", STATUS_INVALID, "rope_parameters: expected an object"},
    {LLAMA, "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":5e5}", STATUS_INVALID,
     "rope_parameters.factor: expected a number, got nothing"},
    {LLAMA, "\"rope_scaling\":{\"type\":\"linear\"}", STATUS_INVALID, "rope_scaling.factor"},
    {LLAMA, "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}", STATUS_INVALID,
     "rope_scaling.factor: expected a number 1.."},
    {LLAMA, "\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"llama3\",\"factor\":2}",
     STATUS_INVALID, "rope_scaling: rope_type \"llama3\" and type \"linear\""},
    {LLAMA, LLAMA3_ROPE("8", "4", "4", "8192"), STATUS_INVALID,
     "rope_scaling.high_freq_factor: expected more than low_freq_factor 4, got 4"},
    {LLAMA, LLAMA3_ROPE("8", "0", "4", "8192"), STATUS_INVALID, "rope_scaling.low_freq_factor"},
    {LLAMA, LLAMA3_ROPE("8", "1", "4", "0"), STATUS_INVALID,
     "rope_scaling.original_max_position_embeddings"},
    {LLAMA,
     LLAMA3_ROPE("8", "1", "4", "8192") ",\"rope_parameters\":{\"rope_type\":\"linear\","
                                        "\"factor\":2}",
     STATUS_INVALID, "rope_scaling: a second rope scaling"},
    {LLAMA, "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}}", STATUS_UNSUPPORTED,
     "rope_parameters.full_attention: a rotation for some layers"},
    {LLAMA, "\"rope_scaling\":{\"rope_type\":\"yarn\"}", STATUS_UNSUPPORTED,
     "rope_scaling.rope_type: \"yarn\""},
    {LLAMA, "\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}",
     STATUS_UNSUPPORTED, "rope_parameters.partial_rotary_factor: 0.5"},
    {LLAMA, "\"partial_rotary_factor\":0.25", STATUS_UNSUPPORTED,
     "partial_rotary_factor: 0.25 is not supported"},
    {LLAMA, "\"hidden_act\":\"gelu\"", STATUS_UNSUPPORTED,
     "hidden_act: \"gelu\" is not supported, expected \"silu\""},
    {MIXTRAL, "\"attention_bias\":true", STATUS_UNSUPPORTED,
     "attention_bias: true is not supported"},
    {LLAMA, "\"attention_bias\":1", STATUS_INVALID, "attention_bias: expected true or false"},
    {MISTRAL, "\"mlp_bias\":true", STATUS_UNSUPPORTED, "mlp_bias: true is not supported"},
    {LLAMA, "\"mlp_bias\":\"no\"", STATUS_INVALID, "mlp_bias: expected true or false"},
    {LLAMA, "\"sliding_window\":4096", STATUS_UNSUPPORTED,
     "sliding_window: an integer is not supported"},
    {MISTRAL, "\"sliding_window\":0", STATUS_INVALID, "sliding_window"},
    {MISTRAL, "\"sliding_window\":true", STATUS_INVALID, "sliding_window"},
    {MISTRAL, "\"model_type\":\"llama\"", STATUS_INVALID, "model_type: expected \"mistral\""},
    {LLAMA, "\"quantization_config\":{\"bits\":4}", STATUS_INVALID,
     "quantization_config.quant_method: expected a string, got nothing"},
    {LLAMA, "\"quantization_config\":{\"quant_method\":\"bitsandbytes\"}", STATUS_UNSUPPORTED,
     "quantization_config.quant_method: \"bitsandbytes\" is not supported"},
    {LLAMA, "\"tie_word_embeddings\":\"no\"", STATUS_INVALID,
     "tie_word_embeddings: expected true or false"},
    {MIXTRAL, "\"sliding_window\":-1", STATUS_INVALID, "sliding_window"},
    {MIXTRAL, "\"num_local_experts\":0", STATUS_INVALID, "num_local_experts"},
    {MIXTRAL, "\"num_local_experts\":5000", STATUS_INVALID, "num_local_experts"},
    {MIXTRAL, "\"num_experts_per_tok\":9", STATUS_INVALID,
     "num_experts_per_tok: expected 1..8 (of num_local_experts 8), got 9"},
    {MIXTRAL, "\"num_experts_per_tok\":0", STATUS_INVALID, "num_experts_per_tok"},
    {MIXTRAL, "\"num_local_experts\":200,\"num_experts_per_tok\":100", STATUS_INVALID,
     "num_experts_per_tok: expected 1..64"},
    {MIXTRAL, "\"num_key_value_heads\":\"REMOVE\"", STATUS_INVALID, "num_key_value_heads"},
};

static void refuses_bad_configs(void **state)
{
    for (size_t i = 0; i < array_count(bad_configs); i++) {
        struct arch arch = {.hidden = 99};
        struct error error = {0};
        enum status status =
            read_changed(bad_configs[i].base, bad_configs[i].change, &arch, &error);
        if (status != bad_configs[i].status || !strstr(error.text, bad_configs[i].text) ||
            strncmp(error.text, "config.json: ", 13) != 0)
            fail_msg("row %zu (\"%s\"): %s, %s", i, bad_configs[i].text, status_name(status),
                     error.text);
        assert_int_equal(arch.hidden, 99);
    }
}

static void frequencies(void **state)
{
    struct arch a = {.head_dim = 8, .rope_theta = 10000};
    float inv_freq[4];
    arch_inv_freq(&a, inv_freq);
    assert_true(inv_freq[0] == 1.0f);
    assert_true(fabsf(inv_freq[1] - 0.1f) < 1e-8f);
    assert_true(fabsf(inv_freq[3] - 0.001f) < 1e-10f);
}

struct gguf_change {
    const char *name; /* of the key to leave out of the good ones, or NULL */
    void (*add)(struct gguf_build *build);
};

static bool kept(const struct gguf_change *change, const char *name)
{
    return !change->name || strcmp(change->name, name) != 0;
}

static enum status read_gguf(const struct gguf_change *change, struct arch *arch,
                             struct error *error)
{
    static const struct {
        const char *name;
        uint32_t value;
    } counts[] = {
        {"llama.block_count", 2},           {"llama.embedding_length", 64},
        {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2},
        {"llama.feed_forward_length", 96},  {"llama.context_length", 512},
        {"llama.rope.dimension_count", 16}, {"llama.vocab_size", 320},
    };
    struct gguf_build b = {0};
    struct gguf gguf = {0};
    if (kept(change, "general.architecture"))
        build_string(&b, "general.architecture", "llama");
    for (size_t i = 0; i < array_count(counts); i++)
        if (kept(change, counts[i].name))
            build_u32(&b, counts[i].name, counts[i].value);
    if (kept(change, "llama.rope.freq_base"))
        build_f32(&b, "llama.rope.freq_base", 50000);
    if (kept(change, "llama.attention.layer_norm_rms_epsilon"))
        build_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (change->add)
        change->add(&b);
    struct bytes file = gguf_build_finish(&b);
    if (gguf_open((struct span){file.data, file.size}, "m.gguf", &gguf, error))
        fail_msg("%s", error->text);
    enum status status = arch_from_gguf(&gguf, arch, error);
    gguf_close(&gguf);
    free(file.data);
    return status;
}

static void add_mixture(struct gguf_build *b)
{
    build_u32(b, "llama.expert_count", 8);
    build_u32(b, "llama.expert_used_count", 2);
}
static void add_tokens(struct gguf_build *b)
{
    build_array(b, "tokenizer.ggml.tokens", GGUF_STRING, 2);
    bytes_string(&b->keys, "a");
    bytes_string(&b->keys, "b");
}
static void add_head(struct gguf_build *b)
{
    static const uint64_t dims[] = {64, 320};
    build_tensor(b, "output.weight", GGUF_TENSOR_F32, 2, dims, NULL, (size_t)64 * 320 * 4);
}

static void reads_gguf(void **state)
{
    struct arch a = {0};
    struct error error = {0};
    if (read_gguf(&(struct gguf_change){.add = add_head}, &a, &error))
        fail_msg("%s", error.text);
    assert_int_equal(a.kind, MODEL_LLAMA);
    assert_int_equal(a.n_layers, 2);
    assert_int_equal(a.hidden, 64);
    assert_int_equal(a.n_heads, 4);
    assert_int_equal(a.n_kv_heads, 2);
    assert_int_equal(a.head_dim, 16);
    assert_int_equal(a.intermediate, 96);
    assert_int_equal(a.vocab, 320);
    assert_int_equal(a.context_tokens, 512);
    assert_true(a.rope_theta == 50000.0f && a.rms_eps == 1e-5f);
    assert_false(a.tied_embeddings);
    assert_int_equal(read_gguf(&(struct gguf_change){.add = add_mixture}, &a, &error), STATUS_OK);
    assert_int_equal(a.kind, MODEL_MIXTRAL);
    assert_int_equal(a.n_experts * 10 + a.top_k, 82);
    assert_true(a.tied_embeddings);
    assert_int_equal(read_gguf(&(struct gguf_change){"llama.vocab_size", add_tokens}, &a, &error),
                     STATUS_OK);
    assert_int_equal(a.vocab, 2);
    assert_int_equal(read_gguf(&(struct gguf_change){"llama.rope.freq_base", NULL}, &a, &error),
                     STATUS_OK);
    assert_true(a.rope_theta == 10000.0f);
}

static void add_architecture(struct gguf_build *b)
{
    build_string(b, "general.architecture", "qwen2");
}
static void add_architecture_number(struct gguf_build *b)
{
    build_u32(b, "general.architecture", 1);
}
static void add_no_layers(struct gguf_build *b)
{
    build_u32(b, "llama.block_count", 0);
}
static void add_hidden_huge(struct gguf_build *b)
{
    build_u32(b, "llama.embedding_length", UINT32_MAX);
}
static void add_heads_text(struct gguf_build *b)
{
    build_string(b, "llama.attention.head_count", "4");
}
static void add_kv_heads_list(struct gguf_build *b)
{
    build_array(b, "llama.attention.head_count_kv", GGUF_U32, 1);
    bytes_u32(&b->keys, 2);
}
static void add_kv_heads_three(struct gguf_build *b)
{
    build_u32(b, "llama.attention.head_count_kv", 3);
}
static void add_rope_partial(struct gguf_build *b)
{
    build_u32(b, "llama.rope.dimension_count", 8);
}
static void add_rope_yarn(struct gguf_build *b)
{
    build_string(b, "llama.rope.scaling.type", "yarn");
}
static void add_rope_factor(struct gguf_build *b)
{
    build_f32(b, "llama.rope.scaling.factor", 0.25f);
}
static void add_rope_none(struct gguf_build *b)
{
    build_string(b, "llama.rope.scaling.type", "none");
    build_f32(b, "llama.rope.scaling.factor", 4);
}
static void add_theta(struct gguf_build *b)
{
    build_f32(b, "llama.rope.freq_base", -1);
}
static void add_eps(struct gguf_build *b)
{
    build_f32(b, "llama.attention.layer_norm_rms_epsilon", 2);
}
static void add_experts_huge(struct gguf_build *b)
{
    build_u32(b, "llama.expert_count", 100000);
}
static void add_experts_alone(struct gguf_build *b)
{
    build_u32(b, "llama.expert_count", 8);
}
static void add_experts_used(struct gguf_build *b)
{
    build_u32(b, "llama.expert_count", 8);
    build_u32(b, "llama.expert_used_count", 9);
}
static void add_value_length(struct gguf_build *b)
{
    build_u32(b, "llama.attention.value_length", 32);
}
static void add_window(struct gguf_build *b)
{
    build_u32(b, "llama.attention.sliding_window", UINT32_MAX);
}

static const struct {
    struct gguf_change change;
    enum status status;
    const char *text;
} bad_ggufs[] = {
    {{"general.architecture", NULL}, STATUS_INVALID, "key general.architecture is missing"},
    {{"general.architecture", add_architecture}, STATUS_UNSUPPORTED, "\"qwen2\" is not supported"},
    {{"general.architecture", add_architecture_number}, STATUS_INVALID, "expected string, got u32"},
    {{"llama.block_count", NULL}, STATUS_INVALID, "key llama.block_count is missing"},
    {{"llama.block_count", add_no_layers},
     STATUS_INVALID,
     "llama.block_count: expected 1..1024, got 0"},
    {{"llama.embedding_length", add_hidden_huge},
     STATUS_INVALID,
     "llama.embedding_length: expected 1..131072"},
    {{"llama.attention.head_count", add_heads_text},
     STATUS_INVALID,
     "llama.attention.head_count: expected an integer"},
    {{"llama.attention.head_count_kv", add_kv_heads_list}, STATUS_INVALID, "got an array of u32"},
    {{"llama.attention.head_count_kv", add_kv_heads_three},
     STATUS_INVALID,
     "expected a divisor of llama.attention.head_count 4, got 3"},
    {{"llama.vocab_size", NULL},
     STATUS_INVALID,
     "keys llama.vocab_size and tokenizer.ggml.tokens are missing"},
    {{"llama.rope.dimension_count", add_rope_partial},
     STATUS_UNSUPPORTED,
     "llama.rope.dimension_count"},
    {{NULL, add_rope_yarn},
     STATUS_UNSUPPORTED,
     "llama.rope.scaling.type: \"yarn\" is not supported"},
    {{NULL, add_rope_factor}, STATUS_INVALID, "llama.rope.scaling.factor: expected a number 1.."},
    {{NULL, add_rope_none}, STATUS_UNSUPPORTED, "llama.rope.scaling.factor"},
    {{"llama.rope.freq_base", add_theta},
     STATUS_INVALID,
     "llama.rope.freq_base: expected a number"},
    {{"llama.attention.layer_norm_rms_epsilon", add_eps},
     STATUS_INVALID,
     "layer_norm_rms_epsilon: expected a number"},
    {{"llama.attention.layer_norm_rms_epsilon", NULL},
     STATUS_INVALID,
     "layer_norm_rms_epsilon is missing"},
    {{NULL, add_experts_huge}, STATUS_INVALID, "llama.expert_count: expected 0..1024, got 100000"},
    {{NULL, add_experts_alone}, STATUS_INVALID, "key llama.expert_used_count is missing"},
    {{NULL, add_experts_used}, STATUS_INVALID, "llama.expert_used_count: expected 1..8"},
    {{NULL, add_value_length}, STATUS_UNSUPPORTED, "llama.attention.value_length"},
    {{NULL, add_window}, STATUS_INVALID, "llama.attention.sliding_window: expected 0.."},
};

static void refuses_bad_ggufs(void **state)
{
    for (size_t i = 0; i < array_count(bad_ggufs); i++) {
        struct arch arch = {.hidden = 99};
        struct error error = {0};
        enum status status = read_gguf(&bad_ggufs[i].change, &arch, &error);
        if (status != bad_ggufs[i].status || !strstr(error.text, bad_ggufs[i].text) ||
            strncmp(error.text, "m.gguf: ", 8) != 0)
            fail_msg("row %zu (\"%s\"): %s, %s", i, bad_ggufs[i].text, status_name(status),
                     error.text);
        assert_int_equal(arch.hidden, 99);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_scaling_window_biases),
        cmocka_unit_test(reads_llama),
        cmocka_unit_test(reads_mixtral),
        cmocka_unit_test(refuses_bad_configs),
        cmocka_unit_test(reads_every_rope_spelling),
        cmocka_unit_test(frequencies),
        cmocka_unit_test(reads_gguf),
        cmocka_unit_test(refuses_bad_ggufs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
