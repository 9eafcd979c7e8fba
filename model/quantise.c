#include "model/quantise.h"

#include <math.h>
#include <stdatomic.h>

#define BLOCK 32
#define TILE_VALUES 1024         /* widened at a time, on the stack of a thread */
#define PIECE_VALUES (64 * 1024) /* of one item of the pool */

bool quantise_knows(enum dtype kind)
{
    return kind == DTYPE_Q8_0 || kind == DTYPE_Q4_0;
}

/* Magnitudes are in the order of their bits, and a maximum of whole numbers becomes vectors. */
static float largest(const float *x)
{
    int32_t bits[BLOCK], most = 0;
    float value;
    memcpy(bits, x, sizeof bits);
    for (uint32_t i = 0; i < BLOCK; i++) {
        int32_t magnitude = bits[i] & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    memcpy(&value, &most, sizeof value);
    return value;
}

/* 1 / d, or 0 where that would not be a number to multiply with. */
static float inverse(float d)
{
    float inverted = d != 0 ? 1.0f / d : 0;
    return isfinite(inverted) ? inverted : 0;
}

static void q8_0_block(const float *x, uint8_t *block)
{
    float d = largest(x) / 127.0f, inverted = inverse(d);
    uint16_t scale = dtype_f16(d);
    memcpy(block, &scale, sizeof scale);
    int8_t q[BLOCK];
    for (uint32_t i = 0; i < BLOCK; i++) {
        float scaled = x[i] * inverted, magnitude = fabsf(scaled);
        int32_t whole = (int32_t)magnitude;
        whole += magnitude - (float)whole >= 0.5f; /* the difference is exact */
        q[i] = (int8_t)(scaled < 0 ? -whole : whole);
    }
    memcpy(block + 2, q, sizeof q);
}

static void q4_0_block(const float *x, uint8_t *block)
{
    float most = largest(x), signed_most = 0;
    for (uint32_t i = BLOCK; i-- > 0;)
        signed_most = fabsf(x[i]) == most ? x[i] : signed_most;
    float d = signed_most / -8.0f, inverted = inverse(d);
    uint16_t scale = dtype_f16(d);
    memcpy(block, &scale, sizeof scale);
    int32_t q[BLOCK];
    for (uint32_t i = 0; i < BLOCK; i++) {
        int32_t whole = (int32_t)(x[i] * inverted + 8.5f);
        q[i] = whole < 15 ? whole : 15;
    }
    for (uint32_t i = 0; i < BLOCK / 2; i++)
        block[2 + i] = (uint8_t)(q[i] | q[i + BLOCK / 2] << 4);
}

void quantise_blocks(enum dtype kind, const float *values, size_t count, void *ret_blocks)
{
    uint8_t *block = ret_blocks;
    CHECK(quantise_knows(kind) && count % BLOCK == 0);
    for (size_t i = 0; i < count; i += BLOCK, block += dtype_block_bytes(kind)) {
        if (kind == DTYPE_Q8_0)
            q8_0_block(values + i, block);
        else
            q4_0_block(values + i, block);
    }
}

/* ---- shared out ---- */

/* dtype_widen goes value by value; most weights are BF16, and this becomes vectors. */
static void tile_widen(enum dtype from, const uint8_t *bytes, size_t count, float *ret_values)
{
    uint16_t halves[TILE_VALUES];
    if (from != DTYPE_BF16) {
        dtype_widen(from, bytes, count, ret_values);
        return;
    }
    memcpy(halves, bytes, count * sizeof *halves);
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)halves[i] << 16;
        memcpy(&ret_values[i], &bits, sizeof bits);
    }
}

struct findings {
    atomic_size_t not_finite, too_large;
};

struct run {
    enum dtype kind;
    struct quantise_job *jobs;
    struct findings *findings; /* [n_jobs] */
};

static uint32_t job_pieces(const struct quantise_job *job)
{
    return (uint32_t)((job->count + PIECE_VALUES - 1) / PIECE_VALUES);
}

/* The lowest index wins, whatever the order of the pieces. */
static void finding_lower(atomic_size_t *finding, size_t at)
{
    size_t seen = atomic_load(finding);
    while (at < seen && !atomic_compare_exchange_weak(finding, &seen, at))
        continue;
}

static void piece_quantise(void *context, uint32_t thread, uint32_t item)
{
    const struct run *run = context;
    uint32_t j = 0;
    while (item >= job_pieces(&run->jobs[j]))
        item -= job_pieces(&run->jobs[j++]);
    const struct quantise_job *job = &run->jobs[j];
    size_t first = (size_t)item * PIECE_VALUES, n = size_min(PIECE_VALUES, job->count - first);
    uint32_t block = dtype_block_count(job->from), block_bytes = dtype_block_bytes(job->from);
    const uint8_t *from = (const uint8_t *)job->data + first / block * block_bytes;
    uint8_t *to = (uint8_t *)job->blocks + first / BLOCK * dtype_block_bytes(run->kind);
    size_t bad = dtype_find_not_finite(job->from, from, n);
    if (bad < n) {
        finding_lower(&run->findings[j].not_finite, first + bad);
        return;
    }
    float tile[TILE_VALUES];
    for (size_t at = 0; at < n; at += TILE_VALUES) {
        size_t count = size_min(TILE_VALUES, n - at);
        tile_widen(job->from, from + at / block * block_bytes, count, tile);
        quantise_blocks(run->kind, tile, count, to + at / BLOCK * dtype_block_bytes(run->kind));
    }
    bad = dtype_find_not_finite(run->kind, to, n);
    if (bad < n)
        finding_lower(&run->findings[j].too_large, first + bad);
}

/* One after the other up to here, so that what they found lies on the stack. */
#define JOBS_AT_ONCE 64

void quantise_run(struct pool *pool, enum dtype kind, struct quantise_job *jobs, uint32_t n_jobs)
{
    struct findings findings[JOBS_AT_ONCE];
    for (uint32_t first = 0; first < n_jobs; first += JOBS_AT_ONCE) {
        uint32_t n = u32_min(JOBS_AT_ONCE, n_jobs - first), n_pieces = 0;
        struct run run = {.kind = kind, .jobs = jobs + first, .findings = findings};
        for (uint32_t j = 0; j < n; j++) {
            CHECK(!dtype_has_blocks(run.jobs[j].from) && run.jobs[j].count % BLOCK == 0);
            atomic_init(&findings[j].not_finite, run.jobs[j].count);
            atomic_init(&findings[j].too_large, run.jobs[j].count);
            n_pieces += job_pieces(&run.jobs[j]);
        }
        pool_run(pool, piece_quantise, &run, n_pieces);
        for (uint32_t j = 0; j < n; j++) {
            run.jobs[j].not_finite = atomic_load(&findings[j].not_finite);
            run.jobs[j].too_large = atomic_load(&findings[j].too_large);
        }
    }
}
