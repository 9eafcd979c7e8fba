#include "kernels/cuda/product_parts.h"
#include "kernels/cuda/ring.h"

/*
 * Many rows on sm_90a, weights of BF16, F16 and F8_E4M3: one block on each processor walks over
 * tiles of 128 outputs and up to 192 rows. Four warps fill a ring of chunks by bulk copies, two
 * warpgroups of 64 outputs multiply with wgmma: weights are A and pass through registers, so that
 * they lie in panels as everywhere; rows are B and lie in eights (product_rows.h). What an
 * instruction calls column k is the column that mma.sync calls so: both sum the same sixteen at a
 * time, in the same order.
 *
 * An accumulator of a slice and one of all slices (F8_E4M3: and one of the chunk that is yet to be
 * scaled): that is why a tile is no larger. A kernel has one height of tiles: with two of them nvcc
 * 13.0 runs out of registers and serialises all wgmma (C7512). Weights in blocks stay with
 * product_tile.cu: each 32 columns are scaled in f32, and that takes longer than their products,
 * whichever instruction makes these.
 */

#pragma nv_diag_suppress 177 /* on sm_80 nothing here is used */

#define GROUPS_THREADS 384
#define GROUPS_WARPS 8 /* that multiply: a panel of weights each */
#define GROUPS_STAGES 5
#define GROUPS_BAND 8 /* tiles of rows that meet the same weights at about the same time */

/* n: rows of a tile. */
template <int dtype, uint32_t n> struct groups_shape {
    static constexpr bool f8 = chunk_shape<dtype>::f8;
    static constexpr uint32_t chunk = f8 ? 1024 : 2048;                   /* of a panel */
    static constexpr uint32_t panel = chunk + (f8 ? F8_SCALES_BYTES : 0); /* with its scales */
    static constexpr uint32_t rows_at = GROUPS_WARPS * chunk;
    static constexpr uint32_t scales_at = rows_at + n / 8 * ROWS_EIGHT_BYTES;
    static constexpr uint32_t stage = scales_at + (f8 ? 1024 : 0); /* [panel] F8_SCALES_BYTES */
    static constexpr uint32_t bars_at = GROUPS_STAGES * stage;     /* [stages]{there, free} */
    static constexpr uint32_t bytes = bars_at + GROUPS_STAGES * 2 * 8;
    /* Registers of a thread that multiplies and of one that copies. */
    static constexpr uint32_t registers = 232, registers_copying = 40;
    static_assert(2 * 128 * registers + 128 * registers_copying <= 65536, "of a processor");
    static_assert(stage % 1024 == 0 && rows_at % 1024 == 0, "tiles begin on 1024 bytes");
    static_assert(GROUPS_THREADS == 32 * (GROUPS_WARPS + 4), "four warps copy");
    static_assert(GROUPS_WARPS * F8_SCALES_BYTES <= 1024, "scales have their place");
};

struct groups_task {
    struct product_task product;
    uint32_t n_tiles; /* of rows; the last ones may be empty */
    uint32_t n_outs;  /* blocks of 4 pairs of panels */
};

/* ---- the ring ---- */

template <typename shape> LEAF shared<char> groups_stage(uint32_t stage)
{
    return shared_at<char>(stage * shape::stage);
}

enum groups_bar { GROUPS_THERE, GROUPS_FREE };
template <typename shape> LEAF shared<uint64_t> groups_bar(uint32_t stage, enum groups_bar bar)
{
    return shared_at<uint64_t>(shape::bars_at + (2 * stage + bar) * 8);
}

template <typename shape> LEAF void rings_init()
{
    if (thread_index() == 0) {
        for (uint32_t stage = 0; stage < GROUPS_STAGES; stage++) {
            mbarrier_init(groups_bar<shape>(stage, GROUPS_THERE), 1);
            mbarrier_init(groups_bar<shape>(stage, GROUPS_FREE), GROUPS_WARPS);
        }
        mbarrier_fence();
    }
    barrier();
}

/* Instructions read all rows of a tile, and drop what they make of those that it lacks: these are
 * what was there before. The first to be there are zeros. */
