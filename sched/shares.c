#include "sched/shares.h"

#define ARITY 4

/* ---- memory and tables ---- */

static uint32_t rows_max(const struct sched_limits *limits)
{
    return u32_max(limits->tenants_max, 1);
}

size_t shares_footprint(const struct sched_limits *limits)
{
    size_t rows = rows_max(limits);
    return (rows + 1) * (sizeof(struct share) + sizeof(uint64_t) + sizeof(struct outputs)) +
           rows * sizeof(uint32_t);
}

void shares_init(struct shares *shares, const struct sched_limits *limits,
                 const struct tenants *tenants, void *memory)
{
    uint32_t rows = rows_max(limits);
    *shares = (struct shares){.tenants = tenants, .root = rows, .rows = memory};
    shares->sums = (uint64_t *)(shares->rows + rows + 1);
    shares->outputs = (struct outputs *)(shares->sums + rows + 1);
    shares->heap = (uint32_t *)(shares->outputs + rows + 1);
    for (uint32_t i = 0; i <= rows; i++) {
        struct share *share = &shares->rows[i];
        share->parent = SHARES_NOBODY;
        share->weight = 1;
        share->limit_v = UINT64_MAX;
        share->chunks_first = share->chunks_last = LINE_NOBODY;
        line_init(&share->lines[0]);
        line_init(&share->lines[1]);
    }
    shares_rebuild(shares);
}

static uint32_t parent_of(const struct shares *shares, uint32_t row)
{
    uint32_t parent = shares->tenants->rows[row].parent;
    return parent == TENANT_TOP ? shares->root : parent;
}

static void units_compute(struct shares *shares)
{
    uint64_t time = shares->unit_cost * SHARES_ONE;
    for (uint32_t i = 0; i < shares->tenants->count; i++) {
        struct share *share = &shares->rows[i];
        share->unit_v = time / share->weight;
        share->unit_remainder = (uint32_t)(time % share->weight);
    }
}

static void heaps_lay_out(struct shares *shares)
{
    uint64_t *sizes = shares->sums;
    uint32_t first = 0, count = shares->tenants->count;
    memset(sizes, 0, (shares->root + 1) * sizeof *sizes);
    for (uint32_t i = 0; i < count; i++)
        sizes[parent_of(shares, i)]++;
    for (uint32_t i = 0; i <= shares->root; i++) {
        shares->rows[i].heap_first = first;
        shares->rows[i].heap_count = 0;
        shares->rows[i].place = 0;
        first += (uint32_t)sizes[i];
    }
}

/* Sums of inner rows come from the leaves, which keep theirs. (A leaf that has somebody stays one.)
 */
