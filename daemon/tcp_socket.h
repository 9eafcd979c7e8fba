/*
 * tcp_socket: what the gRPC library leaves undone about its own TCP listener.
 *
 * The library listens by itself, since only its listener does TLS. It does not say why it cannot
 * bind, and it takes every connection that comes until descriptors run out, after which its
 * listener is dead. So: addresses are checked and bound once for a clear error before the library
 * binds them; and a guard counts the process's TCP connections. While there are as many as may be,
 * a packet filter on the listening socket drops what knocks (a client sees a slow connect and tries
 * again); connections that are open notice nothing.
 *
 * Between two looks more connections may come than are allowed; descriptors must leave room for
 * that, see tcp_connections_fit. One thread, the control thread, after the start.
 */
#pragma once

#include "base/status.h"

#define TCP_ADDRESSES_MAX 8
#define TCP_ADDRESS_MAX_BYTES 64

struct tcp_addresses {
    uint32_t n;
    char texts[TCP_ADDRESSES_MAX][TCP_ADDRESS_MAX_BYTES]; /* [n] "127.0.0.1:7443", "[::1]:7443" */
};

/* "ADDRESS:PORT", several with commas; numeric addresses, IPv6 in brackets. "" is none. */
enum status tcp_addresses_parse(const char *text, struct tcp_addresses *ret_addresses,
                                struct error *error);

/* Binds each for a moment. EXISTS: somebody listens there; IO. */
enum status tcp_addresses_try(const struct tcp_addresses *addresses, struct error *error);

struct tcp_guard {
    uint32_t connections_max;
    uint32_t connections; /* at the last look */
    uint32_t n_listening;
    int listening[TCP_ADDRESSES_MAX]; /* [n_listening] the library's descriptors */
    bool closed;                      /* the filter is on */
};

/* The most connections that the limit on descriptors allows. */
uint32_t tcp_connections_fit(uint32_t wanted);

/* Finds the listening sockets of this process. INTERNAL when there are none. */
enum status tcp_guard_open(uint32_t connections_max, struct tcp_guard *ret_guard,
                           struct error *error);
/* Counts, and shuts or opens the door; true when that has changed. */
bool tcp_guard_look(struct tcp_guard *guard);
