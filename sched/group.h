/*
 * group: the choices of one prompt, which compute it once.
 *
 * Sequences that one sched_submit made (`choices` above 1) have prompt, tenant, class and domain in
 * common. Each waits, runs, pauses, is preempted and ends by itself; their group is what the others
 * may know of it:
 *
 * - A *domain of its own* in the prefix cache, which nobody else can name. Blocks are listed there
 *   by their place in the prompt. One of them is the *tail*: the last block of a prompt that does
 *   not fill it. Its positions of the prompt are not written any more; its owner goes on behind
 *   them. So nobody else may name it in a table: it is copied by each one that begins. The full
 *   blocks are listed there as well when the members may not add to their cache domain, have none,
 *   or their digests are not known; else they are where all can find them.
 * - The *prompter*: the member that computes what the cache lacks of the prompt. Whoever is
 * admitted first and lacks something has this role, until the step that computes the last of the
 * prompt has retired, or until it is preempted, paused or over. Members that lack something and
 * whose turn comes in the meantime are *held*: they leave the policy's line, and enter it again, as
 *   those do who were set aside, when the role is given up.
 *
 * So a prompt is computed once however many choices there are, save its last token, which each one
 * computes to sample from; also without a cache domain, below one block, when the one that computed
 * it has ended, and after a lost worker. Nothing is pinned: what nobody reads is cached, and may be
 * evicted as ever; then the next one in need computes it again, and again once for all.
 *
 * What always holds (sched_check): a prompter runs, or is over and has rows in flight; nobody is
 * held without a prompter; of a group's domain at most the full blocks of its prompt are listed
 * and one tail, which one table names at most; the domain of a group whose last member is over has
 * no block.
 *
 * Owner: the scheduler. No allocation: as many groups as requests, in its memory.
 */
#pragma once

#include "sched/sched.h"

#define GROUP_NONE UINT32_MAX

/* Domains of groups; no cache domain may look like one. */
#define GROUP_DOMAIN_SHIFT 62
#define GROUP_DOMAIN_TAG 3ull

struct seq;

struct group {
    uint64_t domain;    /* 0: this place is free */
    uint32_t n_members; /* not ended */
    sched_id first;     /* of the members; seq->next_member goes on */
    sched_id prompter;  /* SCHED_NONE: nobody */
    uint32_t next_free; /* GROUP_NONE: none */
};

void groups_init(struct sched *sched);

static inline bool group_owns_domain(uint64_t domain)
{
    return domain >> GROUP_DOMAIN_SHIFT == GROUP_DOMAIN_TAG;
}

/* Makes a group of sequences [n] that were submitted as one and have not been planned. */
void group_make(struct sched *sched, const sched_id *ids, uint32_t n);

/* A member is over, and holds nothing. With the last one goes all that only the group could read.
 */
void group_leave(struct sched *sched, struct seq *seq);

/* The name of the block at this place of a group's prompt. */
struct sched_digest group_name(const struct group *group, uint32_t place);

/* What the group's own domain lists for a place of the prompt, the tail at the last one;
 * PREFIX_NONE for nothing, and for one without a group. */
uint32_t group_block(const struct sched *sched, const struct seq *seq, uint32_t place);

/* After the look-up in the cache domain: what the group's own domain adds to sched->matched and to
 * what the sequence has matched. */
void group_look_up(const struct sched *sched, struct seq *seq);

/* Whether a waiting one must wait for what another member computes just now. Looks up. */
bool group_holds(const struct sched *sched, struct seq *seq);

/* A member was opened with so many positions of the cache: it has the role if it lacks some. */
void group_opened(struct sched *sched, const struct seq *seq, uint32_t cached_tokens);

/* A row of a member has retired. */
void group_computed(struct sched *sched, struct seq *seq);

/* It does not compute any further just now: if it is the prompter, it is no more. */
void group_resign(struct sched *sched, const struct seq *seq);

/* The last prompt block of a member became full by decoding. True: the block has no other name, and
 * nobody of the group waits for it: it can be named. */
bool group_gives_tail(struct sched *sched, struct seq *seq, uint32_t place);

/* Aborts when groups and members disagree. */
void groups_check(const struct sched *sched);
