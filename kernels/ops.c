#include "kernels/ops.h"

#include "kernels/philox.h"

static const struct ops *const backends[] = {&ops_cpu, &ops_ref};

const struct ops *ops_find(const char *name)
{
    for (size_t i = 0; name && i < array_count(backends); i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

double sample_uniform(uint64_t seed, uint32_t position)
{
    uint32_t words[4] = {position, 0, 0, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    philox_4x32_10(words, key);
    uint64_t bits = ((uint64_t)words[0] << 32 | words[1]) >> 11;
    return (double)bits * 0x1p-53;
}
