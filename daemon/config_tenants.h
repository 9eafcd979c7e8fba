/*
 * config_tenants: the list `tenants` of the configuration, read and checked.
 *
 * A tenant names its parent, which may stand further down; indexes are made when the whole file is
 * read. What is checked here holds for every model: unique names, known parents, no circle, three
 * levels, rights that fit together, clients of one tenant only and of one that has none below it.
 * Whether a limit leaves room for a model's largest request is known when the model is (engine.h).
 */
#pragma once

#include "daemon/config.h"
#include "daemon/config_yaml.h"
#include "sched/tenants.h"

/* The current event is the value of `tenants`; ends on its last. INVALID with the place. */
enum status config_tenants_read(struct yaml_reader *reader, struct config *config);

/* After the file is read: finds parents, checks the whole. `name` is the file's, for errors. */
enum status config_tenants_check(struct config *config, const char *name, struct error *error);

/* The tenant as a scheduler of `blocks_count` blocks takes it; its parent by parent_index. */
struct tenant_row config_tenant_row(const struct config_tenant *tenant, uint32_t blocks_count);

/* The tenant's limits as the process's quotas take them; parent as above. */
struct quota_row config_quota_row(const struct config_tenant *tenant);
