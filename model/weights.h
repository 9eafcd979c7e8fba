/*
 * weights: the matrices and norms of a network, packed on a device.
 *
 * Made once from a binding, layer by layer, read-only afterwards; the weight file may be closed
 * then. One thread (the owner of the device).
 */
#pragma once

#include "model/quantiser.h"

struct layer_weights {
    float *attention_norm;  /* device [hidden] */
    struct weight *qkv;     /* [(n_heads + 2 n_kv_heads) * head_dim][hidden] */
    struct weight *output;  /* [hidden][n_heads * head_dim] */
    float *mlp_norm;        /* device [hidden] */
    struct weight *router;  /* [n_experts][hidden], NULL when dense */
    struct weight *gate_up; /* (stack of) [2 * intermediate][hidden] */
    struct weight *down;    /* (stack of) [hidden][intermediate] */
    float *qkv_bias, *output_bias, *gate_up_bias, *down_bias; /* device [rows of each]; or NULL */
};

struct weights {
    const struct ops *ops;
    struct device *device;
    struct weight *embed;         /* [vocab][hidden] */
    struct weight *head;          /* the same object when tied */
    float *final_norm;            /* device [hidden] */
    float *rope_divisors;         /* host [head_dim / 2], or NULL */
    struct layer_weights *layers; /* [n_layers] */
    uint32_t n_layers;
};

struct weights_options {
    const struct ops *ops;
    struct device *device;
    const struct model_progress *progress; /* or NULL */
    struct quantiser *quantiser; /* where the binding has parts to be quantised; else NULL */
    uint32_t threads_count;      /* that make packed parts; 0: all that the process may use */
};

/* Packs everything. INVALID names a tensor with a value that is not finite; EXHAUSTED when memory
 * is out, or what the backend says. The progress hears 0..100, each value at most once, rising. */
enum status weights_open(const struct weights_options *options, const struct binding *binding,
                         struct weights *ret_weights, struct error *error);

/* A closed object (zeroed) may be closed again. */
void weights_close(struct weights *weights);

/* What packing will take, by the rule of ops.h (parts keep their types, or what the backend widens
 * is BF16), page-rounded. */
uint64_t weights_plan_bytes(const struct arch *arch, const struct binding *binding,
                            uint32_t widens);

/* Bytes that one decode step of one row reads. */
uint64_t weights_decode_bytes(const struct weights *weights, const struct arch *arch);
