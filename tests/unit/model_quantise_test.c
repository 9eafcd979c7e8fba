/* Weights quantised while a model loads, and the file that keeps them: good, stale, cut, corrupt,
 * of another version, several at once, no room and no right. Whatever the file is, the numbers are
 * those of a model without one. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "model/quantise_file.h"
#include "tests/unit/quantise_rig.h"

static void file_write(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void second_start_maps(bool mixture, enum dtype kind)
{
    float wide[ROWS * CP_VOCAB], alone[ROWS * CP_VOCAB], first[ROWS * CP_VOCAB];
    float second[ROWS * CP_VOCAB];
    char path[512];
    checkpoint_make(mixture);
    load(directory, DTYPE_F32, cache, wide);
    assert_string_equal(said.text, "");
    assert_int_equal(cache_files(path), 0);
    load(directory, kind, NULL, alone);
    assert_true(said.quantised && said.warnings == 0);
    assert_memory_not_equal(alone, wide, LOGITS_BYTES);
    load(directory, kind, cache, first);
    said_has("quantising ");
    said_has("the next start maps ");
    assert_true(said.quantised && said.warnings == 0);
    assert_memory_equal(first, alone, LOGITS_BYTES);
    assert_int_equal(cache_files(path), 1);
    load(directory, kind, cache, second);
    said_has("are mapped from ");
    said_has(path);
    assert_true(!said.quantised && said.warnings == 0);
    assert_memory_equal(second, alone, LOGITS_BYTES);
    cache_drop(NULL);
}

static void llama_q8(void **state)
{
    second_start_maps(false, DTYPE_Q8_0);
}

static void llama_q4(void **state)
{
    second_start_maps(false, DTYPE_Q4_0);
}

static void mixtral_q8(void **state)
{
    second_start_maps(true, DTYPE_Q8_0);
}

/* Wide GGUF files are quantised too, interleaved rows and stacks of experts alike. */
static void gguf_gives_the_same_bits(void **state)
{
    for (int mixture = 0; mixture < 2; mixture++) {
        struct checkpoint *cp = checkpoint_new(mixture);
        struct gguf_build build = {0};
        float a[ROWS * CP_VOCAB], b[ROWS * CP_VOCAB];
        char path[128];
        checkpoint_write(cp, directory);
        checkpoint_build_gguf(cp, &build);
        struct bytes file = gguf_build_finish(&build);
        cp_file_write(directory, "model.gguf", file.data, file.size);
        snprintf(path, sizeof path, "%s/model.gguf", directory);
        load(directory, DTYPE_Q4_0, cache, a);
        for (int again = 0; again < 2; again++) {
            load(path, DTYPE_Q4_0, cache, b);
            assert_int_equal(said.quantised, again == 0);
            assert_memory_equal(a, b, LOGITS_BYTES);
        }
        free(file.data);
        checkpoint_free(cp);
        cache_drop(NULL);
    }
}

/* Classes: what is quantised, and what a plan says of it. */
static void classes_and_plan(void **state)
{
    struct model_options options = options_of(DTYPE_F32, NULL);
    struct model_plan plans[3];
    checkpoint_make(true);
    assert_int_equal(model_plan(directory, &options, &plans[0], NULL), STATUS_OK);
    options.limits.quantise = DTYPE_Q8_0;
    assert_int_equal(model_plan(directory, &options, &plans[1], NULL), STATUS_OK);
    options.limits.quantise_head = 1;
    assert_int_equal(model_plan(directory, &options, &plans[2], NULL), STATUS_OK);
    assert_int_equal(plans[0].weights_dtype, DTYPE_F32);
    assert_int_equal(plans[1].weights_dtype, DTYPE_Q8_0);
    /* Each matrix is rounded up to pages: a layer's q, k, v; output; experts' gate, up; down. */
    const uint64_t qkv = (CP_HEADS + 2 * CP_KV_HEADS) * CP_HEAD_DIM * CP_HIDDEN;
    const uint64_t output = CP_HEADS * CP_HEAD_DIM * CP_HIDDEN;
    const uint64_t down = CP_EXPERTS * CP_HIDDEN * CP_INTERMEDIATE;
    const uint64_t values[] = {qkv, output, 2 * down, down}, head = CP_VOCAB * CP_HIDDEN;
    uint64_t saved = 0;
    for (size_t i = 0; i < array_count(values); i++)
        saved += CP_LAYERS * (round_up(values[i] * 4, 4096) - round_up(values[i] / 32 * 34, 4096));
    assert_int_equal(plans[0].weights_bytes - plans[1].weights_bytes, saved);
    assert_int_equal(plans[1].weights_bytes - plans[2].weights_bytes,
                     round_up(head * 4, 4096) - round_up(head / 32 * 34, 4096));
    assert_memory_equal(plans[0].digest, plans[2].digest, sizeof plans[0].digest);
}

