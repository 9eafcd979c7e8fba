/*
 * rope: rotary positions, and K and V into their pages, for a pair of values of a head.
 *
 * rope.cu does it for whole rows (the op rope_kv); a product over few rows that makes q, k and v
 * does it with what it has just summed (product_stream.cu, the op qkv). Both give the same bits.
 */
#pragma once

#include "kernels/cuda/kv.h"

struct rope_task {
    uint32_t n_heads, n_kv_heads, head_dim, layer;
    float *qkv; /* [n_rows][n_heads + 2 n_kv_heads][head_dim] */
    const float *inv_freq;
    float attention_factor;
    const uint32_t *positions, *slots; /* [n_rows] */
    struct kv_view kv;
};
/* Checks the rows, and stages what the host has of them. */
struct rope_task rope_task_of(struct device *device, const struct rope_kv_args *args);

/*
 * Sine and cosine of an angle below 2^24 in size. The library's ones keep a frame in local memory
 * for angles that no position has; these give the same bits on every device. Quarter turns are
 * taken off in three parts that fma makes exact enough, then Taylor's series to x^17 and x^16: what
 * is left out is below 2^-58 of the value.
 */
LEAF void angle_turn(double angle, double *ret_sine, double *ret_cosine)
{
    double n = rint(angle * 0x1.45f306dc9c883p-1); /* 2 / pi */
    double x = fma(-n, 0x1.921fb54442d18p+0, angle);
    x = fma(-n, 0x1.1a62633145c07p-54, x);
    x = fma(-n, -0x1.f1976b7ed8fbcp-110, x);
    double y = x * x, sine = 1, cosine = 1;
#pragma unroll
    for (int k = 16; k >= 2; k -= 2) {
        sine = fma(-y * sine, 1.0 / (k * (k + 1)), 1.0);
        cosine = fma(-y * cosine, 1.0 / (k * (k - 1)), 1.0);
    }
    sine *= x;
    int quarter = (int)((long long)n & 3);
    double a = quarter & 1 ? cosine : sine, b = quarter & 1 ? sine : cosine;
    *ret_sine = quarter & 2 ? -a : a;
    *ret_cosine = (quarter + 1) & 2 ? -b : b;
}

struct rope_angle {
    float cosine, sine;
};
LEAF struct rope_angle rope_angle_of(const struct rope_task &a, uint32_t position, uint32_t i)
{
    double sine, cosine;
    angle_turn((double)position * (double)a.inv_freq[i], &sine, &cosine);
    return {(float)(cosine * (double)a.attention_factor),
            (float)(sine * (double)a.attention_factor)};
}

/* Heads of q, then of k, are turned. */
LEAF bool rope_turns(const struct rope_task &a, uint32_t head)
{
    return head < a.n_heads + a.n_kv_heads;
}

/* Values i and i + head_dim / 2 of a head of row r, before they are turned: to the row, and k and v
 * to the page `block` of its position. */
LEAF void rope_pair_put(const struct rope_task &a, uint32_t r, uint32_t block, uint32_t head,
                        uint32_t i, float x, float y, const struct rope_angle &angle)
{
    uint32_t half = a.head_dim / 2, token = a.positions[r] % a.kv.block_tokens;
    if (rope_turns(a, head)) {
        float turned = x * angle.cosine - y * angle.sine;
        y = y * angle.cosine + x * angle.sine;
        x = turned;
    }
    global<float> row(a.qkv + ((size_t)r * (a.n_heads + 2 * a.n_kv_heads) + head) * a.head_dim);
    row[i] = x;
    row[i + half] = y;
    if (head < a.n_heads)
        return;
    uint32_t value = head - a.n_heads >= a.n_kv_heads;
    char *tile = kv_tile(a.kv, block, a.layer, head - a.n_heads - value * a.n_kv_heads, value);
    kv_store(a.kv, tile, token, i, x);
    kv_store(a.kv, tile, token, i + half, y);
}
