#include "model/model.h"

#include "base/clock.h"
#include "model/forward.h"
#include "model/graphs.h"
#include "model/slots.h"

#define BLOCK_TOKENS_DEFAULT 16

struct model {
    const struct ops *ops;
    struct model_plan plan;
    struct step_limits limits;
    struct device *device;
    struct kv *kv;
    struct weights weights;
    struct forward forward;
    struct batch batch;
    struct graphs graphs;
    struct slots slots;
    struct sample_result *results; /* host [rows_max] */
    uint32_t *copies;              /* host [2][blocks_count]: from, then to */
    uint64_t decode_bytes;
    uint32_t logits_rows;   /* sampling rows of the last step */
    float *logits;          /* host copy for tests, made on demand */
    size_t logits_capacity; /* values */
};

static struct kv_shape kv_shape_of(const struct arch *arch, const struct step_limits *limits)
{
    uint32_t block_tokens = limits->block_tokens ? limits->block_tokens : BLOCK_TOKENS_DEFAULT;
    uint32_t context = limits->context_tokens ? limits->context_tokens : arch->context_tokens;
    return (struct kv_shape){
        .n_layers = arch->n_layers,
        .n_kv_heads = arch->n_kv_heads,
        .head_dim = arch->head_dim,
        .block_tokens = block_tokens,
        .blocks_count = u32_max(limits->blocks_count, 1),
        .slots_count = u32_max(limits->slots_max, 1),
        .slot_blocks_max = div_up_u32(context, block_tokens),
        .dtype = (enum dtype)limits->kv_dtype,
        .exact = limits->exact != 0,
    };
}

static bool limits_given(const struct step_limits *limits)
{
    return limits->tokens_max != 0;
}

/* The limits to run with: a context of 0 is the model's own. */
static enum status limits_resolve(const struct arch *arch, const struct step_limits *given,
                                  struct step_limits *ret_limits, struct error *error)
{
    struct step_limits limits = *given;
    if (limits.context_tokens == 0)
        limits.context_tokens = arch->context_tokens;
    if (limits.context_tokens > arch->context_tokens)
        return error_set(error, STATUS_INVALID,
                         "context of %u tokens, expected at most the model's %u",
                         limits.context_tokens, arch->context_tokens);
    enum status status = step_limits_check(&limits, error);
    if (!status)
        *ret_limits = limits;
    return status;
}

static enum status plan_make(const struct weights_file *file, const struct binding *binding,
                             const struct model_options *options, struct model_plan *ret_plan,
                             struct error *error)
{
    struct kv_shape shape = kv_shape_of(&file->arch, &options->limits);
    struct step_limits limits = options->limits;
    struct model_plan plan = {
        .arch = file->arch,
        .weights_dtype = binding_dtype(binding),
        .weights_bytes = weights_plan_bytes(&file->arch, binding, options->ops->widens),
        .kv_block_bytes = options->ops->kv_block_bytes(&shape),
        .kv_dtype = shape.dtype,
    };
    enum status status = STATUS_OK;
    if (limits_given(&limits)) {
        status = limits_resolve(&file->arch, &options->limits, &limits, error);
        if (status)
            return status;
        plan.scratch_bytes = forward_bytes(&file->arch, &limits) + slots_bytes(&limits);
    }
    status = weights_file_digest(file, plan.digest, error);
    if (!status)
        *ret_plan = plan;
    return status;
}

/* The roles of a file, as the limits want them computed. */
static enum status roles_bind(struct weights_file *file, const struct step_limits *limits,
                              struct binding *ret_binding, struct error *error)
{
    enum status status = binding_open(file, ret_binding, error);
    if (!status && limits->quantise)
        status = binding_quantise(ret_binding, (enum dtype)limits->quantise, limits->quantise_head,
                                  error);
    if (!status && limits->exact)
        binding_set_exact(ret_binding);
    return status;
}

enum status model_plan(const char *path, const struct model_options *options,
                       struct model_plan *ret_plan, struct error *error)
{
    struct weights_file file = {0};
    struct binding binding = {0};
    enum status status = weights_file_open(path, &file, error);
    if (!status)
        status = roles_bind(&file, &options->limits, &binding, error);
    if (!status)
        status = plan_make(&file, &binding, options, ret_plan, error);
    binding_close(&binding);
    weights_file_close(&file);
    return status;
}

static enum status open_kv(struct model *m, struct error *error)
{
    struct kv_shape shape = kv_shape_of(&m->plan.arch, &m->limits);
    return m->ops->kv_open(m->device, &shape, &m->kv, error);
}

