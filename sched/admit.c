/*
 * Who joins: what a waiting sequence needs, whether it is there, and the open that says so.
 *
 * Room is counted in blocks that can be taken: free ones and cached ones. Out of it stay those that
 * other tenants have reserved, and those that all who run then will take at the worst moment to
 * come, as the policy foresees their outputs (forecast.h), unless the policy dares. A tenant gets
 * what it has reserved whatever others will take: they cannot take that.
 */
#include "sched/books.h"

/* A sequence is not expected to grow further than it may. */
static uint32_t foreseen_tokens(const struct sched *sched, const struct seq *seq)
{
    uint32_t left = seq->prompt_tokens + seq->output_tokens_max - seq_known_tokens(seq);
    return u32_min(sched->policy->foresee(sched->policy_state, seq), u32_max(left, 1));
}

/* Of one that has, or would have, so many blocks, some of them its own. */
static struct forecast_one foreseen(const struct sched *sched, const struct seq *seq,
                                    uint32_t have_blocks, uint32_t own_blocks)
{
    struct forecast_one one = {.tokens = foreseen_tokens(sched, seq), .back_blocks = own_blocks};
    if (one.tokens <= 1)
        return (struct forecast_one){0};
    uint32_t want = blocks_for(&sched->blocks, seq_known_tokens(seq) + one.tokens);
    if (want > sched->window.decode_blocks) {
        want = u32_max(sched->window.decode_blocks, have_blocks);
        uint32_t grow_tokens = (want - have_blocks) * sched->limits.block_tokens;
        one.flat_tokens = one.tokens - u32_min(one.tokens, grow_tokens);
    }
    one.grow_blocks = want > have_blocks ? want - have_blocks : 0;
    return one;
}

/* The block that has a place of its prompt, from its cache domain or its group. */
static uint32_t block_at(const struct sched *sched, const struct seq *seq, uint32_t place)
{
    uint32_t block = PREFIX_NONE;
    if (place < seq->n_digests)
        block = prefix_find(&sched->blocks.prefix, seq->cache_domain, &seq->digests[place]);
    return block != PREFIX_NONE ? block : group_block(sched, seq, place);
}

/*
 * Where the longest match ends: at the last place before which as many blocks as the window reaches
 * are listed, or all. A block that is missing rules out all matches that would need it; so each run
 * is looked at from its far end, and a prompt of which nothing is there takes few looks.
 */
static uint32_t match_end(const struct sched *sched, const struct seq *seq, uint32_t n_places)
{
    uint32_t end = n_places, seen = n_places; /* all from `seen` to `end` are there */
    for (;;) {
        uint32_t reach = sched->window.reach_blocks;
        uint32_t first = end > reach ? end - reach : 0, i = first;
        while (i < seen && (sched->matched[i] = block_at(sched, seq, i)) != PREFIX_NONE)
            i++;
        if (i >= seen)
            return end;
        end = i;
        seen = first;
    }
}

static void look_up_behind(const struct sched *sched, struct seq *seq)
{
    uint32_t n_full = seq->prompt_tokens / sched->limits.block_tokens;
    uint32_t end = match_end(sched, seq, seq->group == GROUP_NONE ? seq->n_digests : n_full);
    seq->matched_blocks = end;
    seq->matched_tokens = end * sched->limits.block_tokens;
    uint32_t tail = end == n_full ? group_block(sched, seq, n_full) : PREFIX_NONE;
    if (tail == PREFIX_NONE)
        return;
    sched->matched[n_full] = tail;
    seq->matched_tokens = seq->prompt_tokens;
}

void seq_look_up(const struct sched *sched, struct seq *seq)
{
    if (sched->window.tokens) {
        look_up_behind(sched, seq);
        return;
    }
    seq->matched_blocks = prefix_match(&sched->blocks.prefix, seq->cache_domain, seq->digests,
                                       seq->n_digests, sched->matched);
    seq->matched_tokens = seq->matched_blocks * sched->limits.block_tokens;
    group_look_up(sched, seq);
}

