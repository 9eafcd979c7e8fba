/*
 * A whole model: a prompt of 512 tokens, and decoding of 1, 4, 16 and 32 sequences at once, in
 * tokens a second, beside the roof that the probes of the same run give.
 *
 * usage: bench_decode [-k TYPE] [-r ROUNDS] [-p prompt|batch] [-b N] MODEL [threads [NAME]]
 *     -k f32|bf16...   the type of K and V (f32)
 *     -r ROUNDS        of probes and steps (5)
 *     -p               only the prompt, or only the batches
 *     -b N             of the batches only that of N sequences
 *
 * The roof of a step is the longer of two times: its weights read once at the rate of a plain
 * streaming read, and its multiply-adds at the rate of the widest instructions for the type that
 * most weights have. Attention and all else count against us. Rounds of probes and steps are
 * interleaved, since the machine's neighbours change from minute to minute; medians over the
 * rounds. With one thread everything, the probes too, is measured in the thread's own time. A model
 * that fits the caches can read faster than the probe, which does not. Of a mixture a step of many
 * rows is expected to read as many experts as random choices would touch. NAME stands in the
 * `measure` lines; with it a line `samples WHAT VALUE:ROOF...` gives the tokens/s of each round.
 */
#include <math.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/model.h"
#include "tests/bench/probe.h"

#define ROUNDS_MAX 30
#define ROUND_STEPS 16
#define SEQUENCES_MAX 32
#define CONTEXT_TOKENS 640 /* or the model's, if that is less */
#define PROMPT_TOKENS 512  /* or what the context leaves for one more */
#define START_TOKENS 64    /* of a sequence that decodes */
#define BLOCK_TOKENS 16

struct run {
    struct model *model;
    struct step_limits limits;
    struct step *step;
    struct step_result *result;
    uint64_t number;
    uint32_t threads_count, rounds, prompt_tokens;
    bool alike; /* all sequences have the same tokens */
    uint32_t positions[SEQUENCES_MAX], blocks_used[SEQUENCES_MAX];
};

static uint64_t now_ns(const struct run *run)
{
    return run->threads_count == 1 ? probe_thread_ns() : clock_now_ns();
}

static void begin(struct run *run)
{
    step_begin(run->step, &run->limits, 1, ++run->number);
}

/* Seconds of the step that was put together. */
static double step_s(struct run *run)
{
    uint64_t start_ns = now_ns(run);
    enum status status =
        model_step(run->model, run->step, step_bytes_max(&run->limits), run->result);
    if (status != STATUS_OK) {
        fprintf(stderr, "bench_decode: %s\n", run->result->error_text);
        exit(1);
    }
    return (double)(now_ns(run) - start_ns) / (double)NS_PER_S;
}

/* The next `n_tokens` of the slot's history. */
static void row_add(struct run *run, uint32_t slot, uint32_t n_tokens)
{
    struct step *step = run->step;
    uint32_t end = run->positions[slot] + n_tokens;
    uint32_t wanted = div_up_u32(end, BLOCK_TOKENS);
    step_rows(step)[step->n_rows++] = (struct step_row){.slot = slot,
                                                        .first_position = run->positions[slot],
                                                        .n_tokens = n_tokens,
                                                        .source = STEP_HISTORY,
                                                        .flags = STEP_ROW_SAMPLES,
                                                        .n_blocks = wanted - run->blocks_used[slot],
                                                        .mask_slot = STEP_MASK_NONE};
    for (uint32_t b = run->blocks_used[slot]; b < wanted; b++)
        step_blocks(step)[step->n_blocks++] = slot * step_slot_blocks_max(&run->limits) + b;
    run->blocks_used[slot] = wanted;
    run->positions[slot] = end;
}

/* A token at random, the same in each run. */
static uint32_t token_at(const struct run *run, uint32_t slot, uint32_t position)
{
    uint64_t x = ((uint64_t)(run->alike ? 0 : slot) << 32 | position) + 1;
    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return (uint32_t)((x >> 32) % model_info(run->model)->arch.vocab);
}

/* Opens a slot whose history has `n_history` tokens, runs the first `n_tokens`; the seconds. */
static double prompt_s(struct run *run, uint32_t slot, uint32_t n_tokens, uint32_t n_history)
{
    begin(run);
    step_opens(run->step)[0] = (struct step_open){.slot = slot, .n_tokens = n_history};
    run->step->n_opens = 1;
    for (uint32_t i = 0; i < n_history; i++)
        step_tokens(run->step)[run->step->n_tokens++] = token_at(run, slot, i);
    run->positions[slot] = run->blocks_used[slot] = 0;
    row_add(run, slot, n_tokens);
    return step_s(run);
}

