/*
 * prefix: which blocks hold the keys and values of which prefix, so that nobody computes twice what
 * his own domain has computed before.
 *
 * A full block is known by the digest of everything up to its end (daemon/digest.h): the digest
 * covers model, type, adapter and domain, so equal digests mean equal contents. The domain stands
 * beside it all the same, and a look-up must match both: no block is ever readable from another
 * domain, even if somebody could make digests collide. Domain 0 is nobody's: never listed.
 *
 * A block is *listed* from the time when the step that filled it has retired until it is evicted.
 * A listed block is *read* while tables name it, and *cached* while none does: then it is in its
 * domain's list of least recent use and in the list of all, deepest blocks of a sequence first, so
 * that a chain loses its end before its beginning. A cached block is as good as a free one: it is
 * evicted when somebody takes it. First go those of domains over their quota, then the least
 * recently used of all.
 *
 * Listing a digest that is listed already does nothing: the second copy stays private.
 *
 * Costs: a look-up is one probe of a table of 2..4 places a block; listing and evicting are O(1).
 * Part of `struct blocks`, which alone calls it. Laid out once in what prefix_footprint asked for.
 */
#pragma once

#include "sched/sched.h"

#define PREFIX_NONE UINT32_MAX

struct prefix_links {
    uint32_t before, after; /* blocks; PREFIX_NONE at the ends */
};

/* What is known of a block beside its owner and its references. */
struct prefix_block {
    struct sched_digest digest;            /* when listed */
    uint32_t domain;                       /* place in `domains`; PREFIX_NONE: not listed */
    uint32_t next;                         /* with the same hash */
    struct prefix_links of_domain, of_all; /* when cached */
};

struct prefix_domain {
    uint64_t id;              /* 0: this place is free */
    uint32_t n_listed;        /* 0: it may be forgotten */
    uint32_t n_cached;        /* of them, without a reader */
    uint32_t quota_blocks;    /* UINT32_MAX: none */
    uint32_t first, last;     /* cached, least recently used first */
    struct prefix_links over; /* domains over their quota, in the order in which they came there */
    uint32_t next;            /* with the same hash, or free */
    bool is_over;
};

struct prefix {
    uint32_t count;       /* blocks */
    uint32_t places_mask; /* places - 1, a power of two */
    uint32_t *places;     /* [places] first block of a hash */
    struct prefix_block *blocks;
    uint32_t *domain_places;       /* [places] first domain of a hash */
    struct prefix_domain *domains; /* [count] no more domains than blocks */
    uint32_t free_domain;
    uint32_t over_first, over_last; /* domains */
    uint32_t first, last;           /* cached blocks of all, least recently used first */
    uint32_t n_listed, n_cached, n_domains;
    uint64_t evicted_total;
};

size_t prefix_footprint(const struct sched_limits *limits);

/* Nothing is listed. `memory` is zeroed, prefix_footprint bytes, aligned to 16. */
void prefix_init(struct prefix *prefix, const struct sched_limits *limits, void *memory);
void prefix_reset(struct prefix *prefix);

/* The block that holds this prefix, or PREFIX_NONE. Counts nothing, moves nothing. */
uint32_t prefix_find(const struct prefix *prefix, uint64_t domain,
                     const struct sched_digest *digest);

/* How many of the digests [n], from the first on, are listed; and by which blocks [n]. */
uint32_t prefix_match(const struct prefix *prefix, uint64_t domain,
                      const struct sched_digest *digests, uint32_t n, uint32_t *ret_blocks);

/* The digest of what a block that is not listed will hold. */
void prefix_name(struct prefix *prefix, uint32_t block, const struct sched_digest *digest);

/* Lists a named block that a table names. False when its digest is listed already, or the domain
 * is 0. */
bool prefix_list(struct prefix *prefix, uint32_t block, uint64_t domain, uint32_t quota_blocks);

static inline bool prefix_is_listed(const struct prefix *prefix, uint32_t block)
{
    return prefix->blocks[block].domain != PREFIX_NONE;
}

/* The last table that named a listed block is gone; or one names a cached block again. */
void prefix_cache(struct prefix *prefix, uint32_t block);
void prefix_uncache(struct prefix *prefix, uint32_t block);

/* Takes the cached block that is needed least: it is listed no more. n_cached > 0. */
uint32_t prefix_evict(struct prefix *prefix);

/* A listed block that a table names has no name any more. */
void prefix_unlist(struct prefix *prefix, uint32_t block);

/* A cached block of this domain is listed no more: which. PREFIX_NONE: the domain has none. */
uint32_t prefix_forget(struct prefix *prefix, uint64_t domain);

/* Aborts when lists, tables and counts disagree. */
void prefix_check(const struct prefix *prefix);
