#include "daemon/digest.h"

#include <gnutls/crypto.h>

#define DIGEST_VERSION 1

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
    uint32_t version = DIGEST_VERSION;
    field(hash, 1, name, sizeof name - 1);
    field(hash, 2, &version, sizeof version);
    field(hash, 3, scope->model_digest, 32);
    field(hash, 4, &scope->kv_dtype, sizeof scope->kv_dtype);
    field(hash, 5, &scope->adapter, sizeof scope->adapter);
    field(hash, 6, &scope->cache_domain, sizeof scope->cache_domain);
    gnutls_hash_output(hash, ret_root->bytes);
}

void digest_blocks(const struct digest_scope *scope, const uint32_t *ids, uint32_t n_ids,
                   uint32_t block_tokens, struct sched_digest *ret_digests)
{
    gnutls_hash_hd_t hash;
    CHECK(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0);
    struct sched_digest value;
    digest_root(hash, scope, &value); /* the output call starts the hash anew */
    for (uint32_t i = 0; i < n_ids / block_tokens; i++) {
        field(hash, 7, value.bytes, sizeof value.bytes);
        field(hash, 8, ids + (size_t)i * block_tokens, block_tokens * (uint32_t)sizeof *ids);
        gnutls_hash_output(hash, value.bytes);
        ret_digests[i] = value;
    }
    gnutls_hash_deinit(hash, NULL);
}
