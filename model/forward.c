#include "model/forward.h"

#include <math.h>

enum status batch_open(const struct step_limits *limits, struct batch *ret_batch,
                       struct error *error)
{
    struct batch b = {
        .ids = calloc(limits->tokens_max, sizeof *b.ids),
        .positions = calloc(limits->tokens_max, sizeof *b.positions),
        .slots = calloc(limits->tokens_max, sizeof *b.slots),
        .sampled_rows = calloc(limits->rows_max, sizeof *b.sampled_rows),
        .sampled_positions = calloc(limits->rows_max, sizeof *b.sampled_positions),
        .sampled_slots = calloc(limits->rows_max, sizeof *b.sampled_slots),
        .sampled_places = calloc(limits->rows_max, sizeof *b.sampled_places),
        .prompt_tokens = calloc(limits->rows_max, sizeof *b.prompt_tokens),
        .params = calloc(limits->rows_max, sizeof *b.params),
    };
    if (!b.ids || !b.positions || !b.slots || !b.sampled_rows || !b.sampled_positions ||
        !b.sampled_slots || !b.sampled_places || !b.prompt_tokens || !b.params) {
        batch_close(&b);
        return error_set(error, STATUS_EXHAUSTED, "out of memory for a batch of %u tokens",
                         limits->tokens_max);
    }
    *ret_batch = b;
    return STATUS_OK;
}

void batch_close(struct batch *batch)
{
    free(batch->ids);
    free(batch->positions);
    free(batch->slots);
    free(batch->sampled_rows);
    free(batch->sampled_positions);
    free(batch->sampled_slots);
    free(batch->sampled_places);
    free(batch->prompt_tokens);
    free(batch->params);
    *batch = (struct batch){0};
}

/* Values of a row of each buffer. */
struct widths {
    size_t hidden, qkv, attended;
    size_t inside; /* of what a backend keeps inside of ops: rows normed, gates and ups */
};

static struct widths widths_of(const struct arch *a)
{
    return (struct widths){
        .hidden = a->hidden,
        .qkv = (size_t)(a->n_heads + 2 * a->n_kv_heads) * a->head_dim,
        .attended = (size_t)a->n_heads * a->head_dim,
        .inside = a->hidden + 3 * (a->kind == MODEL_MIXTRAL ? 0 : (size_t)a->intermediate),
    };
}

uint64_t forward_bytes(const struct arch *arch, const struct step_limits *limits)
{
    struct widths w = widths_of(arch);
    uint64_t token_values = 1 + w.hidden + w.qkv + w.attended + w.inside;
    uint64_t sampled_values = w.hidden + arch->vocab + 1;
    return limits->tokens_max * token_values * sizeof(float) +
           limits->rows_max * (sampled_values * sizeof(float) + sizeof(struct logits_note) +
                               sizeof(struct sample_result)) +
           limits->slots_max * (sizeof(uint32_t) * (1 + (uint64_t)limits->context_tokens) +
                                sizeof(struct sample_entry) * SAMPLE_ENTRIES_MAX) +
           arch->head_dim / 2 * sizeof(float);
}

static enum status buffer_new(const struct forward *f, size_t count, size_t item_bytes,
                              void **ret_buffer)
{
    if (count == 0)
        return STATUS_OK;
    *ret_buffer = f->ops->buffer_alloc(f->device, count * item_bytes);
    return *ret_buffer ? STATUS_OK : STATUS_EXHAUSTED;
}

static enum status buffers_fail(const struct forward *f, size_t needed, struct error *error)
{
    const double mib = 1 << 20;
    if (!f->ops->memory_free_bytes)
        return error_set(error, STATUS_EXHAUSTED,
                         "out of memory for the rows of a step: %.1f MiB are needed: lower "
                         "step_tokens_max or running_max",
                         (double)needed / mib);
    return error_set(error, STATUS_EXHAUSTED,
                     "backend %s: no memory for the rows of a step: %.1f MiB are needed, %.1f MiB "
                     "of the device are free: lower step_tokens_max, running_max or kv_memory",
                     f->ops->name, (double)needed / mib,
                     (double)f->ops->memory_free_bytes(f->device) / mib);
}

