#include "admin/conversation.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <unistd.h>

struct conversation {
    /* The first is the system turn, whose content is NULL when there is none. */
    Galerne__V1__ChatMessage *items;
    Galerne__V1__ChatMessage **rows; /* what the request points at */
    size_t n, capacity;
};

static char *copy_of(const char *text)
{
    char *copy = strdup(text);
    CHECK(copy != NULL);
    return copy;
}

struct conversation *conversation_new(void)
{
    struct conversation *turns = calloc(1, sizeof *turns);
    CHECK(turns != NULL);
    turns->capacity = 16;
    turns->items = calloc(turns->capacity, sizeof *turns->items);
    CHECK(turns->items != NULL);
    galerne__v1__chat_message__init(&turns->items[0]);
    turns->items[0].role = GALERNE__V1__ROLE__ROLE_SYSTEM;
    turns->items[0].content = NULL;
    turns->n = 1;
    return turns;
}

void conversation_free(struct conversation *turns)
{
    if (!turns)
        return;
    conversation_clear(turns);
    free(turns->items[0].content);
    free(turns->items);
    free(turns->rows);
    free(turns);
}

void conversation_set_system(struct conversation *turns, const char *text)
{
    free(turns->items[0].content);
    turns->items[0].content = text && text[0] ? copy_of(text) : NULL;
}

void conversation_add(struct conversation *turns, Galerne__V1__Role role, const char *text)
{
    if (turns->n == turns->capacity) {
        turns->capacity *= 2;
        turns->items = reallocarray(turns->items, turns->capacity, sizeof *turns->items);
        CHECK(turns->items != NULL);
    }
    Galerne__V1__ChatMessage *item = &turns->items[turns->n++];
    galerne__v1__chat_message__init(item);
    item->role = role;
    item->content = copy_of(text);
}

void conversation_drop_last(struct conversation *turns)
{
    CHECK(turns->n > 1);
    free(turns->items[--turns->n].content);
}

void conversation_clear(struct conversation *turns)
{
    while (turns->n > 1)
        conversation_drop_last(turns);
}

size_t conversation_count(const struct conversation *turns)
{
    return turns->n - 1;
}

/* Index of the first turn that is there. */
static size_t first_of(const struct conversation *turns)
{
    return turns->items[0].content ? 0 : 1;
}

void conversation_prompt(struct conversation *turns, Galerne__V1__ChatPrompt *ret_prompt)
{
    size_t first = first_of(turns);
    free(turns->rows);
    turns->rows = calloc(turns->n, sizeof(*turns->rows));
    CHECK(turns->rows != NULL);
    for (size_t i = first; i < turns->n; i++)
        turns->rows[i - first] = &turns->items[i];
    galerne__v1__chat_prompt__init(ret_prompt);
    ret_prompt->n_messages = turns->n - first;
    ret_prompt->messages = turns->rows;
}

/* NULL: a text is no UTF-8 (which a daemon would have refused). */
static json_t *json_of(const struct conversation *turns)
{
    json_t *all = json_array();
    CHECK(all != NULL);
    for (size_t i = first_of(turns); i < turns->n; i++) {
        const char *role = turns->items[i].role == GALERNE__V1__ROLE__ROLE_SYSTEM ? "system"
                           : turns->items[i].role == GALERNE__V1__ROLE__ROLE_USER ? "user"
                                                                                  : "assistant";
        json_t *row = json_pack("{ss, ss}", "role", role, "content", turns->items[i].content);
        if (!row || json_array_append_new(all, row) != 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

enum status conversation_save(const struct conversation *turns, const char *path,
                              struct error *error)
{
    json_t *all = json_of(turns);
    if (!all)
        return error_set(error, STATUS_INVALID, "the system turn is no UTF-8");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int problem = errno;
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    bool good = file && json_dumpf(all, file, JSON_INDENT(1)) == 0 && putc('\n', file) != EOF;
    if (file) {
        good = fclose(file) == 0 && good;
        problem = errno;
    }
    json_decref(all);
    if (good)
        return STATUS_OK;
    if (fd < 0 && problem == EEXIST)
        return error_set(error, STATUS_INVALID, "%s is there already: choose another name", path);
    return error_set(error, STATUS_IO, "%s cannot be written: %s", path, strerror(problem));
}
