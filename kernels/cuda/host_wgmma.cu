#include "kernels/cuda/host_private.h"
#include "kernels/cuda/leaf_host.h"

/*
 * wgmma: 64 x n x k by 128 threads, from tiles that descriptors name. The products are made when
 * they are asked for; registers hold NaN until a wait covers them, and tiles count as read until
 * then, so that whoever overwrites them too early is seen.
 */

struct tile {
    uint32_t at, leading, stride, width; /* width: bytes of a row, 16 when not swizzled */
    bool swizzled;
};

static struct tile tile_of(uint64_t descriptor)
{
    static const uint32_t widths[] = {16, 128, 64, 32};
    uint32_t swizzle = (uint32_t)(descriptor >> 62);
    return {(uint32_t)(descriptor & 0x3fff) << 4, (uint32_t)(descriptor >> 16 & 0x3fff) << 4,
            (uint32_t)(descriptor >> 32 & 0x3fff) << 4, widths[swizzle], swizzle != 0};
}

/* Where the byte of (row, byte along k) lies: 8 rows make a core matrix; or, turned, of (k, byte
 * along the row). Then the three address bits above 128 bytes scramble those above 16. */
static uint32_t tile_at(const struct tile *t, uint32_t row, uint32_t byte, bool turned)
{
    uint32_t at = t->at + row % 8 * t->width;
    if (!turned)
        at += row / 8 * t->stride + byte % 16 + byte / 16 * (t->swizzled ? 16 : t->leading);
    else
        at += byte % t->width + byte / t->width * (t->swizzled ? t->leading : t->stride) +
              row / 8 * (t->swizzled ? t->stride : t->leading);
    return at ^ (at >> 7 & (t->width / 16 - 1)) << 4;
}

static uint32_t element_bytes(enum host_element type)
{
    return type == HOST_BF16 || type == HOST_F16 ? 2 : 1;
}

static float element_value(enum host_element type, const char *at)
{
    uint16_t half = 0;
    memcpy(&half, at, element_bytes(type));
    if (type == HOST_F16)
        return host_float_of_f16(half);
    if (type == HOST_E4M3)
        return host_float_of_e4m3((uint8_t)half);
    if (type == HOST_S8)
        return (float)(int8_t)half;
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Who wrote a piece, and when: another number after any write. */
static uint64_t piece_stamp(uint32_t at)
{
    uint64_t stamp = 0;
    for (uint32_t i = at; i < at + 16; i++) {
        const struct shadow *s = &host_block_now->shadow[i];
        stamp = stamp * 31 +
                ((uint64_t)s->writer << 40 | (uint64_t)s->in_flight << 39 | s->write_clock);
    }
    return stamp;
}

static void read_note(struct wgmma_state *state, uint32_t at)
{
    if (state->n_reads == WGMMA_READS_MAX)
        host_fail("issues more wgmma than the emulator keeps track of before it waits");
    state->reads[state->n_reads++] = {at, state->groups, piece_stamp(at)};
}

/* values[row][k]; a row of B^T is a column of the result. */
static void tile_read(struct wgmma_state *state, const struct host_wgmma *w, uint64_t descriptor,
                      uint32_t n_rows, bool turned, float (*values)[32])
{
    struct tile tile = tile_of(descriptor);
    uint32_t bytes = element_bytes(w->type), n_k = 32 / bytes;
    uint32_t outer = turned ? n_k : n_rows, inner_bytes = turned ? n_rows * bytes : 32;
    for (uint32_t o = 0; o < outer; o++)
        for (uint32_t piece = 0; piece < inner_bytes; piece += 16) {
            uint32_t at = tile_at(&tile, o, piece, turned);
            const char *data = host_shared_async(at);
            read_note(state, at);
            for (uint32_t i = 0; i < 16 / bytes; i++) {
                uint32_t inner = piece / bytes + i;
                float value = element_value(w->type, data + i * bytes);
                values[turned ? inner : o][turned ? o : inner] = value;
            }
        }
}

/* A's registers: each warp has 16 rows, as in mma. */
static void held_read(void **threads, float (*a)[32])
{
    const struct host_wgmma *first = (const struct host_wgmma *)threads[0];
    uint32_t bytes = element_bytes(first->type), each = 4 / bytes;
    for (uint32_t t = 0; t < 128; t++) {
        const struct host_wgmma *w = (const struct host_wgmma *)threads[t];
        for (uint32_t r = 0; r < 4; r++)
            for (uint32_t j = 0; j < each; j++) {
                uint32_t row = t / 32 * 16 + t % 32 / 4 + 8 * (r & 1);
                uint32_t k = each * (t % 4) + j + 4 * each * (r >> 1);
                a[row][k] = element_value(w->type, (const char *)&w->held[r] + j * bytes);
            }
    }
}

static struct accumulator *accumulator_get(struct wgmma_state *state, void **threads)
{
    const struct host_wgmma *first = (const struct host_wgmma *)threads[0];
    for (uint32_t i = 0; i < state->n; i++)
        if (state->accumulators[i].d[0] == first->d)
            return &state->accumulators[i];
    if (state->n == ACCUMULATORS_MAX)
        host_fail("has more than %u accumulators that are not waited for", ACCUMULATORS_MAX);
    struct accumulator *made = &state->accumulators[state->n++];
    made->n = first->n;
    for (uint32_t t = 0; t < 128; t++) {
        struct host_wgmma *w = (struct host_wgmma *)threads[t];
        made->d[t] = w->d;
        memcpy(made->values[t], w->d, w->n / 2 * sizeof(float));
        memset(w->d, 0xff, w->n / 2 * sizeof(float));
    }
    return made;
}

static void products_add(struct accumulator *to, const struct host_wgmma *w, float (*a)[32],
                         float (*b)[32])
{
    uint32_t n_k = 32 / element_bytes(w->type);
    for (uint32_t t = 0; t < 128; t++)
        for (uint32_t i = 0; i < w->n / 2; i++) {
            uint32_t row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2);
            uint32_t column = 8 * (i / 4) + 2 * (t % 4) + i % 2;
            float *at = &to->values[t][i];
            if (w->type == HOST_S8) {
                int32_t sum = 0;
                if (w->keep)
                    memcpy(&sum, at, sizeof sum);
                for (uint32_t k = 0; k < n_k; k++)
                    sum += (int32_t)a[row][k] * (int32_t)b[column][k];
                memcpy(at, &sum, sizeof sum);
                continue;
            }
            double sum = 0; /* as mma's, to the bit */
            for (uint32_t k = 0; k < n_k; k++)
                sum += (double)a[row][k] * (double)b[column][k];
            *at = (float)(w->keep ? (double)*at + sum : sum);
        }
}

