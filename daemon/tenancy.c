#include "daemon/tenancy.h"

#include <pthread.h>
#include <pwd.h>
#include <stdatomic.h>

#include "daemon/config_tenants.h"
#include "daemon/digest.h"

#define LOCAL "local"

/* Who belongs to which row; sorted by name. */
struct client {
    char name[CONFIG_CLIENT_MAX_BYTES];
    uint32_t tenant;
};

/* What is in force, or about to be. */
struct roll {
    uint32_t n_rows, n_clients;
    uint32_t default_row;                        /* CONFIG_NONE: unknown clients are refused */
    bool shared;                                 /* from the configuration */
    struct config_tenant rows[TENANCY_ROWS_MAX]; /* [n_rows]; parent_index is a row */
    bool had_own[TENANCY_ROWS_MAX];              /* [n_rows] requests, maybe, now or before */
    bool left_out[TENANCY_ROWS_MAX];             /* [n_rows] by the configuration */
    struct client clients[CONFIG_CLIENTS_MAX];   /* [n_clients] */
};

struct tenancy {
    pthread_rwlock_t lock;
    _Atomic uint64_t generation;
    _Atomic bool shared;
    struct roll roll;
    struct roll next; /* the control thread's, to build one */
    /* A row's name never changes, so whoever has a pointer to it needs no lock. */
    char names[TENANCY_ROWS_MAX][CONFIG_NAME_MAX_BYTES]; /* [roll.n_rows] */
};

/* ---- from the configuration to a roll ---- */

static uint32_t row_find(const struct roll *roll, const char *name)
{
    for (uint32_t i = 0; i < roll->n_rows; i++)
        if (strcmp(roll->rows[i].name, name) == 0)
            return i;
    return CONFIG_NONE;
}

/* Rows in force keep their place; those that `config` lacks are closed and have no rights. */
static void rows_carry(const struct roll *old, struct roll *next)
{
    next->n_rows = old->n_rows;
    memcpy(next->had_own, old->had_own, sizeof next->had_own);
    for (uint32_t i = 0; i < old->n_rows; i++) {
        struct config_tenant *row = &next->rows[i];
        *row = (struct config_tenant){.parent_index = CONFIG_NONE,
                                      .weight = 1,
                                      .class = CLASS_INTERACTIVE,
                                      .closed = true,
                                      .limit_percent = 100,
                                      .cached_percent = 100};
        memcpy(row->name, old->rows[i].name, sizeof row->name);
        next->left_out[i] = true;
    }
}

static enum status row_set(struct roll *next, const struct config_tenant *tenant,
                           struct error *error)
{
    uint32_t row = row_find(next, tenant->name);
    if (row == CONFIG_NONE && next->n_rows == TENANCY_ROWS_MAX)
        return error_set(error, STATUS_INVALID,
                         "line %u: tenant %s: with those that were there before, there are more "
                         "than %d: restart the daemon",
                         tenant->line, tenant->name, TENANCY_ROWS_MAX);
    if (row == CONFIG_NONE)
        row = next->n_rows++;
    next->rows[row] = *tenant;
    next->left_out[row] = false;
    return STATUS_OK;
}

static bool has_below(const struct roll *roll, uint32_t row)
{
    for (uint32_t i = 0; i < roll->n_rows; i++)
        if (roll->rows[i].parent_index == row)
            return true;
    return false;
}

/* What runs of a tenant that is left out still counts for those above it: it stays below the
 * nearest that is there and has others below it. */
static void left_out_set(const struct roll *old, const struct config *config, struct roll *next)
{
    bool is_above[TENANCY_ROWS_MAX] = {false};
    for (uint32_t i = 0; i < config->n_tenants; i++) {
        uint32_t row = row_find(next, config->tenants[i].name);
        if (next->rows[row].parent_index != CONFIG_NONE)
            is_above[next->rows[row].parent_index] = true;
    }
    for (uint32_t i = 0; i < old->n_rows; i++) {
        if (!next->left_out[i])
            continue;
        uint32_t above = old->rows[i].parent_index;
        while (above != CONFIG_NONE && !is_above[above])
            above = old->rows[above].parent_index;
        next->rows[i].parent_index = above;
    }
}

