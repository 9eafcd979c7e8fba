#include "daemon/digest.h"

#include <gnutls/crypto.h>
#include <pthread.h>
#include <sys/random.h>

#define DIGEST_VERSION 1

/* Drawn once; before the first digest. */
static uint8_t secret[32];

static void secret_draw(void)
{
    CHECK(getrandom(secret, sizeof secret, 0) == sizeof secret);
}

static void field(gnutls_hash_hd_t hash, uint8_t type, const void *value, uint32_t size_bytes)
{
    uint8_t head[5] = {type, (uint8_t)size_bytes, (uint8_t)(size_bytes >> 8),
                       (uint8_t)(size_bytes >> 16), (uint8_t)(size_bytes >> 24)};
    gnutls_hash(hash, head, sizeof head);
    gnutls_hash(hash, value, size_bytes);
}

static void digest_root(gnutls_hash_hd_t hash, const struct digest_scope *scope,
                        struct sched_digest *ret_root)
{
    static const char name[] = "galerne-kv";
    static pthread_once_t drawn = PTHREAD_ONCE_INIT;
    uint32_t version = DIGEST_VERSION;
    CHECK(pthread_once(&drawn, secret_draw) == 0);
    field(hash, 1, name, sizeof name - 1);
    field(hash, 2, &version, sizeof version);
    field(hash, 3, scope->model_digest, 32);
    field(hash, 4, &scope->kv_dtype, sizeof scope->kv_dtype);
    field(hash, 5, &scope->adapter, sizeof scope->adapter);
    field(hash, 6, &scope->cache_domain, sizeof scope->cache_domain);
    field(hash, 9, secret, sizeof secret);
    gnutls_hash_output(hash, ret_root->bytes);
}

static void block_add(gnutls_hash_hd_t hash, const uint32_t *ids, uint32_t block_tokens,
                      struct sched_digest *value)
{
    field(hash, 7, value->bytes, sizeof value->bytes);
    field(hash, 8, ids, block_tokens * (uint32_t)sizeof *ids);
    gnutls_hash_output(hash, value->bytes);
}

void digest_blocks(const struct digest_scope *scope, const uint32_t *ids, uint32_t n_ids,
                   uint32_t block_tokens, struct sched_digest *ret_digests)
{
    gnutls_hash_hd_t hash;
    CHECK(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0);
    struct sched_digest value;
    digest_root(hash, scope, &value); /* the output call starts the hash anew */
    for (uint32_t i = 0; i < n_ids / block_tokens; i++) {
        block_add(hash, ids + (size_t)i * block_tokens, block_tokens, &value);
        ret_digests[i] = value;
    }
    gnutls_hash_deinit(hash, NULL);
}

/* ---- one block after the other ---- */

struct digest_chain {
    gnutls_hash_hd_t hash;
};

enum status digest_chain_open(struct digest_chain **ret_chain, struct error *error)
{
    struct digest_chain *chain = calloc(1, sizeof *chain);
    if (!chain || gnutls_hash_init(&chain->hash, GNUTLS_DIG_SHA256) != 0) {
        free(chain);
        return error_set(error, STATUS_EXHAUSTED, "no memory for a hash");
    }
    *ret_chain = chain;
    return STATUS_OK;
}

void digest_chain_close(struct digest_chain *chain)
{
    if (!chain)
        return;
    gnutls_hash_deinit(chain->hash, NULL);
    free(chain);
}

void digest_next(struct digest_chain *chain, const struct digest_scope *scope,
                 const struct sched_digest *previous, const uint32_t *ids, uint32_t block_tokens,
                 struct sched_digest *ret_digest)
{
    struct sched_digest value;
    if (previous)
        value = *previous;
    else
        digest_root(chain->hash, scope, &value);
    block_add(chain->hash, ids, block_tokens, &value);
    *ret_digest = value;
}

/* ---- domains ---- */

/* The two highest bits say what a domain was made from. Both: the scheduler has made it, for the
 * choices of one prompt (sched/group.h). */
#define DOMAIN_OF_TENANT 0
#define DOMAIN_OF_UID (1ull << 62)
#define DOMAIN_OF_PEER (1ull << 63)
#define DOMAIN_BITS (DOMAIN_OF_UID - 1)

uint64_t digest_domain_of(enum digest_domain_kind kind, const char *name)
{
    gnutls_hash_hd_t hash;
    uint32_t number = kind;
    uint8_t digest[32];
    uint64_t domain;
    CHECK(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0);
    field(hash, 1, &number, sizeof number);
    field(hash, 2, name, (uint32_t)strlen(name));
    gnutls_hash_deinit(hash, digest);
    memcpy(&domain, digest, sizeof domain);
    return DOMAIN_OF_TENANT | (domain & DOMAIN_BITS) | 1; /* 0 is nobody's */
}

uint64_t digest_domain(const char *peer, uint32_t peer_uid)
{
    if (!peer[0])
        return peer_uid == UINT32_MAX ? 0 : DOMAIN_OF_UID | peer_uid;
    uint8_t digest[32];
    uint64_t domain;
    CHECK(gnutls_hash_fast(GNUTLS_DIG_SHA256, peer, strlen(peer), digest) == 0);
    memcpy(&domain, digest, sizeof domain);
    return (domain & DOMAIN_BITS) | DOMAIN_OF_PEER;
}
