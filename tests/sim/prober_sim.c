/*
 * The timing prober: somebody who wants to know whether another has asked a certain prompt, and who
 * has nothing but the time to his own first token.
 *
 * In each trial a victim sends either the prompt that the prober guesses or another one of the same
 * length; when it is done, the prober sends his guess. Others send requests all the while. The time
 * of a step is a floor plus so much a token, so a hit is as visible as can be. From the times of
 * both kinds of trials follows the area under the ROC curve: 0.5 is blindness, 1 is certainty. With
 * the prober in the victim's cache domain it must be high, or the cache is no use and the test
 * blind; in another domain it must be at chance. The schedule of the others does not depend on the
 * kind of the trial.
 */
#include "sched/books.h"

enum { TRIALS = 10000, PROMPT_BLOCKS = 12, BLOCK_TOKENS = 16, DIGESTS = 32, REQUESTS = 64 };

#define SEES_LEAST 0.95
#define BLIND_MOST 0.02 /* away from 0.5 */

static struct sched *sched;
static uint64_t now_ns, random_state;
static struct sched_digest digests[REQUESTS][DIGESTS]; /* by id */
static uint64_t first_token_ns[REQUESTS];
static bool is_over[REQUESTS];
static uint64_t cached_total[REQUESTS];

static uint64_t chance_next(void)
{
    uint64_t x = random_state += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The chain of a prompt that `secret` stands for: the same in all domains, as if all names were
 * known to the prober. (The daemon's differ, daemon/digest.h; here the scheduler has to tell them
 * apart.)
 */
static void chain_make(struct sched_digest *chain, uint64_t secret)
{
    uint64_t x = secret * 0x9e3779b97f4a7c15ull;
    for (uint32_t i = 0; i < DIGESTS; i++)
        for (uint32_t b = 0; b < sizeof chain->bytes; b += 8) {
            x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull + i;
            memcpy(chain[i].bytes + b, &x, sizeof x);
        }
}

static sched_id send(uint32_t tenant, uint64_t domain, uint64_t secret, uint32_t prompt_blocks,
                     uint32_t output_tokens)
{
    sched_id id = sched->free_ids[sched->n_free_ids - 1];
    chain_make(digests[id], secret);
    struct sched_submission s = {.request_id = id,
                                 .tenant = tenant,
                                 .deadline_ns = UINT64_MAX,
                                 .cache_domain = domain,
                                 .prompt_tokens = prompt_blocks * BLOCK_TOKENS,
                                 .output_tokens_max = output_tokens,
                                 .n_digests = prompt_blocks,
                                 .digests = digests[id]};
    sched_id given;
    CHECK(sched_submit(sched, &s, now_ns, &given, NULL) == STATUS_OK && given == id);
    first_token_ns[id] = 0;
    is_over[id] = false;
    return id;
}

static void step_whole(void)
{
    const struct sched_plan *plan = sched_plan(sched, now_ns);
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; i < plan->n_rows; i++)
        n_tokens += plan->rows[i].n_tokens;
    now_ns += 1000000 + 20000ull * n_tokens;
    if (plan->step == 0)
        return;
    for (uint32_t i = 0; i < plan->n_rows; i++)
        if (plan->rows[i].samples) {
            sched_id id = plan->rows[i].id;
            if (first_token_ns[id] == 0)
                first_token_ns[id] = now_ns;
            sched_sampled(sched, plan->step, id, false);
        }
    sched_retired(sched, plan->step, now_ns);
    struct sched_ended ended;
    while (sched_next_ended(sched, &ended)) {
        is_over[ended.id] = true;
        cached_total[ended.id] = ended.cached_tokens;
    }
}

/* Others, by a schedule of their own. */
static void others_act(void)
{
    struct sched_stats s;
    sched_stats(sched, &s);
    uint64_t chance = chance_next();
    if (chance % 16 == 0 && s.waiting + s.running < REQUESTS - 4)
        send(2, 3, chance, 1 + (uint32_t)(chance >> 8) % 8, 1 + (uint32_t)(chance >> 40) % 24);
}

