/*
 * The fair policy: hierarchical start-time fair queueing at the grain of a chunk.
 *
 * Whoever is behind (shares.h) gets the next quantum: of the oldest prompt that it has in prefill,
 * else of the first in its line, which is thereby admitted. When the pool has no room for the one
 * who is behind, others may be admitted only while their lead over it is small, so that blocks
 * which come back are its own. One who is far ahead may lose a sequence to one who waits, as long
 * as the tokens that must be computed again stay within a budget. docs/scheduler.md has the whole
 * story, the bound and its proof.
 */
#include "sched/books.h"
#include "sched/shares.h"

#define TRIES_MAX 8 /* refusals in a step; then nobody else is admitted */
#define FORESEEN_MIN_TOKENS 16
#define FORESEEN_UNKNOWN_TOKENS 128 /* nobody has ended yet */
#define PREEMPTIONS_MAX 2           /* for fairness, of one request */
#define RECLAIM_EVERY_STEPS 4       /* it looks at all that run; a few steps matter to nobody */

/* What the policy knows of a sequence. */
struct mark {
    uint32_t owed_tokens;     /* to be computed again, since it was preempted for fairness */
    uint32_t promised_tokens; /* of output, while it runs: what it is expected to put out */
    uint32_t next_chunk;      /* in the list of its leaf */
};

/* Where a decoding one stands, from the top of the tree down. */
struct standing {
    struct seq *seq;
    uint64_t at_v[TENANT_LEVELS_MAX];
    uint32_t rows[TENANT_LEVELS_MAX]; /* SHARES_NOBODY below its leaf */
    uint32_t at;                      /* in order of admission */
};

struct fair {
    const struct sched *sched;
    struct sched_fairness costs; /* no zeros left */
    struct shares shares;
    struct line_place *places; /* [requests_max] */
    struct mark *marks;        /* [requests_max] */

    /* Of a step. */
    bool closed;             /* nobody else is admitted */
    uint32_t tries;          /* refusals so far */
    sched_id offered;        /* the last one that `next` named from a line */
    uint32_t n_chunk_leaves; /* leaves that have chunks, or had */
    uint32_t *chunk_leaves;  /* [slots_max] */
    uint32_t n_out;
    uint32_t *out_rows;         /* [tenants_max] rows that nobody else is admitted from */
    struct standing *standings; /* [slots_max] for `order` */

    uint32_t blocked_leaf; /* who was behind and found no room in the last step */
    uint64_t owed_tokens;  /* of all marks */
};

/* ---- memory ---- */

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

static uint32_t or_none(uint32_t value, uint32_t otherwise)
{
    return value == SCHED_NONE ? 0 : or_default(value, otherwise);
}

static struct sched_fairness costs_of(const struct sched_limits *limits)
{
    const struct sched_fairness *f = &limits->fairness;
    struct sched_fairness costs = {
        .prompt_cost = or_default(f->prompt_cost, 1),
        .output_cost = or_default(f->output_cost, 2),
        .quantum_tokens = or_default(f->quantum_tokens, 256),
        .lead_cost = or_none(f->lead_cost, limits->step_tokens_max),
        .credit_cost = or_none(f->credit_cost, 6 * limits->step_tokens_max),
        .reclaim_cost = or_none(f->reclaim_cost, 4 * limits->step_tokens_max),
        .reclaim_price = or_none(f->reclaim_price, 16),
        .recompute_permille = or_none(f->recompute_permille, 25),
        .headroom_permille = or_none(f->headroom_permille, 50),
    };
    costs.output_cost = u32_max(costs.output_cost, costs.prompt_cost);
    return costs;
}

struct pieces {
    size_t shares, places, marks, chunk_leaves, out_rows, standings, end;
};

static size_t piece(size_t *end, size_t size_bytes)
{
    size_t at = *end;
    *end += round_up(size_bytes, 16);
    return at;
}