template <typename shape> LEAF void stages_clear()
{
    constexpr uint32_t pieces = (shape::scales_at - shape::rows_at) / 16;
    for (uint32_t i = thread_index(); i < GROUPS_STAGES * pieces; i += GROUPS_THREADS)
        groups_stage<shape>(i / pieces).template as<bytes16>()[shape::rows_at / 16 + i % pieces] =
            bytes16{};
    async_fence();
}

/* ---- who multiplies what ---- */

struct groups_place {
    uint32_t tile, out;
};

/* In bands of tiles, the outputs of a band one after the other: what runs at one time shares rows
 * and weights in the second cache. */
LEAF struct groups_place groups_place_of(const struct groups_task &a, uint32_t n_tiles,
                                         uint32_t index)
{
    uint32_t band = index / (GROUPS_BAND * a.n_outs), first = band * GROUPS_BAND;
    uint32_t rest = index - first * a.n_outs, height = min_u32(GROUPS_BAND, n_tiles - first);
    return {first + rest % height, rest / height};
}

/* Tiles that are not empty; a warp asks. */
LEAF uint32_t groups_tiles_count(const struct groups_task &a)
{
    if (!a.product.tiles)
        return a.n_tiles;
    uint32_t n = 0;
    for (uint32_t i = lane_index(); i < a.n_tiles; i += 32)
        n += a.product.tiles[i].count > 0;
    return warp_sum(n);
}

/* Calls `run` with each of a block's tiles and the block of outputs that it meets. */
template <uint32_t n, typename F> LEAF void groups_walk(const struct groups_task &a, F run)
{
    uint32_t n_tiles = groups_tiles_count(a);
    for (uint32_t index = block_x(); index < n_tiles * a.n_outs; index += grid_x()) {
        struct groups_place place = groups_place_of(a, n_tiles, index);
        run(tile_of(a.product, place.tile, n), place.out);
    }
}

/* ---- the warps that copy ---- */

/* Each of four warps brings two panels of a stage, with their scales, the first one the rows as
 * well, which lie in one piece: the copies of a warp are issued one after the other. */
template <int dtype, uint32_t n>
LEAF void tile_bring(const struct groups_task &a, const struct product_tile &tile, uint32_t out,
                     struct ring_place &ring)
{
    typedef struct groups_shape<dtype, n> shape;
    uint32_t lane = lane_index(), panel = 2 * (warp_index() - GROUPS_WARPS) + lane;
    uint32_t rows_bytes = div_up(tile.count, 8) * ROWS_EIGHT_BYTES;
    bool first = warp_index() == GROUPS_WARPS, weights = lane < 2, rows = first && lane == 2;
    size_t rows_step = a.product.rows.n_eights * (size_t)ROWS_EIGHT_BYTES;
    const char *from = weights ? panel_of(a.product, tile.matrix, out * 4 + panel / 2, panel % 2)
                               : a.product.rows.data + tile.first / 8 * ROWS_EIGHT_BYTES;
    for (uint32_t k = 0; k < a.product.n_chunks; k++) {
        shared<uint64_t> there = groups_bar<shape>(ring.step, GROUPS_THERE);
        shared<char> stage = groups_stage<shape>(ring.step);
        mbarrier_wait(groups_bar<shape>(ring.step, GROUPS_FREE), ring.parity ^ 1);
        if (first && lane == 0)
            mbarrier_expect(there, GROUPS_WARPS * shape::panel + rows_bytes);
        warp_sync();
        if (rows)
            copy_bulk(stage + shape::rows_at, from + k * rows_step, rows_bytes, there);
        if (weights)
            copy_bulk(stage + panel * shape::chunk, from + chunk_offset_of(dtype, k), shape::chunk,
                      there);
        if (shape::f8 && weights)
            copy_bulk(stage + (shape::scales_at + panel * F8_SCALES_BYTES),
                      from + f8_scales_offset(k), F8_SCALES_BYTES, there);
        ring_next<GROUPS_STAGES>(ring);
    }
}

/* ---- the warpgroups that multiply ---- */

/* A warp has 16 rows of A: a panel; gated, half a panel of gate over the same half of up, so that a
 * thread ends with both sums of an output. Returns where the warp's first part lies, and by how
 * much that of rows 8 to 15 lies further: halves of a panel are `half` bytes apart. */
