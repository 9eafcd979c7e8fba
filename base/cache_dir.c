#include "base/cache_dir.h"

#include <unistd.h>

void cache_dir_default(char *ret_path, size_t capacity)
{
    const struct {
        const char *head, *tail;
    } places[] = {
        {getenv("CACHE_DIRECTORY"), ""},
        {getuid() == 0 ? "/var/cache" : NULL, "/galerne"},
        {getenv("XDG_CACHE_HOME"), "/galerne"},
        {getenv("HOME"), "/.cache/galerne"},
    };
    ret_path[0] = '\0';
    for (size_t i = 0; i < array_count(places); i++) {
        const char *head = places[i].head;
        if (!head || head[0] != '/')
            continue;
        int length = (int)strcspn(head, ":"); /* CACHE_DIRECTORY may be a list */
        int n = snprintf(ret_path, capacity, "%.*s%s", length, head, places[i].tail);
        if (n >= 0 && (size_t)n < capacity)
            return;
        ret_path[0] = '\0';
    }
}
