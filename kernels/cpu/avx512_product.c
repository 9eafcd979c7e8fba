#include <immintrin.h>

#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_math.h"

/*
 * One body for all shapes: R rows times P panels, whose 2 R P sums stay in registers while k walks
 * along the panels. Each sum is one chain of fused multiply-adds from k = 0 on, in every shape, so
 * that a row's bits are the same in each of them. With one row the chains of several panels
 * together keep the multipliers busy; with many rows those of one panel do.
 *
 * R and P are constants in every copy of the body: the loops over them vanish.
 */
#define UNROLL _Pragma("GCC unroll 16")
#define PANELS_MAX 4

struct place {
    uint32_t panel, row; /* the first of each */
};

/* Two vectors of weights: outputs 0-15 and 16-31 of one k of a panel. */
struct pair {
    __m512 low, high;
};

AVX512_INLINE struct pair pair_load(const struct product *p, bool bf16, const void *panel, size_t k)
{
    if (!bf16) {
        const float *at = (const float *)panel + k * PANEL_OUTPUTS;
        return (struct pair){_mm512_loadu_ps(at), _mm512_loadu_ps(at + LANES)};
    }
    __m512i both = _mm512_loadu_si512((const uint32_t *)panel + k * LANES);
    __m512i high = _mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000u));
    return (struct pair){_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
                         _mm512_castsi512_ps(high)};
}

AVX512_INLINE void vector_store(const struct product *p, uint32_t row, uint32_t first, __m512 sum)
{
    if (first >= p->out_count)
        return;
    __mmask16 mask = lanes_mask(p->out_count - first);
    size_t at = (size_t)row * p->out_count + first;
    if (p->bias)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, p->bias + first));
    if (p->residual)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, p->residual + at));
    _mm512_mask_storeu_ps(p->out + at, mask, sum);
}

