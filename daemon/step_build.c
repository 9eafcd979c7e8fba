#include "daemon/step_build.h"

static void entries_add(struct step *step, const struct step_sequence *sequence)
{
    struct sample_entry *entries = step_entries(step);
    for (uint32_t i = 0; i < sequence->sampling->n_biases; i++)
        entries[step->n_entries++] = sequence->biases[i];
    for (uint32_t i = 0; i < sequence->sampling->n_holds; i++)
        entries[step->n_entries++] = (struct sample_entry){.id = sequence->holds[i]};
}

static uint32_t open_add(const struct step_builder *builder, struct step *step,
                         const struct sched_open_row *from)
{
    struct step_sequence sequence = builder->sequence(builder->context, from->id);
    CHECK(sequence.prompt_tokens <= from->known_tokens);
    CHECK(step->n_tokens + from->known_tokens <= builder->limits->open_tokens_max);
    step_opens(step)[step->n_opens++] = (struct step_open){
        .slot = from->slot,
        .n_tokens = from->known_tokens,
        .tokens_first = step->n_tokens,
        .n_blocks = from->n_blocks,
        .blocks_first = from->blocks_first,
        .cached_tokens = from->cached_tokens,
        .output_tokens = from->known_tokens - sequence.prompt_tokens,
        .behind_blocks = from->behind_blocks,
        .entries_first = step->n_entries,
        .sampling = *sequence.sampling,
    };
    entries_add(step, &sequence);
    memcpy(step_tokens(step) + step->n_tokens, sequence.tokens,
           from->known_tokens * sizeof(uint32_t));
    return from->known_tokens;
}

static struct step_row row_from(const struct sched_row *from)
{
    return (struct step_row){
        .slot = from->slot,
        .first_position = from->first_position,
        .n_tokens = from->n_tokens,
        .source = from->from_last ? STEP_LAST_SAMPLED : STEP_HISTORY,
        .flags = from->samples ? STEP_ROW_SAMPLES : 0,
        .n_blocks = from->n_blocks,
        .blocks_first = from->blocks_first,
        .mask_slot = STEP_MASK_NONE,
    };
}

void step_build(const struct step_builder *builder, const struct sched_plan *plan, uint64_t epoch,
                uint64_t number, struct step *step)
{
    step_begin(step, builder->limits, epoch, number);
    memcpy(step_closes(step), plan->closes, plan->n_closes * sizeof(uint32_t));
    step->n_closes = plan->n_closes;
    for (uint32_t i = 0; i < plan->n_opens; i++)
        step->n_tokens += open_add(builder, step, &plan->opens[i]);
    for (uint32_t i = 0; i < plan->n_copies; i++)
        step_copies(step)[i] =
            (struct step_copy){.from_block = plan->copies[i][0], .to_block = plan->copies[i][1]};
    step->n_copies = plan->n_copies;
    for (uint32_t i = 0; i < plan->n_rows; i++)
        step_rows(step)[i] = row_from(&plan->rows[i]);
    step->n_rows = plan->n_rows;
    memcpy(step_blocks(step), plan->blocks, plan->n_blocks * sizeof(uint32_t));
    step->n_blocks = plan->n_blocks;
}
