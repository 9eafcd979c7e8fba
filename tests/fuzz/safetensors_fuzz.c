/* A safetensors file: what is accepted covers the data exactly, each tensor once. */
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint64_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    struct tensor_list list;
    struct error error = {.text = ""};
    if (safetensors_read((struct span){(const char *)data, size_bytes}, "f", &list, &error)) {
        CHECK(strncmp(error.text, "f: ", 3) == 0);
        return 0;
    }
    size_t covered = 8 + list.header.size_bytes;
    for (uint32_t i = 0; i < list.count; i++) {
        const struct tensor *tensor = &list.tensors[i];
        sink += tensor->data[0] + tensor->data[tensor->size_bytes - 1];
        covered += tensor->size_bytes;
        CHECK(tensor_list_find(&list, tensor->name.data) == tensor);
    }
    CHECK(covered == size_bytes);
    tensor_list_close(&list);
    return 0;
}