/* Value k of row r of the call is in[r * row_step + k * k_step]. */
AVX512_INLINE void body(const struct product *p, struct place place, const float *in, bool tile,
                        const int R, const int P, const bool bf16)
{
    const size_t k_step = tile ? (size_t)R : 1, row_step = tile ? 1 : p->in_count;
    const size_t panel_bytes =
        (size_t)p->in_count * PANEL_OUTPUTS * (bf16 ? sizeof(uint16_t) : sizeof(float));
    const char *panels = (const char *)p->panels + place.panel * panel_bytes;
    __m512 low[TILE_ROWS_MAX][PANELS_MAX], high[TILE_ROWS_MAX][PANELS_MAX]; /* [R][P] used */
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int i = 0; i < P; i++) low[r][i] = high[r][i] =
        _mm512_setzero_ps();
    for (size_t k = 0; k < p->in_count; k++) {
        struct pair weights[PANELS_MAX];
        UNROLL for (int i = 0; i < P; i++) weights[i] =
            pair_load(p, bf16, panels + (size_t)i * panel_bytes, k);
        UNROLL for (int r = 0; r < R; r++)
        {
            __m512 x = _mm512_set1_ps(in[(size_t)r * row_step + k * k_step]);
            UNROLL for (int i = 0; i < P; i++)
            {
                low[r][i] = _mm512_fmadd_ps(weights[i].low, x, low[r][i]);
                high[r][i] = _mm512_fmadd_ps(weights[i].high, x, high[r][i]);
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int i = 0; i < P; i++)
    {
        uint32_t first = (place.panel + (uint32_t)i) * PANEL_OUTPUTS;
        vector_store(p, place.row + (uint32_t)r, first, low[r][i]);
        vector_store(p, place.row + (uint32_t)r, first + LANES, high[r][i]);
    }
}

typedef void (*multiply)(const struct product *p, struct place place, const float *in);

#define BODY(R, P)                                                                                 \
    static void f32_##R##x##P(const struct product *p, struct place place, const float *in)        \
    {                                                                                              \
        body(p, place, in, (R) >= TILE_FROM_ROWS, (R), (P), false);                                \
    }                                                                                              \
    static void bf16_##R##x##P(const struct product *p, struct place place, const float *in)       \
    {                                                                                              \
        body(p, place, in, (R) >= TILE_FROM_ROWS, (R), (P), true);                                 \
    }
BODY(1, 4)
BODY(1, 2)
BODY(1, 1)
BODY(2, 2)
BODY(2, 1)
BODY(3, 2)
BODY(3, 1)
BODY(4, 2)
BODY(4, 1)
BODY(5, 2)
BODY(5, 1)
BODY(6, 1)
BODY(7, 1)
BODY(8, 1)
BODY(9, 1)
BODY(10, 1)
BODY(11, 1)
BODY(12, 1)

/* [rows][0]: four panels at once, [1]: two, [2]: one. NULL where the registers do not suffice. */
static const multiply bodies_f32[TILE_ROWS_MAX + 1][3] = {
    [1] = {f32_1x4, f32_1x2, f32_1x1}, [2] = {NULL, f32_2x2, f32_2x1},
    [3] = {NULL, f32_3x2, f32_3x1},    [4] = {NULL, f32_4x2, f32_4x1},
    [5] = {NULL, f32_5x2, f32_5x1},    [6] = {NULL, NULL, f32_6x1},
    [7] = {NULL, NULL, f32_7x1},       [8] = {NULL, NULL, f32_8x1},
    [9] = {NULL, NULL, f32_9x1},       [10] = {NULL, NULL, f32_10x1},
    [11] = {NULL, NULL, f32_11x1},     [12] = {NULL, NULL, f32_12x1},
};
static const multiply bodies_bf16[TILE_ROWS_MAX + 1][3] = {
    [1] = {bf16_1x4, bf16_1x2, bf16_1x1}, [2] = {NULL, bf16_2x2, bf16_2x1},
    [3] = {NULL, bf16_3x2, bf16_3x1},     [4] = {NULL, bf16_4x2, bf16_4x1},
    [5] = {NULL, bf16_5x2, bf16_5x1},     [6] = {NULL, NULL, bf16_6x1},
    [7] = {NULL, NULL, bf16_7x1},         [8] = {NULL, NULL, bf16_8x1},
    [9] = {NULL, NULL, bf16_9x1},         [10] = {NULL, NULL, bf16_10x1},
    [11] = {NULL, NULL, bf16_11x1},       [12] = {NULL, NULL, bf16_12x1},
};

/* As many panels at a time as the rows leave registers for. */
static void few_rows_multiply(const struct product *p, uint32_t panel, uint32_t end)
{
    const multiply *row = p->bf16 ? bodies_bf16[p->n_rows] : bodies_f32[p->n_rows];
    while (panel < end) {
        uint32_t width_log2 = row[0] && end - panel >= 4 ? 2 : end - panel >= 2 ? 1 : 0;
        row[2 - width_log2](p, (struct place){.panel = panel}, p->in);
        panel += 1u << width_log2;
    }
}

void avx512_product(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    const struct product *p = product;
    if (!p->tiles) {
        CHECK(p->n_rows < TILE_FROM_ROWS);
        few_rows_multiply(p, first_panel, first_panel + n_panels);
        return;
    }
    uint32_t n_tiles = tiles_count(p->n_rows);
    for (uint32_t panel = first_panel; panel < first_panel + n_panels; panel++)
        for (uint32_t tile = 0; tile < n_tiles; tile++) {
            uint32_t first = tile_first(p->n_rows, tile);
            uint32_t n = tile_first(p->n_rows, tile + 1) - first;
            multiply run = p->bf16 ? bodies_bf16[n][2] : bodies_f32[n][2];
            run(p, (struct place){.panel = panel, .row = first},
                p->tiles + (size_t)first * p->in_count);
        }
}
