#include "kernels/cpu/avx2.h"
#include "kernels/cpu/avx2_vectors.h"
#include "kernels/cpu/unroll.h"

/*
 * One body for all shapes: R rows times U units, whose 2 R U sums stay in registers while k walks
 * along the panels. A unit is what one load of weights gives twice eight outputs of: half a panel.
 * Each sum is one chain of fused multiply-adds from k = 0 on, in every shape, so that a row's bits
 * are the same in each of them. Sixteen registers hold six rows of one unit, three rows of a panel
 * or one row of two panels, with what is multiplied. A tile of more than six rows is taken in two
 * parts.
 *
 * R and U are constants in every copy of the body: the loops over them vanish.
 */
#define ROWS_AT_ONCE 6
#define UNITS_AT_ONCE 4
#define PANEL_UNITS 2

/* Some rows of a call: value k of row r of them is in[r * row_step + k * k_step]. */
struct rows {
    const float *in;
    size_t row_step, k_step;
    uint32_t first, n; /* which of the call's */
};

/* Two vectors of weights of one k: eight outputs of a unit, and its other eight. */
struct pair {
    __m256 low, high;
};

AVX2_INLINE __m256 bf16_widen(const uint32_t *words, const bool odd)
{
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)words);
    return _mm256_castsi256_ps(odd ? _mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000u))
                                   : _mm256_slli_epi32(both, 16));
}

/* `odd` says which of the two inputs of a word of BF16: the other types have no use for it. */
AVX2_INLINE struct pair pair_load(const enum dtype dtype, const char *panel, size_t k,
                                  const bool odd, uint32_t unit)
{
    if (dtype == DTYPE_BF16) {
        const uint32_t *words = (const uint32_t *)panel + k / 2 * PANEL_OUTPUTS + unit * 2 * LANES;
        return (struct pair){bf16_widen(words, odd), bf16_widen(words + LANES, odd)};
    }
    if (dtype == DTYPE_F32) {
        const float *at = (const float *)panel + k * PANEL_OUTPUTS + unit * 2 * LANES;
        return (struct pair){_mm256_loadu_ps(at), _mm256_loadu_ps(at + LANES)};
    }
    const uint32_t *at = (const uint32_t *)panel + k * (PANEL_OUTPUTS / 2) + unit * LANES;
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)at);
    return (struct pair){_mm256_cvtph_ps(_mm256_castsi256_si128(both)),
                         _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1))};
}

typedef __m256 sums[ROWS_AT_ONCE][UNITS_AT_ONCE]; /* [R][U] used */

/* Where the panels of a body lie, and its first unit in them. */
struct walk {
    const char *panels;
    size_t panel_step;
    uint32_t unit;
};

SHAPE_BODY void k_add(const struct walk *walk, const struct rows *rows, size_t k, const bool odd,
                      sums low, sums high, const int R, const int U, const enum dtype dtype)
{
    __m256 x[ROWS_AT_ONCE];
    const float *in = rows->in + k * rows->k_step;
    /* With several units the rows' values are kept, with one its weights are. */
    if (U > 1)
        UNROLL for (int r = 0; r < R; r++) x[r] =
            _mm256_broadcast_ss(in + (size_t)r * rows->row_step);
    UNROLL for (int i = 0; i < U; i++)
    {
        struct pair weights = pair_load(dtype, walk->panels + i / PANEL_UNITS * walk->panel_step, k,
                                        odd, walk->unit + (uint32_t)i % PANEL_UNITS);
        UNROLL for (int r = 0; r < R; r++)
        {
            if (U == 1)
                x[r] = _mm256_broadcast_ss(in + (size_t)r * rows->row_step);
            low[r][i] = _mm256_fmadd_ps(weights.low, x[r], low[r][i]);
            high[r][i] = _mm256_fmadd_ps(weights.high, x[r], high[r][i]);
        }
    }
}

/* `unit` is the first of U, counted through all panels. */
SHAPE_BODY void body(const struct product *p, uint32_t unit, const struct rows *rows, const int R,
                     const int U, const enum dtype dtype)
{
    const size_t in_count = p->in_count;
    struct walk walk = {.panel_step = panel_bytes(dtype, p->in_count),
                        .unit = U == 1 ? unit % PANEL_UNITS : 0};
    walk.panels = (const char *)p->panels + unit / PANEL_UNITS * walk.panel_step;
    sums low, high;
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int i = 0; i < U; i++) low[r][i] = high[r][i] =
        _mm256_setzero_ps();
    if (dtype == DTYPE_BF16) {
        for (size_t k = 0; k + 1 < in_count; k += 2) {
            k_add(&walk, rows, k, false, low, high, R, U, dtype);
            k_add(&walk, rows, k + 1, true, low, high, R, U, dtype);
        }
        if (in_count % 2)
            k_add(&walk, rows, in_count - 1, false, low, high, R, U, dtype);
    } else {
        for (size_t k = 0; k < in_count; k++)
            k_add(&walk, rows, k, false, low, high, R, U, dtype);
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int i = 0; i < U; i++)
    {
        uint32_t first = (unit + (uint32_t)i) * 2 * LANES, row = rows->first + (uint32_t)r;
        vf_store(p, row, first, low[r][i]);
        vf_store(p, row, first + LANES, high[r][i]);
    }
}