struct warp_part {
    uint32_t at, further;
};
template <typename shape> LEAF struct warp_part warp_part_of(bool gated, uint32_t half)
{
    uint32_t warp = warp_index();
    if (gated)
        return {warp / 2 * 2 * shape::chunk + warp % 2 * half, shape::chunk};
    return {warp * shape::chunk, half};
}

/* The A of each sixteen columns of a chunk. */
template <int dtype, uint32_t n>
LEAF void weights_read(uint32_t (&w)[4][4], shared<char> stage, bool gated)
{
    typedef struct groups_shape<dtype, n> shape;
    struct warp_part part = warp_part_of<shape>(gated, shape::f8 ? 8 : 512);
    shared<char> at = stage + (part.at + lane_index() * 16);
#pragma unroll
    for (uint32_t c = 0; c < 2; c++) {
        if constexpr (shape::f8) {
            bytes8 g = (at + c * 512).template as<bytes8>()[0];
            bytes8 h = (at + (c * 512 + part.further)).template as<bytes8>()[0];
#pragma unroll
            for (uint32_t i = 0; i < 2; i++)
                f8_widen(w[2 * c + i], g.word[i], h.word[i]);
        } else {
            bytes16 g = (at + c * 1024).template as<bytes16>()[0];
            bytes16 h = (at + (c * 1024 + part.further)).template as<bytes16>()[0];
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                w[2 * c + i][0] = g.word[2 * i];
                w[2 * c + i][1] = h.word[2 * i];
                w[2 * c + i][2] = g.word[2 * i + 1];
                w[2 * c + i][3] = h.word[2 * i + 1];
            }
        }
    }
}

/* sums (+)= a chunk of 64 columns, in one group. */
template <int dtype, uint32_t n>
LEAF void chunk_issue(float (&sums)[n / 2], const uint32_t (&w)[4][4], shared<char> rows, bool keep)
{
    wgmma_fence();
#pragma unroll
    for (uint32_t s = 0; s < 4; s++) {
        uint64_t b = wgmma_tile(rows + 32 * s, 16, ROWS_EIGHT_BYTES, SWIZZLE_128);
        if constexpr (dtype == DTYPE_BF16)
            wgmma_bf16<n>(sums, w[s], b, keep || s > 0);
        else
            wgmma_f16<n>(sums, w[s], b, keep || s > 0);
    }
    wgmma_commit();
}

/* sums (+)= the ring's next chunk. While one warpgroup reads and scales, the other's products run.
 */
template <int dtype, uint32_t n>
LEAF void chunk_run(float (&sums)[n / 2], struct ring_place &ring, bool keep, bool gated)
{
    typedef struct groups_shape<dtype, n> shape;
    shared<char> stage = groups_stage<shape>(ring.step);
    uint32_t w[4][4];
    mbarrier_wait(groups_bar<shape>(ring.step, GROUPS_THERE), ring.parity);
    weights_read<dtype, n>(w, stage, gated);
    if constexpr (shape::f8) {
        float chunk[n / 2];
        uint32_t at = shape::scales_at + lane_index() / 4 * 8, warp = warp_index();
        uint32_t first =
            gated ? warp / 2 * 2 * F8_SCALES_BYTES + warp % 2 * 4 : warp * F8_SCALES_BYTES;
        float scales[2] = {
            (stage + (at + first)).template as<float>()[0],
            (stage + (at + first + (gated ? F8_SCALES_BYTES : 4))).template as<float>()[0]};
        chunk_issue<dtype, n>(chunk, w, stage + shape::rows_at, false);
        wgmma_wait<0>();
        wgmma_hold(chunk);
#pragma unroll
        for (uint32_t i = 0; i < n / 2; i++)
            sums[i] = fma32(scales[i / 2 % 2], chunk[i], keep ? sums[i] : 0);
    } else {
        chunk_issue<dtype, n>(sums, w, stage + shape::rows_at, keep);
        wgmma_wait<0>();
        wgmma_hold(sums);
    }
    ring_tell(groups_bar<shape>(ring.step, GROUPS_FREE));
    ring_next<GROUPS_STAGES>(ring);
}

