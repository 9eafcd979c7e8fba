#include "daemon/memory.h"

#include <inttypes.h>

#define MIB (1024.0 * 1024.0)
#define PATH_BYTES 4096

/* ---- how much there is ---- */

/* The number after `key` in a file of "key number" lines; with key NULL the file's first number.
 * False when absent or not a number ("max"). */
static bool file_number(const char *path, const char *key, uint64_t *ret_number)
{
    FILE *file = fopen(path, "re");
    char line[256];
    bool found = false;
    if (!file)
        return false;
    while (!found && fgets(line, sizeof line, file)) {
        const char *text = line;
        if (key) {
            if (strncmp(line, key, strlen(key)) != 0)
                continue;
            text = line + strlen(key);
        }
        found = sscanf(text, "%" SCNu64, ret_number) == 1;
        if (!key)
            break;
    }
    fclose(file);
    return found;
}

/* Our cgroup's path ("/system.slice/galerned.service"), from the line "0::PATH". */
static bool cgroup_path(const char *root, char *ret_path, size_t room)
{
    char name[PATH_BYTES];
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "re");
    bool found = false;
    if (!file)
        return false;
    while (!found && fgets(name, sizeof name, file)) {
        name[strcspn(name, "\n")] = '\0';
        if (strncmp(name, "0::/", 4) == 0) {
            snprintf(ret_path, room, "%s", name + 3);
            found = true;
        }
    }
    fclose(file);
    return found;
}

static uint64_t cgroup_free_bytes(const char *root, const char *group, uint64_t free_bytes)
{
    char path[2 * PATH_BYTES];
    uint64_t limit, used;
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/memory.max", root, group);
    if (!file_number(path, NULL, &limit))
        return free_bytes;
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/memory.current", root, group);
    if (!file_number(path, NULL, &used))
        used = 0;
    uint64_t left = limit > used ? limit - used : 0;
    return left < free_bytes ? left : free_bytes;
}

uint64_t memory_free_bytes(const char *root)
{
    char path[PATH_BYTES];
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (!file_number(path, "MemAvailable:", &kib))
        return 0;
    uint64_t free_bytes = kib * 1024;
    if (cgroup_path(root, path, sizeof path)) {
        /* Every group above limits us too. */
        char *slash;
        while ((slash = strrchr(path, '/'))) {
            free_bytes = cgroup_free_bytes(root, slash == path && !path[1] ? "" : path, free_bytes);
            *slash = '\0';
        }
    }
    return free_bytes;
}

/* ---- who gets what ---- */

static uint64_t kv_bytes(const struct memory_row *row, uint32_t blocks)
{
    return row->block_bytes * blocks;
}

static enum status fixed_check(const struct memory_row *rows, uint32_t n_rows, uint64_t free_bytes,
                               uint64_t *ret_fixed_bytes, uint32_t *ret_sharing,
                               struct error *error)
{
    uint64_t fixed_bytes = 0;
    uint32_t sharing = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        const struct memory_row *row = &rows[i];
        fixed_bytes += row->weights_bytes + row->scratch_bytes + kv_bytes(row, row->blocks_fixed);
        sharing += row->blocks_fixed == 0;
        if (row->blocks_fixed && row->blocks_fixed < row->blocks_min)
            return error_set(error, STATUS_INVALID,
                             "model %s: kv_blocks_count is %u, but one sequence may need %u blocks "
                             "of %u tokens: raise it or lower context_tokens",
                             row->name, row->blocks_fixed, row->blocks_min, row->block_tokens);
    }
    if (fixed_bytes > free_bytes)
        return error_set(error, STATUS_EXHAUSTED,
                         "weights, activations and fixed KV blocks need %.0f MiB and %.0f MiB are "
                         "free: serve fewer models, or lower kv_blocks_count or step_tokens_max",
                         (double)fixed_bytes / MIB, (double)free_bytes / MIB);
    *ret_fixed_bytes = fixed_bytes;
    *ret_sharing = sharing;
    return STATUS_OK;
}

enum status memory_share(struct memory_row *rows, uint32_t n_rows, uint64_t free_bytes,
                         uint32_t percent, struct error *error)
{
    uint64_t fixed_bytes = 0;
    uint32_t sharing = 0;
    enum status status = fixed_check(rows, n_rows, free_bytes, &fixed_bytes, &sharing, error);
    if (status != STATUS_OK)
        return status;
    uint64_t share_bytes =
        sharing ? (uint64_t)((double)(free_bytes - fixed_bytes) * percent / 100.0) / sharing : 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        struct memory_row *row = &rows[i];
        if (row->blocks_fixed) {
            row->blocks_count = row->blocks_fixed;
            continue;
        }
        uint64_t blocks = share_bytes / row->block_bytes;
        if (blocks < row->blocks_min)
            return error_set(error, STATUS_EXHAUSTED,
                             "model %s: one sequence may need %u KV blocks, %.0f MiB, and its "
                             "share is %.0f MiB (%u %% of %.0f MiB free, among %u models): lower "
                             "context_tokens, raise kv_memory_percent or serve fewer models",
                             row->name, row->blocks_min,
                             (double)kv_bytes(row, row->blocks_min) / MIB,
                             (double)share_bytes / MIB, percent,
                             (double)(free_bytes - fixed_bytes) / MIB, sharing);
        row->blocks_count = blocks < row->blocks_max ? (uint32_t)blocks : row->blocks_max;
    }
    return STATUS_OK;
}
