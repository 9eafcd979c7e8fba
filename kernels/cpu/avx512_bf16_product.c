#include "kernels/cpu/avx512_bf16.h"
#include "kernels/cpu/avx512_vectors.h"
#include "kernels/cpu/unroll.h"

/*
 * As in avx512_product.c: R rows times P panels, whose sums stay in registers; each is one chain of
 * dot products of two inputs from the first pair on, in every shape.
 */
#define PANELS_MAX 8
#define PANEL_VECTORS (PANEL_OUTPUTS / LANES)
#define VECTORS_MAX (PANELS_MAX * PANEL_VECTORS)
/* What comes next is asked for ahead by as many rows: with more the arithmetic takes longer than
 * the reading. */
#define FETCH_ROWS_MAX 8
#define FETCH_AHEAD_WORDS 2048
/* With several tiles the first two ask for half of the next panel each, if the second cache has
 * room for both panels. */
#define FETCH_PANEL_BYTES_MAX (384u << 10)
#define FETCH_TILES 2

struct place {
    uint32_t panel, row;   /* the first of each */
    const uint32_t *fetch; /* a line of it is asked for with each pair; NULL: the panel itself is */
};

AVX512_INLINE __m512 dot_pairs(__m512 sum, __m512i weights, uint32_t values)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32((int32_t)values));
}

/* Pair i of row r is in[i * R + r]. */
SHAPE_BODY void body(const struct product *p, struct place place, const uint32_t *in, const int R,
                     const int P)
{
    const size_t n_pairs = pairs_count(p->in_count), panel_words = n_pairs * PANEL_OUTPUTS;
    const uint32_t *words = (const uint32_t *)p->panels + place.panel * panel_words;
    const int V = P * PANEL_VECTORS;
    __m512 sums[TILE_ROWS_MAX][VECTORS_MAX]; /* [R][V] used */
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sums[r][v] =
        _mm512_setzero_ps();
    for (size_t i = 0; i < n_pairs; i++, words += PANEL_OUTPUTS, in += R) {
        __m512i weights[VECTORS_MAX];
        if (R > 1 && place.fetch)
            __builtin_prefetch(place.fetch + i * LANES, 0, 2);
        else if (R <= FETCH_ROWS_MAX)
            UNROLL for (int v = 0; v < V; v++)
                __builtin_prefetch(words + (size_t)(v / PANEL_VECTORS) * panel_words +
                                       (size_t)(v % PANEL_VECTORS) * LANES + FETCH_AHEAD_WORDS,
                                   0, 2);
        UNROLL for (int v = 0; v < V; v++) weights[v] =
            _mm512_loadu_si512(words + (size_t)(v / PANEL_VECTORS) * panel_words +
                               (size_t)(v % PANEL_VECTORS) * LANES);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sums[r][v] =
            dot_pairs(sums[r][v], weights[v], in[r]);
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) vf_store(
        p, place.row + (uint32_t)r, place.panel * PANEL_OUTPUTS + (uint32_t)v * LANES, sums[r][v]);
}

typedef void (*multiply)(const struct product *p, struct place place, const uint32_t *in);

#define BODY(R, P)                                                                                 \
    static void pairs_##R##x##P(const struct product *p, struct place place, const uint32_t *in)   \
    {                                                                                              \
        body(p, place, in, (R), (P));                                                              \
    }
BODY(1, 8)
BODY(1, 4)
BODY(1, 2)
BODY(1, 1)
BODY(2, 4)
BODY(2, 2)
BODY(2, 1)
BODY(3, 2)
BODY(3, 1)
BODY(4, 2)
BODY(4, 1)
BODY(5, 2)
BODY(5, 1)
BODY(6, 2)
BODY(6, 1)
BODY(7, 1)
BODY(8, 1)
BODY(9, 1)
BODY(10, 1)
BODY(11, 1)
BODY(12, 1)

/* By rows of the tile; [0]: eight panels at once, [1]: four, [2]: two, [3]: one. NULL where the
 * registers do not suffice. */
#define WIDTH_LOG2_MAX 3
static const multiply bodies[TILE_ROWS_MAX + 1][WIDTH_LOG2_MAX + 1] = {
    [1] = {pairs_1x8, pairs_1x4, pairs_1x2, pairs_1x1},
    [2] = {NULL, pairs_2x4, pairs_2x2, pairs_2x1},
    [3] = {NULL, NULL, pairs_3x2, pairs_3x1},
    [4] = {NULL, NULL, pairs_4x2, pairs_4x1},
    [5] = {NULL, NULL, pairs_5x2, pairs_5x1},
    [6] = {NULL, NULL, pairs_6x2, pairs_6x1},
    [7] = {NULL, NULL, NULL, pairs_7x1},
    [8] = {NULL, NULL, NULL, pairs_8x1},
    [9] = {NULL, NULL, NULL, pairs_9x1},
    [10] = {NULL, NULL, NULL, pairs_10x1},
    [11] = {NULL, NULL, NULL, pairs_11x1},
    [12] = {NULL, NULL, NULL, pairs_12x1},
};

/* What tile `tile` of several asks for while it meets a panel; NULL: nothing beyond the panel. */
static const uint32_t *fetch_find(const struct product *p, uint32_t panel, uint32_t tile,
                                  uint32_t end)
{
    const size_t words = pairs_count(p->in_count) * (size_t)PANEL_OUTPUTS;
    if (tile >= FETCH_TILES || panel + 1 >= end || words * sizeof(uint32_t) > FETCH_PANEL_BYTES_MAX)
        return NULL;
    return (const uint32_t *)p->panels + (panel + 1) * words + tile * (words / FETCH_TILES);
}

/* Several panels at once are for what fits one tile: they are read side by side. */
void avx512_bf16_product_pairs(const struct product *product, uint32_t first_panel,
                               uint32_t n_panels)
{
    const struct product *p = product;
    CHECK(p->dtype == DTYPE_BF16 && p->pairs);
    uint32_t n_tiles = tiles_count(p->n_rows), end = first_panel + n_panels, width_log2 = 0;
    for (uint32_t panel = first_panel; panel < end; panel += 1u << width_log2)
        for (uint32_t tile = 0; tile < n_tiles; tile++) {
            uint32_t first = tile_first(p->n_rows, tile);
            uint32_t n = tile_first(p->n_rows, tile + 1) - first;
            width_log2 = n_tiles > 1 ? 0 : WIDTH_LOG2_MAX;
            while (end - panel < 1u << width_log2 || !bodies[n][WIDTH_LOG2_MAX - width_log2])
                width_log2--;
            multiply run = bodies[n][WIDTH_LOG2_MAX - width_log2];
            const uint32_t *fetch = n_tiles > 1 ? fetch_find(p, panel, tile, end) : NULL;
            run(p, (struct place){.panel = panel, .row = first, .fetch = fetch},
                p->pairs + (size_t)first * pairs_count(p->in_count));
        }
}

void avx512_bf16_row_pairs(const float *in, uint32_t in_count, uint32_t *to, uint32_t stride)
{
    for (uint32_t k = 0; k < in_count; k += 2 * LANES) {
        uint32_t n = in_count - k, words[LANES];
        __mmask16 low_mask = lanes_mask(n), high_mask = n > LANES ? lanes_mask(n - LANES) : 0;
        __m512 low = _mm512_maskz_loadu_ps(low_mask, in + k);
        __m512 high = _mm512_maskz_loadu_ps(high_mask, in + k + LANES);
        _mm512_storeu_si512(words, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        n = u32_min(pairs_count(n), LANES);
        for (uint32_t i = 0; i < n; i++, to += stride)
            *to = words[i];
    }
}
