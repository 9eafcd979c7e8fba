#include <immintrin.h>

#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx2_math.h"

/*
 * Three passes over the positions, each for up to four heads at once so that keys and values are
 * read once for all of them: scores (8 positions a vector, since K is stored turned), softmax, and
 * the weighted sum of values (8 features a vector, one chain per feature through all positions).
 * Scores of positions outside first..last come from memory that belongs to nobody: they are masked,
 * and values there are never read.
 *
 * H and V are constants in every copy of a body: the loops over them vanish.
 */
#define UNROLL _Pragma("GCC unroll 4")
#define VALUES_MAX 4 /* vectors of features at a time */
#define SPAN (2 * LANES)

_Static_assert(ATTEND_HEADS_MAX == 4, "bodies are instantiated for 1 to 4 heads");

AVX2_INLINE const float *block_keys(const struct attend *a, uint32_t block)
{
    return a->kv + a->blocks[block] * a->block_stride;
}

/* 16 positions at a time. */
AVX2_INLINE void scores_body(const struct attend *a, const float *q, size_t span, const int H)
{
    uint32_t first = a->first / a->block_tokens * a->block_tokens;
    uint32_t end = (a->last / a->block_tokens + 1) * a->block_tokens;
    float *scores = a->scores;
    for (uint32_t position = first; position < end; position += SPAN, scores += SPAN) {
        const float *keys = block_keys(a, position / a->block_tokens) + position % a->block_tokens;
        __m256 sums_0[ATTEND_HEADS_MAX], sums_1[ATTEND_HEADS_MAX];
        UNROLL for (int h = 0; h < H; h++) sums_0[h] = sums_1[h] = _mm256_setzero_ps();
        for (size_t i = 0; i < a->head_dim; i++, keys += a->block_tokens) {
            __m256 key_0 = _mm256_loadu_ps(keys), key_1 = _mm256_loadu_ps(keys + LANES);
            UNROLL for (int h = 0; h < H; h++)
            {
                __m256 x = _mm256_broadcast_ss(q + (size_t)h * a->head_dim + i);
                sums_0[h] = _mm256_fmadd_ps(key_0, x, sums_0[h]);
                sums_1[h] = _mm256_fmadd_ps(key_1, x, sums_1[h]);
            }
        }
        UNROLL for (int h = 0; h < H; h++)
        {
            __m256 scale = _mm256_set1_ps(a->scale);
            _mm256_storeu_ps(scores + (size_t)h * span, _mm256_mul_ps(sums_0[h], scale));
            _mm256_storeu_ps(scores + (size_t)h * span + LANES, _mm256_mul_ps(sums_1[h], scale));
        }
    }
}

/* Of the eight scores from `i` on, those from..to. */
AVX2_INLINE __m256 scores_mask(size_t i, size_t from, size_t to)
{
    __m256i mask = lanes_mask(to + 1 - i);
    if (i < from)
        mask = _mm256_andnot_si256(lanes_mask(from - i), mask);
    return _mm256_castsi256_ps(mask);
}

/* Scores of one head become exp(score - most), 0 outside first..last; returns their sum. */
static float scores_softmax(const struct attend *a, float *scores, size_t span)
{
    uint32_t base = a->first / a->block_tokens * a->block_tokens;
    size_t from = a->first - base, to = a->last - base; /* both included */
    const __m256 lowest = _mm256_set1_ps(-__builtin_inff());
    __m256 most = lowest, sums = _mm256_setzero_ps();
    for (size_t i = from / LANES * LANES; i <= to; i += LANES) {
        __m256 x = _mm256_loadu_ps(scores + i);
        most = _mm256_max_ps(most, _mm256_blendv_ps(lowest, x, scores_mask(i, from, to)));
    }
    most = _mm256_set1_ps(lanes_max(most));
    for (size_t i = from / LANES * LANES; i <= to; i += LANES) {
        __m256 x = _mm256_sub_ps(_mm256_loadu_ps(scores + i), most);
        __m256 weight = _mm256_and_ps(exp_ps(x), scores_mask(i, from, to));
        _mm256_storeu_ps(scores + i, weight);
        sums = _mm256_add_ps(sums, weight);
    }
    return lanes_sum(sums);
}

/* Features feature .. feature + 8 V - 1 of H heads; the last vector of a head may be cut. */
AVX2_INLINE void values_body(const struct attend *a, float *out, uint32_t feature,
                             const float *head_sums, const int H, const int V)
{
    size_t span = attend_span(a->first, a->last, a->block_tokens), n = a->head_dim;
    __m256 sums[ATTEND_HEADS_MAX][VALUES_MAX]; /* [H][V] used */
    size_t left[VALUES_MAX];
    UNROLL for (int i = 0; i < V; i++) left[i] =
        n - feature > LANES * (size_t)i ? n - feature - LANES * (size_t)i : 0;
    UNROLL for (int h = 0; h < H; h++) UNROLL for (int i = 0; i < V; i++) sums[h][i] =
        _mm256_setzero_ps();
    const float *scores = a->scores + a->first % a->block_tokens;
    for (uint32_t t = a->first; t <= a->last;) {
        uint32_t token = t % a->block_tokens;
        uint32_t end = u32_min(a->block_tokens, token + (a->last - t + 1));
        const float *values =
            block_keys(a, t / a->block_tokens) + feature + (size_t)(a->block_tokens + token) * n;
        t += end - token;
        for (; token < end; token++, values += n, scores++) {
            __m256 row[VALUES_MAX];
            UNROLL for (int i = 0; i < V; i++) row[i] =
                lanes_load(values + (size_t)i * LANES, left[i]);
            UNROLL for (int h = 0; h < H; h++)
            {
                __m256 weight = _mm256_broadcast_ss(scores + (size_t)h * span);
                UNROLL for (int i = 0; i < V; i++) sums[h][i] =
                    _mm256_fmadd_ps(row[i], weight, sums[h][i]);
            }
        }
    }
    UNROLL for (int h = 0; h < H; h++) UNROLL for (int i = 0; i < V; i++)
        lanes_store(out + (size_t)h * n + feature + (size_t)i * LANES, left[i],
                    _mm256_div_ps(sums[h][i], _mm256_set1_ps(head_sums[h])));
}

AVX2_INLINE void heads_body(const struct attend *a, uint32_t head, const int H)
{
    size_t span = attend_span(a->first, a->last, a->block_tokens);
    float *out = a->out + (size_t)head * a->head_dim;
    float head_sums[ATTEND_HEADS_MAX];
    scores_body(a, a->q + (size_t)head * a->head_dim, span, H);
    for (int h = 0; h < H; h++)
        head_sums[h] = scores_softmax(a, a->scores + (size_t)h * span, span);
    /* Few heads leave registers for more features. */
    const int V = H <= 2 ? 4 : 2;
    for (uint32_t feature = 0; feature < a->head_dim; feature += (uint32_t)V * LANES)
        values_body(a, out, feature, head_sums, H, V);
}

void avx2_attend(const struct attend *attend)
{
    for (uint32_t head = 0; head < attend->n_heads; head += ATTEND_HEADS_MAX) {
        switch (u32_min(attend->n_heads - head, ATTEND_HEADS_MAX)) {
        case 1:
            heads_body(attend, head, 1);
            break;
        case 2:
            heads_body(attend, head, 2);
            break;
        case 3:
            heads_body(attend, head, 3);
            break;
        default:
            heads_body(attend, head, 4);
        }
    }
}