/* A tenant that may have requests of its own cannot become one that has only others'. One that was
 * left out for a while takes none meanwhile, and may come back with those below it. */
static enum status leaves_set(const struct config *config, struct roll *next, struct error *error)
{
    for (uint32_t i = 0; i < next->n_rows; i++)
        if (next->had_own[i] && has_below(next, i))
            return error_set(error, STATUS_INVALID,
                             "tenant %s (line %u) takes requests of its own and cannot get tenants "
                             "below it while the daemon runs: give it another name, or restart",
                             next->rows[i].name, next->rows[i].line);
    for (uint32_t i = 0; i < config->n_tenants; i++) {
        uint32_t row = row_find(next, config->tenants[i].name);
        next->had_own[row] |= !has_below(next, row);
    }
    if (!next->shared)
        next->had_own[next->default_row] = true;
    return STATUS_OK;
}

static int client_order(const void *a, const void *b)
{
    return strcmp(((const struct client *)a)->name, ((const struct client *)b)->name);
}

/* The name under which the client will be looked up. */
static enum status client_name(const struct config_client *client, struct client *ret,
                               struct error *error)
{
    memcpy(ret->name, client->name, sizeof ret->name);
    tls_fingerprint_normalize(ret->name);
    if (strncmp(client->name, "user:", 5) == 0) {
        struct passwd entry, *found = NULL;
        char memory[4096];
        getpwnam_r(client->name + 5, &entry, memory, sizeof memory, &found);
        if (!found)
            return error_set(error, STATUS_INVALID, "line %u: clients: there is no user %s",
                             client->line, client->name + 5);
        snprintf(ret->name, sizeof ret->name, "uid:%u", (unsigned)entry.pw_uid);
    } else if (strncmp(client->name, "uid:", 4) == 0) {
        char *end;
        unsigned long uid = strtoul(client->name + 4, &end, 10);
        if (client->name[4] < '0' || client->name[4] > '9' || *end || uid >= UINT32_MAX)
            return error_set(error, STATUS_INVALID,
                             "line %u: clients: expected a user's number after uid:, got \"%s\"",
                             client->line, client->name);
        snprintf(ret->name, sizeof ret->name, "uid:%lu", uid);
    }
    return STATUS_OK;
}

static enum status clients_set(const struct config *config, struct roll *next, struct error *error)
{
    for (uint32_t i = 0; i < config->n_clients; i++) {
        struct client *client = &next->clients[i];
        enum status status = client_name(&config->clients[i], client, error);
        if (status != STATUS_OK)
            return status;
        client->tenant = row_find(next, config->tenants[config->clients[i].tenant].name);
    }
    next->n_clients = config->n_clients;
    qsort(next->clients, next->n_clients, sizeof *next->clients, client_order);
    for (uint32_t i = 1; i < next->n_clients; i++)
        if (client_order(&next->clients[i - 1], &next->clients[i]) == 0)
            return error_set(error, STATUS_INVALID,
                             "clients: \"%s\" is listed twice, under two spellings: a client has "
                             "one tenant",
                             next->clients[i].name);
    return STATUS_OK;
}

static enum status roll_make(const struct roll *old, const struct config *config,
                             struct roll *ret_next, struct error *error)
{
    struct roll *next = ret_next;
    static const struct config_tenant local = {.name = LOCAL,
                                               .parent_index = CONFIG_NONE,
                                               .weight = 1,
                                               .class = CLASS_INTERACTIVE,
                                               .limit_percent = 100,
                                               .cached_percent = 100};
    enum status status = STATUS_OK;
    rows_carry(old, next);
    next->n_clients = 0;
    next->shared = config->n_tenants > 0;
    for (uint32_t i = 0; status == STATUS_OK && i < config->n_tenants; i++)
        status = row_set(next, &config->tenants[i], error);
    if (!next->shared)
        status = row_set(next, &local, error);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < config->n_tenants; i++)
        if (config->tenants[i].parent[0])
            next->rows[row_find(next, config->tenants[i].name)].parent_index =
                row_find(next, config->tenants[i].parent);
    next->default_row = row_find(next, next->shared ? config->default_tenant : LOCAL);
    left_out_set(old, config, next);
    status = leaves_set(config, next, error);
    return status == STATUS_OK ? clients_set(config, next, error) : status;
}