/* With the head there is a file of its own; where there is nothing to do, it is said. */
static void head_and_nothing(void **state)
{
    struct model_options options = options_of(DTYPE_Q8_0, cache);
    struct model_progress progress = {.report = report, .note = note};
    float with[ROWS * CP_VOCAB], without[ROWS * CP_VOCAB];
    char path[512];
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, without);
    options.limits.quantise_head = 1;
    for (int again = 0; again < 2; again++) {
        struct model *model = NULL;
        memset(&said, 0, sizeof said);
        assert_int_equal(model_open(directory, &options, &progress, &model, NULL), STATUS_OK);
        logits_of_model(model, ROWS, CP_VOCAB, with);
        model_close(model);
        assert_true(said.warnings == 0 && said.quantised == (again == 0));
        said_has("-q8-head.galerne");
        assert_memory_not_equal(with, without, LOGITS_BYTES);
    }
    assert_int_equal(cache_files(path), 2);
    options = options_of(DTYPE_Q4_0, cache);
    options.limits.context_tokens = 64;
    memset(&said, 0, sizeof said);
    struct model *model = NULL;
    struct error error = {0};
    if (model_open(getenv("GALERNE_TEST_BLOCKS"), &options, &progress, &model, &error))
        fail_msg("%s", error.text);
    model_close(model);
    assert_int_equal(said.warnings, 1);
    said_has("quantize changes nothing");
}

/* A file of other bytes than the model has now, whose headers and beginnings are the same. */
static void stale_files_are_made_anew(void **state)
{
    float before[ROWS * CP_VOCAB], want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    char path[512];
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, before);
    struct checkpoint *cp = checkpoint_new(false);
    struct cp_tensor *tensor = cp_find(cp, "model.layers.0.self_attn.v_proj.weight");
    for (uint64_t i = cp_count(tensor) / 2; i < cp_count(tensor); i++)
        tensor->values[i] = -tensor->values[i];
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    load(directory, DTYPE_Q8_0, NULL, want);
    load(directory, DTYPE_Q8_0, cache, got);
    said_has("stale, the model's files have changed: quantising ");
    assert_int_equal(said.warnings, 1);
    assert_memory_equal(got, want, LOGITS_BYTES);
    assert_memory_not_equal(got, before, LOGITS_BYTES);
    assert_int_equal(cache_files(path), 1);
    load(directory, DTYPE_Q8_0, cache, got);
    assert_true(!said.quantised && said.warnings == 0);
    assert_memory_equal(got, want, LOGITS_BYTES);
}

/* Loads with a damaged file in place: warned once, right numbers, and the file is whole again. */
static void damaged_is_mended(const char *path, const uint8_t *good, size_t size, const float *want)
{
    float got[ROWS * CP_VOCAB];
    size_t mended_size = 0;
    load(directory, DTYPE_Q8_0, cache, got);
    assert_memory_equal(got, want, LOGITS_BYTES);
    if (said.warnings != 1 || !said.quantised)
        fail_msg("%u warnings: %s", said.warnings, said.text);
    uint8_t *mended = file_read(path, &mended_size);
    assert_int_equal(mended_size, size);
    assert_memory_equal(mended, good, size);
    free(mended);
}