static void slots_close(struct run *run, uint32_t n)
{
    begin(run);
    for (uint32_t slot = 0; slot < n; slot++)
        step_closes(run->step)[run->step->n_closes++] = slot;
    step_s(run);
}

/* Seconds of one step of `n` sequences. */
static double decode_s(struct run *run, uint32_t n)
{
    double seconds = 0;
    for (uint32_t i = 0; i < ROUND_STEPS; i++) {
        begin(run);
        for (uint32_t slot = 0; slot < n; slot++)
            row_add(run, slot, 1);
        seconds += step_s(run);
    }
    return seconds / ROUND_STEPS;
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

/* Bytes of weights that a step of `n_tokens` rows reads once. */
static double read_bytes(const struct run *run, uint32_t n_tokens)
{
    const struct model_plan *plan = model_info(run->model);
    const struct arch *a = &plan->arch;
    double bytes = (double)model_decode_bytes(run->model);
    if (a->n_experts == 0)
        return bytes;
    double expert = 3.0 * a->hidden * a->intermediate / dtype_block_count(plan->weights_dtype) *
                    dtype_block_bytes(plan->weights_dtype);
    double missed = pow(1 - (double)a->top_k / a->n_experts, run->alike ? 1 : n_tokens);
    return bytes + a->n_layers * expert * (a->n_experts * (1 - missed) - a->top_k);
}

/* What the probes say that a step of `n_tokens` rows takes at least, of which `n_sampled` reach the
 * head. */
static double roof_s(const struct run *run, uint32_t n_tokens, uint32_t n_sampled)
{
    const struct model_plan *plan = model_info(run->model);
    const struct arch *a = &plan->arch;
    bool integers = dtype_has_blocks(plan->weights_dtype);
    double n_mlp = a->n_experts ? a->top_k : 1, hidden = a->hidden;
    double layer = hidden * a->head_dim * (2.0 * a->n_heads + 2.0 * a->n_kv_heads) +
                   3 * n_mlp * hidden * a->intermediate + (double)a->n_experts * hidden;
    double ops = 2 * (layer * a->n_layers * n_tokens + hidden * a->vocab * n_sampled);
    double read_s = read_bytes(run, n_tokens) / 1e9 / probe_read_gb_per_s(run->threads_count);
    double compute_s =
        ops / 1e9 /
        (integers                            ? probe_int8_gop_per_s(run->threads_count)
         : plan->weights_dtype == DTYPE_BF16 ? probe_bf16_gop_per_s(run->threads_count)
                                             : probe_f32_gop_per_s(run->threads_count));
    return read_s > compute_s ? read_s : compute_s;
}

/* The tokens/s of each round, and the roof's, and how much of it was reached. */
static void report(const struct run *run, const char *name, const char *what, double *rates,
                   double *roofs)
{
    double shares[ROUNDS_MAX];
    for (uint32_t i = 0; i < run->rounds; i++)
        shares[i] = 100 * rates[i] / roofs[i];
    if (name) {
        printf("samples %s", what);
        for (uint32_t i = 0; i < run->rounds; i++)
            printf(" %.6g:%.6g", rates[i], roofs[i]);
        printf("\n");
    }
    double rate = median(rates, run->rounds), share = median(shares, run->rounds);
    printf("  %-14s %8.1f tokens/s  %5.1f %% of the roof\n", what, rate, share);
    if (name)
        printf("measure %s_%s_of_roof %.1f %%\n", name, what, share);
    fflush(stdout);
}

static void prompts_bench(struct run *run, const char *name)
{
    double rates[ROUNDS_MAX], roofs[ROUNDS_MAX];
    prompt_s(run, 0, run->prompt_tokens, run->prompt_tokens); /* warm */
    for (uint32_t i = 0; i < run->rounds; i++) {
        slots_close(run, 1);
        roofs[i] = run->prompt_tokens / roof_s(run, run->prompt_tokens, 1);
        rates[i] = run->prompt_tokens / prompt_s(run, 0, run->prompt_tokens, run->prompt_tokens);
    }
    slots_close(run, 1);
    report(run, name, "prompt_512", rates, roofs);
}

static void batch_bench(struct run *run, const char *name, uint32_t n, bool alike)
{
    uint32_t n_history = START_TOKENS + (run->rounds + 1) * ROUND_STEPS;
    double rates[ROUNDS_MAX], roofs[ROUNDS_MAX];
    char what[32];
    run->alike = alike;
    for (uint32_t slot = 0; slot < n; slot++)
        prompt_s(run, slot, START_TOKENS, n_history);
    decode_s(run, n); /* warm */
    for (uint32_t i = 0; i < run->rounds; i++) {
        roofs[i] = n / roof_s(run, n, n);
        rates[i] = n / decode_s(run, n);
    }
    slots_close(run, n);
    snprintf(what, sizeof what, "batch_%u%s", n, alike ? "_alike" : "");
    report(run, name, what, rates, roofs);
    if (n > 1)
        return;
    double rate = (double)model_decode_bytes(run->model) * median(rates, run->rounds) / 1e9;
    double probe = probe_read_gb_per_s(run->threads_count);
    printf("             %8.1f GB/s of weights, %.1f %% of the probe's %.1f\n", rate,
           100 * rate / probe, probe);
}

/* All of them, or only that of `only` sequences; a mixture in both ways. */
static void batches_bench(struct run *run, const char *name, uint32_t only)
{
    static const uint32_t batches[] = {1, 4, 16, 32};
    for (size_t i = 0; i < array_count(batches); i++) {
        if (only && only != batches[i])
            continue;
        batch_bench(run, name, batches[i], false);
        if (model_info(run->model)->arch.n_experts > 0 && batches[i] > 1)
            batch_bench(run, name, batches[i], true);
    }
}

/* Memory of our own that is resident: weights, and what was touched of the rest. */
static double resident_mb(void)
{
    char line[256];
    unsigned long kb = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "RssAnon: %lu", &kb) == 1)
            break;
    if (file)
        fclose(file);
    return (double)kb * 1024 / 1e6;
}

