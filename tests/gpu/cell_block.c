#include <math.h>

#include "tests/gpu/cell.h"

/* A mixture block, and attention, alone. */

/* ---- experts ---- */

/* The rank in f64 of what a backend ranks in f32: where two experts are all but equal the count may
 * be off by one. A norm with weights of one scales a row, which changes no order. */
uint32_t experts_touched(const struct cell *cell, const float *router, const float *rows,
                         uint32_t n_rows)
{
    bool *touched = calloc(cell->experts, sizeof *touched);
    double *logits = calloc(cell->experts, sizeof *logits);
    uint32_t n = 0;
    CHECK(touched && logits);
    for (uint32_t row = 0; row < n_rows; row++) {
        for (uint32_t e = 0; e < cell->experts; e++) {
            logits[e] = 0;
            for (uint32_t i = 0; i < cell->hidden; i++)
                logits[e] += (double)router[(size_t)e * cell->hidden + i] *
                             (double)rows[(size_t)row * cell->hidden + i];
        }
        for (uint32_t rank = 0; rank < cell->top_k; rank++) {
            uint32_t best = 0;
            for (uint32_t e = 1; e < cell->experts; e++)
                best = logits[e] > logits[best] ? e : best;
            touched[best] = true;
            logits[best] = -HUGE_VAL;
        }
    }
    for (uint32_t e = 0; e < cell->experts; e++)
        n += touched[e];
    free(touched);
    free(logits);
    return n;
}

void block_drop(struct card *card, struct block_kept *kept)
{
    struct weight *const weights[] = {kept->router, kept->gate_up, kept->down};
    for (size_t i = 0; i < array_count(weights); i++)
        if (weights[i])
            card->ops->weight_free(card->device, weights[i]);
    free(kept->router_host);
    *kept = (struct block_kept){0};
}

static enum status router_open(struct card *card, struct block_kept *kept, struct error *error)
{
    const struct cell *c = &kept->cell;
    kept->router_host = dice_floats(&card->dice, (size_t)c->experts * c->hidden, 0.1f);
    struct weight_part part = {
        .dtype = DTYPE_F32, .out_count = c->experts, .data = kept->router_host};
    struct weight_source source = {.stack_count = 1,
                                   .n_parts = 1,
                                   .out_count = c->experts,
                                   .in_count = c->hidden,
                                   .parts = &part,
                                   .exact = true};
    return card->ops->weight_pack(card->device, &source, &kept->router, error);
}

static enum status block_open(struct card *card, struct block_kept *kept, const struct cell *cell,
                              struct error *error)
{
    const struct cell *had = &kept->cell;
    if (kept->down && had->hidden == cell->hidden && had->ffn == cell->ffn &&
        had->experts == cell->experts && strcmp(had->weights, cell->weights) == 0)
        return STATUS_OK;
    block_drop(card, kept);
    kept->cell = *cell;
    enum dtype dtype;
    enum status status = card_dtype(cell->weights, &dtype, error);
    struct card_matrix gate_up = {.dtype = dtype,
                                  .stack_count = cell->experts,
                                  .in_count = cell->hidden,
                                  .n_parts = 2,
                                  .out_counts = {cell->ffn, cell->ffn},
                                  .paired = true};
    struct card_matrix down = {.dtype = dtype,
                               .stack_count = cell->experts,
                               .in_count = cell->ffn,
                               .n_parts = 1,
                               .out_counts = {cell->hidden}};
    if (status == STATUS_OK)
        status = router_open(card, kept, error);
    if (status == STATUS_OK)
        status = card_weight(card, &gate_up, &kept->gate_up, error);
    if (status == STATUS_OK)
        status = card_weight(card, &down, &kept->down, error);
    if (status != STATUS_OK)
        block_drop(card, kept);
    return status;
}

struct experts {
    struct card *card;
    const struct block_kept *kept;
    const struct cell *cell;
    float *in, *out;
};

static void experts_work(void *context, uint32_t index)
{
    const struct experts *e = context;
    e->card->ops->moe(e->card->device, &(struct moe_args){.n_rows = e->cell->rows,
                                                          .hidden = e->cell->hidden,
                                                          .intermediate = e->cell->ffn,
                                                          .n_experts = e->cell->experts,
                                                          .top_k = e->cell->top_k,
                                                          .normalise = true,
                                                          .router = e->kept->router,
                                                          .gate_up = e->kept->gate_up,
                                                          .down = e->kept->down,
                                                          .in = e->in,
                                                          .out = e->out});
}

enum status cell_experts(struct card *card, struct block_kept *kept, const struct cell *cell,
                         struct measured *ret_measured, struct error *error)
{
    struct experts e = {.card = card, .kept = kept, .cell = cell};
    size_t values = (size_t)cell->rows * cell->hidden;
    float *rows = malloc(values * sizeof *rows + 1);
    struct measured m = {.flops = 6.0 * cell->rows * cell->top_k * cell->hidden * cell->ffn};
    CHECK(rows);
    enum status status = block_open(card, kept, cell, error);
    if (status == STATUS_OK)
        status = card_buffer(card, values, true, &e.in, error);
    if (status == STATUS_OK)
        status = card_buffer(card, values, false, &e.out, error);
    if (status == STATUS_OK)
        status = card_time(card, experts_work, &e, 64, &m.seconds, error);
    if (status == STATUS_OK) {
        card->ops->buffer_read(card->device, e.in, rows, values * sizeof *rows);
        m.touched = experts_touched(cell, kept->router_host, rows, cell->rows);
        m.bytes =
            (double)(card->ops->weight_bytes(kept->gate_up) + card->ops->weight_bytes(kept->down)) *
                m.touched / cell->experts +
            (double)card->ops->weight_bytes(kept->router);
        *ret_measured = m;
    }
    card->ops->buffer_free(card->device, e.in);
    card->ops->buffer_free(card->device, e.out);
    free(rows);
    return status;
}

