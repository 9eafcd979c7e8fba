#include "tests/gpu/cell.h"

#include <errno.h>
#include <math.h>

/* ---- a line ---- */

static enum status number_take(const char *word, const char *value, uint32_t *ret_number,
                               struct error *error)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(value, &end, 10);
    if (errno || end == value || *end || number > 1u << 24)
        return error_set(error, STATUS_INVALID, "%s is no number of 0..%u", word, 1u << 24);
    *ret_number = (uint32_t)number;
    return STATUS_OK;
}

static enum status word_take(struct cell *cell, char *word, struct error *error)
{
    const struct {
        const char *key;
        uint32_t *number;
    } numbers[] = {{"mib", &cell->mib},
                   {"n", &cell->n},
                   {"k", &cell->k},
                   {"rows", &cell->rows},
                   {"context", &cell->context},
                   {"batch", &cell->batch},
                   {"layers", &cell->layers},
                   {"hidden", &cell->hidden},
                   {"heads", &cell->heads},
                   {"kv_heads", &cell->kv_heads},
                   {"head_dim", &cell->head_dim},
                   {"ffn", &cell->ffn},
                   {"experts", &cell->experts},
                   {"top_k", &cell->top_k},
                   {"vocab", &cell->vocab}};
    char *value = strchr(word, '=');
    if (!value)
        return error_set(error, STATUS_INVALID, "%s is not key=value", word);
    size_t key_bytes = (size_t)(value++ - word);
    for (size_t i = 0; i < array_count(numbers); i++)
        if (strlen(numbers[i].key) == key_bytes && memcmp(numbers[i].key, word, key_bytes) == 0)
            return number_take(word, value, numbers[i].number, error);
    char *text = strncmp(word, "weights=", 8) == 0 ? cell->weights
                 : strncmp(word, "kv=", 3) == 0    ? cell->kv
                                                   : NULL;
    if (!text || strlen(value) >= sizeof cell->kv)
        return error_set(error, STATUS_INVALID, "no cell has %s", word);
    snprintf(text, sizeof cell->kv, "%s", value);
    return STATUS_OK;
}

enum status cell_parse(const char *line, struct cell *ret_cell, struct error *error)
{
    struct cell cell = {0};
    char words[512], *rest = words;
    if (strlen(line) >= sizeof words)
        return error_set(error, STATUS_INVALID, "a cell's line has at most %zu bytes",
                         sizeof words - 1);
    snprintf(words, sizeof words, "%s", line);
    const char *name = strtok_r(words, " \n", &rest), *kind = strtok_r(NULL, " \n", &rest);
    if (!name || !kind || strlen(name) >= sizeof cell.name || strlen(kind) >= sizeof cell.kind)
        return error_set(error, STATUS_INVALID, "expected NAME KIND key=value..., not: %s", line);
    snprintf(cell.name, sizeof cell.name, "%s", name);
    snprintf(cell.kind, sizeof cell.kind, "%s", kind);
    for (char *word; (word = strtok_r(NULL, " \n", &rest));) {
        enum status status = word_take(&cell, word, error);
        if (status != STATUS_OK)
            return status;
    }
    *ret_cell = cell;
    return STATUS_OK;
}

/* ---- copies and launches ---- */

enum status cell_copy(struct card *card, const struct cell *cell, struct measured *ret_measured,
                      struct error *error)
{
    size_t bytes = (size_t)cell->mib << 20;
    struct measured m = {.bytes = 2.0 * (double)bytes};
    enum status status = card_copy_time(card, bytes, &m.seconds, error);
    if (status == STATUS_OK)
        *ret_measured = m;
    return status;
}

struct small {
    struct card *card;
    float *in, *out;
    uint32_t row;
};

static void small_work(void *context, uint32_t index)
{
    struct small *s = context;
    s->card->ops->rows_gather(
        s->card->device,
        &(struct rows_gather_args){
            .n_out = 1, .n = 64, .host_rows = &s->row, .in = s->in, .out = s->out});
}

enum status cell_floor(struct card *card, const struct cell *cell, struct measured *ret_measured,
                       struct error *error)
{
    struct small s = {.card = card};
    struct measured m = {0};
    enum status status = card_buffer(card, 64, true, &s.in, error);
    if (status == STATUS_OK)
        status = card_buffer(card, 64, false, &s.out, error);
    if (status == STATUS_OK)
        status = card_time(card, small_work, &s, 256, &m.seconds, error);
    card->ops->buffer_free(card->device, s.in);
    card->ops->buffer_free(card->device, s.out);
    if (status == STATUS_OK)
        *ret_measured = m;
    return status;
}

/* ---- products ---- */

struct product {
    struct card *card;
    struct weight *weight;
    float *in, *out;
    uint32_t rows;
};

static void product_work(void *context, uint32_t index)
{
    const struct product *p = context;
    p->card->ops->linear(
        p->card->device,
        &(struct linear_args){.weight = p->weight, .n_rows = p->rows, .in = p->in, .out = p->out});
}

