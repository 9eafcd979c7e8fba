/* Whole models from disk: what model_plan and model_open take and refuse, and that both containers
 * give the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/gguf.h"
#include "base/map_file.h"
#include "model/model.h"
#include "tests/unit/checkpoint.h"

static const struct model_options options = {
    .ops = &ops_ref,
    .device = {.threads_count = 1},
    .limits = {.slots_max = 2,
               .rows_max = 16,
               .tokens_max = 32,
               .open_tokens_max = 64,
               .context_tokens = 0,
               .block_tokens = 16,
               .blocks_count = 8},
};

static char directory[64], gguf_path[96];

static int directory_make(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/galerne_model_XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(gguf_path, sizeof gguf_path, "%s/model.gguf", directory);
    return 0;
}

static int directory_drop(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors", "model.gguf",
                                        "model.safetensors.index.json"};
    for (size_t i = 0; i < array_count(names); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(directory), 0);
    return 0;
}

static void gguf_write(struct gguf_build *build)
{
    struct bytes file = gguf_build_finish(build);
    cp_file_write(directory, "model.gguf", file.data, file.size);
    free(file.data);
}

/* Logits of every position of a fixed sequence: [16][CP_VOCAB], to be freed. */
static float *logits_of(const char *path)
{
    struct model *model = NULL;
    struct error error = {0};
    if (model_open(path, &options, NULL, &model, &error))
        fail_msg("%s", error.text);
    struct step *step = calloc(1, step_bytes_max(model_limits(model)));
    struct step_result *result = calloc(1, step_result_bytes_max(model_limits(model)));
    assert_true(step && result);
    step_begin(step, model_limits(model), 3, 1);
    step->n_opens = step->n_blocks = 1;
    step->n_tokens = step->n_rows = 16;
    step_opens(step)[0] = (struct step_open){.n_tokens = 16, .n_blocks = 1};
    step_blocks(step)[0] = 5;
    for (uint32_t i = 0; i < 16; i++) {
        step_tokens(step)[i] = i * 7 % CP_VOCAB;
        step_rows(step)[i] = (struct step_row){.first_position = i,
                                               .n_tokens = 1,
                                               .flags = STEP_ROW_SAMPLES,
                                               .mask_slot = STEP_MASK_NONE};
    }
    assert_int_equal(model_step(model, step, step->size_bytes, result), STATUS_OK);
    assert_int_equal(result->n_rows, 16);
    assert_int_equal(result->number * 10 + result->epoch, 13);
    uint32_t n_rows = 0;
    const float *logits = model_last_logits(model, &n_rows);
    assert_int_equal(n_rows, 16);
    float *copy = malloc(16 * CP_VOCAB * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, logits, 16 * CP_VOCAB * sizeof *copy);
    free(step);
    free(result);
    model_close(model);
    return copy;
}

static void twins_give_the_same_bits(bool mixture)
{
    struct checkpoint *cp = checkpoint_new(mixture);
    struct gguf_build build = {0};
    checkpoint_write(cp, directory);
    checkpoint_build_gguf(cp, &build);
    gguf_write(&build);
    float *a = logits_of(directory), *b = logits_of(gguf_path);
    assert_memory_equal(a, b, 16 * CP_VOCAB * sizeof *a);
    float least = a[0], most = a[0];
    for (uint32_t i = 0; i < 16 * CP_VOCAB; i++) {
        least = a[i] < least ? a[i] : least;
        most = a[i] > most ? a[i] : most;
    }
    assert_true(most - least > 1); /* something was computed */
    free(a);
    free(b);
    checkpoint_free(cp);
}

static void llama_twins(void **state)
{
    twins_give_the_same_bits(false);
}

static void mixtral_twins(void **state)
{
    twins_give_the_same_bits(true);
}

