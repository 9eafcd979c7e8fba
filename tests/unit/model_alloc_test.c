/*
 * Memory of a model: none is asked for after model_open, and model_open copes with every single
 * allocation that fails (malloc, calloc and realloc are wrapped by the linker for this program).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>

#include "model/model.h"
#define CHECKPOINT_SCALE 4
#include "tests/unit/checkpoint.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

static atomic_ulong allocations; /* so far */
static atomic_ulong fail_at;     /* the allocation that fails; 0: none */

static bool granted(void)
{
    return atomic_fetch_add(&allocations, 1) + 1 != atomic_load(&fail_at);
}

void *__wrap_malloc(size_t size)
{
    return granted() ? __real_malloc(size) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return granted() ? __real_calloc(count, size) : NULL;
}

void *__wrap_realloc(void *memory, size_t size)
{
    return granted() ? __real_realloc(memory, size) : NULL;
}

static const struct step_limits limits = {
    .slots_max = 3,
    .rows_max = 8,
    .tokens_max = 32,
    .open_tokens_max = 192,
    .context_tokens = 64,
    .block_tokens = 16,
    .blocks_count = 12,
};

static char directory[64];
static struct step *step;
static struct step_result *result;

static int model_write(void **state)
{
    struct checkpoint *cp = checkpoint_new(true);
    snprintf(directory, sizeof directory, "/tmp/galerne_alloc_XXXXXX");
    assert_non_null(mkdtemp(directory));
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    step = calloc(1, step_bytes_max(&limits));
    result = calloc(1, step_result_bytes_max(&limits));
    assert_true(step && result);
    return 0;
}

static int model_drop(void **state)
{
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    unlink(path);
    free(step);
    free(result);
    return rmdir(directory);
}

/* Three sequences with every way of sampling: opened, prefilled in chunks, decoded, swapped. */
static void steps_run(struct model *model)
{
    static const struct sample_params ways[] = {
        {.n_logprobs = 20},
        {.temperature = 0.8f, .top_k = 7, .top_p = 0.9f, .n_logprobs = 5, .seed = 3},
        {.temperature = 1.5f,
         .min_p = 0.1f,
         .repetition_penalty = 1.2f,
         .presence_penalty = 0.5f,
         .frequency_penalty = 0.5f,
         .min_tokens = 3,
         .n_biases = 2,
         .n_holds = 1,
         .seed = 4},
    };
    for (uint32_t n = 0; n < 24; n++) {
        step_begin(step, &limits, 1, n + 1);
        for (uint32_t s = 0; s < 3; s++) {
            struct step_row row = {
                .slot = s, .flags = STEP_ROW_SAMPLES, .mask_slot = STEP_MASK_NONE};
            uint32_t age = n % 12; /* every 12 steps everything starts again */
            if (age == 0) {
                if (n > 0)
                    step_closes(step)[step->n_closes++] = s;
                step_opens(step)[s] = (struct step_open){.slot = s,
                                                         .n_tokens = 18,
                                                         .tokens_first = 18 * s,
                                                         .n_blocks = 2,
                                                         .blocks_first = 2 * s,
                                                         .sampling = ways[s]};
                for (uint32_t i = 0; i < 18; i++)
                    step_tokens(step)[step->n_tokens++] = (i * 5 + s + n) % CP_VOCAB;
                step->n_opens++;
                for (uint32_t i = 0; i < 3; i++)
                    step_entries(step)[i] = (struct sample_entry){3 * i, 2};
                step->n_entries = 3;
                step_blocks(step)[step->n_blocks++] = 2 * s;
                step_blocks(step)[step->n_blocks++] = 2 * s + 1;
                row.n_tokens = 9;
                row.flags = 0;
            } else if (age == 1) {
                row.first_position = 9;
                row.n_tokens = 9;
                step_copies(step)[step->n_copies++] = (struct step_copy){2 * s, 8 + s};
            } else {
                row.first_position = 16 + age;
                row.n_tokens = 1;
                row.source = n % 2 ? STEP_HISTORY : STEP_LAST_SAMPLED;
            }
            step_rows(step)[step->n_rows++] = row;
        }
        if (model_step(model, step, step->size_bytes, result))
            fail_msg("step %u: %s", n, result->error_text);
        assert_int_equal(result->n_rows, n % 12 ? 3 : 0);
    }
}

