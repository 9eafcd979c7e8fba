/*
 * side: one engine of a comparison. The same weights, the same rows, the same clock for each.
 *
 * `side_ours` is the CPU backend of this repository. `side_peer` is another engine: its shared
 * libraries are found at run time in a folder that the user names, and called through the few
 * functions of their public interface that are declared in side_peer.c. Nothing of them is needed
 * to build this.
 *
 * A side holds one piece of work at a time: weights that were loaded, then rows that were prepared;
 * `run` computes and is all that is timed. Weights come in the blocks of their file format and the
 * side lays them out as it likes while it loads them. One thread calls. Failures end the program
 * with a sentence: it is a bench.
 *
 * The random data is a function of the shape alone, so every process has the same. It is never
 * zero, and of a size that keeps results of order 1. A mixture's result is its rows plus what its
 * experts say; the error is of the latter. The oracles compute in double on the same
 * quantised weights, for the first rows only.
 */
#pragma once

#include "kernels/ops.h"

struct side_product {
    enum dtype dtype;
    uint32_t in_count, out_count;
    uint8_t *weights; /* [out_count][in_count] in blocks */
};

struct side_moe {
    enum dtype dtype;
    uint32_t hidden, ffn, n_experts, top_k;
    float *router;             /* [n_experts][hidden] */
    uint8_t *gate, *up, *down; /* [n_experts][ffn][hidden], twice; [n_experts][hidden][ffn] */
};

/* A context that was written before, and rows that are its last ones. Every layer holds the same
 * values in memory of its own, so that a run reads as much as a model would. */
struct side_attention {
    enum dtype kv_dtype; /* of K and V; each side has its own nearest of the same size */
    uint32_t n_heads, n_kv_heads, head_dim, context_tokens, n_layers;
    float *k, *v; /* [context_tokens][n_kv_heads][head_dim] */
};

struct side {
    const char *name;
    /* Says on standard output what it is. `where`: the peer's build folder. */
    void (*open)(const char *where, uint32_t threads_count);
    void (*product_load)(const struct side_product *product);
    void (*moe_load)(const struct side_moe *moe);
    void (*attention_load)(const struct side_attention *attention);
    /* Rows of the loaded work: product [n_rows][in], mixture [n_rows][hidden], attention's q
     * [n_rows][n_heads * head_dim]. */
    void (*prepare)(uint32_t n_rows, const float *in);
    void (*run)(void);
    /* Of the first layer; the first `count` floats. */
    void (*result)(float *out, size_t count);
};

extern const struct side side_ours, side_peer;

#define SIDE_CHECKED_ROWS 4 /* how many rows an oracle looks at */

/* [n_rows][row_count] values in [-1, 1), or whole tensors of weights; malloc. */
float *side_random_floats(uint64_t seed, size_t count, float scale);
uint8_t *side_random_weights(uint64_t seed, enum dtype dtype, size_t rows, uint32_t columns);

/* Root of the mean square of (out - oracle), by that of the oracle. */
double side_product_error(const struct side_product *product, uint32_t n_rows, const float *in,
                          const float *out);
double side_moe_error(const struct side_moe *moe, uint32_t n_rows, const float *in,
                      const float *out);
double side_attention_error(const struct side_attention *attention, uint32_t n_rows,
                            const float *in, const float *out);

/* Prints a sentence and ends the program. */
__attribute__((noreturn, format(printf, 1, 2))) void side_fail(const char *format, ...);
