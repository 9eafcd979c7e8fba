#include "model/step.h"

#include <inttypes.h>
#include <math.h>

#include "model/quantise.h"

/* Offsets are u32, and a message stays far below what a mistake in the limits could ask for. */
#define STEP_BYTES_MAX ((uint64_t)1 << 30)
/* Wider than what a front allows its callers; no sum of them overflows. */
#define TEMPERATURE_MAX 1000.0f
#define REPETITION_MAX 1000.0f
#define PENALTY_MAX 1000.0f
#define BIAS_MAX 1000.0f

/* Where the arrays start when each is as long as the limits allow. */
struct layout {
    uint64_t closes, opens, copies, rows, tokens, blocks, entries, end;
};

uint32_t step_slot_blocks_max(const struct step_limits *limits)
{
    return div_up_u32(limits->context_tokens, limits->block_tokens);
}

/* No slot's table can hold more, whether its blocks come with an open or with rows. */
static uint64_t blocks_max(const struct step_limits *limits)
{
    return (uint64_t)limits->slots_max * step_slot_blocks_max(limits);
}

static uint64_t entries_max(const struct step_limits *limits)
{
    return (uint64_t)limits->slots_max * SAMPLE_ENTRIES_MAX;
}

static uint64_t place(uint64_t *end, uint64_t count, size_t item_bytes)
{
    uint64_t start = *end;
    *end = (start + count * item_bytes + 7) / 8 * 8;
    return start;
}

/* Every count is below 2^40 and every item below 2^7 bytes, so the sums stay within 64 bits. */
static struct layout layout_of(const struct step_limits *limits)
{
    struct layout l = {.end = (sizeof(struct step) + 7) / 8 * 8};
    uint64_t tokens_count = (uint64_t)limits->open_tokens_max;
    l.closes = place(&l.end, limits->slots_max, sizeof(uint32_t));
    l.opens = place(&l.end, limits->slots_max, sizeof(struct step_open));
    l.copies = place(&l.end, limits->blocks_count, sizeof(struct step_copy));
    l.rows = place(&l.end, limits->rows_max, sizeof(struct step_row));
    l.tokens = place(&l.end, tokens_count, sizeof(uint32_t));
    l.blocks = place(&l.end, blocks_max(limits), sizeof(uint32_t));
    l.entries = place(&l.end, entries_max(limits), sizeof(struct sample_entry));
    return l;
}

enum status step_limits_check(const struct step_limits *limits, struct error *error)
{
    const struct {
        const char *name;
        uint32_t value, min, max;
    } table[] = {
        {"slots_max", limits->slots_max, 1, 1 << 16},
        {"rows_max", limits->rows_max, 1, 1 << 16},
        {"tokens_max", limits->tokens_max, 1, 1 << 20},
        {"context_tokens", limits->context_tokens, 1, 1 << 24},
        {"open_tokens_max", limits->open_tokens_max, limits->context_tokens, 1 << 28},
        {"block_tokens", limits->block_tokens, 1, 1024},
        {"blocks_count", limits->blocks_count, 1, 1 << 28},
    };
    for (size_t i = 0; i < array_count(table); i++)
        if (table[i].value < table[i].min || table[i].value > table[i].max)
            return error_set(error, STATUS_INVALID, "limits: %s: expected %u..%u, got %u",
                             table[i].name, table[i].min, table[i].max, table[i].value);
    if (limits->kv_dtype != DTYPE_F32 && limits->kv_dtype != DTYPE_BF16 &&
        limits->kv_dtype != DTYPE_Q8_0 && limits->kv_dtype != DTYPE_KV_E4M3)
        return error_set(error, STATUS_INVALID,
                         "limits: kv_dtype: expected F32 (%d), BF16 (%d), Q8_0 (%d) or E4M3 "
                         "(%d), got %u",
                         DTYPE_F32, DTYPE_BF16, DTYPE_Q8_0, DTYPE_KV_E4M3, limits->kv_dtype);
    if (limits->exact > 1)
        return error_set(error, STATUS_INVALID, "limits: exact: expected 0 or 1, got %u",
                         limits->exact);
    if (limits->quantise && !quantise_knows((enum dtype)limits->quantise))
        return error_set(error, STATUS_INVALID,
                         "limits: quantise: expected 0, Q8_0 (%d) or Q4_0 (%d), got %u", DTYPE_Q8_0,
                         DTYPE_Q4_0, limits->quantise);
    if (limits->quantise_head > 1)
        return error_set(error, STATUS_INVALID, "limits: quantise_head: expected 0 or 1, got %u",
                         limits->quantise_head);
    uint64_t end = layout_of(limits).end;
    if (end > STEP_BYTES_MAX)
        return error_set(error, STATUS_INVALID,
                         "limits: a step would have %" PRIu64 " bytes, expected at most %" PRIu64
                         ": lower slots_max, context_tokens or open_tokens_max",
                         end, STEP_BYTES_MAX);
    return STATUS_OK;
}