static void steps_allocate_nothing(void **state)
{
    const struct {
        const struct ops *ops;
        uint32_t threads_count;
    } table[] = {{&ops_ref, 1}, {&ops_cpu, 1}, {&ops_cpu, 2}};
    for (size_t i = 0; i < array_count(table); i++) {
        struct model_options options = {.ops = table[i].ops,
                                        .device = {.threads_count = table[i].threads_count},
                                        .limits = limits};
        struct model *model = NULL;
        struct error error = {0};
        unsigned long before = atomic_load(&allocations);
        if (model_open(directory, &options, NULL, &model, &error))
            fail_msg("%s", error.text);
        assert_true(atomic_load(&allocations) > before + 20); /* the wrap works */
        before = atomic_load(&allocations);
        steps_run(model);
        assert_int_equal(atomic_load(&allocations), before);
        model_close(model);
    }
}

static void open_survives_every_failure(void **state)
{
    struct model_options options = {
        .ops = &ops_cpu, .device = {.threads_count = 2}, .limits = limits};
    enum status status = STATUS_EXHAUSTED;
    unsigned long failed = 0;
    while (status != STATUS_OK) {
        struct model *model = NULL;
        struct error error = {.text = ""};
        atomic_store(&fail_at, atomic_load(&allocations) + failed + 1);
        status = model_open(directory, &options, NULL, &model, &error);
        atomic_store(&fail_at, 0);
        if (status != STATUS_OK) {
            if (status != STATUS_EXHAUSTED || !error.text[0] || model)
                fail_msg("allocation %lu: %s, %s", failed, status_name(status), error.text);
            assert_true(++failed < 10000);
            continue;
        }
        steps_run(model);
        model_close(model);
    }
    assert_true(failed > 20);
    print_message("%lu allocations failed one by one\n", failed);
}

/* Of the cache directory; true when there was one. */
static bool cache_drop(const char *cache)
{
    DIR *files = opendir(cache);
    bool found = false;
    for (struct dirent *file; files && (file = readdir(files));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", cache, file->d_name);
        found |= file->d_name[0] != '.' && unlink(path) == 0;
    }
    if (files)
        closedir(files);
    return found;
}

/* Quantising, with a file in the cache and without one: memory that is missing for the file alone
 * is no failure, and what is served is whole. */
static void quantising_survives_every_failure(void **state)
{
    char cache[96];
    struct step_limits quantised = limits;
    quantised.quantise = DTYPE_Q8_0;
    snprintf(cache, sizeof cache, "%s/cache", directory);
    struct model_options options = {
        .ops = &ops_ref, .device = {.threads_count = 2}, .limits = quantised, .cache_dir = cache};
    uint32_t n_failed = 0, n_served = 0;
    for (int has_file = 0; has_file < 2; has_file++) {
        bool reached = true;
        for (unsigned long n = 1; reached; n++) {
            struct model *model = NULL;
            struct error error = {.text = ""};
            if (!has_file)
                cache_drop(cache);
            unsigned long at = atomic_load(&allocations) + n;
            atomic_store(&fail_at, at);
            enum status status = model_open(directory, &options, NULL, &model, &error);
            reached = atomic_load(&allocations) >= at;
            atomic_store(&fail_at, 0);
            if (status != STATUS_OK && (status != STATUS_EXHAUSTED || !error.text[0] || model))
                fail_msg("allocation %lu: %s, %s", n, status_name(status), error.text);
            n_failed += status != STATUS_OK;
            n_served += status == STATUS_OK && reached;
            if (model)
                steps_run(model);
            model_close(model);
            assert_true(n < 10000);
        }
    }
    assert_true(cache_drop(cache));
    assert_int_equal(rmdir(cache), 0);
    assert_true(n_failed > 40 && n_served > 1);
    print_message("%u failed, %u were served without a file\n", n_failed, n_served);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(steps_allocate_nothing, model_write, model_drop),
        cmocka_unit_test_setup_teardown(open_survives_every_failure, model_write, model_drop),
        cmocka_unit_test_setup_teardown(quantising_survives_every_failure, model_write, model_drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