/* Its table, from cached_tokens; the blocks of the cache do not count as cost yet. */
static void need_count(const struct sched *sched, const struct seq *seq, struct need *need)
{
    uint32_t shared_end = need->cached_tokens / sched->blocks.block_tokens;
    need->behind_blocks = window_behind(&sched->window, need->cached_tokens);
    need->shared_blocks = shared_end - need->behind_blocks;
    uint32_t n_blocks = blocks_for(&sched->blocks, need->known_tokens + 1) - need->behind_blocks;
    n_blocks = u32_min(n_blocks, sched->window.most_blocks);
    need->new_blocks = need->cost_blocks = n_blocks - need->shared_blocks;
    need->later = foreseen(sched, seq, n_blocks, need->new_blocks);
}

/* Of the blocks that it would share and copy, those without a reader: takeable until then. */
static uint32_t shared_cached(const struct sched *sched, const struct need *need)
{
    const struct block *blocks = sched->blocks.blocks;
    const uint32_t *shared = sched->matched + need->behind_blocks;
    uint32_t n = need->copy_block != PREFIX_NONE && blocks[need->copy_block].references == 0;
    for (uint32_t i = 0; i < need->shared_blocks; i++)
        n += blocks[shared[i]].references == 0;
    return n;
}

/*
 * The last known token is computed in any case: its position gives the first sample. When the cache
 * holds even that, its block would be written, so it is copied first; as is the tail of a group's
 * prompt, behind which each member goes on in its own way. Behind a window a sequence begins with
 * as many blocks as it ever holds at once.
 */
struct need need_of(const struct sched *sched, struct seq *seq, bool looks_up)
{
    const struct blocks *blocks = &sched->blocks;
    struct need need = {.known_tokens = seq_known_tokens(seq), .copy_block = PREFIX_NONE};
    if (looks_up)
        seq_look_up(sched, seq);
    need.cached_tokens = u32_min(seq->matched_tokens, need.known_tokens - 1);
    uint32_t shared_end = need.cached_tokens / blocks->block_tokens;
    if (looks_up && need.cached_tokens % blocks->block_tokens)
        need.copy_block = sched->matched[shared_end];
    need_count(sched, seq, &need);
    if (looks_up)
        need.cost_blocks += shared_cached(sched, &need);
    return need;
}

/* The first of sched->matched that the last look-up found. */
static uint32_t matched_first(const struct sched *sched, const struct seq *seq)
{
    uint32_t reach = sched->window.reach_blocks;
    return seq->matched_blocks > reach ? seq->matched_blocks - reach : 0;
}

/*
 * Computing a block again takes one block less than copying it. Its window may reach further back
 * then, to one that was not looked for: so all is computed.
 */
static void need_drop_copy(const struct sched *sched, const struct seq *seq, struct need *need)
{
    if (need->copy_block == PREFIX_NONE)
        return;
    uint32_t cached_tokens = need->cached_tokens / sched->limits.block_tokens;
    cached_tokens *= sched->limits.block_tokens;
    need->copy_block = PREFIX_NONE;
    if (matched_first(sched, seq) > window_behind(&sched->window, cached_tokens))
        cached_tokens = 0;
    need->cached_tokens = cached_tokens;
    need_count(sched, seq, need);
    need->cost_blocks += shared_cached(sched, need);
}

static uint32_t promised_blocks(const struct sched *sched, const struct tenant *t)
{
    return t->promised_at == sched->promises ? t->promised_blocks : 0;
}

static void tenants_promise(struct sched *sched, uint32_t tenant, uint32_t n_blocks)
{
    const struct tenants *tenants = &sched->tenants;
    for (struct tenant *t = &tenants->rows[tenant]; t; t = tenant_above(tenants, t)) {
        t->promised_blocks = promised_blocks(sched, t) + n_blocks;
        t->promised_at = sched->promises;
    }
}

/* Slow readers take nothing while they do not read, and may lose what they have. */
static struct forecast_one running_foreseen(const struct sched *sched, const struct seq *seq)
{
    if (seq->paused)
        return (struct forecast_one){0};
    return foreseen(sched, seq, sched->blocks.table_counts[seq->slot], seq_own_blocks(sched, seq));
}

