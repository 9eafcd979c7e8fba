#include "kernels/cuda/product_parts.h"

/* Few rows: weights go from memory to registers, once, in the order in which they lie; eight warps
 * have a slice of the columns each, of two panels. Rows come out of the caches. */

#define STREAM_THREADS 256
#define SLICE_STRIDE 20 /* of a row's 16 sums: lanes hit different banks */

/* Chunks on their way to a warp. */
template <int dtype> struct stream_shape {
    static constexpr uint32_t depth = dtype == DTYPE_Q8_0 || dtype == DTYPE_F8_E4M3 ? 3
                                      : dtype == DTYPE_Q4_0 || dtype == DTYPE_Q4_1  ? 4
                                                                                    : 2;
};

/* ---- rows ---- */

/* In shared memory: sums of slices; where rows are the block's own, what sums over it need, then
 * the rows, at most STREAM_OWN_ROWS. */
#define STREAM_OWN_ROWS 2

LEAF_BOTH uint32_t slices_bytes(uint32_t n)
{
    return PRODUCT_SLICES_MAX * 2 * 8 * n * SLICE_STRIDE * 4;
}

#define OWN_AT 256 /* behind the scratch of rows_write */
#define OWN_SCALES_AT 192

/* Bytes of the block's own rows. */
LEAF_BOTH uint32_t own_data_bytes(int kind, uint32_t row_values)
{
    return STREAM_OWN_ROWS * row_values * (kind == ROWS_BYTES ? 1 : 2);
}
LEAF_BOTH uint32_t own_bytes(int kind, uint32_t row_values)
{
    uint32_t heads = kind == ROWS_BYTES ? row_values / 32 * (uint32_t)sizeof(struct rows_head) : 0;
    return OWN_AT + own_data_bytes(kind, row_values) + STREAM_OWN_ROWS * heads;
}

/* Rows that are the block's own; n is 1 then. */
LEAF rows_places<shared> own_places(const struct product_task &a)
{
    shared<char> own = shared_at<char>(slices_bytes(1));
    shared<char> data = own + OWN_AT;
    return {data, (data + own_data_bytes(a.rows.kind, a.rows.row_values)).as<rows_head>(),
            (own + OWN_SCALES_AT).as<float>()};
}

LEAF void own_rows_make(const struct product_task &a, const struct product_tile &tile)
{
    shared<float> scratch = shared_at<float>(slices_bytes(1));
    for (uint32_t at = 0; at < tile.count; at++) {
        struct rows_source source = a.source;
        source.in += (size_t)tile_row(a, tile, at) * source.n;
        if (source.norm)
            source.scale = rows_norm_scale(source.in, source.n, a.norm_eps, scratch);
        rows_write<shared>(a.rows, own_places(a), source, at, scratch);
    }
    barrier();
}

template <typename T> LEAF T own_or_memory(const struct product_task &a, shared<T> own, const T *at)
{
    if (a.rows_own)
        return own[0];
    return *at;
}

/* Where a lane finds its part of 8 rows. */
template <int dtype> struct stream_row {
    uint32_t row;      /* of values, NO_ROW: zeros */
    uint32_t heads[2]; /* rows of the heads */
};

template <int dtype>
LEAF void stream_row_read(row_part<dtype> &part, const struct product_task &a,
                          const stream_row<dtype> &at, uint32_t chunk)
{
    constexpr uint32_t row_bytes = chunk_shape<dtype>::row_bytes;
    rows_places<shared> own = own_places(a);
    size_t data_at = ((size_t)at.row * a.n_chunks + chunk) * row_bytes + lane_index() % 4 * 16;
    for (uint32_t i = 0; i < chunk_shape<dtype>::row_pieces; i++) {
        part.piece[i] = {};
        if (at.row != NO_ROW)
            part.piece[i] =
                own_or_memory(a, (own.data + (data_at + i * 64)).template as<bytes16>(),
                              (const bytes16 *)(const void *)(a.rows.data + data_at + i * 64));
    }
    if constexpr (chunk_shape<dtype>::blocks) {
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            bytes16 heads = {};
            size_t heads_at = ((size_t)at.heads[j] * a.n_chunks + chunk) * 2;
            if (at.heads[j] != NO_ROW)
                heads = own_or_memory(a, (own.heads + heads_at).template as<bytes16>(),
                                      (const bytes16 *)(const void *)(a.rows.heads + heads_at));
            heads_unpack(part.head[j], heads);
        }
    }
}

