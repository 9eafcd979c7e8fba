#include "sched/quota_tree.h"

/* ---- time ---- */

uint64_t tree_tick(struct quota *quota, uint64_t now_ns)
{
    uint64_t latest_ns = atomic_load_explicit(&quota->now_ns, memory_order_relaxed);
    while (now_ns > latest_ns)
        if (atomic_compare_exchange_weak(&quota->now_ns, &latest_ns, now_ns))
            return now_ns;
    if (latest_ns - now_ns > QUOTA_BACK_NS)
        atomic_fetch_add(&quota->clock_back_total, 1);
    return latest_ns;
}

static void node_tick(const struct quota *quota, struct quota_node *node)
{
    uint64_t now_ns = atomic_load(&quota->now_ns);
    gcra_tick(&node->requests, now_ns);
    gcra_tick(&node->tokens, now_ns);
}

/* ---- what is held ---- */

static void vector_add(struct quota_vector *to, const struct quota_vector *more)
{
    for (int k = 0; k < KIND_COUNT; k++)
        to->n[k] += more->n[k];
}

static void vector_subtract(struct quota_vector *from, const struct quota_vector *less)
{
    for (int k = 0; k < KIND_COUNT; k++) {
        CHECK(from->n[k] >= less->n[k]);
        from->n[k] -= less->n[k];
    }
}

void tree_hold(struct quota *quota, uint32_t tenant, const struct quota_vector *vector)
{
    struct quota_node *node = &quota->nodes[tenant];
    vector_add(&node->own, vector);
    for (; node; node = node_above(quota, node))
        vector_add(&node->held, vector);
}

void tree_release(struct quota *quota, uint32_t tenant, const struct quota_vector *vector)
{
    struct quota_node *node = &quota->nodes[tenant];
    vector_subtract(&node->own, vector);
    for (; node; node = node_above(quota, node))
        vector_subtract(&node->held, vector);
}

/* Charged at the latest time that anybody told: nothing drains before it was used. */
static void spent_charge(struct quota *quota, uint32_t tenant, const struct lease_entry *entry)
{
    for (struct quota_node *node = &quota->nodes[tenant]; node; node = node_above(quota, node)) {
        node_tick(quota, node);
        gcra_charge(&node->requests, entry->spent_requests);
        gcra_charge(&node->tokens, entry->spent_tokens);
        month_add(&node->months, entry->month, entry->spent_tokens);
    }
}

void tree_take_back(struct quota *quota, struct quota_lease *lease, uint32_t tenant, bool all)
{
    struct lease_entry *entry = &lease->entries[tenant];
    struct quota_vector back = {{0}};
    if (all) {
        back = entry->credit;
        entry->credit = (struct quota_vector){{0}};
    }
    back.n[KIND_REQUESTS] += entry->spent_requests;
    back.n[KIND_FULL] += entry->spent_tokens;
    back.n[KIND_ESTIMATE] += entry->spent_estimate;
    back.n[KIND_OVERDRAFT] += entry->spent_overdraft;
    if (entry->spent_requests || entry->spent_tokens)
        spent_charge(quota, tenant, entry);
    entry->spent_requests = entry->spent_tokens = 0;
    entry->spent_estimate = entry->spent_overdraft = 0;
    tree_release(quota, tenant, &back);
}

void tree_recall(struct quota *quota)
{
    quota->totals.recalls_total++;
    for (uint32_t i = 0; i < quota->leases_max; i++) {
        struct quota_lease *lease = &quota->leases[i];
        pthread_mutex_lock(&lease->lock);
        while (lease->n_listed > 0) {
            uint32_t tenant = lease->listed[--lease->n_listed];
            tree_take_back(quota, lease, tenant, true);
            lease->entries[tenant].is_listed = false;
        }
        lease->has_spent = false;
        pthread_mutex_unlock(&lease->lock);
    }
}

/* ---- what fits ---- */

static bool limits_tokens(const struct quota_node *node)
{
    return node->tokens.per_minute > 0 || node->tokens_per_month != UINT64_MAX;
}

static enum quota_kind tokens_kind(const struct quota_node *node)
{
    return node->is_hard ? KIND_FULL : KIND_ESTIMATE;
}

/* UINT64_MAX: no limit. */
static uint64_t room_of(uint64_t limit, uint64_t taken)
{
    return limit == UINT64_MAX ? UINT64_MAX : limit > taken ? limit - taken : 0;
}

