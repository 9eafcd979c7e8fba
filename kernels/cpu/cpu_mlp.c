#include "kernels/cpu/cpu.h"

void cpu_mlp(struct device *device, const struct mlp_args *args)
{
    CHECK(args->gate_up->out_count == 2 * args->intermediate);
    CHECK(args->gate_up->in_count == args->hidden);
    CHECK(args->down->out_count == args->hidden && args->down->in_count == args->intermediate);
    if (args->n_rows == 0)
        return;
    struct feed from = {.norm = args->norm,
                        .norm_eps = args->norm_eps,
                        .in = args->in,
                        .n_rows = args->n_rows,
                        .in_count = args->hidden};
    struct feed to = {.n_rows = args->n_rows, .in_count = args->intermediate};
    if (!cpu_forms_room(device, &device->rooms[0], from.n_rows, from.in_count, &from.forms) ||
        !cpu_forms_room(device, &device->rooms[1], to.n_rows, to.in_count, &to.forms))
        return;
    struct product_part parts[WEIGHT_PARTS_MAX];
    struct products down = {.device = device, .feeds = &to, .n_feeds = 1, .parts = parts};
    struct product_ends ends = {args->down_bias, args->in, args->out};
    products_add(&down, args->down, 0, &ends);
    struct gate_part gate = {.weight = args->gate_up,
                             .bias = args->gate_up_bias,
                             .from = &from,
                             .to = &to},
                     part;
    struct gates gates = {.device = device, .parts = &part};
    gates_add(&gates, &gate);
    feeds_run(&(struct feeds){device, &from, 1});
    gates_run(&gates);
    products_run(&down);
}