/* Where the tile's row `at` is among those made ready. */
LEAF uint32_t row_place(const struct product_task &a, const struct product_tile &tile, uint32_t at)
{
    uint32_t row = tile_row(a, tile, at);
    return row == NO_ROW ? NO_ROW : a.rows_own ? at : row / a.row_share;
}

template <int dtype>
LEAF void stream_rows_find(stream_row<dtype> &at, const struct product_task &a,
                           const struct product_tile &tile, uint32_t first)
{
    uint32_t lane = lane_index();
    at.row = row_place(a, tile, first + lane / 4);
    for (uint32_t j = 0; j < 2 && chunk_shape<dtype>::blocks; j++)
        at.heads[j] = row_place(a, tile, first + lane % 4 * 2 + j);
}

/* ---- sums ---- */

/* Leaves sums of a warp's slice in shared memory: [slice][panel][row][SLICE_STRIDE]. */
template <uint32_t n> LEAF void slice_leave(const float (&sums)[2][n][4])
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4;
    for (uint32_t p = 0; p < 2; p++)
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t row = 8 * j + 2 * t + i % 2, o = g + i / 2 * 8;
                shared_at<float>(0)[((warp_index() * 2 + p) * 8 * n + row) * SLICE_STRIDE + o] =
                    sums[p][j][i];
            }
}

/* The sum of output o of panel p for the tile's row `at`, which is row `row`. */
template <uint32_t n>
LEAF float slices_add(const struct product_task &a, uint32_t p, uint32_t at, uint32_t row,
                      uint32_t o)
{
    uint32_t n_slices = div_up(a.n_chunks, a.slice_chunks);
    float total = 0;
    for (uint32_t slice = 0; slice < n_slices; slice++)
        total += shared_at<float>(0)[((slice * 2 + p) * 8 * n + at) * SLICE_STRIDE + o];
    if (a.rows_own && a.rows.kind == ROWS_F16)
        return total * own_places(a).scales[at];
    return product_scaled(a, row / a.row_share, total);
}

/* The first panel has values i of a head, the second those that they are turned with. */
template <uint32_t n>
LEAF void stream_finish_turned(const struct product_task &a, const struct product_tile &tile)
{
    uint32_t pair = block_y();
    uint32_t head = pair / a.pair_step, half = a.rope.head_dim / 2;
    for (uint32_t e = thread_index(); e < 16 * 8 * n; e += STREAM_THREADS) {
        uint32_t o = e % 16, at = e / 16, row = tile_row(a, tile, at);
        if (row == NO_ROW)
            continue;
        uint32_t i = pair % a.pair_step * 16 + o, column = head * a.rope.head_dim + i;
        float x = product_end(a, column, slices_add<n>(a, 0, at, row, o));
        float y = product_end(a, column + half, slices_add<n>(a, 1, at, row, o));
        uint32_t position = a.rope.positions[row];
        struct rope_angle angle = {};
        if (rope_turns(a.rope, head))
            angle = rope_angle_of(a.rope, position, i);
        rope_pair_put(a.rope, row, kv_block(a.rope.kv, a.rope.slots[row], position), head, i, x, y,
                      angle);
    }
}

template <uint32_t n>
LEAF void stream_finish(const struct product_task &a, const struct product_tile &tile)
{
    uint32_t pair = block_y();
    uint32_t wide = a.gated ? 16 : 32;
    for (uint32_t e = thread_index(); e < wide * 8 * n; e += STREAM_THREADS) {
        uint32_t o = e % wide, at = e / wide, row = tile_row(a, tile, at);
        if (row == NO_ROW)
            continue;
        if (a.gated)
            product_put_gated(a, row, pair * 16 + o, slices_add<n>(a, 0, at, row, o),
                              slices_add<n>(a, 1, at, row, o));
        else
            product_put(a, row, pair * 32 + o, slices_add<n>(a, o / 16, at, row, o % 16));
    }
}

