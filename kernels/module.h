/*
 * module: backends that are loaded when they are asked for, so that a daemon needs no GPU library.
 *
 * A module is `galerne-NAME.so` with two symbols: `galerne_ops`, the table, and `galerne_module`,
 * the stamp by which a module of another build is refused. It lies in the folder that the
 * environment variable GALERNE_MODULES names, else in the one that was configured. Loaded once and
 * kept. Only a worker loads modules, before its threads start.
 */
#pragma once

#include "kernels/ops.h"

struct module_stamp {
    char version[32]; /* of the project */
    size_t ops_bytes; /* sizeof(struct ops) */
};

/* The table to plan sizes with, where the module is not loaded: a built-in backend's own, the CPU's
 * for "auto", and for modules, whose KV blocks have the same size, the CPU's with nothing widened.
 * One thread. NULL: no such name. */
const struct ops *module_plan_ops(const char *name);

/* The backend of that name: a built-in one, or "cuda" or "cuda-host" from its module. INVALID: no
 * such name; UNAVAILABLE: the module is missing or cannot be loaded; UNSUPPORTED: it belongs to
 * another build. One line each. */
enum status module_ops(const char *name, const struct ops **ret_ops, struct error *error);
