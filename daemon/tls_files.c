#include "daemon/tls_files.h"

#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "daemon/config.h"

#define FILE_MAX_BYTES (1024 * 1024)

enum { CERTIFICATE, KEY, CLIENT_CA, CLIENTS, FILES_COUNT };

static const char *const keys[FILES_COUNT] = {"tls_certificate", "tls_key", "tls_client_ca",
                                              "tls_clients"};

/* Enough to see that a file is another one, or has been written to. */
struct stamp {
    dev_t device;
    ino_t inode;
    off_t size_bytes;
    struct timespec changed;
};

struct set {
    char *texts[FILES_COUNT]; /* owned; the list of clients: NULL */
    struct tls_clients clients;
};

struct tls_files {
    const char *paths[FILES_COUNT]; /* of the configuration; "" when not set */
    struct stamp loaded[FILES_COUNT], seen[FILES_COUNT];
    pthread_mutex_t lock;
    struct set set;              /* under the lock */
    _Atomic uint64_t generation; /* written under the lock */
};

static void set_free(struct set *set)
{
    for (int i = 0; i < FILES_COUNT; i++)
        free(set->texts[i]);
    tls_clients_free(&set->clients);
    *set = (struct set){0};
}

/* ---- reading ---- */

static enum status text_read(const char *path, char **ret_text, struct error *error)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s", path,
                         strerror(errno));
    char *text = malloc(FILE_MAX_BYTES + 1);
    size_t size_bytes = text ? fread(text, 1, FILE_MAX_BYTES + 1, file) : 0;
    int problem = ferror(file) ? errno : 0;
    fclose(file);
    enum status status = STATUS_OK;
    if (!text)
        status = error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    else if (problem)
        status = error_set(error, STATUS_IO, "%s: %s", path, strerror(problem));
    else if (size_bytes > FILE_MAX_BYTES)
        status =
            error_set(error, STATUS_INVALID, "%s: expected at most %d bytes", path, FILE_MAX_BYTES);
    else if (memchr(text, 0, size_bytes))
        status = error_set(error, STATUS_INVALID, "%s: expected text, it holds a zero byte", path);
    if (status != STATUS_OK) {
        free(text);
        return status;
    }
    text[size_bytes] = '\0';
    *ret_text = text;
    return STATUS_OK;
}

static gnutls_datum_t datum_of(char *text)
{
    return (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned)strlen(text)};
}

/* ---- do they hold together ---- */

static void date_text(time_t at, char ret_text[32])
{
    struct tm broken;
    gmtime_r(&at, &broken);
    strftime(ret_text, 32, "%Y-%m-%d %H:%M UTC", &broken);
}

static enum status certificate_check(const char *path, gnutls_x509_crt_t certificate,
                                     struct error *error)
{
    char date[32];
    time_t now = time(NULL), until = gnutls_x509_crt_get_expiration_time(certificate),
           since = gnutls_x509_crt_get_activation_time(certificate);
    if (until != (time_t)-1 && until < now) {
        date_text(until, date);
        return error_set(error, STATUS_INVALID, "%s: the certificate expired on %s: renew it", path,
                         date);
    }
    if (since != (time_t)-1 && since > now) {
        date_text(since, date);
        return error_set(error, STATUS_INVALID, "%s: the certificate is not good before %s", path,
                         date);
    }
    return STATUS_OK;
}

static enum status key_check(const char *const paths[], gnutls_x509_crt_t certificate, char *text,
                             struct error *error)
{
    unsigned char id_of_key[64], id_of_certificate[64];
    size_t key_bytes = sizeof id_of_key, certificate_bytes = sizeof id_of_certificate;
    gnutls_datum_t datum = datum_of(text);
    gnutls_x509_privkey_t key;
    CHECK(gnutls_x509_privkey_init(&key) == 0);
    int problem = gnutls_x509_privkey_import2(key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
    enum status status = STATUS_OK;
    if (problem < 0)
        status =
            error_set(error, STATUS_INVALID, "%s: expected a private key in PEM, not encrypted: %s",
                      paths[KEY], gnutls_strerror(problem));
    else if (gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, id_of_key, &key_bytes) <
                 0 ||
             gnutls_x509_crt_get_key_id(certificate, GNUTLS_KEYID_USE_SHA256, id_of_certificate,
                                        &certificate_bytes) < 0 ||
             key_bytes != certificate_bytes || memcmp(id_of_key, id_of_certificate, key_bytes) != 0)
        status = error_set(error, STATUS_INVALID,
                           "%s is not the key of %s: give the two that belong together", paths[KEY],
                           paths[CERTIFICATE]);
    gnutls_x509_privkey_deinit(key);
    return status;
}

