/*
 * worker_boot: what a worker learns from the service manager and from the configuration.
 *
 * Two files implement it. worker_boot.c has both; worker_boot_alone.c, of a build without the
 * front, has neither, and says so where it is asked: such a worker is told everything on its
 * command line. Main thread, before others start.
 */
#pragma once

#include "daemon/worker.h"

/* The listening socket that the service manager hands over; *ret_fd is -1 when it gave none.
 * INVALID when it gave another. */
enum status worker_boot_inherit(int *ret_fd, struct error *error);

/*
 * Fills in what the front would have passed: the options of the model called `name` in `file`, and
 * *socket where it is NULL. What it returns lives as long as the process. What config_load returns;
 * NOT_FOUND or INVALID when `file` has no such model, or it is inline; UNSUPPORTED: no front was
 * built.
 */
enum status worker_boot_configure(const char *file, const char *name,
                                  struct worker_options *ret_options, const char **socket,
                                  struct error *error);
