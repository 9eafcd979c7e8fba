/* The tokenizer in a GGUF file: see tokenizer_probe.h. */
#include "tests/fuzz/tokenizer_probe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    tokenizer_probe((struct span){(const char *)data, size_bytes});
    return 0;
}
