/*
 * tenancy: which tenant a client is, and the tenants that are in force.
 *
 * One object for the process. It begins with the configuration's tenants, or with one tenant
 * `local` that everybody belongs to, and takes new ones while the daemon runs. A tenant keeps its
 * row as long as it has its name: one that a new configuration leaves out stays as a closed row
 * without rights, so that what it has running goes on and row numbers mean the same for ever. It
 * stays below those that were above it and still are, so that their limits count it.
 *
 * A client over TCP is found by the SHA-256 of its certificate, then by its names in their order;
 * on the unix socket by its user id. With tenants in force a client that none lists is the default
 * tenant's, or refused.
 *
 * The cache domain follows from the tenant's key `cache`; with `local`, each client has its own.
 *
 * tenancy_open, tenancy_preview, tenancy_preview_quotas, tenancy_replace, tenancy_close: the
 * control thread. The rest: any thread; a lock guards what is in force.
 */
#pragma once

#include "daemon/config.h"
#include "daemon/tls_files.h"
#include "sched/tenants.h"

#define TENANCY_ROWS_MAX CONFIG_TENANTS_MAX

struct tenancy;

/* What a request takes from who sent it. */
struct tenancy_place {
    uint32_t tenant;       /* row */
    uint64_t cache_domain; /* 0: nobody's */
    bool cache_readonly;
};

/* INVALID: a user that does not exist. The error names file and line. */
enum status tenancy_open(const struct config *config, struct tenancy **ret_tenancy,
                         struct error *error);
void tenancy_close(struct tenancy *tenancy);

/* The rows that `config` would give, merged with those in force; [TENANCY_ROWS_MAX], for a pool of
 * blocks_count. INVALID: too many rows, or a tenant that has clients is to get others below it. */
enum status tenancy_preview(struct tenancy *tenancy, const struct config *config,
                            uint32_t blocks_count, struct tenant_row *ret_rows,
                            uint32_t *ret_n_rows, struct error *error);

/* The limits of the rows that were made last, by tenancy_preview or tenancy_replace; [the rows'
 * count], which is returned. Names are good until more are made. The control thread. */
uint32_t tenancy_preview_quotas(struct tenancy *tenancy, struct quota_row *ret_rows);

/* Puts the configuration's tenants in force, whole or not at all; the same errors, and those of
 * open. Whether schedulers take the rows is the caller's to know before (tenancy_preview). */
enum status tenancy_replace(struct tenancy *tenancy, const struct config *config,
                            struct error *error);

/* `peer` is NULL on a unix socket, where uid counts (UINT32_MAX: not known). DENIED: no tenant
 * lists this client. */
enum status tenancy_find(struct tenancy *tenancy, const struct tls_peer *peer, uint32_t uid,
                         struct tenancy_place *ret_place, struct error *error);

/* Moves with every set that comes into force; from 1. */
uint64_t tenancy_generation(const struct tenancy *tenancy);

/* The rows in force for a pool of blocks_count, [TENANCY_ROWS_MAX]; returns how many. The names
 * stay valid. */
uint32_t tenancy_rows(struct tenancy *tenancy, uint32_t blocks_count, struct tenant_row *ret_rows,
                      uint64_t *ret_generation);

/* Their limits, in the same rows; returns how many. */
uint32_t tenancy_quotas(struct tenancy *tenancy, struct quota_row *ret_rows);

/* True when tenants come from the configuration: with `local` alone there is little to say. */
bool tenancy_is_shared(const struct tenancy *tenancy);

/* The name of a row, "" when there is none; stays valid. */
const char *tenancy_name(struct tenancy *tenancy, uint32_t tenant);
