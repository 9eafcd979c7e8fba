/*
 * quantise: wide weights (F32, F16, BF16, F8_E4M3) become blocks of 8 or 4 bits with a scale each.
 *
 * The rules are those of the reference routines of ggml (quantize_row_q8_0_ref and
 * quantize_row_q4_0_ref in ggml-quants.c), which `gguf.quants.quantize` of the Python package gguf
 * repeats: the bytes are the same as that package's, which tests/unit/model_quantise_test.c checks.
 * Of 32 values x in f32, each operation rounded to f32:
 *     Q8_0   d = max |x| / 127;  q = round(x * (1 / d)), halves away from zero
 *     Q4_0   d = m / -8, m the x of largest magnitude (the first of them), with its sign;
 *            q = trunc(x * (1 / d) + 8.5), at most 15
 * The block holds d rounded to f16, to even, and the q (see kernels/ops.h). Where d is 0, and where
 * 1 / d is not finite (magnitudes below 2^-120: the f16 is 0 then), every q stands for 0.
 *
 * quantise_run shares pieces of the jobs out to a pool's threads; what a piece holds in f32 is a
 * few kilobytes, so a matrix is never widened as a whole. One thread at a time per pool.
 */
#pragma once

#include "kernels/cpu/pool.h"
#include "kernels/ops.h"

/* What there are rules for: Q8_0 and Q4_0. */
bool quantise_knows(enum dtype kind);

/* `count` values, a multiple of 32, all finite, into count / 32 blocks, any alignment. */
void quantise_blocks(enum dtype kind, const float *values, size_t count, void *ret_blocks);

/* A part of a matrix. */
struct quantise_job {
    enum dtype from; /* F32, F16, BF16 or F8_E4M3 */
    const void *data;
    size_t count; /* values, a multiple of 32 */
    void *blocks; /* what becomes of them */
    /* out: */
    size_t not_finite; /* index of the first value that is not a finite number; `count`: none */
    size_t too_large;  /* index of the first block whose scale does not fit an f16, in values */
};

/* Where a job has a value that is not finite or too large, its blocks are of no use. */
void quantise_run(struct pool *pool, enum dtype kind, struct quantise_job *jobs, uint32_t n_jobs);
