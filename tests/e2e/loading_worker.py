"""A worker that goes on loading: loading_worker.py SOCKET STAGE PERCENT says so, then nothing."""
import socket
import struct
import sys
import time

HEAD = struct.Struct("=IIII")  # magic, version, kind, size

listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen(1)
print("listening", flush=True)
connection, _ = listener.accept()
hello, _, _, _ = socket.recv_fds(connection, 4096, 3)
magic, version, kind, size = HEAD.unpack_from(hello)
assert kind == 1 and size == len(hello)
progress = struct.pack("=II", int(sys.argv[2]), int(sys.argv[3]))
connection.send((HEAD.pack(magic, version, 2, size) + progress).ljust(size, b"\0"))
time.sleep(60)
