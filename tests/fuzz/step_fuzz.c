/*
 * Step messages, one after the other, run by a very small model: whatever they hold they are
 * refused with a reason, or run within bounds. Each message is copied to memory of exactly its
 * size, as far as the input goes.
 */
#include <math.h>

#include "model/model.h"
#include "tests/unit/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

/* seeds.py writes messages for these limits. */
static const struct step_limits limits = {
    .slots_max = 3,
    .rows_max = 4,
    .tokens_max = 16,
    .open_tokens_max = 64,
    .context_tokens = 48,
    .block_tokens = 16,
    .blocks_count = 6,
};

static struct model *model;
static struct step_result *result;

static void model_make(void)
{
    struct model_options options = {
        .ops = &ops_ref, .device = {.threads_count = 1}, .limits = limits};
    struct error error = {.text = ""};
    char directory[] = "/tmp/galerne_fuzz_XXXXXX", path[64];
    struct checkpoint *cp = checkpoint_new(true);
    cp->config_more = "\"sliding_window\":12,";
    CHECK(mkdtemp(directory));
    checkpoint_write(cp, directory);
    checkpoint_free(cp);
    CHECK(model_open(directory, &options, NULL, &model, &error) == STATUS_OK);
    snprintf(path, sizeof path, "%s/config.json", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    unlink(path);
    rmdir(directory);
    result = malloc(step_result_bytes_max(&limits));
    CHECK(result);
}

static void result_check(enum status status)
{
    CHECK(result->status == status && memchr(result->error_text, 0, sizeof result->error_text));
    CHECK((status == STATUS_OK) == (result->error_text[0] == '\0'));
    CHECK(status == STATUS_OK || (status == STATUS_INVALID && result->n_rows == 0));
    CHECK(result->n_rows <= limits.rows_max);
    for (uint32_t i = 0; i < result->n_rows; i++) {
        const struct step_result_row *row = &result->rows[i];
        CHECK(row->slot < limits.slots_max && row->position < limits.context_tokens);
        CHECK(row->sample.id < CP_VOCAB && row->sample.n_top <= TOP_LOGPROBS_MAX);
        CHECK(!isnan(row->sample.logprob) && row->sample.logprob <= 0);
    }
}

/* The message says how long it is; what is not there is not there. */
static size_t message_size(const uint8_t *data, size_t left_bytes)
{
    struct step head;
    if (left_bytes < sizeof head)
        return left_bytes;
    memcpy(&head, data, sizeof head);
    return size_max(size_min(head.size_bytes, left_bytes), sizeof head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    if (!model)
        model_make();
    model_reset(model);
    while (size_bytes > 0) {
        size_t n = message_size(data, size_bytes);
        struct step *message = malloc(n);
        CHECK(message);
        memcpy(message, data, n);
        result_check(model_step(model, message, n, result));
        free(message);
        data += n;
        size_bytes -= n;
    }
    return 0;
}
