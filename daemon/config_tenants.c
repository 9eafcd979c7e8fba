#include "daemon/config_tenants.h"

#include "base/option.h"
#include "daemon/config_table.h"

#define TENANT_WORDS "name and rights of a tenant"
#define CLIENT_WORDS "a certificate's name or SHA-256 fingerprint, uid:NUMBER or user:NAME"

/* A pool that is large and divides by a hundred: what holds on it holds on every pool, but for
 * rounding, which never takes more than was said. */
#define POOL_BLOCKS 1000000

/* ---- reading ---- */

static enum status client_read(struct yaml_reader *r, void *context)
{
    struct config *config = context;
    static const struct option_row row = {"clients", OPTION_STRING,
                                          OPTION_AT(struct config_client, name),
                                          .text = "Names of clients."};
    yaml_mark_t mark = r->event.start_mark;
    if (config->n_clients == CONFIG_CLIENTS_MAX)
        return yaml_fail(r, mark, "clients: expected at most %d of all tenants together",
                         CONFIG_CLIENTS_MAX);
    struct config_client *client = &config->clients[config->n_clients];
    *client = (struct config_client){.tenant = config->n_tenants, .line = (uint32_t)mark.line + 1};
    enum status status = yaml_value(r, &row, client);
    for (const char *c = client->name; status == STATUS_OK && *c; c++)
        if (*c <= ' ' || *c > '~' || *c == '"')
            status = yaml_fail(r, mark,
                               "clients: expected " CLIENT_WORDS
                               " in printable ASCII without spaces, got \"%.60s\"",
                               client->name);
    if (status == STATUS_OK)
        config->n_clients++;
    return status;
}

static enum status clients_read(struct yaml_reader *r, struct yaml_section *section,
                                const struct option_row *row)
{
    (void)section;
    const struct yaml_list list = {.key = row->name,
                                   .list_text = "a list of names ([alice, \"uid:1000\"])",
                                   .item_text = CLIENT_WORDS,
                                   .item_type = YAML_SCALAR_EVENT,
                                   .item = client_read,
                                   .context = r->above};
    return yaml_items(r, &list);
}

static const char *key_hint(const struct yaml_section *section, const char *key)
{
    (void)section;
    return option_find(config_rows, config_rows_count, key)
               ? "the file, not to a tenant: do not indent it"
               : NULL;
}

static enum status tenant_read(struct yaml_reader *r, void *context)
{
    struct config *config = context;
    if (config->n_tenants == CONFIG_TENANTS_MAX)
        return yaml_fail(r, r->event.start_mark, "tenants: expected at most %d of them",
                         CONFIG_TENANTS_MAX);
    struct config_tenant *tenant = &config->tenants[config->n_tenants];
    struct yaml_section section = {.rows = config_tenant_rows,
                                   .n_rows = config_tenant_rows_count,
                                   .target = tenant,
                                   .nested = clients_read,
                                   .key_hint = key_hint,
                                   .title = "an entry of tenants"};
    memset(tenant, 0, sizeof *tenant);
    option_defaults(config_tenant_rows, config_tenant_rows_count, tenant);
    tenant->parent_index = CONFIG_NONE;
    tenant->line = (uint32_t)r->event.start_mark.line + 1;
    enum status status = yaml_section(r, &section);
    for (uint32_t i = 0; status == STATUS_OK && i < config->n_tenants; i++)
        if (strcmp(config->tenants[i].name, tenant->name) == 0)
            status = yaml_fail(r, section.mark,
                               "a second tenant is called %s: the first stands in line %u",
                               tenant->name, config->tenants[i].line);
    if (status == STATUS_OK)
        config->n_tenants++;
    return status;
}

enum status config_tenants_read(struct yaml_reader *r, struct config *config)
{
    const struct yaml_list list = {.key = "tenants",
                                   .list_text = "a list (lines that begin with \"- name:\")",
                                   .item_text = TENANT_WORDS,
                                   .item_type = YAML_MAPPING_START_EVENT,
                                   .item = tenant_read,
                                   .context = config};
    yaml_mark_t mark = r->event.start_mark;
    r->above = config;
    enum status status = yaml_items(r, &list);
    if (status == STATUS_OK && config->n_tenants == 0)
        return yaml_fail(r, mark,
                         "tenants: expected at least one tenant, the list is empty: leave "
                         "the key out when everybody is one");
    return status;
}

/* ---- checking ---- */

struct tenant_row config_tenant_row(const struct config_tenant *tenant, uint32_t blocks_count)
{
    struct tenant_row row = {
        .name = tenant->name,
        .line = tenant->line,
        .parent = tenant->parent_index == CONFIG_NONE ? TENANT_TOP : tenant->parent_index,
        .weight = tenant->weight,
        .class = tenant->class,
        .closed = tenant->closed,
    };
    uint64_t blocks = blocks_count;
    row.reserved_blocks = (uint32_t)(blocks * tenant->reserved_percent / 100);
    if (tenant->limit_percent < 100)
        row.limit_blocks = u32_max(1, (uint32_t)(blocks * tenant->limit_percent / 100));
    if (tenant->cached_percent < 100)
        row.cached_blocks = u32_max(1, (uint32_t)(blocks * tenant->cached_percent / 100));
    return row;
}

