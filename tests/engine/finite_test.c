/*
 * Numbers that overflow end their own request and no other. The checkpoint's weights are changed so
 * that one token alone, POISON, makes infinities in the first layer: a dimension that only its
 * embedding has meets huge weights. All weights are finite.
 *
 *     finite_test MODEL_DIRECTORY     F32, one file, its own head
 *
 * The CPU tier is what GALERNE_CPU_TIER names; exit code 77: this CPU lacks it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/map_file.h"
#include "model/safetensors.h"
#include "tests/engine/harness.h"

#define POISON 200u
#define HUGE_WEIGHT 3e38f
#define GOOD 6
#define OUTPUT 24
#define PROMPT 20
#define MINUTE (60 * NS_PER_S)

static const char *source;
static char directory[64];

/* The good ones never choose it, a bad one has to. */
static const struct sample_entry never = {.id = POISON, .value = -1000};
static const struct sample_entry always = {.id = POISON, .value = 1000};

struct answer {
    uint32_t n_tokens;
    struct request_token tokens[OUTPUT];
};

/* ---- the model ---- */

static bool name_has(const struct tensor *tensor, const char *part)
{
    return memmem(tensor->name.data, tensor->name.size_bytes, part, strlen(part)) != NULL;
}

static void tensor_poison(const struct tensor *tensor, float *values)
{
    uint64_t rows = tensor->dims[0], columns = tensor->dims[1];
    bool is_first = name_has(tensor, "layers.0.");
    if (tensor->n_dims != 2)
        return;
    if (name_has(tensor, "embed_tokens"))
        for (uint64_t row = 0; row < rows; row++)
            values[row * columns] = row == POISON ? 1 : 0;
    if (name_has(tensor, "o_proj") || name_has(tensor, "down_proj") || name_has(tensor, ".w2."))
        memset(values, 0, columns * sizeof *values); /* nobody else gets the dimension */
    if (is_first && (name_has(tensor, "up_proj") || name_has(tensor, ".w3.")))
        values[0] = HUGE_WEIGHT;
    if (is_first && (name_has(tensor, "gate_proj") || name_has(tensor, ".w1.")))
        values[0] = 50;
}

static void file_copy(const char *name, void (*change)(uint8_t *bytes, size_t size))
{
    struct map_file map = {0};
    char from[1024], to[128];
    struct error error;
    snprintf(from, sizeof from, "%s/%s", source, name);
    snprintf(to, sizeof to, "%s/%s", directory, name);
    if (map_file_open(from, SIZE_MAX, &map, &error))
        fail_msg("%s", error.text);
    uint8_t *bytes = malloc(map.size_bytes);
    FILE *file = fopen(to, "wb");
    assert_true(bytes && file);
    memcpy(bytes, map.data, map.size_bytes);
    if (change)
        change(bytes, map.size_bytes);
    assert_int_equal(fwrite(bytes, 1, map.size_bytes, file), map.size_bytes);
    assert_int_equal(fclose(file), 0);
    free(bytes);
    map_file_close(&map);
}

static void weights_poison(uint8_t *bytes, size_t size)
{
    struct tensor_list list;
    struct error error;
    if (safetensors_read((struct span){(const char *)bytes, size}, "copy", &list, &error))
        fail_msg("%s", error.text);
    for (uint32_t i = 0; i < list.count; i++) {
        const struct tensor *tensor = &list.tensors[i];
        assert_int_equal(tensor->dtype, DTYPE_F32);
        float *values = malloc(tensor->size_bytes);
        assert_non_null(values);
        memcpy(values, tensor->data, tensor->size_bytes);
        tensor_poison(tensor, values);
        memcpy(bytes + (tensor->data - bytes), values, tensor->size_bytes);
        free(values);
    }
    tensor_list_close(&list);
}

static int model_make(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/galerne-finite-XXXXXX");
    assert_non_null(mkdtemp(directory));
    file_copy("config.json", NULL);
    file_copy("model.safetensors", weights_poison);
    return 0;
}

static int model_drop(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < array_count(names); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(directory), 0);
    return 0;
}

