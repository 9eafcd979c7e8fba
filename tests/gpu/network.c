#include <math.h>

#include "model/forward.h"
#include "tests/gpu/cell.h"

/*
 * A whole step of a network with random weights: model/forward.c's own loop over layers, and the
 * choice of tokens, as a captured graph; the host's wait for it counts.
 *
 * Layers have weights of their own until DISTINCT_BYTES are reached, and take turns among those
 * beyond: far more than a card's caches hold, so that every layer is read from memory, and a model
 * that does not fit is still computed whole. How many are distinct is told.
 */

#define DISTINCT_BYTES 4e9
#define DISTINCT_MIN 2
#define BLOCK_TOKENS 16

struct network {
    struct cell cell; /* that the weights are for */
    uint32_t distinct;
    struct arch arch;
    struct weights weights;
    float **routers; /* host [distinct], each [experts][hidden]; NULL of a dense model */
    double layer_bytes, head_bytes, embed_row_bytes;
};

/* ---- weights ---- */

static enum status matrix_make(struct card *card, const struct network *n, uint32_t in_count,
                               const struct card_matrix *outputs, struct weight **ret_weight,
                               struct error *error)
{
    struct card_matrix matrix = *outputs;
    matrix.in_count = in_count;
    enum status status = card_dtype(n->cell.weights, &matrix.dtype, error);
    return status == STATUS_OK ? card_weight(card, &matrix, ret_weight, error) : status;
}

static enum status ones_make(struct card *card, uint32_t count, float **ret_buffer,
                             struct error *error)
{
    float *ones = malloc(count * sizeof *ones + 1);
    CHECK(ones);
    for (uint32_t i = 0; i < count; i++)
        ones[i] = 1;
    enum status status = card_buffer(card, count, false, ret_buffer, error);
    if (status == STATUS_OK)
        card->ops->buffer_write(card->device, *ret_buffer, ones, count * sizeof *ones);
    if (status == STATUS_OK)
        status = card->ops->sync(card->device, error);
    free(ones);
    return status;
}

static enum status router_make(struct card *card, struct network *n, uint32_t layer,
                               struct error *error)
{
    const struct cell *c = &n->cell;
    n->routers[layer] = dice_floats(&card->dice, (size_t)c->experts * c->hidden, 0.1f);
    struct weight_part part = {
        .dtype = DTYPE_F32, .out_count = c->experts, .data = n->routers[layer]};
    struct weight_source source = {.stack_count = 1,
                                   .n_parts = 1,
                                   .out_count = c->experts,
                                   .in_count = c->hidden,
                                   .parts = &part,
                                   .exact = true};
    return card->ops->weight_pack(card->device, &source, &n->weights.layers[layer].router, error);
}

static enum status layer_make(struct card *card, struct network *n, uint32_t layer,
                              struct error *error)
{
    const struct cell *c = &n->cell;
    struct layer_weights *l = &n->weights.layers[layer];
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    struct card_matrix qkv = {.stack_count = 1, .n_parts = 3, .out_counts = {q, kv, kv}};
    struct card_matrix plain = {.stack_count = 1, .n_parts = 1, .out_counts = {c->hidden}};
    struct card_matrix gate_up = {.stack_count = u32_max(1, c->experts),
                                  .n_parts = 2,
                                  .out_counts = {c->ffn, c->ffn},
                                  .paired = true};
    struct card_matrix down = plain;
    down.stack_count = gate_up.stack_count;
    enum status status = ones_make(card, c->hidden, &l->attention_norm, error);
    if (status == STATUS_OK)
        status = ones_make(card, c->hidden, &l->mlp_norm, error);
    if (status == STATUS_OK)
        status = matrix_make(card, n, c->hidden, &qkv, &l->qkv, error);
    if (status == STATUS_OK)
        status = matrix_make(card, n, q, &plain, &l->output, error);
    if (status == STATUS_OK && c->experts)
        status = router_make(card, n, layer, error);
    if (status == STATUS_OK)
        status = matrix_make(card, n, c->hidden, &gate_up, &l->gate_up, error);
    if (status == STATUS_OK)
        status = matrix_make(card, n, c->ffn, &down, &l->down, error);
    return status;
}

