#include "tests/sim/fake_worker.h"

/* Each block once, and those that several opens share. */
#define FAKE_PLAN_BLOCKS_MAX (FAKE_BLOCKS_MAX + FAKE_OPEN_TOKENS_MAX)

struct front_slot {
    bool open;
    sched_id id;
    uint64_t domain;
    uint32_t planned_tokens;
    uint32_t n_blocks;
    uint32_t n_behind;                 /* the first of them: no row that comes reads them */
    uint32_t blocks[FAKE_CONTEXT_MAX]; /* [n_blocks] */
    uint64_t used_by;                  /* the last step that opens it or has a row of it */
    uint64_t row_in;                   /* the last step with a row of it */
};

struct device_slot {
    bool open;
    uint32_t draw, n_tokens, n_blocks;
    uint32_t n_behind; /* the first entries of the table, which were never there */
    uint32_t tokens[FAKE_CONTEXT_MAX + 1]; /* [n_tokens] */
    uint32_t blocks[FAKE_CONTEXT_MAX];     /* [n_blocks] */
};

struct copied_step {
    uint64_t number;
    uint32_t n_closes, n_opens, n_rows, n_blocks, n_copies;
    uint32_t copies[FAKE_SLOTS_MAX][2];
    uint32_t closes[FAKE_SLOTS_MAX];
    struct sched_open_row opens[FAKE_SLOTS_MAX];
    uint32_t open_tokens[FAKE_SLOTS_MAX][FAKE_CONTEXT_MAX], open_draws[FAKE_SLOTS_MAX];
    struct sched_row rows[FAKE_SLOTS_MAX];
    uint32_t blocks[FAKE_PLAN_BLOCKS_MAX];
};

struct fake_worker {
    struct sched_limits limits;
    uint64_t noise;
    uint64_t handed_over, ran, retired;
    struct front_slot front[FAKE_SLOTS_MAX];
    uint64_t block_used_by[FAKE_BLOCKS_MAX]; /* the last step whose rows may touch it */
    uint32_t block_tables[FAKE_BLOCKS_MAX];  /* tables of open slots that name it */
    uint64_t block_domain[FAKE_BLOCKS_MAX];  /* of the slot that wrote it last */
    struct device_slot device[FAKE_SLOTS_MAX];
    uint64_t cells[FAKE_BLOCKS_MAX * FAKE_BLOCK_TOKENS_MAX];
    struct copied_step steps[SCHED_STEPS_MAX]; /* by number modulo */
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15ull + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdull;
    return x ^ (x >> 32);
}

/* The oldest position that position p reads. */
static uint32_t reach(uint32_t window_tokens, uint32_t p)
{
    return window_tokens == 0 || p < window_tokens ? 0 : p + 1 - window_tokens;
}

/* Of position p, from the cell before it and the oldest one that it reads; 0 where there is none.
 */
static uint64_t cell_make(uint64_t before, uint64_t oldest, uint32_t p, uint32_t token)
{
    return mix(mix(before, oldest), ((uint64_t)p << 32) | token);
}

void fake_prefix_add(struct fake_prefix *prefix, uint32_t token)
{
    uint32_t p = prefix->n_tokens, oldest = reach(prefix->window_tokens, p);
    MUST(p < FAKE_CONTEXT_MAX);
    prefix->cell = cell_make(p > oldest ? prefix->cells[p - 1] : 0,
                             p > oldest ? prefix->cells[oldest] : 0, p, token);
    prefix->cells[p] = prefix->cell;
    prefix->fold = mix(prefix->fold, prefix->cell);
    prefix->n_tokens++;
}

static uint32_t token_of(uint64_t fold, uint32_t draw)
{
    return (uint32_t)((draw ? mix(fold, draw) : fold) >> 16);
}

uint32_t fake_prefix_sample(const struct fake_prefix *prefix, uint32_t draw)
{
    uint64_t fold = 0;
    uint32_t last = prefix->n_tokens - 1;
    for (uint32_t p = reach(prefix->window_tokens, last); p <= last; p++)
        fold = mix(fold, prefix->cells[p]);
    return token_of(fold, draw);
}

