#include "daemon/request.h"

#include <pthread.h>

struct request_pool {
    uint32_t count;
    _Atomic uint32_t used_count;
    pthread_mutex_t lock; /* listeners only; neither text threads nor engines take it */
    struct request *free;
    struct request *requests; /* [count] */
    char *rings;              /* [count][ring_bytes] */
    size_t ring_bytes;
};

enum status request_pool_open(uint32_t count, struct request_pool **ret_pool, struct error *error)
{
    struct request_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        goto out_of_memory;
    pool->count = count;
    pool->ring_bytes = ring_footprint(sizeof(struct request_token), REQUEST_TOKENS_RING);
    pool->requests = calloc(count, sizeof *pool->requests);
    pool->rings = aligned_alloc(RING_LINE_BYTES, pool->ring_bytes * count);
    if (!pool->requests || !pool->rings)
        goto out_of_memory;
    pthread_mutex_init(&pool->lock, NULL);
    for (uint32_t i = count; i-- > 0;) {
        pool->requests[i].next_free = pool->free;
        pool->free = &pool->requests[i];
    }
    *ret_pool = pool;
    return STATUS_OK;

out_of_memory:
    if (pool) {
        free(pool->requests);
        free(pool->rings);
        free(pool);
    }
    return error_set(error, STATUS_EXHAUSTED,
                     "no memory for %u requests: lower requests_max in the configuration", count);
}

void request_pool_close(struct request_pool *pool)
{
    if (!pool)
        return;
    CHECK(atomic_load(&pool->used_count) == 0);
    pthread_mutex_destroy(&pool->lock);
    free(pool->requests);
    free(pool->rings);
    free(pool);
}

struct request *request_new(struct request_pool *pool, size_t arena_max_bytes)
{
    pthread_mutex_lock(&pool->lock);
    struct request *request = pool->free;
    if (request)
        pool->free = request->next_free;
    pthread_mutex_unlock(&pool->lock);
    if (!request)
        return NULL;
    atomic_fetch_add(&pool->used_count, 1);
    memset(request, 0, sizeof *request);
    arena_init(&request->arena, arena_max_bytes);
    size_t index = (size_t)(request - pool->requests);
    request->tokens = ring_init(pool->rings + index * pool->ring_bytes,
                                sizeof(struct request_token), REQUEST_TOKENS_RING);
    request->deadline_ns = UINT64_MAX;
    request->peer_uid = UINT32_MAX;
    request->n_choices = 1;
    return request;
}

void request_free(struct request_pool *pool, struct request *request)
{
    arena_free(&request->arena);
    pthread_mutex_lock(&pool->lock);
    request->next_free = pool->free;
    pool->free = request;
    pthread_mutex_unlock(&pool->lock);
    atomic_fetch_sub(&pool->used_count, 1);
}

/* ---- choices ---- */

/* The last steps of splitmix64: one to one, and each bit depends on all. */
static uint64_t bits_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Neighbouring seeds and choices must give draws that have nothing to do with each other. */
uint64_t request_choice_seed(uint64_t seed, uint32_t choice)
{
    return choice == 0 ? seed : bits_mix(bits_mix(seed + 0x9e3779b97f4a7c15ull) + choice);
}

/* Nobody else knows of the first one yet. */
static void choice_copy(struct request *choice, const struct request *first, uint32_t index)
{
    struct request own = {.tokens = choice->tokens, .arena = choice->arena};
    memcpy(choice, first, sizeof *choice);
    choice->tokens = own.tokens;
    choice->arena = own.arena;
    choice->choice = index;
    choice->sampling.seed = request_choice_seed(first->sampling.seed, index);
    choice->next_choice = NULL;
}

bool request_choices_new(struct request_pool *pool, struct request *first)
{
    struct request *last = first;
    CHECK(!first->next_choice && first->n_choices <= REQUEST_CHOICES_MAX);
    for (uint32_t i = 1; i < first->n_choices; i++) {
        struct request *choice = request_new(pool, 0);
        if (!choice) {
            while ((choice = first->next_choice)) {
                first->next_choice = choice->next_choice;
                request_free(pool, choice);
            }
            return false;
        }
        choice_copy(choice, first, i);
        last->next_choice = choice;
        last = choice;
    }
    return true;
}

void request_choices_share(struct request *first)
{
    for (struct request *choice = first->next_choice; choice; choice = choice->next_choice) {
        choice->ids = first->ids;
        choice->n_ids = first->n_ids;
        choice->digests = first->digests;
        choice->n_digests = first->n_digests;
        choice->output_tokens_max = first->output_tokens_max;
        choice->tokenized_ns = first->tokenized_ns;
    }
}

void request_choices_free(struct request_pool *pool, struct request *first)
{
    while (first) {
        struct request *next = first->next_choice;
        request_free(pool, first);
        first = next;
    }
}

uint32_t request_pool_used_count(const struct request_pool *pool)
{
    return atomic_load(&((struct request_pool *)(uintptr_t)pool)->used_count);
}
