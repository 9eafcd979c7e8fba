/*
 * grpc_identity: who makes a call over TCP, and whether that client may still come.
 *
 * The library has checked the certificate against the authorities when the connection was made.
 * Here its names are read for each call, and looked up in the list of clients when there is one, so
 * that a client who was removed is refused at its next call, and its running calls end soon, though
 * its connection is open. Calls of a unix socket have no certificate and pass. The call's queue
 * thread.
 */
#pragma once

#include "daemon/tenancy.h"

struct rpc_call;
struct tls_files;

#define IDENTITY_NAME_MAX_BYTES 128

/* DENIED: not in the list. ret_name: the SPIFFE id, else the common name, else an alternative name,
 * else the fingerprint; "" on a unix socket. */
enum status grpc_identity_check(const struct rpc_call *rpc, struct tls_files *files,
                                char ret_name[IDENTITY_NAME_MAX_BYTES], struct error *error);

/* Whose request it is: of the certificate's names when it came over TCP, else of the user id. */
enum status grpc_identity_place(const struct rpc_call *rpc, struct tenancy *tenancy, bool tcp,
                                uint32_t uid, struct tenancy_place *ret_place, struct error *error);
