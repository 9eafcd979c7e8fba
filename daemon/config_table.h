/*
 * config_table: every key of the configuration file, one row each.
 *
 * Two tables: the keys of the file, and the keys of one entry of its list `models`. A value lies in
 * `struct config` or `struct config_model` at the row's offset. Constant; any thread.
 */
#pragma once

#include "base/option.h"

extern const struct option_row config_rows[]; /* [config_rows_count] */
extern const size_t config_rows_count;

extern const struct option_row config_model_rows[]; /* [config_model_rows_count] */
extern const size_t config_model_rows_count;