static void damage(bool mixture)
{
    float want[ROWS * CP_VOCAB];
    char path[512];
    size_t size = 0;
    checkpoint_make(mixture);
    load(directory, DTYPE_Q8_0, cache, want);
    assert_int_equal(cache_files(path), 1);
    uint8_t *good = file_read(path, &size), *bad = malloc(size + 1);
    assert_non_null(bad);
    /* A bit in every field of the head, in rows of the table, and in the data of every part. */
    uint32_t n_rows;
    memcpy(&n_rows, good + 16, sizeof n_rows);
    assert_int_equal(n_rows, CP_LAYERS * (4 + 3 * (mixture ? CP_EXPERTS : 1)));
    size_t places[400], n = 0;
    for (size_t at = 0; at < 96; at += 7)
        places[n++] = at;
    for (size_t at = 96; at < 96 + n_rows * 192u; at += 61 * 3)
        places[n++] = at;
    for (uint32_t row = 0; row < n_rows; row++) {
        uint64_t offset, bytes;
        memcpy(&offset, good + 96 + row * 192 + 144, sizeof offset);
        memcpy(&bytes, good + 96 + row * 192 + 152, sizeof bytes);
        assert_true(offset % 4096 == 0 && offset + bytes <= size);
        places[n++] = offset;
        places[n++] = offset + bytes - 1;
    }
    assert_true(n <= array_count(places));
    for (size_t i = 0; i < n; i++) {
        memcpy(bad, good, size);
        bad[places[i]] ^= (uint8_t)(1u << i % 8);
        file_write(path, bad, size);
        damaged_is_mended(path, good, size, want);
        said_has(path);
    }
    const size_t cuts[] = {0,    1,        95,       96,      97, 96 + n_rows * 192u,
                           4096, size / 2, size - 1, size + 1};
    for (size_t i = 0; i < array_count(cuts); i++) {
        memcpy(bad, good, size);
        bad[size] = 0;
        file_write(path, bad, cuts[i]);
        damaged_is_mended(path, good, size, want);
    }
    free(good);
    free(bad);
    cache_drop(NULL);
}

static void damaged_files_of_a_llama(void **state)
{
    damage(false);
}

static void damaged_files_of_a_mixture(void **state)
{
    damage(true);
}

/* Says what is wrong. */
static void reasons_are_told(void **state)
{
    float logits[ROWS * CP_VOCAB];
    char path[512];
    size_t size = 0;
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, logits);
    assert_int_equal(cache_files(path), 1);
    uint8_t *good = file_read(path, &size);
    const struct {
        size_t at, cut;
        uint8_t flip;
        const char *words;
    } table[] = {
        {0, size, 1, "not a file of quantised weights"},
        {8, size, 3, "version 2, expected 1"},
        {12, size, 7, "parts of type 4 in "},
        {40, size, 1, "stale, the model's files have changed"},
        {72, size, 1, "corrupt, the digest of its table differs"},
        {96 + 192 * 2, size, 1, "row 2 of the table is not model.layers.0.self_attn.v_proj.weight"},
        {96 + 160, size, 1, "corrupt, the digest of its table differs"},
        {size - 4096, size, 1, "corrupt, the digest of tensor model.layers.1.mlp.down_proj.weight"},
        {0, size - 1, 0, "truncated or grown, it has "},
        {0, 5, 0, "truncated, it has 5 bytes"},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        good[table[i].at] ^= table[i].flip;
        file_write(path, good, table[i].cut);
        good[table[i].at] ^= table[i].flip;
        load(directory, DTYPE_Q8_0, cache, logits);
        said_has(table[i].words);
        said_has(path);
    }
    free(good);
}

/* Served from memory, with one line that says why nothing is kept. */
static void not_kept(const char *cache_dir, const char *why)
{
    float want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, NULL, want);
    load(directory, DTYPE_Q8_0, cache_dir, got);
    said_has("the quantised weights are not kept, the next start makes them again: ");
    said_has(why);
    assert_int_equal(said.warnings, 1);
    assert_memory_equal(got, want, LOGITS_BYTES);
}

static void no_directory(void **state)
{
    char below_a_file[128];
    checkpoint_make(false);
    snprintf(below_a_file, sizeof below_a_file, "%s/config.json/cache", directory);
    not_kept(below_a_file, "Not a directory");
    not_kept("/proc/galerne-test/cache", "No such file or directory");
}

