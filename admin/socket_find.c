#include "admin/socket_find.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/runtime_dir.h"

#define HINT_START "start one (packaging/quickstart --keep), or name its socket with --socket"

/* 0 when somebody accepts us; else the errno. */
static int socket_try(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int result = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
    close(fd);
    return result;
}

static enum status refuse(const char *path, int reason, struct error *error)
{
    if (reason == EACCES || reason == EPERM)
        return error_set(error, STATUS_DENIED, "you may not use %s: %s", path,
                         strstr(path, SOCKET_ADMIN)
                             ? "only root and the daemon's own user may; use sudo"
                             : "join the group that owns it, or use sudo");
    if (reason == ENOENT || reason == ENOTDIR)
        return error_set(error, STATUS_UNAVAILABLE, "there is no socket %s: " HINT_START, path);
    if (reason == ECONNREFUSED)
        return error_set(error, STATUS_UNAVAILABLE,
                         "nobody listens on %s, its daemon is gone: " HINT_START, path);
    return error_set(error, STATUS_UNAVAILABLE, "%s: %s", path, strerror(reason));
}

static enum status socket_named(const char *named, const char *name,
                                char ret_path[SOCKET_PATH_MAX_BYTES], struct error *error)
{
    struct stat found;
    bool is_directory = stat(named, &found) == 0 && S_ISDIR(found.st_mode);
    char path[SOCKET_PATH_MAX_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s", named, is_directory ? "/" : "",
                     is_directory ? name : "");
    if (n >= (int)sizeof path)
        return error_set(error, STATUS_INVALID, "the socket's path is too long: %.60s...", named);
    int reason = socket_try(path);
    if (reason)
        return refuse(path, reason, error);
    memcpy(ret_path, path, sizeof path);
    return STATUS_OK;
}

/* In /tmp anybody may make a directory of any name. */
static bool directory_is_safe(const char *path)
{
    struct stat found;
    if (strncmp(path, "/tmp/", 5) != 0)
        return true;
    return lstat(path, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == getuid();
}

enum status socket_find(const char *named, const char *name, char ret_path[SOCKET_PATH_MAX_BYTES],
                        struct error *error)
{
    struct runtime_dirs dirs;
    char path[SOCKET_PATH_MAX_BYTES], refused[SOCKET_PATH_MAX_BYTES] = "", looked[400] = "";
    int refused_reason = ENOENT;
    if (!named || !named[0])
        named = getenv("GALERNE_SOCKET");
    if (named && named[0])
        return socket_named(named, name, ret_path, error);
    runtime_dirs_find(&dirs);
    for (uint32_t i = 0; i < dirs.count; i++) {
        snprintf(path, sizeof path, "%s/%s", dirs.paths[i], name);
        int reason = directory_is_safe(dirs.paths[i]) ? socket_try(path) : ENOENT;
        if (reason == 0) {
            memcpy(ret_path, path, sizeof path);
            return STATUS_OK;
        }
        if (reason != ENOENT && reason != ENOTDIR && !refused[0]) {
            memcpy(refused, path, sizeof path);
            refused_reason = reason;
        }
        size_t used = strlen(looked);
        snprintf(looked + used, sizeof looked - used, "%s%s", i ? ", " : "", dirs.paths[i]);
    }
    if (refused[0])
        return refuse(refused, refused_reason, error);
    return error_set(error, STATUS_UNAVAILABLE, "no daemon: no %s in %s: " HINT_START, name,
                     looked);
}
