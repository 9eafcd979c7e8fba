/*
 * channel_options: how both sides set up their gRPC channels, in one place.
 *
 * Included by the one file of each side that knows gRPC (daemon/grpc_server.c,
 * admin/grpc_client.c). Every row is an integer option; what depends on the configuration
 * (sizes, keepalive, ages) is added by the server itself.
 *
 * Compression is off on both sides: the library checks the size limit only after it has unpacked,
 * so a small message could become a huge one. Pings: a peer that froze is found by a ping now and
 * then and dropped when it does not answer; a client may ping the server, too, also while it waits
 * for a first token, without being cut off for it.
 */
#pragma once

#include <grpc/compression.h>
#include <grpc/grpc.h>
#include <stdint.h>

#define CHANNEL_METADATA_MAX_BYTES (16 * 1024)
#define CHANNEL_KEEPALIVE_TIME_MS 30000
#define CHANNEL_KEEPALIVE_TIMEOUT_MS 20000
#define CHANNEL_CLIENT_MESSAGE_MAX_BYTES (64 * 1024 * 1024)

struct channel_option {
    const char *key;
    int value;
};

/* As the library wants it; the key is borrowed. */
static inline grpc_arg channel_arg(struct channel_option option)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)option.key};
    arg.value.integer = option.value;
    return arg;
}

static const struct channel_option channel_options_server[] = {
    {GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1}, /* identity only */
    {GRPC_ARG_MAX_METADATA_SIZE, CHANNEL_METADATA_MAX_BYTES},
    {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
    {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0}, /* 0: our own pings are not rationed */
    {GRPC_ARG_ALLOW_REUSEPORT, 0},
    {GRPC_ARG_ENABLE_CHANNELZ, 0},
    {GRPC_ARG_MAX_CHANNEL_TRACE_EVENT_MEMORY_PER_NODE, 0},
};

static const struct channel_option channel_options_client[] = {
    {GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1},
    {GRPC_ARG_MAX_METADATA_SIZE, CHANNEL_METADATA_MAX_BYTES},
    {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, CHANNEL_CLIENT_MESSAGE_MAX_BYTES},
    {GRPC_ARG_KEEPALIVE_TIME_MS, CHANNEL_KEEPALIVE_TIME_MS},
    {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, CHANNEL_KEEPALIVE_TIMEOUT_MS},
    {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
    {GRPC_ARG_ENABLE_HTTP_PROXY, 0}, /* a proxy of the environment cannot reach our socket */
    {GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1},
    {GRPC_ARG_ENABLE_RETRIES, 0}, /* the caller decides, by the error's RetryInfo */
    {GRPC_ARG_ENABLE_CHANNELZ, 0},
    {GRPC_ARG_MAX_CHANNEL_TRACE_EVENT_MEMORY_PER_NODE, 0},
};
