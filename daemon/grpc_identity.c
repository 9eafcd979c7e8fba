#include "daemon/grpc_identity.h"

#include "daemon/grpc_server.h"
#include "daemon/tls_files.h"

_Static_assert(IDENTITY_NAME_MAX_BYTES == TLS_NAME_MAX_BYTES, "one name");

static void peer_take(void *context, enum rpc_peer_kind kind, struct span value)
{
    struct tls_peer *peer = context;
    if (kind == RPC_PEER_NAME)
        tls_peer_add(peer, value);
    else
        tls_peer_certificate(peer, value);
}

enum status grpc_identity_check(const struct rpc_call *rpc, struct tls_files *files,
                                char ret_name[IDENTITY_NAME_MAX_BYTES], struct error *error)
{
    struct tls_peer peer;
    peer.n_names = 0;
    peer.fingerprint[0] = '\0';
    rpc_call_peer_each(rpc, peer_take, &peer);
    const char *name = peer.n_names ? peer.names[0] : peer.fingerprint;
    if (!tls_files_allow(files, &peer))
        return error_set(error, STATUS_DENIED,
                         "the client \"%s\" is not in the list of those that may come", name);
    snprintf(ret_name, IDENTITY_NAME_MAX_BYTES, "%s", name);
    return STATUS_OK;
}