template <int dtype, uint32_t n>
LEAF void tile_multiply(const struct product_task &a, float (&totals)[n / 2],
                        struct ring_place &ring)
{
    float sums[n / 2];
    uint32_t left = a.slice_chunks;
    for (uint32_t k = 0; k < a.n_chunks; k++) {
        chunk_run<dtype, n>(sums, ring, left < a.slice_chunks, a.gated);
        if (--left > 0 && k + 1 < a.n_chunks)
            continue;
#pragma unroll
        for (uint32_t i = 0; i < n / 2; i++)
            totals[i] += sums[i];
        left = a.slice_chunks;
    }
}

/* ---- ends ---- */

#define PUT_ROWS 4 /* of a thread at a time: what they read of memory is on its way together */

/* Row `i` of those that a thread has. */
LEAF uint32_t groups_row_at(uint32_t i)
{
    return i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
}

/* The thread's outputs o and o + 8 of its rows. */
template <int dtype, uint32_t n, bool residual>
LEAF void outputs_put(const struct product_task &a, const struct product_tile &tile,
                      const float (&totals)[n / 2], uint32_t o)
{
    if (o >= a.segment_out)
        return;
    bool both = o + 8 < a.segment_out;
    uint32_t column = a.first_out + o;
#pragma unroll
    for (uint32_t first = 0; first < n / 4; first += PUT_ROWS) {
        float kept[PUT_ROWS][2] = {};
        uint32_t rows[PUT_ROWS];
#pragma unroll
        for (uint32_t i = 0; i < PUT_ROWS; i++) {
            rows[i] = tile_row(a, tile, groups_row_at(first + i));
            if (!residual || rows[i] == NO_ROW)
                continue;
            const float *from = a.residual + (size_t)rows[i] * a.out_stride + column;
            kept[i][0] = from[0];
            kept[i][1] = both ? from[8] : 0;
        }
#pragma unroll
        for (uint32_t i = 0; i < PUT_ROWS; i++) {
            if (rows[i] == NO_ROW)
                continue;
            uint32_t place = tile.first + groups_row_at(first + i);
            global<float> to(a.out + ((size_t)rows[i] * a.out_stride + column));
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                float sum = totals[(first + i) / 2 * 4 + 2 * h + i % 2];
                sum = product_end(a, column + 8 * h, product_scaled(a, place, sum));
                if (h == 0 || both)
                    to[8 * h] = residual ? sum + kept[i][h] : sum;
            }
        }
    }
}

/* The thread has gate and up of output o. */
template <int dtype, uint32_t n>
LEAF void gated_put(const struct product_task &a, const struct product_tile &tile,
                    const float (&totals)[n / 2], uint32_t o)
{
    if (o >= a.segment_out)
        return;
#pragma unroll
    for (uint32_t first = 0; first < n / 4; first += PUT_ROWS) {
        uint32_t rows[PUT_ROWS];
#pragma unroll
        for (uint32_t i = 0; i < PUT_ROWS; i++)
            rows[i] = tile_row(a, tile, groups_row_at(first + i));
#pragma unroll
        for (uint32_t i = 0; i < PUT_ROWS; i++) {
            if (rows[i] == NO_ROW)
                continue;
            uint32_t place = tile.first + groups_row_at(first + i),
                     at = (first + i) / 2 * 4 + i % 2;
            float gate = product_end(a, o, product_scaled(a, place, totals[at]));
            float up = product_end(a, a.up_bias + o, product_scaled(a, place, totals[at + 2]));
            global<float> out(a.out);
            out[(size_t)rows[i] * a.out_stride + o] = silu(gate) * up;
        }
    }
}

template <int dtype, uint32_t n>
LEAF void tile_run_rows(const struct product_task &a, const struct product_tile &tile,
                        uint32_t block, struct ring_place &ring)
{
    float totals[n / 2] = {};
    tile_multiply<dtype, n>(a, totals, ring);
    uint32_t warp = warp_index(), g = lane_index() / 4;
    if (a.gated)
        gated_put<dtype, n>(a, tile, totals, (block * 4 + warp / 2) * 16 + warp % 2 * 8 + g);
    else if (a.residual)
        outputs_put<dtype, n, true>(a, tile, totals, (block * 8 + warp) * 16 + g);
    else
        outputs_put<dtype, n, false>(a, tile, totals, (block * 8 + warp) * 16 + g);
}

