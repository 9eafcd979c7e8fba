#include "model/packed.h"

#include <math.h>
#include <stdatomic.h>

#define NAME_MAX_BYTES 160
#define DTYPES_FLOAT (1u << DTYPE_F32 | 1u << DTYPE_F16 | 1u << DTYPE_BF16)
#define TILE_ROWS 16 /* of one item of the pool: 64 bytes of words of GPTQ lie side by side */
#define BLOCK 32     /* of Q4_0 and Q4_1 */
#define F8_BLOCK 128
#define SYMMETRIC_ZERO 8

/* ---- found ---- */

static uint32_t ceil_div(uint32_t n, uint32_t d)
{
    return n / d + (n % d != 0);
}

/* "a.b.weight" and "scales" are "a.b.scales". */
static void sibling(const char *name, const char *suffix, char ret_name[NAME_MAX_BYTES])
{
    size_t length = strlen(name) - strlen("weight");
    snprintf(ret_name, NAME_MAX_BYTES, "%.*s%s", (int)length, name, suffix);
}

static bool is_stored_as(const struct tensor *tensor, const char *type)
{
    return tensor && strcmp(tensor->type_name, type) == 0;
}

/* Whether the tensor of that name has this shape; it may be absent. */
static bool shape_is(const struct weights_file *file, const char *name,
                     const struct tensor_want *want)
{
    const struct tensor *tensor = tensor_list_find(&file->list, name);
    bool same = tensor && tensor->n_dims == want->n_dims;
    for (uint32_t d = 0; same && d < want->n_dims; d++)
        same = tensor->dims[d] == want->dims[d];
    return same;
}

static enum status f8_scales_take(struct weights_file *file, const char *name,
                                  struct packed_part *part, struct error *error)
{
    const struct packing *packing = &file->arch.packing;
    char other[NAME_MAX_BYTES], scale[NAME_MAX_BYTES];
    struct tensor_want want = {.dtypes = DTYPES_FLOAT, .n_dims = 2, .dims = {part->out_count, 1}};
    const struct tensor_want one[] = {{.dtypes = DTYPES_FLOAT, .n_dims = 0},
                                      {.dtypes = DTYPES_FLOAT, .n_dims = 1, .dims = {1}},
                                      {.dtypes = DTYPES_FLOAT, .n_dims = 2, .dims = {1, 1}}};
    const struct tensor_want rows = {
        .dtypes = DTYPES_FLOAT, .n_dims = 1, .dims = {part->out_count}};
    sibling(name, "weight_scale_inv", scale);
    sibling(name, "weight_scale", other);
    if (!tensor_list_find(&file->list, scale) && tensor_list_find(&file->list, other))
        memcpy(scale, other, sizeof scale);
    part->scale_rows = 1;
    part->scale_columns = part->in_count;
    if (packing->block_rows) {
        part->scale_rows = packing->block_rows;
        part->scale_columns = packing->block_columns;
        want.dims[0] = ceil_div(part->out_count, packing->block_rows);
        want.dims[1] = ceil_div(part->in_count, packing->block_columns);
    } else if (shape_is(file, scale, &rows)) {
        want = rows;
    }
    for (size_t i = 0; i < array_count(one) && !packing->block_rows; i++)
        if (shape_is(file, scale, &one[i])) {
            want = one[i];
            part->scale_rows = part->out_count;
        }
    return weights_file_take(file, scale, &want, &part->scales, error);
}

static enum status f8_find(struct weights_file *file, const char *name, struct packed_part *part,
                           struct error *error)
{
    const struct tensor_want want = {
        .stored = "F8_E4M3", .n_dims = 2, .dims = {part->out_count, part->in_count}};
    part->dtype = part->in_count % F8_BLOCK ? DTYPE_BF16 : DTYPE_F8_E4M3;
    enum status status = weights_file_take(file, name, &want, &part->values, error);
    return status ? status : f8_scales_take(file, name, part, error);
}

static int32_t word_at(const struct tensor *tensor, size_t at)
{
    int32_t word;
    memcpy(&word, tensor->data + at * sizeof word, sizeof word);
    return word;
}

