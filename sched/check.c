/*
 * All books against each other. It costs a walk over everything, so it is for tests and the debug
 * plane, where it turns a slow corruption into a report at the call that caused it.
 */
#include "sched/books.h"

static void books_print(const struct sched *sched)
{
    static const char *const states[] = {"free", "waiting", "running", "ending", "ended"};
    fprintf(
        stderr,
        "sched: waiting %u (new %u) running %u ended %u free ids %u, flights %u next step %llu, "
        "blocks free %u releasing %u of %u, slots free %u owed %u\n",
        sched->n_waiting, sched->n_waiting_new, sched->n_running, sched->n_ended, sched->n_free_ids,
        sched->n_flights, (unsigned long long)sched->next_step, sched->blocks.free_count,
        sched->releasing_blocks, sched->blocks.count, sched->n_free_slots, sched->n_owed);
    for (uint32_t i = 0; i < sched->limits.requests_max; i++) {
        const struct seq *seq = &sched->seqs[i];
        if (seq->state == SEQ_FREE)
            continue;
        fprintf(
            stderr,
            "sched: id %u %s slot %d line %d paused %d, prompt %u sampled %u of %u, planned %u, "
            "rows in flight %u pending %u\n",
            i, states[seq->state], (int)seq->slot, seq->in_line, seq->paused, seq->prompt_tokens,
            seq->sampled_tokens, seq->output_tokens_max, seq->planned_tokens, seq->rows_in_flight,
            seq->n_pending);
    }
}

