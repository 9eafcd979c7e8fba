#include "tests/sim/quota_twin.h"

#define MINUTE_NS 60000000000ull

struct twin twin;

uint64_t twin_burst(uint64_t burst, uint64_t per_minute)
{
    return burst ? burst : per_minute;
}

uint64_t twin_overdraft(const struct quota_row *row)
{
    if (row->overdraft_tokens)
        return row->overdraft_tokens;
    return row->tokens_per_minute ? twin_burst(row->tokens_burst, row->tokens_per_minute)
                                  : row->tokens_per_month / 100;
}

static bool counts_tokens(const struct quota_row *row)
{
    return row->tokens_per_minute || row->tokens_per_month;
}

/* ---- meters ---- */

static u128 meter_fill(const struct twin_meter *meter, uint64_t per_minute)
{
    u128 drained = (u128)(twin.now_ns - meter->at_ns) * per_minute;
    return meter->fill > drained ? meter->fill - drained : 0;
}

static void meter_charge(struct twin_meter *meter, uint64_t per_minute, uint64_t n)
{
    meter->fill = per_minute ? meter_fill(meter, per_minute) + (u128)n * MINUTE_NS : 0;
    meter->at_ns = twin.now_ns;
}

static void path_charge(struct twin_request *request, bool late, uint64_t requests, uint64_t tokens)
{
    for (uint32_t i = 0; i < request->n_rows; i++) {
        const struct quota_row *row = &twin.rows[request->rows[i]];
        struct twin_row *m = &twin.meters[request->rows[i]];
        meter_charge(late ? &m->late_requests : &m->early_requests, row->requests_per_minute,
                     requests);
        meter_charge(late ? &m->late_tokens : &m->early_tokens, row->tokens_per_minute, tokens);
    }
}

void twin_told(uint32_t lease)
{
    for (uint32_t i = 0; i < twin.n_requests; i++) {
        struct twin_request *r = &twin.requests[i];
        if (lease != UINT32_MAX && r->lease != lease)
            continue;
        if (!r->request_told) /* if undone too late, it stays used */
            path_charge(r, true, 1, 0);
        r->request_told = true;
        if (!r->tokens_told && r->reservation.state == RESERVATION_SETTLED && !r->undone) {
            path_charge(r, true, 0, r->used_tokens);
            r->tokens_told = true;
        }
    }
}

void twin_tick(uint64_t now_ns)
{
    twin.now_ns = u64_max(twin.now_ns, now_ns);
}

/* ---- sums by walking ---- */

static void path_note(struct twin_request *request)
{
    request->n_rows = 0;
    for (uint32_t row = request->tenant; row != QUOTA_TOP; row = twin.rows[row].parent)
        request->rows[request->n_rows++] = row;
}

static bool is_below(const struct twin_request *request, uint32_t row)
{
    for (uint32_t i = 0; i < request->n_rows; i++)
        if (request->rows[i] == row)
            return true;
    return false;
}

struct sums {
    uint64_t full, estimate, overdraft, concurrent, queued; /* of those that are held */
    uint64_t month_used;                                    /* of those that are settled */
    uint64_t month_full;                                    /* held, of that month */
};

static struct sums sums_of(uint32_t row, uint32_t month)
{
    struct sums s = {0};
    for (uint32_t i = 0; i < twin.n_requests; i++) {
        const struct twin_request *r = &twin.requests[i];
        if (!is_below(r, row) || r->undone)
            continue;
        bool held = r->reservation.state == RESERVATION_HELD;
        if (held) {
            s.full += r->reservation.full_tokens;
            s.estimate += r->reservation.estimate_tokens;
            s.overdraft += r->reservation.full_tokens - r->reservation.estimate_tokens;
            s.concurrent++;
            s.queued += r->reservation.is_queued ? r->reservation.prompt_tokens : 0;
        }
        if (r->reservation.month == month) {
            s.month_used += held ? 0 : r->used_tokens;
            s.month_full += held ? r->reservation.full_tokens : 0;
        }
    }
    return s;
}

/* ---- was there room ---- */

static bool fits(u128 fill, uint64_t held, uint64_t most)
{
    return fill + (u128)held * MINUTE_NS <= (u128)most * MINUTE_NS;
}

