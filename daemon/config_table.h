/*
 * config_table: every key of the configuration file, one row each.
 *
 * Three tables: the keys of the file, and those of one entry of its lists `models` and `tenants`. A
 * value lies in `struct config`, `struct config_model` or `struct config_tenant` at the row's
 * offset. Constant; any thread.
 */
#pragma once

#include "base/option.h"

extern const struct option_row config_rows[]; /* [config_rows_count] */
extern const size_t config_rows_count;

extern const struct option_row config_model_rows[]; /* [config_model_rows_count] */
extern const size_t config_model_rows_count;

extern const struct option_row config_tenant_rows[]; /* [config_tenant_rows_count] */
extern const size_t config_tenant_rows_count;