static void plans(void **state)
{
    struct checkpoint *cp = checkpoint_new(true);
    struct model_plan plan = {0}, again = {0};
    struct error error = {0};
    struct model_options none = {.ops = &ops_ref};
    checkpoint_write(cp, directory);
    if (model_plan(directory, &options, &plan, &error))
        fail_msg("%s", error.text);
    assert_int_equal(plan.arch.n_experts, CP_EXPERTS);
    assert_int_equal(plan.weights_dtype, DTYPE_F32);
    assert_int_equal(plan.weights_bytes % 4096, 0);
    assert_true(plan.weights_bytes >= 4 * 10000);
    assert_int_equal(plan.kv_block_bytes % (CP_LAYERS * CP_KV_HEADS * CP_HEAD_DIM * 2 * 16), 0);
    assert_true(plan.scratch_bytes > 0);
    assert_int_equal(model_plan(directory, &none, &again, &error), STATUS_OK);
    assert_int_equal(again.scratch_bytes, 0);
    assert_int_equal(again.kv_block_bytes, plan.kv_block_bytes);
    assert_memory_equal(plan.digest, again.digest, 32);
    /* Another value of a weight, another context: other revisions. */
    cp_find(cp, "model.norm.weight")->values[0] += 1;
    checkpoint_write(cp, directory);
    assert_int_equal(model_plan(directory, &options, &again, &error), STATUS_OK);
    assert_memory_not_equal(plan.digest, again.digest, 32);
    cp_find(cp, "model.norm.weight")->values[0] -= 1;
    cp->config_more = "\"comment\":1,";
    checkpoint_write(cp, directory);
    assert_int_equal(model_plan(directory, &options, &again, &error), STATUS_OK);
    assert_memory_not_equal(plan.digest, again.digest, 32);
    checkpoint_free(cp);
}

/* Changes of one tensor: what is said then. */
static void lose(struct checkpoint *cp, const char *name)
{
    struct cp_tensor *t = cp_find(cp, name);
    free(t->values);
    *t = cp->tensors[--cp->count];
    cp->tensors[cp->count].values = NULL;
}
static void spoil_missing(struct checkpoint *cp)
{
    lose(cp, "model.layers.1.self_attn.k_proj.weight");
}
static void spoil_missing_norm(struct checkpoint *cp)
{
    lose(cp, "model.norm.weight");
}
static void spoil_missing_head(struct checkpoint *cp)
{
    lose(cp, "lm_head.weight");
}
static void spoil_shape(struct checkpoint *cp)
{
    struct cp_tensor *t = cp_find(cp, "model.layers.0.mlp.down_proj.weight");
    t->dims[0] = CP_INTERMEDIATE;
    t->dims[1] = CP_HIDDEN;
}
static void spoil_rank(struct checkpoint *cp)
{
    struct cp_tensor *t = cp_find(cp, "model.layers.0.input_layernorm.weight");
    t->n_dims = 2;
    t->dims[1] = 1;
}
static void spoil_type(struct checkpoint *cp)
{
    snprintf(cp_find(cp, "model.embed_tokens.weight")->dtype, 8, "I64");
}
static void spoil_extra(struct checkpoint *cp)
{
    cp_add(cp, "model.layers.0.self_attn.q_proj.bias", 0, 24);
}
static void spoil_extra_layer(struct checkpoint *cp)
{
    cp_add_layer(cp, CP_LAYERS);
}
static void spoil_tied(struct checkpoint *cp)
{
    cp->config_more = "\"tie_word_embeddings\":true,";
}
static void spoil_window(struct checkpoint *cp)
{
    cp->config_more = "\"sliding_window\":128,";
}