enum status forward_open(struct forward *f, const struct step_limits *limits, struct error *error)
{
    struct widths w = widths_of(f->arch);
    size_t tokens = limits->tokens_max, rows = limits->rows_max;
    const struct {
        size_t count, item_bytes;
        void **buffer;
    } table[] = {
        {f->arch->head_dim / 2, sizeof(float), (void **)&f->inv_freq},
        {tokens, sizeof(uint32_t), (void **)&f->ids},
        {tokens * w.hidden, sizeof(float), (void **)&f->x},
        {tokens * w.qkv, sizeof(float), (void **)&f->qkv},
        {tokens * w.attended, sizeof(float), (void **)&f->attended},
        {rows * w.hidden, sizeof(float), (void **)&f->sampled},
        {rows * f->arch->vocab, sizeof(float), (void **)&f->logits},
        {rows, sizeof(struct logits_note), (void **)&f->notes},
        {rows, sizeof(struct sample_result), (void **)&f->results},
        {limits->slots_max + rows, sizeof(uint32_t), (void **)&f->last_sampled},
        {(size_t)limits->slots_max * SAMPLE_ENTRIES_MAX, sizeof(struct sample_entry),
         (void **)&f->entries},
        {(size_t)limits->slots_max * limits->context_tokens, sizeof(uint32_t),
         (void **)&f->history},
    };
    f->context_tokens = limits->context_tokens;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < array_count(table) && !status; i++)
        status = buffer_new(f, table[i].count, table[i].item_bytes, table[i].buffer);
    if (status) { /* what this and those after it need, beside what is free now */
        size_t needed = 0;
        for (size_t i = 0; i < array_count(table); i++)
            needed += *table[i].buffer ? 0 : table[i].count * table[i].item_bytes;
        return buffers_fail(f, needed, error);
    }
    if (!status) {
        float inv_freq[ARCH_HEAD_DIM_MAX / 2];
        arch_inv_freq(f->arch, inv_freq);
        for (uint32_t i = 0; f->weights->rope_divisors && i < f->arch->head_dim / 2; i++)
            inv_freq[i] /= f->weights->rope_divisors[i];
        f->ops->buffer_write(f->device, f->inv_freq, inv_freq,
                             f->arch->head_dim / 2 * sizeof *inv_freq);
    }
    return status;
}

void forward_close(struct forward *f)
{
    void *const buffers[] = {
        f->inv_freq, f->ids,   f->x,       f->qkv,          f->attended, f->sampled,
        f->logits,   f->notes, f->results, f->last_sampled, f->entries,  f->history,
    };
    for (size_t i = 0; i < array_count(buffers); i++)
        if (buffers[i])
            f->ops->buffer_free(f->device, buffers[i]);
    *f = (struct forward){0};
}

/* x += W_o attention(W_qkv norm(x)) */
static void attention(const struct forward *f, const struct batch *b, uint32_t layer)
{
    const struct arch *a = f->arch;
    const struct layer_weights *w = &f->weights->layers[layer];
    struct rope_kv_args rope = {
        .n_rows = b->n_rows,
        .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads,
        .head_dim = a->head_dim,
        .qkv = f->qkv,
        .inv_freq = f->inv_freq,
        .attention_factor = 1.0f,
        .host_positions = b->positions,
        .host_slots = b->slots,
        .kv = f->kv,
        .layer = layer,
    };
    struct attention_args attend = {
        .n_rows = b->n_rows,
        .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads,
        .head_dim = a->head_dim,
        .scale = (float)(1.0 / sqrt(a->head_dim)),
        .window_tokens = a->window_tokens,
        .qkv = f->qkv,
        .host_positions = b->positions,
        .host_slots = b->slots,
        .kv = f->kv,
        .layer = layer,
        .out = f->attended,
    };
    struct linear_args qkv = {.weight = w->qkv,
                              .n_rows = b->n_rows,
                              .norm = w->attention_norm,
                              .norm_eps = a->rms_eps,
                              .in = f->x,
                              .bias = w->qkv_bias,
                              .out = f->qkv};
    if (f->ops->qkv) {
        f->ops->qkv(f->device, &qkv, &rope);
    } else {
        f->ops->linear(f->device, &qkv);
        f->ops->rope_kv(f->device, &rope);
    }
    f->ops->attention(f->device, &attend);
    f->ops->linear(f->device, &(struct linear_args){.weight = w->output,
                                                    .n_rows = b->n_rows,
                                                    .in = f->attended,
                                                    .bias = w->output_bias,
                                                    .residual = f->x,
                                                    .out = f->x});
}

