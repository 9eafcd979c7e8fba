/*
 * cell: one thing that is measured on a card: what it is, and what came out.
 *
 * A cell is a line, `NAME KIND key=value...`; tests/gpu/cells.py has the list. Kinds:
 *     copy     mib                                           a copy on the card
 *     floor                                                  a launch of next to nothing
 *     product  n k rows weights                              out[rows][n] of in[rows][k]
 *     gaps     hidden heads kv_heads head_dim ffn rows weights
 *              the products of a layer one after the other; `alone` is the sum of each by itself
 *     experts  hidden ffn experts top_k rows weights         a whole mixture block
 *     attend   heads kv_heads head_dim rows context kv       decode: a row each of `rows` sequences
 *     prefill  heads kv_heads head_dim rows kv               one causal sequence of `rows`
 *     step     layers hidden heads kv_heads head_dim ffn experts top_k vocab weights kv batch
 *              context: a whole decode step; experts=0 is a dense model
 * What is kept between cells (weights of a layer, a network) belongs to the struct that the
 * functions here take, and is made anew when the next cell wants another. One thread.
 */
#pragma once

#include "tests/gpu/card.h"

struct cell {
    char name[80], kind[16], weights[16], kv[16];
    uint32_t mib, n, k, rows, context, batch;
    uint32_t layers, hidden, heads, kv_heads, head_dim, ffn, experts, top_k, vocab;
};

/* INVALID names the word. */
enum status cell_parse(const char *line, struct cell *ret_cell, struct error *error);

struct measured {
    double seconds;    /* of one call */
    double bytes;      /* that it has to move: weights and KV read, a copy's reads and writes */
    double flops;      /* that it has to compute */
    double touched;    /* experts that a mixture read in a layer, on average; else 0 */
    double alone;      /* gaps: seconds */
    uint32_t distinct; /* step: layers with weights of their own; else 0 */
};

/* Weights of one feed-forward block, kept as long as the cells want the same. */
struct block_kept {
    struct cell cell;
    struct weight *router, *gate_up, *down;
    float *router_host; /* [experts][hidden] */
};
void block_drop(struct card *card, struct block_kept *kept);

enum status cell_copy(struct card *card, const struct cell *cell, struct measured *ret_measured,
                      struct error *error);
enum status cell_floor(struct card *card, const struct cell *cell, struct measured *ret_measured,
                       struct error *error);
enum status cell_product(struct card *card, const struct cell *cell, struct measured *ret_measured,
                         struct error *error);
enum status cell_gaps(struct card *card, const struct cell *cell, struct measured *ret_measured,
                      struct error *error);
enum status cell_experts(struct card *card, struct block_kept *kept, const struct cell *cell,
                         struct measured *ret_measured, struct error *error);
enum status cell_attend(struct card *card, const struct cell *cell, struct measured *ret_measured,
                        struct error *error);
enum status cell_prefill(struct card *card, const struct cell *cell, struct measured *ret_measured,
                         struct error *error);

/* The experts that rows choose, counted on the host: rows [n_rows][hidden] are normed by their
 * size, the router is [experts][hidden]. */
uint32_t experts_touched(const struct cell *cell, const float *router, const float *rows,
                         uint32_t n_rows);

struct network; /* weights of a model's layers */
void network_close(struct card *card, struct network *network);
/* `kept` is the network of the cell before, or NULL; it is used again or replaced. */
enum status cell_step(struct card *card, struct network **kept, const struct cell *cell,
                      struct measured *ret_measured, struct error *error);