static void roll_rows(const struct roll *roll, uint32_t blocks_count, struct tenant_row *ret_rows)
{
    for (uint32_t i = 0; i < roll->n_rows; i++)
        ret_rows[i] = config_tenant_row(&roll->rows[i], blocks_count);
}

/* ---- putting in force ---- */

enum status tenancy_preview(struct tenancy *tenancy, const struct config *config,
                            uint32_t blocks_count, struct tenant_row *ret_rows,
                            uint32_t *ret_n_rows, struct error *error)
{
    enum status status = roll_make(&tenancy->roll, config, &tenancy->next, error);
    if (status != STATUS_OK)
        return status;
    roll_rows(&tenancy->next, blocks_count, ret_rows);
    *ret_n_rows = tenancy->next.n_rows;
    return STATUS_OK;
}

enum status tenancy_replace(struct tenancy *tenancy, const struct config *config,
                            struct error *error)
{
    enum status status = roll_make(&tenancy->roll, config, &tenancy->next, error);
    if (status != STATUS_OK)
        return status;
    pthread_rwlock_wrlock(&tenancy->lock);
    tenancy->roll = tenancy->next;
    for (uint32_t i = 0; i < tenancy->roll.n_rows; i++)
        if (!tenancy->names[i][0]) /* others may be reading what is there */
            memcpy(tenancy->names[i], tenancy->roll.rows[i].name, CONFIG_NAME_MAX_BYTES);
    atomic_store(&tenancy->shared, tenancy->roll.shared);
    atomic_fetch_add(&tenancy->generation, 1); /* whoever finds a new row finds this as well */
    pthread_rwlock_unlock(&tenancy->lock);
    return STATUS_OK;
}

enum status tenancy_open(const struct config *config, struct tenancy **ret_tenancy,
                         struct error *error)
{
    struct tenancy *tenancy = calloc(1, sizeof *tenancy);
    if (!tenancy)
        return error_set(error, STATUS_EXHAUSTED, "no memory for the tenants");
    pthread_rwlock_init(&tenancy->lock, NULL);
    enum status status = tenancy_replace(tenancy, config, error);
    if (status != STATUS_OK) {
        tenancy_close(tenancy);
        return config->file[0] ? error_prefix(error, config->file) : status;
    }
    *ret_tenancy = tenancy;
    return STATUS_OK;
}

void tenancy_close(struct tenancy *tenancy)
{
    if (!tenancy)
        return;
    pthread_rwlock_destroy(&tenancy->lock);
    free(tenancy);
}

/* ---- who is it ---- */

static const struct client *client_find(const struct roll *roll, const char *name)
{
    struct client key;
    if (snprintf(key.name, sizeof key.name, "%s", name) >= (int)sizeof key.name)
        return NULL;
    return bsearch(&key, roll->clients, roll->n_clients, sizeof key, client_order);
}

/* A fingerprint is the surest name, one that was cut, changed or looks like a fingerprint is none,
 * and one that looks like a user of this host is not such a user. */
static const struct client *peer_find(const struct roll *roll, const struct tls_peer *peer)
{
    const struct client *client = client_find(roll, peer->fingerprint);
    for (uint32_t i = 0; !client && i < peer->n_names; i++)
        if (peer->exact[i] && strncmp(peer->names[i], "uid:", 4) != 0)
            client = client_find(roll, peer->names[i]);
    return client;
}

static void domain_set(const struct roll *roll, const struct config_tenant *row,
                       struct tenancy_place *ret)
{
    ret->cache_readonly = row->cache == CONFIG_CACHE_PUBLIC;
    switch (row->cache) {
    case CONFIG_CACHE_NONE:
        ret->cache_domain = 0;
        break;
    case CONFIG_CACHE_PUBLIC:
    case CONFIG_CACHE_PUBLISH:
        ret->cache_domain = digest_domain_of(DIGEST_DOMAIN_PUBLIC, "");
        break;
    case CONFIG_CACHE_SHARED:
        ret->cache_domain =
            row->parent_index == CONFIG_NONE
                ? digest_domain_of(DIGEST_DOMAIN_TOP, "")
                : digest_domain_of(DIGEST_DOMAIN_BELOW, roll->rows[row->parent_index].name);
        break;
    case CONFIG_CACHE_OWN:
        ret->cache_domain = digest_domain_of(DIGEST_DOMAIN_TENANT, row->name);
        break;
    }
}

