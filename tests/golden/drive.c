#include "tests/golden/drive.h"

static void step_start(struct drive *d)
{
    step_begin(d->step, &d->limits, 1, ++d->steps_count);
}

/* A fixed shuffle: neighbours of a sequence's blocks must not be neighbours in the pool. */
static void blocks_scatter(struct drive *d)
{
    uint64_t state = 12345;
    d->free_count = d->limits.blocks_count;
    for (uint32_t i = 0; i < d->free_count; i++)
        d->free_blocks[i] = i;
    for (uint32_t i = d->free_count; i > 1; i--) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t j = (uint32_t)(state >> 33) % i, other = d->free_blocks[j];
        d->free_blocks[j] = d->free_blocks[i - 1];
        d->free_blocks[i - 1] = other;
    }
}

enum status drive_open(struct drive *d, const char *path, const struct drive_backend *backend,
                       const struct step_limits *limits, struct error *error)
{
    struct model_options options = {
        .ops = backend->ops,
        .device = {.threads_count = backend->threads_count, .tier = backend->tier},
        .limits = *limits,
    };
    *d = (struct drive){0};
    enum status status = model_open(path, &options, NULL, &d->model, error);
    if (status)
        return status;
    d->limits = *model_limits(d->model);
    CHECK(d->limits.slots_max <= DRIVE_SLOTS_MAX);
    CHECK(step_slot_blocks_max(&d->limits) <= array_count(d->slots[0].blocks));
    d->step_bytes = step_bytes_max(&d->limits);
    d->step = aligned_alloc(64, round_up(d->step_bytes, 64));
    d->result = aligned_alloc(64, round_up(step_result_bytes_max(&d->limits), 64));
    d->free_blocks = calloc(d->limits.blocks_count, sizeof *d->free_blocks);
    d->block_uses = calloc(d->limits.blocks_count, sizeof *d->block_uses);
    CHECK(d->step && d->result && d->free_blocks && d->block_uses);
    blocks_scatter(d);
    step_start(d);
    return STATUS_OK;
}

void drive_close(struct drive *d)
{
    model_close(d->model);
    free(d->step);
    free(d->result);
    free(d->free_blocks);
    free(d->block_uses);
    *d = (struct drive){0};
}

void drive_slot_open(struct drive *d, uint32_t slot, const uint32_t *tokens, uint32_t n_tokens,
                     const struct sample_params *sampling)
{
    struct step_open *open = &step_opens(d->step)[d->step->n_opens++];
    *open =
        (struct step_open){.slot = slot, .n_tokens = n_tokens, .tokens_first = d->step->n_tokens};
    if (sampling)
        open->sampling = *sampling;
    CHECK(d->step->n_tokens + n_tokens <= d->limits.open_tokens_max);
    memcpy(step_tokens(d->step) + d->step->n_tokens, tokens, n_tokens * sizeof *tokens);
    d->step->n_tokens += n_tokens;
}

void drive_slot_sample_by(struct drive *d, uint32_t output_tokens,
                          const struct sample_entry *entries)
{
    struct step_open *open = &step_opens(d->step)[d->step->n_opens - 1];
    uint32_t n = open->sampling.n_biases + open->sampling.n_holds;
    open->output_tokens = output_tokens;
    open->entries_first = d->step->n_entries;
    if (n)
        memcpy(step_entries(d->step) + d->step->n_entries, entries, n * sizeof *entries);
    d->step->n_entries += n;
}

static uint32_t block_take(struct drive *d)
{
    CHECK(d->free_count > 0);
    return d->free_blocks[--d->free_count];
}

/* A block joins the table of a slot, and the step's list of blocks. */
static void block_append(struct drive *d, struct drive_slot *s, uint32_t block)
{
    CHECK(s->n_blocks < array_count(s->blocks));
    s->blocks[s->n_blocks++] = block;
    d->block_uses[block]++;
    step_blocks(d->step)[d->step->n_blocks++] = block;
}

void drive_slot_share(struct drive *d, uint32_t slot, uint32_t from, uint32_t n_blocks, bool copied)
{
    struct step_open *open = &step_opens(d->step)[d->step->n_opens - 1];
    struct drive_slot *s = &d->slots[slot];
    CHECK(open->slot == slot && n_blocks * d->limits.block_tokens <= d->slots[from].ready_tokens);
    open->n_blocks = n_blocks;
    open->blocks_first = d->step->n_blocks;
    open->cached_tokens = s->computed_tokens = n_blocks * d->limits.block_tokens;
    for (uint32_t i = 0; i < n_blocks; i++) {
        uint32_t block = d->slots[from].blocks[i];
        if (copied) {
            uint32_t own = block_take(d);
            step_copies(d->step)[d->step->n_copies++] = (struct step_copy){block, own};
            block = own;
        }
        block_append(d, s, block);
    }
}

void drive_slot_close(struct drive *d, uint32_t slot)
{
    struct drive_slot *s = &d->slots[slot];
    step_closes(d->step)[d->step->n_closes++] = slot;
    while (s->n_blocks) {
        uint32_t block = s->blocks[--s->n_blocks];
        if (--d->block_uses[block] == 0)
            d->free_blocks[d->free_count++] = block;
    }
    s->computed_tokens = s->ready_tokens = 0;
}

void drive_row(struct drive *d, uint32_t slot, uint32_t n_tokens, enum step_source source,
               bool samples)
{
    struct drive_slot *s = &d->slots[slot];
    struct step_row *row = &step_rows(d->step)[d->step->n_rows++];
    *row = (struct step_row){
        .slot = slot,
        .first_position = s->computed_tokens,
        .n_tokens = n_tokens,
        .source = source,
        .flags = samples ? STEP_ROW_SAMPLES : 0,
        .blocks_first = d->step->n_blocks,
        .mask_slot = STEP_MASK_NONE,
    };
    s->computed_tokens += n_tokens;
    for (; s->n_blocks * d->limits.block_tokens < s->computed_tokens; row->n_blocks++)
        block_append(d, s, block_take(d));
}

const struct step_result *drive_run(struct drive *d)
{
    enum status status = model_step(d->model, d->step, d->step_bytes, d->result);
    if (status)
        fprintf(stderr, "%s: %s\n", status_name(status), d->result->error_text);
    CHECK(status == STATUS_OK);
    d->run_ns += d->result->run_ns;
    for (uint32_t i = 0; i < d->limits.slots_max; i++)
        d->slots[i].ready_tokens = d->slots[i].computed_tokens;
    step_start(d);
    return d->result;
}

const float *drive_logits(struct drive *d, uint32_t row)
{
    uint32_t n_rows = 0;
    const float *logits = model_last_logits(d->model, &n_rows);
    CHECK(logits && row < n_rows);
    return logits + (size_t)row * model_info(d->model)->arch.vocab;
}