static enum status order_check(const struct weights_file *file, const struct tensor *order,
                               uint32_t group, struct error *error)
{
    for (uint32_t i = 0; i < order->dims[0]; i++)
        if (word_at(order, i) != (int32_t)(i / group))
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: tensor %.*s: column %u is of group %d, expected %u: columns out "
                             "of order (desc_act) are not supported; use a checkpoint that was "
                             "made with desc_act false",
                             file->path, (int)order->name.size_bytes, order->name.data, i,
                             word_at(order, i), i / group);
    return STATUS_OK;
}

static enum status bits_find(struct weights_file *file, const char *name, struct packed_part *part,
                             struct error *error)
{
    const struct packing *packing = &file->arch.packing;
    bool gptq = packing->kind == PACKING_GPTQ;
    uint32_t out = part->out_count, in = part->in_count;
    char values[NAME_MAX_BYTES], zeros[NAME_MAX_BYTES], scales[NAME_MAX_BYTES],
        order[NAME_MAX_BYTES];
    sibling(name, "qweight", values);
    sibling(name, "qzeros", zeros);
    sibling(name, "scales", scales);
    sibling(name, "g_idx", order);
    if (in % BLOCK || out % 8)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: tensor %s: %u outputs of %u columns, expected multiples of 8 and 32",
                         file->path, values, out, in);
    uint32_t group = packing->group_columns ? packing->group_columns : in;
    uint32_t n_groups = ceil_div(in, group);
    part->dtype = packing->symmetric ? DTYPE_Q4_0 : DTYPE_Q4_1;
    part->scale_rows = 1;
    part->scale_columns = group;
    part->zero_offset = packing->zero_offset;
    struct tensor_want want_values = {.stored = "I32", .n_dims = 2, .dims = {in / 8, out}};
    if (!gptq)
        want_values.dims[0] = in, want_values.dims[1] = out / 8;
    const struct tensor_want want_zeros = {
        .stored = "I32", .n_dims = 2, .dims = {n_groups, out / 8}};
    const struct tensor_want want_scales = {
        .dtypes = DTYPES_FLOAT, .n_dims = 2, .dims = {n_groups, out}};
    const struct tensor_want want_order = {.stored = "I32", .n_dims = 1, .dims = {in}};
    const struct tensor *in_order = NULL;
    enum status status = weights_file_take(file, values, &want_values, &part->values, error);
    if (!status)
        status = weights_file_take(file, zeros, &want_zeros, &part->zeros, error);
    if (!status)
        status = weights_file_take(file, scales, &want_scales, &part->scales, error);
    if (!status && gptq)
        status = weights_file_take_optional(file, order, &want_order, &in_order, error);
    return status || !in_order ? status : order_check(file, in_order, group, error);
}

enum status packed_find(struct weights_file *file, const char *name, uint32_t out_count,
                        uint32_t in_count, struct packed_part *ret_part, struct error *error)
{
    struct packed_part part = {
        .kind = file->arch.packing.kind, .out_count = out_count, .in_count = in_count};
    enum status status = STATUS_OK;
    char values[NAME_MAX_BYTES];
    sibling(name, "qweight", values);
    if (part.kind == PACKING_F8 && is_stored_as(tensor_list_find(&file->list, name), "F8_E4M3"))
        status = f8_find(file, name, &part, error);
    else if (part.kind > PACKING_F8 && tensor_list_find(&file->list, values))
        status = bits_find(file, name, &part, error);
    else
        part.kind = PACKING_NONE;
    if (!status)
        *ret_part = part;
    return status;
}

/* ---- made ---- */

static size_t row_bytes(const struct packed_part *part)
{
    return (size_t)part->in_count / dtype_block_count(part->dtype) * dtype_block_bytes(part->dtype);
}

size_t packed_bytes(const struct packed_part *part)
{
    return row_bytes(part) * part->out_count;
}

/* The lowest places of what is wrong, whatever the order of the rows. */
struct findings {
    atomic_size_t value, scale, large, zero;
};

