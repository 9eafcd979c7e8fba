#include <math.h>

#include "kernels/cpu/tier.h"

/*
 * The tier for every CPU: C that a compiler may turn into whatever baseline vectors it has. It
 * keeps the layout and the order of operations of the wide tiers, in f32 with separate multiply and
 * add.
 */

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A row as it stands, or in its tile: value k is at[k * step]. */
struct line {
    const float *at;
    size_t step;
};

static struct line line_of(const struct product *p, uint32_t row)
{
    if (!p->tiles)
        return (struct line){p->in + (size_t)row * p->in_count, 1};
    uint32_t tile = tile_of(p->n_rows, row), first = tile_first(p->n_rows, tile);
    return (struct line){p->tiles + (size_t)first * p->in_count + (row - first),
                         tile_first(p->n_rows, tile + 1) - first};
}

static void panel_f32(const float *panel, struct line in, uint32_t in_count, float *sums)
{
    for (uint32_t k = 0; k < in_count; k++, panel += PANEL_OUTPUTS)
        for (uint32_t c = 0; c < PANEL_OUTPUTS; c++)
            sums[c] += panel[c] * in.at[k * in.step];
}

static void panel_bf16(const uint32_t *panel, struct line in, uint32_t in_count, float *sums)
{
    for (uint32_t k = 0; k < in_count; k++) {
        for (uint32_t c = 0; c < PANEL_OUTPUTS; c++)
            sums[c] +=
                float_of_bits(k % 2 ? panel[c] & 0xffff0000u : panel[c] << 16) * in.at[k * in.step];
        panel += k % 2 ? PANEL_OUTPUTS : 0;
    }
}

static void panel_f16(const uint16_t *panel, struct line in, uint32_t in_count, float *sums)
{
    for (uint32_t k = 0; k < in_count; k++, panel += PANEL_OUTPUTS) {
        float weights[PANEL_OUTPUTS];
        dtype_widen(DTYPE_F16, panel, PANEL_OUTPUTS, weights);
        for (uint32_t c = 0; c < PANEL_OUTPUTS; c++)
            sums[c] += weights[c] * in.at[k * in.step];
    }
}

static void panel_store(const struct product *p, uint32_t panel, uint32_t row, const float *sums)
{
    uint32_t first = panel * PANEL_OUTPUTS;
    uint32_t n = u32_min(PANEL_OUTPUTS, p->out_count - first);
    size_t at = (size_t)row * p->out_stride + first;
    for (uint32_t c = 0; c < n; c++) {
        float sum = p->bias ? sums[c] + p->bias[first + c] : sums[c];
        p->out[at + c] = p->residual ? sum + p->residual[at + c] : sum;
    }
}

static void scalar_product(const struct product *p, uint32_t first_panel, uint32_t n_panels)
{
    size_t step = panel_bytes(p->dtype, p->in_count);
    for (uint32_t panel = first_panel; panel < first_panel + n_panels; panel++) {
        const void *weights = (const char *)p->panels + panel * step;
        for (uint32_t r = 0; r < p->n_rows; r++) {
            struct line in = line_of(p, r);
            float sums[PANEL_OUTPUTS] = {0};
            if (p->dtype == DTYPE_BF16)
                panel_bf16(weights, in, p->in_count, sums);
            else if (p->dtype == DTYPE_F16)
                panel_f16(weights, in, p->in_count, sums);
            else
                panel_f32(weights, in, p->in_count, sums);
            panel_store(p, panel, r, sums);
        }
    }
}

