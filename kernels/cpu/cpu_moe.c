#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * Rows are grouped by expert, so that an expert's weights are read once for all rows that chose it,
 * and all experts of a stage are one list of items. A row's numbers do not notice: a product treats
 * each row alike in any company, and a row's experts are added up in its own order of rank.
 *
 * Long calls are cut into runs of ROWS_AT_ONCE rows, which bounds the scratch.
 */
#define ROWS_AT_ONCE 256

struct moe_run {
    struct device *device;
    const struct moe_args *args;
    uint32_t first_row, n_rows; /* of this run */
    const float *in;            /* [n_rows][hidden] of this run, normed */
    float *logits;              /* [n_rows][n_experts] */
    uint32_t *experts;          /* [n_rows][top_k], by rank */
    float *shares;              /* [n_rows][top_k], by rank */
    uint32_t *places;           /* [n_rows][top_k]: where the routed row lies */
    uint32_t *ends;             /* [n_experts]: end of each expert's routed rows */
    struct feed *feeds;         /* [n_experts] */
    struct product_part *parts; /* [n_experts * WEIGHT_PARTS_MAX] */
    float *normed;              /* [n_rows][hidden] */
    /* Routed rows, sorted by expert: n_routed = n_rows * top_k of them. */
    float *rows;              /* [n_routed][hidden]: inputs, then outputs of down */
    float *gate_up;           /* [n_routed][2 * intermediate] */
    float *gated;             /* [n_routed][intermediate] */
    float *tiles;             /* [n_routed][max(hidden, intermediate)] */
    uint32_t *pairs;          /* [n_routed][max(hidden, intermediate) / 2, rounded up] */
    struct row_block *blocks; /* [n_routed][max(hidden, intermediate) / 32, rounded up] */
};

/* Lays the arrays out in `memory` when it is not NULL; the bytes that they take. */
static size_t moe_layout(struct moe_run *run, char *memory, const struct moe_args *args)
{
    size_t n_rows = run->n_rows, n_routed = n_rows * args->top_k, at = 0;
    uint32_t in_max = u32_max(args->hidden, args->intermediate);
    const struct {
        void **array;
        size_t count, size_bytes;
    } arrays[] = {
        {(void **)&run->logits, n_rows * args->n_experts, sizeof(float)},
        {(void **)&run->experts, n_routed, sizeof(uint32_t)},
        {(void **)&run->shares, n_routed, sizeof(float)},
        {(void **)&run->places, n_routed, sizeof(uint32_t)},
        {(void **)&run->ends, args->n_experts, sizeof(uint32_t)},
        {(void **)&run->feeds, args->n_experts, sizeof(struct feed)},
        {(void **)&run->parts, (size_t)args->n_experts * WEIGHT_PARTS_MAX,
         sizeof(struct product_part)},
        {(void **)&run->normed, n_rows * args->hidden, sizeof(float)},
        {(void **)&run->rows, n_routed * args->hidden, sizeof(float)},
        {(void **)&run->gate_up, n_routed * 2 * args->intermediate, sizeof(float)},
        {(void **)&run->gated, n_routed * args->intermediate, sizeof(float)},
        {(void **)&run->tiles, n_routed * in_max, sizeof(float)},
        {(void **)&run->pairs, n_routed * pairs_count(in_max), sizeof(uint32_t)},
        {(void **)&run->blocks, n_routed * div_up_u32(in_max, BLOCK_VALUES),
         sizeof(struct row_block)},
    };
    for (size_t i = 0; i < array_count(arrays); i++) {
        if (memory)
            *arrays[i].array = memory + at;
        at += round_up(arrays[i].count * arrays[i].size_bytes, MEMORY_LINE_BYTES);
    }
    return at;
}