static uint64_t run_until_over(sched_id id)
{
    uint64_t start_ns = now_ns;
    while (!is_over[id]) {
        others_act();
        step_whole();
    }
    return first_token_ns[id] - start_ns;
}

static int u64_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The chance that a trial with the guessed prompt was answered sooner than one without. */
static double auc(uint64_t *hits, size_t n_hits, uint64_t *misses, size_t n_misses)
{
    qsort(hits, n_hits, sizeof *hits, u64_compare);
    qsort(misses, n_misses, sizeof *misses, u64_compare);
    double sooner = 0;
    size_t below = 0, upto = 0; /* misses that are smaller; that are not greater */
    for (size_t i = 0; i < n_hits; i++) {
        while (below < n_misses && misses[below] < hits[i])
            below++;
        while (upto < n_misses && misses[upto] <= hits[i])
            upto++;
        sooner += (double)(n_misses - upto) + (double)(upto - below) / 2;
    }
    return sooner / ((double)n_hits * (double)n_misses);
}

static double trials_play(uint64_t prober_domain, uint64_t *ret_cached)
{
    static uint64_t hits[TRIALS], misses[TRIALS];
    size_t n_hits = 0, n_misses = 0;
    const uint64_t victim_domain = 1;
    *ret_cached = 0;
    for (uint64_t trial = 1; trial <= TRIALS; trial++) {
        bool asked = trial % 2;
        uint64_t guess = 2 * trial, other = 2 * trial + 1;
        run_until_over(send(0, victim_domain, asked ? guess : other, PROMPT_BLOCKS, 4));
        for (uint64_t rest = chance_next() % 4; rest > 0; rest--) {
            others_act();
            step_whole();
        }
        sched_id probe = send(1, prober_domain, guess, PROMPT_BLOCKS, 1);
        uint64_t ttft_ns = run_until_over(probe);
        *ret_cached += cached_total[probe];
        if (asked)
            hits[n_hits++] = ttft_ns;
        else
            misses[n_misses++] = ttft_ns;
    }
    return auc(hits, n_hits, misses, n_misses);
}

static double world_play(uint64_t prober_domain, uint64_t *ret_cached)
{
    static const struct sched_limits limits = {.requests_max = REQUESTS,
                                               .waiting_max = REQUESTS,
                                               .slots_max = 16,
                                               .blocks_count = 400,
                                               .block_tokens = BLOCK_TOKENS,
                                               .context_tokens = DIGESTS * BLOCK_TOKENS,
                                               .step_tokens_max = 256,
                                               .step_rows_max = 16,
                                               .chunk_tokens_max = 256,
                                               .open_tokens_max = 2048,
                                               .tenants_max = 3};
    static const struct tenant_row rows[] = {{.parent = TENANT_TOP, .weight = 1},
                                             {.parent = TENANT_TOP, .weight = 1},
                                             {.parent = TENANT_TOP, .weight = 1}};
    const struct tenant_table table = {.n_rows = array_count(rows), .rows = rows};
    now_ns = 1;
    random_state = 20261124;
    CHECK(sched_open(&limits, &policy_fair, &sched, NULL) == STATUS_OK);
    CHECK(sched_set_tenants(sched, &table, NULL) == STATUS_OK);
    double area = trials_play(prober_domain, ret_cached);
    sched_close(sched);
    return area;
}

int main(void)
{
    uint64_t cached_same, cached_other;
    double same = world_play(1, &cached_same), other = world_play(2, &cached_other);
    printf("%d trials each; prober in the same domain: AUC %.3f, %llu tokens from the cache; in "
           "another: AUC %.3f, %llu tokens\n",
           TRIALS, same, (unsigned long long)cached_same, other, (unsigned long long)cached_other);
    CHECK(cached_other == 0 && cached_same > 0);
    CHECK(same >= SEES_LEAST);
    CHECK(other >= 0.5 - BLIND_MOST && other <= 0.5 + BLIND_MOST);
    return 0;
}
