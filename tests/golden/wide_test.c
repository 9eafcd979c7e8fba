/*
 * wide: a vocabulary of 131,072 against what `transformers` computed.
 *
 * The weights come from a formula (wide.py has the same), so that only golden.json is kept: prompt,
 * greedy continuation, and for every position the 8 best logits and 8 others. The checkpoint is
 * written to a directory of its own first.
 *
 *     wide_test GOLDEN.json
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "base/json_read.h"
#include "tests/golden/drive.h"

#define TOLERANCE 1e-3
#define VOCAB 131072
#define TOKENS_MAX 256
#define LAYER "model.layers.0."

static const struct {
    const char *name;
    uint32_t rows, columns; /* rows 0: a norm */
    float gain;
} tensors[] = {
    {"model.embed_tokens.weight", VOCAB, 16, 1},
    {"model.norm.weight", 0, 16, 0},
    {LAYER "input_layernorm.weight", 0, 16, 0},
    {LAYER "self_attn.q_proj.weight", 24, 16, 2},
    {LAYER "self_attn.k_proj.weight", 12, 16, 2},
    {LAYER "self_attn.v_proj.weight", 12, 16, 2},
    {LAYER "self_attn.o_proj.weight", 16, 24, 2},
    {LAYER "post_attention_layernorm.weight", 0, 16, 0},
    {LAYER "mlp.gate_proj.weight", 24, 16, 2},
    {LAYER "mlp.up_proj.weight", 24, 16, 2},
    {LAYER "mlp.down_proj.weight", 16, 24, 2},
};

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":16,\"intermediate_size\":24,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":12,"
    "\"vocab_size\":131072,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,"
    "\"rope_theta\":1e4,\"tie_word_embeddings\":true}";

static struct {
    char directory[64], config[96], weights[96];
    uint64_t seed;
    uint32_t tokens[TOKENS_MAX]; /* prompt, then the greedy continuation */
    uint32_t n_prompt, n_tokens;
    json_t *root;
    const json_t *rows;
} golden;

static uint64_t splitmix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static void tensor_write(FILE *out, uint64_t number)
{
    uint64_t count =
        (uint64_t)(tensors[number].rows ? tensors[number].rows : 1) * tensors[number].columns;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t top = splitmix64((golden.seed << 48 | number << 32) + i) >> 40;
        float unit = (float)top / (float)(1 << 23) - 1;
        float gain = tensors[number].gain;
        float value = gain > 0 ? unit * gain : 1 + unit * 0.25f;
        assert_int_equal(fwrite(&value, sizeof value, 1, out), 1);
    }
}

static void checkpoint_write(void)
{
    char header[4096];
    size_t n = 0, at = 0;
    for (size_t t = 0; t < array_count(tensors); t++) {
        uint32_t rows = tensors[t].rows, columns = tensors[t].columns;
        size_t bytes = (size_t)(rows ? rows : 1) * columns * sizeof(float);
        char shape[32];
        snprintf(shape, sizeof shape, rows ? "%u,%u" : "%.0u%u", rows, columns);
        n += (size_t)snprintf(header + n, sizeof header - n,
                              "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,"
                              "%zu]}",
                              t ? ',' : '{', tensors[t].name, shape, at, at + bytes);
        at += bytes;
    }
    header[n++] = '}';
    while (n % 8)
        header[n++] = ' ';
    uint64_t length = n;
    FILE *out = fopen(golden.weights, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(&length, sizeof length, 1, out), 1);
    assert_int_equal(fwrite(header, n, 1, out), 1);
    for (uint64_t t = 0; t < array_count(tensors); t++)
        tensor_write(out, t);
    assert_int_equal(fclose(out), 0);
    out = fopen(golden.config, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(config, sizeof config - 1, 1, out), 1);
    assert_int_equal(fclose(out), 0);
}

static int golden_open(void **state)
{
    snprintf(golden.directory, sizeof golden.directory, "/tmp/galerne_wide_XXXXXX");
    assert_non_null(mkdtemp(golden.directory));
    snprintf(golden.config, sizeof golden.config, "%s/config.json", golden.directory);
    snprintf(golden.weights, sizeof golden.weights, "%s/model.safetensors", golden.directory);
    golden.seed = (uint64_t)json_integer_value(json_object_get(golden.root, "seed"));
    golden.rows = json_object_get(golden.root, "rows");
    static const char *const lists[] = {"prompt", "greedy"};
    for (size_t l = 0; l < 2; l++) {
        const json_t *list = json_object_get(golden.root, lists[l]);
        golden.n_prompt = golden.n_tokens;
        assert_true(golden.n_tokens + json_array_size(list) <= TOKENS_MAX);
        for (size_t i = 0; i < json_array_size(list); i++)
            golden.tokens[golden.n_tokens++] =
                (uint32_t)json_integer_value(json_array_get(list, i));
    }
    assert_true(golden.n_tokens - golden.n_prompt >= 64);
    assert_int_equal(json_array_size(golden.rows), golden.n_tokens);
    checkpoint_write();
    return 0;
}

