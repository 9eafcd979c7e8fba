#include "model/weights.h"

#include "kernels/source.h"

#define PAGE_BYTES 4096
#define MIB 0x1p20

/* What packing carries along; `status` is the first error, and later calls do nothing then. */
struct packer {
    struct weights *weights;
    const struct binding *binding;
    const struct model_progress *progress;
    struct quantiser *quantiser;
    uint32_t threads_count;
    struct pool *pool; /* opened for the first packed part */
    uint64_t done_bytes, all_bytes;
    uint32_t percent; /* last one told */
    struct error *error;
    enum status status;
};

static uint64_t matrix_bytes(const struct matrix_binding *matrix, uint32_t widens)
{
    return matrix->source.stack_count ? round_up(source_bytes(&matrix->source, widens), PAGE_BYTES)
                                      : 0;
}

static uint32_t bias_count(const struct bias_binding *bias)
{
    uint32_t count = 0;
    for (uint32_t p = 0; p < bias->n_parts; p++)
        count += (uint32_t)bias->parts[p]->dims[0];
    return count;
}

static uint64_t bias_bytes(const struct bias_binding *bias)
{
    return round_up(bias_count(bias) * sizeof(float), PAGE_BYTES);
}

uint64_t weights_plan_bytes(const struct arch *arch, const struct binding *binding, uint32_t widens)
{
    uint64_t norm_bytes = round_up((size_t)arch->hidden * sizeof(float), PAGE_BYTES);
    uint64_t bytes =
        matrix_bytes(&binding->embed, widens) + matrix_bytes(&binding->head, widens) + norm_bytes;
    for (uint32_t i = 0; i < binding->n_layers; i++) {
        const struct layer_binding *l = &binding->layers[i];
        const struct matrix_binding *const matrices[] = {&l->qkv, &l->output, &l->router,
                                                         &l->gate_up, &l->down};
        bytes += 2 * norm_bytes;
        for (size_t m = 0; m < array_count(matrices); m++)
            bytes += matrix_bytes(matrices[m], widens);
        bytes += bias_bytes(&l->qkv_bias) + bias_bytes(&l->output_bias) +
                 bias_bytes(&l->gate_up_bias) + bias_bytes(&l->down_bias);
    }
    return bytes;
}

static void advance(struct packer *p, uint64_t bytes)
{
    p->done_bytes += bytes;
    uint32_t percent = (uint32_t)(p->done_bytes * 100 / p->all_bytes);
    if (p->progress && p->progress->report && percent > p->percent)
        p->progress->report(p->progress->context,
                            p->quantiser && p->quantiser->makes ? MODEL_QUANTISING : MODEL_LOADING,
                            percent);
    p->percent = u32_max(p->percent, percent);
}

/*
 * Puts the rows of one part back in the order of halves: within a head, the file has rows
 * 0, h, 1, h+1, ... where h is half of head_dim. Whole rows move, so block types stay as they are.
 */
static void *rows_ordered(const struct weight_part *part, uint32_t in_count, uint32_t n_heads)
{
    size_t row_bytes =
        (size_t)in_count / dtype_block_count(part->dtype) * dtype_block_bytes(part->dtype);
    uint32_t head_dim = part->out_count / n_heads, half = head_dim / 2;
    uint8_t *ordered = malloc(part->out_count * row_bytes);
    for (uint32_t row = 0; ordered && row < part->out_count; row++) {
        uint32_t head = row / head_dim, in_head = row % head_dim;
        uint32_t from = head * head_dim + in_head % half * 2 + in_head / half;
        memcpy(ordered + row * row_bytes, (const uint8_t *)part->data + from * row_bytes,
               row_bytes);
    }
    return ordered;
}

/* A NaN would come back from every step that meets it: it is told now, with the tensor's name.
 * `first` is where in the tensor the values begin. */
static void finite_check(struct packer *p, const struct tensor *tensor, const void *values,
                         size_t first, size_t count)
{
    if (p->status)
        return;
    size_t at = dtype_find_not_finite(tensor->dtype, values, count);
    if (at < count)
        p->status = tensor_not_finite(tensor, p->binding->path, first + at, p->error);
}