size_t cpu_moe_work_bytes(const struct op_limits *limits)
{
    if (limits->n_experts == 0)
        return 0;
    struct moe_run run = {.n_rows = u32_min(limits->rows_max, ROWS_AT_ONCE)};
    struct moe_args args = {.hidden = limits->hidden,
                            .intermediate = limits->intermediate,
                            .n_experts = limits->n_experts,
                            .top_k = limits->top_k};
    return moe_layout(&run, NULL, &args);
}

/* Softmax over all experts, then the top_k largest with their shares. */
static void row_route(const struct moe_run *run, uint32_t row)
{
    const struct moe_args *args = run->args;
    const float *logits = run->logits + (size_t)row * args->n_experts;
    uint32_t *experts = run->experts + (size_t)row * args->top_k;
    float *shares = run->shares + (size_t)row * args->top_k;
    float most = logits[0];
    double all = 0, chosen = 0, weights[MOE_TOP_K_MAX];
    for (uint32_t e = 1; e < args->n_experts; e++)
        most = logits[e] > most ? logits[e] : most;
    for (uint32_t e = 0; e < args->n_experts; e++)
        all += exp((double)logits[e] - (double)most);
    for (uint32_t j = 0; j < args->top_k; j++) {
        /* The best below the one before it, in the order (logit down, expert up). */
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < args->n_experts; e++) {
            bool taken = false;
            for (uint32_t i = 0; i < j; i++)
                taken = taken || experts[i] == e;
            if (!taken && (best == UINT32_MAX || logits[e] > logits[best]))
                best = e;
        }
        experts[j] = best;
        weights[j] = exp((double)logits[best] - (double)most) / all;
        chosen += weights[j];
    }
    for (uint32_t j = 0; j < args->top_k; j++)
        shares[j] = (float)(args->normalise ? weights[j] / chosen : weights[j]);
}

static void route_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *rows = context;
    for (uint32_t r = rows_first(rows, item); r < rows_first(rows, item + 1); r++)
        row_route(rows->args, r);
}

/* Counting sort of the routed rows by expert. */
static void rows_place(struct moe_run *run)
{
    const struct moe_args *args = run->args;
    size_t n_routed = (size_t)run->n_rows * args->top_k;
    for (uint32_t e = 0; e < args->n_experts; e++)
        run->ends[e] = 0;
    for (size_t i = 0; i < n_routed; i++)
        run->ends[run->experts[i]]++;
    uint32_t end = 0;
    for (uint32_t e = 0; e < args->n_experts; e++) {
        uint32_t count = run->ends[e];
        run->ends[e] = end; /* the start, which becomes the end below */
        end += count;
    }
    for (size_t i = 0; i < n_routed; i++)
        run->places[i] = run->ends[run->experts[i]]++;
}

static void collect_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *rows = context;
    const struct moe_run *run = rows->args;
    const struct moe_args *args = run->args;
    for (uint32_t r = rows_first(rows, item); r < rows_first(rows, item + 1); r++)
        for (uint32_t j = 0; j < args->top_k; j++)
            memcpy(run->rows + (size_t)run->places[r * args->top_k + j] * args->hidden,
                   run->in + (size_t)r * args->hidden, args->hidden * sizeof(float));
}

/* The products of all experts that have rows. */
static void experts_multiply(struct moe_run *run, const struct weight *weight, const float *in,
                             float *out)
{
    struct products products = {.device = run->device, .feeds = run->feeds, .parts = run->parts};
    uint32_t first = 0;
    for (uint32_t e = 0; e < run->args->n_experts; first = run->ends[e++]) {
        uint32_t n_rows = run->ends[e] - first;
        if (n_rows == 0)
            continue;
        size_t n_blocks = div_up_u32(weight->in_count, BLOCK_VALUES);
        run->feeds[products.n_feeds++] = (struct feed){
            .in = in + (size_t)first * weight->in_count,
            .n_rows = n_rows,
            .in_count = weight->in_count,
            .tiles = run->tiles + (size_t)first * weight->in_count,
            .pairs = run->pairs + (size_t)first * pairs_count(weight->in_count),
            .blocks = run->blocks + first * n_blocks,
        };
        products_add(&products, weight, e,
                     &(struct product_ends){.out = out + (size_t)first * weight->out_count});
    }
    products_run(&products);
}