static void sums_recount(struct shares *shares)
{
    struct share *rows = shares->rows;
    uint32_t count = shares->tenants->count;
    for (uint32_t i = 0; i <= shares->root; i++) {
        rows[i].n_line = 0;
        rows[i].weights = rows[i].live_weights = 0;
        bool is_inner = i == shares->root || (i < count && shares->tenants->rows[i].has_children);
        if (is_inner || rows[i].is_inner)
            rows[i].promised_tokens = rows[i].n_live = 0;
        rows[i].is_inner = is_inner;
    }
    for (uint32_t i = 0; i < count; i++) {
        rows[rows[i].parent].weights += rows[i].weight;
        if (rows[i].is_inner)
            continue;
        uint32_t n_line = rows[i].lines[0].count + rows[i].lines[1].count;
        for (uint32_t at = i; at != SHARES_NOBODY; at = rows[at].parent) {
            rows[at].n_line += n_line;
            rows[at].n_live += at == i ? 0 : rows[i].n_live;
            rows[at].promised_tokens += at == i ? 0 : rows[i].promised_tokens;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        rows[rows[i].parent].live_weights += rows[i].n_live > 0 ? rows[i].weight : 0;
}

/* Not in a step: no chunks, nobody out. */
void shares_rebuild(struct shares *shares)
{
    uint32_t count = shares->tenants->count;
    heaps_lay_out(shares);
    for (uint32_t i = 0; i < count; i++) {
        struct share *share = &shares->rows[i];
        uint32_t parent = parent_of(shares, i);
        share->weight = shares->tenants->rows[i].weight;
        share->remainder = 0;
        if (share->parent != parent)
            share->v = shares->rows[parent].now_v;
        share->parent = parent;
    }
    units_compute(shares);
    sums_recount(shares);
    for (uint32_t i = 0; i < count; i++)
        shares_update(shares, i);
}

void shares_live(struct shares *shares, uint32_t leaf, uint32_t n)
{
    struct share *rows = shares->rows;
    for (uint32_t row = leaf; row != shares->root; row = rows[row].parent) {
        struct share *share = &rows[row], *parent = &rows[share->parent];
        bool was_live = share->n_live > 0;
        share->n_live += n;
        if (was_live && share->n_live == 0)
            parent->live_weights -= share->weight;
        if (!was_live)
            parent->live_weights += share->weight;
    }
    rows[shares->root].n_live += n;
}

bool shares_has_more(const struct shares *shares, uint32_t leaf, uint32_t blocks_count)
{
    uint32_t path[TENANT_LEVELS_MAX], n = 0;
    for (uint32_t row = leaf; row != shares->root; row = shares->rows[row].parent)
        path[n++] = row;
    uint64_t part = blocks_count;
    while (n-- > 0) {
        const struct share *share = &shares->rows[path[n]], *parent = &shares->rows[share->parent];
        uint64_t idle = parent->weights - parent->live_weights;
        uint64_t all = parent->live_weights + (idle < share->weight ? idle : share->weight);
        part = part * share->weight / all;
        if (shares->tenants->rows[path[n]].blocks > part)
            return true;
    }
    return false;
}

/* ---- heaps ---- */

static void heap_put(struct shares *shares, const struct share *parent, uint32_t place,
                     uint32_t row)
{
    shares->heap[parent->heap_first + place] = row;
    shares->rows[row].place = place + 1;
}

static void heap_rise(struct shares *shares, const struct share *parent, uint32_t place,
                      uint32_t row)
{
    while (place > 0) {
        uint32_t above = (place - 1) / ARITY;
        uint32_t other = shares->heap[parent->heap_first + above];
        if (!shares_behind(shares, row, other))
            break;
        heap_put(shares, parent, place, other);
        place = above;
    }
    heap_put(shares, parent, place, row);
}

static void heap_sink(struct shares *shares, const struct share *parent, uint32_t place,
                      uint32_t row)
{
    const uint32_t *heap = shares->heap + parent->heap_first;
    for (;;) {
        uint32_t child = ARITY * place + 1, best = child;
        if (child >= parent->heap_count)
            break;
        uint32_t end = u32_min(child + ARITY, parent->heap_count);
        for (uint32_t c = child + 1; c < end; c++)
            if (shares_behind(shares, heap[c], heap[best]))
                best = c;
        if (!shares_behind(shares, heap[best], row))
            break;
        heap_put(shares, parent, place, heap[best]);
        place = best;
    }
    heap_put(shares, parent, place, row);
}

static void heap_leave(struct shares *shares, uint32_t row)
{
    struct share *share = &shares->rows[row], *parent = &shares->rows[share->parent];
    uint32_t place = share->place - 1;
    share->place = 0;
    uint32_t last = shares->heap[parent->heap_first + --parent->heap_count];
    if (last == row)
        return;
    heap_rise(shares, parent, place, last);
    heap_sink(shares, parent, shares->rows[last].place - 1, last);
}

void shares_update(struct shares *shares, uint32_t row)
{
    struct share *share = &shares->rows[row];
    bool active = (share->n_line > 0 || share->n_chunks > 0) && !share->is_out;
    if (active == (share->place > 0))
        return;
    if (!active) {
        heap_leave(shares, row);
        return;
    }
    struct share *parent = &shares->rows[share->parent];
    heap_rise(shares, parent, parent->heap_count++, row);
}

/* ---- virtual time ---- */

void shares_set_unit(struct shares *shares, uint32_t unit_cost)
{
    shares->unit_cost = unit_cost;
    units_compute(shares);
}

void shares_charge(struct shares *shares, uint32_t leaf, uint64_t cost, uint32_t kept_tokens)
{
    bool unit = cost == shares->unit_cost;
    for (uint32_t row = leaf; row != shares->root; row = shares->rows[row].parent) {
        struct share *share = &shares->rows[row];
        uint64_t time = cost * SHARES_ONE;
        share->v += unit ? share->unit_v : time / share->weight;
        share->remainder += unit ? share->unit_remainder : (uint32_t)(time % share->weight);
        if (share->remainder >= share->weight) {
            share->remainder -= share->weight;
            share->v++;
        }
        share->promised_tokens -= kept_tokens;
        if (share->place > 0)
            heap_sink(shares, &shares->rows[share->parent], share->place - 1, row);
    }
}

void shares_pass(struct shares *shares, uint32_t parent, uint64_t v)
{
    struct share *share = &shares->rows[parent];
    share->now_v = u64_max(share->now_v, v);
}

void shares_promise(struct shares *shares, uint32_t leaf, int64_t n_tokens)
{
    for (uint32_t row = leaf; n_tokens != 0 && row != shares->root;
         row = shares->rows[row].parent) {
        struct share *share = &shares->rows[row];
        share->promised_tokens += (uint64_t)n_tokens;
        if (share->place == 0)
            continue;
        struct share *parent = &shares->rows[share->parent];
        if (n_tokens > 0)
            heap_sink(shares, parent, share->place - 1, row);
        else
            heap_rise(shares, parent, share->place - 1, row);
    }
}

/* Its siblings may have moved on since one of them was chosen. */
void shares_lift(struct shares *shares, uint32_t row, uint64_t credit_cost)
{
    struct share *share = &shares->rows[row];
    uint32_t first = shares_first(shares, share->parent);
    if (first != SHARES_NOBODY)
        shares_pass(shares, share->parent, shares->rows[first].v);
    uint64_t now_v = shares->rows[share->parent].now_v;
    uint64_t credit = credit_cost * SHARES_ONE / share->weight;
    CHECK(share->place == 0);
    if (now_v > credit)
        share->v = u64_max(share->v, now_v - credit);
}

bool shares_part(const struct shares *shares, uint32_t a, uint32_t b, uint32_t *ret_a,
                 uint32_t *ret_b)
{
    const struct tenant *rows = shares->tenants->rows;
    if (a == b)
        return false;
    while (rows[a].level > rows[b].level)
        a = shares->rows[a].parent;
    while (rows[b].level > rows[a].level)
        b = shares->rows[b].parent;
    while (shares->rows[a].parent != shares->rows[b].parent) {
        a = shares->rows[a].parent;
        b = shares->rows[b].parent;
    }
    *ret_a = a;
    *ret_b = b;
    return true;
}

/* ---- lengths of outputs ---- */

void outputs_add(struct outputs *outputs, uint32_t n_tokens)
{
    uint32_t at = 0;
    if (outputs->n == OUTPUTS_COUNT) {
        uint32_t gone = outputs->recent[outputs->oldest];
        while (outputs->sorted[at] != gone)
            at++;
        outputs->n--;
        memmove(&outputs->sorted[at], &outputs->sorted[at + 1],
                (outputs->n - at) * sizeof *outputs->sorted);
    }
    at = outputs->n;
    while (at > 0 && outputs->sorted[at - 1] > n_tokens) {
        outputs->sorted[at] = outputs->sorted[at - 1];
        at--;
    }
    outputs->sorted[at] = n_tokens;
    outputs->n++;
    outputs->recent[outputs->oldest] = n_tokens;
    outputs->oldest = (outputs->oldest + 1) % OUTPUTS_COUNT;
    if (outputs->n >= OUTPUTS_MIN)
        outputs->p80 = outputs->sorted[(outputs->n * 4 - 1) / 5];
}

/* ---- check ---- */

void shares_check(const struct shares *shares)
{
    for (uint32_t i = 0; i <= shares->root; i++) {
        const struct share *share = &shares->rows[i];
        const uint32_t *heap = shares->heap + share->heap_first;
        for (uint32_t c = 0; c < share->heap_count; c++) {
            CHECK(shares->rows[heap[c]].parent == i && shares->rows[heap[c]].place == c + 1);
            CHECK(c == 0 || !shares_behind(shares, heap[c], heap[(c - 1) / ARITY]));
        }
    }
    for (uint32_t i = 0; i < shares->tenants->count; i++) {
        const struct share *share = &shares->rows[i];
        uint32_t n_line = share->lines[0].count + share->lines[1].count;
        uint64_t promised = share->is_inner ? 0 : share->promised_tokens;
        for (uint32_t c = 0; c < shares->tenants->count; c++) {
            n_line += shares->rows[c].parent == i ? shares->rows[c].n_line : 0;
            promised += shares->rows[c].parent == i ? shares->rows[c].promised_tokens : 0;
        }
        CHECK(share->promised_tokens == promised && (share->n_live > 0 || promised == 0));
        CHECK(share->n_line == n_line && share->remainder < share->weight);
        CHECK(share->n_live >= share->n_line);
        CHECK((share->place > 0) == ((share->n_line > 0 || share->n_chunks > 0) && !share->is_out));
    }
}
