#include "sched/group.h"

#include "sched/books.h"

/* ---- members ---- */

static struct group *group_of(const struct sched *sched, const struct seq *seq)
{
    return seq->group == GROUP_NONE ? NULL : &sched->groups[seq->group];
}

void groups_init(struct sched *sched)
{
    for (uint32_t i = sched->limits.requests_max; i-- > 0;) {
        sched->groups[i] = (struct group){.next_free = sched->free_group};
        sched->free_group = i;
    }
}

void group_make(struct sched *sched, const sched_id *ids, uint32_t n)
{
    uint32_t g = sched->free_group;
    CHECK(g != GROUP_NONE); /* as many as requests, and each has a member that no other has */
    struct group *group = &sched->groups[g];
    sched->free_group = group->next_free;
    *group = (struct group){.domain =
                                GROUP_DOMAIN_TAG << GROUP_DOMAIN_SHIFT | sched->seqs[ids[0]].number,
                            .n_members = n,
                            .first = ids[0],
                            .prompter = SCHED_NONE,
                            .next_free = GROUP_NONE};
    CHECK(group_owns_domain(group->domain));
    for (uint32_t i = 0; i < n; i++) {
        struct seq *seq = &sched->seqs[ids[i]];
        uint32_t n_full = seq->prompt_tokens / sched->limits.block_tokens;
        CHECK(seq->state == SEQ_WAITING && !seq->admitted && seq->group == GROUP_NONE);
        seq->group = g;
        seq->next_member = i + 1 < n ? ids[i + 1] : SCHED_NONE;
        seq->lists_in_group =
            seq->cache_domain == 0 || seq->cache_readonly || seq->n_digests < n_full;
    }
}

void group_leave(struct sched *sched, struct seq *seq)
{
    struct group *group = group_of(sched, seq);
    if (!group)
        return;
    group_resign(sched, seq);
    sched_id *link = &group->first;
    while (*link != seq->id)
        link = &sched->seqs[*link].next_member;
    *link = seq->next_member;
    seq->next_member = SCHED_NONE;
    uint32_t g = seq->group;
    seq->group = GROUP_NONE;
    if (--group->n_members > 0)
        return;
    blocks_forget(&sched->blocks, group->domain);
    *group = (struct group){.next_free = sched->free_group};
    sched->free_group = g;
}

/* ---- what the group's own domain has ---- */

/* The first bytes are the hash of a name: groups must not all meet in the same places. */
struct sched_digest group_name(const struct group *group, uint32_t place)
{
    struct sched_digest name = {0};
    uint64_t hash = (group->domain + place) * 0x9e3779b97f4a7c15ull >> 16;
    memcpy(name.bytes, &hash, sizeof hash);
    memcpy(name.bytes + 8, &group->domain, sizeof group->domain);
    memcpy(name.bytes + 16, &place, sizeof place);
    return name;
}

static uint32_t group_find(const struct sched *sched, const struct group *group, uint32_t place)
{
    struct sched_digest name = group_name(group, place);
    return prefix_find(&sched->blocks.prefix, group->domain, &name);
}

uint32_t group_block(const struct sched *sched, const struct seq *seq, uint32_t place)
{
    const struct group *group = group_of(sched, seq);
    return group ? group_find(sched, group, place) : PREFIX_NONE;
}

void group_look_up(const struct sched *sched, struct seq *seq)
{
    const struct group *group = group_of(sched, seq);
    uint32_t block, block_tokens = sched->limits.block_tokens;
    if (!group)
        return;
    uint32_t n_full = seq->prompt_tokens / block_tokens, tail = seq->prompt_tokens % block_tokens;
    while (seq->matched_blocks < n_full &&
           (block = group_find(sched, group, seq->matched_blocks)) != PREFIX_NONE)
        sched->matched[seq->matched_blocks++] = block;
    seq->matched_tokens = seq->matched_blocks * block_tokens;
    if (seq->matched_blocks < n_full || tail == 0 ||
        (block = group_find(sched, group, n_full)) == PREFIX_NONE)
        return;
    sched->matched[n_full] = block;
    seq->matched_tokens += tail;
}

/* ---- who computes ---- */

/* Of the prompt; the last known token is computed in any case. */
static bool lacks(const struct seq *seq, uint32_t cached_tokens)
{
    return cached_tokens < u32_min(seq->prompt_tokens, seq_known_tokens(seq) - 1);
}

bool group_holds(const struct sched *sched, struct seq *seq)
{
    const struct group *group = group_of(sched, seq);
    if (!group || group->prompter == SCHED_NONE)
        return false;
    DCHECK(group->prompter != seq->id);
    seq_look_up(sched, seq);
    return lacks(seq, seq->matched_tokens);
}

void group_opened(struct sched *sched, const struct seq *seq, uint32_t cached_tokens)
{
    struct group *group = group_of(sched, seq);
    if (group && group->prompter == SCHED_NONE && lacks(seq, cached_tokens))
        group->prompter = seq->id;
}