static const struct {
    void (*spoil)(struct checkpoint *cp);
    enum status status;
    const char *text;
} bad_checkpoints[] = {
    {spoil_missing, STATUS_INVALID,
     "model.safetensors: tensor model.layers.1.self_attn.k_proj.weight is missing, expected F32, "
     "F16 or BF16 [12, 16]"},
    {spoil_missing_norm, STATUS_INVALID, "tensor model.norm.weight is missing"},
    {spoil_missing_head, STATUS_INVALID, "tensor lm_head.weight is missing"},
    {spoil_shape, STATUS_INVALID,
     "tensor model.layers.0.mlp.down_proj.weight: expected F32, F16 or BF16 [16, 24], got F32 "
     "[24, 16]"},
    {spoil_rank, STATUS_INVALID, "expected F32, F16 or BF16 [16], got F32 [16, 1]"},
    {spoil_type, STATUS_UNSUPPORTED,
     "tensor model.embed_tokens.weight: expected F32, F16 or BF16 [40, 16], got I64 [40, 16]"},
    {spoil_extra, STATUS_INVALID,
     "1 tensors that the architecture LlamaForCausalLM does not have: "
     "model.layers.0.self_attn.q_proj.bias"},
    {spoil_extra_layer, STATUS_INVALID, "9 tensors that the architecture LlamaForCausalLM does"},
    {spoil_tied, STATUS_INVALID, "does not have: lm_head.weight"},
    {spoil_window, STATUS_UNSUPPORTED, "config.json: sliding_window"},
};

static void refuses_bad_checkpoints(void **state)
{
    for (size_t i = 0; i < array_count(bad_checkpoints); i++) {
        struct checkpoint *cp = checkpoint_new(false);
        struct model_plan plan = {0};
        struct model *model = NULL;
        struct error error = {0};
        bad_checkpoints[i].spoil(cp);
        checkpoint_write(cp, directory);
        checkpoint_free(cp);
        enum status status = model_plan(directory, &options, &plan, &error);
        if (status != bad_checkpoints[i].status || !strstr(error.text, bad_checkpoints[i].text))
            fail_msg("row %zu: %s, %s", i, status_name(status), error.text);
        assert_true(strncmp(error.text, directory, strlen(directory)) == 0);
        assert_int_equal(model_open(directory, &options, NULL, &model, &error), status);
        assert_null(model);
    }
}

static void takes_harmless_buffers(void **state)
{
    struct checkpoint *cp = checkpoint_new(false);
    struct model_plan plan = {0};
    struct error error = {0};
    cp_add(cp, "model.layers.0.self_attn.rotary_emb.inv_freq", 0, 3);
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    if (model_plan(directory, &options, &plan, &error))
        fail_msg("%s", error.text);
}

static void add_rope_freqs(struct gguf_build *b)
{
    static const uint64_t dims[] = {3};
    build_tensor(b, "rope_freqs.weight", GGUF_TENSOR_F32, 1, dims, NULL, 12);
}
static void add_foreign(struct gguf_build *b)
{
    static const uint64_t dims[] = {256, 2};
    build_tensor(b, "v.patch_embd.weight", 14, 2, dims, NULL, 420);
}
static void add_separate_expert(struct gguf_build *b)
{
    static const uint64_t dims[] = {CP_HIDDEN, CP_INTERMEDIATE};
    build_tensor(b, "blk.0.ffn_gate.0.weight", GGUF_TENSOR_F32, 2, dims, NULL,
                 (size_t)CP_HIDDEN * CP_INTERMEDIATE * 4);
}

static void refuses_bad_ggufs(void **state)
{
    static const struct {
        void (*add)(struct gguf_build *build);
        enum status status;
        const char *text;
    } table[] = {
        {add_rope_freqs, STATUS_INVALID,
         "tensor rope_freqs.weight: expected positive numbers, got 0"},
        {add_foreign, STATUS_INVALID, "does not have: v.patch_embd.weight"},
        {add_separate_expert, STATUS_INVALID, "does not have: blk.0.ffn_gate.0.weight"},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        struct checkpoint *cp = checkpoint_new(true);
        struct gguf_build build = {0};
        struct model_plan plan = {0};
        struct error error = {0};
        checkpoint_build_gguf(cp, &build);
        table[i].add(&build);
        gguf_write(&build);
        checkpoint_free(cp);
        enum status status = model_plan(gguf_path, &options, &plan, &error);
        if (status != table[i].status || !strstr(error.text, table[i].text))
            fail_msg("row %zu: %s, %s", i, status_name(status), error.text);
    }
}

