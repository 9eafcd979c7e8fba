/* A file of quantised weights: nothing that is not exactly the table that was asked for is taken,
 * and what is taken can be read to its end. The table is that of the seeds (quantise_seeds.py). */
#include "model/quantise_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint64_t sink;

static const struct quantise_part parts[] = {
    {.name = "layers.0.q", .name_bytes = 10, .out_count = 3, .in_count = 64},
    {.name = "layers.0.experts", .name_bytes = 16, .index = 0, .out_count = 2, .in_count = 32},
    {.name = "layers.0.experts", .name_bytes = 16, .index = 1, .out_count = 2, .in_count = 32},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static const enum dtype kinds[] = {DTYPE_Q8_0, DTYPE_Q4_0};
    for (size_t k = 0; k < array_count(kinds); k++) {
        struct quantise_table table = {.kind = kinds[k], .parts = parts, .n_parts = 3};
        struct error error = {.text = ""};
        memset(table.source, 7, sizeof table.source);
        if (quantise_file_check((struct span){(const char *)data, size_bytes}, "f", &table,
                                &error)) {
            CHECK(strncmp(error.text, "f: ", 3) == 0);
            continue;
        }
        CHECK(size_bytes == quantise_file_bytes(&table));
        void *copy = aligned_alloc(64, round_up(size_bytes, 64)); /* as a map is */
        CHECK(copy);
        memcpy(copy, data, size_bytes);
        struct quantise_file file = {.bytes = copy, .table = &table};
        for (uint32_t i = 0; i < table.n_parts; i++) {
            const uint8_t *bytes = quantise_file_part(&file, i);
            size_t size = quantise_part_bytes(&table, i);
            CHECK(bytes + size <= (const uint8_t *)copy + size_bytes);
            sink += bytes[0] + bytes[size - 1] + quantise_file_digest(&file, i)[31];
        }
        free(copy);
    }
    return 0;
}