/* DTYPE_COUNT: there is none. */
static enum dtype dtype_named(const char *name)
{
    enum dtype dtype = 0;
    while (dtype < DTYPE_COUNT && strcasecmp(name, dtype_name(dtype)) != 0)
        dtype++;
    return dtype;
}

int main(int argc, char **argv)
{
    struct error error;
    struct run run = {.rounds = 5};
    enum dtype kv_dtype = DTYPE_F32;
    const char *part = "";
    uint32_t batch = 0;
    int option;
    while ((option = getopt(argc, argv, "k:r:p:b:")) != -1) {
        if (option == 'k')
            kv_dtype = dtype_named(optarg);
        else if (option == 'r')
            run.rounds = u32_min((uint32_t)atoi(optarg), ROUNDS_MAX);
        else if (option == 'b')
            batch = (uint32_t)atoi(optarg);
        else
            part = optarg;
    }
    argc -= optind;
    argv += optind - 1;
    if (argc < 1 || argc > 3 || run.rounds == 0 || kv_dtype == DTYPE_COUNT) {
        fprintf(stderr, "usage: bench_decode [-k TYPE] [-r ROUNDS] [-p prompt|batch] "
                        "[-b N] MODEL [threads [NAME]]\n");
        return 64;
    }
    run.threads_count = argc > 1 ? (uint32_t)atoi(argv[2]) : 2;
    const char *name = argc > 2 ? argv[3] : NULL;
    struct model_options options = {.ops = &ops_cpu,
                                    .device = {.threads_count = run.threads_count}};
    struct model_plan plan;
    if (model_plan(argv[1], &options, &plan, &error) != STATUS_OK) {
        fprintf(stderr, "bench_decode: %s\n", error.text);
        return 1;
    }
    uint32_t context = u32_min(CONTEXT_TOKENS, plan.arch.context_tokens);
    run.prompt_tokens = u32_min(PROMPT_TOKENS, context - 1);
    options.limits =
        (struct step_limits){.slots_max = SEQUENCES_MAX,
                             .rows_max = SEQUENCES_MAX,
                             .tokens_max = PROMPT_TOKENS,
                             .open_tokens_max = context,
                             .context_tokens = context,
                             .block_tokens = BLOCK_TOKENS,
                             .kv_dtype = (uint32_t)kv_dtype,
                             .blocks_count = SEQUENCES_MAX * div_up_u32(context, BLOCK_TOKENS)};
    run.limits = options.limits;
    uint64_t start_ns = clock_now_ns();
    if (model_open(argv[1], &options, NULL, &run.model, &error) != STATUS_OK) {
        fprintf(stderr, "bench_decode: %s\n", error.text);
        return 1;
    }
    double load_ms = (double)(clock_now_ns() - start_ns) / (double)NS_PER_MS;
    run.step = calloc(1, step_bytes_max(&run.limits));
    run.result = calloc(1, step_result_bytes_max(&run.limits));
    CHECK(run.step && run.result);
    printf("%s: %s%s\n", argv[1], model_device_text(run.model),
           run.threads_count == 1 ? ", its own time" : "");
    printf("  loaded in %.0f ms, %.1f MB resident then; %.1f MB of weights for a token\n", load_ms,
           resident_mb(), (double)model_decode_bytes(run.model) / 1e6);
    if (strcmp(part, "batch") != 0)
        prompts_bench(&run, name);
    if (strcmp(part, "prompt") != 0)
        batches_bench(&run, name, batch);
    model_close(run.model);
    free(run.step);
    free(run.result);
    return 0;
}
