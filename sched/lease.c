/*
 * An engine's side of the quotas. What a request takes comes from credit that lies here, if there
 * is enough of every kind; otherwise from the tree, at which occasion credit for more is drawn.
 */
#include "sched/quota_tree.h"

#define HOLD_FIRST_NS 1000000000ull /* how long a request lasts, before any has ended */
#define HISTORY_UNIT 16             /* of output_mean and output_spread */
#define GUESS_MIN_TOKENS 16u        /* without history: a quarter of the most, at least this */

/* ---- small things of an entry ---- */

bool entry_is_empty(const struct lease_entry *entry)
{
    for (int k = 0; k < KIND_COUNT; k++)
        if (entry->credit.n[k])
            return false;
    return !entry->spent_requests && !entry->spent_tokens;
}

static void entry_list(struct quota_lease *lease, uint32_t tenant)
{
    struct lease_entry *entry = &lease->entries[tenant];
    if (entry->is_listed)
        return;
    entry->is_listed = true;
    lease->listed[lease->n_listed++] = tenant;
}

/* The entry may stay listed with nothing in it: the next turn finds out. */
static void entry_take_back(struct quota_lease *lease, uint32_t tenant)
{
    if (lease->entries[tenant].is_listed)
        tree_take_back(lease->quota, lease, tenant, true);
}

/* ---- prices ---- */

/* Mean and twice the mean spread of recent outputs: four of five stay below, whatever their shape.
 */
static uint32_t output_guess(const struct lease_entry *entry, uint32_t most)
{
    if (!entry->has_history)
        return u32_min(most, u32_max(most / 4, GUESS_MIN_TOKENS));
    int64_t guess = (entry->output_mean + 2 * entry->output_spread) / HISTORY_UNIT + 1;
    return guess < (int64_t)most ? (uint32_t)guess : most;
}

static void output_learn(struct lease_entry *entry, uint32_t output_tokens)
{
    int64_t seen = (int64_t)output_tokens * HISTORY_UNIT, off = seen - entry->output_mean;
    if (!entry->has_history) {
        entry->has_history = true;
        entry->output_mean = seen;
        entry->output_spread = seen / 4;
        return;
    }
    entry->output_spread += ((off < 0 ? -off : off) - entry->output_spread) / 4;
    entry->output_mean += off / 8;
}

void claim_price(struct claim *claim, const struct lease_entry *entry)
{
    uint64_t full = claim_full_tokens(claim), guess = output_guess(entry, claim->output_tokens);
    uint64_t estimate = claim->prompt_tokens + claim->choices * guess;
    const struct soft_bounds *soft = &entry->soft;
    if (estimate > soft->most_tokens) /* a guess is no reason to refuse for ever */
        estimate = u64_max(soft->most_tokens, claim_least_tokens(claim));
    if (full > soft->overdraft_tokens) /* no more may come on top than a row's overdraft */
        estimate = u64_max(estimate, full - soft->overdraft_tokens);
    claim->cost = (struct quota_vector){{[KIND_REQUESTS] = 1,
                                         [KIND_CONCURRENT] = 1,
                                         [KIND_QUEUED] = claim->prompt_tokens,
                                         [KIND_FULL] = full,
                                         [KIND_ESTIMATE] = estimate,
                                         [KIND_OVERDRAFT] = full - estimate}};
}

static struct claim claim_of(const struct lease_entry *entry, const struct quota_ask *ask)
{
    struct claim claim = {.tenant = ask->tenant,
                          .prompt_tokens = ask->prompt_tokens,
                          .choices = ask->choices,
                          .output_tokens = ask->output_tokens_max,
                          .is_open = ask->is_open};
    claim_price(&claim, entry);
    return claim;
}

/* ---- reserving ---- */

/* Credit that covers the claim becomes a reservation. */
static void claim_take(struct quota_lease *lease, const struct claim *claim, uint64_t now_ns,
                       struct reservation *ret)
{
    struct lease_entry *entry = &lease->entries[claim->tenant];
    for (int k = 0; k < KIND_COUNT; k++) {
        CHECK(entry->credit.n[k] >= claim->cost.n[k]);
        entry->credit.n[k] -= claim->cost.n[k];
        if (k != KIND_REQUESTS)
            entry->live.n[k] += claim->cost.n[k];
    }
    entry->spent_requests++; /* used at once: the request is here */
    entry->is_touched = true;
    lease->has_spent = true;
    lease->reserved_total++;
    entry_list(lease, claim->tenant);
    *ret = (struct reservation){.state = RESERVATION_HELD,
                                .tenant = claim->tenant,
                                .month = entry->month,
                                .prompt_tokens = claim->prompt_tokens,
                                .choices = claim->choices,
                                .output_tokens_max = claim->output_tokens,
                                .is_cut = claim->is_cut,
                                .is_queued = true,
                                .full_tokens = claim->cost.n[KIND_FULL],
                                .estimate_tokens = claim->cost.n[KIND_ESTIMATE],
                                .taken_ns = now_ns};
}

