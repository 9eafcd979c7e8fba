/*
 * safetensors: the header of a safetensors file, read over bytes that somebody mapped.
 *
 *     header length u64 | header: JSON object | data
 *     header: name -> {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}
 *             and "__metadata__": a map of strings, which we check and ignore
 *
 * Offsets count from the start of the data. Checked: the length against the file and a cap, the
 * JSON within limits, each dtype known, each shape's bytes equal to its offsets without overflow,
 * data within the file, aligned to its type, without overlap, hole or rest. Any thread.
 */
#pragma once

#include "model/tensor.h"

#define SAFETENSORS_HEADER_MAX_BYTES (16u << 20)
#define SAFETENSORS_TENSORS_MAX 65536

/* Fills a list from the whole file's bytes, which must outlive it; `file` is for errors.
 * INVALID, EXHAUSTED. */
enum status safetensors_read(struct span bytes, const char *file, struct tensor_list *ret_list,
                             struct error *error);