/* Parts that are quantised are looked at when they are made. */
static void matrix_check(struct packer *p, const struct matrix_binding *matrix)
{
    for (uint32_t i = 0; i < matrix->source.stack_count * matrix->source.n_parts; i++) {
        const struct weight_part *part = &matrix->parts[i];
        const struct tensor *tensor = matrix->tensors[i];
        size_t count = (size_t)part->out_count * matrix->source.in_count;
        size_t stack_index = tensor->n_dims > 2 ? i / matrix->source.n_parts : 0;
        if (part->data)
            finite_check(p, tensor, part->data, stack_index * count, count);
    }
}

/* What a matrix is packed from, where that is not its file. */
struct made {
    struct weight_part *parts; /* all of the matrix: [stack_count][n_parts] */
    uint8_t *rows;             /* of those that their file holds in 8 or 4 bits */
    void *ordered[BINDING_PARTS_MAX];
};

static void made_free(struct made *made)
{
    for (uint32_t i = 0; i < BINDING_PARTS_MAX; i++)
        free(made->ordered[i]);
    free(made->parts);
    free(made->rows);
}

static bool is_packed(const struct matrix_binding *matrix, uint32_t part)
{
    return matrix->packed && matrix->packed[part].kind != PACKING_NONE;
}

static void packed_parts_make(struct packer *p, const struct matrix_binding *matrix,
                              struct made *made)
{
    uint32_t n = matrix->source.stack_count * matrix->source.n_parts;
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += is_packed(matrix, i) ? packed_bytes(&matrix->packed[i]) : 0;
    if (p->status || bytes == 0)
        return;
    made->rows = malloc(bytes);
    if (!made->rows) {
        p->status = error_set(p->error, STATUS_EXHAUSTED,
                              "weights: no memory for %zu bytes made of packed tensors", bytes);
        return;
    }
    if (!p->pool)
        p->status = pool_open(p->threads_count ? p->threads_count : pool_threads_default(),
                              &p->pool, p->error);
    uint8_t *at = made->rows;
    for (uint32_t i = 0; i < n && !p->status; i++) {
        if (!is_packed(matrix, i))
            continue;
        p->status = packed_make(p->pool, &matrix->packed[i], p->binding->path, at, p->error);
        made->parts[i].data = at;
        at += packed_bytes(&matrix->packed[i]);
    }
}

static void heads_order(struct packer *p, const struct matrix_binding *matrix, struct made *made)
{
    for (uint32_t i = 0; i < BINDING_PARTS_MAX && !p->status; i++) {
        if (!matrix->interleaved_heads[i])
            continue;
        CHECK(matrix->source.stack_count == 1 && i < matrix->source.n_parts);
        made->ordered[i] =
            rows_ordered(&made->parts[i], matrix->source.in_count, matrix->interleaved_heads[i]);
        made->parts[i].data = made->ordered[i];
        if (!made->ordered[i])
            p->status = error_set(p->error, STATUS_EXHAUSTED, "weights: out of memory");
    }
}

static void pack(struct packer *p, const struct matrix_binding *matrix, struct weight **ret_weight)
{
    struct weight_source source = matrix->source;
    size_t n = (size_t)source.stack_count * source.n_parts;
    struct made made = {0};
    matrix_check(p, matrix);
    if (p->status || n == 0)
        return;
    made.parts = malloc(n * sizeof *made.parts);
    if (made.parts)
        memcpy(made.parts, matrix->parts, n * sizeof *made.parts);
    else
        p->status = error_set(p->error, STATUS_EXHAUSTED, "weights: out of memory");
    packed_parts_make(p, matrix, &made);
    if (!p->status && matrix->n_quantised)
        p->status = quantiser_parts(p->quantiser, matrix, made.parts, p->error);
    heads_order(p, matrix, &made);
    source.parts = made.parts;
    if (!p->status)
        p->status = p->weights->ops->weight_pack(p->weights->device, &source, ret_weight, p->error);
    made_free(&made);
    advance(p, matrix_bytes(matrix, p->weights->ops->widens));
}

