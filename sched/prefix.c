#include "sched/prefix.h"

/*
 * Two hash tables with chains through the items: blocks by digest, domains by id. A digest is
 * uniform already, so its first bytes are the hash. Domains have as many places as blocks: each has
 * at least one listed block.
 */

static uint32_t places_count(const struct sched_limits *limits)
{
    uint32_t n = 4;
    while (n / 2 < limits->blocks_count)
        n *= 2;
    return n;
}

size_t prefix_footprint(const struct sched_limits *limits)
{
    return limits->blocks_count * (sizeof(struct prefix_domain) + sizeof(struct prefix_block)) +
           2 * places_count(limits) * sizeof(uint32_t);
}

void prefix_init(struct prefix *prefix, const struct sched_limits *limits, void *memory)
{
    _Static_assert(_Alignof(struct prefix_domain) >= _Alignof(struct prefix_block) &&
                       _Alignof(struct prefix_block) >= _Alignof(uint32_t),
                   "arrays follow without padding");
    *prefix =
        (struct prefix){.count = limits->blocks_count, .places_mask = places_count(limits) - 1};
    prefix->domains = memory;
    prefix->blocks = (struct prefix_block *)(prefix->domains + prefix->count);
    prefix->places = (uint32_t *)(prefix->blocks + prefix->count);
    prefix->domain_places = prefix->places + prefix->places_mask + 1;
    prefix_reset(prefix);
}

void prefix_reset(struct prefix *prefix)
{
    for (uint32_t i = 0; i <= prefix->places_mask; i++)
        prefix->places[i] = prefix->domain_places[i] = PREFIX_NONE;
    for (uint32_t i = 0; i < prefix->count; i++) {
        prefix->blocks[i].domain = PREFIX_NONE;
        prefix->domains[i] =
            (struct prefix_domain){.next = i + 1 < prefix->count ? i + 1 : PREFIX_NONE};
    }
    prefix->free_domain = 0;
    prefix->over_first = prefix->over_last = prefix->first = prefix->last = PREFIX_NONE;
    prefix->n_listed = prefix->n_cached = prefix->n_domains = 0;
}

/* ---- domains ---- */

static uint32_t *domain_place(const struct prefix *prefix, uint64_t id)
{
    uint64_t x = id * 0x9e3779b97f4a7c15ull;
    return &prefix->domain_places[(uint32_t)(x >> 32) & prefix->places_mask];
}

static uint32_t domain_find(const struct prefix *prefix, uint64_t id)
{
    uint32_t d = *domain_place(prefix, id);
    while (d != PREFIX_NONE && prefix->domains[d].id != id)
        d = prefix->domains[d].next;
    return d;
}

static uint32_t domain_get(struct prefix *prefix, uint64_t id)
{
    uint32_t d = domain_find(prefix, id);
    if (d != PREFIX_NONE)
        return d;
    d = prefix->free_domain;
    CHECK(d != PREFIX_NONE); /* each domain has a block that no other has */
    prefix->free_domain = prefix->domains[d].next;
    uint32_t *place = domain_place(prefix, id);
    prefix->domains[d] = (struct prefix_domain){.id = id,
                                                .quota_blocks = UINT32_MAX,
                                                .first = PREFIX_NONE,
                                                .last = PREFIX_NONE,
                                                .next = *place};
    *place = d;
    prefix->n_domains++;
    return d;
}

static void domain_forget(struct prefix *prefix, uint32_t d)
{
    struct prefix_domain *domain = &prefix->domains[d];
    CHECK(domain->n_cached == 0 && !domain->is_over);
    uint32_t *link = domain_place(prefix, domain->id);
    while (*link != d)
        link = &prefix->domains[*link].next;
    *link = domain->next;
    *domain = (struct prefix_domain){.next = prefix->free_domain};
    prefix->free_domain = d;
    prefix->n_domains--;
}

/* Domains over their quota stand in line; the one that came first loses blocks first. */
static void domain_over_update(struct prefix *prefix, uint32_t d)
{
    struct prefix_domain *domain = &prefix->domains[d];
    bool is_over = domain->n_cached > domain->quota_blocks;
    if (is_over == domain->is_over)
        return;
    domain->is_over = is_over;
    struct prefix_domain *domains = prefix->domains;
    if (is_over) {
        domain->over = (struct prefix_links){.before = prefix->over_last, .after = PREFIX_NONE};
        *(prefix->over_last == PREFIX_NONE ? &prefix->over_first
                                           : &domains[prefix->over_last].over.after) = d;
        prefix->over_last = d;
        return;
    }
    struct prefix_links links = domain->over;
    *(links.before == PREFIX_NONE ? &prefix->over_first : &domains[links.before].over.after) =
        links.after;
    *(links.after == PREFIX_NONE ? &prefix->over_last : &domains[links.after].over.before) =
        links.before;
}

