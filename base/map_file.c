#include "base/map_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

static enum status map_open_file(const char *path, int *ret_fd, struct error *error)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        enum status status = errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO;
        return error_set(error, status, "%s: %s", path, strerror(errno));
    }
    *ret_fd = fd;
    return STATUS_OK;
}

static uint64_t ns_of(struct timespec time)
{
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

enum status map_file_open(const char *path, size_t max_bytes, struct map_file *ret_map,
                          struct error *error)
{
    int fd = -1;
    struct stat facts;
    enum status status = map_open_file(path, &fd, error);
    if (status)
        return status;
    if (fstat(fd, &facts) < 0) {
        status = error_set(error, STATUS_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(facts.st_mode)) {
        status = error_set(error, STATUS_INVALID, "%s: expected a regular file", path);
    } else if (facts.st_size == 0) {
        status = error_set(error, STATUS_INVALID, "%s: the file is empty", path);
    } else if ((uint64_t)facts.st_size > max_bytes) {
        status = error_set(error, STATUS_INVALID, "%s: %lld bytes, expected at most %zu", path,
                           (long long)facts.st_size, max_bytes);
    }
    if (status)
        goto out;

    size_t size_bytes = (size_t)facts.st_size;
    void *data = mmap(NULL, size_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        status = error_set(error, STATUS_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        goto out;
    }
    *ret_map = (struct map_file){.data = data,
                                 .size_bytes = size_bytes,
                                 .changed_ns = ns_of(facts.st_mtim),
                                 .touched_ns = ns_of(facts.st_ctim),
                                 .owner_id = facts.st_uid,
                                 .is_open_to_others = (facts.st_mode & S_IWOTH) != 0};
out:
    close(fd);
    return status;
}

void map_file_read_ahead(const struct map_file *map)
{
    /* Advice only: a refusal changes speed, not results. */
    if (map->data)
        (void)madvise((void *)(uintptr_t)map->data, map->size_bytes, MADV_WILLNEED);
}

void map_file_close(struct map_file *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size_bytes);
    *map = (struct map_file){0};
}