/* `values`: what is wanted is there, and the device is what has no room for it. */
static void upload_fail(struct packer *p, const float *values, size_t bytes)
{
    const struct ops *ops = p->weights->ops;
    if (!values || !ops->memory_free_bytes)
        p->status = error_set(p->error, STATUS_EXHAUSTED, "weights: out of memory");
    else
        p->status = error_set(p->error, STATUS_EXHAUSTED,
                              "backend %s: no memory for weights: %.2f MiB are needed, %.2f MiB of "
                              "the device are free: use a smaller or more quantised model, or "
                              "lower kv_memory",
                              ops->name, (double)bytes / MIB,
                              (double)ops->memory_free_bytes(p->weights->device) / MIB);
}

/* One matrix alone says little of a model that does not fit. */
static void exhausted_tell_all(struct packer *p)
{
    char text[ERROR_TEXT_MAX_BYTES];
    if (p->status != STATUS_EXHAUSTED || !p->error || !p->weights->ops->memory_free_bytes)
        return;
    snprintf(text, sizeof text, "%s", p->error->text);
    error_set(p->error, p->status, "%s (all weights: %.1f MiB)", text, (double)p->all_bytes / MIB);
}

/* Host values to a buffer of the device. */
static void upload(struct packer *p, const float *values, size_t count, float **ret_buffer)
{
    const struct weights *w = p->weights;
    if (p->status)
        return;
    float *buffer = w->ops->buffer_alloc(w->device, count * sizeof *buffer);
    if (!values || !buffer) {
        upload_fail(p, values, count * sizeof *buffer);
        if (buffer)
            w->ops->buffer_free(w->device, buffer);
        return;
    }
    w->ops->buffer_write(w->device, buffer, values, count * sizeof *buffer);
    *ret_buffer = buffer;
}

static void load_norm(struct packer *p, const struct tensor *tensor, float **ret_norm)
{
    size_t count = (size_t)tensor->dims[0];
    finite_check(p, tensor, tensor->data, 0, count);
    if (p->status)
        return;
    float *wide = malloc(count * sizeof *wide);
    if (wide)
        dtype_widen(tensor->dtype, tensor->data, count, wide);
    upload(p, wide, count, ret_norm);
    free(wide);
    advance(p, round_up(count * sizeof *wide, PAGE_BYTES));
}

/* A bias's rows are in the order of its matrix: those of q and k may need to be put back. */
static void load_bias(struct packer *p, const struct bias_binding *bias,
                      const struct matrix_binding *matrix, float **ret_bias)
{
    size_t count = bias_count(bias), at = 0;
    if (p->status || count == 0)
        return;
    float *wide = malloc(count * sizeof *wide);
    for (uint32_t i = 0; wide && i < bias->n_parts && !p->status; i++) {
        const struct tensor *tensor = bias->parts[i];
        uint32_t n_heads = matrix->interleaved_heads[i];
        finite_check(p, tensor, tensor->data, 0, (size_t)tensor->dims[0]);
        struct weight_part part = {
            .dtype = tensor->dtype, .out_count = (uint32_t)tensor->dims[0], .data = tensor->data};
        void *ordered = n_heads ? rows_ordered(&part, 1, n_heads) : NULL;
        if (n_heads && !ordered)
            p->status = error_set(p->error, STATUS_EXHAUSTED, "weights: out of memory");
        else
            dtype_widen(tensor->dtype, ordered ? ordered : tensor->data, part.out_count, wide + at);
        free(ordered);
        at += part.out_count;
    }
    upload(p, wide, count, ret_bias);
    free(wide);
    advance(p, bias_bytes(bias));
}

static void load_rope_divisors(struct packer *p, const struct tensor *tensor)
{
    if (p->status || !tensor)
        return;
    p->weights->rope_divisors = malloc(tensor->size_bytes);
    if (p->weights->rope_divisors)
        memcpy(p->weights->rope_divisors, tensor->data, tensor->size_bytes);
    else
        p->status = error_set(p->error, STATUS_EXHAUSTED, "weights: out of memory");
}