void draft_forecast(const struct sched *sched, struct draft *draft)
{
    uint32_t longest = 1;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        sched->foreseen[i] = running_foreseen(sched, sched->running[i]);
        longest = u32_max(longest, sched->foreseen[i].tokens);
    }
    forecast_begin(&draft->forecast, longest, sched->limits.block_tokens);
    for (uint32_t i = 0; i < sched->n_running && longest > 1; i++)
        forecast_add(&draft->forecast, &sched->foreseen[i]);
    draft->forecast_made = true;
}

/* The same by tenant; only limits ask for it. */
static void running_promise(struct sched *sched)
{
    sched->promises++;
    for (uint32_t i = 0; sched->tenants.has_limits && i < sched->n_running; i++)
        tenants_promise(sched, sched->running[i]->tenant,
                        running_foreseen(sched, sched->running[i]).grow_blocks);
}

/* The limits of the path, less what its running ones will take. */
static bool limits_allow(const struct sched *sched, const struct seq *seq, uint32_t n_blocks)
{
    const struct tenants *tenants = &sched->tenants;
    for (const struct tenant *t = &tenants->rows[seq->tenant]; t; t = tenant_above(tenants, t)) {
        if ((uint64_t)t->blocks + promised_blocks(sched, t) + n_blocks > t->limit_blocks)
            return false;
    }
    return true;
}

static uint32_t headroom_of(const struct sched *sched, const struct seq *seq)
{
    return sched->policy->headroom ? sched->policy->headroom(sched->policy_state, seq) : 0;
}

static uint32_t forecast_demand(const struct sched *sched, const struct draft *draft,
                                const struct seq *seq, const struct need *need)
{
    const struct sched_policy *policy = sched->policy;
    if (policy->dares && policy->dares(sched->policy_state, seq))
        return 0;
    return forecast_peak(&draft->forecast, &need->later);
}

/* Running ones that may be preempted for a waiting one, and the blocks they hold. */
static uint32_t candidates_paused(struct sched *sched, bool idle, uint32_t *ret_blocks)
{
    uint32_t n = 0, n_blocks = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        struct seq *seq = sched->running[i];
        if (!seq->paused || row_given(sched, seq))
            continue;
        if (!idle && sched->now_ns - seq->paused_since_ns < SCHED_PAUSE_NS)
            continue;
        sched->candidates[n++] = seq;
        n_blocks += sched->blocks.table_counts[seq->slot];
    }
    *ret_blocks = n_blocks;
    return n;
}

/*
 * The head of the line does not fit. Readers that are slow must not keep everybody else out: if
 * preempting them makes enough room, they go, and the head fits once their blocks are back. Enough
 * is what its admission asks for; what they are expected to sample is no part of it: they do not.
 */
static void room_make(struct sched *sched, struct draft *draft, struct seq *head)
{
    if (sched->n_paused == 0)
        return;
    struct need need = need_of(sched, head, true);
    uint32_t n_blocks = need.cost_blocks + headroom_of(sched, head);
    if (draft->forecast_made)
        n_blocks += forecast_demand(sched, draft, head, &need);
    bool idle = sched->plan.n_rows == 0 && sched->n_flights == 0;
    uint32_t held;
    uint32_t n = candidates_paused(sched, idle, &held);
    if (n == 0 || blocks_coming(sched, draft, head->tenant) + held < n_blocks)
        return;
    while (sched->n_running == sched->limits.slots_max ||
           blocks_coming(sched, draft, head->tenant) < n_blocks) {
        if (!victim_preempt(sched, draft, n, head))
            return;
        n = candidates_paused(sched, idle, &held);
    }
}

static void blocks_copy(struct sched *sched, uint32_t from, uint32_t to)
{
    uint32_t(*copy)[2] = &sched->copies[sched->plan.n_copies++];
    (*copy)[0] = from;
    (*copy)[1] = to;
}

