#include "daemon/grpc_identity.h"

#include "daemon/grpc_server.h"
#include "daemon/tls_files.h"

_Static_assert(IDENTITY_NAME_MAX_BYTES == TLS_NAME_MAX_BYTES, "one name");

struct taken {
    struct tls_peer peer;
    bool wants_fingerprint; /* which costs more than the names */
};

/* Names come before the certificate. */
static void peer_take(void *context, enum rpc_peer_kind kind, struct span value)
{
    struct taken *taken = context;
    if (kind == RPC_PEER_NAME)
        tls_peer_add(&taken->peer, value);
    else if (taken->wants_fingerprint || taken->peer.n_names == 0)
        tls_peer_certificate(&taken->peer, value);
}

static void peer_read(const struct rpc_call *rpc, bool wants_fingerprint, struct taken *ret_taken)
{
    ret_taken->peer.n_names = 0;
    ret_taken->peer.fingerprint[0] = '\0';
    ret_taken->wants_fingerprint = wants_fingerprint;
    rpc_call_peer_each(rpc, peer_take, ret_taken);
}

enum status grpc_identity_check(const struct rpc_call *rpc, struct tls_files *files,
                                char ret_name[IDENTITY_NAME_MAX_BYTES], struct error *error)
{
    struct taken taken;
    const struct tls_peer *peer = &taken.peer;
    peer_read(rpc, tls_files_have_list(files), &taken);
    const char *name = peer->n_names ? peer->names[0] : peer->fingerprint;
    if (!tls_files_allow(files, peer))
        return error_set(error, STATUS_DENIED,
                         "the client \"%s\" is not in the list of those that may come", name);
    snprintf(ret_name, IDENTITY_NAME_MAX_BYTES, "%s", name);
    return STATUS_OK;
}

enum status grpc_identity_place(const struct rpc_call *rpc, struct tenancy *tenancy, bool tcp,
                                uint32_t uid, struct tenancy_place *ret_place, struct error *error)
{
    struct taken taken;
    if (tcp)
        peer_read(rpc, tenancy_is_shared(tenancy), &taken);
    return tenancy_find(tenancy, tcp ? &taken.peer : NULL, uid, ret_place, error);
}