struct quota_row config_quota_row(const struct config_tenant *tenant)
{
    struct quota_row row = tenant->quota;
    row.name = tenant->name;
    row.line = tenant->line;
    row.parent = tenant->parent_index == CONFIG_NONE ? QUOTA_TOP : tenant->parent_index;
    return row;
}

static struct config_tenant *tenant_find(struct config *config, const char *name)
{
    for (uint32_t i = 0; i < config->n_tenants; i++)
        if (strcmp(config->tenants[i].name, name) == 0)
            return &config->tenants[i];
    return NULL;
}

/* "FILE:LINE: no tenant is called X", with the one that was probably meant. */
static enum status unknown_tenant(const struct config *config, const char *place, const char *name,
                                  struct error *error)
{
    const char *names[CONFIG_TENANTS_MAX];
    for (uint32_t i = 0; i < config->n_tenants; i++)
        names[i] = config->tenants[i].name;
    const char *near = word_nearest(names, config->n_tenants, name);
    if (near)
        return error_set(error, STATUS_INVALID, "%s: no tenant is called %s: did you mean %s?",
                         place, name, near);
    return error_set(error, STATUS_INVALID, "%s: no tenant is called %s", place, name);
}

static enum status parents_find(struct config *config, const char *name, struct error *error)
{
    char place[CONFIG_PATH_MAX_BYTES + 32];
    for (uint32_t i = 0; i < config->n_tenants; i++) {
        struct config_tenant *tenant = &config->tenants[i];
        if (!tenant->parent[0])
            continue;
        const struct config_tenant *parent = tenant_find(config, tenant->parent);
        snprintf(place, sizeof place, "%s:%u: parent", name, tenant->line);
        if (!parent)
            return unknown_tenant(config, place, tenant->parent, error);
        tenant->parent_index = (uint32_t)(parent - config->tenants);
    }
    return STATUS_OK;
}

static enum status rights_check(const struct config *config, const char *name, struct error *error)
{
    const struct sched_limits limits = {.blocks_count = POOL_BLOCKS,
                                        .block_tokens = 1,
                                        .context_tokens = 1,
                                        .tenants_max = CONFIG_TENANTS_MAX};
    struct tenant_row rows[CONFIG_TENANTS_MAX];
    for (uint32_t i = 0; i < config->n_tenants; i++)
        rows[i] = config_tenant_row(&config->tenants[i], POOL_BLOCKS);
    const struct tenant_table table = {.n_rows = config->n_tenants, .rows = rows};
    enum status status = tenants_check(&table, &limits, error);
    return status == STATUS_OK ? STATUS_OK : error_prefix(error, name);
}

static enum status quotas_check(const struct config *config, const char *name, struct error *error)
{
    struct quota_row rows[CONFIG_TENANTS_MAX];
    for (uint32_t i = 0; i < config->n_tenants; i++)
        rows[i] = config_quota_row(&config->tenants[i]);
    const struct quota_table table = {.n_rows = config->n_tenants, .rows = rows};
    enum status status = quota_check(&table, error);
    return status == STATUS_OK ? STATUS_OK : error_prefix(error, name);
}

static bool has_below(const struct config *config, uint32_t index)
{
    for (uint32_t i = 0; i < config->n_tenants; i++)
        if (config->tenants[i].parent_index == index)
            return true;
    return false;
}

static enum status clients_check(const struct config *config, const char *name, struct error *error)
{
    for (uint32_t i = 0; i < config->n_clients; i++) {
        const struct config_client *client = &config->clients[i];
        if (has_below(config, client->tenant))
            return error_set(error, STATUS_INVALID,
                             "%s:%u: %s has tenants below it: its clients belong to one of those",
                             name, client->line, config->tenants[client->tenant].name);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(config->clients[j].name, client->name) == 0)
                return error_set(error, STATUS_INVALID,
                                 "%s:%u: the client \"%s\" stands in line %u already: a client has "
                                 "one tenant",
                                 name, client->line, client->name, config->clients[j].line);
    }
    return STATUS_OK;
}

static enum status default_check(struct config *config, const char *name, struct error *error)
{
    char place[CONFIG_PATH_MAX_BYTES + 32];
    if (!config->default_tenant[0])
        return STATUS_OK;
    snprintf(place, sizeof place, "%s: default_tenant", name);
    const struct config_tenant *tenant = tenant_find(config, config->default_tenant);
    if (!tenant)
        return unknown_tenant(config, place, config->default_tenant, error);
    if (has_below(config, (uint32_t)(tenant - config->tenants)))
        return error_set(error, STATUS_INVALID,
                         "%s: %s has tenants below it: expected one that has none", place,
                         config->default_tenant);
    return STATUS_OK;
}

enum status config_tenants_check(struct config *config, const char *name, struct error *error)
{
    enum status status = parents_find(config, name, error);
    if (status == STATUS_OK && config->n_tenants)
        status = rights_check(config, name, error);
    if (status == STATUS_OK && config->n_tenants)
        status = quotas_check(config, name, error);
    if (status == STATUS_OK)
        status = clients_check(config, name, error);
    return status == STATUS_OK ? default_check(config, name, error) : status;
}
