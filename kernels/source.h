/*
 * source: reading a `struct weight_source` row by row, as every backend does when it packs.
 *
 * The parts of a matrix lie one under the other; a row is found by walking them. Pure; any thread.
 */
#pragma once

#include "kernels/ops.h"

/* CHECKs what model/ has validated: counts, sums of parts, whole blocks. */
void source_check(const struct weight_source *source);

/* True when all parts of all matrices are BF16: such a weight stays BF16. */
bool source_is_bf16(const struct weight_source *source);

/* The bytes of row `row` of matrix `matrix`, any alignment; its type goes to *ret_dtype. */
const void *source_row(const struct weight_source *source, uint32_t matrix, uint32_t row,
                       enum dtype *ret_dtype);

/* The same row, widened into ret_values: [in_count]. */
void source_row_widen(const struct weight_source *source, uint32_t matrix, uint32_t row,
                      float *ret_values);
