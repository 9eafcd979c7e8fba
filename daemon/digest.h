/*
 * digest: the chain of SHA-256 values that names the full blocks of a prompt.
 *
 * Block i's value covers every token up to the end of block i and everything else that the block's
 * keys and values depend on, each field with its type and length in front, so that no two different
 * things share a name:
 *     root    = H("galerne-kv" | version | model digest | KV type | adapter | domain)
 *     value_i = H(value_{i-1} | block_tokens ids, little-endian)      value_{-1} = root
 * Pure functions, any thread.
 */
#pragma once

#include "sched/sched.h"

struct digest_scope {
    const uint8_t *model_digest; /* [32] */
    uint32_t kv_dtype;           /* enum dtype */
    uint32_t adapter;
    uint64_t cache_domain;
};

/* Writes floor(n_ids / block_tokens) values. */
void digest_blocks(const struct digest_scope *scope, const uint32_t *ids, uint32_t n_ids,
                   uint32_t block_tokens, struct sched_digest *ret_digests);
