/*
 * The exponential of a wide tier (avx512, or avx2 where TEST_AVX2 is defined): below 2 units in the
 * last place for every 61st float between the points where the result is zero and infinity, in
 * double below 2 units of 2^-53 relative. Compiled with the tier's machine flags; skipped, and said
 * so, on a CPU without them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#ifdef TEST_AVX2
#include "kernels/cpu/avx2_math.h"

#define TIER_NAME "AVX2"
#define LOAD_PS _mm256_loadu_ps
#define STORE_PS _mm256_storeu_ps
#define SET_PD _mm256_set1_pd
#define STORE_PD _mm256_storeu_pd
#define EXP_PD_LEAST 0x1p-900 /* of minus infinity, at most */

static bool has_instructions(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
#include "kernels/cpu/avx512_math.h"

#define TIER_NAME "AVX-512"
#define LOAD_PS _mm512_loadu_ps
#define STORE_PS _mm512_storeu_ps
#define SET_PD _mm512_set1_pd
#define STORE_PD _mm512_storeu_pd
#define EXP_PD_LEAST 0.0

static bool has_instructions(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
}
#endif

static bool supported(void)
{
    if (has_instructions())
        return true;
    print_message("skipped: this CPU has no " TIER_NAME "\n");
    return false;
}

static double ulps(float got, double exact)
{
    float near = (float)exact;
    double unit = (double)nextafterf(near, INFINITY) - (double)near;
    if (isinf(near) || isinf(unit))
        return got == near ? 0 : INFINITY;
    return fabs((double)got - exact) / unit;
}

static void exp_f32(void **state)
{
    if (!supported())
        skip();
    double worst = 0;
    float x[LANES], y[LANES];
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t bits = 0; bits < 0x42d80000u; bits += 61 * LANES) { /* up to 108 */
            for (uint32_t lane = 0; lane < LANES; lane++) {
                uint32_t b = (bits + 61 * lane) | sign << 31;
                memcpy(&x[lane], &b, 4);
            }
            STORE_PS(y, exp_ps(LOAD_PS(x)));
            for (uint32_t lane = 0; lane < LANES; lane++) {
                double error = ulps(y[lane], exp((double)x[lane]));
                worst = error > worst ? error : worst;
            }
        }
    print_message("exp_ps: worst error %.3f ulp\n", worst);
    assert_true(worst < 2);
}

static void exp_f32_edges(void **state)
{
    if (!supported())
        skip();
    const float x[LANES] = {-INFINITY, INFINITY, NAN, 0, -0.0f, 1000, -1000, 88.72283f};
    float y[LANES];
    STORE_PS(y, exp_ps(LOAD_PS(x)));
    assert_true(y[0] == 0 && y[1] == INFINITY && isnan(y[2]) && y[3] == 1 && y[4] == 1);
    assert_true(y[5] == INFINITY && y[6] == 0 && isfinite(y[7]));
}

static void exp_f64(void **state)
{
    if (!supported())
        skip();
    double worst = 0, y[8];
    for (double start = 0; start > -40; start -= 0.00123) {
        STORE_PD(y, exp_scaled_pd(SET_PD(start), 40));
        double exact = ldexp(exp(start), 40);
        double error = fabs(y[0] - exact) / exact * 0x1p53;
        worst = error > worst ? error : worst;
    }
    print_message("exp_scaled_pd: worst error %.3f units of 2^-53\n", worst);
    assert_true(worst < 4);
    STORE_PD(y, exp_scaled_pd(SET_PD(-INFINITY), 40));
    assert_true(y[0] >= 0 && y[0] <= EXP_PD_LEAST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(exp_f32), cmocka_unit_test(exp_f32_edges),
                                       cmocka_unit_test(exp_f64)};
    return cmocka_run_group_tests_name("exp", tests, NULL, NULL);
}
