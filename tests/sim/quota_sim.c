/*
 * The quotas under thousands of random days: trees of tenants with small limits of every kind, hard
 * and soft, tables that change in the middle, engines with leases of their own whose clocks differ
 * and step both ways, a wall clock that wanders over months, requests that are cut, begun, settled,
 * undone and settled again at any point. A naive twin (quota_twin.h) keeps the list of all requests
 * and says after each call whether it may be so:
 *
 * - no request is admitted that the twin, which charges at once, has no room for, at any level
 * - no request is refused that the twin, which charges as late as a lease may, has room for
 * - a refusal for ever is one, and no other is; it names a limit and a subject of the path
 * - after the time that a refusal states, the same request is admitted, if time alone was missing
 * - at the end: in every window, at every level, admitted <= burst + rate * t (soft: + overdraft),
 *   whether a request is counted when it is reserved, when it is settled, or somewhere between
 * - nothing is held when everything is settled, and a long sleep later all of a burst is there
 * - sums of rows and leases agree (quota_audit), and each reservation was settled once
 *
 * A day is a seed. When one fails, it is named, and
 *     GALERNE_SIM_SEED=n quota_sim      plays it alone, and prints what happens
 *     GALERNE_SIM_COUNT=n quota_sim     plays seeds 1..n, not all of them
 * A day that fails is shrunk to the turns that it takes (sim_shrink.h).
 */
#include <time.h>

#include "base/clock.h"
#include "tests/sim/quota_twin.h"
#include "tests/sim/sim_shrink.h"

#define DAYS_COUNT 5000
#define TURNS_COUNT 500 /* of each day; with calls that follow from others, a million in all */
#define LEASES_MAX 4
#define DAY_NS (86400ull * NS_PER_S)

static struct {
    uint64_t seed, random, turn;
    struct quota *quota;
    struct quota_lease *leases[LEASES_MAX];
    uint64_t now_ns[LEASES_MAX]; /* each engine's own clock */
    uint64_t wall_ns;
    uint32_t n_leases, table_odds, step_odds;
    uint32_t room; /* limits are so many times larger: leases draw for several requests */
    uint64_t again_count;
} day;

static struct {
    uint64_t calls, admitted, cut, exhausted, never, retried, settled, undone, again, tables,
        bad_tables, back, months_back, draws, recalls, debts;
} totals;

static bool verbose;

void twin_fail(const char *file, int line, const char *condition)
{
    fprintf(stderr, "quota_sim: %s:%d: %s\n", file, line, condition);
    abort();
}

#define SAY(...)                                                                                   \
    do {                                                                                           \
        if (verbose)                                                                               \
            printf(__VA_ARGS__);                                                                   \
    } while (0)

/* ---- dice ---- */

