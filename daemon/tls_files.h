/*
 * tls_files: certificate, key and the clients that may come, from files that change while we run.
 *
 * Four files, named in the configuration: the daemon's certificate chain (PEM, its own first), its
 * key, the authorities whose clients may come, and, if set, the list of those clients. All of it is
 * read and checked as a whole; what does not hold together is refused with a reason and what was
 * in force goes on. Whoever opens connections asks for the current set and its generation.
 *
 * The list of clients (tls_clients) has one client a line: a name (the certificate's common name,
 * one of its alternative names, or its SPIFFE id) or the SHA-256 of the certificate as 64
 * hexadecimal digits, with or without colons and "sha256:". Empty lines and what follows '#' do not
 * count. A client that is not in it is turned away at its next call, also on a connection that is
 * open. Without the setting every certificate of the authorities is good.
 *
 * tls_files_look and tls_files_reload: the control thread. The rest: any thread; a lock guards what
 * is in force.
 */
#pragma once

#include "base/status.h"

struct config;
struct tls_files;

/* PEM texts, NUL-terminated; valid while the callback runs. */
struct tls_texts {
    const char *certificate, *key, *client_ca;
};

/* Reads and checks all of it. INVALID, NOT_FOUND, IO: the error names the file. */
enum status tls_files_open(const struct config *config, struct tls_files **ret_files,
                           struct error *error);
void tls_files_close(struct tls_files *files);

/* Reloads when a file has changed and has kept still since the look before; logs what happened. */
void tls_files_look(struct tls_files *files);
/* Reloads now; logs what happened. */
void tls_files_reload(struct tls_files *files);

/* Calls `use` with what is in force when its generation is not *generation, then sets that. */
bool tls_files_use(struct tls_files *files, uint64_t *generation,
                   void (*use)(void *context, const struct tls_texts *texts), void *context);

/* Moves with every set that comes into force. */
uint64_t tls_files_generation(struct tls_files *files);

/* ---- who a client is ---- */

#define TLS_NAMES_MAX 16
#define TLS_NAME_MAX_BYTES 128

/* What a client's certificate says. Names are cut, and what is not printable ASCII (or is a quote)
 * becomes '?'; a name that was changed so is not `exact` and matches no line of the list. Nor does
 * one that looks like a fingerprint: whoever may choose his name is not another's certificate. */
struct tls_peer {
    uint32_t n_names;
    char names[TLS_NAMES_MAX][TLS_NAME_MAX_BYTES]; /* [n_names]; the first is what logs call it */
    bool exact[TLS_NAMES_MAX];                     /* [n_names] */
    char fingerprint[65];                          /* SHA-256 in hexadecimal; "" unknown */
};

/* One more name; beyond TLS_NAMES_MAX they are dropped. */
void tls_peer_add(struct tls_peer *peer, struct span name);
/* From the certificate in PEM. False when it is none. */
bool tls_peer_certificate(struct tls_peer *peer, struct span pem);

/* Is there a list? Without one, only names are of interest. */
bool tls_files_have_list(const struct tls_files *files);
/* Is it in the list, or is there no list? */
bool tls_files_allow(struct tls_files *files, const struct tls_peer *peer);

/* Leaves a fingerprint (64 hexadecimal digits, colons and "sha256:" allowed) in lower case without
 * either; false, and nothing changed, when the text is none. */
bool tls_fingerprint_normalize(char *text);

/* ---- the list itself ---- */

struct tls_clients {
    char *text; /* owned; names point into it */
    uint32_t n;
    const char **names; /* [n] sorted; a fingerprint is in lower case without colons */
};

/* Takes a copy. INVALID: the error says the line. `name` stands for the file. */
enum status tls_clients_parse(const char *name, struct span text, struct tls_clients *ret_clients,
                              struct error *error);
void tls_clients_free(struct tls_clients *clients);
bool tls_clients_have(const struct tls_clients *clients, const char *name);
