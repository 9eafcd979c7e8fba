#include "tests/sim/fair_twin.h"

#include "sched/books.h"

#define NOBODY UINT32_MAX
#define ONE 65536ull

struct twin_seq {
    struct seq *seq;
    bool lives, waits, has_chunk;
    uint64_t due_ns;
    uint32_t bypassed, owed;
    uint32_t promised; /* output tokens that it is expected to put out, while it runs */
};

struct twin_row {
    uint64_t v, limit, now;
    uint32_t remainder, parent, n_outputs;
    uint32_t outputs[32]; /* the latest first */
    bool out, seen;
};

struct twin {
    const struct sched *sched;
    uint32_t n_seqs, root;
    uint32_t prompt_cost, output_cost, quantum, lead, credit, reclaim, price, permille, headroom;
    bool closed;
    uint32_t tries, offered, blocked;
    struct twin_row *rows; /* [tenants_max + 1]; the last one is above all */
    struct twin_seq *seqs; /* [requests_max] */
};

static uint32_t rows_max(const struct sched_limits *limits)
{
    return limits->tenants_max ? limits->tenants_max : 1;
}

static size_t twin_footprint(const struct sched_limits *limits)
{
    return sizeof(struct twin) + (rows_max(limits) + 1) * sizeof(struct twin_row) +
           limits->requests_max * sizeof(struct twin_seq);
}

static uint32_t given(uint32_t value, uint32_t otherwise)
{
    return value == 0 ? otherwise : value == SCHED_NONE ? 0 : value;
}

static uint32_t row_parent(const struct twin *t, uint32_t row)
{
    uint32_t parent = t->sched->tenants.rows[row].parent;
    return parent == TENANT_TOP ? t->root : parent;
}

/* A row's ancestor (or itself) that is a child of `parent`; NOBODY when it is not below. */
static uint32_t child_above(const struct twin *t, uint32_t row, uint32_t parent)
{
    while (row_parent(t, row) != parent) {
        row = row_parent(t, row);
        if (row == t->root)
            return NOBODY;
    }
    return row;
}

static bool below(const struct twin *t, uint32_t row, uint32_t above)
{
    while (row != above && row != t->root)
        row = row_parent(t, row);
    return row == above;
}

static bool waits_below(const struct twin *t, uint32_t row)
{
    for (uint32_t i = 0; i < t->n_seqs; i++)
        if (t->seqs[i].waits && below(t, t->seqs[i].seq->tenant, row))
            return true;
    return false;
}

static bool prefills_below(const struct twin *t, uint32_t row)
{
    for (uint32_t i = 0; i < t->sched->n_running; i++) {
        const struct seq *seq = t->sched->running[i];
        if (!seq->paused && seq_ready_tokens(seq) > 1 && below(t, seq->tenant, row))
            return true;
    }
    return false;
}

static bool chunk_below(const struct twin *t, uint32_t row)
{
    for (uint32_t i = 0; i < t->n_seqs; i++)
        if (t->seqs[i].has_chunk && below(t, t->seqs[i].seq->tenant, row))
            return true;
    return false;
}

static void twin_init(void *state, const struct sched *sched)
{
    struct twin *t = state;
    const struct sched_fairness *f = &sched->limits.fairness;
    t->sched = sched;
    t->n_seqs = sched->limits.requests_max;
    t->root = rows_max(&sched->limits);
    t->prompt_cost = f->prompt_cost ? f->prompt_cost : 1;
    t->output_cost = f->output_cost ? f->output_cost : 2;
    if (t->output_cost < t->prompt_cost)
        t->output_cost = t->prompt_cost;
    t->quantum = f->quantum_tokens ? f->quantum_tokens : 256;
    t->lead = given(f->lead_cost, sched->limits.step_tokens_max);
    t->reclaim = given(f->reclaim_cost, 4 * sched->limits.step_tokens_max);
    t->price = given(f->reclaim_price, 16);
    t->permille = given(f->recompute_permille, 25);
    t->credit = given(f->credit_cost, 6 * sched->limits.step_tokens_max);
    t->headroom = given(f->headroom_permille, 50);
    t->offered = t->blocked = NOBODY;
    t->rows = (struct twin_row *)(t + 1);
    t->seqs = (struct twin_seq *)(t->rows + t->root + 1);
    for (uint32_t i = 0; i <= t->root; i++)
        t->rows[i].limit = UINT64_MAX;
    t->rows[0].seen = true;
    t->rows[0].parent = t->root;
}

