/*
 * message_json: any message of the public contract as JSON.
 *
 * Walks the message by its descriptor, so every field is there under the name that the .proto file
 * gives it: enums by name, bytes in base64, optional fields and members of a oneof only when they
 * are set, sub-messages only when present, everything else always. Text that is not UTF-8 is given
 * with U+FFFD. Any thread.
 */
#pragma once

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

/* A new object, never NULL; the caller owns it (json_decref). */
json_t *message_json(const ProtobufCMessage *message);
