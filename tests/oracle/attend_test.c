/*
 * Attention where it is made of tiles: sequences that cross steps, splits and pages, prompts and
 * single rows in one call, groups that fill tiles badly, windows, each head_dim that has a kernel
 * of its own and one that has none. Beside `ref` within a bound, and bit for bit beside itself:
 * each row alone, and all rows in other calls. The pool is full of NaN before.
 *
 * The bound is of BF16 queries and weights (2^-9 each, of values below 2): 2e-2 of the largest
 * value. The CPU rounds neither, and is far inside of it. K and V are BF16 or, for the same shapes,
 * E4M3.
 */
#include "tests/oracle/rig.h"

#include <math.h>

enum { SEQUENCES = 4, RUNS_MAX = 4 };
#define VALUE_MAX 2.0f

/* Rows of a call: of one sequence, n neighbours from a position on. */
struct run {
    uint32_t sequence, first, n;
};
struct shape {
    uint32_t n_heads, n_kv_heads, head_dim, block_tokens, window_tokens;
    struct run runs[RUNS_MAX]; /* of different sequences; ends where n is 0 */
};

struct scene {
    const struct shape *shape;
    struct kv_shape kv_shape;
    uint32_t lengths[SEQUENCES], n_rows;
    uint32_t *tables; /* [SEQUENCES][slot_blocks_max] */
    size_t row_values, out_values;
    float *k_v[SEQUENCES]; /* [lengths][row_values]: q is in there too */
    float *inv_freq;
};

static struct scene scene_make(struct dice *dice, const struct shape *shape, enum dtype dtype)
{
    struct scene s = {.shape = shape};
    uint32_t longest = 0;
    for (uint32_t i = 0; i < RUNS_MAX && shape->runs[i].n; i++) {
        const struct run *run = &shape->runs[i];
        s.lengths[run->sequence] = run->first + run->n;
        longest = u32_max(longest, run->first + run->n);
        s.n_rows += run->n;
    }
    s.row_values = (size_t)(shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim;
    s.out_values = (size_t)shape->n_heads * shape->head_dim;
    s.kv_shape = (struct kv_shape){.n_layers = 1,
                                   .n_kv_heads = shape->n_kv_heads,
                                   .head_dim = shape->head_dim,
                                   .block_tokens = shape->block_tokens,
                                   .slots_count = SEQUENCES,
                                   .slot_blocks_max = div_up_u32(longest, shape->block_tokens),
                                   .dtype = dtype};
    uint32_t n_blocks = 0, *blocks;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        n_blocks += div_up_u32(s.lengths[i], shape->block_tokens);
        s.k_v[i] = dice_floats(dice, s.lengths[i] * s.row_values, VALUE_MAX);
    }
    s.kv_shape.blocks_count = n_blocks;
    s.tables = malloc(SEQUENCES * s.kv_shape.slot_blocks_max * sizeof(uint32_t));
    blocks = malloc(n_blocks * sizeof *blocks);
    dice_shuffle(dice, blocks, n_blocks);
    for (uint32_t i = 0, at = 0; i < SEQUENCES; i++)
        for (uint32_t j = 0; j < div_up_u32(s.lengths[i], shape->block_tokens); j++)
            s.tables[i * s.kv_shape.slot_blocks_max + j] = blocks[at++];
    free(blocks);
    s.inv_freq = calloc(shape->head_dim / 2, sizeof(float)); /* K stays as it is */
    return s;
}

static void scene_free(struct scene *s)
{
    for (uint32_t i = 0; i < SEQUENCES; i++)
        free(s->k_v[i]);
    free(s->tables);
    free(s->inv_freq);
}

