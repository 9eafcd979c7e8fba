/*
 * ref: the oracle backend. Plain loops that accumulate in double, one thread, no tricks.
 *
 * It is written to be compared with a formula on paper, not to be fast. Values between ops are f32
 * as the op table says; inside an op everything is double and is rounded once at the end. Each op
 * has its own file; `ref_device.c` holds the table. The one device thread calls; nothing is shared.
 */
#pragma once

#include "kernels/memory.h"
#include "kernels/source.h"

struct device {
    struct scratch work;   /* of the op that runs now */
    struct scratch normed; /* a row of it */
    bool failed;           /* memory ran out inside an op: sync reports it */
};

struct weight {
    uint32_t stack_count, out_count, in_count;
    uint32_t n_segments;
    struct segment segments[WEIGHT_PARTS_MAX];
    size_t matrix_bytes;
    char *data;     /* [stack_count] matrices of rows as files have them, segment by segment */
    float *widened; /* [in_count]: where ref_weight_row puts a row */
};

struct kv {
    struct kv_shape shape;
    float *data;     /* [blocks_count][n_layers][2: K, V][block_tokens][n_kv_heads][head_dim] */
    uint32_t *table; /* [slots_count][slot_blocks_max], block numbers */
};

/* Scratch of `size_bytes`, or NULL with the device marked as failed: the op then does nothing. */
void *ref_work(struct device *device, size_t size_bytes);

/* Row `row` of matrix `index` as f32: [in_count]. Valid until the next call for this weight. */
const float *ref_weight_row(const struct weight *weight, uint32_t index, uint32_t row);

/* K (value 0) or V (value 1) of one position: [n_kv_heads][head_dim]. */
float *ref_kv_at(struct kv *kv, uint32_t layer, uint32_t slot, uint32_t position, int value);

/* sum_i row[i] * in[i]. */
double ref_dot(const float *row, const float *in, uint32_t n);

/* What products take of some rows: the rows normed, or as they are when norm is NULL. NULL when
 * memory is out (the device is then marked as failed). Valid until the next call. */
struct ref_rows {
    const float *norm; /* [n] or NULL */
    float norm_eps;
    const float *in; /* [n_rows][n] */
    uint32_t n_rows, n;
};
const float *ref_rows_norm(struct device *device, const struct ref_rows *rows);

/* out = silu(gate x) * up x with matrix `index` of a weight: [out_count / 2]. bias may be NULL. */
void ref_gate(const struct weight *gate_up, uint32_t index, const float *bias, const float *in,
              double *out);

/* sum_i row[i] * in[i]. */
double ref_dot_wide(const float *row, const double *in, uint32_t n);

enum status ref_weight_pack(struct device *device, const struct weight_source *source,
                            struct weight **ret_weight, struct error *error);
void ref_weight_free(struct device *device, struct weight *weight);
size_t ref_weight_bytes(const struct weight *weight);

size_t ref_kv_block_bytes(const struct kv_shape *shape);
enum status ref_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                        struct error *error);
void ref_kv_close(struct device *device, struct kv *kv);
void ref_kv_table_set(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
                      const uint32_t *host_blocks, uint32_t n);
void ref_kv_copy(struct device *device, struct kv *kv, const uint32_t *host_from,
                 const uint32_t *host_to, uint32_t n);

void ref_tokens_gather(struct device *device, const struct tokens_gather_args *args);
void ref_embed(struct device *device, const struct embed_args *args);
void ref_linear(struct device *device, const struct linear_args *args);
void ref_rope_kv(struct device *device, const struct rope_kv_args *args);
void ref_attention(struct device *device, const struct attention_args *args);
void ref_mlp(struct device *device, const struct mlp_args *args);
void ref_moe(struct device *device, const struct moe_args *args);
void ref_rows_gather(struct device *device, const struct rows_gather_args *args);
void ref_sample(struct device *device, const struct sample_args *args);

/* Scratch that the op needs, for reserve. */
size_t ref_sample_work_bytes(uint32_t vocab);