static struct pieces pieces_of(const struct sched_limits *limits)
{
    struct pieces p = {.end = round_up(sizeof(struct fair), 16)};
    p.shares = piece(&p.end, shares_footprint(limits));
    p.places = piece(&p.end, limits->requests_max * sizeof(struct line_place));
    p.marks = piece(&p.end, limits->requests_max * sizeof(struct mark));
    p.chunk_leaves = piece(&p.end, limits->slots_max * sizeof(uint32_t));
    p.out_rows = piece(&p.end, u32_max(limits->tenants_max, 1) * sizeof(uint32_t));
    p.standings = piece(&p.end, limits->slots_max * sizeof(struct standing));
    return p;
}

static size_t fair_footprint(const struct sched_limits *limits)
{
    return pieces_of(limits).end;
}

static void fair_init(void *state, const struct sched *sched)
{
    struct fair *fair = state;
    char *memory = state;
    struct pieces p = pieces_of(&sched->limits);
    *fair = (struct fair){.sched = sched,
                          .costs = costs_of(&sched->limits),
                          .places = (struct line_place *)(memory + p.places),
                          .marks = (struct mark *)(memory + p.marks),
                          .chunk_leaves = (uint32_t *)(memory + p.chunk_leaves),
                          .out_rows = (uint32_t *)(memory + p.out_rows),
                          .standings = (struct standing *)(memory + p.standings),
                          .offered = LINE_NOBODY,
                          .blocked_leaf = SHARES_NOBODY};
    shares_init(&fair->shares, &sched->limits, &sched->tenants, memory + p.shares);
    shares_set_unit(&fair->shares, fair->costs.output_cost);
}

static void fair_tenants_changed(void *state)
{
    struct fair *fair = state;
    fair->blocked_leaf = SHARES_NOBODY;
    shares_rebuild(&fair->shares);
}

/* ---- predictions ---- */

static uint32_t output_predicted(const struct fair *fair, const struct seq *seq)
{
    const struct outputs *outputs = fair->shares.outputs;
    uint32_t p80 = outputs_p80(&outputs[seq->tenant]);
    if (p80 == 0)
        p80 = outputs_p80(&outputs[fair->shares.root]);
    if (p80 == 0)
        p80 = FORESEEN_UNKNOWN_TOKENS;
    return u32_min(p80, seq->output_tokens_max);
}

static uint32_t fair_foresee(void *state, const struct seq *seq)
{
    uint32_t predicted = output_predicted(state, seq);
    uint32_t left = predicted > seq->sampled_tokens ? predicted - seq->sampled_tokens : 0;
    return u32_max(left, FORESEEN_MIN_TOKENS);
}

/* Those who have more than their share of the pool leave a part of it to those who come. */
static uint32_t fair_headroom(void *state, const struct seq *seq)
{
    const struct fair *fair = state;
    const struct sched *sched = fair->sched;
    uint64_t headroom = (uint64_t)sched->limits.blocks_count * fair->costs.headroom_permille / 1000;
    bool has_more = shares_has_more(&fair->shares, seq->tenant, sched->limits.blocks_count);
    return has_more ? (uint32_t)headroom : 0;
}

static void fair_charge(void *state, struct seq *seq, uint32_t prefill_tokens,
                        uint32_t output_tokens)
{
    struct fair *fair = state;
    struct mark *mark = &fair->marks[seq->id];
    uint64_t cost = (uint64_t)prefill_tokens * fair->costs.prompt_cost +
                    (uint64_t)output_tokens * fair->costs.output_cost;
    uint32_t kept_tokens = u32_min(output_tokens, mark->promised_tokens);
    mark->promised_tokens -= kept_tokens;
    shares_charge(&fair->shares, seq->tenant, cost, kept_tokens);
}

/* It begins to run. */
static void promise_make(struct fair *fair, const struct seq *seq)
{
    uint32_t predicted = output_predicted(fair, seq);
    uint32_t left = predicted > seq->sampled_tokens ? predicted - seq->sampled_tokens : 0;
    CHECK(fair->marks[seq->id].promised_tokens == 0);
    fair->marks[seq->id].promised_tokens = left;
    shares_promise(&fair->shares, seq->tenant, left);
}