typedef void (*multiply)(const struct product *p, uint32_t unit, const struct rows *rows);

#define BODY(type, dtype, R, U)                                                                    \
    static void type##_##R##x##U(const struct product *p, uint32_t unit, const struct rows *rows)  \
    {                                                                                              \
        body(p, unit, rows, (R), (U), (dtype));                                                    \
    }
BODY(f32, DTYPE_F32, 1, 4)
BODY(f32, DTYPE_F32, 1, 2)
BODY(f32, DTYPE_F32, 2, 2)
BODY(f32, DTYPE_F32, 3, 2)
BODY(f32, DTYPE_F32, 4, 1)
BODY(f32, DTYPE_F32, 5, 1)
BODY(f32, DTYPE_F32, 6, 1)
BODY(f16, DTYPE_F16, 1, 4)
BODY(f16, DTYPE_F16, 1, 2)
BODY(f16, DTYPE_F16, 2, 2)
BODY(f16, DTYPE_F16, 3, 1)
BODY(f16, DTYPE_F16, 4, 1)
BODY(f16, DTYPE_F16, 5, 1)
BODY(f16, DTYPE_F16, 6, 1)
BODY(bf16, DTYPE_BF16, 1, 4)
BODY(bf16, DTYPE_BF16, 1, 2)
BODY(bf16, DTYPE_BF16, 2, 2)
BODY(bf16, DTYPE_BF16, 3, 1)
BODY(bf16, DTYPE_BF16, 4, 1)
BODY(bf16, DTYPE_BF16, 5, 1)
BODY(bf16, DTYPE_BF16, 6, 1)

/* By rows; [0] is one row of two panels. Widening halves takes registers as well: three rows of a
 * whole panel do not fit. */
static const struct shape {
    multiply run;
    uint32_t n_units;
} shapes[][ROWS_AT_ONCE + 1] = {
    [DTYPE_F32] = {{f32_1x4, 4},
                   {f32_1x2, 2},
                   {f32_2x2, 2},
                   {f32_3x2, 2},
                   {f32_4x1, 1},
                   {f32_5x1, 1},
                   {f32_6x1, 1}},
    [DTYPE_F16] = {{f16_1x4, 4},
                   {f16_1x2, 2},
                   {f16_2x2, 2},
                   {f16_3x1, 1},
                   {f16_4x1, 1},
                   {f16_5x1, 1},
                   {f16_6x1, 1}},
    [DTYPE_BF16] = {{bf16_1x4, 4},
                    {bf16_1x2, 2},
                    {bf16_2x2, 2},
                    {bf16_3x1, 1},
                    {bf16_4x1, 1},
                    {bf16_5x1, 1},
                    {bf16_6x1, 1}},
};

static void panel_multiply(const struct product *p, uint32_t panel, const struct rows *rows)
{
    const struct shape *shape = &shapes[p->dtype][rows->n];
    for (uint32_t unit = 0; unit < PANEL_UNITS; unit += shape->n_units)
        shape->run(p, panel * PANEL_UNITS + unit, rows);
}

static void few_rows_multiply(const struct product *p, uint32_t panel, uint32_t end)
{
    struct rows rows = {.in = p->in, .row_step = p->in_count, .k_step = 1, .n = p->n_rows};
    for (; p->n_rows == 1 && end - panel >= 2; panel += 2)
        shapes[p->dtype][0].run(p, panel * PANEL_UNITS, &rows);
    for (; panel < end; panel++)
        panel_multiply(p, panel, &rows);
}

void avx2_product(const struct product *product, uint32_t first_panel, uint32_t n_panels)
{
    const struct product *p = product;
    CHECK(p->dtype < array_count(shapes));
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
            uint32_t n_first = n > ROWS_AT_ONCE ? (n + 1) / 2 : n;
            struct rows rows = {.in = p->tiles + (size_t)first * p->in_count,
                                .row_step = 1,
                                .k_step = n,
                                .first = first,
                                .n = n_first};
            panel_multiply(p, panel, &rows);
            if (n == n_first)
                continue;
            rows.in += n_first;
            rows.first += n_first;
            rows.n = n - n_first;
            panel_multiply(p, panel, &rows);
        }
}