static uint64_t month_room(const struct quota_node *node, uint32_t month)
{
    if (node->tokens_per_month == UINT64_MAX)
        return UINT64_MAX;
    uint64_t used = month_used(&node->months, month), held = node->held.n[tokens_kind(node)];
    return used == UINT64_MAX ? 0 : room_of(node->tokens_per_month, used + held);
}

/* The most tokens that a row can hold for one request; UINT64_MAX: no limit. */
static uint64_t node_most(const struct quota_node *node)
{
    uint64_t most = node->tokens_per_month;
    return node->tokens.per_minute && node->tokens.burst < most ? node->tokens.burst : most;
}

struct soft_bounds tree_soft_bounds(const struct quota *quota, uint32_t tenant)
{
    struct soft_bounds least = {UINT64_MAX, UINT64_MAX};
    for (const struct quota_node *n = &quota->nodes[tenant]; n; n = node_above(quota, n)) {
        if (n->is_hard || !limits_tokens(n))
            continue;
        if (n->overdraft_tokens < least.overdraft_tokens)
            least.overdraft_tokens = n->overdraft_tokens;
        if (node_most(n) < least.most_tokens)
            least.most_tokens = node_most(n);
    }
    return least;
}

static void claim_lower(struct claim *claim, uint64_t tokens)
{
    if (tokens < claim_least_tokens(claim) || tokens >= claim_full_tokens(claim))
        return;
    claim->output_tokens = (uint32_t)((tokens - claim->prompt_tokens) / claim->choices);
    claim->is_cut = true;
}

void tree_cut_open(const struct quota *quota, struct claim *claim)
{
    struct soft_bounds soft = tree_soft_bounds(quota, claim->tenant);
    if (claim->is_open && soft.most_tokens != UINT64_MAX)
        claim_lower(claim, soft.most_tokens + soft.overdraft_tokens);
    for (const struct quota_node *n = &quota->nodes[claim->tenant]; n; n = node_above(quota, n))
        if (claim->is_open && n->is_hard)
            claim_lower(claim, node_most(n));
}

bool tree_cut_ending(const struct quota *quota, struct claim *claim, uint32_t month)
{
    uint32_t before = claim->output_tokens;
    for (const struct quota_node *n = &quota->nodes[claim->tenant]; n; n = node_above(quota, n)) {
        uint64_t full = claim_full_tokens(claim);
        uint64_t used = month_used(&n->months, month);
        /* What others hold comes back, for the most part: that alone is no reason to cut. */
        if (!n->is_hard || n->tokens_per_month == UINT64_MAX || used == UINT64_MAX ||
            room_of(n->tokens_per_month, used) >= full)
            continue;
        claim_lower(claim, month_room(n, month));
    }
    return claim->output_tokens < before;
}

/* Keeps the worse of two refusals: for ever, then the longest. If either must wait for others to
 * end, so must both together. */
static void verdict_add(struct verdict *verdict, const struct verdict *other)
{
    if (!other->refused || (verdict->refused && verdict->for_ever))
        return;
    bool waits = other->waits || (verdict->refused && verdict->waits);
    if (!verdict->refused || other->for_ever || other->retry_ns > verdict->retry_ns)
        *verdict = *other;
    verdict->waits = waits;
}

/* For a caller whose clock may be behind the latest, which is what drains buckets. */
static uint64_t retry_from(const struct quota *quota, const struct quota_time *time,
                           uint64_t retry_ns)
{
    uint64_t behind_ns = atomic_load(&quota->now_ns) - time->now_ns;
    return retry_ns < UINT64_MAX - behind_ns ? retry_ns + behind_ns : UINT64_MAX;
}

static struct verdict verdict_of_bucket(const struct gcra *gcra, uint64_t held, uint64_t asked)
{
    bool waits;
    uint64_t wait_ns = gcra_wait_ns(gcra, held, asked, &waits);
    return (struct verdict){.refused = wait_ns > 0 || waits,
                            .for_ever = wait_ns == GCRA_NEVER,
                            .waits = waits,
                            .retry_ns = wait_ns,
                            .limit_value = gcra->per_minute,
                            .asked = asked,
                            .room = gcra_room(gcra, held)};
}

