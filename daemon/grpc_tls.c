/* The credentials of the TCP listener: TLS 1.2 or newer, and every client shows a certificate. */
#include <grpc/grpc_security.h>

#include "daemon/grpc_server_private.h"
#include "daemon/tls_files.h"

/* The library asks before each handshake; what it has is a matter of this credentials object, so
 * the generation is, too. Several threads may ask at once: the lock of the files orders them. */
struct fetched {
    struct tls_files *files;
    uint64_t generation;
};

static void config_make(void *context, const struct tls_texts *texts)
{
    grpc_ssl_server_certificate_config **ret_config = context;
    grpc_ssl_pem_key_cert_pair pair = {.private_key = texts->key, .cert_chain = texts->certificate};
    *ret_config = grpc_ssl_server_certificate_config_create(texts->client_ca, &pair, 1);
}

static grpc_ssl_certificate_config_reload_status fetch(void *context,
                                                       grpc_ssl_server_certificate_config **ret)
{
    struct fetched *fetched = context;
    if (!tls_files_use(fetched->files, &fetched->generation, config_make, ret))
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    return *ret ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
}

enum status rpc_server_listen(struct rpc_server *server, const char *address,
                              struct tls_files *files, struct error *error)
{
    struct fetched *fetched = calloc(1, sizeof *fetched);
    if (!fetched)
        return error_set(error, STATUS_EXHAUSTED, "no memory for the credentials of %s", address);
    fetched->files = files;
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, fetch, fetched);
    grpc_server_credentials *credentials =
        grpc_ssl_server_credentials_create_with_options(options);
    CHECK(credentials && server->n_fetched < RPC_LISTENS_MAX);
    server->fetched[server->n_fetched++] = fetched; /* the credentials keep its address */
    int port = grpc_server_add_http2_port(server->core, address, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0)
        return error_set(error, STATUS_IO,
                         "the gRPC library does not listen on %s with the certificate and key of "
                         "the configuration",
                         address);
    return STATUS_OK;
}

static void property_each(const grpc_auth_context *context, const char *name,
                          enum rpc_peer_kind kind, rpc_peer_fn *each, void *above)
{
    grpc_auth_property_iterator iterator = grpc_auth_context_find_properties_by_name(context, name);
    const grpc_auth_property *property;
    while ((property = grpc_auth_property_iterator_next(&iterator)))
        each(above, kind, (struct span){.data = property->value,
                                        .size_bytes = property->value_length});
}

void rpc_call_peer_each(const struct rpc_call *call, rpc_peer_fn *each, void *above)
{
    grpc_auth_context *context = grpc_call_auth_context(((const struct core_call *)call)->core);
    if (!context) /* a unix socket: the peer is known by its descriptor */
        return;
    property_each(context, GRPC_PEER_SPIFFE_ID_PROPERTY_NAME, RPC_PEER_NAME, each, above);
    property_each(context, GRPC_X509_CN_PROPERTY_NAME, RPC_PEER_NAME, each, above);
    property_each(context, GRPC_X509_SAN_PROPERTY_NAME, RPC_PEER_NAME, each, above);
    property_each(context, GRPC_X509_PEM_CERT_PROPERTY_NAME, RPC_PEER_CERTIFICATE, each, above);
    grpc_auth_context_release(context);
}