static enum status open_scratch(struct model *m, struct error *error)
{
    const struct arch *a = &m->plan.arch;
    struct op_limits op_limits = {
        .rows_max = m->limits.tokens_max,
        .sampled_max = m->limits.rows_max,
        .vocab = a->vocab,
        .n_heads = a->n_heads,
        .head_dim = a->head_dim,
        .hidden = a->hidden,
        .intermediate = a->intermediate,
        .n_experts = a->n_experts,
        .top_k = a->top_k,
        .context_tokens = m->limits.context_tokens,
    };
    m->forward = (struct forward){
        .ops = m->ops, .device = m->device, .arch = a, .weights = &m->weights, .kv = m->kv};
    m->results = calloc(m->limits.rows_max, sizeof *m->results);
    m->copies = calloc(m->limits.blocks_count, 2 * sizeof *m->copies);
    enum status status = STATUS_OK;
    if (!m->results || !m->copies)
        status = error_set(error, STATUS_EXHAUSTED, "out of memory");
    if (!status)
        status = forward_open(&m->forward, &m->limits, error);
    if (!status)
        status = batch_open(&m->limits, &m->batch, error);
    if (!status)
        status = slots_open(&m->limits, a->vocab, a->window_tokens, &m->slots, error);
    if (!status)
        status = m->ops->reserve(m->device, &op_limits, error);
    return status;
}

/* What load_weights is about. */
struct load {
    const struct model_options *options;
    const struct weights_file *file;
    const struct binding *binding;
    const struct model_progress *progress;
};

static enum status load_quantiser(const struct model *m, const struct load *load,
                                  struct quantiser *ret_quantiser, struct error *error)
{
    struct quantiser_options options = {.directory = load->options->cache_dir,
                                        .threads_count = load->options->device.threads_count,
                                        .progress = load->progress};
    memcpy(options.model_digest, m->plan.digest, sizeof options.model_digest);
    enum status status = weights_file_stamp(load->file, options.stamp, error);
    if (!status)
        status = quantiser_open(&options, load->binding, ret_quantiser, error);
    return status;
}

/* Asked for, and nothing to do: the operator may have meant another model. */
static void nothing_note(const struct load *load)
{
    if (load->options->limits.quantise && load->progress && load->progress->note)
        load->progress->note(load->progress->context, true,
                             "quantize changes nothing: its matrices have blocks already, or rows "
                             "that are not a multiple of 32 long");
}

/* What a backend that has no arithmetic for a type, or a row of an odd length, makes of 8 bits. */
static void widened_note(const struct load *load)
{
    const struct packing *packing = &load->file->arch.packing;
    uint64_t values[DTYPE_COUNT];
    bool heard = load->progress && load->progress->note;
    binding_values(load->binding, values);
    if (!heard || packing->kind != PACKING_F8)
        return;
    if (values[DTYPE_F8_E4M3] && load->options->ops->widens >> DTYPE_F8_E4M3 & 1)
        load->progress->note(load->progress->context, false,
                             "weights in F8_E4M3 are kept as BF16 by this backend: each is rounded "
                             "to 8 bits of precision and takes 2 bytes; quantize: q8 takes half");
    else if (!values[DTYPE_F8_E4M3] && values[DTYPE_BF16])
        load->progress->note(load->progress->context, false,
                             "weights in F8_E4M3 whose rows are not a multiple of 128 long are "
                             "kept as BF16");
}

static enum status load_weights(struct model *m, const struct load *load, struct error *error)
{
    struct quantiser quantiser = {0};
    bool quantises = load->binding->n_quantised > 0;
    enum status status = quantises ? load_quantiser(m, load, &quantiser, error) : STATUS_OK;
    if (status)
        return status;
    if (!quantises)
        nothing_note(load);
    widened_note(load);
    if (quantiser.file.bytes)
        map_file_read_ahead(&quantiser.file.map);
    else
        weights_file_read_ahead(load->file);
    const struct weights_options options = {.ops = m->ops,
                                            .device = m->device,
                                            .progress = load->progress,
                                            .quantiser = quantises ? &quantiser : NULL,
                                            .threads_count = load->options->device.threads_count};
    status = weights_open(&options, load->binding, &m->weights, error);
    if (!status && quantises)
        quantiser_finish(&quantiser);
    quantiser_close(&quantiser);
    return status;
}