/* Shares what is listed, takes the others; all of them are the open's. */
static uint32_t table_fill(struct sched *sched, const struct seq *seq, const struct need *need)
{
    uint32_t first = sched->plan.n_blocks;
    uint32_t *ret_blocks = sched->plan_blocks + first;
    const uint32_t *matched = sched->matched + need->behind_blocks;
    blocks_begin(&sched->blocks, seq->slot, need->behind_blocks);
    for (uint32_t i = 0; i < need->shared_blocks; i++) {
        blocks_share(&sched->blocks, seq->slot, matched[i]);
        ret_blocks[i] = matched[i];
    }
    ret_blocks += need->shared_blocks;
    /* Held, lest it be evicted for the blocks that are taken now; plan.c lets it go. */
    if (need->copy_block != PREFIX_NONE)
        blocks_hold(&sched->blocks, need->copy_block);
    blocks_take(&sched->blocks, seq->slot, seq->id, need->new_blocks, ret_blocks);
    if (need->copy_block != PREFIX_NONE)
        blocks_copy(sched, need->copy_block, ret_blocks[0]);
    uint32_t n = need->shared_blocks + need->new_blocks;
    tenants_blocks_add(&sched->tenants, seq->tenant, n);
    sched->plan.n_blocks += n;
    return first;
}

static void seq_open(struct sched *sched, struct draft *draft, struct seq *seq,
                     const struct need *need)
{
    seq_run(sched, seq, need->cached_tokens);
    seq->shared_blocks = need->behind_blocks + need->shared_blocks;
    uint32_t first = table_fill(sched, seq, need);
    seq->told_blocks = blocks_table_end(&sched->blocks, seq->slot);
    sched->opens[sched->plan.n_opens++] =
        (struct sched_open_row){.id = seq->id,
                                .slot = seq->slot,
                                .known_tokens = need->known_tokens,
                                .cached_tokens = need->cached_tokens,
                                .found_tokens = seq->cached_tokens,
                                .behind_blocks = need->behind_blocks,
                                .n_blocks = need->shared_blocks + need->new_blocks,
                                .blocks_first = first};
    group_opened(sched, seq, need->cached_tokens);
    draft->open_tokens_left -= need->known_tokens;
    forecast_add(&draft->forecast, &need->later);
    tenants_promise(sched, seq->tenant, need->later.grow_blocks);
}

bool seq_admit(struct sched *sched, struct draft *draft, struct seq *seq, uint32_t tokens_max,
               enum refusal *ret_why)
{
    *ret_why = REFUSED_STEP;
    /* A slot that it still holds: preempted, and a step in flight names it. With two steps in
     * flight that step has retired by now, so this guards only a longer pipeline. */
    if (draft->preempted || draft->promised_blocks > 0 || seq->slot != SEQ_NO_SLOT ||
        seq_known_tokens(seq) > draft->open_tokens_left)
        return false;
    if (sched->n_free_slots == 0) {
        room_make(sched, draft, seq);
        return false;
    }
    if (!draft->forecast_made) {
        draft_forecast(sched, draft);
        running_promise(sched);
    }
    struct need need = need_of(sched, seq, true);
    *ret_why = REFUSED_LIMIT;
    uint32_t n_blocks = need.shared_blocks + need.new_blocks + need.later.grow_blocks;
    if (!limits_allow(sched, seq, n_blocks))
        return false;
    *ret_why = REFUSED_BLOCKS;
    uint32_t stays = tenants_kept_blocks(&sched->tenants, seq->tenant);
    if (!tenants_has_reserved(&sched->tenants, seq->tenant, n_blocks))
        stays += headroom_of(sched, seq) + forecast_demand(sched, draft, seq, &need);
    if (blocks_takeable(&sched->blocks) < need.cost_blocks + stays)
        need_drop_copy(sched, seq, &need);
    if (blocks_takeable(&sched->blocks) < need.cost_blocks + stays) {
        room_make(sched, draft, seq);
        return false;
    }
    seq_open(sched, draft, seq, &need);
    chunk_grant(sched, draft, seq, tokens_max);
    return true;
}