/* The last one first: each enters at the head of the line. */
static void held_enter(struct sched *sched, sched_id id)
{
    if (id == SCHED_NONE)
        return;
    struct seq *seq = &sched->seqs[id];
    held_enter(sched, seq->next_member);
    if (!seq->held)
        return;
    seq->held = false;
    if (!seq->paused)
        seq_wait(sched, seq, ARRIVES_RESUMED);
}

void group_resign(struct sched *sched, const struct seq *seq)
{
    struct group *group = group_of(sched, seq);
    if (!group || group->prompter != seq->id)
        return;
    group->prompter = SCHED_NONE;
    held_enter(sched, group->first);
}

void group_computed(struct sched *sched, struct seq *seq)
{
    struct group *group = group_of(sched, seq);
    if (!group || group->prompter != seq->id || seq->computed_tokens < seq->prompt_tokens)
        return;
    uint32_t place = seq->prompt_tokens / sched->limits.block_tokens;
    if (seq->prompt_tokens % sched->limits.block_tokens) {
        uint32_t block = blocks_table(&sched->blocks, seq->slot)[place];
        struct sched_digest name = group_name(group, place);
        CHECK(seq->named_blocks <= place);
        prefix_name(&sched->blocks.prefix, block, &name);
        prefix_list(&sched->blocks.prefix, block, group->domain, UINT32_MAX);
    }
    group_resign(sched, seq);
}

static bool someone_waits(const struct sched *sched, const struct group *group)
{
    for (sched_id id = group->first; id != SCHED_NONE; id = sched->seqs[id].next_member)
        if (sched->seqs[id].state == SEQ_WAITING)
            return true;
    return false;
}

bool group_gives_tail(struct sched *sched, struct seq *seq, uint32_t place)
{
    const struct group *group = group_of(sched, seq);
    if (!group)
        return true;
    if (seq->lists_in_group)
        return false;
    uint32_t block = blocks_table(&sched->blocks, seq->slot)[place];
    bool listed = prefix_is_listed(&sched->blocks.prefix, block);
    if (group->prompter == seq->id || (listed && someone_waits(sched, group)))
        return false;
    if (listed)
        prefix_unlist(&sched->blocks.prefix, block);
    return true;
}

/* ---- check ---- */

static void group_check(const struct sched *sched, uint32_t g)
{
    const struct group *group = &sched->groups[g];
    uint32_t n = 0, n_held = 0;
    for (sched_id id = group->first; id != SCHED_NONE; id = sched->seqs[id].next_member) {
        const struct seq *seq = &sched->seqs[id];
        CHECK(seq->group == g && seq->state != SEQ_FREE && seq->state != SEQ_ENDED);
        n_held += seq->held;
        CHECK(++n <= group->n_members);
    }
    CHECK(n == group->n_members && n > 0 && group_owns_domain(group->domain));
    CHECK(n_held == 0 || group->prompter != SCHED_NONE);
    if (group->prompter == SCHED_NONE)
        return;
    const struct seq *prompter = &sched->seqs[group->prompter];
    CHECK(prompter->group == g && prompter->slot != SEQ_NO_SLOT && !prompter->paused);
    CHECK(prompter->state == SEQ_RUNNING || prompter->state == SEQ_ENDING);
    CHECK(prompter->computed_tokens < prompter->prompt_tokens);
}

void groups_check(const struct sched *sched)
{
    const struct prefix *prefix = &sched->blocks.prefix;
    uint32_t n_members = 0, n_free = 0, n_domains = 0;
    for (uint32_t g = 0; g < sched->limits.requests_max; g++) {
        if (sched->groups[g].domain == 0)
            continue;
        group_check(sched, g);
        n_members += sched->groups[g].n_members;
        for (uint32_t d = 0; d < prefix->count; d++)
            n_domains += prefix->domains[d].id == sched->groups[g].domain;
        n_free++;
    }
    for (uint32_t g = sched->free_group; g != GROUP_NONE; g = sched->groups[g].next_free)
        CHECK(sched->groups[g].domain == 0 && ++n_free <= sched->limits.requests_max);
    CHECK(n_free == sched->limits.requests_max);
    for (uint32_t i = 0; i < sched->limits.requests_max; i++) {
        const struct seq *seq = &sched->seqs[i];
        bool lives = seq->state != SEQ_FREE && seq->state != SEQ_ENDED;
        n_members -= lives && seq->group != GROUP_NONE;
        CHECK(!seq->held || (seq->state == SEQ_WAITING && seq->group != GROUP_NONE));
    }
    CHECK(n_members == 0);
    for (uint32_t d = 0; d < prefix->count; d++)
        n_domains -= group_owns_domain(prefix->domains[d].id);
    CHECK(n_domains == 0); /* no domain of a group that is gone */
}