/* Without tenants: a name that was changed may be what several were changed to, and is nobody's. */
static uint64_t peer_domain(const struct tls_peer *peer)
{
    if (peer->n_names == 0)
        return digest_domain(peer->fingerprint, UINT32_MAX);
    return peer->exact[0] ? digest_domain(peer->names[0], UINT32_MAX) : 0;
}

enum status tenancy_find(struct tenancy *tenancy, const struct tls_peer *peer, uint32_t uid,
                         struct tenancy_place *ret_place, struct error *error)
{
    const struct client *client = NULL;
    enum status status = STATUS_OK;
    char name[CONFIG_CLIENT_MAX_BYTES];
    if (peer)
        snprintf(name, sizeof name, "%s", peer->n_names ? peer->names[0] : peer->fingerprint);
    else
        snprintf(name, sizeof name, uid == UINT32_MAX ? "uid unknown" : "uid:%u", (unsigned)uid);
    pthread_rwlock_rdlock(&tenancy->lock);
    const struct roll *roll = &tenancy->roll;
    if (!roll->shared) {
        ret_place->tenant = roll->default_row;
        ret_place->cache_domain = peer ? peer_domain(peer) : digest_domain("", uid);
        ret_place->cache_readonly = false;
        goto out;
    }
    client = peer ? peer_find(roll, peer) : client_find(roll, name);
    uint32_t row = client ? client->tenant : roll->default_row;
    if (row == CONFIG_NONE) {
        status = error_set(error, STATUS_DENIED,
                           "no tenant lists the client \"%s\": an operator adds it to one, or sets "
                           "default_tenant",
                           name);
        goto out;
    }
    ret_place->tenant = row;
    domain_set(roll, &roll->rows[row], ret_place);
out:
    pthread_rwlock_unlock(&tenancy->lock);
    return status;
}

/* ---- what is in force ---- */

uint64_t tenancy_generation(const struct tenancy *tenancy)
{
    return atomic_load(&tenancy->generation);
}

bool tenancy_is_shared(const struct tenancy *tenancy)
{
    return atomic_load(&tenancy->shared);
}

uint32_t tenancy_rows(struct tenancy *tenancy, uint32_t blocks_count, struct tenant_row *ret_rows,
                      uint64_t *ret_generation)
{
    pthread_rwlock_rdlock(&tenancy->lock);
    uint32_t n = tenancy->roll.n_rows;
    *ret_generation = atomic_load(&tenancy->generation);
    roll_rows(&tenancy->roll, blocks_count, ret_rows);
    for (uint32_t i = 0; i < n; i++)
        ret_rows[i].name = tenancy->names[i];
    pthread_rwlock_unlock(&tenancy->lock);
    return n;
}

uint32_t tenancy_preview_quotas(struct tenancy *tenancy, struct quota_row *ret_rows)
{
    const struct roll *next = &tenancy->next;
    for (uint32_t i = 0; i < next->n_rows; i++) {
        ret_rows[i] = config_quota_row(&next->rows[i]);
        ret_rows[i].name = next->rows[i].name;
    }
    return next->n_rows;
}

uint32_t tenancy_quotas(struct tenancy *tenancy, struct quota_row *ret_rows)
{
    pthread_rwlock_rdlock(&tenancy->lock);
    uint32_t n = tenancy->roll.n_rows;
    for (uint32_t i = 0; i < n; i++) {
        ret_rows[i] = config_quota_row(&tenancy->roll.rows[i]);
        ret_rows[i].name = tenancy->names[i];
    }
    pthread_rwlock_unlock(&tenancy->lock);
    return n;
}

const char *tenancy_name(struct tenancy *tenancy, uint32_t tenant)
{
    return tenant < TENANCY_ROWS_MAX ? tenancy->names[tenant] : "";
}
