/*
 * The head: a product that leaves notes of its logits, and `sample` that is given them. What is
 * chosen and reported must be, bit for bit, what the same logits give without notes: for ties that
 * lie far apart, logits that are not finite, every kind of sampling, and rows whose log-probability
 * nobody wants (all but that one number).
 */
#include "tests/oracle/rig.h"

#include <math.h>

enum { VOCAB = 1500, IN = 64, ROWS_MAX = 9, HISTORY = 16 };

struct head_case {
    uint32_t n_rows;
    enum dtype dtypes[2]; /* of the first 700 outputs and of the others */
    bool logprob_off;
};

static struct sample_params params_of(uint32_t row, bool logprob_off)
{
    return (struct sample_params){.temperature = row % 3 == 2 ? 0.8f : 0,
                                  .top_k = row % 3 == 2 ? 50 : 0,
                                  .n_logprobs = logprob_off ? 0 : row % 4,
                                  .presence_penalty = row % 4 == 3 ? 0.5f : 0,
                                  .logprob_off = logprob_off,
                                  .seed = 40 + row};
}

static void sample_run(struct rig *rig, const struct head_case *c, const float *logits,
                       const struct logits_note *notes, struct sample_result *results)
{
    struct sample_params params[ROWS_MAX];
    uint32_t positions[ROWS_MAX], prompts[ROWS_MAX], slots[ROWS_MAX], history[ROWS_MAX * HISTORY];
    for (uint32_t r = 0; r < c->n_rows; r++) {
        params[r] = params_of(r, c->logprob_off);
        positions[r] = 10;
        prompts[r] = 4;
        slots[r] = r;
    }
    for (uint32_t i = 0; i < ROWS_MAX * HISTORY; i++)
        history[i] = i * 97 % VOCAB;
    size_t bytes = c->n_rows * sizeof *results;
    struct sample_args args = {.n_rows = c->n_rows,
                               .vocab = VOCAB,
                               .logits = logits,
                               .notes = notes,
                               .host_params = params,
                               .host_positions = positions,
                               .host_prompt_tokens = prompts,
                               .host_slots = slots,
                               .host_places = slots,
                               .history = rig_put(rig, history, sizeof history),
                               .history_tokens = HISTORY,
                               .last_sampled = rig_poison(rig, sizeof slots),
                               .results = rig_put(rig, NULL, bytes)};
    rig->ops->sample(rig->device, &args);
    rig_get(rig, args.results, results, bytes);
}

/* Two parts whose outputs are equal where ids differ by a multiple of 350: the best is a tie. */
static struct weight *head_pack(struct rig *rig, const struct head_case *c, void *const data[2])
{
    struct weight_part parts[2];
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t out_count = i ? VOCAB - 700 : 700;
        size_t row_bytes = IN / dtype_block_count(c->dtypes[i]) * dtype_block_bytes(c->dtypes[i]);
        char *rows = data[i];
        for (uint32_t o = 350; o < out_count; o++)
            memcpy(rows + o * row_bytes, rows + (o - 350) * row_bytes, row_bytes);
        parts[i] = (struct weight_part){c->dtypes[i], out_count, rows};
    }
    struct weight_source source = {
        .stack_count = 1, .n_parts = 2, .out_count = VOCAB, .in_count = IN, .parts = parts};
    return rig_weight_source(rig, &source);
}

static void head_check(void **state, struct dice *dice, const struct head_case *c)
{
    struct rig rig = rig_tested(state);
    void *data[2] = {dice_weights(dice, c->dtypes[0], 700 * IN, 1),
                     dice_weights(dice, c->dtypes[1], (VOCAB - 700) * IN, 1)};
    float *in = dice_floats(dice, ROWS_MAX * IN, 1);
    if (c->n_rows > 4) {
        in[2 * IN + 3] = NAN;
        for (uint32_t i = 0; i < IN; i++) /* zeros: all logits are equal */
            in[4 * IN + i] = 0;
        in[3 * IN] = 0x1p127f; /* sums overflow, where the type lets them */
        in[3 * IN + 1] = 0x1p127f;
    }
    struct linear_args args = {.weight = head_pack(&rig, c, data),
                               .n_rows = c->n_rows,
                               .in = rig_put(&rig, in, c->n_rows * IN * sizeof *in),
                               .out = rig_poison(&rig, c->n_rows * VOCAB * sizeof *in),
                               .notes =
                                   rig_put(&rig, NULL, c->n_rows * sizeof(struct logits_note))};
    struct sample_result with[ROWS_MAX], without[ROWS_MAX];
    rig.ops->linear(rig.device, &args);
    sample_run(&rig, c, args.out, args.notes, with);
    sample_run(&rig, c, args.out, NULL, without);
    for (uint32_t r = 0; r < c->n_rows; r++) {
        if (c->logprob_off)
            with[r].logprob = without[r].logprob = 0;
        assert_int_equal(with[r].id, without[r].id);
        assert_int_equal(with[r].not_finite, without[r].not_finite);
        assert_memory_equal(&with[r], &without[r], sizeof with[r]);
    }
    if (c->n_rows > 4) {
        assert_int_equal(with[2].not_finite, 1);
        assert_int_equal(with[4].id, 0); /* the lowest of equal ones */
    }
    rig_close(&rig);
    free(data[0]);
    free(data[1]);
    free(in);
}

static void notes_change_nothing(void **state)
{
    static const enum dtype types[][2] = {{DTYPE_F32, DTYPE_F32},
                                          {DTYPE_Q8_0, DTYPE_Q8_0},
                                          {DTYPE_Q4_1, DTYPE_BF16},
                                          {DTYPE_F16, DTYPE_Q4_0}};
    struct dice dice = {60};
    for (uint32_t n_rows = 1; n_rows <= ROWS_MAX; n_rows++)
        for (size_t t = 0; t < array_count(types); t++) {
            struct head_case c = {.n_rows = n_rows, .dtypes = {types[t][0], types[t][1]}};
            head_check(state, &dice, &c);
            c.logprob_off = true;
            head_check(state, &dice, &c);
        }
}

int main(void)
{
    static const struct rig_test tests[] = {{"head: notes change nothing", notes_change_nothing}};
    return rig_main("head", tests, array_count(tests));
}