/* A limit on the size of files stands for a disk without room. */
static void no_room(void **state)
{
    struct rlimit before, small;
    char path[512];
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    float logits[ROWS * CP_VOCAB];
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, NULL, logits);
    small = (struct rlimit){.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
    /* The checkpoint itself must still fit. */
    char model[128];
    size_t size = 0;
    snprintf(model, sizeof model, "%s/model.safetensors", directory);
    free(file_read(model, &size));
    small.rlim_cur = 64 << 10;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    float got[ROWS * CP_VOCAB];
    load(directory, DTYPE_Q8_0, cache, got);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    said_has("no room for ");
    said_has("are not kept");
    assert_int_equal(said.warnings, 1);
    assert_memory_equal(got, logits, LOGITS_BYTES);
    assert_int_equal(cache_files(path), 0); /* nor is what there was room for */
}

/* What another worker holds is left to it; what a crash left is taken over. */
static void one_writes(void **state)
{
    float want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    char path[512], part[520];
    checkpoint_make(false);
    load(directory, DTYPE_Q8_0, cache, want);
    assert_int_equal(cache_files(path), 1);
    snprintf(part, sizeof part, "%s.part", path);
    assert_int_equal(rename(path, part), 0);
    int fd = open(part, O_RDWR);
    assert_true(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    load(directory, DTYPE_Q8_0, cache, got);
    said_has("another worker is writing it");
    assert_memory_equal(got, want, LOGITS_BYTES);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(part, F_OK), 0);
    close(fd);
    assert_int_equal(truncate(part, 1234), 0);
    load(directory, DTYPE_Q8_0, cache, got);
    assert_int_equal(said.warnings, 0);
    assert_memory_equal(got, want, LOGITS_BYTES);
    assert_int_equal(access(part, F_OK), -1);
    load(directory, DTYPE_Q8_0, cache, got);
    assert_false(said.quantised);
}

/* Several workers that start on one directory: all serve the same, and a whole file is left. */
static void several_at_once(void **state)
{
    enum { WORKERS = 4, TURNS = 5 };
    float want[ROWS * CP_VOCAB], got[ROWS * CP_VOCAB];
    char path[512];
    checkpoint_make(false);
    load(directory, DTYPE_Q4_0, NULL, want);
    for (int turn = 0; turn < TURNS; turn++) {
        int gate[2];
        pid_t workers[WORKERS];
        cache_drop(NULL);
        assert_int_equal(pipe(gate), 0);
        for (int i = 0; i < WORKERS; i++) {
            workers[i] = fork();
            assert_true(workers[i] >= 0);
            if (workers[i] == 0) {
                char byte;
                close(gate[1]);
                if (read(gate[0], &byte, 1) != 0) /* until all are there */
                    _exit(2);
                load(directory, DTYPE_Q4_0, cache, got);
                _exit(memcmp(got, want, LOGITS_BYTES) != 0);
            }
        }
        close(gate[0]);
        close(gate[1]);
        for (int i = 0; i < WORKERS; i++) {
            int status = -1;
            assert_int_equal(waitpid(workers[i], &status, 0), workers[i]);
            assert_int_equal(status, 0);
        }
        assert_int_equal(cache_files(path), 1);
        load(directory, DTYPE_Q4_0, cache, got);
        assert_true(!said.quantised && said.warnings == 0);
        assert_memory_equal(got, want, LOGITS_BYTES);
    }
}

