/*
 * avx2_shapes: blocks_product for sixteen registers of eight lanes: how many vectors the rows of a
 * tile take at once, so that their sums and totals fit. For files that have said how bytes are
 * multiplied (dot_nibbles, dot_bytes, DOT_BYTES_SIGNED), and no others.
 */
#pragma once

#include "kernels/cpu/blocks_product.h"

BLOCKS_BODIES(1, 4)
BLOCKS_BODIES(2, 2)
BLOCKS_BODIES(3, 2)
BLOCKS_BODIES(4, 1)
BLOCKS_BODIES(5, 1)
BLOCKS_BODIES(6, 1)
BLOCKS_BODIES(7, 1)
BLOCKS_BODIES(8, 1)

static blocks_shapes shapes = {
    [1] = {{0}, {0}, BLOCKS_SHAPE(1, 4)}, [2] = {{0}, {0}, BLOCKS_SHAPE(2, 2)},
    [3] = {{0}, {0}, BLOCKS_SHAPE(3, 2)}, [4] = {{0}, {0}, BLOCKS_SHAPE(4, 1)},
    [5] = {{0}, {0}, BLOCKS_SHAPE(5, 1)}, [6] = {{0}, {0}, BLOCKS_SHAPE(6, 1)},
    [7] = {{0}, {0}, BLOCKS_SHAPE(7, 1)}, [8] = {{0}, {0}, BLOCKS_SHAPE(8, 1)},
};