enum status model_open(const char *path, const struct model_options *options,
                       const struct model_progress *progress, struct model **ret_model,
                       struct error *error)
{
    struct weights_file file = {0};
    struct binding binding = {0};
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    m->ops = options->ops;
    enum status status = weights_file_open(path, &file, error);
    if (!status)
        status = limits_resolve(&file.arch, &options->limits, &m->limits, error);
    if (!status)
        status = roles_bind(&file, &options->limits, &binding, error);
    if (!status)
        status = plan_make(&file, &binding, options, &m->plan, error);
    if (!status)
        status = m->ops->device_open(&options->device, &m->device, error);
    if (!status)
        status = load_weights(m, &(struct load){options, &file, &binding, progress}, error);
    /* From here on nothing points into the file. */
    binding_close(&binding);
    weights_file_close(&file);
    if (!status)
        status = open_kv(m, error);
    if (!status)
        status = open_scratch(m, error);
    if (!status)
        status = m->ops->sync(m->device, error);
    if (status) {
        model_close(m);
        return status;
    }
    graphs_open(m->ops, m->device, &m->graphs);
    m->decode_bytes = weights_decode_bytes(&m->weights, &m->plan.arch);
    *ret_model = m;
    return STATUS_OK;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    graphs_close(&m->graphs);
    slots_close(&m->slots);
    batch_close(&m->batch);
    forward_close(&m->forward);
    weights_close(&m->weights);
    if (m->kv)
        m->ops->kv_close(m->device, m->kv);
    if (m->device)
        m->ops->device_close(m->device);
    free(m->results);
    free(m->copies);
    free(m->logits);
    free(m);
}

void model_reset(struct model *m)
{
    slots_reset(&m->slots);
    m->logits_rows = 0;
}

const struct model_plan *model_info(const struct model *m)
{
    return &m->plan;
}

const struct step_limits *model_limits(const struct model *m)
{
    return &m->limits;
}

const char *model_device_text(const struct model *m)
{
    return m->ops->device_text(m->device);
}

uint64_t model_decode_bytes(const struct model *m)
{
    return m->decode_bytes;
}

static void sampling_set(struct model *m, const struct step *step)
{
    for (uint32_t i = 0; i < step->n_opens; i++) {
        const struct step_open *open = &step_opens(step)[i];
        forward_slot_open(&m->forward, open->slot, step_entries(step) + open->entries_first,
                          open->sampling.n_biases + open->sampling.n_holds,
                          step_tokens(step) + open->tokens_first, open->n_tokens);
    }
}

/* Block tables: of the step's opens whole, then what its rows append. */
static void tables_set(struct model *m, const struct step *step)
{
    for (uint32_t i = 0; i < step->n_opens; i++) {
        const struct step_open *open = &step_opens(step)[i];
        if (open->n_blocks)
            m->ops->kv_table_set(m->device, m->kv, open->slot, open->behind_blocks,
                                 step_blocks(step) + open->blocks_first, open->n_blocks);
    }
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct step_row *row = &step_rows(step)[i];
        if (row->n_blocks)
            m->ops->kv_table_set(m->device, m->kv, row->slot, m->slots.table_first[i],
                                 step_blocks(step) + row->blocks_first, row->n_blocks);
    }
}

static void blocks_copy(struct model *m, const struct step *step)
{
    uint32_t *from = m->copies, *to = m->copies + m->limits.blocks_count;
    for (uint32_t i = 0; i < step->n_copies; i++) {
        from[i] = step_copies(step)[i].from_block;
        to[i] = step_copies(step)[i].to_block;
    }
    if (step->n_copies)
        m->ops->kv_copy(m->device, m->kv, from, to, step->n_copies);
}

/* A row of the step becomes n_tokens token rows of the batch. */
static void batch_add(struct model *m, const struct step_row *row)
{
    struct batch *b = &m->batch;
    const uint32_t *history = slots_history(&m->slots, row->slot);
    const struct slot *slot = &m->slots.now[row->slot];
    uint32_t end = row->first_position + row->n_tokens;
    for (uint32_t position = row->first_position; position < end; position++) {
        b->ids[b->n_rows] = row->source == STEP_LAST_SAMPLED ? TOKEN_FROM_SLOT : history[position];
        b->positions[b->n_rows] = position;
        b->slots[b->n_rows] = row->slot;
        b->n_rows++;
    }
    if (!(row->flags & STEP_ROW_SAMPLES))
        return;
    /* Only the token that continues the sequence is what a later last-sampled row reads. */
    bool continues = slot->samples_now && slot->sampled_position == end;
    uint32_t j = b->n_sampled++;
    b->sampled_rows[j] = b->n_rows - 1;
    b->sampled_positions[j] = end;
    b->sampled_slots[j] = row->slot;
    b->sampled_places[j] = continues ? row->slot : m->limits.slots_max + j;
    b->prompt_tokens[j] = u32_min(slot->prompt_tokens, end); /* a row may end within it */
    b->params[j] = slot->sampling;
}

