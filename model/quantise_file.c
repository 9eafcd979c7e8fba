#include "model/quantise_file.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 1u
#define ALIGN_BYTES 4096u
#define CHUNK_BYTES (1u << 20)

static const char magic[8] = "GALERNEQ";

struct quantise_head {
    char magic[8];
    uint32_t version;
    uint32_t kind; /* enum dtype */
    uint32_t n_rows;
    uint32_t chunk_bytes;
    uint64_t file_bytes;
    uint8_t source[QUANTISE_DIGEST_BYTES];
    uint8_t digest[QUANTISE_DIGEST_BYTES]; /* of head and table, with zeros here */
};

struct quantise_row {
    char name[QUANTISE_NAME_MAX_BYTES]; /* padded with NUL */
    uint32_t index, out_count, in_count, reserved;
    uint64_t offset_bytes, size_bytes;
    uint8_t digest[QUANTISE_DIGEST_BYTES];
};

_Static_assert(sizeof(struct quantise_head) == 96 && sizeof(struct quantise_row) == 192,
               "these are what lies in files");

static size_t head_bytes(const struct quantise_table *table)
{
    return sizeof(struct quantise_head) + table->n_parts * sizeof(struct quantise_row);
}

size_t quantise_part_bytes(const struct quantise_table *table, uint32_t part)
{
    const struct quantise_part *p = &table->parts[part];
    return (size_t)p->out_count * (p->in_count / dtype_block_count(table->kind)) *
           dtype_block_bytes(table->kind);
}

uint64_t quantise_file_bytes(const struct quantise_table *table)
{
    uint64_t bytes = round_up(head_bytes(table), ALIGN_BYTES);
    for (uint32_t i = 0; i < table->n_parts; i++)
        bytes += round_up(quantise_part_bytes(table, i), ALIGN_BYTES);
    return bytes;
}

static struct quantise_row *row_at(uint8_t *head, uint32_t part)
{
    return (struct quantise_row *)(head + sizeof(struct quantise_head)) + part;
}

/* Head and table as they have to be, without digests. NULL when memory is out. */
static uint8_t *head_make(const struct quantise_table *table)
{
    uint8_t *memory = calloc(1, head_bytes(table));
    if (!memory)
        return NULL;
    struct quantise_head *head = (struct quantise_head *)memory;
    *head = (struct quantise_head){.version = VERSION,
                                   .kind = (uint32_t)table->kind,
                                   .n_rows = table->n_parts,
                                   .chunk_bytes = CHUNK_BYTES,
                                   .file_bytes = quantise_file_bytes(table)};
    memcpy(head->magic, magic, sizeof magic);
    memcpy(head->source, table->source, sizeof head->source);
    uint64_t offset = round_up(head_bytes(table), ALIGN_BYTES);
    for (uint32_t i = 0; i < table->n_parts; i++) {
        const struct quantise_part *part = &table->parts[i];
        struct quantise_row *row = row_at(memory, i);
        CHECK(part->name_bytes < QUANTISE_NAME_MAX_BYTES);
        memcpy(row->name, part->name, part->name_bytes);
        row->index = part->index;
        row->out_count = part->out_count;
        row->in_count = part->in_count;
        row->offset_bytes = offset;
        row->size_bytes = quantise_part_bytes(table, i);
        offset += round_up(row->size_bytes, ALIGN_BYTES);
    }
    return memory;
}

static enum status sha256(const void *bytes, size_t size_bytes, uint8_t *ret_digest,
                          struct error *error)
{
    int failure = gnutls_hash_fast(GNUTLS_DIG_SHA256, bytes, size_bytes, ret_digest);
    if (failure)
        return error_set(error, STATUS_INTERNAL, "SHA-256: %s", gnutls_strerror(failure));
    return STATUS_OK;
}

/* ---- reading ---- */