/* ---- look-up ---- */

static uint32_t *block_place(const struct prefix *prefix, const struct sched_digest *digest)
{
    uint32_t hash;
    memcpy(&hash, digest->bytes, sizeof hash);
    return &prefix->places[hash & prefix->places_mask];
}

static uint32_t chain_find(const struct prefix *prefix, uint32_t d,
                           const struct sched_digest *digest)
{
    uint32_t block = *block_place(prefix, digest);
    while (block != PREFIX_NONE) {
        const struct prefix_block *b = &prefix->blocks[block];
        if (b->domain == d && memcmp(&b->digest, digest, sizeof *digest) == 0)
            break;
        block = b->next;
    }
    return block;
}

uint32_t prefix_find(const struct prefix *prefix, uint64_t domain,
                     const struct sched_digest *digest)
{
    uint32_t d = domain ? domain_find(prefix, domain) : PREFIX_NONE;
    return d == PREFIX_NONE ? PREFIX_NONE : chain_find(prefix, d, digest);
}

/* Each probe waits for memory, and the next ones are known: they are asked for ahead. */
uint32_t prefix_match(const struct prefix *prefix, uint64_t domain,
                      const struct sched_digest *digests, uint32_t n, uint32_t *ret_blocks)
{
    enum { AHEAD = 4 };
    uint32_t d = domain && n ? domain_find(prefix, domain) : PREFIX_NONE;
    if (d == PREFIX_NONE)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i + 2 * AHEAD < n)
            __builtin_prefetch(block_place(prefix, &digests[i + 2 * AHEAD]));
        if (i + AHEAD < n) {
            uint32_t block = *block_place(prefix, &digests[i + AHEAD]);
            if (block != PREFIX_NONE)
                __builtin_prefetch(&prefix->blocks[block]);
        }
        ret_blocks[i] = chain_find(prefix, d, &digests[i]);
        if (ret_blocks[i] == PREFIX_NONE)
            return i;
    }
    return n;
}

/* ---- listing ---- */

void prefix_name(struct prefix *prefix, uint32_t block, const struct sched_digest *digest)
{
    CHECK(block < prefix->count && prefix->blocks[block].domain == PREFIX_NONE);
    prefix->blocks[block].digest = *digest;
}

bool prefix_list(struct prefix *prefix, uint32_t block, uint64_t domain, uint32_t quota_blocks)
{
    struct prefix_block *b = &prefix->blocks[block];
    CHECK(block < prefix->count && b->domain == PREFIX_NONE);
    if (domain == 0)
        return false;
    uint32_t known = domain_find(prefix, domain);
    if (known != PREFIX_NONE && chain_find(prefix, known, &b->digest) != PREFIX_NONE)
        return false;
    uint32_t d = domain_get(prefix, domain);
    uint32_t *place = block_place(prefix, &b->digest);
    b->domain = d;
    b->next = *place;
    *place = block;
    prefix->domains[d].n_listed++;
    prefix->domains[d].quota_blocks = quota_blocks;
    domain_over_update(prefix, d);
    prefix->n_listed++;
    return true;
}

void prefix_unlist(struct prefix *prefix, uint32_t block)
{
    struct prefix_block *b = &prefix->blocks[block];
    CHECK(b->domain != PREFIX_NONE);
    uint32_t *link = block_place(prefix, &b->digest);
    while (*link != block)
        link = &prefix->blocks[*link].next;
    *link = b->next;
    uint32_t d = b->domain;
    b->domain = PREFIX_NONE;
    prefix->n_listed--;
    if (--prefix->domains[d].n_listed == 0)
        domain_forget(prefix, d);
}

/* ---- least recent use ---- */

void prefix_cache(struct prefix *prefix, uint32_t block)
{
    struct prefix_block *b = &prefix->blocks[block];
    CHECK(b->domain != PREFIX_NONE);
    struct prefix_domain *domain = &prefix->domains[b->domain];
    b->of_domain = (struct prefix_links){.before = domain->last, .after = PREFIX_NONE};
    *(domain->last == PREFIX_NONE ? &domain->first
                                  : &prefix->blocks[domain->last].of_domain.after) = block;
    domain->last = block;
    b->of_all = (struct prefix_links){.before = prefix->last, .after = PREFIX_NONE};
    *(prefix->last == PREFIX_NONE ? &prefix->first : &prefix->blocks[prefix->last].of_all.after) =
        block;
    prefix->last = block;
    domain->n_cached++;
    prefix->n_cached++;
    domain_over_update(prefix, b->domain);
}

