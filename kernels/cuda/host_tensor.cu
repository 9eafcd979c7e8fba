#include "kernels/cuda/host_private.h"
#include "kernels/cuda/leaf_host.h"

/* What a warp computes together. The layouts of the registers are those of the PTX manual. */

void host_shuffle_run(void **lanes)
{
    uint64_t values[32];
    for (uint32_t i = 0; i < 32; i++)
        values[i] = ((struct host_shuffle *)lanes[i])->value;
    for (uint32_t i = 0; i < 32; i++) {
        struct host_shuffle *mine = (struct host_shuffle *)lanes[i];
        mine->value = values[mine->from & 31];
    }
}

void host_ballot_run(void **lanes)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < 32; i++)
        bits |= (((struct host_shuffle *)lanes[i])->value & 1) << i;
    for (uint32_t i = 0; i < 32; i++)
        ((struct host_shuffle *)lanes[i])->value = bits;
}

/* Lane 8 m + r names row r of matrix m: 8 rows of 8 halves. Register m of lane i holds halves
 * 2 (i % 4), + 1 of row i / 4; turned, rows and columns change places. */
void host_ldmatrix_run(void **lanes)
{
    uint16_t rows[32][8];
    for (uint32_t i = 0; i < 32; i++) {
        const struct host_ldmatrix *mine = (const struct host_ldmatrix *)lanes[i];
        memcpy(rows[i], host_shared(mine->row, 16, HOST_READ), 16);
    }
    for (uint32_t i = 0; i < 32; i++) {
        const struct host_ldmatrix *mine = (const struct host_ldmatrix *)lanes[i];
        for (uint32_t m = 0; m < 4; m++) {
            uint32_t row = i / 4, column = 2 * (i % 4);
            uint16_t low = rows[8 * m + row][column], high = rows[8 * m + row][column + 1];
            if (mine->turned) {
                low = rows[8 * m + column][row];
                high = rows[8 * m + column + 1][row];
            }
            mine->r[m] = (uint32_t)low | (uint32_t)high << 16;
        }
    }
}

/* ---- mma.m16n8k16 and m16n8k32 ---- */

static float of_bf16(const uint32_t *word, uint32_t at)
{
    uint32_t bits = (word[0] >> 16 * at & 0xffff) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static float of_f16(const uint32_t *word, uint32_t at)
{
    return host_float_of_f16((uint16_t)(word[0] >> 16 * at));
}
static float of_e4m3(const uint32_t *word, uint32_t at)
{
    return host_float_of_e4m3((uint8_t)(word[0] >> 8 * at));
}
static float of_s8(const uint32_t *word, uint32_t at)
{
    return (float)(int8_t)(word[0] >> 8 * at);
}

/* `each` values to a register. Products are summed in double and rounded once: the card keeps fewer
 * bits in between, which the bounds of the tests allow for. */
static void mma_run(void **lanes, uint32_t each, float (*of)(const uint32_t *, uint32_t),
                    bool whole)
{
    uint32_t half = 4 * each; /* columns of A that registers 0, 1 hold */
    float a[16][64], b[64][8];
    for (uint32_t i = 0; i < 32; i++) {
        const struct host_mma *mine = (const struct host_mma *)lanes[i];
        for (uint32_t r = 0; r < 4; r++)
            for (uint32_t j = 0; j < each; j++)
                a[i / 4 + 8 * (r & 1)][each * (i % 4) + j + half * (r >> 1)] = of(&mine->a[r], j);
        for (uint32_t r = 0; r < 2; r++)
            for (uint32_t j = 0; j < each; j++)
                b[each * (i % 4) + j + half * r][i / 4] = of(&mine->b[r], j);
    }
    for (uint32_t i = 0; i < 32; i++) {
        const struct host_mma *mine = (const struct host_mma *)lanes[i];
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t row = i / 4 + 8 * (r >> 1), column = 2 * (i % 4) + (r & 1);
            double sum = 0;
            for (uint32_t k = 0; k < 2 * half; k++)
                sum += (double)a[row][k] * (double)b[k][column];
            if (whole)
                ((int32_t *)mine->d)[r] += (int32_t)sum;
            else
                ((float *)mine->d)[r] = (float)((double)((float *)mine->d)[r] + sum);
        }
    }
}

void host_mma_bf16_run(void **lanes)
{
    mma_run(lanes, 2, of_bf16, false);
}
void host_mma_f16_run(void **lanes)
{
    mma_run(lanes, 2, of_f16, false);
}
void host_mma_s8_run(void **lanes)
{
    mma_run(lanes, 4, of_s8, true);
}
void host_mma_e4m3_run(void **lanes)
{
    mma_run(lanes, 4, of_e4m3, false);
}

/* ---- small numbers ---- */

float host_float_of_f16(uint16_t half)
{
    float value;
    dtype_widen(DTYPE_F16, &half, 1, &value);
    return value;
}

/* Nearest, ties to even, by way of a sum that pushes out what does not fit. */
uint16_t host_f16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x47800000) /* 65536 and more, infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: units of 2^-24 */
        float small;
        memcpy(&small, &magnitude, sizeof small);
        return (uint16_t)(sign | (uint32_t)nearbyintf(small * 0x1p24f));
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

float host_float_of_e4m3(uint8_t byte)
{
    return dtype_of_e4m3(byte);
}

uint8_t host_e4m3_of(float value)
{
    return dtype_e4m3(value);
}