template <int dtype, uint32_t n> LEAF void groups_multiply(const struct groups_task &a)
{
#if ON_HOST || CARD_HAS_WGMMA
    typedef struct groups_shape<dtype, n> shape;
    stages_clear<shape>();
    rings_init<shape>();
    launch_wait();
    struct ring_place ring = {0, 0};
    if (warp_index() >= GROUPS_WARPS) {
        registers_drop<shape::registers_copying>();
        groups_walk<n>(a, [&](const struct product_tile &tile, uint32_t out) {
            tile_bring<dtype, n>(a, tile, out, ring);
        });
        return;
    }
    registers_raise<shape::registers>();
    groups_walk<n>(a, [&](const struct product_tile &tile, uint32_t out) {
        tile_run_rows<dtype, n>(a.product, tile, out, ring);
    });
#else
    (void)a;
    __trap();
#endif
}

/* gate: sm_90a wgmma.mma_async cp.async.bulk mbarrier.try_wait setmaxnreg */
template <int dtype, uint32_t n> KERNEL(groups_kernel, struct groups_task, GROUPS_THREADS, 1)
{
    groups_multiply<dtype, n>(a);
}

/* ---- the host's side ---- */

#define GROUPS_ROWS_MAX 192
#define GROUPS_ROWS_LESS 128 /* all that the registers of F8_E4M3 hold; tiles of a stack */

bool groups_take(const struct device *device, int dtype)
{
    return device->wgmma && (dtype == DTYPE_BF16 || dtype == DTYPE_F16 || dtype == DTYPE_F8_E4M3) &&
           groups_shape<DTYPE_BF16, GROUPS_ROWS_MAX>::bytes <= device->shared_max_bytes;
}

/* Tall tiles read less; but a processor that has one tile more than the others makes all wait. */
static bool groups_tall(const struct device *device, uint32_t n_rows, uint32_t n_outs)
{
    uint32_t processors = runtime_facts_of(device->runtime)->processors;
    uint64_t tall = div_up(div_up(n_rows, GROUPS_ROWS_MAX) * n_outs, processors);
    uint64_t low = div_up(div_up(n_rows, GROUPS_ROWS_LESS) * n_outs, processors);
    return low * GROUPS_ROWS_LESS * 10 >= tall * GROUPS_ROWS_MAX * 9;
}

template <int dtype, uint32_t n>
static void groups_launch(struct device *device, struct groups_task *task)
{
    if (!task->product.tiles)
        task->n_tiles = div_up(task->product.n_rows, n);
    uint32_t blocks =
        min_u32(runtime_facts_of(device->runtime)->processors, task->n_tiles * task->n_outs);
    launch_kernel((groups_kernel<dtype, n>), device->runtime,
                  (launch{blocks, 1, 1, GROUPS_THREADS, groups_shape<dtype, n>::bytes, true}),
                  *task);
}

template <int dtype> static void groups_launch_halves(struct device *device, struct groups_task *t)
{
    if (!t->product.tiles && groups_tall(device, t->product.n_rows, t->n_outs))
        groups_launch<dtype, GROUPS_ROWS_MAX>(device, t);
    else
        groups_launch<dtype, GROUPS_ROWS_LESS>(device, t);
}

void groups_run(struct device *device, int dtype, const struct product_groups *groups,
                const struct product_task *product)
{
    struct groups_task task = {};
    task.product = *product;
    task.n_outs = div_up(product_pairs(product->gated, product->n_panels), 4);
    task.n_tiles = groups ? groups->n_tiles : 0;
    CHECK(!groups || groups->tile_rows == GROUPS_ROWS_LESS);
    if (dtype == DTYPE_BF16)
        groups_launch_halves<DTYPE_BF16>(device, &task);
    else if (dtype == DTYPE_F16)
        groups_launch_halves<DTYPE_F16>(device, &task);
    else
        groups_launch<DTYPE_F8_E4M3, GROUPS_ROWS_LESS>(device, &task);
}
