/* Writes protobuf bytes by hand, also such as no library would write. */
#pragma once

#include "base/types.h"

struct wire_build {
    size_t size_bytes;
    char data[1 << 20];
};

static inline void wire_bytes(struct wire_build *wire, const void *data, size_t size_bytes)
{
    CHECK(wire->size_bytes + size_bytes <= sizeof wire->data);
    memcpy(wire->data + wire->size_bytes, data, size_bytes);
    wire->size_bytes += size_bytes;
}

static inline void wire_varint(struct wire_build *wire, uint64_t value)
{
    do {
        uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        wire_bytes(wire, &byte, 1);
        value >>= 7;
    } while (value);
}

static inline void wire_tag(struct wire_build *wire, uint32_t number, uint32_t type)
{
    wire_varint(wire, (uint64_t)number << 3 | type);
}

static inline void wire_sized(struct wire_build *wire, uint32_t number, const void *data,
                              size_t size_bytes)
{
    wire_tag(wire, number, 2);
    wire_varint(wire, size_bytes);
    wire_bytes(wire, data, size_bytes);
}

static inline void wire_text(struct wire_build *wire, uint32_t number, const char *text)
{
    wire_sized(wire, number, text, strlen(text));
}

static inline struct span wire_span(const struct wire_build *wire)
{
    return (struct span){.data = wire->data, .size_bytes = wire->size_bytes};
}
