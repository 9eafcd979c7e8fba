#include <immintrin.h>

#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_math.h"

/*
 * Three passes over the positions, each for up to four heads at once so that keys and values are
 * read once for all of them: scores (16 positions a vector, since K is stored turned), softmax, and
 * the weighted sum of values (16 features a vector, one chain per feature through all positions).
 * Scores of positions outside first..last come from memory that belongs to nobody: they are masked,
 * and values there are never read.
 *
 * H and V are constants in every copy of a body: the loops over them vanish.
 */
#define UNROLL _Pragma("GCC unroll 4")
#define VALUES_MAX 4 /* vectors of features at a time */

_Static_assert(ATTEND_HEADS_MAX == 4, "bodies are instantiated for 1 to 4 heads");

AVX512_INLINE const float *block_keys(const struct attend *a, uint32_t block)
{
    return a->kv + a->blocks[block] * a->block_stride;
}

/* 32 positions at a time: one block of 32, or two of 16 (the last one may be alone). */
AVX512_INLINE void scores_body(const struct attend *a, const float *q, size_t span, const int H)
{
    uint32_t first = a->first / a->block_tokens, last = a->last / a->block_tokens;
    uint32_t step = a->block_tokens == LANES ? 2 : 1;
    float *scores = a->scores;
    for (uint32_t block = first; block <= last; block += step, scores += 2 * LANES) {
        bool alone = step == 2 && block == last;
        const float *keys_0 = block_keys(a, block);
        const float *keys_1 = step == 2 ? block_keys(a, alone ? block : block + 1) : keys_0 + LANES;
        __m512 sums_0[ATTEND_HEADS_MAX], sums_1[ATTEND_HEADS_MAX];
        UNROLL for (int h = 0; h < H; h++) sums_0[h] = sums_1[h] = _mm512_setzero_ps();
        for (size_t i = 0; i < a->head_dim; i++) {
            __m512 key_0 = _mm512_loadu_ps(keys_0 + i * a->block_tokens);
            __m512 key_1 = _mm512_loadu_ps(keys_1 + i * a->block_tokens);
            UNROLL for (int h = 0; h < H; h++)
            {
                __m512 x = _mm512_set1_ps(q[(size_t)h * a->head_dim + i]);
                sums_0[h] = _mm512_fmadd_ps(key_0, x, sums_0[h]);
                sums_1[h] = _mm512_fmadd_ps(key_1, x, sums_1[h]);
            }
        }
        UNROLL for (int h = 0; h < H; h++)
        {
            __m512 scale = _mm512_set1_ps(a->scale);
            _mm512_storeu_ps(scores + (size_t)h * span, _mm512_mul_ps(sums_0[h], scale));
            if (!alone)
                _mm512_storeu_ps(scores + (size_t)h * span + LANES,
                                 _mm512_mul_ps(sums_1[h], scale));
        }
    }
}

/* Scores of one head become exp(score - most), 0 outside first..last; returns their sum. */
static float scores_softmax(const struct attend *a, float *scores, size_t span)
{
    uint32_t base = a->first / a->block_tokens * a->block_tokens;
    size_t from = a->first - base, to = a->last - base; /* both included */
    __m512 most = _mm512_set1_ps(-__builtin_inff()), sums = _mm512_setzero_ps();
    for (size_t i = from / LANES * LANES; i <= to; i += LANES) {
        __mmask16 mask = lanes_mask(to + 1 - i);
        if (i < from)
            mask &= (__mmask16)~lanes_mask(from - i);
        most = _mm512_mask_max_ps(most, mask, most, _mm512_loadu_ps(scores + i));
    }
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (size_t i = from / LANES * LANES; i <= to; i += LANES) {
        __mmask16 mask = lanes_mask(to + 1 - i);
        if (i < from)
            mask &= (__mmask16)~lanes_mask(from - i);
        __m512 x = _mm512_sub_ps(_mm512_loadu_ps(scores + i), most);
        __m512 weight = _mm512_maskz_mov_ps(mask, exp_ps(x));
        _mm512_storeu_ps(scores + i, weight);
        sums = _mm512_add_ps(sums, weight);
    }
    return _mm512_reduce_add_ps(sums);
}

/* Features feature .. feature + 16 V - 1 of H heads. */
AVX512_INLINE void values_body(const struct attend *a, float *out, uint32_t feature,
                               const float *head_sums, const int H, const int V)
{
    size_t span = attend_span(a->first, a->last, a->block_tokens), n = a->head_dim;
    __m512 sums[ATTEND_HEADS_MAX][VALUES_MAX]; /* [H][V] used */
    __mmask16 masks[VALUES_MAX];
    UNROLL for (int i = 0; i < V; i++) masks[i] =
        lanes_mask(n - feature > LANES * (size_t)i ? n - feature - LANES * (size_t)i : 0);
    UNROLL for (int h = 0; h < H; h++) UNROLL for (int i = 0; i < V; i++) sums[h][i] =
        _mm512_setzero_ps();
    const float *scores = a->scores + a->first % a->block_tokens;
    for (uint32_t t = a->first; t <= a->last;) {
        uint32_t token = t % a->block_tokens;
        uint32_t end = u32_min(a->block_tokens, token + (a->last - t + 1));
        const float *values =
            block_keys(a, t / a->block_tokens) + feature + (size_t)(a->block_tokens + token) * n;
        t += end - token;
        for (; token < end; token++, values += n, scores++) {
            __m512 row[VALUES_MAX];
            UNROLL for (int i = 0; i < V; i++) row[i] =
                _mm512_maskz_loadu_ps(masks[i], values + (size_t)i * LANES);
            UNROLL for (int h = 0; h < H; h++)
            {
                __m512 weight = _mm512_set1_ps(scores[(size_t)h * span]);
                UNROLL for (int i = 0; i < V; i++) sums[h][i] =
                    _mm512_fmadd_ps(row[i], weight, sums[h][i]);
            }
        }
    }
    UNROLL for (int h = 0; h < H; h++) UNROLL for (int i = 0; i < V; i++)
        _mm512_mask_storeu_ps(out + (size_t)h * n + feature + (size_t)i * LANES, masks[i],
                              _mm512_div_ps(sums[h][i], _mm512_set1_ps(head_sums[h])));
}

AVX512_INLINE void heads_body(const struct attend *a, uint32_t head, const int H)
{
    size_t span = attend_span(a->first, a->last, a->block_tokens);
    float *out = a->out + (size_t)head * a->head_dim;
    float head_sums[ATTEND_HEADS_MAX];
    scores_body(a, a->q + (size_t)head * a->head_dim, span, H);
    for (int h = 0; h < H; h++)
        head_sums[h] = scores_softmax(a, a->scores + (size_t)h * span, span);
    for (uint32_t feature = 0; feature < a->head_dim;) {
        uint32_t left = a->head_dim - feature;
        if (left > 2 * LANES) {
            values_body(a, out, feature, head_sums, H, 4);
            feature += 4 * LANES;
        } else {
            values_body(a, out, feature, head_sums, H, 2);
            feature += 2 * LANES;
        }
    }
}

void avx512_attend(const struct attend *attend)
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
