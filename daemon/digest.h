/*
 * digest: the chain of SHA-256 values that names the full blocks of a prompt.
 *
 * Block i's value covers every token up to the end of block i and everything else that the block's
 * keys and values depend on, each field with its type and length in front, so that no two different
 * things share a name:
 *     root    = H("galerne-kv" | version | model digest | KV type | adapter | domain | secret)
 *     value_i = H(value_{i-1} | block_tokens ids, little-endian)      value_{-1} = root
 * The secret is drawn once in the life of the process, which cached blocks do not outlive: nobody
 * outside can tell the name of a block, nor make prompts whose blocks meet in one place of a table.
 *
 * Any thread, the same values at any time; a chain (digest_chain) is one thread's and allocates
 * only when opened.
 */
#pragma once

#include "kernels/ops.h"
#include "sched/sched.h"

struct digest_scope {
    const uint8_t *model_digest; /* [32] */
    uint32_t kv_dtype;           /* enum dtype */
    uint32_t adapter;
    uint64_t cache_domain;
};

/* What all blocks of a model have in common in this version. */
static inline struct digest_scope digest_scope_of(const uint8_t *model_digest, enum dtype kv_dtype,
                                                  uint64_t cache_domain)
{
    return (struct digest_scope){
        .model_digest = model_digest, .kv_dtype = kv_dtype, .cache_domain = cache_domain};
}

/* The cache domain of what has a name; two kinds, or two names of a kind, never share one. */
enum digest_domain_kind {
    DIGEST_DOMAIN_TENANT = 1, /* the tenant's own */
    DIGEST_DOMAIN_BELOW,      /* of tenants below the named one */
    DIGEST_DOMAIN_TOP,        /* of tenants at the top */
    DIGEST_DOMAIN_PUBLIC,
};
uint64_t digest_domain_of(enum digest_domain_kind kind, const char *name);

/* The cache domain of who sent a request, where there are no tenants: the name in his certificate,
 * else his user id; 0, which is nobody's, when neither is known. Nobody shares with anybody else.
 */
uint64_t digest_domain(const char *peer, uint32_t peer_uid);

/* Writes floor(n_ids / block_tokens) values. */
void digest_blocks(const struct digest_scope *scope, const uint32_t *ids, uint32_t n_ids,
                   uint32_t block_tokens, struct sched_digest *ret_digests);

struct digest_chain;

enum status digest_chain_open(struct digest_chain **ret_chain, struct error *error);
void digest_chain_close(struct digest_chain *chain);

/* The value of one more block [block_tokens] after `previous`; NULL: it is the first. */
void digest_next(struct digest_chain *chain, const struct digest_scope *scope,
                 const struct sched_digest *previous, const uint32_t *ids, uint32_t block_tokens,
                 struct sched_digest *ret_digest);
