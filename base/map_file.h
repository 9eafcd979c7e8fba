/*
 * map_file: a whole file mapped read-only.
 *
 * Weight files are larger than memory that we want to fill, so they are mapped and read in place.
 * The bytes are foreign: whoever reads them checks every length against `size_bytes`. A file that
 * is cut short by somebody else while it is mapped ends this process with SIGBUS; that is out of
 * scope here: replace model files by rename, never in place. Any thread; the map has one owner.
 */
#pragma once

#include "base/status.h"

struct map_file {
    const uint8_t *data; /* [size_bytes], NULL when closed */
    size_t size_bytes;
    /* When its bytes were last changed, and when anything of it was, as the system says; wall
     * clock. The first may be set by whoever owns it (cp -p, tar, rsync -t do), the second not. */
    uint64_t changed_ns, touched_ns;
    uint32_t owner_id;      /* of its user */
    bool is_open_to_others; /* everybody may write it */
};

/*
 * Maps the regular file at `path`. NOT_FOUND when there is none, INVALID when it is no regular
 * file, is empty or is larger than `max_bytes`, IO for the rest. Errors name the path.
 */
enum status map_file_open(const char *path, size_t max_bytes, struct map_file *ret_map,
                          struct error *error);

/* Tells the kernel that the file is about to be read from front to back. */
void map_file_read_ahead(const struct map_file *map);

/* A closed map (zeroed) may be closed again. */
void map_file_close(struct map_file *map);
