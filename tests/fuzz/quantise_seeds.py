"""Seeds for quantise_file_fuzz: corpus/quantise_file. Whole files of its table, of either kind.

    quantise_seeds.py

Written from the description in model/quantise_file.h.
"""

import hashlib
import struct

from model_seeds import write

HEAD = struct.Struct("<8sIIIIQ32s32s")
ROW = struct.Struct("<128sIIIIQQ32s")
PARTS = [("layers.0.q", 0, 3, 64), ("layers.0.experts", 0, 2, 32), ("layers.0.experts", 1, 2, 32)]
BLOCK_BYTES = {3: 34, 4: 18}  # Q8_0, Q4_0
ALIGN, CHUNK = 4096, 1 << 20


def whole(n: int) -> int:
    return n + -n % ALIGN


def file(kind: int, version: int = 1) -> bytes:
    rows, data, offset = b"", b"", whole(HEAD.size + len(PARTS) * ROW.size)
    start = offset
    for name, index, out_count, in_count in PARTS:
        blocks = bytes(i % 251 for i in range(out_count * in_count // 32 * BLOCK_BYTES[kind]))
        digest = hashlib.sha256(hashlib.sha256(blocks).digest()).digest()
        rows += ROW.pack(name.encode(), index, out_count, in_count, 0, offset, len(blocks), digest)
        data += blocks + bytes(-len(blocks) % ALIGN)
        offset = start + len(data)

    def head(digest: bytes) -> bytes:
        return HEAD.pack(b"GALERNEQ", version, kind, len(PARTS), CHUNK, offset, b"\7" * 32, digest)

    digest = hashlib.sha256(head(bytes(32)) + rows).digest()
    return (head(digest) + rows).ljust(start, b"\0") + data


def main() -> None:
    write("quantise_file", "q8", file(3))
    write("quantise_file", "q4", file(4))
    write("quantise_file", "version", file(3, 2))
    write("quantise_file", "cut", file(3)[:700])


if __name__ == "__main__":
    main()
