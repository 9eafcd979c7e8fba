/*
 * port: bursts of datagrams in and out.
 *
 * The seam below QUIC: kernel UDP, DPDK and a virtual-time simulator implement it, and the protocol
 * code above holds no file descriptor and reads no clock. The data-path issue brings all three.
 */
#pragma once

#include "base/status.h"

#define PORT_BURST_MAX 64

struct port;

struct port_datagram {
    uint8_t *bytes;      /* [size_bytes] */
    uint32_t size_bytes; /* at most the port's MTU */
    uint8_t ecn;
    uint8_t remote_size, local_size;           /* of the addresses below, bytes */
    _Alignas(8) uint8_t remote[28], local[28]; /* sockaddr_in or sockaddr_in6 */
};

struct port_ops {
    const char *name; /* "udp", "dpdk", "sim" */
    /* Up to PORT_BURST_MAX datagrams that wait; their bytes stay valid until the next receive. */
    uint32_t (*receive)(struct port *port, struct port_datagram *ret_datagrams, uint32_t max);
    /* Sends; returns how many were taken (fewer: the port is full, try again later). */
    uint32_t (*send)(struct port *port, const struct port_datagram *datagrams, uint32_t n);
    uint64_t (*now_ns)(struct port *port);
    /* Nothing to do until `until_ns` or a datagram comes. */
    void (*idle)(struct port *port, uint64_t until_ns);
};
