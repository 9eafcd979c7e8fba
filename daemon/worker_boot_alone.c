#include <stdlib.h>

#include "daemon/worker_boot.h"

/* A manager that hands over a socket would wait for ever for an answer on it. */
enum status worker_boot_inherit(int *ret_fd, struct error *error)
{
    if (getenv("LISTEN_FDS"))
        return error_set(error, STATUS_UNSUPPORTED,
                         "the service manager hands over a socket, but this galerne-worker was "
                         "built with -Dfront=disabled and takes none");
    *ret_fd = -1;
    return STATUS_OK;
}

enum status worker_boot_configure(const char *file, const char *name,
                                  struct worker_options *ret_options, const char **socket,
                                  struct error *error)
{
    (void)ret_options;
    (void)socket;
    return error_set(error, STATUS_UNSUPPORTED,
                     "--model %.60s: this galerne-worker was built with -Dfront=disabled and does "
                     "not read %s: use --path and --socket",
                     name, file);
}
