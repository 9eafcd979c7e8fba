#include "kernels/cuda/product_parts.h"

/* Many rows: blocks of 128 outputs and 128 rows; chunks of both pass through shared memory, which
 * copies fill three chunks ahead, or two where a block has less of it. Eight warps: 4 of two panels
 * each, times 2 of every other 8 rows. */

#define TILE_THREADS 256
#define TILE_ROWS 128
#define TILE_PANELS 8
#define TILE_STAGES_MAX 4
#define TILE_IDS_BYTES (TILE_ROWS * 4)

template <int dtype> struct tile_shape {
    static constexpr uint32_t chunk = chunk_shape<dtype>::bytes;
    static constexpr uint32_t rows_at = TILE_PANELS * chunk;
    static constexpr uint32_t heads_at = rows_at + TILE_ROWS * chunk_shape<dtype>::row_bytes;
    static constexpr uint32_t stage = heads_at + (chunk_shape<dtype>::blocks ? TILE_ROWS * 16 : 0);
    static constexpr uint32_t most_bytes = TILE_IDS_BYTES + TILE_STAGES_MAX * stage;
};

/* Panel `slot` of the block: pair 4 y + slot / 2, its half slot % 2. */
template <int dtype>
LEAF void tile_panels_copy(const struct product_task &a, uint32_t matrix, uint32_t k,
                           shared<char> to)
{
    constexpr uint32_t pieces = chunk_shape<dtype>::bytes / 16;
    for (uint32_t i = thread_index(); i < TILE_PANELS * pieces; i += TILE_THREADS) {
        uint32_t slot = i / pieces, piece = i % pieces;
        const char *panel = panel_of(a, matrix, block_y() * 4 + slot / 2, slot % 2);
        copy_async16(to + i * 16, chunk_piece_at<dtype>(panel, k, piece), true);
    }
}

/* Every other row has its halves changed places, so that lanes of two rows hit all banks. */
template <int dtype> LEAF uint32_t tile_row_piece(uint32_t row, uint32_t piece)
{
    constexpr uint32_t pieces = chunk_shape<dtype>::row_bytes / 16;
    return row * pieces + (pieces == 8 ? piece ^ (row & 1) << 2 : piece);
}

template <int dtype>
LEAF void tile_rows_copy(const struct product_task &a, uint32_t k, shared<char> stage)
{
    constexpr uint32_t pieces = chunk_shape<dtype>::row_bytes / 16;
    shared<uint32_t> ids = shared_at<uint32_t>(0);
    for (uint32_t i = thread_index(); i < TILE_ROWS * pieces; i += TILE_THREADS) {
        uint32_t row = i / pieces, piece = i % pieces, id = ids[row];
        bool there = id != NO_ROW;
        const char *from =
            a.rows.data + (((size_t)(there ? id : 0) * a.n_chunks + k) * pieces + piece) * 16;
        copy_async16(stage + (tile_shape<dtype>::rows_at + tile_row_piece<dtype>(row, piece) * 16),
                     from, there);
    }
    if constexpr (chunk_shape<dtype>::blocks)
        for (uint32_t row = thread_index(); row < TILE_ROWS; row += TILE_THREADS) {
            uint32_t id = ids[row];
            bool there = id != NO_ROW;
            copy_async16(stage + (tile_shape<dtype>::heads_at + row * 16),
                         a.rows.heads + ((size_t)(there ? id : 0) * a.n_chunks + k) * 2, there);
        }
}

/* Tile of rows j: rows [8 j, 8 j + 8). */
template <int dtype> LEAF void tile_row_read(row_part<dtype> &part, shared<char> stage, uint32_t j)
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4, row = 8 * j + g;
    shared<bytes16> rows = (stage + tile_shape<dtype>::rows_at).template as<bytes16>();
    for (uint32_t i = 0; i < chunk_shape<dtype>::row_pieces; i++)
        part.piece[i] = rows[tile_row_piece<dtype>(row, i * 4 + t)];
    if constexpr (chunk_shape<dtype>::blocks) {
        shared<bytes16> heads = (stage + tile_shape<dtype>::heads_at).template as<bytes16>();
        for (uint32_t i = 0; i < 2; i++) {
            bytes16 head = heads[8 * j + 2 * t + i];
            heads_unpack(part.head[i], head);
        }
    }
}

LEAF void slice_add(float (&totals)[2][8][4], float (&sums)[2][8][4])
{
#pragma unroll
    for (uint32_t p = 0; p < 2; p++)
#pragma unroll
        for (uint32_t j = 0; j < 8; j++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                totals[p][j][i] += sums[p][j][i];
                sums[p][j][i] = 0;
            }
}