/* Certificates in PEM, at least one; the first is held to `check`. */
static enum status chain_read(const char *path, char *text, gnutls_x509_crt_t **ret_chain,
                              unsigned *ret_n, struct error *error)
{
    gnutls_datum_t datum = datum_of(text);
    int problem = gnutls_x509_crt_list_import2(ret_chain, ret_n, &datum, GNUTLS_X509_FMT_PEM, 0);
    if (problem < 0)
        return error_set(error, STATUS_INVALID, "%s: expected certificates in PEM: %s", path,
                         gnutls_strerror(problem));
    return STATUS_OK;
}

static void chain_free(gnutls_x509_crt_t *chain, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        gnutls_x509_crt_deinit(chain[i]);
    gnutls_free(chain);
}

static enum status set_check(const struct tls_files *files, struct set *set, struct error *error)
{
    gnutls_x509_crt_t *chain = NULL;
    unsigned n = 0;
    enum status status =
        chain_read(files->paths[CERTIFICATE], set->texts[CERTIFICATE], &chain, &n, error);
    if (status != STATUS_OK)
        return status;
    status = certificate_check(files->paths[CERTIFICATE], chain[0], error);
    if (status == STATUS_OK)
        status = key_check(files->paths, chain[0], set->texts[KEY], error);
    chain_free(chain, n);
    if (status != STATUS_OK)
        return status;
    status = chain_read(files->paths[CLIENT_CA], set->texts[CLIENT_CA], &chain, &n, error);
    if (status != STATUS_OK)
        return status;
    status = certificate_check(files->paths[CLIENT_CA], chain[0], error);
    chain_free(chain, n);
    return status;
}

static enum status set_read(const struct tls_files *files, struct set *ret_set, struct error *error)
{
    struct set set = {.clients = {.n = 0}};
    enum status status = STATUS_OK;
    for (int i = 0; status == STATUS_OK && i < FILES_COUNT; i++) {
        if (i == CLIENTS && !files->paths[i][0])
            break;
        status = text_read(files->paths[i], &set.texts[i], error);
        if (status != STATUS_OK)
            error_prefix(error, keys[i]);
    }
    if (status == STATUS_OK)
        status = set_check(files, &set, error);
    if (status == STATUS_OK && set.texts[CLIENTS])
        status = tls_clients_parse(files->paths[CLIENTS], span_of(set.texts[CLIENTS]), &set.clients,
                                   error);
    if (status == STATUS_OK)
        *ret_set = set;
    else
        set_free(&set);
    return status;
}

/* ---- what changed ---- */

static void stamps_take(const struct tls_files *files, struct stamp ret_stamps[FILES_COUNT])
{
    memset(ret_stamps, 0, FILES_COUNT * sizeof *ret_stamps);
    for (int i = 0; i < FILES_COUNT; i++) {
        struct stat found;
        if (!files->paths[i][0] || stat(files->paths[i], &found) != 0)
            continue;
        ret_stamps[i].device = found.st_dev;
        ret_stamps[i].inode = found.st_ino;
        ret_stamps[i].size_bytes = found.st_size;
        ret_stamps[i].changed = found.st_mtim;
    }
}

static bool stamps_equal(const struct stamp a[FILES_COUNT], const struct stamp b[FILES_COUNT])
{
    for (int i = 0; i < FILES_COUNT; i++)
        if (a[i].device != b[i].device || a[i].inode != b[i].inode ||
            a[i].size_bytes != b[i].size_bytes || a[i].changed.tv_sec != b[i].changed.tv_sec ||
            a[i].changed.tv_nsec != b[i].changed.tv_nsec)
            return false;
    return true;
}

static void key_warn(const char *path)
{
    struct stat found;
    if (stat(path, &found) == 0 && found.st_mode & S_IROTH)
        log_warning("%s can be read by everybody: a key should be its owner's alone (chmod 600)",
                    path);
}

static enum status files_load(struct tls_files *files, struct error *error)
{
    struct set set, old;
    stamps_take(files, files->loaded); /* before reading: a later change is another load */
    enum status status = set_read(files, &set, error);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&files->lock);
    old = files->set;
    files->set = set;
    atomic_fetch_add(&files->generation, 1);
    pthread_mutex_unlock(&files->lock);
    set_free(&old);
    key_warn(files->paths[KEY]);
    return STATUS_OK;
}

void tls_files_reload(struct tls_files *files)
{
    struct error error;
    if (files_load(files, &error) != STATUS_OK)
        log_warning("TLS files are not taken, those before go on: %s", error.text);
    else
        log_info("TLS files are loaded: %s, %u clients listed", files->paths[CERTIFICATE],
                 files->set.clients.n);
}

