#include "model/slots.h"

#include <inttypes.h>

enum status slots_open(const struct step_limits *limits, uint32_t vocab, uint32_t window_tokens,
                       struct slots *ret_slots, struct error *error)
{
    struct slots slots = {.limits = *limits, .vocab = vocab, .window_tokens = window_tokens};
    size_t slots_count = limits->slots_max;
    slots.now = calloc(slots_count, sizeof *slots.now);
    slots.next = calloc(slots_count, sizeof *slots.next);
    slots.history = calloc(slots_count * limits->context_tokens, sizeof *slots.history);
    slots.table_first = calloc(limits->rows_max, sizeof *slots.table_first);
    if (!slots.now || !slots.next || !slots.history || !slots.table_first) {
        slots_close(&slots);
        return error_set(error, STATUS_EXHAUSTED,
                         "out of memory for the token history of %u sequences of %u tokens",
                         limits->slots_max, limits->context_tokens);
    }
    *ret_slots = slots;
    return STATUS_OK;
}

void slots_close(struct slots *slots)
{
    free(slots->now);
    free(slots->next);
    free(slots->history);
    free(slots->table_first);
    *slots = (struct slots){0};
}

uint64_t slots_bytes(const struct step_limits *limits)
{
    return (uint64_t)limits->slots_max *
           (2 * sizeof(struct slot) + (uint64_t)limits->context_tokens * sizeof(uint32_t));
}

void slots_reset(struct slots *slots)
{
    memset(slots->now, 0, slots->limits.slots_max * sizeof *slots->now);
}

const uint32_t *slots_history(const struct slots *slots, uint32_t slot)
{
    return slots->history + (size_t)slot * slots->limits.context_tokens;
}

static enum status fault(const struct step *step, const char *record, uint32_t index,
                         struct error *error, const char *cause)
{
    return error_set(error, STATUS_INVALID, "step %" PRIu64 ": %s %u: %s", step->number, record,
                     index, cause);
}

/* Entries at the beginning of a table that position `position` and those after it never read. */
static uint32_t blocks_behind(const struct slots *slots, uint32_t position)
{
    uint32_t window = slots->window_tokens;
    bool cut = window > 0 && position >= window;
    return cut ? (position - window + 1) / slots->limits.block_tokens : 0;
}

static enum status play_open(struct slots *slots, const struct step *step, uint32_t index,
                             struct error *error)
{
    const struct step_open *open = &step_opens(step)[index];
    const uint32_t *tokens = step_tokens(step) + open->tokens_first;
    struct slot *slot = &slots->next[open->slot];
    char cause[120];
    if (slot->is_open) {
        snprintf(cause, sizeof cause, "slot %u is open already", open->slot);
        return fault(step, "open", index, error, cause);
    }
    if (open->behind_blocks > blocks_behind(slots, open->cached_tokens)) {
        snprintf(cause, sizeof cause,
                 "its table begins at block %u, but position %u reads from block %u on",
                 open->behind_blocks, open->cached_tokens,
                 blocks_behind(slots, open->cached_tokens));
        return fault(step, "open", index, error, cause);
    }
    for (uint32_t i = 0; i < open->n_tokens; i++)
        if (tokens[i] >= slots->vocab) {
            snprintf(cause, sizeof cause, "token %u is id %u, expected 0..%u", i, tokens[i],
                     slots->vocab - 1);
            return fault(step, "open", index, error, cause);
        }
    const struct sample_entry *entries = step_entries(step) + open->entries_first;
    uint32_t n_entries = open->sampling.n_biases + open->sampling.n_holds;
    for (uint32_t i = 0; i < n_entries; i++)
        if (entries[i].id >= slots->vocab) {
            snprintf(cause, sizeof cause, "%s is for id %u, expected 0..%u",
                     i < open->sampling.n_biases ? "a bias" : "a hold", entries[i].id,
                     slots->vocab - 1);
            return fault(step, "open", index, error, cause);
        }
    *slot = (struct slot){
        .is_open = true,
        .known_tokens = open->n_tokens,
        .prompt_tokens = open->n_tokens - open->output_tokens,
        .computed_tokens = open->cached_tokens,
        .n_blocks = open->behind_blocks + open->n_blocks,
        .sampling = open->sampling,
    };
    return STATUS_OK;
}