/* What differs from `want`, in the order in which it tells most. */
static enum status head_compare(const struct quantise_head *got, const struct quantise_head *want,
                                const char *path, struct error *error)
{
    if (memcmp(got->magic, magic, sizeof magic) != 0)
        return error_set(error, STATUS_INVALID, "%s: not a file of quantised weights", path);
    if (got->version != want->version)
        return error_set(error, STATUS_INVALID, "%s: version %u, expected %u", path, got->version,
                         want->version);
    if (memcmp(got->source, want->source, sizeof got->source) != 0)
        return error_set(error, STATUS_INVALID, "%s: stale, the model's files have changed", path);
    if (got->kind != want->kind || got->n_rows != want->n_rows ||
        got->chunk_bytes != want->chunk_bytes || got->file_bytes != want->file_bytes)
        return error_set(error, STATUS_INVALID,
                         "%s: %u parts of type %u in %" PRIu64 " bytes, expected %u of type %u in "
                         "%" PRIu64,
                         path, got->n_rows, got->kind, got->file_bytes, want->n_rows, want->kind,
                         want->file_bytes);
    return STATUS_OK;
}

/* The table, whose digests alone are the file's own to say, and the digest over all of it. */
static enum status table_compare(const uint8_t *got, uint8_t *want,
                                 const struct quantise_table *table, const char *path,
                                 struct error *error)
{
    uint8_t digest[QUANTISE_DIGEST_BYTES];
    for (uint32_t i = 0; i < table->n_parts; i++) {
        struct quantise_row row;
        memcpy(&row, got + sizeof(struct quantise_head) + i * sizeof row, sizeof row);
        memcpy(row_at(want, i)->digest, row.digest, sizeof row.digest);
        if (memcmp(&row, row_at(want, i), sizeof row) != 0)
            return error_set(error, STATUS_INVALID, "%s: row %u of the table is not %.*s", path, i,
                             (int)table->parts[i].name_bytes, table->parts[i].name);
    }
    enum status status = sha256(want, head_bytes(table), digest, error);
    if (!status && memcmp(got + offsetof(struct quantise_head, digest), digest, sizeof digest) != 0)
        status =
            error_set(error, STATUS_INVALID, "%s: corrupt, the digest of its table differs", path);
    return status;
}

enum status quantise_file_check(struct span bytes, const char *path,
                                const struct quantise_table *table, struct error *error)
{
    struct quantise_head got;
    if (bytes.size_bytes < sizeof got)
        return error_set(error, STATUS_INVALID, "%s: truncated, it has %zu bytes", path,
                         bytes.size_bytes);
    memcpy(&got, bytes.data, sizeof got);
    uint8_t *want = head_make(table);
    if (!want)
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    enum status status = head_compare(&got, (struct quantise_head *)want, path, error);
    if (!status && bytes.size_bytes != got.file_bytes)
        status = error_set(error, STATUS_INVALID,
                           "%s: truncated or grown, it has %zu bytes, expected %" PRIu64, path,
                           bytes.size_bytes, got.file_bytes);
    if (!status)
        status = table_compare((const uint8_t *)bytes.data, want, table, path, error);
    free(want);
    return status;
}

/* Whose hand is in it. */
static enum status owner_check(const struct map_file *map, const char *path, struct error *error)
{
    if (map->owner_id != geteuid() && map->owner_id != 0)
        return error_set(error, STATUS_INVALID, "%s: not trusted, it belongs to user %u, not to %u",
                         path, map->owner_id, geteuid());
    if (map->is_open_to_others)
        return error_set(error, STATUS_INVALID, "%s: not trusted, everybody may write it", path);
    return STATUS_OK;
}

enum status quantise_file_open(const char *path, const struct quantise_table *table,
                               struct quantise_file *ret_file, struct error *error)
{
    struct map_file map = {0};
    enum status status = map_file_open(path, SIZE_MAX, &map, error);
    if (status)
        return status;
    struct span bytes = {.data = (const char *)map.data, .size_bytes = map.size_bytes};
    status = owner_check(&map, path, error);
    if (!status)
        status = quantise_file_check(bytes, path, table, error);
    if (status)
        map_file_close(&map);
    else
        *ret_file = (struct quantise_file){.map = map, .bytes = map.data, .table = table};
    return status;
}