static void scalar_rmsnorm(const float *in, const float *weight, float eps, uint32_t n, float *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)in[i] * (double)in[i];
    float scale = (float)(1 / sqrt(sum / n + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        out[i] = in[i] * scale * weight[i];
}

static void scalar_rotate(float *head, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = head[i], b = head[half + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[half + i] = b * cosines[i] + a * sines[i];
    }
}

static void scalar_silu_mul(const float *gate, const float *up, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static float logit_clean(float logit)
{
    return isnan(logit) ? -INFINITY : fminf(logit, 0x1.fffffep127f);
}

static float scalar_logits_best(const float *logits, uint32_t n, uint32_t *ret_id)
{
    float most = -INFINITY;
    uint32_t best = 0;
    for (uint32_t id = 0; id < n; id++) {
        float logit = logit_clean(logits[id]);
        if (logit > most) {
            most = logit;
            best = id;
        }
    }
    *ret_id = best;
    return most;
}

static double scalar_logits_exp_sum(const float *logits, uint32_t n, float most)
{
    double sum = 0;
    for (uint32_t id = 0; id < n; id++)
        sum += (double)expf(logit_clean(logits[id]) - most);
    return sum;
}

static void scalar_logits_weigh(const float *logits, uint32_t n, float most,
                                double inverse_temperature, uint64_t *weights)
{
    for (uint32_t id = 0; id < n; id++) {
        double x = ((double)logit_clean(logits[id]) - (double)most) * inverse_temperature;
        weights[id] = (uint64_t)llrint(ldexp(exp(x), WEIGHT_BITS));
    }
}

static void scalar_row_blocks(const float *in, uint32_t n_blocks, struct row_block *to,
                              uint32_t stride)
{
    for (uint32_t b = 0; b < n_blocks; b++, in += BLOCK_VALUES, to += stride) {
        uint32_t most = 0, bits;
        int32_t sum = 0;
        for (uint32_t i = 0; i < BLOCK_VALUES; i++) {
            memcpy(&bits, &in[i], sizeof bits);
            most = u32_max(most, bits & 0x7fffffffu);
        }
        float inverse = row_block_begin(to, most);
        for (uint32_t i = 0; i < BLOCK_VALUES; i++) {
            to->values[i] = inverse > 0 ? (int8_t)rintf(in[i] * inverse) : 0;
            sum += to->values[i];
        }
        row_block_end(to, sum);
    }
}

/* sums[c] = sum of 32 products of output c, for four inputs of all outputs at a time. */
static void bytes_sum(const uint8_t *weights, const struct row_block *row, int32_t *sums)
{
    for (uint32_t c = 0; c < PANEL_OUTPUTS; c++)
        sums[c] = row->sum_minus_128;
    for (uint32_t i = 0; i < BLOCK_VALUES; i += 4)
        for (uint32_t c = 0; c < PANEL_OUTPUTS; c++, weights += 4)
            for (uint32_t k = 0; k < 4; k++)
                sums[c] += weights[k] * row->values[i + k];
}

static void nibbles_sum(const uint8_t *weights, const struct row_block *row, int32_t start,
                        int32_t *sums)
{
    for (uint32_t c = 0; c < PANEL_OUTPUTS; c++)
        sums[c] = start;
    for (uint32_t i = 0; i < BLOCK_VALUES / 2; i += 4)
        for (uint32_t c = 0; c < PANEL_OUTPUTS; c++, weights += 4)
            for (uint32_t k = 0; k < 4; k++)
                sums[c] += (weights[k] & 15) * row->values[i + k] +
                           (weights[k] >> 4) * row->values[BLOCK_VALUES / 2 + i + k];
}

/* Adds what one block of a panel gives one row. */
static void block_add(enum dtype dtype, const uint8_t *block, const struct row_block *row,
                      float *totals)
{
    float scales[PANEL_OUTPUTS], minima[PANEL_OUTPUTS];
    int32_t sums[PANEL_OUTPUTS];
    const uint8_t *weights = block + PANEL_OUTPUTS * sizeof(uint16_t);
    dtype_widen(DTYPE_F16, block, PANEL_OUTPUTS, scales);
    if (dtype == DTYPE_Q4_1) {
        dtype_widen(DTYPE_F16, weights, PANEL_OUTPUTS, minima);
        weights += PANEL_OUTPUTS * sizeof(uint16_t);
    }
    if (dtype == DTYPE_Q8_0)
        bytes_sum(weights, row, sums);
    else
        nibbles_sum(weights, row, dtype == DTYPE_Q4_0 ? row->sum_minus_8 : 0, sums);
    for (uint32_t c = 0; c < PANEL_OUTPUTS; c++) {
        totals[c] += (float)sums[c] * (scales[c] * row->scale);
        if (dtype == DTYPE_Q4_1)
            totals[c] += minima[c] * row->scaled_sum;
    }
}

static void scalar_product_blocks(const struct product *p, uint32_t first_panel, uint32_t n_panels)
{
    uint32_t n_blocks = p->in_count / BLOCK_VALUES;
    size_t block_bytes = (size_t)PANEL_OUTPUTS * dtype_block_bytes(p->dtype);
    for (uint32_t panel = first_panel; panel < first_panel + n_panels; panel++)
        for (uint32_t r = 0; r < p->n_rows; r++) {
            const uint8_t *block = (const uint8_t *)p->panels + panel * n_blocks * block_bytes;
            struct block_tile tile = block_tile_of(p->n_rows, r);
            const struct row_block *row =
                p->blocks + (size_t)tile.first * n_blocks + (r - tile.first);
            float totals[PANEL_OUTPUTS] = {0};
            for (uint32_t b = 0; b < n_blocks; b++, block += block_bytes, row += tile.n)
                block_add(p->dtype, block, row, totals);
            panel_store(p, panel, r, totals);
        }
}

static bool scalar_supported(void)
{
    return true;
}

const struct tier tier_scalar = {
    .name = "scalar",
    .supported = scalar_supported,
    .product = scalar_product,
    .product_blocks = scalar_product_blocks,
    .row_blocks = scalar_row_blocks,
    .attend_pairs = 4,
    .attend = scalar_attend,
    .attend_fold = scalar_attend_fold,
    .rmsnorm = scalar_rmsnorm,
    .rotate = scalar_rotate,
    .silu_mul = scalar_silu_mul,
    .logits_best = scalar_logits_best,
    .logits_exp_sum = scalar_logits_exp_sum,
    .logits_weigh = scalar_logits_weigh,
};