/* It runs no more: what it was expected to put out is nobody's. */
static void promise_drop(struct fair *fair, const struct seq *seq)
{
    shares_promise(&fair->shares, seq->tenant, -(int64_t)fair->marks[seq->id].promised_tokens);
    fair->marks[seq->id].promised_tokens = 0;
}

/* ---- lines ---- */

static struct line *line_of(const struct fair *fair, const struct seq *seq)
{
    return &fair->shares.rows[seq->tenant].lines[seq->class == CLASS_BATCH];
}

static void line_count(struct fair *fair, uint32_t leaf, uint32_t n)
{
    for (uint32_t row = leaf; row != fair->shares.root; row = fair->shares.rows[row].parent) {
        fair->shares.rows[row].n_line += n;
        shares_update(&fair->shares, row);
    }
    fair->shares.rows[fair->shares.root].n_line += n;
}

/* Those of its rows that wanted nothing until now have little claim to the time before. */
static void rows_lift(struct fair *fair, uint32_t leaf)
{
    struct shares *shares = &fair->shares;
    for (uint32_t row = leaf; row != shares->root; row = shares->rows[row].parent) {
        if (shares->rows[row].n_line > 0 || fair->sched->tenants.rows[row].n_prefilling > 0)
            return; /* and so did those above it */
        shares_lift(shares, row, fair->costs.credit_cost);
    }
}

static uint64_t due_of(const struct fair *fair, const struct seq *seq, enum arrival arrival)
{
    if (arrival != ARRIVES_NEW)
        return 0;
    if (seq->deadline_ns != UINT64_MAX)
        return u64_max(seq->deadline_ns, 1);
    return fair->sched->now_ns +
           (seq->class == CLASS_BATCH ? LINE_PATIENCE_BATCH_NS : LINE_PATIENCE_INTERACTIVE_NS);
}

static void fair_enqueue(void *state, struct seq *seq, enum arrival arrival)
{
    struct fair *fair = state;
    if (arrival == ARRIVES_PREEMPTED)
        promise_drop(fair, seq);
    else
        rows_lift(fair, seq->tenant);
    if (arrival == ARRIVES_NEW) {
        fair->marks[seq->id] = (struct mark){.next_chunk = LINE_NOBODY};
        shares_live(&fair->shares, seq->tenant, 1);
    }
    line_enter(line_of(fair, seq), fair->places, seq, due_of(fair, seq, arrival));
    line_count(fair, seq->tenant, 1);
}

static void owed_settle(struct fair *fair, const struct seq *seq)
{
    fair->owed_tokens -= fair->marks[seq->id].owed_tokens;
    fair->marks[seq->id].owed_tokens = 0;
}

static void fair_dequeue(void *state, struct seq *seq)
{
    struct fair *fair = state;
    struct line *line = line_of(fair, seq);
    if (fair->offered == seq->id && !seq->paused && !seq->held)
        line_passed(line, fair->places, seq);
    line_leave(line, fair->places, seq);
    line_count(fair, seq->tenant, -1u);
    owed_settle(fair, seq);
}

static void fair_ended(void *state, struct seq *seq)
{
    struct fair *fair = state;
    promise_drop(fair, seq);
    shares_live(&fair->shares, seq->tenant, -1u);
    if (seq->sampled_tokens == 0)
        return;
    outputs_add(&fair->shares.outputs[seq->tenant], seq->sampled_tokens);
    outputs_add(&fair->shares.outputs[fair->shares.root], seq->sampled_tokens);
}

/* Interactive ones first, then batch. */
static const struct seq *leaf_pick(const struct fair *fair, uint32_t leaf)
{
    const struct share *share = &fair->shares.rows[leaf];
    const struct seq *seq = line_pick(&share->lines[0], fair->places);
    return seq ? seq : line_pick(&share->lines[1], fair->places);
}

/* ---- the chunks of a step ---- */