static uint64_t chance_next(void)
{
    uint64_t x = day.random += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint32_t between(uint32_t low, uint32_t high)
{
    return low + (uint32_t)(chance_next() % (high - low + 1));
}

static uint32_t skewed(uint32_t low, uint32_t high)
{
    return between(low, between(low, high));
}

static bool one_in(uint32_t n)
{
    return n > 0 && between(1, n) == 1;
}

/* ---- what a day is made of ---- */

static void row_limits_draw(struct quota_row *row)
{
    row->mode = one_in(2) ? QUOTA_HARD : QUOTA_SOFT;
    if (one_in(2)) {
        row->requests_per_minute = skewed(1, 2000);
        row->requests_burst = one_in(2) ? skewed(1, 40) * day.room : 0;
    }
    if (one_in(2)) {
        row->tokens_per_minute = skewed(2, 200000);
        row->tokens_burst = one_in(2) ? skewed(2, 3000) * day.room : 0;
    }
    if (one_in(3))
        row->tokens_per_month = skewed(2, 30000) * day.room;
    if (one_in(3))
        row->concurrent_max = skewed(1, 30) * day.room;
    if (one_in(3))
        row->queued_tokens_max = skewed(1, 3000) * day.room;
    bool counts = row->tokens_per_minute || row->tokens_per_month;
    if (!counts && !one_in(40)) /* else the table is bad */
        row->mode = QUOTA_SOFT;
    if (row->mode == QUOTA_SOFT && counts && one_in(2))
        row->overdraft_tokens = skewed(1, 2000) * day.room;
    if (one_in(200))
        row->tokens_burst = QUOTA_VALUE_MAX + between(0, 1);
}

static uint32_t rows_draw(struct quota_row *rows)
{
    static const char *const names[TWIN_ROWS_MAX] = {"a", "b", "c", "d", "e",
                                                     "f", "g", "h", "i", "j"};
    uint32_t n = between(twin.n_rows, TWIN_ROWS_MAX);
    memset(rows, 0, TWIN_ROWS_MAX * sizeof *rows);
    for (uint32_t i = 0; i < n; i++) {
        rows[i].name = names[i];
        rows[i].parent = one_in(3) || i == 0 ? QUOTA_TOP : between(0, i - 1);
        if (one_in(60))
            rows[i].parent = between(0, n);
        if (!one_in(day.room > 1 ? 2 : 3))
            row_limits_draw(&rows[i]);
    }
    return n;
}

static struct quota_time time_of(uint32_t lease)
{
    return (struct quota_time){.now_ns = day.now_ns[lease], .wall_ns = day.wall_ns};
}

static void do_table(void)
{
    struct quota_row rows[TWIN_ROWS_MAX];
    struct quota_table table = {.n_rows = rows_draw(rows), .rows = rows};
    struct quota_time time = time_of(0);
    struct error error = {0};
    enum status status = quota_set(day.quota, &table, &time, &error);
    SAY("table of %u rows: %s %s\n", table.n_rows, status_name(status), error.text);
    MUST(status == STATUS_OK || (status == STATUS_INVALID && error.text[0] && error.field[0]));
    totals.tables += status == STATUS_OK;
    totals.bad_tables += status != STATUS_OK;
    if (status != STATUS_OK)
        return;
    twin_tick(time.now_ns);
    twin_table(rows, table.n_rows);
}

static void day_open(uint64_t seed)
{
    struct error error;
    memset(&day, 0, sizeof day);
    memset(&twin, 0, sizeof twin);
    day.seed = seed;
    day.random = seed * 0x2545f4914f6cdd1dull;
    day.n_leases = between(1, LEASES_MAX);
    day.room = one_in(2) ? 1 : between(2, 12);
    day.table_odds = one_in(2) ? between(20, 200) : 0;
    day.step_odds = one_in(2) ? between(10, 100) : 0;
    MUST(quota_open(TWIN_ROWS_MAX, day.n_leases, &day.quota, &error) == STATUS_OK);
    for (uint32_t i = 0; i < day.n_leases; i++) {
        MUST(quota_lease_open(day.quota, &day.leases[i], &error) == STATUS_OK);
        day.now_ns[i] = NS_PER_S + between(0, 1000000);
    }
    day.wall_ns = 20000 * DAY_NS + between(0, 700) * DAY_NS;
    twin.n_rows = 1;
    twin.rows[0] = (struct quota_row){.name = "local", .parent = QUOTA_TOP};
    while (twin.table == 0)
        do_table();
}

/* ---- what may happen ---- */

static void time_pass(void)
{
    uint64_t passed_ns = (uint64_t)skewed(0, one_in(20) ? 4000000 : 40000) * 1000 * 5;
    for (uint32_t i = 0; i < day.n_leases; i++)
        if (!one_in(8)) /* else this engine still has its turn's time */
            day.now_ns[i] += passed_ns;
    day.wall_ns += passed_ns + (one_in(30) ? between(0, 20) * DAY_NS : 0);
}

static void clock_step(void)
{
    uint32_t lease = between(0, day.n_leases - 1);
    uint64_t step_ns = (uint64_t)skewed(0, 2000000) * 1000000;
    SAY("a clock steps\n");
    switch (between(0, 4)) {
    case 0:
        day.now_ns[lease] -= step_ns < day.now_ns[lease] ? step_ns : day.now_ns[lease];
        break;
    case 1:
        day.now_ns[lease] += step_ns;
        break;
    case 2:
        day.wall_ns -= between(0, 60) * DAY_NS;
        break;
    case 3:
        day.wall_ns += between(0, 60) * DAY_NS;
        break;
    default: /* all catch up */
        for (uint32_t i = 0; i < day.n_leases; i++)
            day.now_ns[i] = u64_max(twin.now_ns, day.now_ns[i]);
    }
}

/* Year and month as another library says. */
static uint32_t month_now(void)
{
    time_t seconds = (time_t)(day.wall_ns / NS_PER_S);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    uint32_t month = (uint32_t)(tm.tm_year + 1900) * 12 + (uint32_t)tm.tm_mon;
    for (uint32_t i = 0; i < twin.n_months; i++)
        if (twin.months[i] == month)
            return month;
    MUST(twin.n_months < TWIN_MONTHS_MAX);
    twin.months[twin.n_months++] = month;
    return month;
}

static enum status try_reserve(uint32_t lease, const struct quota_ask *ask, struct error *ret_error)
{
    struct twin_request *r = &twin.requests[twin.n_requests];
    struct quota_time time = time_of(lease);
    uint32_t month = month_now();
    *r = (struct twin_request){.tenant = ask->tenant, .lease = lease};
    *ret_error = (struct error){0};
    totals.calls++;
    enum status status = quota_reserve(day.leases[lease], ask, &time, &r->reservation, ret_error);
    SAY("lease %u, tenant %u, %u + %u%s: %s %s\n", lease, ask->tenant, ask->prompt_tokens,
        ask->output_tokens_max, ask->is_open ? " open" : "", status_name(status), ret_error->text);
    twin_tick(time.now_ns);
    if (status == STATUS_OK) {
        twin.n_requests++;
        MUST(r->reservation.month == month);
        twin_admitted(r, ask);
        totals.admitted++;
        totals.cut += r->reservation.is_cut;
    } else {
        if (status == STATUS_EXHAUSTED)
            twin_told(UINT32_MAX); /* everything was recalled */
        twin_refused(ask, month, ret_error);
        totals.exhausted += status == STATUS_EXHAUSTED;
        totals.never += status == STATUS_INVALID;
    }
    return status;
}

static void do_reserve(void)
{
    struct quota_ask ask = {.tenant = between(0, twin.n_rows - 1),
                            .prompt_tokens = skewed(1, 300),
                            .output_tokens_max = skewed(1, 600),
                            .choices = one_in(4) ? between(1, 5) : 1,
                            .is_open = one_in(5)};
    uint32_t lease = between(0, day.n_leases - 1);
    struct error error;
    enum status status = try_reserve(lease, &ask, &error);
    bool waits = strstr(error.text, "must end first") != NULL;
    /* Of a next month some may be used already, when the wall clock was there before. */
    bool was_there = strcmp(error.limit, "tokens_per_month") == 0 && twin.n_months > 1;
    if (status != STATUS_EXHAUSTED || waits || was_there || !one_in(3))
        return;
    bool early = error.retry_ns > 1 && one_in(2);
    if (early) { /* a moment too soon is too soon */
        day.now_ns[lease] += error.retry_ns - 1;
        day.wall_ns += error.retry_ns - 1;
        if (try_reserve(lease, &ask, &error) == STATUS_OK) {
            /* Save that a new month began, whose budget is less than was asked for. */
            MUST(twin.requests[twin.n_requests - 1].reservation.is_cut);
            return;
        }
        MUST(error.retry_ns == 1);
    }
    day.now_ns[lease] += error.retry_ns;
    day.wall_ns += error.retry_ns;
    MUST(try_reserve(lease, &ask, &error) == STATUS_OK);
    totals.retried++;
}

static struct twin_request *any_held(void)
{
    uint32_t start = twin.n_requests ? between(0, twin.n_requests - 1) : 0;
    for (uint32_t i = 0; i < twin.n_requests; i++) {
        struct twin_request *r = &twin.requests[(start + i) % twin.n_requests];
        if (r->reservation.state == RESERVATION_HELD)
            return r;
    }
    return NULL;
}

static void do_settle(struct twin_request *r)
{
    uint32_t prompt = one_in(6) ? 0 : r->reservation.prompt_tokens;
    uint32_t most = r->reservation.choices * r->reservation.output_tokens_max;
    uint32_t output = one_in(4) ? most : skewed(0, most);
    uint32_t said = output;
    if (one_in(100)) { /* more than it may have: cut, and counted */
        output = most;
        said = output + between(1, 50);
        prompt = r->reservation.prompt_tokens;
    }
    r->used_tokens = (uint64_t)prompt + output;
    quota_settle(day.leases[r->lease], &r->reservation, prompt, said, day.now_ns[r->lease]);
    SAY("lease %u, tenant %u settles %u + %u\n", r->lease, r->tenant, prompt, output);
    totals.calls++;
    totals.settled++;
    totals.debts += r->used_tokens > r->reservation.estimate_tokens;
    twin_tick(day.now_ns[r->lease]);
    twin_settled(r);
    uint64_t from_ns = r->at_ns[COUNTED_RESERVED], to_ns = r->at_ns[COUNTED_SETTLED];
    r->at_ns[COUNTED_BETWEEN] = from_ns + chance_next() % (to_ns - from_ns + 1);
}

static void do_undo(struct twin_request *r)
{
    SAY("lease %u, tenant %u undone\n", r->lease, r->tenant);
    quota_undo(day.leases[r->lease], &r->reservation);
    twin_undone(r);
    totals.undone++;
    totals.calls++;
}

/* Twice settled, or never reserved: nothing happens, and it is counted. */
static void do_settle_again(void)
{
    if (twin.n_requests == 0)
        return;
    struct twin_request *r = &twin.requests[between(0, twin.n_requests - 1)];
    if (r->reservation.state == RESERVATION_HELD)
        return;
    if (one_in(2)) {
        quota_undo(day.leases[r->lease], &r->reservation);
    } else {
        quota_settle(day.leases[r->lease], &r->reservation, 5, 5, day.now_ns[r->lease]);
        twin_tick(day.now_ns[r->lease]);
    }
    day.again_count++;
    totals.calls++;
}

static void do_lease_turn(uint32_t lease)
{
    struct quota_time time = time_of(lease);
    quota_lease_turn(day.leases[lease], &time);
    totals.calls++;
    twin_tick(time.now_ns);
    twin_told(lease);
}

static void turn(void)
{
    struct twin_request *held = any_held();
    time_pass();
    if (one_in(day.step_odds))
        clock_step();
    if (one_in(day.table_odds))
        do_table();
    if (one_in(2))
        do_reserve();
    else if (held && one_in(3)) {
        quota_begin(day.leases[held->lease], &held->reservation);
        totals.calls++;
    } else if (held && one_in(12) && twin.now_ns == held->at_ns[COUNTED_RESERVED])
        do_undo(held);
    else if (held && one_in(2))
        do_settle(held);
    else if (one_in(6))
        do_settle_again();
    else
        do_lease_turn(between(0, day.n_leases - 1));
    if (one_in(8))
        quota_audit(day.quota);
}

/* Everything ends; then all that there is of each bucket can be had at once. */
static void day_end(void)
{
    struct twin_request *held;
    while ((held = any_held()))
        do_settle(held);
    for (uint32_t i = 0; i < day.n_leases; i++) {
        day.now_ns[i] = u64_max(day.now_ns[i], twin.now_ns) + 2 * LEASE_IDLE_NS;
        do_lease_turn(i);
        day.now_ns[i] += 2 * LEASE_IDLE_NS;
        do_lease_turn(i);
    }
    quota_audit(day.quota);
    twin_windows();
    struct quota_time later = {.now_ns = twin.now_ns + UINT32_MAX * 1000ull * NS_PER_MS,
                               .wall_ns = day.wall_ns + 100 * DAY_NS};
    for (uint32_t i = 0; i < twin.n_rows; i++) {
        const struct quota_row *row = &twin.rows[i];
        struct quota_row_stats s;
        MUST(quota_row_stats(day.quota, i, &later, &s));
        MUST(s.concurrent == 0 && s.queued_tokens == 0 && s.held_tokens == 0);
        MUST(s.requests_room == (row->requests_per_minute
                                     ? twin_burst(row->requests_burst, row->requests_per_minute)
                                     : UINT64_MAX));
        MUST(s.tokens_room == (row->tokens_per_minute
                                   ? twin_burst(row->tokens_burst, row->tokens_per_minute)
                                   : UINT64_MAX));
    }
    struct quota_stats s;
    quota_stats(day.quota, &s);
    MUST(s.settled_again_total == day.again_count);
    MUST(s.reserved_total == s.settled_total + s.undone_total);
    MUST(s.reserved_total == twin.n_requests);
    totals.again += s.settled_again_total;
    totals.draws += s.draws_total;
    totals.recalls += s.recalls_total;
    totals.back += s.clock_back_total;
    totals.months_back += s.month_back_total;
    for (uint32_t i = 0; i < day.n_leases; i++)
        quota_lease_close(day.leases[i], &later);
    quota_close(day.quota);
}

static void day_play(uint64_t seed)
{
    day_open(seed);
    for (day.turn = 0; day.turn < TURNS_COUNT && twin.n_requests < TWIN_REQUESTS_MAX - 4;
         day.turn++) {
        day.random = shrink_dice(seed, day.turn);
        if (!shrink_turn(seed, day.turn))
            turn();
    }
    day_end();
}

int main(int n_arguments, char **arguments)
{
    const struct shrink shrink = {.program = "quota_sim", .n_turns = TURNS_COUNT, .play = day_play};
    shrink_begin(&shrink, n_arguments, arguments);
    uint64_t seed = shrink_number("GALERNE_SIM_SEED", 0);
    uint64_t first = seed ? seed : 1;
    uint64_t last = seed ? seed : shrink_number("GALERNE_SIM_COUNT", DAYS_COUNT);
    verbose = seed != 0;
    uint64_t start_ns = clock_now_ns();
    for (uint64_t s = first; s <= last; s++)
        day_play(s);
    printf("%llu days of %d turns in %.1f s: %llu calls; %llu requests admitted (%llu by draws, "
           "%llu cut, %llu ended in debt), %llu told to come back (%llu did in time), %llu refused "
           "for ever\n",
           (unsigned long long)(last - first + 1), TURNS_COUNT,
           (double)(clock_now_ns() - start_ns) / NS_PER_S, (unsigned long long)totals.calls,
           (unsigned long long)totals.admitted, (unsigned long long)totals.draws,
           (unsigned long long)totals.cut, (unsigned long long)totals.debts,
           (unsigned long long)totals.exhausted, (unsigned long long)totals.retried,
           (unsigned long long)totals.never);
    printf("%llu settled, %llu undone, %llu twice; %llu tables and %llu bad ones; %llu recalls; "
           "clocks were behind %llu times, months %llu\n",
           (unsigned long long)totals.settled, (unsigned long long)totals.undone,
           (unsigned long long)totals.again, (unsigned long long)totals.tables,
           (unsigned long long)totals.bad_tables, (unsigned long long)totals.recalls,
           (unsigned long long)totals.back, (unsigned long long)totals.months_back);
    return 0;
}