void prefix_uncache(struct prefix *prefix, uint32_t block)
{
    struct prefix_block *b = &prefix->blocks[block], *blocks = prefix->blocks;
    CHECK(b->domain != PREFIX_NONE && prefix->n_cached > 0);
    struct prefix_domain *domain = &prefix->domains[b->domain];
    struct prefix_links l = b->of_domain;
    *(l.before == PREFIX_NONE ? &domain->first : &blocks[l.before].of_domain.after) = l.after;
    *(l.after == PREFIX_NONE ? &domain->last : &blocks[l.after].of_domain.before) = l.before;
    l = b->of_all;
    *(l.before == PREFIX_NONE ? &prefix->first : &blocks[l.before].of_all.after) = l.after;
    *(l.after == PREFIX_NONE ? &prefix->last : &blocks[l.after].of_all.before) = l.before;
    domain->n_cached--;
    prefix->n_cached--;
    domain_over_update(prefix, b->domain);
}

uint32_t prefix_evict(struct prefix *prefix)
{
    CHECK(prefix->n_cached > 0);
    uint32_t block = prefix->over_first != PREFIX_NONE ? prefix->domains[prefix->over_first].first
                                                       : prefix->first;
    prefix_uncache(prefix, block);
    prefix_unlist(prefix, block);
    prefix->evicted_total++;
    return block;
}

uint32_t prefix_forget(struct prefix *prefix, uint64_t domain)
{
    uint32_t d = domain_find(prefix, domain);
    uint32_t block = d == PREFIX_NONE ? PREFIX_NONE : prefix->domains[d].first;
    if (block == PREFIX_NONE)
        return PREFIX_NONE;
    prefix_uncache(prefix, block);
    prefix_unlist(prefix, block);
    return block;
}

/* ---- check ---- */

static void domain_check(const struct prefix *prefix, uint32_t d)
{
    const struct prefix_domain *domain = &prefix->domains[d];
    uint32_t n = 0, before = PREFIX_NONE;
    for (uint32_t b = domain->first; b != PREFIX_NONE; b = prefix->blocks[b].of_domain.after) {
        CHECK(prefix->blocks[b].domain == d && prefix->blocks[b].of_domain.before == before);
        before = b;
        CHECK(++n <= domain->n_cached);
    }
    CHECK(n == domain->n_cached && domain->last == before);
    CHECK(domain->n_listed > 0 && domain->n_listed >= domain->n_cached);
    CHECK(domain->is_over == (domain->n_cached > domain->quota_blocks));
    CHECK(domain_find(prefix, domain->id) == d);
}

void prefix_check(const struct prefix *prefix)
{
    uint32_t n_listed = 0, n_cached = 0, n_domains = 0, n_over = 0, n = 0, before = PREFIX_NONE;
    for (uint32_t i = 0; i < prefix->count; i++) {
        const struct prefix_domain *domain = &prefix->domains[i];
        if (domain->id) {
            domain_check(prefix, i);
            n_domains++;
            n_over += domain->is_over;
            n_cached += domain->n_cached;
            n_listed += domain->n_listed;
        }
    }
    CHECK(n_domains == prefix->n_domains && n_listed == prefix->n_listed);
    CHECK(n_cached == prefix->n_cached);
    for (uint32_t i = 0; i < prefix->count; i++) {
        const struct prefix_block *b = &prefix->blocks[i];
        n += b->domain != PREFIX_NONE;
        /* It is found by its name, and no other has it. */
        if (b->domain != PREFIX_NONE)
            CHECK(chain_find(prefix, b->domain, &b->digest) == i);
    }
    CHECK(n == prefix->n_listed);
    n = 0;
    for (uint32_t b = prefix->first; b != PREFIX_NONE; b = prefix->blocks[b].of_all.after) {
        CHECK(prefix->blocks[b].of_all.before == before && ++n <= prefix->n_cached);
        before = b;
    }
    CHECK(n == prefix->n_cached && prefix->last == before);
    for (uint32_t d = prefix->over_first; d != PREFIX_NONE; d = prefix->domains[d].over.after)
        CHECK(prefix->domains[d].is_over && n_over-- > 0);
    CHECK(n_over == 0);
}