void twin_admitted(struct twin_request *request, const struct quota_ask *ask)
{
    const struct reservation *r = &request->reservation;
    request->at_ns[COUNTED_RESERVED] = twin.now_ns;
    request->table = twin.table;
    path_note(request);
    path_charge(request, false, 1, 0);
    MUST(r->state == RESERVATION_HELD && r->tenant == ask->tenant);
    MUST(r->prompt_tokens == ask->prompt_tokens && r->output_tokens_max > 0);
    MUST(r->output_tokens_max <= ask->output_tokens_max);
    MUST(r->is_cut == (r->output_tokens_max < ask->output_tokens_max));
    MUST(r->choices == ask->choices);
    MUST(r->full_tokens == r->prompt_tokens + (uint64_t)r->choices * r->output_tokens_max);
    MUST(r->estimate_tokens > r->prompt_tokens && r->estimate_tokens <= r->full_tokens);
    bool has_budget = false;
    for (uint32_t i = 0; i < request->n_rows; i++) {
        const struct quota_row *row = &twin.rows[request->rows[i]];
        const struct twin_row *m = &twin.meters[request->rows[i]];
        struct sums s = sums_of(request->rows[i], r->month);
        uint64_t over = row->mode == QUOTA_SOFT ? twin_overdraft(row) : 0;
        has_budget |= row->mode == QUOTA_HARD && row->tokens_per_month;
        if (row->requests_per_minute)
            MUST(fits(meter_fill(&m->early_requests, row->requests_per_minute), 0,
                      twin_burst(row->requests_burst, row->requests_per_minute)));
        if (row->tokens_per_minute)
            MUST(fits(meter_fill(&m->early_tokens, row->tokens_per_minute), s.full,
                      twin_burst(row->tokens_burst, row->tokens_per_minute) + over));
        if (row->mode == QUOTA_SOFT && counts_tokens(row))
            MUST(s.overdraft <= over);
        MUST(!row->concurrent_max || s.concurrent <= row->concurrent_max);
        MUST(!row->queued_tokens_max || s.queued <= row->queued_tokens_max);
        MUST(!row->tokens_per_month || s.month_used + s.month_full <= row->tokens_per_month + over);
    }
    MUST(!r->is_cut || ask->is_open || has_budget);
}

void twin_settled(struct twin_request *request)
{
    request->at_ns[COUNTED_SETTLED] = twin.now_ns;
    path_note(request);
    path_charge(request, false, 0, request->used_tokens);
}

void twin_undone(struct twin_request *request)
{
    MUST(request->at_ns[COUNTED_RESERVED] == twin.now_ns);
    request->undone = true;
    for (uint32_t i = 0; i < request->n_rows && request->table == twin.table; i++) {
        struct twin_meter *meter = &twin.meters[request->rows[i]].early_requests;
        if (twin.rows[request->rows[i]].requests_per_minute)
            meter->fill -= MINUTE_NS;
    }
}

/* ---- was there none ---- */

static uint64_t path_overdraft(uint32_t tenant)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t at = tenant; at != QUOTA_TOP; at = twin.rows[at].parent)
        if (twin.rows[at].mode == QUOTA_SOFT && counts_tokens(&twin.rows[at]) &&
            twin_overdraft(&twin.rows[at]) < least)
            least = twin_overdraft(&twin.rows[at]);
    return least;
}

/* What a row of the path can never admit, whatever has drained. */
static bool never_fits(const struct quota_row *row, const struct quota_ask *ask)
{
    uint64_t full = ask->prompt_tokens + (uint64_t)ask->choices * ask->output_tokens_max;
    uint64_t least = (uint64_t)ask->prompt_tokens + ask->choices, most = full;
    if (row->mode == QUOTA_SOFT) {
        uint64_t over = path_overdraft(ask->tenant);
        most = full > over ? full - over : least;
    }
    uint64_t burst = twin_burst(row->tokens_burst, row->tokens_per_minute);
    if (row->queued_tokens_max && ask->prompt_tokens > row->queued_tokens_max)
        return true;
    if (row->tokens_per_minute && (least > burst || (!ask->is_open && most > burst)))
        return true;
    if (row->tokens_per_month && least > row->tokens_per_month)
        return true;
    return row->tokens_per_month && row->mode == QUOTA_SOFT && !ask->is_open &&
           most > row->tokens_per_month;
}

/* With the most that it may take, and the latest charges. */
static bool fits_late(uint32_t index, const struct quota_ask *ask, uint32_t month)
{
    const struct quota_row *row = &twin.rows[index];
    const struct twin_row *m = &twin.meters[index];
    struct sums s = sums_of(index, month);
    uint64_t full = ask->prompt_tokens + (uint64_t)ask->choices * ask->output_tokens_max;
    uint64_t burst = twin_burst(row->tokens_burst, row->tokens_per_minute);
    uint64_t held = row->mode == QUOTA_HARD ? s.full : s.estimate;
    if (row->requests_per_minute &&
        !fits(meter_fill(&m->late_requests, row->requests_per_minute), 1,
              twin_burst(row->requests_burst, row->requests_per_minute)))
        return false;
    if (row->tokens_per_minute &&
        !fits(meter_fill(&m->late_tokens, row->tokens_per_minute), held + full, burst))
        return false;
    if (row->mode == QUOTA_SOFT && counts_tokens(row) && s.overdraft + full > twin_overdraft(row))
        return false;
    if (row->concurrent_max && s.concurrent + 1 > row->concurrent_max)
        return false;
    if (row->queued_tokens_max && s.queued + ask->prompt_tokens > row->queued_tokens_max)
        return false;
    return !row->tokens_per_month || s.month_used + held + full <= row->tokens_per_month;
}