static void chunks_count(struct fair *fair, uint32_t leaf, uint32_t n)
{
    for (uint32_t row = leaf; row != fair->shares.root; row = fair->shares.rows[row].parent) {
        fair->shares.rows[row].n_chunks += n;
        shares_update(&fair->shares, row);
    }
    fair->shares.rows[fair->shares.root].n_chunks += n;
}

static void chunk_append(struct fair *fair, const struct seq *seq)
{
    struct share *leaf = &fair->shares.rows[seq->tenant];
    fair->marks[seq->id].next_chunk = LINE_NOBODY;
    if (leaf->chunks_first == LINE_NOBODY) {
        leaf->chunks_first = seq->id;
        CHECK(fair->n_chunk_leaves < fair->sched->limits.slots_max);
        fair->chunk_leaves[fair->n_chunk_leaves++] = seq->tenant;
    } else {
        fair->marks[leaf->chunks_last].next_chunk = seq->id;
    }
    leaf->chunks_last = seq->id;
    chunks_count(fair, seq->tenant, 1);
}

static void chunk_remove_first(struct fair *fair, uint32_t leaf)
{
    struct share *share = &fair->shares.rows[leaf];
    share->chunks_first = fair->marks[share->chunks_first].next_chunk;
    chunks_count(fair, leaf, -1u);
}

static void fair_begin(void *state)
{
    struct fair *fair = state;
    fair->closed = false;
    fair->tries = 0;
    fair->blocked_leaf = SHARES_NOBODY;
    uint32_t left = fair->sched->n_prefilling;
    for (uint32_t i = 0; left > 0; i++)
        if (fair->sched->running[i]->prefilling) {
            chunk_append(fair, fair->sched->running[i]);
            left--;
        }
}

static void fair_end(void *state)
{
    struct fair *fair = state;
    struct shares *shares = &fair->shares;
    for (uint32_t i = 0; i < fair->n_chunk_leaves; i++)
        while (shares->rows[fair->chunk_leaves[i]].chunks_first != LINE_NOBODY)
            chunk_remove_first(fair, fair->chunk_leaves[i]);
    for (uint32_t i = 0; i < fair->n_out; i++) {
        uint32_t row = fair->out_rows[i];
        shares->rows[row].is_out = false;
        shares_update(shares, row);
        for (; row != SHARES_NOBODY; row = shares->rows[row].parent)
            shares->rows[row].limit_v = UINT64_MAX;
    }
    fair->n_chunk_leaves = fair->n_out = 0;
    fair->offered = LINE_NOBODY;
}

/* ---- who is next ---- */

static void row_out(struct fair *fair, uint32_t row)
{
    fair->shares.rows[row].is_out = true;
    fair->out_rows[fair->n_out++] = row;
    shares_update(&fair->shares, row);
}

/* The child that is furthest behind among those with chunks. They are few. */
static uint32_t child_with_chunks(const struct fair *fair, uint32_t parent)
{
    const struct share *rows = fair->shares.rows;
    uint32_t best = SHARES_NOBODY;
    for (uint32_t i = 0; i < fair->n_chunk_leaves; i++) {
        uint32_t row = fair->chunk_leaves[i];
        if (rows[row].n_chunks == 0)
            continue;
        while (row != fair->shares.root && rows[row].parent != parent)
            row = rows[row].parent;
        if (row == fair->shares.root)
            continue;
        if (best == SHARES_NOBODY || shares_behind(&fair->shares, row, best))
            best = row;
    }
    return best;
}

/* Past the limit only chunks of those who run already are given, here and below. */
static uint32_t child_choose(struct fair *fair, uint32_t parent, bool *only_chunks)
{
    const struct share *share = &fair->shares.rows[parent];
    uint32_t first = shares_first(&fair->shares, parent);
    if (first == SHARES_NOBODY)
        return SHARES_NOBODY;
    const struct share *behind = &fair->shares.rows[first];
    if (!*only_chunks && !fair->closed && share_stands(behind) < share->limit_v) {
        shares_pass(&fair->shares, parent, behind->v);
        return first;
    }
    *only_chunks = true;
    return share->n_chunks > 0 ? child_with_chunks(fair, parent) : SHARES_NOBODY;
}

