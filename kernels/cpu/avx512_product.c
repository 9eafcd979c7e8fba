#include "kernels/cpu/avx512.h"
#include "kernels/cpu/avx512_vectors.h"
#include "kernels/cpu/unroll.h"

/*
 * One body for all shapes: R rows times P panels, whose 2 R P sums stay in registers while k walks
 * along the panels. Each sum is one chain of fused multiply-adds from k = 0 on, in every shape, so
 * that a row's bits are the same in each of them. With one row the chains of several panels
 * together keep the multipliers busy; with many rows those of one panel do.
 *
 * R and P are constants in every copy of the body: the loops over them vanish.
 */
#define PANELS_MAX 4

struct place {
    uint32_t panel, row; /* the first of each */
};

/* Two vectors of weights: outputs 0-15 and 16-31 of one k of a panel. */
struct pair {
    __m512 low, high;
};

AVX512_INLINE __m512 bf16_widen(const uint32_t *words, const bool odd)
{
    __m512i both = _mm512_loadu_si512(words);
    return _mm512_castsi512_ps(odd ? _mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000u))
                                   : _mm512_slli_epi32(both, 16));
}

/* `odd` says which of the two inputs of a word of BF16: the other types have no use for it. */
AVX512_INLINE struct pair pair_load(const enum dtype dtype, const char *panel, size_t k,
                                    const bool odd)
{
    if (dtype == DTYPE_BF16) {
        const uint32_t *words = (const uint32_t *)panel + k / 2 * PANEL_OUTPUTS;
        return (struct pair){bf16_widen(words, odd), bf16_widen(words + LANES, odd)};
    }
    if (dtype == DTYPE_F32) {
        const float *at = (const float *)panel + k * PANEL_OUTPUTS;
        return (struct pair){_mm512_loadu_ps(at), _mm512_loadu_ps(at + LANES)};
    }
    __m512i both = _mm512_loadu_si512((const uint16_t *)panel + k * PANEL_OUTPUTS);
    return (struct pair){_mm512_cvtph_ps(_mm512_castsi512_si256(both)),
                         _mm512_cvtph_ps(_mm512_extracti64x4_epi64(both, 1))};
}

typedef __m512 sums[TILE_ROWS_MAX][PANELS_MAX]; /* [R][P] used */

/* Where the weights and rows of a body lie: value k of row r is in[r * row_step + k * k_step]. */
struct walk {
    const char *panels;
    size_t panel_step;
    const float *in;
    size_t row_step, k_step;
};

SHAPE_BODY void k_add(const struct walk *walk, size_t k, const bool odd, sums low, sums high,
                      const int R, const int P, const enum dtype dtype)
{
    struct pair weights[PANELS_MAX];
    UNROLL for (int i = 0; i < P; i++) weights[i] =
        pair_load(dtype, walk->panels + (size_t)i * walk->panel_step, k, odd);
    UNROLL for (int r = 0; r < R; r++)
    {
        __m512 x = _mm512_set1_ps(walk->in[(size_t)r * walk->row_step + k * walk->k_step]);
        UNROLL for (int i = 0; i < P; i++)
        {
            low[r][i] = _mm512_fmadd_ps(weights[i].low, x, low[r][i]);
            high[r][i] = _mm512_fmadd_ps(weights[i].high, x, high[r][i]);
        }
    }
}

SHAPE_BODY void body(const struct product *p, struct place place, const float *in, bool tile,
                     const int R, const int P, const enum dtype dtype)
{
    const size_t in_count = p->in_count;
    struct walk walk = {.panel_step = panel_bytes(dtype, p->in_count),
                        .in = in,
                        .row_step = tile ? 1 : in_count,
                        .k_step = tile ? (size_t)R : 1};
    walk.panels = (const char *)p->panels + place.panel * walk.panel_step;
    sums low, high;
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int i = 0; i < P; i++) low[r][i] = high[r][i] =
        _mm512_setzero_ps();
    if (dtype == DTYPE_BF16) {
        for (size_t k = 0; k + 1 < in_count; k += 2) {
            k_add(&walk, k, false, low, high, R, P, dtype);
            k_add(&walk, k + 1, true, low, high, R, P, dtype);
        }
        if (in_count % 2)
            k_add(&walk, in_count - 1, false, low, high, R, P, dtype);
    } else {
        for (size_t k = 0; k < in_count; k++)
            k_add(&walk, k, false, low, high, R, P, dtype);
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int i = 0; i < P; i++)
    {
        uint32_t first = (place.panel + (uint32_t)i) * PANEL_OUTPUTS;
        vf_store(p, place.row + (uint32_t)r, first, low[r][i]);
        vf_store(p, place.row + (uint32_t)r, first + LANES, high[r][i]);
    }
}

typedef void (*multiply)(const struct product *p, struct place place, const float *in);

#define BODY_OF(name, dtype, R, P)                                                                 \
    static void name##_##R##x##P(const struct product *p, struct place place, const float *in)     \
    {                                                                                              \
        body(p, place, in, (R) >= TILE_FROM_ROWS, (R), (P), (dtype));                              \
    }
#define BODY(R, P)                                                                                 \
    BODY_OF(f32, DTYPE_F32, R, P)                                                                  \
    BODY_OF(f16, DTYPE_F16, R, P)                                                                  \
    BODY_OF(bf16, DTYPE_BF16, R, P)
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
#define BODIES(name)                                                                               \
    {                                                                                              \
        [1] = {name##_1x4, name##_1x2, name##_1x1}, [2] = {NULL, name##_2x2, name##_2x1},          \
        [3] = {NULL, name##_3x2, name##_3x1}, [4] = {NULL, name##_4x2, name##_4x1},                \
        [5] = {NULL, name##_5x2, name##_5x1}, [6] = {NULL, NULL, name##_6x1},                      \
        [7] = {NULL, NULL, name##_7x1}, [8] = {NULL, NULL, name##_8x1},                            \
        [9] = {NULL, NULL, name##_9x1}, [10] = {NULL, NULL, name##_10x1},                          \
        [11] = {NULL, NULL, name##_11x1}, [12] = {NULL, NULL, name##_12x1},                        \
    }
static const multiply bodies[][TILE_ROWS_MAX + 1][3] = {
    [DTYPE_F32] = BODIES(f32), [DTYPE_F16] = BODIES(f16), [DTYPE_BF16] = BODIES(bf16)};

/* As many panels at a time as the rows leave registers for. */
static void few_rows_multiply(const struct product *p, uint32_t panel, uint32_t end)
{
    const multiply *row = bodies[p->dtype][p->n_rows];
    while (panel < end) {
        uint32_t width_log2 = row[0] && end - panel >= 4 ? 2 : end - panel >= 2 ? 1 : 0;
        row[2 - width_log2](p, (struct place){.panel = panel}, p->in);
        panel += 1u << width_log2;
    }
}

void avx512_product(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    const struct product *p = product;
    CHECK(p->dtype < array_count(bodies));
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
            bodies[p->dtype][n][2](p, (struct place){.panel = panel, .row = first},
                                   p->tiles + (size_t)first * p->in_count);
        }
}
