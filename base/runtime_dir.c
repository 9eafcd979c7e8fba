#include "base/runtime_dir.h"

#include <unistd.h>

#define SYSTEM_DIR "/run/galerne"

/* Adds "HEAD/tail"; a head that is unset, relative or too long is passed over. */
static bool dirs_add(struct runtime_dirs *dirs, const char *head, const char *tail)
{
    char *path = dirs->paths[dirs->count];
    if (!head || head[0] != '/')
        return false;
    int length = (int)strcspn(head, ":"); /* RUNTIME_DIRECTORY may be a list */
    int n = snprintf(path, RUNTIME_DIR_MAX_BYTES, "%.*s%s", length, head, tail);
    if (n >= RUNTIME_DIR_MAX_BYTES)
        return false;
    dirs->count++;
    return true;
}

static void dirs_add_private(struct runtime_dirs *dirs)
{
    char tail[32];
    snprintf(tail, sizeof tail, "/galerne-%u", (unsigned)getuid());
    dirs_add(dirs, "/tmp", tail);
}

void runtime_dir_default(char ret_path[RUNTIME_DIR_MAX_BYTES])
{
    struct runtime_dirs dirs = {.count = 0};
    if (!dirs_add(&dirs, getenv("RUNTIME_DIRECTORY"), "") &&
        !(getuid() == 0 && dirs_add(&dirs, SYSTEM_DIR, "")) &&
        !dirs_add(&dirs, getenv("XDG_RUNTIME_DIR"), "/galerne"))
        dirs_add_private(&dirs);
    memcpy(ret_path, dirs.paths[0], RUNTIME_DIR_MAX_BYTES);
}

void runtime_dirs_find(struct runtime_dirs *ret_dirs)
{
    ret_dirs->count = 0;
    dirs_add(ret_dirs, getenv("RUNTIME_DIRECTORY"), "");
    dirs_add(ret_dirs, SYSTEM_DIR, "");
    dirs_add(ret_dirs, getenv("XDG_RUNTIME_DIR"), "/galerne");
    dirs_add_private(ret_dirs);
}
