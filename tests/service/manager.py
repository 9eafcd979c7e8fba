"""A service manager for tests: it listens, hands descriptors over, hears notifications.

What is asked of the real one and not more: LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES for front and
worker; NOTIFY_SOCKET and WATCHDOG_USEC for the front; a worker is started by the first connection
to its socket. Nothing restarts by itself: a test says when.
"""
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import grpc
from galerne.admin.v1 import admin_pb2, admin_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/golden/tiny-llama"
# A client whose windows do not grow: what it does not read stays with the daemon.
NARROW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
# An answer that does not fit into such a window.
LONG = pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20)


def build_dir() -> pathlib.Path:
    name = os.environ.get("GALERNE_BUILD")
    if not name or not (pathlib.Path(name) / "daemon/galerned").exists():
        raise RuntimeError("GALERNE_BUILD must name a build directory with daemon/galerned in it")
    return pathlib.Path(name)


def wait_until(what: str, test, timeout_s: float = 10.0):
    """The first true value of test(); fails when none comes in time."""
    end = time.monotonic() + timeout_s
    while not (value := test()):
        if time.monotonic() > end:
            raise AssertionError(f"not in {timeout_s} s: {what}")
        time.sleep(0.01)
    return value


def activated(command: list, sockets: dict, environment: dict, log) -> subprocess.Popen:
    """Starts `command` with the sockets as descriptors 3, 4, ... under their names. The shell puts
    its own process id in, which the program then has."""
    fds = [one.fileno() for one in sockets.values()]
    # First out of the way, then into place: 3 may itself be one of them.
    moves = "".join(f"exec {40 + i}<&{fd}; " for i, fd in enumerate(fds))
    moves += "".join(f"exec {3 + i}<&{40 + i} {40 + i}<&-; " for i in range(len(fds)))
    targets = range(3, 3 + len(fds))
    moves += "".join(f"exec {fd}<&-; " for fd in fds if fd not in targets)
    script = moves + 'export LISTEN_PID=$$; exec "$@"'
    environment = {**environment, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(sockets)}
    return subprocess.Popen(["bash", "-c", script, "bash", *map(str, command)], pass_fds=fds,
                            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


class Manager:
    """`settings` are keys of the configuration; the model is called tiny."""

    def __init__(self, watchdog_s: float = 0, worker: str = "activated", names=("galerne", "admin"),
                 **settings):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"galerne-service-{os.getpid()}-"))
        self.run_dir = self.directory / "run"
        self.run_dir.mkdir()
        self.log_path = self.directory / "log"
        self.config = self.directory / "galerne.yaml"
        self.watchdog_s = watchdog_s
        self.front = self.worker = None
        self.started: list = []  # every process of ours
        self.sockets = {}
        self.heard: list = []  # (time, assignment, pid of the sender)
        self.closing = False
        model = {"name": "tiny", "path": TINY, "threads_count": 1,
                 "worker": settings.pop("model_worker", "process")}
        self.config.write_text("".join(f"{key}: {value}\n" for key, value in {
            "runtime_dir": self.run_dir, "log_level": "debug", **settings}.items())
            + "models:\n  - " + "    ".join(f"{key}: {value}\n" for key, value in model.items()))
        for name in names:
            self.sockets[name] = self.listen(f"{name}.sock", socket.SOCK_STREAM)
        self.worker_kind = worker  # "activated"; "held": it listens, the test starts it; "none"
        self.worker_socket = None
        if worker != "none":
            self.worker_socket = self.listen("worker-tiny.sock", socket.SOCK_SEQPACKET)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.directory / "notify"))
        self.notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def listen(self, name: str, kind: int) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, kind)
        made.bind(str(self.run_dir / name))
        made.listen(64)
        return made

    # ---- what the manager does by itself ----

    def watch(self) -> None:
        while not self.closing:
            waiting = [self.notify]
            if self.worker_kind == "activated" and not self.alive(self.worker):
                waiting.append(self.worker_socket)
            ready, _, _ = select.select(waiting, [], [], 0.05)
            if self.notify in ready:
                data, ancillary, _, _ = self.notify.recvmsg(4096, 256)
                pid = int.from_bytes(ancillary[0][2][:4], "little")
                for line in data.decode().splitlines():
                    self.heard.append((time.monotonic(), line, pid))
            if self.worker_socket in ready and not self.closing:
                self.start_worker()

    @staticmethod
    def alive(process) -> bool:
        return process is not None and process.poll() is None

    def environment(self) -> dict:
        return {key: value for key, value in os.environ.items()
                if not key.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))}

    def spawn(self, command: list, sockets: dict, **environment) -> subprocess.Popen:
        with open(self.log_path, "ab") as log:
            made = activated(command, sockets, {**self.environment(), **environment}, log)
        self.started.append(made)
        return made

    def start_worker(self, *extra) -> subprocess.Popen:
        self.worker = self.spawn([build_dir() / "daemon/galerne-worker", "--config", self.config,
                                  "--model", "tiny", *extra], {"worker": self.worker_socket})
        return self.worker

    # ---- what a test asks of it ----

    def start(self, wait: bool = True) -> subprocess.Popen:
        environment = {"NOTIFY_SOCKET": str(self.directory / "notify")}
        if self.watchdog_s:
            environment["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))
        self.heard.clear()
        self.front = self.spawn([build_dir() / "daemon/galerned", "--config", self.config],
                                self.sockets, **environment)
        if wait:
            wait_until("READY=1", lambda: self.said("READY=1"), 30)
        return self.front

    def said(self, start: str) -> list:
        """Times at which an assignment that begins so was heard from the front."""
        return [when for when, line, _ in list(self.heard) if line.startswith(start)]

    def fed_since(self, when: float) -> int:
        return len([t for t in self.said("WATCHDOG=1") if t > when])

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def channel(self, name: str = "galerne", options=()) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.run_dir / name}.sock",
                                     [*options, ("grpc.use_local_subchannel_pool", 1)])

    def inference(self, **how) -> inference_pb2_grpc.InferenceStub:
        return inference_pb2_grpc.InferenceStub(self.channel(**how))

    def status(self, timeout: float = 5) -> admin_pb2.StatusResponse:
        with self.channel("admin") as channel:
            return admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(),
                                                            timeout=timeout)

    def generate(self, timeout: float = 20) -> list:
        """Token ids of a short answer."""
        with self.channel() as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            request = pb.GenerateRequest(model="tiny", text="hello", max_tokens=5)
            return [t.id for m in stub.Generate(request, timeout=timeout) for t in m.tokens]

    def stop(self, timeout_s: float = 20) -> int:
        self.front.send_signal(signal.SIGTERM)
        return self.front.wait(timeout_s)

    def close(self) -> None:
        self.closing = True
        self.thread.join()
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for one in [self.notify, self.worker_socket, *self.sockets.values()]:
            if one:
                one.close()
        shutil.rmtree(self.directory, ignore_errors=True)
