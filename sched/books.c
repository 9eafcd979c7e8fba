#include "sched/books.h"

void books_tick(struct sched *sched, uint64_t now_ns)
{
    if (now_ns > sched->now_ns)
        sched->now_ns = now_ns;
}

static void slot_free(struct sched *sched, uint32_t slot)
{
    sched->slots[slot].state = SLOT_FREE;
    sched->free_slots[sched->n_free_slots++] = slot;
}

static uint32_t slot_take(struct sched *sched, sched_id holder)
{
    CHECK(sched->n_free_slots > 0);
    uint32_t slot = sched->free_slots[--sched->n_free_slots];
    CHECK(sched->slots[slot].state == SLOT_FREE && !sched->slots[slot].held);
    sched->slots[slot] = (struct slot){.state = SLOT_OPEN, .held = true, .holder = holder};
    return slot;
}

static void slot_owe_close(struct sched *sched, uint32_t slot)
{
    CHECK(sched->slots[slot].state == SLOT_OPEN);
    sched->slots[slot].state = SLOT_OWED;
    sched->owed[sched->n_owed++] = slot;
}

void slot_closed(struct sched *sched, uint32_t slot)
{
    CHECK(sched->slots[slot].state == SLOT_OWED);
    sched->slots[slot].state = SLOT_CLOSED;
    if (!sched->slots[slot].held)
        slot_free(sched, slot);
}

void sched_slots_reset(struct sched *sched)
{
    uint32_t n = sched->limits.slots_max;
    memset(sched->slots, 0, n * sizeof *sched->slots);
    for (uint32_t i = 0; i < n; i++)
        sched->free_slots[i] = n - 1 - i;
    sched->n_free_slots = n;
    sched->n_owed = 0;
}

void flights_reset(struct sched *sched)
{
    for (uint32_t f = 0; f < sched->n_flights; f++)
        for (uint32_t i = 0; i < sched->flights[f].n_rows; i++) {
            struct seq *seq = &sched->seqs[sched->flights[f].rows[i]];
            seq->rows_in_flight = 0;
            seq->n_pending = 0;
        }
    sched->n_flights = 0;
    sched->next_step = 1;
}

void seq_wait(struct sched *sched, struct seq *seq, bool front)
{
    DCHECK(!seq->in_line);
    if (seq->state != SEQ_WAITING) {
        CHECK(seq->state == SEQ_FREE || seq->state == SEQ_RUNNING);
        seq->state = SEQ_WAITING;
        sched->n_waiting++;
        sched->n_waiting_new += !seq->admitted;
    }
    seq->in_line = true;
    sched->policy->enqueue(sched->policy_state, seq, front, sched->now_ns);
}

static void line_leave(struct sched *sched, struct seq *seq)
{
    sched->policy->dequeue(sched->policy_state, seq);
    seq->in_line = false;
}

void seq_aside(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING && seq->in_line && seq->paused);
    line_leave(sched, seq);
}

static void waiting_leave(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING);
    if (seq->in_line)
        line_leave(sched, seq);
    sched->n_waiting--;
    sched->n_waiting_new -= !seq->admitted;
}

void seq_run(struct sched *sched, struct seq *seq)
{
    CHECK(seq->slot == SEQ_NO_SLOT && seq->rows_in_flight == 0 && seq->n_pending == 0);
    waiting_leave(sched, seq);
    seq->state = SEQ_RUNNING;
    seq->admitted = true;
    seq->planned_tokens = 0;
    seq->row_step = 0; /* step numbers start again when the worker is lost */
    seq->slot = slot_take(sched, seq->id);
    sched->running[sched->n_running++] = seq;
    sched->admitted_total++;
}

/* The list is short and dense; a search beats keeping every place up to date. */
static void running_leave(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_RUNNING);
    uint32_t i = 0;
    while (sched->running[i] != seq)
        CHECK(++i < sched->n_running);
    sched->n_running--;
    memmove(&sched->running[i], &sched->running[i + 1],
            (sched->n_running - i) * sizeof *sched->running);
}

/* Slot and blocks of a sequence that has just stopped running: at once or when steps retire. */
static void seq_let_go(struct sched *sched, struct seq *seq)
{
    slot_owe_close(sched, seq->slot);
    sched->releasing_blocks += sched->blocks.table_counts[seq->slot];
    if (seq->rows_in_flight == 0)
        seq_release(sched, seq);
}

void seq_return(struct sched *sched, struct seq *seq)
{
    running_leave(sched, seq);
    seq_wait(sched, seq, true);
    seq_let_go(sched, seq);
}

static void seq_ended(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_ENDING && seq->rows_in_flight == 0 && seq->slot == SEQ_NO_SLOT);
    seq->state = SEQ_ENDED;
    uint32_t place = sched->ended_first + sched->n_ended++;
    if (place >= sched->limits.requests_max)
        place -= sched->limits.requests_max;
    sched->ended[place] = seq->id;
    sched->ended_total++;
}

void seq_end(struct sched *sched, struct seq *seq)
{
    deadlines_remove(&sched->deadlines, seq->id);
    if (seq->state == SEQ_WAITING) {
        waiting_leave(sched, seq);
        seq->state = SEQ_ENDING;
        /* One that was preempted lately holds its slot until the steps that name it retire. */
        if (seq->slot == SEQ_NO_SLOT)
            seq_ended(sched, seq);
    } else {
        running_leave(sched, seq);
        seq->state = SEQ_ENDING;
        seq_let_go(sched, seq);
    }
}

void seq_release(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_WAITING || seq->state == SEQ_ENDING);
    CHECK(seq->rows_in_flight == 0 && seq->slot != SEQ_NO_SLOT);
    sched->releasing_blocks -= blocks_give_back(&sched->blocks, seq->slot);
    struct slot *slot = &sched->slots[seq->slot];
    CHECK(slot->held && slot->holder == seq->id);
    slot->held = false;
    if (slot->state == SLOT_CLOSED)
        slot_free(sched, seq->slot);
    seq->slot = SEQ_NO_SLOT;
    if (seq->state == SEQ_ENDING)
        seq_ended(sched, seq);
}
