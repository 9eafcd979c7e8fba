/*
 * service_table: what the .proto files say, as C tables.
 *
 * Made at build by service_table.py from the same descriptor set that protoc makes: one row for
 * each method of every service (the listener registers and dispatches by it), the descriptors of
 * the files themselves and the symbols in them (reflection answers from these). All of it is
 * constant; any thread may read.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/types.h"

struct service_method {
    const char *path;    /* "/galerne.v1.Inference/Generate" */
    const char *service; /* "galerne.v1.Inference" */
    bool client_streams, server_streams;
    const ProtobufCMessageDescriptor *input, *output;
};

extern const struct service_method service_methods[]; /* [service_methods_count] */
extern const uint32_t service_methods_count;

/* One .proto file; `bytes` is its serialized google.protobuf.FileDescriptorProto. */
struct proto_file {
    const char *name; /* "galerne/v1/inference.proto" */
    const uint8_t *bytes;
    size_t size_bytes;
    const uint32_t *imports; /* [n_imports] indices into proto_files */
    uint32_t n_imports;
};

extern const struct proto_file proto_files[]; /* [proto_files_count] */
extern const uint32_t proto_files_count;

/* A full name ("galerne.v1.GenerateRequest.model") and the file that defines it. */
struct proto_symbol {
    const char *name;
    uint32_t file; /* index into proto_files */
};

extern const struct proto_symbol proto_symbols[]; /* [proto_symbols_count], sorted by name */
extern const uint32_t proto_symbols_count;
