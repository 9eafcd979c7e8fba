/*
 * cache_dir: where files lie that can be made again, when nobody says so.
 *
 * In order: $CACHE_DIRECTORY (the service manager's), /var/cache/galerne for root,
 * $XDG_CACHE_HOME/galerne, $HOME/.cache/galerne. Reads the environment: before threads start.
 */
#pragma once

#include "base/types.h"

/* "" when there is no such place, or its path is too long. */
void cache_dir_default(char *ret_path, size_t capacity);