static bool credit_covers(const struct quota_lease *lease, const struct claim *claim,
                          uint64_t wall_ns)
{
    const struct lease_entry *entry = &lease->entries[claim->tenant];
    if (entry->generation != atomic_load(&lease->quota->generation) ||
        wall_ns < lease->span.from_ns || wall_ns >= lease->span.until_ns ||
        entry->month != lease->span.month)
        return false;
    for (int k = 0; k < KIND_COUNT; k++)
        if (entry->credit.n[k] < claim->cost.n[k])
            return false;
    return true;
}

static bool reserve_here(struct quota_lease *lease, const struct quota_ask *ask,
                         const struct quota_time *time, struct reservation *ret)
{
    pthread_mutex_lock(&lease->lock);
    struct claim claim = claim_of(&lease->entries[ask->tenant], ask);
    bool covered = credit_covers(lease, &claim, time->wall_ns);
    if (covered)
        claim_take(lease, &claim, time->now_ns, ret);
    pthread_mutex_unlock(&lease->lock);
    return covered;
}

/* What the tree says of the claim, as if no lease but this one held anything idle. */
static struct verdict claim_judge(struct quota_lease *lease, const struct quota_ask *ask,
                                  const struct quota_time *time, struct claim *ret_claim)
{
    struct quota *quota = lease->quota;
    const struct lease_entry *entry = &lease->entries[ask->tenant];
    for (bool recalled = false;; recalled = true) {
        *ret_claim = claim_of(entry, ask);
        tree_cut_open(quota, ret_claim);
        claim_price(ret_claim, entry);
        struct verdict verdict =
            tree_check(quota, ret_claim, &lease->span, time, lease->hold_mean_ns);
        if (verdict.for_ever) /* even when a budget that ends would lower it */
            return verdict;
        bool is_ending = tree_cut_ending(quota, ret_claim, lease->span.month);
        if (is_ending) {
            claim_price(ret_claim, entry);
            verdict = tree_check(quota, ret_claim, &lease->span, time, lease->hold_mean_ns);
        }
        if (recalled || (!verdict.refused && !is_ending))
            return verdict;
        pthread_mutex_unlock(&lease->lock); /* with the tree locked nobody but recalls comes by */
        tree_recall(quota);
        pthread_mutex_lock(&lease->lock);
    }
}

/* Both are locked. */
static enum status reserve_there(struct quota_lease *lease, const struct quota_ask *ask,
                                 const struct quota_time *time, struct reservation *ret,
                                 struct error *error)
{
    struct quota *quota = lease->quota;
    struct lease_entry *entry = &lease->entries[ask->tenant];
    struct claim claim;
    if (time->wall_ns < lease->span.from_ns || time->wall_ns >= lease->span.until_ns)
        lease->span = month_of(time->wall_ns);
    quota->totals.month_back_total += lease->span.month < quota->month;
    quota->month = lease->span.month;
    entry_take_back(lease, ask->tenant);
    entry->month = lease->span.month;
    entry->generation = atomic_load(&quota->generation);
    entry->soft = tree_soft_bounds(quota, ask->tenant);
    struct verdict verdict = claim_judge(lease, ask, time, &claim);
    if (verdict.refused)
        return tree_refuse(quota, &claim, &verdict, error);
    uint64_t n = 1 + tree_batch(quota, &claim, lease->span.month);
    struct quota_vector drawn;
    for (int k = 0; k < KIND_COUNT; k++)
        drawn.n[k] = n * claim.cost.n[k];
    tree_hold(quota, ask->tenant, &drawn);
    entry->credit = drawn;
    quota->totals.draws_total++;
    quota->totals.cut_total += claim.is_cut;
    claim_take(lease, &claim, time->now_ns, ret);
    return STATUS_OK;
}