static int golden_close(void **state)
{
    unlink(golden.config);
    unlink(golden.weights);
    return rmdir(golden.directory);
}

static double row_compare(struct drive *drive, uint32_t position)
{
    const float *ours = drive_logits(drive, 0);
    const json_t *row = json_array_get(golden.rows, position);
    double worst = 0;
    assert_true(json_array_size(row) >= 16);
    for (size_t i = 0; i < json_array_size(row); i++) {
        const json_t *pair = json_array_get(row, i);
        json_int_t id = json_integer_value(json_array_get(pair, 0));
        double theirs = json_real_value(json_array_get(pair, 1));
        double difference = fabs((double)ours[id] - theirs);
        if (!(difference <= TOLERANCE))
            fail_msg("position %u, token %d: logit %.6f, expected %.6f", position, (int)id,
                     (double)ours[id], theirs);
        worst = fmax(worst, difference);
    }
    return worst;
}

/* The prompt in chunks with its last position seen, then one token at a time. */
static double generate(struct drive *drive, uint32_t chunk_tokens)
{
    double worst = 0;
    drive_slot_open(drive, 0, golden.tokens, golden.n_prompt, NULL);
    for (uint32_t done = 0; done < golden.n_prompt;) {
        uint32_t n = u32_min(chunk_tokens, golden.n_prompt - done);
        done += n;
        drive_row(drive, 0, n, STEP_HISTORY, true);
        const struct step_result *result = drive_run(drive);
        worst = fmax(worst, row_compare(drive, done - 1));
        if (done == golden.n_prompt)
            assert_int_equal(result->rows[0].sample.id, golden.tokens[done]);
    }
    for (uint32_t i = golden.n_prompt + 1; i < golden.n_tokens; i++) {
        drive_row(drive, 0, 1, STEP_LAST_SAMPLED, true);
        const struct step_result *result = drive_run(drive);
        worst = fmax(worst, row_compare(drive, i - 1));
        if (result->rows[0].sample.id != golden.tokens[i])
            fail_msg("token %u: %u, expected %u", i, result->rows[0].sample.id, golden.tokens[i]);
    }
    drive_slot_close(drive, 0);
    drive_run(drive);
    return worst;
}

static void test_tier(void **state)
{
    static const struct step_limits limits = {.slots_max = 1,
                                              .rows_max = 2,
                                              .tokens_max = 64,
                                              .open_tokens_max = 256,
                                              .context_tokens = 256,
                                              .block_tokens = 16,
                                              .blocks_count = 20};
    static const uint32_t chunks[] = {64, 7, 1};
    struct drive drive;
    struct error error = {.text = ""};
    enum status status = drive_open(&drive, golden.directory, *state, &limits, &error);
    if (status == STATUS_UNSUPPORTED && strstr(error.text, "not supported by this CPU")) {
        print_message("skipped: %s\n", error.text);
        skip();
    }
    if (status)
        fail_msg("%s", error.text);
    double worst = 0;
    for (size_t i = 0; i < array_count(chunks); i++)
        worst = fmax(worst, generate(&drive, chunks[i]));
    print_message("%s: largest difference %.2e\n", model_device_text(drive.model), worst);
    drive_close(&drive);
}

int main(int argc, char **argv)
{
    static struct drive_backend ref = {.ops = &ops_ref, .threads_count = 1};
    static struct drive_backend scalar = {.ops = &ops_cpu, .tier = "scalar", .threads_count = 2};
    static struct drive_backend avx512 = {.ops = &ops_cpu, .tier = "avx512", .threads_count = 2};
    static struct drive_backend vnni = {.ops = &ops_cpu, .tier = "avx512-vnni", .threads_count = 2};
    const struct CMUnitTest tests[] = {
        {.name = "ref", .test_func = test_tier, .initial_state = &ref},
        {.name = "scalar", .test_func = test_tier, .initial_state = &scalar},
        {.name = "avx512", .test_func = test_tier, .initial_state = &avx512},
        {.name = "avx512-vnni", .test_func = test_tier, .initial_state = &vnni},
    };
    json_error_t cause;
    if (argc != 2) {
        fprintf(stderr, "usage: wide_test GOLDEN.json\n");
        return 2;
    }
    golden.root = json_load_file(argv[1], 0, &cause);
    if (!golden.root) {
        fprintf(stderr, "%s: %s\n", argv[1], cause.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, golden_open, golden_close);
    json_decref(golden.root);
    return failed;
}