static enum status product_open(struct product *p, enum dtype dtype, uint32_t n, uint32_t k,
                                struct error *error)
{
    struct card_matrix matrix = {
        .dtype = dtype, .stack_count = 1, .in_count = k, .n_parts = 1, .out_counts = {n}};
    enum status status = card_weight(p->card, &matrix, &p->weight, error);
    if (status == STATUS_OK)
        status = card_buffer(p->card, (size_t)p->rows * k, true, &p->in, error);
    if (status == STATUS_OK)
        status = card_buffer(p->card, (size_t)p->rows * n, false, &p->out, error);
    return status;
}

static void product_close(struct product *p)
{
    const struct ops *ops = p->card->ops;
    ops->buffer_free(p->card->device, p->in);
    ops->buffer_free(p->card->device, p->out);
    if (p->weight)
        ops->weight_free(p->card->device, p->weight);
}

enum status cell_product(struct card *card, const struct cell *cell, struct measured *ret_measured,
                         struct error *error)
{
    struct product p = {.card = card, .rows = cell->rows};
    struct measured m = {.flops = 2.0 * cell->n * cell->k * cell->rows};
    enum dtype dtype;
    enum status status = card_dtype(cell->weights, &dtype, error);
    if (status == STATUS_OK)
        status = product_open(&p, dtype, cell->n, cell->k, error);
    if (status == STATUS_OK)
        status = card_time(card, product_work, &p, 64, &m.seconds, error);
    if (status == STATUS_OK) {
        m.bytes = (double)card->ops->weight_bytes(p.weight);
        *ret_measured = m;
    }
    product_close(&p);
    return status;
}

/* The products of a layer, as forward.c has them: q, k, v; output; gate and up with down. */
struct layer_products {
    struct card *card;
    const struct cell *cell;
    struct product qkv, output;
    struct weight *gate_up, *down;
    float *in, *out; /* [rows][hidden] */
};

static void feed_work(void *context, uint32_t index)
{
    const struct layer_products *l = context;
    l->card->ops->mlp(l->card->device, &(struct mlp_args){.n_rows = l->cell->rows,
                                                          .hidden = l->cell->hidden,
                                                          .intermediate = l->cell->ffn,
                                                          .gate_up = l->gate_up,
                                                          .down = l->down,
                                                          .in = l->in,
                                                          .out = l->out});
}

static void layer_work(void *context, uint32_t index)
{
    struct layer_products *l = context;
    product_work(&l->qkv, index);
    product_work(&l->output, index);
    feed_work(l, index);
}

static enum status layer_open(struct layer_products *l, enum dtype dtype, struct error *error)
{
    const struct cell *c = l->cell;
    struct card_matrix gate_up = {.dtype = dtype,
                                  .stack_count = 1,
                                  .in_count = c->hidden,
                                  .n_parts = 2,
                                  .out_counts = {c->ffn, c->ffn},
                                  .paired = true};
    struct card_matrix down = {.dtype = dtype,
                               .stack_count = 1,
                               .in_count = c->ffn,
                               .n_parts = 1,
                               .out_counts = {c->hidden}};
    size_t values = (size_t)c->rows * c->hidden;
    enum status status =
        product_open(&l->qkv, dtype, (c->heads + 2 * c->kv_heads) * c->head_dim, c->hidden, error);
    if (status == STATUS_OK)
        status = product_open(&l->output, dtype, c->hidden, c->heads * c->head_dim, error);
    if (status == STATUS_OK)
        status = card_weight(l->card, &gate_up, &l->gate_up, error);
    if (status == STATUS_OK)
        status = card_weight(l->card, &down, &l->down, error);
    if (status == STATUS_OK)
        status = card_buffer(l->card, values, true, &l->in, error);
    if (status == STATUS_OK)
        status = card_buffer(l->card, values, false, &l->out, error);
    return status;
}

static void layer_close(struct layer_products *l)
{
    const struct ops *ops = l->card->ops;
    product_close(&l->qkv);
    product_close(&l->output);
    if (l->gate_up)
        ops->weight_free(l->card->device, l->gate_up);
    if (l->down)
        ops->weight_free(l->card->device, l->down);
    ops->buffer_free(l->card->device, l->in);
    ops->buffer_free(l->card->device, l->out);
}

enum status cell_gaps(struct card *card, const struct cell *cell, struct measured *ret_measured,
                      struct error *error)
{
    struct layer_products l = {.card = card,
                               .cell = cell,
                               .qkv = {.card = card, .rows = cell->rows},
                               .output = {.card = card, .rows = cell->rows}};
    struct measured m = {0};
    double alone[3] = {0};
    enum dtype dtype;
    enum status status = card_dtype(cell->weights, &dtype, error);
    if (status == STATUS_OK)
        status = layer_open(&l, dtype, error);
    if (status == STATUS_OK)
        status = card_time(card, product_work, &l.qkv, 16, &alone[0], error);
    if (status == STATUS_OK)
        status = card_time(card, product_work, &l.output, 16, &alone[1], error);
    if (status == STATUS_OK)
        status = card_time(card, feed_work, &l, 16, &alone[2], error);
    if (status == STATUS_OK)
        status = card_time(card, layer_work, &l, 16, &m.seconds, error);
    m.alone = alone[0] + alone[1] + alone[2];
    if (status == STATUS_OK)
        *ret_measured = m;
    layer_close(&l);
    return status;
}