static struct seq *leaf_offer(struct fair *fair, uint32_t leaf)
{
    const struct share *share = &fair->shares.rows[leaf];
    fair->offered = LINE_NOBODY;
    if (share->chunks_first != LINE_NOBODY)
        return &fair->sched->seqs[share->chunks_first];
    const struct seq *seq = fair->closed ? NULL : leaf_pick(fair, leaf);
    if (!seq)
        return NULL;
    fair->offered = seq->id;
    return &fair->sched->seqs[seq->id];
}

/* From the root to a leaf; a row that turns out to have nothing is left out, and it begins anew. */
static struct seq *fair_next(void *state, uint32_t *ret_tokens_max)
{
    struct fair *fair = state;
    uint32_t root = fair->shares.root, row = root;
    bool only_chunks = false;
    *ret_tokens_max = fair->costs.quantum_tokens;
    for (;;) {
        if (share_is_leaf(&fair->shares, row)) {
            struct seq *seq = leaf_offer(fair, row);
            if (seq)
                return seq;
        } else {
            uint32_t child = child_choose(fair, row, &only_chunks);
            if (child != SHARES_NOBODY) {
                row = child;
                continue;
            }
        }
        if (row == root)
            return NULL;
        row_out(fair, row);
        row = root;
        only_chunks = false;
    }
}

static void fair_granted(void *state, struct seq *seq, uint32_t n_tokens)
{
    struct fair *fair = state;
    const struct sched *sched = fair->sched;
    bool more = seq->prefilling && n_tokens > 0 &&
                sched->rows[seq->row_at].n_tokens < sched->limits.chunk_tokens_max;
    if (fair->offered != seq->id) {
        CHECK(fair->shares.rows[seq->tenant].chunks_first == seq->id);
        if (!more)
            chunk_remove_first(fair, seq->tenant);
        return;
    }
    promise_make(fair, seq);
    if (more)
        chunk_append(fair, seq);
}

/* Who waits for blocks lets others pass only so far: at each level, `lead_cost` of its own. */
static void path_limit(struct fair *fair, uint32_t leaf)
{
    struct share *rows = fair->shares.rows;
    for (uint32_t row = leaf; row != fair->shares.root; row = rows[row].parent) {
        struct share *parent = &rows[rows[row].parent];
        uint64_t lead = fair->costs.lead_cost * SHARES_ONE / rows[row].weight;
        uint64_t limit = share_stands(&rows[row]) + lead;
        parent->limit_v = limit < parent->limit_v ? limit : parent->limit_v;
    }
}

static void fair_refused(void *state, struct seq *seq, enum refusal why)
{
    struct fair *fair = state;
    line_looked_at(fair->places, seq);
    bool lacks = why == REFUSED_BLOCKS || fair->sched->n_free_slots == 0;
    if (lacks && fair->blocked_leaf == SHARES_NOBODY)
        fair->blocked_leaf = seq->tenant;
    if (why == REFUSED_STEP || ++fair->tries == TRIES_MAX)
        fair->closed = true;
    if (why == REFUSED_BLOCKS)
        path_limit(fair, seq->tenant);
    if (why != REFUSED_STEP)
        row_out(fair, seq->tenant);
}

/* ---- preemption ---- */

/* Of one tenant: fewest tokens to compute again for a block that comes free, then the last. */
static bool is_cheaper(const struct sched *sched, const struct seq *a, const struct seq *b)
{
    uint64_t cost_a = (uint64_t)a->planned_tokens * seq_own_blocks(sched, b);
    uint64_t cost_b = (uint64_t)b->planned_tokens * seq_own_blocks(sched, a);
    return cost_a <= cost_b;
}