size_t step_bytes_max(const struct step_limits *limits)
{
    return (size_t)layout_of(limits).end;
}

size_t step_result_bytes_max(const struct step_limits *limits)
{
    return sizeof(struct step_result) + limits->rows_max * sizeof(struct step_result_row);
}

void step_begin(struct step *step, const struct step_limits *limits, uint64_t epoch,
                uint64_t number)
{
    struct layout l = layout_of(limits);
    CHECK(l.end <= STEP_BYTES_MAX);
    *step = (struct step){
        .version = STEP_VERSION,
        .size_bytes = (uint32_t)l.end,
        .number = number,
        .epoch = epoch,
        .closes_offset = (uint32_t)l.closes,
        .opens_offset = (uint32_t)l.opens,
        .copies_offset = (uint32_t)l.copies,
        .rows_offset = (uint32_t)l.rows,
        .tokens_offset = (uint32_t)l.tokens,
        .blocks_offset = (uint32_t)l.blocks,
        .entries_offset = (uint32_t)l.entries,
    };
}

/* What a check carries along: the step, and the words for its errors. */
struct check {
    const struct step *step;
    const struct step_limits *limits;
    struct error *error;
};

static enum status fault(const struct check *c, const char *record, uint32_t index,
                         const char *cause)
{
    return error_set(c->error, STATUS_INVALID, "step %" PRIu64 ": %s %u: %s", c->step->number,
                     record, index, cause);
}

static enum status check_array(const struct check *c, const char *name, uint32_t offset,
                               uint64_t array_bytes)
{
    if (offset % 8 || offset < sizeof(struct step) || offset > c->step->size_bytes ||
        array_bytes > c->step->size_bytes - offset)
        return error_set(c->error, STATUS_INVALID,
                         "step %" PRIu64 ": %s: %" PRIu64 " bytes at offset %u do not lie, "
                         "8-byte aligned, within the message of %u bytes",
                         c->step->number, name, array_bytes, offset, c->step->size_bytes);
    return STATUS_OK;
}

