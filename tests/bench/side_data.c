#include <math.h>
#include <stdarg.h>

#include "tests/bench/side.h"

#define CHECKED_OUTPUTS 256 /* of a product, spread evenly */

void side_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "bench_side: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

/* Steele, Lea and Flood 2014 (splitmix64). */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static float random_unit(uint64_t *state)
{
    return (float)(random_next(state) >> 40) * 0x1p-23f - 1;
}

float *side_random_floats(uint64_t seed, size_t count, float scale)
{
    float *values = malloc(count * sizeof *values);
    CHECK(values != NULL);
    for (size_t i = 0; i < count; i++)
        values[i] = scale * random_unit(&seed);
    return values;
}

/* Positive and normal in F16. */
static uint16_t half_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(((bits >> 23) - 112) << 10 | ((bits >> 13) & 0x3ff));
}

/* Scales and minima of a block over quants that are there. */
static void block_head(uint64_t *state, enum dtype dtype, float deviation, uint8_t *block)
{
    float scale = deviation * (1 + 0.5f * random_unit(state));
    uint16_t half = half_of(scale / (dtype == DTYPE_Q8_0 ? 73.3f : 4.61f));
    memcpy(block, &half, sizeof half);
    if (dtype == DTYPE_Q4_1) {
        half = (uint16_t)(half_of(7.5f * scale / 4.61f) | 0x8000);
        memcpy(block + 2, &half, sizeof half);
    }
    if (dtype == DTYPE_Q8_0)
        for (int i = 2; i < 34; i++) /* no quantiser writes -128 */
            block[i] = block[i] == 0x80 ? 0x81 : block[i];
}

uint8_t *side_random_weights(uint64_t seed, enum dtype dtype, size_t rows, uint32_t columns)
{
    size_t block_bytes = dtype_block_bytes(dtype);
    size_t n_blocks = rows * (columns / dtype_block_count(dtype));
    size_t n_words = (n_blocks * block_bytes + 7) / 8;
    uint64_t *words = malloc(n_words * sizeof *words);
    uint8_t *data = (uint8_t *)words;
    float deviation = 1 / sqrtf((float)columns);
    CHECK(words != NULL && (dtype_has_blocks(dtype) || dtype == DTYPE_BF16));
    if (dtype_has_blocks(dtype)) {
        for (size_t i = 0; i < n_words; i++)
            words[i] = random_next(&seed);
        for (size_t i = 0; i < n_blocks; i++)
            block_head(&seed, dtype, deviation, data + i * block_bytes);
        return data;
    }
    for (size_t i = 0; i < n_blocks; i++)
        ((uint16_t *)words)[i] = dtype_bf16(1.732f * deviation * random_unit(&seed));
    return data;
}

struct sums {
    double off, whole;
};

static void sums_add(struct sums *sums, double value, double oracle)
{
    sums->off += (value - oracle) * (value - oracle);
    sums->whole += oracle * oracle;
}

static double dot(enum dtype dtype, const uint8_t *weights, const double *in, uint32_t count,
                  float *scratch)
{
    double sum = 0;
    dtype_widen(dtype, weights, count, scratch);
    for (uint32_t i = 0; i < count; i++)
        sum += (double)scratch[i] * in[i];
    return sum;
}

static size_t row_bytes(enum dtype dtype, uint32_t columns)
{
    return (size_t)(columns / dtype_block_count(dtype)) * dtype_block_bytes(dtype);
}

static double *doubles(size_t count)
{
    double *values = calloc(count, sizeof *values);
    CHECK(values != NULL);
    return values;
}

double side_product_error(const struct side_product *product, uint32_t n_rows, const float *in,
                          const float *out)
{
    struct sums sums = {0};
    uint32_t n_in = product->in_count, n_out = product->out_count;
    double *row = doubles(n_in);
    float *scratch = calloc(n_in, sizeof *scratch);
    CHECK(scratch != NULL);
    for (uint32_t r = 0; r < n_rows && r < SIDE_CHECKED_ROWS; r++) {
        for (uint32_t i = 0; i < n_in; i++)
            row[i] = (double)in[(size_t)r * n_in + i];
        for (uint32_t c = 0; c < CHECKED_OUTPUTS; c++) {
            uint32_t o = (uint32_t)((uint64_t)c * n_out / CHECKED_OUTPUTS) + c % 7;
            o = u32_min(o, n_out - 1);
            const uint8_t *weights = product->weights + o * row_bytes(product->dtype, n_in);
            double oracle = dot(product->dtype, weights, row, n_in, scratch);
            sums_add(&sums, (double)out[(size_t)r * n_out + o], oracle);
        }
    }
    free(row);
    free(scratch);
    return sqrt(sums.off / sums.whole);
}

