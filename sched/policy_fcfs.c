/*
 * First come, first served. The line is a list through an array of links by id: new ones come at
 * its end, those that ran before at its front. Whoever was admitted last is preempted first, so the
 * one that has run longest always gets through; slow readers go before everybody.
 */
#include "sched/books.h"

#define NOBODY UINT32_MAX

struct link {
    struct seq *seq;
    uint32_t before, after; /* ids; NOBODY at the ends */
};

struct fcfs {
    const struct sched *sched;
    uint32_t first, last;
    uint32_t next_running; /* of a step: whose chunk comes next */
    bool is_over;          /* of a step: the head was refused, so nobody else is admitted */
    struct link links[];   /* [requests_max] */
};

static size_t fcfs_footprint(const struct sched_limits *limits)
{
    return sizeof(struct fcfs) + limits->requests_max * sizeof(struct link);
}

static void fcfs_init(void *state, const struct sched *sched)
{
    struct fcfs *line = state;
    line->sched = sched;
    line->first = line->last = NOBODY;
}

/* Makes `after` follow `before`; either may be the end. */
static void line_join(struct fcfs *line, uint32_t before, uint32_t after)
{
    *(before == NOBODY ? &line->first : &line->links[before].after) = after;
    *(after == NOBODY ? &line->last : &line->links[after].before) = before;
}

static void fcfs_enqueue(void *state, struct seq *seq, enum arrival arrival)
{
    struct fcfs *line = state;
    bool front = arrival != ARRIVES_NEW;
    uint32_t before = front ? NOBODY : line->last, after = front ? line->first : NOBODY;
    line->links[seq->id].seq = seq;
    line_join(line, before, seq->id);
    line_join(line, seq->id, after);
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

/* Only the next token: the rest comes when it comes. */
static uint32_t fcfs_foresee(void *state, const struct seq *seq)
{
    return 1;
}

static void fcfs_begin(void *state)
{
    struct fcfs *line = state;
    line->next_running = 0;
    line->is_over = false;
}

/* One chunk for each of the running ones, then the line. */
static struct seq *fcfs_next(void *state, uint32_t *ret_tokens_max)
{
    struct fcfs *line = state;
    const struct sched *sched = line->sched;
    *ret_tokens_max = sched->limits.chunk_tokens_max;
    while (line->next_running < sched->n_running) {
        struct seq *seq = sched->running[line->next_running++];
        if (seq->prefilling && !row_given(sched, seq))
            return seq;
    }
    return line->is_over || line->first == NOBODY ? NULL : line->links[line->first].seq;
}

static void fcfs_granted(void *state, struct seq *seq, uint32_t n_tokens) {}

static void fcfs_refused(void *state, struct seq *seq, enum refusal why)
{
    struct fcfs *line = state;
    line->is_over = true;
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
    .dequeue = fcfs_dequeue,
    .charge = fcfs_charge,
    .foresee = fcfs_foresee,
    .begin = fcfs_begin,
    .next = fcfs_next,
    .granted = fcfs_granted,
    .refused = fcfs_refused,
    .victim = fcfs_victim,
};
