#include "daemon/inherited.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

static struct {
    int count;
    char **names;              /* [count], allocated by the library, kept while the process lives */
    bool taken[INHERITED_MAX]; /* [count] */
} inherited;

enum status inherited_read(struct error *error)
{
    char **names = NULL;
    int count = sd_listen_fds_with_names(1, &names);
    if (count < 0)
        return error_set(error, STATUS_INVALID,
                         "LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES do not describe descriptors of "
                         "this process: %s",
                         strerror(-count));
    if (count > INHERITED_MAX) {
        for (int i = 0; i < count; i++)
            free(names[i]);
        free(names);
        return error_set(error, STATUS_INVALID,
                         "LISTEN_FDS hands over %d descriptors, expected at most %d", count,
                         INHERITED_MAX);
    }
    inherited.count = count;
    inherited.names = names;
    memset(inherited.taken, 0, sizeof inherited.taken);
    return STATUS_OK;
}

static enum status socket_check(int fd, int type, const char *name, struct error *error)
{
    if (sd_is_socket_unix(fd, type, 1, NULL, 0) > 0)
        return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "descriptor %d (%s) of the service manager is no listening unix socket of "
                     "kind %s: the socket unit needs %s=",
                     fd, name, type == SOCK_STREAM ? "stream" : "seqpacket",
                     type == SOCK_STREAM ? "ListenStream" : "ListenSequentialPacket");
}

/* An abstract name is shown with @, as usual. */
static void path_read(int fd, char ret_path[INHERITED_PATH_MAX_BYTES + 1])
{
    union {
        struct sockaddr_un address;
        struct sockaddr_storage room;
    } at = {.address = {.sun_family = AF_UNIX}};
    socklen_t size = sizeof at;
    ret_path[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&at.address, &size) != 0 ||
        size <= offsetof(struct sockaddr_un, sun_path))
        return;
    size_t length =
        size_min(size - offsetof(struct sockaddr_un, sun_path), INHERITED_PATH_MAX_BYTES);
    memcpy(ret_path, at.address.sun_path, length);
    ret_path[length] = '\0';
    if (!ret_path[0] && length > 1)
        ret_path[0] = '@';
}

enum status inherited_take(const char *name, int type, int *ret_fd,
                           char ret_path[INHERITED_PATH_MAX_BYTES + 1], struct error *error)
{
    for (int i = 0; i < inherited.count; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        if (inherited.taken[i] || strcmp(inherited.names[i], name) != 0)
            continue;
        enum status status = socket_check(fd, type, name, error);
        if (status != STATUS_OK)
            return status;
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
            return error_set(error, STATUS_IO, "descriptor %d (%s): O_NONBLOCK cannot be set", fd,
                             name);
        inherited.taken[i] = true;
        path_read(fd, ret_path);
        *ret_fd = fd;
        return STATUS_OK;
    }
    *ret_fd = -1;
    return STATUS_OK;
}

const char *inherited_left(void)
{
    for (int i = 0; i < inherited.count; i++)
        if (!inherited.taken[i])
            return inherited.names[i];
    return NULL;
}