/* Adds one expert's output. */
static void expert_add(const struct side_moe *m, uint32_t expert, double weight, const double *in,
                       double *out)
{
    uint32_t widest = m->hidden > m->ffn ? m->hidden : m->ffn;
    float *scratch = calloc(widest, sizeof *scratch);
    double *middle = doubles(m->ffn);
    CHECK(scratch != NULL);
    for (uint32_t i = 0; i < m->ffn; i++) {
        size_t at = ((size_t)expert * m->ffn + i) * row_bytes(m->dtype, m->hidden);
        double gate = dot(m->dtype, m->gate + at, in, m->hidden, scratch);
        double up = dot(m->dtype, m->up + at, in, m->hidden, scratch);
        middle[i] = gate / (1 + exp(-gate)) * up;
    }
    for (uint32_t i = 0; i < m->hidden; i++) {
        size_t at = ((size_t)expert * m->hidden + i) * row_bytes(m->dtype, m->ffn);
        out[i] += weight * dot(m->dtype, m->down + at, middle, m->ffn, scratch);
    }
    free(scratch);
    free(middle);
}

double side_moe_error(const struct side_moe *m, uint32_t n_rows, const float *in, const float *out)
{
    struct sums sums = {0};
    double *row = doubles(m->hidden), *oracle = doubles(m->hidden), *logits = doubles(m->n_experts);
    for (uint32_t r = 0; r < n_rows && r < 2; r++) {
        for (uint32_t i = 0; i < m->hidden; i++) {
            row[i] = (double)in[(size_t)r * m->hidden + i];
            oracle[i] = 0;
        }
        uint32_t best[MOE_TOP_K_MAX];
        double sum = 0;
        for (uint32_t e = 0; e < m->n_experts; e++) {
            logits[e] = 0;
            for (uint32_t i = 0; i < m->hidden; i++)
                logits[e] += (double)m->router[(size_t)e * m->hidden + i] * row[i];
        }
        for (uint32_t j = 0; j < m->top_k; j++) {
            best[j] = UINT32_MAX;
            for (uint32_t e = 0; e < m->n_experts; e++) {
                bool taken = false;
                for (uint32_t i = 0; i < j; i++)
                    taken |= best[i] == e;
                if (!taken && (best[j] == UINT32_MAX || logits[e] > logits[best[j]]))
                    best[j] = e;
            }
            sum += exp(logits[best[j]] - logits[best[0]]);
        }
        for (uint32_t j = 0; j < m->top_k; j++)
            expert_add(m, best[j], exp(logits[best[j]] - logits[best[0]]) / sum, row, oracle);
        for (uint32_t i = 0; i < m->hidden; i++)
            sums_add(&sums, (double)out[(size_t)r * m->hidden + i] - row[i], oracle[i]);
    }
    free(row);
    free(oracle);
    free(logits);
    return sqrt(sums.off / sums.whole);
}

/* One head of one row. */
static void head_attend(const struct side_attention *a, uint32_t n_tokens, uint32_t kv_head,
                        const float *q, double *ret_out)
{
    double *weights = doubles(n_tokens), most = -INFINITY, sum = 0;
    size_t stride = (size_t)a->n_kv_heads * a->head_dim;
    for (uint32_t t = 0; t < n_tokens; t++) {
        const float *k = a->k + t * stride + (size_t)kv_head * a->head_dim;
        for (uint32_t i = 0; i < a->head_dim; i++)
            weights[t] += (double)q[i] * (double)k[i];
        weights[t] /= sqrt(a->head_dim);
        most = fmax(most, weights[t]);
    }
    for (uint32_t i = 0; i < a->head_dim; i++)
        ret_out[i] = 0;
    for (uint32_t t = 0; t < n_tokens; t++) {
        const float *v = a->v + t * stride + (size_t)kv_head * a->head_dim;
        double weight = exp(weights[t] - most);
        sum += weight;
        for (uint32_t i = 0; i < a->head_dim; i++)
            ret_out[i] += weight * (double)v[i];
    }
    for (uint32_t i = 0; i < a->head_dim; i++)
        ret_out[i] /= sum;
    free(weights);
}

double side_attention_error(const struct side_attention *a, uint32_t n_rows, const float *in,
                            const float *out)
{
    struct sums sums = {0};
    double *head = doubles(a->head_dim);
    uint32_t group = a->n_heads / a->n_kv_heads;
    for (uint32_t r = 0; r < n_rows && r < SIDE_CHECKED_ROWS; r++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            size_t at = ((size_t)r * a->n_heads + h) * a->head_dim;
            head_attend(a, a->context_tokens - n_rows + r + 1, h / group, in + at, head);
            for (uint32_t i = 0; i < a->head_dim; i++)
                sums_add(&sums, (double)out[at + i], head[i]);
        }
    free(head);
    return sqrt(sums.off / sums.whole);
}