/* Norms the rows on the way. */
static void router_multiply(struct moe_run *run)
{
    const struct moe_args *args = run->args;
    struct products products = {
        .device = run->device, .feeds = run->feeds, .n_feeds = 1, .parts = run->parts};
    run->feeds[0] = (struct feed){
        .norm = args->norm,
        .norm_eps = args->norm_eps,
        .in = args->in + (size_t)run->first_row * args->hidden,
        .n_rows = run->n_rows,
        .in_count = args->hidden,
        .normed = run->normed,
        .tiles = run->tiles,
        .pairs = run->pairs,
        .blocks = run->blocks,
    };
    run->in = args->norm ? run->normed : run->feeds[0].in;
    products_add(&products, args->router, 0, &(struct product_ends){.out = run->logits});
    products_run(&products);
}

#define MIX_VALUES 64

/* Some values (at most MIX_VALUES) of row `row` of the run. */
static void values_mix(const struct moe_run *run, uint32_t row, uint32_t first)
{
    const struct moe_args *args = run->args;
    size_t at = (size_t)(run->first_row + row) * args->hidden + first;
    uint32_t n = u32_min(MIX_VALUES, args->hidden - first);
    float sums[MIX_VALUES] = {0};
    for (uint32_t j = 0; j < args->top_k; j++) {
        size_t routed = (size_t)row * args->top_k + j;
        const float *down = run->rows + (size_t)run->places[routed] * args->hidden + first;
        float share = run->shares[routed];
        for (uint32_t i = 0; i < n; i++)
            sums[i] += share * down[i];
    }
    for (uint32_t i = 0; i < n; i++)
        args->out[at + i] = args->in[at + i] + sums[i];
}

static void mix_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *rows = context;
    const struct moe_run *run = rows->args;
    for (uint32_t r = rows_first(rows, item); r < rows_first(rows, item + 1); r++)
        for (uint32_t first = 0; first < run->args->hidden; first += MIX_VALUES)
            values_mix(run, r, first);
}

static void moe_run(struct moe_run *run)
{
    const struct moe_args *args = run->args;
    struct device *device = run->device;
    uint32_t n_routed = run->n_rows * args->top_k;
    router_multiply(run);
    rows_run(device, run, run->n_rows, 16ul * args->n_experts, route_item);
    rows_place(run);
    rows_run(device, run, run->n_rows, (size_t)args->top_k * args->hidden, collect_item);
    experts_multiply(run, args->gate_up, run->rows, run->gate_up);
    cpu_gate(device, &(struct gate_args){n_routed, args->intermediate, run->gate_up, run->gated});
    experts_multiply(run, args->down, run->gated, run->rows);
    rows_run(device, run, run->n_rows, (size_t)args->top_k * args->hidden, mix_item);
}

void cpu_moe(struct device *device, const struct moe_args *args)
{
    CHECK(args->top_k > 0 && args->top_k <= args->n_experts && args->top_k <= MOE_TOP_K_MAX);
    CHECK(args->router->out_count == args->n_experts && args->router->in_count == args->hidden);
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->gate_up->in_count == args->hidden);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    for (uint32_t first = 0; first < args->n_rows; first += ROWS_AT_ONCE) {
        struct moe_run run = {.device = device,
                              .args = args,
                              .first_row = first,
                              .n_rows = u32_min(ROWS_AT_ONCE, args->n_rows - first)};
        char *memory = cpu_work(device, &device->moe, moe_layout(&run, NULL, args));
        if (!memory)
            return;
        moe_layout(&run, memory, args);
        moe_run(&run);
    }
}
