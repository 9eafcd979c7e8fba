/*
 * Decode of one sequence: tokens/s, and how fast its weights are read beside what the memory gives.
 *
 * usage: bench_decode MODEL [threads]
 *
 * Rounds of a probe (a plain streaming read by as many threads) and of decoding, interleaved, since
 * the machine's neighbours change from minute to minute; medians over the rounds. A model that fits
 * the caches can read faster than the probe, which does not.
 */
#include "base/clock.h"
#include "model/model.h"
#include "tests/bench/probe.h"

#define ROUNDS 7
#define ROUND_TOKENS 40
#define PROMPT_TOKENS 64

struct run {
    struct model *model;
    struct step_limits limits;
    struct step *step;
    struct step_result *result;
    uint64_t number;
    uint32_t position, blocks_used;
};

static void run_step(struct run *run)
{
    enum status status =
        model_step(run->model, run->step, step_bytes_max(&run->limits), run->result);
    if (status != STATUS_OK) {
        fprintf(stderr, "bench_decode: %s\n", run->result->error_text);
        exit(1);
    }
}

static void row_add(struct run *run, uint32_t n_tokens, uint32_t source)
{
    struct step *step = run->step;
    uint32_t end = run->position + n_tokens;
    uint32_t wanted = div_up_u32(end, run->limits.block_tokens);
    step_rows(step)[0] = (struct step_row){.first_position = run->position,
                                           .n_tokens = n_tokens,
                                           .source = source,
                                           .flags = STEP_ROW_SAMPLES,
                                           .n_blocks = wanted - run->blocks_used,
                                           .mask_slot = STEP_MASK_NONE};
    for (uint32_t b = run->blocks_used; b < wanted; b++)
        step_blocks(step)[step->n_blocks++] = b;
    step->n_rows = 1;
    run->blocks_used = wanted;
    run->position = end;
}

static double prefill_tokens_per_s(struct run *run)
{
    step_begin(run->step, &run->limits, 1, ++run->number);
    step_opens(run->step)[0] = (struct step_open){.n_tokens = PROMPT_TOKENS};
    run->step->n_opens = 1;
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        step_tokens(run->step)[run->step->n_tokens++] = 5 + i % 100;
    row_add(run, PROMPT_TOKENS, STEP_HISTORY);
    uint64_t start_ns = clock_now_ns();
    run_step(run);
    return PROMPT_TOKENS / ((double)(clock_now_ns() - start_ns) / (double)NS_PER_S);
}

static double decode_tokens_per_s(struct run *run, uint32_t n)
{
    uint64_t start_ns = clock_now_ns();
    for (uint32_t i = 0; i < n; i++) {
        step_begin(run->step, &run->limits, 1, ++run->number);
        row_add(run, 1, STEP_LAST_SAMPLED);
        run_step(run);
    }
    return n / ((double)(clock_now_ns() - start_ns) / (double)NS_PER_S);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

int main(int argc, char **argv)
{
    struct error error;
    struct run run = {0};
    double probe[ROUNDS], rate[ROUNDS], share[ROUNDS];
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench_decode MODEL [threads]\n");
        return 64;
    }
    uint32_t threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
    struct model_options options = {.ops = &ops_cpu, .device = {.threads_count = threads}};
    options.limits = (struct step_limits){.slots_max = 1,
                                          .rows_max = 1,
                                          .tokens_max = PROMPT_TOKENS,
                                          .open_tokens_max = 512,
                                          .context_tokens = 512,
                                          .block_tokens = 16,
                                          .blocks_count = 32};
    run.limits = options.limits;
    uint64_t start_ns = clock_now_ns();
    if (model_open(argv[1], &options, NULL, &run.model, &error) != STATUS_OK) {
        fprintf(stderr, "bench_decode: %s\n", error.text);
        return 1;
    }
    double load_ms = (double)(clock_now_ns() - start_ns) / (double)NS_PER_MS;
    run.step = calloc(1, step_bytes_max(&run.limits));
    run.result = calloc(1, step_result_bytes_max(&run.limits));

    double prefill = prefill_tokens_per_s(&run);
    decode_tokens_per_s(&run, ROUND_TOKENS); /* warm */
    double bytes = (double)model_decode_bytes(run.model);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        probe[i] = probe_read_gb_per_s(threads);
        rate[i] = decode_tokens_per_s(&run, ROUND_TOKENS);
        share[i] = rate[i] * bytes / 1e9 / probe[i] * 100.0;
    }
    double tokens_per_s = median(rate, ROUNDS);
    printf("%s: %s\n", argv[1], model_device_text(run.model));
    printf("  load %.0f ms, prefill of %u tokens %.0f tokens/s\n", load_ms, PROMPT_TOKENS, prefill);
    printf("  decode %.1f tokens/s, %.1f MB of weights a token, %.2f GB/s\n", tokens_per_s,
           bytes / 1e6, tokens_per_s * bytes / 1e9);
    printf("  memory probe %.2f GB/s: decode reads at %.0f %% of it\n", median(probe, ROUNDS),
           median(share, ROUNDS));
    model_close(run.model);
    free(run.step);
    free(run.result);
    return 0;
}
