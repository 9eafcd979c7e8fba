/*
 * shares: who of the tenants' tree is behind. Start-time fair queueing at each level.
 *
 * Every row has a virtual time against its siblings: the service that it and all below it were
 * given, divided by its weight. Whoever is behind is served next; at the root among organisations,
 * then among the projects of the one chosen, then among its keys. Virtual time is a 64-bit integer,
 * 2^16 a unit of cost at weight 1, and divisions keep their remainder, so no share drifts.
 *
 * Who stands behind goes by more than was given: half of the output that the running ones of a row
 * are expected to put out counts as given when they are admitted. Without it, whoever is behind by
 * a little is admitted again and again until what it has begun puts it far ahead, and then the
 * others in turn.
 *
 * Where the children of a row stand is `now_v`: the virtual time of the one chosen last, which
 * never goes back. A row that wanted nothing for a while has a claim to a bounded part of that
 * time: when it comes to want something again, it is lifted to `now_v` less a credit.
 *
 * A row is *active* while there is something to give to it: then it is in the heap of its parent
 * (4-ary, by virtual time, then by index). Leaves carry what the policy needs besides: lines, the
 * list of chunks of a step, lately seen lengths of output.
 *
 * Owner: policy_fair. No allocation: laid out in what shares_footprint asked for.
 */
#pragma once

#include "sched/line.h"
#include "sched/tenants.h"

#define SHARES_ONE ((uint64_t)1 << 16) /* virtual time of a unit of cost at weight 1 */
#define SHARES_NOBODY UINT32_MAX
#define OUTPUTS_COUNT 32 /* lengths that are remembered */
#define OUTPUTS_MIN 4    /* with fewer, they say nothing */

/* Lengths of the last outputs; the 80th percentile is at hand. */
struct outputs {
    uint32_t n, oldest;
    uint32_t p80; /* what outputs_p80 says: asked for far more often than it changes */
    uint32_t recent[OUTPUTS_COUNT]; /* a ring */
    uint32_t sorted[OUTPUTS_COUNT]; /* [n] ascending */
};

struct share {
    uint64_t v;               /* virtual time */
    uint64_t promised_tokens; /* of output, that running ones are expected to put out */
    uint64_t now_v;           /* where its children stand */
    uint64_t limit_v;         /* of a step: no child that stands at or over it is admitted */
    uint32_t parent;          /* the root's index at the top; SHARES_NOBODY for the root */
    uint32_t weight;
    uint32_t remainder;      /* of the last division by weight */
    uint32_t unit_remainder; /* of unit_cost */
    uint64_t unit_v;
    uint32_t heap_first; /* its children's heap is heap[heap_first ..] */
    uint32_t heap_count;
    uint32_t place;                     /* in its parent's heap, plus 1; 0: not there */
    uint32_t n_line;                    /* waiting in line, here and below */
    uint32_t n_live;                    /* not over, here and below */
    uint32_t n_chunks;                  /* in the lists of chunks of this step, here and below */
    bool is_out;                        /* of this step: nothing more is admitted here */
    bool is_inner;                      /* has rows below it */
    uint64_t weights, live_weights;     /* of its children; of those that have somebody */
    struct line lines[2];               /* by class; leaves only */
    uint32_t chunks_first, chunks_last; /* ids; LINE_NOBODY */
};

struct shares {
    const struct tenants *tenants;
    uint32_t unit_cost;
    uint32_t root;           /* its index: one past the last possible row */
    struct share *rows;      /* [tenants_max + 1] */
    struct outputs *outputs; /* [tenants_max + 1] of leaves; the root's: of all */
    uint64_t *sums;          /* [tenants_max + 1] scratch of shares_rebuild */
    uint32_t *heap;          /* [tenants_max] */
};

size_t shares_footprint(const struct sched_limits *limits);
void shares_init(struct shares *shares, const struct sched_limits *limits,
                 const struct tenants *tenants, void *memory);

/* The table changed: parents and weights anew. Rows that are new or moved stand where their
 * siblings stand. */
void shares_rebuild(struct shares *shares);

/* The cost that is charged most often; set once, it costs no division. */
void shares_set_unit(struct shares *shares, uint32_t unit_cost);

/* Cost charged to a leaf and all above it; so many promised tokens were among it. */
void shares_charge(struct shares *shares, uint32_t leaf, uint64_t cost, uint32_t kept_tokens);

/* So many more promised tokens of a leaf, or fewer (as a negative number). */
void shares_promise(struct shares *shares, uint32_t leaf, int64_t n_tokens);

/* The children of `parent` stand at `v`, at least. */
void shares_pass(struct shares *shares, uint32_t parent, uint64_t v);

/* `row`, which is not active, comes to want something: lifts it as said above. */
void shares_lift(struct shares *shares, uint32_t row, uint64_t credit_cost);

/* One that is not over more, or less (n is 1 or -1), of a leaf. */
void shares_live(struct shares *shares, uint32_t leaf, uint32_t n);

/* Whether a leaf, or a row above it, has more than its part of so many blocks: by weight among
 * those who have somebody and one more who may come. */
bool shares_has_more(const struct shares *shares, uint32_t leaf, uint32_t blocks_count);

/* In its parent's heap or not, by what there is to give. */
void shares_update(struct shares *shares, uint32_t row);

static inline bool share_is_leaf(const struct shares *shares, uint32_t row)
{
    return !shares->rows[row].is_inner;
}

/* The active child that is furthest behind; SHARES_NOBODY when none is active. */
static inline uint32_t shares_first(const struct shares *shares, uint32_t row)
{
    const struct share *share = &shares->rows[row];
    return share->heap_count ? shares->heap[share->heap_first] : SHARES_NOBODY;
}

/* Virtual time with half of what is promised. */
static inline uint64_t share_stands(const struct share *share)
{
    return share->v + share->promised_tokens * share->unit_v / 2;
}

/* Whether row a stands behind its sibling b. */
static inline bool shares_behind(const struct shares *shares, uint32_t a, uint32_t b)
{
    uint64_t at_a = share_stands(&shares->rows[a]), at_b = share_stands(&shares->rows[b]);
    return at_a != at_b ? at_a < at_b : a < b;
}

/* Where two leaves part: *ret_a and *ret_b become siblings, those on or above a and b. False when a
 * is b. */
bool shares_part(const struct shares *shares, uint32_t a, uint32_t b, uint32_t *ret_a,
                 uint32_t *ret_b);

void outputs_add(struct outputs *outputs, uint32_t n_tokens);
/* Four of five were not longer; 0 when there is too little to say. */
static inline uint32_t outputs_p80(const struct outputs *outputs)
{
    return outputs->p80;
}

void shares_check(const struct shares *shares);