/* Weights that are not numbers, or too large for a scale, are told with name and place. */
static void bad_values_are_named(void **state)
{
    static const struct {
        bool mixture;
        const char *name;
        uint64_t at;
        float value;
        const char *words;
    } table[] = {
        {false, "model.layers.1.self_attn.k_proj.weight", 2049, NAN,
         "tensor model.layers.1.self_attn.k_proj.weight: value 2049 is not a finite number"},
        {false, "model.layers.0.mlp.down_proj.weight", 0, -INFINITY,
         "tensor model.layers.0.mlp.down_proj.weight: value 0 is not a finite number"},
        {true, "model.layers.1.block_sparse_moe.experts.2.w3.weight", 77, INFINITY,
         "experts.2.w3.weight: value 77 is not a finite number"},
        {false, "model.layers.0.self_attn.o_proj.weight", 40, 1e9f,
         "tensor model.layers.0.self_attn.o_proj.weight: of the values from 32 on, one is too "
         "large for Q8_0"},
        {false, "lm_head.weight", 3, NAN, "tensor lm_head.weight: value 3 is not a finite number"},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        struct checkpoint *cp = checkpoint_new(table[i].mixture);
        struct model_options options = options_of(DTYPE_Q8_0, cache);
        struct model *model = NULL;
        struct error error = {0};
        char path[512];
        cp_find(cp, table[i].name)->values[table[i].at] = table[i].value;
        checkpoint_write(cp, directory);
        checkpoint_free(cp);
        assert_int_equal(model_open(directory, &options, NULL, &model, &error), STATUS_INVALID);
        assert_null(model);
        if (!strstr(error.text, table[i].words))
            fail_msg("expected \"%s\" in: %s", table[i].words, error.text);
        assert_int_equal(cache_files(path), 0);
    }
}

/* In a stack of experts the index counts from the stack's beginning. */
static void bad_values_in_stacks(void **state)
{
    struct checkpoint *cp = checkpoint_new(true);
    struct gguf_build build = {0};
    cp_find(cp, "model.layers.0.block_sparse_moe.experts.1.w1.weight")->values[5] = NAN;
    checkpoint_build_gguf(cp, &build);
    struct bytes file = gguf_build_finish(&build);
    cp_file_write(directory, "model.gguf", file.data, file.size);
    char path[128], words[128];
    snprintf(path, sizeof path, "%s/model.gguf", directory);
    snprintf(words, sizeof words, "tensor blk.0.ffn_gate_exps.weight: value %d is not a finite",
             CP_INTERMEDIATE * CP_HIDDEN + 5);
    for (int quantise = 0; quantise < 2; quantise++) {
        struct model_options options = options_of(quantise ? DTYPE_Q4_0 : DTYPE_F32, cache);
        struct model *model = NULL;
        struct error error = {0};
        assert_int_equal(model_open(path, &options, NULL, &model, &error), STATUS_INVALID);
        if (!strstr(error.text, words))
            fail_msg("expected \"%s\" in: %s", words, error.text);
    }
    free(file.data);
    checkpoint_free(cp);
}

static void limits_are_checked(void **state)
{
    struct step_limits limits = options_of(DTYPE_Q4_1, NULL).limits;
    struct error error = {0};
    limits.context_tokens = 64;
    assert_int_equal(step_limits_check(&limits, &error), STATUS_INVALID);
    assert_non_null(
        strstr(error.text, "limits: quantise: expected 0, Q8_0 (3) or Q4_0 (4), got 5"));
    limits.quantise = DTYPE_Q4_0;
    limits.quantise_head = 2;
    assert_int_equal(step_limits_check(&limits, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "limits: quantise_head: expected 0 or 1, got 2"));
}

int main(void)
{
#define WITH_CACHE(f) cmocka_unit_test_teardown(f, cache_drop)
    const struct CMUnitTest tests[] = {
        WITH_CACHE(llama_q8),
        WITH_CACHE(llama_q4),
        WITH_CACHE(mixtral_q8),
        WITH_CACHE(gguf_gives_the_same_bits),
        WITH_CACHE(classes_and_plan),
        WITH_CACHE(head_and_nothing),
        WITH_CACHE(stale_files_are_made_anew),
        WITH_CACHE(damaged_files_of_a_llama),
        WITH_CACHE(damaged_files_of_a_mixture),
        WITH_CACHE(reasons_are_told),
        WITH_CACHE(no_directory),
        WITH_CACHE(no_room),
        WITH_CACHE(one_writes),
        WITH_CACHE(several_at_once),
        WITH_CACHE(bad_values_are_named),
        WITH_CACHE(bad_values_in_stacks),
        WITH_CACHE(limits_are_checked),
    };
    return cmocka_run_group_tests(tests, directory_make, directory_drop);
}