enum status quota_reserve(struct quota_lease *lease, const struct quota_ask *ask,
                          const struct quota_time *time, struct reservation *ret_reservation,
                          struct error *error)
{
    struct quota *quota = lease->quota;
    CHECK(ask->prompt_tokens > 0 && ask->output_tokens_max > 0 && ask->choices > 0);
    CHECK(ret_reservation->state != RESERVATION_HELD);
    tree_tick(quota, time->now_ns);
    if (ask->tenant < quota->rows_max && reserve_here(lease, ask, time, ret_reservation))
        return STATUS_OK;
    enum status status;
    pthread_mutex_lock(&quota->lock);
    pthread_mutex_lock(&lease->lock);
    if (ask->tenant < quota->n_rows)
        status = reserve_there(lease, ask, time, ret_reservation, error);
    else
        status = error_field(error, "tenant", "there is no tenant %u: there are %u", ask->tenant,
                             quota->n_rows);
    pthread_mutex_unlock(&lease->lock);
    pthread_mutex_unlock(&quota->lock);
    return status;
}

/* ---- ending ---- */

/*
 * Locks the lease, with the reservation's entry ready for its month. False: it is not held, which
 * is counted.
 */
static bool held_lock(struct quota_lease *lease, const struct reservation *reservation)
{
    struct quota *quota = lease->quota;
    pthread_mutex_lock(&lease->lock);
    if (reservation->state != RESERVATION_HELD) {
        lease->settled_again_total++;
        pthread_mutex_unlock(&lease->lock);
        return false;
    }
    struct lease_entry *entry = &lease->entries[reservation->tenant];
    if (entry->month == reservation->month)
        return true;
    if (entry->is_listed) {
        pthread_mutex_unlock(&lease->lock);
        pthread_mutex_lock(&quota->lock);
        pthread_mutex_lock(&lease->lock);
        entry_take_back(lease, reservation->tenant);
        pthread_mutex_unlock(&quota->lock);
    }
    entry->month = reservation->month;
    return true;
}

static void live_end(struct lease_entry *entry, const struct reservation *r)
{
    const uint64_t ended[KIND_COUNT] = {[KIND_CONCURRENT] = 1,
                                        [KIND_QUEUED] = r->is_queued ? r->prompt_tokens : 0,
                                        [KIND_FULL] = r->full_tokens,
                                        [KIND_ESTIMATE] = r->estimate_tokens,
                                        [KIND_OVERDRAFT] = r->full_tokens - r->estimate_tokens};
    for (int k = 0; k < KIND_COUNT; k++) {
        CHECK(entry->live.n[k] >= ended[k]);
        entry->live.n[k] -= ended[k];
        entry->credit.n[k] += ended[k];
    }
}

void quota_begin(struct quota_lease *lease, struct reservation *reservation)
{
    if (reservation->state != RESERVATION_HELD || !reservation->is_queued ||
        !held_lock(lease, reservation))
        return;
    struct lease_entry *entry = &lease->entries[reservation->tenant];
    CHECK(entry->live.n[KIND_QUEUED] >= reservation->prompt_tokens);
    entry->live.n[KIND_QUEUED] -= reservation->prompt_tokens;
    entry->credit.n[KIND_QUEUED] += reservation->prompt_tokens;
    reservation->is_queued = false;
    entry_list(lease, reservation->tenant);
    pthread_mutex_unlock(&lease->lock);
}

void quota_settle(struct quota_lease *lease, struct reservation *reservation,
                  uint32_t prompt_tokens, uint32_t output_tokens, uint64_t now_ns)
{
    tree_tick(lease->quota, now_ns);
    if (!held_lock(lease, reservation))
        return;
    struct lease_entry *entry = &lease->entries[reservation->tenant];
    uint64_t used = (uint64_t)prompt_tokens + output_tokens;
    if (used > reservation->full_tokens) {
        lease->overused_total++;
        used = reservation->full_tokens;
    }
    live_end(entry, reservation);
    uint64_t within = used < reservation->estimate_tokens ? used : reservation->estimate_tokens;
    entry->credit.n[KIND_FULL] -= used;
    entry->credit.n[KIND_ESTIMATE] -= within;
    entry->credit.n[KIND_OVERDRAFT] -= used - within;
    entry->spent_tokens += used;
    entry->spent_estimate += within;
    entry->spent_overdraft += used - within;
    if (output_tokens > 0)
        output_learn(entry, output_tokens / reservation->choices);
    uint64_t lasted_ns = now_ns > reservation->taken_ns ? now_ns - reservation->taken_ns : 0;
    lease->hold_mean_ns = u64_max(lease->hold_mean_ns - lease->hold_mean_ns / 8 + lasted_ns / 8, 1);
    lease->has_spent = true;
    lease->settled_total++;
    reservation->state = RESERVATION_SETTLED;
    entry_list(lease, reservation->tenant);
    pthread_mutex_unlock(&lease->lock);
}