static double weight_size(const struct card *card, const struct weight *weight)
{
    return weight ? (double)card->ops->weight_bytes(weight) : 0;
}

static double layer_size(const struct card *card, const struct layer_weights *l)
{
    return weight_size(card, l->qkv) + weight_size(card, l->output) + weight_size(card, l->router) +
           weight_size(card, l->gate_up) + weight_size(card, l->down);
}

static struct arch arch_of(const struct cell *c)
{
    return (struct arch){.kind = c->experts ? MODEL_MIXTRAL : MODEL_LLAMA,
                         .n_layers = c->layers,
                         .hidden = c->hidden,
                         .n_heads = c->heads,
                         .n_kv_heads = c->kv_heads,
                         .head_dim = c->head_dim,
                         .intermediate = c->ffn,
                         .n_experts = c->experts,
                         .top_k = c->top_k,
                         .vocab = c->vocab,
                         .context_tokens = c->context + 1,
                         .rms_eps = 1e-5f,
                         .rope_theta = 10000,
                         .rope_factor = 1};
}

static enum status network_open(struct card *card, struct network *n, struct error *error)
{
    const struct cell *c = &n->cell;
    struct card_matrix vocabulary = {.stack_count = 1, .n_parts = 1, .out_counts = {c->vocab}};
    n->arch = arch_of(c);
    n->weights = (struct weights){.ops = card->ops, .device = card->device};
    n->weights.layers = calloc(c->layers, sizeof *n->weights.layers);
    n->routers = calloc(c->layers, sizeof *n->routers);
    CHECK(n->weights.layers && n->routers);
    enum status status = matrix_make(card, n, c->hidden, &vocabulary, &n->weights.embed, error);
    if (status == STATUS_OK)
        status = matrix_make(card, n, c->hidden, &vocabulary, &n->weights.head, error);
    if (status == STATUS_OK)
        status = ones_make(card, c->hidden, &n->weights.final_norm, error);
    double bytes = 0;
    for (uint32_t i = 0; i < c->layers && status == STATUS_OK; i++) {
        if (i >= DISTINCT_MIN && bytes >= DISTINCT_BYTES)
            break;
        n->weights.n_layers = ++n->distinct;
        status = layer_make(card, n, i, error);
        bytes += layer_size(card, &n->weights.layers[i]);
    }
    for (uint32_t i = n->distinct; i < c->layers && status == STATUS_OK; i++)
        n->weights.layers[i] = n->weights.layers[i % n->distinct];
    n->layer_bytes = n->distinct ? bytes / n->distinct : 0;
    n->head_bytes = weight_size(card, n->weights.head);
    n->embed_row_bytes = weight_size(card, n->weights.embed) / c->vocab;
    return status;
}

/* weights_close frees the layers that it is told of: the distinct ones. */
void network_close(struct card *card, struct network *network)
{
    if (!network)
        return;
    for (uint32_t i = 0; network->routers && i < network->distinct; i++)
        free(network->routers[i]);
    free(network->routers);
    if (network->weights.ops)
        weights_close(&network->weights);
    free(network);
}

static bool network_serves(const struct network *n, const struct cell *cell)
{
    const struct cell *c = &n->cell;
    return c->layers == cell->layers && c->hidden == cell->hidden && c->heads == cell->heads &&
           c->kv_heads == cell->kv_heads && c->head_dim == cell->head_dim && c->ffn == cell->ffn &&
           c->experts == cell->experts && c->vocab == cell->vocab &&
           strcmp(c->weights, cell->weights) == 0;
}

/* ---- a step ---- */

