#include <math.h>

#include "kernels/cpu/cpu.h"

/*
 * Rows are grouped by expert, so that an expert's weights are read once for all rows that chose it,
 * and all experts of a stage are one list of items. The steps of a run:
 *     route   each row is normed, multiplied by the router and given its experts (items: rows)
 *     place   counting sort of the routed rows by expert (one thread; a few numbers a row)
 *     spread  each row goes to the places of its experts, in the forms that they want (items: rows)
 *     gates   silu(gate) * up of all experts, in the forms that down wants (items: experts' panels)
 *     downs   down of all experts (items: experts' panels)
 *     mix     each row adds up what its experts gave (items: rows)
 * A row's numbers do not notice its company: a product treats each row alike, and a row's experts
 * are added up in its own order of rank.
 *
 * Long calls are cut into runs of ROWS_AT_ONCE rows, which bounds the scratch.
 */
#define ROWS_AT_ONCE 256

struct moe_run {
    struct device *device;
    const struct moe_args *args;
    uint32_t first_row, n_rows; /* of this run */

    float *normed;              /* [n_rows][hidden] */
    float *logits;              /* [n_rows][n_experts] of the router */
    uint32_t *experts;          /* [n_rows][top_k], by rank */
    float *shares;              /* [n_rows][top_k], by rank */
    uint32_t *places;           /* [n_rows][top_k]: where the routed row lies */
    uint32_t *ends;             /* [n_experts]: end of each expert's routed rows */
    uint32_t *feed_of;          /* [n_experts]: which of the feeds is an expert's */
    struct feed *froms, *tos;   /* [n_feeds <= n_experts]: rows of gate and up, and of down */
    struct gate_part *gates;    /* [n_experts] */
    struct product_part *parts; /* [n_experts * WEIGHT_PARTS_MAX] */
    float *downs;               /* [n_routed][hidden]: what down gives, sorted by expert */
    struct forms from, to;      /* of all routed rows, sorted by expert */
    uint32_t n_feeds;           /* experts that have rows */
};

/* Lays the arrays out in `memory` when it is not NULL; the bytes that they take. */
static size_t moe_layout(struct moe_run *run, char *memory, const struct moe_args *args)
{
    size_t n_rows = run->n_rows, n_routed = n_rows * args->top_k, at = 0;
    const struct {
        void **array;
        size_t count, size_bytes;
    } arrays[] = {
        {(void **)&run->normed, n_rows * args->hidden, sizeof(float)},
        {(void **)&run->logits, n_rows * args->n_experts, sizeof(float)},
        {(void **)&run->experts, n_routed, sizeof(uint32_t)},
        {(void **)&run->shares, n_routed, sizeof(float)},
        {(void **)&run->places, n_routed, sizeof(uint32_t)},
        {(void **)&run->ends, args->n_experts, sizeof(uint32_t)},
        {(void **)&run->feed_of, args->n_experts, sizeof(uint32_t)},
        {(void **)&run->froms, args->n_experts, sizeof(struct feed)},
        {(void **)&run->tos, args->n_experts, sizeof(struct feed)},
        {(void **)&run->gates, args->n_experts, sizeof(struct gate_part)},
        {(void **)&run->parts, (size_t)args->n_experts * WEIGHT_PARTS_MAX,
         sizeof(struct product_part)},
        {(void **)&run->downs, n_routed * args->hidden, sizeof(float)},
    };
    for (size_t i = 0; i < array_count(arrays); i++) {
        if (memory)
            *arrays[i].array = memory + at;
        at += round_up(arrays[i].count * arrays[i].size_bytes, MEMORY_LINE_BYTES);
    }
    return at;
}

bool cpu_moe_reserve(struct device *device, const struct op_limits *limits)
{
    if (limits->n_experts == 0)
        return true;
    struct moe_run run = {.n_rows = u32_min(limits->rows_max, ROWS_AT_ONCE)};
    struct moe_args args = {
        .hidden = limits->hidden, .n_experts = limits->n_experts, .top_k = limits->top_k};
    size_t n_routed = size_product(run.n_rows, args.top_k);
    struct forms forms;
    return scratch_need(&device->moe, moe_layout(&run, NULL, &args)) &&
           cpu_forms_room(device, &device->rooms[0], n_routed, limits->hidden, &forms) &&
           cpu_forms_room(device, &device->rooms[1], n_routed, limits->intermediate, &forms);
}

/* ---- route ---- */

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

/* Rows `row` .. `row` + n - 1: few enough to be multiplied as they stand. */
static void rows_route(const struct moe_run *run, uint32_t row, uint32_t n)
{
    const struct moe_args *args = run->args;
    const struct tier *tier = run->device->tier;
    const float *in = args->in + (size_t)(run->first_row + row) * args->hidden;
    float *normed = run->normed + (size_t)row * args->hidden;
    for (uint32_t r = 0; r < n && args->norm; r++)
        tier->rmsnorm(in + (size_t)r * args->hidden, args->norm, args->norm_eps, args->hidden,
                      normed + (size_t)r * args->hidden);
    struct feed feed = {.in = args->norm ? normed : in, .n_rows = n, .in_count = args->hidden};
    for (uint32_t i = 0; i < args->router->n_segments; i++) {
        struct product product = cpu_product(tier, &feed, args->router, 0, i);
        product.out_stride = args->n_experts;
        product.out =
            run->logits + (size_t)row * args->n_experts + args->router->segments[i].first_out;
        cpu_product_run(tier, &product, 0, args->router->segments[i].panels_count);
    }
    for (uint32_t r = 0; r < n; r++)
        row_route(run, row + r);
}