struct sched_digest fake_prefix_digest(const struct fake_prefix *prefix, uint64_t domain)
{
    struct sched_digest digest;
    uint64_t words[4] = {mix(prefix->fold, domain), prefix->cell, prefix->fold, prefix->n_tokens};
    memcpy(digest.bytes, words, sizeof words);
    return digest;
}

struct fake_worker *fake_worker_new(const struct sched_limits *limits, uint64_t seed)
{
    MUST(limits->slots_max <= FAKE_SLOTS_MAX && limits->blocks_count <= FAKE_BLOCKS_MAX);
    MUST(limits->block_tokens <= FAKE_BLOCK_TOKENS_MAX);
    MUST(limits->context_tokens <= FAKE_CONTEXT_MAX);
    struct fake_worker *worker = calloc(1, sizeof *worker);
    MUST(worker);
    worker->limits = *limits;
    worker->noise = seed;
    fake_worker_restart(worker);
    return worker;
}

void fake_worker_free(struct fake_worker *worker)
{
    free(worker);
}

void fake_worker_restart(struct fake_worker *worker)
{
    memset(worker->front, 0, sizeof worker->front);
    memset(worker->device, 0, sizeof worker->device);
    memset(worker->block_used_by, 0, sizeof worker->block_used_by);
    memset(worker->block_tables, 0, sizeof worker->block_tables);
    memset(worker->block_domain, 0, sizeof worker->block_domain);
    worker->handed_over = worker->ran = worker->retired = 0;
    for (size_t i = 0; i < array_count(worker->cells); i++)
        worker->cells[i] = worker->noise = mix(worker->noise, i);
}

uint32_t fake_worker_steps(const struct fake_worker *worker)
{
    return (uint32_t)(worker->handed_over - worker->retired);
}

uint32_t fake_worker_open_slots(const struct fake_worker *worker)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < worker->limits.slots_max; i++)
        n += worker->front[i].open;
    return n;
}

bool fake_worker_slot(const struct fake_worker *worker, sched_id id, struct fake_slot *ret_slot)
{
    for (uint32_t i = 0; i < worker->limits.slots_max; i++) {
        const struct front_slot *slot = &worker->front[i];
        if (!slot->open || slot->id != id)
            continue;
        *ret_slot = (struct fake_slot){.room_tokens = slot->n_blocks * worker->limits.block_tokens,
                                       .row_in = slot->row_in};
        return true;
    }
    return false;
}

/* ---- the front's view: is this step allowed ---- */

static void blocks_granted(struct fake_worker *worker, struct front_slot *slot,
                           const uint32_t *blocks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        MUST(blocks[i] < worker->limits.blocks_count);
        MUST(worker->block_tables[blocks[i]] == 0);
        MUST(worker->block_used_by[blocks[i]] <= worker->retired);
        MUST(slot->n_blocks < FAKE_CONTEXT_MAX);
        worker->block_tables[blocks[i]] = 1;
        slot->blocks[slot->n_blocks++] = blocks[i];
    }
}

/* Read, never written: full of what its own domain computed. (Of what: the device sees.) */
static void blocks_shared(struct fake_worker *worker, struct front_slot *slot,
                          const uint32_t *blocks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        MUST(blocks[i] < worker->limits.blocks_count && slot->n_blocks < FAKE_CONTEXT_MAX);
        MUST(slot->domain != 0 && worker->block_domain[blocks[i]] == slot->domain);
        worker->block_tables[blocks[i]]++;
        slot->blocks[slot->n_blocks++] = blocks[i];
    }
}

/* Blocks behind the window of `position`, which is computed next. */
static uint32_t behind(const struct fake_worker *worker, uint32_t position)
{
    return reach(worker->limits.window_tokens, position) / worker->limits.block_tokens;
}

static void slot_slide(struct fake_worker *worker, struct front_slot *slot)
{
    uint32_t n_behind = behind(worker, slot->planned_tokens);
    for (; slot->n_behind < n_behind; slot->n_behind++)
        worker->block_tables[slot->blocks[slot->n_behind]]--;
}