void twin_refused(const struct quota_ask *ask, uint32_t month, const struct error *error)
{
    bool never = false, fits_all = true, has_budget = false, named = false;
    for (uint32_t at = ask->tenant; at != QUOTA_TOP; at = twin.rows[at].parent) {
        static const char *const levels[] = {"organisation", "project", "key"};
        uint32_t level = 0;
        char subject[sizeof error->subject];
        for (uint32_t up = twin.rows[at].parent; up != QUOTA_TOP; up = twin.rows[up].parent)
            level++;
        snprintf(subject, sizeof subject, "%s:%s", levels[level], twin.rows[at].name);
        named |= strcmp(subject, error->subject) == 0;
        never |= never_fits(&twin.rows[at], ask);
        fits_all &= fits_late(at, ask, month);
        has_budget |= twin.rows[at].tokens_per_month > 0;
    }
    MUST(named && error->limit[0] && error->text[0]);
    MUST(error->status == (never ? STATUS_INVALID : STATUS_EXHAUSTED));
    MUST(never == (error->retry_ns == 0));
    /* A month that was forgotten counts as used up. */
    MUST(never || !fits_all || (has_budget && twin.n_months > 4));
}

/* ---- tables ---- */

void twin_table(const struct quota_row *rows, uint32_t n_rows)
{
    twin_told(UINT32_MAX);
    for (uint32_t i = 0; i < n_rows; i++) {
        struct twin_row *m = &twin.meters[i];
        const struct quota_row *old = &twin.rows[i];
        bool is_new = i >= twin.n_rows;
        struct twin_meter *all[] = {&m->early_requests, &m->late_requests, &m->early_tokens,
                                    &m->late_tokens};
        for (size_t k = 0; k < array_count(all); k++) {
            uint64_t before = k < 2 ? old->requests_per_minute : old->tokens_per_minute;
            uint64_t after = k < 2 ? rows[i].requests_per_minute : rows[i].tokens_per_minute;
            all[k]->fill = is_new || !before || !after ? 0 : meter_fill(all[k], before);
            all[k]->at_ns = twin.now_ns;
        }
        twin.rows[i] = rows[i];
    }
    twin.n_rows = n_rows;
    twin.table++;
    for (uint32_t i = 0; i < twin.n_requests; i++)
        if (twin.requests[i].reservation.state == RESERVATION_HELD)
            path_note(&twin.requests[i]);
}

/* ---- windows ---- */

struct window_event {
    uint64_t at_ns, n;
};

static int event_compare(const void *a, const void *b)
{
    const struct window_event *x = a, *y = b;
    return (x->at_ns > y->at_ns) - (x->at_ns < y->at_ns);
}

/* Every pair of events is the two ends of a window. */
static void windows_check(struct window_event *events, uint32_t n, uint64_t most,
                          uint64_t per_minute)
{
    qsort(events, n, sizeof *events, event_compare);
    for (uint32_t from = 0; from < n; from++) {
        u128 sum = 0;
        for (uint32_t to = from; to < n; to++) {
            sum += events[to].n;
            u128 drained = (u128)(events[to].at_ns - events[from].at_ns) * per_minute;
            MUST(sum * MINUTE_NS <= (u128)most * MINUTE_NS + drained);
        }
    }
}

/* Of those that were reserved and settled under the table in force at the end. */
static void row_windows(uint32_t row, enum counted counted)
{
    static struct window_event requests[TWIN_REQUESTS_MAX], tokens[TWIN_REQUESTS_MAX];
    const struct quota_row *r = &twin.rows[row];
    uint32_t n = 0;
    for (uint32_t i = 0; i < twin.n_requests; i++) {
        const struct twin_request *request = &twin.requests[i];
        if (request->undone || request->table != twin.table || !is_below(request, row))
            continue;
        requests[n] = (struct window_event){request->at_ns[COUNTED_RESERVED], 1};
        tokens[n++] = (struct window_event){request->at_ns[counted], request->used_tokens};
    }
    if (r->requests_per_minute && counted == COUNTED_RESERVED)
        windows_check(requests, n, twin_burst(r->requests_burst, r->requests_per_minute),
                      r->requests_per_minute);
    if (r->tokens_per_minute)
        windows_check(tokens, n,
                      twin_burst(r->tokens_burst, r->tokens_per_minute) +
                          (r->mode == QUOTA_SOFT ? twin_overdraft(r) : 0),
                      r->tokens_per_minute);
}

void twin_windows(void)
{
    for (uint32_t row = 0; row < twin.n_rows; row++)
        for (enum counted counted = 0; counted < COUNTED_TIMES; counted++)
            row_windows(row, counted);
}
