/*
 * rig: a backend under test, and the small tools of the oracle tests.
 *
 * A rig opens one device and owns every buffer that it gives out. Outputs are poisoned: they are
 * filled with NaN before an op writes them, so that a value that was not written shows. Each test
 * of a program runs once per configuration of the backend under test (tier and threads): of cpu, or
 * of what the environment variable GALERNE_ORACLE_BACKEND names; GALERNE_ORACLE_TIER picks a tier,
 * GALERNE_ORACLE_FILTER tests by name (* and ?). Under AddressSanitizer a tier of cpu has one
 * number of threads. A tier that is not there is reported as skipped, with its reason. One thread.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/ops.h"

#define UNIT 0x1p-24 /* half a unit in the last place of 1.0f */

struct rig {
    const struct ops *ops;
    struct device *device;
    void *buffers[64];
    struct weight *weights[16];
    struct kv *kvs[4];
    uint32_t n_buffers, n_weights, n_kvs;
};

struct rig rig_open(const char *backend, const char *tier, uint32_t threads_count);
void rig_close(struct rig *rig);

/* Device memory with these bytes; zeroed bytes when `host` is NULL. */
void *rig_put(struct rig *rig, const void *host, size_t size_bytes);
/* Device memory filled with NaN (0xff). */
void *rig_poison(struct rig *rig, size_t size_bytes);
/* Copies back; fails the test when the device failed. */
void rig_get(struct rig *rig, const void *buffer, void *host, size_t size_bytes);

/* One matrix in one part. */
struct weight *rig_weight(struct rig *rig, enum dtype dtype, uint32_t out_count, uint32_t in_count,
                          const void *data);
struct weight *rig_weight_source(struct rig *rig, const struct weight_source *source);
struct kv *rig_kv(struct rig *rig, const struct kv_shape *shape);

/* Every block of the pool is filled with NaN, through a table entry of slot 0. */
void rig_kv_poison(struct rig *rig, struct kv *kv, const struct kv_shape *shape);

/* Which configuration a test runs under: the cmocka state points to one of these. */
struct config {
    const char *backend;
    const char *tier;
    uint32_t threads_count;
};
struct rig rig_tested(void **state);
/* On an emulated GPU: a hundred times slower, so that tests try fewer rows there. */
bool rig_emulated(void **state);
/* Skips the test on an emulated GPU, where it would take minutes. */
void rig_large(void **state);
/* Whether its tier rounds or quantises the rows that weights of a type are multiplied with. */
bool rig_rounds(void **state, enum dtype dtype);
/* Whether it keeps weights of a type as BF16. */
bool rig_widens(void **state, enum dtype dtype);
/* How far two products, one after the other, with values of order 1 may be off: with quantised rows
 * 3e-2, with rounded ones 1e-2 (seen: 1.1e-2 and 2.5e-3), with rows as they are 1e-5; with
 * quantised rows and GALERNE_ORACLE_SEED 6e-2 (seen in 16 seeds: 4.4e-2). linear_test has the bound
 * of each product. */
double rig_bound(void **state, enum dtype dtype);

/* Emulated threads are slow: a test takes fewer cases there, of every kind that it has. */
bool rig_is_slow(void **state);

struct rig_test {
    const char *name;
    void (*run)(void **state);
};
/* Runs every test under every configuration; main returns its value. */
int rig_main(const char *group, const struct rig_test *tests, size_t n_tests);

/* Pseudo-random numbers with a fixed start: a failure repeats. The environment variable
 * GALERNE_ORACLE_SEED, a number, gives others. */
struct dice {
    uint64_t state;
};
uint32_t dice_below(struct dice *dice, uint32_t n);
uint32_t dice_between(struct dice *dice, uint32_t low, uint32_t high); /* both included */
float dice_float(struct dice *dice);                                   /* in (-1, 1) */
/* malloc'ed, each value in (-scale, scale). */
float *dice_floats(struct dice *dice, size_t n, float scale);
/* 0..n-1 in random order. */
void dice_shuffle(struct dice *dice, uint32_t *items, uint32_t n);

uint16_t bf16_of(float value); /* truncated */
/* malloc'ed values of any type, below `scale` in size: F16, scales and minima of any sign. */
void *dice_weights(struct dice *dice, enum dtype dtype, size_t count, float scale);

/* Fails the test when the two are further apart than `bound`, or either is NaN. */
void close_to(const char *what, size_t index, float got, float expected, double bound);