/* A known type that we do not compute with, where a weight should be. */
static void refuses_unsupported_gguf_types(void **state)
{
    struct checkpoint *cp = checkpoint_new(false);
    struct gguf_build build = {0};
    struct model_plan plan = {0};
    struct error error = {0};
    static const uint64_t dims[] = {CP_HIDDEN, CP_VOCAB};
    cp_gguf_keys(cp, &build);
    build_tensor(&build, "token_embd.weight", 26, 2, dims, NULL, (size_t)CP_HIDDEN * CP_VOCAB * 4);
    gguf_write(&build);
    checkpoint_free(cp);
    assert_int_equal(model_plan(gguf_path, &options, &plan, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "tensor token_embd.weight: expected F32, F16, BF16, Q8_0, "
                                       "Q4_0 or Q4_1 [40, 16], got I32 [40, 16]"));
}

static void refuses_wrong_paths(void **state)
{
    struct model_plan plan = {0};
    struct error error = {0};
    struct checkpoint *cp = checkpoint_new(false);
    char path[128];
    assert_int_equal(model_plan("/nonexistent/model", &options, &plan, &error), STATUS_NOT_FOUND);
    assert_string_equal(error.text, "/nonexistent/model: No such file or directory");
    assert_int_equal(model_plan(directory, &options, &plan, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "config.json: No such file"));
    cp_config_write(cp, directory);
    assert_int_equal(model_plan(directory, &options, &plan, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "model.safetensors: No such file"));
    cp_file_write(directory, "model.safetensors.index.json", "{}", 2);
    assert_int_equal(model_plan(directory, &options, &plan, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "index.json: weight_map: expected an object"));
    cp_file_write(directory, "model.safetensors", "", 0);
    assert_int_equal(model_plan(directory, &options, &plan, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "the file is empty"));
    snprintf(path, sizeof path, "%s/config.json", directory);
    assert_int_equal(model_plan(path, &options, &plan, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "expected a GGUF file, or the directory"));
    checkpoint_free(cp);
}

static void refuses_wrong_limits(void **state)
{
    struct checkpoint *cp = checkpoint_new(false);
    struct model_options wrong = options;
    struct model_plan plan = {0};
    struct model *model = NULL;
    struct error error = {0};
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    wrong.limits.context_tokens = 65;
    assert_int_equal(model_open(directory, &wrong, NULL, &model, &error), STATUS_INVALID);
    assert_string_equal(error.text, "context of 65 tokens, expected at most the model's 64");
    assert_int_equal(model_plan(directory, &wrong, &plan, &error), STATUS_INVALID);
    wrong = options;
    wrong.limits.rows_max = 0;
    assert_int_equal(model_open(directory, &wrong, NULL, &model, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "rows_max"));
    wrong = options;
    wrong.device.tier = "nonsense";
    wrong.ops = &ops_cpu;
    assert_int_equal(model_open(directory, &wrong, NULL, &model, &error), STATUS_UNSUPPORTED);
    assert_null(model);
}