/* Like CHECK, with the state of everybody before it. */
#define BOOKS(sched, condition)                                                                    \
    do {                                                                                           \
        if (unlikely(!(condition))) {                                                              \
            books_print(sched);                                                                    \
            check_failed(__FILE__, __LINE__, __func__, #condition);                                \
        }                                                                                          \
    } while (0)

static uint32_t rows_of(const struct sched *sched, sched_id id)
{
    uint32_t n = 0;
    for (uint32_t f = 0; f < sched->n_flights; f++)
        for (uint32_t i = 0; i < sched->flights[f].n_rows; i++)
            n += sched->flights[f].rows[i] == id;
    return n;
}

static bool step_flies(const struct sched *sched, uint64_t step)
{
    for (uint32_t f = 0; f < sched->n_flights; f++)
        if (sched->flights[f].step == step)
            return true;
    return false;
}

static void seq_check_running(const struct sched *sched, const struct seq *seq)
{
    uint32_t known = seq_known_tokens(seq);
    BOOKS(sched, seq->slot != SEQ_NO_SLOT && !seq->in_line && seq->admitted);
    BOOKS(sched, sched->slots[seq->slot].state == SLOT_OPEN);
    BOOKS(sched, seq->n_pending == 0 ? seq->planned_tokens < known
                                     : seq->planned_tokens == known - 1 + seq->n_pending);
    BOOKS(sched, seq->planned_tokens <= seq->planned_high_tokens);
    BOOKS(sched, seq->computed_tokens <= seq->planned_tokens);
    BOOKS(sched, seq->listed_blocks <= seq->computed_tokens / sched->blocks.block_tokens);
    BOOKS(sched, seq->prefilling == (!seq->paused && seq_ready_tokens(seq) > 1));
    uint32_t end = blocks_table_end(&sched->blocks, seq->slot);
    BOOKS(sched, blocks_for(&sched->blocks, seq->planned_tokens) <= seq->told_blocks);
    BOOKS(sched, seq->told_blocks <= end && (sched->window.tokens || seq->told_blocks == end));
    /* All that its window still reads, and no more than a sequence ever holds. */
    BOOKS(sched, sched->blocks.table_firsts[seq->slot] ==
                     window_behind(&sched->window, seq->computed_tokens));
    BOOKS(sched, sched->blocks.table_counts[seq->slot] <= sched->window.most_blocks);
}

static void seq_check(const struct sched *sched, const struct seq *seq)
{
    BOOKS(sched, &sched->seqs[seq->id] == seq);
    if (seq->state == SEQ_FREE)
        return;
    BOOKS(sched, seq->rows_in_flight == rows_of(sched, seq->id));
    BOOKS(sched, seq->n_pending <= seq->rows_in_flight);
    for (uint32_t i = 0; i < seq->n_pending; i++) {
        BOOKS(sched, step_flies(sched, seq->pending_steps[i]));
        BOOKS(sched, i == 0 || seq->pending_steps[i - 1] < seq->pending_steps[i]);
    }
    if (seq->slot != SEQ_NO_SLOT) {
        const struct slot *slot = &sched->slots[seq->slot];
        BOOKS(sched, slot->held && slot->holder == seq->id);
        BOOKS(sched, seq->state == SEQ_RUNNING || seq->rows_in_flight > 0);
    } else {
        BOOKS(sched, seq->rows_in_flight == 0);
    }
    bool over = seq->state == SEQ_ENDING || seq->state == SEQ_ENDED;
    BOOKS(sched, over || seq->sampled_tokens + seq->n_pending <= seq->output_tokens_max);
    BOOKS(sched, over || seq->sampled_tokens < seq->output_tokens_max);
    bool has_deadline = sched->deadlines.places[seq->id] != 0;
    BOOKS(sched, has_deadline == (!over && seq->deadline_ns != UINT64_MAX));
    BOOKS(sched, !seq->in_line || seq->state == SEQ_WAITING);
    if (seq->state == SEQ_RUNNING)
        seq_check_running(sched, seq);
    if (seq->state == SEQ_WAITING)
        BOOKS(sched, seq->in_line ? !seq->held : seq->held || seq->paused);
    if (seq->state == SEQ_ENDING)
        BOOKS(sched, seq->slot != SEQ_NO_SLOT);
    if (seq->state == SEQ_ENDED)
        BOOKS(sched, seq->slot == SEQ_NO_SLOT);
}

static void counts_check(const struct sched *sched)
{
    uint32_t n[SEQ_ENDED + 1] = {0}, n_new = 0;
    for (uint32_t i = 0; i < sched->limits.requests_max; i++) {
        const struct seq *seq = &sched->seqs[i];
        n[seq->state]++;
        n_new += seq->state == SEQ_WAITING && !seq->admitted;
    }
    uint32_t n_prefilling = 0, n_paused = 0;
    for (uint32_t i = 0; i < sched->n_running; i++) {
        n_prefilling += sched->running[i]->prefilling;
        n_paused += sched->running[i]->paused;
    }
    BOOKS(sched, n_prefilling == sched->n_prefilling && n_paused == sched->n_paused);
    BOOKS(sched, n[SEQ_FREE] == sched->n_free_ids);
    BOOKS(sched, n[SEQ_WAITING] == sched->n_waiting && n_new == sched->n_waiting_new);
    BOOKS(sched, n[SEQ_RUNNING] == sched->n_running && n[SEQ_ENDED] == sched->n_ended);
    for (uint32_t i = 0; i < sched->n_free_ids; i++)
        BOOKS(sched, sched->seqs[sched->free_ids[i]].state == SEQ_FREE);
    for (uint32_t i = 0; i < sched->n_running; i++)
        BOOKS(sched, sched->running[i]->state == SEQ_RUNNING);
}

static void slots_check(const struct sched *sched)
{
    uint32_t n_free = 0, n_owed = 0, releasing = 0;
    for (uint32_t i = 0; i < sched->limits.slots_max; i++) {
        const struct slot *slot = &sched->slots[i];
        n_free += slot->state == SLOT_FREE;
        n_owed += slot->state == SLOT_OWED;
        BOOKS(sched, slot->held || (slot->state != SLOT_OPEN && slot->state != SLOT_CLOSED));
        BOOKS(sched, !slot->held || slot->state != SLOT_FREE);
        BOOKS(sched, !slot->held || sched->seqs[slot->holder].slot == i);
        BOOKS(sched, slot->held || sched->blocks.table_counts[i] == 0);
        if (slot->held && slot->state != SLOT_OPEN)
            releasing += sched->blocks.table_counts[i];
    }
    BOOKS(sched, n_free == sched->n_free_slots && n_owed == sched->n_owed);
    BOOKS(sched, releasing == sched->releasing_blocks);
    for (uint32_t i = 0; i < sched->n_free_slots; i++)
        BOOKS(sched, sched->slots[sched->free_slots[i]].state == SLOT_FREE);
    for (uint32_t i = 0; i < sched->n_owed; i++)
        BOOKS(sched, sched->slots[sched->owed[i]].state == SLOT_OWED);
}

/* A block that the group's own domain lists: of this group, of this place. True for the tail. */
static bool tail_check(const struct sched *sched, const struct seq *seq, uint32_t place)
{
    const struct prefix *prefix = &sched->blocks.prefix;
    uint32_t block = blocks_table(&sched->blocks, seq->slot)[place];
    uint64_t domain = prefix->domains[prefix->blocks[block].domain].id;
    uint32_t n_full = seq->prompt_tokens / sched->blocks.block_tokens;
    if (!group_owns_domain(domain))
        return false;
    BOOKS(sched, seq->group != GROUP_NONE && sched->groups[seq->group].domain == domain);
    struct sched_digest name = group_name(&sched->groups[seq->group], place);
    BOOKS(sched, memcmp(&name, &prefix->blocks[block].digest, sizeof name) == 0);
    BOOKS(sched, place < n_full ? seq->lists_in_group
                                : place == n_full && seq->computed_tokens >= seq->prompt_tokens);
    return place == n_full;
}

/* Nobody has a block of another, but blocks of his own domain that are full and written no more. */
static void owners_check(const struct sched *sched)
{
    const struct prefix *prefix = &sched->blocks.prefix;
    for (uint32_t slot = 0; slot < sched->limits.slots_max; slot++) {
        if (sched->blocks.table_counts[slot] == 0)
            continue;
        const struct seq *seq = &sched->seqs[sched->slots[slot].holder];
        uint32_t first = sched->blocks.table_firsts[slot];
        for (uint32_t i = first; i < blocks_table_end(&sched->blocks, slot); i++) {
            uint32_t block = blocks_table(&sched->blocks, slot)[i];
            if (!prefix_is_listed(prefix, block) || tail_check(sched, seq, i)) {
                BOOKS(sched, sched->blocks.blocks[block].references == 1);
                BOOKS(sched, sched->blocks.blocks[block].owner == seq->id);
                continue;
            }
            BOOKS(sched, i < seq->listed_blocks);
            BOOKS(sched, (i + 1) * sched->blocks.block_tokens <= seq->computed_tokens);
            if (group_owns_domain(prefix->domains[prefix->blocks[block].domain].id))
                continue; /* tail_check has seen to it */
            BOOKS(sched, prefix->domains[prefix->blocks[block].domain].id == seq->cache_domain);
            BOOKS(sched,
                  i >= seq->n_digests || memcmp(&seq->digests[i], &prefix->blocks[block].digest,
                                                sizeof seq->digests[i]) == 0);
        }
    }
}

/* What the rows say against what the sequences are. */
static void tenants_balance(const struct sched *sched)
{
    const struct tenants *tenants = &sched->tenants;
    uint32_t unused = 0;
    for (uint32_t i = 0; i < tenants->count; i++) {
        const struct tenant *row = &tenants->rows[i];
        uint32_t waiting = 0, running = 0, prefilling = 0, blocks = 0, releasing = 0;
        for (uint32_t s = 0; s < sched->limits.requests_max; s++) {
            const struct seq *seq = &sched->seqs[s];
            if (seq->state == SEQ_FREE || !tenants_is_below(tenants, seq->tenant, row))
                continue;
            waiting += seq->state == SEQ_WAITING;
            running += seq->state == SEQ_RUNNING;
            prefilling += seq->state == SEQ_RUNNING && !seq->paused && seq_ready_tokens(seq) > 1;
            uint32_t n = seq->slot == SEQ_NO_SLOT ? 0 : sched->blocks.table_counts[seq->slot];
            blocks += n;
            releasing += seq->state == SEQ_RUNNING ? 0 : n;
        }
        BOOKS(sched, row->n_waiting == waiting && row->n_running == running);
        BOOKS(sched, row->n_prefilling == prefilling);
        BOOKS(sched, row->blocks == blocks && row->releasing_blocks == releasing);
        unused += row->reserved_blocks > blocks ? row->reserved_blocks - blocks : 0;
    }
    BOOKS(sched, tenants->unused_blocks == unused);
}

void sched_check(const struct sched *sched)
{
    blocks_check(&sched->blocks);
    deadlines_check(&sched->deadlines);
    counts_check(sched);
    slots_check(sched);
    owners_check(sched);
    groups_check(sched);
    tenants_balance(sched);
    for (uint32_t i = 0; i < sched->limits.requests_max; i++)
        seq_check(sched, &sched->seqs[i]);
    BOOKS(sched, sched->n_flights <= SCHED_STEPS_MAX);
    for (uint32_t f = 0; f < sched->n_flights; f++)
        BOOKS(sched, sched->flights[f].step == sched->next_step - sched->n_flights + f);
}
