/*
 * packed: matrices that a checkpoint holds in 8 or 4 bits, found in its file and made into blocks
 * that are computed with.
 *
 *     in the file                                                  becomes
 *     NAME.weight        F8_E4M3 [out][in]                         F8_E4M3; BF16 where `in` is no
 *     NAME.weight_scale_inv or .weight_scale                       multiple of 128
 *
 *     NAME.qweight       I32, GPTQ [in / 8][out]: 8 columns a      Q4_1; Q4_0 where packing says
 *                        word, the first in the lowest bits;       `symmetric`
 *                        AWQ [in][out / 8]: outputs 0, 2, 4, 6,
 *                        1, 3, 5, 7
 *     NAME.qzeros        I32 [groups][out / 8], outputs packed in
 *                        order (GPTQ), or as above (AWQ)
 *     NAME.scales        F16, BF16 or F32 [groups][out]
 *     NAME.g_idx         I32 [in], GPTQ, may be absent: the group
 *                        of each column, which must be in order
 *
 * A scale of 8 bits is F32, F16 or BF16: of blocks [ceil(out / rows)][ceil(in / columns)], else
 * [out], [out][1], [1] or a single number. A weight is scale * e4m3; BF16 has it rounded to f32,
 * then to bf16.
 *
 * A weight of 4 bits is scale * (q - zero), zero being what is stored and packing's `zero_offset`
 * (so 0..16). The scale s becomes an f16, exactly where it was one (BF16 too, from 2^-14 on), else
 * off by 2^-11 |s|. With that scale Q4_0 is exact, and Q4_1 has a minimum, -s * zero rounded to
 * f16: off by at most 2^-11 zero |s| + 2^-25 (2^-11 is half a unit of f16's last place), which is
 * less than a hundredth of the step between two weights.
 *
 * Any thread; packed_make shares the rows out to a pool.
 */
#pragma once

#include "kernels/cpu/pool.h"
#include "model/packing.h"
#include "model/weights_file.h"

struct packed_part {
    enum packing_kind kind; /* PACKING_NONE: this part is not packed */
    enum dtype dtype;       /* what it becomes */
    uint32_t out_count, in_count;
    const struct tensor *values, *scales, *zeros; /* zeros: of 4 bits */
    uint32_t scale_rows, scale_columns;           /* of one scale */
    uint32_t zero_offset;
};

/* Looks at how the file holds the matrix called `name` (which ends in ".weight"), and takes its
 * tensors where it is packed. INVALID names a tensor that is missing or of another shape, or whose
 * columns are out of order; UNSUPPORTED one of another type. */
enum status packed_find(struct weights_file *file, const char *name, uint32_t out_count,
                        uint32_t in_count, struct packed_part *ret_part, struct error *error);

size_t packed_bytes(const struct packed_part *part);

/* Makes all rows, of packed_bytes. INVALID names a tensor with a value that is not finite, a scale
 * that is too large, or a zero that is not 8 in a file that says it is symmetric. */
enum status packed_make(struct pool *pool, const struct packed_part *part, const char *path,
                        void *ret_rows, struct error *error);