struct run {
    struct card *card;
    struct network *network;
    struct forward forward;
    struct batch batch;
    struct sample_result *results; /* host [batch] */
    /* of the step that counts experts */
    double touched;
    uint32_t layers_counted;
};

/* What the table's `moe` cannot be told by its arguments. */
static struct run *counting;

static void moe_count(struct device *device, const struct moe_args *args)
{
    const struct network *n = counting->network;
    const struct ops *ops = counting->card->ops;
    size_t values = (size_t)args->n_rows * args->hidden;
    float *rows = malloc(values * sizeof *rows + 1);
    struct error error;
    CHECK(rows);
    if (ops->sync(device, &error) == STATUS_OK) {
        ops->buffer_read(device, args->in, rows, values * sizeof *rows);
        counting->touched += experts_touched(
            &n->cell, n->routers[counting->layers_counted % n->distinct], rows, args->n_rows);
        counting->layers_counted++;
    }
    free(rows);
    ops->moe(device, args);
}

static void step_work(void *context, uint32_t index)
{
    const struct run *run = context;
    forward_run(&run->forward, &run->batch);
}

/* The step once more, its mixtures watched. */
static enum status experts_count(struct run *run, struct error *error)
{
    struct ops watched = *run->card->ops;
    watched.moe = moe_count;
    struct forward forward = run->forward;
    forward.ops = &watched;
    counting = run;
    forward_run(&forward, &run->batch);
    counting = NULL;
    return run->card->ops->sync(run->card->device, error);
}

/* Every row continues a sequence of its own with what it sampled last. */
static void batch_fill(struct batch *b, const struct cell *c)
{
    b->n_rows = b->n_sampled = c->batch;
    for (uint32_t i = 0; i < c->batch; i++) {
        b->ids[i] = TOKEN_FROM_SLOT;
        b->positions[i] = c->context - 1;
        b->slots[i] = b->sampled_slots[i] = b->sampled_places[i] = i;
        b->sampled_rows[i] = i;
        b->sampled_positions[i] = c->context;
        b->prompt_tokens[i] = c->context;
        b->params[i] = (struct sample_params){.logprob_off = 1};
    }
}

/* Different tokens to begin with, so that rows of a mixture do not all choose alike. */
static void tokens_seed(struct run *run, const struct cell *c)
{
    uint32_t *ids = calloc(c->batch, sizeof *ids);
    CHECK(ids);
    for (uint32_t i = 0; i < c->batch; i++)
        ids[i] = dice_below(&run->card->dice, c->vocab);
    run->card->ops->buffer_write(run->card->device, run->forward.last_sampled, ids,
                                 c->batch * sizeof *ids);
    free(ids);
}

static enum status run_open(struct run *run, const struct cell *c, struct error *error)
{
    uint32_t blocks = div_up_u32(c->context + 1, BLOCK_TOKENS);
    enum dtype kv_dtype;
    enum status status = card_kv_dtype(c->kv, &kv_dtype, error);
    if (status != STATUS_OK)
        return status;
    struct step_limits limits = {.slots_max = c->batch,
                                 .rows_max = c->batch,
                                 .tokens_max = c->batch,
                                 .context_tokens = c->context + 1,
                                 .block_tokens = BLOCK_TOKENS,
                                 .blocks_count = c->batch * blocks,
                                 .kv_dtype = (uint32_t)kv_dtype};
    struct kv_shape shape = {.n_layers = c->layers,
                             .n_kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .block_tokens = BLOCK_TOKENS,
                             .blocks_count = limits.blocks_count,
                             .slots_count = c->batch,
                             .slot_blocks_max = blocks,
                             .dtype = kv_dtype};
    run->forward = (struct forward){.ops = run->card->ops,
                                    .device = run->card->device,
                                    .arch = &run->network->arch,
                                    .weights = &run->network->weights};
    run->results = calloc(c->batch, sizeof *run->results);
    CHECK(run->results);
    status = batch_open(&limits, &run->batch, error);
    if (status == STATUS_OK)
        status = card_kv(run->card, &shape, c->heads, c->context, &run->forward.kv, error);
    if (status == STATUS_OK)
        status = forward_open(&run->forward, &limits, error);
    if (status == STATUS_OK) {
        batch_fill(&run->batch, c);
        tokens_seed(run, c);
    }
    return status;
}