/* All positions of all sequences are written, by many calls of rope_kv. */
static struct kv *scene_write(const struct scene *s, struct rig *rig)
{
    struct kv *kv = rig_kv(rig, &s->kv_shape);
    rig_kv_poison(rig, kv, &s->kv_shape);
    float *inv_freq = rig_put(rig, s->inv_freq, s->shape->head_dim / 2 * sizeof(float));
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        uint32_t n = s->lengths[i];
        if (n == 0)
            continue;
        uint32_t *positions = malloc(n * sizeof(uint32_t)), *slots = malloc(n * sizeof(uint32_t));
        for (uint32_t r = 0; r < n; r++) {
            positions[r] = r;
            slots[r] = i;
        }
        rig->ops->kv_table_set(rig->device, kv, i, 0, s->tables + i * s->kv_shape.slot_blocks_max,
                               div_up_u32(n, s->shape->block_tokens));
        struct rope_kv_args rope = {.n_rows = n,
                                    .n_heads = s->shape->n_heads,
                                    .n_kv_heads = s->shape->n_kv_heads,
                                    .head_dim = s->shape->head_dim,
                                    .qkv =
                                        rig_put(rig, s->k_v[i], n * s->row_values * sizeof(float)),
                                    .inv_freq = inv_freq,
                                    .attention_factor = 1,
                                    .host_positions = positions,
                                    .host_slots = slots,
                                    .kv = kv};
        rig->ops->rope_kv(rig->device, &rope);
        free(positions);
        free(slots);
    }
    return kv;
}

/* One call for rows [first, first + n) of all rows of the runs. */
static void rows_attend(const struct scene *s, struct rig *rig, struct kv *kv, uint32_t first,
                        uint32_t n, float *ret_out)
{
    uint32_t *positions = malloc(n * sizeof(uint32_t)), *slots = malloc(n * sizeof(uint32_t));
    float *rows = malloc(n * s->row_values * sizeof(float));
    uint32_t at = 0, n_buffers = rig->n_buffers;
    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        const struct run *run = &s->shape->runs[i];
        for (uint32_t r = 0; r < run->n; r++, at++) {
            if (at < first || at >= first + n)
                continue;
            positions[at - first] = run->first + r;
            slots[at - first] = run->sequence;
            memcpy(rows + (at - first) * s->row_values,
                   s->k_v[run->sequence] + (run->first + r) * s->row_values,
                   s->row_values * sizeof(float));
        }
    }
    size_t out_bytes = n * s->out_values * sizeof(float);
    float *out = rig_poison(rig, out_bytes);
    struct attention_args args = {.n_rows = n,
                                  .n_heads = s->shape->n_heads,
                                  .n_kv_heads = s->shape->n_kv_heads,
                                  .head_dim = s->shape->head_dim,
                                  .scale = 1 / sqrtf((float)s->shape->head_dim),
                                  .window_tokens = s->shape->window_tokens,
                                  .qkv = rig_put(rig, rows, n * s->row_values * sizeof(float)),
                                  .host_positions = positions,
                                  .host_slots = slots,
                                  .kv = kv,
                                  .out = out};
    rig->ops->attention(rig->device, &args);
    float *again = malloc(out_bytes); /* as the next layer does, before anything waits */
    args.out = rig_poison(rig, out_bytes);
    rig->ops->attention(rig->device, &args);
    rig_get(rig, out, ret_out, out_bytes);
    rig_get(rig, args.out, again, out_bytes);
    assert_memory_equal(ret_out, again, out_bytes);
    free(again);
    while (rig->n_buffers > n_buffers)
        rig->ops->buffer_free(rig->device, rig->buffers[--rig->n_buffers]);
    free(positions);
    free(slots);
    free(rows);
}

/* Calls of random sizes, one row among them. */
static void pieces_check(const struct scene *s, struct rig *rig, struct kv *kv, struct dice *dice,
                         const float *expected)
{
    float *got = malloc(s->n_rows * s->out_values * sizeof(float));
    for (uint32_t first = 0, n; first < s->n_rows; first += n) {
        uint32_t most = s->n_rows - first;
        n = dice_below(dice, 2) ? 1 : dice_between(dice, 1, most);
        rows_attend(s, rig, kv, first, n, got);
        if (memcmp(got, expected + first * s->out_values, n * s->out_values * sizeof(float)) != 0)
            fail_msg("rows %u to %u of %u differ in a call of their own", first, first + n - 1,
                     s->n_rows);
    }
    free(got);
}