LEAF void tile_finish(const struct product_task &a, const struct product_tile &tile,
                      const float (&totals)[2][8][4])
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4, pair = block_y() * 4 + warp_index() / 2;
#pragma unroll
    for (uint32_t j = 0; j < 8; j++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t at = 8 * (2 * j + warp_index() % 2) + 2 * t + i % 2, o = g + i / 2 * 8;
            uint32_t row = tile_row(a, tile, at);
            if (row == NO_ROW)
                continue;
            float sums[2];
            for (uint32_t p = 0; p < 2; p++)
                sums[p] = product_scaled(a, row / a.row_share, totals[p][j][i]);
            if (a.gated) {
                product_put_gated(a, row, pair * 16 + o, sums[0], sums[1]);
            } else {
                product_put(a, row, pair * 32 + o, sums[0]);
                product_put(a, row, pair * 32 + 16 + o, sums[1]);
            }
        }
}

template <int dtype>
LEAF void tile_chunk(float (&sums)[2][8][4], shared<char> stage, uint32_t count)
{
    uint32_t pair = warp_index() / 2;
    chunk_part<dtype> w[2];
    for (uint32_t p = 0; p < 2; p++)
        chunk_read<dtype>(w[p], stage + (2 * pair + p) * chunk_shape<dtype>::bytes);
#pragma unroll
    for (uint32_t j = 0; j < 8; j++) {
        uint32_t eight = 2 * j + warp_index() % 2;
        if (8 * eight >= count)
            break;
        row_part<dtype> x;
        tile_row_read<dtype>(x, stage, eight);
        for (uint32_t p = 0; p < 2; p++)
            chunk_multiply<dtype>(sums[p][j], w[p], x);
    }
}

template <int dtype, uint32_t stages>
LEAF void tile_stage_fill(const struct product_task &a, uint32_t matrix, uint32_t k)
{
    if (k < a.n_chunks) {
        shared<char> stage =
            shared_at<char>(TILE_IDS_BYTES + k % stages * tile_shape<dtype>::stage);
        tile_panels_copy<dtype>(a, matrix, k, stage);
        tile_rows_copy<dtype>(a, k, stage);
    }
    copy_async_commit();
}

/* gate: sm_90a mma.sync cp.async.cg
 * gate: sm_80 mma.sync cp.async.cg */
template <int dtype, uint32_t stages> KERNEL(tile_kernel, struct product_task, TILE_THREADS, 1)
{
    launch_wait();
    struct product_tile tile = tile_of(a, block_x(), TILE_ROWS);
    if (tile.count == 0)
        return;
    shared<uint32_t> ids = shared_at<uint32_t>(0);
    for (uint32_t i = thread_index(); i < TILE_ROWS; i += TILE_THREADS) {
        uint32_t row = tile_row(a, tile, i);
        ids[i] = row == NO_ROW ? NO_ROW : row / a.row_share;
    }
    barrier();
    for (uint32_t k = 0; k + 1 < stages; k++)
        tile_stage_fill<dtype, stages>(a, tile.matrix, k);
    float totals[2][8][4] = {}, sums[2][8][4] = {};
    uint32_t left = a.slice_chunks;
    for (uint32_t k = 0; k < a.n_chunks; k++) {
        copy_async_wait<stages - 2>();
        barrier();
        tile_stage_fill<dtype, stages>(a, tile.matrix, k + stages - 1);
        if (left == 0) {
            slice_add(totals, sums);
            left = a.slice_chunks;
        }
        left--;
        tile_chunk<dtype>(sums,
                          shared_at<char>(TILE_IDS_BYTES + k % stages * tile_shape<dtype>::stage),
                          tile.count);
    }
    copy_async_wait<0>();
    slice_add(totals, sums);
    tile_finish(a, tile, totals);
}

template <int dtype, uint32_t stages>
static void tile_launch(struct device *device, uint32_t n_tiles, const struct product_task *task)
{
    uint32_t pairs = product_pairs(task->gated, task->n_panels);
    struct launch shape = {n_tiles,
                           div_up(pairs, 4),
                           1,
                           TILE_THREADS,
                           TILE_IDS_BYTES + stages * tile_shape<dtype>::stage,
                           true};
    launch_kernel((tile_kernel<dtype, stages>), device->runtime, shape, *task);
}

void tile_run(struct device *device, int dtype, uint32_t n_tiles, const struct product_task *task)
{
    dtype_switch((enum dtype)dtype, [&](auto constant) {
        if constexpr (constant.dtype != DTYPE_F32) {
            if (tile_shape<constant.dtype>::most_bytes <= device->shared_max_bytes)
                tile_launch<constant.dtype, TILE_STAGES_MAX>(device, n_tiles, task);
            else
                tile_launch<constant.dtype, TILE_STAGES_MAX - 1>(device, n_tiles, task);
        }
    });
}