static const struct quantise_row *file_row(const struct quantise_file *file, uint32_t part)
{
    CHECK(part < file->table->n_parts);
    const uint8_t *rows = file->bytes + sizeof(struct quantise_head);
    return (const struct quantise_row *)rows + part;
}

const uint8_t *quantise_file_part(const struct quantise_file *file, uint32_t part)
{
    return file->bytes + file_row(file, part)->offset_bytes;
}

const uint8_t *quantise_file_digest(const struct quantise_file *file, uint32_t part)
{
    return file_row(file, part)->digest;
}

void quantise_file_close(struct quantise_file *file)
{
    map_file_close(&file->map);
    *file = (struct quantise_file){0};
}

/* ---- digests ---- */

struct hashing {
    const struct quantise_piece *pieces;
    uint8_t (*digests)[QUANTISE_DIGEST_BYTES]; /* [chunks of all pieces] */
    _Atomic int failure;                       /* of some chunk; 0: none */
};

static uint32_t piece_chunks(const struct quantise_piece *piece)
{
    return (uint32_t)((piece->size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static void chunk_hash(void *context, uint32_t thread, uint32_t item)
{
    struct hashing *hashing = context;
    const struct quantise_piece *piece = hashing->pieces;
    uint32_t chunk = item;
    for (; chunk >= piece_chunks(piece); piece++)
        chunk -= piece_chunks(piece);
    size_t first = (size_t)chunk * CHUNK_BYTES;
    int failure =
        gnutls_hash_fast(GNUTLS_DIG_SHA256, piece->bytes + first,
                         size_min(CHUNK_BYTES, piece->size_bytes - first), hashing->digests[item]);
    if (failure)
        hashing->failure = failure;
}

enum status quantise_digests(struct pool *pool, struct quantise_piece *pieces, uint32_t n_pieces,
                             struct error *error)
{
    uint32_t n_chunks = 0, first = 0;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < n_pieces; i++)
        n_chunks += piece_chunks(&pieces[i]);
    struct hashing hashing = {.pieces = pieces,
                              .digests = calloc(n_chunks, sizeof *hashing.digests)};
    if (n_chunks && !hashing.digests)
        return error_set(error, STATUS_EXHAUSTED, "weights: out of memory");
    pool_run(pool, chunk_hash, &hashing, n_chunks);
    if (hashing.failure)
        status = error_set(error, STATUS_INTERNAL, "SHA-256: %s", gnutls_strerror(hashing.failure));
    for (uint32_t i = 0; i < n_pieces && !status; i++) {
        uint32_t n = piece_chunks(&pieces[i]);
        status =
            sha256(hashing.digests + first, n * sizeof *hashing.digests, pieces[i].digest, error);
        first += n;
    }
    free(hashing.digests);
    return status;
}

/* ---- writing ---- */

static enum status io_error(const char *path, int code, struct error *error)
{
    return error_set(error, STATUS_IO, "%s: %s", path, strerror(code));
}

/* Up to the last '/' of `path`: its directory and those above it. */
static enum status directories_make(char *path, struct error *error)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int code = mkdir(path, 0750) < 0 ? errno : 0;
        enum status status = code && code != EEXIST && access(path, F_OK) != 0
                                 ? io_error(path, code, error)
                                 : STATUS_OK;
        *slash = '/';
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* The lock is on the file that bears the name: one that was renamed meanwhile is somebody's result.
 */
static enum status part_lock(const struct quantise_writer *w, struct error *error)
{
    struct stat ours, named;
    if (flock(w->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? error_set(error, STATUS_EXISTS, "%s: another worker is writing it", w->path)
                   : io_error(w->part_path, errno, error);
    if (fstat(w->fd, &ours) < 0 || stat(w->part_path, &named) < 0 || ours.st_ino != named.st_ino ||
        ours.st_dev != named.st_dev)
        return error_set(error, STATUS_EXISTS, "%s: another worker has just written it", w->path);
    if (!S_ISREG(ours.st_mode) || ours.st_nlink != 1 || ours.st_uid != geteuid() ||
        (ours.st_mode & S_IWOTH))
        return error_set(error, STATUS_IO,
                         "%s: expected a file of user %u alone, with one name: remove it",
                         w->part_path, geteuid());
    return STATUS_OK;
}

static enum status room_reserve(const struct quantise_writer *w, struct error *error)
{
    uint64_t bytes = quantise_file_bytes(w->table);
    int code = ftruncate(w->fd, 0) < 0 ? errno : posix_fallocate(w->fd, 0, (off_t)bytes);
    if (code)
        return error_set(error, STATUS_IO, "%s: no room for %" PRIu64 " bytes: %s", w->part_path,
                         bytes, strerror(code));
    return STATUS_OK;
}

enum status quantise_writer_open(const char *path, const struct quantise_table *table,
                                 struct quantise_writer *ret_writer, struct error *error)
{
    struct quantise_writer w = {.table = table, .fd = -1};
    bool locked = false;
    w.head = head_make(table);
    w.path = strdup(path);
    if (!w.head || !w.path || asprintf(&w.part_path, "%s.part", path) < 0) {
        w.part_path = NULL;
        quantise_writer_close(&w);
        return error_set(error, STATUS_EXHAUSTED, "%s: out of memory", path);
    }
    enum status status = directories_make(w.part_path, error);
    if (!status)
        w.fd = open(w.part_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (!status && w.fd < 0)
        status = io_error(w.part_path, errno, error);
    if (!status)
        status = part_lock(&w, error);
    locked = !status;
    if (!status)
        status = room_reserve(&w, error);
    if (!status) {
        *ret_writer = w;
        return STATUS_OK;
    }
    if (!locked && w.fd >= 0) {
        close(w.fd); /* not ours to remove */
        w.fd = -1;
    }
    quantise_writer_close(&w);
    return status;
}

static enum status bytes_write(const struct quantise_writer *w, const uint8_t *bytes, size_t size,
                               uint64_t offset, struct error *error)
{
    while (size) {
        ssize_t n = pwrite(w->fd, bytes, size_min(size, 1u << 30), (off_t)offset);
        if (n <= 0 && errno != EINTR)
            return io_error(w->part_path, n == 0 ? ENOSPC : errno, error);
        size_t done = n > 0 ? (size_t)n : 0;
        bytes += done;
        size -= done;
        offset += done;
    }
    return STATUS_OK;
}

enum status quantise_writer_add(struct quantise_writer *w, uint32_t part, const uint8_t *bytes,
                                const uint8_t digest[QUANTISE_DIGEST_BYTES], struct error *error)
{
    CHECK(part < w->table->n_parts);
    struct quantise_row *row = row_at(w->head, part);
    memcpy(row->digest, digest, sizeof row->digest);
    enum status status = bytes_write(w, bytes, row->size_bytes, row->offset_bytes, error);
    /* Begins to write to the disk, so that the end has little left to wait for. */
    if (!status)
        sync_file_range(w->fd, (off_t)row->offset_bytes, (off_t)row->size_bytes,
                        SYNC_FILE_RANGE_WRITE);
    w->written_count++;
    return status;
}

/* A rename is on the disk when its directory is. */
static int directory_sync(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int code = fd < 0 || fsync(fd) < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    free(directory);
    return code;
}

enum status quantise_writer_commit(struct quantise_writer *w, struct error *error)
{
    struct quantise_head *head = (struct quantise_head *)w->head;
    CHECK(w->written_count == w->table->n_parts);
    enum status status = sha256(w->head, head_bytes(w->table), head->digest, error);
    if (!status)
        status = bytes_write(w, w->head, head_bytes(w->table), 0, error);
    if (!status && (fsync(w->fd) < 0 || rename(w->part_path, w->path) < 0))
        status = io_error(w->path, errno, error);
    if (status)
        return status;
    close(w->fd);
    w->fd = -1;
    int code = directory_sync(w->path);
    return code ? io_error(w->path, code, error) : STATUS_OK;
}

void quantise_writer_close(struct quantise_writer *w)
{
    if (w->fd >= 0) {
        unlink(w->part_path); /* before the lock goes */
        close(w->fd);
    }
    free(w->head);
    free(w->path);
    free(w->part_path);
    *w = (struct quantise_writer){.fd = -1};
}