static struct verdict verdict_of_cap(uint64_t cap, uint64_t held, uint64_t asked)
{
    uint64_t room = room_of(cap, held);
    return (struct verdict){.refused = asked > room || held > cap, /* of a table before */
                            .for_ever = asked > cap,
                            .waits = true,
                            .limit_value = cap,
                            .asked = asked,
                            .room = room};
}

static struct verdict verdict_of_month(const struct quota_node *node, const struct claim *claim,
                                       const struct month_span *span, uint64_t wall_ns)
{
    uint64_t cap = node->tokens_per_month, asked = claim->cost.n[tokens_kind(node)];
    uint64_t used = month_used(&node->months, span->month), room = month_room(node, span->month);
    /* A hard row would have lowered the output, had only the budget been in the way. */
    uint64_t least = node->is_hard ? claim_least_tokens(claim) : asked;
    struct verdict v = {.refused = asked > room, .limit_value = cap, .asked = asked, .room = room};
    if (!v.refused)
        return v;
    /* What this month has used is gone in the next; what is held may still be. */
    uint64_t held = node->held.n[tokens_kind(node)];
    bool is_over = room_of(cap, used) < least;
    v.for_ever = least > cap;
    v.waits = !is_over || room_of(cap, held) < (asked <= cap ? asked : least);
    if (is_over)
        v.retry_ns = u64_max(span->until_ns - wall_ns, 1);
    return v;
}

struct verdict tree_check(struct quota *quota, const struct claim *claim,
                          const struct month_span *span, const struct quota_time *time,
                          uint64_t hold_ns)
{
    struct verdict worst = {0};
    const uint64_t *cost = claim->cost.n;
    for (uint32_t row = claim->tenant; row != QUOTA_TOP; row = quota->nodes[row].parent) {
        struct quota_node *node = &quota->nodes[row];
        const uint64_t *held = node->held.n;
        enum quota_kind kind = tokens_kind(node);
        node_tick(quota, node);
        struct {
            const char *limit;
            struct verdict verdict;
        } all[] = {
            {"requests_per_minute",
             verdict_of_bucket(&node->requests, held[KIND_REQUESTS], cost[KIND_REQUESTS])},
            {"tokens_per_minute", verdict_of_bucket(&node->tokens, held[kind], cost[kind])},
            {"tokens_per_month", verdict_of_month(node, claim, span, time->wall_ns)},
            {"concurrent_max",
             verdict_of_cap(node->concurrent_max, held[KIND_CONCURRENT], cost[KIND_CONCURRENT])},
            {"queued_tokens_max",
             verdict_of_cap(node->queued_tokens_max, held[KIND_QUEUED], cost[KIND_QUEUED])},
            {"overdraft_tokens",
             verdict_of_cap(limits_tokens(node) && !node->is_hard ? node->overdraft_tokens
                                                                  : UINT64_MAX,
                            held[KIND_OVERDRAFT], cost[KIND_OVERDRAFT])},
        };
        for (size_t i = 0; i < array_count(all); i++) {
            struct verdict *v = &all[i].verdict;
            v->limit = all[i].limit;
            v->row = row;
            if (i < 2 && !v->for_ever)
                v->retry_ns = retry_from(quota, time, v->retry_ns);
            if (v->waits)
                v->retry_ns = u64_max(v->retry_ns, hold_ns);
            verdict_add(&worst, v);
        }
    }
    return worst;
}

/*
 * Credit that lies in a lease is room that others do not have: a lease takes at most its part of a
 * quarter of what is left, and when that is not another whole request, nothing.
 */
uint64_t tree_batch(struct quota *quota, const struct claim *claim, uint32_t month)
{
    uint64_t n = LEASE_BATCH - 1, part = 4ull * quota->n_open;
    for (struct quota_node *node = &quota->nodes[claim->tenant]; node && n > 0;
         node = node_above(quota, node)) {
        const uint64_t *held = node->held.n;
        enum quota_kind kind = tokens_kind(node);
        uint64_t room[KIND_COUNT] = {
            [KIND_REQUESTS] = gcra_room(&node->requests, held[KIND_REQUESTS]),
            [KIND_CONCURRENT] = room_of(node->concurrent_max, held[KIND_CONCURRENT]),
            [KIND_QUEUED] = room_of(node->queued_tokens_max, held[KIND_QUEUED]),
            [KIND_FULL] = UINT64_MAX,
            [KIND_ESTIMATE] = UINT64_MAX,
            [KIND_OVERDRAFT] = limits_tokens(node) && !node->is_hard
                                   ? room_of(node->overdraft_tokens, held[KIND_OVERDRAFT])
                                   : UINT64_MAX};
        uint64_t tokens = gcra_room(&node->tokens, held[kind]), left = month_room(node, month);
        room[kind] = tokens < left ? tokens : left;
        for (int k = 0; k < KIND_COUNT; k++) {
            uint64_t cost = claim->cost.n[k];
            if (room[k] == UINT64_MAX || cost == 0)
                continue;
            uint64_t more = room[k] > cost ? (room[k] - cost) / part / cost : 0;
            n = more < n ? more : n;
        }
    }
    return n;
}

