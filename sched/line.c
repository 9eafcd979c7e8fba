#include "sched/line.h"

void line_init(struct line *line)
{
    *line = (struct line){.root = LINE_NOBODY};
}

static bool goes_before(const struct line_place *a, const struct line_place *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->seq->number < b->seq->number;
}

/* ---- the leftist heap: the way to the right is the short one, O(log n), and all go that way ----
 */

static uint32_t rank_of(const struct line_place *places, uint32_t id)
{
    return id == LINE_NOBODY ? 0 : places[id].rank;
}

/* Puts the longer side left; true when the rank is another than before. */
static bool place_settle(struct line_place *places, uint32_t id)
{
    struct line_place *p = &places[id];
    if (rank_of(places, p->left) < rank_of(places, p->right)) {
        uint32_t left = p->left;
        p->left = p->right;
        p->right = left;
    }
    uint32_t rank = rank_of(places, p->right) + 1;
    bool changed = rank != p->rank;
    p->rank = rank;
    return changed;
}

static uint32_t heaps_merge(struct line_place *places, uint32_t a, uint32_t b)
{
    if (a == LINE_NOBODY || b == LINE_NOBODY)
        return a == LINE_NOBODY ? b : a;
    if (goes_before(&places[b], &places[a])) {
        uint32_t first = b;
        b = a;
        a = first;
    }
    uint32_t right = heaps_merge(places, places[a].right, b);
    places[a].right = right;
    places[right].before = a;
    place_settle(places, a);
    return a;
}

void line_enter(struct line *line, struct line_place *places, const struct seq *seq,
                uint64_t due_ns)
{
    CHECK(!places[seq->id].seq);
    places[seq->id] = (struct line_place){.seq = seq,
                                          .due_ns = due_ns,
                                          .before = LINE_NOBODY,
                                          .left = LINE_NOBODY,
                                          .right = LINE_NOBODY,
                                          .rank = 1};
    line->root = heaps_merge(places, line->root, seq->id);
    places[line->root].before = LINE_NOBODY;
    line->count++;
    line_looked_at(places, seq);
}

void line_leave(struct line *line, struct line_place *places, const struct seq *seq)
{
    struct line_place *p = &places[seq->id];
    CHECK(p->seq == seq);
    uint32_t before = p->before, heir = heaps_merge(places, p->left, p->right);
    if (heir != LINE_NOBODY)
        places[heir].before = before;
    if (before == LINE_NOBODY)
        line->root = heir;
    else
        *(places[before].left == seq->id ? &places[before].left : &places[before].right) = heir;
    while (before != LINE_NOBODY && place_settle(places, before))
        before = places[before].before;
    line->count--;
    p->seq = NULL;
}

static uint32_t work_of(const struct seq *seq)
{
    return seq->prompt_tokens - u32_min(seq->matched_tokens, seq->prompt_tokens);
}

void line_looked_at(struct line_place *places, const struct seq *seq)
{
    places[seq->id].work_tokens = work_of(seq);
}

/* ---- whose turn ---- */

/* The frontier holds the children of those taken so far; the next in order is the first of it. */
static uint32_t frontier_take(const struct line_place *places, uint32_t *frontier, uint32_t *n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < *n; i++)
        if (goes_before(&places[frontier[i]], &places[frontier[best]]))
            best = i;
    uint32_t id = frontier[best];
    frontier[best] = frontier[--*n];
    if (places[id].left != LINE_NOBODY)
        frontier[(*n)++] = places[id].left;
    if (places[id].right != LINE_NOBODY)
        frontier[(*n)++] = places[id].right;
    return id;
}

const struct seq *line_pick(const struct line *line, const struct line_place *places)
{
    if (line->root == LINE_NOBODY)
        return NULL;
    const struct line_place *first = &places[line->root];
    if (line->count == 1 || first->due_ns == 0 || first->bypassed_count >= LINE_BYPASS_MAX ||
        first->seq->deadline_ns != UINT64_MAX)
        return first->seq;
    uint32_t frontier[LINE_WINDOW + 2] = {line->root}, n = 1;
    const struct line_place *best = first;
    for (uint32_t i = 0; i < LINE_WINDOW && n > 0; i++) {
        const struct line_place *p = &places[frontier_take(places, frontier, &n)];
        if (p->work_tokens < best->work_tokens)
            best = p;
    }
    return best->seq;
}

void line_passed(struct line *line, struct line_place *places, const struct seq *seq)
{
    if (line->root != seq->id)
        places[line->root].bypassed_count++;
}

static uint32_t heap_check(const struct line_place *places, uint32_t id, uint32_t before)
{
    if (id == LINE_NOBODY)
        return 0;
    const struct line_place *p = &places[id];
    CHECK(p->seq && p->seq->id == id && p->before == before);
    CHECK(p->work_tokens == work_of(p->seq));
    CHECK(before == LINE_NOBODY || !goes_before(p, &places[before]));
    CHECK(rank_of(places, p->left) >= rank_of(places, p->right));
    CHECK(p->rank == rank_of(places, p->right) + 1);
    return 1 + heap_check(places, p->left, id) + heap_check(places, p->right, id);
}

void line_check(const struct line *line, const struct line_place *places)
{
    CHECK(heap_check(places, line->root, LINE_NOBODY) == line->count);
}