static void shape_check(void **state, struct dice *dice, const struct shape *shape,
                        enum dtype dtype)
{
    struct scene s = scene_make(dice, shape, dtype);
    size_t n_out = s.n_rows * s.out_values;
    float *expected = malloc(n_out * sizeof(float)), *got = malloc(n_out * sizeof(float));
    struct rig rig = rig_open("ref", NULL, 1);
    rows_attend(&s, &rig, scene_write(&s, &rig), 0, s.n_rows, expected);
    rig_close(&rig);
    rig = rig_tested(state);
    struct kv *kv = scene_write(&s, &rig);
    rows_attend(&s, &rig, kv, 0, s.n_rows, got);
    for (size_t i = 0; i < n_out; i++)
        close_to("attention", i, got[i], expected[i], 2e-2 * VALUE_MAX);
    pieces_check(&s, &rig, kv, dice, got);
    rig_close(&rig);
    scene_free(&s);
    free(expected);
    free(got);
}

static void shapes_check(void **state, const struct shape *shapes, size_t n)
{
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_KV_E4M3};
    for (size_t d = 0; d < array_count(dtypes); d++) {
        struct dice dice = {90};
        for (size_t i = 0; i < n; i++)
            shape_check(state, &dice, &shapes[i], dtypes[d]);
    }
}

/* Single rows of sequences from one position to three splits. */
static void decode(void **state)
{
    static const struct shape shapes[] = {
        {4, 1, 64, 16, 0, {{0, 0, 1}, {1, 1100, 1}, {2, 63, 1}, {3, 512, 1}}},
        {5, 1, 128, 32, 0, {{0, 530, 1}, {1, 17, 1}, {2, 64, 1}}},
        {2, 2, 96, 16, 0, {{3, 600, 1}, {1, 511, 1}}},
        {71, 1, 64, 16, 0, {{0, 65, 1}, {1, 540, 1}}},
        {6, 2, 80, 32, 200, {{2, 40, 1}, {0, 705, 1}}},
        {4, 2, 48, 16, 0, {{0, 70, 1}, {1, 9, 1}}},
    };
    shapes_check(state, shapes, array_count(shapes));
}

/* Neighbours, alone and beside single rows; across splits, and from the middle of a page. */
static void prefill(void **state)
{
    static const struct shape shapes[] = {
        {4, 2, 64, 16, 0, {{0, 0, 70}, {1, 300, 1}, {2, 9, 21}}},
        {2, 1, 128, 32, 0, {{0, 490, 40}}},
        {3, 1, 96, 16, 0, {{1, 100, 67}, {0, 5, 1}}},
        {1, 1, 80, 32, 0, {{2, 33, 150}}},
        {130, 1, 64, 16, 0, {{0, 62, 3}}},
    };
    shapes_check(state, shapes, array_count(shapes));
}

/* The window begins inside of steps and splits, and leaves whole splits of a tile to some rows. */
static void windows(void **state)
{
    static const struct shape shapes[] = {
        {2, 1, 64, 16, 13, {{0, 505, 40}, {1, 600, 1}}},
        {4, 1, 64, 32, 540, {{0, 570, 12}}},
        {1, 1, 128, 16, 1, {{0, 60, 70}}},
        {2, 1, 96, 16, 64, {{2, 500, 20}}},
    };
    shapes_check(state, shapes, array_count(shapes));
}

/* So many tiles that a block does all splits of one, beside calls where each split is an item. */
static void whole_tiles(void **state)
{
    static const struct shape shapes[] = {
        {8, 8, 64, 16, 0, {{0, 505, 12}, {1, 520, 3}, {2, 580, 2}, {3, 3, 2}}},
        {8, 8, 64, 32, 200, {{0, 590, 12}, {1, 530, 3}, {2, 702, 2}, {3, 3, 2}}},
    };
    shapes_check(state, shapes, array_count(shapes));
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"attend: decode", decode},
        {"attend: prefill", prefill},
        {"attend: windows", windows},
        {"attend: whole tiles", whole_tiles},
    };
    return rig_main("attend", tests, array_count(tests));
}
