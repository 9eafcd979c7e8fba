#include "kernels/cpu/cpu.h"

static void gate_item(void *context, uint32_t thread, uint32_t item)
{
    const struct rows_run *run = context;
    const struct gate_args *args = run->args;
    for (uint32_t r = rows_first(run, item); r < rows_first(run, item + 1); r++) {
        const float *gate = args->gate_up + (size_t)r * 2 * args->n;
        run->device->tier->silu_mul(gate, gate + args->n, args->n,
                                    args->gated + (size_t)r * args->n);
    }
}

void cpu_gate(struct device *device, const struct gate_args *args)
{
    rows_run(device, args, args->n_rows, 4ul * args->n, gate_item);
}

static size_t work_bytes(uint32_t n_rows, uint32_t intermediate)
{
    return size_product(size_product(n_rows, 3ul * intermediate), sizeof(float));
}

size_t cpu_mlp_work_bytes(const struct op_limits *limits)
{
    return limits->n_experts ? 0 : work_bytes(limits->rows_max, limits->intermediate);
}

/* The products of some rows with one matrix. */
static void multiply(struct device *device, struct feed feed, const struct weight *weight,
                     const struct product_ends *ends)
{
    struct product_part parts[WEIGHT_PARTS_MAX];
    struct products products = {.device = device, .feeds = &feed, .n_feeds = 1, .parts = parts};
    if (!cpu_feed_room(device, &feed))
        return;
    products_add(&products, weight, 0, ends);
    products_run(&products);
}

void cpu_mlp(struct device *device, const struct mlp_args *args)
{
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->gate_up->in_count == args->hidden);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    if (args->n_rows == 0)
        return;
    float *gate_up = cpu_work(device, &device->mlp, work_bytes(args->n_rows, args->intermediate));
    if (!gate_up)
        return;
    float *gated = gate_up + 2ul * args->n_rows * args->intermediate;
    multiply(device,
             (struct feed){.norm = args->norm,
                           .norm_eps = args->norm_eps,
                           .in = args->in,
                           .n_rows = args->n_rows,
                           .in_count = args->hidden},
             args->gate_up, &(struct product_ends){.bias = args->gate_up_bias, .out = gate_up});
    cpu_gate(device, &(struct gate_args){args->n_rows, args->intermediate, gate_up, gated});
    multiply(
        device, (struct feed){.in = gated, .n_rows = args->n_rows, .in_count = args->intermediate},
        args->down,
        &(struct product_ends){.bias = args->down_bias, .residual = args->in, .out = args->out});
}
