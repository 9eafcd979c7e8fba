/*
 * store: what must outlive the process: tenants, keys, quota leases, ledger, audit.
 *
 * The seam only; the tenants' issue brings SQLite and PostgreSQL behind it and one conformance
 * suite for both. Calls are made by the store thread alone and may block; group commits make the
 * ledger cheap. Until then the daemon has one tenant, 0, "local".
 */
#pragma once

#include "base/status.h"

struct store;

struct store_ops {
    const char *name; /* "sqlite", "postgresql" */
    enum status (*open)(const char *where, struct store **ret_store, struct error *error);
    void (*close)(struct store *store);
    /* The tenant that a credential's SHA-256 belongs to. NOT_FOUND. */
    enum status (*tenant_find)(struct store *store, const uint8_t digest[32], uint32_t *ret_tenant,
                               struct error *error);
    /* One line of the ledger: what a request used. Idempotent by (epoch, number). */
    enum status (*ledger_add)(struct store *store, uint64_t epoch, uint64_t number, uint32_t tenant,
                              uint32_t prompt_tokens, uint32_t output_tokens, struct error *error);
    enum status (*commit)(struct store *store, struct error *error);
};