/* `a` comes later than `b` in order of admission. */
static bool is_better_victim(const struct fair *fair, const struct seq *a, const struct seq *b)
{
    uint32_t side_a, side_b;
    if (shares_part(&fair->shares, a->tenant, b->tenant, &side_a, &side_b))
        return shares_behind(&fair->shares, side_b, side_a);
    return is_cheaper(fair->sched, a, b);
}

/* What a tenant has reserved is not taken from it, save by itself. */
static bool may_lose(const struct fair *fair, const struct seq *seq, uint32_t needy_tenant)
{
    const struct tenants *tenants = &fair->sched->tenants;
    for (struct tenant *t = &tenants->rows[seq->tenant]; t; t = tenant_above(tenants, t))
        if (t->reserved_blocks > 0 && t->blocks <= t->reserved_blocks &&
            !tenants_is_below(tenants, needy_tenant, t))
            return false;
    return true;
}

static struct seq *fair_victim(void *state, struct seq *const *running, uint32_t n,
                               struct seq *needy)
{
    const struct fair *fair = state;
    struct seq *best = NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct seq *seq = running[i];
        if (seq != needy && !may_lose(fair, seq, needy->tenant))
            continue;
        if (!best ||
            (seq->paused != best->paused ? seq->paused : is_better_victim(fair, seq, best)))
            best = seq;
    }
    return best;
}

static bool stands_before(const struct standing *a, const struct standing *b)
{
    for (uint32_t level = 0; level < TENANT_LEVELS_MAX; level++) {
        if (a->rows[level] == b->rows[level])
            continue;
        return a->at_v[level] != b->at_v[level] ? a->at_v[level] < b->at_v[level]
                                                : a->rows[level] < b->rows[level];
    }
    return a->at < b->at;
}

static void standings_sink(struct standing *s, uint32_t n, uint32_t place)
{
    struct standing moved = s[place];
    for (uint32_t child; (child = 2 * place + 1) < n; place = child) {
        if (child + 1 < n && stands_before(&s[child], &s[child + 1]))
            child++;
        if (!stands_before(&moved, &s[child]))
            break;
        s[place] = s[child];
    }
    s[place] = moved;
}

/* Those who are behind get the blocks that there are. (The C library's sort may allocate.) */
static void fair_order(void *state, struct seq **decoding, uint32_t n)
{
    struct fair *fair = state;
    const struct shares *shares = &fair->shares;
    struct standing *s = fair->standings;
    for (uint32_t i = 0; i < n; i++) {
        s[i] = (struct standing){.seq = decoding[i], .at = i};
        uint32_t row = decoding[i]->tenant;
        for (uint32_t l = fair->sched->tenants.rows[row].level + 1; l < TENANT_LEVELS_MAX; l++)
            s[i].rows[l] = SHARES_NOBODY;
        for (; row != shares->root; row = shares->rows[row].parent) {
            uint32_t level = fair->sched->tenants.rows[row].level;
            s[i].rows[level] = row;
            s[i].at_v[level] = share_stands(&shares->rows[row]);
        }
    }
    for (uint32_t i = n / 2; i-- > 0;)
        standings_sink(s, n, i);
    for (uint32_t left = n; left-- > 0;) {
        decoding[left] = s[0].seq;
        s[0] = s[left];
        standings_sink(s, left, 0);
    }
}

/* ---- reclaim ---- */

/* Tokens that may be computed again for fairness: a part of all, less those that were or will be.
 */
static uint64_t recompute_credit(const struct fair *fair)
{
    const struct sched *sched = fair->sched;
    uint64_t may = sched->processed_tokens_total * fair->costs.recompute_permille / 1000;
    uint64_t did = sched->recomputed_tokens_total + fair->owed_tokens;
    return may > did ? may - did : 0;
}

/* Who has little of the pool does not wait for room that others will probably take: should they
 * take it, one who is ahead is preempted, as long as fairness may cost that. */
static bool fair_dares(void *state, const struct seq *seq)
{
    const struct fair *fair = state;
    const struct sched *sched = fair->sched;
    return recompute_credit(fair) >= sched->limits.step_tokens_max &&
           !shares_has_more(&fair->shares, seq->tenant, sched->limits.blocks_count / 2);
}