static enum status check_header(const struct check *c, size_t message_bytes)
{
    const struct step *s = c->step;
    if (s->version != STEP_VERSION)
        return error_set(c->error, STATUS_INVALID, "step: version %u, expected %d", s->version,
                         STEP_VERSION);
    if (s->size_bytes < sizeof *s || s->size_bytes > message_bytes)
        return error_set(c->error, STATUS_INVALID,
                         "step %" PRIu64 ": it says %u bytes, expected %zu..%zu", s->number,
                         s->size_bytes, sizeof *s, message_bytes);
    const struct {
        const char *name;
        uint32_t count;
        uint64_t max;
        uint32_t offset, item_bytes;
    } table[] = {
        {"closes", s->n_closes, c->limits->slots_max, s->closes_offset, sizeof(uint32_t)},
        {"opens", s->n_opens, c->limits->slots_max, s->opens_offset, sizeof(struct step_open)},
        {"copies", s->n_copies, c->limits->blocks_count, s->copies_offset,
         sizeof(struct step_copy)},
        {"rows", s->n_rows, c->limits->rows_max, s->rows_offset, sizeof(struct step_row)},
        {"tokens", s->n_tokens, c->limits->open_tokens_max, s->tokens_offset, sizeof(uint32_t)},
        {"blocks", s->n_blocks, blocks_max(c->limits), s->blocks_offset, sizeof(uint32_t)},
        {"entries", s->n_entries, entries_max(c->limits), s->entries_offset,
         sizeof(struct sample_entry)},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        if (table[i].count > table[i].max)
            return error_set(c->error, STATUS_INVALID,
                             "step %" PRIu64 ": %u %s, expected at most %" PRIu64, s->number,
                             table[i].count, table[i].name, table[i].max);
        enum status status = check_array(c, table[i].name, table[i].offset,
                                         (uint64_t)table[i].count * table[i].item_bytes);
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* [first, first + count) within [0, total). */
static bool range_inside(uint32_t first, uint32_t count, uint32_t total)
{
    return first <= total && count <= total - first;
}

static bool within(float value, float min, float max)
{
    return value >= min && value <= max; /* a NaN is not */
}

/* What is wrong with the sampling values, or NULL. */
static const char *sampling_fault(const struct sample_params *p)
{
    if (!within(p->temperature, 0, TEMPERATURE_MAX))
        return "temperature: expected a number 0..1000";
    if (!within(p->top_p, 0, 1))
        return "top_p: expected a number 0..1";
    if (!within(p->min_p, 0, 1))
        return "min_p: expected a number 0..1";
    if (!within(p->repetition_penalty, 0, REPETITION_MAX))
        return "repetition_penalty: expected a number 0..1000";
    if (!within(p->presence_penalty, -PENALTY_MAX, PENALTY_MAX))
        return "presence_penalty: expected a number -1000..1000";
    if (!within(p->frequency_penalty, -PENALTY_MAX, PENALTY_MAX))
        return "frequency_penalty: expected a number -1000..1000";
    if (p->n_logprobs > TOP_LOGPROBS_MAX)
        return "n_logprobs: expected at most 20";
    if (p->n_biases > SAMPLE_BIASES_MAX)
        return "n_biases: expected at most 300";
    if (p->n_holds > SAMPLE_HOLDS_MAX)
        return "n_holds: expected at most 32";
    return NULL;
}

_Static_assert(TOP_LOGPROBS_MAX == 20 && SAMPLE_BIASES_MAX == 300 && SAMPLE_HOLDS_MAX == 32,
               "the messages above say so");

/* Its biases and held ids; whether the vocabulary has them is the slots' to say. */
static const char *entries_fault(const struct step *s, const struct step_open *o)
{
    if (!range_inside(o->entries_first, o->sampling.n_biases + o->sampling.n_holds, s->n_entries))
        return "its entries lie outside of the step's entries";
    for (uint32_t i = 0; i < o->sampling.n_biases; i++)
        if (!within(step_entries(s)[o->entries_first + i].value, -BIAS_MAX, BIAS_MAX))
            return "bias: expected a number -1000..1000";
    return NULL;
}

static enum status check_opens(const struct check *c)
{
    const struct step *s = c->step;
    uint64_t tokens_count = 0;
    uint32_t table_max = step_slot_blocks_max(c->limits);
    for (uint32_t i = 0; i < s->n_opens; i++) {
        const struct step_open *o = &step_opens(s)[i];
        const char *sampling = sampling_fault(&o->sampling);
        tokens_count += o->n_tokens;
        if (o->slot >= c->limits->slots_max)
            return fault(c, "open", i, "slot out of range");
        if (o->n_tokens == 0 || o->n_tokens > c->limits->context_tokens)
            return fault(c, "open", i, "n_tokens: expected 1..context_tokens");
        if (!range_inside(o->tokens_first, o->n_tokens, s->n_tokens))
            return fault(c, "open", i, "its tokens lie outside of the step's tokens");
        if (o->n_blocks > table_max || o->behind_blocks > table_max - o->n_blocks)
            return fault(c, "open", i, "more blocks than the longest sequence needs");
        if (!range_inside(o->blocks_first, o->n_blocks, s->n_blocks))
            return fault(c, "open", i, "its blocks lie outside of the step's blocks");
        if (o->cached_tokens >= o->n_tokens ||
            o->cached_tokens > (uint64_t)(o->behind_blocks + o->n_blocks) * c->limits->block_tokens)
            return fault(c, "open", i, "cached_tokens: expected less than n_tokens, in its blocks");
        if (o->output_tokens >= o->n_tokens)
            return fault(c, "open", i, "output_tokens: expected less than n_tokens");
        if (o->adapter != 0)
            return fault(c, "open", i, "adapter: expected 0 (adapters are not supported yet)");
        if (!sampling)
            sampling = entries_fault(s, o);
        if (sampling)
            return fault(c, "open", i, sampling);
    }
    if (tokens_count > c->limits->open_tokens_max)
        return error_set(c->error, STATUS_INVALID,
                         "step %" PRIu64 ": opens bring %" PRIu64 " tokens, expected at most %u",
                         s->number, tokens_count, c->limits->open_tokens_max);
    return STATUS_OK;
}

static const char *row_fault(const struct check *c, const struct step_row *r)
{
    bool samples = r->flags & STEP_ROW_SAMPLES;
    uint64_t end = (uint64_t)r->first_position + r->n_tokens + (samples ? 1 : 0);
    if (r->slot >= c->limits->slots_max)
        return "slot out of range";
    if (r->n_tokens == 0)
        return "n_tokens: expected 1 or more";
    if (end > c->limits->context_tokens)
        return "its positions, and the token it samples, go past the longest sequence";
    if (r->source != STEP_HISTORY && r->source != STEP_LAST_SAMPLED)
        return "source: expected 0 (history) or 1 (last sampled)";
    if (r->source == STEP_LAST_SAMPLED && r->n_tokens != 1)
        return "n_tokens: expected 1 with the source last sampled";
    if (r->flags & ~STEP_ROW_SAMPLES)
        return "flags: an unknown flag is set";
    if (r->n_blocks > step_slot_blocks_max(c->limits))
        return "more blocks than the longest sequence needs";
    if (!range_inside(r->blocks_first, r->n_blocks, c->step->n_blocks))
        return "its blocks lie outside of the step's blocks";
    if (r->mask_slot != STEP_MASK_NONE)
        return "mask_slot: expected none (grammar masks are not supported yet)";
    return NULL;
}

static enum status check_rows(const struct check *c)
{
    uint64_t tokens_count = 0;
    for (uint32_t i = 0; i < c->step->n_rows; i++) {
        const struct step_row *r = &step_rows(c->step)[i];
        const char *cause = row_fault(c, r);
        if (cause)
            return fault(c, "row", i, cause);
        tokens_count += r->n_tokens;
    }
    if (tokens_count > c->limits->tokens_max)
        return error_set(c->error, STATUS_INVALID,
                         "step %" PRIu64 ": rows have %" PRIu64 " tokens, expected at most %u",
                         c->step->number, tokens_count, c->limits->tokens_max);
    return STATUS_OK;
}

static enum status check_numbers(const struct check *c)
{
    const struct step *s = c->step;
    uint32_t blocks_count = c->limits->blocks_count;
    for (uint32_t i = 0; i < s->n_closes; i++)
        if (step_closes(s)[i] >= c->limits->slots_max)
            return fault(c, "close", i, "slot out of range");
    for (uint32_t i = 0; i < s->n_copies; i++)
        if (step_copies(s)[i].from_block >= blocks_count ||
            step_copies(s)[i].to_block >= blocks_count)
            return fault(c, "copy", i, "block out of range");
    for (uint32_t i = 0; i < s->n_blocks; i++)
        if (step_blocks(s)[i] >= blocks_count)
            return fault(c, "block entry", i, "block out of range");
    return STATUS_OK;
}

enum status step_check(const struct step *step, size_t message_bytes,
                       const struct step_limits *limits, struct error *error)
{
    struct check c = {.step = step, .limits = limits, .error = error};
    if (message_bytes < sizeof *step)
        return error_set(error, STATUS_INVALID, "step: %zu bytes, expected at least %zu",
                         message_bytes, sizeof *step);
    enum status status = check_header(&c, message_bytes);
    if (!status)
        status = check_numbers(&c);
    if (!status)
        status = check_opens(&c);
    if (!status)
        status = check_rows(&c);
    return status;
}
