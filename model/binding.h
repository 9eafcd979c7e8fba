/*
 * binding: the tensors of a weight file bound to the roles of a network.
 *
 * For every matrix it makes the `struct weight_source` that a backend packs, without touching the
 * data: q, k and v become one matrix of three parts, gate and up one of two, the experts of a layer
 * a stack. The names of both containers, their shapes and their order of experts live here and
 * nowhere else. All tensors are checked; one that is missing, extra, mis-shaped or mis-typed is an
 * error. The binding points into the weights_file, which must outlive it.
 *
 * GGUF stores the rows of q and k interleaved for its own rotation (pairs side by side), we rotate
 * halves: `interleaved_heads` says which parts have to be put back in order before they are packed.
 * A part that its file holds in 8 or 4 bits by several tensors (model/packed.h) has no data: it is
 * made when it is wanted.
 *
 * binding_quantise says which parts are to be packed as blocks of 8 or 4 bits instead of as they
 * are. By class:
 *     q, k, v, output; gate, up, down, of experts too    quantised
 *     head                                               when asked for
 *     embedding                                          wide; the head's where they are one
 *     router, norms, biases, RoPE divisors               wide
 * A part that has blocks already stays as it is, and so does one whose rows are no whole blocks.
 */
#pragma once

#include "model/packed.h"
#include "model/quantise_file.h"

#define BINDING_PARTS_MAX 3

struct matrix_binding {
    struct weight_source source;
    struct weight_part *parts;     /* [stack_count][n_parts]: what source.parts points to; where one
                                      is to be quantised, or made: its type then, and no data */
    const struct tensor **tensors; /* the same: where each is from */
    struct packed_part *packed; /* the same: how each is made, of kind PACKING_NONE where it is not,
                                   or is quantised; NULL: none is */
    uint32_t interleaved_heads[BINDING_PARTS_MAX]; /* [n_parts] heads of a part; 0: in order */
    uint32_t first_quantised,
        n_quantised; /* of binding.quantised: its own, in the order of parts */
};

/* A part that is to be quantised, as the file has it. */
struct quantised_part {
    const struct tensor *tensor;
    struct weight_part wide;   /* without data where it has to be made .. */
    struct packed_part packed; /* .. from this */
};

/* What is added to a matrix's rows: one tensor for each part of it. */
struct bias_binding {
    uint32_t n_parts; /* 0: none */
    const struct tensor *parts[BINDING_PARTS_MAX];
};

struct layer_binding {
    const struct tensor *attention_norm; /* [hidden] */
    struct matrix_binding qkv;           /* [(n_heads + 2 n_kv_heads) * head_dim][hidden] */
    struct matrix_binding output;        /* [hidden][n_heads * head_dim] */
    const struct tensor *mlp_norm;       /* [hidden] */
    struct matrix_binding router;        /* [n_experts][hidden]; zeroed when dense */
    struct matrix_binding gate_up;       /* (stack of) [2 * intermediate][hidden] */
    struct matrix_binding down;          /* (stack of) [hidden][intermediate] */
    struct bias_binding qkv_bias, output_bias, gate_up_bias, down_bias;
};

struct binding {
    const char *path;            /* of the weight file, for errors; borrowed */
    struct matrix_binding embed; /* [vocab][hidden] */
    struct matrix_binding head;  /* [vocab][hidden]; zeroed when tied to the embedding */
    const struct tensor *final_norm;
    const struct tensor *rope_divisors; /* [head_dim / 2] what the rotation's speeds are divided by,
                                           positive numbers; NULL: nothing. GGUF's rope_freqs */
    struct layer_binding *layers;       /* [n_layers] */
    uint32_t n_layers;
    enum dtype quantise_kind;              /* Q8_0, Q4_0; F32: nothing is quantised */
    bool quantise_head;                    /* the head too */
    struct quantise_part *quantised;       /* [n_quantised] names and shapes .. */
    struct quantised_part *quantised_from; /* .. and where they are from */
    uint32_t n_quantised;
    struct arena arena;
};

/* Binds all roles of `file->arch`. INVALID, UNSUPPORTED, EXHAUSTED. */
enum status binding_open(struct weights_file *file, struct binding *ret_binding,
                         struct error *error);

/* No matrix may have its inputs quantised. */
void binding_set_exact(struct binding *binding);

/* Which parts are to become `kind`, by the classes above; the head's with `with_head`. Once.
 * EXHAUSTED. */
enum status binding_quantise(struct binding *binding, enum dtype kind, bool with_head,
                             struct error *error);

/* A closed binding (zeroed) may be closed again. */
void binding_close(struct binding *binding);

/* The type that most values of all matrices are kept in. */
enum dtype binding_dtype(const struct binding *binding);

/* How many values of all matrices are of each type: [DTYPE_COUNT]. */
void binding_values(const struct binding *binding, uint64_t *ret_values);
