/* The list of clients: names and fingerprints, one a line. See tls_files.h. */
#include <ctype.h>

#include "daemon/tls_files.h"

#define FINGERPRINT_DIGITS 64

static int name_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void tls_clients_free(struct tls_clients *clients)
{
    free(clients->text);
    free(clients->names);
    *clients = (struct tls_clients){0};
}

bool tls_clients_have(const struct tls_clients *clients, const char *name)
{
    return clients->n && bsearch(&name, clients->names, clients->n, sizeof name, name_order);
}

bool tls_fingerprint_normalize(char *text)
{
    char digits[FINGERPRINT_DIGITS + 1];
    size_t n = 0;
    const char *from = strncmp(text, "sha256:", 7) == 0 ? text + 7 : text;
    for (; *from; from++) {
        if (*from == ':')
            continue;
        if (!isxdigit((unsigned char)*from) || n == FINGERPRINT_DIGITS)
            return false;
        digits[n++] = (char)tolower((unsigned char)*from);
    }
    if (n != FINGERPRINT_DIGITS)
        return false;
    digits[n] = '\0';
    memcpy(text, digits, n + 1);
    return true;
}

/* One line without its end; comment and spaces around go. */
static enum status line_read(const char *file, uint32_t number, char *line,
                             struct tls_clients *clients, struct error *error)
{
    line[strcspn(line, "#")] = '\0';
    while (*line == ' ' || *line == '\t')
        line++;
    size_t length = strlen(line);
    while (length && strchr(" \t\r", line[length - 1]))
        line[--length] = '\0';
    if (!length)
        return STATUS_OK;
    if (length >= TLS_NAME_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "%s:%u: expected at most %d bytes, got %zu", file,
                         number, TLS_NAME_MAX_BYTES - 1, length);
    for (size_t i = 0; i < length; i++)
        if (line[i] < ' ' || line[i] == 0x7f || line[i] == '"')
            return error_set(error, STATUS_INVALID,
                             "%s:%u: expected one name or SHA-256 fingerprint of a client in "
                             "printable ASCII, byte %zu is none",
                             file, number, i + 1);
    if (strncmp(line, "-----", 5) == 0)
        return error_set(error, STATUS_INVALID,
                         "%s:%u: expected names or SHA-256 fingerprints of clients, a line each; "
                         "this is a PEM file",
                         file, number);
    if (strncmp(line, "sha256:", 7) == 0 && !tls_fingerprint_normalize(line))
        return error_set(error, STATUS_INVALID,
                         "%s:%u: expected 64 hexadecimal digits after sha256:", file, number);
    tls_fingerprint_normalize(line); /* without the prefix it may also be a name */
    clients->names[clients->n++] = line;
    return STATUS_OK;
}

enum status tls_clients_parse(const char *name, struct span text, struct tls_clients *ret_clients,
                              struct error *error)
{
    struct tls_clients clients = {.text = malloc(text.size_bytes + 1)};
    enum status status = STATUS_OK;
    uint32_t lines_count = 1, number = 1;
    for (size_t i = 0; i < text.size_bytes; i++)
        lines_count += text.data[i] == '\n';
    clients.names = calloc(lines_count, sizeof *clients.names);
    if (!clients.text || !clients.names) {
        tls_clients_free(&clients);
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", name);
    }
    if (text.size_bytes)
        memcpy(clients.text, text.data, text.size_bytes);
    clients.text[text.size_bytes] = '\0';
    if (text.size_bytes && memchr(text.data, 0, text.size_bytes))
        status = error_set(error, STATUS_INVALID, "%s: expected text, it holds a zero byte", name);
    for (char *line = clients.text, *end; status == STATUS_OK && line; line = end, number++) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        status = line_read(name, number, line, &clients, error);
    }
    if (status != STATUS_OK) {
        tls_clients_free(&clients);
        return status;
    }
    qsort(clients.names, clients.n, sizeof *clients.names, name_order);
    *ret_clients = clients;
    return STATUS_OK;
}