static enum status play_row(struct slots *slots, const struct step *step, uint32_t index,
                            struct error *error)
{
    const struct step_row *row = &step_rows(step)[index];
    struct slot *slot = &slots->next[row->slot];
    uint32_t end = row->first_position + row->n_tokens;
    uint32_t n_blocks = slot->n_blocks + row->n_blocks;
    char cause[160] = "";
    if (!slot->is_open)
        snprintf(cause, sizeof cause, "slot %u is not open", row->slot);
    else if (slot->samples_now)
        snprintf(cause, sizeof cause, "slot %u samples a new token in this step already",
                 row->slot);
    else if (row->first_position != slot->computed_tokens)
        snprintf(cause, sizeof cause, "first_position %u, but slot %u has %u positions computed",
                 row->first_position, row->slot, slot->computed_tokens);
    else if (end > slot->known_tokens)
        snprintf(cause, sizeof cause, "positions up to %u, but slot %u has %u tokens", end,
                 row->slot, slot->known_tokens);
    else if (row->source == STEP_LAST_SAMPLED &&
             (slot->sampled_position == 0 || row->first_position != slot->sampled_position))
        snprintf(cause, sizeof cause, "slot %u did not sample the token of position %u last",
                 row->slot, row->first_position);
    else if (n_blocks > step_slot_blocks_max(&slots->limits))
        snprintf(cause, sizeof cause, "slot %u would have %u blocks, expected at most %u",
                 row->slot, n_blocks, step_slot_blocks_max(&slots->limits));
    else if ((uint64_t)n_blocks * slots->limits.block_tokens < end)
        snprintf(cause, sizeof cause, "positions up to %u, but slot %u has %u blocks of %u", end,
                 row->slot, n_blocks, slots->limits.block_tokens);
    if (*cause)
        return fault(step, "row", index, error, cause);

    slots->table_first[index] = slot->n_blocks;
    slot->n_blocks = n_blocks;
    slot->computed_tokens = end;
    if ((row->flags & STEP_ROW_SAMPLES) && end == slot->known_tokens) {
        slot->samples_now = true;
        slot->sampled_position = end;
        slot->known_tokens = end + 1;
    }
    return STATUS_OK;
}

enum status slots_check(struct slots *slots, const struct step *step, struct error *error)
{
    enum status status = STATUS_OK;
    memcpy(slots->next, slots->now, slots->limits.slots_max * sizeof *slots->next);
    for (uint32_t i = 0; i < slots->limits.slots_max; i++)
        slots->next[i].samples_now = false;
    for (uint32_t i = 0; i < step->n_closes; i++) {
        struct slot *slot = &slots->next[step_closes(step)[i]];
        if (!slot->is_open)
            return fault(step, "close", i, error, "its slot is not open");
        *slot = (struct slot){0};
    }
    for (uint32_t i = 0; i < step->n_opens && !status; i++)
        status = play_open(slots, step, i, error);
    for (uint32_t i = 0; i < step->n_rows && !status; i++)
        status = play_row(slots, step, i, error);
    return status;
}

void slots_commit(struct slots *slots, const struct step *step)
{
    struct slot *old = slots->now;
    slots->now = slots->next;
    slots->next = old;
    for (uint32_t i = 0; i < step->n_opens; i++) {
        const struct step_open *open = &step_opens(step)[i];
        memcpy(slots->history + (size_t)open->slot * slots->limits.context_tokens,
               step_tokens(step) + open->tokens_first, open->n_tokens * sizeof *slots->history);
    }
}

void slots_sampled(struct slots *slots, uint32_t slot, uint32_t position, uint32_t id)
{
    const struct slot *s = &slots->now[slot];
    CHECK(s->is_open && position < slots->limits.context_tokens);
    if (s->samples_now && s->sampled_position == position)
        slots->history[(size_t)slot * slots->limits.context_tokens + position] = id;
}
