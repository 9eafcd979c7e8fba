#include "text/model_files.h"

#include <errno.h>
#include <sys/stat.h>

static enum status path_join(const char *directory, const char *name, char *path,
                             struct error *error)
{
    int written = snprintf(path, MODEL_PATH_MAX_BYTES, "%s/%s", directory, name);
    if (written >= MODEL_PATH_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "%.64s...: path over %d bytes", directory,
                         MODEL_PATH_MAX_BYTES);
    return STATUS_OK;
}

enum status model_files_resolve(const char *path, struct model_files *ret_files,
                                struct error *error)
{
    struct stat about;
    if (stat(path, &about) != 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s", path,
                         strerror(errno));
    size_t size_bytes = strlen(path);
    if (size_bytes >= MODEL_PATH_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "%.64s...: path over %d bytes", path,
                         MODEL_PATH_MAX_BYTES);
    ret_files->is_directory = S_ISDIR(about.st_mode);
    if (ret_files->is_directory) {
        memcpy(ret_files->directory, path, size_bytes + 1);
        return path_join(path, "tokenizer.json", ret_files->main, error);
    }
    memcpy(ret_files->main, path, size_bytes + 1);
    const char *slash = strrchr(path, '/');
    if (!slash) {
        memcpy(ret_files->directory, ".", 2);
    } else {
        memcpy(ret_files->directory, path, (size_t)(slash - path) + 1);
        ret_files->directory[slash > path ? slash - path : 1] = '\0';
    }
    return STATUS_OK;
}

enum status model_files_json(const char *directory, const char *name, char *path, json_t **ret_root,
                             struct error *error)
{
    static const struct json_limits limits = {16u << 20, 1000000};
    struct error cause;
    enum status status = path_join(directory, name, path, &cause);
    if (!status)
        status = json_read_file(path, &limits, ret_root, &cause);
    if (status == STATUS_NOT_FOUND)
        return STATUS_OK;
    if (status && error)
        *error = cause;
    return status;
}