static void closes_check(struct fake_worker *worker, const struct sched_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_closes; i++) {
        MUST(plan->closes[i] < worker->limits.slots_max);
        struct front_slot *slot = &worker->front[plan->closes[i]];
        MUST(slot->open);
        for (uint32_t b = slot->n_behind; b < slot->n_blocks; b++)
            worker->block_tables[slot->blocks[b]]--;
        slot->open = false;
        slot->n_blocks = slot->n_behind = 0;
    }
}

static void opens_check(struct fake_worker *worker, const struct sched_plan *plan,
                        fake_known_of known_of, void *context)
{
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < plan->n_opens; i++) {
        const struct sched_open_row *open = &plan->opens[i];
        MUST(open->slot < worker->limits.slots_max);
        struct front_slot *slot = &worker->front[open->slot];
        MUST(!slot->open);
        MUST(slot->used_by <= worker->retired);
        struct fake_known known = known_of(context, open->id);
        MUST(open->known_tokens == known.n_tokens && known.n_pending == 0);
        tokens += open->known_tokens;
        MUST(open->cached_tokens < open->known_tokens);
        MUST(open->behind_blocks <= behind(worker, open->cached_tokens));
        *slot = (struct front_slot){.open = true,
                                    .n_blocks = open->behind_blocks,
                                    .n_behind = open->behind_blocks,
                                    .id = open->id,
                                    .domain = known.domain,
                                    .planned_tokens = open->cached_tokens,
                                    .used_by = plan->step};
        MUST(open->blocks_first + open->n_blocks <= plan->n_blocks);
        const uint32_t *blocks = plan->blocks + open->blocks_first;
        uint32_t n_shared = open->cached_tokens / worker->limits.block_tokens - open->behind_blocks;
        MUST(n_shared <= open->n_blocks);
        blocks_shared(worker, slot, blocks, n_shared);
        blocks_granted(worker, slot, blocks + n_shared, open->n_blocks - n_shared);
    }
    MUST(tokens <= worker->limits.open_tokens_max);
}

static struct front_slot *slot_with(struct fake_worker *worker, uint32_t block)
{
    for (uint32_t i = 0; i < worker->limits.slots_max; i++)
        for (uint32_t b = worker->front[i].n_behind;
             worker->front[i].open && b < worker->front[i].n_blocks; b++)
            if (worker->front[i].blocks[b] == block)
                return &worker->front[i];
    return NULL;
}

/* Into a private block of a slot that opens now, from a block of its domain that stays as it is. */
static void copies_check(struct fake_worker *worker, const struct sched_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_copies; i++) {
        uint32_t from = plan->copies[i][0], to = plan->copies[i][1];
        MUST(from < worker->limits.blocks_count && to < worker->limits.blocks_count);
        struct front_slot *slot = slot_with(worker, to);
        MUST(slot && slot->used_by == plan->step && worker->block_tables[to] == 1);
        MUST(slot->domain != 0 && worker->block_domain[from] == slot->domain);
        worker->block_domain[to] = slot->domain;
        for (uint32_t j = 0; j < plan->n_copies; j++)
            MUST(plan->copies[j][1] != from && (i == j || plan->copies[j][1] != to));
        for (uint32_t j = 0; j < plan->n_rows; j++)
            for (uint32_t b = 0; b < plan->rows[j].n_blocks; b++)
                MUST(plan->blocks[plan->rows[j].blocks_first + b] != from);
    }
}

