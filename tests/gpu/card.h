/*
 * card: a backend opened to be measured, and its yardsticks.
 *
 * Opens a backend by name, gives random weights and rows, and times work on it. Work is enqueued
 * through the table of ops alone; where the backend has graphs, a captured graph is what is timed,
 * so that the host's part does not count more than it does in a step. On the emulated GPU (dry)
 * everything runs once, and no time means anything.
 *
 * The yardstick of memory is a copy on the card by the driver's own library, which is looked up at
 * run time; bytes read and bytes written count. Memory that the card gives is the card's until
 * card_close; weights, buffers and KV are freed by who made them. One thread.
 */
#pragma once

#include "kernels/ops.h"
#include "tests/oracle/rig.h"

struct card {
    const struct ops *ops;
    struct device *device;
    bool emulated;
    struct dice dice;
    void *driver; /* libcuda.so.1, or NULL */
    uint8_t *random[DTYPE_COUNT];
    size_t random_values[DTYPE_COUNT];
};

/* What module_ops and device_open return. `tier` NULL: the best. */
enum status card_open(struct card *card, const char *backend, const char *tier, uint64_t seed,
                      struct error *error);
void card_close(struct card *card);

/* Of weights: by the name of its dtype; "fp8" is any of 8 bits that float. UNSUPPORTED: this build
 * knows no such type. */
enum status card_dtype(const char *name, enum dtype *ret_dtype, struct error *error);
/* The same of K and V: "fp8" is their own. */
enum status card_kv_dtype(const char *name, enum dtype *ret_dtype, struct error *error);

/* Memory of the card that is free; SIZE_MAX where it cannot be known. */
size_t card_free_bytes(const struct card *card);

/* EXHAUSTED says how much and what for. */
enum status card_buffer(struct card *card, size_t values, bool random, float **ret_buffer,
                        struct error *error);

struct card_matrix {
    enum dtype dtype;
    uint32_t stack_count, in_count;
    uint32_t n_parts;
    uint32_t out_counts[WEIGHT_PARTS_MAX];
    bool paired;
};
/* Random and valid: no zeros, nothing that is not finite. Matrices may share their host bytes,
 * never their memory on the card. */
enum status card_weight(struct card *card, const struct card_matrix *matrix,
                        struct weight **ret_weight, struct error *error);

/* A cache with a table for each of `slots` sequences of `tokens`, its blocks scattered, every layer
 * full of random keys and values. */
enum status card_kv(struct card *card, const struct kv_shape *shape, uint32_t n_heads,
                    uint32_t tokens, struct kv **ret_kv, struct error *error);

/* One call of what is measured: `index` counts calls, to take turns among data. */
typedef void (*card_work)(void *context, uint32_t index);

/* Seconds of one call: the median of rounds. At most `calls_max` calls are one graph. */
enum status card_time(struct card *card, card_work work, void *context, uint32_t calls_max,
                      double *ret_seconds, struct error *error);

/* Seconds that a copy of `bytes` on the card takes. */
enum status card_copy_time(struct card *card, size_t bytes, double *ret_seconds,
                           struct error *error);
