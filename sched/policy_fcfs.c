/*
 * First come, first served. The line is a list through an array of links by id: new ones come at
 * its end, those that ran before at its front. Whoever was admitted last is preempted first, so the
 * one that has run longest always gets through; slow readers go before everybody.
 */
#include "sched/policy.h"

#include "sched/seq.h"

#define NOBODY UINT32_MAX

struct link {
    struct seq *seq;
    uint32_t before, after; /* ids; NOBODY at the ends */
};

struct fcfs {
    uint32_t first, last;
    struct link links[]; /* [requests_max] */
};

static size_t fcfs_footprint(const struct sched_limits *limits)
{
    return sizeof(struct fcfs) + limits->requests_max * sizeof(struct link);
}

static void fcfs_init(void *state, const struct sched_limits *limits)
{
    struct fcfs *line = state;
    line->first = line->last = NOBODY;
}

/* Makes `after` follow `before`; either may be the end. */
static void line_join(struct fcfs *line, uint32_t before, uint32_t after)
{
    *(before == NOBODY ? &line->first : &line->links[before].after) = after;
    *(after == NOBODY ? &line->last : &line->links[after].before) = before;
}

static void fcfs_enqueue(void *state, struct seq *seq, bool front, uint64_t now_ns)
{
    struct fcfs *line = state;
    uint32_t before = front ? NOBODY : line->last, after = front ? line->first : NOBODY;
    line->links[seq->id].seq = seq;
    line_join(line, before, seq->id);
    line_join(line, seq->id, after);
}

static struct seq *fcfs_head(void *state, uint64_t now_ns)
{
    const struct fcfs *line = state;
    return line->first == NOBODY ? NULL : line->links[line->first].seq;
}

static void fcfs_dequeue(void *state, struct seq *seq)
{
    struct fcfs *line = state;
    struct link *link = &line->links[seq->id];
    CHECK(link->seq == seq);
    link->seq = NULL;
    line_join(line, link->before, link->after);
}

static void fcfs_charge(void *state, struct seq *seq, uint32_t prefill_tokens,
                        uint32_t output_tokens)
{
    /* Nobody pays: that is the policy. */
}

static struct seq *fcfs_victim(void *state, struct seq *const *running, uint32_t n,
                               struct seq *needy)
{
    for (uint32_t i = n; i-- > 0;)
        if (running[i]->paused)
            return running[i];
    return n > 0 ? running[n - 1] : NULL;
}

const struct sched_policy policy_fcfs = {
    .name = "fcfs",
    .footprint = fcfs_footprint,
    .init = fcfs_init,
    .enqueue = fcfs_enqueue,
    .head = fcfs_head,
    .dequeue = fcfs_dequeue,
    .charge = fcfs_charge,
    .victim = fcfs_victim,
};
