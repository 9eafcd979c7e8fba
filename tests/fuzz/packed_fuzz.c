/* Tensors of 8 and 4 bits: whatever a file of safetensors holds under the names that belong
 * together, each matrix that is found is made within its own bytes. The first byte picks a packing.
 */
#include "model/packed.h"
#include "model/safetensors.h"

#define VALUES_MAX (1u << 18)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static const struct packing packings[] = {
    {.kind = PACKING_F8},
    {.kind = PACKING_F8, .block_rows = 3, .block_columns = 128},
    {.kind = PACKING_GPTQ, .group_columns = 32, .zero_offset = 1},
    {.kind = PACKING_GPTQ, .symmetric = true},
    {.kind = PACKING_AWQ, .group_columns = 64},
};

static volatile uint8_t sink;

static void part_make(struct pool *pool, const struct packed_part *part)
{
    struct error error = {.text = ""};
    size_t bytes = packed_bytes(part), i = 0;
    uint8_t *rows = malloc(bytes);
    CHECK(rows);
    if (packed_make(pool, part, "f", rows, &error))
        CHECK(strncmp(error.text, "f: ", 3) == 0);
    else
        CHECK(dtype_find_not_finite(part->dtype, rows, (size_t)part->out_count * part->in_count) ==
              (size_t)part->out_count * part->in_count);
    for (; i < bytes; i++)
        sink ^= rows[i];
    free(rows);
}

/* As if the network wanted a matrix of the shape that the tensor has. */
static void part_try(struct pool *pool, struct weights_file *file, const struct tensor *tensor)
{
    char name[96];
    struct packed_part part;
    struct error error = {.text = ""};
    uint64_t out = tensor->dims[0], in = tensor->dims[1];
    const char *dot = memrchr(tensor->name.data, '.', tensor->name.size_bytes);
    if (tensor->n_dims != 2 || !dot || tensor->name.size_bytes > 80)
        return;
    if (file->arch.packing.kind == PACKING_GPTQ)
        out = tensor->dims[1], in = tensor->dims[0] * 8;
    if (file->arch.packing.kind == PACKING_AWQ)
        out = tensor->dims[1] * 8, in = tensor->dims[0];
    if (out > VALUES_MAX || in > VALUES_MAX || out * in > VALUES_MAX)
        return;
    snprintf(name, sizeof name, "%.*s.weight", (int)(dot - tensor->name.data), tensor->name.data);
    if (packed_find(file, name, (uint32_t)out, (uint32_t)in, &part, &error))
        CHECK(strncmp(error.text, "f: ", 3) == 0);
    else if (part.kind != PACKING_NONE)
        part_make(pool, &part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static struct pool *pool;
    char path[] = "f";
    struct error error = {.text = ""};
    struct weights_file file = {.path = path};
    if (!pool)
        CHECK(pool_open(1, &pool, &error) == STATUS_OK);
    if (size_bytes == 0)
        return 0;
    /* The data of a file is aligned as its map is. */
    uint8_t *copy = malloc(size_bytes);
    CHECK(copy);
    memcpy(copy, data + 1, size_bytes - 1);
    file.arch.packing = packings[data[0] % array_count(packings)];
    if (safetensors_read((struct span){(const char *)copy, size_bytes - 1}, "f", &file.list,
                         &error) == STATUS_OK)
        for (uint32_t i = 0; i < file.list.count; i++)
            part_try(pool, &file, &file.list.tensors[i]);
    tensor_list_close(&file.list);
    free(copy);
    return 0;
}
