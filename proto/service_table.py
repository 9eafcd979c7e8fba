#!/usr/bin/python3
"""Writes service_table.c from a descriptor set: methods, files and symbols as C tables.

Usage: service_table.py DESCRIPTOR_SET OUTPUT
The set is protoc's (--include_imports): streaming flags exist there and not in protobuf-c.
"""
import sys
from collections.abc import Iterator

from google.protobuf import descriptor_pb2 as pb


def camel_to_lower(name: str) -> str:
    """A name part as protobuf-c spells it: "StatusRequest" -> "status_request"."""
    out = ""
    was_upper = True
    for c in name:
        if c.isupper() and not was_upper:
            out += "_"
        was_upper = c.isupper()
        out += c.lower()
    return out


# Messages of the one package have the same fields as those of the other, and are read by its code.
ALIASES = {"grpc.reflection.v1alpha.": "grpc.reflection.v1."}


def alias_check(files: list[pb.FileDescriptorProto]) -> None:
    """A message and its alias have the same fields, in name, number and type."""
    fields = {f"{file.package}.{m.name}": {(f.number, f.name, f.type, f.label) for f in m.field}
              for file in files for m in file.message_type}
    for old, new in ALIASES.items():
        for name, rows in fields.items():
            if name.startswith(old):
                assert rows == fields[new + name.removeprefix(old)], f"{name} is not {new}'s"


def c_descriptor(full_name: str) -> str:
    for old, new in ALIASES.items():
        full_name = full_name.replace("." + old, "." + new)
    parts = full_name.lstrip(".").split(".")
    return "__".join(camel_to_lower(p) for p in parts) + "__descriptor"


def header_of(file_name: str) -> str:
    return "proto/" + file_name.rsplit("/", 1)[-1].removesuffix(".proto") + ".pb-c.h"


def message_symbols(prefix: str, message: pb.DescriptorProto) -> Iterator[str]:
    name = f"{prefix}.{message.name}"
    yield name
    for field in message.field:
        yield f"{name}.{field.name}"
    for oneof in message.oneof_decl:
        yield f"{name}.{oneof.name}"
    for enum in message.enum_type:
        yield from enum_symbols(name, enum)
    for nested in message.nested_type:
        yield from message_symbols(name, nested)


def enum_symbols(prefix: str, enum: pb.EnumDescriptorProto) -> Iterator[str]:
    yield f"{prefix}.{enum.name}"
    for value in enum.value:
        yield f"{prefix}.{value.name}"  # values live beside their enum, not inside


def file_symbols(file: pb.FileDescriptorProto) -> Iterator[str]:
    for message in file.message_type:
        yield from message_symbols(file.package, message)
    for enum in file.enum_type:
        yield from enum_symbols(file.package, enum)
    for service in file.service:
        yield f"{file.package}.{service.name}"
        for method in service.method:
            yield f"{file.package}.{service.name}.{method.name}"


def method_rows(files: list[pb.FileDescriptorProto]) -> Iterator[str]:
    for file in files:
        for service in file.service:
            full = f"{file.package}.{service.name}"
            for method in service.method:
                flags = [str(bool(f)).lower() for f in (method.client_streaming,
                                                         method.server_streaming)]
                yield (f'    {{"/{full}/{method.name}", "{full}", {flags[0]}, {flags[1]},\n'
                       f"     &{c_descriptor(method.input_type)},\n"
                       f"     &{c_descriptor(method.output_type)}}},")


def file_tables(files: list[pb.FileDescriptorProto]) -> Iterator[str]:
    index = {file.name: i for i, file in enumerate(files)}
    for i, file in enumerate(files):
        data = ", ".join(str(b) for b in file.SerializeToString(deterministic=True))
        yield f"static const uint8_t file_{i}_bytes[] = {{{data}}};"
        imports = ", ".join(str(index[name]) for name in file.dependency) or "0"
        yield f"static const uint32_t file_{i}_imports[] = {{{imports}}};"
    yield "\nconst struct proto_file proto_files[] = {"
    for i, file in enumerate(files):
        yield (f'    {{"{file.name}", file_{i}_bytes, sizeof file_{i}_bytes, '
               f"file_{i}_imports, {len(file.dependency)}}},")
    yield "};\nconst uint32_t proto_files_count = %d;\n" % len(files)


def main() -> None:
    with open(sys.argv[1], "rb") as f:
        files = list(pb.FileDescriptorSet.FromString(f.read()).file)
    alias_check(files)
    symbols = sorted((name, i) for i, file in enumerate(files) for name in file_symbols(file))
    names = [name for name, _ in symbols]
    assert len(names) == len(set(names)), "a symbol is defined twice"
    methods = list(method_rows(files))

    lines = ["/* Made by service_table.py from the .proto files. */",
             '#include "proto/service_table.h"']
    lines += sorted({f'#include "{header_of(file.name)}"' for file in files if file.service})
    lines += ["", "const struct service_method service_methods[] = {", *methods, "};",
              f"const uint32_t service_methods_count = {len(methods)};", "", *file_tables(files),
              "const struct proto_symbol proto_symbols[] = {",
              *(f'    {{"{name}", {i}}},' for name, i in symbols), "};",
              f"const uint32_t proto_symbols_count = {len(symbols)};", ""]
    with open(sys.argv[2], "w") as out:
        out.write("\n".join(lines))


if __name__ == "__main__":
    main()