/* ---- streams ---- */

/* Prompts of several lengths; a bad one has POISON in the middle. */
static struct stream *stream_of(struct harness *h, uint32_t which, bool is_bad,
                                const struct sample_entry *bias)
{
    uint32_t ids[PROMPT + GOOD], n = PROMPT + which % GOOD;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = 3 + (i * 37 + which * 11) % 190;
    if (is_bad)
        ids[n / 2] = POISON;
    struct stream_options options = {.ids = ids,
                                     .n_ids = n,
                                     .output_tokens_max = OUTPUT,
                                     .sampling = {.n_logprobs = 3, .n_biases = 1},
                                     .biases = bias};
    if (which % 2) {
        options.sampling.temperature = 0.8f;
        options.sampling.seed = which;
    }
    return stream_start(h, &options);
}

static void answer_take(struct stream *stream, struct answer *ret_answer)
{
    assert_int_equal(stream->finish, FINISH_LENGTH);
    assert_int_equal(stream->n_tokens, OUTPUT);
    ret_answer->n_tokens = stream->n_tokens;
    memcpy(ret_answer->tokens, stream->tokens, sizeof ret_answer->tokens);
    stream_free(stream);
}

static void answer_check(struct stream *stream, const struct answer *want)
{
    struct answer got;
    answer_take(stream, &got);
    for (uint32_t i = 0; i < OUTPUT; i++) {
        const struct sample_result *a = &got.tokens[i].sample, *b = &want->tokens[i].sample;
        assert_int_equal(a->id, b->id);
        assert_memory_equal(&a->logprob, &b->logprob, sizeof a->logprob);
        assert_memory_equal(a->top_id, b->top_id, 3 * sizeof *a->top_id);
        assert_memory_equal(a->top_logprob, b->top_logprob, 3 * sizeof *a->top_logprob);
    }
}

static void failed_check(struct stream *stream, uint32_t n_tokens)
{
    assert_int_equal(stream->finish, FINISH_ERROR);
    assert_int_equal(stream->status, STATUS_INTERNAL);
    assert_non_null(strstr(stream->text, "a number is not finite"));
    assert_int_equal(stream->n_tokens, n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++)
        assert_int_equal(stream->tokens[i].sample.id, POISON);
    stream_free(stream);
}

static uint64_t failed_count(struct harness *h)
{
    struct engine_status status;
    harness_turn(h, 20 * NS_PER_MS);
    engine_status(h->engine, &status);
    assert_int_equal(status.state, ENGINE_SERVING);
    return status.requests_not_finite_total;
}

static const struct harness_options few_blocks = {
    .threads_count = 2,
    .chunk_tokens = 7,
    .step_tokens = 40,
    .running_max = 12,
    .context_tokens = 64,
};

static void alone(enum dtype kv_dtype, struct answer *ret_answers)
{
    struct harness h;
    struct harness_options options = few_blocks;
    options.path = directory;
    options.kv_dtype = kv_dtype;
    harness_open(&h, &options);
    for (uint32_t i = 0; i < GOOD; i++) {
        struct stream *stream = stream_of(&h, i, false, &never);
        assert_true(harness_drain(&h, MINUTE));
        answer_take(stream, &ret_answers[i]);
    }
    assert_int_equal(failed_count(&h), 0);
    harness_close(&h);
}

/* Bad ones among the good, and the good again in the blocks that the bad ones left behind. */
static void others_go_on_with(enum dtype kv_dtype)
{
    struct answer answers[GOOD];
    struct harness h;
    struct harness_options options = few_blocks;
    options.path = directory;
    options.blocks_count = 4 * 10;
    options.kv_dtype = kv_dtype;
    alone(kv_dtype, answers);
    harness_open(&h, &options);
    for (uint32_t turn = 0; turn < 3; turn++) {
        struct stream *good[GOOD], *bad[2], *forced;
        bad[0] = stream_of(&h, 1, true, &never);
        for (uint32_t i = 0; i < GOOD; i++)
            good[i] = stream_of(&h, i, false, &never);
        bad[1] = stream_of(&h, 4, true, &never);
        forced = stream_of(&h, 2, false, &always); /* greedy: its first token is POISON */
        assert_true(harness_drain(&h, MINUTE));
        failed_check(bad[0], 0);
        failed_check(bad[1], 0);
        failed_check(forced, 1);
        for (uint32_t i = 0; i < GOOD; i++)
            answer_check(good[i], &answers[i]);
        assert_int_equal(failed_count(&h), 3 * (turn + 1));
    }
    harness_close(&h);
}

