#include "kernels/module.h"

#include <dlfcn.h>
#include <limits.h>

#ifndef GALERNE_MODULE_FOLDER
#error "the build says where modules lie"
#endif

static const char *const names[] = {"cuda", "cuda-host"};

static const struct ops *loaded[array_count(names)];

/* The CPU's, but that GPUs widen nothing. */
static struct ops planned;

static enum status symbols_take(void *handle, const char *path, const struct ops **ret_ops,
                                struct error *error)
{
    const struct module_stamp *stamp = dlsym(handle, "galerne_module");
    const struct ops *ops = dlsym(handle, "galerne_ops");
    if (!stamp || !ops)
        return error_set(error, STATUS_UNSUPPORTED, "%s is no module of galerne", path);
    if (strncmp(stamp->version, GALERNE_VERSION, sizeof stamp->version) != 0 ||
        stamp->ops_bytes != sizeof(struct ops))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s is of version %.32s, not " GALERNE_VERSION
                         " or built from other sources: install both from one build",
                         path, stamp->version);
    *ret_ops = ops;
    return STATUS_OK;
}

static enum status module_load(const char *name, const struct ops **ret_ops, struct error *error)
{
    const char *folder = getenv("GALERNE_MODULES");
    if (!folder || !folder[0])
        folder = GALERNE_MODULE_FOLDER;
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/galerne-%s.so", folder, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return error_set(error, STATUS_INVALID, "the path of backend %s's module is too long",
                         name);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return error_set(error, STATUS_UNAVAILABLE, "backend %s: no module: %s", name, dlerror());
    enum status status = symbols_take(handle, path, ret_ops, error);
    if (status != STATUS_OK)
        dlclose(handle);
    return status;
}

const struct ops *module_plan_ops(const char *name)
{
    const struct ops *ops = ops_find(name);
    if (ops)
        return ops;
    for (size_t i = 0; i < array_count(names); i++) {
        if (strcmp(names[i], name) != 0)
            continue;
        planned = ops_cpu;
        planned.widens = 0;
        return &planned;
    }
    return strcmp(name, "auto") == 0 ? &ops_cpu : NULL;
}

enum status module_ops(const char *name, const struct ops **ret_ops, struct error *error)
{
    const struct ops *ops = ops_find(name);
    if (ops) {
        *ret_ops = ops;
        return STATUS_OK;
    }
    for (size_t i = 0; name && i < array_count(names); i++) {
        if (strcmp(names[i], name) != 0)
            continue;
        if (!loaded[i]) {
            enum status status = module_load(name, &loaded[i], error);
            if (status != STATUS_OK)
                return status;
        }
        *ret_ops = loaded[i];
        return STATUS_OK;
    }
    return error_set(error, STATUS_INVALID, "no backend is called %s: use cpu, cuda or ref",
                     name ? name : "");
}
