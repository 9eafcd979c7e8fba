#include "text/normalize.h"

#include <uninorm.h>

static bool is_ascii(struct span text)
{
    for (size_t i = 0; i < text.size_bytes; i++)
        if ((uint8_t)text.data[i] >= 0x80)
            return false;
    return true;
}

enum status normalize_nfc(struct span text, char **ret_text, size_t *ret_size_bytes,
                          struct error *error)
{
    if (is_ascii(text)) {
        *ret_text = NULL;
        return STATUS_OK;
    }
    size_t size_bytes = 0;
    uint8_t *normal =
        u8_normalize(UNINORM_NFC, (const uint8_t *)text.data, text.size_bytes, NULL, &size_bytes);
    if (!normal)
        return error_set(error, STATUS_EXHAUSTED, "no memory to normalise %zu bytes",
                         text.size_bytes);
    *ret_text = (char *)normal;
    *ret_size_bytes = size_bytes;
    return STATUS_OK;
}
