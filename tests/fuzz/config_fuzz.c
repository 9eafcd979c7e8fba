/* The configuration file: whatever it holds, it is accepted within the ranges of the table, or
 * refused with a place. */
#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static struct config config;
    struct error error = {.text = ""};
    struct span text = {(const char *)data, size_bytes};
    if (config_parse("f", text, &config, &error) != STATUS_OK) {
        CHECK(strncmp(error.text, "f:", 2) == 0);
        return 0;
    }
    CHECK(config.n_models >= 1 && config.n_models <= CONFIG_MODELS_MAX);
    CHECK(config.kv_memory_percent >= 1 && config.kv_memory_percent <= 90);
    CHECK(config.requests_max >= 1 && config.requests_max <= 65536);
    for (uint32_t i = 0; i < config.n_models; i++) {
        const struct config_model *m = &config.models[i];
        CHECK(m->name[0] && memchr(m->name, 0, sizeof m->name));
        CHECK(m->path[0] && memchr(m->path, 0, sizeof m->path));
        CHECK(m->block_tokens == 16 || m->block_tokens == 32);
        CHECK(m->running_max >= 1 && m->running_max <= 1024);
    }
    return 0;
}
