/*
 * bench_card: measures cells on a card, one a line of standard input (tests/gpu/cell.h).
 *
 * usage: bench_card [-b cuda|cuda-host] [-t TIER] [-s SEED] < CELLS
 *
 * First line out: `card TEXT`. Then for each cell one line:
 *     cell NAME seconds=S bytes=B flops=F touched=E alone=S distinct=N
 *     absent NAME WHY        it cannot be had: no such type, no memory for it
 * An error of the card ends the program with its words and exit code 1; no card at all: 2.
 * tests/gpu/run talks to it; it judges nothing itself.
 */
#include <unistd.h>

#include "tests/gpu/cell.h"

struct kept {
    struct block_kept block;
    struct network *network;
};

static void kept_drop(struct card *card, struct kept *kept)
{
    block_drop(card, &kept->block);
    network_close(card, kept->network);
    kept->network = NULL;
}

/* What one kind of cell keeps must not stand in another's way: memory is short. */
static enum status measure(struct card *card, struct kept *kept, const struct cell *cell,
                           struct measured *ret_measured, struct error *error)
{
    static const struct {
        const char *kind;
        enum status (*run)(struct card *, const struct cell *, struct measured *, struct error *);
    } kinds[] = {{"copy", cell_copy}, {"floor", cell_floor},   {"product", cell_product},
                 {"gaps", cell_gaps}, {"attend", cell_attend}, {"prefill", cell_prefill}};
    if (strcmp(cell->kind, "step") != 0) {
        network_close(card, kept->network);
        kept->network = NULL;
    }
    if (strcmp(cell->kind, "experts") != 0)
        block_drop(card, &kept->block);
    if (strcmp(cell->kind, "step") == 0)
        return cell_step(card, &kept->network, cell, ret_measured, error);
    if (strcmp(cell->kind, "experts") == 0)
        return cell_experts(card, &kept->block, cell, ret_measured, error);
    for (size_t i = 0; i < array_count(kinds); i++)
        if (strcmp(kinds[i].kind, cell->kind) == 0)
            return kinds[i].run(card, cell, ret_measured, error);
    return error_set(error, STATUS_INVALID, "no kind of cell is called %s", cell->kind);
}

static void tell(const struct cell *cell, enum status status, const struct measured *m,
                 const struct error *error)
{
    if (status == STATUS_OK)
        printf("cell %s seconds=%.9g bytes=%.9g flops=%.9g touched=%.4g alone=%.9g distinct=%u\n",
               cell->name, m->seconds, m->bytes, m->flops, m->touched, m->alone, m->distinct);
    else
        printf("absent %s %s\n", cell->name, error->text);
    fflush(stdout);
}

static int cells_run(struct card *card, struct kept *kept)
{
    char line[512];
    while (fgets(line, sizeof line, stdin)) {
        struct cell cell;
        struct measured measured = {0};
        struct error error = {0};
        if (cell_parse(line, &cell, &error) != STATUS_OK) {
            fprintf(stderr, "bench_card: %s\n", error.text);
            return 64;
        }
        enum status status = measure(card, kept, &cell, &measured, &error);
        if (status == STATUS_INTERNAL) { /* nothing after it can be trusted */
            fprintf(stderr, "bench_card: %s: %s\n", cell.name, error.text);
            return 1;
        }
        tell(&cell, status, &measured, &error);
    }
    return 0;
}

static int misuse(void)
{
    fprintf(stderr, "usage: bench_card [-b cuda|cuda-host] [-t TIER] [-s SEED] < CELLS\n");
    return 64;
}

int main(int argc, char **argv)
{
    const char *backend = "cuda", *tier = NULL;
    uint64_t seed = 1;
    int option;
    while ((option = getopt(argc, argv, "b:t:s:")) != -1) {
        if (option == 'b')
            backend = optarg;
        else if (option == 't')
            tier = optarg;
        else if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else
            return misuse();
    }
    if (optind != argc)
        return misuse();
    struct card card;
    struct kept kept = {0};
    struct error error = {0};
    int code = 2;
    if (card_open(&card, backend, tier, seed, &error) == STATUS_OK) {
        printf("card %s\n", card.ops->device_text(card.device));
        fflush(stdout);
        code = cells_run(&card, &kept);
        if (code != 1) /* a card that failed frees nothing */
            kept_drop(&card, &kept);
    } else {
        fprintf(stderr, "bench_card: %s\n", error.text);
    }
    if (code != 1)
        card_close(&card);
    return code;
}