static void route_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *rows = context;
    uint32_t end = rows_first(rows, item + 1);
    for (uint32_t r = rows_first(rows, item); r < end; r += TILE_FROM_ROWS - 1)
        rows_route(rows->args, r, u32_min(TILE_FROM_ROWS - 1, end - r));
}

/* ---- place ---- */

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

/* A feed for each expert that has rows. */
static void feeds_make(struct moe_run *run)
{
    const struct moe_args *args = run->args;
    uint32_t first = 0;
    for (uint32_t e = 0; e < args->n_experts; first = run->ends[e++]) {
        uint32_t n_rows = run->ends[e] - first, at = run->n_feeds;
        if (n_rows == 0)
            continue;
        run->feed_of[e] = at;
        run->froms[at] = (struct feed){.n_rows = n_rows,
                                       .in_count = args->hidden,
                                       .forms = cpu_forms_at(&run->from, first, args->hidden)};
        run->tos[at] = (struct feed){.n_rows = n_rows,
                                     .in_count = args->intermediate,
                                     .forms = cpu_forms_at(&run->to, first, args->intermediate)};
        run->n_feeds++;
    }
}

/* ---- spread ---- */

static void spread_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *rows = context;
    const struct moe_run *run = rows->args;
    const struct moe_args *args = run->args;
    const float *in = args->norm ? run->normed : args->in + (size_t)run->first_row * args->hidden;
    for (uint32_t r = rows_first(rows, item); r < rows_first(rows, item + 1); r++)
        for (uint32_t j = 0; j < args->top_k; j++) {
            size_t routed = (size_t)r * args->top_k + j;
            uint32_t expert = run->experts[routed];
            uint32_t first = expert > 0 ? run->ends[expert - 1] : 0;
            struct feed_piece piece = {.row = run->places[routed] - first,
                                       .n = args->hidden,
                                       .values = in + (size_t)r * args->hidden};
            const struct feed *feed = &run->froms[run->feed_of[expert]];
            cpu_feed_put(run->device->tier, feed, &piece);
            if (feed->wants_tiles) /* made of rows, when all are there */
                memcpy(feed->forms.rows + (size_t)piece.row * args->hidden, piece.values,
                       args->hidden * sizeof(float));
        }
}

/* ---- gates and downs ---- */

static void experts_multiply(struct moe_run *run)
{
    const struct moe_args *args = run->args;
    struct device *device = run->device;
    struct gates gates = {.device = device, .parts = run->gates};
    struct products downs = {.device = device, .feeds = run->tos, .parts = run->parts};
    for (uint32_t e = 0, first = 0; e < args->n_experts; first = run->ends[e++]) {
        if (run->ends[e] == first)
            continue;
        uint32_t at = downs.n_feeds++;
        products_add(&downs, args->down, e,
                     &(struct product_ends){.out = run->downs + (size_t)first * args->hidden});
        gates_add(&gates, &(struct gate_part){.weight = args->gate_up,
                                              .index = e,
                                              .from = &run->froms[at],
                                              .to = &run->tos[at]});
    }
    rows_run(device, run, run->n_rows, (size_t)args->top_k * args->hidden, spread_item);
    feeds_tile(&(struct feeds){device, run->froms, run->n_feeds});
    gates_run(&gates);
    products_run(&downs);
}

/* ---- mix ---- */

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
        const float *down = run->downs + (size_t)run->places[routed] * args->hidden + first;
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
    size_t router_values = (size_t)args->hidden * (1 + args->n_experts / 4);
    rows_run(run->device, run, run->n_rows, router_values, route_item);
    rows_place(run);
    feeds_make(run);
    experts_multiply(run);
    rows_run(run->device, run, run->n_rows, (size_t)args->top_k * args->hidden, mix_item);
}

void cpu_moe(struct device *device, const struct moe_args *args)
{
    CHECK(args->top_k > 0 && args->top_k <= args->n_experts && args->top_k <= MOE_TOP_K_MAX);
    for (uint32_t i = 0; i < args->router->n_segments; i++)
        CHECK(!dtype_has_blocks(args->router->segments[i].dtype) &&
              !cpu_product_pairs(device->tier, args->router, i)); /* routers are exact */
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
        size_t n_routed = (size_t)run.n_rows * args->top_k;
        if (!memory ||
            !cpu_forms_room(device, &device->rooms[0], n_routed, args->hidden, &run.from) ||
            !cpu_forms_room(device, &device->rooms[1], n_routed, args->intermediate, &run.to))
            return;
        moe_layout(&run, memory, args);
        moe_run(&run);
    }
}
