#include "tests/sim/policy_vtc.h"

#include "sched/books.h"

#define NOBODY UINT32_MAX

/* The line of a client, through the links by id. */
struct client {
    double counter;
    uint32_t first, last, count;
};

struct link {
    uint32_t before, after;
    bool was_charged; /* its prompt was */
};

struct vtc {
    const struct sched *sched;
    double prompt_cost, output_cost;
    uint32_t left_last;    /* the client that left the line last */
    uint32_t next_running; /* of a step: whose chunk comes next */
    bool is_over;          /* of a step: somebody was refused, so nobody else is admitted */
    uint32_t n_clients;
    struct client *clients; /* [tenants_max] */
    struct link *links;     /* [requests_max] */
};

static size_t vtc_footprint(const struct sched_limits *limits)
{
    return sizeof(struct vtc) + u32_max(limits->tenants_max, 1) * sizeof(struct client) +
           limits->requests_max * sizeof(struct link);
}

static void vtc_init(void *state, const struct sched *sched)
{
    struct vtc *vtc = state;
    const struct sched_fairness *f = &sched->limits.fairness;
    *vtc = (struct vtc){.sched = sched,
                        .prompt_cost = f->prompt_cost ? f->prompt_cost : 1,
                        .output_cost = f->output_cost ? f->output_cost : 2,
                        .left_last = NOBODY,
                        .n_clients = u32_max(sched->limits.tenants_max, 1),
                        .clients = (struct client *)(vtc + 1)};
    vtc->links = (struct link *)(vtc->clients + vtc->n_clients);
    for (uint32_t i = 0; i < vtc->n_clients; i++)
        vtc->clients[i].first = vtc->clients[i].last = NOBODY;
}

static uint32_t client_behind(const struct vtc *vtc)
{
    uint32_t best = NOBODY;
    for (uint32_t i = 0; i < vtc->n_clients; i++)
        if (vtc->clients[i].count > 0 &&
            (best == NOBODY || vtc->clients[i].counter < vtc->clients[best].counter))
            best = i;
    return best;
}

static void client_lift(struct vtc *vtc, struct client *client)
{
    uint32_t least = client_behind(vtc);
    if (least == NOBODY)
        least = vtc->left_last;
    if (least != NOBODY && client->counter < vtc->clients[least].counter)
        client->counter = vtc->clients[least].counter;
}

static void join(struct vtc *vtc, struct client *client, uint32_t before, uint32_t after)
{
    *(before == NOBODY ? &client->first : &vtc->links[before].after) = after;
    *(after == NOBODY ? &client->last : &vtc->links[after].before) = before;
}

static void vtc_enqueue(void *state, struct seq *seq, enum arrival arrival)
{
    struct vtc *vtc = state;
    struct client *client = &vtc->clients[seq->tenant];
    bool front = arrival != ARRIVES_NEW;
    if (!front) {
        vtc->links[seq->id].was_charged = false;
        if (client->count == 0)
            client_lift(vtc, client);
    }
    uint32_t before = front ? NOBODY : client->last, after = front ? client->first : NOBODY;
    join(vtc, client, before, seq->id);
    join(vtc, client, seq->id, after);
    client->count++;
}

static void vtc_dequeue(void *state, struct seq *seq)
{
    struct vtc *vtc = state;
    struct client *client = &vtc->clients[seq->tenant];
    join(vtc, client, vtc->links[seq->id].before, vtc->links[seq->id].after);
    if (--client->count == 0)
        vtc->left_last = seq->tenant;
}

static void pay(struct vtc *vtc, const struct seq *seq, double cost)
{
    vtc->clients[seq->tenant].counter += cost / vtc->sched->tenants.rows[seq->tenant].weight;
}

/* Prompts were paid for at admission. */
static void vtc_charge(void *state, struct seq *seq, uint32_t prefill_tokens,
                       uint32_t output_tokens)
{
    struct vtc *vtc = state;
    pay(vtc, seq, vtc->output_cost * output_tokens);
}

static uint32_t vtc_foresee(void *state, const struct seq *seq)
{
    return 1;
}

/* All that those who run, and `seq`, may still take beyond what they have or take at once. */
static uint32_t reserve_headroom(void *state, const struct seq *seq)
{
    const struct sched *sched = ((struct vtc *)state)->sched;
    const struct blocks *blocks = &sched->blocks;
    uint32_t n = blocks_for(blocks, seq->prompt_tokens + seq->output_tokens_max) -
                 blocks_for(blocks, seq_known_tokens(seq) + 1);
    for (uint32_t i = 0; i < sched->n_running; i++) {
        const struct seq *other = sched->running[i];
        n += blocks_for(blocks, other->prompt_tokens + other->output_tokens_max) -
             blocks->table_counts[other->slot];
    }
    return n;
}

static void vtc_begin(void *state)
{
    struct vtc *vtc = state;
    vtc->next_running = 0;
    vtc->is_over = false;
}

static struct seq *vtc_next(void *state, uint32_t *ret_tokens_max)
{
    struct vtc *vtc = state;
    const struct sched *sched = vtc->sched;
    *ret_tokens_max = sched->limits.chunk_tokens_max;
    while (vtc->next_running < sched->n_running) {
        struct seq *seq = sched->running[vtc->next_running++];
        if (seq->prefilling && !row_given(sched, seq))
            return seq;
    }
    uint32_t client = vtc->is_over ? NOBODY : client_behind(vtc);
    return client == NOBODY ? NULL : &sched->seqs[vtc->clients[client].first];
}

static void vtc_granted(void *state, struct seq *seq, uint32_t n_tokens)
{
    struct vtc *vtc = state;
    if (vtc->links[seq->id].was_charged)
        return;
    vtc->links[seq->id].was_charged = true;
    pay(vtc, seq, vtc->prompt_cost * seq->prompt_tokens);
}

static void vtc_refused(void *state, struct seq *seq, enum refusal why)
{
    struct vtc *vtc = state;
    vtc->is_over = true;
}

static struct seq *vtc_victim(void *state, struct seq *const *running, uint32_t n,
                              struct seq *needy)
{
    for (uint32_t i = n; i-- > 0;)
        if (running[i]->paused)
            return running[i];
    return n > 0 ? running[n - 1] : NULL;
}

#define VTC_COMMON                                                                                 \
    .footprint = vtc_footprint, .init = vtc_init, .enqueue = vtc_enqueue, .dequeue = vtc_dequeue,  \
    .charge = vtc_charge, .foresee = vtc_foresee, .begin = vtc_begin, .next = vtc_next,            \
    .granted = vtc_granted, .refused = vtc_refused, .victim = vtc_victim

const struct sched_policy policy_vtc = {.name = "vtc", VTC_COMMON};
const struct sched_policy policy_vtc_reserve = {
    .name = "vtc_reserve", .headroom = reserve_headroom, VTC_COMMON};