/* Far enough ahead of `leaf`, and within what fairness may cost; for the entitled, anybody else. */
static bool may_reclaim(const struct fair *fair, const struct seq *seq, uint32_t leaf,
                        bool entitled)
{
    uint32_t ahead, behind;
    const struct share *rows = fair->shares.rows;
    if (!shares_part(&fair->shares, seq->tenant, leaf, &ahead, &behind) ||
        !may_lose(fair, seq, leaf))
        return false;
    if (entitled)
        return true;
    uint64_t price = (uint64_t)fair->costs.reclaim_price * seq->planned_tokens;
    uint64_t lead = u64_max(fair->costs.reclaim_cost, price) * SHARES_ONE / rows[behind].weight;
    return seq->preempted_count < PREEMPTIONS_MAX && rows[ahead].v > rows[behind].v + lead &&
           seq->planned_tokens <= recompute_credit(fair);
}

/* What the head of a leaf asks for, and lacks when all that is on its way back has come. */
struct shortage {
    uint32_t lacking_blocks;
    bool entitled; /* it has reserved them: somebody has more than his due */
};

static struct shortage shortage_of(struct fair *fair, uint32_t leaf)
{
    const struct sched *sched = fair->sched;
    struct seq *head = &sched->seqs[leaf_pick(fair, leaf)->id];
    struct draft draft = {0};
    struct need need = need_of(sched, head, false);
    uint32_t coming = blocks_coming(sched, &draft, leaf), wanted = need.cost_blocks;
    uint32_t all = need.shared_blocks + need.new_blocks + need.later.grow_blocks;
    bool reserved = tenants_has_reserved(&sched->tenants, leaf, all);
    if (!reserved) {
        draft_forecast(sched, &draft);
        wanted += forecast_peak(&draft.forecast, &need.later) + fair_headroom(fair, head);
    }
    uint32_t lacking = wanted > coming ? wanted - coming : 0;
    return (struct shortage){.lacking_blocks = lacking, .entitled = reserved && lacking > 0};
}

static struct seq *fair_reclaim(void *state)
{
    struct fair *fair = state;
    const struct sched *sched = fair->sched;
    uint32_t leaf = fair->blocked_leaf;
    if (leaf == SHARES_NOBODY || sched->next_step % RECLAIM_EVERY_STEPS || !leaf_pick(fair, leaf))
        return NULL;
    struct shortage s = shortage_of(fair, leaf);
    if (s.lacking_blocks == 0 && sched->n_running < sched->limits.slots_max)
        return NULL;
    uint64_t cost_tokens = (uint64_t)s.lacking_blocks * sched->limits.block_tokens;
    if (!s.entitled && recompute_credit(fair) < cost_tokens)
        return NULL;
    struct seq *best = NULL;
    uint64_t could_free = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        struct seq *seq = sched->running[i];
        if (!may_reclaim(fair, seq, leaf, s.entitled))
            continue;
        could_free += seq_own_blocks(sched, seq);
        if (!best || is_better_victim(fair, seq, best))
            best = seq;
    }
    if (!best || could_free < s.lacking_blocks)
        return NULL;
    fair->marks[best->id].owed_tokens = best->planned_tokens;
    fair->owed_tokens += best->planned_tokens;
    return best;
}

const struct sched_policy policy_fair = {
    .name = "fair",
    .footprint = fair_footprint,
    .init = fair_init,
    .tenants_changed = fair_tenants_changed,
    .enqueue = fair_enqueue,
    .dequeue = fair_dequeue,
    .ended = fair_ended,
    .charge = fair_charge,
    .foresee = fair_foresee,
    .headroom = fair_headroom,
    .dares = fair_dares,
    .begin = fair_begin,
    .next = fair_next,
    .granted = fair_granted,
    .refused = fair_refused,
    .end = fair_end,
    .victim = fair_victim,
    .order = fair_order,
    .reclaim = fair_reclaim,
};