static void row_check(struct fake_worker *worker, const struct sched_plan *plan,
                      const struct sched_row *row, const struct fake_known *known)
{
    MUST(row->slot < worker->limits.slots_max);
    struct front_slot *slot = &worker->front[row->slot];
    MUST(slot->open && slot->id == row->id && slot->row_in != plan->step);
    MUST(row->n_tokens >= 1 && row->n_tokens <= worker->limits.chunk_tokens_max);
    MUST(row->first_position == slot->planned_tokens);
    uint32_t end = row->first_position + row->n_tokens;
    if (row->from_last) {
        /* The input is the token of the newest sampling row in flight, and of no other. */
        MUST(row->n_tokens == 1 && row->samples && known->n_pending > 0);
        MUST(row->first_position == known->n_tokens - 1 + known->n_pending);
    } else {
        MUST(known->n_pending == 0 && end <= known->n_tokens);
        MUST(row->samples == (end == known->n_tokens));
    }
    MUST(row->blocks_first + row->n_blocks <= plan->n_blocks);
    blocks_granted(worker, slot, plan->blocks + row->blocks_first, row->n_blocks);
    MUST(end <= slot->n_blocks * worker->limits.block_tokens);
    MUST(slot->n_behind <= behind(worker, row->first_position));
    for (uint32_t b = slot->n_behind; b < slot->n_blocks; b++)
        worker->block_used_by[slot->blocks[b]] = plan->step;
    for (uint32_t p = row->first_position; p < end; p++) {
        uint32_t block = slot->blocks[p / worker->limits.block_tokens];
        MUST(worker->block_tables[block] == 1);
        worker->block_domain[block] = slot->domain;
    }
    slot->planned_tokens = end;
    slot->used_by = slot->row_in = plan->step;
    slot_slide(worker, slot);
}

static void step_copy(struct fake_worker *worker, const struct sched_plan *plan,
                      fake_known_of known_of, void *context)
{
    struct copied_step *step = &worker->steps[plan->step % SCHED_STEPS_MAX];
    step->number = plan->step;
    step->n_closes = plan->n_closes;
    step->n_opens = plan->n_opens;
    step->n_rows = plan->n_rows;
    step->n_blocks = plan->n_blocks;
    step->n_copies = plan->n_copies;
    memcpy(step->copies, plan->copies, plan->n_copies * sizeof *plan->copies);
    memcpy(step->closes, plan->closes, plan->n_closes * sizeof *plan->closes);
    memcpy(step->opens, plan->opens, plan->n_opens * sizeof *plan->opens);
    memcpy(step->rows, plan->rows, plan->n_rows * sizeof *plan->rows);
    memcpy(step->blocks, plan->blocks, plan->n_blocks * sizeof *plan->blocks);
    for (uint32_t i = 0; i < plan->n_opens; i++) {
        struct fake_known known = known_of(context, plan->opens[i].id);
        step->open_draws[i] = known.draw;
        memcpy(step->open_tokens[i], known.tokens, known.n_tokens * sizeof *known.tokens);
    }
}

void fake_worker_hand_over(struct fake_worker *worker, const struct sched_plan *plan,
                           fake_known_of known_of, void *context)
{
    MUST(plan->step == worker->handed_over + 1);
    MUST(fake_worker_steps(worker) < SCHED_STEPS_MAX);
    MUST(plan->n_closes + plan->n_opens + plan->n_rows > 0);
    MUST(plan->n_closes <= worker->limits.slots_max && plan->n_opens <= worker->limits.slots_max);
    MUST(plan->n_rows <= worker->limits.step_rows_max && plan->n_rows <= worker->limits.slots_max);
    MUST(plan->n_blocks <= FAKE_PLAN_BLOCKS_MAX && plan->n_copies <= plan->n_opens);
    closes_check(worker, plan);
    opens_check(worker, plan, known_of, context);
    copies_check(worker, plan);
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        struct fake_known known = known_of(context, plan->rows[i].id);
        row_check(worker, plan, &plan->rows[i], &known);
        tokens += plan->rows[i].n_tokens;
    }
    MUST(tokens <= worker->limits.step_tokens_max);
    step_copy(worker, plan, known_of, context);
    worker->handed_over = plan->step;
}

/* ---- the device's view: run it ---- */

static uint64_t *cell_of(struct fake_worker *worker, const struct device_slot *slot, uint32_t p)
{
    uint32_t block_tokens = worker->limits.block_tokens;
    MUST(p / block_tokens >= slot->n_behind && p / block_tokens < slot->n_blocks);
    return &worker->cells[slot->blocks[p / block_tokens] * block_tokens + p % block_tokens];
}

static void blocks_append(struct device_slot *slot, const uint32_t *blocks, uint32_t n)
{
    MUST(slot->n_blocks + n <= FAKE_CONTEXT_MAX);
    memcpy(slot->blocks + slot->n_blocks, blocks, n * sizeof *blocks);
    slot->n_blocks += n;
}