static void twin_tenants_changed(void *state)
{
    struct twin *t = state;
    t->blocked = NOBODY;
    for (uint32_t i = 0; i < t->sched->tenants.count; i++) {
        struct twin_row *row = &t->rows[i];
        if (!row->seen || row->parent != row_parent(t, i))
            row->v = t->rows[row_parent(t, i)].now;
        row->remainder = 0;
        row->parent = row_parent(t, i);
        row->seen = true;
    }
}

/* ---- service ---- */

static void pay(struct twin *t, uint32_t leaf, uint64_t cost)
{
    for (uint32_t row = leaf; row != t->root; row = row_parent(t, row)) {
        uint64_t weight = t->sched->tenants.rows[row].weight;
        uint64_t whole = cost * ONE + t->rows[row].remainder;
        t->rows[row].v += whole / weight;
        t->rows[row].remainder = (uint32_t)(whole % weight);
    }
}

static uint32_t p80(const struct twin_row *row)
{
    if (row->n_outputs < 4)
        return 0;
    for (uint32_t i = 0;; i++) { /* the smallest that four of five do not exceed */
        uint32_t at_most = 0, less = 0;
        for (uint32_t j = 0; j < row->n_outputs; j++) {
            at_most += row->outputs[j] <= row->outputs[i];
            less += row->outputs[j] < row->outputs[i];
        }
        uint32_t place = (row->n_outputs * 4 - 1) / 5;
        if (less <= place && place < at_most)
            return row->outputs[i];
    }
}

static uint32_t predicted(const struct twin *t, const struct seq *seq)
{
    uint32_t n = p80(&t->rows[seq->tenant]);
    if (n == 0)
        n = p80(&t->rows[t->root]);
    if (n == 0)
        n = 128;
    return n < seq->output_tokens_max ? n : seq->output_tokens_max;
}

static uint32_t twin_foresee(void *state, const struct seq *seq)
{
    uint32_t n = predicted(state, seq);
    uint32_t left = n > seq->sampled_tokens ? n - seq->sampled_tokens : 0;
    return left < 16 ? 16 : left;
}

static bool lives_below(const struct twin *t, uint32_t row)
{
    for (uint32_t i = 0; i < t->n_seqs; i++)
        if (t->seqs[i].lives && below(t, t->seqs[i].seq->tenant, row))
            return true;
    return false;
}

/* A row's part of the pool, level by level from the top: among those who are there, and one more as
 * heavy as it, if there are such. */
static uint32_t fair_blocks(const struct twin *t, uint32_t row, uint32_t pool)
{
    if (row == t->root)
        return pool;
    uint64_t here = 0, idle = 0, own = t->sched->tenants.rows[row].weight;
    for (uint32_t i = 0; i < t->sched->tenants.count; i++)
        if (row_parent(t, i) == row_parent(t, row))
            *(lives_below(t, i) ? &here : &idle) += t->sched->tenants.rows[i].weight;
    here += idle < own ? idle : own;
    return (uint32_t)((uint64_t)fair_blocks(t, row_parent(t, row), pool) * own / here);
}

static bool has_more(const struct twin *t, const struct seq *seq, uint32_t pool)
{
    for (uint32_t row = seq->tenant; row != t->root; row = row_parent(t, row))
        if (t->sched->tenants.rows[row].blocks > fair_blocks(t, row, pool))
            return true;
    return false;
}

static uint32_t twin_headroom(void *state, const struct seq *seq)
{
    const struct twin *t = state;
    uint32_t pool = t->sched->limits.blocks_count;
    return has_more(t, seq, pool) ? (uint32_t)((uint64_t)pool * t->headroom / 1000) : 0;
}

