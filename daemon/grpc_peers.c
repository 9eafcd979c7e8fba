#include "daemon/grpc_peers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PEERS_FDS_MAX 65536
#define PEERS_FLOOR 64 /* below lie the daemon's own descriptors */

struct peer {
    _Atomic uint32_t uid_plus_one; /* 0: unknown */
    bool open;
    ino_t inode;
};

struct grpc_peers {
    int fds_max;         /* numbers below it */
    int floor;           /* where the next number is looked for */
    int top;             /* all open ones are below */
    uint32_t live;       /* open at the last count, and the additions since: an upper bound */
    struct peer peers[]; /* [fds_max] by descriptor; touched only when used */
};

enum status grpc_peers_open(struct grpc_peers **ret_peers, struct error *error)
{
    struct rlimit files = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &files);
    int fds_max = files.rlim_cur < PEERS_FDS_MAX ? (int)files.rlim_cur : PEERS_FDS_MAX;
    if (fds_max <= 2 * PEERS_FLOOR)
        return error_set(error, STATUS_EXHAUSTED,
                         "at most %d open files are allowed and %d are needed: raise LimitNOFILE",
                         fds_max, 2 * PEERS_FLOOR);
    struct grpc_peers *peers = calloc(1, sizeof *peers + (size_t)fds_max * sizeof(struct peer));
    if (!peers)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %d connections", fds_max);
    peers->fds_max = fds_max;
    peers->floor = PEERS_FLOOR;
    *ret_peers = peers;
    return STATUS_OK;
}

void grpc_peers_close(struct grpc_peers *peers)
{
    free(peers);
}

static int fd_move(struct grpc_peers *peers, int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, peers->floor);
    if (moved < 0 || moved >= peers->fds_max) { /* nothing free above the floor: from the bottom */
        if (moved >= 0)
            close(moved);
        moved = fcntl(fd, F_DUPFD_CLOEXEC, PEERS_FLOOR);
    }
    int reason = errno;
    close(fd);
    if (moved >= peers->fds_max) {
        close(moved);
        moved = -1;
        reason = EMFILE;
    }
    errno = reason;
    return moved;
}

int grpc_peers_add(struct grpc_peers *peers, int fd, uint32_t uid)
{
    int moved = fd_move(peers, fd);
    struct stat found;
    if (moved < 0 || fstat(moved, &found) != 0)
        return -1;
    struct peer *peer = &peers->peers[moved];
    peers->live += !peer->open;
    peer->open = true;
    peer->inode = found.st_ino;
    atomic_store(&peer->uid_plus_one, uid + 1);
    if (moved >= peers->top)
        peers->top = moved + 1;
    peers->floor = moved + 1 < peers->fds_max ? moved + 1 : PEERS_FLOOR;
    return moved;
}

uint32_t grpc_peers_uid(struct grpc_peers *peers, int fd)
{
    if (fd < 0 || fd >= peers->fds_max)
        return UINT32_MAX;
    return atomic_load(&peers->peers[fd].uid_plus_one) - 1;
}

static void peers_count(struct grpc_peers *peers)
{
    struct stat found;
    int top = 0;
    for (int fd = PEERS_FLOOR; fd < peers->top; fd++) {
        struct peer *peer = &peers->peers[fd];
        if (!peer->open)
            continue;
        peer->open = fstat(fd, &found) == 0 && found.st_ino == peer->inode;
        if (peer->open)
            top = fd + 1;
        else
            peers->live--;
    }
    peers->top = top;
}

bool grpc_peers_have_room(struct grpc_peers *peers, uint32_t max)
{
    if (peers->live >= max)
        peers_count(peers);
    return peers->live < max;
}