struct make {
    const struct packed_part *part;
    uint8_t *rows;
    struct findings findings; /* SIZE_MAX: none */
};

static void found(atomic_size_t *finding, size_t at)
{
    size_t seen = atomic_load(finding);
    while (at < seen && !atomic_compare_exchange_weak(finding, &seen, at))
        continue;
}

static float scale_at(struct make *make, size_t at, float most)
{
    const struct tensor *scales = make->part->scales;
    float scale;
    dtype_widen(scales->dtype, scales->data + at * dtype_block_bytes(scales->dtype), 1, &scale);
    if (!isfinite(scale))
        found(&make->findings.scale, at);
    else if (fabsf(scale) > most)
        found(&make->findings.large, at);
    return scale;
}

static void f8_row(struct make *make, uint32_t o)
{
    const struct packed_part *part = make->part;
    const uint8_t *from = part->values->data + (size_t)o * part->in_count;
    uint8_t *to = make->rows + o * row_bytes(part);
    size_t first = (size_t)(o / part->scale_rows) * ceil_div(part->in_count, part->scale_columns);
    uint8_t block[4 + F8_BLOCK];
    for (uint32_t k = 0; k < part->in_count; k += F8_BLOCK) {
        uint32_t n = u32_min(F8_BLOCK, part->in_count - k);
        float scale = scale_at(make, first + k / part->scale_columns, F8_SCALE_MAX);
        memset(block, 0, sizeof block);
        memcpy(block, &scale, sizeof scale);
        memcpy(block + sizeof scale, from + k, n);
        if (isfinite(scale)) {
            size_t bad = dtype_find_not_finite(DTYPE_F8_E4M3, block, F8_BLOCK);
            if (bad < F8_BLOCK)
                found(&make->findings.value, (size_t)o * part->in_count + k + bad);
        }
        if (part->dtype == DTYPE_F8_E4M3) {
            memcpy(to + k / F8_BLOCK * sizeof block, block, sizeof block);
            continue;
        }
        float values[F8_BLOCK];
        dtype_widen(DTYPE_F8_E4M3, block, F8_BLOCK, values);
        for (uint32_t i = 0; i < n; i++) {
            uint16_t half = dtype_bf16(values[i]);
            memcpy(to + (size_t)(k + i) * sizeof half, &half, sizeof half);
        }
    }
}

/* The eight nibbles of a word, the lowest first, a byte each. */
static uint64_t nibbles_spread(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

/* Where an output of eight is in a word of AWQ. */
static const uint8_t awq_shifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};

/* Block b of output o: byte i has value i and, above it, value i + 16. */
static void bits_block(const struct packed_part *part, uint32_t o, uint32_t b, uint8_t *ret_quants)
{
    const struct tensor *values = part->values;
    if (part->kind == PACKING_GPTQ) {
        uint64_t eights[4], pairs[2];
        for (uint32_t i = 0; i < 4; i++)
            eights[i] = nibbles_spread(
                (uint32_t)word_at(values, ((size_t)b * 4 + i) * part->out_count + o));
        pairs[0] = eights[0] | eights[2] << 4;
        pairs[1] = eights[1] | eights[3] << 4;
        memcpy(ret_quants, pairs, sizeof pairs);
        return;
    }
    uint32_t shift = awq_shifts[o % 8];
    size_t stride = part->out_count / 8, first = (size_t)b * BLOCK * stride + o / 8;
    for (uint32_t i = 0; i < BLOCK / 2; i++) {
        uint32_t low = (uint32_t)word_at(values, first + i * stride) >> shift & 15;
        uint32_t high = (uint32_t)word_at(values, first + (i + 16) * stride) >> shift & 15;
        ret_quants[i] = (uint8_t)(low | high << 4);
    }
}