static void batch_make(struct model *m, const struct step *step)
{
    struct batch *b = &m->batch;
    const struct step_row *rows = step_rows(step);
    b->n_rows = 0;
    b->n_sampled = 0;
    b->decodes = true;
    for (uint32_t i = 0; i < step->n_rows; i++) {
        batch_add(m, &rows[i]);
        b->decodes &= rows[i].n_tokens == 1 && (i == 0 || rows[i].slot != rows[i - 1].slot);
    }
}

static void batch_run(void *context)
{
    const struct model *m = context;
    forward_run(&m->forward, &m->batch);
}

/* The read waits, and what it brought counts only if the device was well until then. */
static enum status results_read(struct model *m, struct error *error)
{
    const struct batch *b = &m->batch;
    if (b->n_sampled)
        m->ops->buffer_read(m->device, m->forward.results, m->results,
                            b->n_sampled * sizeof *m->results);
    return m->ops->sync(m->device, error);
}

static void results_take(struct model *m, struct step_result *ret_result)
{
    const struct batch *b = &m->batch;
    for (uint32_t j = 0; j < b->n_sampled; j++) {
        slots_sampled(&m->slots, b->sampled_slots[j], b->sampled_positions[j], m->results[j].id);
        ret_result->rows[j] = (struct step_result_row){
            .slot = b->sampled_slots[j],
            .n_tokens = 1,
            .position = b->sampled_positions[j],
            .flags = m->results[j].not_finite ? STEP_RESULT_NOT_FINITE : 0,
            .sample = m->results[j],
        };
    }
    ret_result->n_rows = b->n_sampled;
    m->logits_rows = b->n_sampled;
}

enum status model_step(struct model *m, const struct step *step, size_t step_bytes,
                       struct step_result *ret_result)
{
    struct error error = {0};
    uint64_t start_ns = clock_now_ns();
    bool readable = step_bytes >= sizeof *step;
    *ret_result = (struct step_result){
        .version = STEP_VERSION,
        .number = readable ? step->number : 0,
        .epoch = readable ? step->epoch : 0,
    };
    enum status status = step_check(step, step_bytes, &m->limits, &error);
    if (!status)
        status = slots_check(&m->slots, step, &error);
    if (!status) {
        slots_commit(&m->slots, step);
        sampling_set(m, step);
        tables_set(m, step);
        blocks_copy(m, step);
        batch_make(m, step);
        if (m->batch.decodes)
            graphs_run(&m->graphs, m->batch.n_rows, m->batch.n_sampled, batch_run, m);
        else
            batch_run(m);
        status = results_read(m, &error);
    }
    if (!status)
        results_take(m, ret_result);
    else
        snprintf(ret_result->error_text, sizeof ret_result->error_text, "%.255s", error.text);
    ret_result->status = status;
    ret_result->run_ns = clock_now_ns() - start_ns;
    return status;
}

bool model_note_take(struct model *m, char *ret_text, size_t text_bytes)
{
    if (!m->graphs.note[0])
        return false;
    snprintf(ret_text, text_bytes, "%s", m->graphs.note);
    m->graphs.note[0] = '\0';
    return true;
}

bool model_device_facts(struct model *m, struct device_facts *ret_facts)
{
    if (!m->ops->device_facts)
        return false;
    m->ops->device_facts(m->device, ret_facts);
    return true;
}

struct model_graphs model_graphs_info(const struct model *m)
{
    return (struct model_graphs){.kept_count = m->graphs.n_kept,
                                 .runs_total = m->graphs.runs,
                                 .replays_total = m->graphs.replays,
                                 .bytes = m->graphs.bytes,
                                 .is_off = m->graphs.is_off};
}

const float *model_last_logits(struct model *m, uint32_t *ret_rows_count)
{
    size_t count = (size_t)m->logits_rows * m->plan.arch.vocab;
    if (count > m->logits_capacity) {
        float *larger = realloc(m->logits, count * sizeof *larger);
        if (!larger)
            return NULL;
        m->logits = larger;
        m->logits_capacity = count;
    }
    if (count)
        m->ops->buffer_read(m->device, m->forward.logits, m->logits, count * sizeof *m->logits);
    *ret_rows_count = m->logits_rows;
    return m->logits;
}
