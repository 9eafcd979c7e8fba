#include "daemon/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHANNEL_MAGIC 0x6c6e6167u
#define CHANNEL_VERSION 1u

struct channel_header {
    uint32_t magic, version;
    uint64_t memory_bytes;
    uint64_t down_offset, up_offset;
};

static size_t down_offset(void)
{
    return RING_LINE_BYTES;
}

static size_t up_offset(const struct step_limits *limits)
{
    return round_up(down_offset() + ring_footprint(step_bytes_max(limits), CHANNEL_SLOTS),
                    RING_LINE_BYTES);
}

size_t channel_memory_bytes(const struct step_limits *limits)
{
    return up_offset(limits) + ring_footprint(step_result_bytes_max(limits), CHANNEL_SLOTS);
}

static enum status memory_map(struct channel *channel, struct error *error)
{
    void *memory = mmap(NULL, channel->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                        channel->memory_fd, 0);
    if (memory == MAP_FAILED)
        return error_set(error, STATUS_EXHAUSTED, "mapping %zu bytes of shared memory: %s",
                         channel->memory_bytes, strerror(errno));
    channel->memory = memory;
    return STATUS_OK;
}

enum status channel_create(const struct step_limits *limits, struct channel *ret_channel,
                           struct error *error)
{
    struct channel channel = CHANNEL_CLOSED;
    enum status status = STATUS_OK;
    channel.memory_bytes = channel_memory_bytes(limits);
    channel.memory_fd = memfd_create("galerne-steps", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (channel.memory_fd < 0 || ftruncate(channel.memory_fd, (off_t)channel.memory_bytes) < 0 ||
        fcntl(channel.memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        status = error_set(error, STATUS_IO, "shared memory of %zu bytes: %s", channel.memory_bytes,
                           strerror(errno));
        goto out;
    }
    status = memory_map(&channel, error);
    if (status != STATUS_OK)
        goto out;
    *(struct channel_header *)channel.memory = (struct channel_header){
        .magic = CHANNEL_MAGIC,
        .version = CHANNEL_VERSION,
        .memory_bytes = channel.memory_bytes,
        .down_offset = down_offset(),
        .up_offset = up_offset(limits),
    };
    channel.down =
        ring_init((char *)channel.memory + down_offset(), step_bytes_max(limits), CHANNEL_SLOTS);
    channel.up = ring_init((char *)channel.memory + up_offset(limits),
                           step_result_bytes_max(limits), CHANNEL_SLOTS);
    status = wake_open(&channel.wake_down, error);
    if (status == STATUS_OK)
        status = wake_open(&channel.wake_up, error);

out:
    if (status == STATUS_OK)
        *ret_channel = channel;
    else
        channel_close(&channel);
    return status;
}

static bool ring_is(const struct ring *ring, size_t item_bytes)
{
    return ring->capacity_count == CHANNEL_SLOTS &&
           ring->stride_bytes == round_up(item_bytes, RING_LINE_BYTES);
}

enum status channel_attach(const struct step_limits *limits, const int fds[3],
                           struct channel *ret_channel, struct error *error)
{
    struct channel channel = CHANNEL_CLOSED;
    enum status status = STATUS_OK;
    struct stat info;
    channel.memory_fd = fds[0];
    channel.wake_down.fd = fds[1];
    channel.wake_up.fd = fds[2];
    channel.memory_bytes = channel_memory_bytes(limits);
    int seals = fcntl(channel.memory_fd, F_GET_SEALS);
    if (fstat(channel.memory_fd, &info) < 0 || (size_t)info.st_size != channel.memory_bytes ||
        seals < 0 || !(seals & F_SEAL_SHRINK)) {
        status = error_set(error, STATUS_INVALID,
                           "the front's shared memory is not a sealed memfd of %zu bytes: front "
                           "and worker are not of one version",
                           channel.memory_bytes);
        goto out;
    }
    status = memory_map(&channel, error);
    if (status != STATUS_OK)
        goto out;
    const struct channel_header *header = channel.memory;
    channel.down = (struct ring *)((char *)channel.memory + down_offset());
    channel.up = (struct ring *)((char *)channel.memory + up_offset(limits));
    if (header->magic != CHANNEL_MAGIC || header->version != CHANNEL_VERSION ||
        header->memory_bytes != channel.memory_bytes || header->down_offset != down_offset() ||
        header->up_offset != up_offset(limits) || !ring_is(channel.down, step_bytes_max(limits)) ||
        !ring_is(channel.up, step_result_bytes_max(limits)))
        status = error_set(error, STATUS_INVALID,
                           "the shared memory is laid out in another way: front and worker are "
                           "not of one version");

out:
    if (status == STATUS_OK)
        *ret_channel = channel;
    else
        channel_close(&channel);
    return status;
}

void channel_close(struct channel *channel)
{
    if (channel->memory)
        munmap(channel->memory, channel->memory_bytes);
    if (channel->memory_fd >= 0)
        close(channel->memory_fd);
    wake_close(&channel->wake_down);
    wake_close(&channel->wake_up);
    *channel = CHANNEL_CLOSED;
}
