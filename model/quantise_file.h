/*
 * quantise_file: the quantised parts of one model on disk, so that the next start need not make
 * them.
 *
 * A file is named DIGEST-KIND.galerne, the model's digest in hexadecimal (DIGEST-KIND-head.galerne
 * where the head is quantised too); little-endian:
 *     head      struct quantise_head: version, kind, sizes, `source`, and a SHA-256 of head and
 * table table     struct quantise_row [n_rows]: name, shape and place of each part, and the SHA-256
 *               of the SHA-256s of its bytes, CHUNK by chunk (so that threads can share the work)
 *     data      the blocks of each part, from a multiple of 4096 bytes on
 * `source` stands for the files that the parts were made of: their digest (configuration, headers,
 * first bytes of each tensor), sizes and times of change. Another source, kind, version or shape
 * means that the file is stale.
 *
 * These are foreign bytes: whoever opens a file says what it must hold (struct quantise_table), and
 * everything but the digests must be exactly that. A part's bytes are to be checked with
 * quantise_digests before they are used. The file is mapped, and never changed in place: a writer
 * fills DIGEST-KIND.galerne.part, which is locked, so that one of several workers writes, and
 * renames it when its bytes are on the disk. What a crash leaves is taken over by the next writer.
 *
 * One thread at a time for each object.
 */
#pragma once

#include "base/map_file.h"
#include "kernels/cpu/pool.h"
#include "kernels/ops.h"

#define QUANTISE_NAME_MAX_BYTES 128
#define QUANTISE_DIGEST_BYTES 32

/* What a file has to hold: a part of a tensor, [out_count][in_count]. */
struct quantise_part {
    const char *name; /* of the tensor, shorter than QUANTISE_NAME_MAX_BYTES; not NUL-terminated */
    uint32_t name_bytes;
    uint32_t index; /* of the matrix in a tensor that is a stack of experts; else 0 */
    uint32_t out_count, in_count;
};

struct quantise_table {
    enum dtype kind; /* Q8_0 or Q4_0 */
    uint8_t source[QUANTISE_DIGEST_BYTES];
    const struct quantise_part *parts; /* [n_parts] */
    uint32_t n_parts;
};

size_t quantise_part_bytes(const struct quantise_table *table, uint32_t part);

/* The bytes of a file with such a table: refuses nothing, since shapes are of a checked model. */
uint64_t quantise_file_bytes(const struct quantise_table *table);

struct quantise_file {
    struct map_file map;
    const uint8_t *bytes; /* of the file */
    const struct quantise_table *table;
};

/* NOT_FOUND: no file. INVALID: what is wrong with it, and that somebody else owns it (but for root)
 * or everybody may write it: its digests are its own, so its maker is who is trusted. IO. `table`
 * must outlive the file. */
enum status quantise_file_open(const char *path, const struct quantise_table *table,
                               struct quantise_file *ret_file, struct error *error);

/* Checks head and table of a whole file in memory: what quantise_file_open does. */
enum status quantise_file_check(struct span bytes, const char *path,
                                const struct quantise_table *table, struct error *error);

/* The blocks of a part, not checked yet, and the digest that they should have. */
const uint8_t *quantise_file_part(const struct quantise_file *file, uint32_t part);
const uint8_t *quantise_file_digest(const struct quantise_file *file, uint32_t part);

/* A closed file (zeroed) may be closed again. */
void quantise_file_close(struct quantise_file *file);

/* Digests of several pieces of memory, shared out to the pool. EXHAUSTED, INTERNAL. */
struct quantise_piece {
    const uint8_t *bytes;
    size_t size_bytes;
    uint8_t digest[QUANTISE_DIGEST_BYTES]; /* out */
};
enum status quantise_digests(struct pool *pool, struct quantise_piece *pieces, uint32_t n_pieces,
                             struct error *error);

struct quantise_writer {
    const struct quantise_table *table;
    uint8_t *head; /* head and table in memory */
    char *path, *part_path;
    int fd; /* -1: closed */
    uint32_t written_count;
};

/* Makes the directory where there is none, locks the file to be and reserves its bytes. EXISTS:
 * another worker is at it. IO says what the system refused (no right, no room), or that what lies
 * in the way is no file of this user's alone. */
enum status quantise_writer_open(const char *path, const struct quantise_table *table,
                                 struct quantise_writer *ret_writer, struct error *error);

/* The blocks of a part, each part once, in any order. IO. */
enum status quantise_writer_add(struct quantise_writer *writer, uint32_t part, const uint8_t *bytes,
                                const uint8_t digest[QUANTISE_DIGEST_BYTES], struct error *error);

/* All parts were added: the file gets its name, on the disk. IO. Close it in any case. */
enum status quantise_writer_commit(struct quantise_writer *writer, struct error *error);

/* What was not committed is removed. A closed writer (zeroed, fd -1) may be closed again. */
void quantise_writer_close(struct quantise_writer *writer);