static void row_run(struct fake_worker *worker, const struct sched_row *row)
{
    struct device_slot *slot = &worker->device[row->slot];
    MUST(slot->open);
    for (uint32_t i = 0; i < row->n_tokens; i++) {
        uint32_t p = row->first_position + i;
        MUST(p < slot->n_tokens);
        MUST(!row->from_last || p == slot->n_tokens - 1);
        uint32_t oldest = reach(worker->limits.window_tokens, p);
        *cell_of(worker, slot, p) =
            cell_make(p > oldest ? *cell_of(worker, slot, p - 1) : 0,
                      p > oldest ? *cell_of(worker, slot, oldest) : 0, p, slot->tokens[p]);
    }
}

/* What an open says is computed must be there, cell by cell; its copies were made. */
static void cached_verify(struct fake_worker *worker, const struct sched_open_row *open)
{
    const struct device_slot *slot = &worker->device[open->slot];
    struct fake_prefix prefix = {.window_tokens = worker->limits.window_tokens};
    for (uint32_t p = 0; p < open->cached_tokens; p++) {
        fake_prefix_add(&prefix, slot->tokens[p]);
        MUST(p / worker->limits.block_tokens < slot->n_behind ||
             *cell_of(worker, slot, p) == prefix.cell);
    }
}

static void copies_run(struct fake_worker *worker, const struct copied_step *step)
{
    uint32_t block_tokens = worker->limits.block_tokens;
    for (uint32_t i = 0; i < step->n_copies; i++)
        memcpy(worker->cells + step->copies[i][1] * block_tokens,
               worker->cells + step->copies[i][0] * block_tokens,
               block_tokens * sizeof *worker->cells);
}

static uint32_t row_sample(struct fake_worker *worker, const struct sched_row *row)
{
    struct device_slot *slot = &worker->device[row->slot];
    uint64_t fold = 0;
    MUST(row->first_position + row->n_tokens == slot->n_tokens);
    for (uint32_t p = reach(worker->limits.window_tokens, slot->n_tokens - 1); p < slot->n_tokens;
         p++)
        fold = mix(fold, *cell_of(worker, slot, p));
    MUST(slot->n_tokens <= FAKE_CONTEXT_MAX);
    return slot->tokens[slot->n_tokens++] = token_of(fold, slot->draw);
}

uint32_t fake_worker_run(struct fake_worker *worker, struct fake_token *ret_tokens,
                         uint64_t *ret_step)
{
    MUST(worker->ran < worker->handed_over);
    const struct copied_step *step = &worker->steps[++worker->ran % SCHED_STEPS_MAX];
    MUST(step->number == worker->ran);
    for (uint32_t i = 0; i < step->n_closes; i++) {
        MUST(worker->device[step->closes[i]].open);
        worker->device[step->closes[i]].open = false;
    }
    for (uint32_t i = 0; i < step->n_opens; i++) {
        const struct sched_open_row *open = &step->opens[i];
        struct device_slot *slot = &worker->device[open->slot];
        MUST(!slot->open);
        *slot = (struct device_slot){.open = true,
                                     .draw = step->open_draws[i],
                                     .n_tokens = open->known_tokens,
                                     .n_blocks = open->behind_blocks,
                                     .n_behind = open->behind_blocks};
        memcpy(slot->tokens, step->open_tokens[i], slot->n_tokens * sizeof *slot->tokens);
        blocks_append(slot, step->blocks + open->blocks_first, open->n_blocks);
    }
    copies_run(worker, step);
    for (uint32_t i = 0; i < step->n_opens; i++)
        cached_verify(worker, &step->opens[i]);
    uint32_t n = 0;
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct sched_row *row = &step->rows[i];
        blocks_append(&worker->device[row->slot], step->blocks + row->blocks_first, row->n_blocks);
        row_run(worker, row);
        if (row->samples)
            ret_tokens[n++] = (struct fake_token){.id = row->id, .token = row_sample(worker, row)};
    }
    *ret_step = step->number;
    return n;
}

void fake_worker_retired(struct fake_worker *worker)
{
    MUST(worker->retired < worker->ran);
    worker->retired++;
}
