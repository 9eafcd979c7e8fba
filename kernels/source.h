/*
 * source: reading a `struct weight_source` row by row, as every backend does when it packs.
 *
 * The parts of a matrix lie one under the other; a row is found by walking them. Pure; any thread.
 */
#pragma once

#include "kernels/ops.h"

/* CHECKs what model/ has validated: counts, sums of parts, whole blocks. */
void source_check(const struct weight_source *source);

/* Neighbouring parts that are kept in one type: the same in each matrix of the stack. */
struct segment {
    enum dtype dtype; /* what they are kept as: their own type, or F32 */
    uint32_t first_out, out_count;
};
/* Cuts the outputs into segments, by the rule of ops.h; how many there are. */
uint32_t source_segments(const struct weight_source *source,
                         struct segment ret_segments[WEIGHT_PARTS_MAX]);

/* Bytes of all matrices as they are kept, row by row, by a backend whose ops say `widens`. */
size_t source_bytes(const struct weight_source *source, uint32_t widens);

/* The bytes of row `row` of matrix `matrix`, any alignment; its type goes to *ret_dtype. */
const void *source_row(const struct weight_source *source, uint32_t matrix, uint32_t row,
                       enum dtype *ret_dtype);

/* The same row, widened into ret_values: [in_count]. */
void source_row_widen(const struct weight_source *source, uint32_t matrix, uint32_t row,
                      float *ret_values);
