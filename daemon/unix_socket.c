#include "daemon/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/inherited.h"

#define BACKLOG_COUNT SOMAXCONN

static enum status address_make(const char *directory, const char *name,
                                struct sockaddr_un *ret_address, struct error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, name);
    if (n > UNIX_SOCKET_PATH_MAX_BYTES)
        return error_set(error, STATUS_INVALID,
                         "the socket path %s/%s has %d bytes and may have %d: "
                         "set runtime_dir to a shorter directory",
                         directory, name, n, UNIX_SOCKET_PATH_MAX_BYTES);
    *ret_address = address;
    return STATUS_OK;
}

/* Pid of the process that listens at `address`; 0 nobody, -1 somebody whom we may not ask. */
static int32_t listener_pid(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int32_t pid = 0;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0) {
        struct ucred peer = {0};
        socklen_t size = sizeof peer;
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
        pid = peer.pid > 0 ? peer.pid : -1;
    } else if (errno != ECONNREFUSED && errno != ENOENT) {
        pid = -1; /* EAGAIN: its backlog is full; EACCES: another user's */
    }
    close(fd);
    return pid;
}

static enum status claim_refuse(const char *directory, struct error *error)
{
    struct sockaddr_un address;
    int32_t pid = 0;
    if (address_make(directory, "galerne.sock", &address, NULL) == STATUS_OK)
        pid = listener_pid(&address);
    char who[48] = "";
    if (pid > 0)
        snprintf(who, sizeof who, " (process %d)", (int)pid);
    return error_set(error, STATUS_EXISTS,
                     "another galerned%s serves in %s: stop it first, or set runtime_dir to "
                     "another directory",
                     who, directory);
}

enum status runtime_claim(const char *directory, int *ret_fd, struct error *error)
{
    if (mkdir(directory, 0755) != 0 && errno != EEXIST)
        return error_set(error, STATUS_IO, "runtime_dir %s cannot be made: %s", directory,
                         strerror(errno));
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(error, errno == ENOTDIR ? STATUS_INVALID : STATUS_IO, "runtime_dir %s: %s",
                         directory, strerror(errno));
    /* A directory that somebody else made (in /tmp, say) is his to change under us. */
    struct stat owner;
    if (fstat(fd, &owner) != 0 || (owner.st_uid != geteuid() && owner.st_uid != 0)) {
        close(fd);
        return error_set(error, STATUS_DENIED,
                         "runtime_dir %s belongs to another user: remove it, or set runtime_dir to "
                         "a directory of your own",
                         directory);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int reason = errno;
        close(fd);
        if (reason == EWOULDBLOCK)
            return claim_refuse(directory, error);
        return error_set(error, STATUS_IO, "runtime_dir %s cannot be locked: %s", directory,
                         strerror(reason));
    }
    *ret_fd = fd;
    return STATUS_OK;
}

/* Removes what a dead daemon left; anything that lives, or is no socket, stays. */
static enum status stale_remove(const struct sockaddr_un *address, struct error *error)
{
    const char *path = address->sun_path;
    struct stat found;
    if (lstat(path, &found) != 0) {
        if (errno == ENOENT)
            return STATUS_OK;
        return error_set(error, STATUS_IO, "socket %s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(found.st_mode))
        return error_set(error, STATUS_EXISTS,
                         "%s exists and is no socket: move it away, or set runtime_dir", path);
    int32_t pid = listener_pid(address);
    if (pid > 0)
        return error_set(error, STATUS_EXISTS,
                         "process %d listens on %s: stop it first, or set runtime_dir to another "
                         "directory",
                         (int)pid, path);
    if (pid < 0)
        return error_set(error, STATUS_EXISTS,
                         "somebody listens on %s: stop that process first, or set runtime_dir",
                         path);
    if (unlink(path) != 0)
        return error_set(error, errno == EACCES || errno == EPERM ? STATUS_DENIED : STATUS_IO,
                         "the stale socket %s cannot be removed: %s", path, strerror(errno));
    log_info("replaced the stale socket %s", path);
    return STATUS_OK;
}

static enum status socket_open_up(const char *path, mode_t mode, const char *group,
                                  struct error *error)
{
    struct group *entry = group && group[0] ? getgrnam(group) : NULL;
    if (entry && lchown(path, (uid_t)-1, entry->gr_gid) != 0)
        log_warning("socket %s stays with the daemon's own group: it cannot be given to group %s: "
                    "%s",
                    path, group, strerror(errno));
    if (chmod(path, mode) != 0)
        return error_set(error, STATUS_IO, "socket %s: mode %o: %s", path, (unsigned)mode,
                         strerror(errno));
    return STATUS_OK;
}

enum status unix_socket_open(const char *directory, const char *name, mode_t mode,
                             const char *group, struct unix_socket *ret_socket, struct error *error)
{
    struct sockaddr_un address;
    enum status status = address_make(directory, name, &address, error);
    if (status == STATUS_OK)
        status = stale_remove(&address, error);
    if (status != STATUS_OK)
        return status;
    struct unix_socket made = {.fd =
                                   socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    memcpy(made.path, address.sun_path, sizeof made.path);
    if (made.fd < 0)
        return error_set(error, STATUS_IO, "socket: %s", strerror(errno));
    /* The mode of the descriptor becomes the path's at bind. */
    if (fchmod(made.fd, 0600) != 0 ||
        bind(made.fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        status = error_set(error, errno == EADDRINUSE ? STATUS_EXISTS : STATUS_IO,
                           "socket %s cannot be bound: %s", made.path, strerror(errno));
        close(made.fd);
        return status;
    }
    made.unlinks = true;
    struct stat bound;
    if (lstat(made.path, &bound) == 0) {
        made.device = bound.st_dev;
        made.inode = bound.st_ino;
    }
    status = socket_open_up(made.path, mode, group, error);
    if (status == STATUS_OK && listen(made.fd, BACKLOG_COUNT) != 0)
        status = error_set(error, STATUS_IO, "listen on %s: %s", made.path, strerror(errno));
    if (status != STATUS_OK) {
        unix_socket_close(&made);
        return status;
    }
    *ret_socket = made;
    return STATUS_OK;
}

enum status unix_socket_inherit(const char *name, struct unix_socket *ret_socket,
                                struct error *error)
{
    struct unix_socket taken = {.fd = -1};
    _Static_assert(sizeof taken.path == INHERITED_PATH_MAX_BYTES + 1, "both are sun_path");
    enum status status = inherited_take(name, SOCK_STREAM, &taken.fd, taken.path, error);
    if (status == STATUS_OK)
        *ret_socket = taken;
    return status;
}

int unix_socket_accept(const struct unix_socket *listening, struct unix_peer *ret_peer)
{
    int fd = accept4(listening->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return -1;
    struct ucred peer;
    socklen_t size = sizeof peer;
    *ret_peer = (struct unix_peer){.uid = UINT32_MAX};
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid != 0)
        *ret_peer = (struct unix_peer){.uid = peer.uid, .pid = peer.pid};
    return fd;
}

void unix_socket_close(struct unix_socket *listening)
{
    struct stat found;
    if (listening->fd < 0)
        return;
    close(listening->fd);
    listening->fd = -1;
    if (listening->unlinks && lstat(listening->path, &found) == 0 &&
        found.st_dev == listening->device && found.st_ino == listening->inode)
        unlink(listening->path);
}
