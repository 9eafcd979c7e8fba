/*
 * grpc_peers: who is at the other end of each connection that gRPC holds.
 *
 * The library takes a connected descriptor and tells, for a call, only its number. So the accept
 * thread notes uid by number here before it gives the descriptor away. Numbers come from F_DUPFD at
 * a floor that rotates: a number is reused late, and a call of a connection that has just closed
 * cannot be taken for the next one's. The library closes descriptors without a word; those that
 * are still open are counted by comparing socket inodes.
 *
 * grpc_peers_add and grpc_peers_have_room: the accept thread. grpc_peers_uid: any thread.
 */
#pragma once

#include "base/status.h"

struct grpc_peers;

enum status grpc_peers_open(struct grpc_peers **ret_peers, struct error *error);
void grpc_peers_close(struct grpc_peers *peers);

/* Moves `fd` (consumed, also on failure) to a number of the table and notes its uid; returns the
 * new descriptor or -1 with errno. */
int grpc_peers_add(struct grpc_peers *peers, int fd, uint32_t uid);

/* UINT32_MAX when the number is not known. */
uint32_t grpc_peers_uid(struct grpc_peers *peers, int fd);

/* True when fewer than `max` connections are open. Counts only when it has to. */
bool grpc_peers_have_room(struct grpc_peers *peers, uint32_t max);
