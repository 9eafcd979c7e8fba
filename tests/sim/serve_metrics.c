#include "tests/sim/serve_metrics.h"

#include <math.h>

static void times_reserve(struct serve_times *times, size_t count)
{
    if (count <= times->room)
        return;
    times->room = size_max(count, 2 * times->room + 1024);
    times->seconds = realloc(times->seconds, times->room * sizeof *times->seconds);
    CHECK(times->seconds);
}

void serve_times_add(struct serve_times *times, double seconds)
{
    times_reserve(times, times->count + 1);
    times->seconds[times->count++] = (float)seconds;
}

void serve_times_join(struct serve_times *times, const struct serve_times *from)
{
    if (from->count == 0)
        return;
    times_reserve(times, times->count + from->count);
    memcpy(times->seconds + times->count, from->seconds, from->count * sizeof *from->seconds);
    times->count += from->count;
}

static int float_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double serve_times_quantile(struct serve_times *times, double q)
{
    if (times->count == 0)
        return 0;
    qsort(times->seconds, times->count, sizeof *times->seconds, float_compare);
    size_t rank = (size_t)ceil(q * (double)times->count);
    return (double)times->seconds[rank > 0 ? rank - 1 : 0];
}

void serve_times_free(struct serve_times *times)
{
    free(times->seconds);
    *times = (struct serve_times){0};
}

void serve_gaps_step(struct serve_gaps *gaps, const double *before, const double *after,
                     const bool *backlogged)
{
    for (uint32_t f = 0; f < gaps->n; f++)
        for (uint32_t g = 0; g < f; g++) {
            if (!backlogged[f] || !backlogged[g]) {
                gaps->counts[f][g] = false;
                continue;
            }
            double *low = &gaps->low[f][g], *high = &gaps->high[f][g];
            if (!gaps->counts[f][g])
                *low = *high = before[f] - before[g];
            gaps->counts[f][g] = true;
            double d = after[f] - after[g];
            *low = d < *low ? d : *low;
            *high = d > *high ? d : *high;
            if (*high - *low > gaps->worst)
                gaps->worst = *high - *low;
        }
}

double serve_jain(const struct serve_result *result, const uint32_t *weights)
{
    double sum = 0, squares = 0, n = 0;
    for (uint32_t i = 0; i < result->n_tenants; i++) {
        const struct serve_tenant_result *t = &result->tenants[i];
        if (t->backlogged_s < result->duration_s / 10)
            continue;
        double rate = t->backlogged_service / t->backlogged_s / weights[i];
        sum += rate;
        squares += rate * rate;
        n++;
    }
    return n > 0 && squares > 0 ? sum * sum / (n * squares) : 1;
}

void serve_result_close(struct serve_result *result)
{
    for (uint32_t i = 0; i < result->n_tenants; i++) {
        serve_times_free(&result->tenants[i].first);
        serve_times_free(&result->tenants[i].each);
    }
}