/* Every block has been a bad one's before a good one gets it, whose own are never full. */
static void blocks_carry_nothing_with(enum dtype kv_dtype)
{
    struct answer answers[GOOD];
    struct harness h;
    struct harness_options options = few_blocks;
    options.path = directory;
    options.running_max = 2;
    options.blocks_count = 8;
    options.kv_dtype = kv_dtype;
    alone(kv_dtype, answers);
    harness_open(&h, &options);
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (uint32_t i = 0; i < 8; i++) {
            struct stream *bad = stream_of(&h, i, true, &never);
            assert_true(harness_drain(&h, MINUTE));
            failed_check(bad, 0);
        }
        for (uint32_t i = 0; i < GOOD; i++) {
            struct stream *good = stream_of(&h, i, false, &never);
            assert_true(harness_drain(&h, MINUTE));
            answer_check(good, &answers[i]);
        }
    }
    assert_int_equal(failed_count(&h), 16);
    harness_close(&h);
}

/* K and V in every type: what is not finite must not get lost in it. */
static const enum dtype kv_dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_Q8_0, DTYPE_KV_E4M3};

static void others_go_on(void **state)
{
    for (size_t i = 0; i < array_count(kv_dtypes); i++)
        others_go_on_with(kv_dtypes[i]);
}

static void blocks_carry_nothing_over(void **state)
{
    for (size_t i = 0; i < array_count(kv_dtypes); i++)
        blocks_carry_nothing_with(kv_dtypes[i]);
}

/* All choices of a prompt fail, each counted; a later request of the same cache domain, whose
 * prompt begins with the same good blocks, does not. */
static void choices_and_shared_blocks(void **state)
{
    struct answer want;
    struct harness h;
    struct harness_options options = few_blocks;
    uint32_t ids[40];
    options.path = directory;
    harness_open(&h, &options);
    for (uint32_t i = 0; i < 40; i++)
        ids[i] = 3 + i * 7 % 190;
    struct stream_options good = {.ids = ids,
                                  .n_ids = 36,
                                  .output_tokens_max = OUTPUT,
                                  .sampling = {.n_logprobs = 3, .n_biases = 1},
                                  .biases = &never,
                                  .cache_domain = 5};
    struct stream_options alone = good, bad = good;
    alone.cache_domain = 0;
    struct stream *stream = stream_start(&h, &alone), *choices[3];
    assert_true(harness_drain(&h, MINUTE));
    answer_take(stream, &want);
    ids[38] = POISON;
    bad.n_ids = 40;
    streams_start(&h, &bad, 3, choices);
    assert_true(harness_drain(&h, MINUTE));
    for (uint32_t i = 0; i < 3; i++)
        failed_check(choices[i], 0);
    assert_int_equal(failed_count(&h), 3);
    stream = stream_start(&h, &good);
    assert_true(harness_drain(&h, MINUTE));
    answer_check(stream, &want);
    harness_close(&h);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_go_on),
        cmocka_unit_test(blocks_carry_nothing_over),
        cmocka_unit_test(choices_and_shared_blocks),
    };
    struct device *device;
    struct error error;
    if (argc != 2) {
        fprintf(stderr, "usage: finite_test MODEL_DIRECTORY\n");
        return 64;
    }
    source = argv[1];
    if (ops_cpu.device_open(&(struct device_options){.threads_count = 1}, &device, &error)) {
        printf("skipped: %s\n", error.text);
        return 77;
    }
    ops_cpu.device_close(device);
    return cmocka_run_group_tests(tests, model_make, model_drop);
}
