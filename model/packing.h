/*
 * packing: how a checkpoint of safetensors holds its matrices in 8 or 4 bits, as config.json says
 * in `quantization_config`.
 *
 *     quant_method         what is read
 *     fp8                  E4M3 with a scale for a block of `weight_block_size`, or for a row or a
 *                          tensor where that is null
 *     compressed-tensors   the same, of format float-quantized (or naive-quantized)
 *     gptq                 4 bits in int32 words down the columns; checkpoint_format gptq, which
 *                          stores zeros less one, or gptq_v2, which does not
 *     awq                  4 bits in int32 words along the outputs; version gemm
 *
 * Which tensors are packed is seen in the file (model/packed.h), not read from lists of modules.
 * What would change the arithmetic and is not one of these is UNSUPPORTED by name and value. Pure;
 * any thread.
 */
#pragma once

#include "base/status.h"

enum packing_kind { PACKING_NONE = 0, PACKING_F8, PACKING_GPTQ, PACKING_AWQ };

struct packing {
    enum packing_kind kind;
    uint32_t block_rows, block_columns; /* F8: of one scale; columns a multiple of 128; 0, 0: a
                                           scale for each row, or for each tensor */
    uint32_t group_columns; /* 4 bits: of one scale and zero, a multiple of 32; 0: all of them */
    uint32_t zero_offset;   /* GPTQ: what is added to a stored zero */
    bool symmetric;         /* GPTQ: every zero is 8 */
};

struct json_at;

/* Reads `quantization_config` of the document; absent or null: PACKING_NONE. INVALID, UNSUPPORTED.
 */
enum status packing_from_json(const struct json_at *root, struct packing *ret_packing,
                              struct error *error);
