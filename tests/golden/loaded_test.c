/*
 * loaded: a checkpoint quantised while it loads computes the same bits as a GGUF file that the
 * `gguf` package has quantised the same way (loaded.py): on `ref` and on the best tier of this CPU,
 * over the golden prompt and its continuation.
 *
 *     loaded_test FOLDER q8|q4      FOLDER has config.json, model.safetensors, loaded-KIND.gguf
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json_read.h"
#include "tests/golden/drive.h"

#define TOKENS_MAX 256

static const char *folder, *kind;
static uint32_t tokens[TOKENS_MAX], n_tokens;

static const struct step_limits plain = {
    .slots_max = 2,
    .rows_max = 128,
    .tokens_max = 128,
    .open_tokens_max = 256,
    .context_tokens = 256,
    .block_tokens = 16,
    .blocks_count = 40,
};

static int tokens_read(void **state)
{
    const struct json_limits json_limits = {.max_bytes = 1 << 20, .values_max = 100000};
    static const char *const fields[] = {"prompt", "greedy"};
    struct error error = {0};
    char path[1024];
    json_t *root = NULL;
    snprintf(path, sizeof path, "%s/golden.json", folder);
    if (json_read_file(path, &json_limits, &root, &error))
        fail_msg("%s", error.text);
    for (size_t f = 0; f < array_count(fields); f++) {
        const json_t *list = json_object_get(root, fields[f]);
        for (size_t i = 0; i < json_array_size(list) && n_tokens < plain.rows_max; i++)
            tokens[n_tokens++] = (uint32_t)json_integer_value(json_array_get(list, i));
    }
    json_decref(root);
    assert_true(n_tokens > 100);
    return 0;
}

/* Logits of every position: [n_tokens][*ret_vocab], to be freed. */
static float *logits_of(const char *path, const struct step_limits *limits, const struct ops *ops,
                        uint32_t *ret_vocab, uint64_t *ret_bytes)
{
    struct drive_backend backend = {.ops = ops, .threads_count = 2};
    struct drive drive;
    struct error error = {0};
    if (drive_open(&drive, path, &backend, limits, &error))
        fail_msg("%s", error.text);
    const struct model_plan *plan = model_info(drive.model);
    uint32_t vocab = plan->arch.vocab;
    assert_true(dtype_has_blocks(plan->weights_dtype));
    drive_slot_open(&drive, 0, tokens, n_tokens, NULL);
    for (uint32_t i = 0; i < n_tokens; i++)
        drive_row(&drive, 0, 1, STEP_HISTORY, true);
    assert_int_equal(drive_run(&drive)->n_rows, n_tokens);
    float *logits = malloc((size_t)n_tokens * vocab * sizeof *logits);
    assert_non_null(logits);
    for (uint32_t i = 0; i < n_tokens; i++)
        memcpy(logits + (size_t)i * vocab, drive_logits(&drive, i), vocab * sizeof *logits);
    *ret_vocab = vocab;
    *ret_bytes = plan->weights_bytes;
    drive_close(&drive);
    return logits;
}

static void compare(const struct ops *ops)
{
    struct step_limits limits = plain;
    char path[1024];
    uint32_t vocab[2];
    uint64_t bytes[2];
    limits.quantise = strcmp(kind, "q8") == 0 ? DTYPE_Q8_0 : DTYPE_Q4_0;
    float *loaded = logits_of(folder, &limits, ops, &vocab[0], &bytes[0]);
    snprintf(path, sizeof path, "%s/loaded-%s.gguf", folder, kind);
    float *file = logits_of(path, &plain, ops, &vocab[1], &bytes[1]);
    assert_int_equal(vocab[0], vocab[1]);
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(loaded, file, (size_t)n_tokens * vocab[0] * sizeof *file);
    free(loaded);
    free(file);
}

static void same_bits_on_ref(void **state)
{
    compare(&ops_ref);
}

static void same_bits_on_cpu(void **state)
{
    compare(&ops_cpu);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_on_ref),
        cmocka_unit_test(same_bits_on_cpu),
    };
    if (argc != 3 || (strcmp(argv[2], "q8") != 0 && strcmp(argv[2], "q4") != 0)) {
        fprintf(stderr, "usage: loaded_test FOLDER q8|q4\n");
        return 64;
    }
    folder = argv[1];
    kind = argv[2];
    return cmocka_run_group_tests(tests, tokens_read, NULL);
}
