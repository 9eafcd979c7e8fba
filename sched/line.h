/*
 * line: who of one tenant waits, in which order.
 *
 * One class has one line. Its order is by (due, number): first those that ran before (due 0), in
 * the order in which they were submitted; then by due time, which is the deadline, or, for those
 * without one, the time of arrival plus the patience of their class. So nobody without a deadline
 * waits for ever behind those with one.
 *
 * line_pick prefers, among the first LINE_WINDOW, the one whose prompt takes least work: the fewest
 * tokens that are not cached. So a tenant's short and its cached prompts do not wait for its long
 * ones, and its queue is shorter on the whole. It passes the same first one over at most
 * LINE_BYPASS_MAX times, and never one that ran before or has a deadline of its own.
 *
 * A line is a leftist heap through an array of places by sequence id: entering and leaving from
 * anywhere cost O(log n), the first is at hand. All lines of a scheduler share one array, since a
 * sequence waits in one line at most. Owner: policy_fair.
 */
#pragma once

#include "sched/seq.h"

#define LINE_NOBODY UINT32_MAX
#define LINE_WINDOW 16
#define LINE_BYPASS_MAX 8
#define LINE_PATIENCE_INTERACTIVE_NS 30000000000ull
#define LINE_PATIENCE_BATCH_NS 3600000000000ull

struct line_place {
    const struct seq *seq; /* NULL: in no line */
    uint64_t due_ns;
    uint32_t before, left, right; /* ids in the heap; LINE_NOBODY */
    uint32_t rank;                /* steps down to the nearest missing child */
    uint32_t bypassed_count;
    uint32_t work_tokens; /* of its prompt, not cached when it was looked at last */
};

struct line {
    uint32_t root; /* LINE_NOBODY: empty */
    uint32_t count;
};

void line_init(struct line *line);

/* `seq` is in no line. `places` [requests_max] are those of all lines. */
void line_enter(struct line *line, struct line_place *places, const struct seq *seq,
                uint64_t due_ns);
void line_leave(struct line *line, struct line_place *places, const struct seq *seq);

/* seq->matched_tokens of one that waits has changed. */
void line_looked_at(struct line_place *places, const struct seq *seq);

/* Whose turn it is; NULL when nobody waits. */
const struct seq *line_pick(const struct line *line, const struct line_place *places);

/* `seq` is about to leave because it was picked: whom it passes over is counted. */
void line_passed(struct line *line, struct line_place *places, const struct seq *seq);

/* By the order of the line, whatever is cached. */
static inline const struct seq *line_first(const struct line *line, const struct line_place *places)
{
    return line->root == LINE_NOBODY ? NULL : places[line->root].seq;
}

/* Aborts when the heap is out of order. */
void line_check(const struct line *line, const struct line_place *places);
