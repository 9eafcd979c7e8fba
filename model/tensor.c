#include "model/tensor.h"

static int name_compare(const void *a, const void *b)
{
    struct span left = ((const struct tensor *)a)->name;
    struct span right = ((const struct tensor *)b)->name;
    int order = memcmp(left.data, right.data, size_min(left.size_bytes, right.size_bytes));
    return order ? order
                 : (left.size_bytes > right.size_bytes) - (left.size_bytes < right.size_bytes);
}

void tensor_list_sort(struct tensor_list *list)
{
    if (list->count)
        qsort(list->tensors, list->count, sizeof *list->tensors, name_compare);
}

struct tensor *tensor_list_find(const struct tensor_list *list, const char *name)
{
    struct tensor wanted = {.name = span_of(name)};
    if (list->count == 0)
        return NULL;
    return bsearch(&wanted, list->tensors, list->count, sizeof wanted, name_compare);
}

void tensor_list_close(struct tensor_list *list)
{
    arena_free(&list->arena);
    *list = (struct tensor_list){0};
}

enum status tensor_not_finite(const struct tensor *tensor, const char *path, size_t at,
                              struct error *error)
{
    return error_set(error, STATUS_INVALID,
                     "%s: tensor %.*s: value %zu is not a finite number: the file is "
                     "damaged, or its maker was; get it again",
                     path, (int)tensor->name.size_bytes, tensor->name.data, at);
}