/* A number that is none is told with the tensor's name, whatever the role and the container. */
static void refuses_numbers_that_are_none(void **state)
{
    static const struct {
        const char *tensor, *in_gguf;
        uint32_t at;
        float value;
    } table[] = {
        {"model.embed_tokens.weight", "token_embd.weight", 17, __builtin_nanf("")},
        {"lm_head.weight", "output.weight", CP_VOCAB * CP_HIDDEN - 1, __builtin_inff()},
        {"model.norm.weight", "output_norm.weight", 3, -__builtin_inff()},
        {"model.layers.1.self_attn.v_proj.weight", "blk.1.attn_v.weight", 0, __builtin_nanf("")},
        {"model.layers.0.block_sparse_moe.gate.weight", "blk.0.ffn_gate_inp.weight", 5,
         __builtin_inff()},
        {"model.layers.1.block_sparse_moe.experts.2.w3.weight", "blk.1.ffn_up_exps.weight", 8,
         __builtin_nanf("")},
        {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", 15, __builtin_nanf("")},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        struct checkpoint *cp = checkpoint_new(true);
        struct gguf_build build = {0};
        cp_find(cp, table[i].tensor)->values[table[i].at] = table[i].value;
        checkpoint_write(cp, directory);
        checkpoint_build_gguf(cp, &build);
        gguf_write(&build);
        for (int gguf = 0; gguf < 2; gguf++) {
            struct model *model = NULL;
            struct error error = {0};
            const char *path = gguf ? gguf_path : directory;
            assert_int_equal(model_open(path, &options, NULL, &model, &error), STATUS_INVALID);
            assert_null(model);
            assert_non_null(strstr(error.text, gguf ? table[i].in_gguf : table[i].tensor));
            assert_non_null(strstr(error.text, "not a finite number"));
            assert_non_null(strstr(error.text, directory));
        }
        checkpoint_free(cp);
    }
}

/* A 16-bit word with all bits of the exponent set, and where it goes: the last value of a tensor,
 * or the scale (of Q4_1: the minimum) of its last block. */
static size_t infinity_put(const struct gguf_tensor *tensor, uint8_t *data)
{
    static const struct {
        uint32_t type, values, bytes, at; /* of a block */
        uint16_t word;
    } table[] = {
        {GGUF_TENSOR_F32, 1, 4, 2, 0x7f80},    {GGUF_TENSOR_F16, 1, 2, 0, 0x7c00},
        {GGUF_TENSOR_BF16, 1, 2, 0, 0xff80},   {GGUF_TENSOR_Q8_0, 32, 34, 0, 0x7c00},
        {GGUF_TENSOR_Q4_0, 32, 18, 0, 0xfe01}, {GGUF_TENSOR_Q4_1, 32, 20, 2, 0x7c00},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        size_t block = tensor->size_bytes / table[i].bytes - 1;
        if (table[i].type != tensor->type)
            continue;
        memcpy(data + block * table[i].bytes + table[i].at, &table[i].word, 2);
        return block * table[i].values;
    }
    fail_msg("type %u", tensor->type);
    return 0;
}

/* Every tensor of a file that has all types: by its name, and where in it. */
static void not_finite_in_every_type(void **state)
{
    struct map_file map = {0};
    struct gguf gguf = {0};
    struct error error = {0};
    uint64_t types = 0;
    if (map_file_open(getenv("GALERNE_TEST_MIXED"), SIZE_MAX, &map, &error))
        fail_msg("%s", error.text);
    const struct span bytes = {(const char *)map.data, map.size_bytes};
    assert_int_equal(gguf_open(bytes, "mixed", &gguf, &error), STATUS_OK);
    uint8_t *copy = malloc(map.size_bytes);
    assert_non_null(copy);
    for (uint32_t i = 0; i < gguf.tensors_count; i++) {
        const struct gguf_tensor *tensor = &gguf.tensors[i];
        struct model *model = NULL;
        char words[256];
        memcpy(copy, map.data, map.size_bytes);
        size_t at = infinity_put(tensor, copy + (tensor->data - map.data));
        cp_file_write(directory, "model.gguf", copy, map.size_bytes);
        types |= 1ull << tensor->type;
        struct model_options wide = options;
        wide.limits.open_tokens_max = 1024;
        assert_int_equal(model_open(gguf_path, &wide, NULL, &model, &error), STATUS_INVALID);
        snprintf(words, sizeof words, "tensor %.*s: value %zu is not a finite number",
                 (int)tensor->name.size_bytes, tensor->name.data, at);
        if (!strstr(error.text, words))
            fail_msg("expected \"%s\" in: %s", words, error.text);
    }
    assert_int_equal(__builtin_popcountll(types), 6);
    free(copy);
    gguf_close(&gguf);
    map_file_close(&map);
}

static void progress_note(void *context, enum model_stage stage, uint32_t percent)
{
    assert_int_equal(stage, MODEL_LOADING);
    uint32_t *last = context;
    assert_true(percent > *last && percent <= 100);
    *last = percent;
}

/* Steps that must not run: the model says why and goes on as if nothing had come. */
static void refuses_bad_steps(void **state)
{
    struct checkpoint *cp = checkpoint_new(false);
    struct model *model = NULL;
    struct error error = {0};
    uint32_t percent = 0;
    struct model_progress progress = {.report = progress_note, .context = &percent};
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    if (model_open(directory, &options, &progress, &model, &error))
        fail_msg("%s", error.text);
    assert_int_equal(percent, 100);
    assert_int_equal(model_limits(model)->context_tokens, 64);
    assert_true(model_decode_bytes(model) > 0);
    assert_non_null(model_device_text(model));
    struct step *step = calloc(1, step_bytes_max(model_limits(model)));
    struct step_result *result = calloc(1, step_result_bytes_max(model_limits(model)));
    assert_true(step && result);
    for (uint64_t number = 1; number <= 4; number++) {
        step_begin(step, model_limits(model), 9, number);
        step->n_opens = step->n_tokens = step->n_rows = step->n_blocks = 1;
        step_opens(step)[0] = (struct step_open){.slot = 1, .n_tokens = 1, .n_blocks = 1};
        step_rows(step)[0] = (struct step_row){
            .slot = 1, .n_tokens = 1, .flags = STEP_ROW_SAMPLES, .mask_slot = STEP_MASK_NONE};
        step_blocks(step)[0] = 0;
        step_tokens(step)[0] = number == 1 ? CP_VOCAB : 3; /* 1: an id out of range */
        if (number == 2)
            step->version = 7; /* 2: another version */
        if (number == 4)
            model_reset(model); /* 4: as 3 again, after everything was forgotten */
        enum status status = model_step(model, step, step->size_bytes, result);
        assert_int_equal(status, number <= 2 ? STATUS_INVALID : STATUS_OK);
        assert_int_equal(result->status, status);
        assert_int_equal(result->number, number);
        assert_int_equal(result->epoch, 9);
        assert_int_equal(result->n_rows, status ? 0 : 1);
        assert_int_equal(strlen(result->error_text) > 0, status != STATUS_OK);
    }
    assert_int_equal(model_step(model, step, step->size_bytes, result), STATUS_INVALID);
    assert_string_equal(result->error_text, "step 4: open 0: slot 1 is open already");
    assert_int_equal(model_step(model, step, 3, result), STATUS_INVALID);
    /* A step of closes alone runs nothing. */
    step_begin(step, model_limits(model), 9, 5);
    step->n_closes = 1;
    step_closes(step)[0] = 1;
    assert_int_equal(model_step(model, step, step->size_bytes, result), STATUS_OK);
    assert_int_equal(result->n_rows, 0);
    free(step);
    free(result);
    model_close(model);
    model_close(NULL);
}

int main(void)
{
#define FILES_TEST(f) cmocka_unit_test_setup_teardown(f, directory_make, directory_drop)
    const struct CMUnitTest tests[] = {
        FILES_TEST(llama_twins),
        FILES_TEST(mixtral_twins),
        FILES_TEST(plans),
        FILES_TEST(refuses_bad_checkpoints),
        FILES_TEST(takes_harmless_buffers),
        FILES_TEST(refuses_bad_ggufs),
        FILES_TEST(refuses_unsupported_gguf_types),
        FILES_TEST(refuses_wrong_paths),
        FILES_TEST(refuses_wrong_limits),
        FILES_TEST(refuses_numbers_that_are_none),
        FILES_TEST(not_finite_in_every_type),
        FILES_TEST(refuses_bad_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
