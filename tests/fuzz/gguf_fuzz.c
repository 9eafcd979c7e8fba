/* A GGUF file: opened, every key and tensor looked at, and planned as a model when it is one. */
#include <sys/mman.h>
#include <unistd.h>

#include "model/model.h"
#include "base/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint64_t sink;

static void key_touch(const struct gguf *gguf, const struct gguf_key *key)
{
    struct gguf_array array = key->value;
    struct span text;
    size_t cursor = 0;
    char name[GGUF_NAME_MAX_BYTES + 1];
    uint64_t u64 = 0;
    float f32 = 0;
    bool flag = false;
    CHECK(key->name.size_bytes < sizeof name);
    memcpy(name, key->name.data, key->name.size_bytes);
    name[key->name.size_bytes] = '\0';
    CHECK(gguf_key_find(gguf, name) == key);
    if (!gguf_get_u64(gguf, name, &u64, NULL) || !gguf_get_f32(gguf, name, &f32, NULL) ||
        !gguf_get_bool(gguf, name, &flag, NULL) || !gguf_get_string(gguf, name, &text, NULL))
        sink += u64 + flag;
    if (array.type == GGUF_STRING) {
        uint64_t count = 0;
        for (; gguf_array_string(&array, &cursor, &text); count++)
            sink += text.size_bytes ? (uint8_t)text.data[text.size_bytes - 1] : 0;
        CHECK(count == array.count);
    } else if (array.count > 0) {
        sink += (uint8_t)array.bytes.data[array.bytes.size_bytes - 1];
    }
    if (array.type == GGUF_I32 && array.count > 0)
        sink += (uint64_t)gguf_array_i32(&array, array.count - 1);
    if (array.type == GGUF_F32 && array.count > 0)
        sink += gguf_array_f32(&array, array.count - 1) > 0;
}

static void plan_touch(const uint8_t *data, size_t size_bytes)
{
    static int fd = -1;
    static char path[64];
    struct model_options options = {.ops = &ops_ref};
    struct model_plan plan;
    if (fd < 0) {
        fd = memfd_create("gguf", MFD_CLOEXEC);
        CHECK(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(pwrite(fd, data, size_bytes, 0) == (ssize_t)size_bytes);
    if (model_plan(path, &options, &plan, NULL) == STATUS_OK)
        CHECK(plan.arch.hidden > 0 && plan.weights_bytes > 0 && plan.kv_block_bytes > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    struct gguf gguf;
    struct error error = {.text = ""};
    if (gguf_open((struct span){(const char *)data, size_bytes}, "f", &gguf, &error)) {
        CHECK(strncmp(error.text, "f: ", 3) == 0);
        return 0;
    }
    for (uint32_t i = 0; i < gguf.keys_count; i++)
        key_touch(&gguf, &gguf.keys[i]);
    for (uint32_t i = 0; i < gguf.tensors_count; i++) {
        const struct gguf_tensor *tensor = &gguf.tensors[i];
        CHECK(tensor->size_bytes > 0);
        sink += tensor->data[0] + tensor->data[tensor->size_bytes - 1];
    }
    gguf_close(&gguf);
    plan_touch(data, size_bytes);
    return 0;
}