/* What may still be computed again for fairness. */
static uint64_t credit_left(const struct twin *t)
{
    uint64_t may = t->sched->processed_tokens_total * t->permille / 1000;
    uint64_t spent = t->sched->recomputed_tokens_total;
    for (uint32_t i = 0; i < t->n_seqs; i++)
        spent += t->seqs[i].owed;
    return may > spent ? may - spent : 0;
}

static bool twin_dares(void *state, const struct seq *seq)
{
    const struct twin *t = state;
    return !has_more(t, seq, t->sched->limits.blocks_count / 2) &&
           credit_left(t) >= t->sched->limits.step_tokens_max;
}

static void twin_charge(void *state, struct seq *seq, uint32_t prefill, uint32_t output)
{
    struct twin *t = state;
    struct twin_seq *s = &t->seqs[seq->id];
    s->promised = s->promised > output ? s->promised - output : 0;
    pay(t, seq->tenant, (uint64_t)output * t->output_cost + (uint64_t)prefill * t->prompt_cost);
}

static void remember(struct twin_row *row, uint32_t n)
{
    memmove(row->outputs + 1, row->outputs, 31 * sizeof *row->outputs);
    row->outputs[0] = n;
    if (row->n_outputs < 32)
        row->n_outputs++;
}

static void twin_ended(void *state, struct seq *seq)
{
    struct twin *t = state;
    t->seqs[seq->id].lives = false;
    t->seqs[seq->id].promised = 0;
    if (seq->sampled_tokens > 0) {
        remember(&t->rows[seq->tenant], seq->sampled_tokens);
        remember(&t->rows[t->root], seq->sampled_tokens);
    }
}

/* ---- waiting ---- */

/* Virtual time, and half of what the output would cost that is promised below. */
static uint64_t stands(const struct twin *t, uint32_t row)
{
    uint64_t promised = 0;
    for (uint32_t i = 0; i < t->n_seqs; i++)
        if (t->seqs[i].promised > 0 && below(t, t->seqs[i].seq->tenant, row))
            promised += t->seqs[i].promised;
    uint64_t token = t->output_cost * ONE / t->sched->tenants.rows[row].weight;
    return t->rows[row].v + promised * token / 2;
}

static bool is_behind(const struct twin *t, uint32_t a, uint32_t b)
{
    uint64_t at_a = stands(t, a), at_b = stands(t, b);
    return at_a < at_b || (at_a == at_b && a < b);
}

/* Where the siblings stand: at the one that is behind all others in line, or further already. */
static void lift(struct twin *t, uint32_t row)
{
    uint32_t first = NOBODY;
    uint64_t *now = &t->rows[row_parent(t, row)].now;
    for (uint32_t i = 0; i < t->sched->tenants.count; i++)
        if (row_parent(t, i) == row_parent(t, row) && waits_below(t, i) &&
            (first == NOBODY || is_behind(t, i, first)))
            first = i;
    if (first != NOBODY && t->rows[first].v > *now)
        *now = t->rows[first].v;
    uint64_t credit = t->credit * ONE / t->sched->tenants.rows[row].weight;
    if (*now > credit && t->rows[row].v < *now - credit)
        t->rows[row].v = *now - credit;
}

static void twin_enqueue(void *state, struct seq *seq, enum arrival arrival)
{
    struct twin *t = state;
    struct twin_seq *s = &t->seqs[seq->id];
    if (arrival == ARRIVES_NEW)
        *s = (struct twin_seq){.lives = true};
    s->seq = seq;
    for (uint32_t row = seq->tenant; arrival != ARRIVES_PREEMPTED && row != t->root;
         row = row_parent(t, row)) {
        if (!waits_below(t, row) && !prefills_below(t, row))
            lift(t, row);
    }
    s->waits = true;
    s->promised = 0;
    s->bypassed = 0;
    s->due_ns = 0;
    if (arrival == ARRIVES_NEW) {
        uint64_t patience = seq->class == CLASS_BATCH ? 3600000000000ull : 30000000000ull;
        s->due_ns = t->sched->now_ns + patience;
        if (seq->deadline_ns != UINT64_MAX)
            s->due_ns = seq->deadline_ns ? seq->deadline_ns : 1;
    }
}

static bool before(const struct twin_seq *a, const struct twin_seq *b)
{
    return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->seq->number < b->seq->number);
}

