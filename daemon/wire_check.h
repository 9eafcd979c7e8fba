/*
 * wire_check: foreign protobuf bytes, checked before protobuf-c sees them, and unpacked with a cap.
 *
 * protobuf-c has no limit on recursion, no limit on what a small message may grow to, does not
 * check UTF-8 and cuts a string at its first NUL. So every message is walked first, driven by its
 * descriptor:
 *
 *     nesting at most WIRE_DEPTH_MAX; at most WIRE_ELEMENTS_MAX fields (the elements of a packed
 *     list count by their bytes); wire types that fit the schema; lengths inside their message;
 *     strings that are valid UTF-8 without NUL
 *
 * and only then unpacked, every allocation out of an arena whose cap is the caller's. Unknown
 * fields are allowed, as protobuf demands, and count. Groups are refused.
 *
 * Pure functions; any thread. Errors name the field: "chat.messages[3].content".
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/status.h"

#define WIRE_DEPTH_MAX 8
#define WIRE_ELEMENTS_MAX 16384

/* INVALID (malformed, text that is not text, too deep) or EXHAUSTED (too many fields). */
enum status wire_check(const ProtobufCMessageDescriptor *type, struct span bytes,
                       struct error *error);

/* Room that an honest message of this size needs when it is unpacked; the arena's cap. */
size_t wire_unpacked_max_bytes(size_t message_bytes);

/* wire_check, then unpacks. The message lives in the arena and is freed with it. As wire_check,
 * and EXHAUSTED when the arena is too small. */
enum status wire_unpack(const ProtobufCMessageDescriptor *type, struct span bytes,
                        struct arena *arena, ProtobufCMessage **ret_message, struct error *error);
