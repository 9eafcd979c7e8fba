"""A worker that greets the front, says READY and never runs a step. Descriptor 3 is its socket."""
import socket
import struct
import time

HEAD = struct.Struct("=IIII")  # magic, version, kind, size
LIMITS = struct.Struct("=11I")  # struct step_limits
BLOCK_TOKENS, BLOCKS_COUNT = 5, 6

listener = socket.socket(fileno=3)
connection, _ = listener.accept()
hello, descriptors, _, _ = socket.recv_fds(connection, 4096, 3)
magic, version, kind, size = HEAD.unpack_from(hello)
assert kind == 1 and len(descriptors) == 3 and size == len(hello)
limits = LIMITS.unpack_from(hello, HEAD.size)
digest = hello[HEAD.size + LIMITS.size:][:32]


def send(kind: int, body: bytes) -> None:
    connection.send((HEAD.pack(magic, version, kind, size) + body).ljust(size, b"\0"))


send(2, struct.pack("=II", 0, 50))
# READY: epoch, digest, weights, KV block, block_tokens, blocks_count, device
send(3, struct.pack("=Q32sQQII96s", 1, digest, 1, 1, limits[BLOCK_TOKENS],
                    limits[BLOCKS_COUNT], b"silent"))
print("silent worker: said READY", flush=True)
time.sleep(60)