/* ---- attention ---- */

#define COLD_BYTES ((size_t)512 << 20) /* of K and V that turns are taken among */
#define LAYERS_MAX 64

struct attend {
    struct card *card;
    const struct cell *cell;
    struct kv *kv;
    uint32_t n_layers;
    uint32_t *positions, *slots; /* host [rows] */
    float *qkv, *out;
};

static void attend_work(void *context, uint32_t index)
{
    const struct attend *a = context;
    const struct cell *c = a->cell;
    struct attention_args args = {.n_rows = c->rows,
                                  .n_heads = c->heads,
                                  .n_kv_heads = c->kv_heads,
                                  .head_dim = c->head_dim,
                                  .scale = (float)(1 / sqrt(c->head_dim)),
                                  .qkv = a->qkv,
                                  .host_positions = a->positions,
                                  .host_slots = a->slots,
                                  .kv = a->kv,
                                  .layer = index % a->n_layers,
                                  .out = a->out};
    a->card->ops->attention(a->card->device, &args);
}

/* `slots` sequences of `tokens` positions each. */
static enum status attend_open(struct attend *a, uint32_t slots, uint32_t tokens,
                               struct error *error)
{
    const struct cell *c = a->cell;
    enum dtype dtype;
    enum status status = card_kv_dtype(c->kv, &dtype, error);
    if (status != STATUS_OK)
        return status;
    uint32_t blocks = div_up_u32(tokens, 16);
    struct kv_shape shape = {.n_layers = 1,
                             .n_kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .block_tokens = 16,
                             .blocks_count = slots * blocks,
                             .slots_count = slots,
                             .slot_blocks_max = blocks,
                             .dtype = dtype};
    size_t layer_bytes = (size_t)shape.blocks_count * a->card->ops->kv_block_bytes(&shape);
    if (layer_bytes < COLD_BYTES && !a->card->emulated)
        shape.n_layers = (uint32_t)size_min(LAYERS_MAX, COLD_BYTES / layer_bytes);
    a->n_layers = shape.n_layers;
    a->positions = calloc(c->rows, sizeof *a->positions);
    a->slots = calloc(c->rows, sizeof *a->slots);
    CHECK(a->positions && a->slots);
    size_t row = (size_t)(c->heads + 2 * c->kv_heads) * c->head_dim;
    status = card_kv(a->card, &shape, c->heads, tokens, &a->kv, error);
    if (status == STATUS_OK)
        status = card_buffer(a->card, c->rows * row, true, &a->qkv, error);
    if (status == STATUS_OK)
        status =
            card_buffer(a->card, (size_t)c->rows * c->heads * c->head_dim, false, &a->out, error);
    return status;
}

static void attend_close(struct attend *a)
{
    const struct ops *ops = a->card->ops;
    ops->buffer_free(a->card->device, a->qkv);
    ops->buffer_free(a->card->device, a->out);
    if (a->kv)
        ops->kv_close(a->card->device, a->kv);
    free(a->positions);
    free(a->slots);
}

static double kv_layer_bytes(const struct attend *a, double tokens)
{
    struct kv_shape shape = {.n_layers = 1,
                             .n_kv_heads = a->cell->kv_heads,
                             .head_dim = a->cell->head_dim,
                             .block_tokens = 16,
                             .blocks_count = 1,
                             .slots_count = 1,
                             .slot_blocks_max = 1};
    struct error error;
    if (card_kv_dtype(a->cell->kv, &shape.dtype, &error) != STATUS_OK)
        return 0;
    return (double)a->card->ops->kv_block_bytes(&shape) / 16 * tokens;
}

enum status cell_attend(struct card *card, const struct cell *cell, struct measured *ret_measured,
                        struct error *error)
{
    struct attend a = {.card = card, .cell = cell};
    struct measured m = {.flops = 4.0 * cell->head_dim * cell->heads * cell->rows * cell->context,
                         .bytes = kv_layer_bytes(&a, (double)cell->rows * cell->context)};
    enum status status = attend_open(&a, cell->rows, cell->context, error);
    for (uint32_t i = 0; i < cell->rows && status == STATUS_OK; i++) {
        a.positions[i] = cell->context - 1;
        a.slots[i] = i;
    }
    if (status == STATUS_OK)
        status = card_time(card, attend_work, &a, 4 * LAYERS_MAX, &m.seconds, error);
    if (status == STATUS_OK)
        *ret_measured = m;
    attend_close(&a);
    return status;
}

enum status cell_prefill(struct card *card, const struct cell *cell, struct measured *ret_measured,
                         struct error *error)
{
    struct attend a = {.card = card, .cell = cell};
    double pairs = 0.5 * cell->rows * (cell->rows + 1.0);
    struct measured m = {.flops = 4.0 * cell->head_dim * cell->heads * pairs};
    enum status status = attend_open(&a, 1, cell->rows, error);
    for (uint32_t i = 0; i < cell->rows && status == STATUS_OK; i++)
        a.positions[i] = i;
    if (status == STATUS_OK)
        status = card_time(card, attend_work, &a, 16, &m.seconds, error);
    if (status == STATUS_OK)
        *ret_measured = m;
    attend_close(&a);
    return status;
}
