#include "admin/server_open.h"

#include <errno.h>

#include "admin/socket_find.h"

#define PEM_MAX_BYTES (1024 * 1024)

static struct client *socket_open(const struct common *common, bool is_admin, int *ret_code)
{
    char path[SOCKET_PATH_MAX_BYTES];
    struct error error;
    enum status status =
        socket_find(common->socket, is_admin ? SOCKET_ADMIN : SOCKET_INFERENCE, path, &error);
    if (status == STATUS_OK)
        return client_open(path);
    *ret_code = command_fail(status == STATUS_DENIED    ? EXIT_CODE_DENIED
                             : status == STATUS_INVALID ? EXIT_CODE_USAGE
                                                        : EXIT_CODE_UNREACHABLE,
                             NULL, "%s", error.text);
    return NULL;
}

/* The whole file with a NUL, which the caller frees; NULL: told. */
static char *pem_read(const char *option, const char *path, int *ret_code)
{
    if (!path) {
        *ret_code = command_fail(EXIT_CODE_USAGE, "galernectl --help", "--server needs --%s FILE",
                                 option);
        return NULL;
    }
    FILE *file = fopen(path, "re");
    char *text = malloc(PEM_MAX_BYTES + 1);
    CHECK(text != NULL);
    errno = file ? 0 : errno;
    size_t size_bytes = file ? fread(text, 1, PEM_MAX_BYTES, file) : 0;
    const char *problem = !file || ferror(file) ? strerror(errno) : NULL;
    if (file)
        fclose(file);
    text[size_bytes] = '\0';
    if (!problem && !strstr(text, "-----BEGIN "))
        problem = "expected a PEM file, there is no \"-----BEGIN\" in it";
    if (!problem)
        return text;
    free(text);
    *ret_code = command_fail(EXIT_CODE_FAILED, NULL, "--%s %s: %s", option, path, problem);
    return NULL;
}

static struct client *tcp_open(const struct common *common, bool is_admin, int *ret_code)
{
    const char *colon = strrchr(common->server, ':');
    struct client *client = NULL;
    char *ca = NULL, *certificate = NULL, *key = NULL;
    if (!colon || colon == common->server || !colon[1]) {
        *ret_code = command_fail(EXIT_CODE_USAGE, NULL, "--server: expected HOST:PORT, got \"%s\"",
                                 common->server);
        return NULL;
    }
    if (is_admin) {
        *ret_code = command_fail(EXIT_CODE_USAGE, NULL,
                                 "operators' commands work on the daemon's own machine, over its "
                                 "unix socket: leave --server out there");
        return NULL;
    }
    if ((ca = pem_read("tls-ca", common->tls_ca, ret_code)) &&
        (certificate = pem_read("tls-cert", common->tls_cert, ret_code)) &&
        (key = pem_read("tls-key", common->tls_key, ret_code)))
        client = client_open_tls(common->server, ca, certificate, key);
    free(ca);
    free(certificate);
    free(key);
    return client;
}

struct client *server_open(const struct common *common, bool is_admin, int *ret_code)
{
    return common->server && common->server[0] ? tcp_open(common, is_admin, ret_code)
                                               : socket_open(common, is_admin, ret_code);
}