void tls_files_look(struct tls_files *files)
{
    struct stamp now[FILES_COUNT];
    stamps_take(files, now);
    bool still = stamps_equal(now, files->seen), changed = !stamps_equal(now, files->loaded);
    memcpy(files->seen, now, sizeof now);
    if (still && changed)
        tls_files_reload(files);
}

/* ---- open, use ---- */

enum status tls_files_open(const struct config *config, struct tls_files **ret_files,
                           struct error *error)
{
    struct tls_files *files = calloc(1, sizeof *files);
    if (!files)
        return error_set(error, STATUS_EXHAUSTED, "no memory for the TLS files");
    files->paths[CERTIFICATE] = config->tls_certificate;
    files->paths[KEY] = config->tls_key;
    files->paths[CLIENT_CA] = config->tls_client_ca;
    files->paths[CLIENTS] = config->tls_clients;
    pthread_mutex_init(&files->lock, NULL);
    enum status status = files_load(files, error);
    memcpy(files->seen, files->loaded, sizeof files->seen);
    if (status != STATUS_OK)
        tls_files_close(files);
    else
        *ret_files = files;
    return status;
}

void tls_files_close(struct tls_files *files)
{
    if (!files)
        return;
    set_free(&files->set);
    pthread_mutex_destroy(&files->lock);
    free(files);
}

bool tls_files_use(struct tls_files *files, uint64_t *generation,
                   void (*use)(void *context, const struct tls_texts *texts), void *context)
{
    pthread_mutex_lock(&files->lock);
    bool is_new = *generation != atomic_load(&files->generation);
    if (is_new) {
        struct tls_texts texts = {.certificate = files->set.texts[CERTIFICATE],
                                  .key = files->set.texts[KEY],
                                  .client_ca = files->set.texts[CLIENT_CA]};
        use(context, &texts);
        *generation = atomic_load(&files->generation);
    }
    pthread_mutex_unlock(&files->lock);
    return is_new;
}

uint64_t tls_files_generation(struct tls_files *files)
{
    return atomic_load(&files->generation);
}

/* ---- who a client is ---- */

void tls_peer_add(struct tls_peer *peer, struct span name)
{
    if (peer->n_names == TLS_NAMES_MAX || name.size_bytes == 0)
        return;
    char *to = peer->names[peer->n_names];
    size_t n = size_min(name.size_bytes, TLS_NAME_MAX_BYTES - 1);
    bool exact = n == name.size_bytes;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)name.data[i];
        bool good = byte >= 0x20 && byte < 0x7f && byte != '"';
        to[i] = good ? (char)byte : '?';
        exact = exact && good;
    }
    to[n] = '\0';
    char print[TLS_NAME_MAX_BYTES];
    memcpy(print, to, n + 1);
    peer->exact[peer->n_names++] = exact && !tls_fingerprint_normalize(print);
}

bool tls_peer_certificate(struct tls_peer *peer, struct span pem)
{
    unsigned char hash[32];
    size_t hash_bytes = sizeof hash;
    gnutls_datum_t datum = {.data = (unsigned char *)(uintptr_t)pem.data,
                            .size = (unsigned)pem.size_bytes};
    gnutls_x509_crt_t certificate;
    CHECK(gnutls_x509_crt_init(&certificate) == 0);
    bool good =
        gnutls_x509_crt_import(certificate, &datum, GNUTLS_X509_FMT_PEM) == 0 &&
        gnutls_x509_crt_get_fingerprint(certificate, GNUTLS_DIG_SHA256, hash, &hash_bytes) == 0;
    gnutls_x509_crt_deinit(certificate);
    for (size_t i = 0; good && i < hash_bytes; i++)
        snprintf(peer->fingerprint + 2 * i, 3, "%02x", hash[i]);
    return good;
}

bool tls_files_have_list(const struct tls_files *files)
{
    return files->paths[CLIENTS][0] != '\0';
}

bool tls_files_allow(struct tls_files *files, const struct tls_peer *peer)
{
    pthread_mutex_lock(&files->lock);
    const struct tls_clients *clients = &files->set.clients;
    bool allowed = !tls_files_have_list(files);
    if (!allowed && peer->fingerprint[0])
        allowed = tls_clients_have(clients, peer->fingerprint);
    for (uint32_t i = 0; !allowed && i < peer->n_names; i++)
        allowed = peer->exact[i] && tls_clients_have(clients, peer->names[i]);
    pthread_mutex_unlock(&files->lock);
    return allowed;
}