static bool of_line(const struct twin_seq *s, uint32_t leaf, enum sched_class class)
{
    return s->waits && s->seq->tenant == leaf && s->seq->class == class;
}

/* Prompt tokens that are not cached. */
static uint32_t work(const struct twin_seq *s)
{
    return s->seq->matched_tokens < s->seq->prompt_tokens
               ? s->seq->prompt_tokens - s->seq->matched_tokens
               : 0;
}

/* How many of its line come before it. */
static uint32_t place_of(const struct twin *t, const struct twin_seq *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_seqs; i++)
        n += of_line(&t->seqs[i], s->seq->tenant, s->seq->class) && before(&t->seqs[i], s);
    return n;
}

static struct twin_seq *pick_of_class(const struct twin *t, uint32_t leaf, enum sched_class class)
{
    struct twin_seq *first = NULL, *best = NULL;
    for (uint32_t i = 0; i < t->n_seqs; i++)
        if (of_line(&t->seqs[i], leaf, class) && (!first || before(&t->seqs[i], first)))
            first = &t->seqs[i];
    if (!first || first->due_ns == 0 || first->seq->deadline_ns != UINT64_MAX ||
        first->bypassed >= 8)
        return first;
    for (uint32_t i = 0; i < t->n_seqs; i++) {
        struct twin_seq *s = &t->seqs[i];
        if (!of_line(s, leaf, class) || place_of(t, s) >= 16)
            continue;
        if (!best || work(s) < work(best) || (work(s) == work(best) && before(s, best)))
            best = s;
    }
    return best;
}

static struct twin_seq *pick(const struct twin *t, uint32_t leaf)
{
    struct twin_seq *s = pick_of_class(t, leaf, CLASS_INTERACTIVE);
    return s ? s : pick_of_class(t, leaf, CLASS_BATCH);
}

static void twin_dequeue(void *state, struct seq *seq)
{
    struct twin *t = state;
    struct twin_seq *s = &t->seqs[seq->id];
    if (t->offered == seq->id && !seq->paused && !seq->held)
        for (uint32_t i = 0; i < t->n_seqs; i++)
            if (of_line(&t->seqs[i], seq->tenant, seq->class) && place_of(t, &t->seqs[i]) == 0 &&
                &t->seqs[i] != s)
                t->seqs[i].bypassed++;
    s->waits = false;
    s->owed = 0;
}

/* ---- a step ---- */

static void twin_begin(void *state)
{
    struct twin *t = state;
    t->closed = false;
    t->tries = 0;
    t->blocked = t->offered = NOBODY;
    for (uint32_t i = 0; i <= t->root; i++) {
        t->rows[i].out = false;
        t->rows[i].limit = UINT64_MAX;
    }
    for (uint32_t i = 0; i < t->n_seqs; i++)
        t->seqs[i].has_chunk = false;
    for (uint32_t i = 0; i < t->sched->n_running; i++) {
        struct seq *seq = t->sched->running[i];
        t->seqs[seq->id].has_chunk = !seq->paused && seq_ready_tokens(seq) > 1;
    }
}

static void twin_end(void *state)
{
    struct twin *t = state;
    t->offered = NOBODY;
    for (uint32_t i = 0; i < t->n_seqs; i++)
        t->seqs[i].has_chunk = false;
}

static uint32_t choose(struct twin *t, uint32_t parent, bool *chunks)
{
    uint32_t any = NOBODY, chunky = NOBODY;
    for (uint32_t i = 0; i < t->sched->tenants.count; i++) {
        if (row_parent(t, i) != parent || t->rows[i].out)
            continue;
        bool chunk = chunk_below(t, i);
        if ((chunk || waits_below(t, i)) && (any == NOBODY || is_behind(t, i, any)))
            any = i;
        if (chunk && (chunky == NOBODY || is_behind(t, i, chunky)))
            chunky = i;
    }
    if (any == NOBODY)
        return NOBODY;
    if (t->closed || stands(t, any) >= t->rows[parent].limit)
        *chunks = true;
    if (*chunks)
        return chunky;
    if (t->rows[parent].now < t->rows[any].v)
        t->rows[parent].now = t->rows[any].v;
    return any;
}

