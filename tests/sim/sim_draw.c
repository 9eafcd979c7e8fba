#include "tests/sim/sim_draw.h"

uint64_t chance_next(void)
{
    uint64_t x = sim.random += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint32_t between(uint32_t low, uint32_t high)
{
    return low + (uint32_t)(chance_next() % (high - low + 1));
}

uint32_t skewed(uint32_t low, uint32_t high)
{
    return between(low, between(low, high));
}

bool one_in(uint32_t n)
{
    return n > 0 && between(1, n) == 1;
}

void limits_draw(void)
{
    struct sched_limits *l = &sim.limits;
    l->slots_max = skewed(1, FAKE_SLOTS_MAX);
    l->block_tokens = skewed(1, FAKE_BLOCK_TOKENS_MAX);
    l->context_tokens = between(4, FAKE_CONTEXT_MAX);
    l->blocks_count = u32_min(FAKE_BLOCKS_MAX, div_up_u32(l->context_tokens, l->block_tokens));
    if (one_in(2)) /* else the pool holds just one context */
        l->blocks_count = between(u32_max(1, l->blocks_count / 2), FAKE_BLOCKS_MAX);
    l->waiting_max = between(1, REQUESTS_MAX - 1);
    l->requests_max = between(u32_max(l->waiting_max, l->slots_max), REQUESTS_MAX);
    l->step_tokens_max = l->slots_max + skewed(0, 60);
    l->step_rows_max = l->slots_max + between(0, 3);
    l->chunk_tokens_max = skewed(1, 64);
    l->open_tokens_max = between(l->context_tokens, FAKE_OPEN_TOKENS_MAX);
    l->tenants_max = ROWS_MAX;
    if (one_in(2)) {
        l->window_tokens = skewed(1, l->context_tokens);
        if (one_in(2)) /* the pool has little more than a window */
            l->blocks_count = between(1, div_up_u32(l->window_tokens, l->block_tokens) + 6);
        l->blocks_count = u32_min(l->blocks_count, FAKE_BLOCKS_MAX);
    }
    l->fairness = (struct sched_fairness){.quantum_tokens = skewed(1, 40),
                                          .lead_cost = skewed(0, 300),
                                          .reclaim_cost = one_in(2) ? skewed(1, 200) : 0,
                                          .reclaim_price = one_in(2) ? between(1, 9) : SCHED_NONE,
                                          .recompute_permille = one_in(2) ? between(1, 2000) : 0,
                                          .credit_cost = skewed(0, 300),
                                          .headroom_permille = one_in(2) ? between(1, 300) : 0};
    if (one_in(4))
        l->fairness.lead_cost = l->fairness.recompute_permille = l->fairness.credit_cost =
            l->fairness.headroom_permille = SCHED_NONE;
}

bool request_fits(const struct request *request)
{
    const struct sched_limits *l = &sim.limits;
    uint32_t total = request->prompt_tokens + request->output_tokens_max;
    uint32_t n_blocks = div_up_u32(total, l->block_tokens);
    if (l->window_tokens) /* wherever it stands among the blocks */
        n_blocks = u32_min(n_blocks, div_up_u32(l->window_tokens, l->block_tokens) + 1);
    return total <= l->context_tokens && n_blocks <= l->blocks_count;
}

struct sched_digest digest_of(const struct request *request, const struct fake_prefix *prefix)
{
    return fake_prefix_digest(prefix, sim.same_names ? 0 : request->domain);
}

/* Some prompts are asked for more than once in one call. */
static void choices_draw(void)
{
    uint32_t odds = one_in(2) ? between(1, 6) : 0;
    for (uint32_t i = 0; i < sim.n_requests;) {
        uint32_t n = one_in(odds) ? skewed(2, SCHED_CHOICES_MAX) : 1;
        n = u32_min(n, sim.n_requests - i);
        sim.requests[i].first = i;
        sim.requests[i].n_choices = n;
        for (uint32_t k = 1; k < n; k++) {
            struct request *r = &sim.requests[i + k];
            *r = sim.requests[i];
            r->choice = k;
            r->stop_after_tokens =
                one_in(2) ? r->output_tokens_max : between(1, r->output_tokens_max);
        }
        i += n;
    }
}

void requests_draw(void)
{
    sim.same_names = one_in(2);
    sim.domains_count = between(0, 3);
    for (uint32_t i = 0; i < STEMS_COUNT * FAKE_CONTEXT_MAX; i++)
        sim.stems[i / FAKE_CONTEXT_MAX][i % FAKE_CONTEXT_MAX] = (uint32_t)chance_next();
    sim.n_requests = between(1, REQUESTS_MAX);
    uint32_t longest = between(2, sim.limits.context_tokens);
    for (uint32_t i = 0; i < sim.n_requests; i++) {
        struct request *r = &sim.requests[i];
        r->prompt_tokens = skewed(1, u32_min(longest, FAKE_CONTEXT_MAX - 1));
        r->output_tokens_max = between(1, longest);
        if (!one_in(20)) /* most fit the context */
            r->output_tokens_max = u32_max(
                1, u32_min(r->output_tokens_max, sim.limits.context_tokens - r->prompt_tokens));
        r->stop_after_tokens = one_in(2) ? r->output_tokens_max : between(1, r->output_tokens_max);
        r->n_tokens = r->prompt_tokens;
        r->prefix.window_tokens = sim.limits.window_tokens;
        r->domain = between(0, sim.domains_count);
        r->readonly = one_in(8);
        r->class = between(CLASS_INTERACTIVE, CLASS_DEFAULT);
        uint32_t stem = between(0, STEMS_COUNT - 1);
        uint32_t stem_tokens = one_in(3) ? FAKE_CONTEXT_MAX : between(0, FAKE_CONTEXT_MAX);
        for (uint32_t t = 0; t < r->n_tokens; t++) {
            r->tokens[t] = t < stem_tokens ? sim.stems[stem][t] : (uint32_t)chance_next();
            fake_prefix_add(&r->prefix, r->tokens[t]);
            if ((t + 1) % sim.limits.block_tokens == 0)
                r->digests[r->n_digests++] = digest_of(r, &r->prefix);
        }
        if (one_in(20))
            r->n_digests = between(0, r->n_digests); /* not all are known */
    }
    choices_draw();
}

uint32_t rows_draw(struct tenant_row *ret_rows)
{
    uint32_t n = between(sim.n_rows, ROWS_MAX);
    bool rights = one_in(2);
    memset(ret_rows, 0, ROWS_MAX * sizeof *ret_rows);
    for (uint32_t i = 0; i < n; i++) {
        struct tenant_row *row = &ret_rows[i];
        row->parent = one_in(2) ? TENANT_TOP : between(0, n - 1);
        row->weight = one_in(40) ? 0 : skewed(1, 9);
        if (rights && one_in(3))
            row->reserved_blocks = between(1, u32_max(1, sim.limits.blocks_count / 6));
        if (rights && one_in(3))
            row->limit_blocks = between(1, sim.limits.blocks_count);
        if (rights && one_in(2))
            row->cached_blocks = between(1, 8);
    }
    return n;
}

bool row_has_children(uint32_t row)
{
    for (uint32_t i = 0; i < sim.n_rows; i++)
        if (sim.rows[i].parent == row)
            return true;
    return false;
}
