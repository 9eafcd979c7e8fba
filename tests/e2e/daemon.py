"""One galerned for tests: configuration, start, clients, status, stop."""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import grpc
from galerne.admin.v1 import admin_pb2, admin_pb2_grpc
from galerne.v1 import inference_pb2_grpc
from health.v1 import health_pb2_grpc
from reflection.v1 import reflection_pb2_grpc
from rpc import error_details_pb2, status_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {"tiny": ROOT / "tests/golden/tiny-llama", "mix": ROOT / "tests/golden/tiny-mixtral"}

# A client whose windows do not grow: what it does not read stays with the daemon.
NARROW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]


def build_dir() -> pathlib.Path:
    name = os.environ.get("GALERNE_BUILD")
    if not name or not (pathlib.Path(name) / "daemon/galerned").exists():
        raise RuntimeError("GALERNE_BUILD must name a build directory with daemon/galerned in it")
    return pathlib.Path(name)


def wait_until(what: str, test, timeout_s: float = 10.0):
    """The first true value of test(); fails when none comes in time."""
    end = time.monotonic() + timeout_s
    while True:
        value = test()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not in {timeout_s} s: {what}")
        time.sleep(0.02)


class Daemon:
    """`settings` are keys of the configuration file; models maps names to paths; tenants is the
    text of that list."""

    def __init__(self, models=None, model_settings=None, start=True, wait=True, directory=None,
                 files_max=None, tenants="", **settings):
        self.owns_directory = directory is None
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="galerne-e2e-"))
        self.run_dir = self.directory / "run"
        self.log_path = self.directory / "log"
        self.config = self.directory / "galerne.yaml"
        self.process = None
        self.files_max = files_max  # descriptors that the daemon may have
        self.channels = []
        lines = {"runtime_dir": self.run_dir, "log_level": "debug", "listener_threads_count": 2,
                 "message_max_bytes": 65536, **settings}
        text = "".join(f"{key}: {value}\n" for key, value in lines.items()) + "models:\n"
        for name, path in (models or TINY).items():
            text += f"  - name: {name}\n    path: {path}\n    threads_count: 1\n"
            text += "".join(f"    {k}: {v}\n" for k, v in (model_settings or {}).items())
        self.without_tenants = text
        self.set_tenants(tenants)
        if start:
            self.start(wait)

    def start(self, wait: bool = True) -> None:
        log = open(self.log_path, "ab")
        command = [build_dir() / "daemon/galerned", "--config", self.config]
        if self.files_max:
            command = ["prlimit", f"--nofile={self.files_max}", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        if wait:
            wait_until("galerned is ready", self.is_ready, 30)

    def set_tenants(self, tenants: str, **settings) -> None:
        """Into the file; a running daemon reads it again on SIGHUP."""
        more = "".join(f"{key}: {value}\n" for key, value in settings.items())
        self.config.write_text(self.without_tenants + more
                               + (f"tenants:\n{tenants}" if tenants else ""))

    def reload(self, tenants: str, **settings) -> None:
        self.set_tenants(tenants, **settings)
        self.process.send_signal(signal.SIGHUP)

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"galerned ended with {self.process.returncode}:\n"
                                 + self.log_tail())
        return "ready after" in self.log_tail()

    def log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-20000:] if self.log_path.exists() else ""

    def log_has(self, words: str, count: int = 1) -> None:
        """A request's line is written when its call is freed, after the client has its answer."""
        wait_until(words, lambda: self.log_tail().count(words) >= count)

    def stop(self, number=signal.SIGTERM, timeout_s: float = 20.0):
        """The exit code; what is left of the daemon is removed."""
        for channel in self.channels:
            channel.close()
        self.channels = []
        code = None
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
        if self.process:
            try:
                code = self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"galerned did not stop in {timeout_s} s:\n{self.log_tail()}")
        if self.owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        assert self.stop() == 0  # the sanitizers' verdict too

    # ---- clients ----

    def channel(self, socket: str = "galerne.sock", options=()) -> grpc.Channel:
        made = grpc.insecure_channel(f"unix:{self.run_dir / socket}",
                                     [*options, ("grpc.use_local_subchannel_pool", 1)])
        self.channels.append(made)
        return made

    def inference(self, **how) -> inference_pb2_grpc.InferenceStub:
        return inference_pb2_grpc.InferenceStub(self.channel(**how))

    def admin(self) -> admin_pb2_grpc.AdminStub:
        return admin_pb2_grpc.AdminStub(self.channel("admin.sock"))

    def health(self, **how) -> health_pb2_grpc.HealthStub:
        return health_pb2_grpc.HealthStub(self.channel(**how))

    def reflection(self, **how) -> reflection_pb2_grpc.ServerReflectionStub:
        return reflection_pb2_grpc.ServerReflectionStub(self.channel(**how))

    # ---- status ----

    def status(self) -> admin_pb2.StatusResponse:
        channel = grpc.insecure_channel(f"unix:{self.run_dir / 'admin.sock'}")
        try:
            return admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=5)
        finally:
            channel.close()

    def model_status(self, name: str = "tiny") -> admin_pb2.ModelStatus:
        return next(m for m in self.status().models if m.name == f"models/{name}")

    def wait_idle(self, name: str = "tiny", timeout_s: float = 10.0) -> None:
        """Nothing runs, nothing waits, and no block of the KV cache is held."""
        def idle() -> bool:
            m = self.model_status(name)
            return not (m.requests_running or m.requests_waiting or m.kv_blocks_used
                        or m.steps_in_flight)
        wait_until(f"model {name} is idle", idle, timeout_s)


def details(error: grpc.RpcError) -> dict:
    """The google.rpc.Status of an error: messages by their short type name."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert packed is not None, f"no details: {error.code()} {error.details()}"
    status = status_pb2.Status.FromString(packed)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = {}
    for detail in status.details:
        kind = detail.type_url.rsplit(".", 1)[-1]
        message = getattr(error_details_pb2, kind)()
        assert detail.Unpack(message)
        found[kind] = message
    assert found["ErrorInfo"].domain == "galerne"
    return found


def bad_field(error: grpc.RpcError) -> str:
    """INVALID_ARGUMENT, and the one field that it names."""
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    (violation,) = details(error)["BadRequest"].field_violations
    assert violation.description
    return violation.field