/* x += W_down (silu(W_gate norm(x)) * W_up norm(x)) */
static void dense(const struct forward *f, const struct batch *b, const struct layer_weights *w)
{
    f->ops->mlp(f->device, &(struct mlp_args){.n_rows = b->n_rows,
                                              .hidden = f->arch->hidden,
                                              .intermediate = f->arch->intermediate,
                                              .gate_up = w->gate_up,
                                              .down = w->down,
                                              .gate_up_bias = w->gate_up_bias,
                                              .down_bias = w->down_bias,
                                              .norm = w->mlp_norm,
                                              .norm_eps = f->arch->rms_eps,
                                              .in = f->x,
                                              .out = f->x});
}

/* x += sum over the experts that the router chooses for norm(x) */
static void mixture(const struct forward *f, const struct batch *b, const struct layer_weights *w)
{
    f->ops->moe(f->device, &(struct moe_args){.n_rows = b->n_rows,
                                              .hidden = f->arch->hidden,
                                              .intermediate = f->arch->intermediate,
                                              .n_experts = f->arch->n_experts,
                                              .top_k = f->arch->top_k,
                                              .normalise = true,
                                              .router = w->router,
                                              .gate_up = w->gate_up,
                                              .down = w->down,
                                              .norm = w->mlp_norm,
                                              .norm_eps = f->arch->rms_eps,
                                              .in = f->x,
                                              .out = f->x});
}

static void embed(const struct forward *f, const struct batch *b)
{
    f->ops->tokens_gather(f->device, &(struct tokens_gather_args){.n_rows = b->n_rows,
                                                                  .host_ids = b->ids,
                                                                  .host_slots = b->slots,
                                                                  .last_sampled = f->last_sampled,
                                                                  .ids = f->ids});
    f->ops->embed(f->device, &(struct embed_args){.weight = f->weights->embed,
                                                  .n_rows = b->n_rows,
                                                  .ids = f->ids,
                                                  .out = f->x});
}

/* Only the rows that are sampled reach the head. */
static void choose(const struct forward *f, const struct batch *b)
{
    f->ops->rows_gather(f->device, &(struct rows_gather_args){.n_out = b->n_sampled,
                                                              .n = f->arch->hidden,
                                                              .host_rows = b->sampled_rows,
                                                              .in = f->x,
                                                              .out = f->sampled});
    f->ops->linear(f->device, &(struct linear_args){.weight = f->weights->head,
                                                    .n_rows = b->n_sampled,
                                                    .norm = f->weights->final_norm,
                                                    .norm_eps = f->arch->rms_eps,
                                                    .in = f->sampled,
                                                    .out = f->logits,
                                                    .notes = f->notes});
    f->ops->sample(f->device, &(struct sample_args){.n_rows = b->n_sampled,
                                                    .vocab = f->arch->vocab,
                                                    .logits = f->logits,
                                                    .notes = f->notes,
                                                    .host_params = b->params,
                                                    .host_positions = b->sampled_positions,
                                                    .host_prompt_tokens = b->prompt_tokens,
                                                    .host_slots = b->sampled_slots,
                                                    .host_places = b->sampled_places,
                                                    .entries = f->entries,
                                                    .history = f->history,
                                                    .history_tokens = f->context_tokens,
                                                    .last_sampled = f->last_sampled,
                                                    .results = f->results});
}

void forward_slot_open(const struct forward *f, uint32_t slot, const struct sample_entry *entries,
                       uint32_t n_entries, const uint32_t *tokens, uint32_t n_tokens)
{
    f->ops->buffer_write(f->device, f->entries + (size_t)slot * SAMPLE_ENTRIES_MAX, entries,
                         n_entries * sizeof *entries);
    f->ops->buffer_write(f->device, f->history + (size_t)slot * f->context_tokens, tokens,
                         n_tokens * sizeof *tokens);
}

void forward_run(const struct forward *f, const struct batch *b)
{
    if (b->n_rows == 0)
        return;
    embed(f, b);
    for (uint32_t layer = 0; layer < f->arch->n_layers; layer++) {
        const struct layer_weights *w = &f->weights->layers[layer];
        attention(f, b, layer);
        if (f->arch->kind == MODEL_MIXTRAL)
            mixture(f, b, w);
        else
            dense(f, b, w);
    }
    if (b->n_sampled)
        choose(f, b);
}