static struct seq *offer(struct twin *t, uint32_t leaf)
{
    t->offered = NOBODY;
    for (uint32_t i = 0; i < t->sched->n_running; i++) {
        struct seq *seq = t->sched->running[i];
        if (seq->tenant == leaf && t->seqs[seq->id].has_chunk)
            return seq;
    }
    struct twin_seq *s = t->closed ? NULL : pick(t, leaf);
    if (!s)
        return NULL;
    t->offered = s->seq->id;
    return s->seq;
}

static struct seq *twin_next(void *state, uint32_t *ret_tokens_max)
{
    struct twin *t = state;
    bool chunks = false;
    *ret_tokens_max = t->quantum;
    for (uint32_t row = t->root;;) {
        bool leaf = row != t->root && !t->sched->tenants.rows[row].has_children;
        struct seq *seq = leaf ? offer(t, row) : NULL;
        uint32_t child = leaf ? NOBODY : choose(t, row, &chunks);
        if (seq)
            return seq;
        if (child != NOBODY) {
            row = child;
            continue;
        }
        if (row == t->root)
            return NULL;
        t->rows[row].out = true;
        row = t->root;
        chunks = false;
    }
}

static void twin_granted(void *state, struct seq *seq, uint32_t n_tokens)
{
    struct twin *t = state;
    struct twin_seq *s = &t->seqs[seq->id];
    if (t->offered == seq->id) {
        uint32_t n = predicted(t, seq);
        s->promised = n > seq->sampled_tokens ? n - seq->sampled_tokens : 0;
    }
    s->has_chunk = n_tokens > 0 && seq_ready_tokens(seq) > 1 &&
                   t->sched->rows[seq->row_at].n_tokens < t->sched->limits.chunk_tokens_max;
}

static void twin_refused(void *state, struct seq *seq, enum refusal why)
{
    struct twin *t = state;
    if (t->blocked == NOBODY && (why == REFUSED_BLOCKS || t->sched->n_free_slots == 0))
        t->blocked = seq->tenant;
    if (why == REFUSED_STEP) {
        t->closed = true;
        return;
    }
    if (++t->tries == 8)
        t->closed = true;
    t->rows[seq->tenant].out = true;
    for (uint32_t row = seq->tenant; why == REFUSED_BLOCKS && row != t->root;
         row = row_parent(t, row)) {
        uint64_t limit = stands(t, row) + t->lead * ONE / t->sched->tenants.rows[row].weight;
        if (limit < t->rows[row_parent(t, row)].limit)
            t->rows[row_parent(t, row)].limit = limit;
    }
}

/* ---- preemption ---- */

static uint64_t own_blocks(const struct sched *sched, const struct seq *seq)
{
    uint32_t own = 0, first = sched->blocks.table_firsts[seq->slot];
    for (uint32_t i = first; i < blocks_table_end(&sched->blocks, seq->slot); i++)
        own += i >= seq->shared_blocks;
    return own;
}

/* The children of the lowest row that both are below. */
static bool part(const struct twin *t, uint32_t a, uint32_t b, uint32_t *ret_a, uint32_t *ret_b)
{
    if (a == b)
        return false;
    uint32_t common = row_parent(t, a);
    while (common != t->root && !below(t, b, common))
        common = row_parent(t, common);
    *ret_a = child_above(t, a, common);
    *ret_b = child_above(t, b, common);
    return true;
}

static bool better(const struct twin *t, const struct seq *later, const struct seq *earlier)
{
    uint32_t a, b;
    if (part(t, later->tenant, earlier->tenant, &a, &b))
        return is_behind(t, b, a);
    return later->planned_tokens * own_blocks(t->sched, earlier) <=
           earlier->planned_tokens * own_blocks(t->sched, later);
}

static bool protected(const struct twin *t, const struct seq *seq, uint32_t needy)
{
    for (uint32_t row = seq->tenant; row != t->root; row = row_parent(t, row)) {
        const struct tenant *tenant = &t->sched->tenants.rows[row];
        if (tenant->reserved_blocks && tenant->blocks <= tenant->reserved_blocks &&
            !below(t, needy, row))
            return true;
    }
    return false;
}

