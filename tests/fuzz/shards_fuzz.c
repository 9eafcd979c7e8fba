/* The index of a sharded checkpoint: what is accepted names files of its own directory, each once.
 */
#include "model/shards.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    struct shard_index index;
    struct error error = {.text = ""};
    if (shard_index_read((struct span){(const char *)data, size_bytes}, "f", &index, &error)) {
        CHECK(strncmp(error.text, "f: ", 3) == 0);
        return 0;
    }
    const char *tensor;
    json_t *value;
    CHECK(index.count >= 1 && index.count <= SHARDS_MAX);
    for (uint32_t i = 0; i < index.count; i++) {
        CHECK(!strchr(index.names[i], '/') && index.names[i][0] != '.');
        CHECK(i == 0 || strcmp(index.names[i - 1], index.names[i]) < 0);
    }
    json_object_foreach (index.weight_map, tensor, value) {
        uint32_t found = 0;
        for (uint32_t i = 0; i < index.count; i++)
            found += strcmp(index.names[i], json_string_value(value)) == 0;
        CHECK(found == 1);
    }
    shard_index_close(&index);
    return 0;
}