void quota_undo(struct quota_lease *lease, struct reservation *reservation)
{
    if (!held_lock(lease, reservation))
        return;
    struct lease_entry *entry = &lease->entries[reservation->tenant];
    live_end(entry, reservation);
    if (entry->spent_requests > 0) { /* else the tree knows already, and it stays used */
        entry->spent_requests--;
        entry->credit.n[KIND_REQUESTS]++;
    }
    lease->undone_total++;
    reservation->state = RESERVATION_SETTLED;
    entry_list(lease, reservation->tenant);
    pthread_mutex_unlock(&lease->lock);
}

/* ---- the turn ---- */

/* More than a draw would give is not worth keeping from others. */
static bool entry_is_idle(const struct lease_entry *entry, bool sweeps)
{
    return (sweeps && !entry->is_touched) || entry->credit.n[KIND_CONCURRENT] > LEASE_BATCH;
}

static bool turn_is_due(struct quota_lease *lease, uint64_t now_ns, bool *ret_sweeps)
{
    pthread_mutex_lock(&lease->lock);
    if (now_ns < lease->swept_ns) /* a clock that went back: begin anew */
        lease->swept_ns = now_ns;
    *ret_sweeps = now_ns - lease->swept_ns >= LEASE_IDLE_NS;
    if (*ret_sweeps)
        lease->swept_ns = now_ns;
    bool due = lease->n_listed > 0 && (lease->has_spent || *ret_sweeps);
    pthread_mutex_unlock(&lease->lock);
    return due;
}

void quota_lease_turn(struct quota_lease *lease, const struct quota_time *time)
{
    struct quota *quota = lease->quota;
    bool sweeps;
    tree_tick(quota, time->now_ns);
    if (!turn_is_due(lease, time->now_ns, &sweeps))
        return;
    pthread_mutex_lock(&quota->lock);
    pthread_mutex_lock(&lease->lock);
    for (uint32_t i = lease->n_listed; i-- > 0;) {
        uint32_t tenant = lease->listed[i];
        struct lease_entry *entry = &lease->entries[tenant];
        tree_take_back(quota, lease, tenant, entry_is_idle(entry, sweeps));
        if (sweeps)
            entry->is_touched = false;
        if (entry_is_empty(entry)) {
            entry->is_listed = false;
            lease->listed[i] = lease->listed[--lease->n_listed];
        }
    }
    lease->has_spent = false;
    pthread_mutex_unlock(&lease->lock);
    pthread_mutex_unlock(&quota->lock);
}

/* ---- life ---- */

enum status quota_lease_open(struct quota *quota, struct quota_lease **ret_lease,
                             struct error *error)
{
    struct quota_lease *lease = NULL;
    pthread_mutex_lock(&quota->lock);
    for (uint32_t i = 0; i < quota->leases_max && !lease; i++)
        if (!quota->leases[i].is_open)
            lease = &quota->leases[i];
    if (lease) {
        pthread_mutex_lock(&lease->lock);
        lease->is_open = true;
        lease->hold_mean_ns = HOLD_FIRST_NS;
        quota->n_open++;
        pthread_mutex_unlock(&lease->lock);
    }
    pthread_mutex_unlock(&quota->lock);
    if (!lease)
        return error_set(error, STATUS_EXHAUSTED, "all %u leases of the quotas are taken",
                         quota->leases_max);
    *ret_lease = lease;
    return STATUS_OK;
}

void quota_lease_close(struct quota_lease *lease, const struct quota_time *time)
{
    static const struct quota_vector nothing = {{0}};
    struct quota *quota = lease->quota;
    pthread_mutex_lock(&quota->lock);
    pthread_mutex_lock(&lease->lock);
    CHECK(lease->is_open);
    tree_tick(quota, time->now_ns);
    for (uint32_t i = 0; i < lease->n_listed; i++)
        tree_take_back(quota, lease, lease->listed[i], true);
    for (uint32_t i = 0; i < quota->rows_max; i++) {
        CHECK(memcmp(&lease->entries[i].live, &nothing, sizeof nothing) == 0);
        lease->entries[i] = (struct lease_entry){.generation = 0};
    }
    lease->n_listed = 0;
    lease->span = (struct month_span){0};
    lease->has_spent = lease->is_open = false;
    quota->n_open--;
    pthread_mutex_unlock(&lease->lock);
    pthread_mutex_unlock(&quota->lock);
}