void host_wgmma_run(void **threads)
{
    struct host_block *block = host_block_now;
    struct wgmma_state *state = &block->wgmma[block->now.thread / 128];
    const struct host_wgmma *w = (const struct host_wgmma *)threads[0];
    for (uint32_t t = 1; t < 128; t++) {
        const struct host_wgmma *other = (const struct host_wgmma *)threads[t];
        if (other->n != w->n || other->type != w->type || other->a != w->a || other->b != w->b ||
            other->keep != w->keep || other->turned != w->turned || !other->held != !w->held)
            host_fail("issues a wgmma that is another than that of thread %u of its warpgroup", t);
    }
    float(*a)[32] = state->a, (*b)[32] = state->b;
    if (w->held)
        held_read(threads, a);
    else
        tile_read(state, w, w->a, 64, false, a);
    tile_read(state, w, w->b, w->n, w->turned, b);
    struct accumulator *to = accumulator_get(state, threads);
    to->group = state->groups;
    products_add(to, w, a, b);
}

void host_wgmma_commit_run(void **)
{
    struct host_block *b = host_block_now;
    b->wgmma[b->now.thread / 128].groups++;
}

void host_wgmma_wait_run(void **threads)
{
    struct host_block *b = host_block_now;
    struct wgmma_state *state = &b->wgmma[b->now.thread / 128];
    uint32_t left = *(const uint32_t *)threads[0], kept = 0;
    uint32_t done = state->groups > left ? state->groups - left : 0;
    for (uint32_t i = 0; i < state->n_reads; i++) {
        struct wgmma_state::wgmma_read *read = &state->reads[i];
        if (read->stamp != piece_stamp(read->at))
            host_fail("the 16 bytes at %u of shared memory were written while a wgmma that no wait "
                      "covers reads them",
                      read->at);
        if (read->group >= done)
            state->reads[kept++] = *read;
    }
    state->n_reads = kept;
    for (uint32_t i = 0; i < state->n;) {
        struct accumulator *acc = &state->accumulators[i];
        if (acc->group >= done) {
            i++;
            continue;
        }
        for (uint32_t t = 0; t < 128; t++)
            memcpy(acc->d[t], acc->values[t], acc->n / 2 * sizeof(float));
        if (--state->n > i)
            *acc = state->accumulators[state->n];
    }
}
