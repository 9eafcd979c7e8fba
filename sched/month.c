#include "sched/month.h"

#define DAY_NS (86400ull * 1000000000ull)

static bool is_leap(uint32_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static uint32_t month_days(uint32_t year, uint32_t month)
{
    static const uint8_t days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month] + (month == 1 && is_leap(year));
}

/* Years are walked: at most some 580, and whoever asks often keeps the span. */
struct month_span month_of(uint64_t wall_ns)
{
    uint32_t days = (uint32_t)(wall_ns / DAY_NS), year = 1970, month = 0, first = days;
    for (; days >= 365u + is_leap(year); year++)
        days -= 365u + is_leap(year);
    for (; days >= month_days(year, month); month++)
        days -= month_days(year, month);
    first -= days;
    uint64_t from_ns = first * DAY_NS, length_ns = month_days(year, month) * DAY_NS;
    return (struct month_span){.month = year * 12 + month,
                               .from_ns = from_ns,
                               .until_ns = from_ns > UINT64_MAX - length_ns ? UINT64_MAX
                                                                            : from_ns + length_ns};
}

static struct month_use *use_find(struct month_uses *uses, uint32_t month)
{
    for (uint32_t i = 0; i < MONTHS_KEPT; i++)
        if (uses->uses[i].month == month)
            return &uses->uses[i];
    return NULL;
}

uint64_t month_used(const struct month_uses *uses, uint32_t month)
{
    for (uint32_t i = 0; i < MONTHS_KEPT; i++)
        if (uses->uses[i].month == month)
            return uses->uses[i].used;
    return month <= uses->forgotten ? UINT64_MAX : 0;
}

void month_add(struct month_uses *uses, uint32_t month, uint64_t n)
{
    CHECK(month > 0);
    if (n == 0)
        return;
    struct month_use *use = use_find(uses, month);
    if (!use && month <= uses->forgotten)
        return;
    if (!use) {
        use = &uses->uses[0];
        for (uint32_t i = 1; i < MONTHS_KEPT; i++)
            if (uses->uses[i].month < use->month)
                use = &uses->uses[i];
        if (use->month > month) { /* all that are kept come after it */
            uses->forgotten = month;
            return;
        }
        uses->forgotten = u32_max(uses->forgotten, use->month);
        *use = (struct month_use){.month = month};
    }
    use->used = n < UINT64_MAX - 1 - use->used ? use->used + n : UINT64_MAX - 1;
}