static void run_close(struct run *run)
{
    struct kv *kv = run->forward.kv;
    if (run->forward.ops)
        forward_close(&run->forward);
    if (kv)
        run->card->ops->kv_close(run->card->device, kv);
    batch_close(&run->batch);
    free(run->results);
}

/* A number that is not finite on the way would make figures of nonsense. */
static enum status results_check(struct run *run, const struct cell *c, struct error *error)
{
    run->card->ops->buffer_read(run->card->device, run->forward.results, run->results,
                                c->batch * sizeof *run->results);
    for (uint32_t i = 0; i < c->batch; i++)
        if (run->results[i].not_finite || run->results[i].id >= c->vocab)
            return error_set(error, STATUS_INTERNAL,
                             "row %u of the step has logits that are not finite", i);
    return STATUS_OK;
}

static void step_sum(const struct run *run, const struct cell *c, struct measured *m)
{
    const struct network *n = run->network;
    const struct layer_weights *l = &n->weights.layers[0];
    const struct ops *ops = run->card->ops;
    struct kv_shape shape = {.n_layers = c->layers,
                             .n_kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .block_tokens = BLOCK_TOKENS,
                             .blocks_count = 1,
                             .slots_count = 1,
                             .slot_blocks_max = 1};
    struct error error;
    CHECK(card_kv_dtype(c->kv, &shape.dtype, &error) == STATUS_OK);
    double all = (double)(ops->weight_bytes(l->gate_up) + ops->weight_bytes(l->down));
    double unread = c->experts ? all * (1 - m->touched / c->experts) : 0;
    double active = c->experts ? c->top_k : 1, hidden = c->hidden;
    double layer =
        hidden * c->head_dim * (2.0 * c->heads + 2.0 * c->kv_heads) + 3 * active * hidden * c->ffn;
    m->bytes = c->layers * (n->layer_bytes - unread) + n->head_bytes +
               c->batch * n->embed_row_bytes +
               (double)ops->kv_block_bytes(&shape) / BLOCK_TOKENS * c->context * c->batch;
    m->flops = c->batch * (2 * (layer * c->layers + hidden * c->vocab) +
                           4.0 * c->layers * c->heads * c->head_dim * c->context);
    m->distinct = n->distinct;
}

enum status cell_step(struct card *card, struct network **kept, const struct cell *cell,
                      struct measured *ret_measured, struct error *error)
{
    enum status status = STATUS_OK;
    if (!*kept || !network_serves(*kept, cell)) {
        network_close(card, *kept);
        *kept = calloc(1, sizeof **kept);
        CHECK(*kept);
        (*kept)->cell = *cell;
        status = network_open(card, *kept, error);
        if (status != STATUS_OK) {
            network_close(card, *kept);
            *kept = NULL;
            return status;
        }
    }
    struct run run = {.card = card, .network = *kept};
    struct measured m = {0};
    status = run_open(&run, cell, error);
    if (status == STATUS_OK)
        status = card_time(card, step_work, &run, 1, &m.seconds, error);
    if (status == STATUS_OK)
        status = results_check(&run, cell, error);
    if (status == STATUS_OK && cell->experts)
        status = experts_count(&run, error);
    if (status == STATUS_OK) {
        m.touched = run.layers_counted ? run.touched / run.layers_counted : 0;
        step_sum(&run, cell, &m);
        *ret_measured = m;
    }
    run_close(&run);
    return status;
}