static uint32_t zero_at(struct make *make, uint32_t group, uint32_t o)
{
    const struct packed_part *part = make->part;
    uint32_t shift = part->kind == PACKING_AWQ ? awq_shifts[o % 8] : o % 8 * 4;
    size_t at = (size_t)group * (part->out_count / 8) + o / 8;
    uint32_t zero = ((uint32_t)word_at(part->zeros, at) >> shift & 15) + part->zero_offset;
    if (part->dtype == DTYPE_Q4_0 && zero != SYMMETRIC_ZERO)
        found(&make->findings.zero, at);
    return zero;
}

#define F16_MOST 65504.0f

static void bits_rows(struct make *make, uint32_t first, uint32_t n)
{
    const struct packed_part *part = make->part;
    uint32_t block_bytes = dtype_block_bytes(part->dtype);
    uint16_t heads[TILE_ROWS][2] = {{0}};
    for (uint32_t b = 0; b < part->in_count / BLOCK; b++)
        for (uint32_t i = 0; i < n; i++) {
            uint32_t o = first + i, group = b * BLOCK / part->scale_columns;
            if (b * BLOCK % part->scale_columns == 0) {
                uint32_t zero = zero_at(make, group, o);
                float most = part->dtype == DTYPE_Q4_1 ? F16_MOST / 16 : F16_MOST;
                float scale = scale_at(make, (size_t)group * part->out_count + o, most);
                heads[i][0] = dtype_f16(scale);
                dtype_widen(DTYPE_F16, heads[i], 1, &scale);
                heads[i][1] = dtype_f16(-scale * (float)zero);
            }
            uint8_t *block = make->rows + o * row_bytes(part) + (size_t)b * block_bytes;
            size_t head_bytes = part->dtype == DTYPE_Q4_1 ? 4 : 2;
            memcpy(block, heads[i], head_bytes);
            bits_block(part, o, b, block + head_bytes);
        }
}

static void tile_make(void *context, uint32_t thread, uint32_t item)
{
    struct make *make = context;
    uint32_t first = item * TILE_ROWS, n = u32_min(TILE_ROWS, make->part->out_count - first);
    (void)thread;
    if (make->part->kind != PACKING_F8)
        bits_rows(make, first, n);
    for (uint32_t i = 0; i < n && make->part->kind == PACKING_F8; i++)
        f8_row(make, first + i);
}

enum status packed_make(struct pool *pool, const struct packed_part *part, const char *path,
                        void *ret_rows, struct error *error)
{
    struct make make = {.part = part, .rows = ret_rows};
    struct findings *f = &make.findings;
    CHECK(part->kind != PACKING_NONE);
    atomic_init(&f->value, SIZE_MAX);
    atomic_init(&f->scale, SIZE_MAX);
    atomic_init(&f->large, SIZE_MAX);
    atomic_init(&f->zero, SIZE_MAX);
    pool_run(pool, tile_make, &make, ceil_div(part->out_count, TILE_ROWS));
    const struct span scales = part->scales->name;
    if (atomic_load(&f->scale) < SIZE_MAX)
        return tensor_not_finite(part->scales, path, atomic_load(&f->scale), error);
    if (atomic_load(&f->value) < SIZE_MAX)
        return tensor_not_finite(part->values, path, atomic_load(&f->value), error);
    if (atomic_load(&f->large) < SIZE_MAX)
        return error_set(error, STATUS_INVALID,
                         "%s: tensor %.*s: value %zu is too large for a scale, expected at most "
                         "%g: the file is damaged, or its maker was; get it again",
                         path, (int)scales.size_bytes, scales.data, atomic_load(&f->large),
                         part->kind == PACKING_F8    ? (double)F8_SCALE_MAX
                         : part->dtype == DTYPE_Q4_1 ? (double)F16_MOST / 16
                                                     : (double)F16_MOST);
    if (atomic_load(&f->zero) < SIZE_MAX)
        return error_set(error, STATUS_INVALID,
                         "%s: tensor %.*s: word %zu has a zero other than 8, and config.json says "
                         "sym true: set it to false, or get the file again",
                         path, (int)part->zeros->name.size_bytes, part->zeros->name.data,
                         atomic_load(&f->zero));
    return STATUS_OK;
}
