#include "daemon/worker_boot.h"

#include <sys/socket.h>

#include "base/log.h"
#include "daemon/config.h"
#include "daemon/inherited.h"

#define INHERITED_NAME "worker"

enum status worker_boot_inherit(int *ret_fd, struct error *error)
{
    char path[INHERITED_PATH_MAX_BYTES + 1];
    enum status status = inherited_read(error);
    if (status == STATUS_OK)
        status = inherited_take(INHERITED_NAME, SOCK_SEQPACKET, ret_fd, path, error);
    if (status == STATUS_OK && inherited_left())
        status = error_set(
            error, STATUS_INVALID,
            "the service manager hands over a socket \"%s\", expected one called " INHERITED_NAME
            ": mend FileDescriptorName= of its unit",
            inherited_left());
    return status;
}

static enum status fail_no_model(const struct config *config, const char *name, struct error *error)
{
    char names[256] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < config->n_models && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 config->models[i].name);
    return error_set(error, STATUS_NOT_FOUND, "%s has no model called \"%.60s\"; it has %s",
                     config->file, name, names);
}

enum status worker_boot_configure(const char *file, const char *name,
                                  struct worker_options *ret_options, const char **socket,
                                  struct error *error)
{
    static struct config read;
    static char path[CONFIG_PATH_MAX_BYTES + 128];
    struct config *config = &read;
    enum status status = config_load(file, config, error);
    if (status != STATUS_OK)
        return status;
    const struct config_model *model = NULL;
    for (uint32_t i = 0; i < config->n_models; i++)
        if (strcmp(config->models[i].name, name) == 0)
            model = &config->models[i];
    if (!model)
        return fail_no_model(config, name, error);
    if (model->worker == CONFIG_WORKER_INLINE)
        return error_set(error, STATUS_INVALID,
                         "%s: model %s is inline, a thread of galerned: it has no worker",
                         config->file, model->name);
    log_open("galerne-worker", (enum log_level)config->log_level);
    *ret_options = (struct worker_options){.name = model->name,
                                           .path = model->path,
                                           .backend = model->backend,
                                           .tier = model->tier,
                                           .threads_count = model->threads_count,
                                           .cache_dir = config->cache_dir};
    if (!*socket) {
        int n = snprintf(path, sizeof path, "%s/worker-%s.sock", config->runtime_dir, model->name);
        if (n < 0 || (size_t)n >= sizeof path)
            return error_set(error, STATUS_INVALID,
                             "%s: runtime_dir and the name of model %s make a path of %d bytes, "
                             "at most %zu",
                             config->file, model->name, n, sizeof path - 1);
        *socket = path;
    }
    return STATUS_OK;
}