/* ---- refusals ---- */

static const char *level_name(uint32_t level)
{
    static const char *const names[QUOTA_LEVELS_MAX] = {"organisation", "project", "key"};
    return names[level];
}

static enum status refuse_for_ever(const struct quota_node *node, const struct claim *claim,
                                   const struct verdict *v, struct error *error)
{
    bool is_queued = strcmp(v->limit, "queued_tokens_max") == 0;
    uint64_t most = is_queued ? v->limit_value : node_most(node);
    if (!is_queued && !node->is_hard && claim->prompt_tokens < most)
        most += node->overdraft_tokens;
    if (is_queued || claim->prompt_tokens >= most)
        return error_field(error, "prompt",
                           "the prompt has %u tokens; %s of %s %s admits no request of more than "
                           "%llu, ever",
                           claim->prompt_tokens, v->limit, level_name(node->level), node->name,
                           (unsigned long long)most);
    return error_field(error, "max_tokens",
                       "the prompt of %u tokens and %u x %u of output are more than the %llu that "
                       "%s of %s %s can ever admit at once: lower max_tokens",
                       claim->prompt_tokens, claim->choices, claim->output_tokens,
                       (unsigned long long)most, v->limit, level_name(node->level), node->name);
}

enum status tree_refuse(struct quota *quota, const struct claim *claim, const struct verdict *v,
                        struct error *error)
{
    struct quota_node *node = &quota->nodes[v->row];
    node->refused_total++;
    quota->totals.refused_total++;
    quota->totals.refused_for_ever_total += v->for_ever;
    enum status status;
    if (v->for_ever)
        status = refuse_for_ever(node, claim, v, error);
    else
        status = error_set(error, STATUS_EXHAUSTED,
                           "%s of %s %s is %llu: %llu asked for, %llu left%s", v->limit,
                           level_name(node->level), node->name, (unsigned long long)v->limit_value,
                           (unsigned long long)v->asked, (unsigned long long)v->room,
                           v->waits ? "; requests that are running must end first" : "");
    if (!error)
        return status;
    error->retry_ns = v->for_ever ? 0 : v->retry_ns;
    snprintf(error->limit, sizeof error->limit, "%s", v->limit);
    snprintf(error->subject, sizeof error->subject, "%s:%s", level_name(node->level), node->name);
    return status;
}

/* ---- life, statistics ---- */

static void lease_init(struct quota *quota, struct quota_lease *lease)
{
    lease->quota = quota;
    pthread_mutex_init(&lease->lock, NULL);
    lease->entries = calloc(quota->rows_max, sizeof *lease->entries);
    lease->listed = calloc(quota->rows_max, sizeof *lease->listed);
}

enum status quota_open(uint32_t rows_max, uint32_t leases_max, struct quota **ret_quota,
                       struct error *error)
{
    static const struct quota_row free_row = {.name = "local", .parent = QUOTA_TOP};
    struct quota *quota = calloc(1, sizeof *quota);
    bool complete = quota != NULL;
    CHECK(rows_max > 0);
    if (quota) {
        quota->rows_max = rows_max;
        quota->leases_max = leases_max;
        pthread_mutex_init(&quota->lock, NULL);
        quota->nodes = calloc(rows_max, sizeof *quota->nodes);
        quota->leases = calloc(leases_max, sizeof *quota->leases);
        complete = quota->nodes && quota->leases;
        for (uint32_t i = 0; quota->leases && i < leases_max; i++) {
            lease_init(quota, &quota->leases[i]);
            complete = complete && quota->leases[i].entries && quota->leases[i].listed;
        }
    }
    if (!complete) {
        quota_close(quota);
        return error_set(error, STATUS_EXHAUSTED,
                         "no memory for the quotas of %u tenants on %u models", rows_max,
                         leases_max);
    }
    struct quota_table table = {.n_rows = 1, .rows = &free_row};
    struct quota_time start = {0};
    CHECK(quota_set(quota, &table, &start, error) == STATUS_OK);
    *ret_quota = quota;
    return STATUS_OK;
}