static void pack_layer(struct packer *p, const struct layer_binding *from, struct layer_weights *to)
{
    load_norm(p, from->attention_norm, &to->attention_norm);
    pack(p, &from->qkv, &to->qkv);
    pack(p, &from->output, &to->output);
    load_norm(p, from->mlp_norm, &to->mlp_norm);
    pack(p, &from->router, &to->router);
    pack(p, &from->gate_up, &to->gate_up);
    pack(p, &from->down, &to->down);
    load_bias(p, &from->qkv_bias, &from->qkv, &to->qkv_bias);
    load_bias(p, &from->output_bias, &from->output, &to->output_bias);
    load_bias(p, &from->gate_up_bias, &from->gate_up, &to->gate_up_bias);
    load_bias(p, &from->down_bias, &from->down, &to->down_bias);
}

enum status weights_open(const struct weights_options *options, const struct binding *binding,
                         struct weights *ret_weights, struct error *error)
{
    struct weights weights = {
        .ops = options->ops, .device = options->device, .n_layers = binding->n_layers};
    struct arch shape = {.hidden = (uint32_t)binding->final_norm->dims[0]};
    struct packer p = {.weights = &weights,
                       .binding = binding,
                       .progress = options->progress,
                       .quantiser = options->quantiser,
                       .threads_count = options->threads_count,
                       .all_bytes = weights_plan_bytes(&shape, binding, options->ops->widens),
                       .error = error};
    weights.layers = calloc(weights.n_layers, sizeof *weights.layers);
    if (!weights.layers)
        p.status = error_set(error, STATUS_EXHAUSTED, "weights: out of memory");
    pack(&p, &binding->embed, &weights.embed);
    if (binding->head.source.stack_count)
        pack(&p, &binding->head, &weights.head);
    else
        weights.head = weights.embed;
    load_norm(&p, binding->final_norm, &weights.final_norm);
    load_rope_divisors(&p, binding->rope_divisors);
    for (uint32_t i = 0; i < weights.n_layers && !p.status; i++)
        pack_layer(&p, &binding->layers[i], &weights.layers[i]);
    pool_close(p.pool);
    exhausted_tell_all(&p);
    if (p.status)
        weights_close(&weights);
    else
        *ret_weights = weights;
    return p.status;
}

static void weight_drop(struct weights *w, struct weight *weight)
{
    if (weight)
        w->ops->weight_free(w->device, weight);
}

static void buffer_drop(struct weights *w, void *buffer)
{
    if (buffer)
        w->ops->buffer_free(w->device, buffer);
}

void weights_close(struct weights *weights)
{
    for (uint32_t i = 0; weights->layers && i < weights->n_layers; i++) {
        struct layer_weights *l = &weights->layers[i];
        buffer_drop(weights, l->attention_norm);
        buffer_drop(weights, l->mlp_norm);
        weight_drop(weights, l->qkv);
        weight_drop(weights, l->output);
        weight_drop(weights, l->router);
        weight_drop(weights, l->gate_up);
        weight_drop(weights, l->down);
        buffer_drop(weights, l->qkv_bias);
        buffer_drop(weights, l->output_bias);
        buffer_drop(weights, l->gate_up_bias);
        buffer_drop(weights, l->down_bias);
    }
    free(weights->layers);
    free(weights->rope_divisors);
    buffer_drop(weights, weights->final_norm);
    if (weights->head != weights->embed)
        weight_drop(weights, weights->head);
    weight_drop(weights, weights->embed);
    *weights = (struct weights){0};
}

uint64_t weights_decode_bytes(const struct weights *weights, const struct arch *arch)
{
    const struct ops *ops = weights->ops;
    uint64_t bytes = ops->weight_bytes(weights->head);
    if (weights->head != weights->embed)
        bytes += ops->weight_bytes(weights->embed) / arch->vocab;
    bytes += (uint64_t)(2 * arch->n_layers + 1) * arch->hidden * sizeof(float);
    for (uint32_t i = 0; i < weights->n_layers; i++) {
        const struct layer_weights *l = &weights->layers[i];
        uint64_t mlp = ops->weight_bytes(l->gate_up) + ops->weight_bytes(l->down);
        if (l->router)
            mlp = mlp / arch->n_experts * arch->top_k + ops->weight_bytes(l->router);
        bytes += ops->weight_bytes(l->qkv) + ops->weight_bytes(l->output) + mlp;
    }
    return bytes;
}