static struct seq *twin_victim(void *state, struct seq *const *running, uint32_t n,
                               struct seq *needy)
{
    struct twin *t = state;
    struct seq *best[2] = {NULL, NULL}; /* of those that are paused, of the others */
    for (uint32_t i = 0; i < n; i++) {
        struct seq **b = &best[!running[i]->paused];
        if (running[i] != needy && protected(t, running[i], needy->tenant))
            continue;
        if (!*b || better(t, running[i], *b))
            *b = running[i];
    }
    return best[0] ? best[0] : best[1];
}

/* Selection, over and over: the one that is behind all others goes first. */
static void twin_order(void *state, struct seq **decoding, uint32_t n)
{
    struct twin *t = state;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = i, a, b;
        for (uint32_t j = i + 1; j < n; j++)
            if (part(t, decoding[j]->tenant, decoding[first]->tenant, &a, &b) && is_behind(t, a, b))
                first = j;
        struct seq *seq = decoding[first];
        memmove(decoding + i + 1, decoding + i, (first - i) * sizeof *decoding);
        decoding[i] = seq;
    }
}

static struct seq *twin_reclaim(void *state)
{
    struct twin *t = state;
    const struct sched *sched = t->sched;
    struct twin_seq *head = t->blocked == NOBODY ? NULL : pick(t, t->blocked);
    if (!head || sched->next_step % 4 != 0)
        return NULL;
    struct draft draft = {0};
    draft_forecast(sched, &draft);
    struct need all = need_of(sched, head->seq, false);
    uint32_t coming = blocks_coming(sched, &draft, t->blocked), wanted = all.cost_blocks;
    uint32_t asks = all.shared_blocks + all.new_blocks + all.later.grow_blocks;
    bool entitled = false;
    for (uint32_t row = t->blocked; row != t->root; row = row_parent(t, row)) {
        const struct tenant *tenant = &sched->tenants.rows[row];
        if (tenant->reserved_blocks && tenant->blocks + asks <= tenant->reserved_blocks)
            entitled = true;
    }
    if (!entitled)
        wanted += forecast_peak(&draft.forecast, &all.later) + twin_headroom(t, head->seq);
    uint32_t lacking = wanted > coming ? wanted - coming : 0;
    if (lacking == 0)
        entitled = false;
    if (lacking == 0 && sched->n_running < sched->limits.slots_max)
        return NULL;
    uint64_t credit = credit_left(t);
    if (!entitled && credit < (uint64_t)lacking * sched->limits.block_tokens)
        return NULL;
    struct seq *best = NULL;
    uint64_t could_free = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        struct seq *seq = sched->running[i];
        uint32_t a, b;
        if (!part(t, seq->tenant, t->blocked, &a, &b) || protected(t, seq, t->blocked))
            continue;
        uint64_t price = (uint64_t)t->price * seq->planned_tokens;
        uint64_t lead = (price > t->reclaim ? price : t->reclaim) * ONE;
        lead /= sched->tenants.rows[b].weight;
        if (!entitled && (seq->preempted_count >= 2 || t->rows[a].v <= t->rows[b].v + lead ||
                          seq->planned_tokens > credit))
            continue;
        could_free += own_blocks(sched, seq);
        if (!best || better(t, seq, best))
            best = seq;
    }
    if (!best || could_free < lacking)
        return NULL;
    t->seqs[best->id].owed = best->planned_tokens;
    return best;
}

const struct sched_policy policy_fair_twin = {
    .name = "fair twin",
    .footprint = twin_footprint,
    .init = twin_init,
    .tenants_changed = twin_tenants_changed,
    .enqueue = twin_enqueue,
    .dequeue = twin_dequeue,
    .ended = twin_ended,
    .charge = twin_charge,
    .foresee = twin_foresee,
    .headroom = twin_headroom,
    .dares = twin_dares,
    .begin = twin_begin,
    .next = twin_next,
    .granted = twin_granted,
    .refused = twin_refused,
    .end = twin_end,
    .victim = twin_victim,
    .order = twin_order,
    .reclaim = twin_reclaim,
};