void quota_close(struct quota *quota)
{
    if (!quota)
        return;
    CHECK(quota->n_open == 0);
    for (uint32_t i = 0; quota->leases && i < quota->leases_max; i++) {
        pthread_mutex_destroy(&quota->leases[i].lock);
        free(quota->leases[i].entries);
        free(quota->leases[i].listed);
    }
    pthread_mutex_destroy(&quota->lock);
    free(quota->leases);
    free(quota->nodes);
    free(quota);
}

void quota_stats(struct quota *quota, struct quota_stats *ret_stats)
{
    pthread_mutex_lock(&quota->lock);
    *ret_stats = quota->totals;
    ret_stats->clock_back_total = atomic_load(&quota->clock_back_total);
    for (uint32_t i = 0; i < quota->leases_max; i++) {
        struct quota_lease *lease = &quota->leases[i];
        pthread_mutex_lock(&lease->lock);
        ret_stats->reserved_total += lease->reserved_total;
        ret_stats->settled_total += lease->settled_total;
        ret_stats->undone_total += lease->undone_total;
        ret_stats->settled_again_total += lease->settled_again_total;
        ret_stats->overused_total += lease->overused_total;
        pthread_mutex_unlock(&lease->lock);
    }
    pthread_mutex_unlock(&quota->lock);
}

void quota_recall(struct quota *quota, const struct quota_time *time)
{
    tree_tick(quota, time->now_ns);
    pthread_mutex_lock(&quota->lock);
    tree_recall(quota);
    pthread_mutex_unlock(&quota->lock);
}

bool quota_row_stats(struct quota *quota, uint32_t row, const struct quota_time *time,
                     struct quota_row_stats *ret_stats)
{
    pthread_mutex_lock(&quota->lock);
    bool exists = row < quota->n_rows;
    if (exists) {
        struct quota_node *node = &quota->nodes[row];
        const uint64_t *held = node->held.n;
        uint32_t month = month_of(time->wall_ns).month;
        tree_tick(quota, time->now_ns);
        node_tick(quota, node);
        *ret_stats = (struct quota_row_stats){
            .is_limited = limits_tokens(node) || node->requests.per_minute ||
                          node->concurrent_max != UINT64_MAX ||
                          node->queued_tokens_max != UINT64_MAX,
            .is_hard = node->is_hard,
            .refused_total = node->refused_total,
            .month_room = month_room(node, month),
            .requests_room = gcra_room(&node->requests, held[KIND_REQUESTS]),
            .tokens_room = gcra_room(&node->tokens, held[tokens_kind(node)]),
            .concurrent = held[KIND_CONCURRENT],
            .queued_tokens = held[KIND_QUEUED],
            .held_tokens = held[tokens_kind(node)],
            .month_used_tokens = month_used(&node->months, month)};
    }
    pthread_mutex_unlock(&quota->lock);
    return exists;
}

void quota_audit(struct quota *quota)
{
    pthread_mutex_lock(&quota->lock);
    for (uint32_t row = 0; row < quota->n_rows; row++) {
        struct quota_vector own = {{0}}, held = {{0}};
        for (uint32_t i = 0; i < quota->leases_max; i++) {
            const struct lease_entry *e = &quota->leases[i].entries[row];
            vector_add(&own, &e->credit);
            vector_add(&own, &e->live);
            own.n[KIND_REQUESTS] += e->spent_requests;
            own.n[KIND_FULL] += e->spent_tokens;
            own.n[KIND_ESTIMATE] += e->spent_estimate;
            own.n[KIND_OVERDRAFT] += e->spent_overdraft;
            CHECK(e->is_listed || entry_is_empty(e));
        }
        CHECK(memcmp(&own, &quota->nodes[row].own, sizeof own) == 0);
        for (uint32_t below = 0; below < quota->n_rows; below++)
            for (uint32_t at = below; at != QUOTA_TOP; at = quota->nodes[at].parent)
                if (at == row)
                    vector_add(&held, &quota->nodes[below].own);
        CHECK(memcmp(&held, &quota->nodes[row].held, sizeof held) == 0);
    }
    pthread_mutex_unlock(&quota->lock);
}
