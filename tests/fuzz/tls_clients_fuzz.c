/* The list of clients: any bytes. What is taken must be found again. */
#include "daemon/tls_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    struct span text = {.data = (const char *)data, .size_bytes = size_bytes};
    struct tls_clients clients;
    struct error error;
    struct tls_peer peer = {.n_names = 0};
    tls_peer_add(&peer, text);
    CHECK(peer.n_names <= 1);
    tls_peer_certificate(&peer, text);
    if (tls_clients_parse("list", text, &clients, &error) != STATUS_OK) {
        CHECK(error.text[0]);
        return 0;
    }
    for (uint32_t i = 0; i < clients.n; i++)
        CHECK(clients.names[i][0] && tls_clients_have(&clients, clients.names[i]));
    tls_clients_free(&clients);
    return 0;
}