/* gate: sm_90a mma.sync ld.global.L1::no_allocate.v4 griddepcontrol.wait
 * gate: sm_80 mma.sync ld.global.L1::no_allocate.v4 */
template <int dtype, uint32_t n, uint32_t blocks>
KERNEL(stream_kernel, struct product_task, STREAM_THREADS, blocks)
{
    constexpr uint32_t depth = stream_shape<dtype>::depth;
    launch_next();
    if (a.tiles)
        launch_wait(); /* who wrote them may still run; otherwise weights come first */
    struct product_tile tile = tile_of(a, block_x(), 8 * n);
    if (tile.count == 0)
        return;
    const char *panels[2] = {panel_of(a, tile.matrix, block_y(), 0),
                             panel_of(a, tile.matrix, block_y(), 1)};
    uint32_t first = min_u32(warp_index() * a.slice_chunks, a.n_chunks);
    uint32_t end = min_u32(first + a.slice_chunks, a.n_chunks);
    chunk_part<dtype> ring[depth][2];
#pragma unroll
    for (uint32_t d = 0; d < depth; d++)
        for (uint32_t p = 0; p < 2 && first + d < end; p++)
            chunk_read<dtype>(ring[d][p], panels[p], first + d);
    if (!a.tiles)
        launch_wait();
    if (a.rows_own)
        own_rows_make(a, tile);
    stream_row<dtype> at[n];
    for (uint32_t j = 0; j < n; j++)
        stream_rows_find<dtype>(at[j], a, tile, 8 * j);
    float sums[2][n][4] = {};
    for (uint32_t k = first; k < end; k += depth) {
#pragma unroll
        for (uint32_t d = 0; d < depth; d++) {
            if (k + d >= end)
                break;
#pragma unroll
            for (uint32_t j = 0; j < n; j++) {
                if (8 * j >= tile.count)
                    break;
                row_part<dtype> x;
                stream_row_read<dtype>(x, a, at[j], k + d);
                for (uint32_t p = 0; p < 2; p++)
                    chunk_multiply<dtype>(sums[p][j], ring[d][p], x);
            }
            for (uint32_t p = 0; p < 2 && k + d + depth < end; p++)
                chunk_read<dtype>(ring[d][p], panels[p], k + d + depth);
        }
    }
    if (first < end)
        slice_leave<n>(sums);
    barrier();
    if (a.turned)
        stream_finish_turned<n>(a, tile);
    else
        stream_finish<n>(a, tile);
}

template <int dtype, uint32_t n>
static void stream_launch(struct device *device, uint32_t n_tiles, const struct product_task *task)
{
    uint32_t pairs = product_pairs(task->gated, task->n_panels);
    uint32_t own = task->rows_own ? own_bytes(task->rows.kind, task->rows.row_values) : 0;
    struct launch shape = {n_tiles, pairs, 1, STREAM_THREADS, slices_bytes(n) + own, true};
    launch_kernel((stream_kernel < dtype, n, n == 1 ? 2 : 1 >), device->runtime, shape, *task);
}

bool stream_makes_rows(const struct device *device, int dtype, uint32_t rows_most,
                       uint32_t n_blocks, uint32_t row_values)
{
    uint32_t bytes = slices_bytes(1) + own_bytes(rows_kind_of(dtype), row_values);
    return rows_most <= STREAM_OWN_ROWS &&
           n_blocks <= 2 * runtime_facts_of(device->runtime)->processors &&
           bytes <= device_shared_half(device);
}

void stream_run(struct device *device, int dtype, uint32_t tile_rows, uint32_t n_tiles,
                const struct product_task *task)
{
    dtype_switch((enum dtype)dtype, [&](auto constant) {
        if constexpr (constant.dtype != DTYPE_F32) {
            if (tile_rows == 8)
                return stream_launch<constant.dtype, 1>(device, n_tiles, task);
            CHECK(tile_rows == 32);
            return stream_launch<constant.dtype, 4>(device, n_tiles, task);
        }
    });
}
